//! How all servers take up a new configuration, or none: a two-phase change as a state machine.
//!
//! ```text
//! coordinator          every voter                    keeper
//!   Prepare ─────────────▶ validates, holds one
//!           ◀─── Vote yes/no
//!   all yes: Decide ─────────────────────────────────▶ makes it durable: now it is so
//!           ◀──────────────── Commit ──────────────── to everybody
//! ```
//!
//! **Who votes:** the servers of the new configuration, the coordinator and the keeper. One "no", and nothing
//! changes anywhere. A server that is to be taken out does not vote, so a dead one can be.
//!
//! **Who decides:** the *keeper*, one server of the fleet (the holder of the lease `single`). A change is so when
//! the keeper has made it durable, and at no other moment. Its history is a line, so two different texts can never
//! be active at the same revision, however many coordinators try, whatever is lost, repeated, late or killed. (The
//! plain scheme, where each coordinator decides for itself once all have said yes, does not have this property when
//! two coordinators each take the other out of the configuration: then neither asks the other.) The price: without
//! the keeper there is no change of the configuration. Traffic does not need one. The keeper cannot be taken out.
//!
//! **What is durable:** only [`Committed`]. What was prepared and voted is held in memory, for 30 s at most: a
//! server that is killed has forgotten it, which is the same as time running out.
//!
//! **Catching up:** who was away for the end takes up a higher revision from any peer, when its own is among that
//! revision's ancestors ([`Committed::lineage`]). A coordinator that dies between two activations changes nothing:
//! the keeper tells everybody.
//!
//! **The last word is true:** [`Outcome::Refused`] means that the text is active nowhere and will not be. For this
//! a voter remembers which attempts are over, and the keeper refuses a `Decide` that rests on a vote that it gave
//! before it was restarted. [`Outcome::Unknown`] is said when the keeper stopped answering at the last step.

mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use pontoon_fleet::{Refusal, Revision, ServerName};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use step::step;

/// How long a prepared change is held for the coordinator's word.
pub const HOLD: Duration = Duration::from_secs(30);
/// How long a coordinator waits for all to answer; shorter than [`HOLD`], so that nobody's time runs out first.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Between two sendings of what was not answered.
pub const RESEND: Duration = Duration::from_secs(2);
/// How many ancestors a revision remembers.
pub const LINEAGE: usize = 64;

/// What a configuration's text is known by: its SHA-256 in hexadecimal.
pub fn digest(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A configuration that is active. This is what an agent keeps on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Its revision.
    pub revision: Revision,
    /// Its text.
    pub text: String,
    /// The servers that it names.
    pub members: BTreeSet<ServerName>,
    /// What came before, oldest first, the last [`LINEAGE`] of them.
    pub lineage: Vec<Ancestor>,
}

/// An earlier revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Its number.
    pub revision: Revision,
    /// Its text's digest.
    pub digest: String,
}

impl Committed {
    /// Before anything was applied: revision 0, no text.
    pub fn nothing() -> Committed {
        Committed {
            revision: Revision(0),
            text: String::new(),
            members: BTreeSet::new(),
            lineage: Vec::new(),
        }
    }

    /// The digest of its text.
    pub fn digest(&self) -> String {
        digest(&self.text)
    }

    /// Whether it is, or descends from, that text at that revision.
    pub fn includes(&self, revision: Revision, digest: &str) -> bool {
        (self.revision == revision && self.digest() == digest)
            || self
                .lineage
                .iter()
                .any(|ancestor| ancestor.revision == revision && ancestor.digest == digest)
    }

    /// The next revision.
    fn then(&self, change: &Change) -> Committed {
        let mut lineage = self.lineage.clone();
        lineage.push(Ancestor {
            revision: self.revision,
            digest: self.digest(),
        });
        let surplus = lineage.len().saturating_sub(LINEAGE);
        lineage.drain(..surplus);
        let (text, members) = (change.text.clone(), change.members.clone());
        Committed {
            revision: self.revision.next(),
            text,
            members,
            lineage,
        }
    }
}

/// Names one attempt to change the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChangeId {
    /// Who makes it.
    pub coordinator: ServerName,
    /// Grows with each attempt of this coordinator, across restarts (milliseconds since 1970 will do).
    pub number: u64,
}

/// One attempt to change the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which attempt.
    pub id: ChangeId,
    /// The revision that it changes.
    pub base: Revision,
    /// The digest of that revision's text.
    pub base_digest: String,
    /// The new text.
    pub text: String,
    /// The servers that the new text names. Whoever validates the text checks that this is so.
    pub members: BTreeSet<ServerName>,
}

impl Change {
    /// Everybody whose "yes" is needed.
    pub fn voters(&self, keeper: &ServerName) -> BTreeSet<ServerName> {
        let mut voters = self.members.clone();
        voters.insert(self.id.coordinator.clone());
        voters.insert(keeper.clone());
        voters
    }
}

/// What servers say to each other. Sent over the fleet's mutual TLS, so that `from` is proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum Message {
    /// Can you do this?
    Prepare {
        /// What.
        change: Change,
    },
    /// Yes, or why not.
    Vote {
        /// To which attempt.
        id: ChangeId,
        /// The voter's [`Node::incarnation`].
        incarnation: u64,
        /// `None` means yes.
        refusal: Option<Refusal>,
    },
    /// All said yes: make it so. To the keeper only.
    Decide {
        /// Which attempt.
        id: ChangeId,
        /// The revision that it makes.
        revision: Revision,
        /// The digest of its text.
        digest: String,
        /// Who said yes.
        voted: BTreeSet<ServerName>,
        /// The keeper's incarnation when it did.
        incarnation: u64,
    },
    /// The keeper will not, now or later.
    Undecidable {
        /// Which attempt.
        id: ChangeId,
        /// Why.
        refusal: Refusal,
    },
    /// It is over; forget it.
    Abort {
        /// Which attempt.
        id: ChangeId,
    },
    /// This is active here.
    Commit {
        /// What.
        committed: Committed,
    },
    /// What is active with you?
    Fetch,
    /// What is active here, in short: sent with every heartbeat.
    Active {
        /// The revision.
        revision: Revision,
        /// The digest of its text.
        digest: String,
    },
}

/// What happens to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An operator wants a new configuration.
    Propose {
        /// See [`ChangeId::number`].
        number: u64,
        /// The new text, checked.
        text: String,
        /// The servers that it names.
        members: BTreeSet<ServerName>,
    },
    /// A message came in.
    Received {
        /// From whom, proven.
        from: ServerName,
        /// What.
        message: Message,
    },
    /// The answer to [`Effect::Validate`].
    Validated {
        /// Which attempt.
        id: ChangeId,
        /// Why this server cannot; `None` when it can.
        refusal: Option<Refusal>,
    },
    /// Time goes by; at least every second.
    Tick,
}

/// What a node wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Check whether this server can carry it out, and that `members` are those of the text. Answer with
    /// [`Event::Validated`].
    Validate(Change),
    /// Make it durable, then active. Nothing behind this in the list may be done before it is durable; when it
    /// cannot be made durable, the process must end (and start again with what is on disk).
    Activate(Committed),
    /// Send; it may get lost.
    Send {
        /// To whom.
        to: ServerName,
        /// What.
        message: Message,
    },
    /// Tell the operator. Once for each [`Event::Propose`].
    Finished {
        /// Which attempt.
        id: ChangeId,
        /// How it ended.
        outcome: Outcome,
    },
    /// A peer has another text at the same revision. This never happens by this protocol: a copied disk, or a
    /// second fleet of the same name.
    Forked {
        /// Who.
        peer: ServerName,
        /// At which revision.
        revision: Revision,
    },
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is active, on the keeper and on this server; the others follow.
    Activated(Revision),
    /// The text was active already.
    Unchanged(Revision),
    /// It is active nowhere and will not be.
    Refused(Refusal),
    /// The keeper stopped answering at the last step: it is active or it is not. `pontoon status` will show.
    Unknown(Refusal),
}

/// One server's part in changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// This server.
    pub me: ServerName,
    /// Who decides.
    pub keeper: ServerName,
    /// Another number after each start of the process.
    pub incarnation: u64,
    /// What is active here.
    pub active: Committed,
    /// The change that is held.
    slot: Option<Slot>,
    /// The change that this server coordinates.
    attempt: Option<Attempt>,
    /// The highest number of each coordinator's attempts that are over.
    closed: BTreeMap<ServerName, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    change: Change,
    expires: Duration,
    valid: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attempt {
    change: Change,
    /// Who said yes, and their incarnation then.
    yes: BTreeMap<ServerName, u64>,
    deciding: bool,
    gives_up: Duration,
    resend: Duration,
}

impl Node {
    /// A server that has just started, with what it found on its disk.
    pub fn new(me: ServerName, keeper: ServerName, incarnation: u64, active: Committed) -> Node {
        Node {
            me,
            keeper,
            incarnation,
            active,
            slot: None,
            attempt: None,
            closed: BTreeMap::new(),
        }
    }

    /// The change that is held, if one is.
    pub fn held(&self) -> Option<&Change> {
        self.slot.as_ref().map(|slot| &slot.change)
    }

    /// The change that this server coordinates, if it does.
    pub fn coordinates(&self) -> Option<&Change> {
        self.attempt.as_ref().map(|attempt| &attempt.change)
    }
}
