//! A primary and a replica on loopback, as Pontoon would have set them up.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use pontoon_testkit::{DatabaseOptions, LabError, Standalone, free_port};
use tokio::time::timeout;

use crate::client::Road;
use crate::play::Stage;

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// MariaDB, the one on PATH.
    Mariadb,
    /// MySQL.
    Mysql,
}

impl Engine {
    /// The tag of cases that are for it alone.
    pub fn tag(self) -> &'static str {
        match self {
            Engine::Mariadb => "mariadb",
            Engine::Mysql => "mysql",
        }
    }
}

/// A primary and a replica that follows it by GTID.
pub struct Pair {
    /// Which database.
    pub engine: Engine,
    /// Takes the writes.
    pub primary: Standalone,
    /// Follows; read-only.
    pub replica: Standalone,
    /// More that follow.
    pub more: Vec<Standalone>,
    /// Of the primary, the replica and the others.
    roots: Vec<Conn>,
}

/// How long a replica may take to catch up.
const CATCH_UP: u64 = 30;

/// Longest time for a statement of the harness's own.
const LIMIT: Duration = Duration::from_secs(60);

/// The proxy's own account: what the agent would have made and written down for it.
pub const PROXY_ACCOUNT: (&str, &str) = ("pontoon_sql", "asks");

const ACCOUNTS: &[&str] = &[
    "CREATE USER pontoon_sql@localhost IDENTIFIED BY 'asks'",
    // The application, by TCP and by the Unix socket.
    "CREATE USER app@localhost IDENTIFIED BY 'pw'",
    "CREATE USER app@'127.0.0.1' IDENTIFIED BY 'pw'",
    "GRANT ALL ON app.* TO app@localhost, app@'127.0.0.1'",
    "GRANT ALL ON other.* TO app@localhost, app@'127.0.0.1'",
    // Somebody else, with another password and fewer rights.
    "CREATE USER guest@localhost IDENTIFIED BY 'guest pw'",
    "CREATE USER guest@'127.0.0.1' IDENTIFIED BY 'guest pw'",
    "GRANT SELECT, INSERT ON app.* TO guest@localhost, guest@'127.0.0.1'",
    // Nobody asks this one for a password.
    "CREATE USER open@localhost",
    "CREATE USER open@'127.0.0.1'",
    "GRANT SELECT ON app.* TO open@localhost, open@'127.0.0.1'",
    // May do everything, also write on a server that is read-only.
    "CREATE USER boss@localhost IDENTIFIED BY 'boss'",
    "CREATE USER boss@'127.0.0.1' IDENTIFIED BY 'boss'",
    "GRANT ALL ON *.* TO boss@localhost WITH GRANT OPTION",
    "GRANT ALL ON *.* TO boss@'127.0.0.1' WITH GRANT OPTION",
    "CREATE DATABASE other CHARACTER SET utf8mb4",
    "CREATE TABLE other.here (place VARCHAR(20))",
    "INSERT INTO other.here VALUES ('other')",
];

/// Uses up the small numbers of connections: what a case prints is searched for the numbers of its connections, and a
/// result of nine columns must not be taken for connection 9.
fn large_numbers(server: &Standalone) -> Result<(), LabError> {
    let mut greeting = [0; 128];
    for _ in 0..2_000 {
        let mut stream = UnixStream::connect(server.socket()).map_err(LabError::io("connect"))?;
        let read = stream.read(&mut greeting).map_err(LabError::io("greeting"))?;
        if read == 0 {
            return Err(LabError::App("a database closed without a greeting".to_owned()));
        }
    }
    Ok(())
}

impl Pair {
    /// Starts both below `dir` and waits until the replica follows.
    ///
    /// # Errors
    /// [`LabError::Skip`] when the database cannot be had here.
    pub async fn start(engine: Engine, dir: &Path) -> Result<Pair, LabError> {
        // One after the other: each is quick, and the machine is not ours alone.
        let primary = server(engine, &dir.join("primary"), 1).await?;
        let replica = server(engine, &dir.join("replica"), 2).await?;
        let mut pair = Pair {
            engine,
            roots: vec![primary.root().await?, replica.root().await?],
            primary,
            replica,
            more: Vec::new(),
        };
        pair.on_primary("CREATE USER copy@'127.0.0.1' IDENTIFIED BY 'copy'")
            .await?;
        pair.on_primary("GRANT REPLICATION SLAVE ON *.* TO copy@'127.0.0.1'")
            .await?;
        pair.replicate(1).await?;
        large_numbers(&pair.primary)?;
        large_numbers(&pair.replica)?;
        for account in ACCOUNTS {
            pair.on_primary(account).await?;
        }
        let accounts = match engine {
            Engine::Mariadb => "mysql.global_priv",
            Engine::Mysql => "mysql.user",
        };
        pair.on_primary(&format!("GRANT SELECT ON {accounts} TO pontoon_sql@localhost"))
            .await?;
        pair.caught_up().await?;
        Ok(pair)
    }

    /// Starts one more replica below `dir`.
    ///
    /// # Errors
    /// When it does not start or follow.
    pub async fn add_replica(&mut self, dir: &Path) -> Result<(), LabError> {
        let at = self.roots.len();
        let replica = server(self.engine, &dir.join(format!("replica-{at}")), at as u32 + 1).await?;
        self.roots.push(replica.root().await?);
        self.more.push(replica);
        self.replicate(at).await?;
        self.caught_up().await
    }

    async fn replicate(&mut self, replica: usize) -> Result<(), LabError> {
        let port = self.primary.port();
        let follow = match self.engine {
            Engine::Mariadb => vec![
                format!(
                    "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='copy', \
                     MASTER_PASSWORD='copy', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1"
                ),
                "START SLAVE".to_owned(),
            ],
            Engine::Mysql => vec![
                format!(
                    "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='copy', \
                     SOURCE_PASSWORD='copy', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1, SOURCE_CONNECT_RETRY=1"
                ),
                "START REPLICA".to_owned(),
                "SET GLOBAL super_read_only = ON".to_owned(),
            ],
        };
        for statement in follow {
            query(&mut self.roots[replica], &statement).await?;
        }
        Ok(())
    }

    /// The primary first.
    pub fn servers(&self) -> impl Iterator<Item = &Standalone> {
        [&self.primary, &self.replica].into_iter().chain(&self.more)
    }

    /// Runs a statement as `root` on the primary.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn on_primary(&mut self, statement: &str) -> Result<(), LabError> {
        query(&mut self.roots[0], statement).await
    }

    /// Runs a statement as `root` on the replica.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn on_replica(&mut self, statement: &str) -> Result<(), LabError> {
        query(&mut self.roots[1], statement).await
    }

    /// What MySQL servers call themselves, the primary first.
    ///
    /// # Errors
    /// When a database refuses: MariaDB does.
    pub async fn server_uuids(&mut self) -> Result<Vec<String>, LabError> {
        let mut all = Vec::new();
        for root in &mut self.roots {
            let sql = "SELECT @@server_uuid";
            let id: Option<String> = root.query_first(sql).await.map_err(LabError::database(sql))?;
            all.extend(id);
        }
        Ok(all)
    }

    /// An empty database `app` on both servers.
    ///
    /// # Errors
    /// When it cannot be had.
    pub async fn fresh(&mut self) -> Result<(), LabError> {
        self.on_primary("DROP DATABASE IF EXISTS app").await?;
        self.on_primary("CREATE DATABASE app CHARACTER SET utf8mb4")
            .await?;
        self.caught_up().await
    }

    /// Waits until every replica has everything.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn caught_up(&mut self) -> Result<(), LabError> {
        let (position, wait) = match self.engine {
            Engine::Mariadb => ("SELECT @@gtid_binlog_pos", "SELECT MASTER_GTID_WAIT"),
            Engine::Mysql => ("SELECT @@gtid_executed", "SELECT WAIT_FOR_EXECUTED_GTID_SET"),
        };
        let late = || LabError::Timeout {
            what: "the replica".to_owned(),
            after: Duration::from_secs(CATCH_UP),
        };
        let failed = |error| LabError::database(position)(error);
        let at: Option<String> = self.roots[0].query_first(position).await.map_err(failed)?;
        let wait = format!("{wait}('{}', {CATCH_UP})", at.unwrap_or_default());
        for replica in &mut self.roots[1..] {
            let reached: Option<i64> = timeout(LIMIT, replica.query_first(&wait))
                .await
                .map_err(|_| late())?
                .map_err(LabError::database(&wait))?;
            (reached == Some(0)).then_some(()).ok_or_else(late)?;
        }
        Ok(())
    }

    /// The doors of the primary itself.
    pub fn direct(&self) -> Stage {
        Stage {
            tcp: Road::Tcp(([127, 0, 0, 1], self.primary.port()).into()),
            unix: Road::Unix(self.primary.socket().to_owned()),
        }
    }
}

async fn server(engine: Engine, home: &Path, id: u32) -> Result<Standalone, LabError> {
    std::fs::create_dir_all(home).map_err(LabError::io("folder"))?;
    let options = DatabaseOptions {
        port: free_port()?,
        config: config(engine, id),
    };
    match engine {
        Engine::Mariadb => Standalone::mariadb(home, &options).await,
        Engine::Mysql => Standalone::mysql(home, &options).await,
    }
}

async fn query(conn: &mut Conn, statement: &str) -> Result<(), LabError> {
    let late = |_| LabError::Timeout {
        what: statement.to_owned(),
        after: LIMIT,
    };
    timeout(LIMIT, conn.query_drop(statement))
        .await
        .map_err(late)?
        .map_err(LabError::database(statement))
}

fn config(engine: Engine, id: u32) -> Vec<String> {
    let mut lines: Vec<String> = [
        "skip_name_resolve = ON",
        "local_infile = ON",
        "max_allowed_packet = 64M",
        "log_bin = bin",
        "binlog_format = ROW",
        "log_bin_trust_function_creators = ON",
        "innodb_lock_wait_timeout = 3",
        // For those who come directly and for those of two proxies.
        "max_connections = 500",
        "innodb_flush_log_at_trx_commit = 0",
        "sync_binlog = 0",
        "character_set_server = utf8mb4",
    ]
    .map(str::to_owned)
    .to_vec();
    lines.push(format!("server_id = {id}"));
    match engine {
        Engine::Mariadb => {
            lines.extend(["log_slave_updates = ON", "gtid_strict_mode = ON"].map(str::to_owned));
            if id > 1 {
                lines.push("read_only = ON".to_owned());
            }
        }
        Engine::Mysql => lines.extend(
            [
                "gtid_mode = ON",
                "enforce_gtid_consistency = ON",
                "log_replica_updates = ON",
                "mysqlx = 0",
                "performance_schema = OFF",
            ]
            .map(str::to_owned),
        ),
    }
    lines
}
