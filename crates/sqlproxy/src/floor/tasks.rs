//! The connections behind the board: one to the primary, one to each replica.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pontoon_fleet::{Epoch, ServerName};
use pontoon_gtid::{Dialect, Position};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::control::{Control, ControlError};
use super::{Floors, Ground, Job};
use crate::preface::Purpose;

/// Between two attempts to connect: the first pause, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(800));
/// How long an answer may take that needs no waiting.
const ANSWER: Duration = Duration::from_millis(1_000);
/// How long a replica waits for a position within one question. Never 0: MySQL waits for ever then.
const LONG_POLL: Duration = Duration::from_millis(500);
/// The least time between two questions to the primary: at most a thousand a second, however many ask.
const APART: Duration = Duration::from_millis(1);
/// A pause after a poll that ended at once without having reached anything.
const AFTER_NOTHING: Duration = Duration::from_millis(20);

/// Keeps the connections that the floors need, until it is dropped.
pub async fn run(floors: Arc<Floors>, ground: Arc<impl Ground>) {
    let mut jobs = floors.jobs.subscribe();
    let mut running: Vec<(Job, Running)> = Vec::new();
    loop {
        let wanted = jobs.borrow_and_update().clone();
        running.retain(|(job, _)| wanted.contains(job));
        for job in wanted {
            if !running.iter().any(|(known, _)| *known == job) {
                let asking = keep_asking(Arc::clone(&floors), Arc::clone(&ground), job.clone());
                let task = tokio::spawn(asking);
                running.push((job, Running(task)));
            }
        }
        if jobs.changed().await.is_err() {
            return;
        }
    }
}

/// A task that ends when this is dropped.
struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects, asks until the connection fails, and connects again.
async fn keep_asking(floors: Arc<Floors>, ground: Arc<impl Ground>, job: Job) {
    let mut pause = BACKOFF.0;
    let mut said = None;
    loop {
        let began = Instant::now();
        let error = match Control::open(ground.as_ref(), &job).await {
            Ok(mut control) => match job.purpose {
                Purpose::Primary => ask_primary(&floors, &job, &mut control).await,
                Purpose::Replica => follow_replica(&floors, &job, &mut control).await,
            },
            Err(error) => error,
        };
        let text = error.to_string();
        if said.as_ref() != Some(&text) {
            tracing::warn!(server = %job.pin.server, error = %text, "a database's position is not known");
            said = Some(text);
        }
        if began.elapsed() > BACKOFF.1 {
            pause = BACKOFF.0;
        }
        sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Asks the primary where it is: a few times a second, and at once when somebody wants to know. All who ask before a
/// question is sent share its answer. Ends with the connection.
async fn ask_primary(floors: &Floors, job: &Job, control: &mut Control) -> ControlError {
    let sql = match job.dialect {
        Dialect::MariaDb => "SELECT @@global.gtid_binlog_pos",
        Dialect::MySql => "SELECT @@global.gtid_executed",
    };
    let mut next = Instant::now();
    loop {
        let every = Duration::from_millis(floors.sample_every_ms.load(Relaxed));
        if !floors.is_asked() {
            let _ = timeout_at(next + every, floors.questions.notified()).await;
        }
        sleep_until(next).await;
        next = Instant::now() + APART;
        floors.counts.questions.fetch_add(1, Relaxed);
        let question = floors.question();
        let position = match control.ask(sql, ANSWER).await {
            Ok(row) => read_position(job.dialect, row.first()),
            Err(error) => return error,
        };
        match position {
            Ok(position) => floors.sampled(job.pin.epoch, question, position),
            Err(error) => return error,
        }
    }
}

/// Waits at a replica for what readers need, and says how far it is. Ends with the connection.
async fn follow_replica(floors: &Floors, job: &Job, control: &mut Control) -> ControlError {
    let _connected = Connected { floors, job };
    let server = &job.pin.server;
    let mut wanted = floors.wanted.subscribe();
    let here = match job.dialect {
        Dialect::MariaDb => "@@global.gtid_slave_pos",
        Dialect::MySql => "@@global.gtid_executed",
    };
    loop {
        wanted.mark_unchanged();
        let began = Instant::now();
        let waits_for = floors.wanted(server);
        let sql = match (&waits_for, job.dialect) {
            (None, _) => format!("SELECT NULL, {here}"),
            (Some(position), Dialect::MariaDb) => {
                format!(
                    "SELECT MASTER_GTID_WAIT('{position}', {}), {here}",
                    LONG_POLL.as_secs_f64()
                )
            }
            (Some(position), Dialect::MySql) => {
                let seconds = LONG_POLL.as_secs_f64();
                format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{position}', {seconds}), {here}")
            }
        };
        let row = match control.ask(&sql, LONG_POLL + ANSWER).await {
            Ok(row) => row,
            Err(error) => return error,
        };
        // The second column may have been read before the wait. What was waited for is in by the first.
        let waited = row.first().and_then(|value| value.as_deref()) == Some("0");
        let mut position = match read_position(job.dialect, row.get(1)) {
            Ok(position) => position,
            Err(error) => return error,
        };
        if let Some(reached) = waits_for.as_ref().filter(|_| waited) {
            position.merge(reached);
        }
        floors.applied(server, job.pin.epoch, &position);
        match (waits_for, waited) {
            (None, _) => {
                let _ = timeout_at(began + LONG_POLL, wanted.changed()).await;
            }
            (Some(_), false) if began.elapsed() < AFTER_NOTHING => sleep(AFTER_NOTHING).await,
            (Some(_), _) => {}
        }
    }
}

/// Forgets the replica's position with the connection.
struct Connected<'a> {
    floors: &'a Floors,
    job: &'a Job,
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.floors.lost(&self.job.pin.server, self.job.pin.epoch);
    }
}

fn read_position(dialect: Dialect, value: Option<&Option<String>>) -> Result<Position, ControlError> {
    let text = value.and_then(Option::as_deref).ok_or(ControlError::NoPosition)?;
    Ok(Position::parse(dialect, text)?)
}

/// A question on its way: what it covers, and since when.
struct Question {
    covers: u64,
    sent: super::Moment,
}

impl Floors {
    fn is_asked(&self) -> bool {
        let (asked, answered) = self.board().questions();
        asked > answered
    }

    fn question(&self) -> Question {
        let (covers, _) = self.board().questions();
        Question {
            covers,
            sent: self.now(),
        }
    }

    fn sampled(&self, epoch: Epoch, question: Question, position: Position) {
        let now = self.now();
        let mut board = self.board();
        board.sampled(epoch, question.covers, position, question.sent, now);
        self.learned(board);
    }

    fn wanted(&self, server: &ServerName) -> Option<Position> {
        self.board().wanted(server)
    }

    fn applied(&self, server: &ServerName, epoch: Epoch, position: &Position) {
        let now = self.now();
        let mut board = self.board();
        board.applied(server, epoch, position, now);
        self.show(&board);
        drop(board);
        self.progress.send_replace(());
    }

    fn lost(&self, server: &ServerName, epoch: Epoch) {
        let mut board = self.board();
        if board.epoch() == epoch {
            board.lost(server);
        }
        self.show(&board);
    }
}
