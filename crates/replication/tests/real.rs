//! Against real servers: moved aside and back, copied under load, followed, compared. See FAILURES.md.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod common;

use std::time::{Duration, Instant};

use common::load::{Load, fill};
use common::{Ca, Machine, Software, beating, have};
use pontoon_fleet::DatabaseRole;
use pontoon_helper::BackupOptions;
use pontoon_replication::{CloneProgress, CloneStep, Database, SourceTicket, differences};
use tokio::io::DuplexStream;

/// Not a test: the helper's process, see `Machine::start_helper`.
#[test]
#[ignore = "started by other tests"]
fn helper_process() {
    common::run_helper();
}

/// The stream of a copy, as the agents carry it.
pub fn carry(source: Database) -> DuplexStream {
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let _ = source.serve_backup(&mut ours, &BackupOptions::default()).await;
    });
    theirs
}

async fn clone_and_follow(
    source: &Machine,
    joiner: &Machine,
    ticket: &SourceTicket,
    progress: &mut (dyn FnMut(CloneProgress) + Send),
) -> Result<(), pontoon_fleet::Refusal> {
    let from = source.database();
    joiner
        .database()
        .clone_from(
            ticket,
            &joiner.wanted(true),
            || async { Ok(carry(from)) },
            progress,
        )
        .await
}

async fn assert_equal(source: &Database, replica: &Database) {
    let position = source.position().await.unwrap();
    assert!(
        replica
            .wait_for_position(&position, Duration::from_secs(30))
            .await
            .unwrap(),
        "{position}"
    );
    let (left, right) = (
        source.control().checksums().await.unwrap(),
        replica.control().checksums().await.unwrap(),
    );
    assert!(left.len() >= 3, "{left:?}");
    assert_eq!(differences(&left, &right), []);
}

async fn aside_and_back(software: Software) {
    if !have(software) {
        return;
    }
    let mut machine = Machine::start(&Ca::new(), software, "a", "127.0.0.1").await;
    let root = machine.original_socket();
    machine.sql(
        &root,
        "CREATE DATABASE app; CREATE TABLE app.t (id INT PRIMARY KEY); INSERT INTO app.t VALUES (1),(2)",
    );
    let database = machine.database();
    assert_eq!(database.report().await.role, DatabaseRole::Standalone);

    let moved = database.move_aside(&machine.wanted(false)).await.unwrap();
    println!(
        "{software:?}: interrupted for {:?} {:?}",
        moved.interruption, moved.notes
    );
    assert!(!root.exists() || std::os::unix::net::UnixStream::connect(&root).is_err());
    assert_eq!(machine.moved_sql("SELECT COUNT(*) FROM app.t"), "2");
    assert_eq!(
        machine.moved_sql("SELECT @@port"),
        machine.server_port.to_string()
    );
    let report = database.report().await;
    assert_eq!(
        (report.role, report.read_only, report.error),
        (DatabaseRole::Primary, false, None)
    );

    // The SQL proxy's own account works, and reads what it is for and nothing else.
    let file = std::fs::read_to_string(machine.paths.sql_account_file()).unwrap();
    let password = file.split('"').nth(7).unwrap().to_owned();
    let as_proxy = |query: &str| machine.moved_sql_as("pontoon_sql", &password, query);
    let table = match software {
        Software::Mysql => "mysql.user",
        _ => "mysql.global_priv",
    };
    assert_ne!(as_proxy(&format!("SELECT COUNT(*) FROM {table}")).unwrap(), "0");
    for query in [
        "SELECT * FROM app.t",
        "SELECT * FROM mysql.db",
        "CREATE DATABASE x",
        "SHUTDOWN",
    ] {
        assert!(as_proxy(query).is_err(), "{query}");
    }
    // Somebody breaks it: the next time it is as it should be.
    machine.moved_sql("ALTER USER pontoon_sql@localhost IDENTIFIED BY 'other-Password-1'");
    assert!(as_proxy("SELECT 1").is_err());

    let again = database.move_aside(&machine.wanted(false)).await.unwrap();
    assert_eq!(as_proxy("SELECT 1").as_deref(), Ok("1"));
    assert_eq!(
        again.interruption,
        Duration::ZERO,
        "what is so already is left alone"
    );

    // The helper dies and comes back: the database goes on, and is found again.
    let pid = pontoon_helper::find::server_in(&machine.datadir());
    machine.kill_helper();
    machine.start_helper();
    assert_eq!(database.helper().state().await.unwrap().pid, pid);

    // The database is killed: the helper starts it with Pontoon's settings.
    machine.kill_database();
    assert_eq!(database.report().await.role, DatabaseRole::Down);
    database.ensure_running().await.unwrap();
    assert_eq!(database.report().await.role, DatabaseRole::Primary);

    // Killed between taking the settings away and the restart, and repeated.
    database.helper().remove_settings().await.unwrap().unwrap();
    machine.kill_helper();
    machine.start_helper();
    let database = machine.database();
    database.move_back().await.unwrap();
    database.move_back().await.unwrap();
    assert_eq!(machine.sql(&root, "SELECT COUNT(*) FROM app.t"), "2");
    assert_eq!(
        machine.sql(&root, "SELECT @@port"),
        machine.original_port.to_string()
    );
    assert_eq!(
        machine.sql(
            &root,
            "SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'pontoon%'"
        ),
        "0"
    );
    assert_eq!(database.report().await.role, DatabaseRole::Standalone);

    // And once more aside: nothing of the way back is in the way.
    database.move_aside(&machine.wanted(false)).await.unwrap();
    assert_eq!(machine.moved_sql("SELECT COUNT(*) FROM app.t"), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_moves_aside_and_back() {
    aside_and_back(Software::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_moves_aside_and_back() {
    aside_and_back(Software::Mysql).await;
}

async fn join_under_load(software: Software) {
    if !have(software) {
        return;
    }
    let ca = Ca::new();
    // The kernel connects from 127.0.0.1 to any 127.x: so that is the joiner's address, which its account is bound to.
    let a = Machine::start(&ca, software, "a", "127.0.0.2").await;
    let b = Machine::start(&ca, software, "b", "127.0.0.1").await;
    fill(&a.original_socket(), 20).await;
    let (source, replica) = (a.database(), b.database());
    source.move_aside(&a.wanted(false)).await.unwrap();
    let beats = beating(&a);
    let load = Load::start(source.backend_socket(), 200).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = load.take_worst();

    let begun = Instant::now();
    let ticket = source
        .prepare_source(&b.joiner(), a.address, pontoon_replication::Wish::Auto)
        .await
        .unwrap();
    assert!(ticket.expected_bytes > 10 << 20, "{ticket:?}");
    let mut steps: Vec<CloneStep> = Vec::new();
    let mut most = 0;
    clone_and_follow(&a, &b, &ticket, &mut |now| {
        assert!(now.bytes <= now.total, "{now:?}");
        most = most.max(now.bytes);
        if steps.last() != Some(&now.step) {
            steps.push(now.step);
        }
    })
    .await
    .unwrap();
    println!(
        "{software:?}: steps {steps:?}, {most} bytes, {:?}",
        begun.elapsed()
    );
    println!(
        "{software:?}: worst commit before {before:?}, during {:?}, over 100 ms: {}",
        load.take_worst(),
        load.slow()
    );

    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = replica.report().await;
    assert_eq!(
        (report.role, report.read_only, &report.error),
        (DatabaseRole::Replica, true, &None),
        "{report:?}"
    );
    assert!(report.lag_ms.is_some(), "{report:?}");
    let (acknowledged, failed) = load.stop().await;
    // How far it falls behind under load is the machine's business; that it catches up is ours.
    let patience = Instant::now() + Duration::from_secs(120);
    loop {
        let report = replica.report().await;
        if report.lag_ms.is_some_and(|lag| lag < 2_000) {
            break;
        }
        assert!(Instant::now() < patience, "{report:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    beats.abort();
    assert_eq!(failed, 0);
    assert_equal(&source, &replica).await;
    assert_eq!(
        b.moved_sql("SELECT COUNT(*) FROM app.ledger"),
        acknowledged.to_string()
    );
    assert_eq!(
        b.entries("pontoon-aside").len(),
        1,
        "the old data is there, renamed"
    );
    assert!(b.entries("pontoon-incoming").is_empty());
    assert_ne!(
        a.moved_sql("SELECT @@server_id"),
        b.moved_sql("SELECT @@server_id")
    );

    // A beat on the replica writes nothing: it would be a transaction of its own.
    let position = replica.position().await.unwrap();
    replica.heartbeat(Duration::from_millis(200)).await.unwrap();
    assert_eq!(replica.position().await.unwrap(), position);

    // A frozen or dead source shows as lag, and replication comes back by itself after the replica was killed.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(replica.report().await.lag_ms.is_some_and(|lag| lag >= 500));
    let mut b = b;
    b.kill_database();
    replica.ensure_running().await.unwrap();
    a.moved_sql("INSERT INTO app.ledger (writer) VALUES (99)");
    assert_equal(&source, &replica).await;

    // One thread cannot apply what many sessions commit together. A replica that an earlier version set up is not
    // restarted for that.
    let appliers = match software {
        Software::Mysql => "SELECT @@global.replica_parallel_workers",
        _ => "SELECT @@global.slave_parallel_threads",
    };
    assert_eq!(b.moved_sql(appliers), "4", "after its own start too");
    if software != Software::Mysql {
        b.moved_sql("STOP SLAVE; SET GLOBAL slave_parallel_threads = 0; START SLAVE");
        let again = replica.move_aside(&b.wanted(true)).await.unwrap();
        assert_eq!(again.interruption, Duration::ZERO);
        assert_eq!(b.moved_sql(appliers), "0");
        replica.follow(&ticket).await.unwrap();
        assert_eq!(b.moved_sql(appliers), "4");
    }

    // It leaves: its own server again, with its own settings, and the source forgets it.
    replica.move_back().await.unwrap();
    assert_eq!(replica.report().await.role, DatabaseRole::Standalone);
    source
        .forget_joiner(&"b".parse().unwrap(), b.address)
        .await
        .unwrap();
    assert_eq!(
        a.moved_sql("SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'pontoon\\_r%'"),
        "0"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_is_copied_under_load_and_followed() {
    join_under_load(Software::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_is_copied_under_load_and_followed() {
    join_under_load(Software::Mysql).await;
}
