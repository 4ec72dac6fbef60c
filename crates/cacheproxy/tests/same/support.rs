//! Cache proxies with real memcached behind them, without an agent: the view is a file.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pontoon_cacheproxy::{CacheOptions, Limits, PROGRAM, arguments, run_until};
use pontoon_fleet::{
    CacheList, CacheMember, CachePlacement, CacheView, Epoch, FleetView, ListenAddress, Ports, Revision,
    Role, ServerState, ServerView, UnixMillis,
};
use pontoon_rt::paths::Paths;
use pontoon_rt::shutdown::Shutdown;
use pontoon_testkit::{find_program, free_port};

/// Long enough for a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// A process that ends with the test.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cache proxy before one memcached.
pub struct One {
    pub proxy: SocketAddr,
    pub memcached: Option<Process>,
    pub dir: tempfile::TempDir,
    shutdown: Shutdown,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl One {
    /// `None`, and a line, when memcached is not installed.
    pub fn start() -> Option<One> {
        program(PROGRAM)?;
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            config: dir.path().join("fleet.toml"),
            state_dir: dir.path().to_owned(),
            run_dir: dir.path().to_owned(),
        };
        let proxy = free_address();
        write_view(&paths, &view(proxy));
        let memcached = memcached(&paths.memcached_socket());
        let shutdown = Shutdown::new();
        let options = CacheOptions {
            server: "a".parse().unwrap(),
            paths,
            threads: 2,
        };
        let ends = shutdown.clone();
        let limits = Limits {
            // A busy machine is no dead server.
            silence: Duration::from_secs(5),
            fill: SOON,
            ..Limits::default()
        };
        let thread = std::thread::spawn(move || run_until(&options, limits, &ends).unwrap());
        let one = One {
            proxy,
            memcached: Some(memcached),
            dir,
            shutdown,
            thread: Some(thread),
        };
        one.wait_until_it_serves();
        Some(one)
    }

    fn wait_until_it_serves(&self) {
        until(|| {
            TcpStream::connect(self.proxy)
                .is_ok_and(|mut stream| say(&mut stream, b"set ready 0 0 1\r\nx\r\n") == b"STORED\r\n")
        });
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.shutdown.trigger();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for what is so before long.
pub fn until(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end, "it did not come to be so");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A program that is installed, or that `script/get-memcached` unpacked; else `None`, and a line.
pub fn program(name: &str) -> Option<PathBuf> {
    let unpacked = unpacked().join("bin").join(name);
    let found = find_program(name).or_else(|| unpacked.exists().then_some(unpacked));
    if found.is_none() {
        println!("SKIPPED: {name} is not installed, and script/get-memcached has not been run");
    }
    found
}

/// Where `script/get-memcached` puts things.
pub fn unpacked() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/memcached")
}

/// The memcached that the agent would start.
pub fn memcached(socket: &Path) -> Process {
    let mut command = Command::new(program(PROGRAM).unwrap());
    command.args(arguments(socket, 64 << 20)).args(["-u", "root"]);
    Process(command.stdin(Stdio::null()).spawn().unwrap())
}

/// One that is dialled over TCP, as an application does without a proxy.
pub fn memcached_at(address: SocketAddr) -> Process {
    let mut command = Command::new(program(PROGRAM).unwrap());
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    command.args(["-l", &host, "-p", &port, "-U", "0", "-u", "root"]);
    let process = Process(command.stdin(Stdio::null()).spawn().unwrap());
    until(|| TcpStream::connect(address).is_ok());
    process
}

/// A free address of loopback.
pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()))
}

/// One line there, one line back.
pub fn say(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(bytes).unwrap();
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        line.push(byte[0]);
    }
    line
}

fn write_view(paths: &Paths, view: &FleetView) {
    std::fs::write(paths.view_file(), serde_json::to_vec(view).unwrap()).unwrap();
}

fn view(proxy: SocketAddr) -> FleetView {
    FleetView {
        fleet: "test".parse().unwrap(),
        revision: Revision(1),
        epoch: Epoch(1),
        serial: 1,
        takeover: None,
        routed: false,
        answers: Default::default(),
        assets: None,
        cache: Some(CacheView {
            listen: vec![ListenAddress::Tcp(proxy)],
            memory_bytes: 64 << 20,
            fill_once: vec!["page:".to_owned()],
            list: Some(CacheList {
                number: 1,
                open: true,
                placement: CachePlacement::Ketama,
                members: vec![CacheMember {
                    server: "a".parse().unwrap(),
                    label: "a".to_owned(),
                    life: 1,
                    left_behind: false,
                }],
                before: Vec::new(),
                back: None,
            }),
        }),
        servers: vec![ServerView {
            name: "a".parse().unwrap(),
            private: "127.0.0.1".parse().unwrap(),
            public: Vec::new(),
            roles: Role::ALL.into_iter().collect(),
            zone: None,
            standby: false,
            state: ServerState::Up,
            ports: Ports::from_base(7400),
            edge_listen: Vec::new(),
            weight: 1,
            drained_at: None,
        }],
        app: None,
        https: None,
        limits: Default::default(),
        front: Default::default(),
        dns: None,
        addresses: Vec::new(),
        addresses_changed: UnixMillis::default(),
        sql: None,
    }
}
