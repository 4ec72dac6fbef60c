//! Requests that wait because every application server has as many as it may. First come, first served, over all threads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_fleet::QueueRules;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The line of one process.
#[derive(Debug, Default)]
pub struct Queue {
    length: AtomicUsize,
    line: Mutex<VecDeque<Arc<Notify>>>,
}

/// A place in the line; given up when dropped.
#[derive(Debug)]
pub struct Place<'a> {
    queue: &'a Queue,
    called: Arc<Notify>,
    until: Instant,
    /// It has not looked yet whether it is the first.
    fresh: bool,
}

/// How often the first in line looks without having been called: a server may have come back, or been added.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Queue {
    /// Whether nobody waits: then nobody is overtaken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.length.load(Ordering::Acquire)
    }

    /// A place at the end of the line; `None` when as many wait as may.
    pub fn join(&self, rules: &QueueRules) -> Option<Place<'_>> {
        let mut line = self.line();
        if line.len() >= rules.size as usize {
            return None;
        }
        let called = Arc::new(Notify::new());
        line.push_back(Arc::clone(&called));
        self.length.store(line.len(), Ordering::Release);
        Some(Place {
            queue: self,
            called,
            until: Instant::now() + rules.wait,
            fresh: true,
        })
    }

    /// A request has ended somewhere: the first in line may try.
    pub fn call(&self) {
        if !self.is_empty()
            && let Some(first) = self.line().front()
        {
            first.notify_one();
        }
    }

    fn line(&self) -> MutexGuard<'_, VecDeque<Arc<Notify>>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Waits until it is this one's turn to try; `false` when the time is over.
    pub async fn turn(&mut self) -> bool {
        if std::mem::take(&mut self.fresh) && self.is_first() {
            return true;
        }
        loop {
            let now = Instant::now();
            if now >= self.until {
                return false;
            }
            let look_at = (now + LOOK_EVERY).min(self.until);
            // Who is called is the first; who looks may be.
            let _ = tokio::time::timeout_at(look_at, self.called.notified()).await;
            if self.is_first() {
                return true;
            }
        }
    }

    fn is_first(&self) -> bool {
        let line = self.queue.line();
        line.front().is_some_and(|first| Arc::ptr_eq(first, &self.called))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut line = self.queue.line();
        line.retain(|other| !Arc::ptr_eq(other, &self.called));
        self.queue.length.store(line.len(), Ordering::Release);
        drop(line);
        // More than one place may have become free, and a call may have come to the one that leaves.
        self.queue.call();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(size: u32, seconds: u64) -> QueueRules {
        QueueRules {
            size,
            wait: Duration::from_secs(seconds),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn first_come_first_served() {
        let queue = Queue::default();
        let mut places: Vec<Place<'_>> = (0..3).filter_map(|_| queue.join(&rules(3, 60))).collect();
        assert!(queue.join(&rules(3, 60)).is_none(), "as many as may");
        assert!(places[0].turn().await);
        assert!(
            tokio::time::timeout(Duration::from_secs(5), places[1].turn())
                .await
                .is_err()
        );
        places.remove(0);
        assert!(places[0].turn().await && !places[1].is_first());
        // Who leaves from the middle leaves no gap.
        places.remove(0);
        assert!(places[0].turn().await);
        places.clear();
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_not_lost_with_who_leaves() {
        let queue = Queue::default();
        let first = queue.join(&rules(9, 60)).unwrap();
        let mut second = queue.join(&rules(9, 60)).unwrap();
        second.fresh = false;
        queue.call();
        drop(first);
        let called = tokio::time::timeout(LOOK_EVERY / 2, second.turn()).await;
        assert_eq!(called, Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_longer_than_allowed() {
        let queue = Queue::default();
        let _first = queue.join(&rules(9, 3600)).unwrap();
        let mut second = queue.join(&rules(9, 5)).unwrap();
        let begun = Instant::now();
        assert!(!second.turn().await);
        assert_eq!(begun.elapsed().as_secs(), 5);
    }
}
