//! Real stores: etcd and Ceph are fit for a lease, Garage and s3s-fs are not, and moto nearly is. A store that is not
//! installed here is skipped (`script/get-stores`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a panic is the report

mod common;

use std::time::Duration;

use common::record::record;
use common::stores::{PATIENCE, ceph, etcd, garage, moto, s3s_fs};
use pontoon_config::Credentials;
use pontoon_decide::failover::Record;
use pontoon_fleet::Code;
use pontoon_lease::probe::{Effort, Report};
use pontoon_lease::{Cell, Kept, LeaseError, LeaseStore, Place, Swap, Version, open, probe};

fn won(swap: Result<Swap<Record>, LeaseError>) -> Version {
    match swap.unwrap() {
        Swap::Won(version) => version,
        Swap::Lost(found) => panic!("lost to {found:?}"),
    }
}

/// What every store must do, in the order of a fleet's life.
async fn keeps_a_lease(cell: Box<dyn Cell>) {
    let store = Kept::new(cell);
    assert_eq!(store.read().await.unwrap(), None);
    let first = won(store.compare_and_swap(None, &record(1, "a", 1)).await);
    assert_eq!(
        store.read().await.unwrap(),
        Some((record(1, "a", 1), first.clone()))
    );
    let second = won(store.compare_and_swap(Some(&first), &record(2, "b", 2)).await);
    for stale in [None, Some(&first)] {
        let swap = store.compare_and_swap(stale, &record(3, "c", 3)).await.unwrap();
        assert_eq!(swap, Swap::Lost(Some((record(2, "b", 2), second.clone()))));
    }
}

/// Ten times as many with `PONTOON_LONG=1`.
fn rounds(usual: usize) -> usize {
    match std::env::var_os("PONTOON_LONG") {
        Some(_) => 10 * usual,
        None => usual,
    }
}

async fn races(cell: &dyn Cell, rounds: usize) -> Report {
    let report = probe(cell, "t", Effort { writers: 4, rounds }).await.unwrap();
    println!("{}", serde_json::to_string(&report).unwrap());
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn etcd_keeps_a_lease_and_takes_one_winner() {
    let Some(store) = etcd() else { return };
    keeps_a_lease(store.etcd()).await;
    let report = races(&*store.etcd(), rounds(50)).await;
    assert_eq!((report.verdict(), report.rounds), (Ok(()), rounds(50)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ceph_keeps_a_lease_and_takes_one_winner() {
    let Some(store) = ceph() else { return };
    keeps_a_lease(store.s3()).await;
    // Some that lose are answered with 500, which says nothing: it is what is there afterwards that counts.
    let report = races(&*store.s3(), rounds(20)).await;
    assert_eq!((report.verdict(), report.rounds), (Ok(()), rounds(20)));
}

/// moto looks at the condition and then writes, in threads and without a lock (`moto/s3/responses.py`): mostly one
/// wins. When two do, refusing it is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn moto_keeps_a_lease_and_is_refused_when_two_win() {
    let Some(store) = moto() else { return };
    keeps_a_lease(store.s3()).await;
    let report = races(&*store.s3(), 20).await;
    assert_eq!(report.rounds, 20);
    let several = report.create_several_winners + report.update_several_winners;
    match report.verdict() {
        Ok(()) => assert_eq!(several, 0),
        Err(refusal) => {
            assert_eq!(refusal.code, Code::F005, "{refusal:?}");
            assert!(several > 0, "{refusal:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn s3s_fs_lets_two_win_and_is_refused() {
    let Some(store) = s3s_fs() else { return };
    let refusal = races(&*store.s3(), 50).await.verdict().unwrap_err();
    assert_eq!(refusal.code, Code::F005, "{refusal:?}");
    assert!(
        refusal
            .evidence
            .iter()
            .any(|line| line.contains("were all told that they won")),
        "{refusal:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn garage_is_refused() {
    let Some(store) = garage() else { return };
    let report = races(&*store.s3(), 50).await;
    // It does not look at conditions at all.
    assert!(
        report.stale_taken > 0 && report.create_several_winners > 0,
        "{report:?}"
    );
    let refusal = report.verdict().unwrap_err();
    assert_eq!(refusal.code, Code::F006, "{refusal:?}");
    assert!(
        refusal
            .evidence
            .iter()
            .any(|line| line.contains("stale writes taken")),
        "{refusal:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_frozen_store_is_a_doubt_and_a_dead_one_no_answer() {
    let Some(store) = etcd() else { return };
    let kept = Kept::new(store.etcd());
    let first = won(kept.compare_and_swap(None, &record(1, "a", 1)).await);
    store.signal(rustix::process::Signal::STOP);
    // All its threads have to notice.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = kept
        .compare_and_swap(Some(&first), &record(1, "a", 2))
        .await
        .unwrap_err();
    assert!(matches!(error, LeaseError::Doubt(_)), "{error}");
    store.signal(rustix::process::Signal::CONT);
    // The late write has landed or not: whoever looks sees which, and nothing is guessed.
    // It may take etcd a moment to find its leader again.
    let mut answer = kept.read().await;
    for _ in 0..20 {
        if answer.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        answer = kept.read().await;
    }
    let (there, _) = answer.unwrap().unwrap();
    assert!(
        there == record(1, "a", 1) || there == record(1, "a", 2),
        "{there:?}"
    );
    store.signal(rustix::process::Signal::KILL);
    std::thread::park_timeout(Duration::from_millis(300));
    let error = kept.read().await.unwrap_err();
    assert!(matches!(error, LeaseError::Unanswered { .. }), "{error}");
}

#[tokio::test]
async fn a_port_where_something_else_listens_is_told_apart() {
    let Some(store) = moto() else { return };
    let place = Place::parse(&format!("etcd://127.0.0.1:{}", store.port), None, None).unwrap();
    let error = probe(&*open(&place, PATIENCE).unwrap(), "t", Effort::default())
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::N002, "{error:?}");
    let endpoint = format!("http://127.0.0.1:{}", store.port);
    let keys = store.dir.path().join("keys");
    std::fs::write(&keys, "access_key_id=x\nsecret_access_key=y\n").unwrap();
    let place = Place::parse(
        "s3://no-such-bucket",
        Some(&endpoint),
        Some(Credentials::File(keys)),
    )
    .unwrap();
    let error = probe(&*open(&place, PATIENCE).unwrap(), "t", Effort::default())
        .await
        .unwrap_err();
    assert!(
        error.evidence.iter().any(|line| line.contains("no bucket")),
        "{error:?}"
    );
}
