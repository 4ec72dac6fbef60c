//! Who holds which public addresses, and when they move: one [`Node`] a server.
//!
//! The addresses of one server move together: a [share](Share), named after its home. A holder keeps a share in its
//! kernel under a lease that the kernel ends by itself, so a holder that is killed or frozen loses it without anybody's
//! help. What a node must never do is hold a share next to another holder for longer than [`Timing::longest_overlap`]:
//!
//! * **Taking** needs evidence that is younger than the suspicion: a majority of the servers has answered since, and
//!   none of them has heard the holder; in a fleet of two the gateway has answered since. A share whose edge still
//!   answers is left alone until its lease must have run out: its holder's agent died, and visitors are served.
//! * **Keeping** needs evidence too, no older than [`Timing::keep`]: a majority has proved that it hears this node, or
//!   the gateway returns what is sent from the share's address. A packet sent to an address arrives where the
//!   gateway's neighbour table says, so an address that somebody else has announced brings nothing back.
//! * **Proof of hearing** is the echo of one's own sequence number. A packet that lay in a queue while this node was
//!   frozen proves nothing, whatever the clocks say; so clocks are never compared.
//! * **Epochs**: whoever takes a share counts one up. Of two holders the higher epoch wins, and the loser drops at once.
//!
//! A share goes home by an offer of its holder; the home takes it while the holder still has it, and the holder drops
//! when it hears so: no packet finds nobody.

mod known;
mod node;

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_fleet::{Epoch, ServerName};
use serde::{Deserialize, Serialize};

pub use node::Node;

/// How fast a node is. Every server of a fleet has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats to the same peer.
    pub heartbeat: Duration,
    /// Heartbeats that may be missed before a server is suspected.
    pub misses: u32,
    /// How long the edge at a suspected server's address may take to answer.
    pub probe: Duration,
    /// How long the kernel keeps an address after the last refresh, its imprecision included.
    pub lease: Duration,
    /// Between two refreshes.
    pub refresh: Duration,
    /// The oldest evidence with which a lease is renewed. What comes later renews it again, if there still is one.
    pub renew: Duration,
    /// The oldest evidence with which a holder goes on.
    pub keep: Duration,
    /// How long a home must have been well before its share goes home.
    pub home_after: Duration,
}

impl Timing {
    /// A server dies and its addresses answer elsewhere within half a second.
    pub const USUAL: Timing = Timing {
        heartbeat: Duration::from_millis(100),
        misses: 3,
        probe: Duration::from_millis(100),
        lease: Duration::from_millis(1_300),
        refresh: Duration::from_millis(250),
        renew: Duration::from_millis(400),
        keep: Duration::from_millis(700),
        home_after: Duration::from_secs(60),
    };

    /// Within a fifth of a second; for servers that are not short of processor time.
    pub const FAST: Timing = Timing {
        heartbeat: Duration::from_millis(50),
        misses: 3,
        probe: Duration::from_millis(30),
        lease: Duration::from_millis(1_300),
        refresh: Duration::from_millis(250),
        renew: Duration::from_millis(200),
        keep: Duration::from_millis(400),
        home_after: Duration::from_secs(60),
    };

    /// A server that was not heard for so long is suspected.
    pub fn silence(&self) -> Duration {
        self.heartbeat * self.misses
    }

    /// The longest time for which two kernels can have one address: the gateway is told of the new holder a little late,
    /// the old one renews its lease with its last evidence, and is frozen in that moment. Two seconds.
    pub fn longest_overlap(&self) -> Duration {
        self.silence() + self.keep.max(self.renew + self.lease)
    }
}

/// A server that takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: ServerName,
    /// Whether it can serve visitors, and so hold shares.
    pub edge: bool,
    /// Whether it has public addresses: a share of its own.
    pub share: bool,
    /// Whether it is the first to be asked when an edge is lost.
    pub standby: bool,
}

/// What a node is told when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// This server.
    pub me: ServerName,
    /// Every server of the fleet, in the configuration's order, this one included.
    pub members: Vec<Member>,
    /// How fast.
    pub timing: Timing,
    /// Whether there is a gateway to ask.
    pub gateway: bool,
    /// Whether that gateway is known to return what is sent from a share's address: an earlier process saw it do so.
    /// Without this a server that has just started could take its silence for a gateway that returns nothing to anybody.
    pub returns: bool,
    /// A number that no earlier process of this server had.
    pub boot: u64,
}

/// What a server tells every other one, each [`Timing::heartbeat`] and whenever something changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Who says it.
    pub from: ServerName,
    /// The sender's [`Setup::boot`].
    pub boot: u64,
    /// Grows by one with each beat of this boot.
    pub seq: u64,
    /// Whether its edge serves.
    pub fit: bool,
    /// Whether it has just started and does not know yet who holds what.
    pub settling: bool,
    /// Whether an answer is wanted at once.
    pub ask: bool,
    /// Whom it heard.
    pub heard: Vec<Heard>,
    /// What it knows of each share.
    pub shares: Vec<Claim>,
}

/// The newest beat that somebody had from a peer: the proof of hearing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Whose.
    pub peer: ServerName,
    /// Of which boot.
    pub boot: u64,
    /// Its number.
    pub seq: u64,
    /// How long before the beat that says so, in milliseconds.
    pub ago_ms: u32,
}

/// What a server says of a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Whose home it is.
    pub home: ServerName,
    /// The highest epoch it has heard of; its own, when it holds the share.
    pub epoch: Epoch,
    /// Whether it holds it.
    pub holds: bool,
    /// Whether its home may take it.
    pub offered: bool,
    /// Whom else it hears that holds it. Of two majorities one server is in both: what it hears, each side must know.
    pub heard_holder: Option<ServerName>,
}

/// What happens to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed. Due every tenth of a heartbeat.
    Tick,
    /// A peer's beat came in; that it is the peer's has been checked.
    Beat(Beat),
    /// The answer to [`Action::Probe`]: whether an edge answered at the share's address. Nothing is said when
    /// [`Timing::probe`] has passed.
    Probed {
        /// Of which share.
        home: ServerName,
        /// Whether it answered.
        serving: bool,
    },
    /// The gateway returned what was sent from an address of this share.
    Returned {
        /// Of which share.
        home: ServerName,
        /// When it was sent, by this node's clock.
        sent: Duration,
    },
    /// The gateway answered, to an address that does not move.
    Gateway {
        /// When it was asked, by this node's clock.
        sent: Duration,
    },
    /// A rehearsal: take this share from its home, which lives, and hand it back at that moment. [`Node::rehearsable`]
    /// says whether anything comes of it.
    Rehearse {
        /// Which share.
        home: ServerName,
        /// Until when, by this node's clock.
        until: Duration,
    },
    /// Whether this server's edge serves; true at the start.
    Fit(bool),
    /// The kernel did not do what an action said, or lost what it had.
    Lost {
        /// Which share.
        home: ServerName,
    },
}

/// What a node wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Say this to every peer.
    Send(Beat),
    /// Add the share's addresses for a lease's time and announce them.
    Take {
        /// Which share.
        home: ServerName,
        /// The epoch of this holding.
        epoch: Epoch,
        /// Why, for people.
        why: Why,
    },
    /// Give the share's addresses another lease's time.
    Refresh {
        /// Which share.
        home: ServerName,
    },
    /// Announce the share's addresses again.
    Announce {
        /// Which share.
        home: ServerName,
    },
    /// Remove the share's addresses now.
    Drop {
        /// Which share.
        home: ServerName,
        /// Why, for people.
        why: Why,
    },
    /// Ask the edge at the share's address whether it serves.
    Probe {
        /// Which share.
        home: ServerName,
    },
    /// Ask the gateway, from an address of this share or from one that does not move.
    AskGateway {
        /// Which share.
        from: Option<ServerName>,
    },
}

/// Why a share was taken or dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Nobody held it, and this is its home or the best place.
    Free,
    /// Its holder fell silent.
    Silent(ServerName),
    /// Its holder's edge does not serve.
    Unfit(ServerName),
    /// It goes home from there.
    Home(ServerName),
    /// An operator wants to see whether it can be taken from there.
    Rehearsal(ServerName),
    /// This node restarted, and the kernel still had it.
    Resumed,
    /// Another server holds it with a higher epoch.
    Outbid(ServerName),
    /// This node cannot prove any more that nobody else was given it.
    Alone,
    /// This node did not run for too long.
    Paused(Duration),
    /// The kernel lost it.
    Kernel,
}

/// Why a share is not taken in a rehearsal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRehearsal {
    /// There is no such share.
    #[error("no server of this name has public addresses that move")]
    Unknown,
    /// It is this server's own.
    #[error("they are this server's own: rehearse on another one")]
    Own,
    /// This server cannot serve visitors.
    #[error("this server's edge does not serve, or this server has no edge")]
    Unfit,
    /// This server cannot prove that the others hear it.
    #[error("too few of the other servers hear this one")]
    Unheard,
    /// They are not at home, are about to move, or their home has not been well for long enough to get them back.
    #[error("they are not at home, or their home has not been well for long enough")]
    Away,
}

/// How a share stands at this node, for people and for DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whose home it is.
    pub home: ServerName,
    /// Who holds it, as far as this node knows.
    pub holder: Option<ServerName>,
    /// The highest epoch.
    pub epoch: Epoch,
    /// Whether this node is about to take it, or offers it.
    pub moving: bool,
}

/// What a node remembers of a share.
#[derive(Clone, Debug, Default)]
struct Share {
    epoch: Epoch,
    held: Option<Held>,
    suspicion: Option<Suspicion>,
    /// What was asked before there is a suspicion, because the holder is late.
    early: Option<Asked>,
    /// Found in the kernel at the start.
    present: bool,
    /// The last one that was heard to hold it.
    last_holder: Option<ServerName>,
    /// When the gateway last returned something sent from it, by the time of sending.
    returned: Option<Duration>,
    /// Since when nobody is known to hold it.
    free_since: Option<Duration>,
    /// Until when this node leaves it to others.
    barred: Option<Duration>,
}

/// A share that this node holds.
#[derive(Clone, Debug)]
struct Held {
    taken: Duration,
    refreshed: Duration,
    /// When it was taken or outbid somebody: announcements are repeated from here.
    announced_from: Duration,
    announcements: usize,
    /// It is held for a rehearsal, until then.
    rehearsal: Option<Duration>,
    /// Since when, and until when, the gateway has returned without a break what was sent from it; by the time of sending.
    returning: Option<(Duration, Duration)>,
    /// It did so for longer than an earlier holder's proof lasts: nobody else goes on with what the gateway returns.
    sole: bool,
}

/// A share whose holder does not look well.
#[derive(Clone, Debug)]
struct Suspicion {
    since: Duration,
    asked: Asked,
}

/// When the edge at the address was last asked, and what came of it.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Duration,
    answer: Option<bool>,
}

/// The moments after a take at which it is announced; afterwards every [`ANNOUNCE_EVERY`].
const ANNOUNCE_AT: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// Some switches and routers forget or are told wrong things.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(30);

type Shares = BTreeMap<ServerName, Share>;
