//! Whether a disk of this server is full: what else then goes wrong says so badly, or not at all.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_helper::Node;

use crate::core::Agent;
use crate::detect::disk_left;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// Less than this is full: less than a transaction or a log may need at once.
const FULL_BELOW_BYTES: u64 = 16 << 20;

/// For how long after its disk was full a replica is told to go on that stopped applying: MariaDB looks for room once a
/// minute, and may stop only then.
const GO_ON_FOR: Duration = Duration::from_secs(180);

/// Runs until shutdown. A disk that hangs hangs one look, and nothing else.
pub(crate) async fn run(agent: Arc<Agent>) {
    // It may have been full before this agent began.
    let mut was_full = Instant::now();
    loop {
        let looking = agent.clone();
        let found = tokio::task::spawn_blocking(move || full(&looking));
        tokio::select! {
            found = found => {
                let full = found.unwrap_or_default();
                let is_full = full.is_some();
                agent.failover.note_disk(is_full);
                agent.known().full_disk = full;
                if is_full {
                    was_full = Instant::now();
                } else if was_full.elapsed() < GO_ON_FOR {
                    // One that hangs keeps nobody from looking at the disk.
                    let _ = tokio::time::timeout(INTERVAL, go_on(&agent)).await;
                }
            }
            () = agent.shutdown.requested() => break,
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = agent.shutdown.requested() => break,
        }
    }
}

/// Lets a replica apply again that stopped for want of room.
async fn go_on(agent: &Agent) {
    let stops = agent
        .known()
        .database
        .as_ref()
        .is_some_and(|report| report.error.is_some());
    let held = agent
        .failover
        .posted()
        .is_some_and(|posted| posted.paused || posted.work.is_some());
    let database = agent.database.read().await.clone();
    let Some(database) = database.filter(|_| stops && !held) else {
        return;
    };
    match database.apply_with_room().await {
        Ok(true) => tracing::info!("there is room on the disk again: the replica goes on applying"),
        Ok(false) => {}
        Err(refusal) => tracing::debug!(%refusal, "the replica does not go on applying yet"),
    }
}

/// The first folder that no more can be written to: of the database, or Pontoon's own.
fn full(agent: &Agent) -> Option<String> {
    let node = Node::load(&agent.paths.node_file()).ok();
    let data = node
        .and_then(|node| node.database)
        .map(|database| database.datadir);
    let own = agent.paths.view_file().parent().map(PathBuf::from);
    let mut folders = data.into_iter().chain(own);
    let full = folders.find(|folder| disk_left(folder).is_some_and(|left| left < FULL_BELOW_BYTES))?;
    Some(full.display().to_string())
}
