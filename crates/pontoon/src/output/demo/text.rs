//! The report of the demo as text.

use super::super::paint::{Paint, wrap};
use super::super::table::{self, Cell, Tone};
use crate::demo::report::{PhaseReport, Report};

/// A way into a demo that stays.
pub struct Way {
    /// To which server.
    pub server: String,
    /// For a browser on this machine.
    pub url: String,
    /// A program that opens a shell on it.
    pub shell: String,
}

/// The report, for people.
pub fn report_text(report: &Report, paint: Paint) -> String {
    let mut text = format!(
        "\n{}\n\n",
        paint.strong(&format!("Pontoon demo: {} from one server to two", report.app))
    );
    if !report.phases.is_empty() {
        text += &table::render(&rows(report), paint);
        text += &format!(
            "\nAll waits are the visitors' own, from the moment a request was due: {:.0} requests a second, at random \
             moments,\nnothing repeated. This machine sent none later than {:.0} ms after it was due.\n",
            report.rate, report.total.latest_send_ms
        );
    }
    if !report.reread.is_empty() {
        text += &format!(
            "\n{} {}, read back at the end\n",
            paint.strong("Acknowledged:"),
            kinds(report)
        );
        text += &table::render(&places(report), paint);
    }
    let told: Vec<&PhaseReport> = report
        .phases
        .iter()
        .filter(|phase| !phase.facts.is_empty())
        .collect();
    if !told.is_empty() {
        text += &format!("\n{}\n", paint.strong("What happened"));
        for phase in told {
            text += &format!("  {}\n", phase.title);
            for fact in &phase.facts {
                text += &list(fact);
            }
        }
    }
    if !report.caveats.is_empty() {
        text += &format!("\n{}\n", paint.strong("To be known"));
        for caveat in &report.caveats {
            text += &list(caveat);
        }
    }
    text += "\n";
    if report.ok {
        let acknowledged = report.total.acknowledged;
        text += &format!(
            "{} {} requests, {} failed; {acknowledged} of {acknowledged} acknowledged writes are on both servers. {:.0} s.\n",
            paint.good("✓"),
            report.total.sent,
            report.total.failed,
            report.seconds
        );
        return text;
    }
    text += &format!("{} The demo did not show what it should:\n", paint.bad("✗"));
    for reason in &report.reasons {
        text += &list(reason);
    }
    if let Some(logs) = &report.logs {
        text += &format!("  logs and failed requests: {}\n", logs.display());
    }
    text
}

/// How to get in, for people.
pub fn stay_text(ways: &[Way], login: Option<&str>, paint: Paint) -> String {
    let mut text = format!("\n{}\n", paint.strong("The fleet stays up until Ctrl-C"));
    let rows: Vec<Vec<Cell>> = ways
        .iter()
        .map(|way| {
            vec![
                Cell::new(format!("  server {}", way.server)),
                Cell::toned(&way.url, Tone::Strong),
                Cell::new(format!("shell: {}", way.shell)),
            ]
        })
        .collect();
    text += &table::render(&rows, paint);
    if let Some(login) = login {
        text += &format!("  the site's administrator: {login}  (at /wp-login.php)\n");
    }
    if let Some(way) = ways.first() {
        text += &format!("  for example: {} pontoon status\n", way.shell);
    }
    text
}

fn rows(report: &Report) -> Vec<Vec<Cell>> {
    let head = ["PHASE", "TIME", "SENT", "FAILED", "MEDIAN", "99 %", "LONGEST"];
    let mut rows = vec![head.map(|title| Cell::toned(title, Tone::Faint)).to_vec()];
    for phase in &report.phases {
        let seen = &phase.visitors;
        rows.push(vec![
            Cell::new(&phase.title),
            Cell::new(format!("{:.1} s", seen.seconds)),
            Cell::new(seen.sent.to_string()),
            failed(seen.failed),
            Cell::new(ms(seen.p50_ms)),
            Cell::new(ms(seen.p99_ms)),
            Cell::new(ms(seen.longest_ms)),
        ]);
    }
    let seconds: f64 = report.phases.iter().map(|phase| phase.visitors.seconds).sum();
    rows.push(vec![
        Cell::toned("all phases", Tone::Strong),
        Cell::new(format!("{seconds:.1} s")),
        Cell::toned(report.total.sent.to_string(), Tone::Strong),
        failed(report.total.failed),
        Cell::new(""),
        Cell::new(""),
        Cell::toned(ms(report.total.longest_ms), Tone::Strong),
    ]);
    align_right(&mut rows);
    rows
}

/// Numbers are compared from the right; the first column is words.
fn align_right(rows: &mut [Vec<Cell>]) {
    let widths = table::widths(rows);
    for cell in rows
        .iter_mut()
        .flat_map(|row| row.iter_mut().zip(&widths).skip(1))
    {
        let (cell, column) = cell;
        if !cell.text.is_empty() {
            cell.text = format!("{:>column$}", cell.text);
        }
    }
}

fn failed(count: u64) -> Cell {
    Cell::toned(count.to_string(), if count == 0 { Tone::Good } else { Tone::Bad })
}

fn ms(ms: f64) -> String {
    if ms < 10_000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}

fn kinds(report: &Report) -> String {
    let kinds: Vec<String> = report
        .acknowledged
        .iter()
        .map(|(kind, count)| format!("{count} {kind}{}", if *count == 1 { "" } else { "s" }))
        .collect();
    if kinds.is_empty() {
        "nothing".to_owned()
    } else {
        kinds.join(" and ")
    }
}

fn places(report: &Report) -> Vec<Vec<Cell>> {
    let row = |place: &crate::demo::report::Place| {
        let verdict = match &place.reread {
            Some(reread) => format!("{} of {}", reread.found, reread.acknowledged),
            None => "could not be read".to_owned(),
        };
        let tone = if place.complete() { Tone::Good } else { Tone::Bad };
        vec![
            Cell::new(format!("  {}", place.place)),
            Cell::toned(verdict, tone),
        ]
    };
    report.reread.iter().map(row).collect()
}

fn list(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        lines.extend(wrap(line, COLUMNS));
    }
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        text += &format!("  {} {line}\n", if index == 0 { "-" } else { " " });
    }
    text
}

const COLUMNS: usize = 106;

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use crate::output::snapshot;

    #[test]
    fn a_report_of_a_good_run() {
        snapshot::check("demo-good.txt", &report_text(&samples::good(), Paint::off()));
    }

    #[test]
    fn a_report_of_a_bad_run_says_why_and_where_the_logs_are() {
        snapshot::check("demo-bad.txt", &report_text(&samples::bad(), Paint::off()));
    }

    #[test]
    fn a_report_of_a_run_that_never_began() {
        let mut report = samples::bad();
        (report.phases, report.reread) = (Vec::new(), Vec::new());
        let text = report_text(&report, Paint::off());
        assert!(!text.contains("PHASE") && text.contains("did not show"), "{text}");
    }

    #[test]
    fn the_report_for_machines() {
        let json = serde_json::to_string_pretty(&samples::bad()).unwrap();
        snapshot::check("demo.json", &format!("{json}\n"));
    }

    #[test]
    fn the_ways_in() {
        let way = |server: &str, port: u16| Way {
            server: server.to_owned(),
            url: format!("http://127.0.0.1:{port}/"),
            shell: format!("/var/tmp/pontoon-lab-0-1-0/shell-{server}"),
        };
        let text = stay_text(
            &[way("a", 40_001), way("b", 40_002)],
            Some("admin / secret"),
            Paint::off(),
        );
        snapshot::check("demo-stay.txt", &text);
    }
}
