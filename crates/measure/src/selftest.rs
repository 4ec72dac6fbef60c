//! The search held against servers whose limit is known: in virtual time many times over, and over real connections.

use std::time::Duration;

use pontoon_capacity::Dice;
use pontoon_capacity::models::{Case, Class, Server, play};
use pontoon_capacity::search::{Found, Search, Settings};
use pontoon_fleet::{Code, Refusal};
use serde::Serialize;

use crate::ratebox::Ratebox;
use crate::run::{Plan, Wanted, run};
use crate::target::{Place, Target};

/// What the runs of one class came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// Which servers.
    pub class: &'static str,
    /// How many searches.
    pub runs: usize,
    /// The middle distance from the truth, as a share of it.
    pub median_error: f64,
    /// The share of runs within 5 % of the truth.
    pub within_5_percent: f64,
    /// The share of runs whose interval has the truth in it.
    pub covered: f64,
    /// The share of runs that ended without a number.
    pub without_limit: f64,
    /// The middle half width of the intervals, as a share of the limit.
    pub half_width: f64,
}

impl Judged {
    /// Whether intervals have the truth in them often enough. A few runs scatter: of 10 one more may miss.
    pub fn is_good(&self) -> bool {
        self.covered >= COVERAGE - 0.9 / (self.runs.max(1) as f64).sqrt()
    }
}

/// What is promised of intervals.
const COVERAGE: f64 = 0.9;

/// Searches each server of `class` `runs` times in virtual time.
pub fn in_virtual_time(class: Class, runs: u64, first_seed: u64) -> Judged {
    let mut all = Vec::new();
    for case in class.cases() {
        for seed in first_seed..first_seed + runs {
            let mut search = Search::new(settings(&case, seed));
            let mut server = Server::new(case.model, seed.wrapping_mul(7_919));
            play(&mut search, &case.objective, &mut server, &mut Dice::new(!seed));
            all.push((case.limit, search.found().cloned()));
        }
    }
    judged(class, &all)
}

/// Searches each server of `class` `runs` times over real connections to a [`Ratebox`]; a run takes eight minutes.
///
/// # Errors
/// When no server can be started, or it does not answer.
pub async fn over_connections(class: Class, runs: u64, first_seed: u64) -> Result<Judged, Refusal> {
    let mut all = Vec::new();
    for case in class.cases() {
        for seed in first_seed..first_seed + runs {
            let found = one(&case, seed).await?;
            all.push((case.limit, found));
        }
    }
    Ok(judged(class, &all))
}

async fn one(case: &Case, seed: u64) -> Result<Option<Found>, Refusal> {
    let ratebox = Ratebox::start(case.model, seed).map_err(|error| {
        Refusal::new(Code::M004, "no server to measure can be started").because(error.to_string())
    })?;
    let address = ratebox.address();
    let place = Place {
        secure: false,
        host: address.ip().to_string(),
        port: address.port(),
        path: "/".to_owned(),
    };
    let settings = settings(case, seed);
    let plan = Plan {
        target: Target::find(place, Vec::new(), false, None).await?,
        objective: case.objective.clone(),
        wanted: Wanted::Find {
            first: settings.first_rate,
            most: 100_000.0,
            time: settings.most_time,
            half_width: settings.half_width,
            recovery: false,
        },
        patience: Duration::from_secs(2),
        seed,
    };
    Ok(run(&plan, &mut |_| {}).await?.found)
}

fn settings(case: &Case, seed: u64) -> Settings {
    Settings {
        objective: case.objective.clone(),
        first_rate: 10.0,
        most_rate: 1e6,
        most_time: Duration::from_secs(480),
        half_width: 0.03,
        seed,
    }
}

fn judged(class: Class, all: &[(f64, Option<Found>)]) -> Judged {
    let (mut errors, mut widths, mut covered) = (Vec::new(), Vec::new(), 0);
    for (truth, found) in all {
        if let Some(Found::Limit { interval, .. }) = found {
            errors.push((interval.rate / truth - 1.0).abs());
            widths.push(interval.half_width());
            covered += usize::from(interval.low <= *truth && *truth <= interval.high);
        }
    }
    let share = |count: usize| count as f64 / all.len().max(1) as f64;
    let within = errors.iter().filter(|error| **error <= 0.05).count();
    let without = all.len() - errors.len();
    // Those without a number are infinitely far.
    errors.resize(all.len(), f64::INFINITY);
    Judged {
        class: class.as_str(),
        runs: all.len(),
        median_error: middle(errors),
        within_5_percent: share(within),
        covered: share(covered),
        without_limit: share(without),
        half_width: middle(widths),
    }
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::INFINITY)
}
