//! The databases in one screen: who leads and since when, whether anything is lost if it dies, every copy with its place,
//! what is wrong, what happened, and the two commands that come next. A pure function of what the agent said.

use pontoon_agent::api::{BackupStatus, DbLoss, DbServer, DbStatus, Health};
use pontoon_agent::{Differing, Facts, FailoverReport, Kind};
use pontoon_fleet::{DatabaseRole, ServerState, UnixMillis};

use super::paint::{Paint, cut, harmless, width};
use super::status::{Frame, render_events, render_problems};
use super::table::{self, Cell, Tone};

/// The whole screen.
pub fn render(status: &DbStatus, frame: Frame) -> String {
    let paint = frame.paint;
    let mut text = headline(status, frame);
    if status.servers.is_empty() {
        text.push_str("This fleet has no database of its own.\n");
        return text + &next(status);
    }
    let lines = [leads(status), worth(status)];
    for line in lines.into_iter().chain(status.loss.map(lost)) {
        text.push_str(&format!("{}\n", cut(&line, frame.columns)));
    }
    text.push('\n');
    let mut rows = vec![
        ["SERVER", "STATE", "FOR", "BEHIND", "POSITION"]
            .map(|head| Cell::toned(head, Tone::Faint))
            .to_vec(),
    ];
    rows.extend(status.servers.iter().map(|server| row(status, server)));
    // A position may be long; it goes last, and is cut when the screen ends.
    let over = table::total(&rows).saturating_sub(frame.columns);
    if over > 0 {
        for cell in rows.iter_mut().filter_map(|row| row.last_mut()) {
            let room = width(&cell.text).saturating_sub(over).max(8);
            cell.text = cut(&cell.text, room);
        }
    }
    text.push_str(&table::render(&rows, paint));
    for (server, work) in status
        .servers
        .iter()
        .filter_map(|server| Some((server, work(server)?)))
    {
        text.push_str(&format!("{}: {}\n", server.name, harmless(work)));
    }
    for server in &status.servers {
        if let Some(seconds) = server.delay_seconds {
            let delay = pontoon_fleet::units::format_duration(std::time::Duration::from_secs(seconds));
            text.push_str(&format!(
                "{}: delayed by {delay} on purpose; never the primary, not read from\n",
                server.name
            ));
        }
    }
    for server in &status.servers {
        text.push_str(&through(server).map_or_else(String::new, |line| format!("{line}\n")));
    }
    if let Some(backup) = &status.backup {
        text.push_str(&format!("{}\n", cut(&copies(backup, status.now), frame.columns)));
    }
    text.push_str(&render_problems(&status.problems, frame));
    text.push_str(&render_events(&status.recent, frame));
    text + &next(status)
}

/// Through whom it follows, of a server that should not follow the primary itself.
fn through(server: &DbServer) -> Option<String> {
    let (name, source) = (&server.name, server.source.as_ref()?);
    let failover = server.failover.as_ref()?;
    Some(match failover.through {
        true => format!("{name}: follows through {source}; no commit waits for it"),
        false if failover.follows.is_some() => {
            format!("{name}: follows the primary itself, until {source} can be followed")
        }
        false => return None,
    })
}

/// A difference in one line.
pub fn differs(what: &Differing) -> String {
    let server = &what.server;
    let text = match what.kind {
        Kind::Missing => format!("{server} lacks {}", what.what),
        Kind::Extra => format!("only {server} has {}", what.what),
        Kind::Definition => format!("{} is defined otherwise on {server}", what.what),
        Kind::Rows => {
            let range = what.range.as_ref();
            let range = range.map_or_else(String::new, |range| format!(", {range}"));
            let more = if what.or_more { " or more" } else { "" };
            format!(
                "{}: {}{more} rows differ on {server}{range}",
                what.what, what.count
            )
        }
    };
    harmless(&text)
}

/// A difference with the rows that are known: the primary's value first.
pub fn differing(what: &Differing, paint: Paint) -> String {
    let mut text = format!("  {} {}\n", paint.bad("≠"), differs(what));
    for row in &what.rows {
        let told = match row.kind {
            Kind::Missing => "missing",
            Kind::Extra => "only there",
            Kind::Rows | Kind::Definition => "differs",
        };
        text.push_str(&format!("      {}  {told}\n", harmless(&row.key)));
        for (name, primary, replica) in &row.columns {
            let value = |value: &Option<String>| match value {
                Some(value) => format!("{:?}", harmless(value)),
                None => "NULL".to_owned(),
            };
            let values = match row.kind {
                Kind::Missing => value(primary),
                Kind::Extra => value(replica),
                Kind::Rows | Kind::Definition => format!("{} ≠ {}", value(primary), value(replica)),
            };
            text.push_str(&format!("        {}: {values}\n", harmless(name)));
        }
    }
    text
}

fn copies(backup: &BackupStatus, now: UnixMillis) -> String {
    let ago = |at: UnixMillis| format!("{} ago", span(ms(now.since(at))));
    let last = backup
        .last
        .as_ref()
        .map_or_else(|| "none yet".to_owned(), |last| ago(last.from));
    let archived = backup
        .archived_to
        .map_or_else(|| "none yet".to_owned(), |at| format!("up to {}", ago(at)));
    format!("backup: {last}; archive of the binary log: {archived}")
}

fn ms(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn work(server: &DbServer) -> Option<&str> {
    server.failover.as_ref()?.work.as_deref()
}

fn headline(status: &DbStatus, frame: Frame) -> String {
    let fleet = status.fleet.as_deref().unwrap_or("no fleet");
    let left = format!(
        "{}  databases  lease in {}",
        harmless(fleet),
        harmless(&status.lease_store)
    );
    let (word, painted) = match status.health {
        Health::Healthy => ("HEALTHY", frame.paint.good("HEALTHY")),
        Health::Degraded => ("DEGRADED", frame.paint.warn("DEGRADED")),
        Health::Down => ("DOWN", frame.paint.bad("DOWN")),
    };
    let wanted = (width(&left) + 2 + word.len()).max(64).min(frame.columns);
    let gap = wanted.saturating_sub(width(&left) + word.len()).max(2);
    format!("{left}{}{painted}\n", " ".repeat(gap))
}

fn leads(status: &DbStatus) -> String {
    let Some(lease) = &status.lease else {
        return "nobody leads: no server holds the lease".to_owned();
    };
    let since = status
        .since_ms
        .map_or_else(String::new, |ms| format!(", as it is for {}", span(ms)));
    let limit = status
        .write_ms
        .map_or_else(String::new, |ms| format!(", writes for {} more", span(ms)));
    format!("{} leads, epoch {}{since}{limit}", lease.leader, lease.epoch)
}

/// What was not certain to be there when the primary took over.
fn lost(loss: DbLoss) -> String {
    let window = match loss.window_ms {
        Some(ms) => format!("what was acknowledged in the last {} before", span(ms)),
        None => "acknowledged writes".to_owned(),
    };
    format!(
        "it took over and may lack {window}; known to be missing: {} transactions",
        loss.known
    )
}

fn worth(status: &DbStatus) -> String {
    let durability = status.durability.as_deref().unwrap_or("one-copy");
    let names: Vec<_> = status.in_sync.iter().map(|name| name.as_str()).collect();
    let copies = match (durability, names.is_empty()) {
        ("one-copy", _) => "what a replica has not received is lost with the primary".to_owned(),
        (_, false) if names.len() > usize::from(status.acks) && status.acks > 0 => format!(
            "in sync: every acknowledged write is on {} of {}",
            status.acks,
            names.join(", ")
        ),
        (_, false) => format!("in sync: {} has every acknowledged write", names.join(", ")),
        (_, true) => "alone: acknowledged writes are on the primary only".to_owned(),
    };
    format!(
        "durability {durability}, failover {}: {copies}",
        harmless(&status.failover)
    )
}

fn row(status: &DbStatus, server: &DbServer) -> Vec<Cell> {
    let report = server.failover.as_ref();
    let leads = status
        .lease
        .as_ref()
        .is_some_and(|lease| lease.leader == server.name);
    let database = server.database.as_ref();
    let state = match (server.state, report, database) {
        (ServerState::Unreachable, ..) => Cell::toned("no answer", Tone::Bad),
        (_, Some(report), _) => Cell::toned(words(report), tone(report)),
        (_, None, Some(database)) => match database.role {
            DatabaseRole::Down => Cell::toned("down", Tone::Bad),
            _ if leads => Cell::toned("primary", Tone::Good),
            DatabaseRole::Replica if database.error.is_none() => Cell::toned("replica", Tone::Good),
            DatabaseRole::Replica => Cell::toned("replica, stopped", Tone::Bad),
            DatabaseRole::Primary | DatabaseRole::Standalone => Cell::toned("on its own", Tone::Warn),
        },
        (_, None, None) => Cell::toned("unknown", Tone::Warn),
    };
    let behind = report
        .and_then(|report| report.facts.as_ref()?.behind_ms)
        .or(database.and_then(|database| database.lag_ms))
        .filter(|_| !leads);
    // A leader's own writes are in its binary log, whatever it applied of a source before.
    let place = |facts: &Facts| match leads {
        true => facts.received.clone(),
        false => facts.applied.clone(),
    };
    let position = report
        .and_then(|report| report.facts.as_ref().map(place))
        .filter(|text| !text.is_empty())
        .or(database.map(|database| database.position.clone()))
        .filter(|text| !text.is_empty());
    vec![
        Cell::new(server.name.as_str()),
        state,
        report.map_or_else(Cell::none, |report| Cell::new(span(report.state_ms))),
        behind.map_or_else(Cell::none, |ms| Cell::new(span(ms))),
        position.map_or_else(Cell::none, |text| Cell::new(harmless(&text))),
    ]
}

fn words(report: &FailoverReport) -> String {
    let state = match serde_json::to_value(report.state) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "unknown".to_owned(),
    };
    match report.paused {
        true => "paused".to_owned(),
        false => state.replace('-', " "),
    }
}

fn tone(report: &FailoverReport) -> Tone {
    if report.paused {
        return Tone::Warn;
    }
    match words(report).as_str() {
        "leader sync" | "follow sync" | "follow" => Tone::Good,
        "stranded" => Tone::Bad,
        _ => Tone::Warn,
    }
}

fn next(status: &DbStatus) -> String {
    let commands: Vec<String> = status.next.iter().map(|next| harmless(next)).collect();
    match commands.is_empty() {
        true => String::new(),
        false => format!("\nnext:  {}\n", commands.join("    ")),
    }
}

/// A span for people: three digits at the most.
fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{:.1} s", ms as f64 / 1000.0),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

#[cfg(test)]
#[path = "db_tests.rs"]
mod tests;
