//! `pontoon sql`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{Tier, interval};

/// `pontoon sql`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Sql {
    /// What to ask; without it, the proxy runs.
    #[command(subcommand)]
    pub command: Option<SqlCommand>,
    /// How it runs.
    #[command(flatten)]
    pub tier: Tier,
}

/// A question about the SQL proxy.
#[derive(Debug, Subcommand)]
pub enum SqlCommand {
    /// Say where a statement goes, and why; asks no server
    Explain(SqlExplain),
    /// Show which statements take the time of this server's SQL proxy, since it began
    Top(SqlTop),
}

/// `pontoon sql top`
#[derive(Debug, Args)]
pub struct SqlTop {
    /// How many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub count: u16,
    /// What comes first
    #[arg(long, value_enum, value_name = "WHAT", default_value = "time")]
    pub by: SqlOrder,
    /// Show it again each time, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// Time between two looks of --watch
    #[arg(long, value_name = "TIME", default_value = "2s", requires = "watch", value_parser = interval)]
    pub every: Duration,
    /// Print JSON, with the statements whole; with --watch a line each time
    #[arg(long)]
    pub json: bool,
}

/// What comes first in `pontoon sql top`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SqlOrder {
    /// Time in all
    Time,
    /// Time of one on average
    Mean,
    /// The longest
    Longest,
    /// Number of calls
    Calls,
    /// Bytes answered
    Bytes,
    /// Errors
    Errors,
}

/// `pontoon sql explain`
#[derive(Debug, Args)]
pub struct SqlExplain {
    /// The statement; - reads it from standard input
    #[arg(value_name = "STATEMENT")]
    pub statement: String,
    /// The database software; by default as fleet.toml says, or MariaDB
    #[arg(long, value_enum, value_name = "ENGINE")]
    pub engine: Option<SqlEngine>,
    /// Its version, as in 10.11.6 or 8.4.2: newer ones know more functions; by default the oldest supported
    #[arg(long, value_name = "VERSION", value_parser = server_version)]
    pub server_version: Option<pontoon_sql_class::Version>,
    /// The session's sql_mode, as in ANSI_QUOTES,NO_BACKSLASH_ESCAPES
    #[arg(long, value_name = "MODE,…", default_value = "", hide_default_value = true)]
    pub sql_mode: String,
    /// The session's character_set_client
    #[arg(long, value_name = "NAME", default_value = "utf8mb4")]
    pub charset: String,
    /// The session's default database
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,
    /// A transaction is open
    #[arg(long)]
    pub in_transaction: bool,
    /// It is a read-only one
    #[arg(long)]
    pub read_only: bool,
    /// autocommit is off
    #[arg(long)]
    pub no_autocommit: bool,
    /// The isolation level is SERIALIZABLE
    #[arg(long)]
    pub serializable: bool,
    /// The session has something that only its connection to the primary has, such as a temporary table
    #[arg(long)]
    pub pinned: bool,
    /// Print the verdict as JSON
    #[arg(long)]
    pub json: bool,
}

/// A database software.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SqlEngine {
    /// MariaDB
    Mariadb,
    /// MySQL
    Mysql,
}

fn server_version(text: &str) -> Result<pontoon_sql_class::Version, String> {
    pontoon_sql_class::Version::parse(text).ok_or_else(|| "not a version such as 10.11.6 or 8.4.2".to_owned())
}
