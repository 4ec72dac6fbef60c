//! The cache tier (`pontoon cache`): what an application dials as its memcached.
//!
//! **In:** connections of applications, over TCP and a Unix socket, in memcached's three protocols; the fleet view;
//! connections of other servers' cache proxies, over mutual TLS. **Out:** every command at the memcached that its key belongs
//! to; a report a second to the agent.
//!
//! **Must never:** let a key be read from one server while it may still be written on another (P8): the [`guard`] of each
//! memcached serves one list of servers, the newest that it has heard of, and says so only when nothing of an older one is
//! under way; send a key elsewhere because its server does not answer; say that something is stored or deleted when that is
//! not known; answer out of order; let one client's slow reading hold up another's; depend on a living agent (P5).
//!
//! A client's path: [`pontoon_rt::doors`] listen, [`pontoon_rt::serve`] accepts on one of the threads, `client` reads requests and keeps the
//! order of their answers, `route` says where each goes, `lane` is a thread's pipelined connection to one server, `stats`
//! puts the servers' numbers together, `fills` has one client fill a key for which others wait. `relay` takes the connections of other servers. `FAILURES.md` names what can go
//! wrong.

mod bell;
mod client;
mod context;
mod dial;
mod fills;
mod guard;
mod lane;
mod memcached;
mod preface;
mod proxy;
mod relay;
mod route;
mod stats;

use pontoon_fleet::{Code, Refusal, ServerName};
use pontoon_rt::paths::Paths;
use pontoon_rt::serve::ServeError;
use pontoon_rt::shutdown::Shutdown;

pub use context::Limits;
pub use memcached::{PROGRAM, arguments};

/// What the process is told on its command line.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// The server it runs on.
    pub server: ServerName,
    /// Where the view, the identity and the sockets lie.
    pub paths: Paths,
    /// Threads that serve; 0 for one a core.
    pub threads: usize,
}

/// Why the process could not run. Nothing that a client, a memcached, an agent or another proxy does ends it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CacheProxyError(#[from] ServeError);

impl From<CacheProxyError> for Refusal {
    fn from(error: CacheProxyError) -> Refusal {
        Refusal::new(Code::K001, "the cache proxy cannot run").because(error.to_string())
    }
}

/// Runs the cache tier until SIGTERM or SIGINT, drains, and returns. Blocking.
///
/// # Errors
/// [`CacheProxyError`].
pub fn run(options: &CacheOptions) -> Result<(), CacheProxyError> {
    let shutdown = Shutdown::from_signals().map_err(ServeError::Signals)?;
    run_until(options, Limits::default(), &shutdown)
}

/// Runs the cache tier until `shutdown` is requested, drains, and returns. Blocking; must not be called within a runtime.
///
/// # Errors
/// [`CacheProxyError`].
pub fn run_until(options: &CacheOptions, limits: Limits, shutdown: &Shutdown) -> Result<(), CacheProxyError> {
    Ok(proxy::run(options, limits, shutdown)?)
}
