//! Changes of the configuration under every fault: messages lost, repeated, late and out of order, links cut,
//! servers killed between any two effects, clocks apart, several coordinators at once.
//!
//! After each effect it is checked that (1) no two texts were ever active at one revision, (2) no server goes back,
//! (3) what is active was agreed to by every voter, (4) what an operator was told is true. At the end the faults
//! stop, and (5) all members have the same text and the next change succeeds.
//!
//! A failing seed is printed; `PONTOON_SEED=n` replays it alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a panic is the report

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pontoon_decide::change::{Change, ChangeId, Committed, Effect, Event, Message, Node, Outcome, step};
use pontoon_fleet::{Code, Refusal, Revision, ServerName};

const SEEDS: u64 = 2_000;
const THREADS: u64 = 4;

#[test]
fn one_text_at_a_revision_whatever_happens() {
    if let Ok(seed) = std::env::var("PONTOON_SEED") {
        let seen = World::new(seed.parse().expect("PONTOON_SEED is a number")).run();
        return println!("{seen:?}");
    }
    let shares = (0..THREADS)
        .map(|first| std::thread::spawn(move || sweep((1 + first..=SEEDS).step_by(THREADS as usize))));
    let shares: Vec<_> = shares.collect();
    let mut all = Seen::default();
    for share in shares {
        all.add(&share.join().expect("the seed to replay is printed above"));
    }
    println!("{SEEDS} seeds: {all:?}");
    // A simulation in which nothing happens proves nothing.
    assert!(
        all.activated > SEEDS && all.refused > SEEDS && all.unknown > 20 && all.crashes > SEEDS,
        "{all:?}"
    );
    assert!(
        all.vetoed > 100 && all.removals > 100 && all.caught_up > 100,
        "{all:?}"
    );
}

fn sweep(seeds: impl Iterator<Item = u64>) -> Seen {
    let mut all = Seen::default();
    for seed in seeds {
        match std::panic::catch_unwind(|| World::new(seed).run()) {
            Ok(seen) => all.add(&seen),
            Err(panic) => {
                println!("replay: PONTOON_SEED={seed} cargo test -p pontoon-decide --test change_simulation");
                std::panic::resume_unwind(panic);
            }
        }
    }
    all
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    activated: u64,
    refused: u64,
    unknown: u64,
    crashes: u64,
    vetoed: u64,
    removals: u64,
    caught_up: u64,
}

impl Seen {
    fn add(&mut self, other: &Seen) {
        self.activated += other.activated;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.crashes += other.crashes;
        self.vetoed += other.vetoed;
        self.removals += other.removals;
        self.caught_up += other.caught_up;
    }
}

/// xorshift64* (Vigna 2016): small, seeded, enough for shuffling.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

struct Server {
    name: ServerName,
    /// `None` while it is down.
    node: Option<Node>,
    disk: Committed,
    /// How far its clock is from the world's.
    clock: Duration,
}

enum Pending {
    Message {
        from: usize,
        to: usize,
        message: Message,
    },
    Validated {
        at: usize,
        incarnation: u64,
        id: ChangeId,
        refusal: Option<Refusal>,
    },
}

struct World {
    random: Random,
    now: Duration,
    faults: bool,
    servers: Vec<Server>,
    pending: Vec<(Duration, Pending)>,
    cut: BTreeSet<(usize, usize)>,
    starts: u64,
    proposals: u64,
    /// Which server refuses which text.
    vetoes: BTreeMap<String, usize>,
    /// Who validated which attempt.
    agreed: BTreeMap<ChangeId, BTreeSet<ServerName>>,
    changes: BTreeMap<String, Change>,
    history: BTreeMap<Revision, String>,
    refused: BTreeSet<String>,
    seen: Seen,
    last: Option<Outcome>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let count = 2 + random.below(4) as usize;
        let names: Vec<ServerName> = (0..count).map(|i| format!("s{i}").parse().unwrap()).collect();
        let first = Committed {
            revision: Revision(1),
            text: "first".to_owned(),
            members: names.iter().cloned().collect(),
            lineage: Vec::new(),
        };
        let servers = names
            .iter()
            .map(|name| Server {
                name: name.clone(),
                node: Some(Node::new(name.clone(), names[0].clone(), 0, first.clone())),
                disk: first.clone(),
                clock: Duration::from_millis(random.below(100_000)),
            })
            .collect();
        World {
            random,
            now: Duration::ZERO,
            faults: true,
            servers,
            pending: Vec::new(),
            cut: BTreeSet::new(),
            starts: 0,
            proposals: 0,
            vetoes: BTreeMap::new(),
            agreed: BTreeMap::new(),
            changes: BTreeMap::new(),
            history: BTreeMap::from([(Revision(1), "first".to_owned())]),
            refused: BTreeSet::new(),
            seen: Seen::default(),
            last: None,
        }
    }

    fn run(mut self) -> Seen {
        let chaos = Duration::from_secs(100 + self.random.below(200));
        while self.now < chaos {
            self.stir();
            self.advance();
        }
        self.faults = false;
        self.cut.clear();
        self.restart_all();
        // Twice the longest wait of the protocol, and late messages.
        let calm = self.now + Duration::from_secs(130);
        while self.now < calm {
            self.advance();
        }
        self.check_agreement();
        let proposer = self.random.below(self.servers.len() as u64) as usize;
        let keeper = self.servers[0].disk.clone();
        let proposer = if keeper.members.contains(&self.servers[proposer].name) {
            proposer
        } else {
            0
        };
        self.last = None;
        self.propose(proposer, keeper.members, false);
        let end = self.now + Duration::from_secs(60);
        while self.now < end && self.last.is_none() {
            self.advance();
        }
        assert_eq!(
            self.last,
            Some(Outcome::Activated(keeper.revision.next())),
            "the next change succeeds"
        );
        // Servers that are no longer members hear of it by a heartbeat.
        let settled = self.now + Duration::from_secs(90);
        while self.now < settled {
            self.advance();
        }
        self.check_agreement();
        self.seen
    }

    /// Faults and operators.
    fn stir(&mut self) {
        let count = self.servers.len() as u64;
        let some = self.random.below(count) as usize;
        if self.random.one_in(12) {
            let veto = self.random.one_in(4);
            if let Some(node) = &self.servers[some].node {
                let mut members = node.active.members.clone();
                match self.random.below(6) {
                    0 => {
                        let gone = 1 + self.random.below(count - 1) as usize;
                        if members.remove(&self.servers[gone].name) {
                            self.seen.removals += 1;
                        }
                    }
                    1 => members = self.servers.iter().map(|server| server.name.clone()).collect(),
                    _ => {}
                }
                self.propose(some, members, veto);
            }
        }
        if self.random.one_in(40) {
            self.crash(some);
        }
        if self.random.one_in(15) && self.servers[some].node.is_none() {
            self.restart(some);
        }
        if self.random.one_in(25) {
            let other = self.random.below(count) as usize;
            self.cut.insert((some, other));
        }
        if self.random.one_in(20) {
            self.cut.clear();
        }
    }

    fn propose(&mut self, at: usize, members: BTreeSet<ServerName>, veto: bool) {
        self.proposals += 1;
        let text = format!("text {}", self.proposals);
        if veto {
            let who = self.random.below(self.servers.len() as u64) as usize;
            self.vetoes.insert(text.clone(), who);
        }
        self.happen(
            at,
            Event::Propose {
                number: self.proposals,
                text,
                members,
            },
        );
    }

    fn advance(&mut self) {
        self.now += Duration::from_millis(200 + self.random.below(600));
        loop {
            let due: Vec<usize> = (0..self.pending.len())
                .filter(|i| self.pending[*i].0 <= self.now)
                .collect();
            if due.is_empty() {
                break;
            }
            let which = due[self.random.below(due.len() as u64) as usize];
            match self.pending.swap_remove(which).1 {
                Pending::Message { from, to, message } => {
                    let from = self.servers[from].name.clone();
                    self.happen(to, Event::Received { from, message });
                }
                Pending::Validated {
                    at,
                    incarnation,
                    id,
                    refusal,
                } => {
                    let same = self.servers[at]
                        .node
                        .as_ref()
                        .is_some_and(|node| node.incarnation == incarnation);
                    if same {
                        self.happen(at, Event::Validated { id, refusal });
                    }
                }
            }
        }
        for at in 0..self.servers.len() {
            self.happen(at, Event::Tick);
            // The heartbeat.
            let beats = self.random.one_in(4);
            if let Some(node) = self.servers[at].node.as_ref().filter(|_| beats) {
                let message = Message::Active {
                    revision: node.active.revision,
                    digest: node.active.digest(),
                };
                let to = self.random.below(self.servers.len() as u64) as usize;
                self.send(at, to, message);
            }
        }
    }

    fn happen(&mut self, at: usize, event: Event) {
        let server = &mut self.servers[at];
        let Some(node) = server.node.take() else { return };
        let proposed = match &event {
            Event::Propose { text, .. } => Some(text.clone()),
            _ => None,
        };
        let (node, effects) = step(node, event, self.now + server.clock);
        if let (Some(text), Some(change)) = (proposed, node.coordinates())
            && change.text == text
        {
            self.changes.insert(text, change.clone());
        }
        server.node = Some(node);
        for effect in effects {
            self.carry_out(at, effect);
            if self.faults && self.random.one_in(150) {
                self.crash(at);
                return;
            }
        }
        if let Some(node) = &self.servers[at].node {
            assert_eq!(
                node.active, self.servers[at].disk,
                "what is active is on the disk"
            );
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Send { to, message } => {
                let to = self.servers.iter().position(|server| server.name == to).unwrap();
                self.send(at, to, message);
            }
            Effect::Validate(change) => {
                let vetoed = self.vetoes.get(&change.text) == Some(&at);
                self.seen.vetoed += u64::from(vetoed);
                let refusal = vetoed.then(|| Refusal::new(Code::P003, "cannot"));
                if !vetoed {
                    self.agreed
                        .entry(change.id.clone())
                        .or_default()
                        .insert(self.servers[at].name.clone());
                }
                let incarnation = self.servers[at].node.as_ref().unwrap().incarnation;
                let when = self.now + Duration::from_millis(self.random.below(3_000));
                self.pending.push((
                    when,
                    Pending::Validated {
                        at,
                        incarnation,
                        id: change.id,
                        refusal,
                    },
                ));
            }
            Effect::Activate(committed) => self.activate(at, committed),
            Effect::Finished { id, outcome } => self.finished(&id, outcome),
            Effect::Forked { peer, revision } => panic!("{peer} forked at {revision}"),
        }
    }

    fn activate(&mut self, at: usize, committed: Committed) {
        let text = &committed.text;
        assert!(
            committed.revision > self.servers[at].disk.revision,
            "no server goes back"
        );
        assert!(
            !self.refused.contains(text),
            "{text} was refused and became active"
        );
        if at != 0 {
            self.seen.caught_up += u64::from(committed.revision.0 > self.servers[at].disk.revision.0 + 1);
        }
        let known = self
            .history
            .entry(committed.revision)
            .or_insert_with(|| text.clone());
        assert_eq!(known, text, "two texts at revision {}", committed.revision);
        let change = &self.changes[text];
        let agreed = self.agreed.get(&change.id).cloned().unwrap_or_default();
        let voters = change.voters(&self.servers[0].name);
        assert!(
            voters.is_subset(&agreed),
            "{text} is active and only {agreed:?} agreed"
        );
        self.servers[at].disk = committed;
    }

    fn finished(&mut self, id: &ChangeId, outcome: Outcome) {
        let text = format!("text {}", id.number);
        match &outcome {
            Outcome::Activated(revision) => {
                self.seen.activated += 1;
                assert_eq!(
                    self.history.get(revision),
                    Some(&text),
                    "the operator was told the truth"
                );
            }
            Outcome::Refused(_) => {
                self.seen.refused += 1;
                assert!(
                    !self.history.values().any(|known| *known == text),
                    "{text} is active and was refused"
                );
                self.refused.insert(text);
            }
            Outcome::Unknown(_) => self.seen.unknown += 1,
            Outcome::Unchanged(_) => panic!("every text is new"),
        }
        self.last = Some(outcome);
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.cut.contains(&(from, to)) || (self.faults && self.random.one_in(8)) {
            return;
        }
        let copies = if self.faults && self.random.one_in(8) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let longest = match self.random.below(12) {
                0 if self.faults => 60_000,
                1 | 2 if self.faults => 8_000,
                _ => 300,
            };
            let when = self.now + Duration::from_millis(self.random.below(longest));
            self.pending.push((
                when,
                Pending::Message {
                    from,
                    to,
                    message: message.clone(),
                },
            ));
        }
    }

    fn crash(&mut self, at: usize) {
        if self.servers[at].node.take().is_some() {
            self.seen.crashes += 1;
        }
    }

    fn restart(&mut self, at: usize) {
        self.starts += 1;
        let keeper = self.servers[0].name.clone();
        let server = &mut self.servers[at];
        server.node = Some(Node::new(
            server.name.clone(),
            keeper,
            self.starts,
            server.disk.clone(),
        ));
    }

    fn restart_all(&mut self) {
        for at in 0..self.servers.len() {
            if self.servers[at].node.is_none() {
                self.restart(at);
            }
        }
    }

    fn check_agreement(&self) {
        let keeper = &self.servers[0].disk;
        for server in &self.servers {
            assert_eq!(
                &server.disk, keeper,
                "{} follows when the faults stop",
                server.name
            );
            let node = server.node.as_ref().unwrap();
            assert!(
                node.held().is_none() && node.coordinates().is_none(),
                "{} is free again",
                server.name
            );
        }
    }
}
