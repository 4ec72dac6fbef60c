//! What a session is told about itself, what ends it, and who may kill it: against real databases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

mod support;

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use support::SOON;
use support::database::Engine;
use support::session::*;

const TABLE: &str = "CREATE TABLE app.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(100))";

/// Waits until the connection has ended.
async fn ended(conn: &mut Conn, what: &str) {
    let began = tokio::time::Instant::now();
    while conn.ping().await.is_ok() {
        assert!(began.elapsed() < SOON * 2, "{what}: it lives on");
        tokio::time::sleep(MOMENT).await;
    }
}

/// Clients that come and go, so that connections change hands.
async fn others(through: &Through) {
    for _ in 0..4 {
        let mut other = through.conn().await;
        ask(&mut other, "INSERT INTO t (v) VALUES ('other'), ('other')").await;
        ask(&mut other, "SELECT nonsense").await;
        ask(&mut other, "SELECT 1/0").await;
    }
}

async fn nobody_is_told_of_another(engine: Engine) {
    let Some(through) = Through::start(engine, &[TABLE]).await else {
        return;
    };
    let looks = [
        "SHOW WARNINGS",
        "SHOW ERRORS",
        "SELECT @@warning_count, @@error_count",
        "GET DIAGNOSTICS @n = NUMBER; SELECT @n",
        "SELECT ROW_COUNT(), FOUND_ROWS()",
        "SELECT LAST_INSERT_ID()",
    ];
    for look in looks {
        let expected = ask(&mut conn(&through.direct()[1], user(engine)).await, look).await;
        for _ in 0..3 {
            others(&through).await;
            let got = ask(&mut through.conn().await, look).await;
            assert_eq!(got, expected);
        }
    }
    // What ends with a reset has ended when the client hears of it.
    let (mut locks, mut looks) = (through.conn().await, through.conn().await);
    run(&mut looks, "SELECT CONNECTION_ID()").await;
    for _ in 0..20 {
        run(&mut locks, "INSERT INTO t (v) VALUES ('kept')").await;
        assert_eq!(value(&mut locks, "SELECT GET_LOCK('reset', 0)").await, "1");
        run(&mut locks, "BEGIN").await;
        run(&mut locks, "UPDATE t SET v = 'locked' WHERE id = 1").await;
        assert!(locks.reset().await.unwrap());
        assert_eq!(value(&mut looks, "SELECT IS_FREE_LOCK('reset')").await, "1");
        run(&mut looks, "SELECT * FROM t WHERE id = 1 FOR UPDATE NOWAIT").await;
    }
    // What a result is described in: the collation of the login, also after a reset of the connection.
    let described = async |conn: &mut Conn| {
        let result = conn.query_iter("SELECT 'x', USER()").await.unwrap();
        let sets: Vec<u16> = result
            .columns_ref()
            .iter()
            .map(|column| column.character_set())
            .collect();
        result.drop_result().await.unwrap();
        sets
    };
    let expected = described(&mut conn(&through.direct()[1], user(engine)).await).await;
    for _ in 0..3 {
        others(&through).await;
        assert_eq!(described(&mut through.conn().await).await, expected);
    }
}

#[tokio::test]
async fn nobody_on_mariadb_is_told_what_another_left() {
    nobody_is_told_of_another(Engine::Mariadb).await;
}

#[tokio::test]
async fn nobody_on_mysql_is_told_what_another_left() {
    nobody_is_told_of_another(Engine::Mysql).await;
}

async fn settings_are_the_sessions_own(engine: Engine) {
    let Some(through) = Through::start(engine, &[TABLE]).await else {
        return;
    };
    let mut direct = conn(&through.direct()[1], user(engine)).await;
    let mut session = through.conn().await;
    let script = [
        "SELECT @@session_track_system_variables, @@session_track_schema, @@session_track_state_change",
        "SELECT 1 UNION SELECT 2 UNION SELECT 3",
        "SET time_zone = '+01:00'",
        "UPDATE t SET v = 'not there' WHERE id = 0",
        "others",
        "SELECT FOUND_ROWS()",
        "SELECT FOUND_ROWS()",
        "SET sql_auto_is_null = 1",
        "INSERT INTO t (v) VALUES ('mine')",
        "others",
        "SELECT v FROM t WHERE id IS NULL AND v = 'mine'",
        "SET sql_auto_is_null = 0",
        "others",
        "CREATE DATABASE app_of_its_own",
        "USE app_of_its_own",
        "DROP DATABASE app_of_its_own",
        "SELECT DATABASE()",
        "others",
        "SELECT DATABASE()",
        "CREATE TABLE nowhere (id INT)",
        "USE app",
        "SELECT DATABASE()",
    ];
    let grant = format!("GRANT ALL ON app_of_its_own.* TO {}@localhost", user(engine));
    through.database.execute(&[&grant]).await;
    let plain = |text: String| {
        let lines = text.lines().filter(|line| !line.contains("affected"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let mut expected = Vec::new();
    for step in script.into_iter().filter(|step| *step != "others") {
        expected.push(plain(ask(&mut direct, step).await));
    }
    through.database.execute(&["DELETE FROM app.t"]).await;
    let mut expected = expected.into_iter();
    for step in script {
        match step {
            "others" => others(&through).await,
            step => assert_eq!(Some(plain(ask(&mut session, step).await)), expected.next()),
        }
    }
}

#[tokio::test]
async fn what_a_session_on_mariadb_has_set_is_all_that_it_finds() {
    settings_are_the_sessions_own(Engine::Mariadb).await;
}

#[tokio::test]
async fn what_a_session_on_mysql_has_set_is_all_that_it_finds() {
    settings_are_the_sessions_own(Engine::Mysql).await;
}

#[tokio::test]
async fn the_last_insert_id_follows_into_a_transaction_on_another_connection() {
    let prepare = [TABLE, "SET GLOBAL max_connections = 24"];
    let Some(through) = Through::start(Engine::Mariadb, &prepare).await else {
        return;
    };
    let mut session = through.conn().await;
    for _ in 0..3 {
        run(&mut session, "INSERT INTO t (v) VALUES ('mine')").await;
        let id = session.last_insert_id().unwrap().to_string();
        // Hold every connection that can be had for a moment.
        let mut busy = tokio::task::JoinSet::new();
        for _ in 0..24 {
            let road = through.roads[1].clone();
            busy.spawn(async move {
                let mut conn = conn(&road, "native").await;
                run(&mut conn, "INSERT INTO t (v) VALUES ('other')").await;
                run(&mut conn, "DO SLEEP(0.05)").await;
            });
        }
        while let Some(one) = busy.join_next().await {
            one.unwrap();
        }
        run(&mut session, "BEGIN").await;
        assert_eq!(value(&mut session, "SELECT LAST_INSERT_ID()").await, id);
        run(&mut session, "COMMIT").await;
    }
}

async fn sessions_end(engine: Engine) {
    let Some(through) = Through::start(engine, &[TABLE]).await else {
        return;
    };
    let mut lives = through.conn().await;
    run(&mut lives, "SET @a = 1").await;
    // By their own time: also one that is pinned, and one in a transaction.
    let mut silent = Vec::new();
    for before in ["DO 0", "CREATE TEMPORARY TABLE tmp (a INT)", "BEGIN"] {
        let mut conn = through.conn().await;
        run(&mut conn, "SET SESSION wait_timeout = 1").await;
        run(&mut conn, before).await;
        silent.push((before, conn));
    }
    // After their transaction, because they say so.
    for (set, end) in [
        ("DO 0", "COMMIT RELEASE"),
        ("DO 0", "ROLLBACK RELEASE"),
        ("SET completion_type = 'RELEASE'", "COMMIT"),
    ] {
        let mut conn = through.conn().await;
        run(&mut conn, set).await;
        run(&mut conn, "BEGIN").await;
        run(&mut conn, "INSERT INTO t (v) VALUES ('released')").await;
        run(&mut conn, end).await;
        ended(&mut conn, end).await;
    }
    // By somebody who ends the database's own connection of a session that cannot do without.
    let mut pinned = through.conn().await;
    run(&mut pinned, "CREATE TEMPORARY TABLE tmp (a INT)").await;
    let id = value(&mut pinned, "SELECT CONNECTION_ID()").await;
    through.database.execute(&[&format!("KILL {id}")]).await;
    ended(&mut pinned, "a pinned session without its connection").await;
    for (before, conn) in &mut silent {
        // To ask is to speak, so it is asked rarely.
        let began = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            if conn.ping().await.is_err() {
                break;
            }
            assert!(began.elapsed() < SOON * 3, "after {before} it lives on");
        }
    }
    assert_eq!(value(&mut lives, "SELECT @a").await, "1");
    assert_eq!(
        value(&mut lives, "SELECT COUNT(*) FROM t WHERE v = 'released'").await,
        "2"
    );
}

#[tokio::test]
async fn sessions_end_as_mariadb_would_end_them() {
    sessions_end(Engine::Mariadb).await;
}

#[tokio::test]
async fn sessions_end_as_mysql_would_end_them() {
    sessions_end(Engine::Mysql).await;
}

async fn the_database_decides_who_kills(engine: Engine) {
    let boss = [
        TABLE,
        "CREATE USER boss@localhost IDENTIFIED BY 'pw'",
        "GRANT ALL ON *.* TO boss@localhost",
        "CREATE USER guest@localhost IDENTIFIED BY 'pw'",
        "GRANT ALL ON app.* TO guest@localhost",
    ];
    let Some(through) = Through::start(engine, &boss).await else {
        return;
    };
    let mut boss = conn(&through.roads[1], "boss").await;
    let mut guest = conn(&through.roads[1], "guest").await;
    // A session at rest, one with a connection of its own, one in a transaction.
    for before in ["SELECT 1", "CREATE TEMPORARY TABLE tmp (a INT)", "BEGIN"] {
        let mut victim = through.conn().await;
        run(&mut victim, before).await;
        let id = victim.id();
        for kill in ["KILL", "KILL QUERY", "KILL/**/CONNECTION"] {
            let denied = guest.query_drop(format!("{kill} {id}")).await.unwrap_err();
            let expected = format!("You are not owner of thread {id}");
            assert!(
                denied.to_string().contains(&expected),
                "{before}: {kill}: {denied}"
            );
        }
        assert_eq!(value(&mut victim, "SELECT 5").await, "5");
        run(&mut boss, &format!("KILL {id}")).await;
        ended(&mut victim, before).await;
        // Its client may see the end before it is off the list.
        let began = tokio::time::Instant::now();
        let unknown = loop {
            match boss.query_drop(format!("KILL {id}")).await {
                Ok(()) => assert!(began.elapsed() < SOON, "{before}: {id} is killed again and again"),
                Err(unknown) => break unknown,
            }
            tokio::time::sleep(MOMENT).await;
        };
        assert!(unknown.to_string().contains("Unknown thread id"), "{unknown}");
    }
    // What runs.
    let mut victim = through.conn().await;
    let id = victim.id();
    let sleeping = tokio::spawn(async move {
        let slept = victim.query_first::<u32, _>("SELECT SLEEP(60)").await;
        (victim, slept)
    });
    let mut root = through.database.root().await;
    let began = tokio::time::Instant::now();
    loop {
        let running: Option<u32> = root
            .query_first(
                "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'",
            )
            .await
            .unwrap();
        if running == Some(1) {
            break;
        }
        assert!(began.elapsed() < SOON, "it does not run");
        tokio::time::sleep(MOMENT).await;
    }
    let denied = guest.query_drop(format!("KILL QUERY {id}")).await.unwrap_err();
    assert!(
        denied.to_string().contains(&format!("of thread {id}")),
        "{denied}"
    );
    run(&mut boss, &format!("kill/* it */query {id}")).await;
    let (mut victim, _) = tokio::time::timeout(SOON, sleeping).await.unwrap().unwrap();
    assert_eq!(value(&mut victim, "SELECT 5").await, "5", "the session goes on");
    // Oneself.
    let myself = victim.id();
    let said = victim
        .query_drop(format!("KILL QUERY {myself}"))
        .await
        .unwrap_err();
    assert!(said.to_string().contains("1317"), "{said}");
    assert_eq!(value(&mut victim, "SELECT 6").await, "6");
    let _ = victim.query_drop(format!("KILL {myself}")).await;
    ended(&mut victim, "one that killed itself").await;
}

#[tokio::test]
async fn mariadb_decides_who_kills() {
    the_database_decides_who_kills(Engine::Mariadb).await;
}

#[tokio::test]
async fn mysql_decides_who_kills() {
    the_database_decides_who_kills(Engine::Mysql).await;
}

#[tokio::test]
async fn sessions_that_the_database_itself_let_in_are_as_many_as_it_takes() {
    let Some(through) = Through::start(Engine::Mariadb, &[TABLE]).await else {
        return;
    };
    std::fs::remove_file(through.one.paths.sql_account_file()).unwrap();
    let mut conns = Vec::new();
    for _ in 0..30 {
        conns.push(through.conn().await);
    }
    for (number, conn) in conns.iter_mut().enumerate() {
        run(conn, &format!("SET @me = {number}")).await;
    }
    for (number, conn) in conns.iter_mut().enumerate() {
        assert_eq!(value(conn, "SELECT @me").await, number.to_string());
    }
    // Such a session has no other connection to kill by.
    let id = conns[1].id();
    run(&mut conns[0], &format!("KILL {id}")).await;
    ended(&mut conns[1], "the one that was killed").await;
    assert_eq!(value(&mut conns[0], "SELECT @me").await, "0");
}
