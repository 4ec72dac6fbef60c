//! Copies in an object store, as a table; and what a restore came to.

use pontoon_agent::api::Backups;
use pontoon_backup::restore::Restored;
use pontoon_fleet::UnixMillis;
use pontoon_fleet::units::human_bytes;

use super::paint::{Paint, harmless};
use super::table::{self, Cell, Tone};
use super::when;

/// The table.
pub fn render(backups: &Backups, paint: Paint) -> String {
    let mut text = format!("{}\n", harmless(&backups.place));
    if backups.copies.is_empty() {
        text.push_str("no whole copy\n");
    } else {
        let mut rows = vec![
            ["COPY", "OF", "AGE", "SIZE", "RESTORES FROM", "TO"]
                .map(|head| Cell::toned(head, Tone::Faint))
                .to_vec(),
        ];
        rows.extend(backups.copies.iter().map(|copy| {
            [
                harmless(&copy.id),
                harmless(&copy.server),
                age(backups.now, copy.from),
                human_bytes(copy.bytes),
                moment(copy.from),
                moment(copy.to),
            ]
            .map(Cell::new)
            .to_vec()
        }));
        text.push_str(&table::render(&rows, paint));
    }
    match backups.archived_to {
        Some(at) => text.push_str(&format!(
            "the binary log is archived up to {} ({} ago)\n",
            moment(at),
            age(backups.now, at)
        )),
        None => text.push_str("no binary log is archived\n"),
    }
    for flaw in &backups.flawed {
        text.push_str(&format!("not usable: {}\n", harmless(flaw)));
    }
    text
}

/// What was restored, and what comes next.
pub fn summary(restored: &Restored) -> String {
    let dir = restored.dir.display();
    let mut text = format!(
        "restored into {}\nfrom {} and {} archived transactions, up to {}\nposition {}\n",
        harmless(&dir.to_string()),
        harmless(&restored.copy),
        restored.transactions,
        restored.last.map_or_else(|| "the copy itself".to_owned(), moment),
        if restored.position.is_empty() {
            "none"
        } else {
            &restored.position
        },
    );
    if let Some(aside) = &restored.aside {
        text.push_str(&format!(
            "what was there is now {}\n",
            harmless(&aside.to.display().to_string())
        ));
    }
    text.push_str(&format!(
        "\nnext: start the database on it (version {}), and `pontoon init`\n",
        harmless(&restored.engine_version)
    ));
    text
}

fn age(now: UnixMillis, then: UnixMillis) -> String {
    when::span(now.since(then))
}

/// To the second: that is how exactly one can go back.
fn moment(at: UnixMillis) -> String {
    let text = when::date_clock(at);
    text.split('.').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use pontoon_backup::CopyLine;

    use super::*;

    #[test]
    fn the_table_says_from_when_to_when() {
        let copy = CopyLine {
            id: "20261123T064000Z-b".to_owned(),
            server: "b".to_owned(),
            primary: false,
            engine_version: "10.11.19".to_owned(),
            bytes: 3 << 30,
            from: UnixMillis(1_795_416_020_000),
            to: UnixMillis(1_795_423_195_000),
        };
        let backups = Backups {
            version: 1,
            place: "s3://copies/shop at AWS".to_owned(),
            copies: vec![copy],
            flawed: vec!["copies/x\u{1b}[2J/manifest.json: it is of version 2".to_owned()],
            archived_to: Some(UnixMillis(1_795_423_195_000)),
            now: UnixMillis(1_795_423_200_000),
        };
        let text = render(&backups, Paint::off());
        for part in [
            "20261123T064000Z-b",
            "1 h 59 min",
            "3.0 GiB",
            "2026-11-23 06:40:20",
            "2026-11-23 08:39:55",
            "(5 s ago)",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'), "{text:?}");
        let none = Backups {
            copies: Vec::new(),
            flawed: Vec::new(),
            archived_to: None,
            ..backups
        };
        assert!(render(&none, Paint::off()).contains("no whole copy\nno binary log is archived"));
    }
}
