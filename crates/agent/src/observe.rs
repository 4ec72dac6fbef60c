//! What this server can say about itself: once a second for the heartbeats, and on request for plans and the status.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_config::Config;
use pontoon_decide::facts::{DatabaseFacts, ServerFacts};
use pontoon_decide::plan::plan;
use pontoon_fleet::{
    Code, DatabaseReport, DatabaseRole, EventKind, Refusal, ServerName, Tier, TierDetail, TierReport,
};
use pontoon_helper::Node;
use pontoon_lease::{LeaseStore, Single};
use pontoon_rt::files;

use crate::api::{API_VERSION, Health, Status};
use crate::core::Agent;
use crate::status::StatusInputs;
use crate::{acme, db_status, detect, publish, status as verdict};

/// Between two looks at the database and the load.
const INTERVAL: Duration = Duration::from_secs(1);

/// Between two beats that the primary's agent writes into the database, so that replicas can tell their lag.
const BEAT: Duration = Duration::from_millis(500);

/// How long the database may take to say how it is.
const DATABASE_PATIENCE: Duration = Duration::from_secs(3);

/// Runs until shutdown.
pub(crate) async fn run(agent: Arc<Agent>) {
    let beats = tokio::spawn(beat(agent.clone()));
    let mut cpu = CpuTimes::read();
    loop {
        look_at_lease(&agent).await;
        look_at_database(&agent).await;
        let now = CpuTimes::read();
        agent.known().load_percent = now.percent_since(&cpu);
        cpu = now;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = agent.shutdown.requested() => break,
        }
    }
    beats.abort();
}

/// The answer to `GET /v1/status`.
pub(crate) fn status(agent: &Agent) -> Status {
    let now = agent.clock.unix();
    let (Some(membership), Some(view)) = (agent.membership(), publish::view(agent)) else {
        return Status {
            version: API_VERSION,
            fleet: agent
                .membership()
                .map(|membership| membership.identity.current().fleet().to_string()),
            me: agent.membership().map(|membership| membership.me),
            revision: agent.revision(),
            health: Health::Healthy,
            problems: Vec::new(),
            lease: None,
            lease_store: "single".to_owned(),
            servers: Vec::new(),
            recent: agent.events().tail(5),
            now,
        };
    };
    let reports = publish::observed(agent);
    let (rates, lease) = {
        let known = agent.known();
        let rates: BTreeMap<_, _> = known
            .peers
            .iter()
            .map(|(name, heard)| (name.clone(), heard.edge_rate.as_ref()))
            .chain([(membership.me.clone(), known.edge_rate.as_ref())])
            .filter_map(|(name, rate)| Some((name, rate?.per_second?)))
            .collect();
        (rates, known.lease.clone())
    };
    let config = agent.active().map(|active| active.config);
    verdict::status(StatusInputs {
        me: &membership.me,
        view: &view,
        reports: &reports,
        rates: &rates,
        lease,
        lease_store: config.as_deref().map_or("single", db_status::lease_store),
        failover: db_status::of_failover(agent),
        acme: acme::problems(agent),
        renewed_by_us: acme::renewed_by_us(agent),
        recent: agent.events().tail(8),
        now,
    })
}

/// What was found on this server, for a plan.
pub(crate) async fn facts(agent: &Agent) -> Result<ServerFacts, Refusal> {
    let upstream = agent
        .active()
        .and_then(|active| active.config.app.as_ref().map(|app| app.upstream));
    Ok(detect::facts(database_facts(agent).await?, upstream).await)
}

/// Why this server could not carry `config` out; fine when it could.
pub(crate) async fn blockers(agent: &Agent, config: &Config, me: &ServerName) -> Result<(), Refusal> {
    let mine = BTreeMap::from([(me.clone(), facts(agent).await?)]);
    let active = agent.active();
    let active = active
        .as_ref()
        .map(|active| (&*active.config, active.committed.revision));
    // P004 is about the servers whose facts are not here: each of them checks its own.
    match plan(active, config, &mine)
        .blockers
        .into_iter()
        .find(|blocker| blocker.code != Code::P004)
    {
        Some(blocker) => Err(blocker),
        None => Ok(()),
    }
}

/// The database of the node file, as a plan needs it.
pub(crate) async fn database_facts(agent: &Agent) -> Result<Option<DatabaseFacts>, Refusal> {
    let Some(node) = Node::load(&agent.paths.node_file())?.database else {
        return Ok(None);
    };
    let helper = agent.helper();
    let settings_active = helper.state().await.is_ok_and(|state| state.settings_written);
    let moved = agent
        .active()
        .and_then(|active| active.config.db.clone())
        .filter(|_| settings_active);
    let facts = DatabaseFacts {
        size_bytes: tree_bytes(&node.datadir),
        databases: directories(&node.datadir),
        settings_active,
        ..detect::database::facts_of_node(&node)
    };
    Ok(Some(match moved {
        Some(db) => DatabaseFacts {
            socket: db.server_socket.or(facts.socket),
            port: Some(db.server_port),
            ..facts
        },
        None => facts,
    }))
}

/// Notes what a tier of this server reported, and what changed since its last report.
/// A move that is older than this was told by an agent that is gone.
const TOLD_ALREADY_MS: u64 = 10_000;

pub(crate) fn heard_from_tier(agent: &Agent, report: TierReport) {
    let mut events = Vec::new();
    let mut known = agent.known();
    if let TierDetail::Edge(now) = &report.detail {
        let before = match known.tiers.get(&Tier::Edge) {
            Some((
                TierReport {
                    detail: TierDetail::Edge(before),
                    pid,
                    ..
                },
                _,
            )) if *pid == report.pid => Some(before),
            _ => None,
        };
        for upstream in &now.upstreams {
            let was =
                before.and_then(|before| before.upstreams.iter().find(|old| old.server == upstream.server));
            match (was.map(|was| was.healthy), upstream.healthy) {
                (Some(true), false) => events.push(EventKind::UpstreamDown {
                    upstream: upstream.server.clone(),
                    reason: upstream
                        .reason
                        .clone()
                        .unwrap_or_else(|| "no reason given".to_owned()),
                }),
                (Some(false), true) => events.push(EventKind::UpstreamUp {
                    upstream: upstream.server.clone(),
                }),
                _ => {}
            }
        }
        known.edge_rate = Some(Rate::next(
            known.edge_rate.as_ref(),
            report.pid,
            now.requests_total,
        ));
    }
    if let TierDetail::Address(now) = &report.detail {
        let before = match known.tiers.get(&Tier::Address) {
            Some((before, _)) if before.pid == report.pid => match &before.detail {
                TierDetail::Address(before) => before.moves.last().map_or(0, |last| last.number),
                _ => 0,
            },
            // What an agent before this one has told is not told again.
            Some(_) => 0,
            None => now
                .moves
                .iter()
                .rev()
                .find(|told| told.at.0 + TOLD_ALREADY_MS < agent.clock.unix().0)
                .map_or(0, |last| last.number),
        };
        if let (true, Some(gateway)) = (now.gateway_returns, now.gateway) {
            keep_gateway(&agent.paths.returning_gateway_file(), gateway);
        }
        for new in now.moves.iter().filter(|new| new.number > before) {
            events.push(match new.taken {
                true => EventKind::AddressesTaken {
                    home: new.home.clone(),
                    reason: new.why.clone(),
                },
                false => EventKind::AddressesDropped {
                    home: new.home.clone(),
                    reason: new.why.clone(),
                },
            });
        }
    }
    known.tiers.insert(report.tier(), (report, Instant::now()));
    drop(known);
    for event in events {
        agent.record(event);
    }
}

/// Writes down that this gateway returns what is sent from a moving address, unless the file says so already.
fn keep_gateway(path: &Path, gateway: IpAddr) {
    let text = format!("{gateway}\n");
    let same = files::read_limited(path, 64).is_ok_and(|known| known.as_deref() == Some(text.as_bytes()));
    if !same && let Err(error) = files::write_atomic(path, text.as_bytes(), 0o640) {
        tracing::warn!(%error, "what the gateway does was not written down");
    }
}

/// Requests per second of one process, smoothed.
pub(crate) struct Rate {
    pid: u32,
    total: u64,
    at: Instant,
    /// In thousandths; `None` until two reports came.
    pub(crate) per_second: Option<u64>,
}

impl Rate {
    pub(crate) fn next(before: Option<&Rate>, pid: u32, total: u64) -> Rate {
        let at = Instant::now();
        let per_second = before
            .filter(|before| before.pid == pid && before.total <= total)
            .and_then(|before| {
                let span = u64::try_from(at.duration_since(before.at).as_millis()).unwrap_or(u64::MAX);
                if span == 0 {
                    return before.per_second;
                }
                let fresh = (total - before.total).saturating_mul(1_000_000) / span;
                // Tiers report once a second and heartbeats come twice: smooth, so that the figure does not flicker.
                Some(
                    before
                        .per_second
                        .map_or(fresh, |old| old.saturating_mul(3).saturating_add(fresh) / 4),
                )
            });
        Rate {
            pid,
            total,
            at,
            per_second,
        }
    }
}

/// The keeper reads its lease store; the others hear of the record in its heartbeats.
async fn look_at_lease(agent: &Agent) {
    let Some(membership) = agent.membership() else {
        return;
    };
    if membership.keeper != membership.me || agent.has_shared_lease() {
        return;
    }
    match Single::new(agent.paths.lease_file()).read().await {
        Ok(Some((record, _))) => agent.learn_lease(&record),
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "the lease cannot be read; the last known one holds"),
    }
}

async fn look_at_database(agent: &Agent) {
    let database = agent.database.read().await.clone();
    let report = match database {
        None => None,
        Some(database) => Some(
            match tokio::time::timeout(DATABASE_PATIENCE, database.report()).await {
                Ok(report) => report,
                Err(_) => DatabaseReport {
                    engine: database.node().engine,
                    version: database.node().version.clone(),
                    role: DatabaseRole::Down,
                    read_only: true,
                    position: String::new(),
                    lag_ms: None,
                    error: Some(format!("no answer within {} s", DATABASE_PATIENCE.as_secs())),
                },
            },
        ),
    };
    let mut known = agent.known();
    let before = std::mem::replace(&mut known.database, report.clone());
    drop(known);
    for event in database_events(before.as_ref(), report.as_ref()) {
        agent.record(event);
    }
    agent.changed.notify_one();
}

/// What happened between two looks.
fn database_events(before: Option<&DatabaseReport>, now: Option<&DatabaseReport>) -> Vec<EventKind> {
    let (Some(before), Some(now)) = (before, now) else {
        return Vec::new();
    };
    let mut events = Vec::new();
    let reason = || now.error.clone().unwrap_or_else(|| "no message".to_owned());
    match (before.role == DatabaseRole::Down, now.role == DatabaseRole::Down) {
        (false, true) => events.push(EventKind::DatabaseDown { reason: reason() }),
        (true, false) => events.push(EventKind::DatabaseUp {
            version: now.version.clone(),
        }),
        _ => {}
    }
    let broken = |report: &DatabaseReport| report.role == DatabaseRole::Replica && report.error.is_some();
    if !broken(before) && broken(now) && before.role == DatabaseRole::Replica {
        events.push(EventKind::ReplicationBroken { reason: reason() });
    }
    events
}

/// On the primary: a row that says what time it is, so that replicas can tell how far they are behind.
async fn beat(agent: Arc<Agent>) {
    loop {
        tokio::time::sleep(BEAT).await;
        let Some(membership) = agent.membership() else {
            continue;
        };
        let leads = agent
            .known()
            .lease
            .as_ref()
            .is_some_and(|lease| lease.leader == membership.me);
        let database = agent.database.read().await.clone();
        // Where the primary can change, its failover beats, and only while the database is open.
        if let (true, Some(database)) = (leads && agent.works().is_none(), database)
            && let Ok(Err(refusal)) = tokio::time::timeout(DATABASE_PATIENCE, database.heartbeat(BEAT)).await
        {
            tracing::debug!(%refusal, "no beat was written");
        }
    }
}

/// CPU time as `/proc/stat` counts it (proc_stat(5)).
struct CpuTimes {
    busy: u64,
    all: u64,
}

impl CpuTimes {
    fn read() -> CpuTimes {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .filter_map(|word| word.parse().ok())
            .collect();
        let all: u64 = ticks.iter().take(8).sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        CpuTimes {
            busy: all.saturating_sub(idle),
            all,
        }
    }

    fn percent_since(&self, before: &CpuTimes) -> u8 {
        let all = self.all.saturating_sub(before.all);
        if all == 0 {
            return 0;
        }
        u8::try_from(self.busy.saturating_sub(before.busy) * 100 / all).unwrap_or(100)
    }
}

/// Bytes below a directory, as far as they can be seen.
fn tree_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => tree_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Schemas of the user's: one directory each, besides the server's own.
fn directories(datadir: &Path) -> u32 {
    const OWN: [&str; 4] = ["mysql", "performance_schema", "sys", "pontoon"];
    let Ok(entries) = std::fs::read_dir(datadir) else {
        return 0;
    };
    let count = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| {
            entry
                .file_name()
                .to_str()
                .is_some_and(|name| !OWN.contains(&name) && !name.starts_with('#'))
        })
        .count();
    u32::try_from(count).unwrap_or(u32::MAX)
}
