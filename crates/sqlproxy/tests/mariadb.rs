//! The same things directly and through the proxy, on a real MariaDB. SKIPPED where it is not installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use pontoon_fleet::ListenAddress;
use pontoon_pki::IdentityFiles;
use pontoon_rt::paths::Paths;
use pontoon_testkit::{DatabaseOptions, LabError, Standalone, find_program};
use rustix::process::Signal;
use support::two::Two;
use support::*;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

/// `'near'@'localhost'` comes in by the Unix socket only, `'far'@'127.0.0.1'` by TCP only.
const SETUP: &[&str] = &[
    "CREATE DATABASE app",
    "CREATE USER near@localhost IDENTIFIED BY 'pw'",
    "CREATE USER far@'127.0.0.1' IDENTIFIED BY 'pw'",
    "GRANT ALL ON app.* TO near@localhost, far@'127.0.0.1'",
    "CREATE TABLE app.t (id INT AUTO_INCREMENT PRIMARY KEY, v LONGBLOB)",
];

struct Database {
    server: Standalone,
    dir: tempfile::TempDir,
    options: DatabaseOptions,
}

impl Database {
    async fn start() -> Option<Database> {
        // Temporary tables in /tmp are named after the pid, and servers in other pid namespaces may have the same.
        match Database::try_start().await {
            Err(LabError::Command { .. }) => Database::try_start().await,
            other => other,
        }
        .unwrap_or_else(|error| panic!("{error}"))
    }

    async fn try_start() -> Result<Option<Database>, LabError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tmp")).unwrap();
        let paths = Paths::under(dir.path());
        identify(&found_fleet(), "db", "127.0.0.1", &paths);
        let files = IdentityFiles::in_dir(&paths.identity_dir());
        let config = [
            "skip_name_resolve".to_owned(),
            format!("tmpdir = {}", dir.path().join("tmp").display()),
            "local_infile = ON".to_owned(),
            "max_allowed_packet = 128M".to_owned(),
            format!("ssl_cert = {}", files.cert.display()),
            format!("ssl_key = {}", files.key.display()),
        ];
        let options = DatabaseOptions {
            port: free_port(),
            config: config.to_vec(),
        };
        let server = match Standalone::mariadb(dir.path(), &options).await {
            Ok(server) => server,
            Err(LabError::Skip(reason)) => {
                println!("SKIPPED: {reason:?}");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut root = server.root().await.unwrap();
        for statement in SETUP {
            root.query_drop(*statement).await.unwrap();
        }
        Ok(Some(Database { server, dir, options }))
    }

    fn tcp(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.server.port()))
    }

    fn socket(&self) -> PathBuf {
        self.server.socket().to_owned()
    }

    /// Ends the process as the kernel would; `start_again` brings it back.
    fn kill(&self) {
        self.server.process().unwrap().kill_9().unwrap();
    }

    async fn start_again(&mut self) {
        self.server = Standalone::mariadb(self.dir.path(), &self.options).await.unwrap();
    }
}

/// How a client reaches the database.
#[derive(Clone, Debug)]
enum Road {
    Tcp(SocketAddr),
    Socket(PathBuf),
}

impl Road {
    fn user(&self) -> &'static str {
        match self {
            Road::Tcp(_) => "far",
            Road::Socket(_) => "near",
        }
    }

    fn opts(&self) -> Opts {
        let opts = OptsBuilder::default()
            .user(Some(self.user()))
            .pass(Some("pw"))
            .db_name(Some("app"))
            .max_allowed_packet(Some(128 << 20))
            .prefer_socket(false);
        match self {
            Road::Tcp(address) => opts.ip_or_hostname("127.0.0.1").tcp_port(address.port()).into(),
            Road::Socket(path) => opts.socket(Some(path.to_string_lossy())).into(),
        }
    }

    async fn conn(&self) -> Conn {
        timeout(SOON * 2, Conn::new(self.opts()))
            .await
            .expect("no connection in time")
            .unwrap()
    }

    /// Runs the command-line client; what it prints and how it ends.
    async fn client(&self, arguments: &[&str]) -> Option<(String, String)> {
        let Some(program) = find_program("mariadb") else {
            println!("SKIPPED: the client `mariadb` is not installed");
            return None;
        };
        let mut command = Command::new(program);
        command.args([
            "--no-defaults",
            "--batch",
            "--skip-column-names",
            "--user",
            self.user(),
        ]);
        match self {
            Road::Tcp(address) => {
                command.args(["--protocol=tcp", "-h127.0.0.1", &format!("-P{}", address.port())])
            }
            Road::Socket(path) => command.arg("--protocol=socket").arg("--socket").arg(path),
        };
        let output = timeout(SOON * 2, command.args(arguments).output())
            .await
            .unwrap()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Some((text(output.stdout), text(output.stderr)))
    }
}

/// A proxy before `database`, and the two roads through it.
async fn proxy(database: &Database, hold: Duration) -> (One, [Road; 2]) {
    // Beside the database's own: the folder goes with it.
    let socket = database.dir.path().join("proxy.sock");
    let (behind, listen) = (database.socket(), ListenAddress::Unix(socket.clone()));
    let one = One::start_with(database.tcp(), limits(), |view| {
        view.backend_socket = Some(behind);
        view.hold = hold;
        view.listen.push(listen);
    })
    .await;
    let roads = [Road::Tcp(one.address), Road::Socket(socket)];
    (one, roads)
}

/// What an application does, as a transcript.
async fn use_it(road: &Road, scratch: &Path) -> Vec<String> {
    let mut said = Vec::new();
    let mut conn = road.conn().await;
    let who: String = conn.query_first("SELECT USER()").await.unwrap().unwrap();
    said.push(who);
    conn.query_drop("TRUNCATE TABLE t").await.unwrap();
    // Prepared statements, also with more than one packet of 16 MiB, and larger results.
    for size in [0usize, 1, 1000, (1 << 24) - 1, 1 << 24, 40 << 20] {
        let value: Vec<u8> = (0..size).map(|i| (i % 255) as u8).collect();
        conn.exec_drop("INSERT INTO t (v) VALUES (?)", (value.clone(),))
            .await
            .unwrap();
        let id = conn.last_insert_id();
        let back: Vec<u8> = conn
            .exec_first("SELECT v FROM t WHERE id = ?", (id,))
            .await
            .unwrap()
            .unwrap();
        assert!(back == value, "{size} bytes came back changed");
        said.push(format!("{id:?} {}", back.len()));
    }
    // Transactions, warnings, errors and several results.
    conn.query_drop("START TRANSACTION").await.unwrap();
    conn.query_drop("DELETE FROM t").await.unwrap();
    conn.query_drop("ROLLBACK").await.unwrap();
    said.push(
        conn.query_first::<u64, _>("SELECT COUNT(*) FROM t")
            .await
            .unwrap()
            .unwrap()
            .to_string(),
    );
    said.push(conn.query_drop("SELEKT 1").await.unwrap_err().to_string());
    conn.query_drop("SELECT 1/0").await.unwrap();
    said.push(format!(
        "{:?}",
        conn.query::<(String, u32, String), _>("SHOW WARNINGS")
            .await
            .unwrap()
    ));
    let mut results = conn.query_iter("SELECT 1; SELECT 2; SELECT 3").await.unwrap();
    while !results.is_empty() {
        said.push(format!("{:?}", results.collect::<u32>().await.unwrap()));
    }
    drop(results);
    let id: u32 = conn.query_first("SELECT CONNECTION_ID()").await.unwrap().unwrap();
    assert_eq!(id, conn.id(), "the greeting is the database's own");
    conn.disconnect().await.unwrap();

    let file = scratch.join("lines.txt");
    std::fs::write(&file, "1\n2\n3\n".repeat(20_000)).unwrap();
    let load = format!(
        "CREATE TEMPORARY TABLE l (n INT); LOAD DATA LOCAL INFILE '{}' INTO TABLE l; SELECT COUNT(*), SUM(n) FROM l",
        file.display()
    );
    for arguments in [
        &["-ppw", "app", "--local-infile=1", "-e", &load][..],
        &["-pwrong", "app", "-e", "SELECT 1"],
        &["-ppw", "nowhere", "-e", "SELECT 1"],
        &[
            "-ppw",
            "app",
            "--ssl",
            "-e",
            "SHOW STATUS LIKE 'Ssl_cipher'; SELECT REPEAT('x', 100000)",
        ],
    ] {
        if let Some((out, err)) = road.client(arguments).await {
            said.push(out);
            said.push(err);
        }
    }
    said
}

#[tokio::test]
async fn an_application_cannot_tell_the_proxy_from_the_database() {
    let Some(database) = Database::start().await else {
        return;
    };
    let (_one, [tcp, socket]) = proxy(&database, SOON).await;
    let scratch = tempfile::tempdir().unwrap();
    for (direct, through) in [
        (Road::Tcp(database.tcp()), tcp),
        (Road::Socket(database.socket()), socket),
    ] {
        let expected = use_it(&direct, scratch.path()).await;
        let got = use_it(&through, scratch.path()).await;
        assert_eq!(expected, got);
        if find_program("mariadb").is_some() {
            assert!(
                expected.iter().any(|line| line == "60000\t120000\n"),
                "LOAD DATA LOCAL: {expected:?}"
            );
            assert!(
                expected.iter().any(|line| line.contains("1045")),
                "wrong password: {expected:?}"
            );
            assert!(
                expected.iter().any(|line| line.contains("Ssl_cipher\tTLS")),
                "TLS: {expected:?}"
            );
        }
    }
}

/// Connections that are made while the database is not there: all of `count` must succeed.
fn connect_many(roads: &[Road; 2], count: usize) -> tokio::task::JoinSet<u32> {
    let mut clients = tokio::task::JoinSet::new();
    for index in 0..count {
        let road = roads[index % 2].clone();
        clients.spawn(async move {
            let mut conn = road.conn().await;
            let one = conn.query_first("SELECT 1").await.unwrap().unwrap();
            conn.disconnect().await.unwrap();
            one
        });
    }
    clients
}

#[tokio::test]
async fn a_database_that_is_killed_and_started_or_frozen_and_thawed_fails_no_new_connection() {
    let Some(mut database) = Database::start().await else {
        return;
    };
    let (mut one, roads) = proxy(&database, Duration::from_secs(15)).await;

    let mut old = roads[0].conn().await;
    database.kill();
    assert!(
        old.query_drop("SELECT 1").await.is_err(),
        "its session died with it"
    );
    let clients = connect_many(&roads, 40);
    one.agent.report("40 held", |report| report.held == 40).await;
    database.start_again().await;
    assert_eq!(clients.join_all().await, [1; 40]);

    let process = database.server.process().unwrap();
    process.signal(Signal::STOP).unwrap();
    let clients = connect_many(&roads, 40);
    one.agent.report("40 held", |report| report.held == 40).await;
    sleep(Duration::from_secs(1)).await;
    process.signal(Signal::CONT).unwrap();
    assert_eq!(clients.join_all().await, [1; 40]);

    let report = one
        .agent
        .report("none held", |report| report.held == 0 && report.clients == 0)
        .await;
    assert_eq!((report.refused_total, report.connections_total), (0, 81));
}

#[tokio::test]
async fn a_database_that_stays_frozen_is_an_error_that_clients_show() {
    let Some(database) = Database::start().await else {
        return;
    };
    let (_one, roads) = proxy(&database, Duration::from_secs(1)).await;
    let process = database.server.process().unwrap();
    process.signal(Signal::STOP).unwrap();
    for road in &roads {
        let error = Conn::new(road.opts()).await.unwrap_err().to_string();
        assert!(error.contains("Pontoon: the database does not greet"), "{error}");
        if let Some((_, error)) = road.client(&["-ppw", "-e", "SELECT 1"]).await {
            // Clients that insist on TLS wrap what comes before it, as 2002.
            assert!(
                error.contains("1105") && error.contains("Pontoon: the database does not greet"),
                "{error}"
            );
        }
    }
    process.signal(Signal::CONT).unwrap();
}

#[tokio::test]
async fn a_user_of_localhost_works_on_every_server() {
    let Some(database) = Database::start().await else {
        return;
    };
    let socket = database.socket();
    let mut two = Two::start(database.tcp(), |view| view.backend_socket = Some(socket.clone())).await;
    let scratch = tempfile::tempdir().unwrap();
    let through = |server: &support::two::Server| Road::Socket(server.dir.path().join("mysqld.sock"));
    let direct = use_it(&Road::Socket(database.socket()), scratch.path()).await;
    assert_eq!(direct[0], "near@localhost");
    assert_eq!(use_it(&through(&two.a), scratch.path()).await, direct);
    assert_eq!(use_it(&through(&two.b), scratch.path()).await, direct);

    // The primary moves: connections of both servers end.
    let mut conns = [through(&two.a).conn().await, through(&two.b).conn().await];
    two.a.publish(|view| (view.primary, view.epoch) = (None, 1));
    two.b.publish(|view| (view.primary, view.epoch) = (None, 1));
    sleep(Duration::from_millis(200)).await;
    for conn in &mut conns {
        conn.query_drop("SELECT 1").await.unwrap();
    }
    two.a.publish(|view| (view.primary, view.epoch) = (Some("a"), 2));
    sleep(Duration::from_millis(300)).await;
    for conn in &mut conns {
        assert!(conn.query_drop("SELECT 1").await.is_err());
    }
}
