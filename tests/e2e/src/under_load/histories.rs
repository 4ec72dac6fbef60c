//! Clients that append to lists, write registers and read both, in transactions over several keys, and remember what
//! they saw: what `pontoon_testkit::history` checks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use pontoon_testkit::database::{SOCKET, connect_root, rows};
use pontoon_testkit::history::{Anomaly, End, Last, Op, Transaction, check};
use pontoon_testkit::{LabError, Server};
use tokio::task::JoinHandle;

use super::gate::Gate;
use super::joined::database_socket;
use super::writers::{connect, socket_of};

/// Lists, and as many registers. Few, so that clients meet.
const KEYS: u64 = 6;

/// Between two transactions of a client.
const GAP: Duration = Duration::from_millis(40);

/// A transaction that takes longer is given up, with its connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// Clients whose history is recorded.
pub struct Histories {
    gate: Arc<Gate>,
    clients: Vec<JoinHandle<()>>,
    history: Arc<Mutex<Vec<Transaction>>>,
}

impl Histories {
    /// Makes the tables, and starts `count` clients at the application's socket on each of these servers.
    ///
    /// # Errors
    /// When the first server's database refuses, or a server is off.
    pub async fn start(servers: &[&Server], count: u64) -> Result<Histories, LabError> {
        let (gate, history) = (Arc::<Gate>::default(), Arc::default());
        let origin = Instant::now();
        let mut clients = Vec::new();
        for (place, server) in servers.iter().enumerate() {
            let socket = server.path(SOCKET)?;
            if place == 0 {
                let mut conn = connect(&socket).await.map_err(LabError::database("connect"))?;
                for (name, kind) in [("lists", "LONGTEXT"), ("registers", "BIGINT UNSIGNED")] {
                    let sql =
                        format!("CREATE TABLE IF NOT EXISTS {name} (k INT PRIMARY KEY, v {kind} NOT NULL)");
                    conn.query_drop(&sql).await.map_err(LabError::database(sql))?;
                }
            }
            for number in 0..count {
                let client = Client {
                    number: place as u64 * count + number,
                    server: (*server).clone(),
                    history: Arc::clone(&history),
                    origin,
                };
                clients.push(tokio::spawn(client.run(Arc::clone(&gate))));
            }
        }
        Ok(Histories {
            gate,
            clients,
            history,
        })
    }

    /// Holds them until [`go_on`](Histories::go_on), and waits until no transaction is under way.
    ///
    /// # Errors
    /// When one does not end within three minutes.
    pub async fn hold(&self) -> Result<(), LabError> {
        self.gate.hold("the clients' transactions").await
    }

    /// Lets them go on, after [`hold`](Histories::hold).
    pub fn go_on(&self) {
        self.gate.go_on();
    }

    /// Ends them, reads everything on `primary`, and says what cannot have happened; and how many transactions there
    /// were. Reads may be late by `stale`: for so long a primary that was replaced may answer them.
    ///
    /// # Errors
    /// When the tables cannot be read.
    pub async fn verdict(self, primary: &Server, stale: Duration) -> Result<(usize, Vec<String>), LabError> {
        self.gate.stop();
        for client in self.clients {
            let _ = client.await;
        }
        let mut root = connect_root(&database_socket(primary)?).await?;
        let lists: Vec<(u32, String)> = rows(&mut root, "SELECT k, v FROM shop.lists").await?;
        let registers: Vec<(u32, u64)> = rows(&mut root, "SELECT k, v FROM shop.registers").await?;
        let last = Last {
            lists: lists.into_iter().map(|(key, text)| (key, list(&text))).collect(),
            registers: registers.into_iter().collect(),
        };
        let history = std::mem::take(&mut *self.history.lock().unwrap_or_else(PoisonError::into_inner));
        let anomalies = check(&history, &last, stale);
        let told = anomalies.iter().map(|anomaly| match anomaly {
            Anomaly::Cycle { through, .. } => {
                let through: Vec<_> = through.iter().map(|one| history.get(*one)).collect();
                format!("{anomaly}: {through:?}")
            }
            _ => anomaly.to_string(),
        });
        Ok((history.len(), told.collect()))
    }
}

struct Client {
    number: u64,
    server: Server,
    history: Arc<Mutex<Vec<Transaction>>>,
    origin: Instant,
}

impl Client {
    async fn run(self, gate: Arc<Gate>) {
        let mut conn = None;
        for turn in 0_u64.. {
            tokio::time::sleep(GAP).await;
            let Some(_passed) = gate.pass() else {
                if gate.is_stopped() {
                    break;
                }
                continue;
            };
            let open = match conn.take() {
                Some(open) => Ok(open),
                None => connect(&socket_of(&self.server)).await,
            };
            let Ok(mut open) = open else { continue };
            let mut ops = Vec::new();
            let began = self.origin.elapsed();
            let transaction = self.transaction(&mut open, turn, &mut ops);
            // Without an answer nobody knows.
            let end = tokio::time::timeout(PATIENCE, transaction).await;
            let end = end.unwrap_or(End::Unknown);
            let ended = self.origin.elapsed();
            if end == End::Committed {
                conn = Some(open);
            }
            let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            history.push(Transaction {
                ops,
                end,
                began,
                ended,
            });
        }
    }

    /// Three operations on keys that follow from the numbers. Reads lock, so that the whole is serializable.
    async fn transaction(&self, conn: &mut Conn, turn: u64, ops: &mut Vec<Op>) -> End {
        if conn.query_drop("START TRANSACTION").await.is_err() {
            return End::Aborted;
        }
        for step in 0..3 {
            let dice = (self.number * 1_000_003 + turn * 7_919 + step * 104_729) % 10_007;
            let key = u32::try_from(dice % KEYS).unwrap_or_default();
            let value = self.number << 40 | turn << 4 | step;
            let done = match dice / KEYS % 5 {
                0 | 1 => append(conn, key, value, ops).await,
                2 => read(conn, key, ops).await,
                3 => write(conn, key, value, ops).await,
                _ => match get(conn, key, ops).await {
                    Ok(()) if turn.is_multiple_of(2) => write(conn, key, value, ops).await,
                    done => done,
                },
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

type Done = Result<(), mysql_async::Error>;

async fn append(conn: &mut Conn, key: u32, value: u64, ops: &mut Vec<Op>) -> Done {
    // Before it is sent: it may be there although nobody said so.
    ops.push(Op::Append(key, value));
    conn.query_drop(format!(
        "INSERT INTO lists VALUES ({key}, '{value}') ON DUPLICATE KEY UPDATE v = CONCAT(v, ',{value}')"
    ))
    .await
}

async fn read(conn: &mut Conn, key: u32, ops: &mut Vec<Op>) -> Done {
    let sql = format!("SELECT v FROM lists WHERE k = {key} FOR UPDATE");
    let text: Option<String> = conn.query_first(sql).await?;
    ops.push(Op::Read(key, text.map_or_else(Vec::new, |text| list(&text))));
    Ok(())
}

async fn write(conn: &mut Conn, key: u32, value: u64, ops: &mut Vec<Op>) -> Done {
    ops.push(Op::Write(key, value));
    conn.query_drop(format!(
        "INSERT INTO registers VALUES ({key}, {value}) ON DUPLICATE KEY UPDATE v = {value}"
    ))
    .await
}

async fn get(conn: &mut Conn, key: u32, ops: &mut Vec<Op>) -> Done {
    let sql = format!("SELECT v FROM registers WHERE k = {key} FOR UPDATE");
    ops.push(Op::Get(key, conn.query_first(sql).await?));
    Ok(())
}

fn list(text: &str) -> Vec<u64> {
    text.split(',').filter_map(|value| value.parse().ok()).collect()
}
