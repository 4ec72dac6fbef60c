//! What `pontoon sql top` shows.

use pontoon_fleet::units;
use pontoon_telemetry::digests::{Counts, Report, Row};

use super::paint::{Paint, cut, harmless, width};
use super::table::{self, Cell, Tone};
use crate::args::SqlOrder;

/// Puts what matters by `order` first and keeps `count`.
pub fn chosen(mut report: Report, order: SqlOrder, count: usize) -> Report {
    let weight = |counts: &Counts| match order {
        SqlOrder::Time => counts.total_us,
        SqlOrder::Mean => counts.total_us / counts.calls.max(1),
        SqlOrder::Longest => counts.longest_us,
        SqlOrder::Calls => counts.calls,
        SqlOrder::Bytes => counts.bytes,
        SqlOrder::Errors => counts.failed,
    };
    // Stable: what weighs the same stays in the order of time.
    report
        .rows
        .sort_by_key(|row| std::cmp::Reverse(weight(&row.counts)));
    report.rows.truncate(count);
    report
}

/// The table, `columns` wide at most. `total_us` is the time of all statements, shown or not.
pub fn render(report: &Report, total_us: u64, columns: usize, paint: Paint) -> String {
    if report.rows.is_empty() {
        return "no statement has gone through this server's SQL proxy yet\n".to_owned();
    }
    let heads = [
        "TIME", "CALLS", "MEAN", "LONGEST", "REPLICA", "ERRORS", "ROWS", "ANSWERED",
    ];
    let mut rows = vec![heads.map(|head| Cell::toned(head, Tone::Faint)).to_vec()];
    rows.extend(report.rows.iter().map(|row| cells(row, total_us)));
    let numbers = table::render(&rows, Paint::off());
    let margin = numbers.lines().map(width).max().unwrap_or(0) + 2;
    let mut text = String::new();
    let statements =
        std::iter::once("STATEMENT".to_owned()).chain(report.rows.iter().map(|row| harmless(&row.digest)));
    for (at, (line, statement)) in table::render(&rows, paint).lines().zip(statements).enumerate() {
        let plain = numbers.lines().nth(at).map_or(0, width);
        let statement = cut(&statement, columns.saturating_sub(margin).max(12));
        let statement = if at == 0 {
            paint.faint(&statement)
        } else {
            statement
        };
        text.push_str(&format!(
            "{line}{}{statement}\n",
            " ".repeat(margin.saturating_sub(plain))
        ));
    }
    if report.forgotten.calls > 0 {
        text.push_str(&paint.faint(&format!(
            "and {} calls of rarer statements, {} in all\n",
            report.forgotten.calls,
            span(report.forgotten.total_us)
        )));
    }
    text
}

fn cells(row: &Row, total_us: u64) -> Vec<Cell> {
    let counts = &row.counts;
    let share = |part: u64, whole: u64| format!("{:.0} %", part as f64 * 100.0 / whole.max(1) as f64);
    let errors = match counts.failed {
        0 => Cell::none(),
        failed => Cell::toned(failed.to_string(), Tone::Warn),
    };
    vec![
        Cell::toned(share(counts.total_us, total_us), Tone::Strong),
        Cell::new(counts.calls.to_string()),
        Cell::new(span(counts.total_us / counts.calls.max(1))),
        Cell::new(span(counts.longest_us)),
        Cell::new(share(counts.on_replica, counts.calls)),
        errors,
        Cell::new(mean(counts.answered_rows + counts.affected_rows, counts.calls)),
        Cell::new(units::human_bytes(counts.bytes)),
    ]
}

/// Rows of one call on average.
fn mean(rows: u64, calls: u64) -> String {
    let mean = rows as f64 / calls.max(1) as f64;
    match mean {
        0.0..10.0 if !rows.is_multiple_of(calls.max(1)) => format!("{mean:.1}"),
        _ => format!("{mean:.0}"),
    }
}

fn span(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let row = |digest: &str, calls, total_us, failed| Row {
            digest: digest.to_owned(),
            counts: Counts {
                calls,
                on_replica: calls / 2,
                failed,
                affected_rows: 0,
                answered_rows: 10 * calls,
                bytes: 2048 * calls,
                total_us,
                longest_us: total_us / calls + 7,
            },
        };
        Report {
            rows: vec![
                row("SELECT * FROM posts WHERE id = ?", 1000, 3_000_000, 0),
                row("UPDATE \x1b[31mt SET a = ?", 2, 1_000_000, 1),
            ],
            forgotten: Counts {
                calls: 9,
                total_us: 90,
                ..Counts::default()
            },
        }
    }

    #[test]
    fn the_table_fits_the_screen_and_says_the_shares() {
        let text = render(&report(), 4_000_000, 120, Paint::off());
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("TIME") && lines[0].ends_with("STATEMENT"),
            "{text}"
        );
        assert!(
            lines[1].starts_with("75 %") && lines[1].contains("3.0 ms") && lines[1].contains("50 %"),
            "{text}"
        );
        assert!(lines[1].ends_with("SELECT * FROM posts WHERE id = ?"), "{text}");
        assert!(lines[3].contains("9 calls of rarer statements"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
        let narrow = render(&report(), 4_000_000, 80, Paint::off());
        assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
        assert!(render(&Report::default(), 0, 80, Paint::off()).contains("no statement"));
    }

    #[test]
    fn the_order_is_as_asked() {
        let first = |order| chosen(report(), order, 1).rows.remove(0).digest;
        assert!(first(SqlOrder::Time).starts_with("SELECT"));
        assert!(first(SqlOrder::Calls).starts_with("SELECT"));
        for order in [SqlOrder::Mean, SqlOrder::Longest, SqlOrder::Errors] {
            assert!(first(order).starts_with("UPDATE"), "{order:?}");
        }
    }
}
