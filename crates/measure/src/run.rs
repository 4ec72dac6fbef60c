//! A measurement from its first request to its report.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pontoon_capacity::search::{Found, Offer, Search, Settings, Step};
use pontoon_capacity::{Objective, Outcome, Verdict};
use pontoon_fleet::{Code, Refusal};

use crate::engine::Engine;
use crate::report::{Percentiles, Recovery, Report};
use crate::target::Target;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Against whom.
    pub target: Target,
    /// What it must keep.
    pub objective: Objective,
    /// Which rate.
    pub wanted: Wanted,
    /// When a request is given up.
    pub patience: Duration,
    /// Where the dice begin.
    pub seed: u64,
}

/// Which rate is offered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// This one, for so long.
    Rate {
        /// Requests a second.
        rate: f64,
        /// How long.
        time: Duration,
    },
    /// The highest that keeps the objective.
    Find {
        /// Requests a second of the first trial.
        first: f64,
        /// No more than this.
        most: f64,
        /// How long the search may take.
        time: Duration,
        /// The half width of the interval at which it ends earlier.
        half_width: f64,
        /// Whether the target is overloaded afterwards, to see how it comes back.
        recovery: bool,
    },
}

/// How far it is, about once a second.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Since the beginning.
    pub elapsed: Duration,
    /// Requests a second that are offered now.
    pub offered: f64,
    /// Whether that is around an estimate of the limit.
    pub estimate: bool,
    /// Requests sent so far.
    pub sent: u64,
    /// Failed so far.
    pub failed: u64,
    /// Under way now.
    pub in_flight: usize,
}

/// Carries `plan` out on the calling thread, in a `LocalSet` of a current-thread runtime. `watch` is called about once
/// a second.
///
/// # Errors
/// A refusal when the target does not answer the first request as it should, or no load can be made.
pub async fn run(plan: &Plan, watch: &mut dyn FnMut(Progress)) -> Result<Report, Refusal> {
    let made = Engine::new(
        plan.target.clone(),
        plan.objective.clone(),
        plan.patience,
        plan.seed,
    );
    let mut engine = made.map_err(no_load)?;
    enough_room(plan, engine.most_in_flight())?;
    look_first(plan, &engine).await?;
    let begun = Instant::now();
    let begun_unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut went = match plan.wanted {
        Wanted::Rate { rate, time } => at_rate(plan, &mut engine, rate, time, watch)
            .await
            .map_err(no_load)?,
        Wanted::Find { .. } => find(plan, &mut engine, watch).await.map_err(no_load)?,
    };
    let generator = engine.itself();
    // A search has looked at each of its offers by itself.
    if went.search.is_none()
        && went.verdict != Verdict::Safety
        && let Some(why) = generator.was_the_limit(&plan.objective)
    {
        went.verdict = Verdict::Invalid;
        went.reasons.push(why);
    }
    let totals = engine.totals();
    let url = plan.target.place.url();
    Ok(Report {
        target: url.split('?').next().unwrap_or_default().to_owned(),
        address: plan.target.address.to_string(),
        protocol: if plan.target.http2 { "h2" } else { "http/1.1" },
        begun_unix,
        seconds: begun.elapsed().as_secs_f64(),
        objective: plan.objective.clone(),
        verdict: went.verdict,
        reasons: went.reasons,
        rate: match plan.wanted {
            Wanted::Rate { rate, .. } => Some(rate),
            Wanted::Find { .. } => None,
        },
        found: went.search.as_ref().and_then(|search| search.found().cloned()),
        holds: went
            .search
            .as_ref()
            .map(|search| search.holds().to_vec())
            .unwrap_or_default(),
        fits: went.search.as_ref().map(Search::fits).unwrap_or_default(),
        recovery: went.recovery,
        latency: Percentiles::of(&totals.latencies),
        totals,
        each_second: engine.seconds(),
        generator,
        seed: plan.seed,
    })
}

/// How a run went.
struct Went {
    verdict: Verdict,
    reasons: Vec<String>,
    search: Option<Search>,
    recovery: Option<Recovery>,
}

fn no_load(error: std::io::Error) -> Refusal {
    Refusal::new(Code::M004, "no load can be made here").because(error.to_string())
}

/// A server that keeps its objective may have as many requests under way as are due in its longest time.
fn enough_room(plan: &Plan, most_in_flight: usize) -> Result<(), Refusal> {
    let Wanted::Rate { rate, .. } = plan.wanted else {
        return Ok(());
    };
    let needed = (rate * plan.objective.longest().as_secs_f64()) as usize;
    match needed <= most_in_flight {
        true => Ok(()),
        false => Err(Refusal::new(Code::M004, "no such load can be made here")
            .because(format!(
                "{rate}/s with {} could have {needed} requests under way; {most_in_flight} have file descriptors here",
                plan.objective
            ))
            .next("allow more file descriptors in this shell", "ulimit -n 20000")),
    }
}

/// One request, before there is any load: a target that does not answer it as it should is not measured.
async fn look_first(plan: &Plan, engine: &Engine) -> Result<(), Refusal> {
    let url = plan.target.place.url();
    let refuse = |why: String| {
        Refusal::new(Code::M003, format!("{url} does not answer as it should"))
            .because(why)
            .because("no load was sent")
    };
    match engine.probe().await {
        Err(why) => Err(refuse(format!(
            "the first request to {}: {why}",
            plan.target.address
        ))),
        Ok(answer) if (300..400).contains(&answer.status) && answer.location.is_some() => {
            Err(refuse(format!(
                "it answers with status {} and sends visitors to {:?}; nothing but what was named is measured",
                answer.status,
                answer.location.unwrap_or_default()
            )))
        }
        Ok(answer) if answer.status >= 400 => Err(refuse(format!(
            "it answers the first request with status {}, which counts as an error",
            answer.status
        ))),
        Ok(_) => Ok(()),
    }
}

async fn at_rate(
    plan: &Plan,
    engine: &mut Engine,
    rate: f64,
    time: Duration,
    watch: &mut dyn FnMut(Progress),
) -> std::io::Result<Went> {
    let offer = Offer {
        rate,
        settle: Duration::ZERO,
        measure: time,
        guard: Duration::ZERO,
    };
    let begun = Instant::now();
    let done = engine
        .offer(&offer, &mut |engine| show(engine, begun, rate, false, watch))
        .await?;
    engine.drain().await;
    if done.is_none() {
        return Ok(stopped(None));
    }
    let totals = engine.totals();
    let mut reasons = Vec::new();
    for (term, bad) in plan.objective.terms().iter().zip(&totals.bad) {
        let share = *bad as f64 / (totals.sent as f64).max(1.0);
        // The objective says «less than».
        if share >= term.allowed() {
            reasons.push(format!(
                "{term}: {:.2} % were bad, {:.2} % are allowed",
                share * 100.0,
                term.allowed() * 100.0
            ));
        }
    }
    if totals.sent == 0 {
        return Ok(Went {
            verdict: Verdict::Invalid,
            reasons: vec!["no request was due in that time: offer more, or for longer".to_owned()],
            search: None,
            recovery: None,
        });
    }
    Ok(Went {
        verdict: if reasons.is_empty() {
            Verdict::Pass
        } else {
            Verdict::Threshold
        },
        reasons,
        search: None,
        recovery: None,
    })
}

fn stopped(search: Option<Search>) -> Went {
    Went {
        verdict: Verdict::Safety,
        reasons: vec!["nothing but failures came back for five seconds: the load was taken away".to_owned()],
        search,
        recovery: None,
    }
}

fn show(
    engine: &Engine,
    begun: Instant,
    offered: f64,
    estimate: bool,
    watch: &mut dyn FnMut(Progress),
) -> bool {
    let totals = engine.totals();
    watch(Progress {
        elapsed: begun.elapsed(),
        offered,
        estimate,
        sent: totals.sent,
        failed: totals.failures(),
        in_flight: engine.in_flight(),
    });
    true
}

async fn find(plan: &Plan, engine: &mut Engine, watch: &mut dyn FnMut(Progress)) -> std::io::Result<Went> {
    let Wanted::Find {
        first,
        most,
        time,
        half_width,
        recovery,
    } = plan.wanted
    else {
        return Ok(stopped(None));
    };
    let mut search = Search::new(Settings {
        objective: plan.objective.clone(),
        first_rate: first,
        most_rate: most,
        most_time: time,
        half_width,
        seed: plan.seed,
    });
    let begun = Instant::now();
    let (mut offers, mut spoilt) = (0, 0);
    loop {
        match search.step(begun.elapsed()) {
            Step::End => break,
            Step::Drain => {
                engine.drain().await;
                if !came_back(engine).await {
                    return Ok(Went {
                        reasons: vec![format!(
                            "after {:.0}/s it did not answer a single request for {} s: no more was sent",
                            search.around().0,
                            COMES_BACK.as_secs()
                        )],
                        ..stopped(Some(search))
                    });
                }
            }
            Step::Offer(offer) => {
                let estimate = search.around().1;
                let mut seen = |engine: &Engine| show(engine, begun, offer.rate, estimate, watch);
                // In overload nothing but failures may come; the search drains after it, and asks whether it lives.
                let seen = engine.offer(&offer, &mut seen).await?;
                let all_bad = Outcome::Failed;
                let seen = seen.unwrap_or_else(|| {
                    let mut none = pontoon_capacity::search::Seen {
                        sent: 0,
                        bad: vec![0; plan.objective.terms().len()],
                    };
                    (0..100).for_each(|_| none.add(&plan.objective, all_bad));
                    none
                });
                offers += 1;
                let Some(why) = engine.itself_lately().was_the_limit(&plan.objective) else {
                    search.record(&seen);
                    continue;
                };
                // A moment in which this machine had other things to do spoils one offer, which is made again; a
                // machine that is too slow spoils them all.
                spoilt += 1;
                if spoilt > MOST_SPOILT.max(offers / 4) {
                    return Ok(Went {
                        verdict: Verdict::Invalid,
                        reasons: vec![format!(
                            "{spoilt} of {offers} offers, the last at {:.0}/s: {why}",
                            offer.rate
                        )],
                        search: Some(search),
                        recovery: None,
                    });
                }
            }
        }
    }
    engine.drain().await;
    let mut went = Went {
        verdict: Verdict::Pass,
        reasons: Vec::new(),
        search: None,
        recovery: None,
    };
    match search.found() {
        Some(Found::Limit { interval, .. }) if recovery => {
            went.recovery = recover(plan, engine, interval.rate, begun, watch).await?;
        }
        Some(Found::Limit { .. }) => {}
        Some(Found::NotReached { at_least }) => {
            went.verdict = Verdict::NotReached;
            went.reasons
                .push(format!("{at_least:.0}/s, the most that was allowed, is borne"));
        }
        Some(Found::Unknown) | None => {
            went.verdict = Verdict::Invalid;
            went.reasons
                .push("the time was over before the holds told anything".to_owned());
        }
    }
    went.search = Some(search);
    Ok(went)
}

/// Whether it answers again, however slowly.
async fn came_back(engine: &Engine) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < COMES_BACK {
        if engine.probe().await.is_ok_and(|answer| answer.status < 400) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    false
}

/// Overloads the target for a few seconds, then offers less and looks when it is as before. What does not come back at
/// four fifths of its limit has a second, lower one that hides until the first overload.
async fn recover(
    plan: &Plan,
    engine: &mut Engine,
    limit: f64,
    begun: Instant,
    watch: &mut dyn FnMut(Progress),
) -> std::io::Result<Option<Recovery>> {
    let guard = plan.objective.longest();
    let offer = |rate: f64, measure: Duration, guard: Duration| Offer {
        rate,
        settle: Duration::ZERO,
        measure,
        guard,
    };
    let overload = limit * 1.3;
    let over = offer(overload, OVERLOADED.max(guard * 4), Duration::ZERO);
    engine
        .offer(&over, &mut |engine| show(engine, begun, overload, false, watch))
        .await?;
    for share in [0.8, 0.6, 0.4, 0.2] {
        let rate = limit * share;
        let since = Instant::now();
        let mut kept = 0;
        while since.elapsed() < RECOVERS_WITHIN + guard * 4 {
            let part = offer(rate, Duration::from_secs(1), guard);
            let after = since.elapsed();
            let seen = engine
                .offer(&part, &mut |engine| show(engine, begun, rate, false, watch))
                .await?;
            let good = seen.is_some_and(|seen| {
                let terms = plan.objective.terms().iter().zip(&seen.bad);
                terms
                    .into_iter()
                    .all(|(term, bad)| *bad as f64 <= 2.0 * term.allowed() * seen.sent as f64 + 1.0)
            });
            kept = if good { kept + 1 } else { 0 };
            if kept == 2 {
                engine.drain().await;
                return Ok(Some(Recovery {
                    overload,
                    recovers_at: Some(rate),
                    after_seconds: after.as_secs_f64(),
                }));
            }
        }
    }
    engine.drain().await;
    Ok(Some(Recovery {
        overload,
        recovers_at: None,
        after_seconds: 0.0,
    }))
}

/// Offers that may be made again whatever their number.
const MOST_SPOILT: u32 = 5;
const COMES_BACK: Duration = Duration::from_secs(30);
const OVERLOADED: Duration = Duration::from_secs(5);
const RECOVERS_WITHIN: Duration = Duration::from_secs(12);
