//! A replica: fence what led before, rejoin, follow, hold still in an election.

use std::time::Duration;

use super::node::Seen;
use super::{Database, Effect, Node, Nonce, Notice, Work};

impl Node {
    pub(super) fn follow(&mut self, seen: &Seen, now: Duration, fresh: Nonce, out: &mut Vec<Effect>) {
        let record = &seen.record;
        self.fence(out);
        self.take_by_force(seen, now, fresh, out);
        let member = record.in_sync(&self.setup.me, self.durable.incarnation);
        match self.database {
            _ if self.killing || self.is_paused() => {}
            Database::Running { open: true, .. } => {}
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
                    if !receiving {
                        self.begin(Work::Resume, now, out);
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

    fn copy(&mut self, seen: &Seen, now: Duration, out: &mut Vec<Effect>) {
        if !self.setup.copy_anew {
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
}
