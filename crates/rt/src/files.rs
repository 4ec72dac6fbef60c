//! Files that are either the old or the new, whatever happens in between.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use pontoon_fleet::{Code, Refusal};

/// A file that could not be read or written, and at which step.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}: {source}", path.display())]
pub struct FileError {
    /// The file or directory.
    pub path: PathBuf,
    /// What was tried: `read`, `write`, …
    pub doing: &'static str,
    /// The operating system's word.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// An error at `path` while `doing`.
    pub fn new(path: &Path, doing: &'static str, source: io::Error) -> FileError {
        FileError {
            path: path.to_owned(),
            doing,
            source,
        }
    }
}

impl From<FileError> for Refusal {
    fn from(error: FileError) -> Refusal {
        Refusal::new(
            Code::N006,
            format!("cannot {} {}", error.doing, error.path.display()),
        )
        .because(error.source.to_string())
    }
}

/// Replaces `path` with `bytes`: after a crash at any moment the file is the old one or the new one, whole. `mode`
/// is exact, whatever the umask. When it fails, nothing has changed and no temporary file stays.
///
/// # Errors
/// The step that failed; a full disk is one.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let dir = parent(path);
    let temporary = temporary_name(path, dir);
    let written = write_whole(&temporary, bytes, mode)
        .map_err(|error| FileError::new(path, "write", error))
        .and_then(|()| {
            std::fs::rename(&temporary, path).map_err(|error| FileError::new(path, "replace", error))
        });
    if let Err(error) = written {
        // Best effort: the error that matters is the first one.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    // The rename itself must survive a power cut: the directory is synced too.
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| FileError::new(path, "sync", error))
}

/// The file's bytes; `None` when there is no such file.
///
/// # Errors
/// Anything but "not found".
pub fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new(path, "read", error)),
    }
}

/// As [`read_optional`], but a file over `limit` bytes is refused unread.
///
/// # Errors
/// Anything but "not found"; `FileTooLarge` above the limit.
pub fn read_limited(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::new(path, "read", error)),
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| FileError::new(path, "read", error))?;
    if bytes.len() as u64 > limit {
        let error = io::Error::new(io::ErrorKind::FileTooLarge, format!("over {limit} bytes"));
        return Err(FileError::new(path, "read", error));
    }
    Ok(Some(bytes))
}

/// Makes a directory with its parents; leaves one that is there as it is.
///
/// # Errors
/// The operating system's.
pub fn create_dir(path: &Path, mode: u32) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| FileError::new(path, "create", error))
}

/// Removes a file; one that is not there is fine.
///
/// # Errors
/// Anything but "not found".
pub fn remove_optional(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FileError::new(path, "remove", error)),
    }
}

fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // 0600 first: the bytes may be a key, and the file is readable by others only once it is meant to be.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// A name in the same directory (a rename does not cross file systems) that no other writer uses, and none has left
/// behind: in a container a process that was killed and its successor have the same pid.
pub(crate) fn temporary_name(path: &Path, dir: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let moment = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let moment = moment.as_nanos() as u32;
    dir.join(format!(".{name}.{}-{number}-{moment:x}.tmp", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_exact_and_nothing_else_is_left_in_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o644).unwrap();
        assert_eq!(read_optional(&path).unwrap().unwrap(), b"two");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o644
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        // A directory stands where the file should go: the rename fails after the write succeeded.
        let path = dir.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("inside"), b"x").unwrap();
        let error = write_atomic(&path, b"new", 0o600).unwrap_err();
        assert_eq!(error.doing, "replace");
        assert!(path.join("inside").exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_atomic(&dir.path().join("no/such/dir/file"), b"x", 0o600).is_err());
    }

    #[test]
    fn what_a_killed_process_with_our_pid_left_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..1000 {
            let left = format!(".key.{}-{number}.tmp", std::process::id());
            std::fs::write(dir.path().join(left), b"torn").unwrap();
        }
        write_atomic(&dir.path().join("key"), b"whole", 0o600).unwrap();
    }

    #[test]
    fn a_missing_file_is_none_and_a_large_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(read_optional(&path).unwrap().is_none());
        assert!(read_limited(&path, 3).unwrap().is_none());
        std::fs::write(&path, b"1234").unwrap();
        assert!(read_limited(&path, 4).unwrap().is_some());
        let error = read_limited(&path, 3).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(Refusal::from(error).code, Code::N006);
    }
}
