//! What is measured, on which cores: databases, and programs before them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pontoon_sql_tests::servers::{Engine, Pair};
use pontoon_testkit::{LabError, wait_until};
use tokio::process::{Child, Command};

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

/// A program that is measured.
pub struct Proxy {
    /// Its name.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

/// Processor time and memory of a process.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// User and system time.
    pub cpu: Duration,
    /// Resident memory in KiB.
    pub resident_kib: u64,
}

impl Proxy {
    /// What it has used so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn used(&self) -> Result<Used, LabError> {
        let pid = self
            .child
            .id()
            .ok_or_else(|| LabError::Unknown(format!("{} has ended", self.name)))?;
        let read = |file: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(LabError::io(self.name))
        };
        let stat = read("stat")?;
        // After the name in brackets: state is the first field, utime and stime the 12th and 13th (proc(5)).
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |index: usize| {
            fields
                .get(index)
                .and_then(|field| field.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let status = read("status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|rest| rest.split_whitespace().next());
        Ok(Used {
            // A tick is 10 ms on every Linux that Debian builds.
            cpu: Duration::from_millis((ticks(11) + ticks(12)) * 10),
            resident_kib: resident.and_then(|kib| kib.parse().ok()).unwrap_or(0),
        })
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

fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// Starts a program on those cores and waits until it listens.
///
/// # Errors
/// When it does not.
pub async fn start(
    name: &'static str,
    program: &Path,
    arguments: &[String],
    log: &Path,
    address: SocketAddr,
    cores: &[usize],
) -> Result<Proxy, LabError> {
    let out = std::fs::File::create(log).map_err(LabError::io("log file"))?;
    let err = out.try_clone().map_err(LabError::io("log file"))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    if !cores.is_empty() {
        command.args(["taskset", "-c", &list(cores)]);
    }
    command
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err);
    let child = command.kill_on_drop(true).spawn().map_err(LabError::io(name))?;
    wait_until(name, Duration::from_secs(20), || async {
        tokio::net::TcpStream::connect(address).await.ok()
    })
    .await?;
    Ok(Proxy { name, address, child })
}
