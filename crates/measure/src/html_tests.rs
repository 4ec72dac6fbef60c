//! Pages of made-up runs.

use std::time::Duration;

use pontoon_capacity::regression::{Fit, Point};
use pontoon_capacity::search::Hold;
use pontoon_capacity::{Interval, Itself, Latencies, Objective};

use super::*;
use crate::report::{Percentiles, Second, Totals};

fn report(found: bool) -> Report {
    let objective: Objective = "p99<300ms,errors<0.5%".parse().unwrap();
    let mut latencies = Latencies::default();
    for ms in 1..500 {
        latencies.add(Duration::from_millis(ms));
    }
    let holds: Vec<Hold> = (0..16u32)
        .map(|index| Hold {
            rate: 360.0 + 2.0 * f64::from(index),
            sent: 3_500,
            bad: vec![u64::from(index * index), 0],
        })
        .collect();
    let points: Vec<Point> = holds
        .iter()
        .map(|hold| Point {
            rate: hold.rate,
            sent: hold.sent,
            bad: hold.bad[0],
        })
        .collect();
    let fits = Fit::of(&points, 0.01).map(|fit| (objective.terms()[0], fit));
    Report {
        target: "http://198.51.100.1/<script>alert(1)</script>".to_owned(),
        address: "198.51.100.1:80".to_owned(),
        protocol: "http/1.1",
        begun_unix: 1_795_000_000,
        seconds: 480.0,
        objective,
        verdict: Verdict::Pass,
        reasons: vec!["a reason & another".to_owned()],
        rate: (!found).then_some(50.0),
        found: found.then(|| Found::Limit {
            interval: Interval {
                rate: 384.0,
                low: 371.0,
                high: 392.0,
            },
            term: "p99<300ms".to_owned(),
            narrow: false,
        }),
        holds: if found { holds } else { Vec::new() },
        fits: if found {
            fits.into_iter().collect()
        } else {
            Vec::new()
        },
        recovery: None,
        latency: Percentiles::of(&latencies),
        totals: Totals {
            sent: 500,
            answered: 499,
            latencies,
            ..Totals::default()
        },
        each_second: (0..20)
            .map(|at| Second {
                answered: 25,
                p50_us: 900 + at,
                p99_us: 9_000 * (at + 1),
                ..Second::default()
            })
            .collect(),
        generator: Itself::default(),
        seed: 1,
    }
}

#[test]
fn a_page_stands_alone_and_keeps_text_as_text() {
    for found in [true, false] {
        let page = page(&report(found));
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        // No script, nothing from elsewhere, and what a target is called is no markup.
        for word in ["<script", "src=", "href=", "url(", "@import", "NaN", "inf"] {
            assert!(!page.contains(word), "{word}");
        }
        assert!(page.contains("&lt;script&gt;") && page.contains("a reason &amp; another"));
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("viewport"));
        for tag in ["svg", "figure", "main", "dl", "text", "title"] {
            let opened =
                page.matches(&format!("<{tag} ")).count() + page.matches(&format!("<{tag}>")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        assert_eq!(page.matches("<svg").count(), if found { 3 } else { 2 });
    }
    let page = page(&report(true));
    assert!(page.contains("bears 384 requests/s (371 to 392)") && page.contains("class=\"band\""));
    assert_eq!(page.matches("<circle").count(), 32);
}

#[test]
fn a_run_without_an_answer_has_a_page_too() {
    let mut empty = report(false);
    empty.totals = Totals::default();
    empty.each_second = Vec::new();
    let page = page(&empty);
    assert!(!page.contains("<svg") && !page.contains("NaN"));
}
