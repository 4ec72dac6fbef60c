//! An open-loop writer that keeps a ledger: what was acknowledged, and how long each commit took.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};

/// Writes at a rate until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<()>>,
    ledger: Arc<Ledger>,
}

/// What the writers saw.
#[derive(Default)]
pub struct Ledger {
    pub acknowledged: AtomicU64,
    pub failed: AtomicU64,
    pub worst_us: AtomicU64,
    over_100_ms: AtomicU64,
}

async fn connect(socket: &std::path::Path) -> Conn {
    let options = OptsBuilder::default()
        .socket(Some(socket.to_string_lossy()))
        .user(Some("root"))
        .prefer_socket(false);
    Conn::new(options).await.unwrap()
}

/// Makes the table and fills it with `mebibytes` of rows.
pub async fn fill(socket: &std::path::Path, mebibytes: u64) {
    let mut conn = connect(socket).await;
    conn.query_drop("CREATE DATABASE app").await.unwrap();
    conn.query_drop(
        "CREATE TABLE app.ledger (id BIGINT AUTO_INCREMENT PRIMARY KEY, writer INT, body VARBINARY(2000)) ENGINE=InnoDB",
    )
    .await
    .unwrap();
    conn.query_drop(
        "CREATE TABLE app.bulk (id BIGINT AUTO_INCREMENT PRIMARY KEY, body LONGBLOB) ENGINE=InnoDB",
    )
    .await
    .unwrap();
    conn.query_drop(
        "CREATE TABLE app.`odd, ``name` (k VARCHAR(20) PRIMARY KEY, `v,1` DOUBLE NULL, at TIMESTAMP(3) NULL)",
    )
    .await
    .unwrap();
    conn.query_drop("INSERT INTO app.`odd, ``name` VALUES ('a', NULL, NULL), ('b', 1.5, '2026-01-02 03:04:05.678'), ('', 0, NULL)")
        .await
        .unwrap();
    for _ in 0..mebibytes {
        conn.query_drop(
            "INSERT INTO app.bulk (body) VALUES (CONCAT(UUID(), REPEAT(SHA2(RAND(), 256), 16383)))",
        )
        .await
        .unwrap();
    }
    conn.disconnect().await.unwrap();
}

impl Load {
    /// `per_second` writes over eight connections.
    pub async fn start(socket: PathBuf, per_second: u32) -> Load {
        const WRITERS: u32 = 8;
        let (stop, ledger) = (Arc::new(AtomicBool::new(false)), Arc::new(Ledger::default()));
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let (stop, ledger) = (stop.clone(), ledger.clone());
            let mut conn = connect(&socket).await;
            writers.push(tokio::spawn(async move {
                let gap = Duration::from_secs(1) * WRITERS / per_second;
                let mut due = Instant::now() + gap * writer / WRITERS;
                while !stop.load(Ordering::Relaxed) {
                    tokio::time::sleep_until(due.into()).await;
                    let statement =
                        format!("INSERT INTO app.ledger (writer, body) VALUES ({writer}, REPEAT('x', 200))");
                    match conn.query_drop(statement).await {
                        Ok(()) => ledger.acknowledged.fetch_add(1, Ordering::Relaxed),
                        Err(_) => ledger.failed.fetch_add(1, Ordering::Relaxed),
                    };
                    // From when it was due: a blocked writer does not hide the ones behind it.
                    let took = due.elapsed();
                    ledger
                        .worst_us
                        .fetch_max(took.as_micros() as u64, Ordering::Relaxed);
                    if took > Duration::from_millis(100) {
                        ledger.over_100_ms.fetch_add(1, Ordering::Relaxed);
                    }
                    due += gap;
                }
                let _ = conn.disconnect().await;
            }));
        }
        Load {
            stop,
            writers,
            ledger,
        }
    }

    pub fn acknowledged(&self) -> u64 {
        self.ledger.acknowledged.load(Ordering::Relaxed)
    }

    /// The longest commit since the last call.
    pub fn take_worst(&self) -> Duration {
        Duration::from_micros(self.ledger.worst_us.swap(0, Ordering::Relaxed))
    }

    /// How many commits took longer than 100 ms.
    pub fn slow(&self) -> u64 {
        self.ledger.over_100_ms.load(Ordering::Relaxed)
    }

    /// Ends it and returns (acknowledged, failed).
    pub async fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap();
        }
        (
            self.ledger.acknowledged.load(Ordering::Relaxed),
            self.ledger.failed.load(Ordering::Relaxed),
        )
    }
}
