//! Durations by how often they came, exact to three figures whatever their size.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

/// A histogram of durations, in microseconds up to an hour.
#[derive(Clone, Debug)]
pub struct Latencies {
    /// `None` only if the library refused constants that it takes: then nothing is counted.
    counts: Option<Histogram<u64>>,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies {
            counts: Histogram::new_with_bounds(1, LONGEST_US, 3).ok(),
        }
    }
}

impl Latencies {
    /// Adds one. What is longer than an hour counts as an hour.
    pub fn add(&mut self, span: Duration) {
        if let Some(counts) = &mut self.counts {
            counts.saturating_record(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Latencies) {
        if let (Some(counts), Some(others)) = (&mut self.counts, &other.counts) {
            // Both have the same bounds, so nothing can be out of range.
            let _ = counts.add(others);
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.as_ref().map_or(0, Histogram::len)
    }

    /// The duration that `percent` of them do not exceed; zero when there is none.
    pub fn percentile(&self, percent: f64) -> Duration {
        let micros = |counts: &Histogram<u64>| counts.value_at_percentile(percent);
        Duration::from_micros(self.counts.as_ref().map_or(0, micros))
    }

    /// The longest; zero when there is none.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.counts.as_ref().map_or(0, Histogram::max))
    }

    /// The mean; zero when there is none.
    pub fn mean(&self) -> Duration {
        Duration::from_micros(self.counts.as_ref().map_or(0.0, Histogram::mean) as u64)
    }

    /// Upper ends in microseconds with how many are in each, ascending; empty ones left out.
    pub fn buckets(&self) -> Vec<(u64, u64)> {
        let Some(counts) = &self.counts else {
            return Vec::new();
        };
        counts
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect()
    }
}

impl Serialize for Latencies {
    /// The raw histogram: `[[microseconds, how many], …]`, so that another program can add runs up.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let buckets = self.buckets();
        let mut all = serializer.serialize_seq(Some(buckets.len()))?;
        for bucket in buckets {
            all.serialize_element(&bucket)?;
        }
        all.end()
    }
}

const LONGEST_US: u64 = 3_600_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact_to_three_figures() {
        let mut all = Latencies::default();
        for ms in 1..=10_000 {
            all.add(Duration::from_millis(ms));
        }
        for (percent, ms) in [(50.0, 5_000.0), (99.0, 9_900.0), (99.9, 9_990.0)] {
            let found = all.percentile(percent).as_secs_f64() * 1e3;
            assert!((found / ms - 1.0).abs() < 0.001, "{percent}: {found}");
        }
        assert_eq!(all.count(), 10_000);
    }

    #[test]
    fn nothing_is_lost_at_the_ends_or_when_merged() {
        let mut one = Latencies::default();
        assert_eq!(
            (one.count(), one.percentile(99.0), one.longest()),
            (0, Duration::ZERO, Duration::ZERO)
        );
        one.add(Duration::ZERO);
        one.add(Duration::from_secs(1 << 40));
        let mut all = Latencies::default();
        all.add(Duration::from_millis(5));
        all.merge(&one);
        assert_eq!(all.count(), 3);
        assert_eq!(all.buckets().iter().map(|(_, count)| count).sum::<u64>(), 3);
        assert!(all.longest() >= Duration::from_secs(3_590));
    }
}
