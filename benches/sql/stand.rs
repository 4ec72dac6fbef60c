//! What is measured: a database, the SQL proxy as it is shipped before it, and HAProxy before it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pontoon_sql_tests::servers::{Engine, Pair};
use pontoon_testkit::{LabError, Skip, free_port, wait_until};
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

/// The database with the table that is asked.
///
/// # Errors
/// [`LabError::Skip`] when the database cannot be had here.
pub async fn database(engine: Engine, dir: &Path, cores: &Cores) -> Result<Pair, LabError> {
    let mut pair = Pair::start(engine, dir).await?;
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
    for process in [pair.primary.process(), pair.replica.process()]
        .into_iter()
        .flatten()
    {
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

/// `pontoon sql` before the database, with one thread.
///
/// # Errors
/// When it is not built or does not listen.
pub async fn pontoon(pair: &Pair, dir: &Path, cores: &Cores) -> Result<Proxy, LabError> {
    let program = std::env::current_exe()
        .map_err(LabError::io("this program"))?
        .with_file_name("pontoon");
    let (state, run) = (dir.join("state"), dir.join("run"));
    for folder in [&state, &run] {
        std::fs::create_dir_all(folder).map_err(LabError::io("folder"))?;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let view = view(pair, address).to_string();
    std::fs::write(state.join("view.json"), view).map_err(LabError::io("view"))?;
    let arguments = [
        "sql".to_owned(),
        "--server=a".to_owned(),
        "--threads=1".to_owned(),
        format!("--state-dir={}", state.display()),
        format!("--run-dir={}", run.display()),
    ];
    start(
        "pontoon sql",
        &program,
        &arguments,
        &dir.join("pontoon.log"),
        address,
        cores,
    )
    .await
}

/// The view as the agent of a server would write it, as text: fields that a version does not know are nothing to it.
fn view(pair: &Pair, address: SocketAddr) -> serde_json::Value {
    let server = |name: &str, private: &str| {
        serde_json::json!({
            "name": name, "private": private, "public": [], "roles": ["app"], "zone": null, "standby": false,
            "state": "up", "ports": {"agent": 1, "edge_relay": 2, "sql_relay": 3}, "edge_listen": [],
        })
    };
    serde_json::json!({
        "fleet": "bench", "revision": 1, "epoch": 1, "serial": 1, "agent_run": "bench", "app": null,
        "servers": [server("a", "127.0.0.1")],
        "sql": {
            "engine": pair.engine.tag(), "listen": [{"tcp": address.to_string()}],
            "backend_tcp": format!("127.0.0.1:{}", pair.primary.port()),
            "backend_socket": null, "primary": "a", "servers": [], "hold_writes": 5000, "reads": null,
        },
    })
}

/// HAProxy in TCP mode before the database, with one thread: the one of `.cache/haproxy`, or an installed one.
///
/// # Errors
/// [`LabError::Skip`] when there is none.
pub async fn haproxy(pair: &Pair, dir: &Path, cores: &Cores) -> Result<Proxy, LabError> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/haproxy/bin/haproxy");
    let program = Some(unpacked).filter(|path| path.is_file());
    let program = program.or_else(|| pontoon_testkit::find_program("haproxy"));
    let program =
        program.ok_or_else(|| Skip("HAProxy is not here: script/get-haproxy fetches it".to_owned()))?;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let config = format!(
        "global\n maxconn 4000\n nbthread 1\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n \
         timeout server 1h\nlisten sql\n bind {address}\n server db 127.0.0.1:{}\n",
        pair.primary.port()
    );
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, config).map_err(LabError::io("haproxy.cfg"))?;
    let arguments = ["-db".to_owned(), "-f".to_owned(), file.display().to_string()];
    start(
        "haproxy",
        &program,
        &arguments,
        &dir.join("haproxy.log"),
        address,
        cores,
    )
    .await
}

async fn start(
    name: &'static str,
    program: &Path,
    arguments: &[String],
    log: &PathBuf,
    address: SocketAddr,
    cores: &Cores,
) -> Result<Proxy, LabError> {
    let out = std::fs::File::create(log).map_err(LabError::io("log file"))?;
    let err = out.try_clone().map_err(LabError::io("log file"))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    if !cores.proxy.is_empty() {
        command.args(["taskset", "-c", &list(&cores.proxy)]);
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
