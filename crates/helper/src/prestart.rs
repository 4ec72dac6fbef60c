//! Whether systemd may start the database now: the last word before each start, by whomever it was asked for.
//!
//! Where the primary can change, a start is a decision. A primary that died has written what nobody acknowledged; started
//! before that is cut off, it makes it its own, and must be copied anew. So a start waits for the helper, which starts
//! databases on the agent's word and leaves a ticket first. It is not refused at once: at boot, and when a package is
//! renewed, systemd is sooner than the agent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_fleet::{Code, Refusal};
use pontoon_rt::files;
use pontoon_rt::paths::Paths;

use crate::foreign;
use crate::node::{DatabaseNode, Node, Run};

/// How long a start waits for the agent's word. Less than the units' own limits (MariaDB's 15 minutes, MySQL's none).
const PATIENCE: Duration = Duration::from_secs(60);

/// Larger than any file that is read here.
const LARGEST: u64 = 64 << 10;

/// Waits until the database may start, and takes the ticket.
///
/// # Errors
/// [`Code::D005`] when nobody said so within a minute.
pub async fn may_start(paths: &Paths) -> Result<(), Refusal> {
    may_start_within(paths, PATIENCE).await
}

async fn may_start_within(paths: &Paths, patience: Duration) -> Result<(), Refusal> {
    let begun = tokio::time::Instant::now();
    loop {
        // Asked each time: it may be paused, or leave the fleet, meanwhile.
        if !is_decided_here(paths)? || take(paths)? {
            return Ok(());
        }
        if begun.elapsed() >= patience {
            return Err(Refusal::new(Code::D005, "the database does not start before failover says so")
                .because("another server may be the primary, and what this one wrote last may have to be cut off first")
                .because(format!("nobody said so within {} s", patience.as_secs()))
                .next("see what the agent says; it starts the database by itself", "pontoon db status")
                .next("if the agent does not run", "systemctl restart pontoon-agent")
                .next("for maintenance, before the next start", "pontoon db pause"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether failover decides on the starts of this machine's database: its settings are in place, and it is not paused.
fn is_decided_here(paths: &Paths) -> Result<bool, Refusal> {
    let Some(node) = Node::load(&paths.node_file())?.database else {
        return Ok(false);
    };
    if !matches!(node.run, Run::Systemd { .. }) || !has_settings(&node) {
        return Ok(false);
    }
    Ok(!is_paused(&paths.failover_file())?)
}

/// Only the settings of failover keep replication from starting with the database.
fn has_settings(node: &DatabaseNode) -> bool {
    let text = std::fs::read_to_string(node.settings_file()).unwrap_or_default();
    let mut lines = text.lines();
    lines.any(|line| line == "skip_slave_start=1" || line == "skip_replica_start=1")
}

/// What the agent remembers of an operator's `pontoon db pause`.
fn is_paused(file: &Path) -> Result<bool, Refusal> {
    // The agent owns it, this is root: a link is not followed.
    let Some((bytes, _)) = foreign::read(file, LARGEST)? else {
        return Ok(false);
    };
    let kept: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(kept["paused"] == true)
}

fn ticket(paths: &Paths) -> PathBuf {
    paths.run_dir.join("database-may-start")
}

/// Lets the next start through. Taken back when what it was for has ended ([`withdraw`]).
pub(crate) fn permit(paths: &Paths) -> Result<(), Refusal> {
    let me = std::process::id().to_string();
    Ok(files::write_atomic(&ticket(paths), me.as_bytes(), 0o600)?)
}

/// Lets no start through any more.
pub(crate) fn withdraw(paths: &Paths) -> Result<(), Refusal> {
    files::remove_optional(&ticket(paths))?;
    Ok(())
}

/// Takes a ticket whose helper lives; one that a killed helper left is nobody's word.
fn take(paths: &Paths) -> Result<bool, Refusal> {
    let Some((bytes, _)) = foreign::read(&ticket(paths), LARGEST)? else {
        return Ok(false);
    };
    let pid = String::from_utf8_lossy(&bytes).trim().parse::<u32>();
    let lives = pid.is_ok_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
    withdraw(paths)?;
    Ok(lives)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::process_node;

    const SOON: Duration = Duration::from_millis(150);

    /// A machine whose database systemd runs, with the settings of failover.
    fn machine() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        paths.create_dirs().unwrap();
        let settings = dir.path().join("99-pontoon.cnf");
        std::fs::write(&settings, "[mysqld]\nread_only=1\nskip_slave_start=1\n").unwrap();
        let run = Run::Systemd {
            unit: "mariadb.service".to_owned(),
            dropin: settings,
        };
        let database = DatabaseNode {
            run,
            ..process_node(dir.path(), &[])
        };
        Node {
            database: Some(database),
        }
        .save(&paths.node_file())
        .unwrap();
        (dir, paths)
    }

    #[tokio::test]
    async fn a_start_waits_for_the_helpers_ticket_and_takes_it() {
        let (_dir, paths) = machine();
        let refusal = may_start_within(&paths, SOON).await.unwrap_err();
        assert_eq!(refusal.code, Code::D005);
        permit(&paths).unwrap();
        may_start_within(&paths, SOON).await.unwrap();
        assert!(
            may_start_within(&paths, SOON).await.is_err(),
            "one ticket, one start"
        );
        permit(&paths).unwrap();
        withdraw(&paths).unwrap();
        assert!(may_start_within(&paths, SOON).await.is_err());
    }

    #[tokio::test]
    async fn the_ticket_of_a_dead_helper_is_nobodys_word() {
        let (_dir, paths) = machine();
        for left in ["4194305", "", "\u{0}nonsense"] {
            std::fs::write(ticket(&paths), left).unwrap();
            assert!(may_start_within(&paths, SOON).await.is_err(), "{left:?}");
        }
    }

    #[tokio::test]
    async fn where_nobody_decides_nothing_waits() {
        let (dir, paths) = machine();
        std::fs::write(paths.failover_file(), r#"{"paused":true}"#).unwrap();
        may_start_within(&paths, SOON).await.unwrap();
        for bad in [r#"{"paused":false}"#, "", "{", "[1]"] {
            std::fs::write(paths.failover_file(), bad).unwrap();
            assert!(may_start_within(&paths, SOON).await.is_err(), "{bad:?}");
        }
        // The primary cannot change: the settings of failover are not there.
        std::fs::write(dir.path().join("99-pontoon.cnf"), "[mysqld]\nread_only=1\n").unwrap();
        may_start_within(&paths, SOON).await.unwrap();
        std::fs::remove_file(dir.path().join("99-pontoon.cnf")).unwrap();
        may_start_within(&paths, SOON).await.unwrap();
        std::fs::remove_file(paths.node_file()).unwrap();
        may_start_within(&paths, SOON).await.unwrap();
    }
}
