//! Lets clients begin transactions, holds them, or ends them; and counts what is under way.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pontoon_testkit::{LabError, wait_until};

/// What the clients of one kind ask before each transaction.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: AtomicU32,
    under_way: AtomicU32,
}

/// A connection that a fault has torn is noticed by its end only after a while.
const LIMIT: Duration = Duration::from_secs(180);

const HELD: u32 = 1;
const STOPPED: u32 = 2;

/// A transaction that is under way for as long as this lives.
pub(super) struct Passed<'a>(&'a Gate);

impl Gate {
    /// Lets one begin, unless they are held or have been ended.
    pub(super) fn pass(&self) -> Option<Passed<'_>> {
        // Counted before it looks: whoever holds them looks at the count after.
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let passed = Passed(self);
        (self.state.load(Ordering::SeqCst) == 0).then_some(passed)
    }

    /// Whether they have been ended.
    pub(super) fn is_stopped(&self) -> bool {
        self.state.load(Ordering::SeqCst) & STOPPED > 0
    }

    /// Lets none begin, and waits until none is under way.
    pub(super) async fn hold(&self, what: &str) -> Result<(), LabError> {
        self.state.fetch_or(HELD, Ordering::SeqCst);
        wait_until(&format!("the end of {what}"), LIMIT, async || {
            (self.under_way.load(Ordering::SeqCst) == 0).then_some(())
        })
        .await
    }

    /// Lets them begin again.
    pub(super) fn go_on(&self) {
        self.state.fetch_and(!HELD, Ordering::SeqCst);
    }

    /// Ends them.
    pub(super) fn stop(&self) {
        self.state.fetch_or(STOPPED, Ordering::SeqCst);
    }
}

impl Drop for Passed<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}
