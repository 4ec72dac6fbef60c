//! A fleet in a world of dice for the address machine: kernels with leases, a gateway with a neighbour table, a network
//! that loses, cuts and delays, machines that pause, freeze, die and come back, clocks that run fast and slow.

#![allow(dead_code, clippy::print_stdout)] // each of the tests uses a part of it

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use pontoon_decide::address::{Action, Beat, Event, Member, Node, Setup, Timing, Why};
use pontoon_fleet::ServerName;

/// Splitmix64: the same seed gives the same world everywhere.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Milliseconds of the world's own clock.
pub type Ms = u64;

#[derive(Clone, Debug)]
enum Arrival {
    Beat(Beat),
    Probed(ServerName),
    Returned(ServerName, Duration),
    Gateway(Duration),
}

/// A server: its kernel, its edge, its process.
pub struct Machine {
    pub name: ServerName,
    pub node: Option<Node>,
    /// Which process, so that answers to a dead one are not given to the next.
    boot: u64,
    /// Thousandths that its clock runs fast or slow.
    rate: i64,
    /// When the machine froze in all, by the world's clock: its own clock stood still.
    stood: Ms,
    pub dead: bool,
    pub frozen: bool,
    pub stopped: bool,
    pub wedged: bool,
    /// Addresses by home, with the moment of the machine's clock at which the kernel drops them.
    pub kernel: BTreeMap<ServerName, Duration>,
    /// What waits in its sockets while the process is stopped.
    waiting: Vec<Arrival>,
    told_fit: bool,
    /// On its disk: the gateway returned something once.
    returns: bool,
}

impl Machine {
    fn clock(&self, now: Ms) -> Duration {
        let ran = now.saturating_sub(self.stood) as i64;
        Duration::from_micros((1_000_000_000 + ran * 1000 + ran * self.rate) as u64)
    }

    pub fn runs(&self) -> bool {
        !self.dead && !self.frozen
    }

    pub fn has(&self, home: &ServerName) -> bool {
        self.runs() && self.kernel.contains_key(home)
    }
}

pub struct World {
    pub now: Ms,
    pub dice: Dice,
    pub machines: Vec<Machine>,
    pub timing: Timing,
    /// A tenth of a heartbeat.
    tick: Ms,
    members: Vec<Member>,
    gateway: bool,
    /// `cut[from][to]`; the last row and column are the gateway.
    pub cut: Vec<Vec<bool>>,
    /// In percent.
    pub loss: u64,
    /// Who is in the gateway's neighbour table.
    pub table: BTreeMap<ServerName, usize>,
    /// The gateway believes nothing new.
    pub pinned: bool,
    arrivals: BinaryHeap<Reverse<(Ms, u64, usize, u64)>>,
    payloads: BTreeMap<u64, Arrival>,
    count: u64,
    /// Since when more than one kernel has a share; later by [`Timing::keep`] each time that a kernel speaks for itself.
    double_since: BTreeMap<ServerName, Ms>,
    pub longest_double: Ms,
    /// Every take and drop, for people and for tests.
    pub log: Vec<(Ms, usize, ServerName, Result<Why, Why>)>,
    pub takes: u64,
    /// Beats that were sent.
    pub beats: u64,
    pub noisy: bool,
}

impl World {
    pub fn new(seed: u64, servers: usize, timing: Timing) -> World {
        let names = ["a", "b", "c", "d", "e"];
        let members: Vec<Member> = names[..servers]
            .iter()
            .map(|name| Member {
                name: name.parse().unwrap(),
                edge: true,
                share: true,
                standby: false,
            })
            .collect();
        World::of(seed, members, timing)
    }

    pub fn of(seed: u64, members: Vec<Member>, timing: Timing) -> World {
        let servers = members.len();
        let mut world = World {
            now: 0,
            dice: Dice::new(seed),
            machines: Vec::new(),
            timing,
            tick: timing.heartbeat.as_millis() as Ms / 10,
            gateway: true,
            cut: vec![vec![false; servers + 1]; servers + 1],
            loss: 0,
            table: BTreeMap::new(),
            pinned: false,
            arrivals: BinaryHeap::new(),
            payloads: BTreeMap::new(),
            count: 0,
            double_since: BTreeMap::new(),
            longest_double: 0,
            log: Vec::new(),
            takes: 0,
            beats: 0,
            noisy: false,
            members,
        };
        for member in world.members.clone() {
            world.machines.push(Machine {
                name: member.name,
                node: None,
                boot: 0,
                rate: 0,
                stood: 0,
                dead: false,
                frozen: false,
                stopped: false,
                wedged: false,
                kernel: BTreeMap::new(),
                waiting: Vec::new(),
                told_fit: true,
                returns: false,
            });
        }
        (0..servers).for_each(|at| world.start(at));
        world
    }

    /// The machine's own clock.
    pub fn clock(&self, at: usize) -> Duration {
        self.machines[at].clock(self.now)
    }

    pub fn name(&self, at: usize) -> ServerName {
        self.machines[at].name.clone()
    }

    pub fn set_rate(&mut self, at: usize, thousandths: i64) {
        self.machines[at].rate = thousandths;
    }

    /// The process starts, and finds what its kernel has.
    pub fn start(&mut self, at: usize) {
        let boot = self.dice.next();
        let setup = Setup {
            me: self.name(at),
            members: self.members.clone(),
            timing: self.timing,
            gateway: self.gateway,
            returns: self.machines[at].returns,
            boot,
        };
        let now = self.now;
        let machine = &mut self.machines[at];
        let present: Vec<ServerName> = machine.kernel.keys().cloned().collect();
        machine.boot = boot;
        machine.stopped = false;
        machine.waiting.clear();
        machine.told_fit = true;
        machine.node = Some(Node::new(setup, &present, machine.clock(now)));
    }

    pub fn kill(&mut self, at: usize) {
        self.machines[at].node = None;
        self.machines[at].waiting.clear();
    }

    /// The machine dies, and its kernel with it.
    pub fn die(&mut self, at: usize) {
        self.kill(at);
        let machine = &mut self.machines[at];
        machine.dead = true;
        machine.frozen = false;
        machine.wedged = false;
        machine.kernel.clear();
    }

    pub fn boot(&mut self, at: usize) {
        self.machines[at].dead = false;
        self.start(at);
    }

    pub fn run_for(&mut self, ms: Ms) {
        let until = self.now + ms;
        while self.now < until {
            self.step();
        }
    }

    /// A rehearsal: `at` takes the share for so long, if it may.
    pub fn rehearse(&mut self, at: usize, home: &ServerName, ms: Ms) {
        if self.machines[at].runs() && !self.machines[at].stopped {
            let until = self.machines[at].clock(self.now) + Duration::from_millis(ms);
            let home = home.clone();
            self.event(at, Event::Rehearse { home, until });
        }
    }

    /// How many running kernels have the share.
    pub fn holders(&self, home: &ServerName) -> Vec<usize> {
        (0..self.machines.len())
            .filter(|at| self.machines[*at].has(home))
            .collect()
    }

    pub fn homes(&self) -> Vec<ServerName> {
        self.members
            .iter()
            .filter(|member| member.share)
            .map(|member| member.name.clone())
            .collect()
    }

    pub fn step(&mut self) {
        let tick = self.tick;
        self.now += tick;
        for at in 0..self.machines.len() {
            if self.machines[at].frozen {
                self.machines[at].stood += tick;
                continue;
            }
            let clock = self.machines[at].clock(self.now);
            self.machines[at].kernel.retain(|_, until| *until > clock);
        }
        while let Some(Reverse((due, _, _, _))) = self.arrivals.peek() {
            if *due > self.now {
                break;
            }
            let Some(Reverse((_, number, to, boot))) = self.arrivals.pop() else {
                break;
            };
            let arrival = self.payloads.remove(&number).unwrap();
            let machine = &mut self.machines[to];
            // Beats reach a socket's number, whoever listens; answers reach who asked.
            let for_another = !matches!(arrival, Arrival::Beat(_)) && machine.boot != boot;
            if machine.dead || for_another {
                continue;
            }
            if machine.frozen || machine.stopped {
                machine.waiting.push(arrival);
            } else {
                self.give(to, arrival);
            }
        }
        for at in 0..self.machines.len() {
            let machine = &mut self.machines[at];
            if machine.dead || machine.frozen || machine.stopped || machine.node.is_none() {
                continue;
            }
            for waiting in std::mem::take(&mut machine.waiting) {
                self.give(at, waiting);
            }
            let machine = &mut self.machines[at];
            if machine.told_fit == machine.wedged {
                machine.told_fit = !machine.wedged;
                let fit = machine.told_fit;
                self.event(at, Event::Fit(fit));
            }
            self.event(at, Event::Tick);
        }
        self.watch();
    }

    fn watch(&mut self) {
        for home in self.homes() {
            if self.holders(&home).len() > 1 {
                let since = *self.double_since.entry(home).or_insert(self.now);
                self.longest_double = self.longest_double.max(self.now - since);
            } else {
                self.double_since.remove(&home);
            }
        }
        // A kernel that resolves a neighbour on behalf of an address it has says so to the gateway, too.
        if self.dice.below(200) == 0 {
            for home in self.homes() {
                let holders = self.holders(&home);
                if holders.len() > 1 {
                    let one = holders[self.dice.below(holders.len() as u64) as usize];
                    if self.passes(one, self.machines.len()) && !self.pinned {
                        let keep = self.timing.keep.as_millis() as Ms;
                        if let Some(since) = self.double_since.get_mut(&home) {
                            *since = self.now.min(*since + keep);
                        }
                        self.table.insert(home, one);
                    }
                }
            }
        }
    }

    fn give(&mut self, to: usize, arrival: Arrival) {
        let event = match arrival {
            Arrival::Beat(beat) => Event::Beat(beat),
            Arrival::Probed(home) => Event::Probed { home, serving: true },
            Arrival::Returned(home, sent) => Event::Returned { home, sent },
            Arrival::Gateway(sent) => Event::Gateway { sent },
        };
        self.event(to, event);
    }

    fn event(&mut self, at: usize, event: Event) {
        let clock = self.machines[at].clock(self.now);
        let Some(node) = &mut self.machines[at].node else {
            return;
        };
        let actions = node.step(clock, event);
        self.machines[at].returns |= node.gateway_returns();
        for action in actions {
            self.act(at, clock, action);
        }
    }

    fn act(&mut self, at: usize, clock: Duration, action: Action) {
        let gateway = self.machines.len();
        match action {
            Action::Send(beat) => {
                self.beats += 1;
                for to in (0..gateway).filter(|to| *to != at) {
                    if self.passes(at, to) && !self.dice.chance(self.loss) {
                        self.send(to, Arrival::Beat(beat.clone()));
                    }
                }
            }
            Action::Take { home, why, .. } => {
                if self.noisy {
                    println!("{:>6} {} takes {home}: {why:?}", self.now, self.name(at));
                }
                self.takes += 1;
                self.log.push((self.now, at, home.clone(), Ok(why)));
                self.lease(at, clock, &home);
                self.announce(at, home);
            }
            Action::Refresh { home } => self.lease(at, clock, &home),
            Action::Announce { home } => self.announce(at, home),
            Action::Drop { home, why } => {
                if self.noisy {
                    println!("{:>6} {} drops {home}: {why:?}", self.now, self.name(at));
                }
                self.log.push((self.now, at, home.clone(), Err(why)));
                self.machines[at].kernel.remove(&home);
            }
            Action::Probe { home } => {
                let answering = (0..gateway).any(|other| {
                    let machine = &self.machines[other];
                    machine.has(&home) && !machine.wedged && self.passes(at, other) && self.passes(other, at)
                });
                if answering {
                    self.send(at, Arrival::Probed(home));
                }
            }
            Action::AskGateway { from } => {
                if !self.passes(at, gateway) || self.dice.chance(self.loss) {
                    return;
                }
                match from {
                    None if self.passes(gateway, at) => self.send(at, Arrival::Gateway(clock)),
                    Some(home) => {
                        let back_to = *self.table.entry(home.clone()).or_insert(at);
                        if back_to == at && self.passes(gateway, at) && self.machines[at].has(&home) {
                            self.send(at, Arrival::Returned(home, clock));
                        }
                    }
                    None => {}
                }
            }
        }
    }

    fn lease(&mut self, at: usize, clock: Duration, home: &ServerName) {
        let imprecise = Duration::from_millis(1_000 + self.dice.below(300));
        self.machines[at].kernel.insert(home.clone(), clock + imprecise);
    }

    fn announce(&mut self, at: usize, home: ServerName) {
        if self.passes(at, self.machines.len()) && !self.dice.chance(self.loss) && !self.pinned {
            self.table.insert(home, at);
        }
    }

    fn passes(&self, from: usize, to: usize) -> bool {
        !self.cut[from][to]
    }

    fn send(&mut self, to: usize, arrival: Arrival) {
        let late = if self.dice.chance(1) {
            self.dice.below(60)
        } else {
            self.dice.below(4)
        };
        self.count += 1;
        self.payloads.insert(self.count, arrival);
        let boot = self.machines[to].boot;
        self.arrivals
            .push(Reverse((self.now + late, self.count, to, boot)));
    }
}
