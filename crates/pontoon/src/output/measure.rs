//! A measurement as text.

use pontoon_capacity::Verdict;
use pontoon_capacity::search::Found;
use pontoon_measure::compare::Comparison;
use pontoon_measure::selftest::Judged;
use pontoon_measure::{Progress, Report};

use super::paint::{Paint, harmless};
use super::table::{Cell, Tone, render};

/// One line while it runs.
pub fn progress(progress: &Progress) -> String {
    format!(
        "{:4.0} s  {} {:.0}/s  {} sent, {} failed, {} under way",
        progress.elapsed.as_secs_f64(),
        if progress.estimate {
            "limit near"
        } else {
            "offering"
        },
        progress.offered,
        progress.sent,
        progress.failed,
        progress.in_flight
    )
}

/// The whole result.
pub fn report(report: &Report, paint: Paint) -> String {
    let tone = match report.verdict {
        Verdict::Pass => Tone::Good,
        Verdict::NotReached | Verdict::Invalid => Tone::Warn,
        Verdict::Threshold | Verdict::Safety => Tone::Bad,
    };
    let row = |name: &str, text: String| vec![Cell::toned(name, Tone::Faint), Cell::new(text)];
    let mut rows = vec![
        row(
            "target",
            format!(
                "{} at {}, {}",
                harmless(&report.target),
                report.address,
                report.protocol
            ),
        ),
        row("objective", report.objective.to_string()),
        vec![
            Cell::toned("result", Tone::Faint),
            Cell::toned(report.verdict.words(), tone),
        ],
    ];
    rows.extend(report.reasons.iter().map(|reason| row("", harmless(reason))));
    if let Some(found) = &report.found {
        rows.push(row("limit", limit(found)));
    }
    if let Some(recovery) = &report.recovery {
        let text = match recovery.recovers_at {
            Some(rate) => format!(
                "after {:.0}/s it was as before within {:.0} s at {rate:.0}/s",
                recovery.overload,
                recovery.after_seconds.ceil()
            ),
            None => format!(
                "after {:.0}/s it did not come back at any rate that was tried",
                recovery.overload
            ),
        };
        rows.push(row("recovery", text));
    }
    let (totals, latency) = (&report.totals, &report.latency);
    let failed: Vec<String> = totals
        .failed
        .iter()
        .map(|(why, count)| format!("{count} {}", harmless(why)))
        .collect();
    let failed = if failed.is_empty() {
        "none failed".to_owned()
    } else {
        format!("failed: {}", failed.join(", "))
    };
    rows.push(row(
        "requests",
        format!(
            "{} in {:.0} s, {:.0}/s; {failed}",
            totals.sent,
            report.seconds,
            totals.sent as f64 / report.seconds.max(1e-9)
        ),
    ));
    rows.push(row(
        "latency",
        format!(
            "p50 {}  p90 {}  p95 {}  p99 {}  p99.9 {}  longest {}",
            ms(latency.p50_ms),
            ms(latency.p90_ms),
            ms(latency.p95_ms),
            ms(latency.p99_ms),
            ms(latency.p999_ms),
            ms(latency.longest_ms)
        ),
    ));
    rows.push(row(
        "generator",
        format!(
            "sent 99 % at most {} late, took {:.0} % of a core",
            ms(report.generator.late_p99.as_secs_f64() * 1e3),
            report.generator.busy * 100.0
        ),
    ));
    render(&rows, paint)
}

fn limit(found: &Found) -> String {
    match found {
        Found::Limit {
            interval,
            term,
            narrow,
        } => format!(
            "{:.0} requests/s, between {:.0} and {:.0}; above it {term} is not kept ({})",
            interval.rate,
            interval.low,
            interval.high,
            if *narrow {
                "ended when the interval was narrow enough"
            } else {
                "ended when the time was over"
            }
        ),
        Found::NotReached { at_least } => format!("at least {at_least:.0} requests/s: not reached"),
        Found::Unknown => "not known".to_owned(),
    }
}

fn ms(value: f64) -> String {
    match value {
        0.0..0.01 => format!("{:.0} µs", value * 1e3),
        0.01..10.0 => format!("{value:.2} ms"),
        10.0..1_000.0 => format!("{value:.0} ms"),
        _ => format!("{:.2} s", value / 1e3),
    }
}

/// Two runs side by side.
pub fn comparison(found: &Comparison, fail_if_worse: Option<u32>, verdict: Verdict) -> String {
    let unit = if found.what == "limit" { "requests/s" } else { "ms" };
    let mut text = format!(
        "{}: {:.1} {unit}, then {:.1} {unit}: {:.3} times as much, between {:.3} and {:.3}\n",
        found.what, found.first, found.second, found.ratio.rate, found.ratio.low, found.ratio.high
    );
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    text.push_str(&match (found.detectable, found.worse_by > 0.0) {
        (false, _) => format!("no difference detectable (±{})\n", percent(found.resolution)),
        (true, true) => format!("worse by {}\n", percent(found.worse_by)),
        (true, false) => format!("better by {}\n", percent(-found.worse_by)),
    });
    if let Some(share) = fail_if_worse {
        let share = f64::from(share) / 100_000.0;
        if verdict == Verdict::Threshold {
            text.push_str(&format!("that is more than {}\n", percent(share)));
        } else if !found.detectable && found.resolution > share {
            text.push_str(&format!(
                "a worsening of {} could not be seen in these runs: longer ones have narrower intervals\n",
                percent(share)
            ));
        }
    }
    text
}

/// The search against servers whose limit is known.
pub fn selftest(virtually: &[Judged], really: &[Judged], paint: Paint) -> String {
    let head = [
        "SERVERS",
        "RUNS",
        "MEDIAN ERROR",
        "WITHIN 5 %",
        "COVERED",
        "INTERVAL",
        "",
    ];
    let mut rows = vec![head.map(|text| Cell::toned(text, Tone::Faint)).to_vec()];
    for (judged, how) in virtually
        .iter()
        .map(|judged| (judged, "in virtual time"))
        .chain(really.iter().map(|judged| (judged, "over connections")))
    {
        let share = |share: f64| Cell::new(format!("{:.1} %", share * 100.0));
        rows.push(vec![
            Cell::new(judged.class),
            Cell::new(judged.runs.to_string()),
            share(judged.median_error),
            share(judged.within_5_percent),
            Cell::toned(
                format!("{:.1} %", judged.covered * 100.0),
                if judged.is_good() { Tone::Good } else { Tone::Bad },
            ),
            Cell::new(format!("±{:.1} %", judged.half_width * 100.0)),
            Cell::toned(how, Tone::Faint),
        ]);
    }
    render(&rows, paint)
}
