//! A change of the primary under sessions: real servers, the old primary left writable, killed or frozen. What is new
//! waits, what was open is told so, what is not known ends the connection, and nothing is sent twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

mod support;

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use pontoon_fleet::BootMoment;
use pontoon_rt::clock::Clock;
use pontoon_rt::floor::{FloorClient, Saying};
use support::SOON;
use support::pair::Kind;
use support::session::{MOMENT, run, value};
use support::spread::Spread;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// What no replica may answer: which server it is that takes writes.
const WHO_WRITES: &str = "SELECT @@server_id + 0 * SLEEP(0)";

async fn spread() -> Option<Spread> {
    Spread::start(Kind::Mariadb).await
}

fn insert(value: u32) -> String {
    format!("INSERT INTO t (v) VALUES ({value})")
}

/// Rows with this value, as the server itself says.
async fn rows(root: &mut Conn, value: u32) -> u32 {
    let count = root.query_first(format!("SELECT COUNT(*) FROM app.t WHERE v = {value}"));
    count.await.unwrap().unwrap()
}

/// Waits until the server runs a statement that begins so.
async fn until_runs(root: &mut Conn, begin: &str) {
    let sql = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '{begin}%'");
    let began = Instant::now();
    while root.query_first::<u32, _>(&sql).await.unwrap() != Some(1) {
        assert!(began.elapsed() < SOON, "{begin} does not run");
        sleep(MOMENT / 5).await;
    }
}

async fn ended<T>(task: JoinHandle<T>) -> T {
    timeout(SOON * 3, task).await.expect("it goes on").unwrap()
}

fn is_rolled_back(error: &mysql_async::Error) -> bool {
    matches!(error, mysql_async::Error::Server(error) if error.code == 1213 && error.state == "40001")
}

/// The connection ended without an answer.
fn is_closed(error: &mysql_async::Error) -> bool {
    !matches!(error, mysql_async::Error::Server(_))
}

#[tokio::test]
async fn statements_wait_for_the_new_primary_and_no_pooled_connection_reaches_the_old_one() {
    let Some(mut spread) = spread().await else { return };
    // Sessions through both proxies, with connections to the old primary of every kind: left, prepared on, shared.
    let mut sessions = Vec::new();
    for number in 0..8 {
        for server in [&spread.two.a, &spread.two.b] {
            let mut conn = Spread::conn_at(server).await;
            run(&mut conn, &insert(number)).await;
            conn.exec_drop("INSERT INTO t (v) VALUES (?)", (number,))
                .await
                .unwrap();
            sessions.push(conn);
        }
    }
    let mut old = spread.pair.primary.root().await.unwrap();
    spread.demote();
    spread.obeyed().await;
    // What comes now is held.
    let held: Vec<JoinHandle<Conn>> = sessions
        .into_iter()
        .enumerate()
        .map(|(number, mut conn)| {
            tokio::spawn(async move {
                run(&mut conn, &insert(1000 + number as u32)).await;
                conn
            })
        })
        .collect();
    sleep(MOMENT * 5).await;
    assert!(held.iter().all(|task| !task.is_finished()), "nobody is primary");
    let before: String = old
        .query_first("SELECT @@gtid_binlog_pos")
        .await
        .unwrap()
        .unwrap();
    spread.promote().await;
    let mut sessions = Vec::new();
    for task in held {
        sessions.push(ended(task).await);
    }
    // Again, text and prepared before the change, and new connections too.
    for (number, conn) in sessions.iter_mut().enumerate() {
        assert_eq!(value(conn, WHO_WRITES).await, "2");
        conn.exec_drop("INSERT INTO t (v) VALUES (?)", (2000 + number as u32,))
            .await
            .unwrap();
    }
    for server in [&spread.two.a, &spread.two.b] {
        let mut conn = Spread::conn_at(server).await;
        run(&mut conn, &insert(3000)).await;
    }
    let after: String = old
        .query_first("SELECT @@gtid_binlog_pos")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(before, after, "a write went to the demoted primary");
    let mut new = spread.pair.replica().await;
    let there: u32 = new
        .query_first("SELECT COUNT(*) FROM app.t WHERE v >= 1000")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(there, 16 + 16 + 2, "each write once, at the new primary");
}

/// The agent's mark: the primary is about to hand over.
fn mark(spread: &mut Spread, left: Duration) {
    let clock = pontoon_rt::clock::SystemClock;
    for server in [&mut spread.two.a, &mut spread.two.b] {
        server.publish(|view| {
            view.holding = Some(BootMoment {
                boot: pontoon_rt::clock::boot_id().to_owned(),
                ms: (clock.now() + left).as_millis() as u64,
            });
        });
    }
}

async fn until_under_way(spread: &mut Spread, count: u64) {
    for server in [&mut spread.two.a, &mut spread.two.b] {
        let what = format!("{count} under way");
        server
            .agent
            .report(&what, |said| {
                said.holding.is_some_and(|held| held.under_way == count)
            })
            .await;
    }
}

#[tokio::test]
async fn before_a_hand_over_transactions_end_and_nothing_new_begins_and_nothing_fails() {
    let Some(mut spread) = spread().await else { return };
    let (mut within, mut outside) = (Vec::new(), Vec::new());
    for server in [&spread.two.a, &spread.two.b] {
        let mut conn = Spread::conn_at(server).await;
        run(&mut conn, "BEGIN").await;
        within.push(conn);
        outside.push(Spread::conn_at(server).await);
    }
    mark(&mut spread, SOON * 6);
    until_under_way(&mut spread, 1).await;
    // Autocommit, prepared, a read, a new transaction, and a client that comes only now: all wait.
    let address = spread.two.a.dir.path().join("mysqld.sock");
    let mut held: Vec<JoinHandle<()>> = outside
        .into_iter()
        .enumerate()
        .map(|(number, mut conn)| {
            tokio::spawn(async move {
                run(&mut conn, &insert(4000 + number as u32)).await;
                conn.exec_drop("INSERT INTO t (v) VALUES (?)", (4010 + number as u32,))
                    .await
                    .unwrap();
                run(&mut conn, "BEGIN").await;
                run(&mut conn, &insert(4020 + number as u32)).await;
                run(&mut conn, "COMMIT").await;
                assert_eq!(value(&mut conn, WHO_WRITES).await, "2");
            })
        })
        .collect();
    held.push(tokio::spawn(async move {
        let mut conn = support::session::conn(&support::database::Road::Unix(address), "reader").await;
        run(&mut conn, &insert(4030)).await;
    }));
    sleep(MOMENT * 5).await;
    assert!(held.iter().all(|task| !task.is_finished()), "something new began");
    // What is under way goes on to its end, at the old primary.
    for (number, conn) in within.iter_mut().enumerate() {
        run(conn, &insert(5000 + number as u32)).await;
        assert_eq!(value(conn, WHO_WRITES).await, "1");
        run(conn, "COMMIT").await;
    }
    until_under_way(&mut spread, 0).await;
    let mut old = spread.pair.primary.root().await.unwrap();
    run(&mut old, "SET GLOBAL read_only = ON").await;
    let mut new = spread.pair.replica().await;
    let began = Instant::now();
    while rows(&mut new, 5001).await == 0 {
        assert!(began.elapsed() < SOON, "the replica does not follow");
        sleep(MOMENT / 5).await;
    }
    spread.promote().await;
    for task in held {
        ended(task).await;
    }
    let there: u32 = new
        .query_first("SELECT COUNT(*) FROM app.t WHERE v >= 4000")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(there, 2 + 2 + 2 + 1 + 2, "each write once, at the new primary");
    for conn in &mut within {
        assert_eq!(value(conn, WHO_WRITES).await, "2", "their sessions go on");
    }
}

#[tokio::test]
async fn a_mark_that_nobody_takes_back_ends_by_itself() {
    let Some(mut spread) = spread().await else { return };
    let mut conn = spread.conn().await;
    mark(&mut spread, MOMENT * 10);
    run(&mut conn, &insert(1)).await;
    assert_eq!(
        value(&mut conn, WHO_WRITES).await,
        "1",
        "the primary is as it was"
    );
}

#[tokio::test]
async fn without_a_primary_in_time_a_statement_fails_and_the_session_lives_on() {
    let Some(mut spread) = spread().await else { return };
    spread.two.a.publish(|view| view.hold = Duration::from_secs(1));
    let mut conn = spread.conn().await;
    run(&mut conn, &insert(1)).await;
    spread.demote();
    spread.obeyed().await;
    let held = timeout(SOON, conn.query_drop(WHO_WRITES))
        .await
        .expect("held for ever");
    let text = held.unwrap_err().to_string();
    assert!(text.contains("no database server is primary"), "{text}");
    spread.promote().await;
    run(&mut conn, &insert(2)).await;
    assert_eq!(
        value(&mut conn, WHO_WRITES).await,
        "2",
        "the same connection goes on"
    );
}

#[tokio::test]
async fn a_transaction_whose_primary_is_killed_is_rolled_back_and_its_connection_lives_on() {
    let Some(mut spread) = spread().await else { return };
    let (mut idle, mut asking) = (spread.conn().await, spread.conn().await);
    for conn in [&mut idle, &mut asking] {
        run(conn, "BEGIN").await;
        run(conn, &insert(7)).await;
    }
    let mut root = spread.pair.primary.root().await.unwrap();
    let asking = tokio::spawn(async move {
        let asked = asking.query_drop("SELECT SLEEP(60) FROM t LIMIT 1").await;
        (asking, asked)
    });
    until_runs(&mut root, "SELECT SLEEP(60)").await;
    spread.pair.primary.process().unwrap().kill_9().unwrap();
    let (mut asking, asked) = ended(asking).await;
    assert!(
        is_rolled_back(&asked.unwrap_err()),
        "it was not committed, and that is known"
    );
    spread.demote();
    spread.promote().await;
    let committed = idle.query_drop("COMMIT").await.unwrap_err();
    assert!(is_rolled_back(&committed), "{committed}");
    for conn in [&mut idle, &mut asking] {
        // As an application does: again from the beginning, on the same connection.
        run(conn, "BEGIN").await;
        run(conn, &insert(8)).await;
        run(conn, "COMMIT").await;
    }
    let mut new = spread.pair.replica().await;
    assert_eq!((rows(&mut new, 7).await, rows(&mut new, 8).await), (0, 2));
}

#[tokio::test]
async fn a_commit_in_flight_ends_the_connection_and_is_never_sent_again() {
    let Some(mut spread) = spread().await else { return };
    let mut conn = spread.conn().await;
    run(&mut conn, "BEGIN").await;
    run(&mut conn, &insert(7)).await;
    let frozen = spread.pair.primary.process().unwrap();
    frozen.signal(rustix::process::Signal::STOP).unwrap();
    let commit = tokio::spawn(async move {
        let committed = conn.query_drop("COMMIT").await;
        (conn, committed)
    });
    sleep(MOMENT * 5).await;
    assert!(!commit.is_finished());
    spread.demote();
    spread.promote().await;
    let (mut conn, committed) = ended(commit).await;
    let error = committed.unwrap_err();
    assert!(
        is_closed(&error),
        "whether it was committed is not known: {error}"
    );
    assert!(
        conn.query_drop("SELECT 1").await.is_err(),
        "the connection has ended"
    );
    let mut other = spread.conn().await;
    run(&mut other, &insert(8)).await;
    let mut new = spread.pair.replica().await;
    assert_eq!((rows(&mut new, 7).await, rows(&mut new, 8).await), (0, 1));
    frozen.signal(rustix::process::Signal::CONT).unwrap();
}

#[tokio::test]
async fn a_write_in_flight_ends_the_connection_and_is_never_sent_again() {
    let Some(mut spread) = spread().await else { return };
    let mut conn = spread.conn().await;
    let mut root = spread.pair.primary.root().await.unwrap();
    run(&mut root, "LOCK TABLES app.t WRITE").await;
    let write = tokio::spawn(async move {
        let written = conn.query_drop(insert(7)).await;
        (conn, written)
    });
    until_runs(&mut root, "INSERT INTO t").await;
    spread.demote();
    spread.promote().await;
    let (mut conn, written) = ended(write).await;
    let error = written.unwrap_err();
    assert!(is_closed(&error), "whether it was written is not known: {error}");
    assert!(
        conn.query_drop("SELECT 1").await.is_err(),
        "the connection has ended"
    );
    let mut other = spread.conn().await;
    run(&mut other, &insert(8)).await;
    let mut new = spread.pair.replica().await;
    assert_eq!((rows(&mut new, 7).await, rows(&mut new, 8).await), (0, 1));
}

#[tokio::test]
async fn floors_of_a_lost_epoch_hold_nobody() {
    let Some(mut spread) = spread().await else { return };
    let mut conn = spread.conn().await;
    spread.until_spread(&mut conn).await;
    let (pair, mut replica) = (&spread.pair, spread.pair.replica().await);
    pair.tell(&mut replica, "STOP SLAVE SQL_THREAD").await;
    // What only the old primary has, and everybody would have to see.
    for number in 0..20 {
        run(&mut conn, &insert(100 + number)).await;
    }
    assert_eq!(
        value(&mut conn, "SELECT COUNT(*) FROM t WHERE v >= 100").await,
        "20"
    );
    assert_eq!(value(&mut conn, "SELECT @@server_id").await, "1");
    let floors = FloorClient::new(spread.two.a.paths.floor_socket());
    let before = floors.say(&Saying::Floor, SOON).await.unwrap();
    spread.demote();
    spread.promote().await;
    // The old primary becomes a replica of the new one, without what is lost.
    let mut old = spread.pair.primary.root().await.unwrap();
    let position: String = replica
        .query_first("SELECT @@gtid_binlog_pos")
        .await
        .unwrap()
        .unwrap();
    let port = spread.pair.replica.as_ref().unwrap().port();
    for statement in [
        "SET sql_log_bin = 0".to_owned(),
        "DELETE FROM app.t".to_owned(),
        "RESET MASTER".to_owned(),
        format!("SET GLOBAL gtid_slave_pos = '{position}'"),
        format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='follower', \
             MASTER_PASSWORD='follow', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1"
        ),
        "START SLAVE".to_owned(),
    ] {
        run(&mut old, &statement).await;
    }
    // In the new epoch: written, read at once, and read from the replica that there is.
    let mut conn = spread.conn().await;
    run(&mut conn, &insert(8)).await;
    assert_eq!(value(&mut conn, "SELECT COUNT(*) FROM t WHERE v = 8").await, "1");
    Spread::until_read_from(&mut conn, 1).await;
    // A visitor still carries a floor of before: it holds nobody either.
    let pontoon_rt::floor::Told::Floor {
        floor: Some(floor), ..
    } = before
    else {
        panic!("a floor: {before:?}")
    };
    floors.say(&Saying::See(Some(floor)), SOON).await.unwrap();
    Spread::until_read_from(&mut conn, 1).await;
    assert_eq!(value(&mut conn, "SELECT COUNT(*) FROM t WHERE v = 8").await, "1");
    assert_eq!(
        value(&mut conn, "SELECT COUNT(*) FROM t WHERE v >= 100").await,
        "0"
    );
}
