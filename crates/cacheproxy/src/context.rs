//! What every connection of the process shares.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pontoon_fleet::{CacheServerReport, FleetView, ServerName};
use pontoon_pki::FleetTls;
use pontoon_telemetry::metrics::CacheMetrics;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fills::Fills;
use crate::guard::Guard;
use crate::route::Table;

/// Times and sizes that are not the fleet's to configure.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A server that is asked and says nothing for this long is not asked any more until it answers again.
    pub silence: Duration,
    /// How long a write waits for a server that does not answer, counted from when it ceased to.
    pub patience: Duration,
    /// Between two attempts to reach it.
    pub pause: Duration,
    /// How long others wait for who was told to fill a key (`cache.fill_once`).
    pub fill: Duration,
    /// How long open connections may go on after SIGTERM.
    pub grace: Duration,
    /// Client connections at once; one more is closed, as memcached does (`-c`).
    pub max_clients: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            silence: Duration::from_millis(300),
            patience: Duration::from_secs(1),
            pause: Duration::from_millis(100),
            fill: Duration::from_millis(100),
            grace: Duration::from_secs(5),
            max_clients: 20_000,
        }
    }
}

/// Shared by all threads.
#[derive(Debug)]
pub struct Context {
    /// This server.
    pub me: ServerName,
    /// Times and sizes.
    pub limits: Limits,
    /// The view, for who may call.
    pub views: watch::Receiver<Option<Arc<FleetView>>>,
    /// Where keys belong.
    pub tables: watch::Receiver<Arc<Table>>,
    /// The fleet's mutual TLS.
    pub tls: FleetTls,
    /// Who may speak to the memcached of this server.
    pub guard: Guard,
    /// Its socket.
    pub socket: PathBuf,
    /// What is counted.
    pub counters: Counters,
    /// The same for Prometheus.
    pub metrics: CacheMetrics,
    /// Keys that may have an old value on a server that did not answer.
    pub owed: Owed,
    /// Keys that somebody is about to fill.
    pub fills: Fills,
    /// How the servers fare, for the report.
    pub standing: Mutex<BTreeMap<ServerName, CacheServerReport>>,
    /// Everything still open is to close now.
    pub closing: CancellationToken,
}

/// What is counted, since the process started but for `clients`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Client connections open now.
    pub clients: AtomicU64,
    /// Client connections taken.
    pub connections: AtomicU64,
    /// Requests.
    pub requests: AtomicU64,
    /// Reads that found nothing because their server did not answer.
    pub missed: AtomicU64,
    /// Reads that waited for another client's `set`.
    pub waited: AtomicU64,
    /// Writes that failed because their server did not answer.
    pub failed: AtomicU64,
}

impl Context {
    /// Notes how a server fares.
    pub fn note(&self, server: &ServerName, trouble: Option<String>) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let report = CacheServerReport {
            server: server.clone(),
            trouble,
        };
        let before = standing.insert(server.clone(), report.clone());
        if before.as_ref() == Some(&report) {
            return;
        }
        match (&report.trouble, before) {
            (Some(why), _) => tracing::warn!(%server, why, "a cache server does not answer"),
            (None, Some(_)) => tracing::info!(%server, "a cache server answers again"),
            (None, None) => {}
        }
    }
}

/// Keys whose write failed: nobody knows whether it was done. Before anything else is said to their server it is told to
/// forget them, so that what a client tried to replace is not found there again.
#[derive(Debug, Default)]
pub struct Owed {
    servers: Mutex<BTreeMap<ServerName, Debt>>,
    any: AtomicU64,
}

/// What a server is to forget.
#[derive(Debug, Default)]
pub struct Debt {
    /// These keys.
    pub keys: HashSet<Bytes>,
    /// There were too many: everything.
    pub all: bool,
}

/// More keys than this are as good as all.
const MAX_OWED: usize = 50_000;

impl Owed {
    /// `key` may have an old value there.
    pub fn add(&self, server: &ServerName, key: Bytes) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let debt = servers.entry(server.clone()).or_default();
        if debt.all {
            return;
        }
        debt.keys.insert(Bytes::copy_from_slice(&key));
        if debt.keys.len() > MAX_OWED {
            debt.keys = HashSet::new();
            debt.all = true;
        }
        self.any.store(1, Relaxed);
    }

    /// What `server` is to forget; it is taken out.
    pub fn take(&self, server: &ServerName) -> Option<Debt> {
        if self.any.load(Relaxed) == 0 {
            return None;
        }
        self.servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(server)
    }

    /// It was not told.
    pub fn give_back(&self, server: &ServerName, debt: Debt) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = servers.entry(server.clone()).or_default();
        now.all |= debt.all;
        now.keys.extend(debt.keys);
        self.any.store(1, Relaxed);
    }
}

/// Counts something as long as it lives.
#[derive(Debug)]
pub struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    /// One more, unless there are `limit` already.
    pub fn within(gauge: &'a AtomicU64, limit: u64) -> Option<Counted<'a>> {
        let counted = Counted(gauge);
        (gauge.fetch_add(1, Relaxed) < limit).then_some(counted)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_keys_are_all_of_them() {
        let owed = Owed::default();
        let server: ServerName = "a".parse().unwrap();
        assert!(owed.take(&server).is_none());
        for number in 0..=MAX_OWED {
            owed.add(&server, Bytes::from(number.to_string()));
        }
        let debt = owed.take(&server).unwrap();
        assert!(debt.all && debt.keys.is_empty());
        owed.give_back(&server, debt);
        owed.add(&server, Bytes::from_static(b"k"));
        assert!(owed.take(&server).unwrap().all);
    }
}
