//! What only root can do for the agent, which is not root under systemd: see how the database is run, and give away
//! what root wrote where the agent keeps its state.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use pontoon_agent::detect::database;
use pontoon_fleet::Refusal;
use pontoon_helper::{DatabaseNode, Node};
use pontoon_rt::files::{self, FileError};
use pontoon_rt::paths::Paths;
use rustix::fs::OFlags;
use tokio::process::Command;

use crate::start;

/// Makes the directories as the units expect them, where the units are installed.
pub async fn make_dirs(paths: &Paths) {
    if is_root() && start::by_systemd(paths) {
        // The units do the same before they start: a failure shows there.
        let _ = Command::new("systemd-tmpfiles")
            .args(["--create", "pontoon.conf"])
            .status()
            .await;
    }
}

/// Writes down how the database of this machine is run, unless that is known: the helper believes nobody but root, and
/// the agent may not look into the process of another user.
///
/// Gives what there is to know about what was set up by hand before.
///
/// # Errors
/// D009 and D001 as [`database::detect`] says, D015 when a filter leaves databases out, N006 when it cannot be written; with `again` to be run as root.
pub async fn know_database(paths: &Paths, again: &str) -> Result<Vec<String>, Refusal> {
    let known = async {
        if Node::load(&paths.node_file())?.database.is_some() {
            return Ok(Vec::new());
        }
        match database::detect().await? {
            Some(detected) => {
                detected.recipe.check()?;
                let notes = detected.recipe.notes();
                keep_database(paths, &detected.joiner())?;
                Ok(notes)
            }
            // No database: the fleet says whether one is needed.
            None => Ok(Vec::new()),
        }
    };
    known.await.map_err(|refusal: Refusal| {
        if is_root() {
            return refusal;
        }
        refusal
            .because("this is not root")
            .next("as root", format!("sudo {again}"))
    })
}

/// Writes it into the node file, which stays root's.
pub fn keep_database(paths: &Paths, database: &DatabaseNode) -> Result<(), Refusal> {
    files::create_dir(&paths.state_dir, 0o750)?;
    Node {
        database: Some(database.clone()),
    }
    .save(&paths.node_file())
}

/// Gives what this process wrote at `path`, with all that is below, to the owner of the state directory: the user that
/// the agent runs as. Follows no link, and takes no file that has a second name.
///
/// # Errors
/// N006.
pub fn give_away(paths: &Paths, path: &Path) -> Result<(), Refusal> {
    if !is_root() {
        return Ok(());
    }
    let owner = std::fs::metadata(&paths.state_dir)
        .map_err(|error| FileError::new(&paths.state_dir, "look at", error))?
        .uid();
    if owner != 0 {
        give_to(owner, path).map_err(|error| FileError::new(path, "give away", error))?;
    }
    Ok(())
}

fn give_to(owner: u32, path: &Path) -> std::io::Result<()> {
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give_to(owner, &entry?.path())?;
        }
    } else if !metadata.is_file() || metadata.nlink() > 1 {
        return Ok(());
    }
    if metadata.uid() == 0 {
        std::os::unix::fs::fchown(&file, Some(owner), None)?;
    }
    Ok(())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_root_wrote_goes_to_the_owner_of_the_state_and_nothing_else_does() {
        if !is_root() {
            println!(
                "SKIPPED what_root_wrote_goes_to_the_owner_of_the_state_and_nothing_else_does: not root"
            );
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        paths.create_dirs().unwrap();
        let owned = |path: &Path| std::fs::symlink_metadata(path).unwrap().uid();
        let (identity, outside) = (paths.identity_dir(), dir.path().join("outside"));
        for path in [&identity.join("key.pem"), &paths.node_file(), &outside] {
            std::fs::write(path, "x").unwrap();
        }
        // A state directory of root's: nobody to give it to.
        give_away(&paths, &identity).unwrap();
        assert_eq!(owned(&identity), 0);

        // In a user namespace of one user there is no second one.
        if std::os::unix::fs::chown(&paths.state_dir, Some(1), None).is_err() {
            println!("SKIPPED the rest of it: there is no second user here");
            return;
        }
        std::os::unix::fs::symlink(&outside, identity.join("link")).unwrap();
        std::fs::hard_link(&outside, identity.join("second-name")).unwrap();
        assert!(give_away(&paths, &identity).is_err(), "a link is no file of ours");
        std::fs::remove_file(identity.join("link")).unwrap();
        give_away(&paths, &identity).unwrap();
        assert_eq!((owned(&identity), owned(&identity.join("key.pem"))), (1, 1));
        assert_eq!((owned(&outside), owned(&paths.node_file())), (0, 0));
    }
}
