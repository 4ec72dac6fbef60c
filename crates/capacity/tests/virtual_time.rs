//! The search against servers whose limit is known, run after run. A few runs of each here; `script/simulate capacity`
//! makes 200 of each and asks for what docs/measure.md says.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pontoon_capacity::Dice;
use pontoon_capacity::models::{Case, Class, Server, late_share, play};
use pontoon_capacity::search::{Found, Search, Settings};

/// What runs of one class came to.
struct Judged {
    runs: usize,
    /// Distance from the truth as a share of it, ascending; those without a limit are infinitely far.
    errors: Vec<f64>,
    covered: usize,
    longest: Duration,
}

impl Judged {
    fn median(&self) -> f64 {
        self.errors[self.runs / 2]
    }

    fn within(&self, share: f64) -> f64 {
        self.errors.iter().filter(|error| **error <= share).count() as f64 / self.runs as f64
    }

    fn coverage(&self) -> f64 {
        self.covered as f64 / self.runs as f64
    }
}

fn judge(cases: &[Case], runs: u64, first: u64) -> Judged {
    let mut judged = Judged {
        runs: runs as usize * cases.len(),
        errors: Vec::new(),
        covered: 0,
        longest: Duration::ZERO,
    };
    for (case, seed) in cases
        .iter()
        .flat_map(|case| (first..first + runs).map(move |seed| (case, seed)))
    {
        let mut search = Search::new(Settings {
            objective: case.objective.clone(),
            first_rate: 10.0,
            most_rate: 1e6,
            most_time: Duration::from_secs(480),
            half_width: 0.03,
            seed,
        });
        let mut server = Server::new(case.model, seed.wrapping_mul(7_919));
        let took = play(&mut search, &case.objective, &mut server, &mut Dice::new(!seed));
        judged.longest = judged.longest.max(took);
        match search.found() {
            Some(Found::Limit { interval, .. }) => {
                judged.errors.push((interval.rate / case.limit - 1.0).abs());
                judged.covered += usize::from(interval.low <= case.limit && case.limit <= interval.high);
            }
            _ => judged.errors.push(f64::INFINITY),
        }
    }
    judged.errors.sort_by(f64::total_cmp);
    judged
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(usual, |text| text.parse().unwrap())
}

#[test]
fn limits_are_found_and_intervals_cover_them() {
    // The constants of the search were chosen with the seeds from 1,000 to 1,199.
    let (runs, first) = (number("PONTOON_RUNS", 10), number("PONTOON_FIRST", 500_000));
    let long = runs >= 100;
    for class in Class::ALL {
        let mut all = Vec::new();
        for case in class.cases() {
            let judged = judge(std::slice::from_ref(&case), runs, first);
            println!(
                "  {:10} {:>4} runs at {:5.1}/s, {}: median error {:.2} %, within 5 % {:.1} %, covered {:.1} %",
                class.as_str(),
                judged.runs,
                case.limit,
                case.objective,
                judged.median() * 100.0,
                judged.within(0.05) * 100.0,
                judged.coverage() * 100.0
            );
            all.push(judged);
        }
        let judged = together(all);
        println!(
            "{:12} {:>4} runs: median error {:.2} %, within 5 % {:.1} %, covered {:.1} %, at most {:.0} s",
            class.as_str(),
            judged.runs,
            judged.median() * 100.0,
            judged.within(0.05) * 100.0,
            judged.coverage() * 100.0,
            judged.longest.as_secs_f64()
        );
        assert!(judged.longest <= Duration::from_secs(480), "{:?}", judged.longest);
        // So few runs scatter: the short form only asks that nothing is badly wrong.
        let slack = if long { 0.0 } else { 0.2 };
        assert!(
            judged.coverage() >= 0.90 - slack,
            "{}: {}",
            class.as_str(),
            judged.coverage()
        );
        if matches!(class, Class::Workers | Class::Fixed) {
            assert!(
                judged.median() <= 0.015 * (1.0 + 5.0 * slack),
                "{}: {}",
                class.as_str(),
                judged.median()
            );
            assert!(
                judged.within(0.05) >= 0.95 - slack,
                "{}: {}",
                class.as_str(),
                judged.within(0.05)
            );
        }
    }
}

fn together(all: Vec<Judged>) -> Judged {
    let mut errors: Vec<f64> = all.iter().flat_map(|judged| judged.errors.clone()).collect();
    errors.sort_by(f64::total_cmp);
    Judged {
        runs: errors.len(),
        errors,
        covered: all.iter().map(|judged| judged.covered).sum(),
        longest: all.iter().map(|judged| judged.longest).max().unwrap(),
    }
}

#[test]
fn what_is_called_the_truth_is_true() {
    let requests = number("PONTOON_REQUESTS", 1_000_000);
    // Bad requests come in bursts: a million requests have a few dozen of them.
    let likely = if requests >= 20_000_000 {
        0.008..0.0125
    } else {
        0.001..0.04
    };
    for case in Class::ALL.into_iter().flat_map(Class::cases) {
        let share = late_share(
            case.model,
            case.limit,
            case.objective.longest().as_secs_f64(),
            requests,
            99,
        );
        println!(
            "{:6.1}/s, {}: {:.2} % are late",
            case.limit,
            case.objective,
            share * 100.0
        );
        assert!(likely.contains(&share), "{case:?}: {share}");
    }
}
