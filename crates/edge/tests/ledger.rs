//! A ledger of an independent client (`pontoon_testkit::Load`) while applications restart, die and freeze, the
//! configuration changes, a certificate is renewed and the edge itself is replaced: nobody notices (P4).
//!
//! 300 requests a second for some seconds each; with `PONTOON_LONG=1` 2,000 a second for a minute each.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::tls::{Certificates, with_https};
use common::*;
use pontoon_edge::EdgeOptions;
use pontoon_fleet::{BalanceRule, FleetView, Revision, ServerState};
use pontoon_rt::paths::Paths;
use pontoon_rt::process::Spec;
use pontoon_rt::shutdown::Shutdown;
use pontoon_rt::view::ViewPublisher;
use pontoon_testkit::app::{Dice, Found, Later, Verdict, Visit};
use pontoon_testkit::http::{Request, Response};
use pontoon_testkit::{LabError, Load, LoadOptions, Visited, WriteId};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn long() -> bool {
    std::env::var_os("PONTOON_LONG").is_some()
}

/// How long each fault and its aftermath take.
fn a_while() -> Duration {
    Duration::from_secs(if long() { 60 } else { 2 })
}

#[test]
fn nobody_notices_restarts_faults_changes_renewals_and_upgrades() {
    pontoon_rt::process::raise_open_files();
    let mut site = Site::start();
    let load = site.visitors();

    load.phase("the applications restart one after the other");
    let begun = Instant::now();
    while begun.elapsed() < a_while() {
        for n in 0..site.apps.len() {
            site.restart(n);
        }
    }

    // Nobody but a visitor can repeat a POST whose connection broke, or that nobody answers.
    site.posts.store(false, Ordering::Relaxed);
    site.runtime.block_on(load.between_writes(60 * SECOND)).unwrap();

    load.phase("an application is killed");
    for _ in 0..if long() { 12 } else { 1 } {
        site.kill(1, Signal::KILL);
        site.apps[1].wait().unwrap();
        site.go_on(a_while() / if long() { 24 } else { 2 });
        site.apps[1] = application(site.net.app(2));
        site.wait_until_serves(1);
        site.go_on(a_while() / if long() { 24 } else { 2 });
    }

    load.phase("an application freezes");
    site.kill(2, Signal::STOP);
    site.go_on(a_while());
    site.kill(2, Signal::CONT);
    site.wait_until_serves(2);
    site.posts.store(true, Ordering::Relaxed);

    load.phase("the configuration changes every second");
    for n in 0..a_while().as_secs() {
        let mut view = site.view.clone();
        view.revision = Revision(10 + n);
        let app = view.app.as_mut().unwrap();
        app.balance = BalanceRule::ALL[n as usize % 4];
        app.health.rise = 1 + n as u32 % 3;
        view.servers[n as usize % 3].weight = 1 + n as u32 % 2;
        view.limits.fields = Some(64 + n as u32 % 2);
        site.publish(view);
        site.go_on(SECOND);
    }
    site.publish(site.view.clone());

    load.phase("the certificate is renewed");
    let renewals = if long() { 20 } else { 2 };
    let seen = site.renew(renewals);
    assert!(seen >= renewals, "{seen} certificates seen of {renewals}");

    load.phase("the edge is upgraded three times");
    for _ in 0..3 {
        site.upgrade();
        site.go_on(a_while() / 3);
    }

    load.phase("afterwards");
    site.go_on(SECOND);
    let report = site.runtime.block_on(load.stop()).unwrap();
    for phase in &report.phases {
        println!(
            "{}: {} sent in {:.0} s, {} failed {:?}, p99 {} ms, longest wait {} ms",
            phase.name,
            phase.sent,
            phase.seconds,
            phase.failed,
            phase.failures,
            phase.p99_ms,
            phase.longest_ms
        );
    }
    assert_eq!(report.failed(), 0);
    let writes: u64 = report.phases.iter().map(|phase| phase.writes).sum();
    assert!(writes > 0 && report.ledger.len() as u64 == writes);
}

#[test]
fn a_successor_that_does_not_serve_leaves_everything_as_it_is() {
    let net = Net::new();
    let _app = App::start(net.app(1), |client, _, _| reply(client, "a"));
    let sh = |script: &str| Spec::new("/bin/sh").arg("-c").arg(script);
    for (successor, reason) in [
        (Spec::new("/nonexistent/pontoon"), "cannot be started"),
        (Spec::new("/bin/false"), "ended before it served"),
        (sh("kill -KILL $$"), "ended before it served"),
        // One that reads nothing of what it is given, and says something else.
        (sh("echo nonsense >&0; exec sleep 60"), "the handover failed"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        paths.create_dirs().unwrap();
        let (_runtime, publisher, _reports) = agent(&paths);
        publisher.publish(net.view(1)).unwrap();
        let mut options = EdgeOptions::new("a".parse().unwrap(), paths.clone());
        options.threads = 2;
        options.successor = Some(successor);
        let shutdown = Shutdown::new();
        let asked = shutdown.clone();
        let edge = std::thread::spawn(move || pontoon_edge::run_until(options, asked));
        patiently("the edge", || TcpStream::connect(net.listen).is_ok());
        let mut kept = Client::to(net.listen);
        for _ in 0..2 {
            let refused = ask_to_upgrade(&paths);
            assert!(refused.contains("N009") && refused.contains(reason), "{refused}");
            kept.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
            assert_eq!(kept.answer().text(), "a");
        }
        shutdown.trigger();
        edge.join().unwrap().unwrap();
    }
}

#[test]
fn a_process_that_nobody_can_hand_over_to_says_so() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "edge_process", "--nocapture"])
        .env("PONTOON_TEST_EDGE_DIR", "/nonexistent")
        .env("PONTOON_TAKES_OVER", "1")
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    assert!(!child.wait().unwrap().success());
}

/// Not a test: the edge that the tests start.
#[test]
fn edge_process() {
    let Some(dir) = std::env::var_os("PONTOON_TEST_EDGE_DIR") else {
        return;
    };
    let mut options = EdgeOptions::new("a".parse().unwrap(), Paths::under(dir.as_ref()));
    options.threads = 2;
    options.successor = Some(itself("edge_process"));
    pontoon_edge::run(options).unwrap();
}

/// Not a test: the application that the tests start. It answers with the path that was asked for, or the body sent.
#[test]
fn application_process() {
    let Some(address) = std::env::var_os("PONTOON_TEST_APP") else {
        return;
    };
    pontoon_rt::process::raise_open_files();
    let address: SocketAddr = address.to_str().unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer_all(stream));
            }
        }
    });
}

async fn answer_all(mut stream: tokio::net::TcpStream) -> Option<()> {
    let mut got = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = got.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut got).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8(got.drain(..end).collect()).ok()?;
        let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        while got.len() < length {
            if stream.read_buf(&mut got).await.ok()? == 0 {
                return None;
            }
        }
        let body = String::from_utf8(got.drain(..length).collect()).ok()?;
        let path = head.split(' ').nth(1)?;
        let said = if body.is_empty() { path } else { &body };
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len());
        stream.write_all(text.as_bytes()).await.ok()?;
    }
}

fn itself(test: &str) -> Spec {
    Spec::new(std::env::current_exe().unwrap())
        .arg("--exact")
        .arg(test)
        .arg("--nocapture")
}

fn start(spec: &Spec, name: &str, value: &str) -> Child {
    Command::new(&spec.program)
        .args(&spec.args)
        .env(name, value)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

fn application(address: SocketAddr) -> Child {
    let child = start(
        &itself("application_process"),
        "PONTOON_TEST_APP",
        &address.to_string(),
    );
    patiently("an application", || TcpStream::connect(address).is_ok());
    child
}

/// As [`common::wait_for`], on a machine that is busy with other things.
fn patiently(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < 60 * SECOND, "waited too long for {what}");
        pause(10);
    }
}

/// Three applications and an edge before them, each a process.
struct Site {
    net: Net,
    view: FleetView,
    https: SocketAddr,
    certificates: Certificates,
    dir: tempfile::TempDir,
    publisher: ViewPublisher,
    runtime: tokio::runtime::Runtime,
    apps: Vec<Child>,
    /// The first edge, while nobody has waited for it.
    edge: Child,
    /// The edge that serves.
    serving: Pid,
    /// Upstreams that the edge calls healthy.
    healthy: Arc<std::sync::Mutex<HashSet<String>>>,
    posts: Arc<AtomicBool>,
}

impl Site {
    fn start() -> Site {
        let (net, certificates) = (Net::new(), Certificates::new());
        let files = certificates.issue("site", &["site.test"], 90);
        let (mut view, https) = with_https(net.view(3), &[&files]);
        view.https.as_mut().unwrap().redirect = false;
        view.app.as_mut().unwrap().balance = BalanceRule::Ewma;
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        paths.create_dirs().unwrap();
        let apps = (1..=3).map(|n| application(net.app(n))).collect();
        let (runtime, publisher, mut reports) = agent(&paths);
        let healthy: Arc<std::sync::Mutex<HashSet<String>>> = Arc::default();
        let known = Arc::clone(&healthy);
        runtime.spawn(async move {
            while let Some(report) = reports.recv().await {
                if let pontoon_fleet::TierDetail::Edge(report) = report.detail {
                    let good = report.upstreams.iter().filter(|one| one.healthy);
                    *known.lock().unwrap() = good.map(|one| one.server.to_string()).collect();
                }
            }
        });
        publisher.publish(view.clone()).unwrap();
        let edge = start(
            &itself("edge_process"),
            "PONTOON_TEST_EDGE_DIR",
            dir.path().to_str().unwrap(),
        );
        let serving = pid(edge.id());
        pontoon_rt::process::Running::of(edge.id())
            .unwrap()
            .save(&paths.pid_file("edge"))
            .unwrap();
        for address in [net.listen, https] {
            patiently("the edge", || TcpStream::connect(address).is_ok());
        }
        Site {
            net,
            view,
            https,
            certificates,
            dir,
            publisher,
            runtime,
            apps,
            edge,
            serving,
            healthy,
            posts: Arc::new(AtomicBool::new(true)),
        }
    }

    fn visitors(&self) -> Load {
        let options = LoadOptions {
            targets: vec![self.net.listen],
            rate: if long() { 2_000.0 } else { 300.0 },
            patience: 60 * SECOND,
            most_in_flight: 20_000,
            most_requests: 10_000_000,
            ..LoadOptions::default()
        };
        let echo = Echo {
            posts: Arc::clone(&self.posts),
            number: AtomicU64::new(0),
        };
        Load::start(Arc::new(echo), options, "before").unwrap()
    }

    /// Lets time pass.
    #[allow(clippy::disallowed_methods)] // the test's own thread
    fn go_on(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn publish(&self, view: FleetView) {
        self.publisher.publish(view).unwrap();
    }

    fn kill(&self, app: usize, signal: Signal) {
        kill_process(pid(self.apps[app].id()), signal).unwrap();
    }

    /// As a deployment does it: drain, wait, restart, take back.
    fn restart(&mut self, n: usize) {
        let mut drained = self.view.clone();
        drained.servers[n].state = ServerState::Draining;
        self.publish(drained);
        let name = self.view.servers[n].name.to_string();
        patiently("the drain", || {
            let state = ask(&Paths::under(self.dir.path()), "edge.sock", "GET /state");
            let state: serde_json::Value = serde_json::from_str(&state).unwrap();
            let servers = state["servers"].as_array().unwrap().clone();
            let server = servers.into_iter().find(|one| one["server"] == *name).unwrap();
            server["stands"] == "drained" && server["in_flight"] == 0
        });
        self.kill(n, Signal::TERM);
        self.apps[n].wait().unwrap();
        self.apps[n] = application(self.net.app(n as u8 + 1));
        self.publish(self.view.clone());
        self.wait_until_serves(n);
    }

    fn wait_until_serves(&self, n: usize) {
        let name = self.view.servers[n].name.to_string();
        patiently("the application to be in", || {
            self.healthy.lock().unwrap().contains(&name)
        });
    }

    /// Renews the certificate while visitors come over HTTPS; how many certificates they saw.
    fn renew(&self, times: usize) -> usize {
        let mut roots = rustls::RootCertStore::empty();
        let mut names = vec!["site".to_owned()];
        for n in 0..times {
            names.push(format!("renewed{n}"));
            self.certificates.issue(&names[n + 1], &["site.test"], 90);
        }
        for name in &names {
            let pem = self.certificates.path(&format!("{name}.ca"));
            roots.add(CertificateDer::from_pem_file(pem).unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (config, ends) = (Arc::new(config), AtomicBool::new(false));
        let seen = std::sync::Mutex::new(HashSet::new());
        std::thread::scope(|scope| {
            for kept in [false, true] {
                let (config, ends, seen) = (&config, &ends, &seen);
                scope.spawn(move || {
                    let open = || {
                        let name = ServerName::try_from("site.test").unwrap();
                        let tls = rustls::ClientConnection::new(Arc::clone(config), name).unwrap();
                        rustls::StreamOwned::new(tls, TcpStream::connect(self.https).unwrap())
                    };
                    let mut stream = open();
                    while !ends.load(Ordering::Relaxed) {
                        if !kept {
                            stream = open();
                        }
                        stream
                            .write_all(b"GET /tls HTTP/1.1\r\nHost: site.test\r\n\r\n")
                            .unwrap();
                        let mut got = Vec::new();
                        while !got.ends_with(b"/tls") {
                            let mut bytes = [0; 4096];
                            let count = stream.read(&mut bytes).unwrap();
                            assert!(count > 0, "cut short: {}", String::from_utf8_lossy(&got));
                            got.extend_from_slice(&bytes[..count]);
                        }
                        assert!(got.starts_with(b"HTTP/1.1 200"));
                        let shown = stream.conn.peer_certificates().unwrap()[0].to_vec();
                        seen.lock().unwrap().insert(shown);
                        pause(2);
                    }
                });
            }
            patiently("the first visitor", || !seen.lock().unwrap().is_empty());
            for n in 0..times {
                let before = seen.lock().unwrap().len();
                for extension in ["key", "pem"] {
                    let file = |name: &str| self.certificates.path(&format!("{name}.{extension}"));
                    std::fs::copy(file(&names[n + 1]), file("new")).unwrap();
                    std::fs::rename(file("new"), file("site")).unwrap();
                }
                let begun = Instant::now();
                while seen.lock().unwrap().len() <= before && begun.elapsed() < 60 * SECOND {
                    pause(20);
                }
                self.go_on(a_while().saturating_sub(begun.elapsed()) / times as u32);
            }
            ends.store(true, Ordering::Relaxed);
        });
        seen.into_inner().unwrap().len() - 1
    }

    fn upgrade(&mut self) {
        let paths = Paths::under(self.dir.path());
        let done = ask_to_upgrade(&paths);
        let done: serde_json::Value = serde_json::from_str(&done).unwrap_or_else(|_| panic!("{done}"));
        assert_eq!(done["from"], self.serving.as_raw_nonzero().get());
        let successor = pid(u32::try_from(done["to"].as_u64().unwrap()).unwrap());
        assert_ne!(successor, self.serving);
        let known = pontoon_rt::process::adopt(&paths.pid_file("edge"))
            .unwrap()
            .unwrap();
        assert_eq!(u64::from(known.pid), done["to"].as_u64().unwrap());
        self.serving = successor;
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let paths = Paths::under(self.dir.path());
        // Whoever is named there is the last that serves; its predecessors end by themselves.
        if let Ok(Some(edge)) = pontoon_rt::process::adopt(&paths.pid_file("edge")) {
            let _ = edge.signal(Signal::KILL);
        }
        let _ = self.edge.kill();
        let _ = self.edge.wait();
        for app in &mut self.apps {
            let _ = app.kill();
            let _ = app.wait();
        }
    }
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

/// The body of the answer to `request`, a method and a path, on a socket of the run directory.
fn ask(paths: &Paths, socket: &str, request: &str) -> String {
    let socket = paths.run_dir.join(socket);
    patiently("the socket", || UnixStream::connect(&socket).is_ok());
    let mut stream = UnixStream::connect(socket).unwrap();
    let text = format!("{request} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
        .split_once("\r\n\r\n")
        .map_or_else(String::new, |(_, body)| body.to_owned())
}

fn ask_to_upgrade(paths: &Paths) -> String {
    ask(paths, "edge-upgrade.sock", "POST /upgrade")
}

/// Visitors of an application that says what it was asked.
struct Echo {
    posts: Arc<AtomicBool>,
    number: AtomicU64,
}

impl Visited for Echo {
    fn host(&self) -> String {
        "site.test".to_owned()
    }

    fn next(&self, dice: &mut Dice, _: &[WriteId]) -> Visit {
        if self.posts.load(Ordering::Relaxed) && dice.below(5) == 0 {
            let text = dice.text();
            return Visit {
                what: "write",
                request: Request::post("/w", "text/plain", text.clone().into_bytes()),
                text: Some(text),
            };
        }
        Visit {
            what: "read",
            request: Request::get(format!("/{}", dice.text())),
            text: None,
        }
    }

    fn judge(&self, visit: &Visit, response: &Response) -> Verdict {
        let expected = visit.text.as_ref().unwrap_or(&visit.request.path);
        match (response.status, response.text() == *expected, &visit.text) {
            (200, true, Some(_)) => Verdict::Written(WriteId {
                kind: "write",
                id: self.number.fetch_add(1, Ordering::Relaxed),
            }),
            (200, true, None) => Verdict::Good,
            (200, false, _) => Verdict::Bad("somebody else's answer".to_owned()),
            (status, ..) => Verdict::Bad(format!("status {status}: {}", response.text().trim())),
        }
    }

    fn read_back(&self, _: SocketAddr) -> Later<'_, Result<Found, LabError>> {
        Box::pin(async { Ok(Found::new()) })
    }

    fn read_database<'a>(&'a self, _: &'a Path) -> Later<'a, Result<Found, LabError>> {
        Box::pin(async { Ok(Found::new()) })
    }
}
