//! Statements that are alike, counted: what `pontoon sql top` shows.
//!
//! A table of bounded size. When it is full, a new statement takes the place of the one that has cost the least, and what
//! that had is added to [`Digests::forgotten`]: the totals stay right, and what matters stays.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Statements that are kept.
pub const MOST: usize = 1_024;
/// Tables beside each other, so that threads seldom wait for one another.
const SHARDS: usize = 16;

/// Counts statements by their digest. Shared by all threads.
#[derive(Debug)]
pub struct Digests {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    rows: HashMap<Box<str>, Counts>,
    forgotten: Counts,
}

/// One execution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Execution {
    /// A replica ran it.
    pub on_replica: bool,
    /// It ended in an error.
    pub failed: bool,
    /// Rows that it changed.
    pub affected_rows: u64,
    /// Rows of its answer.
    pub rows: u64,
    /// Bytes of its answer.
    pub bytes: u64,
    /// From the last byte of the statement to the last byte of the answer, waits included.
    pub took: Duration,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Executions.
    pub calls: u64,
    /// Of these, on a replica.
    pub on_replica: u64,
    /// Of these, ended in an error.
    pub failed: u64,
    /// Rows changed.
    pub affected_rows: u64,
    /// Rows answered.
    pub answered_rows: u64,
    /// Bytes answered.
    pub bytes: u64,
    /// Time in all, in microseconds.
    pub total_us: u64,
    /// The longest, in microseconds.
    pub longest_us: u64,
}

impl Counts {
    fn add(&mut self, execution: &Execution) {
        let us = u64::try_from(execution.took.as_micros()).unwrap_or(u64::MAX);
        self.calls += 1;
        self.on_replica += u64::from(execution.on_replica);
        self.failed += u64::from(execution.failed);
        self.affected_rows = self.affected_rows.saturating_add(execution.affected_rows);
        self.answered_rows = self.answered_rows.saturating_add(execution.rows);
        self.bytes = self.bytes.saturating_add(execution.bytes);
        self.total_us = self.total_us.saturating_add(us);
        self.longest_us = self.longest_us.max(us);
    }

    fn merge(&mut self, other: &Counts) {
        self.calls += other.calls;
        self.on_replica += other.on_replica;
        self.failed += other.failed;
        self.affected_rows = self.affected_rows.saturating_add(other.affected_rows);
        self.answered_rows = self.answered_rows.saturating_add(other.answered_rows);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.total_us = self.total_us.saturating_add(other.total_us);
        self.longest_us = self.longest_us.max(other.longest_us);
    }
}

/// A statement with what was counted of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The statement without its values.
    pub digest: String,
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
}

/// Everything that was counted since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The statements that are kept, the one with the most time first.
    pub rows: Vec<Row>,
    /// What was counted of statements that were forgotten.
    pub forgotten: Counts,
}

impl Default for Digests {
    fn default() -> Digests {
        Digests {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl Digests {
    /// Counts one execution.
    pub fn record(&self, digest: &str, execution: &Execution) {
        let shard = self.hasher.hash_one(digest) as usize % SHARDS;
        let Some(shard) = self.shards.get(shard) else {
            return;
        };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = shard.rows.get_mut(digest) {
            return counts.add(execution);
        }
        if shard.rows.len() >= MOST / SHARDS {
            shard.forget_one();
        }
        let mut counts = Counts::default();
        counts.add(execution);
        shard.rows.insert(digest.into(), counts);
    }

    /// What was counted so far.
    pub fn report(&self) -> Report {
        let mut report = Report::default();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            report.forgotten.merge(&shard.forgotten);
            report.rows.extend(shard.rows.iter().map(|(digest, counts)| Row {
                digest: digest.to_string(),
                counts: *counts,
            }));
        }
        report.rows.sort_by(|one, other| {
            let by_time = other.counts.total_us.cmp(&one.counts.total_us);
            by_time.then_with(|| one.digest.cmp(&other.digest))
        });
        report
    }
}

impl Shard {
    fn forget_one(&mut self) {
        let least = self.rows.iter().min_by_key(|(_, counts)| counts.total_us);
        let Some(digest) = least.map(|(digest, _)| digest.clone()) else {
            return;
        };
        if let Some(counts) = self.rows.remove(&digest) {
            self.forgotten.merge(&counts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(us: u64) -> Execution {
        Execution {
            took: Duration::from_micros(us),
            ..Execution::default()
        }
    }

    #[test]
    fn statements_that_are_alike_are_one_row_and_the_costliest_is_first() {
        let digests = Digests::default();
        digests.record("SELECT ?", &took(5));
        let failed = Execution {
            on_replica: true,
            failed: true,
            bytes: 7,
            ..took(9)
        };
        digests.record("SELECT ?", &failed);
        digests.record(
            "DELETE FROM t",
            &Execution {
                affected_rows: 3,
                ..took(100)
            },
        );
        let rows = digests.report().rows;
        assert_eq!(rows[0].digest, "DELETE FROM t");
        assert_eq!(
            rows[1].counts,
            Counts {
                calls: 2,
                on_replica: 1,
                failed: 1,
                affected_rows: 0,
                answered_rows: 0,
                bytes: 7,
                total_us: 14,
                longest_us: 9
            }
        );
    }

    #[test]
    fn a_stream_of_new_statements_is_bounded_keeps_the_costly_and_loses_no_count() {
        let digests = Digests::default();
        digests.record("the one that matters", &took(1_000_000));
        for n in 0..20_000 {
            digests.record(&format!("SELECT {n}"), &took(1));
        }
        let report = digests.report();
        assert!(report.rows.len() <= MOST, "{}", report.rows.len());
        assert_eq!(report.rows[0].digest, "the one that matters");
        let kept: u64 = report.rows.iter().map(|row| row.counts.calls).sum();
        assert_eq!(kept + report.forgotten.calls, 20_001);
    }

    #[test]
    fn a_report_goes_through_json() {
        let digests = Digests::default();
        digests.record("SELECT ?", &took(5));
        let report = digests.report();
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
