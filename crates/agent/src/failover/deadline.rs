//! Until when writes may be sent to the primary, where its lease is limited in time (`durability = "one-copy"`).
//!
//! The leader says for how much longer, in its answer to a question. The asker counts that from the moment at which it
//! asked, on its own clock: whatever the way took makes the time shorter, never longer. Wall clocks are not compared.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pontoon_fleet::{BootMoment, Epoch, LeaseRecord, ServerName};

/// What leaders said.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(Mutex<BTreeMap<ServerName, (Epoch, Duration)>>);

impl Deadlines {
    /// `from` answered a question of the moment `asked` that it leads `epoch` for `left` more.
    pub(crate) fn heard(&self, from: &ServerName, epoch: Epoch, asked: Duration, left: Duration) {
        let until = asked.saturating_add(left);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(from);
        // A later answer of the same epoch may not shorten: an earlier promise holds until its end.
        let newer =
            before.is_none_or(|(known, moment)| *known < epoch || (*known == epoch && *moment < until));
        if newer {
            known.insert(from.clone(), (epoch, until));
        }
    }

    /// Until when writes may be sent to the leader of `lease`. Never before it has said so.
    pub(crate) fn of(&self, lease: Option<&LeaseRecord>, boot: &str) -> BootMoment {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = lease.and_then(|lease| {
            let (epoch, until) = known.get(&lease.leader)?;
            (*epoch == lease.epoch).then_some(*until)
        });
        BootMoment {
            boot: boot.to_owned(),
            ms: until.map_or(0, |until| u64::try_from(until.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(epoch: u64, leader: &str) -> LeaseRecord {
        LeaseRecord {
            epoch: Epoch(epoch),
            leader: leader.parse().unwrap(),
        }
    }

    #[test]
    fn it_counts_from_the_question_and_holds_for_that_leader_in_that_epoch() {
        let deadlines = Deadlines::default();
        let seconds = Duration::from_secs;
        let a: ServerName = "a".parse().unwrap();
        assert_eq!(
            deadlines.of(Some(&lease(3, "a")), "x").ms,
            0,
            "nobody said anything"
        );
        deadlines.heard(&a, Epoch(3), seconds(100), seconds(12));
        assert_eq!(deadlines.of(Some(&lease(3, "a")), "x").ms, 112_000);
        assert_eq!(deadlines.of(Some(&lease(4, "a")), "x").ms, 0, "another epoch");
        assert_eq!(deadlines.of(Some(&lease(3, "b")), "x").ms, 0, "another leader");
        assert_eq!(deadlines.of(None, "x").ms, 0);
        // An answer that was long on its way says less than one that overtook it.
        deadlines.heard(&a, Epoch(3), seconds(90), seconds(12));
        assert_eq!(deadlines.of(Some(&lease(3, "a")), "x").ms, 112_000);
        deadlines.heard(&a, Epoch(5), seconds(101), seconds(2));
        assert_eq!(deadlines.of(Some(&lease(5, "a")), "x").ms, 103_000);
        deadlines.heard(&a, Epoch(4), seconds(200), seconds(12));
        assert_eq!(
            deadlines.of(Some(&lease(5, "a")), "x").ms,
            103_000,
            "a past epoch says nothing"
        );
    }
}
