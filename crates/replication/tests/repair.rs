//! A replica that stopped at a row that differs gets going and holds the same again, on real servers. See FAILURES.md.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use common::pair::Pair;
use common::{Software, have};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use pontoon_fleet::Code;
use pontoon_replication::check::{Checked, Options, check};
use pontoon_replication::repair::Stop;

/// Not a test: the helper's process, see `Machine::start_helper`.
#[test]
#[ignore = "started by other tests"]
fn helper_process() {
    common::run_helper();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mariadb_a_stopped_replica_gets_going_and_holds_the_same() {
    a_stopped_replica_gets_going_and_holds_the_same(Software::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mysql_a_stopped_replica_gets_going_and_holds_the_same() {
    a_stopped_replica_gets_going_and_holds_the_same(Software::Mysql).await;
}

async fn a_stopped_replica_gets_going_and_holds_the_same(software: Software) {
    if !have(software) {
        return;
    }
    let pair = Pair::start(software, fill).await;
    pair.caught_up().await;
    let stop = pair.replica.stop_of().await.unwrap();
    assert!(stop.applying && stop.error == 0 && !stop.lenient, "{stop:?}");
    let refusal = pair.replica.step_over().await.unwrap_err();
    assert_eq!(refusal.code, Code::D013, "it is not stuck");

    // An update and a delete of rows that are not there, an insert of one that is; and rows of every kind that differ quietly.
    pair.plant("DELETE FROM app.t WHERE id = 1");
    for statement in [
        "UPDATE app.t SET v = 'one' WHERE id = 1",
        "DELETE FROM app.t WHERE id = 2",
        "INSERT INTO app.t VALUES (10, 'ten', 10)",
    ] {
        pair.plant("DELETE FROM app.t WHERE id = 2");
        pair.plant("REPLACE INTO app.t VALUES (10, 'theirs', 99)");
        pair.a.moved_sql(statement);
    }
    pair.plant("REPLACE INTO app.t VALUES (11, 'nobody', 11)");
    let stop = stopped(&pair).await;
    assert!(matches!(stop.error, 1032 | 1062), "{stop:?}");
    let goes_on = pair.replica.apply_with_room().await.unwrap();
    assert!(!goes_on, "that is for an operator");
    let events = pair
        .source
        .events(&stop.place, stop.transaction.as_deref(), None)
        .await
        .unwrap();
    assert_eq!(events.tables, ["app.t"], "{events:?}");
    assert!(events.transaction.is_some(), "{events:?}");

    let mut tables = BTreeSet::new();
    let (mut stop, mut steps) = (stop, 0);
    loop {
        let until = pair.replica.step_over().await.unwrap();
        let events = pair.source.events(&stop.place, None, Some(&until)).await.unwrap();
        tables.extend(events.all_tables);
        steps += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop = pair.replica.stop_of().await.unwrap();
        if stop.applying {
            break;
        }
        assert!(steps < 10, "{stop:?}");
    }
    println!("{software:?}: {steps} steps, {tables:?}");
    assert!(!stop.lenient, "{stop:?}");
    assert!(tables.contains("app.t"), "{tables:?}");
    pair.caught_up().await;
    let checked = look(&pair).await;
    assert!(
        !checked.is_same(),
        "an update was passed over, and one row is nobody's"
    );
    put_right(&pair, &checked).await;
    assert!(look(&pair).await.is_same(), "{:?}", look(&pair).await);
    assert_eq!(
        pair.b
            .moved_sql("SELECT GROUP_CONCAT(id, v ORDER BY id) FROM app.t"),
        "1one,3c,10ten"
    );

    // Values of every kind, carried over.
    pair.plant(
        "UPDATE app.kinds SET t = 'x', l = '', f = 0, d = 0, n = 0, b = 0, at = NULL, e = NULL, s = '', j = NULL, \
         body = '', bytes = '', p = NULL WHERE id = 1; DELETE FROM app.kinds WHERE id = 2",
    );
    let checked = look(&pair).await;
    assert!(!checked.is_same());
    put_right(&pair, &checked).await;
    assert!(look(&pair).await.is_same(), "{:?}", look(&pair).await);

    // A table with a trigger is not written to.
    pair.plant("DELETE FROM app.fires WHERE id = 1");
    let checked = look(&pair).await;
    let (_, table, keys) = &checked.found[0];
    let rows = pair.source.rows_of(table, keys).await.unwrap();
    let refusal = pair.replica.put_rows(table, keys, &rows).await.unwrap_err();
    assert_eq!(refusal.code, Code::D013, "{refusal}");
    assert_eq!(pair.b.moved_sql("SELECT COUNT(*) FROM app.fires"), "0");
    pair.plant("INSERT INTO app.fires VALUES (1)");

    // Somebody died between the two modes: it is told, and strict again afterwards.
    let mode = match software {
        Software::Mariadb => "slave_exec_mode",
        Software::Mysql => "replica_exec_mode",
    };
    pair.b.moved_sql(&format!("SET GLOBAL {mode} = 'IDEMPOTENT'"));
    assert!(pair.replica.report().await.error.unwrap().contains("IDEMPOTENT"));
    pair.replica.step_over().await.unwrap();
    assert_eq!(pair.replica.report().await.error, None);

    // A missing table is none of this.
    pair.plant("DROP TABLE app.gone");
    pair.a.moved_sql("INSERT INTO app.gone VALUES (7)");
    let stop = stopped(&pair).await;
    assert_eq!(stop.error, 1146, "{stop:?}");
    assert_eq!(pair.replica.step_over().await.unwrap_err().code, Code::D013);
    let refusal = pair
        .source
        .events(
            &pontoon_replication::repair::LogPlace {
                file: "pontoon-bin.999999".to_owned(),
                offset: 4,
            },
            None,
            None,
        )
        .await
        .unwrap_err();
    assert_eq!(refusal.code, Code::D013, "{refusal}");

    // Left out, by an operator's word: it goes on, and what is missing is found.
    let events = pair
        .source
        .events(&stop.place, stop.transaction.as_deref(), None)
        .await
        .unwrap();
    pair.replica.skip().await.unwrap();
    assert_eq!(events.tables, ["app.gone"], "{events:?}");
    pair.caught_up().await;
    let own = pair.b.moved_sql("SELECT @@server_id");
    let position = pair.replica.position().await.unwrap();
    assert!(!position.contains(&format!("-{own}-")), "{position}");
    let checked = look(&pair).await;
    assert!(
        checked
            .differing
            .iter()
            .any(|(_, what, _)| what.contains("app.gone")),
        "{:?}",
        checked.differing
    );
    let refusal = pair.replica.skip().await.unwrap_err();
    assert_eq!(refusal.code, Code::D013, "{refusal}");

    goes_on_with_room(&pair, software).await;
}

/// A table is full on the replica, as all are when its disk is, and then is not.
async fn goes_on_with_room(pair: &Pair, software: Software) {
    let replica = match software {
        Software::Mysql => "REPLICA",
        _ => "SLAVE",
    };
    pair.b.moved_sql(&format!(
        "SET GLOBAL max_heap_table_size = 16384; STOP {replica} SQL_THREAD; START {replica} SQL_THREAD"
    ));
    // A transaction for each row: this engine takes none back.
    let rows: String = (1..=60)
        .map(|id| format!("INSERT INTO app.small VALUES ({id}, 'v');"))
        .collect();
    pair.a.moved_sql(&format!(
        "CREATE TABLE app.small (id INT PRIMARY KEY, v CHAR(250)) ENGINE=MEMORY; {rows}"
    ));
    let stop = stopped(pair).await;
    assert_eq!(stop.error, 1114, "{stop:?}");
    pair.plant("SET SESSION max_heap_table_size = 16777216; ALTER TABLE app.small ENGINE=MEMORY");
    assert!(pair.replica.apply_with_room().await.unwrap());
    pair.caught_up().await;
    assert_eq!(pair.b.moved_sql("SELECT COUNT(*) FROM app.small"), "60");
}

async fn stopped(pair: &Pair) -> Stop {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let stop = pair.replica.stop_of().await.unwrap();
        if !stop.applying && stop.error != 0 {
            return stop;
        }
        assert!(Instant::now() < patience, "{stop:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn look(pair: &Pair) -> Checked {
    let (a, b) = pair.sides();
    check(&a, &[&b], &Options::default(), &mut |_| {}).await.unwrap()
}

async fn put_right(pair: &Pair, checked: &Checked) {
    for (_, table, keys) in &checked.found {
        let rows = pair.source.rows_of(table, keys).await.unwrap();
        let before = pair.replica.position().await.unwrap();
        pair.replica.put_rows(table, keys, &rows).await.unwrap();
        let own = pair.b.moved_sql("SELECT @@server_id");
        let after = pair.replica.position().await.unwrap();
        assert!(
            !after.contains(&format!("-{own}-")),
            "no transaction of its own: {before} {after}"
        );
    }
    assert_eq!(pair.b.moved_sql("SELECT @@read_only"), "1");
}

async fn fill(socket: &Path) {
    let options = OptsBuilder::default()
        .socket(Some(socket.to_string_lossy()))
        .user(Some("root"))
        .prefer_socket(false);
    let mut conn = Conn::new(options).await.unwrap();
    for statement in [
        "CREATE DATABASE app",
        "CREATE TABLE app.t (id INT PRIMARY KEY, v VARCHAR(20), u INT, UNIQUE KEY (u)) DEFAULT CHARSET utf8mb4",
        "INSERT INTO app.t VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)",
        "CREATE TABLE app.kinds (id BIGINT UNSIGNED PRIMARY KEY, t VARCHAR(40) COLLATE utf8mb4_general_ci, \
         l VARCHAR(40) CHARACTER SET latin1, f FLOAT, d DOUBLE, n DECIMAL(12,4), b BIT(9), at DATETIME(3), stamp TIMESTAMP NULL, \
         e ENUM('x','ü'), s SET('a','b'), j JSON, g BIGINT UNSIGNED AS (id + 2) STORED, v BIGINT UNSIGNED AS (id + 3) VIRTUAL, \
         body LONGTEXT, bytes VARBINARY(20), p POINT) DEFAULT CHARSET utf8mb4",
        "INSERT INTO app.kinds (id, t, l, f, d, n, b, at, stamp, e, s, j, body, bytes, p) VALUES \
         (1, 'é''\\\\', 'ü', 1.1000001, 1e-300, -12.3456, 257, '2026-01-02 03:04:05.678', '2026-01-02 03:04:05', 'ü', 'a,b', \
         '{\"a\": [1.5, \"é\"]}', REPEAT('né', 5000), X'00FF27', ST_GeomFromText('POINT(1 2)'))",
        "INSERT INTO app.kinds (id) VALUES (2), (9000000000000000000)",
        "UPDATE app.kinds SET t = '' WHERE id = 2",
        "CREATE TABLE app.fires (id INT PRIMARY KEY)",
        "INSERT INTO app.fires VALUES (1)",
        "CREATE TRIGGER app.fired BEFORE INSERT ON app.fires FOR EACH ROW SET NEW.id = NEW.id",
        "CREATE TABLE app.gone (id INT PRIMARY KEY)",
    ] {
        conn.query_drop(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    conn.disconnect().await.unwrap();
}
