//! Listening sockets, ready for tokio: nonblocking, close-on-exec.

use std::fs::{File, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::files;

/// How a TCP listener is bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenOptions {
    /// Several sockets share the port and the kernel spreads connections over them (`SO_REUSEPORT`, socket(7)).
    pub reuse_port: bool,
    /// The address may be one that this server does not have yet (`IP_FREEBIND`, ip(7)): a takeover address.
    pub freebind: bool,
    /// `[::]` takes IPv6 only.
    pub v6only: bool,
}

/// Waiting connections the kernel keeps for us; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Listens on `addr`.
///
/// # Errors
/// The operating system's: `AddrInUse` when another program listens there, `AddrNotAvailable` when the address is
/// not this machine's, `PermissionDenied` for a low port without the capability.
pub fn tcp(addr: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections in TIME_WAIT (socket(7), SO_REUSEADDR).
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if options.freebind {
        if addr.is_ipv4() {
            socket.set_freebind_v4(true)?
        } else {
            socket.set_freebind_v6(true)?
        }
    }
    if addr.is_ipv6() {
        socket.set_only_v6(options.v6only)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Listens on the Unix socket `path` with exactly the access rights `mode`. A socket file that is already there is
/// replaced only after a connection attempt proved that nobody listens on it; the replacement is a rename, so that a
/// client finds either the old socket or the new one with its rights in place.
///
/// # Errors
/// `AddrInUse` when somebody listens there, `AlreadyExists` when the file is not a socket, `WouldBlock` when another
/// process is binding in the same directory at this moment.
pub fn unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    // The bind below goes to another name: a path that is too long for clients is refused here.
    SockAddr::unix(path)?;
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    // Two starters that both found the file stale would both replace it. The lock ends with `_lock`.
    let lock = File::open(dir)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
    check_free(path)?;

    let temporary = dir.join(short_name());
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(&temporary)?)?;
    let placed = std::fs::set_permissions(&temporary, Permissions::from_mode(mode))
        .and_then(|()| socket.listen(BACKLOG))
        .and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = placed {
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(socket.into())
}

/// Whether somebody takes connections on the Unix socket `path`, asked without waiting.
///
/// # Errors
/// When it cannot be told.
pub fn unix_answers(path: &Path) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        // The backlog is full: a frozen or busy process, but a living one (unix(7): EAGAIN).
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn check_free(path: &Path) -> io::Result<()> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        let text = format!("{} is there and is not a socket", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    if unix_answers(path)? {
        let text = format!("another process listens on {}", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    Ok(())
}

/// Short, because a Unix socket's path has 107 bytes at most and the temporary one should not be what breaks it.
fn short_name() -> String {
    let full = files::temporary_name(Path::new("s"), Path::new(""));
    full.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn two_listeners_share_a_port_only_when_both_say_so() {
        let share = ListenOptions {
            reuse_port: true,
            ..ListenOptions::default()
        };
        let first = tcp("127.0.0.1:0".parse().unwrap(), share).unwrap();
        let addr = first.local_addr().unwrap();
        tcp(addr, share).unwrap();
        let error = tcp(addr, ListenOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn an_address_of_nobody_needs_freebind() {
        let addr = "198.51.100.77:0".parse().unwrap();
        assert_eq!(
            tcp(addr, ListenOptions::default()).unwrap_err().kind(),
            io::ErrorKind::AddrNotAvailable
        );
        tcp(
            addr,
            ListenOptions {
                freebind: true,
                ..ListenOptions::default()
            },
        )
        .unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = unix(&path, 0o660).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660
        );
        assert_eq!(unix(&path, 0o660).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let _second = unix(&path, 0o600).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_frozen_listener_with_a_full_backlog_still_counts_as_living() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let _fill = UnixStream::connect(&path).unwrap();
        assert!(unix_answers(&path).unwrap());
        assert_eq!(unix(&path, 0o660).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_file_that_is_not_a_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, b"data").unwrap();
        assert_eq!(
            unix(&path, 0o660).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn a_path_that_is_too_long_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(unix(&dir.path().join("x".repeat(200)), 0o660).is_err());
    }
}
