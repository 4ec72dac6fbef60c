//! **The file that decides which application server gets a request.**
//!
//! First, who may get it:
//!
//! 1. A draining server never gets a new request: an operator said so.
//! 2. A server that was already tried for this request is not tried again.
//! 3. While any server is in service, an unhealthy one gets nothing.
//! 4. *Panic mode*: when none is in service, any unhealthy one may be tried. The checks may be wrong, and a
//!    request that is tried and fails is no worse than one that is refused untried (P4).
//!
//! Then, who of these gets it, by the rule that the configuration names:
//!
//! - `ewma`: of two that are picked at random, the one on which the wait is likely to be shorter: requests under way
//!   there, times how long it took lately ([`Latency`]). Two and not all, because many edge threads would otherwise
//!   send their requests to the same server at the same moment. The times of two servers count for at most
//!   [`MOST_APART`] to one, so that a server which answers fast because it does nothing right cannot draw everything.
//! - `least-connections`: of all, one with the fewest requests under way.
//! - `round-robin`: servers take turns.
//!
//! Each edge thread has a [`Balancer`] of its own.

use pontoon_fleet::BalanceRule;

use crate::latency::Latency;
use crate::round_robin::RoundRobin;
use crate::standing::{Choice, Standing, Tried};

/// By how much the times of two servers may differ and still count.
pub const MOST_APART: f32 = 4.0;

/// What is known of one server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Server {
    /// How it stands.
    pub standing: Standing,
    /// Requests of this edge under way on it.
    pub in_flight: u64,
    /// How long it takes to answer.
    pub latency: Latency,
}

/// Chooses for one thread.
#[derive(Clone, Debug)]
pub struct Balancer {
    robin: RoundRobin,
    dice: Dice,
}

impl Balancer {
    /// For the thread with number `index`; threads must not all begin with the same server.
    pub fn new(index: usize) -> Balancer {
        Balancer {
            robin: RoundRobin::new(index),
            dice: Dice(0x9E37_79B9_7F4A_7C15 ^ (index as u64 + 1).wrapping_mul(0xD1B5_4A32_D192_ED03)),
        }
    }

    /// One of `count` servers, at the time `now` (milliseconds, the clock of their [`Latency`]); `None` when every
    /// server is draining or was tried.
    pub fn choose(
        &mut self,
        rule: BalanceRule,
        count: usize,
        server: impl Fn(usize) -> Server,
        tried: &Tried,
        now: u32,
    ) -> Option<Choice> {
        let panic = !(0..count).any(|index| server(index).standing == Standing::InService);
        let wanted = if panic {
            Standing::Unhealthy
        } else {
            Standing::InService
        };
        let may = |index: usize| server(index).standing == wanted && !tried.contains(index);
        let index = match rule {
            BalanceRule::RoundRobin => self.robin.choose(count, may, !tried.is_empty())?,
            BalanceRule::LeastConnections => self.least(count, may, &server)?,
            BalanceRule::Ewma => self.shorter_wait(count, may, &server, now)?,
        };
        Some(Choice { index, panic })
    }

    /// One with the fewest requests under way; of equals a random one.
    fn least(
        &mut self,
        count: usize,
        may: impl Fn(usize) -> bool,
        server: &impl Fn(usize) -> Server,
    ) -> Option<usize> {
        let (mut best, mut equals) = (None, 0);
        for index in (0..count).filter(|&index| may(index)) {
            let load = server(index).in_flight;
            match best {
                Some((_, least)) if load > least => {}
                Some((_, least)) if load == least => {
                    equals += 1;
                    if self.dice.below(equals) == 0 {
                        best = Some((index, load));
                    }
                }
                _ => (best, equals) = (Some((index, load)), 1),
            }
        }
        best.map(|(index, _)| index)
    }

    fn shorter_wait(
        &mut self,
        count: usize,
        may: impl Fn(usize) -> bool,
        server: &impl Fn(usize) -> Server,
        now: u32,
    ) -> Option<usize> {
        let eligible = (0..count).filter(|&index| may(index)).count();
        let nth = |nth: usize| (0..count).filter(|&index| may(index)).nth(nth);
        if eligible < 2 {
            return nth(0);
        }
        let one = self.dice.below(eligible);
        let other = (one + 1 + self.dice.below(eligible - 1)) % eligible;
        let (one, other) = (nth(one)?, nth(other)?);
        let [a, b] = [server(one), server(other)];
        let [slow_a, slow_b] = [a, b].map(|server| server.latency.at(now).max(1.0));
        let apart = (slow_a / slow_b).clamp(1.0 / MOST_APART, MOST_APART);
        let wait = |server: Server| (server.in_flight + 1) as f32;
        Some(if wait(a) * apart <= wait(b) { one } else { other })
    }
}

/// Numbers that look random, from a seed (xorshift64*, Vigna 2016).
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    /// A number less than `sides`, which is not 0.
    fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        (high as usize) % sides
    }
}

#[cfg(test)]
mod tests {
    use super::Standing::{Draining, InService, Unhealthy};
    use super::*;
    use proptest::prelude::*;

    const RULES: [BalanceRule; 3] = [
        BalanceRule::Ewma,
        BalanceRule::LeastConnections,
        BalanceRule::RoundRobin,
    ];

    fn standing_so(standing: Standing) -> Server {
        Server {
            standing,
            in_flight: 0,
            latency: Latency::default(),
        }
    }

    fn choose_by(
        rule: BalanceRule,
        balancer: &mut Balancer,
        servers: &[Standing],
        tried: &Tried,
    ) -> Option<Choice> {
        balancer.choose(rule, servers.len(), |index| standing_so(servers[index]), tried, 0)
    }

    fn choose(balancer: &mut Balancer, servers: &[Standing], tried: &Tried) -> Option<Choice> {
        choose_by(BalanceRule::RoundRobin, balancer, servers, tried)
    }

    fn turns(servers: &[Standing], requests: usize) -> Vec<usize> {
        let mut robin = Balancer::new(0);
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
        let choice = choose(&mut Balancer::new(0), &[Unhealthy], &Tried::default());
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
            choose(&mut Balancer::new(0), &[InService, Unhealthy], &tried),
            None
        );
    }

    #[test]
    fn the_requests_of_a_failing_server_are_shared_by_the_others() {
        for count in [2, 3, 5] {
            let servers = vec![InService; count];
            let (mut robin, mut answered, mut failed) = (Balancer::new(0), vec![0; count], 0);
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
        assert_eq!(choose(&mut Balancer::new(7), &[], &Tried::default()), None);
    }

    fn busy(in_flight: u64, micros: u32) -> Server {
        Server {
            standing: InService,
            in_flight,
            latency: Latency::default().with(micros, 0),
        }
    }

    fn share_of_first(rule: BalanceRule, servers: &[Server]) -> usize {
        let mut balancer = Balancer::new(3);
        let choices = (0..1000).filter_map(|_| {
            balancer.choose(rule, servers.len(), |index| servers[index], &Tried::default(), 0)
        });
        choices.filter(|choice| choice.index == 0).count()
    }

    #[test]
    fn the_shorter_wait_wins_and_a_faster_server_may_have_more_under_way() {
        let ewma = |servers: &[Server]| share_of_first(BalanceRule::Ewma, servers);
        assert_eq!(ewma(&[busy(0, 10_000), busy(0, 20_000)]), 1000);
        assert_eq!(ewma(&[busy(2, 10_000), busy(0, 20_000)]), 0);
        assert_eq!(ewma(&[busy(2, 10_000), busy(1, 20_000)]), 1000);
        // However fast it is: four times as many is the most.
        assert_eq!(ewma(&[busy(2, 10), busy(0, 500_000)]), 1000);
        assert_eq!(ewma(&[busy(4, 10), busy(0, 500_000)]), 0);
        let equals = ewma(&[busy(1, 10_000), busy(1, 10_000)]);
        assert!((400..600).contains(&equals), "{equals}");
    }

    #[test]
    fn fewest_connections_and_equals_share() {
        let least = |servers: &[Server]| share_of_first(BalanceRule::LeastConnections, servers);
        assert_eq!(least(&[busy(1, 1), busy(2, 1), busy(3, 1)]), 1000);
        let equals = least(&[busy(1, 1), busy(1, 1), busy(1, 1), busy(9, 1)]);
        assert!((270..400).contains(&equals), "{equals}");
    }

    fn any_standing() -> impl Strategy<Value = Standing> {
        prop_oneof![Just(InService), Just(Unhealthy), Just(Draining)]
    }

    proptest! {
        #[test]
        fn fair_within_one(servers in prop::collection::vec(any_standing(), 0..20), start in 0usize..40, requests in 0usize..200) {
            let mut robin = Balancer::new(start);
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
            for rule in RULES {
                let choice = choose_by(rule, &mut Balancer::new(start), &servers, &tried);
                prop_assert_eq!(choice.is_some(), eligible);
                if let Some(choice) = choice {
                    prop_assert!(!tried.contains(choice.index));
                    prop_assert_eq!(servers[choice.index], wanted);
                    prop_assert_eq!(choice.panic, panic);
                }
            }
        }

        #[test]
        fn the_same_arguments_give_the_same_choice(servers in prop::collection::vec(any_standing(), 0..20), start: usize) {
            let mut one = Balancer::new(start);
            let mut other = one.clone();
            for rule in RULES {
                let tried = Tried::default();
                prop_assert_eq!(choose_by(rule, &mut one, &servers, &tried), choose_by(rule, &mut other, &servers, &tried));
            }
        }
    }
}
