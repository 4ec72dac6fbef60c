//! What is measured, on which cores: databases, and programs before them.

use std::path::Path;
use std::process::Stdio;

use pontoon_benches::program::list;
pub use pontoon_benches::program::{Proxy, start};
use pontoon_sql_tests::servers::{Engine, Pair};
use pontoon_testkit::LabError;
use tokio::process::Command;

use crate::load::ROWS;

/// Which core does what, when there are enough of them.
#[derive(Clone, Debug)]
pub struct Cores {
    /// The databases.
    pub databases: Vec<usize>,
    /// The proxies: one at a time works.
    pub proxy: Vec<usize>,
    /// The load.
    pub load: Vec<usize>,
}

impl Cores {
    /// For this machine; no pinning on one with fewer than four cores.
    pub fn of_this_machine() -> Cores {
        match std::thread::available_parallelism().map_or(1, usize::from) {
            0..=3 => Cores {
                databases: Vec::new(),
                proxy: Vec::new(),
                load: Vec::new(),
            },
            _ => Cores {
                databases: vec![0, 1],
                proxy: vec![2],
                load: vec![3],
            },
        }
    }
}

/// The database with the table that is asked, and at least one replica of it.
///
/// # Errors
/// [`LabError::Skip`] when the database cannot be had here.
pub async fn database(engine: Engine, replicas: usize, dir: &Path, cores: &Cores) -> Result<Pair, LabError> {
    let mut pair = Pair::start(engine, dir).await?;
    for _ in 1..replicas {
        pair.add_replica(dir).await?;
    }
    pair.fresh().await?;
    for statement in [
        "SET GLOBAL max_connections = 12000".to_owned(),
        "CREATE TABLE app.bench (id INT PRIMARY KEY, v CHAR(120) NOT NULL)".to_owned(),
        format!(
            "INSERT INTO app.bench WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 1000) \
             SELECT a.n + 1000 * (b.n - 1), REPEAT('x', 120) FROM r a, r b WHERE b.n <= {}",
            ROWS / 1000
        ),
    ] {
        pair.on_primary(&statement).await?;
    }
    pair.caught_up().await?;
    for process in pair.servers().filter_map(|server| server.process()) {
        pin(process.pid, &cores.databases).await?;
    }
    Ok(pair)
}

async fn pin(pid: i32, cores: &[usize]) -> Result<(), LabError> {
    if cores.is_empty() {
        return Ok(());
    }
    let status = Command::new("taskset")
        .args(["-acp", &list(cores), &pid.to_string()])
        .stdout(Stdio::null())
        .status()
        .await;
    status.map_err(LabError::io("taskset")).map(drop)
}
