//! Keeps `fleet.toml` of this server what the fleet has, as long as nobody edits it: other servers join and leave, and
//! changes are applied on any of them. An edited file is never touched.

use std::path::PathBuf;

use pontoon_agent::detect::disk::{FileStanding, standing};
use pontoon_fleet::Refusal;
use pontoon_rt::files;

use super::Context;

/// Writes the active configuration to `fleet.toml` when there is none, or an older one that nobody touched. Who may
/// look but not write (not root) goes on with the old one, and is told.
pub fn bring_up_to_date(context: &Context) -> Result<(), Refusal> {
    let path = &context.paths.config;
    let (revision, text) = match standing(&context.paths)? {
        FileStanding::Missing(revision, text) | FileStanding::Older(revision, text) => (revision, text),
        FileStanding::NothingActive | FileStanding::Same | FileStanding::Edited => return Ok(()),
    };
    let written = path
        .parent()
        .map_or(Ok(()), |dir| files::create_dir(dir, 0o755))
        .and_then(|()| files::write_atomic(path, text.as_bytes(), 0o644));
    let remark = match written {
        Ok(()) => format!(
            "  {} now says what the fleet has: revision {revision}\n",
            path.display()
        ),
        Err(error) => format!(
            "  ! {} is older than revision {revision}, which the fleet has: {error}\n",
            path.display()
        ),
    };
    context.screen.remark(&remark);
    Ok(())
}

/// Whether the file says nothing but what the fleet has or had.
pub fn is_the_fleets(context: &Context) -> Result<bool, Refusal> {
    let standing = standing(&context.paths)?;
    Ok(matches!(standing, FileStanding::Same | FileStanding::Older(..)))
}

/// Renames the file after this server left the fleet that it describes.
pub fn set_aside(context: &Context) -> Result<(), Refusal> {
    let from = &context.paths.config;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = now.unwrap_or_default().as_secs();
    let beside = |suffix: String| {
        let mut name = from.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mut to = beside(format!(".left-{seconds}"));
    let mut number = 2;
    // A rename overwrites: what another leave kept stays.
    while std::fs::symlink_metadata(&to).is_ok() {
        to = beside(format!(".left-{seconds}-{number}"));
        number += 1;
    }
    let remark = match std::fs::rename(from, &to) {
        Ok(()) => format!("  {} was renamed to {}\n", from.display(), to.display()),
        Err(error) => format!("  ! {} stays: {error}\n", from.display()),
    };
    context.screen.remark(&remark);
    Ok(())
}
