//! When. In the modes `safe` and `quorum` time decides only how soon something happens, never whether it is right.

use std::time::Duration;

/// The lengths of time of the protocol, all measured on one server's own clock that goes on in suspend
/// (`CLOCK_BOOTTIME`). Wall clocks are never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// T: how long a lease holds.
    pub ttl: Duration,
    /// R: between two renewals.
    pub renew: Duration,
    /// Between two looks at the record.
    pub look: Duration,
    /// Q: how long a request to the store may take.
    pub request: Duration,
    /// F: how long fencing the own database takes.
    pub fence: Duration,
    /// m: for what was not thought of.
    pub margin: Duration,
    /// ε: by how many thousandths two clocks may differ in rate.
    pub drift_permille: u32,
    /// How long a replica that does not answer is waited for before the leader goes on without it.
    pub peer: Duration,
    /// How long a leader's database may answer nothing, while its process lives, before it is killed for another to take
    /// over. Longer than any stall that a busy machine should see: recovery from a kill takes longer than a short one.
    pub silence: Duration,
    /// How long a released lease is left for others before the old leader takes it back.
    pub take_back: Duration,
    /// A leader that was promoted by itself and has had no replica in sync since is not followed by another
    /// automatic promotion for this long.
    pub cascade: Duration,
}

impl Timing {
    /// For an object store over the internet: T = 15 s.
    pub fn s3() -> Timing {
        Timing {
            ttl: Duration::from_secs(15),
            renew: Duration::from_secs(3),
            look: Duration::from_secs(1),
            request: Duration::from_secs(3),
            fence: Duration::from_secs(1),
            margin: Duration::from_secs(2),
            drift_permille: 10,
            peer: Duration::from_secs(4),
            silence: Duration::from_secs(8),
            take_back: Duration::from_secs(15),
            cascade: Duration::from_secs(600),
        }
    }

    /// For etcd nearby: T = 6 s. Renewals cost little there, and often ones shorten what a leader costs that hears nobody: its
    /// last renewal may arrive, and count, after it has fallen deaf.
    pub fn etcd() -> Timing {
        Timing {
            ttl: Duration::from_secs(6),
            renew: Duration::from_millis(500),
            look: Duration::from_millis(200),
            request: Duration::from_secs(1),
            margin: Duration::from_secs(1),
            take_back: Duration::from_secs(6),
            ..Timing::s3()
        }
    }

    /// Whether a leader that loses one renewal to a slow store still renews in time: `R + 2Q ≤ T − F − m`.
    ///
    /// # Errors
    /// The rule, with the numbers.
    pub fn check(&self) -> Result<(), String> {
        let needed = self.renewal();
        let there = self.ttl.saturating_sub(self.fence + self.margin);
        if needed <= there {
            return Ok(());
        }
        Err(format!(
            "a renewal every {:?} that may take {:?} twice does not fit into a lease of {:?} less {:?} for fencing and {:?} for safety",
            self.renew, self.request, self.ttl, self.fence, self.margin
        ))
    }

    /// Within which a leader that lives renews its lease in a store that answers: `R + 2Q`.
    pub fn renewal(&self) -> Duration {
        self.renew + self.request * 2
    }

    /// Until when a lease holds whose writing was begun at `began`: before the request left, not when it was answered.
    pub fn held_until(&self, began: Duration) -> Duration {
        (began + self.ttl).saturating_sub(self.fence + self.margin)
    }

    /// From when on a challenger may take it that a lease has run out that it first saw, completely, at `seen`.
    pub fn expired_at(&self, seen: Duration) -> Duration {
        seen + self.ttl + self.ttl * self.drift_permille / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_lengths_keep_the_rule_and_a_tight_one_does_not() {
        for timing in [Timing::s3(), Timing::etcd()] {
            assert_eq!(timing.check(), Ok(()));
            let tight = Timing {
                renew: timing.ttl,
                ..timing
            };
            assert!(tight.check().unwrap_err().contains("does not fit"));
        }
    }

    #[test]
    fn a_holder_stops_before_the_slowest_challenger_may_begin() {
        let timing = Timing::s3();
        let began = Duration::from_secs(100);
        // The challenger saw the record as soon as it was written.
        assert!(timing.held_until(began) + timing.fence + timing.margin <= timing.expired_at(began));
        assert_eq!(timing.expired_at(began), Duration::from_millis(115_150));
    }
}
