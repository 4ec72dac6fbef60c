//! What the proxy counts, shared by all its threads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use pontoon_fleet::{SpreadReport, SqlReport};

/// The counters of one process.
#[derive(Debug, Default)]
pub struct Counters {
    /// Client connections open now.
    pub clients: AtomicU64,
    /// Client connections taken.
    pub connections: AtomicU64,
    /// Client connections refused because no primary came in time.
    pub refused: AtomicU64,
    /// Client connections refused because there were too many.
    pub over_limit: AtomicU64,
    /// Client connections waiting for their database's greeting now.
    pub held: AtomicU64,
    /// Connections closed because their primary was replaced.
    pub demoted: AtomicU64,
    /// Connections from other proxies open now.
    pub relayed: AtomicU64,
    longest_hold_ms: AtomicU64,
}

impl Counters {
    /// Notes how long a client waited for its greeting.
    pub fn waited(&self, span: Duration) {
        self.longest_hold_ms
            .fetch_max(u64::try_from(span.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The report for the agent.
    pub fn report(
        &self,
        floor: Option<String>,
        spread: Option<SpreadReport>,
        not_listening: Vec<String>,
    ) -> SqlReport {
        SqlReport {
            clients: self.clients.load(Relaxed),
            connections_total: self.connections.load(Relaxed),
            refused_total: self.refused.load(Relaxed),
            held: self.held.load(Relaxed),
            longest_hold_ms: self.longest_hold_ms.load(Relaxed),
            floor,
            spread,
            not_listening,
            holding: None,
        }
    }
}

/// Counts something as long as it lives.
#[derive(Debug)]
pub struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    /// One more.
    pub fn new(gauge: &'a AtomicU64) -> Counted<'a> {
        gauge.fetch_add(1, Relaxed);
        Counted(gauge)
    }

    /// One more, unless there are `limit` already.
    pub fn within(gauge: &'a AtomicU64, limit: u64) -> Option<Counted<'a>> {
        let counted = Counted(gauge);
        if gauge.fetch_add(1, Relaxed) < limit {
            Some(counted)
        } else {
            None
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_and_places_come_back() {
        let gauge = AtomicU64::new(0);
        let first = Counted::within(&gauge, 2).unwrap();
        let second = Counted::within(&gauge, 2).unwrap();
        assert!(Counted::within(&gauge, 2).is_none());
        assert_eq!(gauge.load(Relaxed), 2);
        drop(first);
        assert!(Counted::within(&gauge, 2).is_some());
        drop(second);
        assert_eq!(gauge.load(Relaxed), 0);
    }
}
