//! Where is the limit? A state machine: it says what to offer, is told what came of it, and ends with an interval.
//!
//! 1. **Double** the rate in short trials until one fails.
//! 2. **Bisect** between the last that held and the first that did not, to 8 %. After each failed trial the backlog
//!    drains.
//! 3. **Hold** rates around the estimate in mixed order, without a pause, so that queues are as long as they would be for
//!    good; after each hold the regression moves the estimate. It ends when the interval is narrow enough, or the time
//!    over.
//!
//! Nothing here judges by a single trial: those of 1 and 2 only say where to hold.

use std::time::Duration;

use serde::Serialize;

use crate::regression::{Fit, Interval, Point, limit};
use crate::{Dice, Objective, Outcome, Term};

/// What is searched, and how long.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What a server must keep.
    pub objective: Objective,
    /// Requests a second of the first trial.
    pub first_rate: f64,
    /// No rate above this is offered.
    pub most_rate: f64,
    /// When it ends at the latest.
    pub most_time: Duration,
    /// The half width of the interval, as a share of the limit, at which it ends earlier.
    pub half_width: f64,
    /// Where the dice begin.
    pub seed: u64,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Offer this rate, without a pause after what was offered before.
    Offer(Offer),
    /// Offer nothing until nothing is under way.
    Drain,
    /// It is over: [`Search::found`].
    End,
}

/// A rate for some time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offer {
    /// Requests a second.
    pub rate: f64,
    /// Those sent in the beginning are not judged: the queue is still that of the rate before.
    pub settle: Duration,
    /// Those sent then are judged.
    pub measure: Duration,
    /// Those sent at the end are not judged either: they are not answered yet when the next rate is chosen. As long as
    /// the longest limit, so that whatever was sent before and is not answered is bad.
    pub guard: Duration,
}

impl Offer {
    /// How long all of it takes.
    pub fn length(&self) -> Duration {
        self.settle + self.measure + self.guard
    }
}

/// What came of an offer: of the requests sent in its measured part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many there were.
    pub sent: u64,
    /// How many of them were bad, for each term of the objective.
    pub bad: Vec<u64>,
}

impl Seen {
    /// Adds one request.
    pub fn add(&mut self, objective: &Objective, outcome: Outcome) {
        self.sent += 1;
        for (bad, term) in self.bad.iter_mut().zip(objective.terms()) {
            *bad += u64::from(term.is_bad(outcome));
        }
    }
}

/// How a search ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// The limit, and the term of the objective that broke first.
    Limit {
        /// Requests a second.
        #[serde(flatten)]
        interval: Interval,
        /// As written: `p99<300ms`.
        term: String,
        /// Whether it ended because the interval was narrow enough, and not because the time was over.
        narrow: bool,
    },
    /// The highest rate that was allowed held.
    NotReached {
        /// Requests a second.
        at_least: f64,
    },
    /// The time was over before the holds told anything.
    Unknown,
}

/// One hold: the rate, and what was seen at it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hold {
    /// Requests a second.
    pub rate: f64,
    /// Requests that were judged.
    pub sent: u64,
    /// How many were bad, for each term of the objective.
    pub bad: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Doubling { rate: f64, held: f64 },
    Bisecting { held: f64, failed: f64 },
    Holding { estimate: f64 },
}

/// A search under way.
#[derive(Clone, Debug)]
pub struct Search {
    settings: Settings,
    phase: Phase,
    offered: Option<f64>,
    drain_next: bool,
    plan: Vec<f64>,
    holds: Vec<Hold>,
    found: Option<Found>,
    dice: Dice,
}

impl Search {
    /// A search from its beginning.
    pub fn new(settings: Settings) -> Search {
        Search {
            phase: Phase::Doubling {
                rate: settings.first_rate.min(settings.most_rate),
                held: 0.0,
            },
            offered: None,
            drain_next: false,
            plan: Vec::new(),
            holds: Vec::new(),
            found: None,
            dice: Dice::new(settings.seed),
            settings,
        }
    }

    /// What to do next, so long after the beginning.
    pub fn step(&mut self, elapsed: Duration) -> Step {
        if self.found.is_none() && elapsed + self.hold_time() > self.settings.most_time {
            self.end(false);
        }
        if self.found.is_some() {
            return Step::End;
        }
        if std::mem::take(&mut self.drain_next) {
            return Step::Drain;
        }
        let guard = self.guard();
        let (rate, settle, measure) = match self.phase {
            Phase::Doubling { rate, .. } => (rate, DOUBLING_SETTLE, (guard * 4).max(DOUBLING)),
            Phase::Bisecting { held, failed } => (
                (held * failed).sqrt(),
                BISECTING_SETTLE,
                (guard * 6).max(BISECTING),
            ),
            Phase::Holding { estimate } => {
                if self.plan.is_empty() {
                    self.plan = HOLDS_AT.to_vec();
                    self.dice.shuffle(&mut self.plan);
                }
                let rate = estimate * self.plan.pop().unwrap_or(1.0);
                (
                    rate.min(self.settings.most_rate),
                    HOLD_SETTLE,
                    self.hold_time() - HOLD_SETTLE - guard,
                )
            }
        };
        self.offered = Some(rate);
        Step::Offer(Offer {
            rate,
            settle,
            measure,
            guard,
        })
    }

    /// Takes in what came of the last offer.
    pub fn record(&mut self, seen: &Seen) {
        let Some(rate) = self.offered.take() else { return };
        match self.phase {
            Phase::Doubling { held, .. } => {
                if self.excess(seen) > DOUBLING_FAILS && seen.bad.iter().any(|bad| *bad > 2) {
                    // The very first trial failed: the limit may be far below.
                    let held = if held > 0.0 { held } else { rate / 64.0 };
                    self.phase = Phase::Bisecting { held, failed: rate };
                    self.drain_next = true;
                } else if rate >= self.settings.most_rate {
                    self.found = Some(Found::NotReached { at_least: rate });
                } else {
                    let next = (rate * 2.0).min(self.settings.most_rate);
                    self.phase = Phase::Doubling {
                        rate: next,
                        held: rate,
                    };
                }
            }
            Phase::Bisecting { held, failed } => {
                let fails = self.excess(seen) > BISECTING_FAILS;
                self.drain_next = fails;
                let (held, failed) = if fails { (held, rate) } else { (rate, failed) };
                self.phase = match failed / held < BRACKET {
                    true => Phase::Holding {
                        estimate: (held * failed).sqrt(),
                    },
                    false => Phase::Bisecting { held, failed },
                };
            }
            Phase::Holding { estimate } => self.held(estimate, rate, seen),
        }
    }

    fn held(&mut self, estimate: f64, rate: f64, seen: &Seen) {
        let worst = seen.bad.iter().max().copied().unwrap_or(0);
        // Far above the limit a backlog would outlive the next hold.
        self.drain_next = worst as f64 > RUNAWAY * seen.sent as f64;
        let excess = self.excess(seen);
        self.holds.push(Hold {
            rate,
            sent: seen.sent,
            bad: seen.bad.clone(),
        });
        let terms = self.terms();
        let fitted = terms
            .iter()
            .filter_map(|(term, points)| Fit::of(points, term.allowed()).map(|fit| fit.rate(term.allowed())));
        let estimate = match fitted.min_by(f64::total_cmp) {
            Some(rate) => rate.clamp(estimate * 0.95, estimate * 1.05),
            None if excess == 0.0 => estimate * 1.02,
            None if excess > BISECTING_FAILS => estimate * 0.97,
            None => estimate,
        };
        self.phase = Phase::Holding { estimate };
        if self.holds.len() >= LEAST_HOLDS && self.holds.len().is_multiple_of(4) {
            let narrow = self
                .limit()
                .is_some_and(|(limit, _)| limit.half_width() <= self.settings.half_width);
            if narrow {
                self.end(true);
            }
        }
    }

    /// How it ended; `None` while it has not.
    pub fn found(&self) -> Option<&Found> {
        self.found.as_ref()
    }

    /// The rate that it is working at, requests a second, and whether that is an estimate of the limit yet.
    pub fn around(&self) -> (f64, bool) {
        match self.phase {
            Phase::Doubling { rate, .. } => (rate, false),
            Phase::Bisecting { held, failed } => ((held * failed).sqrt(), false),
            Phase::Holding { estimate } => (estimate, true),
        }
    }

    /// The holds so far, in their order.
    pub fn holds(&self) -> &[Hold] {
        &self.holds
    }

    /// The regression of each term that has one: what a report draws.
    pub fn fits(&self) -> Vec<(Term, Fit)> {
        let terms = self.terms();
        let fits = terms
            .iter()
            .map(|(term, points)| Some((*term, Fit::of(points, term.allowed())?)));
        fits.flatten().collect()
    }

    fn end(&mut self, narrow: bool) {
        self.found = Some(match self.limit() {
            Some((interval, term)) => Found::Limit {
                interval,
                term: term.to_string(),
                narrow,
            },
            None => Found::Unknown,
        });
    }

    /// The lowest limit of the terms, and which one it is.
    fn limit(&mut self) -> Option<(Interval, Term)> {
        let terms = self.terms();
        let limits = terms
            .iter()
            .map(|(term, points)| Some((limit(points, term.allowed(), &mut self.dice)?, *term)));
        limits
            .flatten()
            .min_by(|one, other| one.0.rate.total_cmp(&other.0.rate))
    }

    fn terms(&self) -> Vec<(Term, Vec<Point>)> {
        let terms = self.settings.objective.terms().iter().enumerate();
        terms
            .map(|(index, term)| {
                let points = self.holds.iter().map(|hold| Point {
                    rate: hold.rate,
                    sent: hold.sent,
                    bad: hold.bad.get(index).copied().unwrap_or(0),
                });
                (*term, points.collect())
            })
            .collect()
    }

    /// How many times the allowed share the worst term's bad requests were.
    fn excess(&self, seen: &Seen) -> f64 {
        let sent = (seen.sent as f64).max(1.0);
        let terms = self.settings.objective.terms().iter().zip(&seen.bad);
        terms
            .map(|(term, bad)| *bad as f64 / sent / term.allowed())
            .fold(0.0, f64::max)
    }

    fn guard(&self) -> Duration {
        self.settings.objective.longest().max(LEAST_GUARD)
    }

    fn hold_time(&self) -> Duration {
        (self.guard() * 10).max(HOLD)
    }
}

const DOUBLING: Duration = Duration::from_secs(2);
const DOUBLING_SETTLE: Duration = Duration::from_millis(300);
const BISECTING: Duration = Duration::from_secs(4);
const BISECTING_SETTLE: Duration = Duration::from_millis(500);
const HOLD: Duration = Duration::from_secs(10);
const HOLD_SETTLE: Duration = Duration::from_secs(1);
/// For objectives of errors only: an answer takes some time there too.
const LEAST_GUARD: Duration = Duration::from_millis(100);
/// A short trial fails at this multiple of the allowed share.
const DOUBLING_FAILS: f64 = 3.0;
const BISECTING_FAILS: f64 = 2.0;
const BRACKET: f64 = 1.08;
/// Where holds are, around the estimate.
const HOLDS_AT: [f64; 8] = [0.91, 0.94, 0.96, 0.98, 0.99, 1.0, 1.01, 1.03];
const LEAST_HOLDS: usize = 16;
const RUNAWAY: f64 = 0.3;
