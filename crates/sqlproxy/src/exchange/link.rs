//! Ending what somebody else waits in: a client's session or a connection to a database, on one thread.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

/// Why something was ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The database is no longer the one of its epoch.
    Demoted,
    /// The process stops.
    Closing,
    /// Somebody said KILL.
    Killed,
}

/// Shared by who waits and who may end the waiting.
#[derive(Debug, Default)]
pub struct Link {
    end: Cell<Option<End>>,
    waker: RefCell<Option<Waker>>,
}

impl Link {
    /// Ends it. The first reason counts.
    pub fn end(&self, why: End) {
        if self.end.get().is_none() {
            self.end.set(Some(why));
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whether it was ended, and why.
    pub fn ended(&self) -> Option<End> {
        self.end.get()
    }

    /// Has the task of `cx` woken when it is ended. Costs nothing when it is the same task as before.
    pub fn wake_me(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &*waker {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => *waker = Some(cx.waker().clone()),
        }
    }
}
