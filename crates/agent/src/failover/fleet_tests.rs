//! Whole tasks against databases and a store that are made up, in time that is made up too: two or three servers whose
//! agents, databases and store die, hang and come back in an order that dice choose. After each write that is
//! acknowledged, and each database that opens, the promises are checked.
//!
//! The protocol has its own checkers in `decide`; this is about the shell: that it keeps the order of effects, answers
//! every request, loses no database's death and begins anew from its disk.

mod cases;
mod soak;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use pontoon_decide::failover::{
    Acks, Command, Event, Incarnation, Mode, Notice, Outcome, Policy, Position, Record, Setup, State, Timing,
    Why, Work,
};
use pontoon_fleet::{Epoch, FleetName, Refusal, ServerName, UnixMillis};
use pontoon_lease::{Found, LeaseError, LeaseStore, Swap, Version};
use pontoon_replication::work::{Answer, AskPeers, CopyStream, Facts, OnlyHere, Peers, Works};
use pontoon_rt::clock::Clock;
use pontoon_rt::shutdown::Shutdown;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::desk::Desk;
use super::remembered::Remembered;
use super::task::{Audience, End, Line, Outfit, Task};

const SECOND: Duration = Duration::from_secs(1);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn name(at: usize) -> ServerName {
    ["a", "b", "c"][at].parse().unwrap()
}

/// tokio's clock, which the tests' runtime moves on when everybody waits, and so many thousandths of its rate.
#[derive(Clone, Copy)]
struct MadeUp(Instant, u32);

impl Clock for MadeUp {
    fn now(&self) -> Duration {
        self.0.elapsed() * self.1 / 1000 + Duration::from_secs(1000)
    }

    fn unix(&self) -> UnixMillis {
        UnixMillis(1_800_000_000_000).plus(self.now())
    }
}

/// One made-up database.
#[derive(Clone, Debug, Default)]
struct Db {
    up: bool,
    open: Option<Epoch>,
    /// New transactions are held.
    closing: bool,
    /// What is committed and what waits: numbers of writes.
    log: Vec<u64>,
    relay: Vec<u64>,
    source: Option<usize>,
    receiving: bool,
    acks: Option<Acks>,
}

#[derive(Debug, Default)]
struct World {
    dbs: Vec<Db>,
    next: u64,
    acked: BTreeSet<u64>,
    pulses: u64,
    /// The newest epoch in which somebody opened.
    top: Epoch,
    openings: u64,
    broken: Option<String>,
    strict: bool,
    /// Pairs that do not hear each other.
    cut: Vec<(usize, usize)>,
    store: StoreState,
    /// A network that loses packets.
    lossy: Option<Lossy>,
    /// Writes are as rare as one of so many beats; 0: one of eight.
    rare: u64,
}

/// Of so many packets in a hundred none arrives. A lost heartbeat is lost; what is lost of a request is sent again, as TCP
/// does it: after 200 ms, then after twice as long each time.
#[derive(Debug)]
struct Lossy {
    percent: u64,
    dice: Dice,
}

impl Lossy {
    fn loses(&mut self) -> bool {
        self.dice.of(100) < self.percent
    }

    /// How much later a packet arrives.
    fn late(&mut self) -> Duration {
        let (mut late, mut again) = (Duration::ZERO, ms(200));
        while self.loses() {
            late += again;
            again *= 2;
        }
        // A machine that is busy with other things gets to it some time.
        late + ms(self.dice.of(150))
    }
}

/// Dice without a crate: xorshift.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn of(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

#[derive(Debug, Default)]
struct StoreState {
    record: Option<(Record, u64)>,
    down: bool,
    /// Of so many writes, one is carried out and not answered.
    forgets: u32,
    late: u32,
    count: u32,
}

type Shared = Arc<Mutex<World>>;

fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn is_cut(&self, one: usize, other: usize) -> bool {
        self.cut.contains(&(one, other)) || self.cut.contains(&(other, one))
    }

    /// Whether a heartbeat arrives.
    fn hears(&mut self, one: usize, other: usize) -> bool {
        !self.is_cut(one, other) && !self.lossy.as_mut().is_some_and(Lossy::loses)
    }

    fn held(&self, at: usize) -> Vec<u64> {
        let db = &self.dbs[at];
        db.log.iter().chain(&db.relay).copied().collect()
    }

    fn breaks(&mut self, promise: String) {
        self.broken.get_or_insert(promise);
    }

    /// One beat of the machines: replicas receive and apply, clients write, who may acknowledges.
    fn pulse(&mut self) {
        self.pulses += 1;
        for at in 0..self.dbs.len() {
            let Some(source) = self.dbs[at]
                .source
                .filter(|_| self.dbs[at].up && self.dbs[at].receiving)
            else {
                continue;
            };
            if self.dbs[source].up && !self.is_cut(at, source) {
                let held = self.held(at);
                let theirs = self.dbs[source].log.clone();
                if theirs.starts_with(&held) {
                    self.dbs[at].relay.extend(theirs[held.len()..].iter().take(2));
                }
            }
            if !self.dbs[at].relay.is_empty() {
                let next = self.dbs[at].relay.remove(0);
                self.dbs[at].log.push(next);
            }
        }
        for at in 0..self.dbs.len() {
            let due = self.pulses.is_multiple_of(self.rare.max(8));
            if self.dbs[at].open.is_some() && !self.dbs[at].closing && due {
                let number = self.next;
                self.next += 1;
                self.dbs[at].log.push(number);
            }
            self.acknowledge(at);
        }
    }

    fn acknowledge(&mut self, at: usize) {
        let db = &self.dbs[at];
        let (Some(epoch), Some(acks), true) = (db.open, db.acks.clone(), db.up) else {
            return;
        };
        let upto = match acks {
            Acks::Alone => db.log.len(),
            Acks::Of { members, needed } => {
                let mut held: Vec<usize> = (0..self.dbs.len())
                    .filter(|other| members.contains(&name(*other)) && !self.is_cut(at, *other))
                    .filter(|other| self.dbs[*other].up && self.dbs[*other].receiving)
                    .filter(|other| self.dbs[*other].source == Some(at))
                    .map(|other| self.held(other))
                    .filter(|held| db.log.starts_with(held))
                    .map(|held| held.len())
                    .collect();
                held.sort_unstable_by(|a, b| b.cmp(a));
                held.get(usize::from(needed) - 1).copied().unwrap_or(0)
            }
        };
        let fresh: Vec<u64> = db.log[..upto]
            .iter()
            .copied()
            .filter(|n| !self.acked.contains(n))
            .collect();
        if !fresh.is_empty() && epoch < self.top && self.strict {
            let top = self.top;
            self.breaks(format!(
                "P2: {} acknowledged in epoch {epoch} after {top} opened",
                name(at)
            ));
        }
        self.acked.extend(fresh);
    }

    fn opened(&mut self, at: usize, epoch: Epoch) {
        self.openings += 1;
        (self.dbs[at].open, self.dbs[at].closing) = (Some(epoch), false);
        let log = self.dbs[at].log.clone();
        if epoch >= self.top {
            self.top = epoch;
            if let Some(lost) = self.acked.iter().find(|number| !log.contains(number)) {
                let lost = *lost;
                if self.strict {
                    self.breaks(format!(
                        "P1: {} opened epoch {epoch} without write {lost}",
                        name(at)
                    ));
                }
                self.acked.retain(|number| log.contains(number));
            }
        }
        let open: Vec<_> = self
            .dbs
            .iter()
            .filter_map(|db| db.open)
            .filter(|e| *e == epoch)
            .collect();
        if open.len() > 1 {
            self.breaks(format!("P2: two databases are open in epoch {epoch}"));
        }
    }

    fn die(&mut self, at: usize) {
        let db = &mut self.dbs[at];
        (db.up, db.open, db.receiving, db.acks) = (false, None, false, None);
        // MariaDB with GTID: what was received and not applied is lost with the process.
        db.relay.clear();
    }
}

/// The made-up database's hands.
struct Hands {
    at: usize,
    world: Shared,
    desks: Vec<Arc<Desk>>,
}

impl Hands {
    fn db<T>(&self, use_it: impl FnOnce(&mut Db) -> T) -> T {
        use_it(&mut lock(&self.world).dbs[self.at])
    }

    fn leads(&self, leader: &ServerName, epoch: Epoch) -> Option<usize> {
        let at = (0..self.desks.len()).find(|at| name(*at) == *leader)?;
        let drained = self.desks[at].posted()?.durable.drained;
        let world = lock(&self.world);
        (drained == Some(epoch) && world.dbs[at].up && !world.is_cut(self.at, at)).then_some(at)
    }

    async fn do_it(&self, work: Work) -> Outcome {
        sleep(ms(15)).await;
        let up = self.db(|db| db.up);
        match work {
            Work::Recover => {
                self.db(|db| {
                    db.up = true;
                    db.relay.clear();
                });
                Outcome::Done
            }
            Work::Rejoin(leader, epoch) if !up => self.follow(&leader, epoch, true),
            Work::Follow(leader, epoch) if up => self.follow(&leader, epoch, false),
            Work::Copy(leader, epoch) => {
                let Some(source) = self.leads(&leader, epoch) else {
                    return Outcome::Failed;
                };
                let log = lock(&self.world).dbs[source].log.clone();
                self.db(|db| db.log = log);
                self.follow(&leader, epoch, false)
            }
            _ if !up => Outcome::Failed,
            Work::Acknowledge(acks) => {
                self.db(|db| db.acks = Some(acks));
                Outcome::Done
            }
            Work::Open(epoch) => {
                lock(&self.world).opened(self.at, epoch);
                Outcome::Done
            }
            Work::Close(_) => loop {
                {
                    let mut world = lock(&self.world);
                    world.dbs[self.at].closing = true;
                    let waits = world.dbs[self.at]
                        .log
                        .iter()
                        .any(|number| !world.acked.contains(number));
                    if !waits {
                        world.dbs[self.at].open = None;
                        return Outcome::Done;
                    }
                }
                sleep(ms(3)).await;
            },
            Work::Drain(_) | Work::Halt => self.db(|db| {
                db.receiving = false;
                let relay = std::mem::take(&mut db.relay);
                db.log.extend(relay);
                db.open = None;
                Outcome::At(db.log.len() as u64)
            }),
            Work::Gather(_) => Outcome::Done,
            Work::Resume => {
                self.db(|db| db.receiving = true);
                Outcome::Done
            }
            Work::CaughtUp(members) => loop {
                let all = {
                    let world = lock(&self.world);
                    let log = world.dbs[self.at].log.clone();
                    members.iter().all(|(member, life)| {
                        let at = (0..self.desks.len()).find(|at| name(*at) == *member).unwrap();
                        let db = &world.dbs[at];
                        let alive = self.desks[at].posted().map(|posted| posted.durable.incarnation);
                        alive == Some(*life)
                            && db.up
                            && db.receiving
                            && db.source == Some(self.at)
                            && !world.is_cut(self.at, at)
                            && world.held(at).starts_with(&log)
                    })
                };
                if all {
                    return Outcome::Done;
                }
                sleep(ms(2)).await;
            },
            Work::Rejoin(..) | Work::Follow(..) | Work::Through(..) => Outcome::Failed,
        }
    }

    fn follow(&self, leader: &ServerName, epoch: Epoch, cut: bool) -> Outcome {
        let Some(source) = self.leads(leader, epoch) else {
            return Outcome::Failed;
        };
        let mut world = lock(&self.world);
        let theirs = world.dbs[source].log.clone();
        let db = &mut world.dbs[self.at];
        if cut {
            let common = db
                .log
                .iter()
                .zip(&theirs)
                .take_while(|(one, other)| one == other)
                .count();
            db.log.truncate(common);
        }
        if !theirs.starts_with(&db.log) {
            return Outcome::Diverged;
        }
        db.relay.clear();
        (db.up, db.receiving, db.source, db.open) = (true, true, Some(source), None);
        Outcome::Done
    }
}

impl Works for Hands {
    fn carry_out<'a>(&'a self, work: Work, _: &'a Peers) -> BoxFuture<'a, Outcome> {
        self.do_it(work).boxed()
    }

    fn order_copy(&self, _: bool) -> BoxFuture<'_, Result<(), Refusal>> {
        async { Ok(()) }.boxed()
    }

    fn copy_ordered(&self) -> bool {
        false
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        lock(&self.world).die(self.at);
        sleep(ms(5)).boxed()
    }

    fn stopped(&self) -> BoxFuture<'_, ()> {
        async move {
            while self.db(|db| db.up) {
                sleep(ms(10)).await;
            }
        }
        .boxed()
    }

    fn standing(&self) -> BoxFuture<'_, Option<Facts>> {
        let world = lock(&self.world);
        let db = &world.dbs[self.at];
        let reaches = db
            .source
            .is_some_and(|source| world.dbs[source].open.is_some() && !world.is_cut(self.at, source));
        let facts = db.up.then(|| Facts {
            answers: true,
            closed: false,
            open: db.open.is_some(),
            receiving: db.receiving,
            applying: db.receiving,
            position: (db.log.len() + db.relay.len()) as u64,
            received: String::new(),
            applied: String::new(),
            behind_ms: (db.receiving && reaches).then_some(20),
            late: false,
            waiting: false,
            error: None,
        });
        async move { facts }.boxed()
    }

    fn acknowledge(&self, _: bool) -> BoxFuture<'_, bool> {
        async { true }.boxed()
    }

    fn beat(&self) -> BoxFuture<'_, Result<(), Refusal>> {
        async { Ok(()) }.boxed()
    }

    fn let_back<'a>(&'a self, _: &'a Peers) -> BoxFuture<'a, ()> {
        async {}.boxed()
    }

    fn reason(&self) -> Option<Refusal> {
        None
    }

    fn only_here(&self) -> Option<OnlyHere> {
        None
    }

    fn relay_survives(&self) -> bool {
        false
    }
}

/// The store: one record, and every way to answer wrongly that a store has.
#[derive(Debug)]
struct Memory(Shared);

impl LeaseStore for Memory {
    type Record = Record;

    fn read(&self) -> BoxFuture<'_, Result<Found<Record>, LeaseError>> {
        async move {
            on_the_way(&self.0).await;
            on_the_way(&self.0).await;
            let world = lock(&self.0);
            if world.store.down {
                return Err(LeaseError::Doubt("down".to_owned()));
            }
            let found = world.store.record.clone();
            Ok(found.map(|(record, version)| (record, Version::new(version.to_string()))))
        }
        .boxed()
    }

    fn compare_and_swap<'a>(
        &'a self,
        expected: Option<&'a Version>,
        new: &'a Record,
    ) -> BoxFuture<'a, Result<Swap<Record>, LeaseError>> {
        async move {
            on_the_way(&self.0).await;
            let (forgets, late) = {
                let mut world = lock(&self.0);
                if world.store.down {
                    return Err(LeaseError::Doubt("down".to_owned()));
                }
                world.store.count += 1;
                let hits = |every: u32| every > 0 && world.store.count.is_multiple_of(every);
                (hits(world.store.forgets), hits(world.store.late))
            };
            if late {
                // It arrives when nobody waits for it any more.
                let (world, expected, new) = (self.0.clone(), expected.cloned(), new.clone());
                tokio::spawn(async move {
                    sleep(ms(700)).await;
                    let _ = swap(&world, expected.as_ref(), &new);
                });
                return Err(LeaseError::Doubt("no answer".to_owned()));
            }
            let swapped = swap(&self.0, expected, new);
            if forgets {
                return Err(LeaseError::Doubt("the answer was lost".to_owned()));
            }
            on_the_way(&self.0).await;
            Ok(swapped)
        }
        .boxed()
    }
}

/// As long as a packet takes to the store, or back.
async fn on_the_way(world: &Shared) {
    let late = lock(world).lossy.as_mut().map(Lossy::late);
    sleep(ms(2) + late.unwrap_or_default()).await;
}

fn swap(world: &Shared, expected: Option<&Version>, new: &Record) -> Swap<Record> {
    let mut world = lock(world);
    let version = |number: u64| Version::new(number.to_string());
    let there = world.store.record.clone();
    if there.as_ref().map(|(_, number)| version(*number)).as_ref() != expected {
        return Swap::Lost(there.map(|(record, number)| (record, version(number))));
    }
    if let Some((record, _)) = &there {
        record.check_next(new).unwrap();
    }
    let number = there.map_or(1, |(_, number)| number + 1);
    world.store.record = Some((new.clone(), number));
    Swap::Won(version(number))
}

struct Wire {
    at: usize,
    world: Shared,
    desks: Vec<Arc<Desk>>,
}

impl Wire {
    fn send(&self, to: &ServerName, event: Event) {
        let to = (0..self.desks.len()).find(|at| name(*at) == *to).unwrap();
        if lock(&self.world).hears(self.at, to) {
            self.desks[to].tell(event);
        }
    }
}

impl Line for Wire {
    fn ask(&self, to: ServerName, epoch: Epoch) {
        self.send(&to, Event::Asked(name(self.at), epoch));
    }

    fn answer(&self, to: ServerName, epoch: Epoch, incarnation: Incarnation, position: Position) {
        let from = name(self.at);
        self.send(
            &to,
            Event::Halted {
                from,
                epoch,
                incarnation,
                position,
            },
        );
    }

    fn changed(&self, _: &Record) {
        for other in (0..self.desks.len()).filter(|other| *other != self.at) {
            self.send(&name(other), Event::Changed);
        }
    }
}

struct Nobody;

impl AskPeers for Nobody {
    fn hold(&self) -> BoxFuture<'_, Result<(), Refusal>> {
        async { Ok(()) }.boxed()
    }

    fn go_on(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    fn answer<'a>(&'a self, _: &'a ServerName) -> BoxFuture<'a, Option<Answer>> {
        async { None }.boxed()
    }

    fn acknowledge<'a>(&'a self, _: &'a ServerName, _: bool) -> BoxFuture<'a, bool> {
        async { true }.boxed()
    }

    fn ticket<'a>(
        &'a self,
        _: &'a ServerName,
    ) -> BoxFuture<'a, Result<pontoon_replication::SourceTicket, Refusal>> {
        async { Err(Refusal::new(pontoon_fleet::Code::N007, "nobody")) }.boxed()
    }

    fn copy<'a>(
        &'a self,
        _: &'a ServerName,
        _: pontoon_replication::Method,
    ) -> BoxFuture<'a, Result<CopyStream, Refusal>> {
        async { Err(Refusal::new(pontoon_fleet::Code::N007, "nobody")) }.boxed()
    }
}

#[derive(Default)]
struct Ears(Mutex<Vec<Notice>>);

impl Audience for Ears {
    fn record(&self, _: &Record) {}
    fn notice(&self, notice: &Notice) {
        self.0.lock().unwrap().push(notice.clone());
    }
    fn only_here(&self, _: &OnlyHere) {}
    fn state(&self, _: Option<State>, _: State, _: Option<&Record>) {}
    fn store(&self, _: Option<&str>) {}
}

/// Servers, each with an agent that can be killed.
struct Ground {
    world: Shared,
    desks: Vec<Arc<Desk>>,
    ears: Vec<Arc<Ears>>,
    agents: Vec<Option<JoinHandle<()>>>,
    dir: tempfile::TempDir,
    clock: Arc<MadeUp>,
    machines: soak::Machines,
    policy: Policy,
    timing: Timing,
    rest: Vec<JoinHandle<()>>,
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.agents
            .iter()
            .flatten()
            .chain(&self.rest)
            .for_each(JoinHandle::abort);
    }
}

fn timing() -> Timing {
    Timing {
        ttl: ms(3000),
        renew: ms(500),
        look: ms(250),
        request: ms(400),
        fence: ms(300),
        margin: ms(300),
        peer: ms(1200),
        take_back: ms(2000),
        cascade: SECOND * 30,
        ..Timing::etcd()
    }
}

impl Ground {
    fn new(servers: usize, mode: Mode) -> Ground {
        Ground::with_timing(servers, mode, timing(), ms(8))
    }

    /// The same with other lengths of time, and one beat of the machines each `pulse`.
    fn with_timing(servers: usize, mode: Mode, timing: Timing, pulse: Duration) -> Ground {
        Ground::on(soak::Machines::default(), servers, mode, timing, pulse)
    }

    /// The same on such machines.
    fn on(machines: soak::Machines, servers: usize, mode: Mode, timing: Timing, pulse: Duration) -> Ground {
        assert_eq!(timing.check(), Ok(()));
        let desks: Vec<Arc<Desk>> = (0..servers).map(|_| Arc::default()).collect();
        let world = World {
            dbs: vec![
                Db {
                    up: true,
                    ..Db::default()
                };
                servers
            ],
            strict: mode != Mode::Available,
            ..World::default()
        };
        let mut ground = Ground {
            world: Arc::new(Mutex::new(world)),
            ears: (0..servers).map(|_| Arc::default()).collect(),
            agents: (0..servers).map(|_| None).collect(),
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(MadeUp(Instant::now(), 1000)),
            machines,
            policy: Policy {
                mode,
                acks: u8::from(mode != Mode::Available),
                max_lag: SECOND,
            },
            rest: Vec::new(),
            desks,
            timing,
        };
        for at in 0..servers {
            ground.start(at);
        }
        let world = ground.world.clone();
        ground.rest.push(tokio::spawn(async move {
            loop {
                sleep(pulse).await;
                lock(&world).pulse();
            }
        }));
        let (world, desks) = (ground.world.clone(), ground.desks.clone());
        let clocks: Vec<_> = (0..servers).map(|at| ground.clock_of(at)).collect();
        ground.rest.push(tokio::spawn(async move {
            loop {
                sleep(ms(100)).await;
                for from in 0..desks.len() {
                    let Some(report) = desks[from].report(clocks[from].now()) else {
                        continue;
                    };
                    for (to, desk) in desks.iter().enumerate().filter(|(to, _)| *to != from) {
                        if lock(&world).hears(from, to) {
                            desk.tell(Event::Peer(name(from), report.peer_facts(false)));
                        }
                    }
                }
            }
        }));
        ground
    }

    fn file(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("{}.json", name(at)))
    }

    /// Starts that server's agent; it begins anew by itself as long as it lives.
    fn start(&mut self, at: usize) {
        let fleet: FleetName = "notes".parse().unwrap();
        let setup = Setup {
            founder: at == 0,
            automatic: true,
            copy_anew: true,
            ..Setup::new(fleet.clone(), name(at), self.timing, self.policy)
        };
        let hands = Hands {
            at,
            world: self.world.clone(),
            desks: self.desks.clone(),
        };
        let wire = Wire {
            at,
            world: self.world.clone(),
            desks: self.desks.clone(),
        };
        let outfit = Outfit {
            clock: self.clock_of(at),
            store: Arc::new(Memory(self.world.clone())),
            works: Arc::new(hands),
            peers: Arc::new(Peers {
                me: name(at),
                address: [127, 0, 0, 1].into(),
                servers: Default::default(),
                ask: Arc::new(Nobody),
            }),
            line: Arc::new(wire),
            audience: self.ears[at].clone(),
            desk: self.desks[at].clone(),
            timing: self.timing,
        };
        let (file, desk) = (self.file(at), self.desks[at].clone());
        let life = async move {
            loop {
                let inbox = desk.open();
                if let Ok(remembered) = Remembered::open(&file, &fleet, &setup.me, "one") {
                    let task = Task::begin(outfit.clone(), setup.clone(), remembered).await;
                    if let End::Shutdown = task.run(inbox, Shutdown::new()).await {
                        return;
                    }
                }
                desk.close(None);
                sleep(ms(200)).await;
            }
        };
        self.agents[at] = Some(tokio::spawn(self.machines.run(at, life)));
    }

    /// The clock of that server.
    fn clock_of(&self, at: usize) -> Arc<MadeUp> {
        Arc::new(MadeUp(self.clock.0, self.machines.rate(at)))
    }

    /// As SIGKILL does: nothing is said, nothing is finished.
    fn kill_agent(&mut self, at: usize) {
        if let Some(agent) = self.agents[at].take() {
            agent.abort();
            self.desks[at].close(None);
        }
    }

    fn kill_database(&self, at: usize) {
        lock(&self.world).die(at);
    }

    fn check(&self, doing: &str) {
        if let Some(broken) = &lock(&self.world).broken {
            panic!("{broken} ({doing})");
        }
    }

    fn state(&self, at: usize) -> Option<State> {
        self.desks[at].posted().map(|posted| posted.state)
    }

    /// Waits in made-up time.
    async fn until(&self, what: &str, is: impl Fn(&Ground) -> bool) {
        for _ in 0..6000 {
            self.check(what);
            if is(self) {
                return;
            }
            sleep(ms(20)).await;
        }
        let states: Vec<_> = (0..self.desks.len())
            .map(|at| (self.state(at), self.desks[at].report(self.clock.now())))
            .collect();
        panic!("never: {what}\n{states:#?}\n{:?}", lock(&self.world).store);
    }

    async fn until_in_sync(&self, leader: usize) {
        self.until("in sync", |ground| {
            ground.state(leader) == Some(State::LeaderSync)
        })
        .await;
    }

    /// The server whose database is open in the newest epoch.
    fn leader(&self) -> Option<usize> {
        let world = lock(&self.world);
        (0..world.dbs.len()).find(|at| world.dbs[*at].open.is_some_and(|epoch| epoch == world.top))
    }
}
