//! The edge's families. Each serving thread counts for itself, so that no two share a cache line in the hot path;
//! the sums are made when somebody asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pontoon_fleet::{Coding, ServerName};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{AtomicHistogram, Members, Registry};

/// Why a request was tried on another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryReason {
    /// The connection could not be made.
    Connect,
    /// The connection was closed before a byte of the answer came.
    Closed,
}

/// Why a TLS handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFailure {
    /// One side refused the other's certificate.
    Certificate,
    /// It took too long.
    Timeout,
    /// Anything else: hung up, not TLS, too old a version.
    Protocol,
}

/// What became of a floor: of what a visitor's requests must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloorEvent {
    /// The SQL proxy took in what a request came with.
    Seen,
    /// A visitor was given one.
    Given,
    /// A request came with one that no edge of the fleet wrote.
    Invalid,
    /// The SQL proxy did not answer in time.
    Failed,
}

/// What the cache did for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheEvent {
    /// It was answered with what is kept.
    Hit,
    /// It was answered with what is kept and over.
    Stale,
    /// What is kept and over is asked for anew, for nobody.
    Refresh,
    /// Nothing was kept that answers it.
    Miss,
    /// It is none that what is kept answers.
    Bypass,
    /// It waited for the answer to another that asked for the same.
    Collapsed,
}

/// What an edge does, all its threads together. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EdgeMetrics {
    threads: Arc<[Arc<EdgeThread>]>,
    healthy: Arc<Members<[(&'static str, String); 1]>>,
}

/// What one thread counts. Only that thread adds, so nothing is contended.
#[derive(Debug)]
#[repr(align(128))]
pub struct EdgeThread {
    classes: [AtomicU64; CLASSES.len()],
    retries: [AtomicU64; RETRY_REASONS.len()],
    tls_failures: [AtomicU64; TLS_REASONS.len()],
    floors: [AtomicU64; FLOOR_EVENTS.len()],
    cache: [AtomicU64; CACHE_EVENTS.len()],
    compressed: [AtomicU64; Coding::ALL.len()],
    compressed_bytes: [AtomicU64; COMPRESSED_BYTES.len()],
    inflight: AtomicU64,
    connections: AtomicU64,
    failed: AtomicU64,
    aborted: AtomicU64,
    log_dropped: AtomicU64,
    duration: AtomicHistogram,
    /// One for each of the reasons that the edge registered.
    rejected: Box<[AtomicU64]>,
}

/// What an edge has done since it started, as numbers for its report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeTotals {
    /// Requests answered, by whomever.
    pub requests: u64,
    /// Requests that the edge answered itself with 5xx.
    pub failed: u64,
    /// Requests that were tried on another server.
    pub retried: u64,
    /// Requests being answered now.
    pub in_flight: u64,
}

const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];
const RETRY_REASONS: [&str; 2] = ["connect", "closed"];
const TLS_REASONS: [&str; 3] = ["certificate", "timeout", "protocol"];
const COMPRESSED_BYTES: [&str; 2] = ["before", "after"];
const CODINGS: [&str; Coding::ALL.len()] = ["zstd", "br", "gzip"];
const CACHE_EVENTS: [&str; 8] = [
    "hit",
    "stale",
    "refresh",
    "miss",
    "bypass",
    "collapsed",
    "kept",
    "purged",
];
const FLOOR_EVENTS: [&str; 4] = ["seen", "given", "invalid", "failed"];

/// Upper ends in seconds: from a cached page to a request that somebody gave up on.
const DURATION_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

impl EdgeMetrics {
    /// Adds the families to `registry`, for `threads` serving threads. `reject_reasons` are the words of the reasons
    /// for which a message is refused; [`EdgeThread::rejected`] takes an index into them.
    pub fn register(
        registry: &mut Registry,
        threads: usize,
        reject_reasons: &'static [&'static str],
    ) -> EdgeMetrics {
        let threads: Arc<[Arc<EdgeThread>]> = (0..threads)
            .map(|_| Arc::new(EdgeThread::new(reject_reasons.len())))
            .collect();
        let sums = Sums {
            threads: Arc::clone(&threads),
            reject_reasons,
        };
        registry.inner.register_collector(Box::new(sums));
        EdgeMetrics {
            threads,
            healthy: Arc::new(Members::add(
                registry,
                "pontoon_edge_upstream_healthy",
                "Whether new requests go to the application server",
            )),
        }
    }

    /// So many addresses were forgotten because an operator said so. No thread's doing: the first counts it.
    pub fn cache_purged(&self, count: u64) {
        let purged = self.threads().first().and_then(|thread| thread.cache.get(7));
        if let Some(purged) = purged {
            purged.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Where the threads count, in order.
    pub fn threads(&self) -> &[Arc<EdgeThread>] {
        &self.threads
    }

    /// The sums for the report.
    pub fn totals(&self) -> EdgeTotals {
        let sum = |of: &dyn Fn(&EdgeThread) -> u64| self.threads.iter().map(|thread| of(thread)).sum();
        EdgeTotals {
            requests: sum(&|thread| thread.classes.iter().map(read).sum()),
            failed: sum(&|thread| read(&thread.failed)),
            retried: sum(&|thread| thread.retries.iter().map(read).sum()),
            in_flight: sum(&|thread| read(&thread.inflight)),
        }
    }

    /// Every application server and whether it gets requests. One that is not named is no longer shown.
    pub fn upstreams<'a>(&self, upstreams: impl Iterator<Item = (&'a ServerName, bool)>) {
        let now = upstreams.map(|(name, healthy)| ([("upstream", name.to_string())], i64::from(healthy)));
        self.healthy.set(now.collect());
    }
}

impl EdgeThread {
    fn new(reject_reasons: usize) -> EdgeThread {
        EdgeThread {
            classes: Default::default(),
            retries: Default::default(),
            tls_failures: Default::default(),
            floors: Default::default(),
            cache: Default::default(),
            compressed: Default::default(),
            compressed_bytes: Default::default(),
            inflight: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            log_dropped: AtomicU64::new(0),
            duration: AtomicHistogram::new(DURATION_SECONDS),
            rejected: (0..reject_reasons).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// A request began; it ends when the guard is dropped.
    pub fn begin(&self) -> Open<'_> {
        Open::one_more(&self.inflight)
    }

    /// A client's connection was taken.
    pub fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A client's connection has ended.
    pub fn disconnected(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// A request was answered.
    pub fn answered(&self, status: u16, took: Duration) {
        add(
            &self.classes,
            usize::from(status / 100).wrapping_sub(1).min(CLASSES.len() - 1),
        );
        self.duration.observe(took);
    }

    /// The edge answered a request itself with 5xx.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer could not be finished.
    pub fn aborted(&self) {
        self.aborted.fetch_add(1, Ordering::Relaxed);
    }

    /// A message was refused for the reason at `index`.
    pub fn rejected(&self, index: usize) {
        add(&self.rejected, index);
    }

    /// Lines of the access log were dropped.
    pub fn log_dropped(&self, lines: u64) {
        self.log_dropped.fetch_add(lines, Ordering::Relaxed);
    }

    /// A request was tried on another server.
    pub fn retried(&self, reason: RetryReason) {
        let index = match reason {
            RetryReason::Connect => 0,
            RetryReason::Closed => 1,
        };
        add(&self.retries, index);
    }

    /// A TLS handshake failed.
    pub fn tls_failed(&self, reason: TlsFailure) {
        let index = match reason {
            TlsFailure::Certificate => 0,
            TlsFailure::Timeout => 1,
            TlsFailure::Protocol => 2,
        };
        add(&self.tls_failures, index);
    }

    /// An answer's body of `read` bytes was compressed to `written`.
    pub fn compressed(&self, coding: Coding, read: u64, written: u64) {
        for (one, counter) in Coding::ALL.iter().zip(&self.compressed) {
            counter.fetch_add(u64::from(*one == coding), Ordering::Relaxed);
        }
        for (counter, bytes) in self.compressed_bytes.iter().zip([read, written]) {
            counter.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// What the cache did for a request.
    pub fn cache(&self, event: CacheEvent) {
        let index = match event {
            CacheEvent::Hit => 0,
            CacheEvent::Stale => 1,
            CacheEvent::Refresh => 2,
            CacheEvent::Miss => 3,
            CacheEvent::Bypass => 4,
            CacheEvent::Collapsed => 5,
        };
        add(&self.cache, index);
    }

    /// An answer came whole, and is kept or not.
    pub fn cache_kept(&self, kept: bool) {
        if kept {
            add(&self.cache, 6);
        }
    }

    /// What became of a floor.
    pub fn floor(&self, event: FloorEvent) {
        let index = match event {
            FloorEvent::Seen => 0,
            FloorEvent::Given => 1,
            FloorEvent::Invalid => 2,
            FloorEvent::Failed => 3,
        };
        add(&self.floors, index);
    }
}

/// A request that is being answered.
#[derive(Debug)]
#[must_use = "the request counts as ended when this is dropped"]
pub struct Open<'a>(&'a AtomicU64);

impl Open<'_> {
    fn one_more(gauge: &AtomicU64) -> Open<'_> {
        gauge.fetch_add(1, Ordering::Relaxed);
        Open(gauge)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn add(counters: &[AtomicU64], index: usize) {
    if let Some(counter) = counters.get(index) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// What is shown: the sums over the threads.
#[derive(Debug)]
struct Sums {
    threads: Arc<[Arc<EdgeThread>]>,
    reject_reasons: &'static [&'static str],
}

impl Sums {
    fn sum(&self, of: impl Fn(&EdgeThread) -> &AtomicU64) -> u64 {
        self.threads.iter().map(|thread| read(of(thread))).sum()
    }

    fn counter(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        of: impl Fn(&EdgeThread) -> &AtomicU64,
    ) -> fmt::Result {
        encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&self.sum(of), None)
    }

    fn gauge(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        of: impl Fn(&EdgeThread) -> &AtomicU64,
    ) -> fmt::Result {
        let value = i64::try_from(self.sum(of)).unwrap_or(i64::MAX);
        encoder
            .encode_descriptor(name, help, None, MetricType::Gauge)?
            .encode_gauge(&value)
    }

    fn family(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        (label, values): (&'static str, &[&'static str]),
        of: impl Fn(&EdgeThread) -> &[AtomicU64],
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (index, value) in values.iter().enumerate() {
            let counters = self.threads.iter().filter_map(|thread| of(thread).get(index));
            family
                .encode_family(&[(label, *value)])?
                .encode_counter::<NoLabelSet, _, u64>(&counters.map(read).sum::<u64>(), None)?;
        }
        Ok(())
    }
}

impl Collector for Sums {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut encoder;
        let requests = (
            "pontoon_edge_requests",
            "Requests answered, by the class of the status",
        );
        self.family(to, requests, ("code_class", &CLASSES), |t| &t.classes)?;
        let retries = ("pontoon_edge_retries", "Requests tried on another server");
        self.family(to, retries, ("reason", &RETRY_REASONS), |t| &t.retries)?;
        let tls = (
            "pontoon_edge_tls_handshake_failures",
            "TLS handshakes that failed",
        );
        self.family(to, tls, ("reason", &TLS_REASONS), |t| &t.tls_failures)?;
        let floors = (
            "pontoon_edge_floors",
            "What became of what visitors' requests must see of their own writes",
        );
        self.family(to, floors, ("event", &FLOOR_EVENTS), |t| &t.floors)?;
        let cache = (
            "pontoon_edge_cache",
            "What the cache did with requests and answers",
        );
        self.family(to, cache, ("event", &CACHE_EVENTS), |t| &t.cache)?;
        let compressed = ("pontoon_edge_compressed_answers", "Answers that were compressed");
        self.family(to, compressed, ("coding", &CODINGS), |t| &t.compressed)?;
        let bytes = (
            "pontoon_edge_compressed_bytes",
            "Bytes of answers' bodies before and after they were compressed",
        );
        self.family(to, bytes, ("moment", &COMPRESSED_BYTES), |t| &t.compressed_bytes)?;
        let rejected = ("pontoon_edge_rejected", "Messages refused");
        self.family(to, rejected, ("reason", self.reject_reasons), |t| &t.rejected)?;
        let failed = (
            "pontoon_edge_failed_requests",
            "Requests that the edge answered itself with 5xx",
        );
        self.counter(to, failed, |t| &t.failed)?;
        let aborted = (
            "pontoon_edge_aborted_answers",
            "Answers that could not be finished",
        );
        self.counter(to, aborted, |t| &t.aborted)?;
        let dropped = (
            "pontoon_edge_access_log_dropped",
            "Lines of the access log that were dropped",
        );
        self.counter(to, dropped, |t| &t.log_dropped)?;
        let inflight = ("pontoon_edge_inflight_requests", "Requests being answered");
        self.gauge(to, inflight, |t| &t.inflight)?;
        let connections = ("pontoon_edge_client_connections", "Client connections open");
        self.gauge(to, connections, |t| &t.connections)?;
        let duration = to.encode_descriptor(
            "pontoon_edge_request_duration_seconds",
            "From the request's head to the answer's last byte",
            None,
            MetricType::Histogram,
        )?;
        AtomicHistogram::encode_sum(self.threads.iter().map(|t| &t.duration), duration)
    }
}
