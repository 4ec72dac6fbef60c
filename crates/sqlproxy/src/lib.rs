//! The SQL tier (`pontoon sql`): what an application dials as its database.
//!
//! **In:** connections of applications, over TCP and the MySQL Unix socket; the fleet view; connections of other
//! servers' SQL proxies, over mutual TLS; Pontoon's own account at the database. **Out:** every client's statements at
//! the present primary's database, and reads at replicas that have what was written; a report a second to the agent.
//!
//! **Must never:** send a byte to a database that is not what it was, in the epoch that the connection was made in (P2);
//! answer a read without what was written before it (P3); send a statement twice whose outcome is not known; let
//! anything that one client set reach another; depend on a living agent (P5); refuse a connection or a statement while
//! there is hope within `hold_writes` (P4); let one slow or hostile peer cost another more than its share of a thread.
//!
//! A client's path: `doors` listen, `proxy` accepts on one of the threads, `front` greets and `auth` finds out who the
//! client is, `session` serves it: `session::route` says where each statement goes, `pool` lends it a connection that
//! `backend` made, `session::state` makes that connection the session's, `exchange` passes the answer on. `floor` says
//! which replicas may be read from. While the view spreads no reads, or the proxy has no account to ask about
//! others, `passthrough` serves instead: `hold` finds a database that greets, `splice` passes bytes. `target` turns views into where to go, `relay`
//! takes the connections of other servers. What can fail, and the test of each, stands in `FAILURES.md`.

pub mod account;
pub mod auth;
pub mod backend;
mod boundary;
mod context;
mod counters;
mod doors;
mod exchange;
pub mod floor;
pub mod front;
mod hold;
pub mod packets;
mod passthrough;
pub mod peer;
mod pool;
mod preface;
mod proxy;
mod relay;
mod report;
mod session;
mod splice;
mod statements;
pub mod target;
pub mod tls;

use pontoon_fleet::{Code, Refusal, ServerName};
use pontoon_rt::paths::Paths;
use pontoon_rt::serve::ServeError;
use pontoon_rt::shutdown::Shutdown;

pub use context::{Limits, Sessions};
pub use session::route;

pub use preface::{Answer, PREFACE_LEN, Preface, Purpose, REPLY_LEN, Reply};
pub use target::Transport;

/// What the process is told on its command line.
#[derive(Clone, Debug)]
pub struct SqlOptions {
    /// The server it runs on.
    pub server: ServerName,
    /// Where the view, the identity and the sockets lie.
    pub paths: Paths,
    /// Threads that serve; 0 for one a core.
    pub threads: usize,
}

/// Why the process could not run. Nothing that a client, a database, an agent or another proxy does ends it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SqlProxyError(#[from] ServeError);

impl From<SqlProxyError> for Refusal {
    fn from(error: SqlProxyError) -> Refusal {
        Refusal::new(Code::N007, "the SQL proxy cannot run").because(error.to_string())
    }
}

/// Runs the SQL tier until SIGTERM or SIGINT, drains, and returns. Blocking.
///
/// # Errors
/// [`SqlProxyError`].
pub fn run(options: SqlOptions) -> Result<(), SqlProxyError> {
    let shutdown = Shutdown::from_signals().map_err(ServeError::Signals)?;
    run_until(&options, Limits::default(), &shutdown)
}

/// Runs the SQL tier until `shutdown` is requested, drains, and returns. Blocking; must not be called within a runtime.
///
/// # Errors
/// [`SqlProxyError`].
pub fn run_until(options: &SqlOptions, limits: Limits, shutdown: &Shutdown) -> Result<(), SqlProxyError> {
    Ok(proxy::run(options, limits, shutdown)?)
}
