//! The share of bad requests as a function of the rate: quasi-binomial logistic regression, and its interval from
//! redrawn holds.

use crate::Dice;

/// What one hold saw of one term of the objective.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Requests a second that were offered.
    pub rate: f64,
    /// Requests that were judged.
    pub sent: u64,
    /// How many of them were bad.
    pub bad: u64,
}

/// `logit(share of bad) = level + slope · ln(rate ÷ around)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    around: f64,
    level: f64,
    slope: f64,
}

impl Fit {
    /// Fits `points`, those near `allowed` (a share between 0 and 1) counting most. `None` when they do not tell: no
    /// bad request at all, nothing but bad ones, or fewer bad ones at higher rates.
    pub fn of(points: &[Point], allowed: f64) -> Option<Fit> {
        let sent: f64 = points.iter().map(|point| point.sent as f64).sum();
        let bad: f64 = points.iter().map(|point| point.bad as f64).sum();
        if bad < 1.0 || bad >= sent {
            return None;
        }
        let weighted: f64 = points.iter().map(|point| point.rate * point.sent as f64).sum();
        let mut fit = Fit {
            around: weighted / sent,
            level: logit(bad / sent),
            slope: FIRST_SLOPE,
        };
        for _ in 0..MOST_STEPS {
            let (level, slope) = fit.step(points, allowed);
            fit.level += level;
            fit.slope += slope;
            if !(fit.level.is_finite() && fit.slope.is_finite()) {
                return None;
            }
            if level.abs() < 1e-7 && slope.abs() < 1e-5 {
                break;
            }
        }
        (fit.slope > LEAST_SLOPE).then_some(fit)
    }

    /// One step of Newton's method (iteratively reweighted least squares), shortened so that it cannot run away.
    fn step(&self, points: &[Point], allowed: f64) -> (f64, f64) {
        // The penalty keeps the slope finite where a rate separates the holds without bad requests from the others.
        let penalty = 1.0 / (SLOPE_SPREAD * SLOPE_SPREAD);
        let (mut level_pull, mut slope_pull) = (0.0, -self.slope * penalty);
        let (mut level_level, mut level_slope, mut slope_slope) = (1e-9, 0.0, penalty);
        for point in points {
            let x = (point.rate / self.around).ln();
            let share = self.share_at(x);
            // Bad requests come in bursts, and in longer ones the nearer to saturation: the further above what is
            // allowed, the less a single request tells.
            let burst = TYPICAL_BURST * (1.0 + share / (BURSTIER_AT * allowed));
            let weight = point.sent as f64 / burst;
            let residual = weight * (point.bad as f64 / (point.sent as f64).max(1.0) - share);
            let information = weight * share * (1.0 - share);
            level_pull += residual;
            slope_pull += residual * x;
            level_level += information;
            level_slope += information * x;
            slope_slope += information * x * x;
        }
        let determinant = level_level * slope_slope - level_slope * level_slope;
        if determinant.abs() < f64::MIN_POSITIVE {
            return (0.0, 0.0);
        }
        let level = (slope_slope * level_pull - level_slope * slope_pull) / determinant;
        let slope = (level_level * slope_pull - level_slope * level_pull) / determinant;
        let shorter = MOST_STEP / level.abs().max(slope.abs() / 40.0).max(MOST_STEP);
        (level * shorter, slope * shorter)
    }

    fn share_at(&self, x: f64) -> f64 {
        1.0 / (1.0 + (-(self.level + self.slope * x)).exp())
    }

    /// The share of bad requests, 0 to 1, to expect at `rate`.
    pub fn share(&self, rate: f64) -> f64 {
        self.share_at((rate / self.around).ln())
    }

    /// The rate at which the share of bad requests is `allowed`.
    pub fn rate(&self, allowed: f64) -> f64 {
        self.around * ((logit(allowed) - self.level) / self.slope).exp()
    }
}

/// A rate between two others.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// Requests a second.
    pub rate: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// Half of its width, as a share of the rate.
    pub fn half_width(&self) -> f64 {
        (self.high - self.low) / 2.0 / self.rate
    }
}

/// The limit that `points` give, with what redrawn holds make of it. `None` when too few of them tell.
pub fn limit(points: &[Point], allowed: f64, dice: &mut Dice) -> Option<Interval> {
    let rate = Fit::of(points, allowed)?.rate(allowed);
    let limits = redrawn(points, allowed, dice);
    let quantile = |share: f64| limits.get(((limits.len().max(1) - 1) as f64 * share) as usize);
    let (low, high) = (quantile(0.025)?, quantile(0.975)?);
    (limits.len() >= DRAWS / 2).then(|| Interval {
        rate,
        low: rate * (low / rate).powf(WIDER_BELOW).min(LEAST_BELOW),
        high: rate * (high / rate).powf(WIDER_ABOVE).max(LEAST_ABOVE),
    })
}

/// The limits of as many holds as there are, drawn with repetition in runs of neighbours, because the next hold feels
/// what one left behind (moving blocks: Künsch 1989). Ascending; those that do not tell are left out.
fn redrawn(points: &[Point], allowed: f64, dice: &mut Dice) -> Vec<f64> {
    let mut limits = Vec::with_capacity(DRAWS);
    let mut drawn = Vec::with_capacity(points.len() + NEIGHBOURS);
    for _ in 0..DRAWS {
        drawn.clear();
        while drawn.len() < points.len() {
            let from = dice.below(points.len());
            drawn.extend(points.iter().cycle().skip(from).take(NEIGHBOURS));
        }
        drawn.truncate(points.len());
        limits.extend(Fit::of(&drawn, allowed).map(|fit| fit.rate(allowed)));
    }
    limits.sort_by(f64::total_cmp);
    limits
}

fn logit(share: f64) -> f64 {
    (share / (1.0 - share)).ln()
}

const FIRST_SLOPE: f64 = 20.0;
/// Flatter than this the rate hardly matters, and where the line crosses is no limit.
const LEAST_SLOPE: f64 = 0.5;
/// Of queues near saturation: 3 (heavy tails) to 120.
const SLOPE_SPREAD: f64 = 150.0;
const MOST_STEP: f64 = 2.0;
const MOST_STEPS: usize = 60;

// Chosen with the seeds from 1,000 on of the servers of `models`; judged with others (`tests/virtual_time.rs`).

/// Requests that are bad for one reason.
const TYPICAL_BURST: f64 = 30.0;
/// At this multiple of the allowed share bursts are twice as long.
const BURSTIER_AT: f64 = 1.5;
const DRAWS: usize = 200;
const NEIGHBOURS: usize = 4;
/// Redrawn holds know nothing of the rare events that did not happen in them: the interval is that many times as wide
/// as they say (on a scale of logarithms), more so below, where such events lie.
const WIDER_BELOW: f64 = 5.0;
const WIDER_ABOVE: f64 = 2.0;
const LEAST_BELOW: f64 = 0.96;
const LEAST_ABOVE: f64 = 1.015;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn points(rates: impl IntoIterator<Item = (f64, u64, u64)>) -> Vec<Point> {
        rates
            .into_iter()
            .map(|(rate, sent, bad)| Point { rate, sent, bad })
            .collect()
    }

    #[test]
    fn a_straight_line_is_found_again() {
        let truth = Fit {
            around: 400.0,
            level: logit(0.01),
            slope: 60.0,
        };
        let holds = (0..20).map(|index| {
            let rate = 370.0 + 2.0 * f64::from(index);
            (rate, 1_000_000, (truth.share(rate) * 1e6) as u64)
        });
        let fit = Fit::of(&points(holds), 0.01).unwrap();
        assert!((fit.rate(0.01) / 400.0 - 1.0).abs() < 0.001, "{}", fit.rate(0.01));
        assert!((fit.share(390.0) / truth.share(390.0) - 1.0).abs() < 0.02);
    }

    #[test]
    fn what_does_not_tell_gives_no_limit() {
        let mut dice = Dice::new(1);
        for holds in [
            vec![],
            vec![(100.0, 0, 0)],
            vec![(100.0, 1_000, 0), (110.0, 1_000, 0)],
            vec![(100.0, 1_000, 1_000), (110.0, 1_000, 1_000)],
            vec![(100.0, 1_000, 900), (110.0, 1_000, 20), (120.0, 1_000, 0)],
        ] {
            assert_eq!(limit(&points(holds.clone()), 0.01, &mut dice), None, "{holds:?}");
        }
    }

    #[test]
    fn a_rate_that_separates_good_from_bad_is_between_them() {
        let holds = (0..24).map(|index| {
            let rate = 90.0 + f64::from(index % 12) * 2.0;
            (rate, 1_000, if rate > 101.0 { 400 } else { 0 })
        });
        let found = limit(&points(holds), 0.01, &mut Dice::new(1)).unwrap();
        assert!((95.0..104.0).contains(&found.rate), "{found:?}");
        assert!(found.low < found.rate && found.rate < found.high);
    }

    proptest! {
        #[test]
        fn no_points_make_it_panic_or_leave_the_numbers(
            holds in proptest::collection::vec((0.001f64..1e6, 0u64..100_000, 0.0f64..=1.0), 0..30),
            allowed in 0.0001f64..0.9,
        ) {
            let holds = points(holds.into_iter().map(|(rate, sent, share)| (rate, sent, (sent as f64 * share) as u64)));
            if let Some(found) = limit(&holds, allowed, &mut Dice::new(1)) {
                prop_assert!(found.rate >= 0.0 && found.low <= found.rate && found.rate <= found.high);
            }
        }
    }
}
