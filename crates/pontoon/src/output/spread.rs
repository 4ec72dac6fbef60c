//! Where the SQL proxies take reads: what `pontoon status --wide` shows.

use std::time::Duration;

use pontoon_agent::api::{ServerStatus, Status};
use pontoon_fleet::{SpreadReport, Tier, TierDetail};

use super::paint::{Paint, harmless, wrap};
use super::table::{self, Cell, Tone};
use super::when;

/// A row for each SQL proxy that spreads reads, and what is to be said of it; nothing when none does.
pub fn render(status: &Status, paint: Paint, columns: usize) -> String {
    let proxies: Vec<_> = status
        .servers
        .iter()
        .filter_map(|server| Some((server, spread(server)?)))
        .collect();
    if proxies.is_empty() {
        return String::new();
    }
    let heads = [
        "SQL PROXY",
        "PRIMARY",
        "REPLICAS",
        "SHARE",
        "HELD",
        "DIVERTED",
        "QUEUED",
        "CONNECTIONS",
        "STANDING",
    ];
    let mut rows = vec![heads.map(|head| Cell::toned(head, Tone::Faint)).to_vec()];
    rows.extend(proxies.iter().map(|(server, spread)| row(server, spread)));
    let mut text = format!("\n{}", table::render(&rows, paint));
    for (server, spread) in &proxies {
        for note in notes(server, spread) {
            for line in wrap(&note, columns.min(WIDEST_NOTE)) {
                text.push_str(&format!("{}\n", paint.faint(&line)));
            }
        }
    }
    text
}

fn spread(server: &ServerStatus) -> Option<&SpreadReport> {
    match &server.report.as_ref()?.tier(Tier::Sql)?.detail {
        TierDetail::Sql(sql) => sql.spread.as_ref(),
        _ => None,
    }
}

fn row(server: &ServerStatus, spread: &SpreadReport) -> Vec<Cell> {
    let all = spread.primary_total + spread.replica_total;
    let share = match all {
        0 => Cell::none(),
        all => Cell::new(format!(
            "{:.0} %",
            spread.replica_total as f64 * 100.0 / all as f64
        )),
    };
    let diverted: u64 = spread.diverted_total.values().sum();
    let pools = spread.pools.iter().map(|pool| {
        let waiting = match pool.waiting {
            0 => String::new(),
            waiting => format!(" ({waiting} wait)"),
        };
        format!("{} {}/{}{waiting}", pool.server, pool.used, pool.limit)
    });
    let replicas = spread.replicas.iter().map(|replica| {
        let behind = match replica.behind_ms {
            None => "silent".to_owned(),
            Some(ms) => when::span(Duration::from_millis(ms)),
        };
        match replica.usable {
            true => format!("{} ok", replica.server),
            false => format!("{} not read from ({behind})", replica.server),
        }
    });
    let joined = |parts: Vec<String>| match parts.is_empty() {
        true => Cell::none(),
        false => Cell::new(parts.join(", ")),
    };
    vec![
        Cell::toned(server.name.as_str(), Tone::Strong),
        Cell::new(spread.primary_total.to_string()),
        Cell::new(spread.replica_total.to_string()),
        share,
        Cell::new(spread.held_total.to_string()),
        Cell::new(diverted.to_string()),
        Cell::new(spread.queued_total.to_string()),
        joined(pools.collect()),
        joined(replicas.collect()),
    ]
}

/// What the numbers do not say.
fn notes(server: &ServerStatus, spread: &SpreadReport) -> Vec<String> {
    let mut notes = Vec::new();
    if !spread.diverted_total.is_empty() {
        let each = spread.diverted_total.iter();
        let each = each.map(|(why, count)| format!("{count} {}", reason(why)));
        let each: Vec<String> = each.collect();
        notes.push(format!(
            "{}: reads at the primary: {}",
            server.name,
            each.join(", ")
        ));
    }
    match (&spread.obstacle, spread.unwatched) {
        (Some(obstacle), _) => notes.push(format!("{}: spreads no reads: {}", server.name, harmless(obstacle))),
        (None, 0) => {}
        (None, open) => notes.push(format!(
            "{}: {open} connections are from before reads were spread; until they end, the primary is asked before \
             each read",
            server.name
        )),
    }
    notes
}

/// The word of a report in plain words.
fn reason(word: &str) -> String {
    match word {
        "lag" => "because no replica was near enough",
        "after_write" => "because no replica had what was written",
        "unanswered" => "because the primary did not say in time what was written",
        "refused" => "that a replica refused as writes",
        "transaction" => "within transactions",
        "function" => "that call functions not known to be harmless",
        "differs" => "because the replica is set up otherwise",
        other => return harmless(other),
    }
    .to_owned()
}

const WIDEST_NOTE: usize = 110;
