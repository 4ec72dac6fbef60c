//! Sessions that share connections, against real databases: they are as they would be alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

mod support;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use support::database::Engine;
use support::session::*;
use tokio::time::{sleep, timeout};

const TABLE: &str = "CREATE TABLE app.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(100))";

/// What an application does. Nothing in it depends on ids or times.
const SCRIPT: &[&str] = &[
    "SELECT DATABASE(), USER()",
    "INSERT INTO t (v) VALUES ('a'), ('b')",
    "SELECT LAST_INSERT_ID(), ROW_COUNT()",
    "INSERT INTO t (id, v) VALUES (50, 'explicit')",
    "SELECT LAST_INSERT_ID()",
    "UPDATE t SET v = 'c' WHERE id = 1",
    "SELECT ROW_COUNT()",
    "UPDATE t SET v = 'c' WHERE id = 1",
    "SELECT SQL_CALC_FOUND_ROWS id FROM t LIMIT 1",
    "SELECT FOUND_ROWS()",
    "SELEKT 1",
    "SELECT 1/0, CAST('x' AS SIGNED)",
    "SHOW WARNINGS",
    "SELECT @@warning_count",
    "SELECT * FROM nowhere",
    "SHOW ERRORS",
    "INSERT INTO t (id) VALUES (1)",
    "BEGIN",
    "INSERT INTO t (v) VALUES ('gone')",
    "SAVEPOINT s",
    "DELETE FROM t",
    "ROLLBACK TO s",
    "SELECT COUNT(*) FROM t",
    "ROLLBACK",
    "SELECT COUNT(*) FROM t",
    "START TRANSACTION READ ONLY",
    "SELECT COUNT(*) FROM t",
    "INSERT INTO t (v) VALUES ('no')",
    "COMMIT",
    "SET autocommit = 0",
    "INSERT INTO t (v) VALUES ('kept')",
    "SELECT @@autocommit",
    "COMMIT",
    "SET autocommit = 1",
    "SET sql_mode = 'ANSI_QUOTES'",
    "SELECT \"id\" FROM t LIMIT 1",
    "SET SESSION sql_mode = CONCAT(@@sql_mode, ',NO_BACKSLASH_ESCAPES')",
    "SELECT @@sql_mode, 'a\\'",
    "SET sql_mode = DEFAULT",
    "SET NAMES latin1",
    "SELECT @@character_set_client, @@collation_connection, HEX('é')",
    "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    "SELECT @@character_set_client, @@collation_connection, HEX('é')",
    "SET time_zone = '+05:30', @x = 7, foreign_key_checks = 0",
    "SELECT @@time_zone, @x, @@foreign_key_checks",
    "SELECT @y := 5",
    "SELECT @x + @y",
    "USE information_schema",
    "SELECT DATABASE()",
    "USE app",
    "CREATE TEMPORARY TABLE tmp (a INT)",
    "INSERT INTO tmp VALUES (1), (2)",
    "SELECT COUNT(*) FROM tmp",
    "SELECT GET_LOCK('l', 1), IS_USED_LOCK('l') = CONNECTION_ID()",
    "SELECT RELEASE_LOCK('l')",
    "LOCK TABLES t WRITE",
    "SELECT COUNT(*) FROM t",
    "UNLOCK TABLES",
    "PREPARE p FROM 'SELECT ? + 1'",
    "EXECUTE p USING @x",
    "DEALLOCATE PREPARE p",
    "SELECT 1; SELECT 2, 'x'; INSERT INTO t (v) VALUES ('m'); SELECT COUNT(*) FROM t",
    "SELECT 1; SELECT nonsense; SELECT 3",
    "CREATE PROCEDURE pr() BEGIN SELECT 1; INSERT INTO t (v) VALUES ('p'); SELECT 2; END",
    "CALL pr()",
    "SELECT LAST_INSERT_ID()",
    "CREATE PROCEDURE bad() BEGIN INSERT INTO t (v) VALUES ('q'); SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END",
    "CALL bad()",
    "SELECT COUNT(*) FROM t",
    "DROP PROCEDURE pr",
    "DROP PROCEDURE bad",
    "DO 1",
    "",
    ";",
    "SELECT REPEAT('x', 300000)",
    "SELECT seq.a FROM (SELECT 1 AS a UNION SELECT 2 UNION SELECT NULL) seq",
    "SHOW TABLES",
    "EXPLAIN SELECT id FROM t WHERE id = 1",
    "KILL 4000000000",
    "TRUNCATE TABLE t",
];

async fn transcript(conn: &mut Conn) -> Vec<String> {
    let mut said = Vec::new();
    for sql in SCRIPT {
        said.push(ask(conn, sql).await);
    }
    // The binary protocol.
    for round in 0..3u32 {
        let inserted = conn
            .exec_drop("INSERT INTO t (v) VALUES (?)", (format!("v{round}"),))
            .await;
        said.push(format!(
            "{inserted:?} {:?} {}",
            conn.last_insert_id(),
            conn.affected_rows()
        ));
        let rows: Vec<(u32, String)> = conn.exec("SELECT id, v FROM t WHERE id > ?", (0,)).await.unwrap();
        said.push(format!("{rows:?}"));
        let kinds: Option<(f64, String, Option<u8>)> = conn
            .exec_first("SELECT ? * 2, ?, ?", (1.5, "text", None::<u8>))
            .await
            .unwrap();
        said.push(format!("{kinds:?}"));
        let wrong = conn.exec_drop("SELECT * FROM nowhere WHERE a = ?", (1,)).await;
        said.push(format!("{wrong:?}"));
    }
    conn.reset().await.unwrap();
    said.push(ask(conn, "SELECT @x, DATABASE(), LAST_INSERT_ID(), @@time_zone").await);
    said.push(ask(conn, "TRUNCATE TABLE t").await);
    said
}

async fn equal_transcripts(engine: Engine) {
    let Some(through) = Through::start(engine, &[TABLE]).await else {
        return;
    };
    for (direct, proxied) in through.direct().iter().zip(&through.roads) {
        let user = user(engine);
        let expected = transcript(&mut conn(direct, user).await).await;
        // The second time over connections that the first has used.
        for round in 0..2 {
            let got = transcript(&mut conn(proxied, user).await).await;
            for (expected, got) in expected.iter().zip(&got) {
                assert_eq!(expected, got, "round {round}");
            }
        }
    }
}

#[tokio::test]
async fn a_session_on_mariadb_reads_like_a_connection_of_its_own() {
    equal_transcripts(Engine::Mariadb).await;
}

#[tokio::test]
async fn a_session_on_mysql_reads_like_a_connection_of_its_own() {
    equal_transcripts(Engine::Mysql).await;
}

/// What one client may leave behind, and how the next would notice.
const LEFT_BEHIND: &[(&str, &str)] = &[
    ("SET sql_mode = 'ANSI'", "SELECT @@sql_mode"),
    ("SET time_zone = '+09:00'", "SELECT @@time_zone"),
    (
        "SET NAMES latin1",
        "SELECT CONCAT(@@character_set_client, @@character_set_results, @@collation_connection)",
    ),
    ("SET foreign_key_checks = 0", "SELECT @@foreign_key_checks"),
    ("SET unique_checks = 0", "SELECT @@unique_checks"),
    ("SET timestamp = 5", "SELECT NOW() < '2000-01-01'"),
    ("SET @a = 1", "SELECT @a"),
    ("SELECT @b := 1", "SELECT @b"),
    ("SELECT 1 INTO @c", "SELECT @c"),
    (
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SELECT @@transaction_isolation",
    ),
    ("SET autocommit = 0", "SELECT @@autocommit"),
    ("SET insert_id = 77", "SELECT @@insert_id"),
    ("SET last_insert_id = 9", "SELECT LAST_INSERT_ID()"),
    ("INSERT INTO t (v) VALUES ('x')", "SELECT LAST_INSERT_ID()"),
    (
        "BEGIN; INSERT INTO t (v) VALUES ('open')",
        "SELECT @@in_transaction",
    ),
    ("SELECT GET_LOCK('left', 0)", "SELECT IS_FREE_LOCK('left')"),
    ("LOCK TABLES t READ", "INSERT INTO t (v) VALUES ('y')"),
    ("CREATE TEMPORARY TABLE tmp (a INT)", "SELECT COUNT(*) FROM tmp"),
    ("PREPARE p FROM 'SELECT 1'", "EXECUTE p"),
    ("USE information_schema", "SELECT DATABASE()"),
    (
        "SELECT SQL_CALC_FOUND_ROWS 1 UNION SELECT 2",
        "SELECT FOUND_ROWS()",
    ),
    ("SELECT 1/0", "SHOW WARNINGS"),
    ("SET group_concat_max_len = 5", "SELECT @@group_concat_max_len"),
];

#[tokio::test]
async fn nothing_that_a_client_leaves_behind_reaches_the_next() {
    // Few connections, so that everybody gets everybody's.
    let prepare = [TABLE, "SET GLOBAL max_connections = 24"];
    let Some(through) = Through::start(Engine::Mariadb, &prepare).await else {
        return;
    };
    let direct = &through.direct()[1];
    for (leave, look) in LEFT_BEHIND {
        let expected = ask(&mut conn(direct, "native").await, look).await;
        let locks = leave.contains("_LOCK") || leave.contains("LOCK TABLES");
        for round in 0..4 {
            if locks && round % 2 == 1 {
                // What it locks is locked for as long as it is there.
                continue;
            }
            let mut first = through.conn().await;
            ask(&mut first, leave).await;
            if round % 2 == 0 {
                first.disconnect().await.unwrap();
                if locks {
                    sleep(MOMENT).await;
                }
                let mut next = through.conn().await;
                let got = ask(&mut next, look).await;
                assert!(same(&expected, &got), "after {leave}: {expected} but {got}");
                continue;
            }
            // The first is still there, and many others want connections.
            let mut others = Vec::new();
            for _ in 0..6 {
                others.push(through.conn().await);
            }
            for next in &mut others {
                let got = ask(next, look).await;
                // What a statement left may be gone, but is never another's.
                let gone = got.contains("Pontoon: what the statement before left behind is gone");
                assert!(
                    gone || same(&expected, &got),
                    "beside {leave}: {expected} but {got}"
                );
            }
            drop(first);
        }
    }
}

/// Whether two answers are the same, but for ids that grow.
fn same(expected: &str, got: &str) -> bool {
    let plain = |text: &str| {
        text.lines()
            .filter(|line| !line.contains("affected"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    plain(expected) == plain(got)
}

#[tokio::test]
async fn many_clients_share_few_connections_and_each_finds_its_own_state() {
    let prepare = [TABLE, "SET GLOBAL max_connections = 24"];
    let Some(through) = Through::start(Engine::Mariadb, &prepare).await else {
        return;
    };
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..60u32 {
        let road = through.roads[1].clone();
        clients.spawn(async move {
            let mut conn = conn(&road, "native").await;
            run(
                &mut conn,
                &format!("SET @me = {number}, time_zone = '+00:{:02}'", number % 60),
            )
            .await;
            let mut last = 0;
            for round in 0..20 {
                run(&mut conn, &format!("INSERT INTO t (v) VALUES ('{number}')")).await;
                let id = conn.last_insert_id().unwrap();
                assert!(id > last);
                last = id;
                if round % 3 == 0 {
                    sleep(MOMENT / 10).await;
                }
                assert_eq!(value(&mut conn, "SELECT LAST_INSERT_ID()").await, id.to_string());
                assert_eq!(value(&mut conn, "SELECT @me").await, number.to_string());
                let prepared: Option<String> = conn
                    .exec_first("SELECT CONCAT(v, ?, @@time_zone) FROM t WHERE id = ?", ("/", id))
                    .await
                    .unwrap();
                assert_eq!(prepared, Some(format!("{number}/+00:{:02}", number % 60)));
                run(&mut conn, "BEGIN").await;
                run(
                    &mut conn,
                    &format!("UPDATE t SET v = 'u{number}' WHERE id = {id}"),
                )
                .await;
                let seen = value(&mut conn, &format!("SELECT v FROM t WHERE id = {id}")).await;
                assert_eq!(seen, format!("u{number}"));
                run(&mut conn, if round % 2 == 0 { "COMMIT" } else { "ROLLBACK" }).await;
            }
            conn.disconnect().await.unwrap();
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let mut root = through.database.root().await;
    let most: (String, u32) = root
        .query_first("SHOW STATUS LIKE 'Max_used_connections'")
        .await
        .unwrap()
        .unwrap();
    assert!(most.1 <= 16, "{most:?}");
    let counts: Option<(u32, u32)> = root
        .query_first("SELECT COUNT(*), SUM(v LIKE 'u%') FROM app.t")
        .await
        .unwrap();
    assert_eq!(counts, Some((1200, 600)));
}

#[tokio::test]
async fn a_kill_reaches_the_session_that_it_names() {
    let Some(through) = Through::start(Engine::Mariadb, &[TABLE]).await else {
        return;
    };
    let mut killer = through.conn().await;
    let mut victim = through.conn().await;
    let id = victim.id();
    let sleeping = tokio::spawn(async move {
        let slept = victim.query_first::<u32, _>("SELECT SLEEP(20)").await;
        (victim, slept)
    });
    sleep(MOMENT * 3).await;
    run(&mut killer, &format!("KILL QUERY {id}")).await;
    let (mut victim, slept) = timeout(support::SOON, sleeping).await.unwrap().unwrap();
    assert!(matches!(slept, Ok(Some(1)) | Err(_)), "{slept:?}");
    assert_eq!(value(&mut victim, "SELECT 5").await, "5", "the session goes on");
    run(&mut killer, &format!("KILL {id}")).await;
    assert!(
        victim.query_drop("SELECT 1").await.is_err(),
        "the session has ended"
    );
    let unknown = killer
        .query_drop("KILL 3999999999")
        .await
        .unwrap_err()
        .to_string();
    assert!(unknown.contains("1094"), "{unknown}");
}

#[tokio::test]
async fn what_runs_for_a_client_that_is_gone_is_ended() {
    let Some(through) = Through::start(Engine::Mariadb, &[TABLE]).await else {
        return;
    };
    let mut client = through.conn().await;
    let gone = timeout(MOMENT * 5, client.query_drop("SELECT SLEEP(30)")).await;
    assert!(gone.is_err());
    drop(client);
    let mut root = through.database.root().await;
    let began = tokio::time::Instant::now();
    loop {
        let left: u32 = root
            .query_first(
                "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'",
            )
            .await
            .unwrap()
            .unwrap();
        if left == 0 {
            break;
        }
        assert!(began.elapsed() < support::SOON, "the statement runs on");
        sleep(MOMENT).await;
    }
}

#[tokio::test]
async fn a_change_of_the_primary_loses_nothing_that_was_not_open() {
    let Some(mut through) = Through::start(Engine::Mariadb, &[TABLE]).await else {
        return;
    };
    let mut idle = through.conn().await;
    let mut open = through.conn().await;
    let mut pinned = through.conn().await;
    let mut rolling_back = through.conn().await;
    run(&mut idle, "SET @a = 3").await;
    for conn in [&mut open, &mut rolling_back] {
        run(conn, "BEGIN").await;
        run(conn, "INSERT INTO t (v) VALUES ('open')").await;
    }
    run(&mut pinned, "CREATE TEMPORARY TABLE tmp (a INT)").await;
    let mut writing = through.conn().await;
    let writing = tokio::spawn(async move { writing.query_drop("INSERT INTO t (v) SELECT SLEEP(3)").await });
    let mut reading = through.conn().await;
    let reading =
        tokio::spawn(
            async move { value(&mut reading, "SELECT COUNT(*) FROM t a, t b WHERE a.v = 'x'").await },
        );
    sleep(MOMENT * 3).await;

    // Nobody is primary for a moment: what is new waits.
    through.one.publish(|view| {
        view.primary = None;
        view.epoch = 2;
    });
    sleep(MOMENT * 3).await;
    let waiting = tokio::spawn(async move {
        let began = tokio::time::Instant::now();
        run(&mut idle, "INSERT INTO t (v) VALUES ('held')").await;
        (idle, began.elapsed())
    });
    sleep(MOMENT * 5).await;
    through.one.publish(|view| {
        view.primary = Some("a");
        view.epoch = 3;
    });
    let (mut idle, waited) = timeout(support::SOON, waiting).await.unwrap().unwrap();
    assert!(waited >= MOMENT * 4, "{waited:?}");
    assert_eq!(value(&mut idle, "SELECT @a").await, "3", "its state came along");
    assert_eq!(timeout(support::SOON, reading).await.unwrap().unwrap(), "0");

    let lost = open.query_drop("COMMIT").await.unwrap_err().to_string();
    assert!(lost.contains("1213") && lost.contains("40001"), "{lost}");
    run(&mut open, "INSERT INTO t (v) VALUES ('again')").await;
    run(&mut rolling_back, "ROLLBACK").await;
    assert!(pinned.query_drop("SELECT * FROM tmp").await.is_err());
    let unknown = timeout(support::SOON, writing).await.unwrap().unwrap();
    assert!(
        unknown.is_err(),
        "nobody knows whether it was written: {unknown:?}"
    );
    assert_eq!(
        value(&mut open, "SELECT COUNT(*) FROM t WHERE v = 'open'").await,
        "0"
    );
    assert_eq!(
        value(&mut open, "SELECT COUNT(*) FROM t WHERE v IN ('held', 'again')").await,
        "2"
    );
}

#[tokio::test]
async fn another_user_and_a_reset_take_nothing_along() {
    let Some(through) = Through::start(Engine::Mariadb, &[TABLE]).await else {
        return;
    };
    let mut conn = through.conn().await;
    for round in 0..2 {
        run(&mut conn, "SET @a = 1, sql_mode = 'ANSI'").await;
        run(&mut conn, "CREATE TEMPORARY TABLE tmp (a INT)").await;
        run(&mut conn, "BEGIN").await;
        run(&mut conn, "INSERT INTO t (v) VALUES ('open')").await;
        if round == 0 {
            assert!(conn.reset().await.unwrap());
        } else {
            let opts = mysql_async::ChangeUserOpts::new().with_user(Some("edwards".to_owned()));
            let opts = opts
                .with_pass(Some("pw".to_owned()))
                .with_db_name(Some("app".to_owned()));
            if !through.database.plugins.contains(&"ed25519") {
                continue;
            }
            conn.change_user(opts).await.unwrap();
            assert!(
                value(&mut conn, "SELECT CURRENT_USER()")
                    .await
                    .starts_with("edwards@")
            );
        }
        assert_eq!(value(&mut conn, "SELECT @a").await, "NULL");
        assert!(!value(&mut conn, "SELECT @@sql_mode").await.contains("ANSI"));
        assert!(conn.query_drop("SELECT * FROM tmp").await.is_err());
        assert_eq!(value(&mut conn, "SELECT COUNT(*) FROM t").await, "0");
    }
}
