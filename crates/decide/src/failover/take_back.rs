//! A hand-over that the other side cannot complete: taken back by who handed over, without an operator.
//!
//! A replica whose database dies, or gets another source, in the very moment in which the lease is handed to it has begun a
//! new life, and the record names the one before: it may lack acknowledged writes, and never leads by that record. Who handed
//! over has everything, because nobody has written since. Two things have to be known for that, each by the server whose it
//! is, and neither by one whose agent was started meanwhile:
//!
//! - *The new leader* knows that it was not open in this epoch and will not be: it saw the epoch before, did not open since,
//!   and its life is over. It says so ([`PeerFacts::declines`](super::PeerFacts)), and this stays true however late it is heard.
//! - *The one before* knows that it handed over to that server and has followed nobody since. Nothing of its history was cut
//!   off or replaced: that is done only once the new leader has drained.
//!
//! It writes itself into the record, and nobody else could: with each try to follow it begins a new life, so that what
//! another heard of it may be over when it arrives.

use std::time::Duration;

use pontoon_fleet::{Epoch, ServerName};

use super::lead::alone;
use super::node::{Seen, keeps};
use super::{Database, Durable, Effect, Node, Nonce, Notice, Record};

/// What this server has handed over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Gave {
    /// The epoch that begins with it.
    epoch: Epoch,
    /// In which of its lives is not noted: it may have been tried with more than one, and any of them may have got there.
    to: ServerName,
    /// That server has said that it will not lead by it.
    declined: bool,
}

impl Node {
    /// The epoch whose lease names this server, in which its database was not open, and will not be.
    pub fn declines(&self) -> Option<Epoch> {
        let seen = self.seen.as_ref()?;
        let epoch = seen.record.epoch;
        let named = seen.record.leader == self.setup.me && seen.witnessed;
        let never = !self.leads(&seen.record) && self.opened != Some(epoch);
        let dead = self.database == Database::Stopped && !keeps!(self, NeverOpened);
        (named && (never || dead)).then_some(epoch)
    }

    /// Notes what is about to be handed over.
    pub(super) fn gives(&mut self, epoch: Epoch, to: ServerName) {
        self.gave = Some(Gave {
            epoch,
            to,
            declined: false,
        });
    }

    /// Whether this server handed over to who leads now and has to take it back, which it does when it can. Until that is
    /// decided nothing else may happen here: a new life would make a leader of one that is over.
    pub(super) fn takes_back(
        &mut self,
        seen: &Seen,
        now: Duration,
        fresh: Nonce,
        out: &mut Vec<Effect>,
    ) -> bool {
        let record = &seen.record;
        let said = self
            .peers
            .get(&record.leader)
            .is_some_and(|heard| heard.facts.declines == Some(record.epoch));
        let handed = match &mut self.gave {
            Some(gave) if gave.epoch == record.epoch => {
                gave.declined |= said;
                gave.declined && record.leader == gave.to
            }
            _ => said && self.counts(&self.setup.me) && !keeps!(self, HandedOver),
        };
        if !handed || !self.setup.automatic || self.durable.follows == Some(record.epoch) {
            return false;
        }
        let closed = !matches!(self.database, Database::Running { open: true, .. });
        if closed && self.work.is_none() && !self.killing && !self.is_paused() && self.store_is_idle() {
            self.take_back(seen, now, fresh, out);
        }
        true
    }

    fn take_back(&mut self, seen: &Seen, now: Duration, fresh: Nonce, out: &mut Vec<Effect>) {
        let epoch = seen.record.epoch.next();
        // It follows nobody: there is nothing to drain, and it is the rightful leader also when its database dies now.
        self.remember(
            Durable {
                follows: None,
                through: false,
                drained: Some(epoch),
                ..self.durable
            },
            out,
        );
        // A try to follow may have changed it.
        (self.acks, self.caught_up) = (None, None);
        let (me, life) = (self.setup.me.clone(), self.durable.incarnation);
        self.swap(seen, now, fresh, out, |next| {
            (next.epoch, next.leader, next.incarnation) = (epoch, me, life);
            (next.released, next.electing) = (false, false);
            (next.fragile, next.loss) = (false, None);
            alone(next);
        });
    }

    /// It leads again: tells so, once.
    pub(super) fn tell_taken_back(&mut self, record: &Record, out: &mut Vec<Effect>) {
        let ended = |gave: &mut Gave| gave.epoch < record.epoch;
        if let Some(gave) = self.gave.take_if(ended)
            && gave.declined
            && gave.epoch.next() == record.epoch
        {
            out.push(Effect::Tell(Notice::TakenBack(gave.to)));
        }
    }
}
