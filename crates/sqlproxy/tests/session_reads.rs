//! Reads that go to a replica over the relay of its server, and those that must not: real databases, two proxies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

mod support;

use std::time::Duration;

use mysql_async::prelude::Queryable;
use support::SOON;
use support::pair::Kind;
use support::session::{run, value};
use support::spread::Spread;
use tokio::time::{Instant, sleep};

async fn reads_are_spread(kind: Kind) {
    let Some(spread) = Spread::start(kind).await else {
        return;
    };
    let (mut writer, mut reader) = (spread.conn().await, spread.conn().await);
    spread.until_spread(&mut reader).await;
    // Text, prepared, and in a read-only transaction.
    spread.until_spread(&mut writer).await;
    // Any of these may find the replica late at that moment, on a busy machine, and go to the primary.
    let began = Instant::now();
    loop {
        let prepared: Option<u32> = writer.exec_first("SELECT @@server_id + ?", (0,)).await.unwrap();
        run(&mut writer, "START TRANSACTION READ ONLY").await;
        let within = value(&mut writer, "SELECT @@server_id").await;
        assert_eq!(
            value(&mut writer, "SELECT @@server_id").await,
            within,
            "it stays where it began"
        );
        run(&mut writer, "COMMIT").await;
        if prepared == Some(2) && within == "2" {
            break;
        }
        assert!(began.elapsed() < SOON * 2, "{prepared:?} {within}");
        sleep(Duration::from_millis(20)).await;
    }
    // What writes, locks or asks about a write does not.
    for sql in [
        "SELECT @@server_id FROM (SELECT 1) x FOR UPDATE",
        "SELECT @@server_id + 0 * SLEEP(0)",
        "SELECT @@server_id + 0 * GET_LOCK('l', 0)",
    ] {
        let mut other = spread.conn().await;
        assert_eq!(value(&mut other, sql).await, "1", "{sql}");
    }
    run(&mut writer, "BEGIN").await;
    assert_eq!(value(&mut writer, "SELECT @@server_id").await, "1");
    run(&mut writer, "ROLLBACK").await;
    // State goes along.
    run(&mut writer, "SET time_zone = '+03:00', sql_mode = 'ANSI_QUOTES'").await;
    spread.until_spread(&mut writer).await;
    assert_eq!(value(&mut writer, "SELECT @@time_zone").await, "+03:00");
    run(&mut writer, "SET sql_mode = DEFAULT").await;
    // Nobody misses what was written, on this connection or another.
    for number in 0..300u32 {
        match number % 3 {
            0 => run(&mut writer, &format!("INSERT INTO t (v) VALUES ({number})")).await,
            1 => writer
                .exec_drop("INSERT INTO t (v) VALUES (?)", (number,))
                .await
                .unwrap(),
            // Commits, and fails then: no position is said.
            _ => drop(
                writer
                    .query_drop(format!("CALL half({number})"))
                    .await
                    .unwrap_err(),
            ),
        }
        let who = if number % 2 == 0 { &mut writer } else { &mut reader };
        let sql = format!("SELECT CONCAT(COUNT(*), '/', @@server_id) FROM t WHERE v = {number}");
        let seen = value(who, &sql).await;
        assert!(seen.starts_with("1/"), "{number}: {seen}");
        if number == 150 {
            let mut replica = spread.pair.replica().await;
            spread.pair.tell(&mut replica, "STOP SLAVE SQL_THREAD").await;
        }
        if number == 200 {
            let mut replica = spread.pair.replica().await;
            spread.pair.tell(&mut replica, "START SLAVE SQL_THREAD").await;
        }
    }
    spread.until_spread(&mut reader).await;
}

#[tokio::test]
async fn reads_go_to_a_mariadb_replica_and_see_what_was_written() {
    reads_are_spread(Kind::Mariadb).await;
}

#[tokio::test]
async fn reads_go_to_a_mysql_replica_and_see_what_was_written() {
    reads_are_spread(Kind::Mysql).await;
}

#[tokio::test]
async fn a_replica_that_dies_fails_no_read() {
    let Some(mut spread) = Spread::start(Kind::Mariadb).await else {
        return;
    };
    let mut reader = spread.conn().await;
    spread.until_spread(&mut reader).await;
    let replica = spread.pair.replica.take().unwrap();
    let killed = tokio::spawn(async move {
        sleep(Duration::from_millis(150)).await;
        replica.process().unwrap().kill_9().unwrap();
        replica
    });
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        assert_eq!(value(&mut reader, "SELECT COUNT(*) FROM t").await, "0");
    }
    assert_eq!(value(&mut reader, "SELECT @@server_id").await, "1");
    drop(killed.await.unwrap());
}

#[tokio::test]
async fn the_primary_helps_when_the_replica_has_more_to_do() {
    let Some(spread) = Spread::start(Kind::Mariadb).await else {
        return;
    };
    let mut first = spread.conn().await;
    spread.until_spread(&mut first).await;
    let heavy = "WITH RECURSIVE r AS (SELECT 1 n UNION ALL SELECT n + 1 FROM r WHERE n < 700) \
                 SELECT CONCAT(@@server_id, '/', COUNT(*)) FROM r a, r b";
    let mut readers = [
        first,
        spread.conn().await,
        spread.conn().await,
        spread.conn().await,
    ];
    let began = Instant::now();
    let (mut primary, mut replica) = (0, 0);
    while primary == 0 || replica == 0 {
        assert!(began.elapsed() < SOON * 2, "{primary} {replica}");
        let [a, b, c, d] = &mut readers;
        let answers = tokio::join!(value(a, heavy), value(b, heavy), value(c, heavy), value(d, heavy));
        for answer in [answers.0, answers.1, answers.2, answers.3] {
            match answer.as_str() {
                "1/490000" => primary += 1,
                "2/490000" => replica += 1,
                other => panic!("{other}"),
            }
        }
    }
}

/// Writes of connections that are passed through, because there is no account yet, are seen by those who read from
/// replicas; and what goes where is reported.
#[tokio::test]
async fn what_is_written_by_connections_from_before_is_seen() {
    let Some(mut spread) = Spread::without_account(Kind::Mariadb).await else {
        return;
    };
    let mut old = spread.conn().await;
    run(&mut old, "INSERT INTO t (v) VALUES (0)").await;
    let agent = &mut spread.two.a.agent;
    let report = agent
        .report("an obstacle", |sql| {
            sql.spread
                .as_ref()
                .is_some_and(|spread| spread.obstacle.is_some() && spread.unwatched == 1)
        })
        .await;
    assert!(
        report
            .spread
            .unwrap()
            .obstacle
            .unwrap()
            .ends_with("is not there yet")
    );
    spread.give_account();
    let mut reader = spread.conn().await;
    spread.until_spread(&mut reader).await;
    let mut replica = spread.pair.replica().await;
    for number in 1..=200u32 {
        run(&mut old, &format!("INSERT INTO t (v) VALUES ({number})")).await;
        let sql = format!("SELECT CONCAT(COUNT(*), '/', @@server_id) FROM t WHERE v = {number}");
        let seen = value(&mut reader, &sql).await;
        assert!(seen.starts_with("1/"), "{number}: {seen}");
        match number {
            100 => spread.pair.tell(&mut replica, "STOP SLAVE SQL_THREAD").await,
            130 => spread.pair.tell(&mut replica, "START SLAVE SQL_THREAD").await,
            _ => {}
        }
    }
    // Its last write, and its end.
    spread.pair.tell(&mut replica, "STOP SLAVE SQL_THREAD").await;
    run(&mut old, "INSERT INTO t (v) VALUES (1000)").await;
    old.disconnect().await.unwrap();
    assert_eq!(
        value(&mut reader, "SELECT COUNT(*) FROM t WHERE v = 1000").await,
        "1"
    );
    spread.pair.tell(&mut replica, "START SLAVE SQL_THREAD").await;
    spread.until_spread(&mut reader).await;
    let report = spread.two.a.agent.report("reads at the replica", |sql| {
        let spread = sql.spread.as_ref();
        spread.is_some_and(|spread| spread.unwatched == 0 && spread.replica_total > 0)
    });
    let report = report.await.spread.unwrap();
    assert!(
        report.obstacle.is_none() && report.primary_total > 0,
        "{report:?}"
    );
    assert!(
        report
            .diverted_total
            .get("after_write")
            .is_some_and(|count| *count > 0),
        "{report:?}"
    );
    let pool = |name: &str| {
        report
            .pools
            .iter()
            .find(|pool| pool.server.as_str() == name)
            .unwrap()
    };
    assert!(
        pool("a").used > 0 && pool("b").used > 0 && pool("b").limit >= pool("b").used,
        "{report:?}"
    );
    assert_eq!(report.replicas.len(), 1, "{report:?}");
}
