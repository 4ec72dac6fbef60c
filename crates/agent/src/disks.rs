//! Whether a disk of this server is full: what else then goes wrong says so badly, or not at all.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pontoon_helper::Node;

use crate::core::Agent;
use crate::detect::disk_left;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// Less than this is full: less than a transaction or a log may need at once.
const FULL_BELOW_BYTES: u64 = 16 << 20;

/// Runs until shutdown. A disk that hangs hangs one look, and nothing else.
pub(crate) async fn run(agent: Arc<Agent>) {
    loop {
        let looking = agent.clone();
        let found = tokio::task::spawn_blocking(move || full(&looking));
        tokio::select! {
            found = found => {
                let full = found.unwrap_or_default();
                agent.failover.note_disk(full.is_some());
                agent.known().full_disk = full;
            }
            () = agent.shutdown.requested() => break,
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = agent.shutdown.requested() => break,
        }
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
