//! `pontoon sql`: the proxy itself, and questions about it.

use std::io::Read;

use anyhow::Context as _;
use pontoon_fleet::{Refusal, Role};
use pontoon_sql_class::{
    Charset, Context as Session, Effects, Engine, Previous, Route, SqlMode, Verdict, classify, digest,
    is_system_schema,
};
use pontoon_sqlproxy::route::{self, Bonds, Place, Side};
use pontoon_telemetry::digests::Report;
use serde_json::json;

use super::{Context, config, process};
use crate::args::{Sql, SqlCommand, SqlEngine, SqlExplain, SqlTop};
use crate::client::ask_tier;
use crate::output::paint::{Paint, harmless, width};
use crate::output::sql_top;

/// The longest statement that is explained: the servers' own `max_allowed_packet` is 16 MiB by default.
const LONGEST_STATEMENT: u64 = 16 << 20;

/// Runs the proxy, or answers a question.
pub fn sql(context: &Context, args: Sql) -> anyhow::Result<u8> {
    match args.command {
        None => process::sql(context, args.tier),
        Some(SqlCommand::Explain(args)) => explain(context, &args),
        Some(SqlCommand::Top(args)) => super::block_on(top(context, &args)),
    }
}

async fn top(context: &Context, args: &SqlTop) -> anyhow::Result<u8> {
    let screen = context.screen;
    if args.watch && screen.out_is_terminal && !args.json {
        screen.answer("\x1b[2J")?;
    }
    loop {
        let shown = match counted(context).await {
            Ok(report) => {
                let total_us = report.rows.iter().map(|row| row.counts.total_us).sum::<u64>();
                let total_us = total_us + report.forgotten.total_us;
                Ok((sql_top::chosen(report, args.by, args.count.into()), total_us))
            }
            Err(refusal) if args.watch => Err(refusal),
            Err(refusal) => return Err(refusal.into()),
        };
        match (shown, args.json) {
            (Ok((report, _)), true) => screen.json(&report)?,
            (Err(refusal), true) => screen.json(&json!({ "refusal": refusal }))?,
            (shown, false) => {
                let text = match shown {
                    Ok((report, total_us)) => sql_top::render(&report, total_us, screen.size().0, screen.out),
                    Err(refusal) => crate::output::refusal::render(&refusal, screen.out),
                };
                match args.watch && screen.out_is_terminal {
                    true => screen.redraw(&text)?,
                    false => screen.answer(&text)?,
                }
            }
        }
        if !args.watch {
            return Ok(0);
        }
        tokio::time::sleep(args.every).await;
    }
}

/// What the SQL proxy of this server has counted.
async fn counted(context: &Context) -> Result<Report, Refusal> {
    ask_tier(&context.paths, "sql", "the SQL proxy", "/digests").await
}

fn explain(context: &Context, args: &SqlExplain) -> anyhow::Result<u8> {
    let statement = statement(args)?;
    let session = session(context, args);
    let asked = Asked::new(context, args, &statement, &session);
    let shape = digest(&statement, &session);
    let verdict = &asked.verdict;
    if args.json {
        context.screen.json(&json!({
            "route": verdict.route.label(),
            "reason": verdict.reason.label(),
            "because": verdict.reason.to_string(),
            "at": verdict.at,
            "kind": verdict.kind.to_string(),
            "effects": verdict.effects.names().collect::<Vec<_>>(),
            "goes_to": asked.label(),
            "spread": asked.bonds.splits,
            "pins": route::pins(verdict.effects),
            "digest": shape,
        }))?;
    } else {
        let text = in_words(&statement, &asked, &shape, context.screen.out);
        context.screen.answer(&text)?;
    }
    Ok(0)
}

fn statement(args: &SqlExplain) -> anyhow::Result<Vec<u8>> {
    if args.statement != "-" {
        return Ok(args.statement.clone().into_bytes());
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(LONGEST_STATEMENT + 1)
        .read_to_end(&mut bytes)
        .context("standard input could not be read")?;
    if bytes.len() as u64 > LONGEST_STATEMENT {
        anyhow::bail!("the statement is longer than 16 MiB");
    }
    Ok(bytes)
}

fn session(context: &Context, args: &SqlExplain) -> Session {
    let engine = match args.engine {
        Some(SqlEngine::Mariadb) => Engine::MariaDb,
        Some(SqlEngine::Mysql) => Engine::MySql,
        None => configured(context),
    };
    let fresh = Session::new(engine);
    Session {
        version: args.server_version.unwrap_or(fresh.version),
        sql_mode: SqlMode::parse(&args.sql_mode),
        charset: Charset::from_name(&args.charset),
        in_transaction: args.in_transaction || args.read_only,
        read_only_transaction: args.read_only,
        autocommit: !args.no_autocommit,
        serializable: args.serializable,
        pinned: args.pinned,
        system_database: args
            .database
            .as_deref()
            .is_some_and(|name| is_system_schema(name.as_bytes())),
        ..fresh
    }
}

/// A statement, and what the proxy's sessions make of it: by the same functions.
struct Asked {
    verdict: Verdict,
    bonds: Bonds,
    place: Place,
}

impl Asked {
    fn new(context: &Context, args: &SqlExplain, statement: &[u8], session: &Session) -> Asked {
        Asked::of(statement, session, is_spread(context), args.pinned)
    }

    fn of(statement: &[u8], session: &Session, splits: bool, pinned: bool) -> Asked {
        // The command's byte counts too.
        let verdict = match statement.len() + 1 < route::WHOLE {
            true => classify(statement, session),
            false => route::unread(),
        };
        let begun_on = match splits && session.read_only_transaction {
            true => Side::Replica,
            false => Side::Primary,
        };
        let bonds = Bonds {
            transaction: session.in_transaction.then_some(begun_on),
            pinned,
            splits,
            ..Bonds::default()
        };
        let place = route::place(&verdict, &bonds);
        Asked {
            verdict,
            bonds,
            place,
        }
    }

    fn label(&self) -> &'static str {
        match self.place {
            Place::Held => "held",
            Place::Primary => "primary",
            Place::Replica => "replica",
            Place::Previous(_) => "previous",
            Place::Moved | Place::Committed => "primary",
            Place::Refused | Place::OutOfReach => "nowhere",
        }
    }

    fn destination(&self) -> &'static str {
        match (self.place, self.verdict.route) {
            (Place::Held, _) if self.bonds.pinned => {
                "the connection to the primary that the session stays with"
            }
            (Place::Held, _) if self.bonds.transaction == Some(Side::Replica) => {
                "the replica that the read-only transaction runs on"
            }
            (Place::Held, _) => "the primary, on the connection of the transaction",
            (Place::Replica, _) => "a replica that has what was written before, or the primary",
            (Place::Moved, _) => {
                "the primary, where the read-only transaction is begun anew; an error once it has read from a replica"
            }
            (Place::Committed, _) => "the primary, after the read-only transaction is committed, as it does",
            (Place::Refused, _) => "nowhere: it does not fit what the transaction has read from a replica",
            (Place::OutOfReach, _) => OUT_OF_REACH,
            (_, Route::PreviousTarget(Previous::Statement)) => "the server that ran the statement before",
            (_, Route::PreviousTarget(Previous::Write)) => "the connection of the session's last write",
            (_, Route::PreviousTarget(Previous::Transaction)) => {
                "where the transaction is open, or the primary"
            }
            (_, Route::Replica) => "the primary: reads are not spread here (db.reads.split)",
            (_, Route::Primary)
                if self.bonds.splits && self.verdict.effects.contains(Effects::USES_PREVIOUS_STATEMENT) =>
            {
                OUT_OF_REACH
            }
            (_, Route::Primary) => "the primary",
        }
    }
}

const OUT_OF_REACH: &str =
    "the primary; an error when the statement before was answered by a replica, which it asks about";

/// Whether fleet.toml spreads reads, with somebody to spread them to. A machine without one is told what would be.
fn is_spread(context: &Context) -> bool {
    let Ok(loaded) = config::load(context) else {
        return true;
    };
    let split = loaded
        .config
        .db
        .as_ref()
        .and_then(|db| db.reads)
        .is_some_and(|reads| reads.split);
    split && loaded.config.with_role(Role::Db).count() > 1
}

/// The engine of fleet.toml; a machine without one can ask too.
fn configured(context: &Context) -> Engine {
    let db = config::load(context).ok().and_then(|loaded| loaded.config.db);
    match db.map(|db| db.engine) {
        Some(pontoon_fleet::Engine::Mysql) => Engine::MySql,
        _ => Engine::MariaDb,
    }
}

fn in_words(statement: &[u8], asked: &Asked, shape: &str, paint: Paint) -> String {
    let verdict = &asked.verdict;
    let mut text = String::new();
    let (line, column) = place(statement, verdict.at);
    text.push_str(&format!("  {line}\n"));
    if verdict.at.is_some() {
        text.push_str(&format!("  {}{}\n", " ".repeat(column), paint.warn("^")));
    }
    let mut row =
        |name: &str, value: &str| text.push_str(&format!("{}{value}\n", paint.faint(&format!("{name:<9}"))));
    row("goes to", &paint.strong(asked.destination()));
    row("because", &verdict.reason.to_string());
    row("kind", &verdict.kind.to_string());
    if verdict.effects != Effects::NONE {
        row("effects", &verdict.effects.to_string());
    }
    if route::pins(verdict.effects) {
        row(
            "then",
            "the session stays with its connection to the primary until this is gone",
        );
    }
    if asked.place == Place::Replica {
        row(
            "unless",
            "the session is in a transaction, holds something like a temporary table, or no replica is near enough",
        );
    }
    row("digest", &harmless(shape));
    text
}

/// The line of the statement that `at` is in, and how many columns stand before it.
fn place(statement: &[u8], at: Option<usize>) -> (String, usize) {
    let at = at.unwrap_or(0).min(statement.len());
    let begin = statement[..at]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    let end = statement[at..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(statement.len(), |len| at + len);
    let shown = |bytes: &[u8]| harmless(&String::from_utf8_lossy(bytes));
    let before = shown(&statement[begin..at]);
    (format!("{before}{}", shown(&statement[at..end])), width(&before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(statement: &[u8]) -> String {
        let session = Session::new(Engine::MariaDb);
        let asked = Asked::of(statement, &session, true, false);
        in_words(statement, &asked, &digest(statement, &session), Paint::off())
    }

    #[test]
    fn a_read_goes_to_a_replica() {
        let text = told(b"SELECT title FROM posts WHERE id = 7");
        assert!(text.contains("goes to  a replica"), "{text}");
        assert!(
            text.contains("digest   SELECT title FROM posts WHERE id = ?"),
            "{text}"
        );
        assert!(!text.contains("\neffects"), "{text}");
    }

    #[test]
    fn the_place_of_the_reason_is_marked_on_its_line() {
        let text = told("SELECT 1,\n  'é', f(x)\n FROM t".as_bytes());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "    'é', f(x)");
        assert_eq!(lines[1].find('^'), Some(9), "{text}");
        assert!(text.contains("goes to  the primary"), "{text}");
    }

    #[test]
    fn what_stays_with_the_connection_is_said() {
        let text = told(b"SELECT GET_LOCK('a', 1)");
        assert!(text.contains("effects  named-lock"), "{text}");
        assert!(text.contains("then     the session stays"), "{text}");
    }

    #[test]
    fn what_is_said_is_what_sessions_do() {
        let fresh = Session::new(Engine::MariaDb);
        let open = Session {
            in_transaction: true,
            ..fresh
        };
        let read_only = Session {
            read_only_transaction: true,
            ..open
        };
        let goes = |sql: &str, session: &Session, splits, pinned| {
            Asked::of(sql.as_bytes(), session, splits, pinned).destination()
        };
        assert!(goes("SELECT 1", &fresh, true, false).starts_with("a replica"));
        assert!(goes("SELECT 1", &fresh, false, false).starts_with("the primary: reads are not spread"));
        assert!(goes("SELECT 1", &fresh, true, true).contains("stays with"));
        assert!(goes("SELECT 1", &open, true, false).contains("connection of the transaction"));
        assert!(goes("SELECT 1", &read_only, true, false).starts_with("the replica that"));
        assert!(goes("SELECT f(1)", &read_only, true, false).contains("begun anew"));
        assert!(goes("BEGIN", &read_only, true, false).contains("committed"));
        let long = format!("SELECT '{}'", "x".repeat(route::WHOLE));
        assert_eq!(goes(&long, &fresh, true, false), "the primary");
        // What the classifier alone would not say: a routine may leave anything behind.
        assert!(told(b"CALL p()").contains("then     the session stays"));
    }

    #[test]
    fn bytes_that_would_steer_a_terminal_are_made_harmless() {
        assert!(!told(b"SELECT '\x1b[2J\xff' \x00").contains('\x1b'));
        told(b"");
    }
}
