//! What a server does, which processes do it, and which database engine runs.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a server of the fleet does. A server whose `roles` are omitted has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Receives visitors and spreads their requests.
    Edge,
    /// Runs the user's application.
    App,
    /// Runs a database server, primary or replica.
    Db,
    /// Runs memcached.
    Cache,
    /// Answers DNS.
    Dns,
}

impl Role {
    /// Every role, in the order in which they are shown.
    pub const ALL: [Role; 5] = [Role::Edge, Role::App, Role::Db, Role::Cache, Role::Dns];

    /// The word used in `fleet.toml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Edge => "edge",
            Role::App => "app",
            Role::Db => "db",
            Role::Cache => "cache",
            Role::Dns => "dns",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A process of the data path that the agent looks after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// `pontoon edge`
    Edge,
    /// `pontoon sql`
    Sql,
    /// `pontoon dns`
    Dns,
    /// `pontoon address`
    Address,
    /// `pontoon cache`
    Cache,
    /// memcached itself, which `pontoon memcached` becomes
    Memcached,
}

impl Tier {
    /// The word after `pontoon` on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Edge => "edge",
            Tier::Sql => "sql",
            Tier::Dns => "dns",
            Tier::Address => "address",
            Tier::Cache => "cache",
            Tier::Memcached => "memcached",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The database engine of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// MariaDB 10.6 to 11.8.
    Mariadb,
    /// MySQL 8.0 to 9.x.
    Mysql,
    /// Somebody else runs it; Pontoon only forwards to it.
    External,
}

impl Engine {
    /// The word used in `fleet.toml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Engine::Mariadb => "mariadb",
            Engine::Mysql => "mysql",
            Engine::External => "external",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
