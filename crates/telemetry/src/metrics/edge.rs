//! The edge's families.

use std::sync::Arc;
use std::time::Duration;

use pontoon_fleet::ServerName;
use prometheus_client::metrics::gauge::Gauge;

use super::{AtomicHistogram, FixedCounters, Members, Registry};

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

/// What an edge does. Cheap to clone; every thread may have one.
#[derive(Clone, Debug)]
pub struct EdgeMetrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    requests: FixedCounters<6>,
    duration: AtomicHistogram,
    inflight: Gauge,
    retries: FixedCounters<2>,
    tls_failures: FixedCounters<3>,
    healthy: Members<[(&'static str, String); 1]>,
}

/// Upper ends in seconds: from a cached page to a request that somebody gave up on.
const DURATION_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

impl EdgeMetrics {
    /// Adds the families to `registry`.
    pub fn register(registry: &mut Registry) -> EdgeMetrics {
        let inner = Inner {
            requests: FixedCounters::add(
                registry,
                "pontoon_edge_requests",
                "Requests answered, by the class of the status",
                "code_class",
                ["1xx", "2xx", "3xx", "4xx", "5xx", "other"],
            ),
            duration: registry.add(
                "pontoon_edge_request_duration_seconds",
                "From the request's first byte to the answer's last",
                AtomicHistogram::new(DURATION_SECONDS),
            ),
            inflight: registry.add(
                "pontoon_edge_inflight_requests",
                "Requests being answered",
                Gauge::default(),
            ),
            retries: FixedCounters::add(
                registry,
                "pontoon_edge_retries",
                "Requests tried on another server",
                "reason",
                ["connect", "closed"],
            ),
            tls_failures: FixedCounters::add(
                registry,
                "pontoon_edge_tls_handshake_failures",
                "TLS handshakes that failed",
                "reason",
                ["certificate", "timeout", "protocol"],
            ),
            healthy: Members::add(
                registry,
                "pontoon_edge_upstream_healthy",
                "Whether new requests go to the application server",
            ),
        };
        EdgeMetrics {
            inner: Arc::new(inner),
        }
    }

    /// A request began; it ends when the guard is dropped.
    pub fn begin(&self) -> InFlight {
        self.inner.inflight.inc();
        InFlight {
            gauge: self.inner.inflight.clone(),
        }
    }

    /// A request was answered.
    pub fn answered(&self, status: u16, took: Duration) {
        let class = match status / 100 {
            class @ 1..=5 => usize::from(class) - 1,
            _ => 5,
        };
        self.inner.requests.count(class);
        self.inner.duration.observe(took);
    }

    /// A request was tried on another server.
    pub fn retried(&self, reason: RetryReason) {
        self.inner.retries.count(match reason {
            RetryReason::Connect => 0,
            RetryReason::Closed => 1,
        });
    }

    /// A TLS handshake failed.
    pub fn tls_failed(&self, reason: TlsFailure) {
        self.inner.tls_failures.count(match reason {
            TlsFailure::Certificate => 0,
            TlsFailure::Timeout => 1,
            TlsFailure::Protocol => 2,
        });
    }

    /// Every application server and whether it gets requests. One that is not named is no longer shown.
    pub fn upstreams<'a>(&self, upstreams: impl Iterator<Item = (&'a ServerName, bool)>) {
        let now = upstreams.map(|(name, healthy)| ([("upstream", name.to_string())], i64::from(healthy)));
        self.inner.healthy.set(now.collect());
    }
}

/// A request that is being answered.
#[derive(Debug)]
#[must_use = "the request counts as ended when this is dropped"]
pub struct InFlight {
    gauge: Gauge,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}
