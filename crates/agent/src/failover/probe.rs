//! Whether the lease store takes one winner, asked from every database server before a configuration that needs it becomes
//! active. What one server sees through its proxy or mirror says nothing about another's.

use std::sync::Arc;
use std::time::Duration;

use pontoon_config::Config;
use pontoon_fleet::{Code, Refusal, Role, ServerName};
use pontoon_lease::probe::{Effort, probe};
use pontoon_lease::{Kept, LeaseStore, Place};

use super::{line, setup};
use crate::core::{Agent, parse};
use crate::peer::Probe;
use crate::reporter::Reporter;

/// How long one server may race: an object store far away takes a while for 50 rounds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Lets every database server of `wanted` that is in the fleet race for objects beside the lease, all at once, when the
/// store is another one than now.
///
/// # Errors
/// [`Code::F005`](pontoon_fleet::Code::F005) or [`Code::F006`](pontoon_fleet::Code::F006) with the evidence and the server
/// that saw it; [`Code::N002`](pontoon_fleet::Code::N002) when one cannot ask the store; [`Code::F001`] when a fleet that
/// begins to use it finds a lease there.
pub(crate) async fn everywhere(
    agent: &Arc<Agent>,
    wanted: &Config,
    text: &str,
    reporter: &Reporter,
) -> Result<(), Refusal> {
    let active = agent.active();
    let same = active
        .as_ref()
        .is_some_and(|active| active.config.lease == wanted.lease);
    if !setup::is_shared(wanted) || same {
        return Ok(());
    }
    let me = agent.member()?.me;
    let member = |name: &ServerName| {
        active
            .as_ref()
            .is_none_or(|active| active.config.server(name).is_some())
    };
    let mut asked = tokio::task::JoinSet::new();
    for server in wanted.with_role(Role::Db).filter(|server| member(&server.name)) {
        let name = server.name.clone();
        reporter
            .step(&name, "racing for objects in the lease store")
            .await;
        let (agent, me, text) = (agent.clone(), me.clone(), text.to_owned());
        asked.spawn(async move {
            let outcome = match name == me {
                true => here(&agent, &Probe { text }).await,
                false => line::ask(&agent, &name, "/p/v1/failover/probe", PATIENCE, &Probe { text }).await,
            };
            (name, outcome)
        });
    }
    while let Some(answer) = asked.join_next().await {
        let Ok((name, outcome)) = answer else { continue };
        match outcome {
            Ok(()) => {
                reporter
                    .done(&name, "the lease store takes one winner".to_owned())
                    .await
            }
            Err(refusal) => return Err(refusal.because(format!("seen from {name}"))),
        }
    }
    let begins = active.is_none_or(|active| !setup::is_shared(&active.config));
    if begins { is_empty(wanted).await } else { Ok(()) }
}

/// A record of a fleet of this name says who leads, and for which data. To a fleet that begins it would be a lie: its
/// primary would be killed, and its replica not promoted.
async fn is_empty(wanted: &Config) -> Result<(), Refusal> {
    let Some(lease) = &wanted.lease else { return Ok(()) };
    let Some(place) = Place::of(Some(lease), &wanted.fleet.name) else {
        return Ok(());
    };
    let cell = pontoon_lease::open(&place, setup::timing(lease).request)?;
    let object = cell.place();
    let store = Kept::new(cell);
    let found = store.read().await.map_err(|error| {
        Refusal::new(Code::N002, "the lease store does not answer").because(error.to_string())
    })?;
    let Some((record, _)) = found else { return Ok(()) };
    Err(
        Refusal::new(Code::F001, "the lease store has a lease already that this fleet does not know")
            .because(format!(
                "{object}: {} leads the fleet {}, epoch {}",
                record.leader, record.fleet, record.epoch
            ))
            .because("another fleet of that name uses it, or one did that is gone")
            .next(
                "write another bucket, cluster or name of the fleet; or remove that object if its fleet is gone for good, and repeat",
                "pontoon apply",
            ),
    )
}

/// The race of this server, for the store of that configuration.
pub(crate) async fn here(agent: &Agent, wanted: &Probe) -> Result<(), Refusal> {
    let config = parse(&wanted.text)?;
    let Some(lease) = &config.lease else { return Ok(()) };
    let Some(place) = Place::of(Some(lease), &config.fleet.name) else {
        return Ok(());
    };
    let cell = pontoon_lease::open(&place, setup::timing(lease).request)?;
    // Servers that race at the same time do not meet.
    let name = format!("{}-{}", agent.member()?.me, agent.clock.unix().0);
    probe(&*cell, &name, Effort::default()).await?.verdict()
}
