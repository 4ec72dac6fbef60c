//! **The file that decides which application server gets a request.**
//!
//! First, who may get it:
//!
//! 1. A draining server never gets a new request: an operator said so.
//! 2. A server that was already tried for this request is not tried again.
//! 3. While any server is in service, an unhealthy one gets nothing, nor one that is left out for its bad answers
//!    ([`crate::outliers`]).
//! 4. *Panic mode*: when fewer than a configured share are in service, or none, any of them may be tried. The checks may
//!    be wrong, and a request that is tried and fails is no worse than one that is refused untried (P4).
//! 5. A server that has as many requests as it may gets no more. When that is true of all, the request waits.
//! 6. Of those that are left the nearest get it, where the configuration prefers them (`app.prefer`): the others when
//!    these are out, full, or were tried. In panic mode distance does not count: the nearest may be what is broken.
//!
//! A visitor who stays with a server gets that one, if it is among them. Else the rule that the configuration names says
//! who of these gets it:
//!
//! - `ewma`: of two that are picked at random, the one on which the wait is likely to be shorter: requests under way
//!   there, times how long it took lately ([`Latency`]). Two and not all, because many edge threads would otherwise
//!   send their requests to the same server at the same moment. The times of two servers count for at most
//!   [`MOST_APART`] to one, so that a server which answers fast because it does nothing right cannot draw everything.
//! - `least-connections`: of all, one with the fewest requests under way.
//! - `round-robin`: servers take turns.
//! - `hash`: equal requests go to the same server, and stay there when others come and go ([`crate::weights::wish`]).
//!
//! All of them heed weights: a server with twice the weight gets twice as many requests while nobody waits, and counts as
//! half as full with as many.
//!
//! Each edge thread has a [`Balancer`] of its own.

use pontoon_fleet::BalanceRule;

use crate::latency::Latency;
use crate::round_robin::RoundRobin;
use crate::standing::{Choice, Standing, Tried};
use crate::weights::{Turns, wish};

/// By how much the times of two servers may differ and still count.
pub const MOST_APART: f32 = 4.0;

/// What is known of one server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Server {
    /// A number that stands for its name, on every edge the same ([`crate::weights::hash`]).
    pub id: u64,
    /// How it stands.
    pub standing: Standing,
    /// Its share beside those of the others, more than 0; usually 1.
    pub weight: f32,
    /// It has as many requests as it may.
    pub full: bool,
    /// Requests of this edge under way on it.
    pub in_flight: u64,
    /// How long it takes to answer.
    pub latency: Latency,
    /// How far it is, where that counts; who is nearer goes first. 0 for all where it does not.
    pub far: u8,
}

/// How to choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// By which rule.
    pub rule: BalanceRule,
    /// When fewer than this share of the servers are in service, all are tried; thousandths of a percent.
    pub panic: u32,
}

/// What is known of a request.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Where it was already.
    pub tried: &'a Tried,
    /// What tells it apart from others, for [`BalanceRule::Hash`].
    pub key: u64,
    /// The [`Server::id`] that the visitor stays with.
    pub stay: Option<u64>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes there.
    To(Choice),
    /// Everybody who may get it has as many as they may.
    Full,
    /// Nobody may get it: every server is draining or was tried.
    Nobody,
}

/// Chooses for one thread.
#[derive(Clone, Debug)]
pub struct Balancer {
    robin: RoundRobin,
    turns: Turns,
    retry_turns: Turns,
    dice: Dice,
    /// Memory for the candidates of one choice: the index of each and what is known of it.
    candidates: Vec<(usize, Server)>,
}

impl Balancer {
    /// For the thread with number `index`; threads must not all begin with the same server.
    pub fn new(index: usize) -> Balancer {
        Balancer {
            robin: RoundRobin::new(index),
            turns: Turns::default(),
            retry_turns: Turns::default(),
            dice: Dice(0x9E37_79B9_7F4A_7C15 ^ (index as u64 + 1).wrapping_mul(0xD1B5_4A32_D192_ED03)),
            candidates: Vec::new(),
        }
    }

    /// One of `servers`, at the time `now` (milliseconds, the clock of their [`Latency`]).
    pub fn choose(
        &mut self,
        rules: Rules,
        servers: impl Iterator<Item = Server>,
        asked: &Asked<'_>,
        now: u32,
    ) -> Verdict {
        let (mut in_service, mut usable, mut untried, mut farthest) = (0u64, 0u64, 0usize, 0);
        self.candidates.clear();
        for (index, server) in servers.enumerate() {
            if server.standing != Standing::Draining {
                usable += 1;
                farthest |= server.far;
                in_service += u64::from(server.standing == Standing::InService);
                if !asked.tried.contains(index) {
                    self.candidates.push((index, server));
                }
            }
        }
        let panic = in_service == 0 || in_service * 100_000 < u64::from(rules.panic) * usable;
        self.candidates.retain(|(_, server)| {
            let may = panic || server.standing == Standing::InService;
            untried += usize::from(may);
            may && !server.full
        });
        if self.candidates.is_empty() {
            return if untried > 0 {
                Verdict::Full
            } else {
                Verdict::Nobody
            };
        }
        let stays = asked
            .stay
            .and_then(|id| self.candidates.iter().find(|(_, server)| server.id == id))
            .map(|(index, _)| *index);
        if farthest > 0 && !panic {
            let nearest = self.candidates.iter().map(|(_, server)| server.far).min();
            self.candidates.retain(|(_, server)| Some(server.far) == nearest);
        }
        let index = match (stays, rules.rule) {
            (Some(index), _) => Some(index),
            (None, BalanceRule::RoundRobin) => self.in_turn(!asked.tried.is_empty()),
            (None, BalanceRule::LeastConnections) => self.least(),
            (None, BalanceRule::Ewma) => self.shorter_wait(now),
            (None, BalanceRule::Hash) => self.by_key(asked.key),
        };
        index.map_or(Verdict::Nobody, |index| Verdict::To(Choice { index, panic }))
    }

    fn weights_are_equal(&self) -> bool {
        self.candidates
            .windows(2)
            .all(|pair| pair[0].1.weight == pair[1].1.weight)
    }

    fn in_turn(&mut self, retry: bool) -> Option<usize> {
        if self.weights_are_equal() {
            let count = self.candidates.last().map_or(0, |(index, _)| index + 1);
            let may = |wanted: usize| self.candidates.iter().any(|(index, _)| *index == wanted);
            return self.robin.choose(count, may, retry);
        }
        let turns = if retry {
            &mut self.retry_turns
        } else {
            &mut self.turns
        };
        turns.choose(
            self.candidates
                .iter()
                .map(|(index, server)| (*index, server.weight)),
        )
    }

    /// One with the fewest requests under way for its weight; of equals a random one, by weight.
    fn least(&mut self) -> Option<usize> {
        let (mut best, mut least, mut equals) = (None, f32::INFINITY, 0.0);
        for (index, server) in &self.candidates {
            let load = server.in_flight as f32 / server.weight;
            if load < least {
                (best, least, equals) = (Some(*index), load, server.weight);
            } else if load == least {
                equals += server.weight;
                if self.dice.unit() * equals < server.weight {
                    best = Some(*index);
                }
            }
        }
        best
    }

    fn shorter_wait(&mut self, now: u32) -> Option<usize> {
        let count = self.candidates.len();
        if count < 2 {
            return self.candidates.first().map(|(index, _)| *index);
        }
        let mean = self
            .candidates
            .iter()
            .map(|(_, server)| server.weight)
            .sum::<f32>()
            / count as f32;
        let (one, other) = if self.weights_are_equal() {
            let one = self.dice.below(count);
            (one, (one + 1 + self.dice.below(count - 1)) % count)
        } else {
            // Each by its weight, perhaps twice the same: so shares are in proportion when nobody waits.
            (self.by_weight(mean), self.by_weight(mean))
        };
        let [(one, a), (other, b)] = [self.candidates[one], self.candidates[other]];
        let [slow_a, slow_b] = [a, b].map(|server| server.latency.at(now).max(1.0));
        let apart = (slow_a / slow_b).clamp(1.0 / MOST_APART, MOST_APART);
        let wait = |server: Server| server.in_flight as f32 * mean / server.weight + 1.0;
        Some(if wait(a) * apart <= wait(b) { one } else { other })
    }

    /// Where in the candidates a random one stands, each as likely as its weight.
    fn by_weight(&mut self, mean: f32) -> usize {
        let mut left = self.dice.unit() * mean * self.candidates.len() as f32;
        for (place, (_, server)) in self.candidates.iter().enumerate() {
            left -= server.weight;
            if left < 0.0 {
                return place;
            }
        }
        self.candidates.len() - 1
    }

    fn by_key(&self, key: u64) -> Option<usize> {
        let wishes = self
            .candidates
            .iter()
            .map(|(index, server)| (*index, wish(key, server.id, server.weight)));
        let most = wishes.max_by(|(_, one), (_, other)| one.total_cmp(other));
        most.map(|(index, _)| index)
    }
}

/// Numbers that look random, from a seed (xorshift64*, Vigna 2016).
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    /// 32 bits.
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32
    }

    /// A number less than `sides`, which is not 0.
    fn below(&mut self, sides: usize) -> usize {
        (self.roll() as usize) % sides
    }

    /// At least 0 and below 1.
    fn unit(&mut self) -> f32 {
        (self.roll() >> 8) as f32 / (1u32 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::Standing::{Draining, InService, Unhealthy};
    use super::*;
    use proptest::prelude::*;

    fn standing_so(standing: Standing) -> Server {
        Server {
            id: 0,
            standing,
            weight: 1.0,
            full: false,
            in_flight: 0,
            latency: Latency::default(),
            far: 0,
        }
    }

    fn by(rule: BalanceRule) -> Rules {
        Rules { rule, panic: 0 }
    }

    fn asked(tried: &Tried) -> Asked<'_> {
        Asked {
            tried,
            key: 7,
            stay: None,
        }
    }

    fn to(verdict: Verdict) -> Option<Choice> {
        match verdict {
            Verdict::To(choice) => Some(choice),
            Verdict::Full | Verdict::Nobody => None,
        }
    }

    fn choose_by(
        rule: BalanceRule,
        balancer: &mut Balancer,
        servers: &[Standing],
        tried: &Tried,
    ) -> Option<Choice> {
        to(balancer.choose(
            by(rule),
            servers.iter().map(|standing| standing_so(*standing)),
            &asked(tried),
            0,
        ))
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
            in_flight,
            latency: Latency::default().with(micros, 0),
            ..standing_so(InService)
        }
    }

    fn share_of_first(rule: BalanceRule, servers: &[Server]) -> usize {
        let mut balancer = Balancer::new(3);
        let tried = Tried::default();
        let choices = (0..1000)
            .filter_map(|_| to(balancer.choose(by(rule), servers.iter().copied(), &asked(&tried), 0)));
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

    fn weighted(weights: &[f32]) -> Vec<Server> {
        let server = |(index, weight): (usize, &f32)| Server {
            id: crate::weights::hash(&[index as u8]),
            weight: *weight,
            ..standing_so(InService)
        };
        weights.iter().enumerate().map(server).collect()
    }

    #[test]
    fn shares_are_in_proportion_to_weights_while_nobody_waits() {
        for rule in [
            BalanceRule::Ewma,
            BalanceRule::LeastConnections,
            BalanceRule::RoundRobin,
        ] {
            for (weights, share) in [(&[3.0, 1.0][..], 750), (&[1.0, 1.0, 2.0], 250), (&[0.1, 1.0], 91)] {
                let first = share_of_first(rule, &weighted(weights));
                let near = share - 60..share + 60;
                assert!(near.contains(&first), "{}: {weights:?}: {first}", rule.as_str());
            }
        }
    }

    #[test]
    fn with_as_many_under_way_the_heavier_is_less_full() {
        let servers = |first: u64, second: u64| {
            let mut servers = weighted(&[4.0, 1.0]);
            (servers[0].in_flight, servers[1].in_flight) = (first, second);
            servers
        };
        assert_eq!(
            share_of_first(BalanceRule::LeastConnections, &servers(7, 2)),
            1000
        );
        assert_eq!(share_of_first(BalanceRule::LeastConnections, &servers(9, 2)), 0);
        // The light one is picked twice in one of 25.
        let first = share_of_first(BalanceRule::Ewma, &servers(7, 2));
        assert!((930..990).contains(&first), "{first}");
    }

    #[test]
    fn a_visitor_stays_where_it_was_while_that_server_may_be_used() {
        let mut servers = weighted(&[1.0, 1.0, 1.0]);
        let stay = |servers: &[Server], tried: &Tried| {
            let asked = Asked {
                stay: Some(servers[1].id),
                ..asked(tried)
            };
            let choices = BalanceRule::ALL.map(|rule| {
                let mut balancer = Balancer::new(0);
                (0..20).all(|_| {
                    to(balancer.choose(by(rule), servers.iter().copied(), &asked, 0))
                        .unwrap()
                        .index
                        == 1
                })
            });
            choices.iter().all(|stays| *stays)
        };
        let (mut tried, fresh) = (Tried::default(), Tried::default());
        assert!(stay(&servers, &fresh));
        servers[1].in_flight = 1000;
        assert!(stay(&servers, &fresh));
        tried.add(1);
        assert!(!stay(&servers, &tried));
        for standing in [Unhealthy, Draining, Standing::Ejected] {
            servers[1].standing = standing;
            assert!(!stay(&servers, &fresh));
        }
        servers[1].standing = InService;
        servers[1].full = true;
        assert!(!stay(&servers, &fresh));
    }

    #[test]
    fn when_all_are_full_the_request_waits_and_does_not_go_to_who_is_out() {
        let mut servers = weighted(&[1.0, 1.0, 1.0]);
        servers[2].standing = Unhealthy;
        let mut balancer = Balancer::new(0);
        let mut verdict = |servers: &[Server], tried: &Tried| {
            balancer.choose(by(BalanceRule::Ewma), servers.iter().copied(), &asked(tried), 0)
        };
        let (mut tried, fresh) = (Tried::default(), Tried::default());
        servers[0].full = true;
        assert_eq!(
            verdict(&servers, &fresh),
            Verdict::To(Choice {
                index: 1,
                panic: false
            })
        );
        servers[1].full = true;
        assert_eq!(verdict(&servers, &fresh), Verdict::Full);
        tried.add(0);
        assert_eq!(verdict(&servers, &tried), Verdict::Full);
        tried.add(1);
        assert_eq!(verdict(&servers, &tried), Verdict::Nobody);
    }

    #[test]
    fn the_nearest_go_first_and_the_others_when_these_are_out_or_full() {
        let servers = || {
            let mut servers = weighted(&[1.0; 4]);
            for (server, far) in servers.iter_mut().zip([0, 1, 1, 2]) {
                server.far = far;
            }
            servers
        };
        let used = |servers: &[Server], tried: &Tried, rules: Rules, stay: Option<u64>| {
            let mut balancer = Balancer::new(0);
            let asked = Asked { stay, ..asked(tried) };
            let mut used: Vec<usize> = (0..60)
                .filter_map(|_| to(balancer.choose(rules, servers.iter().copied(), &asked, 0)))
                .map(|choice| choice.index)
                .collect();
            used.sort_unstable();
            used.dedup();
            used
        };
        for rule in BalanceRule::ALL {
            let (rules, fresh) = (by(rule), Tried::default());
            let spread = |of: &[usize]| match rule {
                BalanceRule::Hash => of.len().min(1),
                _ => of.len(),
            };
            let mut known = servers();
            assert_eq!(used(&known, &fresh, rules, None), [0], "{rule:?}");
            // It has no room: those in the middle share what is left, and the farthest gets nothing.
            known[0].full = true;
            let middle = used(&known, &fresh, rules, None);
            assert!(
                middle.len() == spread(&[1, 2]) && !middle.contains(&3),
                "{rule:?}: {middle:?}"
            );
            known[1].standing = Unhealthy;
            known[2].standing = Draining;
            assert_eq!(used(&known, &fresh, rules, None), [3], "{rule:?}");
            known[3].full = true;
            let verdict = Balancer::new(0).choose(rules, known.iter().copied(), &asked(&fresh), 0);
            assert_eq!(verdict, Verdict::Full);
            // Tried there already, and a visitor who stays elsewhere.
            let (known, mut tried) = (servers(), Tried::default());
            assert_eq!(used(&known, &fresh, rules, Some(known[3].id)), [3], "{rule:?}");
            tried.add(0);
            assert!(!used(&known, &tried, rules, None).contains(&3), "{rule:?}");
            // The nearest may be what is broken.
            let mut known = servers();
            known
                .iter_mut()
                .take(3)
                .for_each(|server| server.standing = Unhealthy);
            let panic = Rules {
                panic: 90_000,
                ..rules
            };
            let all = used(&known, &fresh, panic, None);
            assert!(rule == BalanceRule::Hash || all.contains(&3), "{rule:?}: {all:?}");
        }
    }

    #[test]
    fn with_too_few_in_service_all_are_tried() {
        let mut servers = weighted(&[1.0; 5]);
        servers[0].standing = Unhealthy;
        servers[1].standing = Standing::Ejected;
        servers[4].standing = Draining;
        let used = |servers: &[Server], panic: u32| {
            let mut balancer = Balancer::new(0);
            let (rule, tried) = (BalanceRule::RoundRobin, Tried::default());
            let mut used: Vec<usize> = (0..20)
                .filter_map(|_| {
                    to(balancer.choose(Rules { rule, panic }, servers.iter().copied(), &asked(&tried), 0))
                })
                .map(|choice| choice.index)
                .collect();
            used.sort_unstable();
            used.dedup();
            used
        };
        assert_eq!(used(&servers, 0), [2, 3]);
        assert_eq!(
            used(&servers, 50_000),
            [2, 3],
            "half of the four that are not draining"
        );
        assert_eq!(used(&servers, 51_000), [0, 1, 2, 3]);
        servers[2].standing = Unhealthy;
        servers[3].standing = Standing::Ejected;
        assert_eq!(used(&servers, 0), [0, 1, 2, 3], "none is in service");
    }

    #[test]
    fn equal_requests_go_to_the_same_server() {
        let servers = weighted(&[1.0, 1.0, 1.0]);
        let tried = Tried::default();
        let of = |key: u64, thread: usize| {
            let asked = Asked { key, ..asked(&tried) };
            to(Balancer::new(thread).choose(by(BalanceRule::Hash), servers.iter().copied(), &asked, 0))
        };
        assert!((0..100).all(|key| of(key, 0) == of(key, 1)));
        assert!((0..100).any(|key| of(key, 0) != of(key + 1, 0)));
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
            for rule in BalanceRule::ALL {
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
            for rule in BalanceRule::ALL {
                let tried = Tried::default();
                prop_assert_eq!(choose_by(rule, &mut one, &servers, &tried), choose_by(rule, &mut other, &servers, &tried));
            }
        }
    }
}
