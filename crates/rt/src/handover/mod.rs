//! A process hands its listening sockets to its successor, so that a new version of a program takes over without a
//! connection that is refused or reset.
//!
//! The very sockets go over (`SCM_RIGHTS`, unix(7)), not new ones for the same address: what the kernel has queued for a
//! socket is lost when its last holder closes it, also where others share the port. While both processes live both may
//! accept; the predecessor stops when the successor has said that it serves. A successor that does not say so is killed,
//! and nothing has changed.
//!
//! The predecessor starts the successor, which so has its user, its rights, its limits and its control group. They speak
//! over a socket pair of whole messages, the successor's standard input.

mod request;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_type};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

pub use self::request::{Asked, HandedOver, listen};

use crate::files::FileError;
use crate::process::{Running, Spec};

/// Says to a process that its standard input is a predecessor.
const MARK: &str = "PONTOON_TAKES_OVER";
/// Sockets in one message; the kernel takes 253 (unix(7)).
const BATCH: usize = 64;
/// What a message may be long, with [`BATCH`] names.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// How long a message between the two may take once it is due.
const PROMPT: Duration = Duration::from_secs(10);

/// A socket and what it is for.
#[derive(Debug)]
pub struct Named<S> {
    /// What it is for, in words that both processes know.
    pub name: String,
    /// The socket.
    pub socket: S,
}

/// Why a handover did not come about.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The successor's program could not be started.
    #[error("{} cannot be started: {source}", program.display())]
    Program {
        /// Which.
        program: std::path::PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// The successor ended, or closed its side, before it served.
    #[error("the new process ended before it served")]
    Ended,
    /// The successor said nothing in time.
    #[error("the new process did not serve within {0:?}")]
    Late(Duration),
    /// The successor said why it cannot serve.
    #[error("the new process cannot serve: {0}")]
    Refused(String),
    /// The predecessor went away before it had let go.
    #[error("the process before this one went away, or gave up, before it had handed over")]
    Abandoned,
    /// What came is no message of the other.
    #[error("what came over the handover's socket is no message of a handover")]
    Nonsense,
    /// The operating system refused something.
    #[error("the handover failed: {0}")]
    System(#[from] io::Error),
    /// The successor's pid file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    /// The sockets of this message, by name.
    Sockets(Vec<String>),
    /// There are no more.
    All,
    /// From the successor: it serves.
    Ready,
    /// From the successor: it cannot serve.
    Refused(String),
    /// From the predecessor: it lets go, and everybody knows the successor.
    Yours,
}

/// Starts `spec` as the successor of this process, gives it `sockets`, waits until it serves, and makes it known: in
/// `pid_file` where that names this process, and to systemd where that runs it. Blocks for up to `patience`.
///
/// When this returns a process, it serves beside this one, which should now stop to accept. Whoever waits for the process
/// learns of its end.
///
/// # Errors
/// Why nothing was handed over. No successor runs then.
pub fn hand_over(
    spec: &Spec,
    sockets: &[Named<OwnedFd>],
    pid_file: &Path,
    patience: Duration,
) -> Result<Child, HandoverError> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(io::Error::from)?;
    let mut child = Command::new(&spec.program)
        .args(&spec.args)
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .env(MARK, "1")
        .stdin(Stdio::from(theirs))
        .spawn()
        .map_err(|source| HandoverError::Program {
            program: spec.program.clone(),
            source,
        })?;
    let handed = give(&ours, sockets, patience).and_then(|()| {
        make_known(child.id(), pid_file)?;
        // From here on the successor stays, whatever becomes of this word.
        let _ = send(&ours, &Message::Yours, &[]);
        Ok(())
    });
    match handed {
        Ok(()) => Ok(child),
        Err(error) => {
            // One that has ended needs no signal.
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

fn give(to: &OwnedFd, sockets: &[Named<OwnedFd>], patience: Duration) -> Result<(), HandoverError> {
    set_socket_timeout(to, Timeout::Send, Some(PROMPT)).map_err(io::Error::from)?;
    set_socket_timeout(to, Timeout::Recv, Some(patience)).map_err(io::Error::from)?;
    for batch in sockets.chunks(BATCH) {
        let names = batch.iter().map(|one| one.name.clone()).collect();
        let fds: Vec<BorrowedFd<'_>> = batch.iter().map(|one| one.socket.as_fd()).collect();
        send(to, &Message::Sockets(names), &fds).map_err(|_| HandoverError::Ended)?;
    }
    send(to, &Message::All, &[]).map_err(|_| HandoverError::Ended)?;
    match receive(to) {
        Ok(Some((Message::Ready, _))) => Ok(()),
        Ok(Some((Message::Refused(reason), _))) => Err(HandoverError::Refused(reason)),
        Ok(Some(_)) => Err(HandoverError::Nonsense),
        Ok(None) => Err(HandoverError::Ended),
        Err(error) if is_late(&error) => Err(HandoverError::Late(patience)),
        Err(error) => Err(error.into()),
    }
}

/// Tells who supervises this process that another one stands in its place.
fn make_known(successor: u32, pid_file: &Path) -> Result<(), HandoverError> {
    if crate::process::adopt(pid_file).is_ok_and(|known| known == Some(Running::me())) {
        Running::of(successor)
            .ok_or(HandoverError::Ended)?
            .save(pid_file)?;
    }
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        tell_systemd(&socket, &format!("MAINPID={successor}\n"))?;
    }
    Ok(())
}

/// Whether systemd follows this process and wants to be told (sd_notify(3)).
pub fn is_followed_by_systemd() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

fn tell_systemd(socket: &OsString, text: &str) -> io::Result<()> {
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(socket.as_os_str());
    let address = match bytes.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(text.as_bytes(), &address)
        .map(drop)
}

/// What a predecessor has given to this process.
#[derive(Debug)]
pub struct Inherited {
    /// The sockets, by name; several may have the same.
    pub sockets: Vec<Named<OwnedFd>>,
    predecessor: OwnedFd,
}

/// What a predecessor gives to this process; `None` for a process that nobody started as a successor. Blocks until all of
/// it has come. To be asked once.
///
/// # Errors
/// When the predecessor says something else, or nothing.
pub fn inherit() -> Result<Option<Inherited>, HandoverError> {
    if std::env::var_os(MARK).is_none() {
        return Ok(None);
    }
    let stdin = io::stdin();
    if !matches!(socket_type(&stdin), Ok(SocketType::SEQPACKET)) {
        return Err(HandoverError::Nonsense);
    }
    let predecessor = stdin.as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?).map_err(io::Error::from)?;
    receive_all(predecessor).map(Some)
}

fn receive_all(predecessor: OwnedFd) -> Result<Inherited, HandoverError> {
    set_socket_timeout(&predecessor, Timeout::Recv, Some(PROMPT)).map_err(io::Error::from)?;
    let mut sockets = Vec::new();
    loop {
        match receive(&predecessor)? {
            Some((Message::Sockets(names), fds)) if names.len() == fds.len() => {
                let named = names.into_iter().zip(fds);
                sockets.extend(named.map(|(name, socket)| Named { name, socket }));
            }
            Some((Message::All, _)) => {
                return Ok(Inherited { sockets, predecessor });
            }
            Some(_) => return Err(HandoverError::Nonsense),
            None => return Err(HandoverError::Abandoned),
        }
    }
}

impl Inherited {
    /// This process serves: the predecessor may stop. Blocks until it has let go.
    ///
    /// # Errors
    /// When it went away or gave up meanwhile. Then nobody who supervises knows this process: it has to end.
    pub fn ready(self) -> Result<(), HandoverError> {
        send(&self.predecessor, &Message::Ready, &[]).map_err(|_| HandoverError::Abandoned)?;
        match receive(&self.predecessor) {
            Ok(Some((Message::Yours, _))) => Ok(()),
            _ => Err(HandoverError::Abandoned),
        }
    }

    /// This process cannot serve, for this reason.
    pub fn refuse(self, reason: &str) {
        // A predecessor that is gone needs no reason.
        let _ = send(&self.predecessor, &Message::Refused(reason.to_owned()), &[]);
    }
}

fn send(to: &OwnedFd, message: &Message, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(to, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// One message and its sockets; `None` when the other side is gone.
fn receive(from: &OwnedFd) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(from, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sockets) = message {
            fds.extend(sockets);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let message = serde_json::from_slice(bytes.get(..got.bytes).unwrap_or(&[]))?;
    Ok(Some((message, fds)))
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests;
