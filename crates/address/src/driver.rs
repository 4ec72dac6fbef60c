//! The thread around the machine: it feeds events in and carries actions out, and waits for nobody.

#![allow(
    clippy::disallowed_methods,
    reason = "threads of its own, outside any runtime, may sleep"
)]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use pontoon_decide::address::{Action, Event, Node, Setup, Why};
use pontoon_fleet::{AddressMove, AddressReport, ServerName, ShareReport};
use pontoon_rt::clock::{Clock, SystemClock};
use pontoon_rt::files;
use tokio::sync::mpsc::UnboundedSender;

use crate::health::{self, Finding};
use crate::kernel::{Kernel, Word};
use crate::plan::Plan;
use crate::rehearsal;
use crate::wire::{Key, MAX_DATAGRAM};
use crate::{AddressError, AddressOptions, system};

/// What the driver is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Follow this.
    Follow(Box<Plan>),
    /// Sign with this.
    Key(Key),
    /// Nothing moves any more.
    LetGo,
    /// Take a living server's addresses for a while.
    Rehearse(rehearsal::Request),
}

/// All that the thread has.
pub(crate) struct Driver {
    clock: SystemClock,
    kernel: Kernel,
    plan: Option<Plan>,
    key: Option<Key>,
    socket: Option<(SocketAddr, UdpSocket)>,
    node: Option<Node>,
    fit: bool,
    /// Whether the edge of this server is being watched.
    watching: bool,
    edge_socket: PathBuf,
    /// What an earlier process found out of the gateway.
    known_gateway: PathBuf,
    findings: Receiver<Finding>,
    tell: Sender<Finding>,
    moves: VecDeque<AddressMove>,
    moved: u64,
    /// What does not work, by what it is about; gone when it works.
    trouble: BTreeMap<String, String>,
    returns: bool,
    rehearsal: Option<rehearsal::Running>,
    reported: Option<Instant>,
}

impl Driver {
    pub(crate) fn new(options: &AddressOptions) -> Result<Driver, AddressError> {
        let id = u16::try_from(std::process::id() & 0xffff).unwrap_or(0);
        let kernel = Kernel::open(id).map_err(system("sockets on the kernel and the network"))?;
        let (tell, findings) = channel();
        Ok(Driver {
            clock: SystemClock,
            kernel,
            plan: None,
            key: None,
            socket: None,
            node: None,
            fit: true,
            watching: false,
            edge_socket: options.paths.run_dir.join("edge.sock"),
            known_gateway: options.paths.returning_gateway_file(),
            findings,
            tell,
            moves: VecDeque::new(),
            moved: 0,
            trouble: BTreeMap::new(),
            returns: false,
            rehearsal: None,
            reported: None,
        })
    }

    /// Runs until `inbox` has no sender any more.
    pub(crate) fn run(mut self, inbox: &Receiver<Order>, reports: &UnboundedSender<AddressReport>) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            loop {
                match inbox.try_recv() {
                    Ok(order) => self.obey(order),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            let looked = self.kernel.look();
            self.note("network", looked);
            self.begin();
            self.wait(&mut buffer);
            self.hear();
            self.event(Event::Tick);
            self.go_on_rehearsing();
            if self.reported.is_none_or(|at| at.elapsed() >= REPORT) {
                self.reported = Some(Instant::now());
                if reports.send(self.report()).is_err() {
                    return;
                }
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Follow(plan) => {
                if self.plan.as_ref() == Some(&*plan) {
                    return;
                }
                self.kernel.follow(plan.interface.clone(), plan.gateway);
                if plan.me.is_none() {
                    self.let_go();
                }
                self.plan = Some(*plan);
                // What is held is found in the kernel again, and taken up again as soon as the others agree.
                self.node = None;
            }
            Order::Key(key) => self.key = Some(key),
            Order::LetGo => self.let_go(),
            Order::Rehearse(request) => self.rehearse(request),
        }
    }

    fn rehearse(&mut self, request: rehearsal::Request) {
        let now = self.clock.now();
        let (Some(plan), Some(node), None) = (&self.plan, &self.node, &self.rehearsal) else {
            let _ = request
                .reply
                .send(Err("addresses do not move here now".to_owned()));
            return;
        };
        if let Err(no) = node.rehearsable(&request.home, now) {
            let _ = request.reply.send(Err(no.to_string()));
            return;
        }
        let home = request.home.clone();
        let addresses = plan.homes.get(&home).cloned().unwrap_or_default();
        let beside = addresses.iter().find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(self.kernel.beside(*ip, &self.neighbours())),
            IpAddr::V6(_) => None,
        });
        let gateway = self.kernel.gateway();
        let learner = |ip| rehearsal::Learner { ip, learned_ms: None };
        let blank = rehearsal::Outcome {
            home: home.clone(),
            at: node.setup().me.clone(),
            addresses,
            let_go_ms: None,
            gateway: gateway.map(learner),
            neighbours: beside
                .unwrap_or_default()
                .into_iter()
                .filter(|ip| Some(*ip) != gateway)
                .map(learner)
                .collect(),
            home_again_ms: None,
        };
        let running = rehearsal::Running::new(request, blank, now);
        let until = running.until;
        self.rehearsal = Some(running);
        self.event(Event::Rehearse { home, until });
    }

    /// Asks those who have not learned yet, and ends what is over.
    fn go_on_rehearsing(&mut self) {
        let Some(mut running) = self.rehearsal.take() else {
            return;
        };
        let now = self.clock.now();
        let node = self.node.as_ref();
        let here = node.is_some_and(|node| node.holds(running.home()));
        let other = node.and_then(|node| node.other_holder(running.home(), now));
        if node.is_none() || running.stands(now, here, other.as_ref()) {
            self.kernel.forget_neighbours();
            return running.finish();
        }
        if let Some((from, learners)) = running.whom_to_ask(now).filter(|_| here) {
            let moving = self.moving();
            for learner in learners {
                if self.kernel.gateway() == Some(learner) {
                    self.kernel.ask_return(now, from, &moving);
                } else {
                    self.kernel.ask_neighbour(now, from, learner, &moving);
                }
            }
        }
        self.rehearsal = Some(running);
    }

    /// Nothing moves any more: what is at home stays for good, what is not goes.
    fn let_go(&mut self) {
        let (Some(old), Some(node)) = (&self.plan, self.node.take()) else {
            return;
        };
        let me = node.setup().me.clone();
        for (home, addresses) in &old.homes {
            if !node.holds(home) {
                continue;
            }
            let done = if *home == me {
                self.kernel.lease(addresses, true)
            } else {
                self.kernel.remove(addresses)
            };
            if let Err(error) = done {
                tracing::error!(%error, %home, "addresses that no longer move could not be settled");
            }
        }
        tracing::info!("addresses do not move any more");
    }

    /// Makes the machine when all that it needs is there.
    fn begin(&mut self) {
        let Some(plan) = &self.plan else { return };
        let (Some(me), Some(listen), true) = (&plan.me, plan.listen, self.key.is_some()) else {
            return;
        };
        if self.socket.as_ref().is_none_or(|(at, _)| *at != listen) {
            let opened = UdpSocket::bind(listen);
            match opened {
                Ok(socket) => self.socket = Some((listen, socket)),
                Err(error) => {
                    self.trouble
                        .insert("heartbeats".to_owned(), format!("{listen} (UDP): {error}"));
                    return;
                }
            }
            self.trouble.remove("heartbeats");
        }
        let gateway = self.kernel.gateway();
        if let Some(node) = &mut self.node {
            if let Some(gateway) = gateway.filter(|_| !node.setup().gateway) {
                node.gateway_found(self.returns || returned_before(&self.known_gateway, gateway));
            }
            return;
        }
        let returns =
            self.returns || gateway.is_some_and(|gateway| returned_before(&self.known_gateway, gateway));
        let all: Vec<IpAddr> = plan.homes.values().flatten().copied().collect();
        let here = match self.kernel.present(&all) {
            Ok(here) => here,
            Err(error) => {
                self.trouble.insert("kernel".to_owned(), error.to_string());
                return;
            }
        };
        let present = |addresses: &[IpAddr]| addresses.iter().any(|ip| here.contains(ip));
        let present: Vec<ServerName> = plan
            .homes
            .iter()
            .filter(|(_, addresses)| present(addresses))
            .map(|(home, _)| home.clone())
            .collect();
        let setup = Setup {
            me: me.clone(),
            members: plan.members.clone(),
            timing: plan.timing,
            gateway: gateway.is_some(),
            returns,
            boot: random(),
        };
        tracing::info!(
            ?present,
            members = plan.members.len(),
            gateway = gateway.is_some(),
            returns,
            "ready to hold addresses"
        );
        self.node = Some(Node::new(setup, &present, self.clock.now()));
        if plan.own_edge && !self.watching {
            let watched =
                health::watch_own(self.edge_socket.clone(), plan.timing.heartbeat, self.tell.clone());
            self.watching = watched.is_ok();
            self.note("edge", watched);
        }
        let fit = self.fit;
        self.event(Event::Fit(fit));
    }

    /// Sleeps a tick, or until a heartbeat comes.
    fn wait(&mut self, buffer: &mut [u8]) {
        let tick = self.plan.as_ref().map_or(IDLE, |plan| plan.timing.heartbeat / 10);
        let Some((_, socket)) = self.socket.as_ref().filter(|_| self.node.is_some()) else {
            return std::thread::sleep(IDLE);
        };
        let _ = socket.set_nonblocking(false);
        let _ = socket.set_read_timeout(Some(tick));
        let mut beats = Vec::new();
        let mut first = true;
        while let Ok((count, from)) = socket.recv_from(buffer) {
            if first {
                first = false;
                let _ = socket.set_nonblocking(true);
            }
            let datagram = buffer.get(..count).unwrap_or(&[]);
            match self.key.as_ref().and_then(|key| key.open(datagram)) {
                Some(beat) => beats.push(beat),
                None => tracing::debug!(%from, "a datagram that is not signed with the fleet's key"),
            }
            if beats.len() >= BURST {
                break;
            }
        }
        for beat in beats {
            self.event(Event::Beat(beat));
        }
    }

    /// What the gateway and edges said.
    fn hear(&mut self) {
        for word in self.kernel.words() {
            let now = self.clock.now();
            let gateway = self.kernel.gateway();
            let answer = match word {
                Word::Returned(to, sent) => gateway.map(|gateway| (gateway, to, sent)),
                Word::Neighbour(from, to, sent) => Some((from, to, sent)),
                Word::Answered(_) => None,
            };
            if let (Some((from, to, sent)), Some(running)) = (answer, &mut self.rehearsal) {
                running.answered(from, to, sent, now);
            }
            match word {
                Word::Neighbour(..) => {}
                Word::Answered(sent) => self.event(Event::Gateway { sent }),
                Word::Returned(to, sent) => {
                    let home = self.plan.as_ref().and_then(|plan| {
                        let mut homes = plan.homes.iter();
                        homes.find(|(_, addresses)| addresses.contains(&IpAddr::V4(to)))
                    });
                    if let Some(home) = home.map(|(home, _)| home.clone()) {
                        self.returns = true;
                        self.event(Event::Returned { home, sent });
                    }
                }
            }
        }
        while let Ok(finding) = self.findings.try_recv() {
            match finding {
                Finding::Probed(home, serving) => self.event(Event::Probed { home, serving }),
                Finding::Fit(fit) => {
                    tracing::info!(fit, "whether this server's edge serves");
                    self.fit = fit;
                    self.event(Event::Fit(fit));
                }
            }
        }
    }

    fn event(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = self.clock.now();
            let Some(node) = &mut self.node else { return };
            for action in node.step(now, event) {
                if let Some(home) = self.act(now, action) {
                    events.push_back(Event::Lost { home });
                }
            }
        }
    }

    /// Carries out one action; gives the home whose addresses the kernel refused.
    fn act(&mut self, now: Duration, action: Action) -> Option<ServerName> {
        let plan = self.plan.as_ref()?;
        let addresses = |home: &ServerName| plan.homes.get(home).cloned().unwrap_or_default();
        match action {
            Action::Send(beat) => {
                let (key, (_, socket)) = (self.key.as_ref()?, self.socket.as_ref()?);
                let datagram = key.seal(&beat);
                for peer in plan.peers.values() {
                    // Whoever cannot be reached is silent, and that is noticed.
                    let _ = socket.send_to(&datagram, peer);
                }
                None
            }
            Action::Take { home, epoch, why } => {
                let own = addresses(&home);
                let taken = self.kernel.lease(&own, self.nobody_else());
                let neighbours = self.neighbours();
                self.kernel.announce(&own, &neighbours);
                if plan_me(&self.plan) == Some(&home) {
                    self.kernel.restore_routes(&own);
                }
                tracing::info!(%home, %epoch, why = words(&why), addresses = ?own, "took addresses");
                self.moved(&home, true, &why);
                self.refused(home, taken)
            }
            Action::Refresh { home } => {
                let leased = self.kernel.lease(&addresses(&home), self.nobody_else());
                self.refused(home, leased)
            }
            Action::Announce { home } => {
                let (own, neighbours) = (addresses(&home), self.neighbours());
                self.kernel.announce(&own, &neighbours);
                None
            }
            Action::Drop { home, why } => {
                let removed = self.kernel.remove(&addresses(&home));
                tracing::info!(%home, why = words(&why), "dropped addresses");
                self.moved(&home, false, &why);
                self.note("kernel", removed);
                None
            }
            Action::Probe { home } => {
                let address = *addresses(&home).first()?;
                let (port, patience) = (plan.port, plan.timing.probe);
                health::probe(home, SocketAddr::new(address, port), patience, self.tell.clone());
                None
            }
            Action::AskGateway { from } => {
                let moving = self.moving();
                let own = from.and_then(|home| {
                    addresses(&home).iter().find_map(|ip| match ip {
                        IpAddr::V4(ip) => Some(*ip),
                        IpAddr::V6(_) => None::<Ipv4Addr>,
                    })
                });
                match own {
                    Some(own) => self.kernel.ask_return(now, own, &moving),
                    None => self.kernel.ask_gateway(now, &moving),
                }
                None
            }
        }
    }

    fn refused(&mut self, home: ServerName, result: io::Result<()>) -> Option<ServerName> {
        let failed = result.is_err();
        self.note("kernel", result);
        failed.then_some(home)
    }

    /// Whether no other server could take an address: a lease would only lose it.
    fn nobody_else(&self) -> bool {
        let members = self.plan.iter().flat_map(|plan| &plan.members);
        members.filter(|member| member.edge).count() < 2
    }

    /// Whoever is asked about itself, so that it learns from the question.
    fn neighbours(&self) -> Vec<IpAddr> {
        self.plan
            .iter()
            .flat_map(|plan| plan.peers.values())
            .map(SocketAddr::ip)
            .collect()
    }

    fn moving(&self) -> Vec<IpAddr> {
        self.plan
            .iter()
            .flat_map(|plan| plan.homes.values())
            .flatten()
            .copied()
            .collect()
    }

    fn moved(&mut self, home: &ServerName, taken: bool, why: &Why) {
        self.moved += 1;
        if self.moves.len() >= MOVES {
            self.moves.pop_front();
        }
        self.moves.push_back(AddressMove {
            number: self.moved,
            at: self.clock.unix(),
            home: home.clone(),
            taken,
            why: words(why),
        });
        self.reported = None; // the fleet hears of it at once
    }

    fn note(&mut self, what: &str, result: io::Result<()>) {
        match result {
            Ok(()) => {
                self.trouble.remove(what);
            }
            Err(error) => {
                let text = error.to_string();
                if self.trouble.insert(what.to_owned(), text.clone()).as_ref() != Some(&text) {
                    tracing::error!(%error, what, "the kernel does not do what addresses need");
                }
            }
        }
    }

    fn report(&self) -> AddressReport {
        let now = self.clock.now();
        let standings = self
            .node
            .as_ref()
            .map_or_else(Vec::new, |node| node.standings(now));
        let homes = self.plan.as_ref().map(|plan| &plan.homes);
        let waiting = match (&self.node, &self.key) {
            (None, None) => Some("the fleet's key for addresses has not come yet".to_owned()),
            _ => None,
        };
        AddressReport {
            fit: self.fit,
            hears: self.node.as_ref().map_or_else(Vec::new, |node| node.hears(now)),
            gateway: self.kernel.gateway().map(IpAddr::V4),
            gateway_returns: self.returns,
            shares: standings
                .into_iter()
                .map(|standing| ShareReport {
                    addresses: homes
                        .and_then(|homes| homes.get(&standing.home).cloned())
                        .unwrap_or_default(),
                    home: standing.home,
                    holder: standing.holder,
                    epoch: standing.epoch,
                    moving: standing.moving,
                })
                .collect(),
            moves: self.moves.iter().cloned().collect(),
            trouble: self.trouble.values().cloned().chain(waiting).collect(),
        }
    }
}

fn plan_me(plan: &Option<Plan>) -> Option<&ServerName> {
    plan.as_ref().and_then(|plan| plan.me.as_ref())
}

/// For events and logs.
fn words(why: &Why) -> String {
    match why {
        Why::Free => "nobody held them".to_owned(),
        Why::Silent(holder) => format!("{holder} fell silent"),
        Why::Unfit(holder) => format!("the edge of {holder} does not serve"),
        Why::Home(holder) => format!("handed back by {holder}"),
        Why::Rehearsal(holder) => format!("a rehearsal; {holder} is well"),
        Why::Resumed => "restarted, still in the kernel".to_owned(),
        Why::Outbid(holder) => format!("{holder} has them now"),
        Why::Alone => "nobody can be asked whether another server has them".to_owned(),
        Why::Paused(away) => format!("did not run for {} ms", away.as_millis()),
        Why::Kernel => "the kernel refused them".to_owned(),
    }
}

/// Whether an earlier process saw this gateway return something. A file that cannot be read says no.
fn returned_before(path: &Path, gateway: Ipv4Addr) -> bool {
    let known = files::read_limited(path, 64).ok().flatten().unwrap_or_default();
    let text = String::from_utf8(known).unwrap_or_default();
    text.trim().parse() == Ok(gateway)
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without random numbers the time does: no earlier process of this server had it.
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => SystemClock.unix().0,
    }
}

/// Between two reports when nothing happens.
const REPORT: Duration = Duration::from_secs(1);

/// Between two looks while there is nothing to do.
const IDLE: Duration = Duration::from_millis(50);

/// Heartbeats that are taken in one turn.
const BURST: usize = 256;

/// Moves that are told.
const MOVES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_process_knew_is_of_that_gateway_only_and_nonsense_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("returning-gateway");
        let gateway = Ipv4Addr::new(198, 51, 100, 1);
        assert!(!returned_before(&path, gateway));
        let long = "198.51.100.1".repeat(20);
        for (text, known) in [
            ("198.51.100.1\n", true),
            ("198.51.100.2\n", false),
            ("", false),
            ("2001:db8::1", false),
            ("198.51.100.1 x", false),
            (&long, false),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(returned_before(&path, gateway), known, "{text}");
        }
        std::fs::write(&path, [0xff; 12]).unwrap();
        assert!(!returned_before(&path, gateway));
    }
}
