//! What a measurement found, for people and for programs.

use std::collections::BTreeMap;
use std::time::Instant;

use pontoon_capacity::regression::Fit;
use pontoon_capacity::search::{Found, Hold};
use pontoon_capacity::{Itself, Latencies, Objective, Term, Verdict};
use serde::Serialize;

/// All of it. What `--json` prints and `--out` writes.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The URL, without its query: that may hold a secret.
    pub target: String,
    /// The address that was asked.
    pub address: String,
    /// `http/1.1` or `h2`.
    pub protocol: &'static str,
    /// When it began, in seconds since 1970.
    pub begun_unix: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What was to be kept.
    pub objective: Objective,
    /// How it ended.
    pub verdict: Verdict,
    /// Why, when it is not a plain pass; a sentence each.
    pub reasons: Vec<String>,
    /// The rate that was offered, requests a second; `null` when one was searched for.
    pub rate: Option<f64>,
    /// How the search ended; `null` when a rate was given.
    pub found: Option<Found>,
    /// What the search held, in its order.
    pub holds: Vec<Hold>,
    /// The regressions of those.
    #[serde(skip)]
    pub fits: Vec<(Term, Fit)>,
    /// How the target came back after overload.
    pub recovery: Option<Recovery>,
    /// Sums.
    pub totals: Totals,
    /// Percentiles of the answered requests, from when each was due.
    pub latency: Percentiles,
    /// What was answered in each second.
    pub each_second: Vec<Second>,
    /// What the generator saw of itself.
    pub generator: Itself,
    /// Where the dice began.
    pub seed: u64,
}

/// Sums of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    /// Requests that were due and sent, with those for which there was no room.
    pub sent: u64,
    /// Answered with a status below 400.
    pub answered: u64,
    /// Not sent because too many were under way.
    pub not_sent: u64,
    /// The others, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Bad ones for each term of the objective.
    pub bad: Vec<u64>,
    /// The raw histogram of the answered ones: `[[microseconds, how many], …]`.
    pub latencies: Latencies,
}

impl Totals {
    pub(crate) fn failed(&mut self, why: &str) {
        match self.failed.get_mut(why) {
            Some(count) => *count += 1,
            None => drop(self.failed.insert(why.to_owned(), 1)),
        }
    }

    pub(crate) fn bad_for(&mut self, objective: &Objective) -> std::slice::IterMut<'_, u64> {
        self.bad.resize(objective.terms().len(), 0);
        self.bad.iter_mut()
    }

    /// Requests that failed, for whatever reason.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of them were not longer.
    pub p50_ms: f64,
    /// Nine tenths.
    pub p90_ms: f64,
    /// 95 %.
    pub p95_ms: f64,
    /// 99 %.
    pub p99_ms: f64,
    /// 99.9 %.
    pub p999_ms: f64,
    /// All of them.
    pub longest_ms: f64,
}

impl Percentiles {
    /// Of `latencies`.
    pub fn of(latencies: &Latencies) -> Percentiles {
        let at = |percent| latencies.percentile(percent).as_secs_f64() * 1e3;
        Percentiles {
            p50_ms: at(50.0),
            p90_ms: at(90.0),
            p95_ms: at(95.0),
            p99_ms: at(99.0),
            p999_ms: at(99.9),
            longest_ms: latencies.longest().as_secs_f64() * 1e3,
        }
    }
}

/// One second.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Second {
    #[serde(skip)]
    pub(crate) begun: Option<Instant>,
    /// Answered in it.
    pub answered: u64,
    /// Failed in it.
    pub failed: u64,
    /// The middle latency of those, in microseconds.
    pub p50_us: u64,
    /// Their p99.
    pub p99_us: u64,
}

/// How the target came back after it was overloaded on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recovery {
    /// Requests a second of the overload.
    pub overload: f64,
    /// The highest tried rate at which it was as before; `null` when it did not come back at any.
    pub recovers_at: Option<f64>,
    /// How long that took at this rate, in seconds.
    pub after_seconds: f64,
}
