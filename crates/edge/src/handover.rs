//! An edge hands its listening sockets to its successor, and takes over those of its predecessor.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::Duration;

use pontoon_fleet::{Code, Refusal};
use pontoon_rt::handover::{Asked, HandedOver, HandoverError, Inherited, Named};
use tokio::sync::{mpsc, oneshot};

use crate::worker::Door;

/// How long a successor may take until it serves.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long a successor waits for the first look at every application server; then it serves by what it knows.
pub const FIRST_LOOK: Duration = Duration::from_secs(3);
/// When a successor that is not ready says so, before its predecessor gives up on it.
pub const GIVE_UP: Duration = Duration::from_secs(20);
/// How often a successor looks whether it is ready.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The listening sockets of one process, by what they are for.
pub type Sockets = BTreeMap<(Door, SocketAddr), Vec<TcpListener>>;

/// `sockets` as a successor gets them.
///
/// # Errors
/// When the process is out of files.
pub fn named(sockets: &Sockets) -> Result<Vec<Named<OwnedFd>>, HandoverError> {
    let all = sockets
        .iter()
        .flat_map(|(key, sockets)| sockets.iter().map(move |socket| (key, socket)));
    all.map(|((door, address), socket)| {
        Ok(Named {
            name: format!("{} {address}", door_name(*door)),
            socket: OwnedFd::from(socket.try_clone()?),
        })
    })
    .collect()
}

/// What a predecessor has given, until this process serves.
#[derive(Debug)]
pub struct TakingOver {
    /// The sockets that are not used yet.
    pub sockets: Sockets,
    /// The way to say that it serves.
    pub predecessor: Inherited,
}

impl TakingOver {
    /// Sorts what came.
    ///
    /// # Errors
    /// A name that this version does not know: the predecessor has a door that would be lost.
    pub fn new(mut predecessor: Inherited) -> Result<TakingOver, HandoverError> {
        let mut sockets = Sockets::new();
        for Named { name, socket } in std::mem::take(&mut predecessor.sockets) {
            match key(&name) {
                Some(key) => sockets.entry(key).or_default().push(TcpListener::from(socket)),
                None => {
                    let reason = format!("this version does not know what {name} is");
                    predecessor.refuse(&reason);
                    return Err(HandoverError::Refused(reason));
                }
            }
        }
        Ok(TakingOver { sockets, predecessor })
    }
}

/// A handover under way, and who waits for word of it.
#[derive(Debug)]
pub struct HandingOver {
    /// What came of it.
    pub outcome: oneshot::Receiver<Result<Child, HandoverError>>,
    /// Who asked.
    pub answer: Asked,
}

impl HandingOver {
    /// Tells who asked. Gives what hears of the successor's end, if there is a successor.
    pub fn settle(self, outcome: Result<Child, HandoverError>) -> Option<oneshot::Receiver<()>> {
        let mut child = match outcome {
            Ok(child) => child,
            Err(error) => {
                tracing::warn!(%error, "not handed over: this process serves on");
                // Who asked and went away needs no answer.
                let _ = self.answer.send(Err(not_handed_over(&error)));
                return None;
            }
        };
        let (from, to) = (std::process::id(), child.id());
        tracing::info!(successor = to, "handed over");
        let _ = self.answer.send(Ok(HandedOver { from, to }));
        let (_lives, end) = oneshot::channel();
        let waited_for = in_a_thread(move || {
            let _ = child.wait();
        });
        Some(waited_for.unwrap_or(end))
    }
}

/// Why nothing was handed over, for an operator.
pub fn not_handed_over(error: &HandoverError) -> Refusal {
    Refusal::new(
        Code::N009,
        "the edge was not handed over; the process that ran before serves on",
    )
    .because(error.to_string())
}

/// The next who asks for a handover.
pub async fn next(asked: &mut Option<mpsc::Receiver<Asked>>) -> Option<Asked> {
    match asked {
        Some(asked) => asked.recv().await,
        None => std::future::pending().await,
    }
}

/// What comes of the handover, while there is one.
pub async fn outcome(handing_over: &mut Option<HandingOver>) -> Result<Child, HandoverError> {
    match handing_over {
        Some(one) => (&mut one.outcome).await.unwrap_or(Err(HandoverError::Ended)),
        None => std::future::pending().await,
    }
}

/// The successor's end, if there is a successor.
pub async fn end_of(successor: &mut Option<oneshot::Receiver<()>>) {
    match successor {
        Some(end) => {
            // Without the thread that waits nobody tells.
            if end.await.is_err() {
                std::future::pending().await
            }
        }
        None => std::future::pending().await,
    }
}

/// Runs `task`, which blocks, in a thread of its own.
///
/// # Errors
/// When there is no thread to be had.
pub fn in_a_thread<T: Send + 'static>(
    task: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (done, outcome) = oneshot::channel();
    let thread = std::thread::Builder::new().name("handover".to_owned());
    thread.spawn(move || drop(done.send(task())))?;
    Ok(outcome)
}

fn key(name: &str) -> Option<(Door, SocketAddr)> {
    let (door, address) = name.split_once(' ')?;
    let door = [Door::Http, Door::Https, Door::Relay]
        .into_iter()
        .find(|one| door_name(*one) == door)?;
    Some((door, address.parse().ok()?))
}

fn door_name(door: Door) -> &'static str {
    match door {
        Door::Http => "http",
        Door::Https => "https",
        Door::Relay => "relay",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_known_by_its_name() {
        for (door, address) in [
            (Door::Http, "198.51.100.1:80"),
            (Door::Https, "[2001:db8::1]:443"),
            (Door::Relay, "10.0.0.1:7401"),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(
                key(&format!("{} {address}", door_name(door))),
                Some((door, address))
            );
        }
        for unknown in ["", "http", "http nowhere", "quic 198.51.100.1:443"] {
            assert_eq!(key(unknown), None, "{unknown}");
        }
    }
}
