//! Views that change, addresses that are taken, and the end.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::*;
use pontoon_fleet::{ServerState, TierDetail};
use pontoon_rt::paths::Paths;
use pontoon_rt::shutdown::Shutdown;
use pontoon_rt::view::ViewPublisher;
use rustix::process::{Pid, Signal, kill_process};

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn a_draining_server_gets_nothing_new_and_finishes_what_it_has() {
    let net = Net::new();
    let (begun, has_begun) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let gate = std::sync::Mutex::new((begun, may_go_on));
    let _a = App::start(net.app(1), move |client, head, _| {
        if head.contains("/slow") {
            let gate = gate.lock().unwrap();
            gate.0.send(()).unwrap();
            gate.1.recv().unwrap();
        }
        reply(client, "a")
    });
    let _b = App::start(net.app(2), |client, _, _| reply(client, "b"));
    let view = net.view(2);
    let edge = Edge::start(view.clone());
    // Until one of them reaches a.
    let mut slow: Vec<Client> = Vec::new();
    while has_begun.try_recv().is_err() {
        let mut client = edge.client();
        client.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
        slow.push(client);
        pause(20);
    }
    let mut drained = view.clone();
    drained.servers[0].state = ServerState::Draining;
    edge.publisher.publish(drained).unwrap();
    wait_for("a to get nothing new", || {
        (0..6).all(|_| edge.get("/").text() == "b")
    });
    let _ = go_on.send(());
    drop(go_on);
    let answers: Vec<String> = slow.iter_mut().map(|client| client.answer().text()).collect();
    assert!(answers.contains(&"a".to_owned()), "{answers:?}");
    edge.publisher.publish(view).unwrap();
    wait_for("a to come back", || edge.get("/").text() == "a");
}

#[test]
fn a_server_whose_agent_is_gone_still_serves() {
    let net = Net::new();
    let _a = App::start(net.app(1), |client, _, _| reply(client, "a"));
    let _b = App::start(net.app(2), |client, _, _| reply(client, "b"));
    let mut view = net.view(2);
    view.servers[1].state = ServerState::Unreachable;
    let edge = Edge::start(view);
    let answers: Vec<String> = (0..8).map(|_| edge.get("/").text()).collect();
    assert!(
        answers.iter().filter(|text| *text == "b").count() >= 3,
        "{answers:?}"
    );
}

#[test]
fn a_view_that_changes_drops_no_connection() {
    let net = Net::new();
    let _a = App::start(net.app(1), |client, _, _| reply(client, "a"));
    let view = net.view(1);
    let edge = Edge::start(view.clone());
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let asking = {
        let (stop, count, mut client) = (Arc::clone(&stop), Arc::clone(&count), edge.client());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                client.send(GET);
                assert_eq!(client.answer().text(), "a");
                count.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let more = SocketAddr::from(([127, 0, 0, 1], free_port()));
    for n in 0..20 {
        let mut changed = view.clone();
        changed.revision = pontoon_fleet::Revision(n + 2);
        changed.app.as_mut().unwrap().health.rise = 1 + n as u32 % 3;
        if n % 2 == 0 {
            changed.servers[0].edge_listen.push(more);
        }
        edge.publisher.publish(changed).unwrap();
        pause(30);
    }
    let soon = count.load(Ordering::Relaxed) + 10;
    wait_for("answers after the last change", || {
        asking.is_finished() || count.load(Ordering::Relaxed) > soon
    });
    stop.store(true, Ordering::Relaxed);
    asking.join().unwrap();
}

#[test]
fn listeners_come_and_go_with_the_view() {
    let net = Net::new();
    let _a = App::start(net.app(1), |client, _, _| reply(client, "a"));
    let view = net.view(1);
    let edge = Edge::start(view.clone());
    let more = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut changed = view.clone();
    changed.servers[0].edge_listen.push(more);
    edge.publisher.publish(changed).unwrap();
    wait_for("the new listener", || TcpStream::connect(more).is_ok());
    let mut kept = Client::to(more);
    kept.send(GET);
    assert_eq!(kept.answer().text(), "a");
    edge.publisher.publish(view).unwrap();
    wait_for("the listener to go", || TcpStream::connect(more).is_err());
    kept.send(GET);
    assert_eq!(kept.answer().text(), "a", "a connection outlives its listener");
}

#[test]
fn an_address_that_is_taken_is_reported_and_tried_again() {
    let net = Net::new();
    let _a = App::start(net.app(1), |client, _, _| reply(client, "a"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut view = net.view(1);
    view.servers[0].edge_listen.push(address);
    view.servers[0]
        .edge_listen
        .push("198.51.100.9:80".parse().unwrap());
    let edge = Edge::start(view);
    assert_eq!(edge.get("/").text(), "a", "the others serve");
    let reported = |edge: &Edge| {
        edge.report()
            .map(|report| report.not_listening.join("\n"))
            .unwrap_or_default()
    };
    wait_for("the report", || reported(&edge).contains(&address.to_string()));
    assert!(reported(&edge).contains("198.51.100.9:80"), "{}", reported(&edge));
    drop(taken);
    wait_for("the address", || {
        let mut client = match TcpStream::connect(address) {
            Ok(stream) => Client::on(stream),
            Err(_) => return false,
        };
        client.send(GET);
        client.answer().text() == "a"
    });
    wait_for("the report", || !reported(&edge).contains(&address.to_string()));
}

#[test]
fn a_tier_that_starts_without_an_agent_serves_from_the_file() {
    let net = Net::new();
    let _a = App::start(net.app(1), |client, _, _| reply(client, "a"));
    let mut edge = Edge::start(net.view(1));
    edge.ask_to_end();
    edge.wait_for_end();
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::under(dir.path());
    paths.create_dirs().unwrap();
    let file = Paths::under(edge.dir.path()).view_file();
    wait_for("the view file", || file.exists());
    std::fs::copy(file, paths.view_file()).unwrap();
    let shutdown = Shutdown::new();
    let asked = shutdown.clone();
    let mut options = pontoon_edge::EdgeOptions::new("a".parse().unwrap(), paths);
    options.threads = 1;
    let thread = std::thread::spawn(move || pontoon_edge::run_until(options, asked));
    wait_for("the edge", || TcpStream::connect(net.listen).is_ok());
    assert_eq!(edge.get("/").text(), "a");
    shutdown.trigger();
    thread.join().unwrap().unwrap();
}

#[test]
fn the_end_finishes_what_is_begun_and_takes_nothing_new() {
    let net = Net::new();
    let _a = App::start(net.app(1), |client, head, _| {
        if head.contains("/slow") {
            pause(800);
        }
        reply(client, "a")
    });
    let mut edge = Edge::start(net.view(1));
    let mut idle = edge.client();
    idle.send(GET);
    idle.answer();
    let mut slow = edge.client();
    slow.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
    pause(100);
    let mut new = edge.client();
    pause(50);
    edge.ask_to_end();
    assert!(idle.is_closed(), "an idle connection is closed");
    // Was made before, and asks only now.
    new.send(GET);
    let answer = new.answer();
    assert_eq!(
        (answer.text().as_str(), answer.field("connection").as_deref()),
        ("a", Some("close"))
    );
    wait_for("the listener to close", || {
        TcpStream::connect(net.listen).is_err()
    });
    assert!(!edge.has_ended());
    // The head of its answer came after the end was asked for.
    let answer = slow.answer();
    assert_eq!(answer.text(), "a");
    assert_eq!(answer.field("connection").as_deref(), Some("close"));
    edge.wait_for_end();
}

#[test]
fn a_connection_that_was_parked_is_as_good_as_any_other() {
    let net = Net::new();
    let _a = App::start(net.app(1), |client, head, _| {
        reply(client, if head.contains("/2") { "two" } else { "one" })
    });
    let tuning = |idle_timeout| pontoon_edge::Tuning {
        park_after: Duration::from_millis(1),
        idle_timeout,
        ..tuning()
    };
    let mut edge = Edge::start_with(net.view(1), tuning(60 * SECOND), |_| {});
    let mut clients: Vec<Client> = (0..20).map(|_| edge.client()).collect();
    // Before, while and after they are parked, and with two requests that come together.
    for wait in [0, 1, 2, 5, 300, 0, 300] {
        for client in &mut clients {
            client.send(GET);
            assert_eq!(client.answer().text(), "one");
        }
        pause(wait);
    }
    for client in &mut clients {
        client.send(format!("{GET}GET /2 HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert_eq!([client.answer().text(), client.answer().text()], ["one", "two"]);
    }
    // Half of them go, and the drain ends the others.
    clients.truncate(10);
    pause(100);
    edge.ask_to_end();
    for client in &mut clients {
        assert!(client.rest().is_empty());
    }
    edge.wait_for_end();
    let edge = Edge::start_with(net.view(1), tuning(SECOND), |_| {});
    let mut client = edge.client();
    client.send(GET);
    assert_eq!(client.answer().text(), "one");
    assert!(client.rest().is_empty(), "its time is over");
}

#[test]
fn the_end_does_not_wait_for_ever() {
    let net = Net::new();
    let _a = App::start(net.app(1), |_, _, _| {
        pause(8_000);
        false
    });
    let mut view = net.view(1);
    view.app.as_mut().unwrap().drain = SECOND;
    let mut edge = Edge::start_with(view, pontoon_edge::Tuning::default(), |_| {});
    let mut stuck = edge.client();
    stuck.send(GET);
    pause(100);
    let begun = Instant::now();
    edge.ask_to_end();
    edge.wait_for_end();
    assert!((SECOND / 2..3 * SECOND).contains(&begun.elapsed()));
}

/// Not a test: the process that tests of signals start.
#[test]
fn child_process() {
    let Ok(dir) = std::env::var("PONTOON_TEST_EDGE_DIR") else {
        return;
    };
    let mut options = pontoon_edge::EdgeOptions::new("a".parse().unwrap(), Paths::under(dir.as_ref()));
    options.threads = 2;
    if std::env::var_os("PONTOON_TEST_EDGE_LOGS").is_some() {
        options.access_log.format = pontoon_edge::AccessLogFormat::Json;
    }
    pontoon_edge::run(options).unwrap();
}

#[test]
fn sigterm_ends_a_real_process_with_nothing_lost() {
    let net = Net::new();
    let _a = App::start(net.app(1), |client, _, _| {
        pause(5);
        reply(client, "a")
    });
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::under(dir.path());
    paths.create_dirs().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (publisher, mut reports) = {
        let _entered = runtime.enter();
        ViewPublisher::bind(&paths, Shutdown::new()).unwrap()
    };
    publisher.publish(net.view(1)).unwrap();
    let mut child = start_child(dir.path()).spawn().unwrap();
    wait_for("the edge", || TcpStream::connect(net.listen).is_ok());
    let report = runtime.block_on(reports.recv()).unwrap();
    assert_eq!(report.pid, child.id());
    assert!(matches!(report.detail, TierDetail::Edge(_)));
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    // A connection for each request: one that was taken must be answered.
                    while let Ok(stream) = TcpStream::connect(net.listen) {
                        let mut client = Client::on(stream);
                        client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
                        match client.try_answer() {
                            Some(answer) => assert_eq!(answer.text(), "a"),
                            // In the queue of a listener that closed: reset by the kernel, before it was taken.
                            None => break,
                        }
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        wait_for("answers", || answered.load(Ordering::Relaxed) > 50);
        signal(&child, Signal::TERM);
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    assert!(child.wait().unwrap().success());
}

fn start_child(dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child_process", "--nocapture"])
        .env("PONTOON_TEST_EDGE_DIR", dir);
    command
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
}

#[test]
fn a_log_that_is_rotated_under_load_has_every_line_once() {
    const ROTATIONS: usize = 5;
    let net = Net::new();
    let _a = App::start(net.app(1), |client, _, _| reply(client, "a"));
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::under(dir.path());
    paths.create_dirs().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (publisher, _reports) = {
        let _entered = runtime.enter();
        ViewPublisher::bind(&paths, Shutdown::new()).unwrap()
    };
    publisher.publish(net.view(1)).unwrap();
    let mut child = start_child(dir.path())
        .env("PONTOON_TEST_EDGE_LOGS", "1")
        .spawn()
        .unwrap();
    wait_for("the edge", || TcpStream::connect(net.listen).is_ok());
    let log = paths.log_file("edge-access");
    let rotated = |n: usize| log.with_extension(format!("log.{n}"));
    let has_lines = || std::fs::metadata(&log).is_ok_and(|log| log.len() > 0);
    let (ended, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::to(net.listen);
                while !ended.load(Ordering::Relaxed) {
                    let number = asked.fetch_add(1, Ordering::Relaxed);
                    client.send(format!("GET /{number} HTTP/1.1\r\nHost: test\r\n\r\n"));
                    assert_eq!(client.answer().status, 200);
                }
            });
        }
        for n in 0..ROTATIONS {
            wait_for("lines", has_lines);
            std::fs::rename(&log, rotated(n)).unwrap();
            signal(&child, Signal::HUP);
            wait_for("the new file", has_lines);
        }
        ended.store(true, Ordering::Relaxed);
    });
    signal(&child, Signal::TERM);
    assert!(child.wait().unwrap().success());
    let files = (0..ROTATIONS).map(rotated).chain([log.clone()]);
    let text: String = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let mut seen: Vec<usize> = text
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["target"].as_str().unwrap()[1..].parse().unwrap()
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..asked.into_inner()).collect::<Vec<_>>());
}

#[test]
fn sighup_ends_no_edge_that_logs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::under(dir.path());
    paths.create_dirs().unwrap();
    let mut child = start_child(dir.path()).spawn().unwrap();
    // The signals are awaited before the socket is there.
    wait_for("the edge", || paths.run_dir.join("edge.sock").exists());
    signal(&child, Signal::HUP);
    signal(&child, Signal::TERM);
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_status_socket_answers() {
    use std::io::{Read, Write};
    let (edge, _app) = one(|client, _, _| reply(client, "a"));
    edge.get("/");
    let path = Paths::under(edge.dir.path()).run_dir.join("edge.sock");
    let ask = |target: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream
            .write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    wait_for("the socket", || path.exists());
    assert!(ask("/healthz").ends_with("\r\n\r\nok\n"));
    let metrics = ask("/metrics");
    assert!(
        metrics.contains("pontoon_edge_requests_total{code_class=\"2xx\"} 1\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("pontoon_edge_upstream_healthy{upstream=\"a\"} 1\n"),
        "{metrics}"
    );
    assert!(ask("/other").starts_with("HTTP/1.1 404"));
}

#[test]
fn requests_are_logged() {
    let net = Net::new();
    let _a = App::start(net.app(1), |client, _, _| reply(client, "a"));
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::under(dir.path());
    paths.create_dirs().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (publisher, _reports) = {
        let _entered = runtime.enter();
        ViewPublisher::bind(&paths, Shutdown::new()).unwrap()
    };
    publisher.publish(net.view(1)).unwrap();
    let log = paths.log_file("edge-access");
    let mut options = pontoon_edge::EdgeOptions::new("a".parse().unwrap(), paths);
    options.threads = 1;
    options.access_log.format = pontoon_edge::AccessLogFormat::Json;
    let shutdown = Shutdown::new();
    let asked = shutdown.clone();
    let thread = std::thread::spawn(move || pontoon_edge::run_until(options, asked));
    wait_for("the edge", || TcpStream::connect(net.listen).is_ok());
    let mut client = Client::to(net.listen);
    client.send("GET /p?q HTTP/1.1\r\nHost: test\r\nUser-Agent: me\r\n\r\n");
    client.answer();
    wait_for("the line", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.ends_with('\n'))
    });
    let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!((&line["target"], &line["status"]), (&"/p?q".into(), &200.into()));
    assert_eq!(
        (&line["user_agent"], &line["upstream"]),
        (&"me".into(), &"a".into())
    );
    shutdown.trigger();
    thread.join().unwrap().unwrap();
}
