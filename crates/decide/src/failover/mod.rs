//! Who may be primary, and what one server's database does about it: the protocol of failover.
//!
//! ```text
//!                 ┌── sync = {B}: B has every acknowledged write ──┐
//!   LEADER_SYNC ──┤                                                ├── FOLLOW_SYNC ── lease ran out or released
//!       ⇅         └────────── one record, replaced by CAS ─────────┘        │            CAS: epoch+1, leader = B
//!   LEADER_ALONE ◀── sync = {}: nobody may promote itself ── PROMOTING ◀────┘            drain, then open
//! ```
//!
//! **In:** what the lease store answered, how the own database stands and how work on it ended, what peers say of
//! theirs, an operator's word, the time. **Out:** requests to the store, work for the database, `SIGKILL`.
//!
//! **Why nothing is lost** (P1, without any clock): while the record names replicas in `sync`, the leader's database
//! acknowledges a write only when `acks` of exactly those have it; that is switched off only after the store took a
//! record without them, and they are written there only when they have everything. Only they promote themselves, by a
//! compare-and-swap; a late or repeated one fails on the nonce.
//!
//! **Why there is one writer** (P2): who promotes itself first stops receiving, so the old leader gets no more
//! acknowledgements. It is killed by its own agent when that learns of it, which may be late. In the mode
//! [`Mode::Available`] this rests on [`Timing`] instead.
//!
//! **What the database's side must keep** is written at each [`Work`]. `tests/failover_model.rs` walks every order of
//! events of two servers, and of three, one of which follows through another; `tests/failover_simulation.rs` throws dice
//! over two to five.

mod candidate;
mod follow;
mod lead;
mod node;
mod record;
mod replicas;
mod take_back;
mod timing;
mod work;

use std::collections::BTreeSet;
use std::time::Duration;

use pontoon_fleet::{Epoch, FleetName, ServerName};
use serde::{Deserialize, Serialize};

pub use node::{Node, Standing, State};
pub use record::{Incarnation, Loss, Members, Mode, Nonce, Policy, Record};
pub use timing::Timing;

/// What does not change while an agent lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Setup {
    /// The fleet.
    pub fleet: FleetName,
    /// This server.
    pub me: ServerName,
    /// The lengths of time.
    pub timing: Timing,
    /// What the fleet wants; the leader brings the record to it.
    pub policy: Policy,
    /// Writes the first record when there is none: the server whose database already serves the application.
    pub founder: bool,
    /// Whether this server promotes itself (`db.failover = "auto"`).
    pub automatic: bool,
    /// Servers whose copies never count: a delayed replica has what is committed only much later. None of them is waited for,
    /// promotes itself or is handed over to.
    pub bystanders: BTreeSet<ServerName>,
    /// The replica that this server follows the leader through (`source` in its `[[server]]`), while that one follows too.
    /// Else it follows the leader itself.
    pub source: Option<ServerName>,
    /// Whether a leader without a replica in sync acknowledges writes (`db.when_alone = "continue"`).
    pub continue_alone: bool,
    /// Whether a database that diverged is copied anew without asking.
    pub copy_anew: bool,
    /// Whether what a replica received and did not apply yet outlives a restart of its database (MySQL with
    /// `relay_log_recovery=0`: yes; MariaDB with GTID: no). A restart of the machine is a new life in any case.
    pub relay_survives: bool,
    /// A guard that is taken out, to prove that the checkers would notice.
    #[cfg(feature = "mutants")]
    pub without: Option<Guard>,
}

impl Setup {
    /// A server that waits for an operator's word: nothing is promoted or copied by itself, and nothing is said of its
    /// database that would have to be true.
    pub fn new(fleet: FleetName, me: ServerName, timing: Timing, policy: Policy) -> Setup {
        Setup {
            fleet,
            me,
            timing,
            policy,
            founder: false,
            automatic: false,
            bystanders: BTreeSet::new(),
            source: None,
            continue_alone: true,
            copy_anew: false,
            relay_survives: false,
            #[cfg(feature = "mutants")]
            without: None,
        }
    }
}

/// What a server remembers on its disk. The default is that of a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Durable {
    /// The life of the data directory.
    pub incarnation: Incarnation,
    /// The epoch whose leader the database was last made to follow, successfully.
    pub follows: Option<Epoch>,
    /// It follows that leader through another replica: no acknowledgement of it reaches the leader.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub through: bool,
    /// The epoch that this server leads and for which it has applied all that it had received.
    pub drained: Option<Epoch>,
}

/// How the own database stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Database {
    /// No process of it lives.
    Stopped,
    /// It runs.
    Running {
        /// It takes writes (`read_only` is off).
        open: bool,
        /// It receives from a source.
        receiving: bool,
    },
}

/// When a commit is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Acks {
    /// When this server has it.
    Alone,
    /// When `needed` of `members` have it too. What other replicas acknowledge does not count: the database's side
    /// lets only `members` connect as semi-synchronous replicas.
    Of {
        /// Whose word counts.
        members: BTreeSet<ServerName>,
        /// How many of them.
        needed: u8,
    },
}

/// How far a server's copy goes: the number of transactions in the fleet's history. Copies that did not diverge are
/// ordered by it.
pub type Position = u64;

/// Something to do to the own database. One at a time; [`Effect::Kill`] ends what is under way, and nothing of it may
/// have an effect after [`Event::Stopped`] was reported. Everything but [`Work::CaughtUp`] may be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Start it as it is, read-only, not receiving, events off.
    Recover,
    /// Set when commits are acknowledged.
    Acknowledge(Acks),
    /// Wait until each of these, in that life, has received everything that is in the binary log now. Done only when
    /// it was so at one moment after this was asked; failed when a replica is gone or takes too long.
    CaughtUp(Members),
    /// Take writes, as the leader of that epoch.
    Open(Epoch),
    /// To hand over to that replica: wait until it is hardly behind; hold new statements and transactions at the
    /// proxies; wait for those under way; take no more writes. Failed when that takes too long: then it goes on as before.
    Close(ServerName),
    /// To lead that epoch. In this order, because another loses what was received and not applied: start applying; stop
    /// receiving; find out what was received; wait until it is applied; forget the source. Done with the position.
    Drain(Epoch),
    /// Before the first opening in that epoch: take over what others have received beyond the own history, as far as it can
    /// be had soon. None of it was acknowledged; but who has it could not follow otherwise.
    Gather(Epoch),
    /// Start applying, then stop receiving. Done with the position of what was received.
    Halt,
    /// Receive again from the source that it has. Nothing that was received is lost.
    Resume,
    /// The database is stopped. Ask that leader, which must have drained for that epoch, for its transactions; cut the own
    /// binary log where they end; start; check that nothing is left that the leader lacks; follow.
    Rejoin(ServerName, Epoch),
    /// The database runs. Check as above, then follow that leader, which must have drained for that epoch.
    Follow(ServerName, Epoch),
    /// The database follows the leader of that epoch. Follow that replica instead, which must follow that epoch too and have
    /// everything that is here.
    Through(ServerName, Epoch),
    /// Keep the data directory under another name and copy that leader's.
    Copy(ServerName, Epoch),
}

/// How work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is so.
    Done,
    /// It is so, and this far goes the copy.
    At(Position),
    /// It is not so; it may be asked again.
    Failed,
    /// The copy has transactions that the leader lacks and that cannot be cut off.
    Diverged,
}

/// What a peer says of itself, over the fleet's mutual TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerFacts {
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// The epoch whose leader it follows.
    pub follows: Option<Epoch>,
    /// Whether it does so through another replica.
    pub through: bool,
    /// Whether it asks not to be counted on: it is about to leave, or to follow in another way.
    pub leaving: bool,
    /// Whether it is so little behind that waiting for it would hardly be noticed.
    pub near: bool,
    /// How far its copy goes.
    pub position: Position,
    /// The epoch whose lease names it, in which its database was not open and never will be: who handed over to it has every
    /// acknowledged write. True for good once it is said; only said when it is sure, and by an agent that knows it itself.
    pub declines: Option<Epoch>,
    /// Whether there is room on its disk: one that cannot write must not take over from one that cannot either.
    pub room: bool,
}

/// What happens to a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Time goes by; at least five times in [`Timing::renew`].
    Tick,
    /// The answer to [`Effect::Read`]: what is there.
    Read(Option<Record>),
    /// The answer to [`Effect::Read`]: none.
    Unreadable,
    /// The answer to [`Effect::Swap`]: the new record is there.
    Won,
    /// The answer to [`Effect::Swap`]: it is not and never will be; this was there.
    Lost(Option<Record>),
    /// The answer to [`Effect::Swap`]: it may be there, or yet come there.
    Doubt,
    /// The work that was asked for has ended.
    Worked(Outcome),
    /// The database's process is gone, by itself or killed.
    Stopped,
    /// The database's process lives and has answered nothing for [`Timing::silence`]: it stands still, or its disk does.
    Silent,
    /// The disk of the own database is full, and it has committed nothing since, for [`Timing::peer`]. It may go on when there is
    /// room again, or may look for that a minute later.
    Full,
    /// Commits have waited for an acknowledgement for [`Timing::peer`], although the replicas in sync are heard of: none
    /// comes from them, or it got lost with the connection that it was sent on.
    Unacknowledged,
    /// A peer's facts.
    Peer(ServerName, PeerFacts),
    /// How far behind the leader this replica is, by its heartbeat; not said while nothing comes.
    Lag {
        /// In time.
        behind: Duration,
        /// In transactions.
        missing: u64,
    },
    /// Somebody has replaced the record just now: look at it, rather than when it is time to.
    Changed,
    /// The leader of that epoch, elected and not open, asks for the position.
    Asked(ServerName, Epoch),
    /// The answer of a replica that no longer receives.
    Halted {
        /// Which.
        from: ServerName,
        /// The epoch that asked.
        epoch: Epoch,
        /// Its life.
        incarnation: Incarnation,
        /// How far its copy goes.
        position: Position,
    },
    /// A replica has transactions that its leader lacks, which is sure: it was read again.
    Diverged,
    /// The database follows its leader in another way than it should, such as with another delay: it is to follow anew.
    Astray,
    /// An operator's word.
    Command(Command),
}

/// An operator's word.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// To the leader: hand over, losing nothing and failing no statement.
    Switchover(ServerName),
    /// To a follower: become the leader although something may be lost: up to so many transactions.
    Force {
        /// How many transactions the operator accepts to lose.
        accept_loss: u64,
    },
    /// To a follower: give the data directory up for a copy of the leader's; or, with false, do not after all.
    CopyAnew(bool),
    /// To a follower: have the leader count on it no more, because it is about to leave; or, with false, do after all.
    Leave(bool),
    /// To a follower that diverged: try once more with what is there.
    Rejoin,
    /// Start, stop and promote nothing by itself.
    Pause,
    /// Go on.
    Resume,
}

/// What a node wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Keep on the disk. Nothing behind this in the list may be done before it is durable.
    Remember(Durable),
    /// Read the record. One request to the store at a time, always answered, by [`Event::Unreadable`] when nothing
    /// else came in time.
    Read,
    /// Replace the record whose nonce is `expected` (`None`: there is none) by `record`. Always answered, by
    /// [`Event::Doubt`] when nothing else came in time.
    Swap {
        /// Which one is replaced.
        expected: Option<Nonce>,
        /// What comes in its place.
        record: Box<Record>,
    },
    /// Do this to the database.
    Work(Work),
    /// `SIGKILL` the database now; answered by [`Event::Stopped`]. Not `read_only`: that waits for commits that wait
    /// for a replica, and would end them as if they had been acknowledged.
    Kill,
    /// Ask a peer for its position: it gets [`Event::Asked`]. May get lost.
    Ask(ServerName, Epoch),
    /// Answer it: it gets [`Event::Halted`]. May get lost.
    Answer {
        /// Whom.
        to: ServerName,
        /// Which epoch asked.
        epoch: Epoch,
        /// The own life.
        incarnation: Incarnation,
        /// How far the own copy goes.
        position: Position,
    },
    /// Tell the operators.
    Tell(Notice),
}

/// Something that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// The store answered with an older record than before, or with none: it does not keep what it takes. Nothing was
    /// done on its word.
    StoreWentBack,
    /// The lease there belongs to another fleet.
    ForeignLease(FleetName),
    /// The record names this server and its data directory is not the one meant: acknowledged writes may be missing
    /// here. Nothing is opened by itself.
    Stranded,
    /// The copy diverged and must be made anew.
    NeedsCopy,
    /// A command was not carried out.
    Refused(Why),
    /// The hand-over to that server was given up, and this one goes on as the leader.
    HandOverGivenUp(ServerName),
    /// That server could not take what was handed over to it, because its database died in that moment, and this one is the
    /// leader again.
    TakenBack(ServerName),
    /// The database was killed because the lease ran out or went to another.
    Fenced,
    /// The database was killed because it lived and did not answer: another takes over, or it is started anew.
    KilledSilent,
    /// The database was killed because its disk is full and another's is not: that one takes over.
    KilledFull,
}

/// Why a command was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// Only the leader can.
    NotTheLeader,
    /// The leader needs no force.
    AlreadyTheLeader,
    /// That server does not follow closely now.
    NotReady,
    /// It would lose so many transactions, as far as is known (`None`: not known), and fewer were accepted.
    Loss(Option<u64>),
    /// It has transactions that the leader lacks.
    Diverged,
    /// Its copy does not count.
    Bystander,
    /// It follows through another replica.
    Through,
    /// Something is under way.
    Busy,
}

/// A rule of the protocol that a checker can take out.
#[cfg(feature = "mutants")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guard {
    /// Acknowledging alone only after the store took a record without replicas in sync.
    SwapBeforeAlone,
    /// A replica is written into `sync` only when it has everything.
    CatchUpBeforeSync,
    /// Only a replica in sync promotes itself.
    Eligible,
    /// A new life before a replica's database starts or gets another source.
    NewLife,
    /// A restarted leader opens with the acknowledgements that the record asks for.
    RestoreAcks,
    /// A restarted leader opens only when its replicas in sync have what its recovery committed.
    RestartCaughtUp,
    /// What may still land in the store counts as if it were there.
    Settled,
    /// A leader that died before it had applied what it had received is not the rightful one.
    Drained,
    /// A leader hands over only to one that has everything.
    HandOverCaughtUp,
    /// A lease is declined only by one that was never open with it.
    NeverOpened,
    /// A declined lease is taken back only by who handed it over.
    HandedOver,
    /// An election hears enough of the replicas in sync.
    Enough,
    /// Of those, the one that has the most wins.
    MostAdvanced,
    /// `available`: one that is too far behind is not promoted.
    Near,
    /// `available`: a database is killed before its lease runs out.
    Deadline,
    /// A challenger waits until the lease has run out.
    Patience,
    /// A leader that was replaced is killed.
    Fence,
    /// A database that does not answer is dead before anybody is told so.
    KillSilent,
    /// Where a disk is full, only one that has room takes over.
    Room,
    /// Who is made the leader by an operator without having everything needs that loss named.
    NamedLoss,
    /// Whose copy does not count neither is waited for nor leads.
    Bystander,
    /// Whoever follows through another is not waited for.
    Through,
}
