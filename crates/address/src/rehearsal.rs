//! A rehearsal: this server takes a living server's addresses for some seconds, sees who learns of it and how fast, and
//! hands them back.
//!
//! It is asked for over `<run>/address.sock`, a line `HOME MILLISECONDS`, and answers with one line of JSON: an
//! [`Outcome`], or `{"refused": "why"}`. Whether an address is believed to be here is found out as the holder finds it
//! out: whoever is asked something from the address answers to where the address is, as far as it knows.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_fleet::ServerName;
use pontoon_rt::listen;
use pontoon_rt::shutdown::Shutdown;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

/// What a rehearsal came to. Times are in milliseconds after the take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Whose addresses.
    pub home: ServerName,
    /// Who took them: this server.
    pub at: ServerName,
    /// Which.
    pub addresses: Vec<IpAddr>,
    /// When their home was heard to have let go.
    pub let_go_ms: Option<u64>,
    /// The router, and when it sent something to the address here.
    pub gateway: Option<Learner>,
    /// The servers of the fleet on the same network.
    pub neighbours: Vec<Learner>,
    /// When their home was heard to have them again, after the hand-over.
    pub home_again_ms: Option<u64>,
}

/// Somebody who must learn where an address is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learner {
    /// Its address.
    pub ip: Ipv4Addr,
    /// When it sent something here; `None` if it did not while the rehearsal ran.
    pub learned_ms: Option<u64>,
}

impl Outcome {
    /// Whether a takeover would reach everybody who was asked.
    pub fn is_good(&self) -> bool {
        let learned = |learner: &Learner| learner.learned_ms.is_some();
        self.gateway.as_ref().is_none_or(learned)
            && self.neighbours.iter().all(learned)
            && self.let_go_ms.is_some()
            && self.home_again_ms.is_some()
    }
}

/// Why there was no outcome.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// The process does not answer.
    #[error("{}: {source}", path.display())]
    Unreachable {
        /// Its socket.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: std::io::Error,
    },
    /// It does not rehearse now.
    #[error("{0}")]
    Refused(String),
    /// It said something else.
    #[error("the address process answered something else")]
    Malformed,
}

/// How long an address may be away in a rehearsal.
pub const LONGEST: Duration = Duration::from_secs(30);

/// Asks the address process of this server for a rehearsal of `home` that lasts `hold`.
///
/// # Errors
/// [`RehearsalError`].
pub async fn ask(path: &Path, home: &ServerName, hold: Duration) -> Result<Outcome, RehearsalError> {
    let unreachable = |source| RehearsalError::Unreachable {
        path: path.to_owned(),
        source,
    };
    let talk = async {
        let mut stream = UnixStream::connect(path).await?;
        let line = format!("{home} {}\n", hold.as_millis());
        stream.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream)
            .take(MAX_ANSWER)
            .read_line(&mut answer)
            .await?;
        Ok(answer)
    };
    let answer = match tokio::time::timeout(hold + PATIENCE + PATIENCE, talk).await {
        Ok(answer) => answer.map_err(unreachable)?,
        Err(_) => return Err(unreachable(std::io::ErrorKind::TimedOut.into())),
    };
    match serde_json::from_str(&answer) {
        Ok(Answer::Outcome(outcome)) => Ok(outcome),
        Ok(Answer::Refused { refused }) => Err(RehearsalError::Refused(refused)),
        Err(_) => Err(RehearsalError::Malformed),
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Answer {
    Refused { refused: String },
    Outcome(Outcome),
}

/// What the driver is told.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) home: ServerName,
    pub(crate) hold: Duration,
    /// Takes the outcome or why there is none.
    pub(crate) reply: oneshot::Sender<Result<Outcome, String>>,
}

/// Takes requests at `path` until shutdown; `give` hands them to the driver.
pub(crate) async fn serve(path: PathBuf, give: impl Fn(Request) + Clone, shutdown: Shutdown) {
    let listener = loop {
        match listen::unix(&path, MODE).and_then(UnixListener::from_std) {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "rehearsals cannot be asked for yet")
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = shutdown.requested() => return,
        }
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.requested() => return,
        };
        // One after the other: an address moves once at a time.
        match accepted {
            Ok((stream, _)) => {
                let served = serve_one(stream, &give);
                tokio::select! {
                    served = served => {
                        if let Err(error) = served {
                            tracing::debug!(%error, "whoever asked for a rehearsal is gone");
                        }
                    }
                    () = shutdown.requested() => return,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a request for a rehearsal was not taken");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn serve_one(mut stream: UnixStream, give: &impl Fn(Request)) -> std::io::Result<()> {
    let mut line = String::new();
    let read = async {
        let (reader, _) = stream.split();
        BufReader::new(reader).take(MAX_LINE).read_line(&mut line).await
    };
    let read = tokio::time::timeout(PATIENCE, read).await;
    read.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    let answer = match parse(&line) {
        None => Err(format!(
            "a line is wanted: a server's name, and milliseconds up to {}",
            LONGEST.as_millis()
        )),
        Some((home, hold)) => {
            let (reply, outcome) = oneshot::channel();
            give(Request { home, hold, reply });
            // The driver says what came of it by itself; without one nobody would wait for ever.
            match tokio::time::timeout(hold + PATIENCE, outcome).await {
                Ok(Ok(outcome)) => outcome,
                _ => Err("addresses do not move here now".to_owned()),
            }
        }
    };
    let answer = answer.map_or_else(|refused| Answer::Refused { refused }, Answer::Outcome);
    // Text and numbers can always be written.
    let mut text = serde_json::to_string(&answer).unwrap_or_default();
    text.push('\n');
    stream.write_all(text.as_bytes()).await
}

fn parse(line: &str) -> Option<(ServerName, Duration)> {
    let (home, hold) = line.strip_suffix('\n')?.split_once(' ')?;
    let hold = Duration::from_millis(hold.parse().ok()?);
    let fits = !hold.is_zero() && hold <= LONGEST;
    Some((home.parse().ok()?, hold)).filter(|_| fits)
}

/// One that runs.
#[derive(Debug)]
pub(crate) struct Running {
    reply: Option<oneshot::Sender<Result<Outcome, String>>>,
    began: Duration,
    /// When the addresses are handed back.
    pub(crate) until: Duration,
    asked: Option<Duration>,
    outcome: Outcome,
}

impl Running {
    pub(crate) fn new(request: Request, outcome: Outcome, began: Duration) -> Running {
        Running {
            reply: Some(request.reply),
            began,
            until: began + request.hold,
            asked: None,
            outcome,
        }
    }

    /// Whose addresses.
    pub(crate) fn home(&self) -> &ServerName {
        &self.outcome.home
    }

    /// Whom to ask now, from which address; the gateway is among them.
    pub(crate) fn whom_to_ask(&mut self, now: Duration) -> Option<(Ipv4Addr, Vec<Ipv4Addr>)> {
        if self.asked.is_some_and(|at| now.saturating_sub(at) < ASK_EVERY) {
            return None;
        }
        self.asked = Some(now);
        let from = self.outcome.addresses.iter().find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        })?;
        let learners = self.outcome.gateway.iter().chain(&self.outcome.neighbours);
        let open = learners.filter(|learner| learner.learned_ms.is_none());
        Some((from, open.map(|learner| learner.ip).collect()))
    }

    /// Somebody answered to the address; what it answered was sent at `sent`.
    pub(crate) fn answered(&mut self, from: Ipv4Addr, to: Ipv4Addr, sent: Duration, now: Duration) {
        if sent < self.began || now > self.until || !self.outcome.addresses.contains(&IpAddr::V4(to)) {
            return;
        }
        let after = millis(now.saturating_sub(self.began));
        let learners = self
            .outcome
            .gateway
            .iter_mut()
            .chain(&mut self.outcome.neighbours);
        for learner in learners.filter(|learner| learner.ip == from) {
            learner.learned_ms.get_or_insert(after);
        }
    }

    /// How the share stands: whether this server holds it, and which other one does. True when all is over.
    pub(crate) fn stands(&mut self, now: Duration, here: bool, other: Option<&ServerName>) -> bool {
        if here && other.is_none() {
            let after = millis(now.saturating_sub(self.began));
            self.outcome.let_go_ms.get_or_insert(after);
        }
        if now >= self.until && !here && other == Some(&self.outcome.home) {
            let after = millis(now.saturating_sub(self.until));
            self.outcome.home_again_ms = Some(after);
            return true;
        }
        // Before its time it was taken from here, or it does not go home.
        now >= self.until + GIVE_UP || now < self.until && !here
    }

    /// Tells the outcome.
    pub(crate) fn finish(mut self) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Ok(self.outcome));
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Root, and who belongs to the tiers' group.
const MODE: u32 = 0o660;
const MAX_LINE: u64 = 256;
const MAX_ANSWER: u64 = 64 * 1024;
const RETRY: Duration = Duration::from_millis(200);
/// How long anybody may take beyond the rehearsal itself.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the home may take to have its addresses again.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Between two questions to those who have not learned yet.
const ASK_EVERY: Duration = Duration::from_millis(10);

#[cfg(test)]
#[path = "rehearsal_tests.rs"]
mod tests;
