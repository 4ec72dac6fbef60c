//! You read what you wrote (P3): who may read from a replica, and when.
//!
//! **In:** the positions that databases report with each write ([`Floors::raise`]), doubts ([`Floors::doubt`]), floors
//! of other servers ([`Floors::heard`]), the view. **Out:** [`Place`]: the replicas that a read may go to now, or the
//! primary and why.
//!
//! One question to the primary at a time says where it is (`watch`), one connection to each replica waits for the
//! newest position that anybody needs: reads compare two numbers (`board`). A replica that is not known to have what
//! a reader must see is held for a moment, then the read goes to the primary. It never goes to that replica because
//! time is up.
//!
//! What the session has to do:
//! * before an OK packet goes to the client: [`Floors::raise`] with the epoch of the connection and the GTIDs in it;
//! * before an ERR packet goes to the client, when a connection is lost or given up: [`Floors::doubt`], unless all
//!   that was sent on it was provably a read;
//! * before a read: [`Floors::place`], and go to one of those, over a connection that was made in
//!   [`Ready::epoch`] and that `Target::permits_replica` still allows.

mod board;
#[cfg(test)]
mod board_tests;
mod control;
mod door;
mod tasks;

use std::fmt;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use pontoon_fleet::{AfterWrite, Engine, Epoch, FleetView, ServerName, SqlView};
use pontoon_gtid::{Dialect, Floor, Position, PositionError};
use tokio::sync::{Notify, watch};
use tokio::time::timeout_at;

use crate::account::Account;
use crate::preface::Purpose;
use crate::target::{Pin, Target, Transport, Way};
use crate::tls::FleetTls;
use board::{Board, Moment};

pub use door::serve;
pub use tasks::run;

/// What the connections of the floors stand on.
pub trait Ground: Send + Sync + 'static {
    /// This server's identity, for connections to other servers.
    fn tls(&self) -> &FleetTls;

    /// The account to ask with.
    ///
    /// # Errors
    /// Why there is none now.
    fn account(&self) -> Result<Account, String>;
}

/// A replica that usually takes longer than this is not waited for.
const LONGEST_HOLD: Duration = Duration::from_millis(50);
/// What a hold has beyond twice the usual lag.
const LEAST_HOLD: Duration = Duration::from_millis(2);
/// How long a read waits for the primary to say where it is.
const LONGEST_QUESTION: Duration = Duration::from_millis(100);
/// The least that `max_lag` can mean: the primary is asked a few times a second.
const LEAST_BOUND: Duration = Duration::from_millis(250);
/// Replicas that are read from; a bit each.
const MAX_REPLICAS: usize = u64::BITS as usize;
/// Between two questions to a primary that nobody waits for.
const SAMPLE_EVERY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// See the module. Shared by all threads of the process.
#[derive(Debug)]
pub struct Floors {
    began: Instant,
    board: Mutex<Board>,
    /// Reads are spread now.
    active: AtomicBool,
    /// Writes are recorded, because reads are spread or may be so in a moment.
    recording: AtomicBool,
    fleet_wide: AtomicBool,
    /// Connections that are passed through: nobody sees what they write.
    unwatched: AtomicU64,
    sample_every_ms: AtomicU64,
    /// The board's generation, to be read without the lock.
    generation: AtomicU64,
    gauges: RwLock<Arc<Gauges>>,
    /// Rings when a replica or an answer came further.
    progress: watch::Sender<()>,
    /// Rings when there is something new to wait for at the replicas.
    wanted: watch::Sender<()>,
    /// Rings when the primary is to be asked.
    questions: Notify,
    /// The connections that there are to be.
    jobs: watch::Sender<Vec<Job>>,
    /// What was counted.
    pub counts: Counts,
}

/// What was counted since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Reads that a replica could take at once.
    pub ready: AtomicU64,
    /// Reads that a replica could take after a moment.
    pub held: AtomicU64,
    /// Reads that went to the primary after a moment, and those that did at once because no replica is near.
    pub behind: AtomicU64,
    /// Reads that went to the primary because no replica can be used.
    pub no_replica: AtomicU64,
    /// Reads that went to the primary because it did not say in time where it is.
    pub unanswered: AtomicU64,
    /// Questions to the primary.
    pub questions: AtomicU64,
    /// Floors of other servers that had to be checked with the primary.
    pub foreign_doubts: AtomicU64,
    /// Times that nobody knew what was written.
    pub doubts: AtomicU64,
}

/// A database that is asked where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Job {
    purpose: Purpose,
    dialect: Dialect,
    pin: Pin,
    way: Way,
    transport: Transport,
}

/// How far each replica is, to be read without the lock.
#[derive(Debug)]
struct Gauges {
    epoch: Epoch,
    all: Vec<Gauge>,
}

#[derive(Debug)]
struct Gauge {
    server: ServerName,
    reached: AtomicU64,
    /// In microseconds of [`Floors::now`]; 0 for never.
    valid_until: AtomicU64,
    lag_micros: AtomicU64,
}

/// Where a read goes.
#[derive(Debug)]
pub enum Place {
    /// To one of these.
    Replicas(Ready),
    /// To the primary.
    Primary(Why),
}

/// Why a read goes to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Reads are not spread.
    NotSpread,
    /// There is no replica that answers and is fresh.
    NoReplica,
    /// No replica has what the reader must see.
    Behind,
    /// The primary did not say in time where it is, and all that was acknowledged must be seen.
    Unanswered,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::NotSpread => "reads are not spread",
            Why::NoReplica => "no replica answers and is fresh",
            Why::Behind => "no replica has what was written",
            Why::Unanswered => "the primary did not say in time what was written",
        })
    }
}

/// The replicas that have what a reader must see.
#[derive(Clone, Debug)]
pub struct Ready {
    gauges: Arc<Gauges>,
    /// One bit for each, by its place.
    bits: u64,
}

impl Ready {
    /// The epoch in which they are replicas.
    pub fn epoch(&self) -> Epoch {
        self.gauges.epoch
    }

    /// Which.
    pub fn servers(&self) -> impl Iterator<Item = &ServerName> {
        let all = self.gauges.all.iter().enumerate();
        all.filter(|(at, _)| self.bits >> at & 1 == 1)
            .map(|(_, gauge)| &gauge.server)
    }

    /// Whether `server` is among them.
    pub fn contains(&self, server: &ServerName) -> bool {
        self.servers().any(|ready| ready == server)
    }
}

/// A replica as `pontoon sql top` and the health endpoints show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// On which server.
    pub server: ServerName,
    /// The age of the oldest position of the primary that it has not reached; `None` while it does not answer.
    pub behind: Option<Duration>,
    /// Whether reads may go there, apart from floors.
    pub fresh: bool,
    /// Whether it has what readers through this server must see.
    pub reached: bool,
}

impl Default for Floors {
    fn default() -> Floors {
        let board = Board::new(Epoch(0), Dialect::MariaDb, LEAST_BOUND, false);
        Floors {
            began: Instant::now(),
            generation: AtomicU64::new(board.generation()),
            board: Mutex::new(board),
            active: AtomicBool::new(false),
            recording: AtomicBool::new(false),
            fleet_wide: AtomicBool::new(false),
            unwatched: AtomicU64::new(0),
            sample_every_ms: AtomicU64::new(1_000),
            gauges: RwLock::new(Arc::new(Gauges {
                epoch: Epoch(0),
                all: Vec::new(),
            })),
            progress: watch::Sender::new(()),
            wanted: watch::Sender::new(()),
            questions: Notify::new(),
            jobs: watch::Sender::new(Vec::new()),
            counts: Counts::default(),
        }
    }
}

impl Floors {
    /// Obeys a view and the target made of it. To be called before anybody acts on the target.
    pub fn follow(&self, view: Option<&FleetView>, target: &Target) {
        let sql = view.and_then(|view| view.sql.as_ref());
        let spread = sql.and_then(|sql| Some((sql, sql.spread()?, dialect(sql)?)));
        let Some((sql, reads, dialect)) = spread else {
            self.active.store(false, SeqCst);
            self.recording.store(false, SeqCst);
            self.employ(Vec::new());
            return;
        };
        // Before anything else: a write that is not recorded was acknowledged before the doubt below.
        self.recording.store(true, SeqCst);
        let Ok(primary) = &target.primary else {
            // Nobody can be asked.
            self.active.store(false, SeqCst);
            return;
        };
        let job = |purpose, pin: &Pin, way: &Way| Job {
            purpose,
            dialect,
            pin: pin.clone(),
            way: way.clone(),
            transport: match sql.backend_socket {
                Some(_) => Transport::Unix,
                None => Transport::Tcp,
            },
        };
        let replicas = target.replicas.iter().take(MAX_REPLICAS);
        let servers: Vec<ServerName> = replicas
            .clone()
            .map(|replica| replica.pin.server.clone())
            .collect();
        let replicas = replicas.map(|replica| job(Purpose::Replica, &replica.pin, &replica.way));
        let jobs = [job(Purpose::Primary, &primary.pin, &primary.way)]
            .into_iter()
            .chain(replicas);
        self.employ(jobs.collect());
        let fleet_wide = reads.after_write == AfterWrite::FleetWide;
        let every = (reads.max_lag / 4).clamp(SAMPLE_EVERY.0, SAMPLE_EVERY.1);
        self.sample_every_ms.store(every.as_millis() as u64, Relaxed);
        self.fleet_wide.store(fleet_wide, SeqCst);
        let now = self.now();
        let mut board = self.board();
        let fleet_wide = self.asks_each_time();
        if primary.pin.epoch >= board.epoch() {
            let bound = reads.max_lag.max(LEAST_BOUND);
            board.begin(primary.pin.epoch, dialect, bound, fleet_wide);
            board.set_replicas(&servers);
        }
        if !self.is_active() {
            board.doubt();
        }
        let heard = reads.heard.as_deref().map(|text| Floor::parse(dialect, text));
        if let Some(Ok(floor)) = heard
            && floor.epoch == board.epoch()
        {
            board.heard(&floor, now);
        }
        self.show(&board);
        self.active.store(true, SeqCst);
        self.learned(board);
    }

    /// A client's connection is passed through from now on, to the primary of `epoch`: nobody sees what it writes.
    /// As long as the result lives, the primary is asked before each read.
    pub fn pass_through(&self, epoch: Epoch) -> Unwatched<'_> {
        let mut board = self.board();
        self.unwatched.fetch_add(1, SeqCst);
        board.set_fleet_wide(true);
        drop(board);
        Unwatched { floors: self, epoch }
    }

    /// Connections that are passed through now.
    pub fn unwatched(&self) -> u64 {
        self.unwatched.load(SeqCst)
    }

    /// Whether the primary is to be asked before each read: it is wanted so, or there is no other way to know.
    fn asks_each_time(&self) -> bool {
        self.fleet_wide.load(SeqCst) || self.unwatched() > 0
    }

    fn employ(&self, jobs: Vec<Job>) {
        self.jobs.send_if_modified(|current| {
            let changed = *current != jobs;
            *current = jobs;
            changed
        });
    }

    /// Whether reads are spread at all.
    pub fn is_active(&self) -> bool {
        self.active.load(SeqCst)
    }

    /// A write was acknowledged, on a connection of `epoch`, with `gtids` as the database wrote them. To be called
    /// before the client hears of it. A text that is none counts as a doubt.
    pub fn raise(&self, epoch: Epoch, gtids: &[u8]) {
        if !self.recording.load(SeqCst) {
            return;
        }
        let now = self.now();
        let mut board = self.board();
        let text = std::str::from_utf8(gtids).map_err(|_| PositionError::Malformed("not text"));
        let position = text.and_then(|text| Position::parse(board.dialect(), text));
        match position {
            _ if epoch < board.epoch() => {}
            Ok(position) if epoch == board.epoch() => board.raise(&position, now),
            Ok(_) => self.meet(&mut board, epoch),
            Err(error) => {
                tracing::warn!(%error, "the database reported a write with a position that cannot be read");
                self.meet(&mut board, epoch);
                board.doubt();
            }
        }
        self.risen(board);
    }

    /// Something may have been written on a connection of `epoch`, and nobody was told its position: an error after
    /// part of it was committed, or a connection that broke. Until the primary has said where it is, nobody reads from
    /// a replica.
    pub fn doubt(&self, epoch: Epoch) {
        if !self.recording.load(SeqCst) {
            return;
        }
        self.counts.doubts.fetch_add(1, Relaxed);
        let mut board = self.board();
        if epoch < board.epoch() {
            return;
        }
        self.meet(&mut board, epoch);
        board.doubt();
        self.risen(board);
    }

    /// What another server's proxy says that readers must see, as [`Floor`] writes it; `None` for something that
    /// nobody knows. Believed only as far as the primary has it. When it returns, every read that comes later will see
    /// it.
    pub fn heard(&self, floor: Option<&str>) -> Result<(), PositionError> {
        if !self.recording.load(SeqCst) {
            return Ok(());
        }
        let now = self.now();
        let mut board = self.board();
        let believed = match floor
            .map(|text| Floor::parse(board.dialect(), text))
            .transpose()?
        {
            Some(floor) => board.heard(&floor, now),
            None => {
                board.doubt();
                false
            }
        };
        if !believed {
            self.counts.foreign_doubts.fetch_add(1, Relaxed);
        }
        self.risen(board);
        Ok(())
    }

    /// What readers through this server must see now; `None` while nobody knows. And the number that changes with it.
    pub fn node_floor(&self) -> (Option<Floor>, u64) {
        let board = self.board();
        (board.node_floor(), board.generation())
    }

    /// How the replicas stand.
    pub fn standing(&self) -> Vec<Standing> {
        let now = self.now();
        let board = self.board();
        let each = board.replicas().iter().map(|replica| Standing {
            server: replica.server.clone(),
            behind: board.behind(replica, now),
            fresh: board.valid_until(replica).is_some_and(|until| now < until),
            reached: replica.reached >= board.generation(),
        });
        each.collect()
    }

    /// Where a read that comes now may go. Waits a moment if that may help.
    pub async fn place(&self) -> Place {
        if !self.is_active() {
            return Place::Primary(Why::NotSpread);
        }
        // What nearly every read finds; the rest costs a little more.
        let asks = self.asks_each_time();
        if !asks && let Ok(ready) = self.ready(self.generation.load(SeqCst)) {
            self.counts.ready.fetch_add(1, Relaxed);
            return Place::Replicas(ready);
        }
        let mut progress = self.progress.subscribe();
        if asks && !self.is_answered(&mut progress).await {
            self.counts.unanswered.fetch_add(1, Relaxed);
            return Place::Primary(Why::Unanswered);
        }
        let needed = self.generation.load(SeqCst);
        let hold = match self.ready(needed) {
            Ok(ready) => {
                self.counts.ready.fetch_add(1, Relaxed);
                return Place::Replicas(ready);
            }
            Err(hold) => hold,
        };
        let Some(hold) = hold else {
            self.counts.no_replica.fetch_add(1, Relaxed);
            return Place::Primary(Why::NoReplica);
        };
        if !hold.is_zero() {
            let until = tokio::time::Instant::now() + hold;
            while timeout_at(until, progress.changed()).await.is_ok() {
                if let Ok(ready) = self.ready(needed) {
                    self.counts.held.fetch_add(1, Relaxed);
                    return Place::Replicas(ready);
                }
            }
        }
        self.counts.behind.fetch_add(1, Relaxed);
        Place::Primary(Why::Behind)
    }

    /// Asks the primary where it is, together with everybody who asks in this moment; whether it said so in time.
    async fn is_answered(&self, progress: &mut watch::Receiver<()>) -> bool {
        let (epoch, number) = {
            let mut board = self.board();
            (board.epoch(), board.ask())
        };
        self.questions.notify_one();
        let until = tokio::time::Instant::now() + LONGEST_QUESTION;
        while timeout_at(until, progress.changed()).await.is_ok() {
            let board = self.board();
            if board.epoch() != epoch {
                return false;
            }
            if board.answered(number) {
                return true;
            }
        }
        false
    }

    /// The replicas that have reached `needed`; otherwise how long it makes sense to wait: nothing when there is
    /// nobody to wait for.
    fn ready(&self, needed: u64) -> Result<Ready, Option<Duration>> {
        let now = self.now().as_micros() as u64;
        let gauges = Arc::clone(&self.gauges.read().unwrap_or_else(PoisonError::into_inner));
        let (mut bits, mut least_lag) = (0, None);
        for (at, gauge) in gauges.all.iter().enumerate() {
            if now >= gauge.valid_until.load(SeqCst) {
                continue;
            }
            if gauge.reached.load(SeqCst) >= needed {
                bits |= 1 << at;
            }
            let lag = Duration::from_micros(gauge.lag_micros.load(Relaxed));
            least_lag = Some(least_lag.map_or(lag, |least: Duration| least.min(lag)));
        }
        if bits != 0 {
            return Ok(Ready { gauges, bits });
        }
        Err(least_lag.map(|lag| match lag > LONGEST_HOLD {
            true => Duration::ZERO,
            false => (lag * 2 + LEAST_HOLD).min(LONGEST_HOLD),
        }))
    }

    /// A session was served by the primary of an epoch that the view has not told yet.
    fn meet(&self, board: &mut Board, epoch: Epoch) {
        if epoch > board.epoch() {
            let dialect = board.dialect();
            board.renew(epoch, dialect);
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    /// Writes what the board says where reads see it. Under the board's lock. First the generation: a reader that
    /// sees a later gauge sees the generation that it belongs to, or an earlier one.
    fn show(&self, board: &Board) {
        self.generation.store(board.generation(), SeqCst);
        let current = Arc::clone(&self.gauges.read().unwrap_or_else(PoisonError::into_inner));
        let servers = board.replicas().iter().map(|replica| &replica.server);
        let same =
            current.epoch == board.epoch() && servers.eq(current.all.iter().map(|gauge| &gauge.server));
        let gauges = if same {
            current
        } else {
            for gauge in &current.all {
                gauge.valid_until.store(0, SeqCst);
                gauge.reached.store(0, SeqCst);
            }
            let fresh = Arc::new(Gauges::of(board));
            *self.gauges.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fresh);
            fresh
        };
        for (gauge, replica) in gauges.all.iter().zip(board.replicas()) {
            let until = board.valid_until(replica).unwrap_or_default();
            gauge.reached.store(replica.reached, SeqCst);
            gauge.valid_until.store(until.as_micros() as u64, SeqCst);
            gauge.lag_micros.store(replica.lag.as_micros() as u64, Relaxed);
        }
    }

    /// What readers must see has changed.
    fn risen(&self, board: MutexGuard<'_, Board>) {
        self.show(&board);
        let (asked, answered) = board.questions();
        drop(board);
        if asked > answered {
            self.questions.notify_one();
        }
        self.wanted.send_replace(());
    }

    /// What is known of the databases has changed.
    fn learned(&self, board: MutexGuard<'_, Board>) {
        self.risen(board);
        self.progress.send_replace(());
    }
}

impl Gauges {
    fn of(board: &Board) -> Gauges {
        let gauge = |replica: &board::Watermark| Gauge {
            server: replica.server.clone(),
            reached: AtomicU64::new(0),
            valid_until: AtomicU64::new(0),
            lag_micros: AtomicU64::new(0),
        };
        Gauges {
            epoch: board.epoch(),
            all: board.replicas().iter().map(gauge).collect(),
        }
    }
}

/// A connection whose writes nobody sees. When it ends, what it wrote is asked for.
#[derive(Debug)]
#[must_use = "the connection counts as ended when this is dropped"]
pub struct Unwatched<'a> {
    floors: &'a Floors,
    epoch: Epoch,
}

impl Drop for Unwatched<'_> {
    fn drop(&mut self) {
        // First the doubt: no reader comes in between.
        self.floors.doubt(self.epoch);
        let mut board = self.floors.board();
        self.floors.unwatched.fetch_sub(1, SeqCst);
        board.set_fleet_wide(self.floors.asks_each_time());
    }
}

/// How the databases of the view write positions.
fn dialect(sql: &SqlView) -> Option<Dialect> {
    match sql.engine {
        Engine::Mariadb => Some(Dialect::MariaDb),
        Engine::Mysql => Some(Dialect::MySql),
        Engine::External => None,
    }
}
