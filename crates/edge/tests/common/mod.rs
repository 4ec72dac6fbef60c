//! What the integration tests share: a real edge, obeying a real view, in front of scripted applications.
#![allow(dead_code, missing_docs)] // each test file uses its part

pub mod tls;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown as Side, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pontoon_edge::{EdgeError, EdgeOptions, Tuning};
use pontoon_fleet::{
    AppView, BalanceRule, EdgeReport, Epoch, FleetView, HealthCheck, Ports, RetryPolicy, Revision, Role,
    ServerState, ServerView, TierDetail, TierReport,
};
use pontoon_rt::paths::Paths;
use pontoon_rt::shutdown::Shutdown;
use pontoon_rt::view::ViewPublisher;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;

pub const SECOND: Duration = Duration::from_secs(1);

/// A port that is free on all of 127.0.0.1, .2 and .3.
pub fn free_port() -> u16 {
    pontoon_testkit::free_port().unwrap()
}

pub fn server(name: &str, last: u8, roles: &[Role], ports: Ports, listen: Option<SocketAddr>) -> ServerView {
    ServerView {
        name: name.parse().unwrap(),
        private: IpAddr::from([127, 0, 0, last]),
        public: Vec::new(),
        roles: roles.iter().copied().collect(),
        zone: None,
        standby: false,
        state: ServerState::Up,
        ports,
        edge_listen: listen.into_iter().collect(),
        weight: 1,
        drained_at: None,
    }
}

/// A view of `count` servers a, b, c at 127.0.0.1, .2, .3, whose applications listen on `app` there and whose
/// first has an edge on `listen`.
pub fn view(count: u8, app: SocketAddr, listen: SocketAddr) -> FleetView {
    let servers = (1..=count)
        .map(|n| {
            let ports = Ports::from_base(free_port());
            let roles: &[Role] = if n == 1 {
                &[Role::Edge, Role::App]
            } else {
                &[Role::App]
            };
            server(
                ["a", "b", "c"][usize::from(n) - 1],
                n,
                roles,
                ports,
                (n == 1).then_some(listen),
            )
        })
        .collect();
    FleetView {
        fleet: "test".parse().unwrap(),
        revision: Revision(1),
        epoch: Epoch(1),
        serial: 1,
        assets: None,
        takeover: None,
        routed: false,
        cache: None,
        servers,
        app: Some(AppView {
            upstream: app,
            protocol: Default::default(),
            // Tests count turns.
            balance: BalanceRule::RoundRobin,
            health: HealthCheck {
                path: None,
                expect: None,
                interval: Duration::from_millis(100),
                timeout: Duration::from_millis(500),
                fall: 2,
                rise: 2,
            },
            retries: RetryPolicy {
                methods: ["GET", "HEAD", "OPTIONS"].map(str::to_owned).to_vec(),
                max: 1,
                budget: 20_000,
            },
            drain: Duration::from_secs(5),
            dispatch: Default::default(),
        }),
        https: None,
        sql: None,
        limits: Default::default(),
        front: Default::default(),
        answers: Default::default(),
        dns: None,
        addresses: Vec::new(),
        addresses_changed: pontoon_fleet::UnixMillis::default(),
    }
}

/// What an agent is to an edge: the other end of the socket that views and reports go through.
pub fn agent(paths: &Paths) -> (Runtime, ViewPublisher, Receiver<TierReport>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (publisher, reports) = {
        let _entered = runtime.enter();
        ViewPublisher::bind(paths, Shutdown::new()).unwrap()
    };
    (runtime, publisher, reports)
}

/// A running edge.
pub struct Edge {
    pub address: SocketAddr,
    pub publisher: ViewPublisher,
    pub dir: tempfile::TempDir,
    shutdown: Shutdown,
    reports: Arc<Mutex<Option<EdgeReport>>>,
    thread: Option<JoinHandle<Result<(), EdgeError>>>,
    _runtime: tokio::runtime::Runtime,
}

/// Short times, so that the tests are too.
pub fn tuning() -> Tuning {
    Tuning {
        head_timeout: Duration::from_millis(600),
        body_timeout: SECOND,
        write_timeout: SECOND,
        answer_timeout: Duration::from_secs(3),
        hold: Duration::from_secs(2),
        park_after: Duration::from_millis(50),
        ..Tuning::default()
    }
}

impl Edge {
    pub fn start(view: FleetView) -> Edge {
        Edge::start_with(view, tuning(), |_| {})
    }

    /// `prepare` is given the edge's root directory before it starts.
    pub fn start_with(view: FleetView, tuning: Tuning, prepare: impl FnOnce(&Path)) -> Edge {
        let name = view.servers[0].name.clone();
        Edge::start_as(name.as_str(), view, tuning, prepare)
    }

    pub fn start_as(name: &str, view: FleetView, tuning: Tuning, prepare: impl FnOnce(&Path)) -> Edge {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        paths.create_dirs().unwrap();
        prepare(dir.path());
        let me = view.server(&name.parse().unwrap()).unwrap();
        let address = me.edge_listen.first().copied().unwrap_or_else(|| me.edge_relay());
        let shutdown = Shutdown::new();
        let (runtime, publisher, mut reports_in) = agent(&paths);
        publisher.publish(view).unwrap();
        let reports: Arc<Mutex<Option<EdgeReport>>> = Arc::default();
        let latest = Arc::clone(&reports);
        runtime.spawn(async move {
            while let Some(report) = reports_in.recv().await {
                if let TierDetail::Edge(report) = report.detail {
                    *latest.lock().unwrap() = Some(report);
                }
            }
        });
        let mut options = EdgeOptions::new(name.parse().unwrap(), paths);
        options.threads = 2;
        options.tuning = tuning;
        let asked = shutdown.clone();
        let thread = std::thread::spawn(move || pontoon_edge::run_until(options, asked));
        let edge = Edge {
            address,
            publisher,
            dir,
            shutdown,
            reports,
            thread: Some(thread),
            _runtime: runtime,
        };
        wait_for("the edge to listen", || TcpStream::connect(edge.address).is_ok());
        edge
    }

    pub fn client(&self) -> Client {
        Client::to(self.address)
    }

    /// One request on a connection of its own.
    pub fn get(&self, path: &str) -> Answer {
        let mut client = self.client();
        client.send(format!(
            "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        ));
        client.answer()
    }

    pub fn report(&self) -> Option<EdgeReport> {
        self.reports.lock().unwrap().clone()
    }

    fn samples(&self, wanted: impl Fn(&str) -> bool) -> u64 {
        let socket = Paths::under(self.dir.path()).run_dir.join("edge.sock");
        let mut stream = UnixStream::connect(socket).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let samples = text.lines().filter(|line| wanted(line));
        let values = samples.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
        values.sum()
    }

    /// The sum of a metric over its labels.
    pub fn counted(&self, name: &str) -> u64 {
        self.samples(|line| line.starts_with(name))
    }

    /// How many messages were refused for this reason.
    pub fn rejected(&self, reason: &str) -> u64 {
        let named = format!("reason=\"{reason}\"");
        self.samples(|line| line.starts_with("pontoon_edge_rejected_total") && line.contains(&named))
    }

    /// Waits until the report says that `server` is (or is not) healthy.
    pub fn wait_health(&self, server: &str, healthy: bool) {
        wait_for(&format!("{server} to be healthy = {healthy}"), || {
            self.report().is_some_and(|report| {
                report
                    .upstreams
                    .iter()
                    .any(|up| up.server.as_str() == server && up.healthy == healthy)
            })
        });
    }

    pub fn ask_to_end(&self) {
        self.shutdown.trigger();
    }

    pub fn wait_for_end(&mut self) {
        self.thread.take().unwrap().join().unwrap().unwrap();
    }

    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.shutdown.hurry();
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            if !std::thread::panicking() {
                result.unwrap().unwrap();
            }
        }
    }
}

pub fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < 8 * SECOND, "waited too long for {what}");
        pause(10);
    }
}

#[allow(clippy::disallowed_methods)] // the tests' own threads may sleep
pub fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// One side of a connection, with deadlines.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn field(&self, name: &str) -> Option<String> {
        field(&self.head, name)
    }
}

pub fn field(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

impl Client {
    pub fn to(address: SocketAddr) -> Client {
        Client::on(TcpStream::connect(address).unwrap())
    }

    pub fn on(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(8 * SECOND)).unwrap();
        stream.set_write_timeout(Some(8 * SECOND)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client {
            stream,
            buffer: Vec::new(),
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// More bytes; `false` at the end or when the connection broke.
    fn more(&mut self) -> bool {
        let mut bytes = [0; 65536];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&bytes[..count]);
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing came in time"),
            Err(_) => false,
        }
    }

    /// A head up to and with its empty line; `None` when the connection ends before one.
    pub fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|end| end == b"\r\n\r\n") {
                let rest = self.buffer.split_off(end + 4);
                let head = std::mem::replace(&mut self.buffer, rest);
                return Some(String::from_utf8(head).unwrap());
            }
            if !self.more() {
                return None;
            }
        }
    }

    pub fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(
                self.more(),
                "the connection ended after {} of {count} bytes",
                self.buffer.len()
            );
        }
        let rest = self.buffer.split_off(count);
        std::mem::replace(&mut self.buffer, rest)
    }

    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|end| end == b"\r\n") {
                let rest = self.buffer.split_off(end + 2);
                return Some(String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap());
            }
            if !self.more() {
                return None;
            }
        }
    }

    /// The content of a chunked body, and its trailers; `None` when it is cut short.
    pub fn chunks(&mut self) -> Option<(Vec<u8>, String)> {
        let mut content = Vec::new();
        loop {
            let size = self.line()?;
            let size = usize::from_str_radix(size.trim_end().split(';').next().unwrap(), 16).unwrap();
            if size == 0 {
                let mut trailers = String::new();
                loop {
                    match self.line()?.as_str() {
                        "\r\n" => return Some((content, trailers)),
                        line => trailers.push_str(line),
                    }
                }
            }
            while self.buffer.len() < size + 2 {
                if !self.more() {
                    return None;
                }
            }
            content.extend(self.exactly(size));
            assert_eq!(self.exactly(2), b"\r\n");
        }
    }

    pub fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.buffer)
    }

    /// A whole message's body by its head; `None` when it is cut short.
    fn body(&mut self, head: &str, until_close: bool) -> Option<Vec<u8>> {
        if let Some(length) = field(head, "content-length") {
            let length = length.parse().unwrap();
            while self.buffer.len() < length {
                if !self.more() {
                    return None;
                }
            }
            return Some(self.exactly(length));
        }
        if field(head, "transfer-encoding").is_some() {
            return self.chunks().map(|(content, _)| content);
        }
        Some(if until_close { self.rest() } else { Vec::new() })
    }

    /// The answer to a GET or POST.
    pub fn answer(&mut self) -> Answer {
        self.try_answer().expect("an answer")
    }

    pub fn try_answer(&mut self) -> Option<Answer> {
        let head = self.head()?;
        let status = head[9..12].parse().unwrap();
        let bodiless = status < 200 || matches!(status, 204 | 304);
        let body = if bodiless {
            Vec::new()
        } else {
            self.body(&head, true)?
        };
        Some(Answer { status, head, body })
    }

    /// A request, as an application sees it.
    pub fn request(&mut self) -> Option<(String, Vec<u8>)> {
        let head = self.head()?;
        let body = self.body(&head, false)?;
        Some((head, body))
    }

    /// Whether the peer has closed, told within a second.
    pub fn is_closed(&mut self) -> bool {
        self.stream.set_read_timeout(Some(SECOND)).unwrap();
        let closed = matches!(self.stream.read(&mut [0; 1]), Ok(0)) || self.was_reset();
        self.stream.set_read_timeout(Some(8 * SECOND)).unwrap();
        closed
    }

    fn was_reset(&mut self) -> bool {
        matches!(self.stream.take_error(), Ok(Some(_)))
    }

    pub fn end_sending(&self) {
        self.stream.shutdown(Side::Write).unwrap();
    }
}

/// A scripted application: each connection runs the script on a thread of its own.
pub struct App {
    pub address: SocketAddr,
    /// Connections on which at least one request came.
    pub used_connections: Arc<AtomicUsize>,
    /// Requests, heads only, in order.
    pub requests: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

pub type Script = dyn Fn(&mut Client, &str, &[u8]) -> bool + Send + Sync;

impl App {
    /// Calls `script` with the connection, the head and the body of each request, until it says `false`.
    pub fn start(
        address: SocketAddr,
        script: impl Fn(&mut Client, &str, &[u8]) -> bool + Send + Sync + 'static,
    ) -> App {
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let used: Arc<AtomicUsize> = Arc::default();
        let (log, count) = (Arc::clone(&requests), Arc::clone(&used));
        App::raw(address, requests, used, move |client| {
            let mut first = true;
            while let Some((head, body)) = client.request() {
                if std::mem::take(&mut first) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                log.lock().unwrap().push(head.clone());
                if !script(client, &head, &body) {
                    return;
                }
            }
        })
    }

    /// Calls `script` with each connection. It has to read requests itself.
    pub fn by_connection(address: SocketAddr, script: impl Fn(&mut Client) + Send + Sync + 'static) -> App {
        App::raw(address, Arc::default(), Arc::default(), script)
    }

    fn raw(
        address: SocketAddr,
        requests: Arc<Mutex<Vec<String>>>,
        used_connections: Arc<AtomicUsize>,
        script: impl Fn(&mut Client) + Send + Sync + 'static,
    ) -> App {
        let begun = Instant::now();
        let listener = loop {
            match TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(error) if begun.elapsed() > 2 * SECOND => panic!("{address}: {error}"),
                Err(_) => pause(10),
            }
        };
        listener.set_nonblocking(true).unwrap();
        let script = Arc::new(script);
        let stop: Arc<AtomicUsize> = Arc::default();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while stopped.load(Ordering::Relaxed) == 0 {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).unwrap();
                        let script = Arc::clone(&script);
                        std::thread::spawn(move || script(&mut Client::on(stream)));
                    }
                    Err(_) => pause(2),
                }
            }
        });
        App {
            address,
            used_connections,
            requests,
            stop,
            thread: Some(thread),
        }
    }

    pub fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// Takes no more connections.
    pub fn stop(&mut self) {
        self.stop.store(1, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn reply(client: &mut Client, body: &str) -> bool {
    client.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    true
}

/// Addresses for an application port on server `n`, and for the edge.
pub struct Net {
    pub port: u16,
    pub listen: SocketAddr,
}

impl Net {
    pub fn new() -> Net {
        Net {
            port: free_port(),
            listen: SocketAddr::from(([127, 0, 0, 1], free_port())),
        }
    }

    pub fn app(&self, n: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, n], self.port))
    }

    pub fn view(&self, count: u8) -> FleetView {
        view(count, SocketAddr::from(([0, 0, 0, 0], self.port)), self.listen)
    }
}

/// Where an application listens over IPv6, and a view of it with an edge that does too; `None`, said aloud, where there is
/// no IPv6.
pub fn over_ipv6() -> Option<(SocketAddr, FleetView)> {
    let there = std::net::Ipv6Addr::LOCALHOST;
    if TcpListener::bind((there, 0)).is_err() {
        println!("SKIPPED: this machine has no IPv6");
        return None;
    }
    let app = SocketAddr::from((there, free_port()));
    Some((app, view(1, app, SocketAddr::from((there, free_port())))))
}

/// An edge in front of one application that runs `script`.
pub fn one(script: impl Fn(&mut Client, &str, &[u8]) -> bool + Send + Sync + 'static) -> (Edge, App) {
    let net = Net::new();
    let app = App::start(net.app(1), script);
    (Edge::start(net.view(1)), app)
}

/// Something that a script hands to its test.
pub fn channel<T>() -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
    mpsc::channel()
}
