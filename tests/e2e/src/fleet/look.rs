//! What a test looks at: exit statuses and codes, the status, what lies on a server's disk, whether two databases hold
//! the same.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pontoon_testkit::app::Dice;
use pontoon_testkit::database::{connect_root, rows};
use pontoon_testkit::{LabError, Server};
use serde_json::Value;

use super::attempt;

/// Says what was expected and what came instead.
///
/// # Errors
/// Unless `holds`.
pub fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<(), LabError> {
    if holds { Ok(()) } else { Err(LabError::App(what())) }
}

/// Runs a command that must be refused with this code and exit status, and gives what it said.
///
/// # Errors
/// When it is not.
pub async fn refused(server: &Server, args: &[&str], code: &str, status: i32) -> Result<String, LabError> {
    let (ended, out, err) = attempt(server, args).await?;
    let said = format!("{out}{err}");
    expect(
        ended == status && said.contains(&format!("[{code}]")) && !said.contains("panicked"),
        || {
            format!(
                "{args:?} on {}: wanted {code} and exit {status}, got exit {ended}:\n{said}",
                server.name()
            )
        },
    )?;
    Ok(said)
}

/// `pontoon status --json`.
///
/// # Errors
/// When there is none.
pub async fn status(server: &Server) -> Result<Value, LabError> {
    let (_, out, err) = attempt(server, &["status", "--json"]).await?;
    serde_json::from_str(&out).map_err(|error| LabError::App(format!("no status ({error}): {out}{err}")))
}

/// Says something where the test harness does not swallow it.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Waits until `pontoon status --check` has nothing to say and the fleet has as many servers as are wanted.
///
/// # Errors
/// With the last status, when it does not within 100 s.
pub async fn wait_until_healthy(server: &Server, servers: usize) -> Result<(), LabError> {
    let mut last = String::new();
    for _ in 0..500 {
        let (code, out, err) = attempt(server, &["status", "--check"]).await?;
        let count = status(server)
            .await
            .map_or(0, |status| status["servers"].as_array().map_or(0, Vec::len));
        if code == 0 && count == servers {
            return Ok(());
        }
        last = format!("exit {code}, {count} servers: {out}{err}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(LabError::App(format!(
        "{servers} servers are not healthy on {}: {last}",
        server.name()
    )))
}

/// The kinds of the latest events that `server` itself noticed, oldest first.
///
/// # Errors
/// When there are none to be had.
pub async fn event_kinds(server: &Server) -> Result<Vec<String>, LabError> {
    let (_, out, _) = attempt(server, &["events", "--json", "-n", "300"]).await?;
    Ok(out
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| event["server"] == server.name())
        .filter_map(|event| Some(event["event"].as_str()?.to_owned()))
        .collect())
}

/// Everything that a refused command must leave as it was: configuration, identity and what is remembered, the
/// accounts of the database, the process of the database, what it answers. Files that say what happened (events, logs,
/// the view with its serial) are left out.
///
/// # Errors
/// When the database does not answer.
pub async fn snapshot(server: &Server) -> Result<BTreeMap<String, String>, LabError> {
    let mut found = BTreeMap::new();
    for dir in ["/etc/pontoon", "/var/lib/pontoon"] {
        files(&server.path(dir)?, dir, &mut found);
    }
    let mut root = connect_root(&database_socket(server)?).await?;
    for (name, query) in [
        (
            "accounts",
            "SELECT CONCAT(user, '@', host) FROM mysql.user ORDER BY 1",
        ),
        (
            "schemas",
            "SELECT schema_name FROM information_schema.schemata ORDER BY 1",
        ),
        (
            "place",
            "SELECT CONCAT(@@pid_file, ' ', @@port, ' ', @@socket, ' ', @@read_only, ' ', @@server_id)",
        ),
    ] {
        let lines: Vec<String> = rows(&mut root, query).await?;
        found.insert(name.to_owned(), lines.join(" "));
    }
    let listing = server
        .sh("pgrep -x mariadbd; ls -1 /var/lib; ls -1 /etc/mysql/mariadb.conf.d")
        .await?;
    found.insert("machine".to_owned(), one_line(&listing));
    Ok(found)
}

/// Asks the database of `server`, wherever its socket is now, as its root; one text a row.
///
/// # Errors
/// When it does not answer.
pub async fn ask(server: &Server, query: &str) -> Result<Vec<String>, LabError> {
    let mut root = connect_root(&database_socket(server)?).await?;
    rows(&mut root, query).await
}

/// By how many seconds the database of `server` stays behind on purpose; nothing when it follows nobody.
///
/// # Errors
/// When it does not answer.
pub async fn replica_delay(server: &Server, engine: super::Engine) -> Result<Option<u64>, LabError> {
    let found = replica_status(server, engine).await?;
    Ok(found.and_then(|row| row.get("SQL_Delay")))
}

/// The address that the database of `server` receives from; nothing when it follows nobody.
///
/// # Errors
/// When it does not answer.
pub async fn replica_source(server: &Server, engine: super::Engine) -> Result<Option<String>, LabError> {
    let column = match engine {
        super::Engine::Mysql => "Source_Host",
        super::Engine::Mariadb => "Master_Host",
    };
    let found = replica_status(server, engine).await?;
    Ok(found.and_then(|row| row.get(column)))
}

async fn replica_status(
    server: &Server,
    engine: super::Engine,
) -> Result<Option<mysql_async::Row>, LabError> {
    let question = match engine {
        super::Engine::Mysql => "SHOW REPLICA STATUS",
        super::Engine::Mariadb => "SHOW SLAVE STATUS",
    };
    let mut root = connect_root(&database_socket(server)?).await?;
    Ok(rows(&mut root, question).await?.into_iter().next())
}

/// Whether the long form of the tests was asked for: `PONTOON_LONG=1`.
pub fn long() -> bool {
    std::env::var("PONTOON_LONG").is_ok_and(|value| value == "1")
}

/// How many rounds were asked for: `PONTOON_ROUNDS`.
pub fn rounds_asked() -> Option<usize> {
    std::env::var("PONTOON_ROUNDS").ok()?.parse().ok()
}

/// Dice that begin at `PONTOON_SEED`, or with the time; says where, so that what they find can be played again.
pub fn dice() -> Dice {
    let asked = std::env::var("PONTOON_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = asked.unwrap_or(now.as_secs());
    tell(&format!("PONTOON_SEED={seed}"));
    Dice::new(seed)
}

/// The database's own socket on `server`: beside the one that the SQL proxy took, or that one.
fn database_socket(server: &Server) -> Result<std::path::PathBuf, LabError> {
    let view = server.path("/var/lib/pontoon/view.json")?;
    let moved = std::fs::read_to_string(view)
        .ok()
        .and_then(|text| serde_json::from_str::<Value>(&text).ok())
        .and_then(|view| text_of(&view, "backend_socket"))
        .map(|path| server.path(path))
        .transpose()?
        .filter(|path| path.exists());
    match moved {
        Some(path) => Ok(path),
        None => server.path(pontoon_testkit::database::SOCKET),
    }
}

fn text_of(value: &Value, key: &str) -> Option<String> {
    match value {
        Value::Object(map) => map
            .get(key)
            .and_then(|found| found.as_str().map(str::to_owned))
            .or_else(|| map.values().find_map(|inner| text_of(inner, key))),
        Value::Array(items) => items.iter().find_map(|inner| text_of(inner, key)),
        _ => None,
    }
}

fn files(dir: &Path, name: &str, found: &mut BTreeMap<String, String>) {
    const TELLING: [&str; 4] = ["events", "view.json", "log", "plans"];
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        // One of them may be being written just now, under a name with a dot before it.
        let written = file.trim_start_matches('.');
        if TELLING.iter().any(|telling| written.starts_with(telling)) {
            continue;
        }
        let (path, name) = (entry.path(), format!("{name}/{file}"));
        if path.is_dir() {
            files(&path, &name, found);
        } else {
            let bytes = std::fs::read(&path).unwrap_or_default();
            found.insert(name, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

/// Waits until the database of `replica` has everything that `source` has written now, and compares every table.
///
/// # Errors
/// When it does not follow, or a table differs.
pub async fn identical(source: &Server, replica: &Server) -> Result<(), LabError> {
    let (left, right) = (database_socket(source)?, database_socket(replica)?);
    expect(left.exists() && right.exists(), || {
        "a database has no socket".to_owned()
    })?;
    let mut ours = connect_root(&left).await?;
    let mut theirs = connect_root(&right).await?;
    let position: Vec<String> = rows(&mut ours, "SELECT @@gtid_binlog_pos").await?;
    let wait = format!("SELECT MASTER_GTID_WAIT('{}', 30)", position.join(""));
    let reached: Vec<i64> = rows(&mut theirs, &wait).await?;
    expect(reached == [0], || {
        format!("{} does not reach {position:?}", replica.name())
    })?;
    let names = "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables WHERE table_type = \
                 'BASE TABLE' AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema', \
                 'pontoon') ORDER BY 1";
    let tables: Vec<String> = rows(&mut ours, names).await?;
    let same: Vec<String> = rows(&mut theirs, names).await?;
    expect(tables == same && !tables.is_empty(), || {
        format!("tables: {tables:?} and {same:?}")
    })?;
    for table in tables {
        // Writes go on meanwhile: a difference counts only when it stays.
        let checksum = format!("CHECKSUM TABLE {table}");
        let mut last = None;
        for _ in 0..50 {
            let one: Vec<(String, Option<i64>)> = rows(&mut ours, &checksum).await?;
            let other: Vec<(String, Option<i64>)> = rows(&mut theirs, &checksum).await?;
            last = (one != other).then(|| format!("{one:?} and {other:?}"));
            if last.is_none() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        expect(last.is_none(), || format!("{table} differs: {last:?}"))?;
    }
    Ok(())
}

/// Lines as words.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The ends of Pontoon's logs on `server`, for whoever reads why a test failed.
pub fn logs(server: &Server, lines: usize) -> String {
    let dir = server.dir().join("var-lib/pontoon/log");
    let mut told = String::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        let end = all[all.len().saturating_sub(lines)..].join("\n");
        told += &format!(
            "--- {} on {}\n{end}\n",
            entry.file_name().to_string_lossy(),
            server.name()
        );
    }
    told
}
