//! Fleets of two or three servers and a bucket, under everything that can happen to them: writes, deletions and renames on
//! every server, kills between any two effects, messages lost, doubled and late, partitions, clocks minutes apart, watchers
//! that overflow, folders that are unmounted, a bucket that is away, servers that join with an old copy.
//!
//! A failing seed is printed; `PONTOON_SEED=n` replays it alone. `PONTOON_SEEDS=n` asks for more.

mod end;
mod server;
mod world;

use crate::record::{Rule, WITHOUT};
use world::World;

/// What the shell around the rules must do, and the simulation takes out too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Moments of other servers are taken into the clock.
    Clock,
    /// Without its mark, the folder is not looked at.
    Mark,
    /// What is to be replaced is looked at, and what came out is kept.
    Look,
    /// How far another's changes were read is written down with the changes.
    Cursor,
    /// Many deletions are held.
    Brake,
    /// Tombstones stay until everybody has heard of them.
    Heard,
    /// What was being exchanged when the server was killed is kept.
    Swap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    Rule(Rule),
    Duty(Duty),
}

const SEEDS: u64 = 20_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn broken(seed: u64, mutant: Option<Mutant>) -> Option<String> {
    WITHOUT.set(match mutant {
        Some(Mutant::Rule(rule)) => Some(rule),
        _ => None,
    });
    let end = World::new(seed, mutant).run();
    WITHOUT.set(None);
    end.err()
}

#[test]
fn nothing_is_lost_and_all_end_with_the_same() {
    if let Some(seed) = number("PONTOON_SEED") {
        let end = broken(seed, None);
        assert!(end.is_none(), "seed {seed}: {}", end.unwrap_or_default());
        return;
    }
    let seeds = number("PONTOON_SEEDS").unwrap_or(SEEDS);
    let failed = (0..seeds).find_map(|seed| Some((seed, broken(seed, None)?)));
    if let Some((seed, why)) = failed {
        panic!(
            "seed {seed}: {why}\nreplay: PONTOON_SEED={seed} cargo test -p pontoon-mirror -- nothing_is_lost --nocapture"
        );
    }
    println!("{seeds} schedules");
}

#[test]
fn every_rule_is_missed_when_it_is_taken_out() {
    let mutants = [
        Mutant::Rule(Rule::LaterWins),
        Mutant::Rule(Rule::Conflicts),
        Mutant::Rule(Rule::WhenItChanged),
        Mutant::Rule(Rule::AsOldAsTheFile),
        Mutant::Rule(Rule::Passed),
        Mutant::Duty(Duty::Clock),
        Mutant::Duty(Duty::Mark),
        Mutant::Duty(Duty::Look),
        Mutant::Duty(Duty::Cursor),
        Mutant::Duty(Duty::Brake),
        Mutant::Duty(Duty::Heard),
        Mutant::Duty(Duty::Swap),
    ];
    for mutant in mutants {
        let found = (0..SEEDS).find_map(|seed| Some((seed, broken(seed, Some(mutant))?)));
        match found {
            Some((seed, why)) => println!("{mutant:?}: seed {seed}: {why}"),
            None => panic!("without {mutant:?} nobody notices anything in {SEEDS} schedules"),
        }
    }
}
