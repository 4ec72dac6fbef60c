//! What a visitor wrote is what its next request sees (P3): the edge's part of it, before a stand-in for the SQL proxy.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::*;
use pontoon_fleet::{
    AfterWrite, DatabaseServerView, Engine, FleetView, Ports, ReadsView, Role, SqlView, UnixMillis,
};
use pontoon_pki::{Authority, Identity, SERVER_LIFETIME};
use pontoon_rt::floor::{self, Saying, Told};
use pontoon_rt::paths::Paths;
use pontoon_rt::shutdown::Shutdown;

/// The SQL proxy's side of one server.
struct Proxy {
    written: Arc<AtomicU64>,
    heard: Arc<Mutex<Vec<Saying>>>,
    shutdown: Shutdown,
    _runtime: tokio::runtime::Runtime,
}

impl Proxy {
    fn start(root: &Path) -> Proxy {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (written, heard) = (Arc::new(AtomicU64::new(5)), Arc::<Mutex<Vec<Saying>>>::default());
        let shutdown = Shutdown::new();
        let (count, list) = (Arc::clone(&written), Arc::clone(&heard));
        let answer = move |saying| {
            if saying != Saying::Floor {
                list.lock().unwrap().push(saying);
            }
            let now = count.load(Ordering::SeqCst);
            Told::Floor {
                mark: format!("run.{now}"),
                floor: Some(format!("3@0-1-{now},7-1-2")),
            }
        };
        let path = Paths::under(root).floor_socket();
        {
            let _entered = runtime.enter();
            floor::serve(&path, answer, shutdown.clone());
        }
        wait_for("the proxy to listen", || {
            std::os::unix::net::UnixStream::connect(&path).is_ok()
        });
        Proxy {
            written,
            heard,
            shutdown,
            _runtime: runtime,
        }
    }

    fn heard(&self) -> Vec<Saying> {
        std::mem::take(&mut self.heard.lock().unwrap())
    }
}

fn seen(text: &str) -> Saying {
    Saying::See(Some(text.to_owned()))
}

fn with_replicas(mut view: FleetView, databases: &[&str]) -> FleetView {
    view.sql = Some(SqlView {
        engine: Engine::Mariadb,
        listen: Vec::new(),
        backend_tcp: "127.0.0.1:3307".parse().unwrap(),
        backend_socket: None,
        primary: Some("a".parse().unwrap()),
        servers: databases
            .iter()
            .map(|name| DatabaseServerView {
                server: name.parse().unwrap(),
                lag_ms: None,
                position: None,
            })
            .collect(),
        hold_writes: Duration::from_secs(10),
        write_until: None,
        holding: None,
        reads: Some(ReadsView {
            split: true,
            max_lag: Duration::from_secs(20),
            after_write: AfterWrite::Session,
            heard: None,
        }),
    });
    view
}

fn give_key(root: &Path) {
    std::fs::write(Paths::under(root).floor_key_file(), [9; 32]).unwrap();
}

fn send(edge: &Edge, request: &str, fields: &str) -> Answer {
    let mut client = edge.client();
    client.send(format!(
        "{request} HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n{fields}Connection: close\r\n\r\n"
    ));
    client.answer()
}

/// `pontoon_floor=…` of an answer.
fn cookie(answer: &Answer) -> Option<String> {
    let field = answer.field("set-cookie")?;
    assert!(
        field.contains("; Path=/; Max-Age=50; HttpOnly; SameSite=Lax"),
        "{field}"
    );
    Some(field.split(';').next().unwrap().to_owned())
}

/// `POST /write` writes; every answer's body is the head that the application got.
fn application(net: &Net, written: impl Fn() + Send + Sync + 'static) -> App {
    App::start(net.app(1), move |client, head, _| {
        if head.contains("/write") {
            written();
        }
        reply(client, head)
    })
}

#[test]
fn a_visitor_carries_what_it_wrote_to_the_next_request() {
    let net = Net::new();
    let edge = Edge::start_with(with_replicas(net.view(1), &["a", "b"]), tuning(), give_key);
    let proxy = Proxy::start(edge.dir.path());
    let count = Arc::clone(&proxy.written);
    let _app = application(&net, move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    // Two threads serve, and each learns for itself.
    let wrote = (0..10).map(|_| send(&edge, "POST /write", "")).last().unwrap();
    let crumb = cookie(&wrote).unwrap();
    assert!(crumb.starts_with("pontoon_floor=1.3@0-1-15/7-1-2."), "{crumb}");
    // A request that only reads gets none, whatever was written meanwhile: it may be cached.
    assert_eq!(send(&edge, "GET /write", "").field("set-cookie"), None);
    // Nor does one that wrote nothing, once both threads have heard of the last write.
    let quiet = (0..20).map(|_| send(&edge, "POST /nothing", "")).last().unwrap();
    assert_eq!(quiet.field("set-cookie"), None);
    // What the cookie says is with the proxy before the application gets the request, which gets no cookie of ours.
    proxy.heard();
    let answer = send(&edge, "GET /", &format!("Cookie: a=b; {crumb}; c=d\r\n"));
    assert_eq!(proxy.heard(), [seen("3@0-1-15,7-1-2")]);
    let got = answer.text();
    assert!(
        got.contains("Cookie: a=b; c=d\r\n") && !got.to_lowercase().contains("pontoon"),
        "{got}"
    );
    let answer = send(&edge, "GET /", &format!("Cookie: {crumb}\r\n"));
    assert!(
        !answer.text().to_lowercase().contains("cookie"),
        "{}",
        answer.text()
    );
}

#[test]
fn a_cookie_that_no_edge_wrote_is_nothing() {
    let net = Net::new();
    let edge = Edge::start_with(with_replicas(net.view(1), &["a", "b"]), tuning(), give_key);
    let proxy = Proxy::start(edge.dir.path());
    let _app = application(&net, || ());
    let long = "9".repeat(4000);
    for value in [
        "",
        "1",
        "1.9@0-1-99.00",
        "1.?.00000000000000000000000000000000",
        "2.x.y",
        &long,
    ] {
        let answer = send(&edge, "GET /", &format!("Cookie: pontoon_floor={value}; a=b\r\n"));
        assert!(answer.text().contains("Cookie: a=b\r\n"), "{}", answer.text());
    }
    // From a visitor, the word between edges is nothing either.
    let answer = send(
        &edge,
        "GET /",
        "Pontoon-Floor: 1.9@0-1-99.00\r\npontoon_floor: x\r\n",
    );
    assert!(
        !answer.text().to_lowercase().contains("pontoon"),
        "{}",
        answer.text()
    );
    assert_eq!(proxy.heard(), []);
}

#[test]
fn without_the_proxy_requests_go_on_and_the_visitor_is_told_that_nobody_knows() {
    let net = Net::new();
    let edge = Edge::start_with(with_replicas(net.view(1), &["a", "b"]), tuning(), give_key);
    let _app = application(&net, || ());
    let answer = send(&edge, "POST /write", "");
    let crumb = cookie(&answer).unwrap();
    assert!(crumb.starts_with("pontoon_floor=1.?."), "{crumb}");
    assert_eq!(send(&edge, "GET /", &format!("Cookie: {crumb}\r\n")).status, 200);
    // It comes back: what it was not told is a doubt.
    let proxy = Proxy::start(edge.dir.path());
    wait_for("the doubt", || {
        proxy.heard.lock().unwrap().contains(&Saying::See(None))
    });
    // It freezes: its socket takes connections and nobody answers.
    proxy.shutdown.trigger();
    pause(100);
    let path = Paths::under(edge.dir.path()).floor_socket();
    std::fs::remove_file(&path).unwrap();
    let _frozen = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let answer = send(&edge, "POST /write", &format!("Cookie: {crumb}\r\n"));
    assert_eq!(answer.status, 200);
    assert!(cookie(&answer).unwrap().starts_with("pontoon_floor=1.?."));
}

#[test]
fn one_database_server_carries_nothing() {
    let net = Net::new();
    let edge = Edge::start_with(with_replicas(net.view(1), &["a"]), tuning(), give_key);
    let proxy = Proxy::start(edge.dir.path());
    let count = Arc::clone(&proxy.written);
    let _app = application(&net, move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    assert_eq!(send(&edge, "POST /write", "").field("set-cookie"), None);
    assert_eq!(
        send(&edge, "GET /", "Cookie: pontoon_floor=1.?.x\r\n").status,
        200
    );
    assert_eq!(proxy.heard(), []);
}

fn now() -> UnixMillis {
    UnixMillis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

fn prepare(authority: &Authority, name: &str, last: u8, root: &Path) {
    give_key(root);
    let (name, address) = (name.parse().unwrap(), IpAddr::from([127, 0, 0, last]));
    let (key, csr) = Identity::new_key_and_csr(&name, address).unwrap();
    let cert = authority
        .sign_server(&csr, &name, address, now(), SERVER_LIFETIME)
        .unwrap();
    let identity =
        Identity::assemble("test".parse().unwrap(), &key, &cert, &authority.certificate_pem()).unwrap();
    identity.save(&Paths::under(root).identity_dir()).unwrap();
}

#[test]
fn the_edge_before_the_application_does_it_not_the_one_that_the_visitor_reached() {
    let authority = Authority::create(&"test".parse().unwrap(), now()).unwrap();
    let net = Net::new();
    // The application of b listens on every address: it is reached through its relay all the same.
    let mut fleet = view(1, SocketAddr::from(([0, 0, 0, 0], net.port)), net.listen);
    fleet.servers[0].roles = [Role::Edge].into();
    fleet
        .servers
        .push(server("b", 2, &[Role::App], Ports::from_base(free_port()), None));
    let fleet = with_replicas(fleet, &["a", "b"]);
    let b = Edge::start_as("b", fleet.clone(), tuning(), |root| {
        prepare(&authority, "b", 2, root)
    });
    let a = Edge::start_as("a", fleet, tuning(), |root| prepare(&authority, "a", 1, root));
    let (proxy_a, proxy_b) = (Proxy::start(a.dir.path()), Proxy::start(b.dir.path()));
    let count = Arc::clone(&proxy_b.written);
    let _app = application(&net, move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let crumb = cookie(&send(&a, "POST /write", "")).unwrap();
    assert!(crumb.starts_with("pontoon_floor=1.3@0-1-6/7-1-2."), "{crumb}");
    let answer = send(&a, "GET /", &format!("Cookie: {crumb}\r\n"));
    assert!(
        !answer.text().to_lowercase().contains("pontoon"),
        "{}",
        answer.text()
    );
    assert_eq!(proxy_b.heard(), [seen("3@0-1-6,7-1-2")]);
    // A body that follows the head stays where it is.
    let mut client = a.client();
    client.send(format!(
        "POST /write HTTP/1.1\r\nHost: t\r\nCookie: {crumb}\r\nContent-Length: 5\r\n\r\nhello"
    ));
    assert_eq!(client.answer().status, 200);
    assert_eq!(proxy_b.heard(), [seen("3@0-1-6,7-1-2")]);
    assert_eq!(proxy_a.heard(), []);
}
