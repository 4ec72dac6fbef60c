//! A primary and its replica on loopback, real ones.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use pontoon_testkit::{DatabaseOptions, LabError, Standalone};
use tokio::time::timeout;

use super::free_port;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Mariadb,
    Mysql,
}

pub struct Pair {
    pub kind: Kind,
    pub primary: Standalone,
    pub replica: Option<Standalone>,
    replica_options: DatabaseOptions,
    pub dir: tempfile::TempDir,
}

pub const ASKER: &str = "pontoon_sql";

impl Pair {
    /// `None`, with the reason printed, where the engine is missing. There is a table `app.t (id, v)`, and the account
    /// [`ASKER`] without rights, password `asker`.
    pub async fn start(kind: Kind) -> Option<Pair> {
        let dir = tempfile::tempdir().unwrap();
        let options = |id: u8| {
            let mut config = vec![
                format!("server_id = {id}"),
                "log_bin = binlog".to_owned(),
                "binlog_format = ROW".to_owned(),
                "sync_binlog = 0".to_owned(),
                "innodb_flush_log_at_trx_commit = 2".to_owned(),
                "max_connections = 200".to_owned(),
            ];
            config.extend(match kind {
                Kind::Mariadb => vec![
                    "log_slave_updates = ON".to_owned(),
                    "gtid_strict_mode = ON".to_owned(),
                ],
                Kind::Mysql => ["mysqlx = OFF", "gtid_mode = ON", "enforce_gtid_consistency = ON"]
                    .map(str::to_owned)
                    .to_vec(),
            });
            let port = free_port();
            DatabaseOptions { port, config }
        };
        let (first, second) = (options(1), options(2));
        let primary = launch(kind, &dir.path().join("primary"), &first).await?;
        let replica = launch(kind, &dir.path().join("replica"), &second).await?;
        let pair = Pair {
            kind,
            primary,
            replica: Some(replica),
            replica_options: second,
            dir,
        };
        pair.join(first.port).await;
        Some(pair)
    }

    async fn join(&self, port: u16) {
        let mut root = self.primary.root().await.unwrap();
        let plugin = match self.kind {
            Kind::Mariadb => "",
            Kind::Mysql => "WITH caching_sha2_password",
        };
        for statement in [
            format!("CREATE USER 'follower'@'127.0.0.1' IDENTIFIED {plugin} BY 'follow'"),
            "GRANT REPLICATION SLAVE ON *.* TO 'follower'@'127.0.0.1'".to_owned(),
            format!("CREATE USER '{ASKER}'@'localhost' IDENTIFIED {plugin} BY 'asker'"),
            format!("GRANT SELECT ON mysql.* TO '{ASKER}'@'localhost'"),
            "CREATE DATABASE app".to_owned(),
            format!("CREATE USER 'app'@'localhost' IDENTIFIED {plugin} BY 'pw'"),
            format!("CREATE USER 'app'@'127.0.0.1' IDENTIFIED {plugin} BY 'pw'"),
            "GRANT ALL ON app.* TO 'app'@'localhost'".to_owned(),
            "GRANT ALL ON app.* TO 'app'@'127.0.0.1'".to_owned(),
            "CREATE TABLE app.t (id INT AUTO_INCREMENT PRIMARY KEY, v BIGINT, KEY (v))".to_owned(),
            "CREATE PROCEDURE app.told(IN x BIGINT) BEGIN SELECT 'first'; INSERT INTO app.t (v) VALUES (x); \
             SELECT 'second'; END"
                .to_owned(),
            // Commits, and fails then.
            "CREATE PROCEDURE app.half(IN x BIGINT) BEGIN INSERT INTO app.t (v) VALUES (x); COMMIT; \
             SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'after the commit'; END"
                .to_owned(),
        ] {
            root.query_drop(statement).await.unwrap();
        }
        let mut replica = self.replica().await;
        let change = match self.kind {
            Kind::Mariadb => format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='follower', \
                 MASTER_PASSWORD='follow', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1"
            ),
            Kind::Mysql => format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='follower', \
                 SOURCE_PASSWORD='follow', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1, SOURCE_CONNECT_RETRY=1"
            ),
        };
        replica.query_drop(change).await.unwrap();
        self.tell(&mut replica, "START SLAVE").await;
        replica.query_drop("SET GLOBAL read_only = ON").await.unwrap();
        let mut found = false;
        for _ in 0..300 {
            found = replica.query_drop("SELECT 1 FROM app.t LIMIT 1").await.is_ok();
            if found {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(found, "the replica does not follow");
    }

    /// Statements about replication, in the words of either engine.
    pub async fn tell(&self, replica: &mut Conn, statement: &str) {
        let statement = match self.kind {
            Kind::Mariadb => statement.to_owned(),
            Kind::Mysql => statement
                .replace("MASTER_DELAY", "SOURCE_DELAY")
                .replace("CHANGE MASTER", "CHANGE REPLICATION SOURCE")
                .replace("SLAVE", "REPLICA"),
        };
        replica
            .query_drop(&statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    pub async fn replica(&self) -> Conn {
        self.replica.as_ref().unwrap().root().await.unwrap()
    }

    pub fn sockets(&self) -> [PathBuf; 2] {
        let replica = self.dir.path().join("replica/mysqld.sock");
        [self.primary.socket().to_owned(), replica]
    }

    /// The replica dies at once, and is started again.
    pub async fn restart_replica(&mut self) {
        drop(self.replica.take());
        tokio::time::sleep(Duration::from_millis(300)).await;
        let at = self.dir.path().join("replica");
        self.replica = launch(self.kind, &at, &self.replica_options).await;
    }
}

async fn launch(kind: Kind, dir: &Path, options: &DatabaseOptions) -> Option<Standalone> {
    std::fs::create_dir_all(dir).unwrap();
    let started = match kind {
        Kind::Mariadb => Standalone::mariadb(dir, options).await,
        Kind::Mysql => Standalone::mysql(dir, options).await,
    };
    match started {
        Ok(server) => Some(server),
        Err(LabError::Skip(reason)) => {
            println!("SKIPPED: {reason:?}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A connection as root to the server with this socket, or nothing when it does not answer in time.
pub async fn dial_root(socket: &Path, limit: Duration) -> Option<Conn> {
    let opts: Opts = OptsBuilder::default()
        .user(Some("root"))
        .socket(Some(socket.to_string_lossy()))
        .into();
    timeout(limit, Conn::new(opts)).await.ok()?.ok()
}
