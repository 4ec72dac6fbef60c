//! A replica whose database dies in the moment in which the lease is handed to it: who handed over takes it back, when both
//! know what happened, and nobody does when one of them does not.

#![allow(clippy::unwrap_used, clippy::panic)] // a panic is the report

mod failover;

use std::time::Duration;

use failover::{Act, World};
use pontoon_decide::failover::{Command, Mode, Policy, Setup, State, Timing};
use pontoon_fleet::Epoch;

/// A world with a clock, in which everything happens as soon as it can, except what is held up.
struct Hours {
    world: World,
    now: Duration,
    /// This server's agent does nothing.
    frozen: Option<usize>,
}

impl Hours {
    /// Two or three servers, the second in sync with the first.
    fn begin(count: usize, mode: Mode) -> Hours {
        let setup = |index: usize| Setup {
            founder: index == 0,
            automatic: true,
            copy_anew: true,
            ..Setup::new(
                "notes".parse().unwrap(),
                ["a", "b", "c"][index].parse().unwrap(),
                Timing::etcd(),
                Policy {
                    mode,
                    acks: 1,
                    max_lag: Duration::from_secs(1),
                },
            )
        };
        let mut hours = Hours {
            world: World::new((0..count).map(setup).collect(), None),
            now: Duration::from_secs(1_000),
            frozen: None,
        };
        (0..count).for_each(|at| hours.act(Act::StartAgent(at)));
        hours.until("in service", |world| {
            let follow = |at: usize| world.servers[at].disk.follows == Some(Epoch(1));
            world.servers[0].db.open == Some(Epoch(1)) && (1..count).all(follow)
        });
        hours.act(Act::Write(0));
        hours.turns(20);
        assert!(hours.world.acked[0], "a write is acknowledged");
        hours
    }

    fn act(&mut self, act: Act) {
        if self.world.can(&act) {
            self.world.book.now = self.now;
            self.world.act(&act, self.now, None).unwrap();
        }
    }

    fn all<const N: usize>(&mut self, acts: [Act; N]) {
        acts.into_iter().for_each(|act| self.act(act));
    }

    /// A tenth of a second.
    fn turn(&mut self) {
        self.now += Duration::from_millis(100);
        let puts: Vec<u64> = self.world.puts.iter().map(|put| put.id).collect();
        puts.into_iter().for_each(|id| self.act(Act::Land(id)));
        for at in 0..self.world.servers.len() {
            self.all([Act::Receive(at), Act::Confirm(at), Act::Apply(at)]);
            if self.frozen == Some(at) {
                continue;
            }
            self.all([Act::DoJob(at), Act::EndJob(at), Act::TellStopped(at)]);
            if (self.now.as_millis() / 100).is_multiple_of(5) {
                // What cannot be done does not take for ever.
                self.act(Act::FailJob(at));
            }
            for of in 0..self.world.servers.len() {
                self.act(Act::Hear(at, of));
            }
            self.all([Act::Lag(at), Act::Tick(at), Act::Look(at), Act::Answer(at)]);
        }
    }

    fn turns(&mut self, count: usize) {
        (0..count).for_each(|_| self.turn());
    }

    fn until(&mut self, what: &str, is: impl Fn(&World) -> bool) {
        for _ in 0..2_000 {
            if is(&self.world) {
                return;
            }
            self.turn();
        }
        panic!("{what}: {:#?}", self.world);
    }

    /// A hands over to B, whose database dies when the record names it and its agent knows, or before it does.
    fn hand_over_to_one_that_dies(&mut self, knows: bool) {
        self.frozen = (!knows).then_some(1);
        let order = Command::Switchover("b".parse().unwrap());
        self.act(Act::Order(0, order));
        self.until("handed over", |world| {
            world
                .record
                .as_ref()
                .is_some_and(|record| record.epoch == Epoch(2))
        });
        self.act(Act::KillDatabase(1));
        self.frozen = None;
    }

    fn state(&self, at: usize) -> Option<State> {
        let agent = self.world.servers[at].agent.as_ref();
        agent.map(|agent| agent.standing().state)
    }
}

#[test]
fn who_handed_over_leads_again_and_everybody_follows() {
    for (count, mode) in [
        (2, Mode::Safe),
        (3, Mode::Safe),
        (3, Mode::Quorum),
        (2, Mode::Available),
    ] {
        for knows in [true, false] {
            let mut hours = Hours::begin(count, mode);
            hours.hand_over_to_one_that_dies(knows);
            hours.until("in service again", |world| {
                let follow = |at: usize| world.servers[at].disk.follows == Some(Epoch(3));
                world.servers[0].db.open == Some(Epoch(3)) && (1..count).all(follow)
            });
            assert_eq!(hours.world.seen.taken_back, 1, "{count} {mode:?}");
            hours.act(Act::Write(0));
            hours.turns(50);
            assert!(hours.world.acked.iter().all(|acked| *acked), "{count} {mode:?}");
        }
    }
}

#[test]
fn it_is_taken_back_by_one_whose_database_died_too() {
    let mut hours = Hours::begin(2, Mode::Safe);
    hours.hand_over_to_one_that_dies(true);
    hours.act(Act::KillDatabase(0));
    hours.until("open again", |world| world.servers[0].db.open == Some(Epoch(3)));
    // And the time between the record and the opening is no hole either.
    let mut hours = Hours::begin(2, Mode::Safe);
    hours.hand_over_to_one_that_dies(true);
    hours.until("taken back", |world| {
        world
            .record
            .as_ref()
            .is_some_and(|record| record.epoch == Epoch(3))
    });
    hours.act(Act::KillDatabase(0));
    hours.until("open again", |world| world.servers[0].db.open == Some(Epoch(3)));
}

#[test]
fn an_agent_that_was_started_meanwhile_knows_nothing_and_nobody_opens() {
    for restarted in [0, 1] {
        let mut hours = Hours::begin(2, Mode::Safe);
        hours.hand_over_to_one_that_dies(true);
        hours.act(Act::KillAgent(restarted));
        hours.act(Act::StartAgent(restarted));
        hours.turns(600);
        assert_eq!(hours.state(1), Some(State::Stranded), "{restarted}");
        assert_eq!(
            hours.world.record.as_ref().map(|record| record.epoch),
            Some(Epoch(2))
        );
        assert!(hours.world.servers.iter().all(|server| server.db.open.is_none()));
    }
}

#[test]
fn a_pause_holds_it_up() {
    let mut hours = Hours::begin(2, Mode::Safe);
    hours.hand_over_to_one_that_dies(true);
    hours.act(Act::Order(0, Command::Pause));
    hours.turns(600);
    assert_eq!(
        hours.world.record.as_ref().map(|record| record.epoch),
        Some(Epoch(2))
    );
    hours.act(Act::Order(0, Command::Resume));
    hours.until("open again", |world| world.servers[0].db.open == Some(Epoch(3)));
}
