//! What differs between the engines: pure, text in and text out.

use std::net::{IpAddr, Ipv4Addr};

use pontoon_fleet::{Code, Engine, Refusal};
use pontoon_helper::{DatabaseNode, Setting, TlsFiles};
use serde::{Deserialize, Serialize};

use crate::control::Row;
use crate::repair::LogPlace;
use crate::version::Version;

/// What a database server is wanted to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The port that it moves to (`server_port`).
    pub port: u16,
    /// Its address inside the fleet, for replicas; `None` on a fleet of one.
    pub private: Option<IpAddr>,
    /// Whether it follows another: then it takes no writes of clients.
    pub replica: bool,
    /// Whether the fleet certificate is there to be used.
    pub tls: bool,
    /// Settings that the source has and a replica must share.
    pub inherited: Vec<Setting>,
    /// Whether it still follows by file and position: transactions without a GTID are taken too (MySQL).
    pub by_position: bool,
    /// Whether the primary may change: then every start is read-only and follows nobody, whatever the role, and only
    /// [`work::Worker`](crate::work::Worker) opens the server and lets it follow.
    pub failover: bool,
}

/// Where a replica finds its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its address inside the fleet.
    pub address: IpAddr,
    /// Its port there.
    pub port: u16,
    /// The replica's account on it.
    pub account: Account,
    /// By how many seconds the replica stays behind it on purpose.
    pub delay_seconds: u64,
}

/// An account for replication.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its name.
    pub user: String,
    /// The address that it may come from.
    pub host: String,
    /// Its password: letters and digits.
    pub password: String,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.user, self.host)
    }
}

/// How replication is, in the replica's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// The source's address.
    pub source_host: String,
    /// The source's port.
    pub source_port: u16,
    /// Whether it is connected and receives.
    pub receiving: bool,
    /// Whether it tries to.
    pub connecting: bool,
    /// Whether it applies what it received.
    pub applying: bool,
    /// What stops it.
    pub error: Option<String>,
    /// The number of that error of the receiving side; 0 for none.
    pub receiving_error: u64,
    /// The number of that error of the applying side; 0 for none.
    pub applying_error: u64,
    /// By how many seconds it stays behind on purpose.
    pub delay_seconds: u64,
    /// Whether it follows by GTID, and not by file and position.
    pub by_gtid: bool,
    /// MySQL: the source's `server_uuid`, once it was connected.
    pub source_uuid: String,
    /// What it has received from this source: MariaDB's position, the set that MySQL received since it was pointed there.
    pub received: String,
}

/// The words of one engine. Statements only; no connection, no clock.
pub trait Flavor: Send + Sync {
    /// Which engine.
    fn engine(&self) -> Engine;

    /// The options for `wanted`, and notes for the plan about what they mean.
    fn settings(&self, node: &DatabaseNode, version: Version, wanted: &Wanted)
    -> (Vec<Setting>, Vec<String>);

    /// Asks for version, read-only state and positions, in one row: `version`, `read_only`, `log_bin`, `written`,
    /// `applied`, `exec_mode`, `now_us`.
    fn facts(&self) -> &'static str;

    /// Asks for the replica's status; no row when it follows nobody.
    fn replica_status(&self) -> &'static str;

    /// Reads the status.
    fn read_replica_status(&self, row: &Row) -> ReplicaStatus;

    /// Asks, in one row, for `history` (the transactions that are in the binary log: MySQL a set, MariaDB the last of each
    /// server in each domain), `written` (the position of the binary log), `applied` (what it applied of a source),
    /// `read_only` and `now_us`.
    fn history(&self) -> &'static str;

    /// Starts applying what was received.
    fn start_applying(&self) -> &'static str;

    /// Starts receiving; what was received before stays as long as applying goes on.
    fn start_receiving(&self) -> &'static str;

    /// Stops receiving.
    fn stop_receiving(&self) -> &'static str;

    /// On a replica: connects as a semi-synchronous one from the next start of receiving on, or not.
    fn semi_sync_replica(&self, yes: bool) -> String;

    /// Asks whether that is so, in the first column: `1` or `ON`.
    fn is_semi_sync_replica(&self) -> &'static str;

    /// On a primary: acknowledges a commit when `replicas` semi-synchronous replicas have it; 0: when itself has it.
    fn acknowledge(&self, replicas: u8) -> Vec<String>;

    /// Asks for the `user` and `host` of each replica's account that is locked.
    fn locked_replicas(&self) -> &'static str;

    /// Asks, in the first column, whether not even administrators may write: `1`.
    fn is_super_read_only(&self) -> &'static str;

    /// Asks for a row `Value`: how many commits wait for an acknowledgement.
    fn waiting_commits(&self) -> &'static str;

    /// Lets clients write, or not.
    fn set_writable(&self, writable: bool) -> Vec<String>;

    /// Says where a fresh copy stands, before it follows for the first time.
    fn set_position(&self, position: &str) -> Vec<String>;

    /// Points a stopped replica to its source.
    fn follow(&self, source: &Source, tls: &TlsFiles) -> Vec<String>;

    /// Points a stopped replica to a place of its source's binary log; nothing where one goes on by GTID at once.
    fn follow_from(&self, source: &Source, tls: &TlsFiles, place: &LogPlace) -> Vec<String>;

    /// How many transactions a stopped replica applies side by side from its next start of replication on.
    fn set_appliers(&self) -> Option<String>;

    /// Lets a replica stay behind by so many seconds: all that it takes, on one that runs.
    fn set_delay(&self, seconds: u64) -> Vec<String>;

    /// Starts replication.
    fn start_replica(&self) -> &'static str;

    /// Stops replication; fine when it does not run.
    fn stop_replica(&self) -> &'static str;

    /// Forgets the source.
    fn forget_source(&self) -> &'static str;

    /// Waits on a replica until it has applied `position`; the first column is 1 when it has.
    fn wait_for_position(&self, position: &str, seconds: f64) -> String;

    /// Makes the account, or gives an old one of that name this password.
    fn create_account(&self, account: &Account) -> Vec<String>;

    /// Drops the account; fine when it is not there.
    fn drop_account(&self, account: &Account) -> String;

    /// Asks for the settings that a replica must share, as rows of name and value.
    fn inherited(&self) -> &'static str;

    /// Uses the certificate files as they are now.
    fn reload_tls(&self) -> &'static str;
}

/// A wait for an acknowledgement that never ends by itself, in milliseconds: 49 days, the most that MySQL takes.
pub(crate) const FOREVER_MS: u32 = u32::MAX;

/// The words of `engine`.
///
/// # Errors
/// [`Code::D001`] for an external database: Pontoon does not run it.
pub fn flavor_of(engine: Engine) -> Result<Box<dyn Flavor>, Refusal> {
    match engine {
        Engine::Mariadb => Ok(Box::new(crate::mariadb::MariaDb)),
        Engine::Mysql => Ok(Box::new(crate::mysql::MySql)),
        Engine::External => Err(Refusal::new(
            Code::D001,
            "an external database is not run by Pontoon",
        )),
    }
}

/// Settings that both engines spell alike.
pub(crate) fn common_settings(
    node: &DatabaseNode,
    wanted: &Wanted,
    has_list: bool,
) -> (Vec<Setting>, Vec<String>) {
    let mut notes = Vec::new();
    let mut settings = vec![
        Setting::new("port", wanted.port),
        Setting::new("skip_networking", 0),
        Setting::new("bind_address", bind_address(wanted, has_list, &mut notes)),
        Setting::new("binlog_format", "ROW"),
        Setting::new("binlog_row_image", "FULL"),
        Setting::new("sync_binlog", 1),
        Setting::new("innodb_flush_log_at_trx_commit", 1),
        // Once more than the seed's week: how long a replica may be away and still come back without a new copy.
        Setting::new("read_only", u8::from(wanted.replica || wanted.failover)),
    ];
    if node.follows.is_none() {
        // A server that follows already does not find what it received under another name.
        settings.push(Setting::new("relay_log", "pontoon-relay"));
    }
    if !node.own_log_bin {
        settings.push(Setting::new("log_bin", "pontoon-bin"));
        settings.push(Setting::new("binlog_expire_logs_seconds", 7 * 86_400));
    }
    if let Some(private) = wanted.private {
        settings.push(Setting::new("report_host", private));
    }
    if wanted.replica || wanted.failover {
        // Events ran on the source already; a replica that runs them too writes everything twice.
        settings.push(Setting::new("event_scheduler", "OFF"));
    }
    // Whether events run follows the role, not the source.
    let shared = wanted
        .inherited
        .iter()
        .filter(|setting| setting.name != "event_scheduler");
    settings.extend(shared.cloned());
    (settings, notes)
}

fn bind_address(wanted: &Wanted, has_list: bool, notes: &mut Vec<String>) -> String {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    match wanted.private {
        None => loopback.to_string(),
        Some(private) if private == loopback => loopback.to_string(),
        Some(private) if has_list => format!("{loopback},{private}"),
        Some(private) => {
            let any = if private.is_ipv4() { "0.0.0.0" } else { "::" };
            notes.push(format!(
                "this version binds to one address only: port {} will listen on {any}; keep a firewall before it",
                wanted.port
            ));
            any.to_owned()
        }
    }
}
