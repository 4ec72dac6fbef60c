//! Which programs listen on which TCP ports and Unix sockets, from `/proc` alone.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pontoon_decide::ListenerFact;
use pontoon_fleet::ListenAddress;
use pontoon_helper::find;
use pontoon_rt::proc_net;

/// A listening TCP socket.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// Whose; `None` when this user may not see it (other users' processes are hidden from non-root).
    pub program: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
}

impl Listener {
    /// Whether it takes connections to `address`, alone or among others.
    pub fn covers(&self, address: SocketAddr) -> bool {
        self.address.port() == address.port()
            && (self.address.ip() == address.ip()
                || address.ip().is_unspecified()
                || self.address.ip().is_unspecified()
                    // A socket on :: takes IPv4 too, unless told otherwise (ipv6(7), IPV6_V6ONLY).
                    && (self.address.is_ipv6() || address.is_ipv4()))
    }

    /// Where this machine itself reaches it.
    pub fn local(&self) -> SocketAddr {
        let ip = match self.address.ip() {
            ip if !ip.is_unspecified() => ip,
            // What listens on :: mostly takes 127.0.0.1 too, which is what people write.
            _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        SocketAddr::new(ip, self.address.port())
    }
}

/// Everything that listens in this network namespace, TCP by port first; `root` is `/` but in tests.
///
/// Without the right to look into other users' processes a socket's owner is told from its user: right for a database
/// or for Pontoon itself, which have users of their own, and left open where one user has many programs.
pub fn look(root: &Path) -> Vec<ListenerFact> {
    let mut sockets: Vec<Socket> = Vec::new();
    for file in ["proc/net/tcp", "proc/net/tcp6"] {
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        sockets.extend(text.lines().filter_map(parse_tcp));
    }
    let text = std::fs::read(root.join("proc/net/unix")).unwrap_or_default();
    sockets.extend(String::from_utf8_lossy(&text).lines().filter_map(parse_unix));
    let owners = if sockets.is_empty() {
        Owners::default()
    } else {
        Owners::look(root)
    };
    let mut found: Vec<ListenerFact> = sockets
        .into_iter()
        .map(|socket| {
            let (pid, program) = owners.of(&socket);
            ListenerFact {
                at: socket.at,
                program,
                pid,
            }
        })
        .collect();
    let order = |at: &ListenAddress| match at {
        ListenAddress::Tcp(address) => (0, address.port(), at.clone()),
        ListenAddress::Unix(_) => (1, 0, at.clone()),
    };
    found.sort_by_key(|listener| order(&listener.at));
    found.dedup();
    found
}

/// The TCP sockets among them.
pub fn tcp(found: &[ListenerFact]) -> Vec<Listener> {
    found
        .iter()
        .filter_map(|fact| match &fact.at {
            ListenAddress::Tcp(address) => Some(Listener {
                address: *address,
                program: (!fact.program.is_empty()).then(|| fact.program.clone()),
                pid: fact.pid,
            }),
            ListenAddress::Unix(_) => None,
        })
        .collect()
}

/// A listening socket before its owner is known.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    at: ListenAddress,
    inode: u64,
    /// The user who made it; `None` when the kernel does not say.
    uid: Option<u32>,
}

/// A line of `/proc/net/tcp` (proc_pid_net(5)) that is in state LISTEN.
fn parse_tcp(line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    if fields.nth(1)? != "0A" {
        return None;
    }
    let uid = fields.nth(3)?.parse().ok();
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Socket {
        at: ListenAddress::Tcp(proc_net::parse_end(local)?),
        inode,
        uid,
    })
}

/// A line of `/proc/net/unix` (proc_pid_net(5)) of a socket that takes connections and has a path.
fn parse_unix(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, _, _, flags, _, _, inode, path] = fields.as_slice() else {
        return None;
    };
    let accepts = u32::from_str_radix(flags, 16).ok()? & 0x1_0000 != 0; // __SO_ACCEPTCON
    if !accepts || !path.starts_with('/') {
        return None;
    }
    let uid = std::fs::symlink_metadata(path)
        .ok()
        .map(|metadata| metadata.uid());
    Some(Socket {
        at: ListenAddress::Unix(PathBuf::from(path)),
        inode: inode.parse().ok()?,
        uid,
    })
}

/// Who owns which socket.
#[derive(Default)]
struct Owners {
    /// Socket inode → process id and name, of the processes that may be looked into.
    by_inode: HashMap<u64, (u32, String)>,
    /// User → its only program, for the others.
    by_uid: HashMap<u32, Option<String>>,
}

impl Owners {
    fn look(root: &Path) -> Owners {
        let mut owners = Owners::default();
        let Ok(processes) = std::fs::read_dir(root.join("proc")) else {
            return owners;
        };
        for process in processes.flatten() {
            let Some(pid) = process
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            // A process that ended meanwhile has nothing to say.
            let Ok(name) = std::fs::read_to_string(process.path().join("comm")) else {
                continue;
            };
            let name = behind_loader(name.trim(), pid);
            let name = name.as_str();
            match std::fs::read_dir(process.path().join("fd")) {
                Ok(files) => {
                    let targets = files
                        .flatten()
                        .filter_map(|file| std::fs::read_link(file.path()).ok());
                    for inode in targets.filter_map(|target| socket_inode(target.to_str()?)) {
                        // Forked workers share the socket: the lowest pid is nearly always the parent.
                        let owner = owners
                            .by_inode
                            .entry(inode)
                            .or_insert_with(|| (pid, name.to_owned()));
                        if pid < owner.0 {
                            *owner = (pid, name.to_owned());
                        }
                    }
                }
                Err(_) => {
                    let Ok(uid) = process.metadata().map(|metadata| metadata.uid()) else {
                        continue;
                    };
                    let only = owners.by_uid.entry(uid).or_insert_with(|| Some(name.to_owned()));
                    if only.as_deref() != Some(name) {
                        *only = None;
                    }
                }
            }
        }
        owners
    }

    fn of(&self, socket: &Socket) -> (Option<u32>, String) {
        if let Some((pid, name)) = self.by_inode.get(&socket.inode) {
            return (Some(*pid), name.clone());
        }
        let only = socket
            .uid
            .and_then(|uid| self.by_uid.get(&uid))
            .cloned()
            .flatten();
        (None, only.unwrap_or_default())
    }
}

/// A database that is run by a dynamic loader of its own (ld.so(8)) has the loader's name: its own is in its arguments.
fn behind_loader(name: &str, pid: u32) -> String {
    let database = name.starts_with("ld-").then(|| find::server(pid)).flatten();
    let program = database.and_then(|server| {
        let program = PathBuf::from(server.program.last()?);
        Some(program.file_name()?.to_string_lossy().into_owned())
    });
    program.unwrap_or_else(|| name.to_owned())
}

fn socket_inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_listener_is_found_with_its_program() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let found = tcp(&look(Path::new("/")));
        let listener = found
            .iter()
            .find(|listener| listener.address == address)
            .expect("not found");
        assert_eq!(listener.pid, Some(std::process::id()));
        assert!(
            listener.covers(address)
                && listener.covers(SocketAddr::new("0.0.0.0".parse().unwrap(), address.port()))
        );
        assert!(!listener.covers(SocketAddr::new("127.0.0.2".parse().unwrap(), address.port())));
    }

    #[test]
    fn a_unix_socket_is_found_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let wanted = ListenAddress::Unix(path);
        let found = look(Path::new("/"));
        assert_eq!(
            found.iter().find(|fact| fact.at == wanted).unwrap().pid,
            Some(std::process::id())
        );
        assert_eq!(parse_unix("0: 2 0 00000000 1 1 7 /x"), None);
        assert_eq!(parse_unix("0: 2 0 00010000 1 1 7 @abstract"), None);
    }

    #[test]
    fn nonsense_in_proc_is_passed_over() {
        for bad in [
            "",
            "sl local_address",
            "0: 0100007F:1F90",
            "0: XX:YY 0:0 0A 0 0 0 0 0 7",
            "0: é:1 é:2 0A é é é é é 1",
        ] {
            assert_eq!(parse_tcp(bad), None, "{bad}");
        }
        assert!(look(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn a_socket_whose_owner_cannot_be_looked_into_is_its_users_only_program() {
        let owners = Owners {
            by_inode: HashMap::new(),
            by_uid: HashMap::from([(105, Some("mariadbd".to_owned())), (0, None)]),
        };
        let line = "0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000   105        0 4711 1 0";
        let mut socket = parse_tcp(line).unwrap();
        assert_eq!((socket.uid, socket.inode), (Some(105), 4711));
        assert_eq!(owners.of(&socket), (None, "mariadbd".to_owned()));
        socket.uid = Some(0);
        assert_eq!(
            owners.of(&socket),
            (None, String::new()),
            "root has many programs"
        );
    }

    #[test]
    fn a_socket_on_the_wildcard_takes_every_address_of_its_family() {
        let on = |address: &str| Listener {
            address: address.parse().unwrap(),
            program: None,
            pid: None,
        };
        assert!(on("0.0.0.0:80").covers("198.51.100.1:80".parse().unwrap()));
        assert!(!on("0.0.0.0:80").covers("[2001:db8::1]:80".parse().unwrap()));
        assert!(on("[::]:80").covers("198.51.100.1:80".parse().unwrap()));
        assert!(!on("[::]:81").covers("198.51.100.1:80".parse().unwrap()));
        assert_eq!(on("[::]:80").local(), "127.0.0.1:80".parse().unwrap());
        assert_eq!(
            on("[2001:db8::1]:80").local(),
            "[2001:db8::1]:80".parse().unwrap()
        );
    }
}
