//! The search against servers that answer as they are told.

use std::time::Duration;

use crate::Objective;
use crate::search::{Found, Search, Seen, Settings, Step};

fn settings(objective: &str) -> Settings {
    Settings {
        objective: objective.parse::<Objective>().unwrap(),
        first_rate: 10.0,
        most_rate: 100_000.0,
        most_time: Duration::from_secs(480),
        half_width: 0.03,
        seed: 1,
    }
}

/// Lets it run against `share`, the shares of bad requests of each term at a rate; gives what was offered.
fn run(search: &mut Search, share: impl Fn(f64) -> Vec<f64>) -> Vec<Step> {
    let mut elapsed = Duration::ZERO;
    let mut steps = Vec::new();
    loop {
        let step = search.step(elapsed);
        steps.push(step);
        assert!(steps.len() < 10_000, "it does not end");
        match step {
            Step::End => return steps,
            Step::Drain => elapsed += Duration::from_secs(1),
            Step::Offer(offer) => {
                elapsed += offer.length();
                let sent = (offer.rate * offer.measure.as_secs_f64()) as u64;
                let bad = share(offer.rate)
                    .into_iter()
                    .map(|share| (sent as f64 * share) as u64);
                search.record(&Seen {
                    sent,
                    bad: bad.collect(),
                });
            }
        }
    }
}

fn cliff(at: f64) -> impl Fn(f64) -> Vec<f64> {
    move |rate| vec![1.0 / (1.0 + (-(60.0 * (rate / at).ln() - 4.6)).exp())]
}

#[test]
fn it_doubles_bisects_and_holds_around_the_limit() {
    let mut search = Search::new(settings("p99<100ms"));
    let steps = run(&mut search, cliff(700.0));
    let Some(Found::Limit { interval, term, .. }) = search.found() else {
        panic!("{:?}", search.found())
    };
    assert!((interval.rate / 700.0 - 1.0).abs() < 0.02, "{interval:?}");
    assert!(interval.low < 700.0 && interval.high > 700.0);
    assert_eq!(term, "p99<100ms");
    let rates: Vec<f64> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Offer(offer) => Some(offer.rate),
            _ => None,
        })
        .collect();
    assert_eq!(rates[..3], [10.0, 20.0, 40.0]);
    // One trial beyond, and the holds never further than 3 % above an estimate.
    assert!(
        rates.iter().filter(|rate| **rate > 750.0).count() <= 3,
        "{rates:?}"
    );
    // What failed drains before the next trial.
    let failed = steps
        .iter()
        .position(|step| matches!(step, Step::Offer(offer) if offer.rate == 1280.0));
    assert_eq!(steps[failed.unwrap() + 1], Step::Drain);
}

#[test]
fn of_two_terms_the_first_to_break_is_the_limit() {
    let mut search = Search::new(settings("p99<100ms,errors<1%"));
    run(&mut search, |rate| {
        vec![cliff(900.0)(rate)[0], cliff(500.0)(rate)[0]]
    });
    let Some(Found::Limit { interval, term, .. }) = search.found() else {
        panic!("{:?}", search.found())
    };
    assert_eq!(term, "errors<1%");
    assert!((interval.rate / 500.0 - 1.0).abs() < 0.02, "{interval:?}");
}

#[test]
fn what_bears_everything_is_not_given_a_number() {
    let mut search = Search::new(Settings {
        most_rate: 1_000.0,
        ..settings("p99<100ms")
    });
    let steps = run(&mut search, |_| vec![0.0]);
    assert_eq!(search.found(), Some(&Found::NotReached { at_least: 1_000.0 }));
    let highest = steps.iter().map(|step| match step {
        Step::Offer(offer) => offer.rate,
        _ => 0.0,
    });
    assert_eq!(highest.fold(0.0, f64::max), 1_000.0);
}

#[test]
fn what_is_bad_from_the_first_request_ends_without_a_number() {
    let mut search = Search::new(settings("p99<100ms"));
    run(&mut search, |_| vec![1.0]);
    assert_eq!(search.found(), Some(&Found::Unknown));
}

#[test]
fn a_limit_below_the_first_rate_is_found_too() {
    let mut search = Search::new(Settings {
        first_rate: 4_000.0,
        ..settings("p99<100ms")
    });
    run(&mut search, cliff(180.0));
    let Some(Found::Limit { interval, .. }) = search.found() else {
        panic!("{:?}", search.found())
    };
    assert!((interval.rate / 180.0 - 1.0).abs() < 0.02, "{interval:?}");
}

#[test]
fn it_ends_in_time_and_says_so() {
    let mut search = Search::new(Settings {
        half_width: 0.0001,
        ..settings("p99<100ms")
    });
    let steps = run(&mut search, cliff(700.0));
    let took: Duration = steps
        .iter()
        .map(|step| match step {
            Step::Offer(offer) => offer.length(),
            Step::Drain => Duration::from_secs(1),
            Step::End => Duration::ZERO,
        })
        .sum();
    assert!(took <= Duration::from_secs(480), "{took:?}");
    assert!(
        matches!(search.found(), Some(Found::Limit { narrow: false, .. })),
        "{:?}",
        search.found()
    );
    assert_eq!(search.step(Duration::ZERO), Step::End);
}

#[test]
fn an_answer_that_was_not_asked_for_changes_nothing() {
    let mut search = Search::new(settings("p99<100ms"));
    search.record(&Seen {
        sent: 10,
        bad: vec![10],
    });
    assert_eq!(search.holds().len(), 0);
    assert!(matches!(search.step(Duration::ZERO), Step::Offer(offer) if offer.rate == 10.0));
}
