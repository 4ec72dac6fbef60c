//! Whether the load and the origin were the limit, which would make a figure one of theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// The processor time of a thread, which notes it itself now and then.
#[derive(Clone, Default)]
pub struct Busy {
    nanos: Arc<AtomicU64>,
    turns: Arc<AtomicU64>,
}

impl Busy {
    /// Called by the thread, at each turn of its loop. Looks at the clock at each 64th.
    pub fn note(&self) {
        if self.turns.fetch_add(1, Ordering::Relaxed).is_multiple_of(64) {
            self.note_now();
        }
    }

    /// Called by the thread.
    pub fn note_now(&self) {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        let nanos = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        self.nanos.store(nanos, Ordering::Relaxed);
    }

    /// What was noted last.
    pub fn time(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}

/// Puts this thread on one core.
pub fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    // On a machine without that core nothing is pinned, which the bench has said by then.
    let _ = sched_setaffinity(None, &set);
}
