//! Two runs side by side: is the second one worse, and could that be seen at all?

use std::path::Path;

use pontoon_capacity::{Dice, Interval, Verdict};
use pontoon_fleet::{Code, Refusal};
use serde::{Deserialize, Serialize};

/// What a written run says of itself, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Written {
    objective: String,
    protocol: String,
    verdict: String,
    rate: Option<f64>,
    found: Option<WrittenFound>,
    each_second: Vec<WrittenSecond>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct WrittenFound {
    limit: Option<Limit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Limit {
    rate: f64,
    low: f64,
    high: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct WrittenSecond {
    answered: u64,
    p99_us: u64,
}

/// How two runs differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// `limit` (requests a second: more is better) or `p99` (milliseconds: less is better).
    pub what: &'static str,
    /// Of the first run.
    pub first: f64,
    /// Of the second.
    pub second: f64,
    /// The second divided by the first, with its interval.
    pub ratio: Interval,
    /// Whether the interval excludes that nothing changed.
    pub detectable: bool,
    /// By how much the second is worse, as a share; below 0 when it is better.
    pub worse_by: f64,
    /// The smallest worsening that these runs could show, as a share.
    pub resolution: f64,
}

impl Comparison {
    /// Whether the second run is worse by more than `share`: seen in the numbers, and too much for chance.
    pub fn verdict(&self, share: f64) -> Verdict {
        match self.detectable && self.worse_by > share {
            true => Verdict::Threshold,
            false => Verdict::Pass,
        }
    }
}

impl Written {
    /// Reads a run that `pontoon measure load --out` wrote; `parse` makes a value of its text.
    ///
    /// # Errors
    /// [`Code::M005`] when it is none, or says nothing about its target.
    pub fn read(file: &Path, parse: impl Fn(&[u8]) -> Result<Written, String>) -> Result<Written, Refusal> {
        let refuse = |why: String| {
            Refusal::new(Code::M005, format!("{} cannot be compared", file.display())).because(why)
        };
        let long = std::fs::metadata(file)
            .map_err(|error| refuse(error.to_string()))?
            .len();
        if long > MOST_BYTES {
            return Err(refuse(format!("it has {long} bytes; no run is that long")));
        }
        let text = std::fs::read(file).map_err(|error| refuse(error.to_string()))?;
        let written = parse(&text).map_err(|why| refuse(format!("it is not what `--out` writes: {why}")))?;
        match written.verdict.as_str() {
            "pass" | "threshold" => Ok(written),
            other => Err(refuse(format!(
                "its verdict is {other:?}: it says nothing that could be compared"
            ))),
        }
    }
}

/// Compares `second` with `first`.
///
/// # Errors
/// [`Code::M005`] when they did not measure the same.
pub fn compare(first: &Written, second: &Written) -> Result<Comparison, Refusal> {
    let refuse = |why: String| Refusal::new(Code::M005, "these runs cannot be compared").because(why);
    if (&first.objective, &first.protocol) != (&second.objective, &second.protocol) {
        return Err(refuse(format!(
            "one had {} over {}, the other {} over {}",
            first.objective, first.protocol, second.objective, second.protocol
        )));
    }
    if first.rate != second.rate {
        let rate = |run: &Written| run.rate.map_or("a search".to_owned(), |rate| format!("{rate}/s"));
        return Err(refuse(format!(
            "one was {}, the other {}",
            rate(first),
            rate(second)
        )));
    }
    let limit = |run: &Written| run.found.as_ref().and_then(|found| found.limit);
    if let (Some(one), Some(two)) = (limit(first), limit(second)) {
        if !(one.is_sound() && two.is_sound()) {
            return Err(refuse(
                "an interval in them does not hold its own limit".to_owned(),
            ));
        }
        return Ok(limits(one, two));
    }
    let seconds = |run: &Written| -> Vec<f64> {
        let answered = run.each_second.iter().filter(|second| second.answered > 0);
        answered.map(|second| second.p99_us as f64 / 1e3).collect()
    };
    let (one, two) = (seconds(first), seconds(second));
    if one.len().min(two.len()) < LEAST_SECONDS {
        return Err(refuse(format!(
            "both need at least {LEAST_SECONDS} seconds with answers"
        )));
    }
    Ok(latencies(&one, &two))
}

impl Limit {
    fn is_sound(&self) -> bool {
        self.low > 0.0 && self.low <= self.rate && self.rate <= self.high && self.high.is_finite()
    }
}

/// Limits of two searches: their errors are independent, so the interval of the ratio is as wide as the root of the sum
/// of the squares, on a scale of logarithms.
fn limits(one: Limit, two: Limit) -> Comparison {
    let ratio = two.rate / one.rate;
    let down = ((two.rate / two.low).ln().powi(2) + (one.high / one.rate).ln().powi(2)).sqrt();
    let up = ((two.high / two.rate).ln().powi(2) + (one.rate / one.low).ln().powi(2)).sqrt();
    let interval = Interval {
        rate: ratio,
        low: ratio * (-down).exp(),
        high: ratio * up.exp(),
    };
    Comparison {
        what: "limit",
        first: one.rate,
        second: two.rate,
        detectable: !(interval.low..=interval.high).contains(&1.0),
        worse_by: 1.0 - ratio,
        resolution: 1.0 - (-up).exp(),
        ratio: interval,
    }
}

/// The p99 of each second, averaged; runs of neighbouring seconds are redrawn for the interval.
fn latencies(one: &[f64], two: &[f64]) -> Comparison {
    let mut dice = Dice::new(1);
    let mut ratios: Vec<f64> = (0..DRAWS)
        .map(|_| redrawn(two, &mut dice) / redrawn(one, &mut dice).max(1e-9))
        .collect();
    ratios.sort_by(f64::total_cmp);
    let at = |share: f64| {
        ratios
            .get((DRAWS as f64 * share) as usize)
            .copied()
            .unwrap_or(1.0)
    };
    let (first, second) = (mean(one), mean(two));
    let ratio = second / first.max(1e-9);
    let interval = Interval {
        rate: ratio,
        low: at(0.025).min(ratio),
        high: at(0.975).max(ratio),
    };
    Comparison {
        what: "p99",
        first,
        second,
        detectable: !(interval.low..=interval.high).contains(&1.0),
        worse_by: ratio - 1.0,
        resolution: ratio / interval.low.max(1e-9) - 1.0,
        ratio: interval,
    }
}

fn redrawn(seconds: &[f64], dice: &mut Dice) -> f64 {
    let mut drawn = Vec::with_capacity(seconds.len() + NEIGHBOURS);
    while drawn.len() < seconds.len() {
        let from = dice.below(seconds.len());
        drawn.extend(seconds.iter().cycle().skip(from).take(NEIGHBOURS));
    }
    drawn.truncate(seconds.len());
    mean(&drawn)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

const DRAWS: usize = 1_000;
const NEIGHBOURS: usize = 3;
const LEAST_SECONDS: usize = 10;
const MOST_BYTES: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn search(rate: f64, low: f64, high: f64) -> Written {
        Written {
            objective: "p99<300ms".to_owned(),
            protocol: "http/1.1".to_owned(),
            verdict: "pass".to_owned(),
            rate: None,
            found: Some(WrittenFound {
                limit: Some(Limit { rate, low, high }),
            }),
            each_second: Vec::new(),
        }
    }

    fn steady(p99_us: u64, seed: u64) -> Written {
        let mut dice = Dice::new(seed);
        Written {
            rate: Some(100.0),
            found: None,
            each_second: (0..60)
                .map(|_| WrittenSecond {
                    answered: 100,
                    p99_us: p99_us + (dice.share() * p99_us as f64 / 5.0) as u64,
                })
                .collect(),
            ..search(1.0, 1.0, 1.0)
        }
    }

    #[test]
    fn what_lies_within_the_intervals_is_no_difference() {
        let found = compare(&search(400.0, 380.0, 410.0), &search(380.0, 360.0, 395.0)).unwrap();
        assert!(!found.detectable && found.resolution > 0.05, "{found:?}");
        assert!((found.worse_by - 0.05).abs() < 1e-9);
        assert_eq!(found.verdict(0.02), Verdict::Pass);
    }

    #[test]
    fn what_lies_beyond_them_is_and_fails_when_it_is_too_much() {
        let found = compare(&search(400.0, 390.0, 405.0), &search(300.0, 290.0, 305.0)).unwrap();
        assert!(found.detectable, "{found:?}");
        assert_eq!(
            (found.verdict(0.05), found.verdict(0.3)),
            (Verdict::Threshold, Verdict::Pass)
        );
        // Better is never worse.
        let better = compare(&search(300.0, 290.0, 305.0), &search(400.0, 390.0, 405.0)).unwrap();
        assert!(
            better.detectable && better.verdict(0.0) == Verdict::Pass,
            "{better:?}"
        );
    }

    #[test]
    fn of_a_given_rate_the_latency_is_compared() {
        let same = compare(&steady(20_000, 1), &steady(20_000, 2)).unwrap();
        assert!(!same.detectable && same.resolution < 0.05, "{same:?}");
        let worse = compare(&steady(20_000, 1), &steady(24_000, 2)).unwrap();
        assert_eq!(
            (worse.what, worse.verdict(0.05)),
            ("p99", Verdict::Threshold),
            "{worse:?}"
        );
        assert!((worse.worse_by - 0.2).abs() < 0.04);
    }

    #[test]
    fn what_did_not_measure_the_same_is_refused() {
        let other = Written {
            objective: "p99<1s".to_owned(),
            ..steady(1_000, 1)
        };
        let short = Written {
            each_second: Vec::new(),
            ..steady(1_000, 1)
        };
        let upside_down = search(400.0, 500.0, 300.0);
        for (one, two, word) in [
            (steady(1_000, 1), other, "p99<1s"),
            (steady(1_000, 1), search(1.0, 1.0, 1.0), "a search"),
            (steady(1_000, 1), short, "seconds"),
            (search(400.0, 390.0, 410.0), upside_down, "interval"),
        ] {
            let refused = compare(&one, &two).unwrap_err();
            assert!(refused.evidence[0].contains(word), "{refused:?}");
        }
    }
}
