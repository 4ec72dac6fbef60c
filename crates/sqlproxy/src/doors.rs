//! Where the proxy listens: opens what the view asks for, closes what it no longer does, and tries again what could not
//! be opened: every 10 ms for a minute after the view asked (the database is moving aside), then twice a second.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pontoon_fleet::{FleetView, ListenAddress, Role, ServerName};
use pontoon_rt::listen::{self, ListenOptions};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

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
    me: ServerName,
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

/// As mysqld does: whoever may reach the directory may connect; the password decides.
const SOCKET_MODE: u32 = 0o777;

impl Doors {
    /// None open yet. Each opened door is handed to every thread.
    pub fn new(me: ServerName, threads: Vec<UnboundedSender<ThreadDoor>>) -> Doors {
        Doors {
            me,
            threads,
            open: BTreeMap::new(),
            shut: BTreeMap::new(),
        }
    }

    /// Brings the doors in line with `view`. Called at each view and twice a second.
    pub fn reconcile(&mut self, view: Option<&FleetView>, has_identity: bool) {
        // Without a view nothing is known, so nothing changes.
        let Some(view) = view else { return };
        let wanted = wanted(view, &self.me);
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

    /// Whether `view` asks for a door that was neither open nor tried so far.
    pub fn differ_from(&self, view: Option<&FleetView>) -> bool {
        let known = |door: &Door| self.open.contains_key(door) || self.shut.contains_key(door);
        view.is_some_and(|view| !wanted(view, &self.me).iter().all(known))
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

fn wanted(view: &FleetView, me: &ServerName) -> Vec<Door> {
    let (Some(sql), Some(server)) = (&view.sql, view.server(me)) else {
        return Vec::new();
    };
    let mut doors = Vec::new();
    if server.roles.contains(&Role::App) {
        doors.extend(sql.listen.iter().cloned().map(Door::Client));
    }
    if server.roles.contains(&Role::Db) {
        doors.push(Door::Relay(server.sql_relay()));
    }
    doors
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::tests::view;
    use tokio::sync::mpsc;

    fn doors() -> (Doors, mpsc::UnboundedReceiver<ThreadDoor>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Doors::new("a".parse().unwrap(), vec![sender]), receiver)
    }

    fn listening_on(listen: Vec<ListenAddress>) -> FleetView {
        let mut view = view(Some("a"), 1);
        view.servers[0].roles.remove(&Role::Db);
        view.sql.as_mut().unwrap().listen = listen;
        view
    }

    #[test]
    fn a_taken_address_is_reported_and_tried_again() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let view = listening_on(vec![ListenAddress::Tcp(address)]);
        let (mut doors, mut opened) = doors();
        doors.reconcile(Some(&view), false);
        assert!(doors.not_listening()[0].starts_with(&address.to_string()));
        drop(taken);
        doors.reconcile(Some(&view), false);
        assert!(doors.not_listening().is_empty());
        assert!(matches!(
            opened.try_recv().unwrap().listener,
            Listener::ClientTcp(_)
        ));
    }

    #[test]
    fn the_socket_is_open_to_all_and_unlinked_only_while_it_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mysqld.sock");
        let view = listening_on(vec![ListenAddress::Unix(path.clone())]);
        let (mut doors, _opened) = doors();
        doors.reconcile(Some(&view), false);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o777);
        // A database that starts at its old place removes the file and binds anew.
        std::fs::remove_file(&path).unwrap();
        let intruder = std::os::unix::net::UnixListener::bind(&path).unwrap();
        doors.reconcile(Some(&view), false);
        assert!(
            doors.not_listening()[0].contains("listens"),
            "{:?}",
            doors.not_listening()
        );
        doors.close_all();
        assert!(path.exists(), "another's socket is left alone");
        drop(intruder);
    }

    #[test]
    fn a_socket_that_somebody_removed_comes_back_and_goes_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mysqld.sock");
        let view = listening_on(vec![ListenAddress::Unix(path.clone())]);
        let (mut doors, mut opened) = doors();
        doors.reconcile(Some(&view), false);
        let first = opened.try_recv().unwrap();
        std::fs::remove_file(&path).unwrap();
        doors.reconcile(Some(&view), false);
        assert!(first.stop.is_cancelled());
        let second = opened.try_recv().unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        doors.close_all();
        assert!(second.stop.is_cancelled() && !path.exists());
    }

    #[test]
    fn the_relay_needs_an_identity_and_the_role() {
        let mut view = listening_on(Vec::new());
        let (mut doors, _opened) = doors();
        doors.reconcile(Some(&view), false);
        assert!(doors.not_listening().is_empty());
        view.servers[0].roles.insert(Role::Db);
        doors.reconcile(Some(&view), false);
        assert!(doors.not_listening()[0].contains("identity"));
    }

    #[test]
    fn a_view_without_a_database_closes_the_doors_and_no_view_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut view = listening_on(vec![ListenAddress::Unix(path.clone())]);
        let (mut doors, _opened) = doors();
        doors.reconcile(Some(&view), false);
        doors.reconcile(None, false);
        assert!(path.exists());
        view.sql = None;
        doors.reconcile(Some(&view), false);
        assert!(!path.exists());
    }
}
