//! MariaDB 10.6 to 11.8.

use pontoon_fleet::Engine;
use pontoon_helper::{DatabaseNode, Setting, TlsFiles};

use crate::control::Row;
use crate::flavor::{Account, FOREVER_MS, Flavor, ReplicaStatus, Source, Wanted, common_settings};
use crate::repair::LogPlace;
use crate::version::Version;

/// How many transactions a replica applies side by side, as MySQL does from 8.0.27 on by itself.
const APPLIERS: u8 = 4;

/// MariaDB's words.
pub(crate) struct MariaDb;

impl Flavor for MariaDb {
    fn engine(&self) -> Engine {
        Engine::Mariadb
    }

    fn settings(
        &self,
        node: &DatabaseNode,
        version: Version,
        wanted: &Wanted,
    ) -> (Vec<Setting>, Vec<String>) {
        // A list of addresses came with 10.11 (MDEV-6536).
        let has_list = version
            >= Version {
                major: 10,
                minor: 11,
                patch: 0,
            };
        let (mut settings, notes) = common_settings(node, wanted, has_list);
        settings.extend([
            Setting::new("log_slave_updates", 1),
            Setting::new("gtid_strict_mode", 1),
            Setting::new("slave_net_timeout", 4),
        ]);
        if wanted.replica || wanted.failover {
            // One thread that commits for itself falls behind many sessions that commit together. Transactions still
            // become visible in the primary's order (the mode is the default: optimistic), so a position is a prefix.
            settings.push(Setting::new("slave_parallel_threads", APPLIERS));
        }
        if wanted.failover {
            settings.extend([
                Setting::new("skip_slave_start", 1),
                // Switched on by hand where it is right: on a replica it would make applying wait for replicas of its own.
                Setting::new("rpl_semi_sync_master_enabled", 0),
                Setting::new("rpl_semi_sync_slave_enabled", 0),
                Setting::new("rpl_semi_sync_master_wait_point", "AFTER_SYNC"),
                Setting::new("rpl_semi_sync_master_wait_no_slave", 1),
                Setting::new("rpl_semi_sync_master_timeout", FOREVER_MS),
            ]);
        }
        (settings, notes)
    }

    fn facts(&self) -> &'static str {
        "SELECT @@version AS version, @@global.read_only AS read_only, @@global.log_bin AS log_bin, \
         @@global.gtid_current_pos AS written, @@global.gtid_slave_pos AS applied, \
         @@global.slave_exec_mode AS exec_mode, \
         TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) AS now_us"
    }

    fn replica_status(&self) -> &'static str {
        "SHOW SLAVE STATUS"
    }

    fn read_replica_status(&self, row: &Row) -> ReplicaStatus {
        let io = row.get("Slave_IO_Running").unwrap_or_default();
        let said = |column: &str| row.get(column).filter(|text| !text.is_empty()).map(str::to_owned);
        ReplicaStatus {
            source_host: row.get("Master_Host").unwrap_or_default().to_owned(),
            source_port: u16::try_from(row.number("Master_Port")).unwrap_or(0),
            receiving: io == "Yes",
            connecting: io == "Connecting" || io == "Preparing",
            applying: row.get("Slave_SQL_Running") == Some("Yes"),
            error: said("Last_SQL_Error").or_else(|| said("Last_IO_Error")),
            receiving_error: row.number("Last_IO_Errno"),
            applying_error: row.number("Last_SQL_Errno"),
            delay_seconds: row.number("SQL_Delay"),
            by_gtid: row.get("Using_Gtid").is_some_and(|using| using != "No"),
            source_uuid: String::new(),
            received: row.get("Gtid_IO_Pos").unwrap_or_default().to_owned(),
        }
    }

    fn history(&self) -> &'static str {
        "SELECT @@global.gtid_binlog_state AS history, @@global.gtid_binlog_pos AS written, \
         @@global.gtid_slave_pos AS applied, @@global.read_only AS read_only, \
         TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) AS now_us"
    }

    fn start_applying(&self) -> &'static str {
        "START SLAVE SQL_THREAD"
    }

    fn start_receiving(&self) -> &'static str {
        "START SLAVE IO_THREAD"
    }

    fn stop_receiving(&self) -> &'static str {
        "STOP SLAVE IO_THREAD"
    }

    fn semi_sync_replica(&self, yes: bool) -> String {
        format!("SET GLOBAL rpl_semi_sync_slave_enabled = {}", u8::from(yes))
    }

    fn is_semi_sync_replica(&self) -> &'static str {
        "SELECT @@global.rpl_semi_sync_slave_enabled"
    }

    fn acknowledge(&self, replicas: u8) -> Vec<String> {
        // One acknowledgement is always enough for MariaDB: who may give it is decided on the replicas.
        match replicas {
            0 => vec!["SET GLOBAL rpl_semi_sync_master_enabled = 0".to_owned()],
            _ => vec![
                "SET GLOBAL rpl_semi_sync_master_wait_point = AFTER_SYNC".to_owned(),
                "SET GLOBAL rpl_semi_sync_master_wait_no_slave = 1".to_owned(),
                format!("SET GLOBAL rpl_semi_sync_master_timeout = {FOREVER_MS}"),
                "SET GLOBAL rpl_semi_sync_master_enabled = 1".to_owned(),
            ],
        }
    }

    fn locked_replicas(&self) -> &'static str {
        "SELECT user, host FROM mysql.global_priv \
         WHERE user LIKE 'pontoon\\_r\\_%' AND JSON_VALUE(priv, '$.account_locked') IN ('1', 'true')"
    }

    fn is_super_read_only(&self) -> &'static str {
        "SELECT 0"
    }

    fn waiting_commits(&self) -> &'static str {
        "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_wait_sessions'"
    }

    fn set_writable(&self, writable: bool) -> Vec<String> {
        vec![format!(
            "SET GLOBAL read_only = {}",
            if writable { "OFF" } else { "ON" }
        )]
    }

    fn set_position(&self, position: &str) -> Vec<String> {
        vec![format!("SET GLOBAL gtid_slave_pos = '{position}'")]
    }

    fn follow(&self, source: &Source, tls: &TlsFiles) -> Vec<String> {
        vec![format!(
            "CHANGE MASTER TO MASTER_HOST='{}', MASTER_PORT={}, MASTER_USER='{}', MASTER_PASSWORD='{}', \
             MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=1, MASTER_DELAY={}, \
             MASTER_SSL=1, MASTER_SSL_CA='{}', MASTER_SSL_CERT='{}', MASTER_SSL_KEY='{}', MASTER_SSL_VERIFY_SERVER_CERT=1",
            source.address,
            source.port,
            source.account.user,
            source.account.password,
            source.delay_seconds,
            tls.ca.display(),
            tls.cert.display(),
            tls.key.display(),
        )]
    }

    fn follow_from(&self, _source: &Source, _tls: &TlsFiles, _place: &LogPlace) -> Vec<String> {
        Vec::new()
    }

    fn set_appliers(&self) -> Option<String> {
        Some(format!("SET GLOBAL slave_parallel_threads = {APPLIERS}"))
    }

    fn set_delay(&self, seconds: u64) -> Vec<String> {
        vec![
            "STOP SLAVE".to_owned(),
            format!("CHANGE MASTER TO MASTER_DELAY={seconds}"),
            "START SLAVE".to_owned(),
        ]
    }

    fn start_replica(&self) -> &'static str {
        "START SLAVE"
    }

    fn stop_replica(&self) -> &'static str {
        "STOP SLAVE"
    }

    fn forget_source(&self) -> &'static str {
        "RESET SLAVE ALL"
    }

    fn wait_for_position(&self, position: &str, seconds: f64) -> String {
        format!("SELECT MASTER_GTID_WAIT('{position}', {seconds:.3}) = 0")
    }

    fn create_account(&self, account: &Account) -> Vec<String> {
        let who = format!("'{}'@'{}'", account.user, account.host);
        vec![
            format!(
                "CREATE USER IF NOT EXISTS {who} IDENTIFIED BY '{}' REQUIRE X509",
                account.password
            ),
            format!(
                "ALTER USER {who} IDENTIFIED BY '{}' REQUIRE X509",
                account.password
            ),
            format!("GRANT REPLICATION SLAVE ON *.* TO {who}"),
        ]
    }

    fn drop_account(&self, account: &Account) -> String {
        format!("DROP USER IF EXISTS '{}'@'{}'", account.user, account.host)
    }

    fn inherited(&self) -> &'static str {
        "SELECT LOWER(VARIABLE_NAME) AS name, VARIABLE_VALUE AS value FROM information_schema.GLOBAL_VARIABLES \
         WHERE VARIABLE_NAME IN ('sql_mode', 'character_set_server', 'collation_server', 'lower_case_table_names', \
         'innodb_page_size', 'innodb_data_file_path', 'max_allowed_packet', 'explicit_defaults_for_timestamp', \
         'event_scheduler')"
    }

    fn reload_tls(&self) -> &'static str {
        "FLUSH SSL"
    }
}
