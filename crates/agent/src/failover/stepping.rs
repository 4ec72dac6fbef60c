//! A replica that leaves is counted on no more before its database stops. Otherwise commits would wait for it, until the
//! leader has heard nothing of it for long enough to go on without.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_decide::failover::{Command, Record};
use pontoon_fleet::ServerName;

use super::takes_part;
use crate::core::{Active, Agent};
use crate::reporter::Reporter;

/// How long the leader may take: a heartbeat, a write of the record, a heartbeat. To leave all the same costs a pause and
/// nothing else.
const PATIENCE: Duration = Duration::from_secs(12);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Has the leader count on this server no more, if it does, and waits for that.
pub(crate) async fn step_out(agent: &Arc<Agent>, active: &Active, me: &ServerName, reporter: &Reporter) {
    if !takes_part(&active.config, me) || !is_counted(agent, me) {
        return;
    }
    reporter
        .step(me, "letting commits go on without this server")
        .await;
    if !matches!(agent.failover.command(Command::Leave(true)).await, Ok(Ok(()))) {
        return;
    }
    let begun = Instant::now();
    while is_counted(agent, me) {
        if begun.elapsed() > PATIENCE {
            let text = format!(
                "the primary did not say within {} s that it goes on without {me}: its commits may wait for a moment",
                PATIENCE.as_secs()
            );
            return reporter.note(text).await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// It stays after all.
pub(crate) async fn step_back(agent: &Agent) {
    let _ = agent.failover.command(Command::Leave(false)).await;
}

/// Whether commits of the leader wait for this server, or may: by the record, or because the leader is still about to do as
/// the record says.
fn is_counted(agent: &Agent, me: &ServerName) -> bool {
    let Some(record) = agent.failover.posted().and_then(|posted| posted.record) else {
        return false;
    };
    let names = |record: &Record| record.sync.contains_key(me);
    if record.leader == *me {
        return false;
    }
    let known = agent.known();
    let leader = known.peers.get(&record.leader);
    let said = leader.and_then(|heard| heard.failover.as_ref());
    names(&record) || said.is_some_and(|said| said.work.is_some() || said.record.as_ref().is_some_and(names))
}
