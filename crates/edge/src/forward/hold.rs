//! Requests that wait while no application server can be reached.

use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::worker::Worker;

/// A request that waits for an application server to come back.
pub(super) struct Hold<'a> {
    held: &'a AtomicUsize,
    until: Instant,
    changes: tokio::sync::watch::Receiver<u64>,
}

impl<'a> Hold<'a> {
    /// `None` when there is no application at all, or as many wait as may.
    pub(super) fn begin(worker: &'a Rc<Worker>) -> Option<Hold<'a>> {
        let shared = &worker.shared;
        let servers = &worker.upstreams().servers;
        if servers.is_empty() || shared.held.fetch_add(1, Ordering::Relaxed) >= shared.tuning.hold_limit {
            if !servers.is_empty() {
                shared.held.fetch_sub(1, Ordering::Relaxed);
            }
            return None;
        }
        let mut changes = shared.health_changes.clone();
        changes.mark_unchanged();
        Some(Hold {
            held: &shared.held,
            until: Instant::now() + shared.tuning.hold,
            changes,
        })
    }

    /// Waits until it makes sense to try again; `false` when the time is over.
    pub(super) async fn wait(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.until {
            return false;
        }
        let next_try = (now + TRY_EVERY).min(self.until);
        tokio::select! {
            _ = self.changes.changed() => {}
            () = tokio::time::sleep_until(next_try) => {}
        }
        true
    }
}

/// How often a held request tries without having heard of a change.
const TRY_EVERY: Duration = Duration::from_millis(200);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }
}
