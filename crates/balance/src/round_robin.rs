//! **The file that decides which application server gets a request.**
//!
//! Round robin over the servers in service, the local one included like any other:
//!
//! 1. A draining server never gets a new request: an operator said so.
//! 2. A server that was already tried for this request is not tried again.
//! 3. While any server is in service, an unhealthy one gets nothing.
//! 4. *Panic mode*: when none is in service, any unhealthy one may be tried. The checks may be wrong, and a
//!    request that is tried and fails is no worse than one that is refused untried (P4).
//!
//! Each edge thread has a [`RoundRobin`] of its own; nothing is shared, nothing is locked.

/// How a server stands at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its checks are good, and nobody took it out.
    InService,
    /// Its checks fail, or a connection to it could not be made.
    Unhealthy,
    /// An operator took it out.
    Draining,
}

/// The servers that a request was already sent to, by index. Holds no memory until the first is added.
#[derive(Clone, Debug, Default)]
pub struct Tried(Vec<usize>);

impl Tried {
    /// Remembers that `index` was tried.
    pub fn add(&mut self, index: usize) {
        if !self.contains(index) {
            self.0.push(index);
        }
    }

    /// Whether `index` was tried.
    pub fn contains(&self, index: usize) -> bool {
        self.0.contains(&index)
    }

    /// How many were tried.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was tried yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets all of them: for a request that waited and may start over.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// The server that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its index.
    pub index: usize,
    /// Whether it was chosen in panic mode: no server is in service.
    pub panic: bool,
}

/// Whose turn it is.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    /// Of first tries.
    turn: usize,
    /// Of retries. Were there one turn for both, a retry would use up its neighbour's turn, and of two servers
    /// the failing one would be first in line for every request.
    retry_turn: usize,
}

impl RoundRobin {
    /// The first turn is that of server `start` (modulo their number). Threads start at different servers so
    /// that the first requests of all threads do not meet at the same one.
    pub fn new(start: usize) -> RoundRobin {
        RoundRobin {
            turn: start,
            retry_turn: start,
        }
    }

    /// The next of `count` servers, of which `standing` tells how each stands; `None` when every server is
    /// draining or was tried.
    ///
    /// Retries take turns of their own: when one of three servers fails, it is still asked first by a third of
    /// the requests and no more, and the other two share those evenly.
    pub fn choose(
        &mut self,
        count: usize,
        standing: impl Fn(usize) -> Standing,
        tried: &Tried,
    ) -> Option<Choice> {
        let panic = !(0..count).any(|index| standing(index) == Standing::InService);
        let wanted = if panic {
            Standing::Unhealthy
        } else {
            Standing::InService
        };
        let turn = if tried.is_empty() {
            &mut self.turn
        } else {
            &mut self.retry_turn
        };
        let index = (0..count)
            .map(|step| (*turn % count + step) % count)
            .find(|&index| standing(index) == wanted && !tried.contains(index))?;
        *turn = index + 1;
        Some(Choice { index, panic })
    }
}

#[cfg(test)]
mod tests {
    use super::Standing::{Draining, InService, Unhealthy};
    use super::*;
    use proptest::prelude::*;

    fn choose(robin: &mut RoundRobin, servers: &[Standing], tried: &Tried) -> Option<Choice> {
        robin.choose(servers.len(), |index| servers[index], tried)
    }

    fn turns(servers: &[Standing], requests: usize) -> Vec<usize> {
        let mut robin = RoundRobin::default();
        (0..requests)
            .filter_map(|_| choose(&mut robin, servers, &Tried::default()))
            .map(|c| c.index)
            .collect()
    }

    #[test]
    fn servers_take_turns() {
        assert_eq!(
            turns(&[InService, InService, InService], 7),
            [0, 1, 2, 0, 1, 2, 0]
        );
    }

    #[test]
    fn unhealthy_and_draining_servers_are_left_out() {
        assert_eq!(
            turns(&[InService, Unhealthy, InService, Draining], 4),
            [0, 2, 0, 2]
        );
    }

    #[test]
    fn when_none_is_in_service_any_unhealthy_one_is_tried_but_never_a_draining_one() {
        assert_eq!(turns(&[Unhealthy, Draining, Unhealthy], 4), [0, 2, 0, 2]);
        assert!(turns(&[Draining, Draining], 1).is_empty());
        let choice = choose(&mut RoundRobin::default(), &[Unhealthy], &Tried::default());
        assert_eq!(
            choice,
            Some(Choice {
                index: 0,
                panic: true
            })
        );
    }

    #[test]
    fn an_unhealthy_server_is_not_a_second_choice_while_another_is_in_service() {
        let mut tried = Tried::default();
        tried.add(0);
        assert_eq!(
            choose(&mut RoundRobin::default(), &[InService, Unhealthy], &tried),
            None
        );
    }

    #[test]
    fn the_requests_of_a_failing_server_are_shared_by_the_others() {
        for count in [2, 3, 5] {
            let servers = vec![InService; count];
            let (mut robin, mut answered, mut failed) = (RoundRobin::default(), vec![0; count], 0);
            for _ in 0..count * (count - 1) * 10 {
                let mut tried = Tried::default();
                let mut index = choose(&mut robin, &servers, &tried).unwrap().index;
                if index == 0 {
                    failed += 1;
                    tried.add(0);
                    index = choose(&mut robin, &servers, &tried).unwrap().index;
                }
                answered[index] += 1;
            }
            assert_eq!(failed, (count - 1) * 10, "its share of first tries and no more");
            assert_eq!(answered[0], 0);
            assert!(
                answered[1..].iter().all(|answers| *answers == count * 10),
                "{answered:?}"
            );
        }
    }

    #[test]
    fn no_servers_at_all_is_no_choice() {
        assert_eq!(choose(&mut RoundRobin::new(7), &[], &Tried::default()), None);
    }

    fn any_standing() -> impl Strategy<Value = Standing> {
        prop_oneof![Just(InService), Just(Unhealthy), Just(Draining)]
    }

    proptest! {
        #[test]
        fn fair_within_one(servers in prop::collection::vec(any_standing(), 0..20), start in 0usize..40, requests in 0usize..200) {
            let mut robin = RoundRobin::new(start);
            let mut counts = vec![0usize; servers.len()];
            for _ in 0..requests {
                if let Some(choice) = choose(&mut robin, &servers, &Tried::default()) {
                    counts[choice.index] += 1;
                }
            }
            let panic = !servers.contains(&InService);
            let eligible = |s: &Standing| *s == if panic { Unhealthy } else { InService };
            let shares: Vec<usize> = servers.iter().zip(&counts).filter(|(s, _)| eligible(s)).map(|(_, n)| *n).collect();
            if let (Some(least), Some(most)) = (shares.iter().min(), shares.iter().max()) {
                prop_assert!(most - least <= 1, "{shares:?}");
                prop_assert_eq!(shares.iter().sum::<usize>(), requests);
            }
        }

        #[test]
        fn never_an_excluded_one_and_never_none_when_one_is_eligible(
            servers in prop::collection::vec(any_standing(), 0..20),
            excluded in prop::collection::vec(0usize..20, 0..20),
            start: usize,
        ) {
            let mut tried = Tried::default();
            excluded.iter().for_each(|index| tried.add(*index));
            let panic = !servers.contains(&InService);
            let wanted = if panic { Unhealthy } else { InService };
            let eligible = (0..servers.len()).any(|i| servers[i] == wanted && !tried.contains(i));
            let choice = choose(&mut RoundRobin::new(start), &servers, &tried);
            prop_assert_eq!(choice.is_some(), eligible);
            if let Some(choice) = choice {
                prop_assert!(!tried.contains(choice.index));
                prop_assert_eq!(servers[choice.index], wanted);
                prop_assert_eq!(choice.panic, panic);
            }
        }

        #[test]
        fn the_same_arguments_give_the_same_choice(servers in prop::collection::vec(any_standing(), 0..20), start: usize) {
            let mut one = RoundRobin::new(start);
            let mut other = one.clone();
            prop_assert_eq!(choose(&mut one, &servers, &Tried::default()), choose(&mut other, &servers, &Tried::default()));
        }
    }
}
