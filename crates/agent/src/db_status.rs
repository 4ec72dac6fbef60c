//! From what is known of the databases to what an operator reads at 3 a.m.: who leads, is anything lost if it dies, what
//! is wrong, what next. Pure, but for gathering what is known.

use std::sync::Arc;
use std::time::Duration;

use pontoon_config::{Config, Durability, Failover, LeaseStore};
use pontoon_decide::failover::{Record, State};
use pontoon_fleet::{DatabaseRole, Event, EventKind, LeaseRecord, Role, ServerName, ServerState, UnixMillis};

use crate::api::{API_VERSION, DbLoss, DbServer, DbStatus, Health, Problem};
use crate::core::Agent;
use crate::{backup, failover, heartbeat, reseed, timeline};

/// A replica that is further behind than this is named as a problem.
const LAG_WORTH_A_LINE_MS: u64 = 10_000;

/// A store that has been silent for longer is named as a problem.
const SILENCE_WORTH_A_LINE_MS: u64 = 10_000;

/// Events that are looked through for those of the databases.
const LOOK_BACK: usize = 200;

/// Events that fit on a screen.
const RECENT: usize = 5;

/// Everything that the verdict is made of.
struct Inputs<'a> {
    config: &'a Config,
    lease: Option<LeaseRecord>,
    servers: Vec<DbServer>,
    trouble: Option<&'a pontoon_fleet::Refusal>,
    me: &'a ServerName,
    write_left: Option<Duration>,
    recent: Vec<Event>,
    now: UnixMillis,
}

/// The answer to `GET /v1/db`.
pub(crate) async fn of(agent: &Arc<Agent>) -> DbStatus {
    let now = agent.clock.unix();
    let (Some(membership), Some(active)) = (agent.membership(), agent.active()) else {
        return nothing(agent, now);
    };
    let events = timeline::of_the_fleet(agent, LOOK_BACK).await;
    let trouble = agent.failover.trouble();
    let mut status = status(Inputs {
        recent: recent(events),
        trouble: trouble.as_ref(),
        ..inputs(agent, &active.config, &membership.me)
    });
    backup::add_to(agent, &mut status).await;
    status
}

/// What is wrong with failover, for the status of the whole fleet.
pub(crate) fn of_failover(agent: &Agent) -> Vec<Problem> {
    let (Some(membership), Some(active)) = (agent.membership(), agent.active()) else {
        return Vec::new();
    };
    let trouble = agent.failover.trouble();
    let inputs = Inputs {
        trouble: trouble.as_ref(),
        ..inputs(agent, &active.config, &membership.me)
    };
    let mut problems = Vec::new();
    if failover::is_shared(&active.config) {
        coordination(&inputs, &mut problems);
        if let (Some(record), true) = (record(&inputs), inputs.servers.len() > 1) {
            worth(record, &inputs, &mut problems);
        }
    }
    problems
}

fn inputs<'a>(agent: &Agent, config: &'a Config, me: &'a ServerName) -> Inputs<'a> {
    let write_until = crate::publish::view(agent).and_then(|view| view.sql?.write_until);
    let lease = agent.known().lease.clone();
    Inputs {
        config,
        lease,
        servers: servers(agent, config, me),
        trouble: None,
        me,
        write_left: write_until.map(|until| until.left(pontoon_rt::clock::boot_id(), agent.clock.now())),
        recent: Vec::new(),
        now: agent.clock.unix(),
    }
}

/// The latest record that any server has seen.
fn record<'a>(inputs: &'a Inputs<'_>) -> Option<&'a Record> {
    let seen = inputs.servers.iter();
    seen.filter_map(|server| server.failover.as_ref()?.record.as_ref())
        .max_by_key(|record| record.seq)
}

/// The kind of the lease store, in the configuration's word.
pub(crate) fn lease_store(config: &Config) -> &'static str {
    match config.lease_store() {
        LeaseStore::Single => "single",
        LeaseStore::S3 { .. } => "s3",
        LeaseStore::Etcd { .. } => "etcd",
    }
}

fn nothing(agent: &Agent, now: UnixMillis) -> DbStatus {
    DbStatus {
        version: API_VERSION,
        fleet: None,
        me: agent.membership().map(|membership| membership.me),
        health: Health::Healthy,
        problems: Vec::new(),
        lease: None,
        lease_store: "single".to_owned(),
        durability: None,
        failover: "off".to_owned(),
        in_sync: Vec::new(),
        acks: 0,
        loss: None,
        since_ms: None,
        write_ms: None,
        servers: Vec::new(),
        backup: None,
        recent: Vec::new(),
        next: vec!["pontoon plan".to_owned(), "pontoon apply".to_owned()],
        now,
    }
}

fn servers(agent: &Agent, config: &Config, me: &ServerName) -> Vec<DbServer> {
    let mine = agent.report();
    let own_failover = agent.failover.report(agent.clock.now());
    let known = agent.known();
    config
        .with_role(Role::Db)
        .filter(|server| config.runs_database(server))
        .map(|server| {
            let name = server.name.clone();
            if name == *me {
                return DbServer {
                    name,
                    state: ServerState::Up,
                    heard_ms_ago: Some(0),
                    database: mine.as_ref().and_then(|report| report.database.clone()),
                    failover: own_failover.clone(),
                    delay_seconds: delay(server),
                    source: server.source.clone(),
                    errant: known.errant.clone(),
                };
            }
            let heard = known.peers.get(&name);
            let age = heard.map(|heard| heard.at.elapsed());
            DbServer {
                state: match age {
                    Some(age) if age <= heartbeat::SILENCE => ServerState::Up,
                    _ => ServerState::Unreachable,
                },
                heard_ms_ago: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
                database: heard.and_then(|heard| heard.report.database.clone()),
                failover: heard.and_then(|heard| heard.failover.clone()),
                delay_seconds: delay(server),
                source: server.source.clone(),
                errant: heard.and_then(|heard| heard.errant.clone()),
                name,
            }
        })
        .collect()
}

fn delay(server: &pontoon_config::Server) -> Option<u64> {
    server.delay.map(|delay| delay.as_secs())
}

/// The last events that concern databases.
fn recent(events: Vec<Event>) -> Vec<Event> {
    use EventKind as K;
    let mut kept: Vec<Event> = events
        .into_iter()
        .filter(|event| {
            matches!(
                event.kind,
                K::DatabaseMoved { .. }
                    | K::DatabaseSetAside { .. }
                    | K::DatabaseDown { .. }
                    | K::DatabaseUp { .. }
                    | K::DatabaseRestarted { .. }
                    | K::ReplicationStarted { .. }
                    | K::ReplicationBroken { .. }
                    | K::LeaseTaken { .. }
                    | K::PrimaryOpened { .. }
                    | K::PrimaryInSync { .. }
                    | K::PrimaryAlone { .. }
                    | K::WritesAtRisk { .. }
                    | K::TransactionsOnlyHere { .. }
                    | K::DatabaseFenced { .. }
                    | K::DatabaseSilent { .. }
                    | K::DatabaseFull { .. }
                    | K::DatabaseFollows { .. }
                    | K::DatabaseStranded { .. }
                    | K::DatabaseNeedsCopy { .. }
                    | K::DatabaseErrant { .. }
                    | K::DatabaseCopiedAnew { .. }
                    | K::LeaseStoreSilent { .. }
                    | K::LeaseStoreAnswers
                    | K::LeaseStoreWentBack
                    | K::LeaseForeign { .. }
                    | K::SwitchoverAsked { .. }
                    | K::FailoverForced { .. }
                    | K::FailoverPaused
                    | K::FailoverResumed
                    | K::FailoverRefused { .. }
                    | K::FailoverStopped { .. }
                    | K::BackupMade { .. }
                    | K::BackupFailed { .. }
            )
        })
        .collect();
    kept.drain(..kept.len().saturating_sub(RECENT));
    kept
}

fn status(inputs: Inputs<'_>) -> DbStatus {
    let config = inputs.config;
    let db = config.db.as_ref();
    let shared = failover::is_shared(config);
    let leader = inputs.lease.as_ref().map(|lease| lease.leader.clone());
    let leading = leader
        .as_ref()
        .and_then(|leader| inputs.servers.iter().find(|server| server.name == *leader));
    let report = leading.and_then(|server| server.failover.as_ref());
    let record = record(&inputs);
    let in_sync: Vec<ServerName> =
        record.map_or_else(Vec::new, |record| record.sync.keys().cloned().collect());
    let acks = record.map_or(0, |record| record.acks);
    let loss = record.and_then(|record| record.loss).map(|loss| DbLoss {
        window_ms: loss
            .window
            .map(|window| u64::try_from(window.as_millis()).unwrap_or(u64::MAX)),
        known: loss.known,
    });
    let mut problems = Vec::new();
    if db.is_some() {
        primary(&inputs, leader.as_ref(), leading, &mut problems);
        replicas(&inputs, leader.as_ref(), &mut problems);
        if shared {
            coordination(&inputs, &mut problems);
            if let (Some(record), true) = (record, inputs.servers.len() > 1) {
                worth(record, &inputs, &mut problems);
            }
        }
    }
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.health));
    let health = problems
        .iter()
        .map(|problem| problem.health)
        .max()
        .unwrap_or(Health::Healthy);
    let next = next(&problems, shared, &in_sync);
    DbStatus {
        version: API_VERSION,
        fleet: Some(config.fleet.name.to_string()),
        me: Some(inputs.me.clone()),
        health,
        problems,
        lease: inputs.lease,
        lease_store: lease_store(config).to_owned(),
        durability: db.map(|db| durability(db.durability, shared).to_owned()),
        failover: match db.and_then(|db| db.failover) {
            Some(Failover::Auto) => "auto",
            Some(Failover::Off) => "off",
            Some(Failover::Manual) | None => "manual",
        }
        .to_owned(),
        in_sync,
        acks,
        loss,
        since_ms: report.map(|report| report.state_ms),
        write_ms: inputs
            .write_left
            .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        backup: None,
        servers: inputs.servers,
        recent: inputs.recent,
        next,
        now: inputs.now,
    }
}

fn durability(durability: Option<Durability>, shared: bool) -> &'static str {
    match durability {
        Some(Durability::TwoCopies) => "two-copies",
        Some(Durability::Quorum) => "quorum",
        Some(Durability::OneCopy) => "one-copy",
        None if shared => "two-copies",
        None => "one-copy",
    }
}

fn primary(
    inputs: &Inputs<'_>,
    leader: Option<&ServerName>,
    leading: Option<&DbServer>,
    problems: &mut Vec<Problem>,
) {
    let Some(leader) = leader else {
        return problems.push(Problem {
            health: Health::Down,
            what: "no database server may take writes: nobody holds the lease".to_owned(),
            done: Some("the SQL proxies hold new connections for a while".to_owned()),
            next: vec!["pontoon events".to_owned()],
        });
    };
    let Some(server) = leading.filter(|server| server.state != ServerState::Unreachable) else {
        let automatic = inputs.config.db.as_ref().and_then(|db| db.failover) == Some(Failover::Auto);
        return problems.push(Problem {
            health: Health::Degraded,
            what: format!("the agent of the primary {leader} does not answer"),
            done: Some(match automatic {
                true => "a replica in sync takes over when the lease has run out".to_owned(),
                false => "its database may well run; nobody takes over by itself".to_owned(),
            }),
            next: vec![format!("on {leader}: systemctl status pontoon-agent")],
        });
    };
    if let Some(database) = server
        .database
        .as_ref()
        .filter(|database| database.role == DatabaseRole::Down)
    {
        let error = database.error.as_deref().unwrap_or("no message");
        problems.push(Problem {
            health: Health::Down,
            what: format!("the primary database on {leader} does not answer: {error}"),
            done: Some("the SQL proxies hold new connections for a while".to_owned()),
            next: vec![
                format!("look at the database's log on {leader}"),
                "pontoon events".to_owned(),
            ],
        });
    }
    if inputs.write_left.is_some_and(|left| left.is_zero()) {
        problems.push(Problem {
            health: Health::Down,
            what: format!("the lease of {leader} has run out: no write is sent to it"),
            done: Some("it is renewed as soon as the lease store answers".to_owned()),
            next: vec!["pontoon lease probe".to_owned(), "pontoon events".to_owned()],
        });
    }
}

fn replicas(inputs: &Inputs<'_>, leader: Option<&ServerName>, problems: &mut Vec<Problem>) {
    for server in inputs
        .servers
        .iter()
        .filter(|server| Some(&server.name) != leader)
    {
        let name = &server.name;
        let mut add = |what: String, done: &str, next: Vec<String>| {
            problems.push(Problem {
                health: Health::Degraded,
                what,
                done: Some(done.to_owned()),
                next,
            });
        };
        if server.state == ServerState::Unreachable {
            add(
                format!("the agent on {name} does not answer"),
                "its copy may go on growing; it cannot be promoted meanwhile",
                vec![format!("on {name}: systemctl status pontoon-agent")],
            );
            continue;
        }
        if let (Some(errant), Some(leader)) = (&server.errant, leader) {
            add(
                reseed::words(name, leader, errant).join("; "),
                "it is not promoted: what it has alone would become everybody's",
                vec![format!("pontoon db reseed {name}")],
            );
            continue;
        }
        match server.failover.as_ref().map(|report| report.state) {
            Some(State::Stranded) => add(
                format!("{name} is named by the lease, and its copy may lack acknowledged writes"),
                "nothing is opened by itself",
                vec![
                    "bring the server back whose copy has them".to_owned(),
                    format!("pontoon db failover {name} --accept-loss N"),
                ],
            ),
            Some(State::Rejoin) => add(
                format!("{name} is on its way to follow"),
                "it goes on by itself",
                vec!["pontoon events".to_owned()],
            ),
            _ => {}
        }
        let Some(database) = &server.database else {
            continue;
        };
        let error = database.error.as_deref().unwrap_or("no message");
        if database.role == DatabaseRole::Down {
            add(
                format!("the database on {name} does not answer: {error}"),
                "the primary goes on",
                vec![format!("look at the database's log on {name}")],
            );
        } else if database.error.is_some() {
            add(
                format!("replication to {name} does not run: {error}"),
                "the primary goes on; this copy grows old",
                vec![format!("pontoon db unstick {name}")],
            );
        } else if let Some(lag) = database.lag_ms.filter(|lag| *lag > LAG_WORTH_A_LINE_MS) {
            add(
                format!("{name} is {} s behind", lag / 1000),
                "it catches up by itself if it is fast enough",
                vec!["pontoon db status".to_owned()],
            );
        }
    }
}

/// The store, the pauses and what keeps failover from running.
fn coordination(inputs: &Inputs<'_>, problems: &mut Vec<Problem>) {
    if let Some(trouble) = inputs.trouble {
        problems.push(Problem {
            health: Health::Degraded,
            what: format!("failover does not run on {}: {trouble}", inputs.me),
            done: Some("its database stays as it is, and nothing is promoted here".to_owned()),
            next: vec![format!("pontoon explain {}", trouble.code)],
        });
    }
    for server in &inputs.servers {
        let Some(report) = &server.failover else { continue };
        let name = &server.name;
        if report.paused {
            problems.push(Problem {
                health: Health::Degraded,
                what: format!("failover is paused on {name}"),
                done: Some("nothing is promoted, started or killed there by itself".to_owned()),
                next: vec!["pontoon db resume".to_owned()],
            });
        }
        if let (Some(error), Some(ms)) = (&report.store_error, report.store_ms)
            && ms > SILENCE_WORTH_A_LINE_MS
        {
            problems.push(Problem {
                health: Health::Degraded,
                what: format!(
                    "the lease store has not answered {name} for {} s: {error}",
                    ms / 1000
                ),
                done: Some("the primary goes on; nobody can take over meanwhile".to_owned()),
                next: vec![format!("on {name}: pontoon lease probe")],
            });
        }
    }
}

/// Whether anything is lost if the primary dies now.
fn worth(record: &Record, inputs: &Inputs<'_>, problems: &mut Vec<Problem>) {
    use pontoon_decide::failover::Mode;
    if record.policy.mode == Mode::Available || !record.sync.is_empty() {
        return;
    }
    let leader = &record.leader;
    let since = inputs
        .servers
        .iter()
        .find(|server| server.name == *leader)
        .and_then(|server| server.failover.as_ref())
        .map(|report| format!(" for {} s", report.state_ms / 1000))
        .unwrap_or_default();
    problems.push(Problem {
        health: Health::Degraded,
        what: format!("{leader} is alone{since}: what it acknowledges is on no other server, and nobody takes over by itself"),
        done: Some("a replica that follows closely is taken in by itself".to_owned()),
        next: vec!["pontoon events".to_owned()],
    });
}

/// The two next commands: of the worst problem, then what is always worth knowing.
fn next(problems: &[Problem], shared: bool, in_sync: &[ServerName]) -> Vec<String> {
    let mut next: Vec<String> = Vec::new();
    let usual = match in_sync.first() {
        Some(replica) if shared => format!("pontoon db switchover {replica}"),
        _ => "pontoon status".to_owned(),
    };
    let all = problems.iter().flat_map(|problem| problem.next.iter().cloned());
    for command in all.chain(["pontoon events".to_owned(), usual]) {
        if !next.contains(&command) && next.len() < 2 {
            next.push(command);
        }
    }
    next
}

#[cfg(test)]
#[path = "db_status_tests.rs"]
mod tests;
