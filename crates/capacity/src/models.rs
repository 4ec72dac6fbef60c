//! Servers whose limit is known, in virtual time: what the search is judged with, and what the known-truth server serves.

use std::time::Duration;

use crate::objective::Outcome;
use crate::search::{Offer, Search, Seen, Step};
use crate::{Dice, Objective};

/// What a server is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// How many requests it serves at a time; others wait in line, first come, first served.
    pub workers: usize,
    /// How long one takes in the mean, in seconds.
    pub service: f64,
    /// How that varies.
    pub law: Law,
    /// What makes it slower at times.
    pub trouble: Trouble,
}

/// How long requests take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Law {
    /// Exponentially distributed.
    Exponential,
    /// All the same: a fixed rate, as of a token bucket.
    Fixed,
    /// Log-normally distributed with this coefficient of variation: a heavy tail.
    Heavy(f64),
}

/// What makes a server slower at times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// A pace that drifts by 5 %, and stands still for 150 ms, every 20 s in the mean.
    Stalls,
    /// Stands still once, from one second to another.
    Frozen(f64, f64),
}

/// A class of servers: in each the search must be as good as is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Several workers, exponential times.
    Workers,
    /// A fixed rate.
    Fixed,
    /// A heavy tail.
    Heavy,
    /// Noise and stalls.
    Stalls,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 4] = [Class::Workers, Class::Fixed, Class::Heavy, Class::Stalls];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Workers => "workers",
            Class::Fixed => "fixed-rate",
            Class::Heavy => "heavy-tail",
            Class::Stalls => "stalls",
        }
    }

    /// Its servers: the model, the objective, and the highest rate that keeps it.
    pub fn cases(self) -> Vec<Case> {
        let exponential = |workers, service| Model {
            workers,
            service,
            law: Law::Exponential,
            trouble: Trouble::None,
        };
        let fixed = Model {
            law: Law::Fixed,
            ..exponential(1, 0.002)
        };
        let heavy = Model {
            law: Law::Heavy(2.0),
            ..exponential(4, 0.01)
        };
        let stalls = Model {
            trouble: Trouble::Stalls,
            ..exponential(4, 0.01)
        };
        let known = |model: Model, limit: f64| Case {
            limit: workers_limit(model.workers, model.service, limit, 0.01),
            ..Case::new(model, limit, 0.0)
        };
        match self {
            Class::Workers => vec![
                known(exponential(4, 0.01), 0.1),
                known(exponential(4, 0.01), 0.3),
                known(exponential(8, 0.04), 0.3),
                known(exponential(1, 0.005), 0.1),
            ],
            // These have no formula: from 40,000,000 requests at each of 13 bisected rates. `script/simulate capacity`
            // asks the model again.
            Class::Fixed => vec![Case::new(fixed, 0.1, 476.5), Case::new(fixed, 0.3, 492.3)],
            Class::Heavy => vec![Case::new(heavy, 0.15, 307.7), Case::new(heavy, 0.3, 355.8)],
            Class::Stalls => vec![Case::new(stalls, 0.3, 349.7)],
        }
    }
}

/// A server with its objective and its limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// What it is like.
    pub model: Model,
    /// p99 below some time.
    pub objective: Objective,
    /// The highest rate that keeps it, requests a second.
    pub limit: f64,
}

impl Case {
    fn new(model: Model, seconds: f64, limit: f64) -> Case {
        Case {
            model,
            objective: Objective::p99(Duration::from_secs_f64(seconds)),
            limit,
        }
    }
}

/// A server of a [`Model`] at work. Time is in seconds from its beginning and never goes back.
#[derive(Clone, Debug)]
pub struct Server {
    model: Model,
    /// When each worker is free.
    free: Vec<f64>,
    dice: Dice,
    pace: f64,
    pace_until: f64,
    still: (f64, f64),
}

impl Server {
    /// One that has nothing to do.
    pub fn new(model: Model, seed: u64) -> Server {
        let mut dice = Dice::new(seed);
        let still = match model.trouble {
            Trouble::None => (f64::INFINITY, f64::INFINITY),
            Trouble::Frozen(from, to) => (from, to),
            Trouble::Stalls => stall(0.0, &mut dice),
        };
        Server {
            free: vec![0.0; model.workers.max(1)],
            model,
            dice,
            pace: 1.0,
            pace_until: 0.0,
            still,
        }
    }

    /// When a request that comes at `at` is answered.
    pub fn serve(&mut self, at: f64) -> f64 {
        let mut first = 0;
        for (worker, free) in self.free.iter().enumerate() {
            if *free < self.free[first] {
                first = worker;
            }
        }
        let begin = self.free[first].max(at);
        let service = match self.model.law {
            Law::Exponential => self.dice.exponential(self.model.service),
            Law::Fixed => self.model.service,
            Law::Heavy(variation) => self.dice.lognormal(self.model.service, variation),
        };
        let end = self.troubled(begin, service);
        self.free[first] = end;
        end
    }

    /// When what begins at `begin` and would take `service` is over.
    fn troubled(&mut self, begin: f64, service: f64) -> f64 {
        if self.model.trouble == Trouble::Stalls {
            // The pace remembers nine tenths of itself every two seconds.
            while begin >= self.pace_until {
                self.pace_until += 2.0;
                let fresh = (1.0f64 - 0.81).sqrt() * 0.05 * self.dice.normal();
                self.pace = 1.0 + 0.9 * (self.pace - 1.0) + fresh;
            }
            while begin > self.still.1 {
                self.still = stall(self.still.1, &mut self.dice);
            }
        }
        let end = begin + service / self.pace.max(0.5);
        match end > self.still.0 && begin < self.still.1 {
            true => end + self.still.1 - self.still.0.max(begin),
            false => end,
        }
    }

    /// When nothing is under way any more.
    pub fn idle_at(&self) -> f64 {
        self.free.iter().copied().fold(0.0, f64::max)
    }
}

fn stall(after: f64, dice: &mut Dice) -> (f64, f64) {
    let from = after + dice.exponential(20.0);
    (from, from + 0.15)
}

/// Lets a search run against a server in virtual time; says how long it would have taken.
pub fn play(search: &mut Search, objective: &Objective, server: &mut Server, dice: &mut Dice) -> Duration {
    let mut now = 0.0;
    loop {
        match search.step(Duration::from_secs_f64(now)) {
            Step::End => return Duration::from_secs_f64(now),
            Step::Drain => now = server.idle_at().clamp(now, now + 30.0),
            Step::Offer(offer) => {
                search.record(&offered(&offer, objective, server, now, dice));
                now += offer.length().as_secs_f64();
            }
        }
    }
}

fn offered(offer: &Offer, objective: &Objective, server: &mut Server, now: f64, dice: &mut Dice) -> Seen {
    let from = now + offer.settle.as_secs_f64();
    let to = from + offer.measure.as_secs_f64();
    let mut seen = Seen {
        sent: 0,
        bad: vec![0; objective.terms().len()],
    };
    let mut at = now + dice.exponential(1.0 / offer.rate);
    while at < to + offer.guard.as_secs_f64() {
        let answered = server.serve(at);
        if (from..to).contains(&at) {
            seen.add(
                objective,
                Outcome::Answered(Duration::from_secs_f64(answered - at)),
            );
        }
        at += dice.exponential(1.0 / offer.rate);
    }
    seen
}

/// The share of `requests` that take `limit` seconds or longer at a steady rate.
pub fn late_share(model: Model, rate: f64, limit: f64, requests: u64, seed: u64) -> f64 {
    let mut server = Server::new(model, seed);
    let mut dice = Dice::new(seed.wrapping_add(77));
    let (mut at, mut late) = (0.0, 0u64);
    for _ in 0..requests {
        at += dice.exponential(1.0 / rate);
        late += u64::from(server.serve(at) - at >= limit);
    }
    late as f64 / requests as f64
}

/// The rate at which a request of a queue with Poisson arrivals, exponential service and so many workers (M/M/c) takes
/// `limit` seconds or longer with probability `allowed`. The wait is 0 with 1 − C, else exponential with the rate
/// that is spare (Erlang 1917); the whole time is its sum with the service.
pub fn workers_limit(workers: usize, service: f64, limit: f64, allowed: f64) -> f64 {
    let capacity = workers as f64 / service;
    let (mut low, mut high) = (0.0, capacity);
    for _ in 0..60 {
        let rate = (low + high) / 2.0;
        let spare = capacity - rate;
        let (own, wait) = (1.0 / service, erlang_c(workers, rate * service));
        let both = match (own - spare).abs() < 1e-9 * own {
            true => (1.0 + own * limit) * (-own * limit).exp(),
            false => (own * (-spare * limit).exp() - spare * (-own * limit).exp()) / (own - spare),
        };
        let late = (1.0 - wait) * (-own * limit).exp() + wait * both;
        (low, high) = if late < allowed { (rate, high) } else { (low, rate) };
    }
    (low + high) / 2.0
}

/// The probability that a request has to wait, with this load in workers (Erlang's C formula).
fn erlang_c(workers: usize, load: f64) -> f64 {
    let mut blocked = 1.0;
    for worker in 1..=workers {
        blocked = load * blocked / (worker as f64 + load * blocked);
    }
    let free = 1.0 - load / workers as f64;
    blocked / (free + (1.0 - free) * blocked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_and_the_simulation_agree() {
        for case in Class::Workers.cases() {
            let limit = case.objective.longest().as_secs_f64();
            let share = late_share(case.model, case.limit, limit, 3_000_000, 11);
            assert!((0.0085..0.0118).contains(&share), "{case:?}: {share}");
        }
    }

    #[test]
    fn a_frozen_server_answers_when_it_thaws() {
        let model = Model {
            workers: 1,
            service: 0.001,
            law: Law::Fixed,
            trouble: Trouble::Frozen(3.0, 5.0),
        };
        let mut server = Server::new(model, 1);
        assert!((server.serve(2.0) - 2.001).abs() < 1e-9);
        assert!((server.serve(3.5) - 5.001).abs() < 1e-9);
        assert!((server.serve(4.0) - 5.002).abs() < 1e-9);
        assert!((server.serve(6.0) - 6.001).abs() < 1e-9);
        assert!((server.idle_at() - 6.001).abs() < 1e-9);
    }

    #[test]
    fn what_is_under_way_when_it_freezes_takes_as_much_longer() {
        let model = Model {
            workers: 1,
            service: 0.5,
            law: Law::Fixed,
            trouble: Trouble::Frozen(1.0, 3.0),
        };
        assert!((Server::new(model, 1).serve(0.8) - 3.3).abs() < 1e-9);
    }
}
