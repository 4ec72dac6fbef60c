//! The whole name server on loopback, obeying a view that the test publishes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]
#![allow(clippy::disallowed_methods)] // the test has a thread of its own, which may sleep

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pontoon_dns::{DnsError, DnsOptions};
use pontoon_fleet::{DnsReport, FleetView, TierDetail};
use pontoon_rt::paths::Paths;
use pontoon_rt::shutdown::Shutdown;
use pontoon_rt::view::ViewPublisher;
use serde_json::json;

#[path = "server/dnssec.rs"]
mod dnssec;
#[path = "server/others.rs"]
mod others;
#[path = "server/transfers.rs"]
mod transfers;
#[path = "server/updates.rs"]
mod updates;

const HEAD: &str = "$TTL 60\n@ SOA ns h 5 7200 900 1209600 60\n@ NS ns\nns A 192.0.2.53\n";

struct Server {
    dir: tempfile::TempDir,
    port: u16,
    publisher: ViewPublisher,
    reports: Arc<Mutex<DnsReport>>,
    shutdown: Shutdown,
    thread: Option<JoinHandle<Result<(), DnsError>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.trigger();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

impl Server {
    fn start(text: &str) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        paths.create_dirs().unwrap();
        fs::write(dir.path().join("zone"), text).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shutdown = Shutdown::new();
        let reports = Arc::new(Mutex::new(DnsReport::default()));
        let publisher = {
            let _inside = runtime.enter();
            let (publisher, mut came) = ViewPublisher::bind(&paths, shutdown.clone()).unwrap();
            let reports = Arc::clone(&reports);
            runtime.spawn(async move {
                while let Some(report) = came.recv().await {
                    if let TierDetail::Dns(report) = report.detail {
                        *reports.lock().unwrap() = report;
                    }
                }
            });
            publisher
        };
        let mut options = DnsOptions::new("a".parse().unwrap(), paths);
        options.threads = 2;
        let thread = {
            let shutdown = shutdown.clone();
            std::thread::spawn(move || pontoon_dns::run_until(options, shutdown))
        };
        let server = Server {
            dir,
            port: free_port(),
            publisher,
            reports,
            shutdown,
            thread: Some(thread),
            _runtime: runtime,
        };
        server.publish(&["192.0.2.1", "192.0.2.2"]);
        server
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("zone")
    }

    /// A view in which these addresses are up.
    fn publish(&self, addresses: &[&str]) {
        self.publish_with(addresses, 0, None);
    }

    /// As [`Server::publish`]: the opinion on them changed at `changed`, in milliseconds of Unix time.
    fn publish_with(&self, addresses: &[&str], changed: u64, transfer: Option<&serde_json::Value>) {
        self.publish_zone(addresses, changed, &json!({ "transfer": transfer }));
    }

    /// As [`Server::publish_with`], with `more` said of the zone.
    fn publish_zone(&self, addresses: &[&str], changed: u64, more: &serde_json::Value) {
        let mut dns = json!({
            "zone": "example.com", "file": self.file(), "names": ["www.example.com"], "ttl_seconds": 60,
            "ttl_degraded_seconds": 20,
            "listen": [format!("0.0.0.0:{}", self.port), format!("[::]:{}", self.port)],
        });
        let more = more.as_object().unwrap().clone();
        dns.as_object_mut().unwrap().extend(more);
        let view: FleetView = serde_json::from_value(json!({
            "addresses_changed": changed,
            "fleet": "notes", "revision": 1, "epoch": 1, "serial": 1, "app": null, "sql": null,
            "servers": [{
                "name": "a", "private": "127.0.0.1", "public": [], "roles": ["dns"], "zone": null, "standby": false,
                "state": "up", "ports": {"agent": 1, "edge_relay": 2, "sql_relay": 3}, "edge_listen": [],
            }],
            "addresses": addresses.iter().map(|address| json!({
                "address": address, "home": "a", "holder": "a", "state": "up", "reason": "",
            })).collect::<Vec<_>>(),
            "dns": dns,
        }))
        .unwrap();
        self.publisher.publish(view).unwrap();
    }

    fn report(&self) -> DnsReport {
        self.reports.lock().unwrap().clone()
    }

    fn until(&self, what: &str, holds: impl Fn(&Server) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !holds(self) {
            assert!(Instant::now() < end, "{what}: {:?}", self.report());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks at `to` over UDP. Only what comes from there is heard.
    fn ask(&self, to: impl Into<IpAddr>, query: &[u8]) -> Option<Vec<u8>> {
        let to = SocketAddr::new(to.into(), self.port);
        let socket = UdpSocket::bind((if to.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket.send(query).ok()?;
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    /// The last bytes of the addresses of a name; `None` without an answer.
    fn addresses(&self, name: &str) -> Option<Vec<u8>> {
        let query = query(name);
        let response = self.ask([127, 0, 0, 1], &query)?;
        if response[3] & 15 != 0 {
            return None;
        }
        let records = response[query.len()..].chunks_exact(16);
        let mut lasts: Vec<u8> = records.map(|record| record[15]).collect();
        lasts.sort_unstable();
        Some(lasts)
    }
}

fn free_port() -> u16 {
    pontoon_testkit::free_port().unwrap()
}

fn query(name: &str) -> Vec<u8> {
    let mut packet = b"\xab\xcd\0\0\0\x01\0\0\0\0\0\0".to_vec();
    packet.extend_from_slice(name.parse::<pontoon_zone::Name>().unwrap().wire());
    packet.extend_from_slice(&[0, 1, 0, 1]);
    packet
}

#[test]
fn it_answers_from_the_address_that_was_asked_over_udp_and_tcp() {
    let server = Server::start(HEAD);
    server.until("served", |server| {
        server.addresses("www.example.com") == Some(vec![1, 2])
    });
    for to in ["127.0.0.1", "127.0.0.2", "127.9.9.9"] {
        let to: IpAddr = to.parse().unwrap();
        server.until("answers", |server| {
            server.ask(to, &query("ns.example.com")).is_some()
        });
    }
    if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        server.until("IPv6", |server| {
            server
                .ask(Ipv6Addr::LOCALHOST, &query("ns.example.com"))
                .is_some()
        });
    }
    // Two queries in one write are two answers, in order.
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let framed = |name: &str| [&(query(name).len() as u16).to_be_bytes()[..], &query(name)].concat();
    stream
        .write_all(&[framed("www.example.com"), framed("ns.example.com")].concat())
        .unwrap();
    for (name, records) in [("www.example.com", 2), ("ns.example.com", 1)] {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut response = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut response).unwrap();
        assert_eq!(response.len(), query(name).len() + 16 * records);
    }
    // A response is not answered: the connection ends.
    let mut reply = framed("www.example.com");
    reply[4] |= 0x80;
    stream.write_all(&reply).unwrap();
    assert_eq!(stream.read(&mut [0; 9]).unwrap_or(0), 0);
    let mut reply = query("www.example.com");
    reply[2] |= 0x80;
    assert_eq!(server.ask([127, 0, 0, 1], &reply), None);
}

#[test]
fn a_bad_zone_is_refused_and_the_old_one_serves_on() {
    let server = Server::start("nonsense\n");
    server.until("refused", |server| {
        server
            .report()
            .refused
            .is_some_and(|reason| reason.contains("zone:1: "))
    });
    assert_eq!(server.report().serial, None);
    server.until("listens", |server| {
        server
            .ask([127, 0, 0, 1], &query("www.example.com"))
            .is_some_and(|response| response[3] & 15 == 5)
    });
    fs::write(server.file(), format!("{HEAD}mail A 192.0.2.25\n")).unwrap();
    server.until("served", |server| {
        server.addresses("mail.example.com") == Some(vec![25])
    });
    let serial = |server: &Server| server.report().serial;
    server.until("reported", |server| {
        serial(server).is_some() && server.report().refused.is_none()
    });
    let before = serial(&server);
    for (bad, reason) in [
        ("mail A 192.0.2.256\n", "zone:5: A: "),
        ("www CNAME mail\n", "has a CNAME there"),
        ("x NS ns\nwww.x A 192.0.2.1\nbroken", "zone:7: "),
    ] {
        fs::write(server.file(), format!("{HEAD}{bad}")).unwrap();
        server.until(reason, |server| {
            server.report().refused.is_some_and(|said| said.contains(reason))
        });
        assert_eq!(server.addresses("mail.example.com"), Some(vec![25]));
        assert_eq!(serial(&server), before);
    }
    fs::remove_file(server.file()).unwrap();
    server.until("missing", |server| {
        server
            .report()
            .refused
            .is_some_and(|said| said.contains("No such file"))
    });
    assert_eq!(server.addresses("mail.example.com"), Some(vec![25]));
    fs::write(server.file(), HEAD.replace(" 5 ", " 6 ")).unwrap();
    server.until("the new zone", |server| {
        server.report().refused.is_none() && serial(server) == before.map(|serial| serial + 1)
    });
    server.until("nothing is left of the old one", |server| {
        server.addresses("mail.example.com").is_none()
    });
}

#[test]
fn names_follow_the_view() {
    let server = Server::start(HEAD);
    for addresses in [
        &["192.0.2.2"][..],
        &["192.0.2.1", "192.0.2.2", "192.0.2.3"],
        &["192.0.2.3"],
    ] {
        server.publish(addresses);
        let lasts: Vec<u8> = addresses
            .iter()
            .map(|address| address.as_bytes()[8] - b'0')
            .collect();
        server.until("followed", |server| {
            server.addresses("www.example.com") == Some(lasts.clone())
        });
    }
}

#[test]
fn a_taken_port_is_reported_and_taken_when_it_is_free() {
    let mut server = Server::start(HEAD);
    server.until("served", |server| server.addresses("www.example.com").is_some());
    let (port, other) = loop {
        let port = free_port();
        if let Ok(other) = TcpListener::bind(("0.0.0.0", port)) {
            break (port, other);
        }
    };
    server.port = port;
    server.publish(&["192.0.2.1"]);
    server.until("reported", |server| {
        server
            .report()
            .not_listening
            .iter()
            .any(|said| said.starts_with(&format!("0.0.0.0:{port}: ")))
    });
    drop(other);
    server.until("served", |server| {
        server.addresses("www.example.com") == Some(vec![1])
    });
    server.until("no longer reported", |server| {
        server.report().not_listening.is_empty()
    });
}

#[test]
fn connections_of_one_address_are_limited() {
    let server = Server::start(HEAD);
    server.until("served", |server| server.addresses("www.example.com").is_some());
    let connect = || TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let mut open: Vec<TcpStream> = (0..60).map(|_| connect()).collect();
    // At least ten of them are closed without a word.
    let mut closed = 0;
    for stream in &mut open {
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        closed += usize::from(matches!(stream.read(&mut [0; 1]), Ok(0)));
    }
    assert!(closed >= 10, "{closed} were closed");
    assert!(server.addresses("www.example.com").is_some(), "UDP goes on");
}

#[test]
fn a_flood_is_limited_and_others_are_answered() {
    let server = Server::start(HEAD);
    server.until("served", |server| server.addresses("www.example.com").is_some());
    let flood = UdpSocket::bind("127.0.0.1:0").unwrap();
    let packet = query("nothing.example.com");
    let end = Instant::now() + Duration::from_secs(60);
    while server.report().limited_total == 0 {
        assert!(Instant::now() < end, "nothing was limited");
        for _ in 0..1000 {
            flood.send_to(&packet, ("127.0.0.1", server.port)).unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // Another kind of response to the same network.
    server.until("answered", |server| server.addresses("www.example.com").is_some());
}
