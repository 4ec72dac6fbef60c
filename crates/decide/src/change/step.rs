//! The transitions. See [`super`] for the protocol.

use std::collections::BTreeSet;
use std::time::Duration;

use pontoon_fleet::{Code, Refusal, Revision, ServerName};

use super::{
    Attempt, Change, ChangeId, Committed, Effect, Event, HOLD, Message, Node, Outcome, PATIENCE, RESEND, Slot,
};

/// One step of one server. `now` is its own clock, which never goes back.
pub fn step(mut node: Node, event: Event, now: Duration) -> (Node, Vec<Effect>) {
    let mut out = Vec::new();
    node.forget_expired(now);
    match event {
        Event::Propose {
            number,
            text,
            members,
        } => node.propose(number, text, members, now, &mut out),
        Event::Validated { id, refusal } => node.validated(&id, refusal, now, &mut out),
        Event::Tick => {}
        Event::Received { from, message } => match message {
            Message::Prepare { change } => node.prepare(&from, change, now, &mut out),
            Message::Vote {
                id,
                incarnation,
                refusal,
            } => node.vote(from, &id, incarnation, refusal, now, &mut out),
            Message::Decide {
                id,
                revision,
                digest,
                voted,
                incarnation,
            } if id.coordinator == from => {
                node.decide(&id, revision, &digest, &voted, incarnation, &mut out);
            }
            Message::Undecidable { id, refusal } if from == node.keeper => {
                if node
                    .attempt
                    .as_ref()
                    .is_some_and(|attempt| attempt.change.id == id)
                {
                    node.give_up(Outcome::Refused(refusal), &mut out);
                }
            }
            Message::Abort { id } if id.coordinator == from => node.close(&id),
            Message::Commit { committed } => node.adopt(&from, committed, &mut out),
            Message::Fetch => out.push(node.tell(from)),
            Message::Active { revision, digest } => node.compare(from, revision, &digest, &mut out),
            Message::Decide { .. } | Message::Undecidable { .. } | Message::Abort { .. } => {}
        },
    }
    node.keep_going(now, &mut out);
    (node, out)
}

impl Node {
    fn forget_expired(&mut self, now: Duration) {
        if self.slot.as_ref().is_some_and(|slot| slot.expires <= now) {
            self.slot = None;
        }
    }

    fn propose(
        &mut self,
        number: u64,
        text: String,
        members: BTreeSet<ServerName>,
        now: Duration,
        out: &mut Vec<Effect>,
    ) {
        let id = ChangeId {
            coordinator: self.me.clone(),
            number,
        };
        let finished = |outcome| Effect::Finished {
            id: id.clone(),
            outcome,
        };
        if let Some(other) = self.slot.as_ref().map(|slot| &slot.change).or(self.coordinates()) {
            return out.push(finished(Outcome::Refused(busy(other))));
        }
        if text == self.active.text {
            return out.push(finished(Outcome::Unchanged(self.active.revision)));
        }
        if !members.contains(&self.keeper) {
            return out.push(finished(Outcome::Refused(keeper_must_stay(&self.keeper))));
        }
        let (base, base_digest) = (self.active.revision, self.active.digest());
        let change = Change {
            id: id.clone(),
            base,
            base_digest,
            text,
            members,
        };
        self.attempt = Some(Attempt {
            change: change.clone(),
            yes: Default::default(),
            deciding: false,
            gives_up: now + PATIENCE,
            resend: now,
        });
        self.prepare(&id.coordinator, change, now, out);
    }

    fn prepare(&mut self, from: &ServerName, change: Change, now: Duration, out: &mut Vec<Effect>) {
        let over = self
            .closed
            .get(from)
            .is_some_and(|number| change.id.number <= *number);
        if change.id.coordinator != *from || over {
            return;
        }
        if change.base > self.active.revision {
            // This server missed something. It asks, and says yes when it is asked again.
            return self.send(from, Message::Fetch, out);
        }
        if change.base != self.active.revision || change.base_digest != self.active.digest() {
            let refusal = Refusal::new(Code::P001, "the fleet changed since this change was begun")
                .because(format!(
                    "{} is at revision {}, the change is to {}",
                    self.me, self.active.revision, change.base
                ))
                .next("see what would change now", "pontoon plan");
            return self.answer(&change.id, Some(refusal), now, out);
        }
        if !change.members.contains(&self.keeper) {
            return self.answer(&change.id, Some(keeper_must_stay(&self.keeper)), now, out);
        }
        match &self.slot {
            Some(slot) if slot.change.id == change.id => {
                if slot.valid {
                    self.answer(&change.id, None, now, out);
                }
            }
            Some(slot) => {
                let refusal = busy(&slot.change);
                self.answer(&change.id, Some(refusal), now, out);
            }
            None => {
                self.slot = Some(Slot {
                    change: change.clone(),
                    expires: now + HOLD,
                    valid: false,
                });
                out.push(Effect::Validate(change));
            }
        }
    }

    fn validated(&mut self, id: &ChangeId, refusal: Option<Refusal>, now: Duration, out: &mut Vec<Effect>) {
        let Some(slot) = self.slot.as_mut().filter(|slot| slot.change.id == *id) else {
            return;
        };
        match &refusal {
            None => slot.valid = true,
            Some(_) => self.slot = None,
        }
        self.answer(id, refusal, now, out);
    }

    /// Tells the coordinator, which may be this server.
    fn answer(&mut self, id: &ChangeId, refusal: Option<Refusal>, now: Duration, out: &mut Vec<Effect>) {
        if id.coordinator == self.me {
            self.vote(self.me.clone(), id, self.incarnation, refusal, now, out);
        } else {
            let message = Message::Vote {
                id: id.clone(),
                incarnation: self.incarnation,
                refusal,
            };
            self.send(&id.coordinator, message, out);
        }
    }

    fn vote(
        &mut self,
        from: ServerName,
        id: &ChangeId,
        incarnation: u64,
        refusal: Option<Refusal>,
        now: Duration,
        out: &mut Vec<Effect>,
    ) {
        let Some(attempt) = self
            .attempt
            .as_mut()
            .filter(|attempt| attempt.change.id == *id && !attempt.deciding)
        else {
            return;
        };
        let voters = attempt.change.voters(&self.keeper);
        if !voters.contains(&from) {
            return; // a server that is taken out, or one that is not in yet, has no say
        }
        if let Some(refusal) = refusal {
            return self.give_up(Outcome::Refused(by_server(&from, refusal)), out);
        }
        attempt.yes.insert(from, incarnation);
        if voters.iter().all(|voter| attempt.yes.contains_key(voter)) {
            attempt.deciding = true;
            attempt.resend = now;
        }
    }

    fn decide(
        &mut self,
        id: &ChangeId,
        revision: Revision,
        digest: &str,
        voted: &BTreeSet<ServerName>,
        incarnation: u64,
        out: &mut Vec<Effect>,
    ) {
        if self.me != self.keeper {
            return;
        }
        if self.active.includes(revision, digest) {
            // Asked again: the answer was lost.
            return out.push(self.tell(id.coordinator.clone()));
        }
        let held = self.slot.as_ref().filter(|slot| {
            let change = &slot.change;
            slot.valid
                && change.id == *id
                && change.base == self.active.revision
                && super::digest(&change.text) == digest
                && change.voters(&self.keeper).is_subset(voted)
                && incarnation == self.incarnation
        });
        let Some(slot) = held else {
            let refusal = Refusal::new(
                Code::P005,
                "the change was no longer held when it was to be decided",
            )
            .because(format!(
                "{} holds another one, took too long, or was restarted",
                self.me
            ))
            .next("see what is active and what would change", "pontoon plan");
            self.close(id);
            if id.coordinator == self.me {
                self.give_up(Outcome::Refused(refusal), out);
            } else {
                self.send(
                    &id.coordinator,
                    Message::Undecidable {
                        id: id.clone(),
                        refusal,
                    },
                    out,
                );
            }
            return;
        };
        let change = slot.change.clone();
        let mut others: BTreeSet<_> = self
            .active
            .members
            .union(&change.voters(&self.keeper))
            .cloned()
            .collect();
        others.remove(&self.me);
        self.activate(self.active.then(&change), out);
        out.extend(others.into_iter().map(|server| self.tell(server)));
    }

    /// Takes up what is active on a peer, when it descends from what is active here.
    fn adopt(&mut self, from: &ServerName, committed: Committed, out: &mut Vec<Effect>) {
        let (revision, digest) = (self.active.revision, self.active.digest());
        if committed.revision > revision && committed.includes(revision, &digest) {
            // The keeper decides and is never behind: a peer that knows more than it has made it up.
            if self.me != self.keeper {
                self.activate(committed, out);
            }
        } else if committed.revision >= revision && !committed.includes(revision, &digest) {
            out.push(Effect::Forked {
                peer: from.clone(),
                revision: committed.revision,
            });
        }
    }

    fn activate(&mut self, committed: Committed, out: &mut Vec<Effect>) {
        out.push(Effect::Activate(committed.clone()));
        self.active = committed;
        // Whatever was held was to change a revision that is history now.
        if let Some(slot) = self.slot.take() {
            self.close(&slot.change.id);
        }
        let Some(attempt) = &self.attempt else { return };
        let (id, revision) = (attempt.change.id.clone(), attempt.change.base.next());
        if self
            .active
            .includes(revision, &super::digest(&attempt.change.text))
        {
            self.attempt = None;
            out.push(Effect::Finished {
                id,
                outcome: Outcome::Activated(revision),
            });
        } else {
            let refusal = Refusal::new(Code::P005, "another change was first")
                .because(format!(
                    "revision {} became active meanwhile",
                    self.active.revision
                ))
                .next("see what would change now", "pontoon plan");
            self.give_up(Outcome::Refused(refusal), out);
        }
    }

    fn compare(&mut self, peer: ServerName, revision: Revision, digest: &str, out: &mut Vec<Effect>) {
        if revision > self.active.revision {
            self.send(&peer, Message::Fetch, out);
        } else if revision < self.active.revision {
            out.push(self.tell(peer));
        } else if digest != self.active.digest() {
            out.push(Effect::Forked { peer, revision });
        }
    }

    /// Sends again what was not answered, and gives up when it takes too long.
    fn keep_going(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let Some(attempt) = &mut self.attempt else { return };
        if now >= attempt.gives_up {
            let voters = attempt.change.voters(&self.keeper);
            let silent: Vec<_> = voters
                .iter()
                .filter(|voter| !attempt.yes.contains_key(*voter))
                .collect();
            let outcome = if attempt.deciding {
                let refusal = Refusal::new(Code::P004, format!("{} did not confirm the change", self.keeper))
                    .because("every server had agreed; the change is active or it is not")
                    .next("see which revision is active", "pontoon status");
                Outcome::Unknown(refusal)
            } else {
                let mut refusal =
                    Refusal::new(Code::P004, "not every server answered, so nothing was changed");
                for server in silent {
                    refusal =
                        refusal.because(format!("{server} did not answer within {} s", PATIENCE.as_secs()));
                }
                Outcome::Refused(refusal.next("see who is there", "pontoon status"))
            };
            return self.give_up(outcome, out);
        }
        if now < attempt.resend {
            return;
        }
        attempt.resend = now + RESEND;
        let (change, me, keeper) = (attempt.change.clone(), self.me.clone(), self.keeper.clone());
        if attempt.deciding {
            let voted = attempt.yes.keys().cloned().collect();
            let (revision, digest) = (change.base.next(), super::digest(&change.text));
            let incarnation = attempt.yes.get(&keeper).copied().unwrap_or_default();
            if keeper == me {
                self.decide(&change.id, revision, &digest, &voted, incarnation, out);
            } else {
                let id = change.id;
                self.send(
                    &keeper,
                    Message::Decide {
                        id,
                        revision,
                        digest,
                        voted,
                        incarnation,
                    },
                    out,
                );
            }
        } else {
            let silent: Vec<_> = change
                .voters(&keeper)
                .into_iter()
                .filter(|voter| *voter != me && !attempt.yes.contains_key(voter))
                .collect();
            for server in silent {
                self.send(
                    &server,
                    Message::Prepare {
                        change: change.clone(),
                    },
                    out,
                );
            }
        }
    }

    /// Ends this server's own attempt.
    fn give_up(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        let Some(attempt) = self.attempt.take() else {
            return;
        };
        let id = attempt.change.id.clone();
        for server in attempt
            .change
            .voters(&self.keeper)
            .into_iter()
            .filter(|server| *server != self.me)
        {
            self.send(&server, Message::Abort { id: id.clone() }, out);
        }
        self.close(&id);
        out.push(Effect::Finished { id, outcome });
    }

    /// Remembers that an attempt is over, so that a late copy of its messages cannot bring it back.
    fn close(&mut self, id: &ChangeId) {
        if self.slot.as_ref().is_some_and(|slot| slot.change.id == *id) {
            self.slot = None;
        }
        let last = self.closed.entry(id.coordinator.clone()).or_insert(id.number);
        *last = (*last).max(id.number);
    }

    fn tell(&self, to: ServerName) -> Effect {
        Effect::Send {
            to,
            message: Message::Commit {
                committed: self.active.clone(),
            },
        }
    }

    fn send(&self, to: &ServerName, message: Message, out: &mut Vec<Effect>) {
        out.push(Effect::Send {
            to: to.clone(),
            message,
        });
    }
}

fn busy(other: &Change) -> Refusal {
    Refusal::new(Code::P005, "another change is being made")
        .because(format!(
            "{} is changing revision {}",
            other.id.coordinator, other.base
        ))
        .next("wait for it, then see what would change", "pontoon plan")
}

fn keeper_must_stay(keeper: &ServerName) -> Refusal {
    Refusal::new(
        Code::J008,
        format!("{keeper} cannot be taken out of the fleet: it keeps the configuration"),
    )
    .because("it holds the lease: its database takes the writes")
    .next("see who does what", "pontoon status")
}

fn by_server(server: &ServerName, mut refusal: Refusal) -> Refusal {
    refusal
        .evidence
        .insert(0, format!("{server} said no; nothing was changed on any server"));
    refusal
}
