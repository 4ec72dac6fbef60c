//! Small helpers: wait until something is true, free ports, run a program with a time limit.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::LabError;

/// How long processes may take to end or to stop, and small commands to run, on a machine that is busy with a hundred
/// other things.
pub const ENDS: Duration = Duration::from_secs(60);

/// Asks `condition` every 20 ms until it answers with a value.
///
/// # Errors
/// [`LabError::Timeout`] with `what` when `limit` has passed.
pub async fn wait_until<T, F, C>(what: &str, limit: Duration, mut condition: C) -> Result<T, LabError>
where
    C: FnMut() -> F,
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition().await {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            return Err(LabError::Timeout {
                what: what.to_owned(),
                after: limit,
            });
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// A port that is free in TCP and UDP on every address of IPv4, with the three that follow it. Until this process ends
/// no other caller on the machine gets one of the four, though what listened there has ended or not begun; and they are
/// none of those that the kernel gives to connections (`net.ipv4.ip_local_port_range`, from 32768).
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16, LabError> {
    const FIRST: u16 = 10_000;
    const BLOCKS: u32 = 5_600;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Each process begins elsewhere, so that they seldom meet.
    let begin = std::process::id() % BLOCKS * 37;
    for _ in 0..BLOCKS {
        let block = (begin + NEXT.fetch_add(1, Ordering::Relaxed) % BLOCKS) % BLOCKS;
        let port = FIRST + 4 * block as u16;
        if let Some(claim) = claim(port) {
            // Kept until the process ends.
            std::mem::forget(claim);
            return Ok(port);
        }
    }
    Err(LabError::io("a free port")(io::ErrorKind::AddrInUse.into()))
}

/// A name in the abstract namespace, which like the ports belongs to one network namespace, if nobody else has it and
/// nobody listens on the four ports from `port`.
fn claim(port: u16) -> Option<UnixListener> {
    let name = format!("pontoon-test-port-{port}");
    let claim = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).ok()?).ok()?;
    (port..port + 4)
        .all(|port| {
            let every = (Ipv4Addr::UNSPECIFIED, port);
            TcpListener::bind(every).is_ok() && UdpSocket::bind(every).is_ok()
        })
        .then_some(claim)
}

/// Runs a program to its end and gives its output; it is killed when it takes longer than `limit`.
///
/// # Errors
/// When it cannot be started, ends with an error, or takes too long.
pub async fn run(command: &mut Command, limit: Duration) -> Result<Output, LabError> {
    let line = command_line(command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = timeout(limit, command.output())
        .await
        .map_err(|_| LabError::Timeout {
            what: line.clone(),
            after: limit,
        })?
        .map_err(LabError::io(line.clone()))?;
    if !output.status.success() {
        let said = if output.stderr.is_empty() {
            &output.stdout
        } else {
            &output.stderr
        };
        return Err(LabError::Command {
            command: line,
            status: output.status.to_string(),
            stderr: tail(said, 20),
        });
    }
    Ok(output)
}

/// Whether a program is found on `PATH` or in the system's `sbin` folders, and where.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.extend(
        [
            "/usr/local/sbin",
            "/usr/sbin",
            "/sbin",
            "/usr/local/bin",
            "/usr/bin",
            "/bin",
        ]
        .map(Into::into),
    );
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// The last lines of what a program said.
pub(crate) fn tail(bytes: &[u8], lines: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A command as it would be typed, for messages.
pub(crate) fn command_line(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
