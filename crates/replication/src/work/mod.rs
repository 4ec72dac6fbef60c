//! The work of failover on one database: what `pontoon_decide::failover` asks for, carried out on a real server.
//!
//! **In:** a [`failover::Work`](pontoon_decide::failover::Work), and what the other servers of the fleet say
//! ([`Peers`]). **Out:** an [`Outcome`], and how the database stands ([`Facts`]).
//!
//! **Must never:** have an effect after [`Works::kill`] has returned; know how agents talk to each other.

mod follow;
mod gather;
mod lead;
mod members;
mod worker;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use pontoon_decide::failover::{Incarnation, Outcome, Position, Work};
use pontoon_fleet::{Epoch, Refusal, ServerName};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;

use crate::clone::SourceTicket;
use crate::method::Method;

pub(crate) use follow::FATAL_READING;
pub use worker::Worker;

/// Something that comes later.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The stream of a copy: see [`Database::serve_backup`](crate::Database::serve_backup).
pub type CopyStream = Box<dyn AsyncRead + Send + Unpin>;

/// What carries out the work of the protocol on one database.
pub trait Works: Send + Sync {
    /// Carries it out. One at a time; a repetition goes on where the last attempt ended. May be dropped at any moment:
    /// call [`Works::kill`] then, which waits until nothing of it can have an effect any more.
    fn carry_out<'a>(&'a self, work: Work, peers: &'a Peers) -> BoxFuture<'a, Outcome>;

    /// `SIGKILL`. Returns when no process of the database lives and none can come from work that was dropped.
    fn kill(&self) -> BoxFuture<'_, ()>;

    /// Returns when no process of the database lives; at once when none does.
    fn stopped(&self) -> BoxFuture<'_, ()>;

    /// How it stands: `None` when no process lives. For the node's beginning, for peers, for people.
    fn standing(&self) -> BoxFuture<'_, Option<Facts>>;

    /// On a replica, on its leader's word ([`AskPeers::acknowledge`]): whether it connects as a semi-synchronous one. True
    /// when it is so and the connection from before is gone. Nothing that was received is lost.
    fn acknowledge(&self, yes: bool) -> BoxFuture<'_, bool>;

    /// A beat into the heartbeat table, when this server is open; else nothing. To be called every
    /// [`BEAT`](crate::work::BEAT). It also gives an acknowledgement that got lost another chance: they are cumulative.
    fn beat(&self) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Lets replicas in again that [`Work::Acknowledge`] shut out because they did not answer. To be called now and then,
    /// on a leader.
    fn let_back<'a>(&'a self, peers: &'a Peers) -> BoxFuture<'a, ()>;

    /// Why the last work failed or diverged, for people: evidence and next commands.
    fn reason(&self) -> Option<Refusal>;

    /// Keeps on the disk that an operator wants the database copied anew, or takes that back. What an earlier copy left is
    /// forgotten.
    ///
    /// # Errors
    /// The helper's, [`Code::N006`](pontoon_fleet::Code::N006).
    fn order_copy(&self, yes: bool) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Whether that was ordered and is not done yet.
    fn copy_ordered(&self) -> bool;

    /// What [`Work::Rejoin`] or [`Work::Follow`] found here that the leader lacks; said once.
    fn only_here(&self) -> Option<OnlyHere>;

    /// For [`Setup::relay_survives`](pontoon_decide::failover::Setup).
    fn relay_survives(&self) -> bool;
}

/// Between two beats.
pub const BEAT: std::time::Duration = std::time::Duration::from_millis(100);

/// How a database stands. What cannot be found out because it does not answer counts as the worst.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Whether it answers; if not, the rest says nothing.
    pub answers: bool,
    /// Its process lives and takes no connections: it begins, or is on its way to end.
    #[serde(default)]
    pub closed: bool,
    /// It takes writes. True when it does not answer.
    pub open: bool,
    /// It receives from a source, or tries to.
    pub receiving: bool,
    /// It applies what it received. False on a server that follows nobody.
    pub applying: bool,
    /// How many transactions its copy has, those included that it received and did not apply yet.
    pub position: Position,
    /// Those as a text of the engine: `0-1-8` (MariaDB) or `uuid:1-5` (MySQL). On a leader: what is in its binary log.
    pub received: String,
    /// What it has applied, likewise.
    pub applied: String,
    /// How old the last beat is that it applied, less the interval between two: behind the leader, in milliseconds. `None`
    /// when it never saw one, and on a leader.
    pub behind_ms: Option<u64>,
    /// It takes writes, and no beat came to its end for a second.
    #[serde(default)]
    pub late: bool,
    /// Commits wait for the acknowledgement of a replica, and none has come for a second.
    #[serde(default)]
    pub waiting: bool,
    /// What stops replication, in the server's own words.
    pub error: Option<String>,
}

/// Transactions that the leader lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnlyHere {
    /// How many.
    pub transactions: u64,
    /// Which, in the engine's words.
    pub which: String,
    /// The file that has them, on this server, when they were cut off the binary log.
    pub kept: Option<PathBuf>,
}

/// The other database servers of the fleet, and a way to ask them.
#[derive(Clone)]
pub struct Peers {
    /// This server's own name.
    pub me: ServerName,
    /// This server's own address inside the fleet.
    pub address: IpAddr,
    /// All others, by name.
    pub servers: BTreeMap<ServerName, Peer>,
    /// Asks them.
    pub ask: Arc<dyn AskPeers>,
}

/// Where another database server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address inside the fleet.
    pub address: IpAddr,
    /// Its database's own port there.
    pub port: u16,
    /// It stays behind on purpose, and has nothing that others could fetch in time.
    pub delayed: bool,
}

/// Asks the agents of other servers. Each answer is of now, not one that was heard before; each call ends by itself
/// within seconds.
pub trait AskPeers: Send + Sync {
    /// What that server says of itself; `None` when it does not answer.
    fn answer<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Option<Answer>>;

    /// Lets it call [`Works::acknowledge`]; true when that was.
    fn acknowledge<'a>(&'a self, server: &'a ServerName, yes: bool) -> BoxFuture<'a, bool>;

    /// Lets it call [`Database::prepare_source`](crate::Database::prepare_source) for this server, whose
    /// [`means`](crate::Database::means) it is told.
    fn ticket<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<SourceTicket, Refusal>>;

    /// Has every SQL proxy of the fleet begin nothing new, for some seconds or until another epoch, and waits until nothing
    /// is under way in their sessions.
    ///
    /// # Errors
    /// When something goes on for too long, or a proxy does not say; some may hold all the same until
    /// [`go_on`](AskPeers::go_on).
    fn hold(&self) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Ends that.
    fn go_on(&self) -> BoxFuture<'_, ()>;

    /// Lets it call [`Database::serve_backup`](crate::Database::serve_backup), or
    /// [`serve_dump`](crate::Database::serve_dump).
    fn copy<'a>(
        &'a self,
        server: &'a ServerName,
        method: Method,
    ) -> BoxFuture<'a, Result<CopyStream, Refusal>>;
}

/// What a server's agent answers. It reads `incarnation` and `drained` *before* it asks its database for `facts`: so the
/// facts are never older than the life that they are told for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The life of its data directory, as it stands on its disk.
    pub incarnation: Incarnation,
    /// The epoch that it leads and has drained for.
    pub drained: Option<Epoch>,
    /// The epoch whose leader it follows.
    #[serde(default)]
    pub follows: Option<Epoch>,
    /// Its database; `None` when that is stopped.
    pub facts: Option<Facts>,
}
