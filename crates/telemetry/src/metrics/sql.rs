//! The SQL proxy's families.

use std::sync::Arc;
use std::time::Duration;

use std::collections::BTreeMap;

use pontoon_fleet::SpreadReport;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::{AtomicHistogram, FixedCounters, Members, OneLabel, Registry};

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
    /// By route, then by verb.
    queries: [[Counter; Verb::ALL.len()]; Route::ALL.len()],
    durations: [AtomicHistogram; Route::ALL.len()],
    diverted: FixedCounters<{ Diverted::ALL.len() }>,
    placed: FixedCounters<{ PLACED.len() }>,
    questions: Counter,
    doubts: FixedCounters<2>,
    malformed: FixedCounters<2>,
    unwatched: Gauge,
    pool: [Gauge; 2],
    places: Members<[(&'static str, String); 2]>,
    usable: Members<[(&'static str, String); 1]>,
    held: Gauge,
    hold: AtomicHistogram,
    queued: Gauge,
    queue: AtomicHistogram,
}

/// What became of reads that might have gone to a replica, in the order of [`Placed`].
const PLACED: [&str; 5] = ["ready", "held", "behind", "no_replica", "unanswered"];

/// Upper ends in seconds: from a look-up by key to a report.
const QUERY_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0,
];

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
        let queries = registry.add(
            "pontoon_sql_queries",
            "Statements, by where they were answered and what they do",
            Family::<[(&'static str, &'static str); 2], Counter>::default(),
        );
        let durations = registry.add(
            "pontoon_sql_query_duration_seconds",
            "From the last byte of a statement to the last byte of its answer, waits included",
            Family::<OneLabel, AtomicHistogram, fn() -> AtomicHistogram>::new_with_constructor(|| {
                AtomicHistogram::new(QUERY_SECONDS)
            }),
        );
        let diverted = FixedCounters::add(
            registry,
            "pontoon_sql_reads_diverted",
            "Reads that the primary answered although reads are spread, by why",
            "reason",
            Diverted::ALL.map(Diverted::label),
        );
        let placed = FixedCounters::add(
            registry,
            "pontoon_sql_reads_placed",
            "Reads that might have gone to a replica: at once, after a moment, or to the primary for what stands in the way",
            "result",
            PLACED,
        );
        let doubts = FixedCounters::add(
            registry,
            "pontoon_sql_floor_doubts",
            "Times that the primary had to be asked what was written: after an error or a broken connection here, or for a floor from elsewhere",
            "from",
            ["here", "elsewhere"],
        );
        let malformed = FixedCounters::add(
            registry,
            "pontoon_sql_malformed_packets",
            "Packets that the protocol does not allow, by who sent them",
            "from",
            ["client", "database"],
        );
        let pool = registry.add(
            "pontoon_sql_pool_connections",
            "Client connections open, by where they end",
            Family::<OneLabel, Gauge>::default(),
        );
        let inner = Inner {
            connections,
            queries: Route::ALL.map(|route| {
                Verb::ALL.map(|verb| {
                    queries.get_or_create_owned(&[("route", route.label()), ("verb", verb.label())])
                })
            }),
            durations: Route::ALL.map(|route| durations.get_or_create_owned(&[("route", route.label())])),
            diverted,
            placed,
            doubts,
            malformed,
            questions: registry.add(
                "pontoon_sql_floor_questions",
                "Questions to the primary where it is",
                Counter::default(),
            ),
            unwatched: registry.add(
                "pontoon_sql_unwatched_connections",
                "Connections that are passed through although reads are spread",
                Gauge::default(),
            ),
            places: Members::add(
                registry,
                "pontoon_sql_pool_places",
                "Connections to each database server: in use or kept (used), and how many there may be (limit)",
            ),
            usable: Members::add(
                registry,
                "pontoon_sql_replica_usable",
                "Whether the replica is near enough to be read from",
            ),
            queued: registry.add(
                "pontoon_sql_queued_queries",
                "Statements that wait for a connection because all are in use",
                Gauge::default(),
            ),
            queue: registry.add(
                "pontoon_sql_queue_duration_seconds",
                "How long statements waited for a connection, when they had to",
                AtomicHistogram::new(HOLD_SECONDS),
            ),
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

    /// A statement was answered.
    pub fn query(&self, route: Route, verb: Verb, took: Duration) {
        self.inner.queries[route as usize][verb as usize].inc();
        self.inner.durations[route as usize].observe(took);
    }

    /// What was counted, into a report.
    pub fn fill(&self, report: &mut SpreadReport) {
        let sum = |route: Route| self.inner.queries[route as usize].iter().map(Counter::get).sum();
        (report.primary_total, report.replica_total) = (sum(Route::Primary), sum(Route::Replica));
        let diverted = Diverted::ALL.iter().zip(&self.inner.diverted.counters);
        report.diverted_total = diverted
            .map(|(why, counter)| (why.label().to_owned(), counter.get()))
            .filter(|(_, count)| *count > 0)
            .collect();
        report.held_total = self.inner.placed.counters[Placed::HELD].get();
        report.queued_total = self.inner.queue.count();
    }

    /// What is so now, as the report has it.
    pub fn show(&self, report: &SpreadReport) {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.inner.unwatched.set(number(report.unwatched));
        let replicas = report.replicas.iter();
        let usable = replicas.map(|one| ([("server", one.server.to_string())], i64::from(one.usable)));
        self.inner.usable.set(usable.collect());
        let mut places = BTreeMap::new();
        for pool in &report.pools {
            for (state, count) in [("used", pool.used), ("limit", pool.limit)] {
                let label = [("server", pool.server.to_string()), ("state", state.to_owned())];
                places.insert(label, number(count));
            }
        }
        self.inner.places.set(places);
    }

    /// What the floors have counted since the start.
    pub fn placed(&self, placed: &Placed) {
        let Placed {
            reads,
            questions,
            doubts,
        } = placed;
        let pairs = self.inner.placed.counters.iter().zip(reads);
        let pairs = pairs.chain(self.inner.doubts.counters.iter().zip(doubts));
        for (counter, value) in pairs.chain([(&self.inner.questions, questions)]) {
            // Counted elsewhere, by one who only adds.
            counter
                .inner()
                .store(*value, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// A statement begins to wait for a connection; it waits until the guard is dropped.
    pub fn queue(&self) -> Queued {
        self.inner.queued.inc();
        Queued {
            metrics: self.clone(),
            since: std::time::Instant::now(),
        }
    }

    /// A read went to the primary.
    pub fn diverted(&self, why: Diverted) {
        self.inner.diverted.count(why as usize);
    }

    /// A packet came that the protocol does not allow.
    pub fn malformed(&self, from: Sender) {
        self.inner.malformed.count(from as usize);
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

/// Who sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A client of the proxy.
    Client = 0,
    /// A database.
    Database = 1,
}

/// Who answered a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The primary.
    Primary = 0,
    /// A replica.
    Replica = 1,
}

impl Route {
    const ALL: [Route; 2] = [Route::Primary, Route::Replica];

    fn label(self) -> &'static str {
        match self {
            Route::Primary => "primary",
            Route::Replica => "replica",
        }
    }
}

/// What a statement does, roughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `SELECT` and what is like it.
    Select = 0,
    /// `INSERT`, `REPLACE`, `LOAD`.
    Insert = 1,
    /// `UPDATE`.
    Update = 2,
    /// `DELETE`.
    Delete = 3,
    /// `BEGIN`, `COMMIT` and what else is about transactions.
    Transaction = 4,
    /// Anything else.
    Other = 5,
}

impl Verb {
    const ALL: [Verb; 6] = [
        Verb::Select,
        Verb::Insert,
        Verb::Update,
        Verb::Delete,
        Verb::Transaction,
        Verb::Other,
    ];

    fn label(self) -> &'static str {
        match self {
            Verb::Select => "select",
            Verb::Insert => "insert",
            Verb::Update => "update",
            Verb::Delete => "delete",
            Verb::Transaction => "transaction",
            Verb::Other => "other",
        }
    }
}

/// Why a read went to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diverted {
    /// No replica answers and is near enough, or none could be connected to.
    Lag = 0,
    /// No replica had what was written.
    AfterWrite = 1,
    /// The primary did not say in time what was written.
    Unanswered = 2,
    /// A replica said that it is read-only: it was no read after all.
    Refused = 3,
    /// In a transaction, or with a bond to its connection.
    Transaction = 4,
    /// It calls what is not known to be harmless.
    Function = 5,
    /// The replica is set up otherwise than the primary, so that the answer could be another.
    Differs = 6,
}

impl Diverted {
    const ALL: [Diverted; 7] = [
        Diverted::Lag,
        Diverted::AfterWrite,
        Diverted::Unanswered,
        Diverted::Refused,
        Diverted::Transaction,
        Diverted::Function,
        Diverted::Differs,
    ];

    /// Its word in metrics and reports.
    pub fn label(self) -> &'static str {
        match self {
            Diverted::Lag => "lag",
            Diverted::AfterWrite => "after_write",
            Diverted::Unanswered => "unanswered",
            Diverted::Refused => "refused",
            Diverted::Transaction => "transaction",
            Diverted::Function => "function",
            Diverted::Differs => "differs",
        }
    }
}

/// What became of reads that might have gone to a replica, and what it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// To a replica at once; after a moment; to the primary because no replica had what was written, because none can
    /// be used, because the primary did not say what was written.
    pub reads: [u64; PLACED.len()],
    /// Questions to the primary.
    pub questions: u64,
    /// Times that it had to be asked what was written: for something here, for a floor from elsewhere.
    pub doubts: [u64; 2],
}

impl Placed {
    const HELD: usize = 1;
}

/// A statement that waits for a connection.
#[derive(Debug)]
#[must_use = "the wait counts as over when this is dropped"]
pub struct Queued {
    metrics: SqlMetrics,
    since: std::time::Instant,
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.metrics.inner.queued.dec();
        self.metrics.inner.queue.observe(self.since.elapsed());
    }
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
