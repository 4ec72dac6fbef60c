//! Two servers with a proxy each, a real primary and a real replica, and reads that are spread over them.

use std::net::SocketAddr;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use pontoon_fleet::{AfterWrite, Engine, ReadsView};
use tokio::time::{Instant, sleep};

use super::SOON;
use super::database::Road;
use super::pair::{ASKER, Kind, Pair};
use super::session::{conn, run, value};
use super::two::{Server, Two};

/// The primary is server 1, on `a`; the replica is server 2, on `b`.
pub struct Spread {
    pub pair: Pair,
    pub two: Two,
}

impl Spread {
    /// `None`, with the reason printed, where the engine is missing.
    pub async fn start(kind: Kind) -> Option<Spread> {
        let spread = Spread::without_account(kind).await?;
        spread.give_account();
        Some(spread)
    }

    /// The same without the account that sessions need: connections are passed through.
    pub async fn without_account(kind: Kind) -> Option<Spread> {
        let pair = Pair::start(kind).await?;
        let mut root = pair.primary.root().await.unwrap();
        let (table, plugin) = match kind {
            Kind::Mariadb => ("mysql.global_priv", ""),
            Kind::Mysql => ("mysql.user", "WITH caching_sha2_password"),
        };
        run(
            &mut root,
            &format!("GRANT SELECT ON {table} TO {ASKER}@localhost"),
        )
        .await;
        for host in ["localhost", "127.0.0.1"] {
            run(
                &mut root,
                &format!("CREATE USER reader@'{host}' IDENTIFIED {plugin} BY 'pw'"),
            )
            .await;
            run(&mut root, &format!("GRANT ALL ON app.* TO reader@'{host}'")).await;
        }
        let port = |server: &pontoon_testkit::Standalone| SocketAddr::from(([127, 0, 0, 1], server.port()));
        let replica = port(pair.replica.as_ref().unwrap());
        let sockets = pair.sockets();
        let mut two = Two::start(port(&pair.primary), |view| {
            view.databases = vec!["a", "b"];
            view.engine = match kind {
                Kind::Mariadb => Engine::Mariadb,
                Kind::Mysql => Engine::Mysql,
            };
            view.hold = SOON;
            view.reads = Some(ReadsView {
                split: true,
                max_lag: Duration::from_secs(2),
                after_write: AfterWrite::default(),
                heard: None,
            });
        })
        .await;
        two.a
            .publish(|view| view.backend_socket = Some(sockets[0].clone()));
        two.b.publish(|view| {
            view.backend_tcp = replica;
            view.backend_socket = Some(sockets[1].clone());
        });
        let mut replica = pair.replica().await;
        let began = Instant::now();
        while replica
            .query_first::<u32, _>("SELECT COUNT(*) FROM mysql.user WHERE user = 'reader'")
            .await
            .unwrap()
            != Some(2)
        {
            assert!(began.elapsed() < SOON * 3, "the replica does not follow");
            sleep(Duration::from_millis(50)).await;
        }
        Some(Spread { pair, two })
    }

    /// What the agent does on a server with a database.
    pub fn give_account(&self) {
        for server in [&self.two.a, &self.two.b] {
            let account = server.paths.sql_account_file();
            std::fs::create_dir_all(account.parent().unwrap()).unwrap();
            std::fs::write(account, format!(r#"{{"user":"{ASKER}","password":"asker"}}"#)).unwrap();
        }
    }

    /// A connection through the proxy of `a`.
    pub async fn conn(&self) -> Conn {
        Spread::conn_at(&self.two.a).await
    }

    /// A connection through the proxy of a server.
    pub async fn conn_at(server: &Server) -> Conn {
        conn(&Road::Unix(server.dir.path().join("mysqld.sock")), "reader").await
    }

    /// Reads until one is answered by the replica.
    pub async fn until_spread(&self, conn: &mut Conn) {
        Spread::until_read_from(conn, 2).await;
    }

    /// Reads until one is answered by this server.
    pub async fn until_read_from(conn: &mut Conn, server_id: u32) {
        let began = Instant::now();
        while value(conn, "SELECT @@server_id").await != server_id.to_string() {
            assert!(began.elapsed() < SOON * 3, "no read goes to server {server_id}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Nobody is primary any more: the first half of a failover.
    pub fn demote(&mut self) {
        for server in [&mut self.two.a, &mut self.two.b] {
            server.publish(|view| {
                view.primary = None;
                view.epoch += 1;
            });
        }
    }

    /// Waits until both proxies have heard of it.
    pub async fn obeyed(&mut self) {
        for server in [&mut self.two.a, &mut self.two.b] {
            server.agent.obeyed().await;
        }
    }

    /// The second half: the replica stops following and takes writes. The old primary is left as it is, writable: what
    /// keeps writes away from it is the proxies alone.
    pub async fn promote(&mut self) {
        let mut replica = self.pair.replica().await;
        self.pair.tell(&mut replica, "STOP SLAVE").await;
        self.pair.tell(&mut replica, "RESET SLAVE ALL").await;
        replica.query_drop("SET GLOBAL read_only = OFF").await.unwrap();
        for server in [&mut self.two.a, &mut self.two.b] {
            server.publish(|view| {
                view.primary = Some("b");
                view.epoch += 1;
                view.holding = None;
            });
        }
    }
}
