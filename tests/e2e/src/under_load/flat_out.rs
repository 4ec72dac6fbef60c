//! Writers that write as fast as they are answered, in sessions that last: every other write is a transaction of three
//! statements. Nobody dials anew, so a connection that is closed is a failure, like any error.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use pontoon_testkit::database::SOCKET;
use pontoon_testkit::{LabError, Server};
use tokio::task::JoinHandle;

use super::writers::{Ledger, connect};

/// The first number of a connection that is a session of the SQL proxy's own.
const SESSIONS_FROM: u32 = 1 << 30;

/// Writers at full speed.
pub struct FlatOut {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    ledger: Ledger,
    /// The longest that one write took since this was last asked for.
    longest: Duration,
}

impl FlatOut {
    /// Starts so many at the application's socket on `server`; their numbers begin with `first`.
    ///
    /// # Errors
    /// When one cannot connect, or is passed through to the database in place of getting a session.
    pub async fn start(server: &Server, first: u32, count: u32) -> Result<FlatOut, LabError> {
        let socket = server.path(SOCKET)?;
        let (stop, book) = (Arc::default(), Arc::<Mutex<Book>>::default());
        let mut writers = Vec::new();
        for writer in first..first + count {
            let conn = connect(&socket).await.map_err(LabError::database("connect"))?;
            if conn.id() < SESSIONS_FROM {
                return Err(LabError::App("the proxy passes connections through".to_owned()));
            }
            writers.push(tokio::spawn(write(conn, writer, Arc::clone(&stop), book.clone())));
        }
        Ok(FlatOut { stop, writers, book })
    }

    /// The longest that a write took since the last call, or since the beginning.
    pub fn longest(&self) -> Duration {
        std::mem::take(&mut lock(&self.book).longest)
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        lock(&self.book).ledger.acknowledged.len()
    }

    /// How often each error came so far.
    pub fn failures(&self) -> std::collections::BTreeMap<String, u32> {
        lock(&self.book).ledger.failures.clone()
    }

    /// Ends them, each after the write that it is at.
    pub async fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            let _ = writer.await;
        }
        std::mem::take(&mut lock(&self.book).ledger)
    }
}

async fn write(mut conn: mysql_async::Conn, writer: u32, stop: Arc<AtomicBool>, book: Arc<Mutex<Book>>) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let begun = Instant::now();
        let receipt = format!("INSERT INTO receipts VALUES ({writer}, {number})");
        let outcome = match number % 2 {
            0 => conn.query_drop(receipt).await,
            _ => transaction(&mut conn, number, &receipt).await,
        };
        let mut book = lock(&book);
        book.longest = book.longest.max(begun.elapsed());
        match outcome {
            Ok(()) => {
                book.ledger.acknowledged.insert((writer, number));
            }
            Err(error) => {
                *book.ledger.failures.entry(error.to_string()).or_default() += 1;
                return;
            }
        }
    }
    let _ = conn.disconnect().await;
}

async fn transaction(
    conn: &mut mysql_async::Conn,
    number: u32,
    receipt: &str,
) -> Result<(), mysql_async::Error> {
    conn.query_drop("START TRANSACTION").await?;
    let customer = number % 100 + 1;
    conn.query_drop(format!(
        "INSERT INTO orders (customer, status, placed, total, token) VALUES ({customer}, 'new', NOW(3), 12.5, UUID())"
    ))
    .await?;
    conn.query_drop(receipt).await?;
    conn.query_drop("COMMIT").await
}

fn lock(book: &Mutex<Book>) -> std::sync::MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}
