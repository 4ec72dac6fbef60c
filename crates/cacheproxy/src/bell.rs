//! Wakes the one task that listens, on the same thread. Tokio's `Notify` does so between threads, for a lock at each turn;
//! here every request rings twice.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// See the top. One that is rung while nobody listens is heard by who listens next.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Cell<bool>,
    listener: RefCell<Option<Waker>>,
}

impl Bell {
    /// Wakes who listens.
    pub fn ring(&self) {
        if !self.rung.replace(true)
            && let Some(waker) = self.listener.borrow().as_ref()
        {
            waker.wake_by_ref();
        }
    }

    /// Until it is rung, or has been since it was heard last.
    pub async fn heard(&self) {
        poll_fn(|context| {
            if self.rung.replace(false) {
                return Poll::Ready(());
            }
            let mut listener = self.listener.borrow_mut();
            match listener.as_mut() {
                Some(waker) => waker.clone_from(context.waker()),
                None => *listener = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[tokio::test]
    async fn what_was_rung_is_heard_once() {
        let bell = Rc::new(Bell::default());
        bell.ring();
        bell.ring();
        bell.heard().await;
        let other = Rc::clone(&bell);
        let local = tokio::task::LocalSet::new();
        let waits = local.spawn_local(async move { other.heard().await });
        local
            .run_until(async {
                tokio::task::yield_now().await;
                assert!(!waits.is_finished());
                bell.ring();
                waits.await.unwrap();
            })
            .await;
    }
}
