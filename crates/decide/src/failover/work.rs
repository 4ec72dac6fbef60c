//! What it means for a node that work on its database has ended.

use std::time::Duration;

use super::{Database, Durable, Effect, Node, Notice, Outcome, Position, Work};

impl Node {
    pub(super) fn worked(&mut self, outcome: Outcome, now: Duration, out: &mut Vec<Effect>) {
        let Some(work) = self.work.take() else { return };
        let done = matches!(outcome, Outcome::Done | Outcome::At(_));
        if !done {
            self.rest_until = now + self.setup.timing.peer / 8;
        }
        let is_copy = matches!(work, Work::Copy(..));
        let running = |open, receiving| Database::Running { open, receiving };
        match (work, done) {
            (Work::Recover, true) => self.database = running(false, false),
            (Work::Acknowledge(acks), true) => (self.acks, self.caught_up) = (Some(acks), None),
            // Some of it may have been set.
            (Work::Acknowledge(_), false) => (self.acks, self.caught_up) = (None, None),
            (Work::CaughtUp(members), true) => self.caught_up = Some(members),
            (Work::CaughtUp(members), false) => self.slow(&members, now),
            (Work::Open(_), true) => self.database = running(true, false),
            (Work::Close(_), true) => {
                self.database = running(false, false);
                if let Some(handing) = &mut self.handing {
                    // Closing took as long as it took.
                    handing.until = now + self.setup.timing.peer * 2;
                }
            }
            (Work::Close(to), false) => {
                self.handing = None;
                out.push(Effect::Tell(Notice::HandOverGivenUp(to)));
            }
            (Work::Open(_), false) => self.handing = None,
            (Work::Drain(epoch), true) => {
                self.database = running(false, false);
                self.halted_at = at(outcome);
                self.remember(
                    Durable {
                        drained: Some(epoch),
                        follows: None,
                        through: false,
                        ..self.durable
                    },
                    out,
                );
            }
            (Work::Gather(epoch), true) => self.gathered = Some(epoch),
            (Work::Resume, true) => self.database = running(false, true),
            (Work::Halt, true) => {
                self.database = running(false, false);
                self.halted_at = at(outcome);
            }
            (Work::Rejoin(_, epoch) | Work::Follow(_, epoch) | Work::Copy(_, epoch), true) => {
                self.database = running(false, true);
                (self.diverged, self.halted_at, self.acks) = (false, None, None);
                self.copy_wanted &= !is_copy;
                self.remember(
                    Durable {
                        follows: Some(epoch),
                        through: false,
                        ..self.durable
                    },
                    out,
                );
            }
            (Work::Through(_, epoch), true) => {
                self.database = running(false, true);
                self.remember(
                    Durable {
                        follows: Some(epoch),
                        through: true,
                        ..self.durable
                    },
                    out,
                );
            }
            // It follows the leader meanwhile.
            (Work::Through(..), false) => self.source_fit = Some(now + self.setup.timing.peer * 2),
            (Work::Rejoin(..) | Work::Follow(..), false) => self.diverged |= outcome == Outcome::Diverged,
            (
                Work::Recover | Work::Resume | Work::Drain(_) | Work::Gather(_) | Work::Halt | Work::Copy(..),
                false,
            ) => {}
        }
    }
}

fn at(outcome: Outcome) -> Option<Position> {
    match outcome {
        Outcome::At(position) => Some(position),
        Outcome::Done | Outcome::Failed | Outcome::Diverged => None,
    }
}
