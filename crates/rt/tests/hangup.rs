//! SIGHUP to a process that has nothing to open anew. A file of its own: the process must have no other handler of it.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use pontoon_rt::shutdown::Shutdown;
use rustix::process::{Signal, getpid, kill_process};

#[test]
fn a_hangup_ends_nothing() {
    let shutdown = Shutdown::from_signals().unwrap();
    for _ in 0..3 {
        kill_process(getpid(), Signal::HUP).unwrap();
    }
    assert!(!shutdown.is_requested());
    kill_process(getpid(), Signal::TERM).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), shutdown.requested())
            .await
            .unwrap();
        let hurried = tokio::time::timeout(Duration::from_millis(1), shutdown.hurried()).await;
        assert!(hurried.is_err(), "a hangup counted as a request to end");
    });
}
