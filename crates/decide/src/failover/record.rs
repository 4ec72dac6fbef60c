//! The one record in the lease store, and what it allows.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use pontoon_fleet::units::millis;
use pontoon_fleet::{Epoch, FleetName, LeaseRecord, ServerName};
use serde::{Deserialize, Serialize};

/// Which life of a data directory. Another number whenever transactions that a server had received may be gone: before
/// a replica's database is started, before it gets another source, and with every new copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The one after this one.
    pub fn next(self) -> Incarnation {
        Incarnation(self.0.saturating_add(1))
    }
}

/// Makes each write of the record another text, and so another ETag. Compulsory: an ETag depends on the content, so a
/// record that comes back would let a late PUT of the past succeed. It also tells a writer that never got its answer
/// whether the record is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce(pub u128);

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> String {
        nonce.to_string()
    }
}

impl FromStr for Nonce {
    type Err = String;

    fn from_str(text: &str) -> Result<Nonce, String> {
        let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(number) if hex => Ok(Nonce(number)),
            _ => Err("a nonce has 32 hexadecimal digits".to_owned()),
        }
    }
}

impl TryFrom<String> for Nonce {
    type Error = String;

    fn try_from(text: String) -> Result<Nonce, String> {
        text.parse()
    }
}

/// What an acknowledged write is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One replica has it; only that replica is promoted. P1 and P2 need no clock.
    Safe,
    /// `acks` of the replicas in sync have it; promotion needs so many of them that one of those is among them.
    Quorum,
    /// The primary has it. Promotion may lose what a replica did not get in time; one writer rests on clocks and
    /// fencing.
    Available,
}

/// What the fleet wants of its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Policy {
    /// What an acknowledged write is worth.
    pub mode: Mode,
    /// How many replicas acknowledge a write in [`Mode::Quorum`]; one in [`Mode::Safe`], none in [`Mode::Available`].
    pub acks: u8,
    /// How far behind a replica may be that [`Mode::Available`] promotes.
    #[serde(with = "millis")]
    pub max_lag: Duration,
}

/// What may have been lost when a leader took over from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// Everything that was acknowledged longer than this before it took over is there, by the servers' clocks. `None`: how
    /// old its copy was is not known.
    #[serde(with = "optional_millis")]
    pub window: Option<Duration>,
    /// So many transactions of the leader before were known to be missing. More may be.
    pub known: u64,
}

/// Replicas by name, each in one life.
pub type Members = BTreeMap<ServerName, Incarnation>;

/// The record. Whoever replaces it proves with a compare-and-swap that it knew the one before.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Whose lease it is: a store may hold those of several fleets.
    pub fleet: FleetName,
    /// Grows by one at each change of leader.
    pub epoch: Epoch,
    /// The server whose database takes the writes.
    pub leader: ServerName,
    /// The life of its data directory: with another one it is not the rightful leader.
    pub incarnation: Incarnation,
    /// Of an epoch whose leader has not opened yet and still needs others' positions ([`Mode::Quorum`]).
    pub electing: bool,
    /// The leader's database is known to be dead: no need to wait.
    pub released: bool,
    /// Every acknowledged write is with `acks` of these. Empty: only the leader has everything.
    pub sync: Members,
    /// See `sync`; 0 with an empty one.
    pub acks: u8,
    /// What the fleet wants.
    pub policy: Policy,
    /// Of several that could follow, this one goes first.
    pub candidate: Option<ServerName>,
    /// The present leader was promoted by itself and has had no replica in sync since: see
    /// [`Timing::cascade`](super::Timing::cascade).
    pub fragile: bool,
    /// What may be missing in the present leader's history since it took over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// Counts the writes of the record.
    pub seq: u64,
    /// See [`Nonce`].
    pub nonce: Nonce,
}

impl Record {
    /// What the rest of the fleet needs to know of it.
    pub fn lease(&self) -> LeaseRecord {
        LeaseRecord {
            epoch: self.epoch,
            leader: self.leader.clone(),
        }
    }

    /// How many members of `sync` must be heard, after they stopped receiving, so that every acknowledged write is
    /// with one of them: `|S| - k + 1`. `None` when nobody is in sync.
    pub fn enough(&self) -> Option<usize> {
        let members = self.sync.len();
        (members > 0).then(|| members.saturating_sub(usize::from(self.acks)) + 1)
    }

    /// Whether that server in that life is in sync.
    pub fn in_sync(&self, server: &ServerName, incarnation: Incarnation) -> bool {
        self.sync.get(server) == Some(&incarnation)
    }

    /// Whether it is what `server` in life `incarnation` leads by.
    pub fn is_led_by(&self, server: &ServerName, incarnation: Incarnation) -> bool {
        self.leader == *server && self.incarnation == incarnation
    }

    /// Whether `next` may replace this one, whoever writes it. Stores ask it before they write: a last line, not the
    /// protocol.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check_next(&self, next: &Record) -> Result<(), String> {
        let leads = |record: &Record| (record.leader.clone(), record.incarnation);
        if next.fleet != self.fleet {
            return Err(format!("the lease is that of the fleet {}", self.fleet));
        }
        if next.epoch < self.epoch || (next.epoch == self.epoch && leads(next) != leads(self)) {
            return Err(format!(
                "refused to replace epoch {} by {}: epochs only grow, and each has one leader",
                self.epoch, next.epoch
            ));
        }
        if next.seq <= self.seq || next.nonce == self.nonce {
            return Err("every write of the lease has a number and a nonce of its own".to_owned());
        }
        next.check()
    }

    /// Whether it makes sense in itself.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        if self.sync.contains_key(&self.leader) && !self.electing {
            return Err("the leader cannot be its own replica in sync".to_owned());
        }
        if usize::from(self.acks) > self.sync.len() || (self.acks == 0) != self.sync.is_empty() {
            return Err(format!(
                "{} acknowledgements of {} replicas in sync",
                self.acks,
                self.sync.len()
            ));
        }
        Ok(())
    }
}

/// `pontoon_fleet::units::millis` for what may be unknown.
mod optional_millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(span: &Option<Duration>, out: S) -> Result<S::Ok, S::Error> {
        let ms = span.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        ms.serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(input)?.map(Duration::from_millis))
    }
}
