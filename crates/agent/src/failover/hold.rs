//! Before a hand-over: the SQL proxies of the fleet begin nothing new, and what they have under way ends.
//!
//! The leader tells every agent, each puts a mark into its own view, and answers when its own proxy has reported that
//! nothing is under way. The mark names its own end on that machine's clock, and the epoch that it is for: a leader that
//! dies, an agent that dies, or a message that gets lost leaves nobody holding for long.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_fleet::{BootMoment, Code, Epoch, HoldReport, Refusal, ServerName, Tier, TierDetail};
use pontoon_rt::clock;
use tokio::task::JoinSet;

use super::line;
use crate::core::Agent;
use crate::peer::{Held, Hold};

/// How long a hold lasts at the most: to end what is under way, to close, to catch up, and to be told of the next epoch.
const LIMIT: Duration = Duration::from_secs(10);

/// How long statements and transactions under way may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long an agent may take to answer beyond that.
const ANSWER: Duration = Duration::from_secs(1);

/// Between two looks at what the proxy reported.
const LOOK: Duration = Duration::from_millis(2);

/// The mark of this server.
#[derive(Debug, Default)]
pub(crate) struct Mark(Mutex<Option<(Epoch, Duration)>>);

impl Mark {
    fn set(&self, mark: Option<(Epoch, Duration)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = mark;
    }

    /// What the view says of it at `now`.
    pub(crate) fn at(&self, now: Duration, boot: &str) -> Option<(Epoch, BootMoment)> {
        let mark = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (epoch, until) = mark.filter(|(_, until)| *until > now)?;
        let moment = BootMoment {
            boot: boot.to_owned(),
            ms: u64::try_from(until.as_millis()).unwrap_or(u64::MAX),
        };
        Some((epoch, moment))
    }
}

/// Has every server that answers hold, this one included.
///
/// # Errors
/// [`Code::L002`] when something is under way for too long; [`Code::N002`] when an agent that was there does not answer.
pub(crate) async fn everywhere(agent: &Arc<Agent>) -> Result<(), Refusal> {
    let held = tell(agent, true).await?;
    for (server, answer) in held {
        let under_way = answer?.under_way;
        if under_way > 0 {
            return Err(Refusal::new(
                Code::L002,
                "statements or transactions go on for too long: a hand-over would break them off",
            )
            .because(format!(
                "{under_way} sessions of the SQL proxy on {server}, after {} s",
                PATIENCE.as_secs()
            ))
            .next("when they have ended", "pontoon db switchover"));
        }
    }
    Ok(())
}

/// Has everybody go on.
pub(crate) async fn go_on(agent: &Arc<Agent>) {
    // Who does not hear it goes on when the mark ends.
    let _ = tell(agent, false).await;
}

async fn tell(agent: &Arc<Agent>, hold: bool) -> Result<Vec<(ServerName, Result<Held, Refusal>)>, Refusal> {
    let me = agent.member()?.me;
    let active = agent.config()?;
    let epoch = agent.known().lease.as_ref().map(|lease| lease.epoch);
    let Some(epoch) = epoch else {
        return Ok(Vec::new());
    };
    let silent: Vec<ServerName> = {
        let known = agent.known();
        let servers = active.config.servers.iter().map(|server| server.name.clone());
        servers
            .filter(|name| *name != me && known.peers.get(name).is_none_or(|heard| heard.silent))
            .collect()
    };
    let mut asked = JoinSet::new();
    for server in &active.config.servers {
        let name = server.name.clone();
        // A server that is down has nothing under way, and one that is cut off cannot be told.
        if silent.contains(&name) {
            continue;
        }
        let (agent, me) = (agent.clone(), me.clone());
        asked.spawn(async move {
            let wanted = Hold { epoch, hold };
            let answer = match name == me {
                true => Ok(here(&agent, &me, wanted).await),
                false => line::ask(&agent, &name, "/p/v1/failover/hold", PATIENCE + ANSWER, &wanted).await,
            };
            (name, answer)
        });
    }
    Ok(asked.join_all().await)
}

/// The answer to `POST /p/v1/failover/hold` of `from`.
pub(crate) async fn here(agent: &Agent, from: &ServerName, wanted: Hold) -> Held {
    let leads = agent
        .known()
        .lease
        .as_ref()
        .is_some_and(|lease| lease.leader == *from && lease.epoch == wanted.epoch);
    if !leads {
        // Its word counts for nothing, and nothing here goes to its database.
        return Held { under_way: 0 };
    }
    let until = agent.clock.now() + LIMIT;
    agent.hold.set(wanted.hold.then_some((wanted.epoch, until)));
    agent.changed.notify_one();
    if !wanted.hold {
        return Held { under_way: 0 };
    }
    let mut under_way = 0;
    let quiet = async {
        loop {
            match reported(agent) {
                None => return,
                Some(None) => under_way = 1,
                Some(Some(said)) if u128::from(said.until_ms) != until.as_millis() => under_way = 1,
                Some(Some(said)) => {
                    under_way = said.under_way;
                    if under_way == 0 {
                        return;
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(PATIENCE, quiet).await {
        Ok(()) => Held { under_way: 0 },
        Err(_) => Held { under_way },
    }
}

/// What this server's SQL proxy said last; `None` when none runs, or none said anything for long.
fn reported(agent: &Agent) -> Option<Option<HoldReport>> {
    let report = agent.tier_report(Tier::Sql)?;
    match report.detail {
        TierDetail::Sql(sql) => Some(sql.holding),
        _ => None,
    }
}

/// The mark as the view has it.
pub(crate) fn mark(agent: &Agent) -> Option<(Epoch, BootMoment)> {
    agent.hold.at(agent.clock.now(), clock::boot_id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_ends_by_itself() {
        let mark = Mark::default();
        let seconds = Duration::from_secs;
        assert_eq!(mark.at(seconds(1), "x"), None);
        mark.set(Some((Epoch(3), seconds(10))));
        let (epoch, moment) = mark.at(seconds(9), "x").unwrap();
        assert_eq!((epoch, moment.ms, moment.boot.as_str()), (Epoch(3), 10_000, "x"));
        assert_eq!(mark.at(seconds(10), "x"), None);
        mark.set(None);
        assert_eq!(mark.at(seconds(1), "x"), None);
    }
}
