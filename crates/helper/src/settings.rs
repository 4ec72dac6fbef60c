//! Pontoon's settings for the database: checked against a list, rendered, put in place, renamed away again.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pontoon_fleet::{Code, Refusal};
use pontoon_rt::files::{self, FileError};
use pontoon_rt::paths::Paths;
use serde::{Deserialize, Serialize};

use crate::dirs;
use crate::foreign;
use crate::node::{DatabaseNode, Node, Run};
use crate::protocol::Moved;
use crate::unit::User;

/// What the database is to be set to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// Its id in replication; the node file is updated with it.
    pub server_id: u32,
    /// The file name of its Unix socket, in the directory of the user's own socket.
    pub socket_name: String,
    /// Options of the server, of the list that the helper knows.
    pub options: Vec<Setting>,
    /// Whether to use the fleet certificate for TLS.
    pub tls: bool,
    /// The password of the local administration account `pontoon`@`localhost`: letters and digits.
    pub admin_password: String,
}

impl std::fmt::Debug for DatabaseSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseSettings")
            .field("server_id", &self.server_id)
            .field("socket_name", &self.socket_name)
            .field("options", &self.options)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// One option of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name, with underscores.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl Setting {
    /// `name = value`.
    pub fn new(name: &str, value: impl ToString) -> Setting {
        Setting {
            name: name.to_owned(),
            value: value.to_string(),
        }
    }
}

/// Where the database reads the fleet certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The fleet's certificate authority.
    pub ca: PathBuf,
    /// This server's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// In the database's files directory.
    pub fn of(node: &DatabaseNode) -> TlsFiles {
        let file = |name: &str| node.files.join(name);
        TlsFiles {
            ca: file("ca.pem"),
            cert: file("cert.pem"),
            key: file("key.pem"),
        }
    }
}

/// The options that a caller may set. None of them names a file outside the data directory, loads code or gives rights.
const ALLOWED: &[&str] = &[
    "bind_address",
    "binlog_expire_logs_seconds",
    "binlog_format",
    "binlog_row_image",
    "character_set_server",
    "collation_server",
    "default_time_zone",
    "enforce_gtid_consistency",
    "event_scheduler",
    "expire_logs_days",
    "explicit_defaults_for_timestamp",
    "gtid_mode",
    "gtid_strict_mode",
    "innodb_data_file_path",
    "innodb_flush_log_at_trx_commit",
    "innodb_page_size",
    "log_bin",
    "log_replica_updates",
    "log_slave_updates",
    "lower_case_table_names",
    "max_allowed_packet",
    "mysqlx",
    "port",
    "read_only",
    "relay_log",
    "relay_log_recovery",
    "replica_net_timeout",
    "report_host",
    "rpl_semi_sync_master_enabled",
    "rpl_semi_sync_master_timeout",
    "rpl_semi_sync_master_wait_no_slave",
    "rpl_semi_sync_master_wait_point",
    "rpl_semi_sync_replica_enabled",
    "rpl_semi_sync_slave_enabled",
    "rpl_semi_sync_source_enabled",
    "rpl_semi_sync_source_timeout",
    "rpl_semi_sync_source_wait_no_replica",
    "rpl_semi_sync_source_wait_point",
    "skip_networking",
    "skip_replica_start",
    "skip_slave_start",
    "slave_net_timeout",
    "slave_parallel_threads",
    "sql_mode",
    "super_read_only",
    "sync_binlog",
    "sync_relay_log",
    "tls_version",
];

/// What Pontoon's own binary log is called, in the data directory.
pub(crate) const LOG_BIN: &str = "pontoon-bin";

/// Options that the helper sets itself; an original command line must not contradict them.
const OWN: &[&str] = &[
    "server_id",
    "socket",
    "ssl_ca",
    "ssl_cert",
    "ssl_key",
    "init_file",
];

/// Puts settings, certificate and start-up statements in place.
pub(crate) fn write(paths: &Paths, node: &DatabaseNode, settings: &DatabaseSettings) -> Result<(), Refusal> {
    check(settings)?;
    let user = User::of(node)?;
    create_files_dir(node, &user)?;
    if settings.tls {
        refresh_tls(paths, node)?;
    }
    place(
        &init_file(node),
        &start_statements(node, &settings.admin_password),
        &user,
    )?;
    let admin = format!("[client]\nuser=pontoon\npassword={}\n", settings.admin_password);
    place(&admin_file(node), &admin, &user)?;
    if settings.server_id != node.server_id {
        let node = DatabaseNode {
            server_id: settings.server_id,
            ..node.clone()
        };
        Node { database: Some(node) }.save(&paths.node_file())?;
    }
    // Last, because this is what makes the rest take effect.
    place(&node.settings_file(), &render(node, settings), &user)
}

/// Renames the settings away, so that the user's own hold again.
pub(crate) fn remove(node: &DatabaseNode) -> Result<Option<Moved>, Refusal> {
    let file = node.settings_file();
    if std::fs::symlink_metadata(&file).is_err() {
        return Ok(None);
    }
    // The name must not end in .cnf, or the database would go on reading it.
    let moved = dirs::aside_of(&file);
    dirs::rename(&moved.from, &moved.to)?;
    Ok(Some(moved))
}

/// Copies certificate and key to where the database can read them.
pub(crate) fn refresh_tls(paths: &Paths, node: &DatabaseNode) -> Result<(), Refusal> {
    let user = User::of(node)?;
    create_files_dir(node, &user)?;
    let target = TlsFiles::of(node);
    for (name, to) in [
        ("ca.pem", &target.ca),
        ("cert.pem", &target.cert),
        ("key.pem", &target.key),
    ] {
        let identity = paths.identity_dir();
        let directory = identity.file_name().unwrap_or_default().to_string_lossy();
        // The agent's files: it could put a link there to what only root may read, and the database could then read it.
        let bytes = foreign::read_below(&paths.state_dir, &directory, name, 1 << 20)?.ok_or_else(|| {
            Refusal::new(Code::J009, "the fleet certificate is not there yet")
                .because(format!("{} does not exist", identity.join(name).display()))
        })?;
        place(to, &String::from_utf8_lossy(&bytes), &user)?;
    }
    Ok(())
}

/// The statements that the database runs at each start, before it takes connections: they make the account through
/// which Pontoon talks to it. So no root password is needed, and a fresh copy of another server's data gets this
/// server's password. Not written to the binary log: it is not a transaction of the fleet.
pub(crate) fn start_statements(node: &DatabaseNode, password: &str) -> String {
    let account = "`pontoon`@`localhost`";
    let mut lines = vec!["SET SESSION sql_log_bin = 0".to_owned()];
    if node.is_mariadb() {
        lines.extend([
            format!("CREATE USER IF NOT EXISTS {account} IDENTIFIED BY '{password}'"),
            format!("ALTER USER {account} IDENTIFIED BY '{password}' ACCOUNT UNLOCK"),
            format!("GRANT {MARIADB_RIGHTS} ON *.* TO {account} WITH GRANT OPTION"),
            format!("GRANT ALL ON `pontoon`.* TO {account}"),
        ]);
    } else {
        // MySQL holds these statements to super_read_only too; it was set from the configuration just before.
        lines.extend([
            "SET @pontoon_read_only = @@GLOBAL.super_read_only".to_owned(),
            "SET GLOBAL super_read_only = OFF".to_owned(),
            format!("CREATE USER IF NOT EXISTS {account} IDENTIFIED BY '{password}'"),
            format!("ALTER USER {account} IDENTIFIED BY '{password}' ACCOUNT UNLOCK"),
            format!("GRANT {MYSQL_RIGHTS} ON *.* TO {account} WITH GRANT OPTION"),
            format!("GRANT ALL ON `pontoon`.* TO {account}"),
            "SET GLOBAL super_read_only = @pontoon_read_only".to_owned(),
        ]);
    }
    let mut text = String::new();
    for line in lines {
        text.push_str(&line);
        text.push_str(";\n");
    }
    text
}

/// What Pontoon needs of a MariaDB: to copy it (RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, for mariadb-backup), to
/// set up replication and its accounts (CREATE USER, REPLICATION …, with the option to grant REPLICATION SLAVE), to
/// see and set who may write (READ_ONLY ADMIN, BINLOG ADMIN, CONNECTION ADMIN), to switch events on and off with the
/// role (EVENT, and SUPER, which the scheduler asks for), to compare what two servers hold (SELECT, SHOW
/// VIEW, TRIGGER) and, on an operator's word, to put the rows of a replica right (INSERT, DELETE).
const MARIADB_RIGHTS: &str = "SELECT, INSERT, DELETE, RELOAD, PROCESS, LOCK TABLES, CREATE USER, BINLOG MONITOR, BINLOG ADMIN, \
    REPLICATION SLAVE, REPLICATION SLAVE ADMIN, REPLICATION MASTER ADMIN, REPLICA MONITOR, READ_ONLY ADMIN, \
    CONNECTION ADMIN, SET USER, EVENT, SUPER, SHOW VIEW, TRIGGER";

/// The same for MySQL; BACKUP_ADMIN and CLONE_ADMIN for CLONE, SYSTEM_VARIABLES_ADMIN because it has no finer right to
/// set read_only, INSERT for INSTALL PLUGIN (it writes mysql.plugin). And SUPER: MySQL looks the finer rights up under the lock
/// that a `GRANT` holds which waits for an acknowledgement, and ending that wait is what the right is needed for.
const MYSQL_RIGHTS: &str = "SELECT, INSERT, DELETE, RELOAD, PROCESS, LOCK TABLES, CREATE USER, REPLICATION CLIENT, \
    REPLICATION SLAVE, REPLICATION_SLAVE_ADMIN, SYSTEM_VARIABLES_ADMIN, SESSION_VARIABLES_ADMIN, BINLOG_ADMIN, \
    CONNECTION_ADMIN, BACKUP_ADMIN, CLONE_ADMIN, ENCRYPTION_KEY_ADMIN, EVENT, SHUTDOWN, SHOW VIEW, TRIGGER, SUPER";

pub(crate) fn init_file(node: &DatabaseNode) -> PathBuf {
    node.files.join("start.sql")
}

pub(crate) fn admin_file(node: &DatabaseNode) -> PathBuf {
    node.files.join("admin.cnf")
}

fn check(settings: &DatabaseSettings) -> Result<(), Refusal> {
    let bad = |why: String| Refusal::new(Code::N003, "the settings were refused").because(why);
    if settings.server_id == 0 {
        return Err(bad("server_id is 0".to_owned()));
    }
    let name = &settings.socket_name;
    if name.is_empty()
        || name.starts_with('.')
        || name.contains(|c: char| !c.is_ascii_alphanumeric() && !".-_".contains(c))
    {
        return Err(bad(format!("{name:?} is not a plain file name")));
    }
    let password = &settings.admin_password;
    if password.len() < 16 || !password.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(bad(
            "the password must have 16 letters and digits or more".to_owned()
        ));
    }
    for Setting { name, value } in &settings.options {
        if !ALLOWED.contains(&name.as_str()) {
            return Err(bad(format!("{name:?} is not an option that Pontoon sets")));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || " _.,:*+-/".contains(c);
        if !value.chars().all(plain) || value.starts_with(' ') || value.ends_with(' ') {
            return Err(bad(format!("{value:?} cannot be the value of {name}")));
        }
        if matches!(name.as_str(), "log_bin" | "relay_log" | "innodb_data_file_path") && value.contains('/') {
            return Err(bad(format!(
                "{name} names a place outside the data directory: {value:?}"
            )));
        }
    }
    Ok(())
}

fn render(node: &DatabaseNode, settings: &DatabaseSettings) -> String {
    let mut text = String::from(
        "# Written by Pontoon. Edits are lost at the next change; `pontoon leave` renames this file and the\n\
         # database is as it was.\n",
    );
    if let Run::Process { argv, .. } = &node.run {
        // A later line wins in a my.cnf: first what the user has, then ours.
        for file in original_defaults(argv) {
            text.push_str(&format!("!include {}\n", file.display()));
        }
    }
    let socket = socket_path(node, &settings.socket_name);
    text.push_str("[mysqld]\n");
    for Setting { name, value } in &settings.options {
        text.push_str(&format!("{name}={value}\n"));
    }
    text.push_str(&format!(
        "server_id={}\nsocket={}\n",
        settings.server_id,
        socket.display()
    ));
    text.push_str(&format!("init_file={}\n", init_file(node).display()));
    let semi_sync = |setting: &Setting| setting.name.starts_with("rpl_semi_sync_source");
    if !node.is_mariadb() && settings.options.iter().any(semi_sync) {
        // Of MySQL's own; with MariaDB they are built in.
        for library in ["semisync_source.so", "semisync_replica.so"] {
            text.push_str(&format!("plugin_load_add={library}\n"));
        }
    }
    if settings.tls {
        let tls = TlsFiles::of(node);
        text.push_str(&format!("ssl_ca={}\n", tls.ca.display()));
        text.push_str(&format!(
            "ssl_cert={}\nssl_key={}\n",
            tls.cert.display(),
            tls.key.display()
        ));
    }
    // Administration tools read this and go to the server itself; PHP and other drivers do not, and go to the proxy.
    text.push_str(&format!("\n[client]\nsocket={}\n", socket.display()));
    text
}

/// The socket beside the user's own.
pub(crate) fn socket_path(node: &DatabaseNode, name: &str) -> PathBuf {
    node.socket.with_file_name(name)
}

/// The socket that the database uses after its next start.
pub(crate) fn effective_socket(node: &DatabaseNode) -> PathBuf {
    std::fs::read_to_string(node.settings_file())
        .ok()
        .and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("socket=").map(PathBuf::from))
        })
        .unwrap_or_else(|| node.socket.clone())
}

/// The command line for a start with Pontoon's settings (or, when they are not in place, exactly the user's own).
pub(crate) fn process_arguments(node: &DatabaseNode, argv: &[String]) -> Vec<String> {
    let file = node.settings_file();
    if !file.exists() {
        return argv.to_vec();
    }
    let ours: BTreeSet<&str> = ALLOWED.iter().chain(OWN).copied().collect();
    // --defaults-file must come first (my_getopt).
    let mut arguments = vec![format!("--defaults-file={}", file.display())];
    arguments.extend(
        argv.iter()
            .filter(|argument| argument.starts_with("--defaults-group-suffix"))
            .cloned(),
    );
    let mut rest = argv.iter().peekable();
    while let Some(argument) = rest.next() {
        if argument == "--no-defaults" || argument.starts_with("--defaults-") {
            continue;
        }
        if !names_of(argument).iter().any(|name| ours.contains(name.as_str())) {
            arguments.push(argument.clone());
        } else if !argument.contains('=')
            && !is_short_with_value(argument)
            && rest.peek().is_some_and(|next| !next.starts_with('-'))
        {
            // `--port 3306`: the value is an argument of its own.
            rest.next();
        }
    }
    arguments
}

/// The option files of the user's own command line.
pub(crate) fn original_defaults(argv: &[String]) -> Vec<PathBuf> {
    let named = |option: &str| {
        argv.iter()
            .find_map(|argument| argument.strip_prefix(option))
            .map(PathBuf::from)
    };
    if argv.iter().any(|argument| argument == "--no-defaults") {
        return Vec::new();
    }
    if let Some(only) = named("--defaults-file=") {
        return vec![only];
    }
    // The order in which both engines read them (`mariadbd --help --verbose`: "Default options are read from").
    let mut found: Vec<PathBuf> = ["/etc/my.cnf", "/etc/mysql/my.cnf"].map(PathBuf::from).to_vec();
    found.extend(named("--defaults-extra-file="));
    found.retain(|file| file.exists());
    found
}

/// What options an argument may set: `--skip-log-bin` sets both `skip_log_bin` and `log_bin`.
fn names_of(argument: &str) -> Vec<String> {
    if argument.starts_with("-P") {
        return vec!["port".to_owned()];
    }
    if argument.starts_with("-S") {
        return vec!["socket".to_owned()];
    }
    let Some(name) = argument.strip_prefix("--") else {
        return Vec::new();
    };
    let name = name.split('=').next().unwrap_or_default().replace('-', "_");
    let name = name.strip_prefix("loose_").unwrap_or(&name).to_owned();
    let mut names = vec![name.clone()];
    for prefix in ["skip_", "disable_", "enable_"] {
        names.extend(name.strip_prefix(prefix).map(str::to_owned));
    }
    names
}

fn is_short_with_value(argument: &str) -> bool {
    !argument.starts_with("--") && argument.len() > 2
}

fn create_files_dir(node: &DatabaseNode, user: &User) -> Result<(), Refusal> {
    files::create_dir(&node.files, 0o750)?;
    user.own(&node.files)?;
    Ok(())
}

/// Readable by the database and nobody else, whole or not at all.
fn place(path: &Path, text: &str, user: &User) -> Result<(), Refusal> {
    files::write_atomic(path, text.as_bytes(), 0o600)?;
    user.own(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640))
        .map_err(|error| FileError::new(path, "set the rights of", error))?;
    Ok(())
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
