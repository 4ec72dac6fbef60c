//! The boundary between one statement, or transaction, and the next: while the primary is about to hand over nobody
//! passes it, and who has passed it is counted.
//!
//! A session first counts itself and then looks whether it may go on; who closes the boundary first closes it and then
//! counts. So one of the two sees the other, and a count of zero behind a closed boundary is the truth.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use pontoon_fleet::HoldReport;

/// The boundary of one process.
#[derive(Debug, Default)]
pub struct Boundary {
    /// The end of the present hold in milliseconds; 0 while nothing is held.
    held_until_ms: AtomicU64,
    lanes: Mutex<Vec<Arc<Lane>>>,
}

/// The sessions of one thread beyond the boundary. On a cache line of its own: each statement writes it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Lane(AtomicU64);

/// A session beyond the boundary, as long as this lives.
#[derive(Debug)]
pub struct Passed(Arc<Lane>);

impl Boundary {
    /// A lane for one more thread.
    pub fn lane(&self) -> Arc<Lane> {
        let lane = Arc::new(Lane::default());
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.push(Arc::clone(&lane));
        lane
    }

    /// Closes it for a hold that ends at that moment, or opens it.
    pub fn hold(&self, until_ms: Option<u64>) {
        self.held_until_ms
            .store(until_ms.map_or(0, |until| until.max(1)), SeqCst);
    }

    /// Whether it is closed.
    pub fn is_held(&self) -> bool {
        self.held_until_ms.load(SeqCst) != 0
    }

    /// Passes it on that lane; `None` while it is closed.
    pub fn pass(&self, lane: &Arc<Lane>) -> Option<Passed> {
        lane.0.fetch_add(1, SeqCst);
        let passed = Passed(Arc::clone(lane));
        (!self.is_held()).then_some(passed)
    }

    /// What is under way while it is closed.
    pub fn standing(&self) -> Option<HoldReport> {
        let until_ms = match self.held_until_ms.load(SeqCst) {
            0 => return None,
            until => until,
        };
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        Some(HoldReport {
            until_ms,
            under_way: lanes.iter().map(|lane| lane.0.load(SeqCst)).sum(),
        })
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_passed_before_is_counted_and_nobody_passes_after() {
        let boundary = Boundary::default();
        let lanes = [boundary.lane(), boundary.lane()];
        let first = boundary.pass(&lanes[0]).unwrap();
        let second = boundary.pass(&lanes[1]).unwrap();
        assert_eq!(boundary.standing(), None);
        boundary.hold(Some(700));
        assert!(boundary.pass(&lanes[0]).is_none());
        let under_way = |boundary: &Boundary| boundary.standing().map(|said| (said.until_ms, said.under_way));
        assert_eq!(under_way(&boundary), Some((700, 2)));
        drop(first);
        drop(second);
        assert_eq!(under_way(&boundary), Some((700, 0)));
        boundary.hold(None);
        assert!(boundary.pass(&lanes[1]).is_some());
    }

    /// Threads that pass as fast as they can, and a boundary that closes and opens: behind a closed one with a count of
    /// zero nobody is seen.
    #[test]
    fn a_count_of_zero_is_the_truth() {
        let boundary = Boundary::default();
        let inside = AtomicU64::new(0);
        let stop = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let lane = boundary.lane();
                    while stop.load(SeqCst) == 0 {
                        if let Some(_passed) = boundary.pass(&lane) {
                            inside.fetch_add(1, SeqCst);
                            std::hint::spin_loop();
                            inside.fetch_sub(1, SeqCst);
                        } else {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            for round in 1..500 {
                boundary.hold(Some(round));
                while boundary.standing().map(|said| said.under_way) != Some(0) {
                    std::thread::yield_now();
                }
                for _ in 0..20 {
                    assert_eq!(inside.load(SeqCst), 0, "round {round}");
                }
                boundary.hold(None);
                std::thread::yield_now();
            }
            stop.store(1, SeqCst);
        });
    }
}
