//! Why a plan cannot be applied.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use pontoon_config::{Config, CopyMethod, LeaseStore, Server, not_yet};
use pontoon_fleet::{Code, Engine, ListenAddress, Refusal, Role, ServerName, units};

use super::version::{Release, is_supported};
use super::{Action, Step};
use crate::facts::{DatabaseFacts, ListenerFact, ServerFacts};

type Facts = BTreeMap<ServerName, ServerFacts>;

pub(super) fn blockers(
    active: Option<&Config>,
    wanted: &Config,
    facts: &Facts,
    steps: &[Step],
) -> Vec<Refusal> {
    let mut found: Vec<Refusal> = not_yet(wanted).iter().map(|later| later.to_refusal()).collect();
    if let Some(active) = active {
        found.extend(unchangeable(active, wanted));
    }
    for server in &wanted.servers {
        match facts.get(&server.name) {
            None => found.push(silent(active, server)),
            Some(facts) => {
                found.extend(ports(active, wanted, server, facts, steps));
                found.extend(database(wanted, server, facts));
            }
        }
    }
    found.extend(unlike_databases(wanted, facts));
    found.extend(room(active, wanted, facts));
    found
}

/// What cannot change while a fleet runs, in this version.
fn unchangeable(active: &Config, wanted: &Config) -> Vec<Refusal> {
    let mut found = Vec::new();
    let mut no = |what: String, from: String, to: String| {
        let refusal = Refusal::new(
            Code::C010,
            format!("this version does not change {what} of a running fleet"),
        );
        found.push(
            refusal
                .because(format!("{from} → {to}"))
                .next("see what is active", "pontoon status"),
        );
    };
    if active.fleet.name != wanted.fleet.name {
        no(
            "the name".to_owned(),
            active.fleet.name.to_string(),
            wanted.fleet.name.to_string(),
        );
    }
    if active.fleet.port != wanted.fleet.port {
        no(
            "the port".to_owned(),
            active.fleet.port.to_string(),
            wanted.fleet.port.to_string(),
        );
    }
    for server in &wanted.servers {
        if let Some(before) = active
            .server(&server.name)
            .filter(|before| before.private != server.private)
        {
            let what = format!(
                "the private address of {}, for which its certificate was made,",
                server.name
            );
            no(what, before.private.to_string(), server.private.to_string());
        }
    }
    if let (Some(before), Some(after)) = (&active.db, &wanted.db)
        && before.engine != after.engine
    {
        no(
            "the database's engine".to_owned(),
            before.engine.to_string(),
            after.engine.to_string(),
        );
    }
    let (before, after) = (active.lease_store(), wanted.lease_store());
    if before != LeaseStore::Single && !is_same_store(&before, &after) {
        // Another one knows nothing of the present epoch: it would begin with one that is long past.
        no(
            "the lease store, where it stands who is primary,".to_owned(),
            place_of(&before),
            place_of(&after),
        );
    }
    found
}

/// Whether both mean the same record: keys may change, and members of an etcd cluster, not all at once.
fn is_same_store(before: &LeaseStore, after: &LeaseStore) -> bool {
    match (before, after) {
        (LeaseStore::Single, LeaseStore::Single) => true,
        (
            LeaseStore::S3 { bucket, endpoint, .. },
            LeaseStore::S3 {
                bucket: other,
                endpoint: there,
                ..
            },
        ) => bucket == other && endpoint == there,
        (
            LeaseStore::Etcd { endpoints, .. },
            LeaseStore::Etcd {
                endpoints: others, ..
            },
        ) => endpoints.iter().any(|endpoint| others.contains(endpoint)),
        _ => false,
    }
}

fn place_of(store: &LeaseStore) -> String {
    match store {
        LeaseStore::Single => "one server".to_owned(),
        LeaseStore::S3 { bucket, endpoint, .. } => match endpoint {
            Some(endpoint) => format!("{bucket} at {endpoint}"),
            None => bucket.clone(),
        },
        LeaseStore::Etcd { endpoints, .. } => endpoints.join(", "),
    }
}

/// A server of which nothing is known.
fn silent(active: Option<&Config>, server: &Server) -> Refusal {
    let name = &server.name;
    if active.is_some_and(|config| config.server(name).is_none()) {
        return Refusal::new(Code::P004, format!("{name} has not joined the fleet"))
            .because(format!(
                "{name} is new in the configuration and no agent answers at {}",
                server.private
            ))
            .next("get the command to run on it", "pontoon token new");
    }
    Refusal::new(Code::P004, format!("{name} does not answer"))
        .because(format!("no facts from its agent at {}", server.private))
        .next("see who is there", "pontoon status")
}

/// Ports that Pontoon wants to listen on and another program has.
fn ports(
    active: Option<&Config>,
    wanted: &Config,
    server: &Server,
    facts: &ServerFacts,
    steps: &[Step],
) -> Vec<Refusal> {
    let moves = |step: &&Step| {
        matches!(
            step.action,
            Action::DatabaseMoveAside(_) | Action::DatabaseMoveBack(_)
        )
    };
    let database_moves = steps
        .iter()
        .filter(|step| step.server == server.name)
        .any(|step| moves(&step));
    // Otherwise `database` below has said that it cannot be moved.
    let movable = facts
        .database
        .as_ref()
        .is_some_and(|found| wanted.db.as_ref().is_some_and(|db| db.engine == found.engine));
    let database_is_seen_to = database_moves || (wanted.runs_database(server) && !movable);
    let mut wants: Vec<(ListenAddress, &str)> = Vec::new();
    let relay = |port| ListenAddress::Tcp(SocketAddr::new(server.private, port));
    if wanted.runs_edge(server) {
        wants.extend(
            wanted
                .edge_listen(server)
                .into_iter()
                .chain(wanted.https_listen(server))
                .map(|at| (ListenAddress::Tcp(at), "the edge")),
        );
        wants.push((relay(wanted.ports().edge_relay), "the edge"));
    }
    if wanted.runs_sql(server) {
        wants.extend(
            wanted
                .sql_listen(server)
                .iter()
                .map(|at| (at.clone(), "the SQL proxy")),
        );
        wants.push((relay(wanted.ports().sql_relay), "the SQL proxy"));
    }
    if let Some(cache) = wanted.cache.as_ref().filter(|_| wanted.runs_cache(server)) {
        if server.roles.contains(&pontoon_fleet::Role::App) {
            wants.push((ListenAddress::Tcp(cache.listen), "the cache proxy"));
            wants.extend(
                cache
                    .socket
                    .iter()
                    .map(|path| (ListenAddress::Unix(path.clone()), "the cache proxy")),
            );
        }
        wants.push((relay(wanted.ports().cache_relay), "the cache proxy"));
    }
    if let Some(db) = wanted.db.as_ref().filter(|_| wanted.runs_database(server)) {
        wants.push((relay(db.server_port), "the database"));
        wants.push((
            ListenAddress::Tcp(([127, 0, 0, 1], db.server_port).into()),
            "the database",
        ));
        // An agent that serves it already is one that runs.
        let serves = active.and_then(|active| active.db.as_ref()?.health_port);
        if let Some(port) = db.health_port.filter(|port| serves != Some(*port)) {
            wants.push((relay(port), "the agent's answers about the database"));
        }
    }
    if active.is_none() {
        wants.push((relay(wanted.ports().agent), "the agent"));
    }
    let mut found: Vec<Refusal> = Vec::new();
    for (at, who) in &wants {
        for other in facts.listeners.iter().filter(|other| collide(at, &other.at)) {
            let is_database = is_database_program(&other.program);
            let is_fine = other.program == "pontoon"
                || (is_database && (database_is_seen_to || *who == "the database"));
            if !is_fine {
                let refusal = taken(server, at, who, other);
                if !found.iter().any(|said| said.what == refusal.what) {
                    found.push(refusal);
                }
            }
        }
    }
    found
}

fn taken(server: &Server, at: &ListenAddress, who: &str, other: &ListenerFact) -> Refusal {
    let program = if other.program.is_empty() {
        "another program"
    } else {
        &other.program
    };
    let place = match at {
        ListenAddress::Tcp(at) => format!(":{}", at.port()),
        ListenAddress::Unix(path) => path.display().to_string(),
    };
    let pid = other.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    Refusal::new(
        Code::P006,
        format!("{program} must release {place} on {}", server.name),
    )
    .because(format!(
        "{who} is to listen on {at}; {program}{pid} listens on {}",
        other.at
    ))
    .next(
        "let it listen elsewhere or stop it, or give the tier another address in fleet.toml; then",
        "pontoon plan",
    )
}

/// `mariadbd` and `mysqld`, also behind Debian's wrapper names.
fn is_database_program(program: &str) -> bool {
    matches!(program, "mariadbd" | "mysqld")
}

fn collide(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => {
            let all = |address: &SocketAddr| address.ip().is_unspecified();
            // `0.0.0.0` does not stand in the way of an IPv6 address; `[::]` usually does in that of an IPv4 one.
            let reaches = |wide: &SocketAddr, narrow: &SocketAddr| {
                all(wide) && (wide.is_ipv6() || narrow.is_ipv4() || all(narrow))
            };
            one.port() == other.port()
                && (one.ip() == other.ip() || reaches(one, other) || reaches(other, one))
        }
        (one, other) => one == other,
    }
}

/// The database of one server.
fn database(wanted: &Config, server: &Server, facts: &ServerFacts) -> Vec<Refusal> {
    let Some(db) = wanted.db.as_ref().filter(|_| wanted.runs_database(server)) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let name = &server.name;
    let Some(database) = &facts.database else {
        let refusal = Refusal::new(Code::D009, format!("no database server runs on {name}"))
            .because(format!("the configuration wants {} there", db.engine))
            .next("start it, or give the server other roles; then", "pontoon plan");
        return vec![refusal];
    };
    if database.engine != db.engine {
        let refusal = Refusal::new(
            Code::D002,
            format!("{name} runs another database engine than the configuration says"),
        )
        .because(format!(
            "found {} {}, configured {}",
            database.engine, database.version, db.engine
        ));
        found.push(refusal);
    } else if !Release::parse(&database.version).is_some_and(|release| is_supported(db.engine, release)) {
        let refusal = Refusal::new(
            Code::D001,
            format!("{} {} on {name} is not supported", db.engine, database.version),
        )
        .because("supported are MariaDB 10.6 to 11.8 and MySQL 8.0 to 9.x");
        found.push(refusal);
    }
    if wanted.with_role(Role::Db).count() > 1
        && let Some(lacks) = missing_tools(facts).filter(|_| {
            db.engine == Engine::Mariadb && (!facts.tools.dump || db.copy == Some(CopyMethod::Physical))
        })
    {
        let refusal = Refusal::new(Code::D007, format!("{lacks} is not installed on {name}"))
            .because("a copy of a running database is made with it")
            .next("install it", "apt-get install mariadb-backup");
        found.push(refusal);
    }
    found
}

/// Tools that a MariaDB server lacks for being copied or being a copy.
pub(super) fn missing_tools(facts: &ServerFacts) -> Option<&'static str> {
    let mariadb = facts
        .database
        .as_ref()
        .is_some_and(|database| database.engine == Engine::Mariadb);
    match (mariadb, facts.tools.mariadb_backup, facts.tools.mbstream) {
        (false, _, _) | (true, true, true) => None,
        (true, false, true) => Some("mariadb-backup"),
        (true, true, false) => Some("mbstream"),
        (true, false, false) => Some("mariadb-backup (with mbstream)"),
    }
}

/// Databases of several releases: a replica may be newer than its source, not older, so a fleet in which any may
/// become primary has one release.
fn unlike_databases(wanted: &Config, facts: &Facts) -> Option<Refusal> {
    let releases: Vec<(&ServerName, &DatabaseFacts, Release)> = wanted
        .with_role(Role::Db)
        .filter(|server| wanted.runs_database(server))
        .filter_map(|server| {
            let database = facts.get(&server.name)?.database.as_ref()?;
            Some((&server.name, database, Release::parse(&database.version)?))
        })
        .collect();
    let (first, rest) = releases.split_first()?;
    let other = rest.iter().find(|other| other.2 < first.2)?;
    let refusal = Refusal::new(
        Code::D002,
        format!("the database on {} is older than that on {}", other.0, first.0),
    )
    .because(format!(
        "{} has {}, {} has {}",
        first.0, first.1.version, other.0, other.1.version
    ))
    .because("a replica must not be older than its source");
    Some(refusal)
}

/// A server that joins needs room for a copy: the data, and a tenth for what is written meanwhile.
fn room(active: Option<&Config>, wanted: &Config, facts: &Facts) -> Vec<Refusal> {
    let Some(active) = active else { return Vec::new() };
    let size = active
        .with_role(Role::Db)
        .filter_map(|server| facts.get(&server.name)?.database.as_ref())
        .map(|database| database.size_bytes)
        .max()
        .unwrap_or(0);
    let needed = size.saturating_add(size / 10);
    wanted
        .with_role(Role::Db)
        .filter(|server| active.server(&server.name).is_none() && wanted.runs_database(server))
        .filter_map(|server| Some((server, facts.get(&server.name)?)))
        .filter(|(_, facts)| facts.disk_free_bytes < needed)
        .map(|(server, facts)| {
            let (free, needed) = (
                units::human_bytes(facts.disk_free_bytes),
                units::human_bytes(needed),
            );
            Refusal::new(
                Code::D010,
                format!("{} has too little room for a copy of the database", server.name),
            )
            .because(format!("{free} free, {needed} needed"))
        })
        .collect()
}
