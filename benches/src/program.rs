//! A program that is measured: started on its cores, and what it uses of them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pontoon_testkit::{LabError, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// A program that is measured.
pub struct Proxy {
    /// Its name.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

/// Processor time and memory of a program, all its processes together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// In its own code.
    pub user: Duration,
    /// In the kernel, on its behalf.
    pub kernel: Duration,
    /// Resident memory in KiB.
    pub resident_kib: u64,
}

impl Used {
    /// Processor time in all.
    pub fn cpu(&self) -> Duration {
        self.user + self.kernel
    }
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
        let mut all = Used::default();
        for pid in std::iter::once(pid).chain(children(pid)) {
            let one = used_by(pid).map_err(LabError::io(self.name))?;
            all.user += one.user;
            all.kernel += one.kernel;
            all.resident_kib += one.resident_kib;
        }
        Ok(all)
    }
}

impl Drop for Proxy {
    /// Workers outlive a master that is killed, and a master replaces a worker that is: first the one, then the others.
    fn drop(&mut self) {
        let workers: Vec<u32> = self.child.id().map(children).unwrap_or_default();
        let _ = self.child.start_kill();
        for pid in workers {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

fn children(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn used_by(pid: u32) -> std::io::Result<Used> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name in brackets: state is the first field, utime and stime the 12th and 13th (proc(5)).
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // A tick is 10 ms on every Linux that Debian builds.
    let time = |index: usize| {
        let ticks = fields.get(index).and_then(|field| field.parse::<u64>().ok());
        Duration::from_millis(ticks.unwrap_or(0) * 10)
    };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|rest| rest.split_whitespace().next());
    Ok(Used {
        user: time(11),
        kernel: time(12),
        resident_kib: resident.and_then(|kib| kib.parse().ok()).unwrap_or(0),
    })
}

/// Cores as `taskset` takes them.
pub fn list(cores: &[usize]) -> String {
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
    // All of them end at SIGTERM, and those with workers end these too.
    command.args(["--pdeathsig", "TERM", "--"]);
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
    let proxy = Proxy { name, address, child };
    wait_until(name, Duration::from_secs(20), || async {
        tokio::net::TcpStream::connect(address).await.ok()
    })
    .await?;
    Ok(proxy)
}
