//! Looks on every replica whether it has transactions that its primary lacks: somebody wrote there by hand, or it was the
//! primary and died with them. Such a server is named, with what it has, and is not promoted.
//!
//! What was written on the replica itself is certain at once. For the rest the replica is asked first and the primary's binary log after it, again and again for some seconds: who only reads what
//! the primary shows later than its replica (MySQL, while a commit waits for its acknowledgement) is not accused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_decide::failover::{Event, State};
use pontoon_fleet::{Code, EventKind, Refusal, ServerName};
use pontoon_replication::{Database, Errant};

use crate::core::Agent;
use crate::{compare, failover, unstick};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long the primary may take to show what its replica has already.
const AHEAD_PATIENCE: Duration = Duration::from_secs(6);

/// Runs until shutdown.
pub(crate) async fn run(agent: Arc<Agent>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = agent.shutdown.requested() => return,
        }
        match look(&agent).await {
            Ok(Look::Same) => {}
            Ok(Look::Now(found)) => note(&agent, found),
            Err(refusal) => {
                tracing::debug!(%refusal, "it cannot be told whether this server has something alone")
            }
        }
    }
}

enum Look {
    /// It cannot be told now, or nothing has changed.
    Same,
    /// So it is.
    Now(Option<Errant>),
}

fn note(agent: &Agent, found: Option<Errant>) {
    let new = {
        let mut known = agent.known();
        let is_new = found.is_some() && known.errant.is_none();
        known.errant = found.clone();
        is_new
    };
    if let Some(errant) = found {
        agent.failover.tell(Event::Diverged);
        if new {
            agent.record(EventKind::DatabaseErrant {
                transactions: errant.transactions,
            });
        }
    }
    agent.changed.notify_one();
}

async fn look(agent: &Arc<Agent>) -> Result<Look, Refusal> {
    let (Some(membership), Some(active)) = (agent.membership(), agent.active()) else {
        return Ok(Look::Now(None));
    };
    let me = membership.me;
    let has_database = active
        .config
        .server(&me)
        .is_some_and(|server| active.config.runs_database(server));
    let leader = compare::leader(agent)?;
    if !has_database || leader == me {
        return Ok(Look::Now(None));
    }
    let database = compare::database(agent).await?;
    if database.copy_ordered() {
        return Ok(Look::Same);
    }
    let known = agent.known().errant.clone();
    let refused = agent
        .works()
        .and_then(|works| works.reason())
        .is_some_and(|refusal| refusal.code == Code::D011);
    if failover::takes_part(&active.config, &me) {
        match agent
            .failover
            .report(agent.clock.now())
            .map(|report| report.state)
        {
            Some(State::Follow | State::FollowSync) => {}
            // It was found out on the way to follow.
            Some(State::Rejoin) if refused || known.is_some() => {}
            _ => return Ok(Look::Same),
        }
    }
    let found = match database.helper().state().await?.pid {
        Some(_) => beyond(agent, &database, &leader).await?,
        None if refused => Some((String::new(), history_of(agent, &leader).await?)),
        None => return Ok(Look::Same),
    };
    let Some((transactions, keep)) = found else {
        return Ok(Look::Now(None));
    };
    if compare::leader(agent)? != leader {
        return Ok(Look::Same);
    }
    if known.is_some_and(|known| known.transactions == transactions) {
        agent.failover.tell(Event::Diverged);
        return Ok(Look::Same);
    }
    let mut errant = database.errant(transactions, &keep, &leader).await;
    if errant.transactions.is_empty() {
        if errant.first.is_empty() {
            return Ok(Look::Same);
        }
        let names: Vec<&str> = errant.first.iter().map(|one| one.gtid.as_str()).collect();
        errant.transactions = names.join(",");
    }
    Ok(Look::Now(Some(errant)))
}

/// What this server has and the primary has not, and the primary's history that was compared.
async fn beyond(
    agent: &Arc<Agent>,
    database: &Database,
    leader: &ServerName,
) -> Result<Option<(String, String)>, Refusal> {
    let own = database.stands().await?;
    let begun = Instant::now();
    loop {
        let keep = history_of(agent, leader).await?;
        let beyond = database.beyond(&own, &keep).await?;
        if beyond.is_empty() {
            return Ok(None);
        }
        // A replica writes nothing itself: for that nobody has to wait.
        if begun.elapsed() > AHEAD_PATIENCE || database.wrote(&beyond).await? {
            return Ok(Some((beyond, keep)));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What the primary has, from its own mouth.
pub(crate) async fn history_of(agent: &Arc<Agent>, leader: &ServerName) -> Result<String, Refusal> {
    unstick::ask(agent, leader, &unstick::Mend::History).await
}
