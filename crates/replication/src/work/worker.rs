//! [`Worker`]: one database, and the work on it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pontoon_decide::failover::{Outcome, Work};
use pontoon_fleet::{Code, Refusal, ServerName};
use pontoon_gtid::{Dialect, History, Position as GtidPosition};
use pontoon_rt::files;

use super::{BEAT, BoxFuture, Facts, OnlyHere, Peers, Works};
use crate::control::{Row, Session};
use crate::database::{Database, is_on};
use crate::flavor::{ReplicaStatus, Wanted};

/// How long a statement may take that waits for nobody.
pub(super) const SQL_PATIENCE: Duration = Duration::from_secs(10);

/// How long a question how it stands may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);

/// How long a beat may take before the next one goes another way.
const BEAT_PATIENCE: Duration = Duration::from_secs(1);

/// How many beats may hang at once.
const BEAT_ROWS: usize = 8;

/// Carries out the work of failover on the database of this machine.
pub struct Worker {
    pub(super) database: Arc<Database>,
    pub(super) wanted: Wanted,
    reason: Mutex<Option<Refusal>>,
    beats: Beats,
    pub(super) only_here: Mutex<Option<OnlyHere>>,
    tidied: AtomicBool,
    /// How often it was told in vain to do without its replicas.
    pub(super) unheard: AtomicU32,
    /// Who may not connect, because it could not be asked not to acknowledge.
    pub(super) shut_out: tokio::sync::Mutex<BTreeSet<ServerName>>,
}

/// Beats take turns in rows: one that hangs, because its acknowledgement got lost, holds its row.
#[derive(Default)]
struct Beats {
    sessions: [tokio::sync::Mutex<Option<Session>>; BEAT_ROWS],
    next: AtomicUsize,
    /// When the last one was written and acknowledged.
    last: Mutex<Option<Instant>>,
}

impl Beats {
    fn beaten(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether none came to its end for longer than one may take.
    fn are_late(&self) -> bool {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_none_or(|last| last.elapsed() > BEAT_PATIENCE)
    }
}

/// How it ended that is not as it should be.
pub(super) enum Ended {
    /// It may be asked again.
    Failed(Refusal),
    /// The copy has transactions that the leader lacks.
    Diverged(Refusal),
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Ended {
        match refusal.code {
            Code::D011 => Ended::Diverged(refusal),
            _ => Ended::Failed(refusal),
        }
    }
}

/// What a server has.
#[derive(Clone, Debug)]
pub(super) struct Has {
    /// Which transactions.
    pub history: History,
    /// How far it is: everything in it.
    pub position: GtidPosition,
    /// What it applied of a source.
    pub applied: GtidPosition,
    /// Whether clients may write.
    pub open: bool,
    now_us: u64,
}

impl Worker {
    /// On that database, which is wanted to be so: `wanted.failover` is taken for set.
    pub fn new(database: Arc<Database>, wanted: Wanted) -> Worker {
        Worker {
            database,
            wanted: Wanted {
                failover: true,
                replica: true,
                ..wanted
            },
            reason: Mutex::new(None),
            beats: Beats::default(),
            only_here: Mutex::default(),
            tidied: AtomicBool::new(false),
            unheard: AtomicU32::new(0),
            shut_out: tokio::sync::Mutex::default(),
        }
    }

    /// The database.
    pub fn database(&self) -> &Arc<Database> {
        &self.database
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.database.dialect()
    }

    pub(super) async fn run<S: AsRef<str>>(&self, statements: &[S]) -> Result<(), Refusal> {
        self.database.control.run(statements).await
    }

    pub(super) fn parse(&self, text: &str) -> Result<GtidPosition, Refusal> {
        GtidPosition::parse(self.dialect(), text).map_err(unreadable)
    }

    /// What this server has, without what it received and did not apply.
    pub(super) async fn has(&self) -> Result<Has, Refusal> {
        let rows = self
            .database
            .control
            .query(self.database.flavor.history())
            .await?;
        let row = rows
            .first()
            .ok_or_else(|| Refusal::new(Code::D008, "the database says nothing about itself"))?;
        self.read_has(row)
    }

    fn read_has(&self, row: &Row) -> Result<Has, Refusal> {
        let text = |column: &str| row.get(column).unwrap_or_default().replace(['\n', ' '], "");
        let (history, written, applied) = (text("history"), text("written"), text("applied"));
        // A fresh copy has nothing in its binary log yet: what it was copied with is where it stands as a replica.
        let all = match self.dialect() {
            Dialect::MariaDb => format!("{history},{applied}"),
            Dialect::MySql => history,
        };
        let applied = self.parse(&applied)?;
        let mut position = self.parse(&written)?;
        position.merge(&applied);
        Ok(Has {
            history: History::parse(self.dialect(), &all).map_err(unreadable)?,
            position,
            applied,
            open: !is_on(row.get("read_only")),
            now_us: row.number("now_us"),
        })
    }

    /// What a replica with that status has received: all that it has, and what waits to be applied.
    pub(super) fn received(&self, has: &Has, status: &ReplicaStatus) -> Result<GtidPosition, Refusal> {
        let mut received = has.position.clone();
        received.merge(&self.parse(&status.received)?);
        Ok(received)
    }

    async fn facts(&self) -> Result<Facts, Refusal> {
        let status = self.database.replica_status().await?;
        let has = self.has().await?;
        let follows = status.is_some();
        let status = status.unwrap_or_default();
        let received = self.received(&has, &status)?;
        let behind_ms = match follows {
            true => self.database.lag(has.now_us).await,
            false => None,
        };
        let late = has.open && self.beats.are_late();
        Ok(Facts {
            answers: true,
            closed: false,
            open: has.open,
            receiving: status.receiving || status.connecting,
            applying: status.applying,
            position: received.transactions(),
            received: match follows {
                true => received.to_string(),
                false => has.history.to_string(),
            },
            applied: has.applied.to_string(),
            behind_ms,
            late,
            waiting: late && self.waiting_commits().await? > 0,
            error: status.error,
        })
    }

    /// Ends what an earlier agent of this server, which was killed, left under way in the database.
    async fn tidy(&self) -> Result<(), Refusal> {
        if self.tidied.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let others = "SELECT id FROM information_schema.processlist \
                      WHERE user = 'pontoon' AND id <> CONNECTION_ID() AND command <> 'Sleep'";
        for row in self.database.control.query(others).await? {
            // It may have ended meanwhile.
            let _ = self
                .database
                .control
                .query(&format!("KILL {}", row.number("id")))
                .await;
        }
        Ok(())
    }

    /// How many commits wait for an acknowledgement at this moment.
    pub(super) async fn waiting_commits(&self) -> Result<u64, Refusal> {
        let statement = self.database.flavor.waiting_commits();
        let rows = self.database.control.query(statement).await?;
        Ok(rows.first().map_or(0, |row| row.number("Value")))
    }

    async fn look(&self) -> Option<Facts> {
        let silent = || Facts {
            answers: false,
            closed: false,
            open: true,
            receiving: false,
            applying: false,
            position: 0,
            received: String::new(),
            applied: String::new(),
            behind_ms: None,
            late: false,
            waiting: false,
            error: None,
        };
        match self.database.helper.state().await {
            Ok(state) if state.pid.is_none() => return None,
            Ok(_) => {}
            Err(refusal) => {
                return Some(Facts {
                    error: Some(refusal.to_string()),
                    ..silent()
                });
            }
        }
        let asked = tokio::time::timeout(LOOK_PATIENCE, async {
            self.tidy().await?;
            self.facts().await
        })
        .await;
        let error = match asked {
            Ok(Ok(facts)) => return Some(facts),
            Ok(Err(refusal)) => refusal.to_string(),
            Err(_) => format!("no answer within {} s", LOOK_PATIENCE.as_secs()),
        };
        Some(Facts {
            error: Some(error),
            closed: self.database.control.is_closed().await,
            ..silent()
        })
    }

    async fn end(&self) {
        // The connection is to a process that dies: nothing is waited for.
        let mut told = Instant::now();
        while let Err(refusal) = self.database.helper.kill().await {
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                tracing::error!(%refusal, "the database cannot be killed");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.database.control.close().await;
    }

    async fn gone(&self) {
        loop {
            match self.database.helper.state().await {
                Ok(state) => match state.pid {
                    None => return,
                    Some(pid) => ended(pid).await,
                },
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    async fn do_work(&self, work: &Work, peers: &Peers) -> Result<Outcome, Ended> {
        match work {
            Work::Recover => self.recover().await?,
            Work::Acknowledge(acks) => self.set_acknowledgements(acks, peers).await?,
            Work::CaughtUp(members) => self.wait_for_members(members, peers).await?,
            Work::Open(epoch) => self.open(*epoch, peers).await?,
            Work::Close(to) => self.close(to, peers).await?,
            Work::Drain(_) => return Ok(Outcome::At(self.drain().await?)),
            Work::Gather(epoch) => self.gather(*epoch, peers).await?,
            Work::Halt => return Ok(Outcome::At(self.halt().await?)),
            Work::Resume => self.resume(peers).await?,
            Work::Rejoin(leader, epoch) => self.rejoin(leader, *epoch, peers).await?,
            Work::Follow(leader, epoch) => self.follow(leader, *epoch, peers).await?,
            Work::Through(source, epoch) => self.follow_through(source, *epoch, peers).await?,
            Work::Copy(leader, epoch) => self.copy(leader, *epoch, peers).await?,
        }
        Ok(Outcome::Done)
    }

    async fn carry(&self, work: &Work, peers: &Peers) -> Outcome {
        let begun = Instant::now();
        if matches!(
            work,
            Work::Rejoin(..) | Work::Follow(..) | Work::Through(..) | Work::Copy(..)
        ) {
            *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let ended = match self.do_work(work, peers).await {
            Ok(outcome) => {
                tracing::info!(?work, ?outcome, took = ?begun.elapsed(), "done");
                return outcome;
            }
            Err(ended) => ended,
        };
        let (outcome, refusal) = match ended {
            Ended::Failed(refusal) => (Outcome::Failed, refusal),
            Ended::Diverged(refusal) => (Outcome::Diverged, refusal),
        };
        tracing::warn!(?work, ?outcome, %refusal, took = ?begun.elapsed(), "not done");
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        // Work that starts the database leaves none that is neither one thing nor the other.
        if matches!(work, Work::Recover | Work::Rejoin(..) | Work::Copy(..)) {
            self.end().await;
        }
        outcome
    }

    async fn give_beat(&self) -> Result<(), Refusal> {
        let turn = self.beats.next.load(Ordering::Relaxed);
        let row = turn % BEAT_ROWS;
        let mut slot = match self.beats.sessions[row].try_lock() {
            Ok(slot) => slot,
            Err(_) => return Ok(()),
        };
        let mut session = match slot.take() {
            Some(session) => session,
            None => self.database.control.session().await?,
        };
        let every = u64::try_from(BEAT.as_micros()).unwrap_or(0);
        // Nothing is written where clients may not write: that would be a transaction that the primary does not have.
        let statement = format!(
            "INSERT INTO pontoon.heartbeat (id, at_us, every_us, server_id) \
             SELECT {}, TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)), {every}, @@server_id FROM DUAL \
             WHERE @@global.read_only = 0 \
             ON DUPLICATE KEY UPDATE at_us = VALUES(at_us), every_us = VALUES(every_us), server_id = VALUES(server_id)",
            row + 1
        );
        let beaten = session.query(&statement, BEAT_PATIENCE).await;
        match beaten {
            Ok(_) => {
                self.beats.beaten();
                *slot = Some(session);
                self.database.control.keep_spare().await
            }
            Err(refusal) if refusal.code == Code::D008 => {
                *slot = Some(session);
                // MySQL's super_read_only refuses a statement that would write nothing.
                let closed = refusal.evidence.iter().any(|line| line.contains("1290"));
                if closed { Ok(()) } else { Err(refusal) }
            }
            Err(refusal) => {
                // It hangs in the database and holds its row: the next one takes another.
                self.beats.next.store(turn.wrapping_add(1), Ordering::Relaxed);
                Err(refusal)
            }
        }
    }

    pub(super) fn flag_file(&self) -> std::path::PathBuf {
        self.database.paths.state_dir.join("semi-sync-replica")
    }

    /// Whether this replica shall connect as a semi-synchronous one: kept on the disk, because a restart forgets it.
    pub(super) fn flag(&self) -> bool {
        matches!(files::read_limited(&self.flag_file(), 16), Ok(Some(bytes)) if bytes.starts_with(b"1"))
    }

    pub(super) fn keep_flag(&self, yes: bool) -> Result<(), Refusal> {
        if self.flag() != yes {
            files::write_atomic(&self.flag_file(), if yes { b"1" } else { b"0" }, 0o600)?;
        }
        Ok(())
    }
}

impl Works for Worker {
    fn carry_out<'a>(&'a self, work: Work, peers: &'a Peers) -> BoxFuture<'a, Outcome> {
        Box::pin(async move { self.carry(&work, peers).await })
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.end())
    }

    fn stopped(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.gone())
    }

    fn standing(&self) -> BoxFuture<'_, Option<Facts>> {
        Box::pin(self.look())
    }

    fn acknowledge(&self, yes: bool) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let set = self.become_acknowledging(yes).await;
            set.inspect_err(|refusal| tracing::warn!(%refusal, yes, "acknowledging was not set"))
                .is_ok()
        })
    }

    fn beat(&self) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(self.give_beat())
    }

    fn let_back<'a>(&'a self, peers: &'a Peers) -> BoxFuture<'a, ()> {
        Box::pin(self.let_back(peers))
    }

    fn reason(&self) -> Option<Refusal> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn order_copy(&self, yes: bool) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(self.database.order_copy(yes))
    }

    fn copy_ordered(&self) -> bool {
        self.database.copy_ordered()
    }

    fn only_here(&self) -> Option<OnlyHere> {
        self.only_here
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn relay_survives(&self) -> bool {
        self.dialect() == Dialect::MySql
    }
}

/// Waits until that process has ended; also one of another user, of which no other sign can be seen.
async fn ended(pid: u32) {
    let began = life_of(pid).await;
    while began.is_some() && life_of(pid).await == began {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// When the process began, in ticks since boot; `None` when it has ended, also when nobody has waited for it yet
/// (proc_pid_stat(5), fields 3 and 22).
async fn life_of(pid: u32) -> Option<u64> {
    let stat = tokio::fs::read_to_string(format!("/proc/{pid}/stat"))
        .await
        .ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    match state {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

fn unreadable(error: pontoon_gtid::PositionError) -> Refusal {
    Refusal::new(Code::D008, "the database's position cannot be read").because(error.to_string())
}
