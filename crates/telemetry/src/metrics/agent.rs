//! The agent's families.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use pontoon_fleet::{FleetView, LeaseRecord, Revision, ServerName, ServerState};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::{Members, Registry};

type ServerLabel = [(&'static str, String); 1];
type RoleLabels = [(&'static str, String); 2];

/// What an agent knows of the fleet. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AgentMetrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    server_up: Members<ServerLabel>,
    role: Members<RoleLabels>,
    lease_held: Members<ServerLabel>,
    revision: Gauge,
    pending_changes: Gauge,
    lag_seconds: Gauge<f64, AtomicU64>,
    transactions_behind: Gauge<f64, AtomicU64>,
    replication_errors: Family<[(&'static str, String); 1], Counter>,
}

impl AgentMetrics {
    /// Adds the families to `registry`.
    pub fn register(registry: &mut Registry) -> AgentMetrics {
        let inner = Inner {
            server_up: Members::add(
                registry,
                "pontoon_server_up",
                "Whether the server's agent answers",
            ),
            role: Members::add(registry, "pontoon_role", "1 for each role that a server has"),
            lease_held: Members::add(
                registry,
                "pontoon_lease_held",
                "1 for the server whose database takes writes",
            ),
            revision: registry.add(
                "pontoon_fleet_revision",
                "The active configuration",
                Gauge::default(),
            ),
            pending_changes: registry.add(
                "pontoon_plan_pending_changes",
                "Changes that the latest plan would make",
                Gauge::default(),
            ),
            lag_seconds: registry.add(
                "pontoon_db_replication_lag_seconds",
                "How far this server's database is behind its source; NaN when unknown or none",
                Gauge::default(),
            ),
            transactions_behind: registry.add(
                "pontoon_db_replication_transactions_behind",
                "Transactions that this server's database has not applied; NaN when unknown or no replica",
                Gauge::default(),
            ),
            replication_errors: registry.add(
                "pontoon_db_replication_errors",
                "Times that replication stopped, by the database's error number",
                Family::default(),
            ),
        };
        inner.lag_seconds.set(f64::NAN);
        AgentMetrics {
            inner: Arc::new(inner),
        }
    }

    /// The fleet as it is published.
    pub fn view(&self, view: &FleetView) {
        let by_server = |value: fn(&ServerState) -> i64| -> BTreeMap<ServerLabel, i64> {
            view.servers
                .iter()
                .map(|server| ([("server", server.name.to_string())], value(&server.state)))
                .collect()
        };
        self.inner
            .server_up
            .set(by_server(|state| i64::from(*state != ServerState::Unreachable)));
        let roles = view.servers.iter().flat_map(|server| {
            server.roles.iter().map(|role| {
                (
                    [("server", server.name.to_string()), ("role", role.to_string())],
                    1,
                )
            })
        });
        self.inner.role.set(roles.collect());
        self.revision(view.revision);
    }

    /// The active configuration.
    pub fn revision(&self, revision: Revision) {
        self.inner
            .revision
            .set(i64::try_from(revision.0).unwrap_or(i64::MAX));
    }

    /// How much the latest plan would change.
    pub fn pending_changes(&self, count: usize) {
        self.inner
            .pending_changes
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The lease as last read, for the servers that could hold it.
    pub fn lease<'a>(&self, lease: Option<&LeaseRecord>, databases: impl Iterator<Item = &'a ServerName>) {
        let holds = |name: &ServerName| i64::from(lease.is_some_and(|lease| &lease.leader == name));
        self.inner.lease_held.set(
            databases
                .map(|name| ([("server", name.to_string())], holds(name)))
                .collect(),
        );
    }

    /// This server's replication: lag, and transactions behind where the engine tells.
    pub fn replication(&self, lag: Option<Duration>, transactions_behind: Option<u64>) {
        self.inner
            .lag_seconds
            .set(lag.map_or(f64::NAN, |lag| lag.as_secs_f64()));
        self.inner
            .transactions_behind
            .set(transactions_behind.map_or(f64::NAN, |behind| behind as f64));
    }

    /// Replication stopped with the database's error number.
    pub fn replication_error(&self, code: u32) {
        self.inner
            .replication_errors
            .get_or_create(&[("code", code.to_string())])
            .inc();
    }
}
