//! A proxy in session mode before a real database.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Row, Value};
use pontoon_fleet::ListenAddress;

use super::database::{Database, Engine, Road};
use super::{One, SOON, limits};

/// The database, the proxy before it, and the ways to both.
pub struct Through {
    pub database: Database,
    pub one: One,
    pub roads: [Road; 2],
}

/// The account that every engine has.
pub fn user(engine: Engine) -> &'static str {
    match engine {
        Engine::Mariadb => "native",
        Engine::Mysql => "sha",
    }
}

impl Through {
    /// `None`, with the reason printed, where the engine is missing.
    pub async fn start(engine: Engine, prepare: &[&str]) -> Option<Through> {
        let database = Database::start(engine).await?;
        database.execute(prepare).await;
        let socket = database.dir.path().join("proxy.sock");
        let (behind, listen) = (database.socket(), ListenAddress::Unix(socket.clone()));
        let one = One::start_with(database.tcp(), limits(), |view| {
            view.backend_socket = Some(behind);
            view.hold = SOON;
            view.listen.push(listen);
        })
        .await;
        let account = one.paths.sql_account_file();
        std::fs::create_dir_all(account.parent().unwrap()).unwrap();
        std::fs::copy(database.account_file(), account).unwrap();
        let roads = [Road::Tcp(one.address), Road::Unix(socket)];
        Some(Through { database, one, roads })
    }

    pub fn direct(&self) -> [Road; 2] {
        [Road::Tcp(self.database.tcp()), Road::Unix(self.database.socket())]
    }

    /// A connection through the proxy.
    pub async fn conn(&self) -> Conn {
        conn(&self.roads[1], user(self.database.engine)).await
    }
}

pub fn opts(road: &Road, user: &str) -> Opts {
    let opts = OptsBuilder::default()
        .user(Some(user))
        .pass(Some("pw"))
        .db_name(Some("app"))
        .max_allowed_packet(Some(64 << 20))
        .prefer_socket(false);
    match road {
        Road::Tcp(address) | Road::Tls(address) => {
            opts.ip_or_hostname("127.0.0.1").tcp_port(address.port()).into()
        }
        Road::Unix(path) => opts.socket(Some(path.to_string_lossy())).into(),
    }
}

pub async fn conn(road: &Road, user: &str) -> Conn {
    tokio::time::timeout(SOON * 2, Conn::new(opts(road, user)))
        .await
        .expect("no connection in time")
        .unwrap()
}

/// Everything that a client sees of a statement's answer.
pub async fn ask(conn: &mut Conn, sql: &str) -> String {
    let mut said = format!("{sql}\n");
    let mut results = match tokio::time::timeout(SOON * 3, conn.query_iter(sql))
        .await
        .expect("no answer in time")
    {
        Ok(results) => results,
        Err(error) => return said + &format!("  {error}\n"),
    };
    loop {
        let columns: Vec<_> = results
            .columns_ref()
            .iter()
            .map(|one| one.name_str().into_owned())
            .collect();
        let rows: Vec<Row> = match results.collect().await {
            Ok(rows) => rows,
            Err(error) => return said + &format!("  {error}\n"),
        };
        let rows: Vec<Vec<Value>> = rows.into_iter().map(Row::unwrap).collect();
        said += &format!("  {columns:?} {rows:?}\n");
        if results.is_empty() {
            break;
        }
    }
    drop(results);
    said += &format!(
        "  affected {} id {:?} warnings {} info {:?}\n",
        conn.affected_rows(),
        conn.last_insert_id(),
        conn.get_warnings(),
        conn.info()
    );
    said
}

/// The first value of the answer, as text.
pub async fn value(conn: &mut Conn, sql: &str) -> String {
    let row: Option<Option<String>> = tokio::time::timeout(SOON * 3, conn.query_first(sql))
        .await
        .expect("no answer in time")
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    row.flatten().unwrap_or_else(|| "NULL".to_owned())
}

pub async fn run(conn: &mut Conn, sql: &str) {
    tokio::time::timeout(SOON * 3, conn.query_drop(sql))
        .await
        .expect("no answer in time")
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

pub const MOMENT: Duration = Duration::from_millis(100);
