//! Calls the operator's program that tells another name server of a name's records. The contract is in `docs/dns.md`.

use std::net::IpAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use pontoon_config::DnsHook;
use pontoon_zone::{Name, Rrset, rtype};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

/// Of what it writes to standard error, as much is read.
const MAX_WORDS: usize = 4096;

/// Calls it and waits until it has ended.
///
/// # Errors
/// Why it does not count as done: it cannot be started, it took too long (it and what it started is killed), or it ended with
/// another exit status than 0.
pub(super) async fn call(
    hook: &DnsHook,
    zone: &Name,
    (name, rtype): &(Name, u16),
    set: &Rrset,
) -> Result<(), String> {
    let kind = match *rtype {
        rtype::A => "A",
        rtype::AAAA => "AAAA",
        _ => "TXT",
    };
    let mut command = Command::new(&hook.exec);
    command
        .args(["set", &name.to_string(), kind, &set.ttl.to_string()])
        .args(set.data.iter().filter_map(|data| text(*rtype, data)))
        .env("PONTOON_ZONE", zone.to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    let group = child
        .id()
        .and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
    let mut words = Vec::new();
    let ended = match child.stderr.take() {
        Some(stderr) => timeout(hook.timeout, listen(&mut child, stderr, &mut words)).await,
        None => timeout(hook.timeout, child.wait()).await,
    };
    let status = match ended {
        Ok(status) => status.map_err(|error| error.to_string())?,
        Err(_) => {
            if let Some(group) = group {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = child.wait().await;
            return Err(format!(
                "it had not ended after {:?} and was killed",
                hook.timeout
            ));
        }
    };
    if status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&words);
    let last = text
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or_default();
    Err(match last {
        "" => format!("{status}"),
        last => format!("{status}: {}", last.trim()),
    })
}

/// A record as the program gets it, from its data.
pub(super) fn text(rtype: u16, data: &[u8]) -> Option<String> {
    match rtype {
        rtype::A => Some(IpAddr::from(<[u8; 4]>::try_from(data).ok()?).to_string()),
        rtype::AAAA => Some(IpAddr::from(<[u8; 16]>::try_from(data).ok()?).to_string()),
        // One string, after its length.
        _ => String::from_utf8(data.get(1..)?.to_vec()).ok(),
    }
}

/// Reads what it says until it has ended.
async fn listen(
    child: &mut Child,
    mut stderr: ChildStderr,
    words: &mut Vec<u8>,
) -> std::io::Result<ExitStatus> {
    let mut buffer = [0; 1024];
    let mut ended = None;
    loop {
        let count = tokio::select! {
            biased;
            count = stderr.read(&mut buffer) => count.unwrap_or(0),
            status = child.wait(), if ended.is_none() => {
                ended = Some(status?);
                continue;
            }
            // What it left behind may hold the pipe for longer than it lived.
            () = tokio::time::sleep(AFTERWARDS), if ended.is_some() => 0,
        };
        if count == 0 {
            break;
        }
        let room = MAX_WORDS.saturating_sub(words.len()).min(count);
        words.extend_from_slice(buffer.get(..room).unwrap_or_default());
    }
    match ended {
        Some(status) => Ok(status),
        None => child.wait().await,
    }
}

/// What has ended has said what it will.
const AFTERWARDS: Duration = Duration::from_millis(50);
