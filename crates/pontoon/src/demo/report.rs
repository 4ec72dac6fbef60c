//! What the demo has shown, as a value: printed for people by `output::demo`, as it is for machines, and judged here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pontoon_testkit::{LoadReport, PhaseSummary, Reread};
use serde::Serialize;

pub use super::reread::Place;

/// The whole demo.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Always `demo`: what this object is.
    pub report: &'static str,
    /// Whether everything is as it should be: exit status 0.
    pub ok: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// The application.
    pub app: String,
    /// The seed of the visitors.
    pub seed: u64,
    /// Whether it was the short one.
    pub short: bool,
    /// Cores that this machine lent.
    pub cores: usize,
    /// Requests per second that were asked for.
    pub rate: f64,
    /// From start to report, the building of the lab included.
    pub seconds: f64,
    /// The phases in order.
    pub phases: Vec<PhaseReport>,
    /// All phases together.
    pub total: Total,
    /// How many writes of each kind were acknowledged.
    pub acknowledged: BTreeMap<String, usize>,
    /// Every acknowledged write, read back from every place.
    pub reread: Vec<Place>,
    /// What should be known when the numbers are read.
    pub caveats: Vec<String>,
    /// Where logs were kept; only after a failure.
    pub logs: Option<PathBuf>,
}

/// One phase.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseReport {
    /// What happened, for people.
    pub title: String,
    /// What was found out.
    pub facts: Vec<String>,
    /// What the visitors saw, with the phase's name for machines.
    #[serde(flatten)]
    pub visitors: PhaseSummary,
}

/// All phases together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Total {
    /// Requests sent.
    pub sent: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// The longest wait of anybody, in ms.
    pub longest_ms: f64,
    /// How late a request left at worst, in ms: what this machine's own business cost.
    pub latest_send_ms: f64,
}

/// A phase as it was played: name, title, facts.
pub type Played = (&'static str, &'static str, Vec<String>);

/// Puts together what the phases told with what the visitors saw.
pub fn phases(played: &[Played], load: Option<&LoadReport>) -> Vec<PhaseReport> {
    let seen = load.map(|load| load.phases.as_slice()).unwrap_or_default();
    let report = |(name, title, facts): &Played| {
        let visitors = seen.iter().find(|seen| seen.name == *name)?;
        Some(PhaseReport {
            title: (*title).to_owned(),
            facts: facts.clone(),
            visitors: visitors.clone(),
        })
    };
    played.iter().filter_map(report).collect()
}

/// Adds the phases up.
pub fn total(load: Option<&LoadReport>) -> Total {
    let Some(load) = load else { return Total::default() };
    Total {
        sent: load.phases.iter().map(|phase| phase.sent).sum(),
        failed: load.failed(),
        acknowledged: load.phases.iter().map(|phase| phase.acknowledged).sum(),
        longest_ms: load
            .phases
            .iter()
            .map(|phase| phase.longest_ms)
            .fold(0.0, f64::max),
        latest_send_ms: load.latest_send.as_secs_f64() * 1000.0,
    }
}

/// Everything that is not as it should be, besides what stopped the demo. Nothing that was not seen counts as good.
/// Requests may fail in the phases of `breaking`, not in others.
pub fn judge(load: Option<&LoadReport>, reread: &[Place], wanted: &[&str], breaking: &[&str]) -> Vec<String> {
    let Some(load) = load else {
        return vec!["no visitor ever came".to_owned()];
    };
    let mut reasons = Vec::new();
    for name in wanted {
        if load
            .phases
            .iter()
            .filter(|phase| phase.name == *name)
            .map(|phase| phase.sent)
            .sum::<u64>()
            == 0
        {
            reasons.push(format!("no request was sent in phase {name}"));
        }
    }
    let strict = load
        .phases
        .iter()
        .filter(|phase| !breaking.contains(&phase.name.as_str()));
    let failed: u64 = strict.clone().map(|phase| phase.failed).sum();
    if failed > 0 {
        let mut why: BTreeMap<&str, u64> = BTreeMap::new();
        let sent: u64 = strict.clone().map(|phase| phase.sent).sum();
        for phase in strict {
            for (reason, count) in &phase.failures {
                *why.entry(reason).or_default() += count;
            }
        }
        let why: Vec<String> = why
            .iter()
            .map(|(reason, count)| format!("{count}× {reason}"))
            .collect();
        reasons.push(format!("{failed} of {sent} requests failed: {}", why.join(", ")));
    }
    if load.ledger.is_empty() {
        reasons.push("nothing was written, so nothing was proved about writes".to_owned());
    }
    for place in reread.iter().filter(|place| !place.complete()) {
        reasons.push(match (&place.reread, &place.unreadable) {
            (Some(reread), _) => incomplete(&place.place, reread),
            (None, why) => {
                format!(
                    "nothing could be read {}: {}",
                    place.place,
                    why.as_deref().unwrap_or("no reason given")
                )
            }
        });
    }
    if let Err(skip) = load.believable() {
        reasons.push(format!("the numbers are not to be believed: {}", skip.0));
    }
    reasons
}

fn incomplete(place: &str, reread: &Reread) -> String {
    let few = |all: &[String]| {
        let shown: Vec<&str> = all.iter().take(MOST_NAMED).map(String::as_str).collect();
        let more = if all.len() > MOST_NAMED { ", …" } else { "" };
        format!("{}{more}", shown.join(", "))
    };
    let mut text = format!(
        "{place} {} of {} acknowledged writes were found",
        reread.found, reread.acknowledged
    );
    if !reread.missing.is_empty() {
        text += &format!("; missing: {}", few(&reread.missing));
    }
    if !reread.altered.is_empty() {
        text += &format!("; altered: {}", few(&reread.altered));
    }
    text
}

const MOST_NAMED: usize = 5;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pontoon_testkit::{Ledger, WriteId};

    use super::*;
    use crate::output::demo::samples;

    fn load(failures: &[(&str, u64)]) -> LoadReport {
        let mut ledger = Ledger::default();
        ledger.enter(WriteId { kind: "post", id: 1 }, "text");
        let mut phase = samples::phase("join", 10);
        phase.failures = failures
            .iter()
            .map(|(reason, count)| ((*reason).to_owned(), *count))
            .collect();
        phase.failed = failures.iter().map(|(_, count)| count).sum();
        LoadReport {
            phases: vec![phase],
            ledger,
            records: Vec::new(),
            latest_send: Duration::from_millis(3),
        }
    }

    #[test]
    fn a_good_run_has_no_reasons() {
        let place = samples::place("in the database of a", 1, &[]);
        assert!(judge(Some(&load(&[])), &[place], &["join"], &[]).is_empty());
    }

    #[test]
    fn each_thing_that_is_wrong_is_a_reason() {
        let mut bad = load(&[("status 502", 2), ("no answer in time", 1)]);
        bad.latest_send = Duration::from_secs(2);
        let places = [
            samples::place("in the database of b", 1, &["post 1"]),
            Place {
                place: "through the edge of b".into(),
                reread: None,
                unreadable: Some("refused".into()),
            },
        ];
        let reasons = judge(Some(&bad), &places, &["join", "drain"], &[]);
        for part in [
            "no request was sent in phase drain",
            "3 of 10 requests failed: 1× no answer in time, 2× status 502",
            "in the database of b 0 of 1 acknowledged writes were found; missing: post 1",
            "nothing could be read through the edge of b: refused",
            "not to be believed",
        ] {
            assert!(
                reasons.iter().any(|reason| reason.contains(part)),
                "{part} not in {reasons:#?}"
            );
        }
        assert_eq!(reasons.len(), 5);
    }

    #[test]
    fn where_a_primary_is_lost_requests_may_fail_and_writes_may_not() {
        let broken = load(&[("status 500", 2)]);
        let lost = samples::place("in the database of b", 1, &["post 1"]);
        assert!(judge(Some(&broken), &[], &["join"], &["join"]).is_empty());
        assert_eq!(judge(Some(&broken), &[lost], &["join"], &["join"]).len(), 1);
        assert_eq!(judge(Some(&broken), &[], &["join"], &["drain"]).len(), 1);
    }

    #[test]
    fn what_was_not_seen_is_not_good() {
        assert_eq!(judge(None, &[], &[], &[]), ["no visitor ever came"]);
        let mut empty = load(&[]);
        empty.ledger = Ledger::default();
        assert_eq!(judge(Some(&empty), &[], &["join"], &[]).len(), 1);
    }
}
