//! Keeper, guards, memcacheds and proxies in made-up time: whatever order things come in, nobody reads a value that is older
//! than one that was acknowledged (P8). Each rule is taken out in turn, which must be noticed.
//!
//! `PONTOON_SEED=n` replays one seed. What a guard does here is what `crates/cacheproxy/src/guard.rs` does.

#![allow(clippy::unwrap_used, clippy::panic)] // a panic is the report

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pontoon_decide::cache::{Seen, Wanted, next, rule};
use pontoon_fleet::{CacheList, CachePlacement, ServerName};
use pontoon_memcache_wire::place::Ring;

const SERVERS: usize = 4;
const KEYS: u64 = 5;
const STEPS: usize = 400;

/// A rule that is not kept.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mutant {
    /// A new list opens before the old one is closed.
    OpensAtOnce,
    /// A server that gets keys back goes on with what it has.
    KeepsLife,
    /// A guard says that a list is closed while something of it is under way.
    SaysClosedEarly,
    /// A guard that is started again has forgotten what it said.
    Forgets,
    /// A guard serves whoever asks.
    AnyList,
}

/// Splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn server(&mut self) -> usize {
        self.below(SERVERS as u64) as usize
    }
}

/// A cache server: its guard, its memcached, and what its machine remembers.
#[derive(Default)]
struct Server {
    /// The list as its agent has it on disk, and as the guard obeys it.
    view: Option<CacheList>,
    serving: Option<u64>,
    closed: u64,
    /// The life of what memcached holds; `None`: it is new.
    life: Option<u64>,
    items: BTreeMap<u64, u64>,
    /// A write of a list that is on its way to memcached.
    under_way: Option<(u64, u64, u64)>,
    /// Nothing it does or says gets through.
    silent: bool,
    /// What it reported last.
    reported: u64,
}

struct World {
    dice: Dice,
    mutant: Option<Mutant>,
    servers: Vec<Server>,
    proxies: Vec<Option<CacheList>>,
    keeper: Option<CacheList>,
    /// The rings of all lists, by number.
    rings: BTreeMap<u64, Ring>,
    waiting: u64,
    wanted: Wanted,
    /// What was acknowledged, by key.
    acknowledged: BTreeMap<u64, u64>,
    value: u64,
    /// Lists that were opened, and reads that found something.
    opened: usize,
    found: usize,
}

fn name(index: usize) -> ServerName {
    format!("s{index}").parse().unwrap()
}

fn index_of(server: &ServerName) -> usize {
    (0..SERVERS).find(|index| name(*index) == *server).unwrap()
}

impl World {
    fn new(seed: u64, mutant: Option<Mutant>) -> World {
        let mut world = World {
            dice: Dice(seed),
            mutant,
            servers: (0..SERVERS).map(|_| Server::default()).collect(),
            proxies: vec![None; 3],
            keeper: None,
            rings: BTreeMap::new(),
            waiting: 0,
            wanted: Wanted {
                placement: CachePlacement::Ketama,
                servers: Vec::new(),
                all: (0..SERVERS).map(name).collect::<BTreeSet<_>>(),
            },
            acknowledged: BTreeMap::new(),
            value: 0,
            opened: 0,
            found: 0,
        };
        world.configure();
        world
    }

    fn configure(&mut self) {
        let mut servers: Vec<usize> = (0..SERVERS).filter(|_| self.dice.below(3) > 0).collect();
        if servers.is_empty() {
            servers.push(self.dice.server());
        }
        self.wanted.servers = servers
            .into_iter()
            .map(|index| (name(index), name(index).to_string()))
            .collect();
        let rules = CachePlacement::ALL;
        if self.dice.below(6) == 0 {
            self.wanted.placement = rules[self.dice.below(3) as usize];
        }
    }

    /// One thing happens; an error says which value was older than which.
    fn step(&mut self) -> Result<(), String> {
        match self.dice.below(100) {
            0..=1 => self.configure(),
            2..=16 => self.keep(),
            17..=46 => self.hear(),
            47..=56 => {
                // The last one hears seldom.
                let index = if self.dice.below(12) == 0 {
                    2
                } else {
                    self.dice.below(2) as usize
                };
                self.proxies[index] = self.keeper.clone();
            }
            57..=58 => {
                let index = self.dice.server();
                self.servers[index].silent = self.dice.below(5) == 0;
            }
            59 => {
                // memcached dies: what was on its way to it is lost too.
                let server = self.dice.server();
                let server = &mut self.servers[server];
                (server.life, server.under_way) = (None, None);
                server.items.clear();
                server.serving = None;
            }
            60 => self.restart_guard(),
            61..=70 => self.arrive(),
            71..=85 => self.write(),
            _ => self.read()?,
        }
        Ok(())
    }

    fn keep(&mut self) {
        let seen = self.servers.iter().enumerate().map(|(index, server)| {
            let seen = Seen {
                fresh: !server.silent,
                closed: server.reported,
            };
            (name(index), seen)
        });
        let seen: BTreeMap<_, _> = seen.collect();
        self.waiting += 1;
        if let Some(mut list) = next(
            self.keeper.as_ref(),
            &self.wanted,
            &seen,
            Duration::from_secs(self.waiting),
        ) {
            match self.mutant {
                Some(Mutant::OpensAtOnce) => list.open = true,
                Some(Mutant::KeepsLife) => list.members.iter_mut().for_each(|member| member.life = 1),
                _ => {}
            }
            self.opened += usize::from(list.open);
            let labels: Vec<_> = list.members.iter().map(|member| member.label.clone()).collect();
            let ring = || Ring::new(rule(list.placement), &labels);
            self.rings.entry(list.number).or_insert_with(ring);
            self.keeper = Some(list);
            self.waiting = 0;
        }
    }

    /// A server's agent hears the keeper, and its guard obeys; then it reports.
    fn hear(&mut self) {
        let index = self.dice.server();
        let list = self.keeper.clone();
        let mutant = self.mutant;
        let server = &mut self.servers[index];
        if server.silent {
            return;
        }
        server.view = list;
        server.tend(index, mutant);
        server.reported = server.closed;
    }

    fn restart_guard(&mut self) {
        let index = self.dice.server();
        // The view on the disk may be older than the one that the guard obeyed.
        let old = self.proxies[2].clone();
        let mutant = self.mutant;
        let server = &mut self.servers[index];
        server.serving = None;
        server.under_way = None;
        if mutant == Some(Mutant::Forgets) {
            server.closed = 0;
        }
        server.view = old;
        server.tend(index, mutant);
    }

    /// A write that was on its way reaches memcached.
    fn arrive(&mut self) {
        let index = self.dice.server();
        if let Some((_, key, value)) = self.servers[index].under_way.take() {
            self.servers[index].items.insert(key, value);
            let known = self.acknowledged.entry(key).or_default();
            *known = value.max(*known);
        }
    }

    /// Where a proxy finds `key`: the server, if its guard lets it in.
    fn at(&self, proxy: usize, key: u64) -> Option<(usize, u64)> {
        let list = self.proxies[proxy].as_ref().filter(|list| list.open)?;
        let home = self
            .rings
            .get(&list.number)?
            .home(format!("key{key}").as_bytes())?;
        let index = index_of(&list.members[home].server);
        let serving = self.servers[index].serving;
        let let_in = match self.mutant {
            Some(Mutant::AnyList) => self.servers[index].life.is_some(),
            _ => serving == Some(list.number),
        };
        let_in.then_some((index, list.number))
    }

    fn write(&mut self) {
        let (proxy, key) = (self.dice.below(3) as usize, self.dice.below(KEYS));
        let Some((index, number)) = self.at(proxy, key) else {
            return;
        };
        if self.servers[index].under_way.is_none() {
            self.value += 1;
            self.servers[index].under_way = Some((number, key, self.value));
        }
    }

    fn read(&mut self) -> Result<(), String> {
        let (proxy, key) = (self.dice.below(3) as usize, self.dice.below(KEYS));
        let Some((index, _)) = self.at(proxy, key) else {
            return Ok(());
        };
        let Some(value) = self.servers[index].items.get(&key).copied() else {
            return Ok(());
        };
        self.found += 1;
        let least = self.acknowledged.get(&key).copied().unwrap_or_default();
        if value < least {
            return Err(format!(
                "key{key} is {value} at s{index}, and {least} was acknowledged"
            ));
        }
        Ok(())
    }
}

impl Server {
    fn tend(&mut self, index: usize, mutant: Option<Mutant>) {
        let Some(list) = self.view.clone() else { return };
        if list.number < self.closed {
            return;
        }
        if self.serving != Some(list.number) {
            self.serving = None;
        }
        if list.number > self.closed {
            // Until memcached has closed the last connection.
            if self.under_way.is_some() && mutant != Some(Mutant::SaysClosedEarly) {
                return;
            }
            self.closed = list.number;
        }
        let Some(member) = list.members.iter().find(|member| member.server == name(index)) else {
            return;
        };
        if self.life.is_some_and(|life| life != member.life) {
            self.items.clear();
        }
        self.life = Some(member.life);
        if list.open {
            self.serving = Some(list.number);
        }
    }
}

fn run(seed: u64, mutant: Option<Mutant>) -> Result<(usize, usize), String> {
    let mut world = World::new(seed, mutant);
    for _ in 0..STEPS {
        world.step().map_err(|error| format!("seed {seed}: {error}"))?;
    }
    Ok((world.opened, world.found))
}

#[test]
fn nobody_reads_what_is_older_than_what_was_acknowledged() {
    if let Some(seed) = std::env::var("PONTOON_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
    {
        run(seed, None).unwrap();
        return;
    }
    let seeds = if std::env::var_os("PONTOON_LONG").is_some() {
        1_000_000
    } else {
        20_000
    };
    let (mut opened, mut found) = (0, 0);
    for seed in 0..seeds {
        let (lists, reads) = run(seed, None).unwrap();
        opened += lists;
        found += reads;
    }
    println!("{seeds} seeds: {opened} lists were opened, {found} reads found something, none of it old");
    assert!(
        opened > 3 * seeds as usize / 2 && found > seeds as usize,
        "{opened} {found}"
    );
}

#[test]
fn each_rule_is_missed() {
    let all = [
        Mutant::OpensAtOnce,
        Mutant::KeepsLife,
        Mutant::SaysClosedEarly,
        Mutant::Forgets,
        Mutant::AnyList,
    ];
    for mutant in all {
        let noticed = (0..20_000).find(|seed| run(*seed, Some(mutant)).is_err());
        println!("{mutant:?}: {noticed:?}");
        assert!(noticed.is_some(), "{mutant:?} was not noticed");
    }
}
