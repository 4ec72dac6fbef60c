//! Files below directories that another user owns. That user can put a symbolic link, a pipe or another file in the
//! place of one that root has just looked at: so a file is opened once, without following a link and without waiting,
//! and everything is asked of what was opened.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use pontoon_rt::files::FileError;
use rustix::fs::{Mode, OFlags};

/// Opens a regular file for reading; `None` when there is none of that name. Only the last part of `path` may be of
/// somebody else's making.
pub(crate) fn open(path: &Path) -> Result<Option<(File, Metadata)>, FileError> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path);
    regular(opened).map_err(|error| FileError::new(path, "read", error))
}

/// Opens a regular file for writing that is there, has one name, and is no link.
pub(crate) fn open_to_write(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)?;
    let metadata = file.metadata()?;
    match metadata.is_file() && metadata.nlink() == 1 {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file with one name")),
    }
}

/// Makes a file that was not there, for `owner` (user and group) alone.
pub(crate) fn create_new(path: &Path, (user, group): (u32, u32)) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
    }
    Ok(file)
}

/// The bytes of such a file, and what it is.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<(Vec<u8>, Metadata)>, FileError> {
    let Some((file, metadata)) = open(path)? else {
        return Ok(None);
    };
    let bytes = limited(file, limit).map_err(|error| FileError::new(path, "read", error))?;
    Ok(Some((bytes, metadata)))
}

/// The bytes of `root/directory/name`, where `root` and everything below is somebody else's: neither the directory nor
/// the file may be a link, also not a second name of a file.
pub(crate) fn read_below(
    root: &Path,
    directory: &str,
    name: &str,
    limit: u64,
) -> Result<Option<Vec<u8>>, FileError> {
    let path = root.join(directory).join(name);
    let failed = |error: io::Error| FileError::new(&path, "read", error);
    let flags = OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())
        .and_then(|root| {
            let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            rustix::fs::openat(root, directory, flags, Mode::empty())
        })
        .and_then(|directory| rustix::fs::openat(directory, name, flags | OFlags::NOFOLLOW, Mode::empty()));
    let opened = opened.map(File::from).map_err(io::Error::from);
    let Some((file, metadata)) = regular(opened).map_err(failed)? else {
        return Ok(None);
    };
    if metadata.nlink() != 1 {
        return Err(failed(io::Error::other("it has a second name somewhere")));
    }
    limited(file, limit).map(Some).map_err(failed)
}

/// Gives a directory to `owner` (user and group), with exactly these access rights. Never what a link points to.
pub(crate) fn give_directory(path: &Path, owner: (u32, u32), mode: u32) -> Result<(), FileError> {
    let failed = |error: io::Error| FileError::new(path, "give away", error);
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let directory = File::from(directory);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::fchown(&directory, Some(owner.0), Some(owner.1)).map_err(failed)?;
    }
    directory
        .set_permissions(Permissions::from_mode(mode))
        .map_err(failed)
}

/// Whether there is a directory of that name, and not a link to one.
pub(crate) fn is_directory(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

fn regular(opened: io::Result<File>) -> io::Result<Option<(File, Metadata)>> {
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(Some((file, metadata)))
}

fn limited(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("over {limit} bytes"),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_pipes_and_directories_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("secret"), "root's").unwrap();
        symlink(path("secret"), path("link")).unwrap();
        let pipe = std::ffi::CString::new(path("pipe").to_str().unwrap()).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        for bad in ["link", "pipe", "."] {
            assert!(read(&path(bad), 100).is_err(), "{bad}"); // a pipe would hold the helper up for ever
        }
        assert!(read(&path("none"), 100).unwrap().is_none());
        assert_eq!(read(&path("secret"), 100).unwrap().unwrap().0, b"root's");
        assert!(read(&path("secret"), 3).is_err());
    }

    #[test]
    fn below_a_foreign_directory_no_link_leads_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (dir.path().join("state"), dir.path().join("elsewhere"));
        std::fs::create_dir_all(root.join("identity")).unwrap();
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(elsewhere.join("key.pem"), "root's").unwrap();
        symlink(elsewhere.join("key.pem"), root.join("identity/key.pem")).unwrap();
        symlink(&elsewhere, root.join("other")).unwrap();
        std::fs::hard_link(elsewhere.join("key.pem"), root.join("identity/hard.pem")).unwrap();
        std::fs::write(root.join("identity/cert.pem"), "mine").unwrap();
        let read = |directory, name| read_below(&root, directory, name, 100);
        assert!(read("identity", "key.pem").is_err());
        assert!(read("identity", "hard.pem").is_err());
        assert!(read("other", "key.pem").is_err());
        assert!(read("identity", "none.pem").unwrap().is_none());
        assert_eq!(read("identity", "cert.pem").unwrap().unwrap(), b"mine");
    }

    #[test]
    fn what_a_link_points_to_is_not_given_away() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("etc"), dir.path().join("data"));
        std::fs::create_dir(&real).unwrap();
        std::fs::set_permissions(&real, Permissions::from_mode(0o711)).unwrap();
        symlink(&real, &link).unwrap();
        let owner = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        assert!(give_directory(&link, owner, 0o700).is_err());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&real), 0o711);
        give_directory(&real, owner, 0o700).unwrap();
        assert_eq!(mode(&real), 0o700);
    }
}
