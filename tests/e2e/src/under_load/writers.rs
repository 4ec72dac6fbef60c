//! Writers that behave as an application does: through the Unix socket, each transaction when it is due and not when
//! the one before has ended, so that a blocked database is seen by all who would have come.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use pontoon_testkit::database::SOCKET;
use pontoon_testkit::{LabError, Server};
use serde::Serialize;
use tokio::task::JoinHandle;

use super::data::{PASSWORD, USER};
use super::gate::Gate;

/// How many write side by side.
const LANES: u32 = 40;

/// A lane dials anew after so many transactions.
const PER_CONNECTION: u32 = 10;

/// After a failure a lane dials anew and writes the next, as somebody does who is shown an error: without this a pause would
/// seem as long as it takes until each lane is due again.
const AGAIN: Duration = Duration::from_millis(200);

/// Writers at a fixed rate.
pub struct Writers {
    gate: Arc<Gate>,
    lanes: Vec<JoinHandle<()>>,
    book: Arc<Mutex<Book>>,
    origin: Instant,
}

/// What is known of every transaction.
#[derive(Default)]
struct Book {
    span: Vec<Commit>,
    span_begins: Duration,
    ledger: Ledger,
}

/// When it was due, since the writers began, and how long after that it was acknowledged.
#[derive(Clone, Copy)]
struct Commit {
    due: Duration,
    took: Duration,
}

/// What was acknowledged, and what failed and why.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Writer and number of each acknowledged transaction.
    pub acknowledged: BTreeSet<(u32, u32)>,
    /// How often each error came.
    pub failures: BTreeMap<String, u32>,
}

impl Ledger {
    /// With what others wrote.
    #[must_use]
    pub fn and(mut self, other: Ledger) -> Ledger {
        self.acknowledged.extend(other.acknowledged);
        for (error, count) in other.failures {
            *self.failures.entry(error).or_default() += count;
        }
        self
    }
}

/// The transactions of a stretch of time.
pub struct Span {
    begins: Duration,
    ends: Duration,
    commits: Vec<Commit>,
}

/// A span in figures.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// How long it was.
    pub seconds: f64,
    /// Transactions acknowledged.
    pub commits: usize,
    /// From when it was due, as all of these.
    pub median_ms: f64,
    /// 99 of 100 were faster.
    pub p99_ms: f64,
    /// The slowest.
    pub worst_ms: f64,
    /// How many took longer than a second.
    pub over_1_s: usize,
}

/// One that took long.
#[derive(Clone, Debug, Serialize)]
pub struct Slow {
    /// When it was due, from the beginning of the span.
    pub due_seconds: f64,
    /// How long it took.
    pub took_ms: f64,
}

impl Writers {
    /// Starts `rate` transactions a second at the application's socket on `server`.
    ///
    /// # Errors
    /// When the server is off.
    pub async fn start(server: &Server, rate: u32) -> Result<Writers, LabError> {
        Writers::start_as(0, server, rate).await
    }

    /// The same, where others write at another server: each group of writers has a number of its own.
    ///
    /// # Errors
    /// When the server is off.
    pub async fn start_as(group: u32, server: &Server, rate: u32) -> Result<Writers, LabError> {
        server.path(SOCKET)?;
        let (gate, book) = (Arc::<Gate>::default(), Arc::new(Mutex::new(Book::default())));
        let origin = Instant::now();
        let gap = Duration::from_secs(1) * LANES / rate.max(1);
        let lanes = (0..LANES).map(|writer| {
            let lane = Lane {
                writer: group * LANES + writer,
                server: server.clone(),
                conn: None,
            };
            let first = origin + gap * writer / LANES;
            tokio::spawn(lane.run(gate.clone(), book.clone(), origin, first, gap))
        });
        Ok(Writers {
            lanes: lanes.collect(),
            gate,
            book,
            origin,
        })
    }

    /// How many were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.ledger.acknowledged.len()
    }

    /// The transactions that ended since the last call.
    pub fn span(&self) -> Span {
        let ends = self.origin.elapsed();
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        Span {
            begins: std::mem::replace(&mut book.span_begins, ends),
            ends,
            commits: std::mem::take(&mut book.span),
        }
    }

    /// Holds them until [`go_on`](Writers::go_on), and waits until no transaction is under way. What would have been due
    /// meanwhile is left out.
    ///
    /// # Errors
    /// When one does not end within three minutes.
    pub async fn hold(&self) -> Result<(), LabError> {
        self.gate.hold("the writers' transactions").await
    }

    /// Lets them write again, after [`hold`](Writers::hold).
    pub fn go_on(&self) {
        self.gate.go_on();
    }

    /// What was acknowledged so far.
    pub fn ledger(&self) -> Ledger {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.ledger.clone()
    }

    /// Ends them, each after the transaction that it is in.
    pub async fn stop(self) -> Ledger {
        self.gate.stop();
        for lane in self.lanes {
            let _ = lane.await;
        }
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut book.ledger)
    }
}

struct Lane {
    writer: u32,
    server: Server,
    conn: Option<Conn>,
}

impl Lane {
    async fn run(
        mut self,
        gate: Arc<Gate>,
        book: Arc<Mutex<Book>>,
        origin: Instant,
        first: Instant,
        gap: Duration,
    ) {
        let mut due = first;
        let mut again = None;
        for number in 0.. {
            let begun = again.take().unwrap_or(due);
            tokio::time::sleep_until(begun.into()).await;
            let Some(passed) = gate.pass() else {
                if gate.is_stopped() {
                    break;
                }
                due += gap;
                continue;
            };
            let outcome = self.write(number).await;
            drop(passed);
            let commit = Commit {
                due: begun.duration_since(origin),
                took: begun.elapsed(),
            };
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok(()) => {
                    book.span.push(commit);
                    book.ledger.acknowledged.insert((self.writer, number));
                }
                Err(error) => {
                    self.conn = None;
                    again = Some(Instant::now() + AGAIN);
                    *book.ledger.failures.entry(error.to_string()).or_default() += 1;
                }
            }
            drop(book);
            if again.is_none() {
                due += gap;
            }
        }
        if let Some(conn) = self.conn {
            let _ = conn.disconnect().await;
        }
    }

    async fn write(&mut self, number: u32) -> Result<(), mysql_async::Error> {
        let writer = self.writer;
        if number.is_multiple_of(PER_CONNECTION)
            && let Some(conn) = self.conn.take()
        {
            conn.disconnect().await?;
        }
        let conn = match &mut self.conn {
            Some(conn) => conn,
            empty => empty.insert(connect(&socket_of(&self.server)).await?),
        };
        // Spread over the whole key range without a random number: a large odd step.
        let key = u64::from(number * LANES + writer).wrapping_mul(7_919) % 4_000 + 1;
        conn.query_drop("START TRANSACTION").await?;
        match number % 10 {
            0 => {
                let body = vec![writer as u8; 16 << 10];
                conn.exec_drop(
                    "INSERT INTO uploads (name, mime, body) VALUES ('new', 'text/plain', ?)",
                    (body,),
                )
                .await?;
            }
            1 | 2 => {
                conn.query_drop(format!(
                    "UPDATE posts SET body = CONCAT('edited ', body) WHERE id = {}",
                    key % 1_000 + 1
                ))
                .await?;
                conn.query_drop(format!(
                    "UPDATE wide SET t7 = 'new', i9 = i9 + 1 WHERE id = {}",
                    key % 1_000 + 1
                ))
                .await?;
            }
            _ => {
                conn.query_drop(format!(
                    "INSERT INTO orders (customer, status, placed, total, token) VALUES ({key}, 'new', NOW(3), 12.5, UUID())"
                ))
                .await?;
                conn.query_drop(
                    "INSERT INTO order_lines (order_id, line, sku, amount, price) VALUES \
                     (LAST_INSERT_ID(), 1, 'sku-1', 2, 2.5), (LAST_INSERT_ID(), 2, 'sku-2', 1, 7.5)",
                )
                .await?;
                conn.query_drop(format!(
                    "UPDATE customers SET orders = orders + 1 WHERE id = {key}"
                ))
                .await?;
            }
        }
        conn.query_drop(format!("INSERT INTO receipts VALUES ({writer}, {number})"))
            .await?;
        conn.query_drop("COMMIT").await
    }
}

/// The application's socket, wherever it is after the server was switched off and on; nowhere while it is off.
pub(super) fn socket_of(server: &Server) -> PathBuf {
    server.path(SOCKET).unwrap_or_default()
}

pub(super) async fn connect(socket: &std::path::Path) -> Result<Conn, mysql_async::Error> {
    let options = OptsBuilder::default()
        .socket(Some(socket.to_string_lossy()))
        .prefer_socket(false)
        .user(Some(USER))
        .pass(Some(PASSWORD))
        .db_name(Some("shop"));
    Conn::new(options).await
}

impl Span {
    /// In figures.
    pub fn summary(&self) -> Summary {
        let mut took: Vec<f64> = self.commits.iter().map(|commit| ms(commit.took)).collect();
        took.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (took.len() as f64 * share) as usize;
            took.get(index.min(took.len().saturating_sub(1)))
                .copied()
                .unwrap_or_default()
        };
        Summary {
            seconds: (self.ends - self.begins).as_secs_f64(),
            commits: took.len(),
            median_ms: at(0.5),
            p99_ms: at(0.99),
            worst_ms: at(1.0),
            over_1_s: took.iter().filter(|took| **took > 1_000.0).count(),
        }
    }

    /// The longest time in which nothing was acknowledged.
    pub fn longest_gap(&self) -> Duration {
        self.gap().1
    }

    /// When that began, since the beginning of the span, and how long it was.
    pub fn gap(&self) -> (Duration, Duration) {
        let mut moments: Vec<Duration> = self
            .commits
            .iter()
            .map(|commit| commit.due + commit.took)
            .collect();
        moments.extend([self.begins, self.ends]);
        moments.sort();
        let gaps = moments
            .windows(2)
            .map(|pair| (pair[0].saturating_sub(self.begins), pair[1] - pair[0]));
        gaps.max_by_key(|(_, length)| *length).unwrap_or_default()
    }

    /// Those that took longer than `limit`, in the order in which they were due; the first of each burst.
    pub fn slow(&self, limit: Duration) -> Vec<Slow> {
        let mut slow: Vec<&Commit> = self.commits.iter().filter(|commit| commit.took > limit).collect();
        slow.sort_by_key(|commit| commit.due);
        let mut bursts: Vec<&Commit> = Vec::new();
        for commit in slow {
            if bursts.last().is_none_or(|last| commit.due > last.due + last.took) {
                bursts.push(commit);
            }
        }
        let seconds = |due: Duration| due.as_secs_f64() - self.begins.as_secs_f64();
        bursts
            .into_iter()
            .map(|commit| Slow {
                due_seconds: seconds(commit.due),
                took_ms: ms(commit.took),
            })
            .collect()
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// Somebody who makes, alters and drops tables, one statement each half second.
pub struct Changes {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Duration, LabError>>,
}

impl Changes {
    /// Begins, at the application's socket on `server`.
    ///
    /// # Errors
    /// When the server is off or the database refuses.
    pub async fn start(server: &Server) -> Result<Changes, LabError> {
        let socket = server.path(SOCKET)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let mut conn = connect(&socket).await.map_err(LabError::database("connect"))?;
        let task = tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            for number in 0_u32.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let table = number / 5;
                let statement = match number % 5 {
                    0 => format!(
                        "CREATE TABLE made_{table} (id INT PRIMARY KEY, text VARCHAR(20)) ENGINE=InnoDB"
                    ),
                    1 => format!("INSERT INTO made_{table} VALUES (1, 'one'), (2, 'two')"),
                    2 => format!("ALTER TABLE made_{table} ADD COLUMN more INT NOT NULL DEFAULT 7"),
                    3 => format!("ALTER TABLE made_{table} ADD INDEX by_text (text)"),
                    _ => format!("DROP TABLE IF EXISTS made_{}", table.saturating_sub(3)),
                };
                let begun = Instant::now();
                conn.query_drop(&statement)
                    .await
                    .map_err(LabError::database(statement))?;
                slowest = slowest.max(begun.elapsed());
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Ok(slowest)
        });
        Ok(Changes { stop, task })
    }

    /// Ends it and gives the slowest statement's time.
    ///
    /// # Errors
    /// When a statement failed.
    pub async fn stop(self) -> Result<Duration, LabError> {
        self.stop.store(true, Ordering::Relaxed);
        self.task
            .await
            .map_err(|error| LabError::App(error.to_string()))?
    }
}
