//! How many connections the process may have to one database server, over all its threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use tokio::sync::Notify;

/// The places at one database server.
#[derive(Debug)]
pub struct Places {
    limit: AtomicUsize,
    taken: AtomicUsize,
    waiting: AtomicUsize,
    busy: AtomicUsize,
    /// Told when a place becomes empty: one who waits.
    pub emptied: Notify,
    /// Told when somebody begins to wait: every thread gives up a connection that it does not use.
    pub wanted: Arc<Notify>,
}

/// One connection's place; empty again when dropped.
#[derive(Debug)]
pub struct TakenPlace(Arc<Places>);

/// A statement runs at the server as long as this lives.
#[derive(Debug)]
pub struct Busy(Arc<Places>);

/// Somebody waits for a place as long as this lives.
#[derive(Debug)]
pub struct Waiting<'a>(&'a Places);

impl Places {
    /// Places for `limit` connections at once; `wanted` is told when somebody begins to wait.
    pub fn new(limit: usize, wanted: Arc<Notify>) -> Arc<Places> {
        Arc::new(Places {
            limit: limit.into(),
            taken: 0.into(),
            waiting: 0.into(),
            busy: 0.into(),
            emptied: Notify::new(),
            wanted,
        })
    }

    /// Changes the limit. Connections over a smaller one stay until they are given up.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit.max(1), Relaxed);
        self.emptied.notify_waiters();
    }

    /// The limit.
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// Connections now.
    pub fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// Statements that run at the server now, as far as this process asked them.
    pub fn busy(&self) -> usize {
        self.busy.load(Relaxed)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Whether somebody waits.
    pub fn anybody_waits(&self) -> bool {
        self.waiting() > 0
    }

    /// Takes a place if one is empty.
    pub fn take(self: &Arc<Places>) -> Option<TakenPlace> {
        let limit = self.limit.load(Relaxed);
        self.taken
            .fetch_update(SeqCst, Relaxed, |taken| (taken < limit).then_some(taken + 1))
            .ok()
            .map(|_| TakenPlace(Arc::clone(self)))
    }

    /// Takes a place for a connection that there is already, over the limit if need be.
    pub fn take_one_more(self: &Arc<Places>) -> TakenPlace {
        self.taken.fetch_add(1, SeqCst);
        TakenPlace(Arc::clone(self))
    }

    /// Says that somebody waits.
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, SeqCst);
        self.wanted.notify_waiters();
        Waiting(self)
    }
}

impl TakenPlace {
    /// Whether somebody waits for a place at that server.
    pub fn is_wanted(&self) -> bool {
        self.0.anybody_waits()
    }

    /// Says that a statement runs on the connection.
    pub fn works(&self) -> Busy {
        self.0.busy.fetch_add(1, Relaxed);
        Busy(Arc::clone(&self.0))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

impl Drop for TakenPlace {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, SeqCst);
        self.0.emptied.notify_one();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_limit_is_kept_and_who_waits_is_told() {
        let places = Places::new(2, Arc::default());
        let (first, second) = (places.take().unwrap(), places.take().unwrap());
        assert!(places.take().is_none());
        assert_eq!(places.taken(), 2);
        let waiting = places.wait();
        assert!(places.anybody_waits());
        drop(first);
        places.emptied.notified().await;
        assert!(places.take().is_some());
        let works = second.works();
        assert_eq!(places.busy(), 1);
        drop((waiting, second, works));
        assert_eq!(places.busy(), 0);
        assert!(!places.anybody_waits());
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn a_smaller_limit_holds_for_the_next() {
        let places = Places::new(3, Arc::default());
        let taken = [places.take().unwrap(), places.take().unwrap()];
        places.set_limit(1);
        assert!(places.take().is_none());
        let one_more = places.take_one_more();
        assert_eq!(places.taken(), 3);
        drop((taken, one_more));
        assert!(places.take().is_some());
    }
}
