//! The steps. On each server: it comes, its database moves aside, its SQL proxy, its edge; on a server that goes,
//! the other way round.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pontoon_config::{Config, Db, Server};
use pontoon_fleet::{ListenAddress, Role, ServerName};

use super::{Action, DatabaseMove, Impact, Sign, Step};
use crate::facts::{DatabaseFacts, ServerFacts};

type Facts = BTreeMap<ServerName, ServerFacts>;

pub(super) fn steps(active: Option<&Config>, wanted: &Config, facts: &Facts) -> Vec<Step> {
    let mut steps = Vec::new();
    for server in &wanted.servers {
        let before = active.and_then(|config| config.server(&server.name));
        if active.is_some() && before.is_none() {
            let roles: Vec<_> = server.roles.iter().map(|role| role.as_str()).collect();
            let text = format!("joins at {} as {}", server.private, roles.join(" "));
            steps.push(step(server, Sign::Add, "server", text, Action::ServerAdded));
        }
        let was = active.zip(before);
        let database = facts.get(&server.name).and_then(|facts| facts.database.as_ref());
        let database = database_step(was, wanted, server, database);
        let sql = sql_step(was, wanted, server);
        // Whoever has the port lets it go before the other takes it.
        let proxy_stops = sql
            .as_ref()
            .is_some_and(|step| step.action == Action::SqlProxyStop);
        steps.extend(
            if proxy_stops {
                [sql, database]
            } else {
                [database, sql]
            }
            .into_iter()
            .flatten(),
        );
        steps.extend(edge_step(was, wanted, server));
    }
    for server in active.into_iter().flat_map(|config| &config.servers) {
        if wanted.server(&server.name).is_none()
            && let Some(active) = active
        {
            leave(active, server, facts, &mut steps);
        }
    }
    if steps.is_empty()
        && active.is_some_and(|active| active != wanted)
        && let Some(server) = wanted.servers.first()
    {
        let text = "settings that take effect without touching a process".to_owned();
        steps.push(step(server, Sign::Change, "fleet", text, Action::FleetSettings));
    }
    steps
}

/// The database moves when it is not where the configuration wants it, whatever was active before: facts count.
fn database_step(
    was: Option<(&Config, &Server)>,
    wanted: &Config,
    server: &Server,
    database: Option<&DatabaseFacts>,
) -> Option<Step> {
    let database = database?;
    let Some(db) = wanted.db.as_ref().filter(|_| wanted.runs_database(server)) else {
        // It was Pontoon's before and is not any more.
        let (active, before) = was?;
        return active
            .runs_database(before)
            .then(|| move_back(active, server, database))
            .flatten();
    };
    if database.engine != db.engine {
        return None;
    }
    let to_port = Some(db.server_port);
    let to_socket = wanted_socket(was.map(|(active, _)| active), db, database);
    let mut changes = Vec::new();
    if database.port != to_port {
        changes.push(match database.port {
            Some(port) => format!("port {port} → {}", db.server_port),
            None => format!("port {} opened", db.server_port),
        });
    }
    if to_socket.is_some() && to_socket != database.socket {
        changes.push("socket moved".to_owned());
    }
    let moves = !changes.is_empty();
    if !database.settings_active {
        changes.push(settings_text(db).to_owned());
    }
    if changes.is_empty() {
        return None;
    }
    let (engine, run_by) = (database.engine, database.run_by.clone());
    let action = if moves {
        Action::DatabaseMoveAside(DatabaseMove {
            engine,
            run_by,
            from_port: database.port,
            to_port,
            from_socket: database.socket.clone(),
            to_socket,
        })
    } else {
        Action::DatabaseSettings { engine, run_by }
    };
    let mut step = step(server, Sign::Change, engine.as_str(), changes.join(", "), action);
    step.impact = Some(restart(database));
    Some(step)
}

/// Where the database's socket belongs. Without the SQL proxy, or when only TCP is proxied, it stays, unless it is
/// aside from an earlier configuration: then it goes back to where that one's SQL proxy listened.
fn wanted_socket(active: Option<&Config>, db: &Db, database: &DatabaseFacts) -> Option<PathBuf> {
    if db.server_socket.is_some() {
        return db.server_socket.clone();
    }
    let before = active.and_then(|config| config.db.as_ref())?;
    let is_aside = before.server_socket.is_some() && before.server_socket == database.socket;
    before.listen_unix().filter(|_| is_aside).cloned()
}

fn settings_text(db: &Db) -> &'static str {
    match db.engine {
        pontoon_fleet::Engine::Mariadb => "log_bin on, gtid_strict_mode on",
        _ => "log_bin on, gtid_mode on",
    }
}

fn move_back(active: &Config, server: &Server, database: &DatabaseFacts) -> Option<Step> {
    let db = active.db.as_ref()?;
    let to_port = db.listen_tcp().map(|address| address.port());
    let to_socket = db.listen_unix().cloned();
    let moved = (to_port.is_some() && database.port != to_port)
        || (to_socket.is_some() && database.socket != to_socket)
        || database.settings_active;
    if !moved {
        return None;
    }
    let text = match (database.port, to_port) {
        (Some(from), Some(to)) if from != to => format!("port {from} → {to}, socket and settings as before"),
        _ => "port, socket and settings as before".to_owned(),
    };
    let action = Action::DatabaseMoveBack(DatabaseMove {
        engine: database.engine,
        run_by: database.run_by.clone(),
        from_port: database.port,
        to_port,
        from_socket: database.socket.clone(),
        to_socket,
    });
    let mut step = step(server, Sign::Change, database.engine.as_str(), text, action);
    step.impact = Some(restart(database));
    Some(step)
}

fn sql_step(was: Option<(&Config, &Server)>, wanted: &Config, server: &Server) -> Option<Step> {
    let listen = wanted.sql_listen(server).to_vec();
    let text = listen_text(&listen, wanted.ports().sql_relay);
    let ran = was.is_some_and(|(active, before)| active.runs_sql(before));
    let (sign, action) = match (ran, wanted.runs_sql(server)) {
        (false, false) => return None,
        (false, true) => (Sign::Add, Action::SqlProxyStart { listen }),
        (true, false) => {
            return Some(step(
                server,
                Sign::Remove,
                "sqlproxy",
                "stops".to_owned(),
                Action::SqlProxyStop,
            ));
        }
        (true, true) => {
            let (active, before) = was?;
            let same = active.sql_listen(before) == listen
                && seen_by_sql(active) == seen_by_sql(wanted)
                && active.ports() == wanted.ports();
            if same {
                return None;
            }
            (Sign::Change, Action::SqlProxyChange { listen })
        }
    };
    Some(step(server, sign, "sqlproxy", text, action))
}

/// What of the database's configuration an SQL proxy goes by.
fn seen_by_sql(config: &Config) -> Option<(u16, Option<PathBuf>, Duration)> {
    config
        .db
        .as_ref()
        .map(|db| (db.server_port, db.server_socket.clone(), db.hold_writes))
}

fn listen_text(listen: &[ListenAddress], relay: u16) -> String {
    if listen.is_empty() {
        return format!("for other servers' proxies (port {relay})");
    }
    listen
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn edge_step(was: Option<(&Config, &Server)>, wanted: &Config, server: &Server) -> Option<Step> {
    let listen = edge_listen(wanted, server);
    let ran = was.is_some_and(|(active, before)| active.runs_edge(before));
    let (sign, action) = match (ran, wanted.runs_edge(server)) {
        (false, false) => return None,
        (false, true) => (
            Sign::Add,
            Action::EdgeStart {
                listen: listen.clone(),
            },
        ),
        (true, false) => {
            return Some(step(
                server,
                Sign::Remove,
                "edge",
                "drains and stops".to_owned(),
                Action::EdgeStop,
            ));
        }
        (true, true) => {
            let (active, before) = was?;
            let upstreams = |config: &Config| {
                config
                    .with_role(Role::App)
                    .map(|server| (server.name.clone(), server.private))
                    .collect::<Vec<_>>()
            };
            let same = edge_listen(active, before) == listen
                && active.edge.tls == wanted.edge.tls
                && active.app == wanted.app
                && active.ports() == wanted.ports()
                && upstreams(active) == upstreams(wanted);
            if same {
                return None;
            }
            (
                Sign::Change,
                Action::EdgeChange {
                    listen: listen.clone(),
                },
            )
        }
    };
    let upstream = wanted
        .app
        .as_ref()
        .map(|app| app.upstream.to_string())
        .unwrap_or_default();
    let text = if listen.is_empty() {
        format!(
            "for other edges (port {})  → {upstream}",
            wanted.ports().edge_relay
        )
    } else {
        let servers: Vec<_> = wanted
            .with_role(Role::App)
            .map(|server| server.name.as_str())
            .collect();
        let on = if servers == [server.name.as_str()] {
            String::new()
        } else {
            format!(" on {}", servers.join(" "))
        };
        let listen: Vec<_> = listen.iter().map(ToString::to_string).collect();
        format!("{}  → {upstream}{on}", listen.join(", "))
    };
    Some(step(server, sign, "edge", text, action))
}

/// Without an application there is nothing to listen for.
fn edge_listen(config: &Config, server: &Server) -> Vec<SocketAddr> {
    if config.runs_edge(server) {
        let mut listen = config.edge_listen(server);
        listen.extend(config.https_listen(server));
        listen
    } else {
        Vec::new()
    }
}

/// A server that goes: visitors first, its database last. One that does not answer is only taken out.
fn leave(active: &Config, server: &Server, facts: &Facts, steps: &mut Vec<Step>) {
    if let Some(facts) = facts.get(&server.name) {
        if active.runs_edge(server) {
            steps.push(step(
                server,
                Sign::Remove,
                "edge",
                "drains and stops".to_owned(),
                Action::EdgeStop,
            ));
        }
        if active.runs_sql(server) {
            steps.push(step(
                server,
                Sign::Remove,
                "sqlproxy",
                "stops".to_owned(),
                Action::SqlProxyStop,
            ));
        }
        if active.runs_database(server) {
            steps.extend(
                facts
                    .database
                    .as_ref()
                    .and_then(|database| move_back(active, server, database)),
            );
        }
    }
    let text = format!("leaves ({})", server.private);
    steps.push(step(server, Sign::Remove, "server", text, Action::ServerRemoved));
}

/// What does not stop anything and should be known.
pub(super) fn notes(active: Option<&Config>, wanted: &Config, facts: &Facts, steps: &[Step]) -> Vec<String> {
    let mut notes = Vec::new();
    for server in wanted.with_role(Role::App) {
        let silent = facts
            .get(&server.name)
            .is_some_and(|facts| facts.app_answers == Some(false));
        if let Some(app) = wanted.app.as_ref().filter(|_| silent) {
            notes.push(format!(
                "{}: nothing answers on {} yet; visitors would get 503 from it",
                server.name, app.upstream
            ));
        }
    }
    for server in active.into_iter().flat_map(|config| &config.servers) {
        if wanted.server(&server.name).is_none() && !facts.contains_key(&server.name) {
            let name = &server.name;
            notes.push(format!(
                "{name} does not answer and is only taken out; what runs there goes on until you stop it"
            ));
        }
    }
    let one_database = wanted.with_role(Role::Db).count() == 1;
    for server in wanted
        .with_role(Role::Db)
        .filter(|server| wanted.runs_database(server))
    {
        let lacks = facts.get(&server.name).and_then(super::blockers::missing_tools);
        if let Some(lacks) = lacks.filter(|_| one_database) {
            notes.push(format!(
                "{}: {lacks} will be needed before a second server can join",
                server.name
            ));
        }
    }
    let stays = |step: &&Step| matches!(step.action, Action::DatabaseMoveAside(_));
    if steps.iter().any(|step| stays(&step)) {
        notes.push("no data is touched: port, socket and settings go back with `pontoon leave`".to_owned());
    }
    notes
}

fn step(server: &Server, sign: Sign, subject: &str, text: String, action: Action) -> Step {
    Step {
        server: server.name.clone(),
        sign,
        subject: subject.to_owned(),
        text,
        impact: None,
        action,
    }
}

/// An estimate: a clean stop writes out what is only in memory, about a second for each 10 GiB of data beyond the
/// two that a small one takes.
fn restart(database: &DatabaseFacts) -> Impact {
    let more = database.size_bytes / (10 << 30);
    Impact {
        what: "restart".to_owned(),
        expected: Duration::from_secs(2 + more.min(60)),
    }
}
