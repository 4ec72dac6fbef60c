//! A replica: fence what led before, rejoin, follow, hold still in an election.

use std::time::Duration;

use pontoon_fleet::ServerName;

use super::node::Seen;
use super::{Database, Effect, Node, Nonce, Notice, Why, Work};

impl Node {
    pub(super) fn follow(&mut self, seen: &Seen, now: Duration, fresh: Nonce, out: &mut Vec<Effect>) {
        let record = &seen.record;
        self.fence(out);
        self.take_by_force(seen, now, fresh, out);
        if self.takes_back(seen, now, fresh, out) {
            return;
        }
        let member = record.in_sync(&self.setup.me, self.durable.incarnation);
        match self.database {
            _ if self.killing || self.is_paused() => {}
            Database::Running { open: true, .. } => {}
            // A copy comes from who leads and is open; while that is not decided this one may be needed.
            _ if self.copy_wanted && !record.electing && !record.released => self.copy(seen, now, out),
            // Its word is needed, so nothing that it received may get lost: no other source yet.
            Database::Running { .. } if record.electing && member => {
                if self.halted_at.is_none() {
                    self.begin(Work::Halt, now, out);
                }
                self.challenge(seen, now, fresh, out);
            }
            Database::Running { receiving, .. } => {
                let follows = self.durable.follows == Some(record.epoch);
                if follows && (receiving || (member && self.setup.relay_survives)) {
                    self.challenge(seen, now, fresh, out);
                    match receiving {
                        true => self.choose_source(seen, now, out),
                        false => self.begin(Work::Resume, now, out),
                    }
                } else if self.diverged {
                    self.copy(seen, now, out);
                } else if self.free(now) && !record.electing {
                    // Another source: what was received and not applied is lost.
                    self.new_life(out);
                    self.begin(Work::Follow(record.leader.clone(), record.epoch), now, out);
                }
            }
            Database::Stopped if member && self.setup.relay_survives => {
                self.begin(Work::Recover, now, out);
            }
            Database::Stopped if record.electing => {}
            Database::Stopped if self.diverged => self.copy(seen, now, out),
            Database::Stopped => {
                if self.free(now) {
                    self.new_life(out);
                    self.begin(Work::Rejoin(record.leader.clone(), record.epoch), now, out);
                }
            }
        }
    }

    /// Through its source, once that has been fit for a while and the leader does not count on this copy any more; back to the
    /// leader when the source is lost. Each way loses what was received and not applied: a new life.
    fn choose_source(&mut self, seen: &Seen, now: Duration, out: &mut Vec<Effect>) {
        let record = &seen.record;
        let heard = |name: &ServerName| {
            let heard = self.peers.get(name);
            heard.filter(|heard| now < heard.at + self.setup.timing.peer)
        };
        let own = self.setup.source.clone();
        let source = own.filter(|source| *source != record.leader);
        let through = self.durable.through;
        let fit = source
            .as_ref()
            .and_then(heard)
            .is_some_and(|heard| heard.facts.follows == Some(record.epoch) && (through || heard.facts.near));
        // Without a leader to go to it stays where it is.
        let lost = through && !fit && !self.is_young(now) && heard(&record.leader).is_some();
        self.source_fit = self.source_fit.or(Some(now)).filter(|_| fit);
        let timing = &self.setup.timing;
        let (begin, go) = match self.source_fit {
            Some(since) => {
                let begin = since + timing.peer;
                (begin, begin + timing.look * 2 + timing.request)
            }
            None => (Duration::MAX, Duration::MAX),
        };
        // What it may have sent to lead would make a leader of a life that is over.
        if record.electing || record.released || self.is_writing() || !self.settled() {
            return;
        }
        self.yields = !through && now >= begin;
        if !self.free(now) {
            return;
        }
        if lost {
            self.new_life(out);
            self.begin(Work::Follow(record.leader.clone(), record.epoch), now, out);
        } else if let (false, true, Some(source)) = (through, now >= go, source)
            && !record.in_sync(&self.setup.me, self.durable.incarnation)
        {
            self.new_life(out);
            self.begin(Work::Through(source, record.epoch), now, out);
        }
    }

    fn copy(&mut self, seen: &Seen, now: Duration, out: &mut Vec<Effect>) {
        if !self.setup.copy_anew && !self.copy_wanted {
            return self.tell(Notice::NeedsCopy, out);
        }
        if self.free(now) {
            self.new_life(out);
            self.begin(
                Work::Copy(seen.record.leader.clone(), seen.record.epoch),
                now,
                out,
            );
        }
    }

    /// The copy has transactions that the leader lacks: it is not promoted any more, whoever acknowledged what to whom. It
    /// may go on receiving; what it has alone stays until it is copied anew.
    pub(super) fn has_diverged(&mut self, out: &mut Vec<Effect>) {
        let follows = self.seen.as_ref().is_some_and(|seen| {
            seen.record.leader != self.setup.me && self.durable.follows == Some(seen.record.epoch)
        });
        if follows && self.work.is_none() && !self.diverged {
            self.diverged = true;
            self.new_life(out);
        }
    }

    /// It follows in another way than it should. To follow anew loses what was received and not applied: a new life, after
    /// which nobody counts on it until it has caught up.
    pub(super) fn is_astray(&mut self, out: &mut Vec<Effect>) {
        let follows = self.seen.as_ref().is_some_and(|seen| {
            seen.record.leader != self.setup.me && self.durable.follows == Some(seen.record.epoch)
        });
        if follows && self.work.is_none() && !self.is_paused() {
            self.new_life(out);
        }
    }

    /// An operator's word: what it was on that it gave up on may be mended.
    pub(super) fn try_again(&mut self, out: &mut Vec<Effect>) {
        let may = self
            .seen
            .as_ref()
            .is_some_and(|seen| seen.record.leader != self.setup.me);
        match (may, self.is_paused()) {
            (true, false) => (self.diverged, self.rest_until) = (false, Duration::ZERO),
            (false, _) if self.seen.is_some() => self.refuse(Why::AlreadyTheLeader, out),
            _ => self.refuse(Why::Busy, out),
        }
    }

    /// An operator's word, also from before this agent's life: it is obeyed once the record is known and nobody paused this.
    pub(super) fn copy_anew(&mut self, yes: bool, out: &mut Vec<Effect>) {
        let leads = self
            .seen
            .as_ref()
            .is_some_and(|seen| seen.record.leader == self.setup.me);
        match yes && leads {
            true => self.refuse(Why::AlreadyTheLeader, out),
            false => self.copy_wanted = yes,
        }
    }
}
