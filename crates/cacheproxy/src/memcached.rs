//! The memcached of this server: how it is started, and what the guard says to it.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

use pontoon_rt::process::Running;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The program, as Debian's package installs it.
pub const PROGRAM: &str = "memcached";

/// How long it may take to answer the guard.
const ANSWER: Duration = Duration::from_secs(1);

/// What it is started with: a Unix socket and nothing else, so that nobody reaches it but through the proxy, and no UDP. The
/// guard may end it (`-A`): a new process is the only memcached that surely has nothing of before in it, for after
/// `flush_all` a later `flush_all` with a delay brings old items back.
pub fn arguments(socket: &Path, memory_bytes: u64) -> Vec<OsString> {
    let megabytes = (memory_bytes >> 20).max(1).to_string();
    let mut words: Vec<OsString> = vec!["-s".into(), socket.into()];
    for word in ["-a", "0600", "-U", "0", "-A", "-c", "4096", "-m"] {
        words.push(word.into());
    }
    words.push(megabytes.into());
    words
}

/// Connects, and says which process answers.
///
/// # Errors
/// Nobody listens, or who does is not known.
pub async fn connect(socket: &Path) -> io::Result<(UnixStream, u32)> {
    let stream = timeout(ANSWER, UnixStream::connect(socket)).await??;
    let pid = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
    let pid = pid.ok_or_else(|| io::Error::other("the kernel does not say who listens"))?;
    Ok((stream, pid))
}

/// The process that answers at `socket` now.
///
/// # Errors
/// Why it does not answer.
pub async fn process(socket: &Path) -> io::Result<Running> {
    let (mut stream, pid) = connect(socket).await?;
    ask(&mut stream, b"version\r\n").await?;
    Running::of(pid).ok_or_else(|| io::Error::other("it ended just now"))
}

/// Ends the memcached that answers at `socket`: whoever looks after it starts a new one, which is empty.
///
/// # Errors
/// It does not answer.
pub async fn end(socket: &Path) -> io::Result<()> {
    let (mut stream, _) = connect(socket).await?;
    timeout(ANSWER, stream.write_all(b"shutdown\r\n")).await?
}

/// Lets it have so much memory.
///
/// # Errors
/// It does not answer.
pub async fn set_memory(socket: &Path, memory_bytes: u64) -> io::Result<()> {
    let (mut stream, _) = connect(socket).await?;
    let command = format!("cache_memlimit {}\r\n", memory_bytes >> 20);
    let said = ask(&mut stream, command.as_bytes()).await?;
    if said.starts_with(b"OK") {
        Ok(())
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&said).trim().to_owned()))
    }
}

/// One line there, one line back.
async fn ask(stream: &mut UnixStream, command: &[u8]) -> io::Result<Vec<u8>> {
    let talk = async {
        stream.write_all(command).await?;
        let mut line = Vec::new();
        while !line.ends_with(b"\n") && line.len() < 1024 {
            line.push(stream.read_u8().await?);
        }
        Ok(line)
    };
    timeout(ANSWER, talk).await?
}
