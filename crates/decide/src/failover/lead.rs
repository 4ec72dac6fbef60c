//! The leader: recover or release, drain, win an election, open, renew, hand over.

use std::time::Duration;

use pontoon_fleet::{Epoch, ServerName};

use super::node::{Handing, Seen, keeps};
use super::{Acks, Database, Effect, Members, Mode, Node, Nonce, Notice, Record, Why, Work};

impl Node {
    pub(super) fn lead(&mut self, seen: &Seen, now: Duration, fresh: Nonce, out: &mut Vec<Effect>) {
        let record = &seen.record;
        self.tell_taken_back(record, out);
        if record.policy.mode == Mode::Available && now >= self.held_until && keeps!(self, Deadline) {
            // Another may lead by now. Without a clock this could not be told; with one, it must not be risked.
            self.fence(out);
        }
        if self.silent || self.full {
            self.end_standstill(seen, now, fresh, out);
        }
        match self.database {
            Database::Running { .. } if self.killing => {}
            Database::Stopped => self.revive(seen, now, fresh, out),
            Database::Running { .. } if record.released => {
                self.swap(seen, now, fresh, out, |next| next.released = false);
            }
            Database::Running { open, .. } => {
                if self.durable.drained != Some(record.epoch) && keeps!(self, Drained) {
                    self.begin(Work::Drain(record.epoch), now, out);
                } else if record.electing {
                    self.elect(seen, now, fresh, out);
                } else if !open {
                    self.open(seen, now, fresh, out);
                } else if let Some(Handing { to, .. }) = self.handing.clone() {
                    self.begin(Work::Close(to), now, out);
                } else {
                    self.tend_replicas(seen, now, fresh, out);
                }
            }
        }
        let renewed = self.held_until + self.setup.timing.fence + self.setup.timing.margin;
        // A released lease is nobody's to renew, and its age decides when it is taken back. Nor is that of a database which
        // cannot even be killed, because its disk hangs: somebody else may have it when it has run out.
        if !record.released
            && !self.killing
            && now + self.setup.timing.ttl >= renewed + self.setup.timing.renew
        {
            let policy = self.setup.policy;
            self.swap(seen, now, fresh, out, |next| {
                next.policy = next_policy(next, policy)
            });
        }
    }

    /// The own database is dead.
    fn revive(&mut self, seen: &Seen, now: Duration, fresh: Nonce, out: &mut Vec<Effect>) {
        let record = &seen.record;
        if self.is_paused() || self.killing {
            return;
        }
        if self.durable.drained != Some(record.epoch) && !self.setup.relay_survives && keeps!(self, Drained) {
            // What was received and not applied may be lost, and with it acknowledged writes.
            self.new_life(out);
            return self.tell(Notice::Stranded, out);
        }
        if record.released {
            if now >= seen.since + self.setup.timing.take_back {
                self.swap(seen, now, fresh, out, |next| next.released = false);
            }
            return;
        }
        if self.setup.automatic
            && self.has_successor(record, now)
            && !record.electing
            && self.work.is_none()
            && now >= self.rest_until
        {
            // Faster than waiting for the own recovery. If nobody takes it, the lease is taken back.
            if self.store_is_idle() {
                self.swap(seen, now, fresh, out, |next| next.released = true);
            }
            return;
        }
        self.begin(Work::Recover, now, out);
    }

    /// Whether a replica in sync is there to take over, and could write.
    fn has_successor(&self, record: &Record, now: Duration) -> bool {
        record.sync.iter().any(|(name, life)| {
            self.counts(name)
                && self.peers.get(name).is_some_and(|heard| {
                    heard.facts.incarnation == *life
                        && self.is_direct(heard, record.epoch)
                        && (heard.facts.room || !keeps!(self, Room))
                        && now < heard.at + self.setup.timing.peer
                })
        })
    }

    /// The own database is open and answers nothing, or commits nothing for want of room. It may go on at any moment, so it
    /// is killed before the lease is released; that follows from its death. With nobody to take over it is left to its
    /// operator, who knows whether a recovery is worse than waiting. In `available` its death lets one that is silent start
    /// anew; that makes no room.
    fn end_standstill(&mut self, seen: &Seen, now: Duration, fresh: Nonce, out: &mut Vec<Effect>) {
        let open = matches!(self.database, Database::Running { open: true, .. });
        let anew = self.silent && seen.record.policy.mode == Mode::Available;
        let helps = self.has_successor(&seen.record, now) || anew;
        if !open || !helps || !self.setup.automatic || self.is_paused() || self.killing {
            return;
        }
        if !keeps!(self, KillSilent) {
            return self.swap(seen, now, fresh, out, |next| next.released = true);
        }
        let why = if self.silent {
            Notice::KilledSilent
        } else {
            Notice::KilledFull
        };
        self.kill(why, out);
    }

    /// Hears what the replicas in sync have, after they stopped receiving; the one that has the most leads.
    fn elect(&mut self, seen: &Seen, now: Duration, fresh: Nonce, out: &mut Vec<Effect>) {
        let record = &seen.record;
        let Some(own) = self.halted_at else {
            return self.begin(Work::Drain(record.epoch), now, out);
        };
        let me = self.setup.me.clone();
        let mut heard: Vec<(u64, bool, ServerName)> = vec![(own, true, me.clone())];
        for (name, life) in record.sync.iter().filter(|(name, _)| **name != me) {
            let said = self.ballot.1.get(name).filter(|_| self.ballot.0 == record.epoch);
            match said {
                Some((said_life, position)) if said_life == life => {
                    heard.push((*position, false, name.clone()))
                }
                _ => out.push(Effect::Ask(name.clone(), record.epoch)),
            }
        }
        let members = heard
            .iter()
            .filter(|(.., name)| record.sync.contains_key(name))
            .count();
        if members < record.enough().unwrap_or(0) && keeps!(self, Enough) {
            return;
        }
        let best = heard.into_iter().max();
        match best {
            Some((_, false, best)) if keeps!(self, MostAdvanced) => {
                let life = record.sync.get(&best).copied().unwrap_or_default();
                self.swap(seen, now, fresh, out, |next| {
                    next.epoch = next.epoch.next();
                    (next.leader, next.incarnation) = (best, life);
                });
            }
            _ => self.swap(seen, now, fresh, out, |next| {
                next.electing = false;
                alone(next);
            }),
        }
    }

    /// Takes writes, when nothing speaks against it any more.
    fn open(&mut self, seen: &Seen, now: Duration, fresh: Nonce, out: &mut Vec<Effect>) {
        let record = &seen.record;
        if let Some(Handing { to, until }) = self.handing.clone() {
            if now < until {
                return self.hand_over(seen, &to, now, fresh, out);
            }
            self.handing = None;
            out.push(Effect::Tell(Notice::HandOverGivenUp(to)));
        }
        if self.is_writing() {
            // Perhaps the lease is being handed over.
            return;
        }
        if !self.settled() {
            return self.swap(seen, now, fresh, out, |_| {});
        }
        if record.fragile && record.sync.is_empty() && self.gathered != Some(record.epoch) {
            return self.begin(Work::Gather(record.epoch), now, out);
        }
        if record.sync.is_empty() && !self.setup.continue_alone && record.policy.mode != Mode::Available {
            return self.tend_replicas(seen, now, fresh, out);
        }
        let replicas = &record.sync;
        let unready = !replicas.is_empty()
            && self.caught_up.as_ref() != Some(replicas)
            && keeps!(self, RestartCaughtUp);
        if unready && !self.are_there(replicas, now) {
            return self.tend_replicas(seen, now, fresh, out);
        }
        let wanted = if keeps!(self, RestoreAcks) {
            acks_of(record)
        } else {
            Acks::Alone
        };
        if self.acks.as_ref() != Some(&wanted) {
            return self.begin(Work::Acknowledge(wanted), now, out);
        }
        if unready {
            // What recovery committed was never acknowledged, and would be seen by readers and lost by a promotion.
            return self.begin(Work::CaughtUp(replicas.clone()), now, out);
        }
        if record.policy.mode == Mode::Available && now >= self.held_until && keeps!(self, Deadline) {
            return;
        }
        self.begin(Work::Open(record.epoch), now, out);
    }

    /// The own database takes no writes any more, and that replica is to lead.
    fn hand_over(
        &mut self,
        seen: &Seen,
        to: &ServerName,
        now: Duration,
        fresh: Nonce,
        out: &mut Vec<Effect>,
    ) {
        let Some(life) = self.peers.get(to).map(|heard| heard.facts.incarnation) else {
            return;
        };
        let wanted = Members::from([(to.clone(), life)]);
        if self.caught_up.as_ref() != Some(&wanted) && keeps!(self, HandOverCaughtUp) {
            return self.begin(Work::CaughtUp(wanted), now, out);
        }
        self.gives(seen.record.epoch.next(), to.clone());
        self.swap(seen, now, fresh, out, |next| {
            next.epoch = next.epoch.next();
            (next.leader, next.incarnation) = (to.clone(), life);
            next.released = false;
            alone(next);
            (next.fragile, next.loss) = (false, None);
        });
    }

    pub(super) fn switchover(&mut self, to: ServerName, now: Duration, out: &mut Vec<Effect>) {
        let leading = self.seen.as_ref().is_some_and(|seen| self.leads(&seen.record));
        let epoch = self.seen.as_ref().map(|seen| seen.record.epoch);
        let ready = self.peers.get(&to).is_some_and(|heard| {
            heard.facts.near && heard.facts.follows == epoch && now < heard.at + self.setup.timing.peer
        });
        let through = self.peers.get(&to).is_some_and(|heard| heard.facts.through);
        let open = matches!(self.database, Database::Running { open: true, .. });
        if !leading {
            self.refuse(Why::NotTheLeader, out);
        } else if !open || self.handing.is_some() || self.is_paused() {
            self.refuse(Why::Busy, out);
        } else if !self.counts(&to) {
            self.refuse(Why::Bystander, out);
        } else if through {
            self.refuse(Why::Through, out);
        } else if !ready {
            self.refuse(Why::NotReady, out);
        } else {
            self.caught_up = None;
            self.handing = Some(Handing {
                to,
                until: now + self.setup.timing.peer * 2,
            });
        }
    }

    /// A member of an election answers with its position.
    pub(super) fn asked_for_position(&mut self, from: ServerName, epoch: Epoch, out: &mut Vec<Effect>) {
        let asks =
            |seen: &Seen| seen.record.electing && seen.record.epoch == epoch && seen.record.leader == from;
        if let (true, Some(position)) = (self.seen.as_ref().is_some_and(asks), self.halted_at) {
            let incarnation = self.durable.incarnation;
            out.push(Effect::Answer {
                to: from,
                epoch,
                incarnation,
                position,
            });
        }
    }
}

/// Nobody is in sync.
pub(super) fn alone(next: &mut Record) {
    next.sync.clear();
    next.acks = 0;
    next.candidate = None;
}

/// When commits are acknowledged, by the record.
pub(super) fn acks_of(record: &Record) -> Acks {
    if record.sync.is_empty() {
        return Acks::Alone;
    }
    Acks::Of {
        members: record.sync.keys().cloned().collect(),
        needed: record.acks,
    }
}

/// The policy that the record may have: from or to [`Mode::Available`] only while nobody is in sync, so that what was
/// promised to those who are keeps its meaning. What the other two promise stands in `sync` and `acks`.
pub(super) fn next_policy(record: &Record, wanted: super::Policy) -> super::Policy {
    let other = [record.policy.mode, wanted.mode].contains(&Mode::Available);
    if record.sync.is_empty() || record.policy.mode == wanted.mode || !other {
        wanted
    } else {
        record.policy
    }
}
