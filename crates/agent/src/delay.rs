//! Lets the copy of this server stay behind its primary as long as the configuration says, also one that follows already.
//!
//! In a fleet with failover to follow in another way is the node's to do: under a new life, since what was received and not
//! applied is lost with it. Elsewhere the replica is told so.

use std::sync::Arc;
use std::time::Duration;

use pontoon_decide::failover::Event;
use pontoon_fleet::Refusal;

use crate::core::Agent;
use crate::{compare, failover};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs until shutdown.
pub(crate) async fn run(agent: Arc<Agent>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = agent.shutdown.requested() => return,
        }
        if let Err(refusal) = look(&agent).await {
            tracing::debug!(%refusal, "whether the copy stays behind as it should is not known");
        }
    }
}

async fn look(agent: &Arc<Agent>) -> Result<(), Refusal> {
    let (Some(membership), Some(active)) = (agent.membership(), agent.active()) else {
        return Ok(());
    };
    let me = membership.me;
    let Some(server) = active.config.server(&me) else {
        return Ok(()); // not a member yet
    };
    if !active.config.runs_database(server) || compare::leader(agent)? == me {
        return Ok(());
    }
    let database = compare::database(agent).await?;
    if database.copy_ordered() || !database.has_other_delay().await? {
        return Ok(());
    }
    if failover::takes_part(&active.config, &me) {
        agent.failover.tell(Event::Astray);
        return Ok(());
    }
    let _changing = agent.changing.lock().await;
    tracing::info!(seconds = database.delay_seconds(), "the copy gets another delay");
    database.keep_delay().await
}
