//! What the failover task shows to the rest of the agent, and the way into it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_decide::failover::{
    Command, Durable, Event, Incarnation, PeerFacts, Position, Record, State, Why,
};
use pontoon_fleet::{Code, Epoch, Refusal, UnixMillis};
use pontoon_replication::work::Facts;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// Messages that may wait; all but an operator's word are sent again when they get lost.
const QUEUE: usize = 256;

/// The last few notices are enough for a screen; the timeline has all of them.
const NOTICES: usize = 5;

/// How long the task may take to take up an operator's word.
const PATIENCE: Duration = Duration::from_secs(10);

/// A message to the failover task.
#[derive(Debug)]
pub(crate) enum Message {
    /// What happened elsewhere.
    Event(Event),
    /// An operator's word, and who waits for what becomes of it.
    Command(Command, oneshot::Sender<Result<(), Why>>),
}

/// How failover stands on one database server, as its agent tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverReport {
    /// What it does.
    pub state: State,
    /// For how long, in milliseconds.
    pub state_ms: u64,
    /// The record in the lease store, as last seen.
    pub record: Option<Record>,
    /// How long ago the store last answered, in milliseconds; `None`: never.
    pub store_ms: Option<u64>,
    /// Why it did not, when the last request failed.
    pub store_error: Option<String>,
    /// The life of the data directory.
    pub incarnation: Incarnation,
    /// The epoch whose leader the database follows.
    pub follows: Option<Epoch>,
    /// Whether it does so through another replica.
    #[serde(default)]
    pub through: bool,
    /// Whether it asks the leader not to count on it.
    #[serde(default)]
    pub leaving: bool,
    /// The epoch whose lease names it, in which its database was not open and will not be: see [`PeerFacts::declines`].
    #[serde(default)]
    pub declines: Option<Epoch>,
    /// The epoch that it leads and for which it has applied everything that it had received.
    pub drained: Option<Epoch>,
    /// Whether it is so little behind that a commit that waits for it hardly notices.
    pub near: bool,
    /// How far its copy goes.
    pub position: Position,
    /// How the database stands; `None` when it is stopped.
    pub facts: Option<Facts>,
    /// What is being done to it, in words.
    pub work: Option<String>,
    /// Whether an operator paused it.
    pub paused: bool,
    /// For how much longer writes may be sent to it, in milliseconds, when it leads by a lease that is limited in time.
    /// Counted from the moment at which this was asked for.
    pub left_ms: Option<u64>,
    /// The last notices, oldest first.
    pub notices: Vec<Told>,
    /// How many hand-overs were given up since failover began to run here.
    #[serde(default)]
    pub given_up: u64,
    /// Why the last of them was.
    #[serde(default)]
    pub gave_up: Option<Refusal>,
}

/// Something that operators were told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When, by the clock of the server that told it.
    pub at: UnixMillis,
    /// What.
    pub text: String,
}

impl FailoverReport {
    /// What the protocol needs of it, and of a server whose disk is full or not.
    pub(crate) fn peer_facts(&self, full_disk: bool) -> PeerFacts {
        PeerFacts {
            incarnation: self.incarnation,
            follows: self.follows,
            through: self.through,
            leaving: self.leaving,
            near: self.near,
            position: self.position,
            declines: self.declines,
            room: !full_disk,
        }
    }
}

/// What the task puts on the desk after each step. Moments are of the agent's own clock.
#[derive(Clone, Debug)]
pub(crate) struct Posted {
    pub(crate) state: State,
    pub(crate) since: Duration,
    pub(crate) record: Option<Record>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) durable: Durable,
    pub(crate) peer_facts: PeerFacts,
    pub(crate) facts: Option<Facts>,
    pub(crate) work: Option<String>,
    pub(crate) paused: bool,
    pub(crate) open: bool,
    pub(crate) store_answered: Option<Duration>,
    pub(crate) store_error: Option<String>,
}

/// Where the task and the rest of the agent meet.
#[derive(Debug, Default)]
pub(crate) struct Desk(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    posted: Option<Posted>,
    notices: VecDeque<Told>,
    inbox: Option<mpsc::Sender<Message>>,
    /// Why there is no task although there should be one.
    trouble: Option<Refusal>,
    given_up: u64,
    gave_up: Option<Refusal>,
    full_disk: bool,
}

impl Desk {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task begins: gives it its inbox.
    pub(crate) fn open(&self) -> mpsc::Receiver<Message> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut inside = self.inside();
        (inside.inbox, inside.posted, inside.trouble) = (Some(sender), None, None);
        receiver
    }

    /// The task has ended, or could not begin.
    pub(crate) fn close(&self, trouble: Option<Refusal>) {
        let mut inside = self.inside();
        (inside.inbox, inside.posted, inside.trouble) = (None, None, trouble);
    }

    /// Notes whether the disk of this server is full.
    pub(crate) fn note_disk(&self, full: bool) {
        self.inside().full_disk = full;
    }

    /// What was noted last.
    pub(crate) fn disk_is_full(&self) -> bool {
        self.inside().full_disk
    }

    pub(crate) fn post(&self, posted: Posted) {
        self.inside().posted = Some(posted);
    }

    pub(crate) fn posted(&self) -> Option<Posted> {
        self.inside().posted.clone()
    }

    pub(crate) fn trouble(&self) -> Option<Refusal> {
        self.inside().trouble.clone()
    }

    pub(crate) fn told(&self, at: UnixMillis, text: String) {
        let mut inside = self.inside();
        inside.notices.push_back(Told { at, text });
        if inside.notices.len() > NOTICES {
            inside.notices.pop_front();
        }
    }

    /// A hand-over was tried: it was given up for that reason, or goes on.
    pub(crate) fn gave_up(&self, why: Option<Refusal>) {
        if let Some(why) = why {
            let mut inside = self.inside();
            inside.given_up += 1;
            inside.gave_up = Some(why);
        }
    }

    /// How failover stands here; `None` while no task runs.
    pub(crate) fn report(&self, now: Duration) -> Option<FailoverReport> {
        let inside = self.inside();
        let posted = inside.posted.clone()?;
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let ago = |moment: Duration| ms(now.saturating_sub(moment));
        Some(FailoverReport {
            state: posted.state,
            state_ms: ago(posted.since),
            record: posted.record,
            store_ms: posted.store_answered.map(ago),
            store_error: posted.store_error,
            incarnation: posted.peer_facts.incarnation,
            follows: posted.peer_facts.follows,
            through: posted.peer_facts.through,
            leaving: posted.peer_facts.leaving,
            declines: posted.peer_facts.declines,
            drained: posted.durable.drained,
            near: posted.peer_facts.near,
            position: posted.peer_facts.position,
            facts: posted.facts,
            work: posted.work,
            paused: posted.paused,
            left_ms: posted.deadline.map(|deadline| ms(deadline.saturating_sub(now))),
            notices: inside.notices.iter().cloned().collect(),
            given_up: inside.given_up,
            gave_up: inside.gave_up.clone(),
        })
    }

    /// Tells the task; what finds it busy is lost, which the protocol allows.
    pub(crate) fn tell(&self, event: Event) {
        if let Some(inbox) = &self.inside().inbox {
            let _ = inbox.try_send(Message::Event(event));
        }
    }

    /// Gives the task an operator's word and waits for its answer.
    ///
    /// # Errors
    /// [`Code::L003`] when no task runs here, [`Code::N001`] when it does not answer.
    pub(crate) async fn command(&self, command: Command) -> Result<Result<(), Why>, Refusal> {
        let inbox = self.inside().inbox.clone();
        let Some(inbox) = inbox else {
            let refusal = Refusal::new(Code::L003, "failover does not run on this server");
            return Err(match self.trouble() {
                Some(trouble) => refusal.because(trouble.to_string()),
                None => refusal.next("see how the database stands", "pontoon db status"),
            });
        };
        let silent = || Refusal::new(Code::N001, "the agent's failover does not answer");
        let (answer, answered) = oneshot::channel();
        let said = async {
            let sent = inbox.send(Message::Command(command, answer)).await;
            sent.map_err(|_| silent())?;
            answered.await.map_err(|_| silent())
        };
        tokio::time::timeout(PATIENCE, said).await.map_err(|_| silent())?
    }
}
