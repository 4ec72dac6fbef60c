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

use common::fleet::{Pair, Writers, missing, name, rounds};
use common::{Software, have};
use pontoon_decide::failover::Work;
use pontoon_fleet::Epoch;
use pontoon_replication::work::Works;

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
        pair.member(leader).machine.lock().unwrap().kill_database();
        pair.member(leader).worker.stopped().await;
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
