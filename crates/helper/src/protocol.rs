//! What goes over the helper's socket: one JSON line there, one JSON line back.

use std::net::IpAddr;
use std::path::PathBuf;

use pontoon_fleet::{Refusal, ServerName, Tier};
use serde::{Deserialize, Serialize};

use crate::alone::Alone;
use crate::cut::Cut;
use crate::dirs::Incoming;
use crate::programs::Lacks;
use crate::settings::{DatabaseSettings, Setting};

/// A verb. Paths are not among the arguments: they come from the node file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What runs, and what of ours lies around. Answer: [`Reply::State`].
    State,
    /// Start the database and wait until it takes connections; fine when it runs. Answer: [`Reply::Done`].
    Start,
    /// Stop the database and wait until it is gone; fine when it does not run. Answer: [`Reply::Done`].
    Stop {
        /// How long a graceful end may take.
        patience_ms: u64,
        /// Whether to end it with SIGKILL after that; otherwise it is a refusal.
        kill: bool,
    },
    /// Stop the database that runs, wait until it is gone and start it again, as `Start` does. Refused when that process is
    /// not the database, or was killed meanwhile: then somebody else says whether it starts. Answer: `Done`.
    Restart {
        /// The process, as in [`Reply::State`].
        pid: u32,
        /// How long a graceful end may take.
        patience_ms: u64,
    },
    /// `SIGKILL` to the database, at once, also while another verb is under way; ends every verb that was asked before and
    /// could start it, and waits until its process is gone. Answer: `Done`.
    Kill,
    /// End the database's TCP connections with another server of the fleet that is dead, cut off or has dialled anew. Waits
    /// for nobody; fine when there are none. Answer: `Done`.
    HangUp {
        /// The other server.
        address: IpAddr,
        /// Those to this port of it only: where its database listens that this one received from.
        port: Option<u16>,
    },
    /// Cut off the end of the stopped database's binary log what its new primary lacks. Answer: [`Reply::Cut`].
    CutBinlog {
        /// The transactions that the new primary has: a GTID set (MySQL), or the last of each server in each domain
        /// (MariaDB).
        keep: String,
        /// The new primary's name, for the name of the file that keeps what was cut off.
        leader: ServerName,
    },
    /// Check that nothing of what was cut off is committed in the engine, after the database has started. Answer: `Done`.
    CheckRecovery,
    /// Look which transactions of the binary log another server does not have. Answer: [`Reply::Alone`].
    Alone {
        /// What that server has, as for [`Request::CutBinlog`].
        keep: String,
        /// Of a database that runs: those that were found out to be so. What it received since `keep` was asked for is in its
        /// binary log too.
        only: Option<String>,
        /// Its name.
        leader: ServerName,
        /// Whether they are written down in files beside the data directory.
        export: bool,
    },
    /// Write Pontoon's settings, TLS files and start-up statements; effective at the next start. Answer: `Done`.
    WriteSettings(DatabaseSettings),
    /// Rename Pontoon's settings so that the user's own hold again; effective at the next start. Answer:
    /// [`Reply::Moved`], `None` when there were none.
    RemoveSettings,
    /// Copy the fleet certificate to where the database reads it. Answer: `Done`.
    RefreshTls,
    /// Stream a copy of the running MariaDB, or of what MySQL's CLONE wrote at the place of `MakeCloning`, which is
    /// removed afterwards. Answer: `Done`, then frames until the last one.
    Backup(BackupOptions),
    /// Which programs for a copy are missing. Answer: [`Reply::Lacks`].
    Lacks,
    /// Stream a dump of the running database. Answer: `Done`, then frames until the last one.
    Dump(DumpOptions),
    /// Make a new data directory and a server on it that nobody else reaches, and load such a stream there (frames follow on
    /// this connection after the answer `Done`). Answer after the last frame: [`Reply::Ready`].
    Load {
        /// The size that the source expects, for the check of free space.
        expected_bytes: u64,
        /// What the copy shares with its source.
        settings: Vec<Setting>,
    },
    /// Make the empty place where MySQL's CLONE may write a copy for an object store. Answer: [`Reply::Place`].
    MakeCloning {
        /// The size of the data, for the check of free space.
        expected_bytes: u64,
    },
    /// The binary log's files. Answer: [`Reply::Binlogs`].
    Binlogs,
    /// Stream a part of a file that [`Request::Binlogs`] names. Answer: `Done`, then frames until the last one.
    ReadBinlog {
        /// The file, as it was named.
        file: String,
        /// From which byte on.
        from: u64,
        /// How many bytes at the most.
        most: u64,
    },
    /// Take such a stream (frames follow on this connection after the answer `Done`), prepare it. Answer after the
    /// last frame: [`Reply::Ready`].
    Restore {
        /// The size that the source expects, for the check of free space.
        expected_bytes: u64,
    },
    /// Make the empty place where MySQL's CLONE may write. Answer: [`Reply::Place`].
    MakeIncoming {
        /// The size that the source expects, for the check of free space.
        expected_bytes: u64,
    },
    /// The copy at that place is complete. Answer: [`Reply::Ready`].
    SealIncoming {
        /// Its GTID position.
        position: String,
    },
    /// Put an empty data directory into the place of one that MySQL does not start on, so that CLONE has a server; the
    /// database must be stopped. Answer: [`Reply::Moved`].
    MakeEmpty {
        /// What the copy will share with its source.
        settings: Vec<Setting>,
    },
    /// Rename the data directory aside and the complete copy into its place; the database must be stopped. Answer:
    /// [`Reply::Moved`]. Repeatable: done twice it answers the same.
    ActivateIncoming,
    /// Start or stop the systemd unit of one of Pontoon's own tiers: the agent has no right to. Answer: `Done`.
    TierUnit {
        /// Which.
        tier: Tier,
        /// Start it, or stop it.
        start: bool,
    },
    /// Forget the copy: what is left of an attempt that was ours is removed, anything else renamed. Answer: `Done`.
    DiscardIncoming,
}

/// How a copy is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupOptions {
    /// At most this many bytes a second, while tables are copied; the short end under lock is never slowed down.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
}

/// What is dumped.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpOptions {
    /// The databases, without the server's own.
    pub databases: Vec<String>,
    /// Statements that make the accounts with their grants, in this order.
    pub accounts: Vec<String>,
    /// MariaDB: tables that keep their history have it in the dump.
    pub history: bool,
    /// The size of the data in bytes: an estimate of the stream.
    pub expected_bytes: u64,
    /// At most this many bytes a second.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
}

impl std::fmt::Debug for DumpOptions {
    /// Without the accounts: they hold hashes of passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DumpOptions")
            .field("databases", &self.databases)
            .field("history", &self.history)
            .finish_non_exhaustive()
    }
}

/// The helper's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// It is so.
    Done,
    /// To [`Request::State`].
    State(DatabaseState),
    /// To [`Request::RemoveSettings`] and [`Request::ActivateIncoming`].
    Moved {
        /// What was renamed; `None` when nothing had to be.
        moved: Option<Moved>,
    },
    /// To [`Request::CutBinlog`].
    Cut {
        /// What was cut off; `None` when nothing had to be.
        cut: Option<Cut>,
    },
    /// To [`Request::Alone`].
    Alone {
        /// What it has alone.
        alone: Alone,
    },
    /// To [`Request::Restore`], [`Request::Load`] and [`Request::SealIncoming`]: the copy is complete and prepared.
    Ready {
        /// Its GTID position, as `gtid_slave_pos` (MariaDB) or a GTID set (MySQL).
        position: String,
    },
    /// To [`Request::MakeIncoming`]: a directory that does not exist, in one that the database's user may write.
    Place {
        /// The directory.
        path: PathBuf,
    },
    /// To [`Request::Lacks`].
    Lacks {
        /// What is missing.
        lacks: Lacks,
    },
    /// To [`Request::Binlogs`]: oldest first; empty when the binary log is off.
    Binlogs {
        /// The files.
        files: Vec<BinlogFile>,
    },
    /// No.
    Refused {
        /// Why.
        refusal: Refusal,
    },
}

/// A file of the binary log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinlogFile {
    /// Its name, without its directory.
    pub name: String,
    /// Its size now.
    pub bytes: u64,
}

/// A rename: what moved aside, and where it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Its old name.
    pub from: PathBuf,
    /// Its new name.
    pub to: PathBuf,
}

/// What the helper sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseState {
    /// The database's process, when it runs.
    pub pid: Option<u32>,
    /// Whether systemd is starting it at this moment, as it does at boot: it may not answer yet.
    pub starting: bool,
    /// Whether Pontoon's settings are in place.
    pub settings_written: bool,
    /// Whether the data directory exists.
    pub datadir_exists: bool,
    /// A copy that arrives, is ready or was activated.
    pub incoming: Option<Incoming>,
}
