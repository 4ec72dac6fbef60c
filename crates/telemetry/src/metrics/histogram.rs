//! A histogram that any thread may add to without waiting for another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Durations in buckets, seconds in the text. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct AtomicHistogram {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Upper ends in seconds, ascending, without infinity.
    bounds: &'static [f64],
    /// One more than bounds: the last is everything above.
    counts: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

impl AtomicHistogram {
    /// An empty one with these upper bucket ends in seconds, ascending.
    pub fn new(bounds: &'static [f64]) -> AtomicHistogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        AtomicHistogram {
            inner: Arc::new(Inner {
                bounds,
                counts,
                sum_nanos: AtomicU64::new(0),
            }),
        }
    }

    /// Adds one.
    pub fn observe(&self, span: Duration) {
        let seconds = span.as_secs_f64();
        let bucket = self.inner.bounds.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.inner.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        // 64 bits of nanoseconds are 584 years of waiting.
        self.inner
            .sum_nanos
            .fetch_add(u64::try_from(span.as_nanos()).unwrap_or(0), Ordering::Relaxed);
    }

    /// How many were added.
    pub fn count(&self) -> u64 {
        self.inner
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }
}

impl AtomicHistogram {
    /// Writes what `all`, which have the same buckets, hold together.
    pub(super) fn encode_sum<'a>(
        all: impl Iterator<Item = &'a AtomicHistogram>,
        mut encoder: MetricEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let (mut buckets, mut sum_nanos) = (Vec::new(), 0u64);
        for one in all {
            let ends = one.inner.bounds.iter().copied().chain([f64::INFINITY]);
            buckets.resize(one.inner.counts.len(), (0.0, 0));
            for ((bucket, end), count) in buckets.iter_mut().zip(ends).zip(&one.inner.counts) {
                *bucket = (end, bucket.1 + count.load(Ordering::Relaxed));
            }
            sum_nanos = sum_nanos.saturating_add(one.inner.sum_nanos.load(Ordering::Relaxed));
        }
        // The total is that of the buckets as read: the text agrees with itself while others add.
        let total = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(sum_nanos as f64 / 1e9, total, &buckets, None)
    }
}

impl TypedMetric for AtomicHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for AtomicHistogram {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        AtomicHistogram::encode_sum(std::iter::once(self), encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}
