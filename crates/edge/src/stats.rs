//! What each thread counts, and the sum of it.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::http1::reject::Reject;

/// Upper bounds of the duration histogram, in milliseconds.
const BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000];

/// What one thread counts. Only that thread writes, so nothing is contended.
#[derive(Debug, Default)]
pub struct ThreadStats {
    /// Requests answered, by the last digit of their class: 1xx to 5xx.
    classes: [AtomicU64; 5],
    /// Requests that the edge had to answer itself with 5xx.
    pub failed: AtomicU64,
    /// Requests that were tried on a second server.
    pub retried: AtomicU64,
    /// Requests being answered now.
    pub in_flight: AtomicU64,
    /// Client connections open now.
    pub connections: AtomicU64,
    /// Requests refused, by reason.
    rejects: Rejects,
    /// Answers that could not be finished.
    pub aborted: AtomicU64,
    /// Lines of the access log that were dropped because its writer did not keep up.
    pub log_dropped: AtomicU64,
    durations: [AtomicU64; BOUNDS_MS.len() + 1],
    duration_sum_us: AtomicU64,
}

impl ThreadStats {
    /// A request was answered.
    pub fn answered(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        let millis = took.as_millis();
        let bucket = BOUNDS_MS
            .iter()
            .position(|bound| millis < u128::from(*bound))
            .unwrap_or(BOUNDS_MS.len());
        self.durations[bucket].fetch_add(1, Ordering::Relaxed);
        self.duration_sum_us.fetch_add(
            u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// A request was refused.
    pub fn rejected(&self, reject: Reject) {
        if let Some(counter) = Reject::ALL
            .iter()
            .position(|r| *r == reject)
            .and_then(|at| self.rejects.0.get(at))
        {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests answered.
    pub fn requests(&self) -> u64 {
        self.classes.iter().map(read).sum()
    }
}

/// A counter for each reason.
#[derive(Debug)]
struct Rejects([AtomicU64; Reject::ALL.len()]);

impl Default for Rejects {
    fn default() -> Self {
        Rejects(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// The sum of what `threads` counted.
pub fn sum(threads: &[std::sync::Arc<ThreadStats>], of: impl Fn(&ThreadStats) -> u64) -> u64 {
    threads.iter().map(|thread| of(thread)).sum()
}

/// The value of a counter.
pub fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// The counters of all threads in the text format of Prometheus.
pub fn exposition(threads: &[std::sync::Arc<ThreadStats>]) -> String {
    let mut out = String::with_capacity(4096);
    // Writing to a String cannot fail.
    let _ = write_exposition(&mut out, threads);
    out
}

fn write_exposition(out: &mut String, threads: &[std::sync::Arc<ThreadStats>]) -> std::fmt::Result {
    writeln!(
        out,
        "# HELP pontoon_edge_requests_total Requests answered.\n# TYPE pontoon_edge_requests_total counter"
    )?;
    for class in 0..5 {
        let count = sum(threads, |t| read(&t.classes[class]));
        writeln!(
            out,
            "pontoon_edge_requests_total{{code_class=\"{}xx\"}} {count}",
            class + 1
        )?;
    }
    for (name, kind, help, value) in [
        (
            "pontoon_edge_failed_requests_total",
            "counter",
            "Requests that the edge answered itself with 5xx.",
            sum(threads, |t| read(&t.failed)),
        ),
        (
            "pontoon_edge_retries_total",
            "counter",
            "Requests that were tried on a second server.",
            sum(threads, |t| read(&t.retried)),
        ),
        (
            "pontoon_edge_aborted_answers_total",
            "counter",
            "Answers that could not be finished.",
            sum(threads, |t| read(&t.aborted)),
        ),
        (
            "pontoon_edge_access_log_dropped_total",
            "counter",
            "Lines of the access log that were dropped.",
            sum(threads, |t| read(&t.log_dropped)),
        ),
        (
            "pontoon_edge_inflight_requests",
            "gauge",
            "Requests being answered now.",
            sum(threads, |t| read(&t.in_flight)),
        ),
        (
            "pontoon_edge_client_connections",
            "gauge",
            "Client connections open now.",
            sum(threads, |t| read(&t.connections)),
        ),
    ] {
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}")?;
    }
    writeln!(
        out,
        "# HELP pontoon_edge_rejected_total Requests refused, by reason.\n# TYPE pontoon_edge_rejected_total counter"
    )?;
    for (at, reject) in Reject::ALL.iter().enumerate() {
        let count = sum(threads, |t| read(&t.rejects.0[at]));
        if count > 0 {
            writeln!(
                out,
                "pontoon_edge_rejected_total{{reason=\"{}\"}} {count}",
                reject.word()
            )?;
        }
    }
    let name = "pontoon_edge_request_duration_seconds";
    writeln!(
        out,
        "# HELP {name} From the request's head to the answer's end.\n# TYPE {name} histogram"
    )?;
    let mut below = 0;
    for (at, bound) in BOUNDS_MS.iter().enumerate() {
        below += sum(threads, |t| read(&t.durations[at]));
        writeln!(out, "{name}_bucket{{le=\"{}\"}} {below}", *bound as f64 / 1000.0)?;
    }
    below += sum(threads, |t| read(&t.durations[BOUNDS_MS.len()]));
    let seconds = sum(threads, |t| read(&t.duration_sum_us)) as f64 / 1e6;
    writeln!(
        out,
        "{name}_bucket{{le=\"+Inf\"}} {below}\n{name}_sum {seconds}\n{name}_count {below}"
    )
}
