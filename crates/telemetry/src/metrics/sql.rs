//! The SQL proxy's families.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::{AtomicHistogram, FixedCounters, OneLabel, Registry};

/// Where a client's connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// At this server's database.
    Local,
    /// At another server's, through its SQL proxy.
    Relayed,
}

/// What an SQL proxy does. Cheap to clone; every thread may have one.
#[derive(Clone, Debug)]
pub struct SqlMetrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    connections: FixedCounters<2>,
    queries: FixedCounters<2>,
    diverted: FixedCounters<4>,
    pool: [Gauge; 2],
    held: Gauge,
    hold: AtomicHistogram,
}

/// Upper ends in seconds: from not noticed to given up.
const HOLD_SECONDS: &[f64] = &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0];

impl SqlMetrics {
    /// Adds the families to `registry`.
    pub fn register(registry: &mut Registry) -> SqlMetrics {
        let connections = FixedCounters::add(
            registry,
            "pontoon_sql_connections",
            "Client connections: passed on to a database, or refused because no primary came in time",
            "result",
            ["served", "refused"],
        );
        let queries = FixedCounters::add(
            registry,
            "pontoon_sql_queries",
            "Commands, by where they were sent",
            "route",
            ["primary", "replica"],
        );
        let diverted = FixedCounters::add(
            registry,
            "pontoon_sql_reads_diverted",
            "Reads that the primary answered: no replica had what was written, a replica would not take it, in a transaction, for a function",
            "reason",
            ["lag", "refused", "transaction", "function"],
        );
        let pool = registry.add(
            "pontoon_sql_pool_connections",
            "Client connections open, by where they end",
            Family::<OneLabel, Gauge>::default(),
        );
        let inner = Inner {
            connections,
            queries,
            diverted,
            pool: ["local", "relayed"].map(|state| pool.get_or_create_owned(&[("state", state)])),
            held: registry.add(
                "pontoon_sql_held_queries",
                "Clients that wait for a primary",
                Gauge::default(),
            ),
            hold: registry.add(
                "pontoon_sql_hold_duration_seconds",
                "How long clients waited for a primary, when they had to",
                AtomicHistogram::new(HOLD_SECONDS),
            ),
        };
        SqlMetrics {
            inner: Arc::new(inner),
        }
    }

    /// A client was passed on to a database; its connection ends when the guard is dropped.
    pub fn served(&self, state: ConnectionState) -> OpenConnection {
        self.inner.connections.count(0);
        let [local, relayed] = &self.inner.pool;
        let gauge = match state {
            ConnectionState::Local => local,
            ConnectionState::Relayed => relayed,
        };
        gauge.inc();
        OpenConnection { gauge: gauge.clone() }
    }

    /// A command was sent.
    pub fn query(&self, replica: bool) {
        self.inner.queries.count(usize::from(replica));
    }

    /// A read went to the primary.
    pub fn diverted(&self, why: Diverted) {
        self.inner.diverted.count(why as usize);
    }

    /// A client was refused because no primary came in time.
    pub fn refused(&self) {
        self.inner.connections.count(1);
    }

    /// A client begins to wait for a primary; it waits until the guard is dropped.
    pub fn hold(&self) -> Held {
        self.inner.held.inc();
        Held {
            metrics: self.clone(),
            since: std::time::Instant::now(),
        }
    }
}

/// Why a read went to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diverted {
    /// No replica had what was written, or none works.
    Lag = 0,
    /// A replica said that it is read-only: it was no read after all.
    Refused = 1,
    /// In a transaction, or with a bond to its connection.
    Transaction = 2,
    /// It calls what is not known to be harmless.
    Function = 3,
}

/// A client's connection to a database.
#[derive(Debug)]
#[must_use = "the connection counts as closed when this is dropped"]
pub struct OpenConnection {
    gauge: Gauge,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// A client that waits.
#[derive(Debug)]
#[must_use = "the wait counts as over when this is dropped"]
pub struct Held {
    metrics: SqlMetrics,
    since: std::time::Instant,
}

impl Held {
    /// How long it has waited.
    pub fn waited(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.metrics.inner.held.dec();
        self.metrics.inner.hold.observe(self.since.elapsed());
    }
}
