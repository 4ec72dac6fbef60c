//! The dance of the data directories. Every step is a rename or a small atomic file, so that after a kill at any moment
//! the next call knows where it stands; nothing of the user's is ever removed.
//!
//! `DIR.pontoon-incoming/` holds `mark.json` ([`Incoming`]) and `data/`, the copy.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pontoon_fleet::{Code, Refusal};
use pontoon_rt::files::{self, FileError};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::node::{DatabaseNode, suffixed};
use crate::protocol::Moved;
use crate::{find, foreign};

/// The mark in a copy's directory: that it is ours, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// How far it is.
    pub state: IncomingState,
    /// Its GTID position, once it is complete.
    pub position: Option<String>,
    /// Where the old data directory went, once it is activated.
    pub aside: Option<Moved>,
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IncomingState {
    /// It arrives, or the attempt was killed.
    Receiving,
    /// It is complete and prepared.
    Ready,
    /// It takes the data directory's place (and may be halfway there).
    Activating,
    /// It is the data directory.
    Active,
}

/// Where the copy's files are.
pub(crate) fn data_of(incoming: &Path) -> PathBuf {
    incoming.join("data")
}

/// The mark of the copy, when there is one.
pub(crate) fn read_mark(node: &DatabaseNode) -> Result<Option<Incoming>, Refusal> {
    let path = mark_path(node);
    let Some((bytes, metadata)) = foreign::read(&path, 1 << 16)? else {
        return Ok(None);
    };
    // It says what is renamed, and the directory is the database's: only what this process wrote is believed.
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(
            Refusal::new(Code::D006, format!("{} is not ours", path.display()))
                .because(format!("it belongs to user {}", metadata.uid())),
        );
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Refusal::new(Code::D006, format!("{} cannot be read", path.display())).because(error.to_string())
    })
}

fn write_mark(node: &DatabaseNode, mark: &Incoming) -> Result<(), Refusal> {
    let bytes = serde_json::to_vec(mark).map_err(|error| Refusal::new(Code::N007, error.to_string()))?;
    files::write_atomic(&mark_path(node), &bytes, 0o600)?;
    Ok(())
}

fn mark_path(node: &DatabaseNode) -> PathBuf {
    node.incoming().join("mark.json")
}

/// Makes the place for a new copy. What a killed attempt of ours left is removed; a directory of that name without our
/// mark is renamed. `owner` is who will write there.
pub(crate) fn make_incoming(
    node: &DatabaseNode,
    owner: (u32, u32),
    expected_bytes: u64,
) -> Result<PathBuf, Refusal> {
    check_renameable(node)?;
    discard(node)?;
    check_space(node, expected_bytes)?;
    let incoming = node.incoming();
    files::create_dir(&incoming, 0o700)?;
    write_mark(
        node,
        &Incoming {
            state: IncomingState::Receiving,
            position: None,
            aside: None,
        },
    )?;
    foreign::give_directory(&incoming, owner, 0o700)?;
    Ok(data_of(&incoming))
}

/// Makes the place where MySQL's CLONE writes a copy that goes to an object store: `DIR.pontoon-backup/data`. What an
/// earlier one of ours left is removed, anything else of that name renamed.
pub(crate) fn make_cloning(
    node: &DatabaseNode,
    owner: (u32, u32),
    expected_bytes: u64,
) -> Result<PathBuf, Refusal> {
    let place = suffixed(&node.datadir, "pontoon-backup");
    if std::fs::symlink_metadata(&place).is_ok() {
        if is_cloning(&place)? {
            std::fs::remove_dir_all(&place).map_err(|error| FileError::new(&place, "remove", error))?;
        } else {
            let moved = aside_of(&place);
            tracing::warn!(from = %moved.from.display(), to = %moved.to.display(), "not ours: renamed");
            rename(&moved.from, &moved.to)?;
        }
    }
    check_space(node, expected_bytes)?;
    files::create_dir(&place, 0o700)?;
    files::write_atomic(&place.join(CLONING_MARK), b"", 0o600)?;
    foreign::give_directory(&place, owner, 0o700)?;
    Ok(data_of(&place))
}

/// That place and what is in it, once something is.
pub(crate) fn cloning(node: &DatabaseNode) -> Result<(PathBuf, PathBuf), Refusal> {
    let place = suffixed(&node.datadir, "pontoon-backup");
    let data = data_of(&place);
    match is_cloning(&place)? && foreign::is_directory(&data) {
        true => Ok((place, data)),
        false => Err(Refusal::new(Code::D003, "there is no clone that could be sent")
            .because(format!("{} is not there", data.display()))),
    }
}

/// That it is ours.
const CLONING_MARK: &str = "made-by-pontoon";

fn is_cloning(place: &Path) -> Result<bool, Refusal> {
    let mark = foreign::open(&place.join(CLONING_MARK))?;
    Ok(mark.is_some_and(|(_, metadata)| metadata.uid() == rustix::process::geteuid().as_raw()))
}

/// The copy is complete: from here on it can be activated.
pub(crate) fn seal(node: &DatabaseNode, position: &str) -> Result<(), Refusal> {
    let data = data_of(&node.incoming());
    match read_mark(node)? {
        Some(mark) if mark.state == IncomingState::Receiving && foreign::is_directory(&data) => {
            let position = Some(position.to_owned());
            write_mark(
                node,
                &Incoming {
                    state: IncomingState::Ready,
                    position,
                    aside: None,
                },
            )
        }
        mark => Err(
            Refusal::new(Code::D003, "there is no arriving copy that could be complete")
                .because(format!("{} holds {mark:?}", node.incoming().display())),
        ),
    }
}

/// Renames the data directory aside and the copy into its place.
pub(crate) fn activate(node: &DatabaseNode) -> Result<Option<Moved>, Refusal> {
    if let Some(pid) = find::server_in(&node.datadir) {
        return Err(Refusal::new(Code::D006, "the data directory is in use")
            .because(format!("process {pid} works in {}", node.datadir.display())));
    }
    let data = data_of(&node.incoming());
    let Some(mut mark) = read_mark(node)? else {
        return Err(Refusal::new(Code::D003, "there is no copy to activate")
            .because(format!("{} has no mark", node.incoming().display())));
    };
    if mark.state == IncomingState::Receiving {
        return Err(Refusal::new(Code::D003, "the copy is not complete"));
    }
    if mark.state == IncomingState::Active {
        return Ok(mark.aside);
    }
    if mark.state == IncomingState::Ready {
        // The name is on disk before the first rename: a repeated call goes on with the same one.
        mark.aside = node.datadir.exists().then(|| aside_of(&node.datadir));
        mark.state = IncomingState::Activating;
        write_mark(node, &mark)?;
    }
    if foreign::is_directory(&data) {
        if node.datadir.exists() {
            match &mark.aside {
                Some(moved) if is_aside_of(&node.datadir, moved) && !moved.to.exists() => {
                    rename(&moved.from, &moved.to)?;
                }
                _ => {
                    return Err(
                        Refusal::new(Code::D006, "something is in the data directory's place").because(
                            format!("{} appeared while it was replaced", node.datadir.display()),
                        ),
                    );
                }
            }
        }
        rename(&data, &node.datadir)?;
    } else if std::fs::symlink_metadata(&data).is_ok() {
        return Err(Refusal::new(Code::D006, "the copy is not a directory")
            .because(format!("{} is something else", data.display())));
    } else if !node.datadir.exists() {
        return Err(Refusal::new(Code::D006, "the copy is gone").because(format!(
            "neither {} nor {} exists",
            data.display(),
            node.datadir.display()
        )));
    }
    mark.state = IncomingState::Active;
    write_mark(node, &mark)?;
    Ok(mark.aside)
}

/// Removes what our own attempt left; renames what is not ours.
pub(crate) fn discard(node: &DatabaseNode) -> Result<(), Refusal> {
    let incoming = node.incoming();
    if std::fs::symlink_metadata(&incoming).is_err() {
        return Ok(());
    }
    match read_mark(node) {
        Ok(Some(mark)) if mark.state == IncomingState::Activating => {
            return Err(
                Refusal::new(Code::D006, "a copy is halfway into the data directory's place")
                    .because("finish it first: it is only renames")
                    .next("go on with it", "pontoon join"),
            );
        }
        Ok(Some(_)) => {
            if let Some(pid) = find::server_in(&data_of(&incoming)) {
                return Err(
                    Refusal::new(Code::D006, "the copy is in use").because(format!("by process {pid}"))
                );
            }
            tracing::info!(path = %incoming.display(), "removing what our own copy left");
            // The mark goes last: killed here, the next call still knows that it is ours.
            let data = data_of(&incoming);
            if data.exists() {
                std::fs::remove_dir_all(&data).map_err(|error| FileError::new(&data, "remove", error))?;
            }
            std::fs::remove_dir_all(&incoming).map_err(|error| FileError::new(&incoming, "remove", error))?;
        }
        Ok(None) if is_empty(&incoming) => {
            std::fs::remove_dir(&incoming).map_err(|error| FileError::new(&incoming, "remove", error))?;
        }
        Ok(None) | Err(_) => {
            let moved = aside_of(&incoming);
            tracing::warn!(from = %moved.from.display(), to = %moved.to.display(), "not ours: renamed");
            rename(&moved.from, &moved.to)?;
        }
    }
    Ok(())
}

/// `PATH` → `PATH.pontoon-aside-20261122T200701Z`, a name that is free.
pub fn aside_of(path: &Path) -> Moved {
    let stamp = stamp();
    let mut to = suffixed(path, &format!("pontoon-aside-{stamp}"));
    let mut number = 2;
    while std::fs::symlink_metadata(&to).is_ok() {
        to = suffixed(path, &format!("pontoon-aside-{stamp}-{number}"));
        number += 1;
    }
    Moved {
        from: path.to_owned(),
        to,
    }
}

/// `PATH` → `PATH.pontoon-WHAT-20261122T200701Z-WHY`, a name that is free.
pub(crate) fn aside_of_as(path: &Path, what: &str, why: &str) -> PathBuf {
    let mut to = suffixed(path, &format!("pontoon-{what}-{}-{why}", stamp()));
    let mut number = 2;
    while std::fs::symlink_metadata(&to).is_ok() {
        to = suffixed(path, &format!("pontoon-{what}-{}-{why}-{number}", stamp()));
        number += 1;
    }
    to
}

fn stamp() -> String {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    OffsetDateTime::now_utc()
        .format(&format)
        .unwrap_or_else(|_| "unknown".to_owned())
}

/// Whether [`aside_of`] could have made it.
fn is_aside_of(path: &Path, moved: &Moved) -> bool {
    let prefix = suffixed(path, "pontoon-aside-");
    let name = |path: &Path| path.file_name().map(|name| name.as_encoded_bytes().to_owned());
    moved.from == path
        && moved.to.parent() == path.parent()
        && name(&moved.to)
            .zip(name(&prefix))
            .is_some_and(|(to, prefix)| to.starts_with(&prefix))
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Refusal> {
    std::fs::rename(from, to).map_err(|error| {
        Refusal::new(
            Code::D006,
            format!("{} cannot be renamed to {}", from.display(), to.display()),
        )
        .because(error.to_string())
    })?;
    if let Some(dir) = to.parent() {
        std::fs::File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| FileError::new(dir, "sync", error))?;
    }
    Ok(())
}

/// A data directory that is a mount point cannot be renamed: say so before hours of copying.
fn check_renameable(node: &DatabaseNode) -> Result<(), Refusal> {
    let (Ok(dir), Some(parent)) = (std::fs::metadata(&node.datadir), node.datadir.parent()) else {
        return Ok(());
    };
    let parent_metadata =
        std::fs::metadata(parent).map_err(|error| FileError::new(parent, "look at", error))?;
    if dir.dev() != parent_metadata.dev() {
        return Err(Refusal::new(
            Code::D006,
            "the data directory cannot be renamed: it is a mount point",
        )
        .because(format!("{} is a file system of its own", node.datadir.display()))
        .next(
            "let it be a directory below the mount",
            "mount the volume at /srv/db and use datadir=/srv/db/mysql",
        ));
    }
    Ok(())
}

fn check_space(node: &DatabaseNode, expected_bytes: u64) -> Result<(), Refusal> {
    let parent = node.datadir.parent().unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(parent)
        .map_err(|errno| Refusal::from(FileError::new(parent, "look at", errno.into())))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    // The redo log and what is written during the copy come on top of the files.
    let needed = expected_bytes
        .saturating_add(expected_bytes / 10)
        .saturating_add(64 << 20);
    if free < needed {
        let human = pontoon_fleet::units::human_bytes;
        return Err(
            Refusal::new(Code::D003, "there is not enough free space for the copy")
                .because(format!(
                    "{} has {} free, the copy needs {}",
                    parent.display(),
                    human(free),
                    human(needed)
                ))
                .because("the old data directory is kept beside it, renamed"),
        );
    }
    Ok(())
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
#[path = "dirs_tests.rs"]
mod tests;
