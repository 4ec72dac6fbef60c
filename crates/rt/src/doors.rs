//! Where a proxy listens for applications and for the proxies of other servers: opens what is wanted on every thread, closes
//! what no longer is, and keeps the reasons why something could not be opened, so that it is tried again.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_fleet::ListenAddress;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use crate::listen::{self, ListenOptions};

/// Somewhere to listen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    /// For applications.
    Client(ListenAddress),
    /// For the proxies of other servers.
    Relay(SocketAddr),
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Door::Client(address) => address.fmt(f),
            Door::Relay(address) => write!(f, "{address} (relay)"),
        }
    }
}

/// A listening socket for one thread.
#[derive(Debug)]
pub struct ThreadDoor {
    /// What comes in.
    pub listener: Listener,
    /// Take no more.
    pub stop: CancellationToken,
}

/// A listening socket by what comes in through it.
#[derive(Debug)]
pub enum Listener {
    /// Applications, over TCP.
    ClientTcp(std::net::TcpListener),
    /// Applications, over the Unix socket.
    ClientUnix(std::os::unix::net::UnixListener),
    /// Other proxies.
    Relay(std::net::TcpListener),
}

/// All doors of the process.
#[derive(Debug)]
pub struct Doors {
    threads: Vec<UnboundedSender<ThreadDoor>>,
    open: BTreeMap<Door, OpenDoor>,
    shut: BTreeMap<Door, String>,
}

#[derive(Debug)]
struct OpenDoor {
    stop: CancellationToken,
    file: Option<SocketFile>,
}

/// A Unix socket's file as it was when we made it.
#[derive(Debug, PartialEq, Eq)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// As mysqld and memcached do on TCP: whoever may reach the directory may connect.
const SOCKET_MODE: u32 = 0o777;

impl Doors {
    /// None open yet. Each opened door is handed to every thread.
    pub fn new(threads: Vec<UnboundedSender<ThreadDoor>>) -> Doors {
        Doors {
            threads,
            open: BTreeMap::new(),
            shut: BTreeMap::new(),
        }
    }

    /// Brings the doors in line with what is `wanted`. Called at each view and twice a second.
    pub fn reconcile(&mut self, wanted: Option<Vec<Door>>, has_identity: bool) {
        // Without a view nothing is known, so nothing changes.
        let Some(wanted) = wanted else { return };
        let gone: Vec<_> = self
            .open
            .keys()
            .filter(|door| !wanted.contains(door))
            .cloned()
            .collect();
        for door in gone {
            self.close(&door);
        }
        self.shut.retain(|door, _| wanted.contains(door));
        for door in wanted {
            if self.open.get(&door).is_some_and(OpenDoor::is_ours) {
                continue;
            }
            if let Some(lost) = self.open.remove(&door) {
                tracing::warn!(%door, "the socket's file was removed or replaced: listening anew");
                lost.stop.cancel();
            }
            if matches!(door, Door::Relay(_)) && !has_identity {
                self.note_shut(door, "this server has no identity in the fleet yet".to_owned());
                continue;
            }
            match self.try_open(&door) {
                Ok(open) => {
                    tracing::info!(%door, "listening");
                    self.shut.remove(&door);
                    self.open.insert(door, open);
                }
                Err(error) => self.note_shut(door, error.to_string()),
            }
        }
    }

    /// Whether a door is wanted that was neither open nor tried so far.
    pub fn differ_from(&self, wanted: Option<&[Door]>) -> bool {
        let known = |door: &Door| self.open.contains_key(door) || self.shut.contains_key(door);
        wanted.is_some_and(|wanted| !wanted.iter().all(known))
    }

    /// What is not open, each with its reason.
    pub fn not_listening(&self) -> Vec<String> {
        self.shut
            .iter()
            .map(|(door, reason)| format!("{door}: {reason}"))
            .collect()
    }

    /// Closes every door and lets the threads know that none will follow.
    pub fn close_all(mut self) {
        for door in self.open.keys().cloned().collect::<Vec<_>>() {
            self.close(&door);
        }
    }

    fn note_shut(&mut self, door: Door, reason: String) {
        if self.shut.get(&door) != Some(&reason) {
            tracing::warn!(%door, reason, "cannot listen: trying again");
        }
        self.shut.insert(door, reason);
    }

    fn close(&mut self, door: &Door) {
        let Some(open) = self.open.remove(door) else {
            return;
        };
        tracing::info!(%door, "no longer listening");
        if let Some(file) = open
            .file
            .as_ref()
            .filter(|file| SocketFile::of(&file.path).as_ref() == Some(file))
        {
            // A new client then finds no socket, rather than one that nobody serves.
            if let Err(error) = std::fs::remove_file(&file.path) {
                tracing::warn!(%error, path = %file.path.display(), "the socket's file stays behind");
            }
        }
        open.stop.cancel();
    }

    fn try_open(&self, door: &Door) -> io::Result<OpenDoor> {
        let stop = CancellationToken::new();
        let mut file = None;
        let mut listeners = Vec::with_capacity(self.threads.len());
        match door {
            Door::Client(ListenAddress::Unix(path)) => {
                let listener = listen::unix(path, SOCKET_MODE)?;
                file = SocketFile::of(path);
                for _ in 1..self.threads.len() {
                    listeners.push(Listener::ClientUnix(listener.try_clone()?));
                }
                listeners.push(Listener::ClientUnix(listener));
            }
            Door::Client(ListenAddress::Tcp(address)) => {
                for _ in &self.threads {
                    listeners.push(Listener::ClientTcp(tcp(*address)?));
                }
            }
            Door::Relay(address) => {
                for _ in &self.threads {
                    listeners.push(Listener::Relay(tcp(*address)?));
                }
            }
        }
        for (thread, listener) in self.threads.iter().zip(listeners) {
            // A thread ends only after the last door has closed.
            let _ = thread.send(ThreadDoor {
                listener,
                stop: stop.clone(),
            });
        }
        Ok(OpenDoor { stop, file })
    }
}

/// One socket a thread: the kernel spreads the connections (`SO_REUSEPORT`).
fn tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    listen::tcp(
        address,
        ListenOptions {
            reuse_port: true,
            ..ListenOptions::default()
        },
    )
}

impl OpenDoor {
    /// Whether clients that look for the door find this one.
    fn is_ours(&self) -> bool {
        self.file
            .as_ref()
            .is_none_or(|file| SocketFile::of(&file.path).as_ref() == Some(file))
    }
}

impl SocketFile {
    fn of(path: &Path) -> Option<SocketFile> {
        let metadata = std::fs::symlink_metadata(path).ok()?;
        Some(SocketFile {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// Accepts until `stop`, and then what already waits (closing a socket resets the connections in its queue), but not
/// for ever.
pub async fn accept_all<S, F>(stop: &CancellationToken, accept: impl Fn() -> F, mut serve: impl FnMut(S))
where
    F: Future<Output = io::Result<S>>,
{
    let mut late = 0;
    while late < MAX_LATE {
        late += usize::from(stop.is_cancelled());
        let accepted = tokio::select! {
            biased;
            accepted = accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok(stream) => serve(stream),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                if stop.is_cancelled() {
                    return;
                }
            }
        }
    }
}

/// How long to wait after an accept failed (out of file descriptors) rather than spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections taken from a listening socket's queue after it was told to stop.
const MAX_LATE: usize = 4096;
