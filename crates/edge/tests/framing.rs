//! The same hostile requests to nginx, HAProxy, hyper, a reader that believes everything, and the edge: what two of the
//! others read differently, the edge passes on to nobody.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;
#[path = "framing/hostile.rs"]
mod hostile;
#[path = "framing/lenient.rs"]
mod lenient;
#[path = "framing/recorder.rs"]
mod recorder;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::*;
use hostile::Numbers;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use recorder::{Record, Seen};

/// A program before an application that writes down what reaches it.
struct Front {
    name: &'static str,
    address: SocketAddr,
    record: Record,
    _process: Option<Running>,
}

struct Running {
    process: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn here() -> (SocketAddr, SocketAddr) {
    let net = Net::new();
    (net.listen, net.app(1))
}

fn program(variable: &str, unpacked: &str, installed: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let cached = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../.cache")
        .join(unpacked);
    named
        .into_iter()
        .chain([cached, PathBuf::from(installed)])
        .find(|path| path.is_file())
}

fn start(
    name: &'static str,
    command: &mut Command,
    file: &Path,
    config: String,
    dir: tempfile::TempDir,
) -> Running {
    std::fs::write(file, config).unwrap();
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Running {
        process: quiet.spawn().expect(name),
        _dir: dir,
    }
}

fn nginx() -> Option<Front> {
    let program = program("PONTOON_TEST_NGINX", "nginx/usr/sbin/nginx", "/usr/sbin/nginx")?;
    let (address, app) = here();
    let record = recorder::start(app);
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().display();
    let config = format!(
        "daemon off; master_process off; pid {root}/pid; error_log /dev/null;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;\n\
         fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi; lingering_close off;\n\
         server {{ listen {address}; location / {{ proxy_pass http://{app}; proxy_http_version 1.1;\n\
         proxy_ignore_client_abort on; proxy_set_header Connection \"\"; }} }} }}\n"
    );
    let file = dir.path().join("nginx.conf");
    let mut command = Command::new(program);
    command.args(["-e", "stderr", "-c"]).arg(&file);
    Some(Front {
        name: "nginx",
        address,
        record,
        _process: Some(start("nginx", &mut command, &file, config, dir)),
    })
}

fn haproxy() -> Option<Front> {
    let program = program("PONTOON_TEST_HAPROXY", "haproxy/bin/haproxy", "/usr/sbin/haproxy")?;
    let (address, app) = here();
    let record = recorder::start(app);
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "global\n maxconn 1000\n nbthread 1\ndefaults\n mode http\n timeout connect 5s\n timeout client 2s\n timeout server 5s\n\
         frontend web\n bind {address}\n default_backend app\nbackend app\n server app {app}\n"
    );
    let file = dir.path().join("haproxy.cfg");
    let mut command = Command::new(program);
    command.args(["-db", "-f"]).arg(&file);
    Some(Front {
        name: "HAProxy",
        address,
        record,
        _process: Some(start("haproxy", &mut command, &file, config, dir)),
    })
}

/// hyper as a server: it writes down itself what it understood.
fn hyper() -> Front {
    let (address, _) = here();
    let record = Record::default();
    let kept = record.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async move {
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let record = kept.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| understood(request, record.clone()));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .half_close(true)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
    });
    Front {
        name: "hyper",
        address,
        record,
        _process: None,
    }
}

async fn understood(
    request: Request<Incoming>,
    record: Record,
) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes().to_vec();
    record.add(Seen {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        body,
    });
    Ok(Response::new(Empty::new()))
}

/// Sends `bytes`, and waits until the front has closed: then all that it passes on has arrived.
fn send(front: &Front, bytes: &[u8]) {
    let mut stream = TcpStream::connect(front.address).unwrap();
    stream.set_read_timeout(Some(20 * SECOND)).unwrap();
    // It may have refused and closed before all was written.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = [0; 4096];
    while matches!(stream.read(&mut answer), Ok(count) if count > 0) {}
}

/// Cases in CI, and with `PONTOON_LONG=1`.
const CASES: [usize; 2] = [5_000, 50_000];
const SENDERS: usize = 8;

#[test]
fn what_two_others_read_differently_is_passed_on_to_nobody() {
    let (Some(nginx), Some(haproxy)) = (nginx(), haproxy()) else {
        println!("SKIPPED: nginx and HAProxy are not both here");
        return;
    };
    let net = Net::new();
    let us = recorder::start(net.app(1));
    let edge = Edge::start(net.view(1));
    let us = Front {
        name: "edge",
        address: edge.address,
        record: us,
        _process: None,
    };
    let fronts = [us, nginx, haproxy, hyper()];
    for front in &fronts {
        wait_for(front.name, || TcpStream::connect(front.address).is_ok());
    }
    let long = std::env::var_os("PONTOON_LONG").is_some();
    let count = CASES[usize::from(long)];
    let seed = std::env::var("PONTOON_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or(1);
    let case = |number: usize| {
        let mut numbers = Numbers(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        let mut bytes = hostile::request(&mut numbers, &format!("/{number}/first"));
        let second = format!("GET /{number}/second HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
        bytes.extend_from_slice(second.as_bytes());
        bytes
    };
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    fronts.iter().for_each(|front| send(front, &case(number)));
                }
            });
        }
    });
    for front in &fronts {
        let read = (0..count).filter(|number| !front.record.of(*number).is_empty());
        println!("{}: {} of {count} read", front.name, read.count());
    }
    let (mut passed, mut disputed, mut among_real, mut wrong) = (0, 0, 0, Vec::new());
    for number in 0..count {
        let ours = fronts[0].record.of(number);
        let mut theirs: Vec<(&str, Vec<Seen>)> = fronts[1..]
            .iter()
            .map(|front| (front.name, front.record.of(number)))
            .collect();
        theirs.push(("lenient", lenient::read(&case(number))));
        passed += usize::from(!ours.is_empty());
        among_real += usize::from(dispute(&theirs[..theirs.len() - 1]).is_some());
        let from = dispute(&theirs);
        disputed += usize::from(from.is_some());
        // What one of them reads and the others refuse is in dispute with nobody; but if the edge reads it too, it is
        // to read the same.
        let differs = ours.iter().enumerate().any(|(at, our)| {
            from.is_some_and(|from| at >= from)
                || theirs
                    .iter()
                    .any(|(_, list)| list.get(at).is_some_and(|their| their != our))
        });
        if differs {
            let all: String = theirs
                .iter()
                .map(|(name, list)| format!("  {name:8} {list:?}\n"))
                .collect();
            wrong.push(format!(
                "PONTOON_SEED={seed}, case {number}: {:?}\n  edge     {ours:?}\n{all}",
                String::from_utf8_lossy(&case(number)),
            ));
        }
    }
    println!(
        "{count} requests: {passed} passed on by the edge; {disputed} read differently by two of the others, {among_real} by \
         two of nginx, HAProxy and hyper"
    );
    assert!(
        wrong.is_empty(),
        "{} of {count}:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(10)].join("\n")
    );
    assert_eq!(
        fronts[0].record.strays(),
        [],
        "parts of requests were taken for requests"
    );
    assert!(
        passed > 0 && disputed > 0,
        "the requests are not hostile enough: {passed} passed on, {disputed} disputed"
    );
}

/// The number of the first request that two of them read differently. Who refuses it reads nothing.
fn dispute(lists: &[(&str, Vec<Seen>)]) -> Option<usize> {
    let most = lists.iter().map(|(_, list)| list.len()).max().unwrap_or(0);
    (0..most).find(|at| {
        let mut readings = lists.iter().filter_map(|(_, list)| list.get(*at));
        let first = readings.next();
        readings.any(|other| Some(other) != first)
    })
}
