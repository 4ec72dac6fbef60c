//! A world for the failover protocol: servers with an agent and a database each, and a store with one record. The
//! databases are what the notes on MariaDB and MySQL say: a log, received and not applied transactions that a restart
//! or another source loses, commits that wait for replicas, recovery that commits what waited.
//!
//! The world does one [`Act`] at a time and checks after each that no acknowledged write is lost (P1), that an older
//! leader acknowledges nothing once a newer one is open (P2), and that copies do not fork. Who drives it chooses the
//! order: all orders (`failover_model.rs`) or dice (`failover_simulation.rs`).

#![allow(dead_code)] // each driver uses a part

mod databases;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pontoon_decide::failover::{
    Acks, Command, Database, Durable, Effect, Event, Node, Nonce, Notice, Outcome, PeerFacts, Record, Setup,
    Work,
};
use pontoon_fleet::{Epoch, ServerName};

/// What the database's side may do wrong, to see that it would be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slip {
    /// Draining takes what was received before it stops receiving.
    DrainBeforeHalt,
    /// The tail is not cut before a crashed leader's database starts again.
    NoCut,
    /// A replica says its position and goes on receiving.
    PositionBeforeHalt,
    /// A replica that is not among the members acknowledges too.
    AnyAcknowledges,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub servers: Vec<Server>,
    pub record: Option<Record>,
    /// Conditional PUTs on their way: of the living and of the dead.
    pub puts: Vec<Put>,
    /// Acknowledged writes, in order of their numbers, as bits of words.
    pub acked: Vec<bool>,
    pub nonces: u64,
    /// The newest epoch in which a leader opened.
    pub top: Epoch,
    pub messages: Vec<(usize, Event)>,
    pub slip: Option<Slip>,
    /// In the mode `available` loss is counted, and with it two writers.
    pub strict: bool,
    /// The epochs that somebody leads by an operator's word, and may lack something.
    pub forced: BTreeSet<Epoch>,
    pub seen: Seen,
    pub book: Book,
}

/// What happened, so that a run in which nothing did is noticed. Not a part of a state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub acked: u64,
    pub opened: u64,
    pub promoted: u64,
    pub rejoined: u64,
    pub copied: u64,
    pub gathered: u64,
    pub stranded: u64,
    pub doubts: u64,
    pub crashes: u64,
    pub fenced: u64,
    pub elected: u64,
    pub lost: u64,
    pub two_writers: u64,
    pub handed_over: u64,
    pub silenced: u64,
    pub filled: u64,
    pub forced: u64,
    /// The leader changed in a fleet with a copy that does not count.
    pub beside: u64,
    /// A replica went over to its source, and from there back to the leader.
    pub through: u64,
    pub direct: u64,
    /// A hand-over was taken back, because the other side's database had died.
    pub taken_back: u64,
}

/// When things happened, by a clock that the servers do not have. Not a part of a state.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Whoever drives the world sets it.
    pub now: Duration,
    /// When each write was made.
    pub written: Vec<Duration>,
    /// When each server last had everything and heard so.
    pub beats: BTreeMap<usize, Duration>,
    /// Since when each server's disk is full.
    pub full: BTreeMap<usize, Duration>,
    /// When the present record came.
    pub landed: Duration,
    /// The epochs that each agent that lives has handed over.
    pub gave: BTreeMap<usize, Epoch>,
    /// Whom the present record was handed over to, until somebody looks.
    pub handed: Option<usize>,
    /// What a promise about a loss was broken by.
    pub broken: Option<String>,
}

impl PartialEq for Book {
    fn eq(&self, _: &Book) -> bool {
        true
    }
}
impl Eq for Book {}
impl std::hash::Hash for Book {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl PartialEq for Seen {
    fn eq(&self, _: &Seen) -> bool {
        true
    }
}
impl Eq for Seen {}
impl std::hash::Hash for Seen {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    pub setup: Setup,
    pub disk: Durable,
    pub agent: Option<Node>,
    pub db: Db,
    pub job: Option<Job>,
    pub request: Option<Request>,
    /// The database died and the agent was not told yet.
    pub untold: bool,
    /// Its disk is full: the database writes and receives nothing.
    pub full: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Db {
    pub up: bool,
    pub open: Option<Epoch>,
    pub log: Vec<u16>,
    /// So many of the log are committed in the engine: the rest is prepared and can be cut off.
    pub committed: usize,
    pub relay: Vec<u16>,
    pub source: Option<(usize, Epoch)>,
    pub receiving: bool,
    pub acks: Acks,
    pub confirmed: BTreeMap<usize, usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Job {
    pub work: Work,
    pub done: Option<Outcome>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    Read(Option<Option<Record>>),
    Swap(u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Put {
    pub id: u64,
    pub expected: Option<Nonce>,
    pub record: Box<Record>,
    /// How it ended; `None`: on its way.
    pub result: Option<Result<(), Option<Record>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    Write(usize),
    Receive(usize),
    Confirm(usize),
    Apply(usize),
    /// A PUT reaches the store.
    Land(u64),
    /// Look into the store.
    Look(usize),
    Answer(usize),
    NoAnswer(usize),
    DoJob(usize),
    EndJob(usize),
    FailJob(usize),
    KillDatabase(usize),
    /// It has not answered for long, its agent finds.
    Silent(usize),
    /// Its disk is full, or has room again.
    Fill(usize, bool),
    /// It commits nothing, and its disk is full, its agent finds.
    Full(usize),
    /// Commits have waited for too long, its agent finds.
    Unacknowledged(usize),
    TellStopped(usize),
    KillAgent(usize),
    StartAgent(usize),
    Tick(usize),
    /// The first hears of the second.
    Hear(usize, usize),
    Lag(usize),
    Message(usize),
    Order(usize, Command),
    /// Its agent finds transactions that the leader lacks.
    Diverged(usize),
    /// Its agent finds that it follows in another way than it should.
    Astray(usize),
}

/// When the agent of the acting server dies: after so many of the effects of this act.
pub type Crash = Option<usize>;

impl World {
    pub fn new(setups: Vec<Setup>, slip: Option<Slip>) -> World {
        let server = |setup: Setup| Server {
            disk: Durable::default(),
            agent: None,
            db: Db {
                up: true,
                // The founder's database serves already.
                open: None,
                log: Vec::new(),
                committed: 0,
                relay: Vec::new(),
                source: None,
                receiving: false,
                acks: Acks::Alone,
                confirmed: BTreeMap::new(),
            },
            job: None,
            request: None,
            untold: false,
            full: false,
            setup,
        };
        World {
            servers: setups.into_iter().map(server).collect(),
            record: None,
            puts: Vec::new(),
            acked: Vec::new(),
            nonces: 0,
            top: Epoch(0),
            messages: Vec::new(),
            slip,
            strict: true,
            forced: BTreeSet::new(),
            seen: Seen::default(),
            book: Book::default(),
        }
    }

    pub fn index(&self, name: &ServerName) -> usize {
        self.servers
            .iter()
            .position(|server| server.setup.me == *name)
            .unwrap()
    }

    /// Whether it can be done now.
    pub fn can(&self, act: &Act) -> bool {
        match *act {
            Act::Write(at) => self.servers[at].db.open.is_some() && !self.servers[at].full,
            Act::Receive(at) => !self.servers[at].full && self.next_for(at).is_some(),
            Act::Fill(at, full) => self.servers[at].full != full,
            Act::Confirm(at) => {
                let db = &self.servers[at].db;
                let Some((source, _)) = db.source.filter(|_| db.up && db.receiving) else {
                    return false;
                };
                let leader = &self.servers[source].db;
                let held = db.log.len() + db.relay.len();
                let counts = match &leader.acks {
                    Acks::Alone => false,
                    Acks::Of { members, .. } => {
                        members.contains(&self.servers[at].setup.me)
                            || self.slip == Some(Slip::AnyAcknowledges)
                    }
                };
                leader.up && counts && leader.confirmed.get(&at).copied().unwrap_or(0) < held
            }
            Act::Apply(at) => {
                let server = &self.servers[at];
                server.db.up && !server.full && !server.db.relay.is_empty()
            }
            Act::Land(id) => self.puts.iter().any(|put| put.id == id && put.result.is_none()),
            Act::Look(at) => self.servers[at].request == Some(Request::Read(None)),
            Act::Answer(at) => match &self.servers[at].request {
                Some(Request::Read(found)) => found.is_some(),
                Some(Request::Swap(id)) => self.puts.iter().any(|put| put.id == *id && put.result.is_some()),
                None => false,
            },
            Act::NoAnswer(at) => self.servers[at].request.is_some(),
            Act::DoJob(at) => self.has_room_for_job(at) && self.outcome(at).is_some(),
            Act::EndJob(at) => self.servers[at]
                .job
                .as_ref()
                .is_some_and(|job| job.done.is_some()),
            Act::FailJob(at) => self.servers[at]
                .job
                .as_ref()
                .is_some_and(|job| job.done.is_none()),
            Act::KillDatabase(at) => self.servers[at].db.up,
            Act::Silent(at) | Act::Unacknowledged(at) | Act::Full(at) => {
                let server = &self.servers[at];
                let is_so = server.full || !matches!(act, Act::Full(_));
                is_so && server.db.up && server.agent.is_some() && !server.untold
            }
            Act::TellStopped(at) => self.servers[at].untold && self.servers[at].agent.is_some(),
            Act::KillAgent(at) | Act::Tick(at) | Act::Order(at, _) | Act::Diverged(at) | Act::Astray(at) => {
                self.servers[at].agent.is_some()
            }
            Act::StartAgent(at) => self.servers[at].agent.is_none(),
            Act::Hear(at, of) => {
                at != of && self.servers[at].agent.is_some() && self.servers[of].agent.is_some()
            }
            Act::Lag(at) => {
                let db = &self.servers[at].db;
                let whole = self
                    .root(at)
                    .is_some_and(|root| db.log.len() >= self.servers[root].db.log.len());
                self.servers[at].agent.is_some() && db.up && db.receiving && db.relay.is_empty() && whole
            }
            Act::Message(which) => self.messages.get(which).is_some(),
        }
    }

    /// Does it. An error is a broken promise.
    pub fn act(&mut self, act: &Act, now: Duration, crash: Crash) -> Result<(), String> {
        match act.clone() {
            Act::Write(at) => {
                let number = self.acked.len() as u16;
                self.acked.push(false);
                self.book.written.push(self.book.now);
                self.servers[at].db.log.push(number);
                self.acknowledge(at)?;
            }
            Act::Receive(at) => {
                if let Some(next) = self.next_for(at) {
                    self.servers[at].db.relay.push(next?);
                }
            }
            Act::Confirm(at) => {
                let held = self.servers[at].db.log.len() + self.servers[at].db.relay.len();
                if let Some((source, _)) = self.servers[at].db.source {
                    self.servers[source].db.confirmed.insert(at, held);
                    self.acknowledge(source)?;
                }
            }
            Act::Apply(at) => {
                let db = &mut self.servers[at].db;
                let next = db.relay.remove(0);
                db.log.push(next);
                db.committed = db.log.len();
            }
            Act::Land(id) => self.land(id),
            Act::Look(at) => self.servers[at].request = Some(Request::Read(Some(self.record.clone()))),
            Act::Answer(at) => {
                let event = match self.servers[at].request.take().unwrap() {
                    Request::Read(found) => Event::Read(found.unwrap()),
                    Request::Swap(id) => {
                        let which = self.puts.iter().position(|put| put.id == id).unwrap();
                        match self.puts.remove(which).result.unwrap() {
                            Ok(()) => Event::Won,
                            Err(found) => Event::Lost(found),
                        }
                    }
                };
                self.happen(at, event, now, crash);
            }
            Act::NoAnswer(at) => {
                let event = match self.servers[at].request.take().unwrap() {
                    Request::Read(_) => Event::Unreadable,
                    Request::Swap(_) => {
                        self.seen.doubts += 1;
                        Event::Doubt
                    }
                };
                self.forget_puts();
                self.happen(at, event, now, crash);
            }
            Act::DoJob(at) => self.do_job(at)?,
            Act::EndJob(at) => {
                let outcome = self.servers[at].job.take().unwrap().done.unwrap();
                self.happen(at, Event::Worked(outcome), now, crash);
            }
            Act::FailJob(at) => {
                self.servers[at].job = None;
                self.happen(at, Event::Worked(Outcome::Failed), now, crash);
            }
            Act::KillDatabase(at) => {
                self.seen.crashes += 1;
                self.stop(at);
            }
            Act::Silent(at) => self.happen(at, Event::Silent, now, crash),
            Act::Full(at) => self.happen(at, Event::Full, now, crash),
            Act::Fill(at, full) => {
                self.servers[at].full = full;
                match full {
                    true => self.book.full.insert(at, self.book.now),
                    false => self.book.full.remove(&at),
                };
            }
            Act::Unacknowledged(at) => self.happen(at, Event::Unacknowledged, now, crash),
            Act::TellStopped(at) => {
                self.servers[at].untold = false;
                // Nothing of the work has an effect after this.
                self.servers[at].job = None;
                self.happen(at, Event::Stopped, now, crash);
            }
            Act::KillAgent(at) => {
                self.seen.crashes += 1;
                self.end_agent(at);
            }
            Act::StartAgent(at) => {
                let server = &mut self.servers[at];
                let state = match server.db.up {
                    true => Database::Running {
                        open: server.db.open.is_some(),
                        receiving: server.db.receiving,
                    },
                    false => Database::Stopped,
                };
                server.untold = false;
                server.agent = Some(Node::new(server.setup.clone(), server.disk, state));
                self.happen(at, Event::Tick, now, crash);
            }
            Act::Tick(at) => self.happen(at, Event::Tick, now, crash),
            Act::Hear(at, of) => {
                let (name, facts) = (self.servers[of].setup.me.clone(), self.facts(of));
                self.happen(at, Event::Peer(name, facts), now, crash);
            }
            Act::Lag(at) => {
                let lag = Event::Lag {
                    behind: Duration::ZERO,
                    missing: 0,
                };
                let root = self.root(at);
                // One of a leader that was replaced says nothing of what the new one has written.
                if root.is_some_and(|root| self.servers[root].db.open >= Some(self.top)) {
                    self.book.beats.insert(at, self.book.now);
                }
                self.happen(at, lag, now, crash);
            }
            Act::Message(which) => {
                let (to, event) = self.messages.remove(which);
                if self.servers[to].agent.is_some() {
                    self.happen(to, event, now, crash);
                }
            }
            Act::Diverged(at) => self.happen(at, Event::Diverged, now, crash),
            Act::Astray(at) => self.happen(at, Event::Astray, now, crash),
            Act::Order(at, command) => self.happen(at, Event::Command(command), now, crash),
        }
        Ok(())
    }

    pub fn facts(&self, of: usize) -> PeerFacts {
        let server = &self.servers[of];
        PeerFacts {
            incarnation: server.disk.incarnation,
            follows: server.disk.follows.filter(|_| server.db.up),
            through: server.disk.through,
            leaving: server.agent.as_ref().is_some_and(Node::asks_out),
            near: server.db.up && server.db.receiving,
            position: (server.db.log.len() + server.db.relay.len()) as u64,
            declines: server.agent.as_ref().and_then(Node::declines),
            room: !server.full,
        }
    }

    /// The open leader whose writes arrive at that replica, by whatever way.
    pub fn root(&self, at: usize) -> Option<usize> {
        let mut next = self.servers[at].db.source;
        for _ in 0..self.servers.len() {
            let (source, _) = next?;
            let db = &self.servers[source].db;
            if db.up && db.open.is_some() {
                return Some(source);
            }
            next = db.source.filter(|_| db.up && db.receiving);
        }
        None
    }

    fn happen(&mut self, at: usize, event: Event, now: Duration, crash: Crash) {
        self.nonces += 1;
        let fresh = Nonce(u128::from(self.nonces));
        let effects = self.servers[at].agent.as_mut().unwrap().step(event, now, fresh);
        if !effects.iter().any(|effect| matches!(effect, Effect::Swap { .. })) {
            // Not used: states that differ in nothing else stay the same.
            self.nonces -= 1;
        }
        for (done, effect) in effects.into_iter().enumerate() {
            if crash == Some(done) {
                self.seen.crashes += 1;
                return self.end_agent(at);
            }
            if self.servers[at].full && matches!(effect, Effect::Remember(_)) {
                // What cannot be kept is not done, nor anything behind it: the agent begins anew.
                return self.end_agent(at);
            }
            self.carry_out(at, effect);
        }
    }

    /// Most work writes.
    fn has_room_for_job(&self, at: usize) -> bool {
        let server = &self.servers[at];
        let writes_not = |job: &Job| {
            matches!(
                job.work,
                Work::Acknowledge(_) | Work::CaughtUp(_) | Work::Close(_) | Work::Halt
            )
        };
        !server.full || server.job.as_ref().is_some_and(writes_not)
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Remember(durable) => self.servers[at].disk = durable,
            Effect::Read => {
                assert!(self.servers[at].request.is_none(), "one request at a time");
                self.servers[at].request = Some(Request::Read(None));
            }
            Effect::Swap { expected, record } => {
                assert!(self.servers[at].request.is_none(), "one request at a time");
                let id = self.nonces;
                self.check_loss(at, &record);
                if record.leader != self.servers[at].setup.me && !record.electing {
                    self.book.gave.insert(at, record.epoch);
                }
                self.puts.push(Put {
                    id,
                    expected,
                    record,
                    result: None,
                });
                self.servers[at].request = Some(Request::Swap(id));
            }
            Effect::Work(work) => {
                assert!(self.servers[at].job.is_none(), "one work at a time");
                // Its source was lost, not its leader: that one is as it was.
                let same = self.record.as_ref().is_some_and(|record| {
                    matches!(&work, Work::Follow(_, epoch) if self.servers[at].db.source.is_some_and(|(from, of)| {
                        of == *epoch && self.servers[from].setup.me != record.leader
                    }))
                });
                self.seen.direct += u64::from(same);
                self.servers[at].job = Some(Job { work, done: None });
            }
            Effect::Kill => {
                self.seen.fenced += 1;
                self.servers[at].job = None;
                self.stop(at);
                self.servers[at].untold = true;
            }
            Effect::Ask(to, epoch) => {
                let (to, from) = (self.index(&to), self.servers[at].setup.me.clone());
                self.send(to, Event::Asked(from, epoch));
            }
            Effect::Answer {
                to,
                epoch,
                incarnation,
                position,
            } => {
                let (to, from) = (self.index(&to), self.servers[at].setup.me.clone());
                self.send(
                    to,
                    Event::Halted {
                        from,
                        epoch,
                        incarnation,
                        position,
                    },
                );
            }
            Effect::Tell(notice) => {
                self.seen.stranded += u64::from(notice == Notice::Stranded);
                self.seen.silenced += u64::from(notice == Notice::KilledSilent);
                self.seen.taken_back += u64::from(matches!(notice, Notice::TakenBack(_)));
                if notice == Notice::KilledFull {
                    self.seen.filled += 1;
                    self.check_room(at);
                }
            }
        }
    }

    /// Whoever takes over without everything says how much that may be. Clocks run up to a tenth too slow.
    fn check_loss(&mut self, at: usize, next: &Record) {
        let Some(window) = next.loss.and_then(|loss| loss.window) else {
            return;
        };
        let takes = self
            .record
            .as_ref()
            .is_some_and(|record| record.epoch < next.epoch);
        let beat = self.book.beats.get(&at).copied().unwrap_or_default();
        let missed = self.book.now.saturating_sub(beat) * 89 / 100;
        if takes && window + Duration::from_millis(1) < missed {
            self.book.broken = Some(format!("{at} says {window:?}, and heard nothing for {missed:?}"));
        }
    }

    /// Whether an operator has made another the leader since that epoch, who did not need to have everything.
    fn is_given_up(&self, epoch: Epoch) -> bool {
        self.forced
            .iter()
            .any(|forced| epoch < *forced && *forced <= self.top)
    }

    /// Whoever gives way because it cannot write has heard, not long ago, of one that can.
    fn check_room(&mut self, at: usize) {
        let long = self.servers[at].setup.timing.peer * 2;
        let others = (0..self.servers.len()).filter(|other| *other != at);
        let full_for_long = |other: usize| {
            let since = self.book.full.get(&other);
            since.is_some_and(|since| self.book.now.saturating_sub(*since) > long)
        };
        if others.into_iter().all(full_for_long) {
            self.book.broken = Some(format!("{at} gave way, and nobody has had room for {long:?}"));
        }
    }

    fn send(&mut self, to: usize, event: Event) {
        if !self.messages.contains(&(to, event.clone())) && self.messages.len() < 20 {
            self.messages.push((to, event));
        }
    }

    fn end_agent(&mut self, at: usize) {
        self.book.gave.remove(&at);
        let server = &mut self.servers[at];
        (server.agent, server.job, server.request, server.untold) = (None, None, None, false);
        self.forget_puts();
    }

    /// Those that have landed and whose answer nobody waits for.
    fn forget_puts(&mut self) {
        let waiting: Vec<u64> = self
            .servers
            .iter()
            .filter_map(|server| match server.request {
                Some(Request::Swap(id)) => Some(id),
                _ => None,
            })
            .collect();
        self.puts
            .retain(|put| put.result.is_none() || waiting.contains(&put.id));
    }

    fn stop(&mut self, at: usize) {
        let server = &mut self.servers[at];
        (server.db.up, server.db.open, server.db.receiving) = (false, None, false);
        server.db.acks = Acks::Alone;
        server.db.confirmed.clear();
        server.untold = server.agent.is_some();
    }

    fn land(&mut self, id: u64) {
        let which = self.puts.iter().position(|put| put.id == id).unwrap();
        let (expected, record) = (self.puts[which].expected, self.puts[which].record.clone());
        let result = if self.record.as_ref().map(|record| record.nonce) == expected {
            if let Some(current) = &self.record {
                current.check_next(&record).unwrap();
                let lacking = record.epoch > current.epoch && record.loss.is_some();
                if lacking && self.strict {
                    // Only an operator's word can do that.
                    self.seen.forced += 1;
                    self.forced.insert(record.epoch);
                } else if lacking {
                    let beat = self.book.beats.get(&self.index(&record.leader));
                    let behind = self.book.landed.saturating_sub(beat.copied().unwrap_or_default());
                    if behind * 89 / 100 > record.policy.max_lag {
                        let leader = &record.leader;
                        self.book.broken = Some(format!("{leader} was {behind:?} behind, and takes over"));
                    }
                }
                let to = record.leader != current.leader;
                let idle = &self.servers[self.index(&record.leader)].setup.bystanders;
                if let Some(name) = idle
                    .iter()
                    .find(|name| record.sync.contains_key(*name) || record.leader == **name)
                {
                    self.book.broken = Some(format!("{name} does not count, and leads or is in sync"));
                }
                self.seen.beside += u64::from(!idle.is_empty() && to);
                let apart = self.servers.iter().find(|server| {
                    server.disk.through && record.in_sync(&server.setup.me, server.disk.incarnation)
                });
                if let Some(server) = apart {
                    let name = &server.setup.me;
                    self.book.broken = Some(format!("{name} is in sync, and follows through another"));
                }
                self.seen.promoted += u64::from(to && record.fragile);
                let handed = to && !record.fragile && !record.electing;
                self.seen.handed_over += u64::from(handed);
                self.book.handed = handed.then(|| self.index(&record.leader));
                self.seen.elected += u64::from(current.electing && !record.electing);
            }
            self.record = Some(*record);
            self.book.landed = self.book.now;
            Ok(())
        } else {
            Err(self.record.clone())
        };
        self.puts[which].result = Some(result);
        self.forget_puts();
    }
}
