//! Two servers each, set up in three ways, on disks and networks of the same lab.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use pontoon_benches::program::list;
use pontoon_e2e::fleet::{Engine, attempt, in_sync, run};
use pontoon_e2e::under_load::database_socket;
use pontoon_testkit::database::{connect_root, rows};
use pontoon_testkit::{DatabaseOptions, Lab, LabError, Server, StoreKind, wait_until};

/// How a replica that has just been set up may take until it has everything.
const FIRST: Duration = Duration::from_secs(90);

/// Who set the replication up, and what a commit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Pontoon, with a lease: a commit is acknowledged when the replica has received it.
    TwoCopies,
    /// Pontoon, as it is without a lease: a commit is acknowledged when the primary has it.
    OneCopy,
    /// A person, by the recipe that many servers have: file and position, `binlog-ignore-db`, `sync_binlog = 1`.
    ByHand,
}

impl Way {
    /// All of them; the one that others are compared with is the last.
    pub const ALL: [Way; 3] = [Way::TwoCopies, Way::OneCopy, Way::ByHand];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Way::TwoCopies => "two-copies",
            Way::OneCopy => "one-copy",
            Way::ByHand => "by hand",
        }
    }
}

/// A primary and its replica.
pub struct Pair {
    /// Who set it up.
    pub way: Way,
    primary: Server,
    replica: Server,
    /// The store of the lease, if there is one.
    store: Option<Server>,
}

impl Pair {
    /// Switches two servers on and sets replication up.
    ///
    /// # Errors
    /// A `Skip` when something cannot be had here.
    pub async fn start(lab: &mut Lab, engine: Engine, way: Way) -> Result<Pair, LabError> {
        let (one, two) = match way {
            Way::TwoCopies => ("a", "b"),
            Way::OneCopy => ("c", "d"),
            Way::ByHand => ("e", "f"),
        };
        let primary = lab.add_server(one, engine.binds()?).await?;
        let replica = lab.add_server(two, engine.binds()?).await?;
        let mut pair = Pair {
            way,
            primary,
            replica,
            store: None,
        };
        match way {
            Way::ByHand => pair.by_hand(engine).await?,
            Way::OneCopy => pair.by_pontoon(engine).await?,
            Way::TwoCopies => {
                pair.by_pontoon(engine).await?;
                pair.share_lease(lab).await?;
            }
        }
        let mut root = pair.root_of_primary().await?;
        for statement in [
            "CREATE DATABASE bench CHARACTER SET utf8mb4",
            "CREATE TABLE bench.entries (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, v CHAR(120) NOT NULL)",
            "CREATE TABLE bench.beat (id INT PRIMARY KEY, number BIGINT UNSIGNED NOT NULL)",
            "INSERT INTO bench.beat VALUES (1, 0)",
        ] {
            root.query_drop(statement)
                .await
                .map_err(LabError::database(statement))?;
        }
        wait_until("the first row on the replica", FIRST, async || {
            let mut root = pair.root_of_replica().await.ok()?;
            let found: Vec<u64> = rows(&mut root, "SELECT number FROM bench.beat").await.ok()?;
            (found == [0]).then_some(())
        })
        .await?;
        Ok(pair)
    }

    /// A connection to the primary itself: no proxy is measured.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn root_of_primary(&self) -> Result<Conn, LabError> {
        connect_root(&database_socket(&self.primary)?).await
    }

    /// The same to the replica.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn root_of_replica(&self) -> Result<Conn, LabError> {
        connect_root(&database_socket(&self.replica)?).await
    }

    /// Whether commits wait for the replica as this way means: a pair that fell back would be measured as another.
    ///
    /// # Errors
    /// When they do not.
    pub async fn check(&self, engine: Engine) -> Result<(), LabError> {
        let mut root = self.root_of_primary().await?;
        let name = match engine {
            Engine::Mariadb => "Rpl_semi_sync_master_status",
            Engine::Mysql => "Rpl_semi_sync_source_status",
        };
        let found: Vec<(String, String)> =
            rows(&mut root, &format!("SHOW GLOBAL STATUS LIKE '{name}'")).await?;
        let waits = found.first().is_some_and(|(_, value)| value == "ON");
        if waits == (self.way == Way::TwoCopies) {
            return Ok(());
        }
        Err(LabError::App(format!("{}: {name} is {found:?}", self.way.name())))
    }

    /// Puts every process of the primary's server, of the replica's and of the store's on its cores. What they start
    /// later inherits them.
    ///
    /// # Errors
    /// When there is no `taskset`.
    pub async fn pin(&self, cores: &Cores) -> Result<(), LabError> {
        let places = [(&self.primary, &cores.primary), (&self.replica, &cores.replica)];
        let store = self.store.iter().map(|store| (store, &cores.rest));
        for (server, cores) in places.into_iter().chain(store) {
            for process in server.processes() {
                if cores.is_empty() {
                    continue;
                }
                // It may have ended meanwhile.
                tokio::process::Command::new("taskset")
                    .args(["-acp", &list(cores), &process.pid.to_string()])
                    .stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::null())
                    .status()
                    .await
                    .map_err(LabError::io("taskset"))?;
            }
        }
        Ok(())
    }

    async fn by_pontoon(&self, engine: Engine) -> Result<(), LabError> {
        let (one, two) = (&self.primary, &self.replica);
        engine.start(one, &DatabaseOptions::default()).await?;
        let (private, public) = (one.private().to_string(), one.public().to_string());
        let init = [
            ["--name", one.name()],
            ["--fleet", "bench"],
            ["--domain", "bench.example.com"],
            ["--upstream", "127.0.0.1:8080"],
            ["--private", &private],
            ["--public", &public],
        ]
        .concat();
        run(one, &[&["init"][..], &init[..]].concat()).await?;
        run(one, &["apply", "--yes"]).await?;
        engine.start(two, &DatabaseOptions::default()).await?;
        let line = run(one, &["token", "new"]).await?;
        let token = line.split_whitespace().find(|word| word.starts_with("pon1."));
        let token = token.ok_or_else(|| LabError::App(format!("no token in {line:?}")))?;
        let public = two.public().to_string();
        let join = ["join", &private, token, "--name", two.name(), "--public", &public];
        run(two, &join).await.map(drop)
    }

    /// As in `docs/configuration.md`, «Failover».
    async fn share_lease(&mut self, lab: &mut Lab) -> Result<(), LabError> {
        StoreKind::Etcd.available()?;
        let server = lab.add_server("s", Vec::new()).await?;
        let store = StoreKind::Etcd.start(&server).await?;
        // Any command lets the file follow what is active.
        attempt(&self.primary, &["plan"]).await?;
        let path = self.primary.path("/etc/pontoon/fleet.toml")?;
        let text = std::fs::read_to_string(&path).map_err(LabError::io("read fleet.toml"))?;
        let text = text.replacen("[db]", "[db]\nfailover = \"auto\"", 1);
        std::fs::write(&path, format!("{text}\n{}", store.table()))
            .map_err(LabError::io("write fleet.toml"))?;
        run(&self.primary, &["apply", "--yes"]).await?;
        in_sync(&[&self.primary, &self.replica]).await?;
        self.store = Some(server);
        Ok(())
    }

    async fn by_hand(&self, engine: Engine) -> Result<(), LabError> {
        for (id, server) in [(1, &self.primary), (2, &self.replica)] {
            let config = vec![
                format!("server_id = {id}"),
                "log_bin = mysql-bin".to_owned(),
                "binlog_ignore_db = mysql".to_owned(),
                "sync_binlog = 1".to_owned(),
                format!("bind-address = {}", server.private()),
            ];
            let options = DatabaseOptions {
                config,
                ..DatabaseOptions::default()
            };
            engine.start(server, &options).await?;
        }
        let (mut source, mut follower) = (self.root_of_primary().await?, self.root_of_replica().await?);
        let look = match engine {
            Engine::Mariadb => "SHOW MASTER STATUS",
            Engine::Mysql => "SHOW BINARY LOG STATUS",
        };
        let host = self.replica.private();
        for statement in [
            format!("CREATE USER 'copy'@'{host}' IDENTIFIED BY 'copy'"),
            format!("GRANT REPLICATION SLAVE ON *.* TO 'copy'@'{host}'"),
        ] {
            source
                .query_drop(&statement)
                .await
                .map_err(LabError::database(statement))?;
        }
        let row: Option<mysql_async::Row> =
            source.query_first(look).await.map_err(LabError::database(look))?;
        let place = row.and_then(|row| Some((row.get::<String, _>(0)?, row.get::<u64, _>(1)?)));
        let (file, position) = place.ok_or_else(|| LabError::App(format!("{look} says nothing")))?;
        let from = self.primary.private();
        let follow = match engine {
            Engine::Mariadb => [
                format!(
                    "CHANGE MASTER TO MASTER_HOST='{from}', MASTER_USER='copy', MASTER_PASSWORD='copy', \
                     MASTER_LOG_FILE='{file}', MASTER_LOG_POS={position}, MASTER_USE_GTID=no"
                ),
                "START SLAVE".to_owned(),
            ],
            Engine::Mysql => [
                format!(
                    "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{from}', SOURCE_USER='copy', SOURCE_PASSWORD='copy', \
                     SOURCE_LOG_FILE='{file}', SOURCE_LOG_POS={position}, GET_SOURCE_PUBLIC_KEY=1"
                ),
                "START REPLICA".to_owned(),
            ],
        };
        for statement in follow {
            follower
                .query_drop(&statement)
                .await
                .map_err(LabError::database(statement))?;
        }
        Ok(())
    }
}

/// Which core does what, when there are enough of them.
#[derive(Clone, Debug)]
pub struct Cores {
    /// Everything of the primary's server.
    pub primary: Vec<usize>,
    /// Everything of the replica's.
    pub replica: Vec<usize>,
    /// The load, and the store.
    pub rest: Vec<usize>,
}

impl Cores {
    /// For this machine; no pinning on one with fewer than four cores.
    pub fn of_this_machine() -> Cores {
        let (primary, replica, rest) = match std::thread::available_parallelism().map_or(1, usize::from) {
            0..=3 => (Vec::new(), Vec::new(), Vec::new()),
            _ => (vec![0, 1], vec![2], vec![3]),
        };
        Cores {
            primary,
            replica,
            rest,
        }
    }
}
