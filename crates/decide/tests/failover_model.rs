//! The failover protocol under every order of events: two servers and a store, with so many writes, crashes, lost
//! answers, late PUTs and runs of the clock. Beliefs may be as old as they like, because nothing has to be delivered.
//! Then each guard of the protocol is taken out, and the checker must find what it is there for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a panic is the report

mod failover;

use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use failover::{Act, Request, Slip, World};
use pontoon_decide::failover::{Command, Guard, Mode, Policy, Setup, Timing};

const NOW: Duration = Duration::from_secs(1_000_000);
/// Longer than everything but a renewal.
const JUMP: Duration = Duration::from_secs(10_000);

fn setup(name: &str, without: Option<Guard>) -> Setup {
    Setup {
        fleet: "notes".parse().unwrap(),
        me: name.parse().unwrap(),
        // Renewals change nothing but the nonce, and a nonce is as good as another.
        timing: Timing {
            renew: Duration::from_secs(100_000),
            ..Timing::s3()
        },
        policy: Policy {
            mode: Mode::Safe,
            acks: 1,
            max_lag: Duration::ZERO,
        },
        founder: name == "a",
        automatic: true,
        bystanders: Default::default(),
        source: None,
        continue_alone: true,
        copy_anew: true,
        relay_survives: false,
        without,
    }
}

/// What may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    writes: u8,
    kills: u8,
    agents: u8,
    doubts: u8,
    jumps: u8,
    failures: u8,
    orders: u8,
    silences: u8,
    swaps: u64,
}

type State = (World, Budget);

/// Both servers in service, B in sync: where faults begin. Found by doing what can be done until it is so.
fn in_service(without: Option<Guard>, slip: Option<Slip>) -> World {
    let mut world = World::new(vec![setup("a", without), setup("b", without)], slip);
    for at in [0, 1] {
        world.act(&Act::StartAgent(at), NOW, None).unwrap();
    }
    for _ in 0..200 {
        if world
            .record
            .as_ref()
            .is_some_and(|record| !record.sync.is_empty())
            && quiet(&world)
        {
            break;
        }
        let mut acts: Vec<Act> = Vec::new();
        acts.extend(world.puts.iter().map(|put| Act::Land(put.id)));
        for at in [0, 1] {
            acts.extend([
                Act::Look(at),
                Act::Answer(at),
                Act::DoJob(at),
                Act::EndJob(at),
                Act::Receive(at),
                Act::Apply(at),
            ]);
        }
        acts.push(Act::Hear(0, 1));
        for act in acts {
            if world.can(&act) {
                world.act(&act, NOW, None).unwrap();
            }
        }
        if world.record.as_ref().is_none_or(|record| record.sync.is_empty()) {
            jump(&mut world, 1);
        }
    }
    // The follower knows that it is in sync.
    jump(&mut world, 1);
    for act in [Act::Look(1), Act::Answer(1)] {
        world.act(&act, NOW, None).unwrap();
    }
    assert!(
        !world.record.as_ref().unwrap().sync.is_empty(),
        "two servers come into service: {world:#?}"
    );
    world
}

/// Three in service: B in sync, and C follows it. Time goes by in steps, because who follows through another has to have been
/// near it for a while; then it is taken back, so that states differ in nothing but what happens from here on.
fn cascaded() -> World {
    let behind_b = Setup {
        source: Some("b".parse().unwrap()),
        ..setup("c", None)
    };
    let mut world = World::new(vec![setup("a", None), setup("b", None), behind_b], None);
    let all = [0, 1, 2];
    for at in all {
        world.act(&Act::StartAgent(at), NOW, None).unwrap();
    }
    let is_there = |world: &World| {
        let in_sync = |record: &pontoon_decide::failover::Record| {
            record.sync.len() == 1 && record.sync.contains_key(&world.servers[1].setup.me)
        };
        quiet(world) && world.servers[2].disk.through && world.record.as_ref().is_some_and(in_sync)
    };
    for step in 1..200 {
        let now = NOW + Duration::from_secs(step);
        for at in all {
            let heard = all.map(|of| Act::Hear(at, of));
            for act in heard.into_iter().chain([Act::Tick(at)]) {
                if world.can(&act) {
                    world.act(&act, now, None).unwrap();
                }
            }
        }
        for _ in 0..20 {
            let mut acts: Vec<Act> = world.puts.iter().map(|put| Act::Land(put.id)).collect();
            for at in all {
                let own = [Act::Look(at), Act::Answer(at), Act::DoJob(at), Act::EndJob(at)];
                acts.extend(own.into_iter().chain([Act::Receive(at), Act::Apply(at)]));
            }
            for act in acts {
                if world.can(&act) {
                    world.act(&act, now, None).unwrap();
                }
            }
        }
        if is_there(&world) {
            for server in &mut world.servers {
                server.agent.as_mut().unwrap().rebase(now - NOW);
            }
            return world;
        }
    }
    panic!("three servers come into service: {world:#?}");
}

fn quiet(world: &World) -> bool {
    world.puts.is_empty()
        && world
            .servers
            .iter()
            .all(|server| server.job.is_none() && server.request.is_none())
}

fn jump(world: &mut World, at: usize) {
    if world.can(&Act::Tick(at)) {
        world.act(&Act::Tick(at), NOW + JUMP, None).unwrap();
        if let Some(agent) = &mut world.servers[at].agent {
            agent.rebase(JUMP);
        }
    }
}

fn successors((world, budget): &State) -> Vec<(Act, bool, Option<usize>, Budget)> {
    let mut next = Vec::new();
    let mut push = |act: Act, jumps: bool, budget: Budget| {
        if world.can(&act) {
            for crash in [None, Some(0), Some(1), Some(2)] {
                let steps = matches!(
                    act,
                    Act::Answer(_) | Act::EndJob(_) | Act::TellStopped(_) | Act::Tick(_)
                );
                match crash {
                    None => next.push((act.clone(), jumps, None, budget)),
                    Some(_) if steps && budget.agents > 0 => {
                        next.push((
                            act.clone(),
                            jumps,
                            crash,
                            Budget {
                                agents: budget.agents - 1,
                                ..budget
                            },
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
    };
    let b = *budget;
    if world.nonces < b.swaps {
        for put in &world.puts {
            push(Act::Land(put.id), false, b);
        }
    } else {
        for put in world.puts.iter().filter(|put| put.id <= b.swaps) {
            push(Act::Land(put.id), false, b);
        }
    }
    for at in 0..world.servers.len() {
        if b.writes > 0 {
            push(
                Act::Write(at),
                false,
                Budget {
                    writes: b.writes - 1,
                    ..b
                },
            );
        }
        // A read is answered with what is there then: a late answer is no worse than a late reader.
        if world.can(&Act::Look(at)) {
            push(Act::Look(at), false, b);
        }
        for act in [
            Act::Receive(at),
            Act::Confirm(at),
            Act::Apply(at),
            Act::Answer(at),
            Act::DoJob(at),
            Act::EndJob(at),
            Act::TellStopped(at),
            Act::StartAgent(at),
        ] {
            push(act, false, b);
        }
        for other in 0..world.servers.len() {
            // Only the leader listens, and only news; and all to one that declines.
            let news = world
                .record
                .as_ref()
                .is_some_and(|record| record.leader == world.servers[at].setup.me);
            let declines = || world.can(&Act::Hear(at, other)) && world.facts(other).declines.is_some();
            if news || declines() {
                push(Act::Hear(at, other), false, b);
            }
        }
        if b.failures > 0 {
            push(
                Act::FailJob(at),
                false,
                Budget {
                    failures: b.failures - 1,
                    ..b
                },
            );
        }
        if b.doubts > 0 && matches!(world.servers[at].request, Some(Request::Swap(_))) {
            push(
                Act::NoAnswer(at),
                false,
                Budget {
                    doubts: b.doubts - 1,
                    ..b
                },
            );
        }
        if b.kills > 0 {
            push(
                Act::KillDatabase(at),
                false,
                Budget {
                    kills: b.kills - 1,
                    ..b
                },
            );
        }
        if b.agents > 0 {
            push(
                Act::KillAgent(at),
                false,
                Budget {
                    agents: b.agents - 1,
                    ..b
                },
            );
        }
        if b.jumps > 0 {
            push(
                Act::Tick(at),
                true,
                Budget {
                    jumps: b.jumps - 1,
                    ..b
                },
            );
        }
        if b.silences > 0 {
            for silence in [Act::Silent(at), Act::Unacknowledged(at)] {
                push(
                    silence,
                    false,
                    Budget {
                        silences: b.silences - 1,
                        ..b
                    },
                );
            }
        }
        if b.orders > 0 {
            let to = world.servers[(at + 1) % world.servers.len()].setup.me.clone();
            for order in [Command::Switchover(to), Command::Leave(true)] {
                push(
                    Act::Order(at, order),
                    false,
                    Budget {
                        orders: b.orders - 1,
                        ..b
                    },
                );
            }
        }
    }
    next
}

/// A fingerprint: FNV by words, because the standard hasher takes most of the time.
#[derive(Default)]
struct Fingerprint(u64);

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }
}

fn mark(world: &World, budget: &Budget) -> u64 {
    let mut hasher = Fingerprint::default();
    (world, budget).hash(&mut hasher);
    hasher.finish()
}

/// Every state that can be reached; the number of them, or the shortest way to a broken promise.
fn explore(start: World, budget: Budget, most: usize) -> Result<usize, String> {
    let mut known: HashSet<u64> = HashSet::new();
    let budget = Budget {
        swaps: start.nonces + budget.swaps,
        ..budget
    };
    let mut queue: VecDeque<(State, Option<usize>)> = VecDeque::new();
    let mut ways: Vec<(Option<usize>, String)> = Vec::new();
    known.insert(mark(&start, &budget));
    queue.push_back(((start, budget), None));
    while let Some((state, way)) = queue.pop_front() {
        for (act, jumps, crash, budget) in successors(&state) {
            let mut world = state.0.clone();
            let at = match act {
                Act::Tick(at) if jumps => Some(at),
                _ => None,
            };
            let now = if jumps { NOW + JUMP } else { NOW };
            let result = world.act(&act, now, crash);
            if let Some(agent) = at.and_then(|at| world.servers[at].agent.as_mut()) {
                agent.rebase(JUMP);
            }
            let told = || {
                format!(
                    "{act:?}{}",
                    crash
                        .map(|n| format!(" and dies after {n} effects"))
                        .unwrap_or_default()
                )
            };
            if let Err(broken) = result {
                let mut story = vec![told()];
                let mut at = way;
                while let Some(index) = at {
                    let (before, act): &(Option<usize>, String) = &ways[index];
                    story.push(act.clone());
                    at = *before;
                }
                story.reverse();
                return Err(format!("{broken}\n  {}", story.join("\n  ")));
            }
            if known.insert(mark(&world, &budget)) {
                if known.len() > most {
                    return Ok(known.len());
                }
                ways.push((way, told()));
                queue.push_back(((world, budget), Some(ways.len() - 1)));
            }
        }
    }
    Ok(known.len())
}

const NOTHING: Budget = Budget {
    writes: 0,
    kills: 0,
    agents: 0,
    doubts: 0,
    jumps: 0,
    failures: 0,
    orders: 0,
    silences: 0,
    swaps: 0,
};

/// How far: what fits into a test, or with `PONTOON_DEEP` what fits into a long script.
fn scopes() -> Vec<(&'static str, Budget)> {
    let base = Budget {
        writes: 1,
        swaps: 2,
        ..NOTHING
    };
    let mut scopes = vec![
        (
            "clocks run",
            Budget {
                jumps: 2,
                swaps: 3,
                ..base
            },
        ),
        ("database dies", Budget { kills: 1, ..base }),
        // A database that stands still is one to which nothing happens, for as long as one likes.
        ("database stands still", Budget { silences: 1, ..base }),
        ("agent dies", Budget { agents: 1, ..base }),
        (
            "hand over",
            Budget {
                orders: 1,
                jumps: 1,
                ..base
            },
        ),
        (
            "hand over to one that dies",
            Budget {
                orders: 1,
                kills: 1,
                failures: 1,
                ..base
            },
        ),
        (
            "late PUT",
            Budget {
                doubts: 1,
                jumps: 1,
                ..base
            },
        ),
    ];
    if std::env::var_os("PONTOON_DEEP").is_some() {
        scopes.extend([
            (
                "two writes",
                Budget {
                    writes: 2,
                    jumps: 2,
                    swaps: 3,
                    ..base
                },
            ),
            (
                "late PUT of a dead agent",
                Budget {
                    doubts: 1,
                    agents: 1,
                    ..base
                },
            ),
        ]);
        scopes.extend(two_things_happen(base));
    }
    scopes
}

/// What is walked in wider bounds, however many servers there are.
fn two_things_happen(base: Budget) -> [(&'static str, Budget); 4] {
    [
        (
            "database dies, clocks run",
            Budget {
                kills: 1,
                jumps: 1,
                ..base
            },
        ),
        (
            "database stands still, clocks run",
            Budget {
                silences: 1,
                jumps: 1,
                ..base
            },
        ),
        (
            "agent dies, clocks run",
            Budget {
                agents: 1,
                jumps: 1,
                ..base
            },
        ),
        (
            "both die",
            Budget {
                kills: 1,
                agents: 1,
                ..base
            },
        ),
    ]
}

/// Every promise holds in every order of what the scopes allow.
fn all_hold(world: &World, scopes: Vec<(&'static str, Budget)>, servers: &str) {
    for (name, budget) in scopes {
        let begun = std::time::Instant::now();
        match explore(world.clone(), budget, MOST_STATES) {
            Ok(MOST_STATES..) => panic!("{name}: more than {MOST_STATES} states: not all were seen"),
            Ok(states) => println!(
                "{servers}, {name}: all {states} states, in {:.1?}",
                begun.elapsed()
            ),
            Err(story) => panic!("{name}: {story}"),
        }
    }
}

#[test]
fn two_servers_keep_their_promises_in_every_order() {
    all_hold(&in_service(None, None), scopes(), "two servers");
}

/// Three servers, one of which follows through another. `PONTOON_DEEP`: in wider bounds.
#[test]
fn three_servers_keep_their_promises_in_every_order() {
    let base = Budget {
        writes: 1,
        swaps: 2,
        ..NOTHING
    };
    let mut scopes = vec![
        ("clocks run", Budget { jumps: 1, ..base }),
        ("database dies", Budget { kills: 1, ..base }),
        ("agent dies", Budget { agents: 1, ..base }),
    ];
    if std::env::var_os("PONTOON_DEEP").is_some() {
        scopes.extend([
            ("clocks run on", Budget { jumps: 2, ..base }),
            (
                "hand over",
                Budget {
                    orders: 1,
                    jumps: 1,
                    ..base
                },
            ),
            (
                "hand over to one that dies",
                Budget {
                    orders: 1,
                    kills: 1,
                    failures: 1,
                    ..base
                },
            ),
            (
                "late PUT",
                Budget {
                    doubts: 1,
                    jumps: 1,
                    ..base
                },
            ),
        ]);
        scopes.extend(two_things_happen(base));
    }
    all_hold(&cascaded(), scopes, "three servers");
}

/// The guards whose lack shows within few steps; `failover_simulation.rs` has all of them.
#[test]
fn guards_are_missed() {
    let base = Budget {
        writes: 1,
        swaps: 3,
        ..NOTHING
    };
    let mutants = [
        (Some(Guard::SwapBeforeAlone), None, Budget { jumps: 2, ..base }),
        (
            Some(Guard::Drained),
            None,
            Budget {
                jumps: 1,
                kills: 1,
                ..base
            },
        ),
        (
            Some(Guard::NewLife),
            None,
            Budget {
                jumps: 1,
                kills: 2,
                ..base
            },
        ),
        (
            None,
            Some(Slip::NoCut),
            Budget {
                jumps: 1,
                kills: 1,
                ..base
            },
        ),
        (None, Some(Slip::DrainBeforeHalt), Budget { jumps: 2, ..base }),
        (
            Some(Guard::NeverOpened),
            None,
            Budget {
                orders: 1,
                kills: 1,
                failures: 1,
                ..base
            },
        ),
    ];
    for (without, slip, budget) in mutants {
        let begun = std::time::Instant::now();
        let story = explore(in_service(without, slip), budget, MOST_STATES);
        let Err(story) = story else {
            panic!("without {without:?}, with {slip:?}: nothing was noticed")
        };
        println!(
            "without {without:?}, with {slip:?}: after {} steps, in {:.1?}: {}",
            story.lines().count() - 1,
            begun.elapsed(),
            story.lines().next().unwrap_or("")
        );
    }
}

const MOST_STATES: usize = 5_000_000;
