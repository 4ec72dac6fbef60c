//! What every connection of the process shares.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use pontoon_fleet::{FleetView, ServerName};
use pontoon_mysql_wire::reply::Hidden;
use pontoon_telemetry::digests::Digests;
use pontoon_telemetry::metrics::SqlMetrics;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::boundary::Boundary;
use crate::counters::Counters;
use crate::floor::{Floors, Ground};
use crate::pool::Directory;
use crate::session::registry::Registry;
use crate::target::Target;
use crate::tls::FleetTls;

/// Times and sizes that are not the fleet's to configure.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Client connections at once; one more gets error 1040. 0 takes as many as open files allow: a connection that is
    /// passed through takes two.
    pub max_clients: u64,
    /// The same for clients in sessions of the proxy's own, which take one each. 0 takes `max_clients` when that is not
    /// 0, and otherwise what open files allow, less a tenth for connections to databases.
    pub max_sessions: u64,
    /// How long the first attempt waits for a database's greeting. Each further attempt of a connection waits twice
    /// as long, so that both a connection that got lost and a database that is slow to greet are served.
    pub first_attempt: Duration,
    /// How long a statement, or a login, waits for a connection to the database while all are in use.
    pub queue: Duration,
    /// How long open connections may go on after SIGTERM.
    pub grace: Duration,
    /// When clients get sessions of the proxy's own.
    pub sessions: Sessions,
}

/// When clients get sessions of the proxy's own; otherwise their connections are passed through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sessions {
    /// When the view spreads reads, which needs them.
    #[default]
    WhenSpread,
    /// Whenever there is an account to learn from whom to let in.
    WheneverPossible,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_clients: 0,
            max_sessions: 0,
            first_attempt: Duration::from_millis(1_500),
            queue: Duration::from_secs(10),
            grace: Duration::from_secs(10),
            sessions: Sessions::default(),
        }
    }
}

impl Limits {
    /// Puts numbers in the place of zeros, for a process that may open so many files.
    pub fn resolve(&mut self, open_files: u64) {
        // Its own few: listeners, logs, the agent, metrics.
        let room = open_files.saturating_sub(128);
        if self.max_sessions == 0 {
            self.max_sessions = match self.max_clients {
                0 => (room - room / 10).clamp(16, 100_000),
                given => given,
            };
        }
        if self.max_clients == 0 {
            self.max_clients = (room / 2).clamp(16, 50_000);
        }
    }
}

/// Shared by all threads.
#[derive(Debug)]
pub struct Context {
    /// This server.
    pub me: ServerName,
    /// Times and sizes, with `max_clients` and `max_sessions` resolved.
    pub limits: Limits,
    /// The view, for questions other than where the primary is.
    pub views: watch::Receiver<Option<Arc<FleetView>>>,
    /// Where connections go; changes only when that does.
    pub targets: watch::Receiver<Target>,
    /// This server's identity, once there is one.
    pub tls: FleetTls,
    /// Who may read from a replica, and when.
    pub floors: Arc<Floors>,
    /// Where Pontoon's own account at the databases is written down.
    pub account_file: PathBuf,
    /// What is counted for the agent.
    pub counters: Counters,
    /// What is counted for Prometheus.
    pub metrics: SqlMetrics,
    /// Statements that are alike, counted.
    pub digests: Arc<Digests>,
    /// Who may try again while the database does not answer.
    pub gate: Gate,
    /// The database servers and how many connections each may get.
    pub directory: Directory,
    /// Every session by its number.
    pub sessions: Registry,
    /// Where sessions wait while the primary is about to hand over.
    pub boundary: Boundary,
    /// What sessions track for the proxy alone.
    pub hidden: Arc<Hidden>,
    /// Everything still open is to close now.
    pub closing: CancellationToken,
    /// No new connections are taken.
    pub draining: AtomicBool,
}

impl Ground for Context {
    fn tls(&self) -> &FleetTls {
        &self.tls
    }

    fn account(&self) -> Result<Account, String> {
        Account::read(&self.account_file)
    }
}

/// Lets few connections at a time look whether a database that failed is back. Thousands of held clients would
/// otherwise fill its backlog with connections that they have given up by the time it accepts them.
#[derive(Debug)]
pub struct Gate {
    /// Whether the last attempt failed.
    pub closed: AtomicBool,
    /// Attempts allowed at once while it did.
    pub tries: Semaphore,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate {
            closed: AtomicBool::new(false),
            tries: Semaphore::new(8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_say_how_many_clients_there_may_be() {
        let resolved = |max_clients, files| {
            let mut limits = Limits {
                max_clients,
                ..Limits::default()
            };
            limits.resolve(files);
            (limits.max_clients, limits.max_sessions)
        };
        assert_eq!(resolved(0, 20_128), (10_000, 18_000));
        assert_eq!(resolved(0, 100), (16, 16));
        assert_eq!(resolved(0, u64::MAX), (50_000, 100_000));
        assert_eq!(resolved(7, 20_128), (7, 7));
    }
}
