//! The work of failover on real servers: killed primaries, drained replicas, cut binary logs. See FAILURES.md.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod common;

use std::time::{Duration, Instant};

use std::sync::Arc;

use common::fleet::{Deaf, Pair, Writers, missing, name, rounds};
use common::{Software, have};
use pontoon_decide::failover::{Acks, Outcome, Work};
use pontoon_fleet::Epoch;
use pontoon_replication::Wanted;
use pontoon_replication::work::{Peer, Works};
use rustix::process::Signal;

/// Not a test: the helper's process, see `Machine::start_helper`.
#[test]
#[ignore = "started by other tests"]
fn helper_process() {
    common::run_helper();
}

/// The primary is killed under writes again and again; the replica takes over; the old primary comes back by cutting
/// its binary log.
async fn kill_rounds(software: Software) {
    if !have(software) {
        return;
    }
    let mut pair = Pair::start(software).await;
    let (mut leader, mut replica) = ("a", "b");
    let (mut acked_in_all, mut cut_in_all) = (0, 0);
    for round in 1..=rounds(10) {
        let writers = Writers::start(&pair.socket(leader), 8, round);
        let target = 300 + u64::from(round) * 37 % 400;
        let begun = Instant::now();
        let mut beats = 0;
        let first = pair.member(leader).worker.standing().await.unwrap().position;
        loop {
            pair.member(leader).worker.beat().await.unwrap();
            beats += 1;
            let now = pair.member(leader).worker.standing().await.unwrap().position;
            if now >= first + target {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "writers write");
        }
        pair.kill(leader).await;
        assert_eq!(pair.member(leader).worker.standing().await, None);
        let acked = writers.end().await;
        let killed = Instant::now();

        pair.promote(replica).await;
        let promoted = killed.elapsed();
        assert_eq!(missing(&pair.socket(replica), &acked).await, [], "round {round}");

        let kept = |pair: &Pair| {
            let datadir = pair.member(leader).machine.lock().unwrap().datadir();
            let entries = std::fs::read_dir(datadir).unwrap().flatten();
            entries
                .filter(|entry| entry.file_name().to_string_lossy().contains("pontoon-cut"))
                .count()
        };
        let before = kept(&pair);
        pair.must(leader, Work::Rejoin(name(replica), Epoch(pair.epoch)))
            .await;
        let cut = kept(&pair) - before;
        pair.sync(replica, leader).await;
        pair.assert_equal(replica, leader).await;
        println!(
            "{software:?} round {round}: {} acknowledged, {beats} beats, promoted in {promoted:?}, back in {:?}, {cut} cut",
            acked.values().sum::<u32>(),
            killed.elapsed() - promoted,
        );
        acked_in_all += acked.values().map(|count| u64::from(*count)).sum::<u64>();
        cut_in_all += cut;
        (leader, replica) = (replica, leader);
    }
    println!("{software:?}: {acked_in_all} acknowledged, 0 lost, {cut_in_all} tails cut off");
    assert!(acked_in_all > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_primaries_are_killed_and_nothing_acknowledged_is_lost() {
    kill_rounds(Software::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_primaries_are_killed_and_nothing_acknowledged_is_lost() {
    kill_rounds(Software::Mysql).await;
}

/// A hand-over under writes: nobody is told of a write that is not there, and the old primary follows without a cut.
async fn hand_over(software: Software) {
    if !have(software) {
        return;
    }
    let mut pair = Pair::start(software).await;
    let (mut leader, mut replica) = ("a", "b");
    for round in 1..=3 {
        let writers = Writers::start(&pair.socket(leader), 4, round);
        let before = pair.member(leader).worker.standing().await.unwrap().position;
        wait_until("writes", async || {
            pair.member(leader).worker.standing().await.unwrap().position > before + 50
        })
        .await;
        // A busy machine's replica comes near only when less is written.
        pair.until(leader, Work::Close(name(replica)), || writers.slow_down())
            .await;
        assert!(!pair.member(leader).worker.standing().await.unwrap().open);
        pair.until(leader, Work::CaughtUp(pair.life(replica)), || {})
            .await;
        pair.promote(replica).await;
        let acked = writers.end().await;
        assert_eq!(missing(&pair.socket(replica), &acked).await, [], "round {round}");
        pair.must(leader, Work::Follow(name(replica), Epoch(pair.epoch)))
            .await;
        pair.sync(replica, leader).await;
        pair.assert_equal(replica, leader).await;
        (leader, replica) = (replica, leader);
    }
    if software == Software::Mariadb {
        // Root writes although the server is closed: nobody acknowledges it, and following does not end it as if.
        pair.until(leader, Work::Close(name(replica)), || {}).await;
        pair.until(leader, Work::CaughtUp(pair.life(replica)), || {})
            .await;
        pair.promote(replica).await;
        let socket = pair.socket(leader);
        let late = tokio::spawn(async move {
            let mut root = common::fleet::connect(&socket).await.unwrap();
            mysql_async::prelude::Queryable::query_drop(
                &mut root,
                "INSERT INTO app.acked VALUES (999, 1, 'late')",
            )
            .await
        });
        wait_until("a commit that waits", async || {
            let waiting = "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_wait_sessions'";
            pair.sql(leader, waiting).ends_with('1')
        })
        .await;
        let follow = Work::Follow(name(replica), Epoch(pair.epoch));
        assert_eq!(pair.work(leader, follow).await, Outcome::Failed);
        assert!(late.await.unwrap().is_err());
        pair.must(leader, Work::Rejoin(name(replica), Epoch(pair.epoch)))
            .await;
        pair.sync(replica, leader).await;
        pair.assert_equal(replica, leader).await;
        (leader, replica) = (replica, leader);
    }

    // The only acknowledging replica stops being one, on its leader's word, and is one again.
    let clients = match software {
        Software::Mariadb => "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_clients'",
        Software::Mysql => "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_source_clients'",
    };
    for yes in [false, true] {
        assert!(pair.member(replica).worker.acknowledge(yes).await);
        wait_until("the replica to connect anew", async || {
            pair.sql(leader, clients).ends_with(if yes { '1' } else { '0' })
        })
        .await;
    }
    pair.sync(leader, replica).await;

    shut_out(&pair, leader, replica).await;
    accounts_wait(&pair, leader, replica).await;

    // What a dead agent left in the database is ended by the next one's first look.
    let database = pair.member(leader).worker.database().clone();
    let mut left = database.control().session().await.unwrap();
    let hangs = tokio::spawn(async move { left.query("SELECT SLEEP(600)", Duration::from_secs(300)).await });
    let sleeping = "SELECT COUNT(*) FROM information_schema.processlist WHERE info = 'SELECT SLEEP(600)'";
    wait_until("a statement that hangs", async || {
        pair.sql(leader, sleeping) == "1"
    })
    .await;
    let wanted = pair.member(leader).machine.lock().unwrap().wanted(false);
    let next = pontoon_replication::work::Worker::new(database, wanted);
    assert!(next.standing().await.unwrap().answers);
    wait_until("its end", async || pair.sql(leader, sleeping) == "0").await;
    hangs.abort();

    // Each epoch stands in the history, and every start is read-only and follows nobody.
    let epochs = "SELECT GROUP_CONCAT(epoch ORDER BY epoch) FROM pontoon.epochs";
    let all: Vec<String> = (1..=pair.epoch).map(|epoch| epoch.to_string()).collect();
    assert_eq!(pair.sql(replica, epochs), all.join(","));
    let life = pair.life(replica);
    pair.kill(replica).await;
    pair.member(replica)
        .worker
        .database()
        .helper()
        .start()
        .await
        .unwrap();
    let facts = pair.member(replica).worker.standing().await.unwrap();
    assert!(
        facts.answers && !facts.open && !facts.receiving && !facts.applying,
        "{facts:?}"
    );
    assert_eq!(pair.sql(replica, "SELECT @@event_scheduler"), "OFF");
    pair.member(replica).worker.kill().await;
    assert_eq!(pair.member(replica).worker.standing().await, None);

    // What was received outlives that where the protocol is told so.
    if pair.member(replica).worker.relay_survives() {
        pair.must(replica, Work::Recover).await;
        pair.must(replica, Work::Resume).await;
        pair.until(leader, Work::CaughtUp(life), || {}).await;
    } else {
        pair.must(replica, Work::Rejoin(name(leader), Epoch(pair.epoch)))
            .await;
    }
    pair.sync(leader, replica).await;

    // A start that is given up leaves nothing behind, whenever it is given up.
    for patience_ms in [1, 20, 60, 150, 400] {
        pair.kill(replica).await;
        let peers = pair.peers(replica);
        let recovering = pair.member(replica).worker.carry_out(Work::Recover, &peers);
        let _ = tokio::time::timeout(Duration::from_millis(patience_ms), recovering).await;
        pair.member(replica).worker.kill().await;
        let datadir = pair.member(replica).machine.lock().unwrap().datadir();
        for _ in 0..20 {
            assert_eq!(
                pontoon_helper::find::server_in(&datadir),
                None,
                "{patience_ms} ms"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    settings_start_nothing(&pair, replica).await;
}

/// What starts is for failover to say, also when the database needs other settings: one that is down stays down, and a
/// restart that is overtaken by a kill starts nothing.
async fn settings_start_nothing(pair: &Pair, replica: &str) {
    let member = pair.member(replica);
    let (database, datadir) = (member.worker.database(), member.machine.lock().unwrap().datadir());
    let mut wanted = Wanted {
        failover: true,
        ..member.machine.lock().unwrap().wanted(true)
    };
    let listens = wanted.private;
    for kill_after_ms in [0, 200] {
        // Where it listens is set at a start only.
        wanted.private = if wanted.private.is_some() { None } else { listens };
        member.worker.kill().await;
        let kept = database.keep_aside(&wanted).await.unwrap();
        assert_eq!(kept.interruption, Duration::ZERO);
        assert_eq!(pontoon_helper::find::server_in(&datadir), None);

        database.helper().start().await.unwrap();
        wait_until("an answer", async || database.answers().await).await;
        assert_eq!(
            database.keep_aside(&wanted).await.unwrap().interruption,
            Duration::ZERO
        );
        wanted.private = if wanted.private.is_some() { None } else { listens };
        let (kept, ()) = tokio::join!(database.keep_aside(&wanted), async {
            tokio::time::sleep(Duration::from_millis(kill_after_ms)).await;
            member.worker.kill().await;
        });
        println!("killed after {kill_after_ms} ms: {kept:?}");
        // It may have been told to start already: then it is asked something, and is gone.
        if let Err(refusal) = kept {
            assert_eq!(refusal.code, pontoon_fleet::Code::N002, "{refusal}");
        }
        // A kill that comes after all is done ends the server like any other.
        assert_eq!(
            pontoon_helper::find::server_in(&datadir),
            None,
            "{kill_after_ms} ms"
        );
    }
    let other = database.helper().restart(1, Duration::from_secs(1)).await;
    assert_eq!(other.unwrap_err().code, pontoon_fleet::Code::N003);
    assert_eq!(pontoon_helper::find::server_in(&datadir), None);
}

/// A statement about accounts that waits for an acknowledgement lets nobody log in. The primary can do without its replica
/// all the same; an agent that was not there before has to kill it.
async fn accounts_wait(pair: &Pair, leader: &str, replica: &str) {
    let member = pair.member(leader);
    let begun = pair.sql(leader, "SELECT COUNT(*) FROM app.acked");
    pair.member(replica).worker.kill().await;
    let waiting = |user: &str| {
        let socket = pair.socket(leader);
        let statement = format!("CREATE USER {user}@localhost IDENTIFIED BY 'late-Password-1'");
        tokio::spawn(async move {
            let mut root = common::fleet::connect(&socket).await?;
            mysql_async::prelude::Queryable::query_drop(&mut root, statement).await
        })
    };
    let waits = waiting("late");
    // Whether it waits cannot be asked for when nobody is let in.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waits.is_finished());
    pair.must(leader, Work::Acknowledge(Acks::Alone)).await;
    waits.await.unwrap().unwrap();

    pair.must(replica, Work::Rejoin(name(leader), Epoch(pair.epoch)))
        .await;
    pair.sync(leader, replica).await;
    if std::env::var_os("PONTOON_LONG").is_none() {
        println!("SKIPPED: an agent without that connection is played in the long form only: PONTOON_LONG=1");
        return;
    }
    pair.member(replica).worker.kill().await;
    let waits = waiting("later");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waits.is_finished());
    let (database, wanted) = {
        let machine = member.machine.lock().unwrap();
        (machine.database(), machine.wanted(false))
    };
    let next = pontoon_replication::work::Worker::new(Arc::new(database), wanted);
    let peers = pair.peers(leader);
    let mut attempts = 0;
    while next.standing().await.is_some_and(|_| attempts < 5) {
        attempts += 1;
        let alone = next.carry_out(Work::Acknowledge(Acks::Alone), &peers).await;
        if alone == Outcome::Done {
            break;
        }
    }
    println!("{:?}: {attempts} attempts without the connection", pair.software);
    drop(waits);
    if next.standing().await.is_none() {
        pair.must(leader, Work::Recover).await;
        pair.must(leader, Work::Open(Epoch(pair.epoch))).await;
    }
    for user in ["late", "later"] {
        let there = format!("SELECT COUNT(*) FROM mysql.user WHERE user = '{user}'");
        assert_eq!(pair.sql(leader, &there), "1", "{user}");
    }
    assert_eq!(pair.sql(leader, "SELECT COUNT(*) FROM app.acked"), begun);
    pair.must(replica, Work::Rejoin(name(leader), Epoch(pair.epoch)))
        .await;
    pair.sync(leader, replica).await;
}

/// A replica that acknowledged and cannot be asked to stop may not come back by itself: its word would count for another's.
async fn shut_out(pair: &Pair, leader: &str, replica: &str) {
    let words = match pair.software {
        Software::Mariadb => "Rpl_semi_sync_master",
        Software::Mysql => "Rpl_semi_sync_source",
    };
    let status = |what: &str| pair.sql(leader, &format!("SHOW GLOBAL STATUS LIKE '{words}_{what}'"));
    let mut peers = pair.peers(leader);
    let address = peers.address;
    peers.servers.insert(
        name("x"),
        Peer {
            address,
            port: 1,
            delayed: false,
        },
    );
    let deaf = Arc::new(Deaf {
        ask: peers.ask.clone(),
        silent: name(replica),
        deaf: true.into(),
        ghost: name("x"),
    });
    peers.ask = deaf.clone();
    let works = &pair.member(leader).worker;
    let of_x = Work::Acknowledge(Acks::Of {
        members: [name("x")].into(),
        needed: 1,
    });
    assert_eq!(works.carry_out(of_x, &peers).await, Outcome::Done);
    assert!(status("clients").ends_with('0'), "{}", status("clients"));
    wait_until("it is refused", async || {
        let facts = pair.member(replica).worker.standing().await.unwrap();
        facts.error.is_some_and(|error| error.contains("locked"))
    })
    .await;
    let socket = pair.socket(leader);
    let waits = tokio::spawn(async move {
        let mut root = common::fleet::connect(&socket).await.unwrap();
        mysql_async::prelude::Queryable::query_drop(
            &mut root,
            "INSERT INTO app.acked VALUES (998, 1, 'waits')",
        )
        .await
    });
    wait_until("a commit that waits", async || {
        !status("wait_sessions").ends_with('0')
    })
    .await;
    works.let_back(&peers).await;
    assert!(
        pair.member(replica)
            .worker
            .standing()
            .await
            .unwrap()
            .error
            .is_some()
    );

    // It answers again: it comes back as one whose word does not count.
    deaf.deaf.store(false, std::sync::atomic::Ordering::Relaxed);
    works.let_back(&peers).await;
    wait_until("it receives again", async || {
        let there = pair.member(replica).worker.standing().await.unwrap();
        let here = works.standing().await.unwrap();
        there.error.is_none() && there.position >= here.position
    })
    .await;
    assert!(status("clients").ends_with('0') && !status("wait_sessions").ends_with('0'));
    assert!(!waits.is_finished());
    pair.must(leader, Work::Acknowledge(Acks::Alone)).await;
    waits.await.unwrap().unwrap();
    pair.sync(leader, replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_hands_over_and_starts_closed() {
    hand_over(Software::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_hands_over_and_starts_closed() {
    hand_over(Software::Mysql).await;
}

/// What was received and not applied is not lost by a promotion; what was committed alone is not taken for cut off.
async fn nothing_received_is_lost(software: Software) {
    if !have(software) {
        return;
    }
    let mut pair = Pair::start(software).await;
    let stop = match software {
        Software::Mariadb => "STOP SLAVE SQL_THREAD",
        Software::Mysql => "STOP REPLICA SQL_THREAD",
    };
    // The replica stands still: beats hang, each in a row of its own, and go on with it. Then nobody beats, and it says so.
    pair.member("b")
        .machine
        .lock()
        .unwrap()
        .signal_database(Signal::STOP);
    let mut hung = 0;
    while hung < 2 {
        hung += u32::from(pair.member("a").worker.beat().await.is_err());
    }
    pair.member("b")
        .machine
        .lock()
        .unwrap()
        .signal_database(Signal::CONT);
    wait_until("a beat", async || pair.member("a").worker.beat().await.is_ok()).await;
    pair.sync("a", "b").await;
    wait_until("a growing lag", async || {
        let facts = pair.member("b").worker.standing().await.unwrap();
        facts.behind_ms.is_some_and(|behind| behind > 500)
    })
    .await;

    // The replica receives, acknowledges and does not apply; then the primary dies.
    pair.sql("b", stop);
    let writers = Writers::start(&pair.socket("a"), 4, 1);
    let before = pair.member("a").worker.standing().await.unwrap().position;
    wait_until("writes", async || {
        pair.member("a").worker.standing().await.unwrap().position > before + 300
    })
    .await;
    pair.kill("a").await;
    let acked = writers.end().await;
    assert_eq!(pair.sql("b", "SELECT COUNT(*) FROM app.acked"), "0");
    let halted = pair.must("b", Work::Halt).await;
    pair.promote("b").await;
    assert_eq!(missing(&pair.socket("b"), &acked).await, []);
    let acknowledged: u64 = acked.values().map(|count| u64::from(*count)).sum();
    assert!(acknowledged > 100 && matches!(halted, Outcome::At(position) if position >= acknowledged));
    pair.must("a", Work::Rejoin(name("b"), Epoch(pair.epoch))).await;
    pair.sync("b", "a").await;

    // Now b commits alone, dies, and a leads without that: b has committed what a lacks, and must not follow.
    pair.must("b", Work::Acknowledge(Acks::Alone)).await;
    pair.must("a", Work::Halt).await;
    pair.sql(
        "b",
        "INSERT INTO app.acked VALUES (900, 1, 'alone'), (900, 2, 'alone')",
    );
    pair.sql("b", "INSERT INTO app.acked VALUES (901, 1, 'alone')");
    pair.kill("b").await;
    pair.promote("a").await;
    pair.sql("a", "INSERT INTO app.acked VALUES (900, 1, 'another')");
    let outcome = pair.work("b", Work::Rejoin(name("a"), Epoch(pair.epoch))).await;
    let reason = pair.member("b").worker.reason().unwrap();
    println!("{software:?}: {reason}");
    assert_eq!(outcome, Outcome::Diverged, "{reason}");
    assert_eq!(
        pair.member("b").worker.standing().await,
        None,
        "it is left stopped"
    );

    // A copy helps; the old data is there, renamed.
    let aside = || {
        pair.member("b")
            .machine
            .lock()
            .unwrap()
            .entries("pontoon-aside")
            .len()
    };
    let before = aside();
    pair.must("b", Work::Copy(name("a"), Epoch(pair.epoch))).await;
    assert_eq!(aside(), before + 1);
    pair.sync("a", "b").await;
    pair.assert_equal("a", "b").await;

    // A transaction of somebody on the replica itself: it runs, and is not let follow.
    pair.sql("b", match software {
        Software::Mariadb => "INSERT INTO app.counters VALUES (77, 7)",
        Software::Mysql => {
            "SET GLOBAL super_read_only = 0; INSERT INTO app.counters VALUES (77, 7); SET GLOBAL super_read_only = 1"
        }
    });
    let outcome = pair.work("b", Work::Follow(name("a"), Epoch(pair.epoch))).await;
    assert_eq!(
        outcome,
        Outcome::Diverged,
        "{:?}",
        pair.member("b").worker.reason()
    );
    // Nor one whose leader has not drained yet: that may be asked again.
    *pair.member("a").drained.lock().unwrap() = None;
    let outcome = pair.work("b", Work::Follow(name("a"), Epoch(pair.epoch))).await;
    assert_eq!(outcome, Outcome::Failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_loses_nothing_received_and_knows_what_diverged() {
    nothing_received_is_lost(Software::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_loses_nothing_received_and_knows_what_diverged() {
    nothing_received_is_lost(Software::Mysql).await;
}

async fn wait_until(what: &str, mut there: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !there().await {
        assert!(begun.elapsed() < Duration::from_secs(120), "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
