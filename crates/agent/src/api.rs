//! What the command line and the agent say to each other over `<run>/admin.sock`: HTTP/1.1 with JSON bodies.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/view` | the `FleetView` now published |
//! | `GET /v1/config` | [`ActiveConfig`] |
//! | `GET /v1/events?count=N` | the latest `Event`s of every server that answers, oldest first |
//! | `POST /v1/plan` [`PlanRequest`] | [`PlanAnswer`]; the plan is kept for `apply ID` |
//! | `POST /v1/apply` [`ApplyRequest`] | a stream of [`Progress`] lines |
//! | `POST /v1/token` [`TokenRequest`] | [`TokenAnswer`] |
//! | `POST /v1/join` [`JoinRequest`] | a stream of [`Progress`] lines |
//! | `POST /v1/leave` [`LeaveRequest`] | a stream of [`Progress`] lines |
//! | `POST /v1/drain` [`DrainRequest`] | a stream of [`Progress`] lines |
//! | `POST /v1/maintenance` [`MaintenanceRequest`] | the `MaintenanceMark` that counts from now on |
//! | `POST /v1/purge` [`PurgeRequest`] | the `Purge` that edges are told of |
//! | `POST /v1/addresses/ask` | a list of [`AskedAddress`] |
//! | `GET /v1/certs` | [`CertStatus`] |
//! | `POST /v1/certs/renew` [`RenewCertRequest`] | a stream of [`Progress`] lines |
//! | `GET /v1/db` | [`DbStatus`] |
//! | `POST /v1/db` [`DbOrder`] | a stream of [`Progress`] lines |
//! | `POST /v1/db/check` [`CheckRequest`] | a stream of [`Progress`] lines |
//! | `POST /v1/db/unstick` [`UnstickRequest`] | a stream of [`Progress`] lines |
//! | `POST /v1/db/reseed` [`ReseedRequest`] | a stream of [`Progress`] lines |
//! | `POST /v1/db/rejoin` [`RejoinRequest`] | a stream of [`Progress`] lines |
//! | `POST /v1/db/backup` [`BackupRequest`] | a stream of [`Progress`] lines |
//! | `GET /v1/db/backups` | [`Backups`] |
//!
//! A refusal is an answer with status 409 and a `Refusal` as its body; in a stream it is the last line.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pontoon_backup::{Catalog, CopyLine, Store};
use pontoon_decide::plan::Plan;
use pontoon_fleet::units::millis;
use pontoon_fleet::{
    DatabaseReport, Event, IpPrefix, LeaseRecord, Refusal, Revision, Role, ServerName, ServerReport,
    ServerState, UnixMillis,
};
use pontoon_replication::Errant;
use pontoon_replication::check::Differing;
use serde::{Deserialize, Serialize};

use crate::failover::FailoverReport;

/// The version of these messages and of every `--json` output; grows when a field changes its meaning.
pub const API_VERSION: u32 = 1;

/// What the provider said of an address, asked by this server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AskedAddress {
    /// Which.
    pub address: IpAddr,
    /// Whose it is when all are well.
    pub home: ServerName,
    /// Who has it, in words; `None` when that was not answered.
    pub at: Option<String>,
    /// Whether that is a server of the fleet, or not said.
    pub fleet: bool,
    /// Why there is no answer.
    pub trouble: Option<String>,
    /// How long the answer took, in milliseconds.
    pub took_ms: u64,
}

/// What `pontoon status` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// [`API_VERSION`].
    pub version: u32,
    /// The fleet's name; `None` when this machine belongs to none yet.
    pub fleet: Option<String>,
    /// The server that answers.
    pub me: Option<ServerName>,
    /// The active configuration.
    pub revision: Revision,
    /// All in all.
    pub health: Health,
    /// What is not as it should be, most important first; empty when healthy.
    pub problems: Vec<Problem>,
    /// Who may be primary.
    pub lease: Option<LeaseRecord>,
    /// The kind of lease store, as in `fleet.toml`.
    pub lease_store: String,
    /// Every server, in the configuration's order.
    pub servers: Vec<ServerStatus>,
    /// The last few events worth showing, oldest first.
    pub recent: Vec<Event>,
    /// The clock of the server that answers.
    pub now: UnixMillis,
}

/// The fleet's state in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Health {
    /// Everything is as configured.
    Healthy,
    /// Visitors are served; something is missing. `status --check` exits with 11.
    Degraded,
    /// Visitors are not served. `status --check` exits with 12.
    Down,
}

/// One thing that is wrong, what was done about it, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// How bad.
    pub health: Health,
    /// What is wrong.
    pub what: String,
    /// What Pontoon does or did about it.
    pub done: Option<String>,
    /// Commands that come next.
    pub next: Vec<String>,
}

/// One row of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: ServerName,
    /// Its roles, in the order in which they are shown.
    pub roles: Vec<Role>,
    /// Inside the fleet.
    pub private: IpAddr,
    /// For visitors.
    pub public: Vec<IpAddr>,
    /// Whether it answers.
    pub state: ServerState,
    /// How long ago it was last heard of; `None` if never.
    pub heard_ms_ago: Option<u64>,
    /// What it last said.
    pub report: Option<ServerReport>,
    /// Requests per second that its edge answered lately, in thousandths.
    pub edge_millirequests_per_second: Option<u64>,
    /// Whether its application is healthy in the eyes of the edges; `None` when no edge says.
    pub app_healthy: Option<bool>,
    /// Why not.
    pub app_reason: Option<String>,
}

/// The active configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActiveConfig {
    /// Its revision; 0 when nothing was applied yet.
    pub revision: Revision,
    /// Its text.
    pub text: String,
}

/// Asks what a configuration would change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanRequest {
    /// The wanted `fleet.toml`, overrides already in it.
    pub text: String,
}

/// What it would change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanAnswer {
    /// The plan, with its id.
    pub plan: Plan,
    /// The active revision; the plan is good while this is.
    pub base: Revision,
}

/// Carries out a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApplyRequest {
    /// A plan made before; refused (P001) when the fleet has changed since.
    pub plan: Option<String>,
    /// Or a configuration to plan and apply at once.
    pub text: Option<String>,
}

/// Asks for a join token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenRequest {
    /// How long it is good.
    #[serde(with = "millis")]
    pub ttl: Duration,
    /// The roles that a server may join with; all when it says nothing.
    #[serde(default)]
    pub roles: Option<BTreeSet<Role>>,
}

/// A join token: shown once, stored hashed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// What to paste on the new server.
    pub token: String,
    /// Until when.
    pub expires: UnixMillis,
    /// The address that the new server should be given.
    pub address: SocketAddr,
}

/// Makes this machine join a fleet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The agent of a server that is in it.
    pub address: SocketAddr,
    /// The token as printed by `token new`.
    pub token: String,
    /// This server's name in the fleet.
    pub name: ServerName,
    /// Its private address; by default the one from which `address` is reached.
    pub private: Option<IpAddr>,
    /// Its public addresses.
    pub public: Vec<IpAddr>,
    /// Its roles; by default all.
    pub roles: Option<Vec<Role>>,
    /// Whether the database is copied also when the one that is here replicates already.
    #[serde(default)]
    pub copy: bool,
}

/// Makes this machine leave its fleet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaveRequest {}

/// Takes a server's application out of service, or puts it back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainRequest {
    /// Which.
    pub server: ServerName,
    /// Out or back.
    pub drained: bool,
    /// The application alone, and nothing else that the server does.
    #[serde(default)]
    pub app_only: bool,
}

/// Shows visitors of the whole fleet the maintenance page, or ends that.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MaintenanceRequest {
    /// On or off.
    pub on: bool,
    /// After so many milliseconds it ends by itself; `None`: never.
    #[serde(default)]
    pub for_ms: Option<u64>,
    /// Who is served all the same.
    #[serde(default)]
    pub except: Vec<IpPrefix>,
}

/// Has every edge of the fleet forget answers that it keeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PurgeRequest {
    /// Of this host alone.
    #[serde(default)]
    pub host: Option<String>,
    /// As [`pontoon_fleet::Purge`] has it.
    pub path: String,
    /// Everything that begins with the path.
    #[serde(default)]
    pub prefix: bool,
}

/// What may have been lost when a primary took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DbLoss {
    /// What was acknowledged so many milliseconds before it took over, or earlier, is there, by the servers' clocks. `None`:
    /// how old its copy was is not known.
    pub window_ms: Option<u64>,
    /// So many transactions were known to be missing. More may be.
    pub known: u64,
}

/// What `pontoon db status` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DbStatus {
    /// [`API_VERSION`].
    pub version: u32,
    /// The fleet's name; `None` when this machine belongs to none yet.
    pub fleet: Option<String>,
    /// The server that answers.
    pub me: Option<ServerName>,
    /// All in all.
    pub health: Health,
    /// What is not as it should be, most important first.
    pub problems: Vec<Problem>,
    /// Who may be primary, as the server that answers knows it.
    pub lease: Option<LeaseRecord>,
    /// The kind of lease store, as in `fleet.toml`.
    pub lease_store: String,
    /// What an acknowledged write is worth, in the words of `db.durability`; `None` without a database.
    pub durability: Option<String>,
    /// Who promotes a replica: "auto", "manual" or "off".
    pub failover: String,
    /// Which replicas have every acknowledged write.
    pub in_sync: Vec<ServerName>,
    /// How many of them acknowledge a write: all but so many less one are needed for one to take over.
    #[serde(default)]
    pub acks: u8,
    /// What may have been lost when the primary took over; `None`: nothing.
    #[serde(default)]
    pub loss: Option<DbLoss>,
    /// For how long the primary has been as it is, in milliseconds.
    pub since_ms: Option<u64>,
    /// For how much longer writes may be sent to the primary, where that is limited, in milliseconds.
    pub write_ms: Option<u64>,
    /// Every database server, in the configuration's order.
    pub servers: Vec<DbServer>,
    /// How copies in an object store stand; `None` without `[db.backup]`.
    #[serde(default)]
    pub backup: Option<BackupStatus>,
    /// What happened to the databases lately, oldest first.
    pub recent: Vec<Event>,
    /// The next commands, most useful first.
    pub next: Vec<String>,
    /// The clock of the server that answers.
    pub now: UnixMillis,
}

/// One database server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DbServer {
    /// Its name.
    pub name: ServerName,
    /// Whether its agent answers.
    pub state: ServerState,
    /// How long ago it was last heard of; `None` if never.
    pub heard_ms_ago: Option<u64>,
    /// Its database, as its agent sees it.
    pub database: Option<DatabaseReport>,
    /// How failover stands there; `None` when it does not run.
    pub failover: Option<FailoverReport>,
    /// By how many seconds its copy stays behind on purpose; `behind` and lag do not count them.
    #[serde(default)]
    pub delay_seconds: Option<u64>,
    /// The replica that it follows the primary through, when it should and that one follows too.
    #[serde(default)]
    pub source: Option<ServerName>,
    /// Transactions that it has and the primary lacks.
    #[serde(default)]
    pub errant: Option<Errant>,
}

/// How copies in an object store stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupStatus {
    /// Where they are.
    pub place: String,
    /// The newest whole one.
    pub last: Option<CopyLine>,
    /// Up to when the archive of the binary log has everything.
    pub archived_to: Option<UnixMillis>,
    /// Why that is not known, or why the archive does not go on.
    pub trouble: Option<String>,
}

/// What `pontoon db backups` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backups {
    /// [`API_VERSION`].
    pub version: u32,
    /// Where they are.
    pub place: String,
    /// Whole copies, newest first.
    pub copies: Vec<CopyLine>,
    /// What looks like a copy and cannot be used, and why.
    pub flawed: Vec<String>,
    /// Up to when the archive of the binary log has everything.
    pub archived_to: Option<UnixMillis>,
    /// The clock of who looked.
    pub now: UnixMillis,
}

impl Backups {
    /// What a store has.
    pub fn of(catalog: &Catalog, store: &Store, now: UnixMillis) -> Backups {
        Backups {
            version: API_VERSION,
            place: store.place().to_owned(),
            copies: catalog.lines(),
            flawed: catalog.flawed.clone(),
            archived_to: catalog.archived_to(),
            now,
        }
    }
}

/// What `pontoon cert status` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertStatus {
    /// [`API_VERSION`].
    pub version: u32,
    /// The fleet's name.
    pub fleet: String,
    /// The server that answers.
    pub me: ServerName,
    /// Which server orders certificates; `None` when none come from an authority.
    pub orderer: Option<ServerName>,
    /// The directory of the authority.
    pub directory: Option<String>,
    /// Those from the authority in the configuration's order, then those from files.
    pub certificates: Vec<CertLine>,
    /// The clock of the server that answers.
    pub now: UnixMillis,
}

/// One certificate for visitors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertLine {
    /// The names that it is for.
    pub names: Vec<String>,
    /// Who issued it; `None` while there is none.
    pub issuer: Option<String>,
    /// When it ends; `None` while there is none.
    pub not_after: Option<UnixMillis>,
    /// Where it comes from: the authority's directory, or `file`.
    pub source: String,
    /// The file that the edges read.
    pub file: String,
    /// When the next one is ordered, or when it is tried again; `None` for one from files.
    pub next: Option<UnixMillis>,
    /// Why the last attempt failed; `None` when it did not.
    pub error: Option<String>,
    /// When that was.
    pub error_at: Option<UnixMillis>,
    /// The servers whose edges show it.
    pub on: Vec<ServerName>,
    /// Those whose edges cannot use what is in the file, and why.
    pub refused: Vec<(ServerName, String)>,
}

/// Asks for new certificates from the authority before they are due.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RenewCertRequest {
    /// For this name; `None`: for all.
    pub name: Option<String>,
}

/// Asks for a copy in the object store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupRequest {
    /// Of this server's database; `None`: of a replica that is well, else of the primary.
    #[serde(default)]
    pub on: Option<ServerName>,
}

/// What an operator may ask of the databases.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum DbOrder {
    /// Hand over, losing nothing and failing no statement.
    Switchover {
        /// To that server; `None`: to the replica that is in sync.
        to: Option<ServerName>,
    },
    /// Promote a replica although the primary is lost.
    Failover {
        /// Which; `None`: the one that has the most.
        to: Option<ServerName>,
        /// How many transactions may be lost with it.
        accept_loss: u64,
    },
    /// Promote, start and kill nothing by itself.
    Pause,
    /// Go on.
    Resume,
}

/// Asks whether replicas hold what the primary holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckRequest {
    /// The replica; `None`: all.
    pub server: Option<ServerName>,
    /// The tables, `schema.table`; empty: all.
    pub tables: Vec<String>,
    /// A replica that is further behind is waited for.
    #[serde(with = "millis")]
    pub max_lag: Duration,
    /// How long one statement may read.
    #[serde(with = "millis")]
    pub chunk_time: Duration,
    /// How many rows of a table are shown.
    pub rows: usize,
}

/// Asks what stops a replica, and to get it going.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnstickRequest {
    /// The replica.
    pub server: ServerName,
    /// Do it; otherwise only what would be done is said.
    pub yes: bool,
    /// Leave the transaction out, whatever it did.
    #[serde(default)]
    pub accept_drift: bool,
}

/// Asks for a new copy of the primary's database on a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReseedRequest {
    /// Which.
    pub server: ServerName,
    /// Do it; otherwise only what would be done is said.
    pub yes: bool,
    /// As a dump, whatever the configuration says.
    #[serde(default)]
    pub logical: bool,
}

impl ReseedRequest {
    /// What stands behind the server's name on the command line, but `--yes`.
    pub fn options(&self) -> &'static str {
        if self.logical { " --logical" } else { "" }
    }
}

/// Asks a server to follow the primary again with what it has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RejoinRequest {
    /// Which.
    pub server: ServerName,
}

/// A line of a stream: what a long command is doing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "progress", rename_all = "snake_case")]
pub enum Progress {
    /// A step began.
    Step {
        /// On which server.
        server: ServerName,
        /// What is being done, in the present participle ("copying database from a").
        text: String,
    },
    /// The present step moved on.
    Bytes {
        /// So far.
        done: u64,
        /// In all, as far as it can be told.
        total: Option<u64>,
    },
    /// The present step moved on, by rows.
    Rows {
        /// So far.
        done: u64,
        /// In all, by the engine's estimate.
        total: u64,
        /// Where it is ("app.users, table 3 of 40").
        at: String,
    },
    /// The present step waits for a server that is behind.
    Waiting {
        /// Which.
        server: ServerName,
    },
    /// A replica has something otherwise than its primary.
    Differs(Differing),
    /// A step ended well.
    Done {
        /// On which server.
        server: ServerName,
        /// What is now so ("replica of a, lag 0.0 s").
        text: String,
    },
    /// Something that the operator should know and that stops nothing.
    Note {
        /// What.
        text: String,
    },
    /// The command ended well.
    Finished {
        /// What is now so.
        text: String,
    },
    /// The command was refused or failed; nothing follows.
    Refused {
        /// Why.
        refusal: Refusal,
    },
}
