//! The failover protocol under dice: two to five servers, writes all the time, lost answers, late PUTs, cut links,
//! frozen servers, clocks that run up to 10 % fast or slow, processes that die, also between any two effects.
//!
//! After each act the world checks P1 and P2 (see `failover/mod.rs`). At the end the faults stop, and the fleet must be
//! in service again by itself, unless an operator is needed, which is counted.
//!
//! A failing seed is printed; `PONTOON_SEED=n` replays it alone. `PONTOON_SEEDS=n` asks for more schedules and
//! `PONTOON_FIRST=n` says where they begin (`script/simulate`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a panic is the report

mod failover;

use std::time::Duration;

use failover::{Act, Seen, Slip, World};
use pontoon_decide::failover::{Command, Guard, Mode, Node, Policy, Setup, State, Timing};

const SEEDS: u64 = 20_000;

#[test]
fn nothing_is_lost_and_one_writes_whatever_happens() {
    if let Some(seed) = number("PONTOON_SEED") {
        let (seen, waits) = run(seed, None, None, true).expect("this seed");
        return println!("{seen:?} waits for an operator: {waits}");
    }
    let (first, seeds) = (
        number("PONTOON_FIRST").unwrap_or(1),
        number("PONTOON_SEEDS").unwrap_or(SEEDS),
    );
    let threads = number("PONTOON_THREADS").unwrap_or(3);
    let share = |thread: u64| {
        let mut all = (Seen::default(), 0);
        for seed in (first + thread..first + seeds).step_by(threads as usize) {
            match run(seed, None, None, false) {
                Ok((seen, waits)) => {
                    add(&mut all.0, &seen);
                    all.1 += u64::from(waits);
                }
                Err(broken) => panic!(
                    "{broken}\nreplay: PONTOON_SEED={seed} cargo test -p pontoon-decide --test failover_simulation -- nothing"
                ),
            }
        }
        all
    };
    let shares: Vec<_> = std::thread::scope(|scope| {
        let shares: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || share(thread)))
            .collect();
        shares
            .into_iter()
            .map(|share| share.join().expect("the seed to replay is printed above"))
            .collect()
    });
    let mut all = (Seen::default(), 0);
    for (seen, waits) in shares {
        add(&mut all.0, &seen);
        all.1 += waits;
    }
    println!(
        "{seeds} schedules: {:?}; an operator is needed after {}",
        all.0, all.1
    );
    // A simulation in which nothing happens proves nothing.
    let Seen {
        acked,
        promoted,
        rejoined,
        doubts,
        crashes,
        fenced,
        handed_over,
        ..
    } = all.0;
    assert!(
        acked > seeds && crashes > seeds && doubts > seeds && promoted > seeds / 5,
        "{:?}",
        all.0
    );
    assert!(
        rejoined > seeds / 4 && fenced > seeds / 100 && handed_over > seeds / 100,
        "{:?}",
        all.0
    );
    assert!(
        all.0.silenced > seeds / 100
            && all.0.filled > seeds / 100
            && all.0.forced > seeds / 100
            && all.0.gathered > seeds / 1_000
            && all.0.taken_back > seeds / 1_000
            && all.0.beside > seeds / 1_000
            && all.0.through > seeds / 20
            && all.0.direct > seeds / 100,
        "{:?}",
        all.0
    );
    assert!(all.0.elected > 0 && all.1 < seeds / 4, "{:?} {}", all.0, all.1);
}

/// What the exhaustive checker cannot reach in its bounds is found here.
#[test]
fn every_guard_is_missed() {
    let guards = [
        Guard::SwapBeforeAlone,
        Guard::CatchUpBeforeSync,
        Guard::Eligible,
        Guard::NewLife,
        Guard::RestoreAcks,
        Guard::RestartCaughtUp,
        Guard::Settled,
        Guard::Drained,
        Guard::HandOverCaughtUp,
        Guard::NeverOpened,
        Guard::HandedOver,
        Guard::Enough,
        Guard::MostAdvanced,
        Guard::Near,
        Guard::Deadline,
        Guard::Patience,
        Guard::Fence,
        Guard::KillSilent,
        Guard::Room,
        Guard::NamedLoss,
        Guard::Bystander,
        Guard::Through,
    ];
    let slips = [
        Slip::DrainBeforeHalt,
        Slip::NoCut,
        Slip::PositionBeforeHalt,
        Slip::AnyAcknowledges,
    ];
    let mutants = guards
        .map(|guard| (Some(guard), None))
        .into_iter()
        .chain(slips.map(|slip| (None, Some(slip))));
    let mut missed = Vec::new();
    for (without, slip) in mutants {
        // A mutant that merely stands still breaks no promise.
        let broken = |seed| {
            run(seed, without, slip, false)
                .err()
                .filter(|broken| !broken.starts_with("not in service"))
        };
        match (1..=200_000).find_map(|seed| broken(seed).map(|broken| (seed, broken))) {
            Some((seed, broken)) => {
                println!(
                    "without {without:?}, with {slip:?}: seed {seed}: {}",
                    broken.lines().next().unwrap_or("")
                );
            }
            None => missed.push((without, slip)),
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

/// SplitMix64 (Steele, Lea, Flood 2014): every seed gives another row of dice.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What is wrong with a server just now, until when.
#[derive(Clone, Default)]
struct Trouble {
    /// Neither agent nor database does anything.
    frozen: Duration,
    /// The agent does nothing.
    agent_frozen: Duration,
    /// The database does nothing, and its agent lives.
    database_frozen: Duration,
    /// Its commits seem to wait in vain.
    in_vain: Duration,
    /// The store is out of reach.
    no_store: Duration,
    /// Its disk is full.
    full: Duration,
    /// Nothing comes from this server or goes to it.
    cut: Duration,
}

struct Run {
    world: World,
    dice: Dice,
    now: Duration,
    troubles: Vec<Trouble>,
    rates: Vec<u32>,
    ticks: Vec<Duration>,
    faults: bool,
    /// In `available` one writer rests on agents that live and clocks that run: their deaths are not in it.
    gentle: bool,
    /// An operator hands over often, and databases die in that moment.
    moves: Option<Dice>,
    talk: bool,
}

fn run(seed: u64, without: Option<Guard>, slip: Option<Slip>, talk: bool) -> Result<(Seen, bool), String> {
    let mut dice = Dice(seed);
    let (mode, count) = match dice.below(10) {
        0..=4 => (Mode::Safe, 2),
        5 => (Mode::Safe, 3),
        6..=7 => (Mode::Quorum, 3 + dice.below(3)),
        _ => (Mode::Available, 2 + dice.below(2)),
    };
    let policy = Policy {
        mode,
        acks: 1 + dice.below(count / 2) as u8,
        max_lag: Duration::from_secs(1),
    };
    let timing = Timing {
        drift_permille: 250,
        ..if dice.one_in(2) {
            Timing::s3()
        } else {
            Timing::etcd()
        }
    };
    let (relay_survives, continue_alone) = (dice.one_in(2), !dice.one_in(8));
    let names = ["a", "b", "c", "d", "e"];
    // With its own dice: the schedules of seeds that were told before stay the same.
    let beside = count > 2 && Dice(seed ^ 0xb75).one_in(3);
    let last = names[count as usize - 1].parse().unwrap();
    let bystanders: std::collections::BTreeSet<_> = beside.then_some(last).into_iter().collect();
    // The third follows through the second, and the fourth through the third: likewise with dice of their own.
    let cascade = if count > 2 { Dice(seed ^ 0xca5).below(4) } else { 0 };
    let source = |index: u64| match (index, cascade) {
        (2, 2..) | (3, 3) => Some(names[index as usize - 1].parse().unwrap()),
        _ => None,
    };
    let setups = (0..count).map(|index| Setup {
        source: source(index),
        bystanders: bystanders.clone(),
        fleet: "notes".parse().unwrap(),
        me: names[index as usize].parse().unwrap(),
        timing,
        policy,
        founder: index == 0,
        automatic: true,
        continue_alone,
        copy_anew: true,
        relay_survives,
        without,
    });
    let mut world = World::new(setups.collect(), slip);
    world.strict = mode != Mode::Available;
    let count = count as usize;
    let mut run = Run {
        world,
        now: Duration::from_secs(100_000),
        troubles: vec![Trouble::default(); count],
        rates: (0..count).map(|_| 900 + dice.below(201) as u32).collect(),
        ticks: vec![Duration::ZERO; count],
        dice,
        faults: false,
        gentle: mode == Mode::Available,
        moves: Some(Dice(seed ^ 0x30b)).filter(|dice| Dice(dice.0).one_in(4)),
        talk,
    };
    run.go(Duration::from_secs(8))?;
    run.faults = true;
    let length = 12 + run.dice.below(25);
    run.go(Duration::from_secs(length))?;
    run.faults = false;
    run.troubles = vec![Trouble::default(); count];
    // Where commits must not go on alone, one that leaves and never goes would be waited for, as it should.
    for at in 0..count {
        run.act(Act::StartAgent(at))?;
        run.act(Act::Order(at, Command::Leave(false)))?;
    }
    let mut waits = false;
    for _ in 0..100 {
        run.go(Duration::from_secs(3))?;
        waits = !run.in_service();
        if !waits {
            break;
        }
    }
    if waits && !run.needs_operator() {
        return Err(format!("not in service again by itself:\n{}", run.brief()));
    }
    if mode == Mode::Available && run.world.seen.two_writers > 0 {
        return Err("two writers, although agents and clocks were sound".to_owned());
    }
    Ok((run.world.seen, waits))
}

impl Run {
    fn clock(&self, at: usize) -> Duration {
        self.now * self.rates[at] / 1000
    }

    fn go(&mut self, length: Duration) -> Result<(), String> {
        let end = self.now + length;
        while self.now < end {
            self.now += Duration::from_millis(20 + self.dice.below(180));
            if self.faults {
                self.stir()?;
            }
            let count = self.world.servers.len();
            for at in 0..count {
                if !self.world.servers[at].db.up {
                    // A process that is started anew does not stand still.
                    self.troubles[at].database_frozen = Duration::ZERO;
                }
                if self.now >= self.ticks[at] {
                    self.ticks[at] = self.now + Duration::from_millis(200);
                    if self.troubles[at].database_frozen > self.now && self.dice.one_in(30) {
                        self.act(Act::Silent(at))?;
                    }
                    if self.troubles[at].in_vain > self.now {
                        self.act(Act::Unacknowledged(at))?;
                    }
                    self.act(Act::Fill(at, self.troubles[at].full > self.now))?;
                    if self.troubles[at].full > self.now && self.dice.one_in(15) {
                        self.act(Act::Full(at))?;
                    }
                    self.act(Act::Tick(at))?;
                    self.act(Act::StartAgent(at))?;
                }
            }
            let puts: Vec<u64> = self.world.puts.iter().map(|put| put.id).collect();
            for id in puts {
                if !self.faults || !self.dice.one_in(6) {
                    self.act(Act::Land(id))?;
                }
            }
            for _ in 0..count * 5 {
                let act = self.some_act(count);
                self.act(act)?;
            }
        }
        Ok(())
    }

    fn some_act(&mut self, count: usize) -> Act {
        let at = self.dice.below(count as u64) as usize;
        match self.dice.below(16) {
            0 if self.dice.one_in(3) => Act::Write(at),
            0 => Act::Receive(at),
            1..=2 => Act::Receive(at),
            3 => Act::Confirm(at),
            4 => Act::Apply(at),
            5 => Act::Look(at),
            6..=7 => Act::Answer(at),
            8..=9 => Act::DoJob(at),
            10..=11 => Act::EndJob(at),
            12 => Act::TellStopped(at),
            13 => Act::Hear(at, self.dice.below(count as u64) as usize),
            14 => Act::Message(self.dice.below(4) as usize),
            _ => Act::Lag(at),
        }
    }

    /// An operator hands over.
    fn hand_over(&mut self) -> Result<(), String> {
        let (Some(moves), Some(record)) = (&mut self.moves, &self.world.record) else {
            return Ok(());
        };
        let to = moves.below(self.world.servers.len() as u64) as usize;
        if moves.one_in(15) {
            let (to, from) = (
                self.world.servers[to].setup.me.clone(),
                self.world.index(&record.leader),
            );
            self.act(Act::Order(from, Command::Switchover(to)))?;
        }
        Ok(())
    }

    /// Faults.
    fn stir(&mut self) -> Result<(), String> {
        self.hand_over()?;
        let at = self.dice.below(self.world.servers.len() as u64) as usize;
        let until = self.now + Duration::from_millis(500 + self.dice.below(25_000));
        match self.dice.below(90) {
            0..=1 => self.act(Act::KillDatabase(at))?,
            2..=3 if !self.gentle => self.act(Act::KillAgent(at))?,
            4 if !self.gentle => self.troubles[at].frozen = until,
            5 if !self.gentle => self.troubles[at].agent_frozen = until,
            42..=43 => self.troubles[at].database_frozen = until,
            49 => self.troubles[at].full = until,
            // The same thing fills the disks of all.
            51 if self.dice.one_in(4) => self.troubles.iter_mut().for_each(|trouble| trouble.full = until),
            // A busy machine may look like one whose database stands still.
            44 => self.act(Act::Silent(at))?,
            // And like one whose replica does not answer.
            48 => self.troubles[at].in_vain = until,
            6..=7 => self.troubles[at].no_store = until,
            8..=9 => self.troubles[at].cut = until,
            10..=19 => self.act(Act::FailJob(at))?,
            20..=39 => self.act(Act::NoAnswer(at))?,
            40 => {
                let to = self.dice.below(self.world.servers.len() as u64) as usize;
                let to = self.world.servers[to].setup.me.clone();
                self.act(Act::Order(at, Command::Switchover(to)))?;
            }
            // An operator wants a copy; somebody wrote on a replica, and it is copied or tries again.
            45 if self.dice.one_in(6) => self.act(Act::Order(at, Command::CopyAnew(true)))?,
            46 if self.dice.one_in(6) => self.act(Act::Diverged(at))?,
            47 => self.act(Act::Order(at, Command::Rejoin))?,
            // Or sees that the primary is gone, and promotes another, whatever that lacks.
            50 if self.world.strict && self.dice.one_in(4) => {
                let accept_loss = [0, 3, u64::MAX][self.dice.below(3) as usize];
                self.act(Act::Order(at, Command::Force { accept_loss }))?;
            }
            52 if self.dice.one_in(6) => self.act(Act::Astray(at))?,
            // One begins to leave, or stays after all.
            53 => {
                let leaves = self.dice.one_in(2);
                self.act(Act::Order(at, Command::Leave(leaves)))?;
            }
            41 if !self.gentle => {
                self.act(Act::KillAgent(at))?;
                self.act(Act::KillDatabase(at))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn act(&mut self, act: Act) -> Result<(), String> {
        let trouble = |at: usize| &self.troubles[at];
        let stands = |at: usize| trouble(at).frozen > self.now;
        let frozen = |at: usize| stands(at) || trouble(at).database_frozen > self.now;
        let agent = |at: usize| stands(at) || trouble(at).agent_frozen > self.now;
        let apart =
            |at: usize, of: usize| at != of && (trouble(at).cut > self.now || trouble(of).cut > self.now);
        let source = |at: usize| self.world.servers[at].db.source.map_or(at, |(source, _)| source);
        let no_store = |at: usize| trouble(at).no_store > self.now;
        let blocked = match act {
            Act::Write(at) | Act::Apply(at) => frozen(at),
            Act::Receive(at) | Act::Confirm(at) => frozen(at) || frozen(source(at)) || apart(at, source(at)),
            Act::Look(at) => agent(at) || no_store(at),
            Act::Answer(at) => agent(at) || no_store(at),
            Act::DoJob(at) => frozen(at) || self.job_is_cut(at),
            Act::Hear(at, of) => agent(at) || stands(of) || apart(at, of),
            Act::Lag(at) => agent(at) || frozen(source(at)) || apart(at, source(at)),
            Act::Message(_) => self.dice.one_in(4),
            Act::EndJob(at)
            | Act::TellStopped(at)
            | Act::Tick(at)
            | Act::FailJob(at)
            | Act::Silent(at)
            | Act::Full(at)
            | Act::Unacknowledged(at) => agent(at),
            _ => false,
        };
        // Requests that nobody answers come back as a doubt, after the time that they may take.
        if let (Act::Tick(at), false) = (&act, blocked) {
            let at = *at;
            if no_store(at) && self.dice.one_in(10) {
                self.act(Act::NoAnswer(at))?;
            }
            if self.dice.one_in(30) {
                self.act(Act::FailJob(at))?;
            }
        }
        if blocked || !self.world.can(&act) {
            return Ok(());
        }
        let at = match act {
            Act::Answer(at)
            | Act::EndJob(at)
            | Act::TellStopped(at)
            | Act::Tick(at)
            | Act::Silent(at)
            | Act::Full(at) => Some(at),
            _ => None,
        };
        let dies = self.faults && !self.gentle && at.is_some() && self.dice.one_in(400);
        let crash = dies.then(|| self.dice.below(3) as usize);
        let who = match act {
            Act::Look(at)
            | Act::Answer(at)
            | Act::NoAnswer(at)
            | Act::EndJob(at)
            | Act::FailJob(at)
            | Act::TellStopped(at)
            | Act::Silent(at)
            | Act::Full(at)
            | Act::Unacknowledged(at)
            | Act::StartAgent(at)
            | Act::Tick(at)
            | Act::Hear(at, _)
            | Act::Lag(at)
            | Act::Diverged(at)
            | Act::Astray(at)
            | Act::Order(at, _) => at,
            Act::Message(which) => self.world.messages[which].0,
            _ => 0,
        };
        if self.talk && !matches!(act, Act::Tick(_) | Act::Look(_) | Act::Hear(..) | Act::Lag(_)) {
            println!("{:?} {act:?} {crash:?}", self.now);
        }
        let now = self.clock(who);
        self.world.book.now = self.now;
        self.world.act(&act, now, crash)?;
        if let (Some(to), Some(moves)) = (self.world.book.handed.take(), &mut self.moves)
            && moves.one_in(3)
            && self.faults
        {
            self.act(Act::KillDatabase(to))?;
        }
        self.world.book.broken.take().map_or(Ok(()), Err)
    }

    fn job_is_cut(&self, at: usize) -> bool {
        use pontoon_decide::failover::Work;
        let cut = |of: usize| {
            let stands = |server: usize| {
                let trouble = &self.troubles[server];
                let ends = [trouble.cut, trouble.frozen, trouble.database_frozen];
                ends.iter().any(|until| *until > self.now)
            };
            of != at && (stands(at) || stands(of))
        };
        match self.world.servers[at].job.as_ref().map(|job| &job.work) {
            Some(Work::Rejoin(name, _) | Work::Follow(name, _) | Work::Copy(name, _)) => {
                cut(self.world.index(name))
            }
            Some(Work::CaughtUp(members)) => members.keys().any(|name| cut(self.world.index(name))),
            _ => false,
        }
    }

    fn brief(&self) -> String {
        let mut text = format!("{:?}\n", self.world.record);
        for server in &self.world.servers {
            let state = server.agent.as_ref().map(|agent| agent.standing().state);
            text += &format!(
                "{} {state:?} {:?} {:?} {:?} {:?}\n",
                server.setup.me, server.disk, server.db, server.job, server.request
            );
        }
        text
    }

    /// One leader is open and all others follow it.
    fn in_service(&self) -> bool {
        let Some(record) = &self.world.record else {
            return false;
        };
        let leader = self.world.index(&record.leader);
        self.world
            .servers
            .iter()
            .enumerate()
            .all(|(at, server)| match at == leader {
                true => server.db.open == Some(record.epoch),
                false => {
                    let source = server.setup.source.as_ref().map(|name| self.world.index(name));
                    let from = source.filter(|source| *source != leader).unwrap_or(leader);
                    server.db.up && server.db.receiving && server.db.source == Some((from, record.epoch))
                }
            })
    }

    /// The only copies that have every acknowledged write may not lead by themselves.
    fn needs_operator(&self) -> bool {
        let stranded = |state| state == State::Stranded;
        let Some(record) = &self.world.record else {
            return false;
        };
        let leader = &self.world.servers[self.world.index(&record.leader)];
        // Where both know what happened it is taken back.
        let knows = |agent: &Node| {
            let handed = self.world.book.gave.values().any(|epoch| *epoch == record.epoch);
            handed && !record.fragile && agent.declines().is_some()
        };
        leader
            .agent
            .as_ref()
            .is_some_and(|agent| stranded(agent.standing().state) && !knows(agent))
            || record.electing
    }
}

fn add(all: &mut Seen, seen: &Seen) {
    all.acked += seen.acked;
    all.opened += seen.opened;
    all.promoted += seen.promoted;
    all.rejoined += seen.rejoined;
    all.copied += seen.copied;
    all.gathered += seen.gathered;
    all.stranded += seen.stranded;
    all.doubts += seen.doubts;
    all.crashes += seen.crashes;
    all.fenced += seen.fenced;
    all.elected += seen.elected;
    all.lost += seen.lost;
    all.two_writers += seen.two_writers;
    all.handed_over += seen.handed_over;
    all.silenced += seen.silenced;
    all.filled += seen.filled;
    all.forced += seen.forced;
    all.beside += seen.beside;
    all.through += seen.through;
    all.direct += seen.direct;
    all.taken_back += seen.taken_back;
}
