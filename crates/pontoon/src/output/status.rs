//! The fleet in one screen: made for somebody who was woken at three in the morning.
//!
//! Top to bottom: one line that says it all, a row for each server, what is wrong with the commands that come
//! next, and what happened last. A pure function of what the agent said.

use std::net::IpAddr;
use std::time::Duration;

use pontoon_agent::api::{Health, Problem, ServerStatus, Status};
use pontoon_fleet::{DatabaseReport, DatabaseRole, Event, Role, ServerState, Severity, Tier, TierDetail};

use super::paint::{Paint, cut, harmless, width, wrap};
use super::table::{self, Cell, Tone};
use super::when;

/// What it is shown on.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Colours.
    pub paint: Paint,
    /// Columns of the screen; `usize::MAX` for as many as needed.
    pub columns: usize,
    /// Lines of the screen; `None` for as many as needed.
    pub lines: Option<usize>,
    /// With where reads go, and certificates.
    pub wide: bool,
}

/// The whole screen.
pub fn render(status: &Status, frame: Frame) -> String {
    let paint = frame.paint;
    let Some(fleet) = &status.fleet else {
        return format!(
            "This machine belongs to no fleet yet.\n  {}pontoon init\n  {}pontoon join ADDRESS TOKEN\n",
            "to found one:  ", "to join one:   "
        );
    };
    let problems = render_problems(&status.problems, frame);
    let recent = render_recent(status, frame);
    let rest = problems.lines().count() + recent.lines().count();
    let room = frame
        .lines
        .map(|lines| lines.saturating_sub(rest + FIXED_LINES).max(FEWEST_ROWS));
    let (shown, hidden) = choose_rows(status, room);

    let rows = fit(status, &shown, frame.columns);
    let mut text = headline(status, fleet, table::total(&rows), frame);
    text.push_str(&table::render(&rows, paint));
    if hidden > 0 {
        let line = format!("… and {hidden} more, all well (--all shows them)");
        text.push_str(&format!("{}\n", paint.faint(&line)));
    }
    if frame.wide {
        text.push_str(&super::spread::render(status, frame.paint, frame.columns));
        text.push_str(&super::certificates::render(status, frame.paint));
        text.push_str(&super::signed::render(status, frame.paint));
    }
    text.push_str(&problems);
    text.push_str(&recent);
    text
}

fn headline(status: &Status, fleet: &str, table_width: usize, frame: Frame) -> String {
    let servers = match status.servers.len() {
        1 => "1 server".to_owned(),
        n => format!("{n} servers"),
    };
    let revision = match status.revision.0 {
        0 => "nothing applied yet".to_owned(),
        n => format!("revision {n}"),
    };
    let lease = match &status.lease {
        Some(lease) => format!("lease {} ({})", lease.leader, harmless(&status.lease_store)),
        None => format!("no lease ({})", harmless(&status.lease_store)),
    };
    let left = format!("{}  {servers}  {revision}  {lease}", harmless(fleet));
    let (word, painted) = match status.health {
        Health::Healthy => ("HEALTHY", frame.paint.good("HEALTHY")),
        Health::Degraded => ("DEGRADED", frame.paint.warn("DEGRADED")),
        Health::Down => ("DOWN", frame.paint.bad("DOWN")),
    };
    let wanted = table_width.max(width(&left) + 2 + word.len()).min(frame.columns);
    let gap = wanted.saturating_sub(width(&left) + word.len()).max(2);
    format!("{left}{}{painted}\n", " ".repeat(gap))
}

/// Every server, or, when the screen has too few lines, those with something to say first. The order stays.
fn choose_rows(status: &Status, room: Option<usize>) -> (Vec<&ServerStatus>, usize) {
    let Some(room) = room.filter(|room| *room < status.servers.len()) else {
        return (status.servers.iter().collect(), 0);
    };
    let mut spare = room.saturating_sub(status.servers.iter().filter(|server| !is_well(server)).count());
    let shown: Vec<&ServerStatus> = status
        .servers
        .iter()
        .filter(|server| {
            let well = is_well(server);
            let keep = !well || spare > 0;
            spare -= usize::from(well && keep);
            keep
        })
        .collect();
    let hidden = status.servers.len() - shown.len();
    (shown, hidden)
}

fn is_well(server: &ServerStatus) -> bool {
    server.state == ServerState::Up
        && server.app_healthy != Some(false)
        && !matches!(edge_cell(server).tone, Tone::Bad | Tone::Warn)
        && !matches!(
            database_cell(server, false).tone,
            Tone::Bad | Tone::Warn | Tone::Strong
        )
}

/// The rows, narrowed step by step until they fit: roles first, then addresses, then what can be asked for.
fn fit(status: &Status, shown: &[&ServerStatus], columns: usize) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for squeeze in 0..=4 {
        rows = make_rows(status, shown, squeeze);
        if table::total(&rows) <= columns {
            break;
        }
    }
    rows
}

fn make_rows(status: &Status, shown: &[&ServerStatus], squeeze: u8) -> Vec<Vec<Cell>> {
    let alone = is_alone(status);
    let header = ["SERVER", "ROLES", "EDGE", "APP", "DATABASE", "PUBLIC IPS", "LOAD"];
    let mut rows = vec![header.map(|title| Cell::toned(title, Tone::Faint)).to_vec()];
    for server in shown {
        let reachable = server.state != ServerState::Unreachable;
        rows.push(vec![
            Cell::toned(
                cut(server.name.as_str(), if squeeze >= 3 { 24 } else { 63 }),
                Tone::Strong,
            ),
            if reachable {
                Cell::new(roles(&server.roles, squeeze >= 1))
            } else {
                unreachable(server)
            },
            edge_cell(server),
            app_cell(server, if squeeze >= 3 { 12 } else { 32 }),
            database_cell(server, alone),
            if server.public.is_empty() {
                Cell::none()
            } else {
                let text = addresses(&server.public, squeeze >= 2);
                Cell::toned(text, if reachable { Tone::Plain } else { Tone::Faint })
            },
            match &server.report {
                Some(report) if reachable => {
                    let tone = if report.load_percent >= HIGH_LOAD {
                        Tone::Warn
                    } else {
                        Tone::Plain
                    };
                    Cell::toned(format!("{} %", report.load_percent), tone)
                }
                _ => Cell::none(),
            },
        ]);
    }
    if squeeze >= 4 {
        for row in &mut rows {
            row.remove(5);
        }
    }
    rows
}

fn unreachable(server: &ServerStatus) -> Cell {
    match server.heard_ms_ago {
        Some(ms) => Cell::toned(
            format!("✗ unreachable {}", when::span(Duration::from_millis(ms))),
            Tone::Bad,
        ),
        None => Cell::toned("… not heard of yet", Tone::Warn),
    }
}

fn roles(roles: &[Role], short: bool) -> String {
    if short && roles.len() == Role::ALL.len() {
        return "all".to_owned();
    }
    roles
        .iter()
        .map(|role| role.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

fn edge_cell(server: &ServerStatus) -> Cell {
    let Some(report) = &server.report else {
        return Cell::none();
    };
    if server.state == ServerState::Unreachable || !server.roles.contains(&Role::Edge) {
        return Cell::none();
    }
    let Some(TierDetail::Edge(edge)) = report.tier(Tier::Edge).map(|tier| &tier.detail) else {
        return if report.revision.0 == 0 {
            Cell::none()
        } else {
            Cell::toned("✗ not running", Tone::Bad)
        };
    };
    if !edge.not_listening.is_empty() {
        return Cell::toned("✗ not listening", Tone::Bad);
    }
    match server.edge_millirequests_per_second {
        Some(rate) if rate > 0 && rate < 10_000 => Cell::new(format!("{:.1} r/s", rate as f64 / 1_000.0)),
        Some(rate) => Cell::new(format!("{} r/s", rate / 1_000)),
        None => Cell::new("ok"),
    }
}

fn app_cell(server: &ServerStatus, columns: usize) -> Cell {
    if !server.roles.contains(&Role::App) {
        return Cell::none();
    }
    if server.state == ServerState::Draining {
        return Cell::toned("drained", Tone::Warn);
    }
    match (server.app_healthy, &server.app_reason) {
        (Some(true), _) => Cell::toned("ok", Tone::Good),
        (Some(false), Some(reason)) => {
            Cell::toned(cut(&format!("✗ {}", harmless(reason)), columns), Tone::Bad)
        }
        (Some(false), None) => Cell::toned("✗ down", Tone::Bad),
        (None, _) => Cell::none(),
    }
}

fn database_cell(server: &ServerStatus, alone: bool) -> Cell {
    let Some(database) = server.report.as_ref().and_then(|report| report.database.as_ref()) else {
        return Cell::none();
    };
    if server.state == ServerState::Unreachable {
        return match database.role {
            DatabaseRole::Primary => Cell::toned("was PRIMARY", Tone::Bad),
            DatabaseRole::Replica => Cell::toned("was replica", Tone::Warn),
            DatabaseRole::Standalone | DatabaseRole::Down => Cell::none(),
        };
    }
    match database.role {
        DatabaseRole::Primary if alone => Cell::toned("PRIMARY (alone)", Tone::Strong),
        DatabaseRole::Primary => Cell::toned("PRIMARY", Tone::Strong),
        DatabaseRole::Replica => replica_cell(database),
        DatabaseRole::Standalone => Cell::toned("not in the fleet yet", Tone::Warn),
        DatabaseRole::Down => Cell::toned("✗ down", Tone::Bad),
    }
}

fn replica_cell(database: &DatabaseReport) -> Cell {
    match (&database.error, database.lag_ms) {
        (Some(_), _) => Cell::toned("✗ replica stopped", Tone::Bad),
        (None, Some(lag)) => {
            let text = if lag < 60_000 {
                format!("replica lag {:.1} s", lag as f64 / 1_000.0)
            } else {
                format!("replica lag {}", when::span(Duration::from_millis(lag)))
            };
            Cell::toned(
                text,
                if lag >= HIGH_LAG_MS {
                    Tone::Warn
                } else {
                    Tone::Plain
                },
            )
        }
        (None, None) => Cell::toned("replica lag ?", Tone::Warn),
    }
}

/// Whether the primary has no replica that follows it although the fleet has other database servers.
fn is_alone(status: &Status) -> bool {
    let databases = status
        .servers
        .iter()
        .filter(|server| server.roles.contains(&Role::Db));
    let following = status.servers.iter().any(|server| {
        server.state != ServerState::Unreachable
            && server
                .report
                .as_ref()
                .and_then(|report| report.database.as_ref())
                .is_some_and(|database| database.role == DatabaseRole::Replica && database.error.is_none())
    });
    databases.count() > 1 && !following
}

/// `203.0.113.10 .20`: what the addresses have in common is said once.
fn addresses(list: &[IpAddr], short: bool) -> String {
    let mut text = String::new();
    let mut before: Option<&IpAddr> = None;
    for (index, address) in list.iter().enumerate() {
        if short && index > 0 {
            return format!("{text} +{}", list.len() - index);
        }
        match (before, address) {
            (Some(IpAddr::V4(one)), IpAddr::V4(other)) if one.octets()[..3] == other.octets()[..3] => {
                text.push_str(&format!(" .{}", other.octets()[3]));
            }
            (Some(_), _) => text.push_str(&format!(" {address}")),
            (None, _) => text.push_str(&address.to_string()),
        }
        before = Some(address);
    }
    text
}

pub(super) fn render_problems(problems: &[Problem], frame: Frame) -> String {
    let paint = frame.paint;
    let mut text = String::new();
    for problem in problems {
        let mark = match problem.health {
            Health::Healthy => paint.faint("·"),
            Health::Degraded => paint.warn("!"),
            Health::Down => paint.bad("✗"),
        };
        let columns = frame.columns.min(WIDEST_TEXT).saturating_sub(2);
        for (index, line) in wrap(&harmless(&problem.what), columns).iter().enumerate() {
            let lead = if index == 0 { mark.as_str() } else { " " };
            text.push_str(&format!("{lead} {}\n", paint.strong(line)));
        }
        for line in problem
            .done
            .iter()
            .flat_map(|done| wrap(&harmless(done), columns))
        {
            text.push_str(&format!("  {line}\n"));
        }
        if !problem.next.is_empty() {
            let commands: Vec<String> = problem.next.iter().map(|next| harmless(next)).collect();
            text.push_str(&format!("  next:  {}\n", commands.join("    ")));
        }
    }
    if text.is_empty() {
        text
    } else {
        format!("\n{text}")
    }
}

fn render_recent(status: &Status, frame: Frame) -> String {
    // A quiet fleet has no news worth a line: only what happened lately, or what goes with a problem.
    let recent: Vec<_> = status
        .recent
        .iter()
        .filter(|event| {
            !status.problems.is_empty() || status.now.since(event.at) < Duration::from_secs(RECENT_SECONDS)
        })
        .cloned()
        .collect();
    render_events(&recent, frame)
}

/// The last of these, if there are any.
pub(super) fn render_events(recent: &[Event], frame: Frame) -> String {
    let shown = recent.len().min(MOST_EVENTS);
    if shown == 0 {
        return String::new();
    }
    let mut text = format!("\n{}\n", frame.paint.faint("Lately (UTC):"));
    for event in &recent[recent.len() - shown..] {
        let line = format!(
            "{}  {}  {}",
            when::clock(event.at),
            event.server,
            harmless(&event.kind.to_string())
        );
        let line = cut(&line, frame.columns);
        text.push_str(&match event.kind.severity() {
            Severity::Info => line,
            Severity::Warning => frame.paint.warn(&line),
            Severity::Error => frame.paint.bad(&line),
        });
        text.push('\n');
    }
    text
}

/// Headline, table header, the line that says how many are not shown, and the shell's prompt.
const FIXED_LINES: usize = 4;
const FEWEST_ROWS: usize = 5;
const HIGH_LOAD: u8 = 90;
const HIGH_LAG_MS: u64 = 10_000;
const MOST_EVENTS: usize = 6;
const RECENT_SECONDS: u64 = 15 * 60;
const WIDEST_TEXT: usize = 110;

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
