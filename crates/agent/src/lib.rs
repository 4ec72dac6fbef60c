//! The control plane of one server.
//!
//! **In:** the operator's commands on a Unix socket ([`api`]), the other agents' heartbeats and messages over mutual TLS,
//! the tiers' reports. **Out:** the `FleetView` that the tiers obey, a configuration that is active on every server or
//! on none, servers that join and leave, the status and the timeline.
//!
//! Where to look: `core` is what an agent knows; `heartbeat` how it hears of the others; `publish` makes the view;
//! `apply` and `change` take up a configuration, `carry_out` makes this server as it says; `host` and `joiner` are the
//! two sides of a join; `supervise` keeps the tiers running.
//!
//! **Must never:** stand in the way of traffic. Kill it, and edge and SQL proxy go on with the last view (P5). It
//! decides nothing that `decide` can decide, and believes no peer's word about what its certificate does not prove.

mod acme;
mod address_key;
mod addresses;
mod admin;
mod adopted;
pub mod api;
mod apply;
mod authorise;
mod backup;
mod cache;
mod carry_out;
mod change;
mod compare;
mod core;
mod db_status;
mod delay;
pub mod detect;
mod dial;
mod disks;
mod dnssec_key;
mod drain;
mod elsewhere;
mod errant;
mod failover;
#[cfg(test)]
mod fleet_tests;
mod floor_key;
mod health;
mod heartbeat;
mod host;
mod joiner;
mod leave;
#[cfg(test)]
mod lies_tests;
mod maintenance;
mod observe;
mod page_files;
mod peer;
mod publish;
mod purge;
mod reclone;
mod renew;
mod reporter;
mod reseed;
mod revive;
mod routing;
mod serve;
mod status;
mod status_assets;
mod status_cache;
mod status_dns;
mod store;
mod supervise;
#[cfg(test)]
mod testing;
mod throttle;
mod ticket_keys;
mod timeline;
mod unstick;

use std::path::PathBuf;
use std::sync::Arc;

use pontoon_fleet::{Code, EventKind, Refusal};
use pontoon_pki::{IdentityFiles, SharedIdentity};
use pontoon_rt::clock::SystemClock;
use pontoon_rt::paths::Paths;
use pontoon_rt::shutdown::Shutdown;
use pontoon_rt::view::ViewPublisher;
use pontoon_telemetry::events::EventLog;

pub use crate::core::Supervision;
use crate::core::{Agent, Membership, Parts};
pub use crate::failover::{FailoverReport, Told};
pub use pontoon_replication::check::{Differing, Kind, RowDifference};
pub use pontoon_replication::{Errant, new_server_id, work::Facts};

/// The agent's port when no configuration is known yet; `[fleet] port` sets another.
pub const DEFAULT_PORT: u16 = 7400;

/// What an agent needs to know at its start.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Where its files are.
    pub paths: Paths,
    /// The `pontoon` program that the tiers are started from.
    pub program: PathBuf,
    /// How they are started.
    pub supervision: Supervision,
}

/// Runs an agent until a signal asks it to end. The tiers go on without it.
///
/// # Errors
/// When its sockets cannot be bound (another agent runs), its files cannot be used, or a decision could not be written.
pub async fn run(options: AgentOptions) -> Result<(), Refusal> {
    let broken =
        |what: &str, error: &dyn std::fmt::Display| Refusal::new(Code::N006, what).because(error.to_string());
    options
        .paths
        .create_dirs()
        .map_err(|error| broken("the agent's directories cannot be made", &error))?;
    let shutdown = Shutdown::from_signals().map_err(|error| broken("signals cannot be heard", &error))?;
    let (changes, change_inputs) = change::ChangeHub::new();
    let membership = load_membership(&options.paths)?;
    let name = membership.as_ref().map_or_else(
        || {
            "unnamed"
                .parse()
                .map_err(|error| broken("a name is needed", &error))
        },
        |membership| Ok(membership.me.clone()),
    )?;
    let clock = Arc::new(SystemClock);
    let events = EventLog::open(&options.paths.events_file(), name);
    let agent = Arc::new(Agent::new(Parts {
        paths: options.paths.clone(),
        clock,
        events,
        shutdown: shutdown.clone(),
        program: options.program,
        supervision: options.supervision,
        membership,
        changes,
    })?);
    // Binding the view socket comes first: it is what proves that no other agent runs here.
    let (publisher, reports) = ViewPublisher::bind(&options.paths, shutdown.clone())
        .map_err(|error| broken("the view socket cannot be bound: does another agent run?", &error))?;
    agent.record(EventKind::AgentStarted {
        version: env!("CARGO_PKG_VERSION").to_owned(),
    });
    agent.to_carry_out.notify_one();

    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(infallible(publish::run(agent.clone(), publisher, reports)));
    tasks.spawn(admin::run(agent.clone()));
    tasks.spawn(infallible(serve::run(agent.clone())));
    tasks.spawn(infallible(heartbeat::run(agent.clone())));
    tasks.spawn(infallible(health::run(agent.clone())));
    tasks.spawn(infallible(observe::run(agent.clone())));
    tasks.spawn(infallible(disks::run(agent.clone())));
    tasks.spawn(infallible(addresses::run(agent.clone())));
    tasks.spawn(infallible(routing::run(agent.clone())));
    tasks.spawn(infallible(supervise::run(agent.clone())));
    tasks.spawn(infallible(carry_out::run(agent.clone())));
    tasks.spawn(infallible(revive::run(agent.clone())));
    tasks.spawn(infallible(errant::run(agent.clone())));
    tasks.spawn(infallible(delay::run(agent.clone())));
    tasks.spawn(infallible(reseed::run(agent.clone())));
    tasks.spawn(infallible(reclone::run(agent.clone())));
    tasks.spawn(infallible(renew::run(agent.clone())));
    tasks.spawn(infallible(acme::run(agent.clone())));
    tasks.spawn(infallible(elsewhere::run(agent.clone())));
    tasks.spawn(infallible(backup::run(agent.clone())));
    tasks.spawn(infallible(failover::run(agent.clone(), failover::worker)));
    tasks.spawn(change::run(agent.clone(), change_inputs));
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let result = ended.unwrap_or_else(|error| {
            Err(Refusal::new(Code::N007, "a task of the agent died").because(error.to_string()))
        });
        if result.is_err() && outcome.is_ok() {
            outcome = result;
        }
        // One that ends, ends all: half an agent is worse than a restart.
        shutdown.trigger();
    }
    agent.record(EventKind::AgentStopped);
    outcome
}

async fn infallible(task: impl Future<Output = ()>) -> Result<(), Refusal> {
    task.await;
    Ok(())
}

/// Who this server is, from its disk; `None` when it belongs to no fleet.
pub(crate) fn load_membership(paths: &Paths) -> Result<Option<Membership>, Refusal> {
    let store = store::Store::new(paths);
    if !IdentityFiles::in_dir(&paths.identity_dir()).cert.exists() {
        return Ok(None);
    }
    let identity = SharedIdentity::load(&paths.identity_dir())?;
    let me = identity.current().name().clone();
    // `init` founds a fleet and names no keeper: the founder is it. A joiner is told.
    let keeper = store.keeper()?.unwrap_or_else(|| me.clone());
    Ok(Some(Membership { me, identity, keeper }))
}
