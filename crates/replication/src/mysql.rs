//! MySQL 8.0.26 to 9.x.

use pontoon_fleet::Engine;
use pontoon_helper::{DatabaseNode, Setting, TlsFiles};

use crate::control::Row;
use crate::flavor::{Account, FOREVER_MS, Flavor, ReplicaStatus, Source, Wanted, common_settings};
use crate::repair::LogPlace;
use crate::version::Version;

/// MySQL's words: those of sources and replicas, the only ones that 9.x still knows.
pub(crate) struct MySql;

impl Flavor for MySql {
    fn engine(&self) -> Engine {
        Engine::Mysql
    }

    fn settings(
        &self,
        node: &DatabaseNode,
        version: Version,
        wanted: &Wanted,
    ) -> (Vec<Setting>, Vec<String>) {
        // A list of addresses came with 8.0.13.
        let (mut settings, notes) = common_settings(node, wanted, true);
        // Deprecated since 8.0.34, the default (ROW) and on its way out.
        settings.retain(|setting| {
            setting.name != "binlog_format"
                || version
                    < Version {
                        major: 8,
                        minor: 0,
                        patch: 34,
                    }
        });
        settings.extend([
            Setting::new(
                "gtid_mode",
                if wanted.by_position { "ON_PERMISSIVE" } else { "ON" },
            ),
            Setting::new("enforce_gtid_consistency", "ON"),
            Setting::new("log_replica_updates", 1),
            Setting::new("replica_net_timeout", 4),
            Setting::new("super_read_only", u8::from(wanted.replica || wanted.failover)),
            // The X protocol's own port would be in the way of nothing, and is one more to guard.
            Setting::new("mysqlx", 0),
        ]);
        if wanted.failover {
            settings.extend([
                Setting::new("skip_replica_start", 1),
                // What was received and not applied outlives a restart.
                Setting::new("relay_log_recovery", 0),
                // Switched on by hand where it is right: on a replica it would make applying wait for replicas of its own.
                Setting::new("rpl_semi_sync_source_enabled", 0),
                Setting::new("rpl_semi_sync_replica_enabled", 0),
                Setting::new("rpl_semi_sync_source_wait_point", "AFTER_SYNC"),
                Setting::new("rpl_semi_sync_source_wait_no_replica", 1),
                Setting::new("rpl_semi_sync_source_timeout", FOREVER_MS),
            ]);
        }
        (settings, notes)
    }

    fn facts(&self) -> &'static str {
        "SELECT @@version AS version, @@global.read_only AS read_only, @@global.log_bin AS log_bin, \
         @@global.gtid_executed AS written, @@global.gtid_executed AS applied, \
         @@global.replica_exec_mode AS exec_mode, \
         TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) AS now_us"
    }

    fn replica_status(&self) -> &'static str {
        "SHOW REPLICA STATUS"
    }

    fn read_replica_status(&self, row: &Row) -> ReplicaStatus {
        let io = row.get("Replica_IO_Running").unwrap_or_default();
        let said = |column: &str| row.get(column).filter(|text| !text.is_empty()).map(str::to_owned);
        ReplicaStatus {
            source_host: row.get("Source_Host").unwrap_or_default().to_owned(),
            source_port: u16::try_from(row.number("Source_Port")).unwrap_or(0),
            receiving: io == "Yes",
            connecting: io == "Connecting",
            applying: row.get("Replica_SQL_Running") == Some("Yes"),
            error: said("Last_SQL_Error").or_else(|| said("Last_IO_Error")),
            receiving_error: row.number("Last_IO_Errno"),
            applying_error: row.number("Last_SQL_Errno"),
            delay_seconds: row.number("SQL_Delay"),
            by_gtid: row.get("Auto_Position") == Some("1"),
            source_uuid: row.get("Source_UUID").unwrap_or_default().to_owned(),
            received: row
                .get("Retrieved_Gtid_Set")
                .unwrap_or_default()
                .replace(['\n', ' '], ""),
        }
    }

    fn history(&self) -> &'static str {
        "SELECT @@global.gtid_executed AS history, @@global.gtid_executed AS written, \
         @@global.gtid_executed AS applied, @@global.read_only AS read_only, \
         TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) AS now_us"
    }

    fn start_applying(&self) -> &'static str {
        "START REPLICA SQL_THREAD"
    }

    fn start_receiving(&self) -> &'static str {
        "START REPLICA IO_THREAD"
    }

    fn stop_receiving(&self) -> &'static str {
        "STOP REPLICA IO_THREAD"
    }

    fn semi_sync_replica(&self, yes: bool) -> String {
        format!("SET GLOBAL rpl_semi_sync_replica_enabled = {}", u8::from(yes))
    }

    fn is_semi_sync_replica(&self) -> &'static str {
        "SELECT @@global.rpl_semi_sync_replica_enabled"
    }

    fn acknowledge(&self, replicas: u8) -> Vec<String> {
        match replicas {
            0 => vec!["SET GLOBAL rpl_semi_sync_source_enabled = 0".to_owned()],
            count => vec![
                "SET GLOBAL rpl_semi_sync_source_wait_point = AFTER_SYNC".to_owned(),
                "SET GLOBAL rpl_semi_sync_source_wait_no_replica = 1".to_owned(),
                format!("SET GLOBAL rpl_semi_sync_source_timeout = {FOREVER_MS}"),
                format!("SET GLOBAL rpl_semi_sync_source_wait_for_replica_count = {count}"),
                "SET GLOBAL rpl_semi_sync_source_enabled = 1".to_owned(),
            ],
        }
    }

    fn locked_replicas(&self) -> &'static str {
        "SELECT user AS user, host AS host FROM mysql.user \
         WHERE user LIKE 'pontoon\\_r\\_%' AND account_locked = 'Y'"
    }

    fn is_super_read_only(&self) -> &'static str {
        "SELECT @@global.super_read_only"
    }

    fn waiting_commits(&self) -> &'static str {
        "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_source_wait_sessions'"
    }

    fn set_writable(&self, writable: bool) -> Vec<String> {
        if writable {
            vec![
                "SET GLOBAL super_read_only = OFF".to_owned(),
                "SET GLOBAL read_only = OFF".to_owned(),
            ]
        } else {
            vec!["SET GLOBAL super_read_only = ON".to_owned()]
        }
    }

    fn set_position(&self, _position: &str) -> Vec<String> {
        // CLONE copies gtid_executed with the data.
        Vec::new()
    }

    fn follow(&self, source: &Source, tls: &TlsFiles) -> Vec<String> {
        vec![change_source(source, tls, "SOURCE_AUTO_POSITION=1")]
    }

    fn follow_from(&self, source: &Source, tls: &TlsFiles, place: &LogPlace) -> Vec<String> {
        let start = format!(
            "SOURCE_AUTO_POSITION=0, SOURCE_LOG_FILE='{}', SOURCE_LOG_POS={}",
            place.file, place.offset
        );
        vec![change_source(source, tls, &start)]
    }

    fn set_appliers(&self) -> Option<String> {
        // Four, in the primary's order, since 8.0.27 (replica_parallel_workers, replica_preserve_commit_order).
        None
    }

    fn set_delay(&self, seconds: u64) -> Vec<String> {
        // What it has received stays.
        vec![
            "STOP REPLICA SQL_THREAD".to_owned(),
            format!("CHANGE REPLICATION SOURCE TO SOURCE_DELAY={seconds}"),
            "START REPLICA".to_owned(),
        ]
    }

    fn start_replica(&self) -> &'static str {
        "START REPLICA"
    }

    fn stop_replica(&self) -> &'static str {
        "STOP REPLICA"
    }

    fn forget_source(&self) -> &'static str {
        "RESET REPLICA ALL"
    }

    fn wait_for_position(&self, position: &str, seconds: f64) -> String {
        // A timeout of 0 waits forever: never send it.
        format!(
            "SELECT WAIT_FOR_EXECUTED_GTID_SET('{position}', {:.3}) = 0",
            seconds.max(0.001)
        )
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
            format!("GRANT REPLICATION SLAVE, BACKUP_ADMIN ON *.* TO {who}"),
        ]
    }

    fn drop_account(&self, account: &Account) -> String {
        format!("DROP USER IF EXISTS '{}'@'{}'", account.user, account.host)
    }

    fn inherited(&self) -> &'static str {
        "SELECT LOWER(VARIABLE_NAME) AS name, VARIABLE_VALUE AS value FROM performance_schema.global_variables \
         WHERE VARIABLE_NAME IN ('sql_mode', 'character_set_server', 'collation_server', 'lower_case_table_names', \
         'innodb_page_size', 'innodb_data_file_path', 'max_allowed_packet', 'explicit_defaults_for_timestamp', \
         'event_scheduler')"
    }

    fn reload_tls(&self) -> &'static str {
        "ALTER INSTANCE RELOAD TLS"
    }
}

/// Points a stopped replica to its source, where `start` says.
fn change_source(source: &Source, tls: &TlsFiles, start: &str) -> String {
    format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{}', SOURCE_PORT={}, SOURCE_USER='{}', SOURCE_PASSWORD='{}', \
         {start}, SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT=0, SOURCE_HEARTBEAT_PERIOD=1, SOURCE_DELAY={}, \
         SOURCE_SSL=1, SOURCE_SSL_CA='{}', SOURCE_SSL_CERT='{}', SOURCE_SSL_KEY='{}', \
         SOURCE_SSL_VERIFY_SERVER_CERT=1",
        source.address,
        source.port,
        source.account.user,
        source.account.password,
        source.delay_seconds,
        tls.ca.display(),
        tls.cert.display(),
        tls.key.display(),
    )
}
