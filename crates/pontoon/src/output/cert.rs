//! The certificates for visitors, as a table.

use pontoon_agent::api::{CertLine, CertStatus};
use pontoon_fleet::UnixMillis;

use super::certificates::ends;
use super::paint::{Paint, harmless};
use super::table::{self, Cell, Tone};
use super::when;

/// The table, and what went wrong below it.
pub fn render(status: &CertStatus, paint: Paint) -> String {
    if status.certificates.is_empty() {
        return "visitors are served over plain HTTP: the configuration has no [edge.tls]\n".to_owned();
    }
    let mut text = String::new();
    if let (Some(orderer), Some(directory)) = (&status.orderer, &status.directory) {
        text.push_str(&format!("{orderer} orders from {}\n", harmless(directory)));
    }
    let heads = ["NAMES", "ISSUER", "ENDS", "FROM", "NEXT", "ON"];
    let mut rows = vec![heads.map(|head| Cell::toned(head, Tone::Faint)).to_vec()];
    for line in &status.certificates {
        let on: Vec<&str> = line.on.iter().map(|server| server.as_str()).collect();
        rows.push(vec![
            Cell::new(harmless(&line.names.join(" "))),
            Cell::new(harmless(line.issuer.as_deref().unwrap_or("-"))),
            match line.not_after {
                None if line.next.is_some() => Cell::toned("none yet", Tone::Warn),
                end => ends(end, status.now, line.next.is_some()),
            },
            Cell::new(match line.next {
                Some(_) => "authority".to_owned(),
                None => harmless(&line.file),
            }),
            next(line, status.now),
            match on.is_empty() {
                true => Cell::toned("nowhere", Tone::Bad),
                false => Cell::new(on.join(" ")),
            },
        ]);
    }
    text.push_str(&table::render(&rows, paint));
    for line in &status.certificates {
        let name = harmless(line.names.first().map_or(line.file.as_str(), String::as_str));
        if let Some(why) = &line.error {
            let ago = line.error_at.map_or_else(String::new, |at| {
                format!(" ({} ago)", when::span(status.now.since(at)))
            });
            let what = if line.not_after.is_some() {
                "not renewed"
            } else {
                "not issued"
            };
            text.push_str(&format!("{name}: {what}{ago}: {}\n", harmless(why)));
        }
        for (server, why) in &line.refused {
            text.push_str(&format!("{name}: not served on {server}: {}\n", harmless(why)));
        }
    }
    text
}

fn next(line: &CertLine, now: UnixMillis) -> Cell {
    match line.next {
        None => Cell::toned("by hand", Tone::Faint),
        Some(at) if at <= now => Cell::new("now"),
        Some(at) => Cell::new(format!("in {}", when::span(at.since(now)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    fn line(next: Option<u64>, not_after: Option<u64>) -> CertLine {
        CertLine {
            names: vec!["www.example.com".to_owned()],
            issuer: not_after.map(|_| "R11".to_owned()),
            not_after: not_after.map(UnixMillis),
            source: "https://ca.example/dir".to_owned(),
            file: "/var/lib/pontoon/tls/www.example.com.pem".to_owned(),
            next: next.map(UnixMillis),
            error: None,
            error_at: None,
            on: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn status(certificates: Vec<CertLine>) -> CertStatus {
        CertStatus {
            version: 1,
            fleet: "notes".to_owned(),
            me: "a".parse().unwrap(),
            orderer: Some("a".parse().unwrap()),
            directory: Some("https://ca.example/dir".to_owned()),
            certificates,
            now: UnixMillis(100 * DAY),
        }
    }

    #[test]
    fn the_table_says_who_when_and_what_went_wrong() {
        let mut good = line(Some(160 * DAY), Some(190 * DAY));
        good.on = vec!["a".parse().unwrap(), "b".parse().unwrap()];
        let mut failed = line(Some(100 * DAY + 300_000), None);
        failed.error = Some("no such name\u{1b}[2J (dns)".to_owned());
        failed.error_at = Some(UnixMillis(100 * DAY - 60_000));
        let mut file = line(None, Some(120 * DAY));
        file.refused = vec![("b".parse().unwrap(), "it is not there".to_owned())];
        let text = render(&status(vec![good, failed, file]), Paint::off());
        for part in [
            "a orders from https://ca.example/dir",
            "R11",
            "(90 days)",
            "a b",
            "none yet",
            "nowhere",
            "in 5 min",
            "not issued (1 min ago): no such name",
            "by hand",
            "(20 days)",
            "not served on b: it is not there",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'));
        assert!(render(&status(Vec::new()), Paint::off()).contains("plain HTTP"));
    }
}
