//! What an agent or `pontoon init` finds on a server: facts for a plan, gathered elsewhere.

use std::net::IpAddr;
use std::path::PathBuf;

use pontoon_fleet::{Engine, ListenAddress};
use serde::{Deserialize, Serialize};

/// What was found on one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// Debian's version as `/etc/debian_version` or `os-release` says it.
    pub debian: String,
    /// Processor cores.
    pub cores: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Free space in bytes where the database's data directory is (or would be).
    pub disk_free_bytes: u64,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The database server that runs there.
    pub database: Option<DatabaseFacts>,
    /// Everything that listens there.
    pub listeners: Vec<ListenerFact>,
    /// Whether something answers where the application should; `None` when it was not tried.
    pub app_answers: Option<bool>,
    /// Which of the database's tools are there.
    pub tools: Tools,
}

/// A database server that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// Which engine.
    pub engine: Engine,
    /// Its own version string (`10.11.6-MariaDB-0+deb12u1`).
    pub version: String,
    /// Its Unix socket.
    pub socket: Option<PathBuf>,
    /// Its TCP port; `None` when it does not listen on TCP.
    pub port: Option<u16>,
    /// Its data directory.
    pub datadir: PathBuf,
    /// Size of its data in bytes.
    pub size_bytes: u64,
    /// How many databases are the user's (without the server's own).
    pub databases: u32,
    /// How it is run.
    pub run_by: RunBy,
    /// Whether Pontoon's settings (binary log, GTIDs, server id, TLS) are in force.
    pub settings_active: bool,
}

/// How a database server is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunBy {
    /// By a systemd unit of that name.
    Unit(String),
    /// As a process that systemd does not know.
    Process(u32),
}

/// Something that listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerFact {
    /// Where.
    pub at: ListenAddress,
    /// Its program's name (`nginx`); empty when it cannot be told.
    pub program: String,
    /// Its process id, when it can be told.
    pub pid: Option<u32>,
}

/// Tools that a copy of the database needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    /// `mariadb-backup`
    pub mariadb_backup: bool,
    /// `mbstream`
    pub mbstream: bool,
    /// `mariadb-dump` with `mariadb`, `mariadb-install-db`; or `mysqldump` with `mysql`.
    #[serde(default)]
    pub dump: bool,
}
