//! A proxy in this process, with a stand-in for the agent, and raw clients and databases.
#![allow(dead_code)] // each test file uses its part
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests: a panic is the report

pub mod database;
pub mod door;
pub mod pair;
pub mod raw;
pub mod session;
pub mod spread;
pub mod standin;
pub mod two;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_fleet::{
    BootMoment, DatabaseServerView, Engine, Epoch, FleetView, ListenAddress, Ports, ReadsView, Revision,
    Role, ServerState, ServerView, SqlReport, SqlView, TierDetail, TierReport,
};
use pontoon_mysql_wire::{
    Capabilities, ErrorPacket, FrameHeader, Greeting, ServerGreeting, StatusFlags, encode_packet,
};
use pontoon_pki::Authority;
use pontoon_rt::paths::Paths;
use pontoon_rt::shutdown::Shutdown;
use pontoon_rt::view::ViewPublisher;
use pontoon_sqlproxy::{Limits, Sessions, SqlOptions};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

pub const SOON: Duration = Duration::from_secs(10);

/// Times that keep tests short.
pub fn limits() -> Limits {
    Limits {
        first_attempt: Duration::from_millis(200),
        grace: Duration::from_secs(1),
        sessions: Sessions::WheneverPossible,
        ..Limits::default()
    }
}

pub fn free_port() -> u16 {
    pontoon_testkit::free_port().unwrap()
}

/// A view of servers `a` and `b` in which the application's database is at `listen`.
#[derive(Clone, Debug)]
pub struct View {
    pub listen: Vec<ListenAddress>,
    pub backend_tcp: SocketAddr,
    pub backend_socket: Option<PathBuf>,
    pub primary: Option<&'static str>,
    pub epoch: u64,
    pub revision: u64,
    pub hold: Duration,
    pub holding: Option<BootMoment>,
    pub relay_ports: [u16; 2],
    pub roles: Vec<Role>,
    pub engine: Engine,
    pub reads: Option<ReadsView>,
    /// The database servers; none for those that follow from nothing but the primary.
    pub databases: Vec<&'static str>,
}

impl View {
    pub fn new(listen: &[ListenAddress], backend_tcp: SocketAddr) -> View {
        View {
            listen: listen.to_vec(),
            backend_tcp,
            backend_socket: None,
            primary: Some("a"),
            epoch: 1,
            revision: 1,
            hold: Duration::from_secs(1),
            holding: None,
            relay_ports: [1, 2],
            roles: vec![Role::App],
            engine: Engine::Mariadb,
            reads: None,
            databases: Vec::new(),
        }
    }

    pub fn build(&self) -> FleetView {
        let server = |name: &str, private: &str, relay: u16| ServerView {
            name: name.parse().unwrap(),
            private: private.parse().unwrap(),
            public: Vec::new(),
            roles: self.roles.iter().copied().collect(),
            zone: None,
            standby: false,
            state: ServerState::Up,
            ports: Ports {
                agent: 1,
                edge_relay: 2,
                sql_relay: relay,
                cache_relay: 1,
                assets: 3,
            },
            edge_listen: Vec::new(),
            weight: 1,
            drained_at: None,
        };
        FleetView {
            fleet: "test".parse().unwrap(),
            revision: Revision(self.revision),
            epoch: Epoch(self.epoch),
            serial: 0,
            assets: None,
            takeover: None,
            routed: false,
            cache: None,
            servers: vec![
                server("a", "127.0.0.1", self.relay_ports[0]),
                server("b", "127.0.0.2", self.relay_ports[1]),
            ],
            app: None,
            https: None,
            limits: Default::default(),
            front: Default::default(),
            dns: None,
            addresses: Vec::new(),
            answers: Default::default(),
            addresses_changed: pontoon_fleet::UnixMillis::default(),
            sql: Some(SqlView {
                engine: self.engine,
                listen: self.listen.clone(),
                backend_tcp: self.backend_tcp,
                backend_socket: self.backend_socket.clone(),
                primary: self.primary.map(|name| name.parse().unwrap()),
                servers: self
                    .databases
                    .iter()
                    .map(|name| DatabaseServerView {
                        server: name.parse().unwrap(),
                        lag_ms: None,
                        position: None,
                    })
                    .collect(),
                hold_writes: self.hold,
                write_until: None,
                holding: self.holding.clone(),
                reads: self.reads.clone(),
            }),
        }
    }
}

/// The agent's side of one server.
pub struct Agent {
    publisher: ViewPublisher,
    reports: mpsc::Receiver<TierReport>,
    end: Shutdown,
    /// Of the last view.
    serial: std::cell::Cell<u64>,
}

impl Agent {
    pub async fn start(paths: &Paths) -> Agent {
        paths.create_dirs().unwrap();
        let end = Shutdown::new();
        let bound = pontoon_testkit::wait_until("the view socket", SOON, || async {
            ViewPublisher::bind(paths, end.clone()).ok()
        });
        let (publisher, reports) = bound.await.unwrap();
        Agent {
            publisher,
            reports,
            end,
            serial: 0.into(),
        }
    }

    pub fn publish(&self, view: &View) {
        self.serial.set(self.publisher.publish(view.build()).unwrap());
    }

    /// Waits for a report that is as `wanted`.
    pub async fn report(&mut self, what: &str, wanted: impl Fn(&SqlReport) -> bool) -> SqlReport {
        let mut last = None;
        let find = async {
            while let Some(report) = self.reports.recv().await {
                if let TierDetail::Sql(sql) = report.detail {
                    if wanted(&sql) {
                        return sql;
                    }
                    last = Some(sql);
                }
            }
            panic!("no more reports");
        };
        match timeout(SOON, find).await {
            Ok(found) => found,
            Err(_) => panic!("no report with {what}; the last: {last:?}"),
        }
    }

    /// Waits until the proxy obeys the last view.
    pub async fn obeyed(&mut self) {
        // A report may be made between the view's arrival and its being obeyed; the one after it is not.
        let mut reports = 0;
        while reports < 2 {
            let report = timeout(SOON, self.reports.recv())
                .await
                .expect("no report")
                .unwrap();
            reports += usize::from(report.view_serial == self.serial.get());
        }
    }

    pub fn kill(self) {
        self.end.trigger();
    }
}

/// A proxy on its own threads.
pub struct Proxy {
    pub shutdown: Shutdown,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    pub fn start(server: &str, paths: &Paths, limits: Limits) -> Proxy {
        Proxy::start_on(2, server, paths, limits)
    }

    pub fn start_on(threads: usize, server: &str, paths: &Paths, limits: Limits) -> Proxy {
        paths.create_dirs().unwrap();
        let shutdown = Shutdown::new();
        let options = SqlOptions {
            server: server.parse().unwrap(),
            paths: paths.clone(),
            threads,
        };
        let thread = std::thread::spawn({
            let shutdown = shutdown.clone();
            move || pontoon_sqlproxy::run_until(&options, limits, &shutdown).unwrap()
        });
        Proxy {
            shutdown,
            thread: Some(thread),
        }
    }

    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    pub async fn stop(mut self) {
        self.shutdown.trigger();
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap())
            .await
            .unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shutdown.trigger();
        self.shutdown.hurry();
    }
}

/// A proxy of server `a`, its agent and its folder.
pub struct One {
    pub proxy: Proxy,
    pub agent: Agent,
    pub view: View,
    pub address: SocketAddr,
    pub paths: Paths,
    pub dir: tempfile::TempDir,
}

impl One {
    /// One that listens on TCP, with a database at `backend`.
    pub async fn start(backend: SocketAddr, limits: Limits) -> One {
        One::start_with(backend, limits, |_| ()).await
    }

    pub async fn start_with(backend: SocketAddr, limits: Limits, change: impl FnOnce(&mut View)) -> One {
        One::start_on(2, backend, limits, change).await
    }

    pub async fn start_on(
        threads: usize,
        backend: SocketAddr,
        limits: Limits,
        change: impl FnOnce(&mut View),
    ) -> One {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut view = View::new(&[ListenAddress::Tcp(address)], backend);
        change(&mut view);
        let agent = Agent::start(&paths).await;
        agent.publish(&view);
        let proxy = Proxy::start_on(threads, "a", &paths, limits);
        wait_listening(address).await;
        One {
            proxy,
            agent,
            view,
            address,
            paths,
            dir,
        }
    }

    pub async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub fn publish(&mut self, change: impl FnOnce(&mut View)) {
        change(&mut self.view);
        self.agent.publish(&self.view);
    }
}

/// Waits until something listens, without a connection that would be counted.
pub async fn wait_listening(address: SocketAddr) {
    let wanted = format!("{:08X}:{:04X}", u32::from_le_bytes(v4(address)), address.port());
    let listening = pontoon_testkit::wait_until("a listening socket", SOON, || async {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let found = table.lines().any(|line| {
            let mut fields = line.split_whitespace();
            fields.nth(1) == Some(&wanted) && fields.nth(1) == Some("0A")
        });
        found.then_some(())
    });
    listening.await.unwrap();
}

fn v4(address: SocketAddr) -> [u8; 4] {
    match address {
        SocketAddr::V4(address) => address.ip().octets(),
        SocketAddr::V6(_) => panic!("an IPv4 address"),
    }
}

/// A greeting as a packet.
pub fn greeting(thread_id: u32) -> Vec<u8> {
    let greeting = Greeting {
        server_version: b"10.11.0-MariaDB-test".to_vec(),
        thread_id,
        capabilities: Capabilities::PROTOCOL_41 | Capabilities::SECURE_CONNECTION | Capabilities::PLUGIN_AUTH,
        character_set: 45,
        status: StatusFlags::AUTOCOMMIT,
        auth_data: b"abcdefghijklmnopqrst".to_vec(),
        auth_plugin: b"mysql_native_password".to_vec(),
    };
    packet(&greeting.to_payload())
}

pub fn packet(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_packet(&mut bytes, 0, payload);
    bytes
}

/// The first packet that a client sees, and not a byte more.
pub async fn first_packet(stream: &mut (impl AsyncRead + Unpin)) -> ServerGreeting {
    let read = async {
        let mut header = [0; 4];
        stream
            .read_exact(&mut header)
            .await
            .expect("closed without a packet");
        let mut payload = vec![0; FrameHeader::parse(header).len];
        stream
            .read_exact(&mut payload)
            .await
            .expect("closed within a packet");
        ServerGreeting::parse(&payload).unwrap()
    };
    timeout(SOON, read).await.expect("no packet in time")
}

pub async fn expect_ready(stream: &mut (impl AsyncRead + Unpin)) -> Greeting {
    match first_packet(stream).await {
        ServerGreeting::Ready(greeting) => greeting,
        ServerGreeting::Refused(error) => panic!("refused: {error}"),
    }
}

pub async fn expect_refused(stream: &mut (impl AsyncRead + Unpin)) -> ErrorPacket {
    match first_packet(stream).await {
        ServerGreeting::Refused(error) => error,
        ServerGreeting::Ready(greeting) => panic!("greeted: {greeting:?}"),
    }
}

/// Whether the peer closes soon.
pub async fn expect_closed(stream: &mut (impl AsyncRead + Unpin)) {
    let mut bytes = [0; 1024];
    let end = async { while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {} };
    timeout(SOON, end).await.expect("it stays open");
}

/// Says something and hears it back.
pub async fn expect_echo(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    let mut heard = vec![0; text.len()];
    timeout(SOON, stream.read_exact(&mut heard))
        .await
        .expect("no echo")
        .unwrap();
    assert_eq!(heard, text);
}

/// A database on loopback that does to the n-th connection (from 0) what the test says.
pub async fn database<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(usize, TcpStream) -> Fut + Send + Sync + Clone + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serve_on(listener, serve);
    address
}

pub fn serve_on<F, Fut>(listener: TcpListener, serve: F)
where
    F: Fn(usize, TcpStream) -> Fut + Send + Sync + Clone + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        for count in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(count, stream));
        }
    });
}

/// Greets and then says back what it hears.
pub async fn echo(count: usize, mut stream: TcpStream) {
    if stream.write_all(&greeting(count as u32)).await.is_ok() {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    }
}

/// Accepts and says nothing, as the kernel does for a frozen process.
pub async fn silent(_: usize, stream: TcpStream) {
    tokio::time::sleep(Duration::from_secs(60)).await;
    drop(stream);
}

pub fn at_least(began: Instant, span: Duration) {
    let took = began.elapsed();
    assert!(took >= span, "after only {took:?}");
    assert!(took < span + Duration::from_secs(3), "as late as {took:?}");
}

pub fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

/// An authority and what it gave out.
pub fn found_fleet() -> Authority {
    pontoon_testkit::found_fleet("test").unwrap()
}

/// Gives the server its identity in the fleet of `authority`.
pub fn identify(authority: &Authority, server: &str, private: &str, paths: &Paths) {
    pontoon_testkit::identify(authority, server, private.parse().unwrap(), paths).unwrap();
}

/// What Prometheus would read.
pub async fn metrics(one: &One) -> String {
    let mut stream = UnixStream::connect(one.paths.run_dir.join("sql.sock"))
        .await
        .unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    timeout(SOON, stream.read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    text
}

/// What the kernel may keep at most of what is on its way through the proxy: two receive and two send buffers.
pub fn most_in_kernel_buffers() -> u64 {
    let limit = |file: &str| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{file}")).unwrap();
        text.split_whitespace().last().unwrap().parse().unwrap()
    };
    2 * (limit("tcp_rmem") + limit("tcp_wmem"))
}
