//! One server's part: what it knows, how it takes events, and the talk with the store.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_fleet::{Epoch, ServerName};
use serde::{Deserialize, Serialize};

use super::take_back::Gave;
use super::{
    Acks, Command, Database, Durable, Effect, Event, Members, Mode, Nonce, Notice, PeerFacts, Position,
    Record, Setup, Why, Work,
};

/// Whether a guard stands. Always, but in a build for checkers.
macro_rules! keeps {
    ($node:expr, $guard:ident) => {{
        #[cfg(feature = "mutants")]
        {
            $node.setup.without != Some(crate::failover::Guard::$guard)
        }
        #[cfg(not(feature = "mutants"))]
        {
            true
        }
    }};
}
pub(super) use keeps;

/// One server's part in failover. Plain data: a copy of it is a copy of the server's mind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub(super) setup: Setup,
    pub(super) durable: Durable,
    /// The record as last read or written.
    pub(super) seen: Option<Seen>,
    /// What was there when this agent's life began: a request of an earlier life may still replace it.
    first: Option<Option<Nonce>>,
    /// The record that a request of this life may still replace.
    doubt: Option<Option<Nonce>>,
    /// The request that is under way.
    asked: Option<Asked>,
    /// When the first event came.
    born: Option<Duration>,
    /// When the record was last asked for.
    looked: Option<Duration>,
    /// When the store last answered, and when it did so for the first time after an outage.
    pub(super) answers: Option<Answers>,
    /// Until when the lease is held, by the own clock.
    pub(super) held_until: Duration,
    pub(super) database: Database,
    /// When commits are acknowledged, as far as it was set in this life.
    pub(super) acks: Option<Acks>,
    /// Who had everything at a moment after `acks` was set.
    pub(super) caught_up: Option<Members>,
    pub(super) work: Option<Work>,
    /// No work before this: something failed.
    pub(super) rest_until: Duration,
    pub(super) killing: bool,
    pub(super) diverged: bool,
    /// An operator wants the database copied anew.
    pub(super) copy_wanted: bool,
    /// Where the own copy stood when it stopped receiving.
    pub(super) halted_at: Option<Position>,
    /// The epoch for which others were asked whether they have more.
    pub(super) gathered: Option<Epoch>,
    /// How far behind, when it was last known.
    pub(super) lag: Option<Lag>,
    pub(super) peers: BTreeMap<ServerName, Heard>,
    /// What was heard in the election of an epoch.
    pub(super) ballot: (Epoch, BTreeMap<ServerName, (super::Incarnation, Position)>),
    pub(super) handing: Option<Handing>,
    /// What it handed over last.
    pub(super) gave: Option<Gave>,
    /// The last epoch in which it began to open.
    pub(super) opened: Option<Epoch>,
    /// Since when commits have waited in vain, and when that was last said.
    pub(super) in_vain: Option<(Duration, Duration)>,
    /// Since when the own source has been fit to be followed; later than now, when to follow it failed.
    pub(super) source_fit: Option<Duration>,
    /// It is about to follow its source, and asks the leader not to count on it.
    pub(super) yields: bool,
    /// It is about to leave, and asks the same.
    leaving: bool,
    /// An operator wants this server to lead, and accepts to lose so many transactions with it.
    pub(super) forced: Option<u64>,
    paused: bool,
    /// Said by the event of this step.
    pub(super) silent: bool,
    /// Likewise.
    pub(super) full: bool,
    told: Option<Notice>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    pub(super) record: Record,
    /// When the first answer that showed it was complete.
    pub(super) since: Duration,
    /// When the first answer that showed its epoch was.
    pub(super) epoch_since: Duration,
    /// This agent had seen an epoch before this one: whatever happened here in this one happened in its life.
    pub(super) witnessed: bool,
}

/// When the store answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Answers {
    pub(super) last: Duration,
    /// After it had been silent for longer than a renewal may take.
    pub(super) again: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asked {
    began: Duration,
    /// What is to be written; `None`: a read.
    swap: Option<(Option<Nonce>, Box<Record>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Heard {
    pub(super) facts: PeerFacts,
    pub(super) at: Duration,
    /// Not asked to catch up before this: it did not, lately.
    pub(super) rest_until: Duration,
}

/// What the last beat of the leader said that was applied here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lag {
    /// When it was written, by the own clock: everything before it is here.
    pub(super) beat: Duration,
    /// How many transactions were missing when it was applied.
    pub(super) missing: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Handing {
    pub(super) to: ServerName,
    pub(super) until: Duration,
}

/// What a node is doing, in the words of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The store was not read yet.
    Boot,
    /// It leads and is open; replicas in sync have every acknowledged write.
    LeaderSync,
    /// It leads and is open; it alone has every acknowledged write.
    LeaderAlone,
    /// It leads and is not open yet.
    Promoting,
    /// It leads and its database is dead or on its way.
    Recovering,
    /// It follows and has every acknowledged write.
    FollowSync,
    /// It follows.
    Follow,
    /// It is on its way to follow.
    Rejoin,
    /// The record names it and its data directory is another one.
    Stranded,
    /// An operator told it to do nothing by itself.
    Paused,
}

/// What a node can tell the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What it is doing.
    pub state: State,
    /// The record as last seen.
    pub record: Option<Record>,
    /// In [`Mode::Available`], and while this server leads: no write may be sent to it after this moment of its clock.
    pub deadline: Option<Duration>,
}

impl Node {
    /// A server whose agent has just started: with what it found on its disk, and its database as it is.
    pub fn new(setup: Setup, durable: Durable, database: Database) -> Node {
        Node {
            setup,
            durable,
            seen: None,
            first: None,
            doubt: None,
            asked: None,
            born: None,
            looked: None,
            answers: None,
            held_until: Duration::ZERO,
            database,
            acks: None,
            caught_up: None,
            work: None,
            rest_until: Duration::ZERO,
            killing: false,
            diverged: false,
            copy_wanted: false,
            halted_at: None,
            gathered: None,
            lag: None,
            peers: BTreeMap::new(),
            ballot: (Epoch(0), BTreeMap::new()),
            handing: None,
            gave: None,
            opened: None,
            in_vain: None,
            source_fit: None,
            yields: false,
            leaving: false,
            forced: None,
            paused: false,
            silent: false,
            full: false,
            told: None,
        }
    }

    /// One step. `now` is the own clock (`CLOCK_BOOTTIME`), `fresh` a number that was never used before.
    pub fn step(&mut self, event: Event, now: Duration, fresh: Nonce) -> Vec<Effect> {
        let mut out = Vec::new();
        self.born.get_or_insert(now);
        self.take(event, now, &mut out);
        self.drive(now, fresh, &mut out);
        (self.silent, self.full) = (false, false);
        out
    }

    /// What it does and knows.
    pub fn standing(&self) -> Standing {
        let record = self.seen.as_ref().map(|seen| seen.record.clone());
        let limited = |record: &Record| record.policy.mode == Mode::Available && self.leads(record);
        let deadline = record
            .as_ref()
            .filter(|record| limited(record))
            .map(|_| self.held_until);
        Standing {
            state: self.state(),
            record,
            deadline,
        }
    }

    /// What it remembers on its disk.
    pub fn durable(&self) -> Durable {
        self.durable
    }

    /// Whether it asks the leader not to count on it.
    pub fn asks_out(&self) -> bool {
        self.leaving || self.yields
    }

    /// Moves every moment that it remembers back by `by`, as if its clock had been set: lets a checker treat states
    /// that differ in nothing but their age as one.
    pub fn rebase(&mut self, by: Duration) {
        let back = |moment: &mut Duration| *moment = moment.saturating_sub(by);
        back(&mut self.held_until);
        back(&mut self.rest_until);
        self.looked.iter_mut().for_each(back);
        self.source_fit.iter_mut().for_each(back);
        self.born.iter_mut().for_each(back);
        if let Some(answers) = &mut self.answers {
            back(&mut answers.last);
            answers.again.iter_mut().for_each(back);
        }
        self.asked.iter_mut().for_each(|asked| back(&mut asked.began));
        self.handing
            .iter_mut()
            .for_each(|handing| back(&mut handing.until));
        if let Some(seen) = &mut self.seen {
            back(&mut seen.since);
            back(&mut seen.epoch_since);
        }
        if let Some((since, last)) = &mut self.in_vain {
            back(since);
            back(last);
        }
        self.lag.iter_mut().for_each(|lag| back(&mut lag.beat));
        for heard in self.peers.values_mut() {
            back(&mut heard.at);
            back(&mut heard.rest_until);
        }
    }

    fn state(&self) -> State {
        let Some(Seen { record, .. }) = &self.seen else {
            return State::Boot;
        };
        let open = matches!(self.database, Database::Running { open: true, .. });
        match () {
            () if self.paused => State::Paused,
            () if self.leads(record) => match (self.database, open, record.sync.is_empty()) {
                (Database::Stopped, ..) => State::Recovering,
                (_, false, _) => State::Promoting,
                (_, true, false) => State::LeaderSync,
                (_, true, true) => State::LeaderAlone,
            },
            () if record.leader == self.setup.me => State::Stranded,
            () if record.in_sync(&self.setup.me, self.durable.incarnation) => State::FollowSync,
            () if self.durable.follows == Some(record.epoch) && self.database != Database::Stopped => {
                State::Follow
            }
            () => State::Rejoin,
        }
    }

    /// Whether the record makes this server the leader.
    pub(super) fn leads(&self, record: &Record) -> bool {
        record.is_led_by(&self.setup.me, self.durable.incarnation)
    }

    /// Whether that server's copy counts.
    pub(super) fn counts(&self, name: &ServerName) -> bool {
        !self.setup.bystanders.contains(name) || !keeps!(self, Bystander)
    }

    /// Whether that server follows the leader of `epoch` itself, so that its acknowledgements get there.
    pub(super) fn is_direct(&self, heard: &Heard, epoch: Epoch) -> bool {
        heard.facts.follows == Some(epoch) && (!heard.facts.through || !keeps!(self, Through))
    }

    /// Whether nothing that this server ever sent can still replace the record that it sees.
    pub(super) fn settled(&self) -> bool {
        let nonce = self.seen.as_ref().map(|seen| seen.record.nonce);
        !keeps!(self, Settled) || (self.doubt.is_none() && self.first != Some(nonce))
    }

    /// Whether this agent has lived too short to have heard of everybody who lives.
    pub(super) fn is_young(&self, now: Duration) -> bool {
        self.born.is_none_or(|born| now < born + self.setup.timing.peer)
    }

    /// Whether a request to write is under way.
    pub(super) fn is_writing(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.swap.is_some())
    }

    pub(super) fn store_is_idle(&self) -> bool {
        self.asked.is_none()
    }

    fn take(&mut self, event: Event, now: Duration, out: &mut Vec<Effect>) {
        match event {
            Event::Tick => {}
            Event::Read(found) => {
                self.asked = None;
                self.answered(now);
                self.learn(found, now, out);
            }
            Event::Unreadable => self.asked = None,
            Event::Won => self.won(now),
            Event::Lost(found) => {
                self.asked = None;
                self.answered(now);
                self.learn(found, now, out);
            }
            Event::Doubt => {
                if let Some(Asked {
                    swap: Some((expected, _)),
                    ..
                }) = self.asked.take()
                {
                    self.doubt = Some(expected);
                    // Look at once.
                    self.looked = None;
                }
            }
            Event::Worked(outcome) => self.worked(outcome, now, out),
            Event::Stopped => {
                self.database = Database::Stopped;
                (self.killing, self.work) = (false, None);
                (self.acks, self.caught_up, self.halted_at) = (None, None, None);
                (self.handing, self.in_vain) = (None, None);
            }
            Event::Silent => self.silent = true,
            Event::Full => self.full = true,
            Event::Unacknowledged => self.unacknowledged(now),
            Event::Peer(from, facts) => {
                let rest_until = self
                    .peers
                    .get(&from)
                    .map_or(Duration::ZERO, |heard| heard.rest_until);
                self.peers.insert(
                    from,
                    Heard {
                        facts,
                        at: now,
                        rest_until,
                    },
                );
            }
            // Only a read comes of it, as it does every now and then.
            Event::Changed => self.looked = None,
            Event::Lag { behind, missing } => {
                // A leader that was replaced may go on beating for those who follow it still.
                let present = self.seen.as_ref().map(|seen| seen.record.epoch);
                if self.durable.follows == present {
                    self.lag = Some(Lag {
                        beat: now.saturating_sub(behind),
                        missing,
                    });
                }
            }
            Event::Asked(from, epoch) => self.asked_for_position(from, epoch, out),
            Event::Halted {
                from,
                epoch,
                incarnation,
                position,
            } => {
                if self.ballot.0 != epoch {
                    self.ballot = (epoch, BTreeMap::new());
                }
                self.ballot.1.insert(from, (incarnation, position));
            }
            Event::Diverged => self.has_diverged(out),
            Event::Astray => self.is_astray(out),
            Event::Command(Command::Rejoin) => self.try_again(out),
            Event::Command(Command::CopyAnew(yes)) => self.copy_anew(yes, out),
            Event::Command(Command::Leave(yes)) => self.leaving = yes,
            Event::Command(Command::Pause) => self.paused = true,
            Event::Command(Command::Resume) => self.paused = false,
            Event::Command(Command::Switchover(to)) => self.switchover(to, now, out),
            Event::Command(Command::Force { accept_loss }) => self.force(accept_loss, now, out),
        }
    }

    fn answered(&mut self, now: Duration) {
        let patience = self.setup.timing.renewal();
        let again = match self.answers {
            Some(answers) if now > answers.last + patience => Some(now),
            Some(answers) => answers.again,
            None => None,
        };
        self.answers = Some(Answers { last: now, again });
    }

    fn won(&mut self, now: Duration) {
        let Some(Asked {
            began,
            swap: Some((_, record)),
        }) = self.asked.take()
        else {
            return;
        };
        self.doubt = None;
        self.answered(now);
        self.settle(*record, now);
        if self
            .seen
            .as_ref()
            .is_some_and(|seen| seen.record.leader == self.setup.me)
        {
            self.held_until = self.setup.timing.held_until(began);
        }
    }

    /// Takes in what the store shows.
    fn learn(&mut self, found: Option<Record>, now: Duration, out: &mut Vec<Effect>) {
        let Some(record) = found else {
            match &self.seen {
                None => self.first = self.first.or(Some(None)),
                Some(_) => self.tell(Notice::StoreWentBack, out),
            }
            return;
        };
        if record.fleet != self.setup.fleet {
            return self.tell(Notice::ForeignLease(record.fleet), out);
        }
        let known = self.seen.as_ref().map(|seen| &seen.record);
        if known.is_some_and(|known| record.seq < known.seq || record.epoch < known.epoch) {
            return self.tell(Notice::StoreWentBack, out);
        }
        self.first = self.first.or(Some(Some(record.nonce)));
        if self.doubt.is_some_and(|expected| expected != Some(record.nonce)) {
            self.doubt = None;
        }
        self.settle(record, now);
    }

    fn settle(&mut self, record: Record, now: Duration) {
        if let Some(seen) = &mut self.seen {
            if seen.record.nonce == record.nonce {
                return;
            }
            if seen.record.epoch != record.epoch {
                seen.epoch_since = now;
                seen.witnessed = true;
                (self.diverged, self.forced) = (false, None);
                // Beats of the leader before say nothing of this one.
                (self.handing, self.lag) = (None, None);
            }
            let known = &seen.record;
            if (known.epoch, known.released, &known.sync) != (record.epoch, record.released, &record.sync) {
                self.told = None;
            }
            seen.since = now;
            self.copy_wanted &= record.leader != self.setup.me;
            seen.record = record;
        } else {
            self.seen = Some(Seen {
                record,
                since: now,
                epoch_since: now,
                witnessed: false,
            });
            self.told = None;
        }
    }

    /// Decides what comes next from what is known now. Asked after every event, so nothing depends on which came last.
    fn drive(&mut self, now: Duration, fresh: Nonce, out: &mut Vec<Effect>) {
        self.yields = false;
        if let Some(seen) = self.seen.clone() {
            if self.leads(&seen.record) {
                self.lead(&seen, now, fresh, out);
            } else if seen.record.leader == self.setup.me {
                self.tell(Notice::Stranded, out);
                self.fence(out);
                self.take_by_force(&seen, now, fresh, out);
            } else {
                self.follow(&seen, now, fresh, out);
            }
        } else if self.setup.founder && self.first == Some(None) {
            self.found(now, fresh, out);
        }
        let due = self
            .looked
            .is_none_or(|looked| now >= looked + self.setup.timing.look);
        if due && self.asked.is_none() {
            self.looked = Some(now);
            self.asked = Some(Asked {
                began: now,
                swap: None,
            });
            out.push(Effect::Read);
        }
    }

    /// Writes the first record. Until then there was one server, and nothing was promised to replicas.
    fn found(&mut self, now: Duration, fresh: Nonce, out: &mut Vec<Effect>) {
        if self.asked.is_some() || self.doubt.is_some() && self.looked.is_none() {
            return;
        }
        let epoch = Epoch(1);
        self.remember(
            Durable {
                drained: Some(epoch),
                ..self.durable
            },
            out,
        );
        let record = Record {
            fleet: self.setup.fleet.clone(),
            epoch,
            leader: self.setup.me.clone(),
            incarnation: self.durable.incarnation,
            electing: false,
            released: false,
            sync: Members::new(),
            acks: 0,
            policy: self.setup.policy,
            candidate: None,
            fragile: false,
            loss: None,
            seq: 1,
            nonce: fresh,
        };
        self.send(None, record, now, out);
    }

    /// Asks the store to take a changed record, if it is not busy.
    pub(super) fn swap(
        &mut self,
        seen: &Seen,
        now: Duration,
        fresh: Nonce,
        out: &mut Vec<Effect>,
        change: impl FnOnce(&mut Record),
    ) {
        if self.asked.is_some() || (self.doubt.is_some() && self.looked.is_none()) {
            return;
        }
        let mut record = seen.record.clone();
        change(&mut record);
        record.seq = record.seq.saturating_add(1);
        record.nonce = fresh;
        self.send(Some(seen.record.nonce), record, now, out);
    }

    fn send(&mut self, expected: Option<Nonce>, record: Record, now: Duration, out: &mut Vec<Effect>) {
        let record = Box::new(record);
        self.looked = Some(now);
        self.asked = Some(Asked {
            began: now,
            swap: Some((expected, record.clone())),
        });
        out.push(Effect::Swap { expected, record });
    }

    pub(super) fn remember(&mut self, durable: Durable, out: &mut Vec<Effect>) {
        if self.durable != durable {
            self.durable = durable;
            out.push(Effect::Remember(durable));
        }
    }

    /// A new life, durably, before anything that can lose what was received.
    pub(super) fn new_life(&mut self, out: &mut Vec<Effect>) {
        let incarnation = if keeps!(self, NewLife) {
            self.durable.incarnation.next()
        } else {
            self.durable.incarnation
        };
        self.halted_at = None;
        self.remember(
            Durable {
                incarnation,
                follows: None,
                through: false,
                drained: None,
            },
            out,
        );
    }

    /// Begins work, if none is under way and nothing failed just now.
    pub(super) fn begin(&mut self, work: Work, now: Duration, out: &mut Vec<Effect>) {
        if self.work.is_none() && !self.killing && !self.paused && now >= self.rest_until {
            if let Work::Open(epoch) = work {
                self.opened = Some(epoch);
                // What was to be handed over before was not, and will not be.
                self.gave = None;
            }
            self.work = Some(work.clone());
            out.push(Effect::Work(work));
        }
    }

    /// Whether work could begin now.
    pub(super) fn free(&self, now: Duration) -> bool {
        self.work.is_none() && !self.killing && !self.paused && now >= self.rest_until
    }

    /// Ends the database when it takes writes, or is about to.
    pub(super) fn fence(&mut self, out: &mut Vec<Effect>) {
        let writes = matches!(self.database, Database::Running { open: true, .. })
            || matches!(self.work, Some(Work::Open(_)));
        if writes && !self.killing && keeps!(self, Fence) {
            self.kill(Notice::Fenced, out);
        }
    }

    pub(super) fn kill(&mut self, why: Notice, out: &mut Vec<Effect>) {
        self.killing = true;
        self.work = None;
        out.push(Effect::Kill);
        self.tell(why, out);
    }

    /// Says a thing once, until the record says something else.
    pub(super) fn tell(&mut self, notice: Notice, out: &mut Vec<Effect>) {
        if self.told.as_ref() != Some(&notice) {
            self.told = Some(notice.clone());
            out.push(Effect::Tell(notice));
        }
    }

    pub(super) fn refuse(&mut self, why: Why, out: &mut Vec<Effect>) {
        out.push(Effect::Tell(Notice::Refused(why)));
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }
}
