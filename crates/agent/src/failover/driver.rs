//! Between a [`Node`] and the world, without touching either: which answer of the store is which event, which effect is
//! which request, and what it means when the database is not as the node left it. Pure: time and randomness are arguments.

use std::collections::VecDeque;
use std::time::Duration;

use pontoon_decide::failover::{
    Command, Database, Durable, Effect, Event, Incarnation, Node, Nonce, Notice, Outcome, PeerFacts,
    Position, Record, Setup, Standing, Why, Work,
};
use pontoon_fleet::{Epoch, ServerName};
use pontoon_lease::{Found, LeaseError, Swap, Version};
use pontoon_replication::work::Facts;

/// A replica that is no further behind than this is near: a commit that waits for it hardly notices.
const NEAR: Duration = Duration::from_millis(500);

/// The same while nothing is written and so no beat comes: this many transactions.
const NEAR_TRANSACTIONS: Position = 100;

/// Versions of records that are kept: the node may still mean the one before the last.
const VERSIONS: usize = 4;

/// How long a primary's database may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// For how long commits have waited by the time that [`Facts::waiting`] says so.
const WAITING_FOR: Duration = Duration::from_secs(1);

/// How often in a row the database must be seen otherwise than the node left it. Once may be a look from before.
const SURE: u32 = 2;

/// Two beats are further apart than this, and two looks at one beat are nearer together.
const BEAT_IS_NEW: Duration = Duration::from_millis(40);

/// What came in.
#[derive(Debug)]
pub(crate) enum Input {
    /// What is an event as it is.
    Event(Event),
    /// The answer to [`Action::Read`].
    Read(Result<Found<Record>, LeaseError>),
    /// The answer to [`Action::Swap`] with the record of that nonce.
    Swapped(Nonce, Result<Swap<Record>, LeaseError>),
    /// A look at the database.
    Looked(Option<Facts>),
}

/// What to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Keep on the disk; nothing behind it may be done before it is durable.
    Keep(Durable),
    /// Read the record; answered by [`Input::Read`].
    Read,
    /// Replace the record of that version; answered by [`Input::Swapped`].
    Swap(Option<Version>, Box<Record>),
    /// Begin work; answered by [`Event::Worked`].
    Begin(Work),
    /// Drop the work that is under way and kill the database; answered by [`Event::Stopped`].
    Kill,
    /// Ask a peer for its position.
    Ask(ServerName, Epoch),
    /// Answer it.
    Answer(ServerName, Epoch, Incarnation, Position),
    /// Tell the operators.
    Tell(Notice),
    /// The database runs, and nobody here started it. It is as the record allows: begin anew with it as it is.
    Rethink,
}

/// A node and what its shell must know of it.
#[derive(Debug)]
pub(crate) struct Driver {
    node: Node,
    me: ServerName,
    versions: VecDeque<(Nonce, Version)>,
    /// What the node takes the database for.
    database: Believed,
    work: Option<Work>,
    killing: bool,
    paused: bool,
    facts: Option<Facts>,
    /// The leader's position, as last heard.
    leader_position: Option<Position>,
    /// How often in a row the database was seen otherwise.
    surprises: u32,
    /// When the last beat that was applied was written, by the own clock.
    beat: Option<Duration>,
    /// Of the node's timing: how long a database may answer nothing.
    silence: Duration,
    /// Of the node's timing: how long a replica that does not answer is waited for.
    patience: Duration,
    /// When the database last answered, or was given reason not to.
    answered: Option<Duration>,
    /// How long it has not answered, at the last look.
    silent: Duration,
    /// Since when commits have waited for an acknowledgement, as far as it was looked.
    waiting: Option<Duration>,
    /// The disk of this server is full.
    disk_is_full: bool,
    /// Since when nothing was committed, counted from when the disk was full.
    standstill: Option<Duration>,
    /// What came in while the database is killed without the node's word: it must not begin anything meanwhile.
    held: Option<VecDeque<Input>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Believed {
    running: bool,
    open: bool,
}

impl Driver {
    /// A server whose agent has just started, with its database as it was found.
    pub(crate) fn new(setup: Setup, durable: Durable, found: Option<Facts>) -> Driver {
        let me = setup.me.clone();
        let (silence, patience) = (setup.timing.silence, setup.timing.peer);
        let state = match &found {
            None => Database::Stopped,
            Some(facts) => Database::Running {
                open: facts.open,
                receiving: facts.receiving,
            },
        };
        Driver {
            node: Node::new(setup, durable, state),
            me,
            versions: VecDeque::new(),
            database: Believed {
                running: found.is_some(),
                open: found.as_ref().is_some_and(|facts| facts.open),
            },
            work: None,
            killing: false,
            paused: false,
            facts: found,
            leader_position: None,
            surprises: 0,
            beat: None,
            silence,
            patience,
            answered: None,
            silent: Duration::ZERO,
            waiting: None,
            disk_is_full: false,
            standstill: None,
            held: None,
        }
    }

    /// One step.
    pub(crate) fn take(
        &mut self,
        input: Input,
        now: Duration,
        fresh: &mut dyn FnMut() -> Nonce,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        match (&mut self.held, input) {
            (Some(_), stopped @ Input::Event(Event::Stopped)) => {
                let held = self.held.take().unwrap_or_default();
                self.one(stopped, now, fresh, &mut actions);
                for input in held {
                    self.one(input, now, fresh, &mut actions);
                }
            }
            (Some(_), Input::Event(Event::Tick) | Input::Looked(_)) => {}
            (Some(held), input) => held.push_back(input),
            (None, input) => self.one(input, now, fresh, &mut actions),
        }
        actions
    }

    fn one(
        &mut self,
        input: Input,
        now: Duration,
        fresh: &mut dyn FnMut() -> Nonce,
        actions: &mut Vec<Action>,
    ) {
        let mut events = VecDeque::new();
        match input {
            Input::Event(event) => events.push_back(event),
            Input::Read(Ok(found)) => {
                let record = self.learn(found);
                events.push_back(Event::Read(record));
            }
            Input::Read(Err(_)) => events.push_back(Event::Unreadable),
            Input::Swapped(nonce, Ok(Swap::Won(version))) => {
                self.keep_version(nonce, version);
                events.push_back(Event::Won);
            }
            Input::Swapped(_, Ok(Swap::Lost(found))) => {
                let record = self.learn(found);
                events.push_back(Event::Lost(record));
            }
            // Even when nothing was sent: to look again costs nothing and is never wrong.
            Input::Swapped(_, Err(_)) => events.push_back(Event::Doubt),
            Input::Looked(facts) => self.look(facts, now, &mut events, actions),
        }
        while let Some(event) = events.pop_front() {
            self.note(&event);
            for effect in self.node.step(event, now, fresh()) {
                self.effect(effect, &mut events, actions);
            }
        }
    }

    fn effect(&mut self, effect: Effect, events: &mut VecDeque<Event>, actions: &mut Vec<Action>) {
        actions.push(match effect {
            Effect::Remember(durable) => Action::Keep(durable),
            Effect::Read => Action::Read,
            Effect::Swap { expected, record } => {
                let version = expected.map(|nonce| self.version(nonce));
                match version {
                    None => Action::Swap(None, record),
                    Some(Some(version)) => Action::Swap(Some(version), record),
                    // The store has shown others since. To say «perhaps» makes the node look again.
                    Some(None) => return events.push_back(Event::Doubt),
                }
            }
            Effect::Work(work) => {
                self.work = Some(work.clone());
                Action::Begin(work)
            }
            Effect::Kill => {
                (self.work, self.killing) = (None, true);
                Action::Kill
            }
            Effect::Ask(to, epoch) => Action::Ask(to, epoch),
            Effect::Answer {
                to,
                epoch,
                incarnation,
                position,
            } => Action::Answer(to, epoch, incarnation, position),
            Effect::Tell(notice) => Action::Tell(notice),
        });
    }

    /// What an event says of the database, and of the one who leads.
    fn note(&mut self, event: &Event) {
        match event {
            Event::Stopped => {
                (self.database, self.work, self.killing) = (Believed::default(), None, false);
                self.surprises = 0;
            }
            Event::Worked(outcome) => {
                let done = matches!(outcome, Outcome::Done | Outcome::At(_));
                self.surprises = 0;
                match (self.work.take(), done) {
                    (Some(Work::Open(_)), true) => self.database.open = true,
                    (Some(Work::Close(_) | Work::Drain(_) | Work::Gather(_) | Work::Halt), true) => {
                        self.database.open = false
                    }
                    (
                        Some(
                            Work::Recover
                            | Work::Rejoin(..)
                            | Work::Follow(..)
                            | Work::Through(..)
                            | Work::Copy(..),
                        ),
                        true,
                    ) => {
                        self.database = Believed {
                            running: true,
                            open: false,
                        };
                    }
                    _ => {}
                }
            }
            Event::Peer(from, facts) => {
                let standing = self.node.standing();
                if standing.record.is_some_and(|record| record.leader == *from) {
                    self.leader_position = Some(facts.position);
                }
            }
            Event::Command(Command::Pause) => self.paused = true,
            Event::Command(Command::Resume) => self.paused = false,
            _ => {}
        }
    }

    fn look(
        &mut self,
        facts: Option<Facts>,
        now: Duration,
        events: &mut VecDeque<Event>,
        actions: &mut Vec<Action>,
    ) {
        self.facts = facts;
        self.listen(now, events);
        self.await_acknowledgements(now, events);
        self.await_room(now, events);
        if self.work.is_some() || self.killing {
            return; // between two states
        }
        let Some(facts) = &self.facts else {
            if self.database.running {
                events.push_back(Event::Stopped);
            }
            return;
        };
        let started_by_others = !self.database.running;
        let opened_by_others = self.database.running && facts.answers && facts.open && !self.database.open;
        if (started_by_others || opened_by_others) && !self.paused {
            self.surprises += 1;
            if self.surprises >= SURE {
                self.surprises = 0;
                if started_by_others && facts.answers && !facts.open && self.leads_as_drained() {
                    actions.push(Action::Rethink);
                } else {
                    // What a start by others has lost, or what was written past the protocol, is not known.
                    self.killing = true;
                    self.held = Some(VecDeque::new());
                    actions.push(Action::Kill);
                }
            }
            return;
        }
        self.surprises = 0;
        if let (Some(behind), true) = (facts.behind_ms, facts.receiving && facts.answers) {
            let behind = Duration::from_millis(behind);
            let beat = now.saturating_sub(behind);
            // Once the leader is dead no beat comes, and how far this copy is behind what the leader last did stays.
            if self.beat.is_none_or(|last| beat > last + BEAT_IS_NEW) {
                self.beat = Some(beat);
                let missing = self.leader_position.unwrap_or(facts.position);
                events.push_back(Event::Lag {
                    behind,
                    missing: missing.saturating_sub(facts.position),
                });
            }
        }
    }

    /// Notes for how long the database has not answered. While work goes on that starts it, or that it may be busy with,
    /// silence says nothing: that work has its own end.
    ///
    /// One that took writes and takes no connections any more is on its way to end, and may never arrive there: MySQL waits
    /// for acknowledgements of commits, and has sent the replica away that would give them. It is not waited for as long as
    /// one that may go on. Nor is one whose disk is full.
    fn listen(&mut self, now: Duration, events: &mut VecDeque<Event>) {
        let speaks = self.facts.as_ref().is_none_or(|facts| facts.answers);
        let busy = !matches!(self.work, None | Some(Work::CaughtUp(_))) || self.killing;
        if speaks || busy || !self.database.running {
            self.answered = Some(now);
        }
        self.silent = now.saturating_sub(*self.answered.get_or_insert(now));
        let ends = self.facts.as_ref().is_some_and(|facts| facts.closed);
        let limit = match ends {
            true => self.silence.min(ENDS_WITHIN),
            false if self.disk_is_full => self.silence.min(self.patience),
            false => self.silence,
        };
        if self.silent >= limit && self.database.open {
            events.push_back(Event::Silent);
        }
    }

    /// Notes for how long commits have waited for an acknowledgement. The replicas may be there and have it all: MariaDB counts
    /// an acknowledgement that got lost with its connection as not given, and does not ask again.
    fn await_acknowledgements(&mut self, now: Duration, events: &mut VecDeque<Event>) {
        let Some(facts) = self.facts.as_ref().filter(|facts| facts.answers) else {
            return; // not known
        };
        if !facts.waiting || !self.database.open {
            self.waiting = None;
        } else if now.saturating_sub(*self.waiting.get_or_insert(now)) + WAITING_FOR >= self.patience {
            events.push_back(Event::Unacknowledged);
        }
    }

    /// Notes for how long nothing was committed because the disk is full. That there is room again ends nothing: MariaDB looks
    /// for it once a minute.
    fn await_room(&mut self, now: Duration, events: &mut VecDeque<Event>) {
        let Some(facts) = self.facts.as_ref().filter(|facts| facts.answers) else {
            return; // not known
        };
        if !facts.late || facts.waiting || !self.database.open {
            self.standstill = None;
        } else if self.standstill.is_none() && self.disk_is_full {
            self.standstill = Some(now);
        }
        if self
            .standstill
            .is_some_and(|since| now.saturating_sub(since) >= self.patience)
        {
            events.push_back(Event::Full);
        }
    }

    /// Whether this is the rightful leader's own database with everything in it.
    fn leads_as_drained(&self) -> bool {
        let durable = self.node.durable();
        self.node.standing().record.is_some_and(|record| {
            record.is_led_by(&self.me, durable.incarnation) && durable.drained == Some(record.epoch)
        })
    }

    fn learn(&mut self, found: Found<Record>) -> Option<Record> {
        let (record, version) = found?;
        self.keep_version(record.nonce, version);
        Some(record)
    }

    fn keep_version(&mut self, nonce: Nonce, version: Version) {
        self.versions.retain(|(kept, _)| *kept != nonce);
        self.versions.push_back((nonce, version));
        if self.versions.len() > VERSIONS {
            self.versions.pop_front();
        }
    }

    fn version(&self, nonce: Nonce) -> Option<Version> {
        let found = self.versions.iter().find(|(kept, _)| *kept == nonce);
        found.map(|(_, version)| version.clone())
    }

    /// Notes whether the disk of this server is full.
    pub(crate) fn note_disk(&mut self, full: bool) {
        self.disk_is_full = full;
    }

    /// What the node does and knows.
    pub(crate) fn standing(&self) -> Standing {
        self.node.standing()
    }

    /// What it remembers.
    pub(crate) fn durable(&self) -> Durable {
        self.node.durable()
    }

    /// The work under way.
    pub(crate) fn work(&self) -> Option<&Work> {
        self.work.as_ref()
    }

    /// The last look at the database.
    pub(crate) fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    /// Whether an operator paused it.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether its end is to be noticed: it runs, and no work is under way that starts or stops it.
    pub(crate) fn watches(&self) -> bool {
        let starts = matches!(self.work, Some(Work::Recover | Work::Rejoin(..) | Work::Copy(..)));
        self.database.running && !starts && !self.killing
    }

    /// Whether the database takes writes, as far as the node knows.
    pub(crate) fn is_open(&self) -> bool {
        self.database.open
    }

    /// What peers are told.
    pub(crate) fn peer_facts(&self) -> PeerFacts {
        let durable = self.node.durable();
        // One that stands still acknowledges nothing: the leader must not wait for it.
        let up = self.database.running && self.facts.is_some() && self.silent < self.patience;
        let near = self.facts.as_ref().is_some_and(|facts| {
            let close = |leader: Position| leader.saturating_sub(facts.position) <= NEAR_TRANSACTIONS;
            let in_time = facts
                .behind_ms
                .is_some_and(|ms| Duration::from_millis(ms) <= NEAR);
            facts.answers && facts.receiving && (in_time || self.leader_position.is_some_and(close))
        });
        PeerFacts {
            incarnation: durable.incarnation,
            follows: durable.follows.filter(|_| up),
            through: durable.through,
            leaving: self.node.asks_out(),
            near: up && near,
            position: self.facts.as_ref().map_or(0, |facts| facts.position),
            declines: self.node.declines(),
            room: !self.disk_is_full,
        }
    }
}

/// Why a command was refused, if it was.
pub(crate) fn refused(actions: &[Action]) -> Option<Why> {
    actions.iter().find_map(|action| match action {
        Action::Tell(Notice::Refused(why)) => Some(*why),
        _ => None,
    })
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
