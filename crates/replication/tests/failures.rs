//! Against real servers: killed at every step, cut off, frozen, without tools. See FAILURES.md.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod common;

use std::time::Duration;

use common::load::{Load, fill};
use common::{Ca, Machine, Software, beating, have};
use pontoon_fleet::{Code, DatabaseRole, Refusal};
use pontoon_helper::BackupOptions;
use pontoon_helper::frame::{self, Frame};
use pontoon_replication::{CloneProgress, CloneStep, Database, SourceTicket, differences};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Not a test: the helper's process, see `Machine::start_helper`.
#[test]
#[ignore = "started by other tests"]
fn helper_process() {
    common::run_helper();
}

struct Pair {
    a: Machine,
    b: Machine,
    source: Database,
    ticket: SourceTicket,
}

async fn pair(software: Software) -> Pair {
    let ca = Ca::new();
    let a = Machine::start(&ca, software, "a", "127.0.0.2").await;
    let b = Machine::start(&ca, software, "b", "127.0.0.1").await;
    fill(&a.original_socket(), 5).await;
    b.sql(
        &b.original_socket(),
        "CREATE DATABASE precious; CREATE TABLE precious.t (id INT PRIMARY KEY)",
    );
    let source = a.database();
    source.move_aside(&a.wanted(false)).await.unwrap();
    let ticket = source
        .prepare_source(&b.joiner(), a.address, pontoon_replication::Wish::Auto)
        .await
        .unwrap();
    Pair { a, b, source, ticket }
}

impl Pair {
    fn stream(&self) -> DuplexStream {
        let source = self.a.database();
        let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let _ = source.serve_backup(&mut ours, &BackupOptions::default()).await;
        });
        theirs
    }

    async fn join(&self, stream: DuplexStream) -> Result<(), Refusal> {
        let mut seen = Vec::<CloneProgress>::new();
        let wanted = self.b.wanted(true);
        self.b
            .database()
            .clone_from(&self.ticket, &wanted, || async { Ok(stream) }, &mut |now| {
                seen.push(now)
            })
            .await
    }

    async fn assert_joined(&self) {
        let replica = self.b.database();
        let position = self.source.position().await.unwrap();
        assert!(
            replica
                .wait_for_position(&position, Duration::from_secs(30))
                .await
                .unwrap()
        );
        let left = self.source.control().checksums().await.unwrap();
        assert_eq!(
            differences(&left, &replica.control().checksums().await.unwrap()),
            []
        );
        let aside = self.b.entries("mysql.pontoon-aside");
        assert_eq!(aside.len(), 1, "{aside:?}");
        assert!(
            aside[0].join("precious").is_dir(),
            "what was there before is kept"
        );
        assert!(self.b.entries("pontoon-incoming").is_empty());
    }
}

/// The joiner's agent and helper are killed as soon as a step begins; the join is repeated.
async fn killed_at_every_step(software: Software) {
    if !have(software) {
        return;
    }
    for step in [
        CloneStep::Copying,
        CloneStep::Preparing,
        CloneStep::Activating,
        CloneStep::Following,
    ] {
        if software == Software::Mysql && step == CloneStep::Preparing {
            continue;
        }
        let mut pair = pair(software).await;
        let beats = beating(&pair.a);
        let (reached, mut reaching) = tokio::sync::mpsc::unbounded_channel();
        let (database, wanted, ticket) = (pair.b.database(), pair.b.wanted(true), pair.ticket.clone());
        let stream = pair.stream();
        let attempt = tokio::spawn(async move {
            let mut tell = |now: CloneProgress| {
                let _ = reached.send(now.step);
            };
            database
                .clone_from(&ticket, &wanted, || async { Ok(stream) }, &mut tell)
                .await
        });
        while let Some(now) = reaching.recv().await {
            if now == step {
                break;
            }
        }
        attempt.abort();
        pair.b.kill_helper();
        let killed = attempt.await.is_err_and(|error| error.is_cancelled());
        pair.b.start_helper();
        let state = pair.b.database().helper().state().await.unwrap();
        println!(
            "{software:?}: killed at {step:?} ({killed}); left: {:?}",
            state.incoming
        );
        pair.a
            .moved_sql("INSERT INTO app.ledger (writer) VALUES (1), (2)");

        pair.join(pair.stream()).await.unwrap();
        pair.assert_joined().await;
        // And once more when it is all done: nothing is copied again, nothing breaks.
        let replica = pair.b.database();
        replica.follow(&pair.ticket).await.unwrap();
        assert_eq!(replica.report().await.role, DatabaseRole::Replica);
        beats.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_of_mariadb_killed_at_every_step_is_finished_by_repeating_it() {
    killed_at_every_step(Software::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_of_mysql_killed_at_every_step_is_finished_by_repeating_it() {
    killed_at_every_step(Software::Mysql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_cut_off_or_falsified_changes_nothing() {
    if !have(Software::Mariadb) {
        return;
    }
    let mut pair = pair(Software::Mariadb).await;

    // Cut off after two megabytes.
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut whole = pair.stream();
    tokio::spawn(async move {
        let mut part = (&mut whole).take(2 << 20);
        let _ = tokio::io::copy(&mut part, &mut ours).await;
    });
    assert_eq!(pair.join(theirs).await.unwrap_err().code, Code::D003);

    // A byte is turned over on the way.
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut whole = pair.stream();
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok(mut frame) = frame::read(&mut whole).await {
            if let Frame::Data(bytes) = &mut frame {
                number += 1;
                if number == 20 {
                    bytes[1000] ^= 1;
                }
            }
            let is_last = matches!(frame, Frame::End(_));
            if frame::write(&mut ours, &frame).await.is_err() || is_last {
                break;
            }
        }
        drop(whole);
        // Stays open: the joiner must not wait for more after the last frame.
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    assert_eq!(pair.join(theirs).await.unwrap_err().code, Code::D003);

    // Not frames at all.
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { ours.write_all(&[0xff; 4096]).await });
    assert_eq!(pair.join(theirs).await.unwrap_err().code, Code::D003);

    // The backup tool dies on the source (its own database is killed): the reason comes over.
    let stream = pair.stream();
    tokio::time::sleep(Duration::from_millis(50)).await;
    pair.a.kill_database();
    let refusal = pair.join(stream).await.unwrap_err();
    assert_eq!(refusal.code, Code::D003, "{refusal:?}");
    pair.source.ensure_running().await.unwrap();

    // The joiner's own database was there all the time, as its user started it.
    assert_eq!(pair.b.database().report().await.role, DatabaseRole::Standalone);
    pair.b
        .sql(&pair.b.original_socket(), "INSERT INTO precious.t VALUES (1)");
    assert!(pair.b.entries("mysql.pontoon-aside").is_empty());
    pair.join(pair.stream()).await.unwrap();
    pair.assert_joined().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_tools_it_is_said_before_anything_moves() {
    if !have(Software::Mariadb) {
        return;
    }
    let mut pair = pair(Software::Mariadb).await;
    pair.b.kill_helper();
    pair.b.start_helper_with_path("/nonexistent");
    assert_eq!(pair.join(pair.stream()).await.unwrap_err().code, Code::D007);
    assert!(pair.b.entries("pontoon-incoming").is_empty());

    pair.b.kill_helper();
    pair.b.start_helper();
    pair.a.kill_helper();
    pair.a.start_helper_with_path("/nonexistent");
    let refusal = pair.join(pair.stream()).await.unwrap_err();
    assert_eq!(
        refusal.code,
        Code::D007,
        "the source's reason comes over: {refusal:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_that_stops_reading_does_not_stop_the_source() {
    if !have(Software::Mariadb) {
        return;
    }
    let pair = pair(Software::Mariadb).await;
    let load = Load::start(pair.source.backend_socket(), 200).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    load.take_worst();
    // Read up to three quarters, then frozen, with the connection open.
    let mut stream = pair.stream();
    let mut part = vec![0; 22 << 20];
    stream.read_exact(&mut part).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let worst = load.take_worst();
    let (_, failed) = load.stop().await;
    assert_eq!(failed, 0);
    println!("worst commit beside a frozen joiner: {worst:?}");
    assert!(worst < Duration::from_secs(3), "{worst:?}");
}

/// What MariaDB writes down of its source is several files, and a kill leaves any of them empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_killed_while_it_wrote_down_its_source_follows_again() {
    if !have(Software::Mariadb) {
        return;
    }
    let mut pair = pair(Software::Mariadb).await;
    pair.join(pair.stream()).await.unwrap();
    for file in ["relay-log.info", "pontoon-relay.index", "master.info"] {
        pair.b.kill_database();
        std::fs::write(pair.b.datadir().join(file), "").unwrap();
        let replica = pair.b.database();
        replica.ensure_running().await.unwrap();
        replica.follow(&pair.ticket).await.unwrap();
        pair.a.moved_sql(&format!(
            "CREATE DATABASE `after {file}`; CREATE TABLE `after {file}`.t (id INT PRIMARY KEY)"
        ));
        pair.assert_joined().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_start_says_why() {
    if !have(Software::Mariadb) {
        return;
    }
    let machine = Machine::start(&Ca::new(), Software::Mariadb, "a", "127.0.0.1").await;
    machine.edit_node(|node| {
        if let pontoon_helper::Run::Process { argv, .. } = &mut node.run {
            argv.push("--no-such-option=1".to_owned());
        }
    });
    let refusal = machine
        .database()
        .move_aside(&machine.wanted(false))
        .await
        .unwrap_err();
    assert_eq!(refusal.code, Code::D005);
    assert!(
        refusal
            .evidence
            .iter()
            .any(|line| line.contains("no-such-option")),
        "{refusal:?}"
    );
}

/// MariaDB listens before it is ready, and forgets for good that it was told to end in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_stopped_while_it_starts_ends() {
    if !have(Software::Mariadb) {
        return;
    }
    let machine = Machine::start(&Ca::new(), Software::Mariadb, "a", "127.0.0.1").await;
    let database = machine.database();
    database.move_aside(&machine.wanted(false)).await.unwrap();
    // Listens for that long before it is ready.
    let path = database.node().files.join("start.sql");
    let statements = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{statements}DO SLEEP(1);\n")).unwrap();
    for _ in 0..3 {
        database
            .helper()
            .stop(Duration::from_secs(120), false)
            .await
            .unwrap();
        database.ensure_running().await.unwrap();
    }
    database.control().query("SELECT 1").await.unwrap();
}
