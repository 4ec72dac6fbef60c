//! Clients that append to lists and read them, in transactions over several keys, and remember what they saw: what
//! `pontoon_testkit::history` checks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use pontoon_testkit::database::{SOCKET, connect_root, rows};
use pontoon_testkit::history::{End, Op, Transaction, check};
use pontoon_testkit::{LabError, Server};
use tokio::task::JoinHandle;

use super::joined::database_socket;
use super::writers::connect;

/// Lists. Few, so that clients meet.
const KEYS: u64 = 6;

/// Between two transactions of a client.
const GAP: Duration = Duration::from_millis(40);

/// Clients whose history is recorded.
pub struct Histories {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    history: Arc<Mutex<Vec<Transaction>>>,
}

impl Histories {
    /// Makes the lists, and starts `count` clients at the application's socket on each of these servers.
    ///
    /// # Errors
    /// When the first server's database refuses, or a server is off.
    pub async fn start(servers: &[&Server], count: u64) -> Result<Histories, LabError> {
        let (stop, history) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut clients = Vec::new();
        for (place, server) in servers.iter().enumerate() {
            let socket = server.path(SOCKET)?;
            if place == 0 {
                let mut conn = connect(&socket).await.map_err(LabError::database("connect"))?;
                conn.query_drop("CREATE TABLE IF NOT EXISTS lists (k INT PRIMARY KEY, v LONGTEXT NOT NULL)")
                    .await
                    .map_err(LabError::database("make the lists"))?;
            }
            for number in 0..count {
                let client = Client {
                    number: place as u64 * count + number,
                    socket: socket.clone(),
                    history: Arc::clone(&history),
                };
                clients.push(tokio::spawn(client.run(Arc::clone(&stop))));
            }
        }
        Ok(Histories {
            stop,
            clients,
            history,
        })
    }

    /// Ends them, reads the lists on `primary`, and says what cannot have happened; and how many transactions there were.
    ///
    /// # Errors
    /// When the lists cannot be read.
    pub async fn verdict(self, primary: &Server) -> Result<(usize, Vec<String>), LabError> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let _ = client.await;
        }
        let mut root = connect_root(&database_socket(primary)?).await?;
        let found: Vec<(u32, String)> = rows(&mut root, "SELECT k, v FROM shop.lists").await?;
        let last: BTreeMap<u32, Vec<u64>> = found.into_iter().map(|(key, text)| (key, list(&text))).collect();
        let history = std::mem::take(&mut *self.history.lock().unwrap_or_else(PoisonError::into_inner));
        let anomalies = check(&history, &last);
        Ok((history.len(), anomalies.iter().map(ToString::to_string).collect()))
    }
}

struct Client {
    number: u64,
    socket: PathBuf,
    history: Arc<Mutex<Vec<Transaction>>>,
}

impl Client {
    async fn run(self, stop: Arc<AtomicBool>) {
        let mut conn = None;
        for turn in 0_u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            tokio::time::sleep(GAP).await;
            let open = match conn.take() {
                Some(open) => Ok(open),
                None => connect(&self.socket).await,
            };
            let Ok(mut open) = open else { continue };
            let mut ops = Vec::new();
            let end = self.transaction(&mut open, turn, &mut ops).await;
            if end == End::Committed {
                conn = Some(open);
            }
            let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            history.push(Transaction { ops, end });
        }
    }

    /// Three operations on keys that follow from the numbers. Reads lock, so that the whole is serializable.
    async fn transaction(&self, conn: &mut Conn, turn: u64, ops: &mut Vec<Op>) -> End {
        if conn.query_drop("START TRANSACTION").await.is_err() {
            return End::Aborted;
        }
        for step in 0..3 {
            let dice = (self.number * 1_000_003 + turn * 7_919 + step * 104_729) % 1_009;
            let key = u32::try_from(dice % KEYS).unwrap_or_default();
            let done = if dice.is_multiple_of(2) {
                let value = self.number << 40 | turn << 4 | step;
                // Before it is sent: it may be there although nobody said so.
                ops.push(Op::Append(key, value));
                conn.query_drop(format!(
                    "INSERT INTO lists VALUES ({key}, '{value}') ON DUPLICATE KEY UPDATE v = CONCAT(v, ',{value}')"
                ))
                .await
            } else {
                let sql = format!("SELECT v FROM lists WHERE k = {key} FOR UPDATE");
                let read: Result<Option<String>, _> = conn.query_first(sql).await;
                read.map(|text| ops.push(Op::Read(key, text.map_or_else(Vec::new, |text| list(&text)))))
            };
            if done.is_err() {
                // Not committed: nobody asked for it.
                return End::Aborted;
            }
        }
        match conn.query_drop("COMMIT").await {
            Ok(()) => End::Committed,
            Err(_) => End::Unknown,
        }
    }
}

fn list(text: &str) -> Vec<u64> {
    text.split(',').filter_map(|value| value.parse().ok()).collect()
}
