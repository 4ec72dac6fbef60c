//! What this server's disk says about its membership, for when no agent runs: read and begun by `pontoon init`, `plan`
//! and `apply`.

use pontoon_fleet::{Refusal, Revision, ServerName};
use pontoon_rt::files;
use pontoon_rt::paths::Paths;

use crate::store::Store;

/// Whether this server never had an active configuration.
///
/// # Errors
/// N006 when the file is there and cannot be used.
pub fn nothing_applied(paths: &Paths) -> Result<bool, Refusal> {
    Ok(Store::new(paths).active()?.is_none())
}

/// How `fleet.toml` on this server relates to what is active here. A join or a leave changes the configuration on every
/// server, and an operator applies on one of them: the file of the others is then older.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileStanding {
    /// Nothing is active here: the file is the beginning.
    NothingActive,
    /// The file says what is active.
    Same,
    /// There is none.
    Missing(Revision, String),
    /// It says what was active earlier, and nobody touched it since. The revision and text that are active now.
    Older(Revision, String),
    /// It says something else: an operator's wish.
    Edited,
}

/// Looks at the file.
///
/// # Errors
/// N006 when a file is there and cannot be used.
pub fn standing(paths: &Paths) -> Result<FileStanding, Refusal> {
    let store = Store::new(paths);
    let Some(active) = store.active()? else {
        return Ok(FileStanding::NothingActive);
    };
    let Some(bytes) = files::read_limited(&paths.config, LARGEST_FILE_BYTES)? else {
        return Ok(FileStanding::Missing(active.revision, active.text));
    };
    if bytes == active.text.as_bytes() {
        return Ok(FileStanding::Same);
    }
    // Older text in a file that was written later is somebody who wants the old configuration back.
    let written = |path| {
        std::fs::metadata(path)
            .and_then(|metadata| metadata.modified())
            .ok()
    };
    let untouched = match (written(&paths.config), written(&store.text_file(active.revision))) {
        (Some(file), Some(activation)) => file < activation,
        _ => false,
    };
    let was_active = store.earlier_texts().into_iter().any(|text| text == bytes);
    Ok(if untouched && was_active {
        FileStanding::Older(active.revision, active.text)
    } else {
        FileStanding::Edited
    })
}

/// A configuration is a few kilobytes.
const LARGEST_FILE_BYTES: u64 = 1 << 20;

/// Makes `founder` the server that decides changes of the configuration: the first of a new fleet.
///
/// # Errors
/// N006 when it cannot be written.
pub fn found(paths: &Paths, founder: &ServerName) -> Result<(), Refusal> {
    Store::new(paths).save_keeper(founder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_older_only_while_nobody_touches_it() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        paths.create_dirs().unwrap();
        std::fs::create_dir_all(paths.config.parent().unwrap()).unwrap();
        let store = Store::new(&paths);
        // Each write is a second after the one before it.
        let clock = std::cell::Cell::new(std::time::SystemTime::UNIX_EPOCH);
        let touch = |path: &std::path::Path| {
            clock.set(clock.get() + std::time::Duration::from_secs(1));
            let file = std::fs::File::options().append(true).open(path).unwrap();
            file.set_modified(clock.get()).unwrap();
        };
        let write = |text: &str| {
            std::fs::write(&paths.config, text).unwrap();
            touch(&paths.config);
        };
        let activate = |revision: u64, text: &str| {
            let committed = pontoon_decide::change::Committed {
                revision: Revision(revision),
                text: text.to_owned(),
                ..pontoon_decide::change::Committed::nothing()
            };
            store.save_active(&committed).unwrap();
            store.keep_text(Revision(revision), text).unwrap();
            touch(&store.text_file(Revision(revision)));
        };
        write("one");
        assert_eq!(standing(&paths).unwrap(), FileStanding::NothingActive);
        activate(1, "one");
        assert_eq!(standing(&paths).unwrap(), FileStanding::Same);
        activate(2, "two");
        assert_eq!(
            standing(&paths).unwrap(),
            FileStanding::Older(Revision(2), "two".to_owned())
        );
        write("one");
        assert_eq!(standing(&paths).unwrap(), FileStanding::Edited);
        activate(3, "three");
        write("mine");
        activate(4, "four");
        assert_eq!(standing(&paths).unwrap(), FileStanding::Edited);
        std::fs::remove_file(&paths.config).unwrap();
        assert_eq!(
            standing(&paths).unwrap(),
            FileStanding::Missing(Revision(4), "four".to_owned())
        );
    }

    #[test]
    fn a_founder_keeps_the_configuration_and_has_none_yet() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        paths.create_dirs().unwrap();
        let founder: ServerName = "a".parse().unwrap();
        found(&paths, &founder).unwrap();
        assert_eq!(Store::new(&paths).keeper().unwrap(), Some(founder));
        assert!(nothing_applied(&paths).unwrap());
        std::fs::write(paths.state_dir.join("active.json"), "torn").unwrap();
        assert!(nothing_applied(&paths).is_err());
    }
}
