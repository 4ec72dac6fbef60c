//! The acceptance line at this crate's level: a database of 1 GiB (or `PONTOON_BENCH_MIB`) is copied under 200 writes/s;
//! which write waited longest, and are the two servers identical?
//!
//! `cargo bench -p pontoon-replication --bench join` prints one line of JSON for each engine that is there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::load::{Load, fill};
use common::{Ca, Machine, Software, beating, have};
use pontoon_helper::BackupOptions;
use pontoon_replication::differences;

fn main() {
    if std::env::var_os("PONTOON_TEST_HELPER_ROOT").is_some() {
        return common::run_helper();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    for software in [Software::Mariadb, Software::Mysql] {
        if have(software) {
            runtime.block_on(join(software));
        }
    }
}

async fn join(software: Software) {
    let mebibytes = std::env::var("PONTOON_BENCH_MIB")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1024);
    let bytes_per_second = std::env::var("PONTOON_BENCH_MIB_PER_SECOND")
        .ok()
        .and_then(|text| text.parse::<u64>().ok())
        .map(|rate| rate << 20);
    let ca = Ca::new();
    let a = Machine::start(&ca, software, "a", "127.0.0.2").await;
    let b = Machine::start(&ca, software, "b", "127.0.0.1").await;
    fill(&a.original_socket(), mebibytes).await;
    let (source, replica) = (a.database(), b.database());
    source.move_aside(&a.wanted(false)).await.unwrap();
    let beats = beating(&a);
    let load = Load::start(source.backend_socket(), 200).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let worst_before = load.take_worst();

    let begun = Instant::now();
    let ticket = source
        .prepare_source(&b.joiner(), a.address, pontoon_replication::Wish::Auto)
        .await
        .unwrap();
    let from = a.database();
    let mut copied = 0;
    let open = || async move {
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let _ = from
                .serve_backup(&mut ours, &BackupOptions { bytes_per_second })
                .await;
        });
        Ok(theirs)
    };
    let mut tell = |now: pontoon_replication::CloneProgress| copied = copied.max(now.bytes);
    replica
        .clone_from(&ticket, &b.wanted(true), open, &mut tell)
        .await
        .unwrap();
    let followed = begun.elapsed();
    let position = source.position().await.unwrap();
    assert!(
        replica
            .wait_for_position(&position, Duration::from_secs(60))
            .await
            .unwrap()
    );
    let caught_up = begun.elapsed();
    let (worst, slow) = (load.take_worst(), load.slow());
    let (acknowledged, failed) = load.stop().await;
    beats.abort();

    let position = source.position().await.unwrap();
    assert!(
        replica
            .wait_for_position(&position, Duration::from_secs(60))
            .await
            .unwrap()
    );
    let left = source.control().checksums().await.unwrap();
    let different = differences(&left, &replica.control().checksums().await.unwrap());
    println!(
        "{{\"engine\":\"{software:?}\",\"mib\":{mebibytes},\"copied_mib\":{},\"follow_s\":{:.1},\"caught_up_s\":{:.1},\
         \"worst_write_before_ms\":{},\"worst_write_ms\":{},\"writes_over_100_ms\":{slow},\"acknowledged\":{acknowledged},\
         \"failed\":{failed},\"tables\":{},\"different\":{}}}",
        copied >> 20,
        followed.as_secs_f64(),
        caught_up.as_secs_f64(),
        worst_before.as_millis(),
        worst.as_millis(),
        left.len(),
        different.len(),
    );
    assert!(different.is_empty(), "{different:?}");
}
