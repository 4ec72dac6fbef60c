//! Starts this server's database again after it died. Where systemd runs it, its unit does that; where nothing does (a
//! container, a database started by hand), Pontoon is what stands behind it.
//!
//! One that an operator stopped stays stopped until the next `apply`: a database that ends in good order takes its
//! socket away, and one that was killed leaves it. `mysqld_safe` tells them apart in the same way, by the pid file.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_fleet::{DatabaseRole, EventKind};
use pontoon_helper::Run;
use pontoon_replication::Database;

use crate::core::Agent;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// The slowest repetition.
const SLOWEST: Duration = Duration::from_secs(60);

/// Runs until shutdown.
pub(crate) async fn run(agent: Arc<Agent>) {
    let (mut failures, mut not_before) = (0u32, Instant::now());
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = agent.shutdown.requested() => return,
        }
        let is_up = agent
            .known()
            .database
            .as_ref()
            .is_none_or(|database| database.role != DatabaseRole::Down);
        if is_up && Instant::now() > not_before {
            failures = 0;
        }
        if is_up || Instant::now() < not_before {
            continue;
        }
        if look(&agent).await {
            failures = failures.saturating_add(1);
            not_before = Instant::now() + delay(failures);
        }
    }
}

/// Says whether it tried to start the database.
async fn look(agent: &Agent) -> bool {
    let database = agent.database.read().await.clone();
    let Some(database) = database.filter(|database| is_ours_to_start(agent, database)) else {
        return false;
    };
    // Whoever changes something here stops and starts it on purpose.
    let Ok(_changing) = agent.changing.try_lock() else {
        return false;
    };
    let died = database
        .helper()
        .state()
        .await
        .is_ok_and(|state| state.pid.is_none())
        && left_its_socket(&database.backend_socket());
    if !died {
        return false;
    }
    match database.ensure_running().await {
        Ok(()) => {
            let reason = "its process had died".to_owned();
            agent.record(EventKind::DatabaseRestarted { reason });
        }
        Err(refusal) => tracing::error!(%refusal, "the database died and does not start"),
    }
    true
}

fn is_ours_to_start(agent: &Agent, database: &Database) -> bool {
    let (Some(membership), Some(active)) = (agent.membership(), agent.active()) else {
        return false;
    };
    let is_wanted = active
        .config
        .server(&membership.me)
        .is_some_and(|server| active.config.runs_database(server));
    // Where the primary can change, its failover decides every start.
    is_wanted
        && !crate::failover::takes_part(&active.config, &membership.me)
        && matches!(database.node().run, Run::Process { .. })
}

fn left_its_socket(socket: &Path) -> bool {
    std::fs::symlink_metadata(socket).is_ok()
}

/// 2, 4, 8 … up to [`SLOWEST`]: a database that dies at once has a reason that time does not mend.
fn delay(failures: u32) -> Duration {
    Duration::from_secs(2u64.saturating_pow(failures.min(10))).min(SLOWEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_keeps_dying_is_started_more_and_more_slowly() {
        let delays: Vec<u64> = (1..9).map(|n| delay(n).as_secs()).collect();
        assert_eq!(delays, [2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_socket_that_is_left_tells_a_death_from_a_stop() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("mysqld.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        drop(listener); // as a killed process leaves it
        assert!(left_its_socket(&socket));
        std::fs::remove_file(&socket).unwrap();
        assert!(!left_its_socket(&socket));
    }
}
