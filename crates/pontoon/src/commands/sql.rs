//! `pontoon sql`: the proxy itself, and questions about it.

use std::io::Read;

use anyhow::Context as _;
use pontoon_sql_class::{
    Charset, Context as Session, Effects, Engine, Previous, Route, SqlMode, Verdict, classify, digest,
    is_system_schema,
};
use serde_json::json;

use super::{Context, config, process};
use crate::args::{Sql, SqlCommand, SqlEngine, SqlExplain};
use crate::output::paint::{Paint, harmless, width};

/// The longest statement that is explained: the servers' own `max_allowed_packet` is 16 MiB by default.
const LONGEST_STATEMENT: u64 = 16 << 20;

/// Runs the proxy, or answers a question.
pub fn sql(context: &Context, args: Sql) -> anyhow::Result<u8> {
    match args.command {
        None => process::sql(context, args.tier),
        Some(SqlCommand::Explain(args)) => explain(context, &args),
    }
}

fn explain(context: &Context, args: &SqlExplain) -> anyhow::Result<u8> {
    let statement = statement(args)?;
    let session = session(context, args);
    let verdict = classify(&statement, &session);
    let shape = digest(&statement, &session);
    if args.json {
        context.screen.json(&json!({
            "route": verdict.route.label(),
            "reason": verdict.reason.label(),
            "because": verdict.reason.to_string(),
            "at": verdict.at,
            "kind": verdict.kind.to_string(),
            "effects": verdict.effects.names().collect::<Vec<_>>(),
            "pins": verdict.effects.pins(),
            "digest": shape,
        }))?;
    } else {
        let text = in_words(&statement, &verdict, &shape, context.screen.out);
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

/// The engine of fleet.toml; a machine without one can ask too.
fn configured(context: &Context) -> Engine {
    let db = config::load(context).ok().and_then(|loaded| loaded.config.db);
    match db.map(|db| db.engine) {
        Some(pontoon_fleet::Engine::Mysql) => Engine::MySql,
        _ => Engine::MariaDb,
    }
}

fn in_words(statement: &[u8], verdict: &Verdict, shape: &str, paint: Paint) -> String {
    let mut text = String::new();
    let (line, column) = place(statement, verdict.at);
    text.push_str(&format!("  {line}\n"));
    if verdict.at.is_some() {
        text.push_str(&format!("  {}{}\n", " ".repeat(column), paint.warn("^")));
    }
    let mut row =
        |name: &str, value: &str| text.push_str(&format!("{}{value}\n", paint.faint(&format!("{name:<9}"))));
    row("goes to", &paint.strong(destination(verdict.route)));
    row("because", &verdict.reason.to_string());
    row("kind", &verdict.kind.to_string());
    if verdict.effects != Effects::NONE {
        row("effects", &verdict.effects.to_string());
    }
    if verdict.effects.pins() {
        row(
            "then",
            "the session stays with its connection to the primary until this is gone",
        );
    }
    row("digest", &harmless(shape));
    text
}

fn destination(route: Route) -> &'static str {
    match route {
        Route::Replica => "a replica that has what was written before, or the primary",
        Route::Primary => "the primary",
        Route::PreviousTarget(Previous::Statement) => "the server that ran the statement before",
        Route::PreviousTarget(Previous::Write) => "the connection of the session's last write",
        Route::PreviousTarget(Previous::Transaction) => "where the transaction is open, or the primary",
    }
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
        let verdict = classify(statement, &session);
        in_words(statement, &verdict, &digest(statement, &session), Paint::off())
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
    fn bytes_that_would_steer_a_terminal_are_made_harmless() {
        assert!(!told(b"SELECT '\x1b[2J\xff' \x00").contains('\x1b'));
        told(b"");
    }
}
