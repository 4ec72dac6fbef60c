//! What happened to the requests of one phase.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;

/// One request and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// The number of the phase it was due in.
    pub phase: usize,
    /// What it was for.
    pub what: &'static str,
    /// Its method.
    pub method: &'static str,
    /// Which address it went to.
    pub target: SocketAddr,
    /// The status of the answer, if one came.
    pub status: Option<u16>,
    /// Why it counts as failed, if it does.
    pub failure: Option<String>,
    /// How long the visitor waited, from the moment it was due.
    pub wait_us: u64,
}

/// A phase in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhaseSummary {
    /// Its name.
    pub name: String,
    /// How long it took, or has taken so far.
    pub seconds: f64,
    /// Requests that were due in it.
    pub sent: u64,
    /// How many of them were writes.
    pub writes: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Requests without an answer yet.
    pub pending: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Why, and how often.
    pub failures: BTreeMap<String, u64>,
    /// Half of the visitors waited no longer than this, in ms.
    pub p50_ms: f64,
    /// All but one in a hundred waited no longer than this, in ms.
    pub p99_ms: f64,
    /// The longest wait of anybody, failed or not, in ms.
    pub longest_ms: f64,
}

#[derive(Debug)]
pub(crate) struct Phase {
    name: String,
    begun: Instant,
    ended: Option<Instant>,
    sent: u64,
    writes: u64,
    answered: u64,
    acknowledged: u64,
    failures: BTreeMap<String, u64>,
    waits: Option<Histogram<u64>>,
}

impl Phase {
    pub(crate) fn new(name: &str) -> Phase {
        Phase {
            name: name.to_owned(),
            begun: Instant::now(),
            ended: None,
            sent: 0,
            writes: 0,
            answered: 0,
            acknowledged: 0,
            failures: BTreeMap::new(),
            // Microseconds up to an hour in three digits; these bounds are valid ones.
            waits: Histogram::new_with_bounds(1, 3_600_000_000, 3).ok(),
        }
    }

    pub(crate) fn end(&mut self) {
        self.ended.get_or_insert_with(Instant::now);
    }

    pub(crate) fn sent(&mut self, write: bool) {
        self.sent += 1;
        self.writes += u64::from(write);
    }

    pub(crate) fn answered(&mut self, wait: Duration, failure: Option<&str>, acknowledged: bool) {
        self.answered += 1;
        self.acknowledged += u64::from(acknowledged);
        if let Some(waits) = &mut self.waits {
            waits.saturating_record(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX));
        }
        if let Some(reason) = failure {
            *self.failures.entry(reason.to_owned()).or_default() += 1;
        }
    }

    pub(crate) fn summary(&self) -> PhaseSummary {
        let at = |quantile| {
            self.waits
                .as_ref()
                .map_or(0, |waits| waits.value_at_quantile(quantile)) as f64
                / 1_000.0
        };
        PhaseSummary {
            name: self.name.clone(),
            seconds: self
                .ended
                .unwrap_or_else(Instant::now)
                .duration_since(self.begun)
                .as_secs_f64(),
            sent: self.sent,
            writes: self.writes,
            acknowledged: self.acknowledged,
            pending: self.sent - self.answered.min(self.sent),
            failed: self.failures.values().sum(),
            failures: self.failures.clone(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            longest_ms: self.waits.as_ref().map_or(0, Histogram::max) as f64 / 1_000.0,
        }
    }
}
