//! The rounds. The three ways take turns within each, and their order turns round; what is compared is the median of the
//! rounds' own ratios, the first round not counted.

use std::time::Duration;

use pontoon_benches::machine::{describe, median};
use pontoon_e2e::fleet::Engine;
use pontoon_testkit::database::rows;
use pontoon_testkit::{Lab, LabError, wait_until};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Wanted;
use crate::load::{Flat, Paced, caught_up, flat_out, paced};
use crate::pairs::{Cores, Pair, Way};

/// What is promised of both ways that Pontoon has, in milliseconds: from sending a beat until it is read on the replica.
const MOST_LAG_P50_MS: f64 = 5.0;
const MOST_LAG_P99_MS: f64 = 50.0;

/// A database that falls behind the rate by more is not measured at that rate.
const LEAST_OF_RATE: f64 = 0.95;

/// A primary that went on alone has its replica back within that.
const READY: Duration = Duration::from_secs(60);

/// What one way did in one round.
struct Turn {
    flat: Flat,
    paced: Paced,
}

/// Everything of one way, by round.
#[derive(Default)]
struct Rounds {
    throughput: Vec<f64>,
    commit_p50: Vec<f64>,
    commit_p99: Vec<f64>,
    paced_p99: Vec<f64>,
    lag_p50: Vec<f64>,
    lag_p99: Vec<f64>,
    of_rate: Vec<f64>,
}

/// Sets the pairs up, measures and prints; whether what is promised was kept.
///
/// # Errors
/// When a step fails; a `Skip` when something cannot be had here.
pub async fn measure(mut lab: Lab, wanted: &Wanted, engine: Engine) -> Result<bool, LabError> {
    // Before this program is pinned.
    let (cores, machine) = (Cores::of_this_machine(), describe());
    let mut pairs = Vec::new();
    for way in Way::ALL {
        pairs.push(Pair::start(&mut lab, engine, way).await?);
    }
    for pair in &pairs {
        pair.pin(&cores).await?;
    }
    if let Some(core) = cores.rest.first() {
        let mut set = CpuSet::new();
        set.set(*core);
        sched_setaffinity(None, &set).map_err(|errno| LabError::Unknown(errno.to_string()))?;
    }
    let mut root = pairs[0].root_of_primary().await?;
    let version: Vec<String> = rows(&mut root, "SELECT VERSION()").await?;
    println!(
        "{engine:?} {} on {machine}; cores of primary {:?}, replica {:?}, load {:?}; {} s each",
        version.concat(),
        cores.primary,
        cores.replica,
        cores.rest,
        wanted.time.as_secs()
    );
    let mut all: Vec<Rounds> = Way::ALL.map(|_| Rounds::default()).into();
    let mut invalid = 0;
    for round in 0..=wanted.rounds {
        let mut turns: Vec<Option<Turn>> = Way::ALL.map(|_| None).into();
        for turn in 0..pairs.len() {
            let index = (round + turn) % pairs.len();
            let pair = &pairs[index];
            let done = one_turn(pair, wanted, engine).await?;
            let note = if round == 0 { " (not counted)" } else { "" };
            println!("round {round}: {:>10}: {done}{note}", pair.way.name());
            // A primary that went on alone meanwhile was measured as something else.
            match pair.check(engine).await {
                Ok(()) => turns[index] = Some(done),
                Err(error) => println!("round {round}: invalid: {error}"),
            }
        }
        match turns.into_iter().collect::<Option<Vec<Turn>>>() {
            Some(turns) if round > 0 => {
                for (rounds, turn) in all.iter_mut().zip(&turns) {
                    rounds.add(turn, wanted);
                }
            }
            Some(_) => {}
            None => invalid += usize::from(round > 0),
        }
    }
    if invalid * 3 > wanted.rounds {
        println!("{invalid} of {} rounds were invalid", wanted.rounds);
        return Ok(false);
    }
    Ok(judge(&mut all, wanted))
}

async fn one_turn(pair: &Pair, wanted: &Wanted, engine: Engine) -> Result<Turn, LabError> {
    caught_up(pair).await?;
    wait_until("commits that wait as they should", READY, async || {
        pair.check(engine).await.ok()
    })
    .await?;
    let flat = flat_out(pair, wanted.connections, wanted.time).await?;
    caught_up(pair).await?;
    let paced = paced(pair, wanted.rate, wanted.time).await?;
    Ok(Turn { flat, paced })
}

impl std::fmt::Display for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (flat, paced) = (&self.flat, &self.paced);
        write!(
            f,
            "flat out {:.0}/s, commit p50 {:.2} p99 {:.2} ms | paced {:.0}/s, commit p99 {:.2} ms, lag p50 {:.2} p99 {:.2} ms \
             ({} beats)",
            flat.per_second,
            flat.commits.percentile(0.5),
            flat.commits.percentile(0.99),
            paced.per_second,
            paced.commits.percentile(0.99),
            paced.lag.percentile(0.5),
            paced.lag.percentile(0.99),
            paced.lag.count(),
        )
    }
}

impl Rounds {
    fn add(&mut self, turn: &Turn, wanted: &Wanted) {
        self.throughput.push(turn.flat.per_second);
        self.commit_p50.push(turn.flat.commits.percentile(0.5));
        self.commit_p99.push(turn.flat.commits.percentile(0.99));
        self.paced_p99.push(turn.paced.commits.percentile(0.99));
        self.lag_p50.push(turn.paced.lag.percentile(0.5));
        self.lag_p99.push(turn.paced.lag.percentile(0.99));
        self.of_rate.push(turn.paced.per_second / f64::from(wanted.rate));
    }
}

/// Prints the medians and says whether what is promised was kept.
fn judge(all: &mut [Rounds], wanted: &Wanted) -> bool {
    let by_hand = all.last().map_or(Vec::new(), |rounds| rounds.throughput.clone());
    let by_hand_p99 = all.last().map_or(Vec::new(), |rounds| rounds.commit_p99.clone());
    let mut kept = true;
    for (way, rounds) in Way::ALL.into_iter().zip(all) {
        let ratio = |ours: &[f64], theirs: &[f64]| {
            let mut ratios: Vec<f64> = ours
                .iter()
                .zip(theirs)
                .map(|(ours, theirs)| ours / theirs)
                .collect();
            median(&mut ratios)
        };
        let throughput = ratio(&rounds.throughput, &by_hand);
        let p99 = ratio(&rounds.commit_p99, &by_hand_p99);
        let (lag_p50, lag_p99) = (median(&mut rounds.lag_p50), median(&mut rounds.lag_p99));
        let of_rate = median(&mut rounds.of_rate);
        println!(
            "median: {:>10}: flat out {:.0}/s ({throughput:.2} × by hand), commit p50 {:.2} ms, p99 {:.2} ms ({p99:.2} × by \
             hand) | at {} writes/s: commit p99 {:.2} ms, lag p50 {lag_p50:.2} ms, p99 {lag_p99:.2} ms",
            way.name(),
            median(&mut rounds.throughput),
            median(&mut rounds.commit_p50),
            median(&mut rounds.commit_p99),
            wanted.rate,
            median(&mut rounds.paced_p99),
        );
        if way == Way::ByHand {
            continue;
        }
        if of_rate < LEAST_OF_RATE {
            println!(
                "{}: only {of_rate:.2} of the rate was written: this machine is too busy or too slow",
                way.name()
            );
            kept = false;
        }
        if lag_p50 > MOST_LAG_P50_MS || lag_p99 > MOST_LAG_P99_MS {
            println!(
                "{}: promised are p50 ≤ {MOST_LAG_P50_MS} ms and p99 ≤ {MOST_LAG_P99_MS} ms",
                way.name()
            );
            kept = false;
        }
    }
    kept
}
