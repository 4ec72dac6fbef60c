//! The leader and its replicas: who is in sync, and when a commit is acknowledged.
//!
//! Two rules, and everything else is patience. *Acknowledgements may change* to `needed` of `members` only when those
//! are in `sync` and `needed` is not less than `acks`; to «alone», only when `sync` is empty. *`sync` may change* to
//! nobody at any time; to a superset with no more `acks` at any time; to anything else when acknowledgements come from
//! its members only, enough of them, and all of them have had everything since.

use std::collections::BTreeSet;
use std::time::Duration;

use pontoon_fleet::ServerName;

use super::lead::{acks_of, alone};
use super::node::{Seen, keeps};
use super::{Acks, Effect, Members, Mode, Node, Nonce, Record, Work};

impl Node {
    /// Brings `sync` and the acknowledgements one step nearer to what the policy wants of the replicas that there are.
    pub(super) fn tend_replicas(&mut self, seen: &Seen, now: Duration, fresh: Nonce, out: &mut Vec<Effect>) {
        let record = &seen.record;
        if !self.settled() {
            return self.swap(seen, now, fresh, out, |_| {});
        }
        if !self.free(now) || !self.store_is_idle() {
            return;
        }
        let policy = self.setup.policy;
        if policy.mode == Mode::Available && !record.sync.is_empty() {
            // Commits wait for nobody any more; first nobody may rely on it that they did.
            return self.swap(seen, now, fresh, out, |next| {
                alone(next);
                next.policy = policy;
            });
        }
        let (wanted, needed) = self.wanted(record, now);
        if self.is_young(now) && record.sync.keys().any(|name| !self.peers.contains_key(name)) {
            // Not heard of yet is not gone.
            return;
        }
        let have: BTreeSet<&ServerName> = record.sync.keys().collect();
        if wanted == record.sync && needed == record.acks {
            return self.acknowledge(acks_of(record), now, out);
        }
        if wanted.is_empty() {
            // Without replicas. If that is not allowed, commits wait until one is back.
            if !self.setup.continue_alone {
                return;
            }
            if !keeps!(self, SwapBeforeAlone) && self.acks != Some(Acks::Alone) {
                return self.acknowledge(Acks::Alone, now, out);
            }
            return self.swap(seen, now, fresh, out, alone);
        }
        let superset = !record.sync.is_empty()
            && record
                .sync
                .iter()
                .all(|(name, life)| wanted.get(name) == Some(life));
        if superset && (wanted != record.sync || needed < record.acks) {
            let acks = needed.min(record.acks);
            return self.swap(seen, now, fresh, out, |next| {
                (next.sync, next.acks) = (wanted, acks)
            });
        }
        let members: BTreeSet<ServerName> = match have.is_empty() {
            true => wanted.keys().cloned().collect(),
            false => wanted
                .keys()
                .filter(|name| have.contains(name))
                .cloned()
                .collect(),
        };
        let at_least = needed.max(record.acks);
        if members.len() < usize::from(at_least) {
            return match u8::try_from(members.len()) {
                Ok(fewer) if fewer > 0 && fewer < record.acks => {
                    self.swap(seen, now, fresh, out, |next| next.acks = fewer);
                }
                _ => self.swap(seen, now, fresh, out, alone),
            };
        }
        let through = Acks::Of {
            members,
            needed: at_least,
        };
        if self.acks.as_ref() != Some(&through) {
            // Commits that wait for one who is gone may be with the next one already, which says so of new ones only: they
            // would wait for ever, and all others behind them.
            let waits = record.sync.is_empty() && self.acks != Some(Acks::Alone);
            if waits && self.setup.continue_alone {
                return self.acknowledge(Acks::Alone, now, out);
            }
            return self.acknowledge(through, now, out);
        }
        if self.caught_up.as_ref() != Some(&wanted) && keeps!(self, CatchUpBeforeSync) {
            return self.begin(Work::CaughtUp(wanted), now, out);
        }
        self.swap(seen, now, fresh, out, |next| {
            (next.sync, next.acks, next.fragile) = (wanted, needed, false);
        });
    }

    fn acknowledge(&mut self, acks: Acks, now: Duration, out: &mut Vec<Effect>) {
        if self.acks.as_ref() != Some(&acks) {
            self.begin(Work::Acknowledge(acks), now, out);
        }
    }

    /// Who should be in sync, and how many of them acknowledge.
    fn wanted(&self, record: &Record, now: Duration) -> (Members, u8) {
        let mut follow = self.peers.iter().filter(|(name, heard)| {
            let in_sync = record.sync.contains_key(*name);
            self.counts(name)
                && self.is_direct(heard, record.epoch)
                && !heard.facts.leaving
                && (heard.facts.near || in_sync)
                // Commits would wait for it in vain; where they may not go on alone it is better than nobody.
                && (heard.facts.room || in_sync || !self.setup.continue_alone)
                && now < heard.at + self.setup.timing.peer
                && now >= heard.rest_until
        });
        let member =
            |(name, heard): (&ServerName, &super::node::Heard)| (name.clone(), heard.facts.incarnation);
        let members: Members = match record.policy.mode {
            Mode::Available => Members::new(),
            Mode::Quorum => follow.map(member).collect(),
            Mode::Safe => {
                // Whoever is in sync stays; else the candidate, else the first by name.
                let order = |name: &ServerName| {
                    (
                        !record.sync.contains_key(name),
                        record.candidate.as_ref() != Some(name),
                    )
                };
                let first = follow.by_ref().min_by_key(|(name, _)| order(name));
                first.map(member).into_iter().collect()
            }
        };
        let most = match record.policy.mode {
            Mode::Available => 0,
            Mode::Safe => 1,
            Mode::Quorum => record.policy.acks.max(1),
        };
        let needed = u8::try_from(members.len()).map_or(most, |count| most.min(count));
        (members, needed)
    }

    /// These did not catch up: left alone for a while, so that commits do not wait for them.
    pub(super) fn slow(&mut self, members: &Members, now: Duration) {
        let rest_until = now + self.setup.timing.peer;
        for name in members.keys() {
            if let Some(heard) = self.peers.get_mut(name) {
                heard.rest_until = rest_until;
            }
        }
        if members.keys().any(|name| !self.peers.contains_key(name)) {
            self.rest_until = self.rest_until.max(now + self.setup.timing.peer / 8);
        }
    }

    /// Commits wait for those in sync, in vain. Going on without them ends that, and they are asked again later. Without the
    /// leave to go on alone the database counts as one that stands still when it lasts: one of those in sync takes over.
    pub(super) fn unacknowledged(&mut self, now: Duration) {
        let leads = self.seen.as_ref().filter(|seen| self.leads(&seen.record));
        let Some(members) = leads.map(|seen| seen.record.sync.clone()) else {
            return;
        };
        if self.setup.continue_alone {
            return self.slow(&members, now);
        }
        let timing = &self.setup.timing;
        let still = |(_, last): &(Duration, Duration)| now < *last + timing.peer / 4;
        let (since, _) = self.in_vain.filter(still).unwrap_or((now, now));
        // Before this was said for the first time it had lasted for as long as a replica is waited for.
        let long = now.saturating_sub(since) + timing.peer >= timing.silence;
        // Whoever takes over needs the store.
        let answers = self.hears_the_store(now);
        self.in_vain = Some((since, now));
        self.silent |= long && answers;
    }

    /// Whether these replicas are there, in these lives, and were not too slow lately.
    pub(super) fn are_there(&self, members: &Members, now: Duration) -> bool {
        members.iter().all(|(name, life)| {
            self.peers.get(name).is_some_and(|heard| {
                heard.facts.incarnation == *life
                    && now >= heard.rest_until
                    && now < heard.at + self.setup.timing.peer
            })
        })
    }
}
