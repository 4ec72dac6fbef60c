//! An empty data directory in the place of one that MySQL does not start on any more: its CLONE needs a server that runs,
//! and writes beside it. What was there is renamed.
//!
//! `DIR.pontoon-empty/` holds `made-by-pontoon` and `data/`; `made` beside them says that `data` is whole.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pontoon_fleet::{Code, Refusal};
use pontoon_rt::files::{self, FileError};
use tokio::process::Command;

use crate::node::{DatabaseNode, suffixed};
use crate::protocol::Moved;
use crate::settings::Setting;
use crate::unit::User;
use crate::{dirs, find, foreign};

/// How long the server may take to make its system tables.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a copy shares with its source and only a new data directory can be given.
const AT_THE_BEGINNING: [&str; 2] = ["innodb_page_size", "lower_case_table_names"];

/// Makes it, and says where the old one went. Repeatable: killed anywhere, the next call goes on; called again after
/// that, it makes another one.
pub(crate) async fn make(node: &DatabaseNode, settings: &[Setting]) -> Result<Option<Moved>, Refusal> {
    if node.is_mariadb() {
        return Err(Refusal::new(
            Code::N003,
            "a copy of MariaDB needs no server that runs",
        ));
    }
    if let Some(pid) = find::server_in(&node.datadir) {
        return Err(Refusal::new(Code::D006, "the data directory is in use")
            .because(format!("process {pid} works in {}", node.datadir.display())));
    }
    let place = suffixed(&node.datadir, "pontoon-empty");
    let (data, made) = (place.join("data"), place.join("made"));
    if !(is_ours(&place)? && made.exists() && foreign::is_directory(&data)) {
        clear(&place)?;
        initialise(node, &place, &data, settings).await?;
        files::write_atomic(&made, b"", 0o600)?;
    }
    let moved = node.datadir.exists().then(|| dirs::aside_of(&node.datadir));
    if let Some(moved) = &moved {
        dirs::rename(&moved.from, &moved.to)?;
    }
    dirs::rename(&data, &node.datadir)?;
    clear(&place)?;
    Ok(moved)
}

async fn initialise(
    node: &DatabaseNode,
    place: &Path,
    data: &Path,
    settings: &[Setting],
) -> Result<(), Refusal> {
    let user = User::of(node)?;
    let owner = (user.uid, user.gid);
    files::create_dir(place, 0o700)?;
    files::write_atomic(&place.join(OURS), b"", 0o600)?;
    foreign::give_directory(place, owner, 0o700)?;
    std::fs::create_dir(data).map_err(|error| FileError::new(data, "create", error))?;
    foreign::give_directory(data, owner, 0o750)?;
    let mut words = node.program.iter();
    let mut command = Command::new(words.next().map_or("mysqld", String::as_str));
    // With a password for root that nobody gets to know: the copy brings its own accounts.
    command
        .args(words)
        .args(["--no-defaults", "--initialize"])
        .arg(format!("--datadir={}", data.display()));
    for setting in settings {
        if AT_THE_BEGINNING.contains(&setting.name.as_str()) {
            command.arg(format!("--{}={}", setting.name, setting.value));
        }
    }
    command
        .current_dir(place)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    user.run_as(&mut command);
    let failed = || Refusal::new(Code::D005, "an empty data directory could not be made");
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .map_err(|_| failed().because(format!("it took longer than {} s", PATIENCE.as_secs())))?
        .map_err(|error| failed().because(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut refusal = failed().because(output.status.to_string());
    for line in said.lines().filter(|line| line.contains("[ERROR]")).take(4) {
        refusal = refusal.because(line);
    }
    Err(refusal)
}

/// That it is ours.
const OURS: &str = "made-by-pontoon";

fn is_ours(place: &Path) -> Result<bool, Refusal> {
    use std::os::unix::fs::MetadataExt;
    let mark = foreign::open(&place.join(OURS))?;
    Ok(mark.is_some_and(|(_, metadata)| metadata.uid() == rustix::process::geteuid().as_raw()))
}

/// Removes what an earlier attempt of ours left; renames what is not ours.
fn clear(place: &PathBuf) -> Result<(), Refusal> {
    if std::fs::symlink_metadata(place).is_err() {
        return Ok(());
    }
    if is_ours(place)? {
        std::fs::remove_dir_all(place).map_err(|error| FileError::new(place, "remove", error))?;
        return Ok(());
    }
    let moved = dirs::aside_of(place);
    tracing::warn!(from = %moved.from.display(), to = %moved.to.display(), "not ours: renamed");
    dirs::rename(&moved.from, &moved.to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::process_node;
    use pontoon_fleet::Engine;

    fn node(dir: &Path, program: &str) -> DatabaseNode {
        DatabaseNode {
            engine: Engine::Mysql,
            program: vec!["/bin/sh".to_owned(), "-c".to_owned(), program.to_owned()],
            ..process_node(dir, &[])
        }
    }

    #[tokio::test]
    async fn what_was_there_is_renamed_once_the_new_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let good = node(dir.path(), "echo > data/ibdata1");
        std::fs::create_dir_all(&good.datadir).unwrap();
        std::fs::write(good.datadir.join("theirs"), "x").unwrap();
        // It fails: nothing was moved.
        let refusal = make(&node(dir.path(), "echo '[ERROR] no' >&2; exit 1"), &[])
            .await
            .unwrap_err();
        assert_eq!(refusal.code, Code::D005, "{refusal:?}");
        assert!(refusal.evidence.iter().any(|line| line.contains("[ERROR] no")));
        assert!(good.datadir.join("theirs").exists());

        let moved = make(&good, &[]).await.unwrap().unwrap();
        assert!(moved.to.join("theirs").exists());
        assert!(good.datadir.join("ibdata1").exists());
        assert!(!suffixed(&good.datadir, "pontoon-empty").exists());
    }

    #[tokio::test]
    async fn killed_between_the_renames_it_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path(), "exit 1");
        let place = suffixed(&node.datadir, "pontoon-empty");
        std::fs::create_dir_all(place.join("data")).unwrap();
        for mark in [OURS, "made"] {
            std::fs::write(place.join(mark), "").unwrap();
        }
        assert_eq!(make(&node, &[]).await.unwrap(), None);
        assert!(node.datadir.is_dir() && !place.exists());
    }

    #[tokio::test]
    async fn what_is_not_ours_is_renamed_and_a_mariadb_refused() {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path(), "echo > data/ibdata1");
        let place = suffixed(&node.datadir, "pontoon-empty");
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("theirs"), "x").unwrap();
        make(&node, &[]).await.unwrap();
        let kept = std::fs::read_dir(dir.path())
            .unwrap()
            .flatten()
            .any(|entry| entry.path().join("theirs").exists());
        assert!(kept);
        let refusal = make(&process_node(dir.path(), &[]), &[]).await.unwrap_err();
        assert_eq!(refusal.code, Code::N003);
    }
}
