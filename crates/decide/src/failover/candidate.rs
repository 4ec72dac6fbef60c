//! A replica that would lead: whether it may, when, and the compare-and-swap that decides.

use std::time::Duration;

use super::lead::alone;
use super::node::{Seen, keeps};
use super::{Database, Durable, Effect, Loss, Mode, Node, Nonce, Record, Why};

impl Node {
    /// Promotes itself, if it may and it is time.
    pub(super) fn challenge(&mut self, seen: &Seen, now: Duration, fresh: Nonce, out: &mut Vec<Effect>) {
        let record = &seen.record;
        if self.setup.automatic
            && self.counts(&self.setup.me)
            && self.may_lead(seen, now)
            && self.is_time(seen, now)
        {
            let (me, life) = (self.setup.me.clone(), self.durable.incarnation);
            // Of several in sync an election finds the one that has everything.
            let in_sync = record.in_sync(&me, life);
            let loss = (!in_sync).then(|| self.loss(now));
            self.swap(seen, now, fresh, out, |next| {
                next.epoch = next.epoch.next();
                (next.leader, next.incarnation) = (me, life);
                (next.released, next.fragile, next.loss) = (false, true, loss);
                if record.sync.len() > 1 {
                    next.electing = true;
                } else {
                    alone(next);
                }
            });
        }
    }

    fn may_lead(&self, seen: &Seen, now: Duration) -> bool {
        let record = &seen.record;
        match record.policy.mode {
            Mode::Safe | Mode::Quorum => {
                record.in_sync(&self.setup.me, self.durable.incarnation) || !keeps!(self, Eligible)
            }
            Mode::Available => {
                // When the leader was last heard of by the store, not now: it may have been dead since.
                self.lag.is_some_and(|lag| {
                    seen.since.saturating_sub(lag.beat) <= record.policy.max_lag || !keeps!(self, Near)
                }) && (!record.fragile || now >= seen.epoch_since + self.setup.timing.cascade)
            }
        }
    }

    /// What this server would lack as a leader.
    fn loss(&self, now: Duration) -> Loss {
        Loss {
            window: self.lag.map(|lag| now.saturating_sub(lag.beat)),
            known: self.lag.map_or(0, |lag| lag.missing),
        }
    }

    /// Whether every acknowledged write is here, without asking anybody: of several in sync each may have acknowledged what
    /// the others lack.
    fn has_everything(&self, record: &Record) -> bool {
        record.in_sync(&self.setup.me, self.durable.incarnation)
            && (usize::from(record.acks) >= record.sync.len() || !keeps!(self, NamedLoss))
    }

    fn is_time(&self, seen: &Seen, now: Duration) -> bool {
        let record = &seen.record;
        if record.released || !keeps!(self, Patience) {
            return true;
        }
        // Others wait for the candidate a little, so that two do not elect at once.
        let first = record
            .candidate
            .as_ref()
            .is_none_or(|name| *name == self.setup.me)
            && !self.durable.through;
        let courtesy = if first {
            Duration::ZERO
        } else {
            self.setup.timing.renew
        };
        now >= self.setup.timing.expired_at(seen.since) + courtesy && self.hears_the_store(now)
    }

    /// Whether the store answers, and has for long enough that a leader that lives would have renewed. After an outage
    /// both ask at once, and whoever comes first wins: the leader must have its turn.
    pub(super) fn hears_the_store(&self, now: Duration) -> bool {
        let patience = self.setup.timing.renewal();
        self.answers.is_some_and(|answers| {
            now <= answers.last + patience && answers.again.is_none_or(|again| now >= again + patience)
        })
    }

    /// An operator's word: lead, although something may be lost.
    pub(super) fn force(&mut self, accept_loss: u64, now: Duration, out: &mut Vec<Effect>) {
        let timing = &self.setup.timing;
        // What an old record says of who is in sync is no word about a loss.
        let recent = |answers: super::node::Answers| now <= answers.last + timing.look + timing.request;
        let Some(seen) = self.seen.clone().filter(|_| self.answers.is_some_and(recent)) else {
            return self.refuse(Why::Busy, out);
        };
        if self.leads(&seen.record) {
            return self.refuse(Why::AlreadyTheLeader, out);
        }
        if !self.counts(&self.setup.me) {
            return self.refuse(Why::Bystander, out);
        }
        if self.diverged && accept_loss != u64::MAX {
            // What it has alone would become everybody's, and what it lacks nobody can count.
            return self.refuse(Why::Diverged, out);
        }
        match self.loses_more(&seen, accept_loss) {
            None => (self.forced, self.copy_wanted) = (Some(accept_loss), false),
            Some(why) => self.refuse(why, out),
        }
    }

    /// Why not, when more would be lost than was accepted.
    fn loses_more(&self, seen: &Seen, accepted: u64) -> Option<Why> {
        let loss = if self.has_everything(&seen.record) {
            Some(0)
        } else {
            // A leader that has renewed since went on writing, nobody here knows how much.
            let counted = self.lag.filter(|lag| lag.beat >= seen.since);
            counted.map(|lag| lag.missing)
        };
        // What is not known must be named all the same: by a number that no loss can be over.
        (loss.unwrap_or(u64::MAX) > accepted).then_some(Why::Loss(loss))
    }

    pub(super) fn take_by_force(&mut self, seen: &Seen, now: Duration, fresh: Nonce, out: &mut Vec<Effect>) {
        let Some(accepted) = self.forced else {
            return;
        };
        if !self.store_is_idle() || !self.free(now) {
            return;
        }
        // The record may be another than the one that the operator's word was judged by.
        if let Some(why) = self.loses_more(seen, accepted) {
            self.forced = None;
            return self.refuse(why, out);
        }
        let epoch = seen.record.epoch.next();
        if self.database == Database::Stopped && !self.setup.relay_survives {
            // What it had received is gone: there is nothing to drain, and it starts as it is. Another's epoch of that number
            // would not be this one.
            self.remember(
                Durable {
                    drained: Some(epoch),
                    ..self.durable
                },
                out,
            );
        }
        let (me, life) = (self.setup.me.clone(), self.durable.incarnation);
        let loss = (!self.has_everything(&seen.record)).then(|| self.loss(now));
        self.swap(seen, now, fresh, out, |next| {
            (next.epoch, next.leader, next.incarnation, next.loss) = (epoch, me, life, loss);
            (next.released, next.electing, next.fragile) = (false, false, true);
            alone(next);
        });
    }
}
