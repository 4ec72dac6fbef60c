//! A report as one HTML file: plots as SVG in it, no script, nothing loaded from elsewhere, light and dark.

use std::fmt::Write;

use pontoon_capacity::Verdict;
use pontoon_capacity::search::Found;

use crate::plot::{Plot, Scale};
use crate::report::Report;

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut body = String::new();
    let class = match report.verdict {
        Verdict::Pass => "good",
        Verdict::NotReached | Verdict::Invalid => "warn",
        Verdict::Threshold | Verdict::Safety => "bad",
    };
    // A String takes everything: these writes cannot fail.
    let _ = write!(
        body,
        "<h1>{}</h1>\n<p class=\"verdict {class}\">{}</p>\n",
        escape(&headline(report)),
        escape(report.verdict.words())
    );
    for reason in &report.reasons {
        let _ = writeln!(body, "<p>{}</p>", escape(reason));
    }
    let _ = writeln!(body, "<dl>");
    for (name, text) in facts(report) {
        let _ = writeln!(body, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(&text));
    }
    let _ = writeln!(body, "</dl>");
    for (index, plot) in plots(report).iter().enumerate() {
        let _ = writeln!(
            body,
            "<figure>{}<figcaption>{}</figcaption></figure>",
            plot.svg(index),
            escape(&plot.caption)
        );
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{} – Pontoon</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(&headline(report))
    )
}

fn headline(report: &Report) -> String {
    match (&report.found, report.rate) {
        (Some(Found::Limit { interval, .. }), _) => format!(
            "{} bears {:.0} requests/s ({:.0} to {:.0})",
            report.target, interval.rate, interval.low, interval.high
        ),
        (Some(Found::NotReached { at_least }), _) => {
            format!("{} bears {at_least:.0} requests/s or more", report.target)
        }
        (_, Some(rate)) => format!("{} at {rate} requests/s", report.target),
        _ => format!("{}: no limit found", report.target),
    }
}

fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let latency = &report.latency;
    let mut facts = vec![
        ("Objective", report.objective.to_string()),
        ("Address", format!("{}, {}", report.address, report.protocol)),
        (
            "Requests",
            format!(
                "{} in {:.0} s, {} answered, {} failed",
                report.totals.sent,
                report.seconds,
                report.totals.answered,
                report.totals.failures()
            ),
        ),
        (
            "Latency",
            format!(
                "p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, longest {:.0} ms; each from when the request was due",
                latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms, latency.longest_ms
            ),
        ),
    ];
    if let Some(Found::Limit { term, narrow, .. }) = &report.found {
        let ended = if *narrow {
            "the interval was narrow enough"
        } else {
            "the time was over"
        };
        facts.push((
            "Limit",
            format!("{term} breaks first; the search ended because {ended}"),
        ));
    }
    if let Some(recovery) = &report.recovery {
        let text = match recovery.recovers_at {
            Some(rate) => format!(
                "after {:.0}/s, at {rate:.0}/s within {:.0} s",
                recovery.overload,
                recovery.after_seconds.ceil()
            ),
            None => format!("after {:.0}/s, at no rate that was tried", recovery.overload),
        };
        facts.push(("Recovers", text));
    }
    facts.push((
        "Generator",
        format!(
            "99 % sent at most {:.2} ms late, {:.0} % of a core",
            report.generator.late_p99.as_secs_f64() * 1e3,
            report.generator.busy * 100.0
        ),
    ));
    facts
}

fn plots(report: &Report) -> Vec<Plot> {
    let mut plots = Vec::new();
    if !report.holds.is_empty() {
        plots.push(shares(report));
    }
    if report.each_second.len() > 1 {
        plots.push(over_time(report));
    }
    let buckets = report.totals.latencies.buckets();
    if report.totals.answered > 1 {
        plots.push(curve(&buckets, report.totals.answered));
    }
    plots
}

/// Bad shares against the offered rate: what was seen, what was fitted, the interval, what is allowed.
fn shares(report: &Report) -> Plot {
    let mut plot = Plot::new(
        "Share of bad requests (%) in each hold against the rate that was offered; the band is the interval of the limit",
        "requests/s",
        "%",
        Scale::Log(0.01, 100.0),
    );
    for (index, term) in report.objective.terms().iter().enumerate() {
        let seen = report.holds.iter().map(|hold| {
            let bad = hold.bad.get(index).copied().unwrap_or(0) as f64;
            (hold.rate, (bad / (hold.sent as f64).max(1.0) * 100.0).max(0.01))
        });
        plot.points(&format!("{term}"), seen);
        plot.level(term.allowed() * 100.0);
    }
    if let Some(Found::Limit { interval, .. }) = &report.found {
        plot.band(interval.low, interval.high);
        plot.mark(interval.rate);
    }
    for (term, fit) in &report.fits {
        let (low, high) = plot.range();
        let line = (0..=60).map(|step| {
            let rate = low + (high - low) * f64::from(step) / 60.0;
            (rate, (fit.share(rate) * 100.0).max(0.01))
        });
        let line: Vec<(f64, f64)> = line.collect();
        plot.line(&format!("{term}, fitted"), line);
    }
    plot
}

fn over_time(report: &Report) -> Plot {
    let mut plot = Plot::new("Latency (ms) second by second", "seconds", "ms", Scale::LogFit);
    let line = |of: fn(&crate::report::Second) -> u64| -> Vec<(f64, f64)> {
        let seconds = report
            .each_second
            .iter()
            .enumerate()
            .filter(|(_, second)| second.answered > 0);
        seconds
            .map(|(at, second)| (at as f64, of(second).max(10) as f64 / 1e3))
            .collect()
    };
    plot.line("p50", line(|second| second.p50_us));
    plot.line("p99", line(|second| second.p99_us));
    plot
}

/// How long which share of the requests took: each step to the right is a tenth of the requests that are left.
fn curve(buckets: &[(u64, u64)], all: u64) -> Plot {
    let mut plot = Plot::new(
        "Latency (ms) by percentile: 1 is p90, 2 is p99, 3 is p99.9",
        "nines",
        "ms",
        Scale::LogFit,
    );
    let mut below = 0;
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (end, count) in buckets {
        below += count;
        let left = (all - below.min(all)) as f64 / all as f64;
        let nines = if left > 0.0 {
            -left.log10()
        } else {
            (all as f64).log10()
        };
        let far = points.last().is_none_or(|(last, _)| nines - last > 0.01);
        if far {
            points.push((nines, *end as f64 / 1e3));
        }
    }
    plot.line("latency", points);
    plot
}

/// Text that stays text.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter if letter.is_control() => safe.push(' '),
            letter => safe.push(letter),
        }
    }
    safe
}

const STYLE: &str = "
:root { --back: #fff; --text: #1b1f24; --faint: #6a737d; --grid: #e3e6ea; --one: #0b63c5; --two: #b3411c; --three: #2b7a3d; --four: #6f42c1; --band: #0b63c522; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --text: #e6e8eb; --faint: #98a1ab; --grid: #2c3238; --one: #6cb1ff; --two: #ff9a76; --three: #7bd38f; --four: #c5a5ff; --band: #6cb1ff2e; } }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.4rem; line-height: 1.25; overflow-wrap: anywhere; margin: 0 0 .5rem; }
.verdict { display: inline-block; margin: 0 0 .5rem; padding: .1rem .6rem; border: 2px solid; border-radius: .4rem; font-weight: 600; }
.good { color: var(--three); } .warn { color: var(--four); } .bad { color: var(--two); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 2rem 0 0; } svg { width: 100%; height: auto; display: block; }
figcaption { color: var(--faint); font-size: .9rem; }
svg text { fill: var(--text); font: 13px system-ui, sans-serif; } svg .faint { fill: var(--faint); }
.grid { stroke: var(--grid); } .level { stroke: var(--text); stroke-dasharray: 2 4; } .mark { stroke: var(--one); stroke-dasharray: 6 4; }
.band { fill: var(--band); } .line { fill: none; stroke-width: 2; }
.s0 { stroke: var(--one); } .s1 { stroke: var(--two); } .s2 { stroke: var(--three); } .s3 { stroke: var(--four); }
.p0 { fill: var(--one); } .p1 { fill: var(--two); } .p2 { fill: var(--three); } .p3 { fill: var(--four); }
@media (max-width: 480px) { svg text { font-size: 22px; } dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; } }
";

#[cfg(test)]
#[path = "html_tests.rs"]
mod tests;
