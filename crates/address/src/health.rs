//! Whether edges serve: this server's own, over its socket, and one behind an address that is suspected.

#![allow(
    clippy::disallowed_methods,
    reason = "threads of its own, outside any runtime, may sleep"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use pontoon_fleet::ServerName;

/// What was found out.
#[derive(Debug)]
pub(crate) enum Finding {
    /// Whether the edge behind an address of this home answered.
    Probed(ServerName, bool),
    /// Whether this server's own edge answers.
    Fit(bool),
}

/// Asks `address` for a byte of HTTP within `patience`. The request has no Host, so the edge answers it by itself (RFC
/// 9112 section 3.2) and no application is asked.
pub(crate) fn probe(home: ServerName, address: SocketAddr, patience: Duration, tell: Sender<Finding>) {
    let asked = move || {
        let began = Instant::now();
        let answer = TcpStream::connect_timeout(&address, patience).and_then(|mut stream| {
            let left = patience
                .saturating_sub(began.elapsed())
                .max(Duration::from_millis(1));
            stream.set_read_timeout(Some(left))?;
            stream.set_write_timeout(Some(left))?;
            stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")?;
            stream.read_exact(&mut [0; 5])
        });
        let _ = tell.send(Finding::Probed(home, answer.is_ok()));
    };
    if let Err(error) = thread::Builder::new().name("probe".to_owned()).spawn(asked) {
        tracing::warn!(%error, "an edge was not asked whether it serves");
    }
}

/// Asks this server's edge at `socket` every `interval` for ever; says so when the answer changes. An edge that has just
/// been started by the agent is given a moment.
pub(crate) fn watch_own(socket: PathBuf, interval: Duration, tell: Sender<Finding>) -> std::io::Result<()> {
    let began = Instant::now();
    let watch = move || {
        let (mut failures, mut fit, mut ever) = (0, true, false);
        loop {
            let asked = Instant::now();
            if alive(&socket, interval) {
                (failures, ever) = (0, true);
            } else {
                failures += 1;
            }
            let now = failures < FALL || !ever && began.elapsed() < START;
            if now != fit {
                fit = now;
                if tell.send(Finding::Fit(fit)).is_err() {
                    return;
                }
            }
            thread::sleep(interval.saturating_sub(asked.elapsed()));
        }
    };
    thread::Builder::new()
        .name("edge-watch".to_owned())
        .spawn(watch)?;
    Ok(())
}

/// Whether the edge's process answers anything: a frozen one does not, though its kernel takes the connection.
fn alive(socket: &PathBuf, patience: Duration) -> bool {
    UnixStream::connect(socket)
        .and_then(|mut stream| {
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            stream.write_all(b"GET /alive HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n")?;
            stream.read_exact(&mut [0; 5])
        })
        .is_ok()
}

/// Failed checks in a row after which an edge does not serve.
const FALL: u32 = 3;

/// How long an edge that never answered may take to start.
const START: Duration = Duration::from_secs(10);
