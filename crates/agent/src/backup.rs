//! Copies of the database in an object store (`[db.backup]`): when and by whom they are made, the archive of the binary
//! log, and how both stand. What a copy is, and how one goes back, is in `pontoon_backup`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pontoon_backup::archive::Archiver;
use pontoon_backup::{About, Catalog, Manifest, Place, Store, apply_retention, new_id, upload};
use pontoon_config::Backup;
use pontoon_fleet::units::human_bytes;
use pontoon_fleet::{Code, DatabaseReport, DatabaseRole, EventKind, Refusal, Role, ServerName, UnixMillis};
use pontoon_helper::BackupOptions;
use pontoon_rt::http::Call;
use serde::{Deserialize, Serialize};

use crate::api::{BackupStatus, Backups, DbStatus, Health, Problem, Progress};
use crate::core::Agent;
use crate::dial;
use crate::reporter::Reporter;

/// How often it is looked whether a copy is due.
const LOOK: Duration = Duration::from_secs(20);

/// How long after one that failed.
const RETRY: Duration = Duration::from_secs(600);

/// A replica that is further behind is not copied from.
const FRESH_MS: u64 = 60_000;

/// How long a copy on another server may take.
const LONGEST: Duration = Duration::from_secs(86_400);

/// How old the answer of the store may be that a status shows, and how long a status waits for one.
const STATUS_AGE: Duration = Duration::from_secs(10);
const STATUS_PATIENCE: Duration = Duration::from_secs(4);

/// An archive that is further behind than this, and ten times its own period, is a problem.
const ARCHIVE_LAG: Duration = Duration::from_secs(60);

/// Where the tasks of this module and those who ask meet.
#[derive(Default)]
pub(crate) struct Desk {
    /// Held by who makes a copy: one at a time.
    making: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Up to when the archive has everything, where this server writes it.
    archived_to: Option<UnixMillis>,
    /// Why it does not.
    trouble: Option<String>,
    /// The newest whole copy that was seen in the store, and where that is.
    newest: Option<(Place, UnixMillis)>,
    /// When the last try of this server failed.
    failed: Option<Instant>,
    status: Option<(Instant, Place, BackupStatus)>,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a server says that was asked for a copy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Made {
    id: String,
    server: String,
    bytes: u64,
}

/// Archives and makes copies until shutdown.
pub(crate) async fn run(agent: Arc<Agent>) {
    let work = async { tokio::join!(archive(&agent), keep_schedule(&agent)) };
    tokio::select! {
        _ = work => {}
        () = agent.shutdown.requested() => {}
    }
}

fn wanted(agent: &Agent) -> Option<(Backup, Place)> {
    let active = agent.active()?;
    let backup = active.config.db.as_ref()?.backup.clone()?;
    Some((backup, Place::of(&active.config)?))
}

/// The binary log of the primary goes into the archive, again and again.
async fn archive(agent: &Arc<Agent>) {
    let mut archiver: Option<(Place, Archiver)> = None;
    let mut last_refusal = String::new();
    loop {
        let pause = match wanted(agent).filter(|_| is_primary(agent)) {
            None => {
                // Another is primary, and what this one knows of the archive grows old.
                archiver = None;
                let mut state = agent.backups.state();
                (state.archived_to, state.trouble) = (None, None);
                Duration::from_secs(1)
            }
            Some((backup, place)) => {
                let outcome = archive_once(agent, &place, &mut archiver).await;
                let mut state = agent.backups.state();
                match outcome {
                    Ok(seen) => {
                        (state.archived_to, state.trouble) = (Some(seen), None);
                        last_refusal.clear();
                    }
                    Err(refusal) => {
                        let text = one_line(&refusal);
                        if text != last_refusal {
                            tracing::warn!(%refusal, "the binary log is not archived");
                        }
                        last_refusal.clone_from(&text);
                        state.trouble = Some(text);
                    }
                }
                backup.archive_every
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn archive_once(
    agent: &Arc<Agent>,
    place: &Place,
    archiver: &mut Option<(Place, Archiver)>,
) -> Result<UnixMillis, Refusal> {
    if archiver.as_ref().is_none_or(|(of, _)| of != place) {
        let member = agent.member()?;
        let engine = engine(agent)?;
        let new = Archiver::new(Store::open(place)?, member.me.as_str(), engine);
        *archiver = Some((place.clone(), new));
    }
    let Some((_, archiver)) = archiver else {
        return Err(Refusal::new(Code::N007, "there is no archiver"));
    };
    let begun = agent.clock.unix();
    let epoch = agent.known().lease.as_ref().map_or(0, |lease| lease.epoch.0);
    let helper = agent.helper();
    let clock = agent.clock.clone();
    archiver.tick(&helper, epoch, &move || clock.unix()).await?;
    Ok(begun)
}

fn engine(agent: &Agent) -> Result<pontoon_fleet::Engine, Refusal> {
    let active = agent.config()?;
    let db = active.config.db.as_ref();
    db.map(|db| db.engine)
        .ok_or_else(|| Refusal::new(Code::D009, "this fleet has no database"))
}

fn is_primary(agent: &Agent) -> bool {
    let Some(membership) = agent.membership() else {
        return false;
    };
    let known = agent.known();
    let leads = known
        .lease
        .as_ref()
        .is_some_and(|lease| lease.leader == membership.me);
    leads
        && known
            .database
            .as_ref()
            .is_some_and(|report| report.role == DatabaseRole::Primary)
}

/// A copy is made when one is due, by the server whose turn it is.
async fn keep_schedule(agent: &Arc<Agent>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some((backup, place)) = wanted(agent) else {
            continue;
        };
        let mine = agent.membership().zip(source(agent).ok());
        if mine.is_none_or(|(membership, source)| membership.me != source) {
            continue;
        }
        let waits = agent.backups.making.try_lock().is_err()
            || agent
                .backups
                .state()
                .failed
                .is_some_and(|failed| failed.elapsed() < RETRY);
        match is_due(agent, &backup, &place).await {
            Ok(true) if !waits => {
                // What went wrong is on the timeline.
                let _ = make(agent, None).await;
            }
            Ok(_) => {}
            Err(refusal) => tracing::warn!(%refusal, "whether a copy is due is not known"),
        }
    }
}

async fn is_due(agent: &Agent, backup: &Backup, place: &Place) -> Result<bool, Refusal> {
    let now = agent.clock.unix();
    let known = agent.backups.state().newest.clone();
    if let Some((of, at)) = known
        && of == *place
        && now.since(at) < backup.every
    {
        return Ok(false);
    }
    // Another may have made one meanwhile.
    let catalog = Catalog::load(&Store::open(place)?).await?;
    let newest = catalog.copies.iter().map(|copy| copy.begun).max();
    agent.backups.state().newest = newest.map(|at| (place.clone(), at));
    Ok(newest.is_none_or(|at| now.since(at) >= backup.every))
}

/// Whom a copy is taken from: a replica that is well, else the primary.
fn source(agent: &Agent) -> Result<ServerName, Refusal> {
    let active = agent.config()?;
    let me = agent.member()?.me;
    let known = agent.known();
    let leader = known.lease.as_ref().map(|lease| lease.leader.clone());
    let report = |name: &ServerName| -> Option<DatabaseReport> {
        match *name == me {
            true => known.database.clone(),
            false => known
                .peers
                .get(name)
                .filter(|heard| !heard.silent)
                .and_then(|heard| heard.report.database.clone()),
        }
    };
    let well = active.config.with_role(Role::Db).find(|server| {
        server.delay.is_none()
            && report(&server.name).is_some_and(|report| {
                report.role == DatabaseRole::Replica
                    && report.error.is_none()
                    && report.lag_ms.is_some_and(|lag| lag <= FRESH_MS)
            })
    });
    well.map(|server| server.name.clone()).or(leader).ok_or_else(|| {
        Refusal::new(Code::F001, "there is no database to copy: nobody leads")
            .next("see how the databases stand", "pontoon db status")
    })
}

/// `pontoon db backup`: on whichever server is the best source.
pub(crate) async fn order(
    agent: &Arc<Agent>,
    on: Option<ServerName>,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let active = agent.config()?;
    if active.config.db.as_ref().is_none_or(|db| db.backup.is_none()) {
        return Err(Refusal::new(Code::C003, "it is not said where copies go")
            .because("the configuration has no [db.backup]")
            .next("write it, with a bucket at the least; then", "pontoon apply"));
    }
    let server = match on {
        Some(server) => server,
        None => source(agent)?,
    };
    let entry = active.config.server(&server);
    if !entry.is_some_and(|entry| active.config.runs_database(entry)) {
        return Err(match entry {
            None => dial::no_such_server(&server, &active.config),
            Some(_) => Refusal::new(Code::F004, format!("{server} has no database"))
                .next("see who has one", "pontoon db status"),
        });
    }
    reporter
        .step(&server, "copying the database to the object store")
        .await;
    let made = if server == agent.member()?.me {
        make(agent, Some(reporter)).await?
    } else {
        let address = dial::address_of(agent, &server)?;
        let call = Call::post(server.as_str(), "/p/v1/backup").timeout(LONGEST);
        dial::ask(agent, &server, address, &call, Some(&())).await?
    };
    reporter
        .done(
            &server,
            format!("copied the database: {}, {}", made.id, human_bytes(made.bytes)),
        )
        .await;
    Ok(format!(
        "{} is whole; `pontoon db backups` shows to when it leads",
        made.id
    ))
}

/// For another server that asks. Goes on when that one does not wait for it.
pub(crate) async fn here(agent: &Arc<Agent>) -> Result<Made, Refusal> {
    let agent = agent.clone();
    let making = tokio::spawn(async move { make(&agent, None).await });
    making
        .await
        .unwrap_or_else(|error| Err(Refusal::new(Code::N007, error.to_string())))
}

/// Makes a copy of this server's database, then removes what is older than what is kept. Waits for one that is under way.
async fn make(agent: &Arc<Agent>, reporter: Option<&Reporter>) -> Result<Made, Refusal> {
    let _one = agent.backups.making.lock().await;
    let outcome = copy(agent, reporter).await;
    match &outcome {
        Ok((manifest, place)) => {
            let mut state = agent.backups.state();
            state.newest = Some((place.clone(), manifest.begun));
            (state.failed, state.status) = (None, None);
            drop(state);
            agent.record(EventKind::BackupMade {
                id: manifest.id.clone(),
                bytes: manifest.bytes,
            });
        }
        Err(refusal) => {
            agent.backups.state().failed = Some(Instant::now());
            tracing::error!(%refusal, "no copy of the database was made");
            agent.record(EventKind::BackupFailed {
                code: refusal.code,
                reason: one_line(refusal),
            });
        }
    }
    let (manifest, place) = outcome?;
    if let Some((backup, _)) = wanted(agent)
        && let Err(refusal) = retain(agent, &backup, &place, &manifest).await
    {
        tracing::warn!(%refusal, "copies that are no longer kept are still there");
    }
    Ok(Made {
        id: manifest.id,
        server: manifest.server,
        bytes: manifest.bytes,
    })
}

async fn retain(agent: &Agent, backup: &Backup, place: &Place, newest: &Manifest) -> Result<(), Refusal> {
    let store = Store::open(place)?;
    apply_retention(&store, newest, agent.clock.unix(), backup.keep)
        .await
        .map(drop)
}

async fn copy(agent: &Arc<Agent>, reporter: Option<&Reporter>) -> Result<(Manifest, Place), Refusal> {
    let (backup, place) =
        wanted(agent).ok_or_else(|| Refusal::new(Code::C003, "it is not said where copies go"))?;
    let store = Store::open(&place)?;
    let member = agent.member()?;
    let database = agent.database.read().await.clone().ok_or_else(|| {
        Refusal::new(Code::D009, "this server has no database under its care")
            .next("see who has one", "pontoon db status")
    })?;
    let begun = agent.clock.unix();
    let options = BackupOptions {
        bytes_per_second: backup.rate,
    };
    let mut open = database.open_backup(&options).await?;
    let fleet = agent.config()?.config.fleet.name.to_string();
    let about = About {
        id: new_id(begun, member.me.as_str()),
        fleet,
        server: member.me.to_string(),
        primary: is_primary(agent),
        engine: database.node().engine,
        engine_version: database.node().version.clone(),
        begun,
        settings: open.settings,
        position: open.position,
    };
    let clock = agent.clock.clone();
    let mut tell = |now: pontoon_helper::frame::Progress| {
        if let Some(reporter) = reporter {
            reporter.say_if_room(Progress::Bytes {
                done: now.bytes,
                total: Some(now.total),
            });
        }
    };
    let manifest = upload(&store, about, &mut open.stream, move || clock.unix(), &mut tell).await?;
    Ok((manifest, place))
}

/// `pontoon db backups`
pub(crate) async fn list(agent: &Agent) -> Result<Backups, Refusal> {
    let (_, place) = wanted(agent).ok_or_else(|| {
        Refusal::new(Code::C003, "it is not said where copies are")
            .because("the configuration has no [db.backup]")
            .next(
                "look into a store",
                "pontoon db backups --from s3://BUCKET/PREFIX",
            )
    })?;
    let store = Store::open(&place)?;
    let catalog = Catalog::load(&store).await?;
    Ok(Backups::of(&catalog, &store, agent.clock.unix()))
}

/// Adds to a status how copies and archive stand; asks the store when it was not asked lately.
pub(crate) async fn add_to(agent: &Agent, status: &mut DbStatus) {
    let Some((backup, place)) = wanted(agent) else {
        return;
    };
    let kept = agent.backups.state().status.clone();
    let kept = kept.filter(|(at, of, _)| at.elapsed() < STATUS_AGE && *of == place);
    let mut shown = match kept {
        Some((_, _, shown)) => shown,
        None => {
            let shown = look(&place).await;
            agent.backups.state().status = Some((Instant::now(), place, shown.clone()));
            shown
        }
    };
    {
        let state = agent.backups.state();
        shown.archived_to = shown.archived_to.max(state.archived_to);
        shown.trouble = shown.trouble.or_else(|| state.trouble.clone());
    }
    for problem in problems(&backup, &shown, status.now) {
        status.health = status.health.max(problem.health);
        status.problems.push(problem);
    }
    status.backup = Some(shown);
}

async fn look(place: &Place) -> BackupStatus {
    let mut shown = BackupStatus {
        place: format!("s3://{}/{}", place.bucket, place.prefix),
        last: None,
        archived_to: None,
        trouble: None,
    };
    let looked = async { Catalog::load(&Store::open(place)?).await };
    match tokio::time::timeout(STATUS_PATIENCE, looked).await {
        Ok(Ok(catalog)) => {
            shown.archived_to = catalog.archived_to();
            shown.last = catalog.lines().into_iter().next();
        }
        Ok(Err(refusal)) => shown.trouble = Some(one_line(&refusal)),
        Err(_) => shown.trouble = Some("the object store does not answer".to_owned()),
    }
    shown
}

/// What is not as it should be. Pure.
fn problems(backup: &Backup, shown: &BackupStatus, now: UnixMillis) -> Vec<Problem> {
    let problem = |what: String, next: &str| Problem {
        health: Health::Degraded,
        what,
        done: None,
        next: vec![next.to_owned()],
    };
    let mut found = Vec::new();
    if let Some(trouble) = &shown.trouble {
        found.push(problem(format!("backups: {trouble}"), "pontoon db backups"));
        return found;
    }
    match &shown.last {
        None => found.push(problem(
            "there is no whole copy of the database in the object store yet".to_owned(),
            "pontoon db backup",
        )),
        Some(last) if now.since(last.from) > 2 * backup.every => found.push(problem(
            format!(
                "the last copy of the database is {} hours old, and one is due every {}",
                now.since(last.from).as_secs() / 3600,
                pontoon_fleet::units::format_duration(backup.every)
            ),
            "pontoon db backup",
        )),
        Some(_) => {}
    }
    let lag = shown.archived_to.map(|at| now.since(at));
    let limit = ARCHIVE_LAG.max(10 * backup.archive_every);
    if let Some(lag) = lag.filter(|lag| *lag > limit) {
        found.push(problem(
            format!("the archive of the binary log is {} s behind", lag.as_secs()),
            "pontoon db backups",
        ));
    }
    found
}

fn one_line(refusal: &Refusal) -> String {
    let mut text = refusal.what.clone();
    if let Some(first) = refusal.evidence.first() {
        text.push_str(": ");
        text.push_str(first);
    }
    text
}

#[cfg(test)]
mod tests {
    use pontoon_backup::CopyLine;

    use super::*;

    #[test]
    fn what_is_late_is_named() {
        let backup = Backup {
            bucket: "b".to_owned(),
            prefix: None,
            endpoint: None,
            credentials: None,
            every: Duration::from_secs(86_400),
            keep: Duration::from_secs(14 * 86_400),
            archive_every: Duration::from_secs(5),
            rate: None,
        };
        let now = UnixMillis(1_000 * 86_400_000);
        let mut shown = BackupStatus {
            place: "s3://b/p".to_owned(),
            last: None,
            archived_to: None,
            trouble: None,
        };
        assert_eq!(problems(&backup, &shown, now).len(), 1);
        let line = |ago: u64| CopyLine {
            id: "x".to_owned(),
            server: "a".to_owned(),
            primary: true,
            engine_version: "10.11.19".to_owned(),
            bytes: 1,
            from: UnixMillis(now.0 - ago),
            to: now,
        };
        (shown.last, shown.archived_to) = (Some(line(86_400_000)), Some(UnixMillis(now.0 - 9_000)));
        assert_eq!(problems(&backup, &shown, now), []);
        (shown.last, shown.archived_to) = (Some(line(49 * 3_600_000)), Some(UnixMillis(now.0 - 90_000)));
        let found = problems(&backup, &shown, now);
        assert!(
            found[0].what.contains("49 hours") && found[1].what.contains("90 s"),
            "{found:?}"
        );
        shown.trouble = Some("no".to_owned());
        assert_eq!(problems(&backup, &shown, now).len(), 1);
    }
}
