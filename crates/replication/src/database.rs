//! [`Database`]: the order of steps. Moves the server aside and back, reports, beats.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pontoon_fleet::{Code, DatabaseReport, DatabaseRole, Refusal, ServerName};
use pontoon_helper::{DatabaseNode, DatabaseSettings, HelperClient, Moved, Node, Setting, TlsFiles};
use pontoon_rt::files;
use pontoon_rt::paths::Paths;

use crate::control::{Control, Row};
use crate::flavor::{Account, Flavor, ReplicaStatus, Wanted, flavor_of};
use crate::reseed;
use crate::secret;
use crate::sql_account;
use crate::version::Version;

/// What a replica stops with that cannot write for want of room: `EE_WRITE`, `EE_DISK_FULL`, `ER_DISK_FULL`,
/// `ER_ERROR_ON_WRITE`, `ER_RECORD_FILE_FULL` (error reference of MySQL and MariaDB).
const NO_ROOM: [u64; 5] = [3, 20, 1021, 1026, 1114];

/// How long a database that is starting is waited for: recovery after a crash reads the whole redo log.
const BOOT_PATIENCE: Duration = Duration::from_secs(600);

/// How long a graceful stop may take: dirty pages are written first.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(300);

/// How long a kill that came in between may be under way.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How long after a start the account must work.
const LOGIN_PATIENCE: Duration = Duration::from_secs(30);

/// Settings that a running server takes at once; all others need a restart.
const LIVE: &[&str] = &["read_only", "super_read_only", "event_scheduler"];

/// How many threads apply on a replica: set when it begins to follow.
const APPLIERS_OF_MARIADB: &str = "slave_parallel_threads";

/// Where the server is, once it moved aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its port: `server_port` of the configuration.
    pub port: u16,
    /// The file name of the socket that it moves to, beside the one that the application dials (`server_socket` of the
    /// configuration); `None` when the SQL proxy does not listen on that one, and it stays.
    pub socket_name: Option<String>,
}

/// What [`Database::move_aside`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedAside {
    /// How long the database did not answer; zero when nothing had to change.
    pub interruption: Duration,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// The database of this machine.
pub struct Database {
    pub(crate) paths: Paths,
    pub(crate) node: DatabaseNode,
    pub(crate) place: Place,
    pub(crate) helper: HelperClient,
    pub(crate) flavor: Box<dyn Flavor>,
    pub(crate) control: Control,
    pub(crate) password: String,
    pub(crate) reseed: reseed::Going,
    /// By how many seconds its copy stays behind on purpose.
    delay_seconds: AtomicU64,
}

impl Database {
    /// The database that the node file describes; `None` when it has none. Needs no running server.
    ///
    /// # Errors
    /// [`Code::N003`] for a node file that makes no sense, [`Code::N006`].
    pub fn open(paths: &Paths, place: Place) -> Result<Option<Database>, Refusal> {
        let Some(node) = Node::load(&paths.node_file())?.database else {
            return Ok(None);
        };
        let password = secret::kept_password(&paths.state_dir.join("database.secret"))?;
        let flavor = flavor_of(node.engine)?;
        let helper = HelperClient::new(paths.helper_socket());
        let control = Control::new(backend_socket(&node, &place), password.clone());
        Ok(Some(Database {
            paths: paths.clone(),
            node,
            place,
            helper,
            flavor,
            control,
            password,
            reseed: reseed::Going::default(),
            delay_seconds: AtomicU64::new(0),
        }))
    }

    /// How the database is run.
    pub fn node(&self) -> &DatabaseNode {
        &self.node
    }

    /// Where the configuration wants the server.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The server's own socket once it moved aside: what an SQL proxy splices clients of the Unix socket to.
    pub fn backend_socket(&self) -> PathBuf {
        backend_socket(&self.node, &self.place)
    }

    /// The control connection, for what this type has no method for.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The helper that acts for this database.
    pub fn helper(&self) -> &HelperClient {
        &self.helper
    }

    /// What this server is doing. Never fails: a server that does not answer is `down`, with the reason.
    pub async fn report(&self) -> DatabaseReport {
        let mut report = DatabaseReport {
            engine: self.node.engine,
            version: self.node.version.clone(),
            role: DatabaseRole::Down,
            read_only: true,
            position: String::new(),
            lag_ms: None,
            error: None,
        };
        if let Err(refusal) = self.observe(&mut report).await {
            // It may run where the user put it, before Pontoon's settings or after they were taken away.
            let runs = self
                .helper
                .state()
                .await
                .is_ok_and(|state| state.pid.is_some() && !state.settings_written);
            if runs {
                report.role = DatabaseRole::Standalone;
                report.read_only = false;
            } else {
                report.error = Some(refusal.to_string());
            }
        }
        report
    }

    async fn observe(&self, report: &mut DatabaseReport) -> Result<(), Refusal> {
        let facts = self.facts().await?;
        let status = self.replica_status().await?;
        report.version = facts.get("version").unwrap_or_default().to_owned();
        report.read_only = is_on(facts.get("read_only"));
        let position = if status.is_some() { "applied" } else { "written" };
        report.position = facts.get(position).unwrap_or_default().replace(['\n', ' '], "");
        match status {
            None => {
                report.role = if report.read_only {
                    DatabaseRole::Standalone
                } else {
                    DatabaseRole::Primary
                };
            }
            Some(status) => {
                report.role = DatabaseRole::Replica;
                report.lag_ms = self.lag(facts.number("now_us")).await;
                report.error = replica_error(&status).or_else(|| lenient(&facts));
            }
        }
        Ok(())
    }

    /// Behind the source in milliseconds, by the age of the last beat that arrived. The beat's own interval is taken
    /// off, since a replica that has everything still sees beats up to that old; what remains is exact to one
    /// interval plus the difference of the two servers' clocks.
    pub(crate) async fn lag(&self, now_us: u64) -> Option<u64> {
        let rows = self
            .control
            .query("SELECT at_us, every_us FROM pontoon.heartbeat ORDER BY at_us DESC LIMIT 1")
            .await
            .ok()?;
        let beat = rows.first()?;
        let age = now_us.saturating_sub(beat.number("at_us"));
        let behind_ms = age.saturating_sub(beat.number("every_us")) / 1000;
        Some(behind_ms.saturating_sub(self.delay_seconds() * 1000))
    }

    /// Says by how many seconds this copy is to stay behind its source: from the next time on that it begins to follow, or
    /// with [`keep_delay`](Database::keep_delay). What it is behind for that reason is not counted as lag.
    pub fn want_delay(&self, seconds: u64) {
        self.delay_seconds.store(seconds, Ordering::Relaxed);
    }

    /// By how many seconds it is to stay behind.
    pub fn delay_seconds(&self) -> u64 {
        self.delay_seconds.load(Ordering::Relaxed)
    }

    /// Whether this is a replica with another delay than it should have.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`].
    pub async fn has_other_delay(&self) -> Result<bool, Refusal> {
        let status = self.replica_status().await?;
        Ok(
            status.is_some_and(|status| status.delay_seconds != self.delay_seconds())
                || self.delay_file().exists(),
        )
    }

    /// Gives a replica that runs the delay that it should have. Where failover decides whom it follows that is not done here.
    /// Repeatable after a kill.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`], [`Code::N006`].
    pub async fn keep_delay(&self) -> Result<(), Refusal> {
        files::write_atomic(&self.delay_file(), b"", 0o600)?;
        let mut session = self.control.session().await?;
        for statement in self.flavor.set_delay(self.delay_seconds()) {
            session.query(&statement, Duration::from_secs(60)).await?;
        }
        Ok(files::remove_optional(&self.delay_file())?)
    }

    /// There while replication may be stopped for it.
    fn delay_file(&self) -> PathBuf {
        self.paths.state_dir.join("delay-changes")
    }

    /// Writes a beat, so that replicas can tell how far they are behind. To be called on the primary every `every`.
    /// On a server that takes no writes of clients it does nothing: a beat there would be a transaction that the
    /// source does not have.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`].
    pub async fn heartbeat(&self, every: Duration) -> Result<(), Refusal> {
        let every_us = every.as_micros();
        let beaten = self.control
            .query(&format!(
                "INSERT INTO pontoon.heartbeat (id, at_us, every_us, server_id) \
                 SELECT 1, TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)), {every_us}, @@server_id FROM DUAL \
                 WHERE @@global.read_only = 0 \
                 ON DUPLICATE KEY UPDATE at_us = VALUES(at_us), every_us = VALUES(every_us), \
                 server_id = VALUES(server_id)"
            ))
            .await;
        match beaten {
            // MySQL's super_read_only refuses the statement even though it would write nothing (error 1290).
            Err(refusal) if refusal.evidence.iter().any(|line| line.contains("ERROR 1290")) => Ok(()),
            other => other.map(drop),
        }
    }

    /// What `wanted` means for the plan: lines to show.
    ///
    /// # Errors
    /// [`Code::D001`].
    pub fn plan_notes(&self, wanted: &Wanted) -> Result<Vec<String>, Refusal> {
        Ok(self.flavor.settings(&self.node, self.version()?, wanted).1)
    }

    /// Moves the server to its own port and socket and sets it up for `wanted`. A server that is already so is left
    /// alone; one that differs only in what can be set while it runs is not restarted. Repeatable.
    ///
    /// # Errors
    /// [`Code::D001`]; [`Code::D005`] when it does not start or a setting does not take effect; the helper's.
    pub async fn move_aside(&self, wanted: &Wanted) -> Result<MovedAside, Refusal> {
        self.set_aside(wanted, None).await
    }

    /// The same where failover decides every start. A server that is down gets its settings and stays down: started as it
    /// stands it would commit what nobody acknowledged. One that runs is restarted only if nobody ended it meanwhile.
    ///
    /// # Errors
    /// As [`move_aside`](Database::move_aside).
    pub async fn keep_aside(&self, wanted: &Wanted) -> Result<MovedAside, Refusal> {
        let begun = Instant::now();
        loop {
            let running = self.helper.state().await?.pid;
            let outcome = match running {
                Some(_) => self.set_aside(wanted, running).await,
                None => self.leave_down(wanted).await,
            };
            let Err(refusal) = outcome else { return outcome };
            let is_as_before = running.is_some() && self.helper.state().await?.pid == running;
            if is_as_before || begun.elapsed() > KILL_PATIENCE {
                return Err(refusal);
            }
            tracing::info!(%refusal, "the database was killed meanwhile");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Whether it takes questions at its place.
    pub async fn answers(&self) -> bool {
        self.control.query("SELECT 1").await.is_ok()
    }

    /// The settings for the next start, whoever decides it.
    async fn leave_down(&self, wanted: &Wanted) -> Result<MovedAside, Refusal> {
        let (settings, notes) = self.settings(wanted, self.server_id()?)?;
        self.helper.write_settings(&settings).await?;
        let interruption = Duration::ZERO;
        Ok(MovedAside { interruption, notes })
    }

    /// `running`: the process that may be restarted, and no other; without one the server is started if it is down.
    async fn set_aside(&self, wanted: &Wanted, running: Option<u32>) -> Result<MovedAside, Refusal> {
        let (settings, notes) = self.settings(wanted, self.server_id()?)?;
        // At boot systemd starts the database while the agent starts: that is no reason to restart it.
        let asked = Instant::now();
        while asked.elapsed() < BOOT_PATIENCE && self.helper.state().await?.starting {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let settled = self.helper.state().await?.settings_written;
        if wanted.failover
            && (!settled || !self.is_made_for_failover().await)
            && let Err(refusal) = self.remember_events().await
        {
            tracing::info!(%refusal, "whether events run could not be asked");
        }
        self.helper.write_settings(&settings).await?;
        let begun = Instant::now();
        let mut interruption = Duration::ZERO;
        let mut differing = self.differences(&settings).await.ok();
        if wanted.failover && differing.is_some() && !self.is_semi_sync_loaded().await? {
            // MySQL loads it at a start.
            differing = None;
        }
        match differing {
            Some(names) if names.is_empty() => {}
            // Whether it is open and who follows whom is not the configuration's to say while it runs.
            Some(names) if wanted.failover && names.iter().all(|name| is_of_role(name)) => {}
            Some(names)
                if wanted.failover && names.iter().all(|name| is_of_role(name) || is_set_live(name)) =>
            {
                self.set_live(&settings, &names).await?;
            }
            // A replica of an earlier version goes on with one applier until it starts or follows anew.
            Some(names)
                if names
                    .iter()
                    .all(|name| LIVE.contains(&name.as_str()) || name == APPLIERS_OF_MARIADB) =>
            {
                self.control
                    .run(&self.flavor.set_writable(!wanted.replica))
                    .await?;
            }
            _ => {
                self.restart(running).await?;
                interruption = begun.elapsed();
                let mut left = self.differences(&settings).await?;
                left.retain(|name| !wanted.failover || !is_of_role(name));
                if !left.is_empty() {
                    return Err(
                        Refusal::new(Code::D005, "settings of Pontoon did not take effect")
                            .because(format!(
                                "another option file or the command line overrides: {}",
                                left.join(", ")
                            ))
                            .next(
                                "see which file says so",
                                "my_print_defaults --defaults-file=/etc/mysql/my.cnf mysqld",
                            ),
                    );
                }
            }
        }
        let account = self.keep_sql_account()?;
        let is_open = wanted.failover && !is_on(self.facts().await?.get("read_only"));
        if (!wanted.replica && !wanted.failover) || is_open {
            self.create_schema().await?;
            self.create_sql_account(&account).await?;
        }
        Ok(MovedAside { interruption, notes })
    }

    async fn is_semi_sync_loaded(&self) -> Result<bool, Refusal> {
        if self.node.engine != pontoon_fleet::Engine::Mysql {
            return Ok(true);
        }
        let loaded = "SELECT COUNT(*) AS n FROM information_schema.plugins \
                      WHERE plugin_name IN ('rpl_semi_sync_source', 'rpl_semi_sync_replica') AND plugin_status = 'ACTIVE'";
        let rows = self.control.query(loaded).await?;
        Ok(rows.first().is_some_and(|row| row.number("n") == 2))
    }

    /// Whether the running server was started with the settings of a primary that may change.
    async fn is_made_for_failover(&self) -> bool {
        let name = match self.node.engine {
            pontoon_fleet::Engine::Mysql => "skip_replica_start",
            _ => "skip_slave_start",
        };
        let rows = self
            .control
            .query(&format!("SHOW GLOBAL VARIABLES LIKE '{name}'"))
            .await;
        rows.is_ok_and(|rows| rows.first().is_some_and(|row| is_on(row.get("Value"))))
    }

    /// Sets what a running server takes at once.
    async fn set_live(&self, settings: &DatabaseSettings, names: &[String]) -> Result<(), Refusal> {
        for setting in settings.options.iter().filter(|one| names.contains(&one.name)) {
            if is_set_live(&setting.name) && !is_of_role(&setting.name) {
                let plain = setting.value.parse::<u64>().is_ok();
                let value = match plain {
                    true => setting.value.clone(),
                    false => format!("'{}'", setting.value),
                };
                self.control
                    .query(&format!("SET GLOBAL {} = {value}", setting.name))
                    .await?;
            }
        }
        Ok(())
    }

    /// Gives the server back to its own configuration: stops following, takes Pontoon's accounts away, renames the
    /// settings, restarts. The data stays as it is. The SQL proxy must have released port and socket before.
    /// Repeatable.
    ///
    /// # Errors
    /// [`Code::D005`] when it does not start, for instance because the proxy still has its port.
    pub async fn move_back(&self) -> Result<Option<Moved>, Refusal> {
        let moved = self.helper.remove_settings().await?;
        // Nobody is left who could acknowledge, and what waits for that may hold what is needed here. Fine where it was never on.
        if let Err(refusal) = self.control.run_apart(&self.flavor.acknowledge(0)).await {
            tracing::info!(%refusal, "acknowledgements are not switched off");
        }
        match self.control.session().await {
            Ok(mut session) => {
                let patience = Duration::from_secs(30);
                if self.replica_status().await?.is_some() {
                    session.query(self.flavor.stop_replica(), patience).await?;
                    session.query(self.flavor.forget_source(), patience).await?;
                }
                self.control.run(&self.flavor.set_writable(true)).await?;
                // Not to the binary log: other servers keep their own accounts.
                session.query("SET SESSION sql_log_bin = 0", patience).await?;
                let accounts = "SELECT user, host FROM mysql.user WHERE user LIKE 'pontoon\\_r\\_%'";
                for account in session.query(accounts, patience).await? {
                    let (user, host) = (account.get("user"), account.get("host"));
                    let drop = format!(
                        "DROP USER IF EXISTS '{}'@'{}'",
                        user.unwrap_or_default(),
                        host.unwrap_or_default()
                    );
                    session.query(&drop, patience).await?;
                }
                session.query(sql_account::DROP, patience).await?;
                session
                    .query("DROP USER IF EXISTS `pontoon`@`localhost`", patience)
                    .await?;
            }
            // Not up, or a killed attempt took the account away already.
            Err(refusal) => tracing::info!(%refusal, "no login any more: going on with the restart"),
        }
        self.control.close().await;
        self.helper.stop(STOP_PATIENCE, false).await?;
        self.helper.start().await?;
        Ok(moved)
    }

    /// Uses the fleet certificate as it is now, without a restart: after a renewal.
    ///
    /// # Errors
    /// [`Code::J009`], [`Code::D008`].
    pub async fn renew_tls(&self) -> Result<(), Refusal> {
        self.helper.refresh_tls().await?;
        self.control.query(self.flavor.reload_tls()).await.map(drop)
    }

    /// Starts the database when it does not run.
    ///
    /// # Errors
    /// [`Code::D005`].
    pub async fn ensure_running(&self) -> Result<(), Refusal> {
        self.helper.start().await
    }

    /// The replica's status; `None` when it follows nobody.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`].
    pub async fn replica_status(&self) -> Result<Option<ReplicaStatus>, Refusal> {
        let rows = self.control.query(self.flavor.replica_status()).await?;
        Ok(rows.first().map(|row| self.flavor.read_replica_status(row)))
    }

    /// Lets a replica apply again that stopped because there was no room, and says whether it did. Only while it receives:
    /// MariaDB forgets what it received when applying is started while neither goes on.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`].
    pub async fn apply_with_room(&self) -> Result<bool, Refusal> {
        let status = self.replica_status().await?;
        let stopped = status.is_some_and(|status| {
            status.receiving && !status.applying && NO_ROOM.contains(&status.applying_error)
        });
        if stopped {
            self.control.run(&[self.flavor.start_applying()]).await?;
        }
        Ok(stopped)
    }

    /// What this server has written: what a replica must reach to have everything.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`].
    pub async fn position(&self) -> Result<String, Refusal> {
        Ok(self
            .facts()
            .await?
            .get("written")
            .unwrap_or_default()
            .replace(['\n', ' '], ""))
    }

    /// Waits on a replica until it has applied `position`; says whether it did.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`], [`Code::N005`] for a position that is none.
    pub async fn wait_for_position(&self, position: &str, patience: Duration) -> Result<bool, Refusal> {
        check_position(position)?;
        if position.is_empty() {
            return Ok(true);
        }
        let mut session = self.control.session().await?;
        let statement = self.flavor.wait_for_position(position, patience.as_secs_f64());
        let rows = session
            .query(&statement, patience + Duration::from_secs(5))
            .await?;
        Ok(rows.first().and_then(Row::first) == Some("1"))
    }

    pub(crate) fn version(&self) -> Result<Version, Refusal> {
        Version::parse(&self.node.version)
            .ok_or_else(|| Refusal::new(Code::D001, format!("{:?} is not a version", self.node.version)))
    }

    /// The account by which `joiner` replicates. Its password follows from Pontoon's own, which all database servers of a
    /// fleet have: so whoever is primary can make it, and every replica knows it, without asking anybody.
    pub(crate) fn replication_account(&self, joiner: &ServerName, address: IpAddr) -> Account {
        Account {
            user: replication_user(joiner),
            host: address.to_string(),
            password: secret::derived(&self.password, &format!("replication {joiner}")),
        }
    }

    pub(crate) fn tls_files(&self) -> TlsFiles {
        TlsFiles::of(&self.node)
    }

    /// The id of the node file as it is now: a copy gets a new one.
    pub(crate) fn server_id(&self) -> Result<u32, Refusal> {
        let node = Node::load(&self.paths.node_file())?.database;
        Ok(node.map_or(self.node.server_id, |node| node.server_id))
    }

    pub(crate) fn settings(
        &self,
        wanted: &Wanted,
        server_id: u32,
    ) -> Result<(DatabaseSettings, Vec<String>), Refusal> {
        let version = self.version()?;
        version.check_supported(self.node.engine)?;
        let mut wanted = wanted.clone();
        if wanted.replica && wanted.inherited.is_empty() {
            // A later change of the configuration keeps what the copy shares with its source.
            wanted.inherited = self
                .last_clone()?
                .map(|state| state.inherited)
                .unwrap_or_default();
        }
        let (options, notes) = self.flavor.settings(&self.node, version, &wanted);
        let socket = self.backend_socket();
        let socket_name = socket
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let settings = DatabaseSettings {
            server_id,
            socket_name,
            options,
            tls: wanted.tls,
            admin_password: self.password.clone(),
        };
        Ok((settings, notes))
    }

    /// The names of settings that the running server does not have.
    async fn differences(&self, wanted: &DatabaseSettings) -> Result<Vec<String>, Refusal> {
        let rows = self.control.query("SHOW GLOBAL VARIABLES").await?;
        let value_of = |name: &str| {
            rows.iter()
                .find(|row| row.get("Variable_name") == Some(name))?
                .get("Value")
        };
        let mut wanted_settings = wanted.options.clone();
        wanted_settings.push(Setting::new("server_id", wanted.server_id));
        if wanted.tls {
            wanted_settings.push(Setting::new("ssl_cert", self.tls_files().cert.display()));
        }
        Ok(wanted_settings
            .iter()
            .filter(|setting| value_of(&setting.name).is_some_and(|value| !is_same(setting, value)))
            .map(|setting| setting.name.clone())
            .collect())
    }

    pub(crate) async fn facts(&self) -> Result<Row, Refusal> {
        let rows = self.control.query(self.flavor.facts()).await?;
        rows.into_iter()
            .next()
            .ok_or_else(|| Refusal::new(Code::D008, "the database says nothing about itself"))
    }

    /// `running`: only this process; without one whatever runs, and what does not is started.
    async fn restart(&self, running: Option<u32>) -> Result<(), Refusal> {
        self.control.close().await;
        match running {
            Some(pid) => self.helper.restart(pid, STOP_PATIENCE).await?,
            None => {
                self.helper.stop(STOP_PATIENCE, false).await?;
                self.helper.start().await?;
            }
        }
        self.login().await
    }

    /// Waits until the account works: the start-up statements have run.
    pub(crate) async fn login(&self) -> Result<(), Refusal> {
        let begun = Instant::now();
        loop {
            match self.control.query("SELECT 1").await {
                Ok(_) => return Ok(()),
                Err(refusal) if begun.elapsed() > LOGIN_PATIENCE => return Err(refusal),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    pub(crate) async fn create_schema(&self) -> Result<(), Refusal> {
        // Looked for first: CREATE … IF NOT EXISTS is a transaction in the binary log even when it does nothing.
        let there = "SELECT 1 FROM information_schema.tables WHERE table_schema = 'pontoon' AND table_name = 'heartbeat'";
        if !self.control.query(there).await?.is_empty() {
            return Ok(());
        }
        self.control
            .run(&[
                "CREATE DATABASE IF NOT EXISTS pontoon",
                "CREATE TABLE IF NOT EXISTS pontoon.heartbeat (id TINYINT UNSIGNED NOT NULL PRIMARY KEY, \
                 at_us BIGINT UNSIGNED NOT NULL, every_us BIGINT UNSIGNED NOT NULL, \
                 server_id INT UNSIGNED NOT NULL) ENGINE=InnoDB COMMENT='Written by Pontoon; tells replicas their lag'",
            ])
            .await
    }
}

/// Settings that say what a server is at its start, and that [`work`](crate::work) changes while it runs.
fn is_of_role(name: &str) -> bool {
    LIVE.contains(&name)
        || matches!(
            name,
            // For the next start.
            "skip_slave_start"
                | "skip_replica_start"
                | "relay_log_recovery"
                | "rpl_semi_sync_master_enabled"
                | "rpl_semi_sync_slave_enabled"
                | "rpl_semi_sync_source_enabled"
                | "rpl_semi_sync_replica_enabled"
                // Set when it begins to follow: it cannot be while it applies.
                | APPLIERS_OF_MARIADB
        )
}

/// Settings that a server takes while it runs, whatever it does.
fn is_set_live(name: &str) -> bool {
    name.starts_with("rpl_semi_sync_")
}

/// The account of `joiner` on its source: at most 32 characters (MySQL's limit).
pub(crate) fn replication_user(joiner: &ServerName) -> String {
    use sha2::{Digest, Sha256};
    let name = joiner.as_str();
    if name.len() <= 22 {
        return format!("pontoon_r_{name}");
    }
    let digest = Sha256::digest(name.as_bytes());
    let tail: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("pontoon_r_{}-{tail}", &name[..13])
}

/// A position goes into a statement: nothing but what GTIDs are made of.
pub(crate) fn check_position(position: &str) -> Result<(), Refusal> {
    if position
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-:,_".contains(c))
    {
        return Ok(());
    }
    Err(Refusal::new(Code::N005, "that is not a GTID position").because(format!("{position:?}")))
}

fn backend_socket(node: &DatabaseNode, place: &Place) -> PathBuf {
    match &place.socket_name {
        Some(name) => node.socket.with_file_name(name),
        None => node.socket.clone(),
    }
}

fn replica_error(status: &ReplicaStatus) -> Option<String> {
    if status.error.is_some() {
        return status.error.clone();
    }
    match (status.receiving, status.applying) {
        (true, true) => None,
        (_, false) => Some("replication is stopped".to_owned()),
        (false, true) if status.connecting => Some("connecting to the source".to_owned()),
        (false, true) => Some("it does not receive".to_owned()),
    }
}

/// A replica that takes whatever comes hides what it lacks.
fn lenient(facts: &Row) -> Option<String> {
    (facts.get("exec_mode") == Some("IDEMPOTENT"))
        .then(|| "it passes over rows that differ (exec_mode is IDEMPOTENT)".to_owned())
}

pub(crate) fn is_on(value: Option<&str>) -> bool {
    matches!(value, Some("1" | "ON"))
}

/// Whether a variable has the value that was set: the servers print `ON` for 1, and for logs only that they are on.
fn is_same(setting: &Setting, value: &str) -> bool {
    let plain = |text: &str| match text.to_ascii_uppercase().as_str() {
        "ON" | "TRUE" => "1".to_owned(),
        "OFF" | "FALSE" => "0".to_owned(),
        other => other.replace(' ', ""),
    };
    if setting.name == "log_bin" {
        return plain(value) == "1";
    }
    plain(&setting.value) == plain(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_fit_and_differ() {
        let user = |name: &str| replication_user(&name.parse().unwrap());
        assert_eq!(user("b"), "pontoon_r_b");
        let long = "a".repeat(63);
        let other = format!("{}b", "a".repeat(62));
        assert!(user(&long).len() <= 32);
        assert_ne!(user(&long), user(&other));
    }

    #[test]
    fn a_position_cannot_carry_a_statement() {
        for good in [
            "",
            "0-1-7",
            "0-1-7,1-2-3",
            "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7",
            "a:tag_1:1-2",
        ] {
            check_position(good).unwrap();
        }
        for bad in ["0-1-7'", "0-1-7; DROP", "\\", "0-1-7\n"] {
            assert_eq!(check_position(bad).unwrap_err().code, Code::N005, "{bad}");
        }
    }

    #[test]
    fn a_setting_is_compared_as_the_server_prints_it() {
        for (name, set, printed) in [
            ("read_only", "1", "ON"),
            ("read_only", "0", "OFF"),
            ("log_bin", "pontoon-bin", "ON"),
            ("bind_address", "127.0.0.1,10.0.0.1", "127.0.0.1,10.0.0.1"),
        ] {
            assert!(is_same(&Setting::new(name, set), printed), "{name}");
        }
        assert!(!is_same(&Setting::new("port", 3307), "3306"));
        assert!(!is_same(&Setting::new("log_bin", "x"), "OFF"));
    }

    #[test]
    fn a_replica_that_stands_still_says_so() {
        let status = |receiving, connecting, applying| ReplicaStatus {
            receiving,
            connecting,
            applying,
            ..Default::default()
        };
        assert_eq!(replica_error(&status(true, false, true)), None);
        assert!(
            replica_error(&status(false, true, true))
                .unwrap()
                .contains("connecting")
        );
        assert!(replica_error(&status(false, false, true)).is_some());
        assert!(replica_error(&status(true, false, false)).is_some());
    }
}
