//! Whether somebody has a file open to write to it, as the kernel knows it.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Whether anybody has the file open for writing, or mapped so. `file` must be a regular file opened for reading only.
///
/// A read lease is granted only where there is no writer (fcntl(2), F_SETLEASE); it is given back at once, so a writer that
/// comes in between waits for microseconds.
///
/// # Errors
/// `PermissionDenied` when the file is another user's and CAP_LEASE is missing; `InvalidInput` or `Unsupported` where the
/// file system has no leases (NFS, FUSE): then nobody knows.
#[expect(unsafe_code, reason = "no safe wrapper has F_SETLEASE and F_SETSIG")]
pub fn is_written_to(file: impl AsFd) -> io::Result<bool> {
    let fd = file.as_fd().as_raw_fd();
    let ask = |command: libc::c_int, argument: libc::c_int| {
        // SAFETY: the descriptor is borrowed from an open file for the whole call, and these commands take an integer: the
        // kernel reads and writes no memory of this process.
        match unsafe { libc::fcntl(fd, command, argument) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // Who comes in between is announced by a signal. By default it is SIGIO, which ends a process; SIGURG is ignored.
    ask(F_SETSIG, libc::SIGURG)?;
    match ask(libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => {
            ask(libc::F_SETLEASE, libc::F_UNLCK)?;
            Ok(false)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

/// Not in the `libc` crate for every target (`include/uapi/asm-generic/fcntl.h`).
const F_SETSIG: libc::c_int = 10;

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_writer_is_seen_while_it_has_the_file_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upload");
        let mut writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert!(is_written_to(&reader).unwrap());
        writer.write_all(b"half").unwrap();
        assert!(is_written_to(&reader).unwrap());
        let second = OpenOptions::new().append(true).open(&path).unwrap();
        drop(writer);
        assert!(is_written_to(&reader).unwrap(), "the second one");
        drop(second);
        assert!(!is_written_to(&reader).unwrap());
        // Other readers do not count.
        let _other = File::open(&path).unwrap();
        assert!(!is_written_to(&reader).unwrap());
    }

    #[test]
    fn a_writer_that_comes_in_between_ends_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upload");
        File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    drop(OpenOptions::new().append(true).open(&path).unwrap());
                }
            });
            for _ in 0..20_000 {
                is_written_to(&reader).unwrap();
            }
        });
        assert!(!is_written_to(&reader).unwrap());
    }
}
