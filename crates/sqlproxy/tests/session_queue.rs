//! More clients than connections: who waits, for how long, in which order, and what it is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod support;

use std::time::Duration;

use pontoon_fleet::ListenAddress;
use pontoon_sqlproxy::Limits;
use support::database::{Database, Engine, Road};
use support::raw::Raw;
use support::{One, SOON, limits};
use tokio::time::timeout;

/// As many connections as a server with `max_connections = 20` gives to each of two proxies.
const PLACES: usize = 8;

struct Crowd {
    database: Database,
    _one: One,
    road: Road,
}

impl Crowd {
    async fn start(queue: Duration) -> Option<Crowd> {
        let database = Database::start(Engine::Mariadb).await?;
        let table = "CREATE TABLE app.t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)";
        database
            .execute(&[table, "SET GLOBAL max_connections = 20"])
            .await;
        let socket = database.dir.path().join("proxy.sock");
        let (behind, listen) = (database.socket(), ListenAddress::Unix(socket.clone()));
        let limits = Limits { queue, ..limits() };
        let one = One::start_with(database.tcp(), limits, |view| {
            view.backend_socket = Some(behind);
            view.listen.push(listen);
        })
        .await;
        let account = one.paths.sql_account_file();
        std::fs::create_dir_all(account.parent().unwrap()).unwrap();
        std::fs::copy(database.account_file(), account).unwrap();
        Some(Crowd {
            database,
            _one: one,
            road: Road::Unix(socket),
        })
    }

    /// As many sessions as there are connections, each with a transaction.
    async fn fill(&self) -> Vec<Raw> {
        let mut busy = Vec::new();
        for _ in 0..PLACES {
            let mut client = Raw::connect(&self.road).await;
            assert!(client.query("BEGIN").await.error().is_none());
            busy.push(client);
        }
        busy
    }
}

#[tokio::test]
async fn who_waits_too_long_is_told_so_and_may_try_again() {
    let queue = Duration::from_millis(700);
    let Some(crowd) = Crowd::start(queue).await else {
        return;
    };
    // Someone with a session that needs a connection now and then.
    let mut idle = Raw::connect(&crowd.road).await;
    let mut busy = crowd.fill().await;
    let began = std::time::Instant::now();
    let said = idle.query("INSERT INTO t (v) VALUES (1)").await;
    let waited = began.elapsed();
    let error = said.error().unwrap();
    assert_eq!(
        (error.code, error.state.unwrap().to_string().as_str()),
        (1040, "08004")
    );
    let text = error.text();
    let wanted = format!(
        "Too many connections (Pontoon: all {PLACES} connections to the database were in use; waited "
    );
    let told = text
        .strip_prefix(&wanted)
        .and_then(|rest| rest.strip_suffix(" s)"));
    let told: f64 = told.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    assert!((0.7..60.0).contains(&told), "{text}");
    assert!(waited >= queue, "{waited:?}");
    // A login waits as long, and is refused in the same words.
    let error = Raw::login(&crowd.road, "native", "app").await.err().unwrap();
    assert_eq!(error.code, 1040);
    assert!(error.text().starts_with(&wanted), "{}", error.text());
    // The sessions of transactions noticed nothing, and who was told goes on when there is room.
    for client in &mut busy {
        assert_eq!(client.value("SELECT 1").await, "1");
    }
    assert!(busy.pop().unwrap().query("COMMIT").await.error().is_none());
    assert!(idle.query("INSERT INTO t (v) VALUES (2)").await.error().is_none());
    assert_eq!(
        idle.value("SELECT GROUP_CONCAT(v) FROM t").await,
        "2",
        "what was refused did not run"
    );
}

#[tokio::test]
async fn everybody_who_waits_is_served_by_the_places_that_come_back() {
    let Some(crowd) = Crowd::start(SOON * 6).await else {
        return;
    };
    let mut waiting = Vec::new();
    for _ in 0..10 {
        waiting.push(Raw::connect(&crowd.road).await);
    }
    let mut quitter = Some(Raw::connect(&crowd.road).await);
    let mut busy = crowd.fill().await;
    let mut tasks = Vec::new();
    for (number, mut client) in waiting.into_iter().enumerate() {
        let (told, heard) = tokio::sync::oneshot::channel();
        tasks.push(tokio::spawn(async move {
            client
                .send_query(&format!("INSERT INTO t (v) VALUES ({number})"))
                .await;
            told.send(()).unwrap();
            let said = client.answer(pontoon_mysql_wire::reply::Expect::Simple).await;
            assert!(said.error().is_none(), "{:?}", said.error());
        }));
        heard.await.unwrap();
        if number == 4 {
            // One that gives up while it waits leaves no hole.
            let mut gone = quitter.take().unwrap();
            gone.send_query("INSERT INTO t (v) VALUES (99)").await;
        }
    }
    assert!(busy[0].query("COMMIT").await.error().is_none());
    for task in tasks {
        timeout(SOON, task).await.unwrap().unwrap();
    }
    // In which order is shown beside the code (`pool::line`): that a client was earlier cannot be seen from outside.
    let mut root = crowd.database.root().await;
    let served: Option<String> = mysql_async::prelude::Queryable::query_first(
        &mut root,
        "SELECT GROUP_CONCAT(v ORDER BY v) FROM app.t",
    )
    .await
    .unwrap();
    assert_eq!(served.as_deref(), Some("0,1,2,3,4,5,6,7,8,9"));
}
