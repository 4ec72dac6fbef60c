//! Starts and stops the database, by systemd or as a process of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pontoon_fleet::{Code, Refusal, Tier};
use pontoon_rt::files::FileError;
use pontoon_rt::paths::Paths;
use pontoon_rt::process::{self, Life, Spec};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::process::Command;
use tokio::time::Instant;

use crate::node::{DatabaseNode, Run};
use crate::{find, foreign, greeting, prestart, settings};

/// How long a start may take: recovery after a crash reads the whole redo log.
const START_PATIENCE: Duration = Duration::from_secs(600);

/// How long a killed database may take to give back what it had: much memory takes seconds.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// How long it has to stop, however long it took until it could be told.
const STOP_AT_LEAST: Duration = Duration::from_secs(10);

/// The system user that the database runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// Looks the node's user up: a name of /etc/passwd.
    pub(crate) fn of(node: &DatabaseNode) -> Result<User, Refusal> {
        let path = Path::new("/etc/passwd");
        let text = std::fs::read_to_string(path).map_err(|error| FileError::new(path, "read", error))?;
        text.lines()
            .find_map(|line| {
                let mut fields = line.split(':');
                (fields.next()? == node.user).then_some(())?;
                let uid = fields.nth(1)?.parse().ok()?;
                Some(User {
                    uid,
                    gid: fields.next()?.parse().ok()?,
                })
            })
            .ok_or_else(|| {
                Refusal::new(Code::N003, "the database's system user does not exist").because(format!(
                    "{} is not in {}",
                    node.user,
                    path.display()
                ))
            })
    }

    /// Lets the database read `path`: it becomes root's, with the database's group. Only root can.
    pub(crate) fn own(&self, path: &Path) -> Result<(), Refusal> {
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(path, Some(0), Some(self.gid))
                .map_err(|error| FileError::new(path, "give away", error))?;
        }
        Ok(())
    }

    /// Lets `command` run as this user, when this process may.
    pub(crate) fn run_as<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if rustix::process::geteuid().is_root() && self.uid != 0 {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }
}

/// Starts the database and waits until it takes connections. Fine when it runs. Once `called_off` says so, nothing is
/// started any more, and what was is killed.
pub(crate) async fn start(
    paths: &Paths,
    node: &DatabaseNode,
    called_off: &(dyn Fn() -> bool + Send + Sync),
) -> Result<(), Refusal> {
    let begun = Instant::now();
    if find::server_in(&node.datadir).is_none() {
        if !node.datadir.is_dir() {
            return Err(Refusal::new(Code::D005, "the database did not start")
                .because(format!("{} does not exist", node.datadir.display())));
        }
        match &node.run {
            Run::Systemd { unit, .. } => {
                prestart::permit(paths)?;
                let started = systemctl("start", unit).await;
                prestart::withdraw(paths)?;
                started?;
            }
            Run::Process { argv, log } => {
                release_socket(paths, node).await?;
                // Reaps the one that died, when it was our own child: the pid file will name the next.
                let _ = process::adopt(&paths.pid_file("database"));
                let mut words = node
                    .program
                    .iter()
                    .cloned()
                    .chain(settings::process_arguments(node, argv));
                let mut spec = Spec::new(words.next().unwrap_or_default());
                spec.args = words.map(Into::into).collect();
                // Nothing waits between this and the start.
                if called_off() {
                    return Err(was_called_off());
                }
                process::spawn_detached(&spec, &paths.pid_file("database"), log)?;
            }
        }
    }
    // A process that just began has not changed into its data directory yet: some time without one is normal.
    let mut last_seen = Instant::now();
    loop {
        if called_off() {
            kill(paths, node).await?;
            return Err(was_called_off());
        }
        let socket = settings::effective_socket(node);
        let is_up = find::server_in(&node.datadir).is_some();
        if is_up && tokio::net::UnixStream::connect(&socket).await.is_ok() {
            return Ok(());
        }
        let is_starting = match &node.run {
            Run::Systemd { .. } => is_up,
            Run::Process { .. } => is_up || process::adopt(&paths.pid_file("database"))?.is_some(),
        };
        if is_starting {
            last_seen = Instant::now();
        }
        if last_seen.elapsed() > Duration::from_secs(3) || begun.elapsed() > START_PATIENCE {
            let mut refusal = Refusal::new(Code::D005, "the database did not start");
            if is_up {
                refusal = refusal.because(format!("it runs, and nobody answers on {}", socket.display()));
            }
            for line in last_words(node).await {
                refusal = refusal.because(line);
            }
            return Err(refusal);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn was_called_off() -> Refusal {
    Refusal::new(Code::N003, "the database was killed while this was under way")
}

/// Ends the database's process at once, also one that has only begun, and waits until it is gone.
pub(crate) async fn kill(paths: &Paths, node: &DatabaseNode) -> Result<(), Refusal> {
    let begun = Instant::now();
    let mut told_systemd = false;
    loop {
        let pid = find::server_in(&node.datadir);
        if pid == Some(1) {
            return Err(Refusal::new(
                Code::D009,
                "the database is process 1 of this container, which cannot be killed",
            ));
        }
        if let Some(pid) = pid {
            signal(node, pid, Signal::KILL)?;
        }
        let mut begun_just_now = false;
        match &node.run {
            Run::Process { .. } => {
                // It has not changed into its data directory yet.
                if let Some(running) = process::adopt(&paths.pid_file("database"))? {
                    running.signal(Signal::KILL)?;
                    begun_just_now = running.alive();
                }
            }
            // Whatever the unit's `Restart=` says.
            Run::Systemd { unit, .. } if !told_systemd => {
                told_systemd = true;
                let stopped = tokio::time::timeout(Duration::from_secs(10), systemctl("stop", unit)).await;
                if let Ok(Err(refusal)) = stopped {
                    tracing::warn!(%refusal, "systemd does not know that the database is dead");
                }
            }
            Run::Systemd { .. } => {}
        }
        if pid.is_none() && !begun_just_now {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(30) {
            return Err(Refusal::new(
                Code::N003,
                "the database does not end, not even by SIGKILL",
            ));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The path of the binary log's files, without their numbers; `None` when the user's own configuration has one and the
/// server does not say where.
pub(crate) async fn binlog_base(node: &DatabaseNode) -> Result<Option<PathBuf>, Refusal> {
    if !node.own_log_bin {
        return Ok(Some(node.datadir.join(settings::LOG_BIN)));
    }
    // The server reads its option files as at a start, prints what it would use, and ends.
    let mut words = node.program.iter().cloned();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    if let Run::Process { argv, .. } = &node.run {
        command.args(settings::process_arguments(node, argv));
    }
    command
        .args(["--verbose", "--help"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Ok(user) = User::of(node) {
        user.run_as(&mut command);
    }
    let output = tokio::time::timeout(Duration::from_secs(30), command.output()).await;
    let Ok(Ok(output)) = output else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?.replace('_', "-");
        (name == "log-bin")
            .then(|| words.next().map(str::to_owned))
            .flatten()
    });
    let Some(said) = said.filter(|said| !said.starts_with('(')) else {
        return Ok(None);
    };
    // The server leaves an extension out (MySQL manual, "The Binary Log").
    Ok(Some(node.datadir.join(said).with_extension("")))
}

/// MySQL keeps its pid in `SOCKET.lock` and does not start while a process of that pid exists. After a kill that may be
/// one that still gives its memory back, or a zombie, dead and not yet waited for by its parent, which in a container may
/// be never. Or another program has got that number since.
async fn release_socket(paths: &Paths, node: &DatabaseNode) -> Result<(), Refusal> {
    let mut lock = settings::effective_socket(node).into_os_string();
    lock.push(".lock");
    let lock = Path::new(&lock);
    let Some((bytes, _)) = foreign::read(lock, 64)? else {
        return Ok(());
    };
    let Ok(pid) = String::from_utf8_lossy(&bytes).trim().parse::<u32>() else {
        return Ok(());
    };
    if is_another_program(pid) {
        tracing::info!(
            pid,
            "the database's last process is dead, and another program has its number"
        );
        pontoon_rt::files::remove_optional(lock)?;
        return Ok(());
    }
    let begun = Instant::now();
    while let Some(life @ (Life::Ends | Life::Dead)) = process::life(pid) {
        // Waits for it when it is our own child.
        let _ = process::adopt(&paths.pid_file("database"));
        if life == Life::Dead && begun.elapsed() > Duration::from_secs(1) {
            tracing::warn!(
                pid,
                "the database's last process is dead and its parent does not wait for it"
            );
            pontoon_rt::files::remove_optional(lock)?;
            return Ok(());
        }
        // The database then says that it cannot start, and why.
        if begun.elapsed() > END_PATIENCE {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Whether a process of that number lives and is no database server, by its command line (proc_pid_cmdline(5): empty for
/// a zombie).
fn is_another_program(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    !line.is_empty() && !line.contains("mysqld") && !line.contains("mariadbd")
}

/// Whether systemd is starting the database at this moment, as it does at boot.
pub(crate) async fn is_starting(node: &DatabaseNode) -> bool {
    let Run::Systemd { unit, .. } = &node.run else {
        return false;
    };
    let asked = Command::new("systemctl")
        .args(["show", "--property=ActiveState", "--value", unit])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    asked.is_ok_and(|output| output.stdout.trim_ascii() == b"activating")
}

/// Stops the database and waits until its process is gone. Fine when it does not run.
pub(crate) async fn stop(
    paths: &Paths,
    node: &DatabaseNode,
    patience: Duration,
    kill: bool,
) -> Result<(), Refusal> {
    let Some(pid) = find::server_in(&node.datadir) else {
        return Ok(());
    };
    if pid == 1 {
        return Err(
            Refusal::new(Code::D009, "the database is process 1 of this container")
                .because(
                    "stopping it would end the container, and nothing could start it with other settings",
                )
                .next(
                    "let the container start it behind a small init",
                    "docker run --init …",
                ),
        );
    }
    // Stopped while it starts it may stay for ever; systemd would then wait for its TimeoutStopSec.
    let begun = Instant::now();
    while begun.elapsed() < patience && is_starting(node).await {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    greeting::wait(node, pid, patience.saturating_sub(begun.elapsed())).await;
    match &node.run {
        Run::Systemd { unit, .. } => {
            // Returns when it is gone or the unit's own TimeoutStopSec is over.
            let stopped = tokio::time::timeout(patience, systemctl("stop", unit)).await;
            if let Ok(Err(refusal)) = stopped {
                return Err(refusal);
            }
        }
        Run::Process { .. } => signal(node, pid, Signal::TERM)?,
    }
    let left = patience.saturating_sub(begun.elapsed()).max(STOP_AT_LEAST);
    if gone(paths, node, left).await {
        return Ok(());
    }
    if !kill {
        return Err(Refusal::new(Code::N003, "the database did not stop in time")
            .because(format!("process {pid} still runs after {} s", patience.as_secs())));
    }
    signal(node, pid, Signal::KILL)?;
    if gone(paths, node, Duration::from_secs(10)).await {
        return Ok(());
    }
    Err(
        Refusal::new(Code::N003, "the database does not end, not even by SIGKILL")
            .because(format!("process {pid}")),
    )
}

/// The last lines of what the database had to say.
pub(crate) async fn last_words(node: &DatabaseNode) -> Vec<String> {
    let text = match &node.run {
        Run::Systemd { unit, .. } => {
            let output = Command::new("journalctl")
                .args(["-q", "-n", "12", "-o", "cat", "-u", unit])
                .output()
                .await;
            output
                .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
                .unwrap_or_default()
        }
        Run::Process { argv, log } => {
            let error_log = argv
                .iter()
                .find_map(|argument| {
                    argument
                        .strip_prefix("--log-error=")
                        .or(argument.strip_prefix("--log_error="))
                })
                .map(|file| node.datadir.join(file));
            let mut text = tail(log);
            if let Some(file) = error_log {
                text.push_str(&tail(&file));
            }
            text
        }
    };
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let errors: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| line.contains("[ERROR]"))
        .collect();
    if !errors.is_empty() {
        lines = errors;
    }
    lines[lines.len().saturating_sub(8)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

/// The last 8 KiB of a file, as far as it can be read.
fn tail(path: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<String> {
        let Some((mut file, metadata)) = foreign::open(path).map_err(|error| error.source)? else {
            return Ok(String::new());
        };
        file.seek(SeekFrom::Start(metadata.len().saturating_sub(8192)))?;
        let mut bytes = Vec::new();
        file.take(8192).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

async fn gone(paths: &Paths, node: &DatabaseNode, patience: Duration) -> bool {
    let begun = Instant::now();
    while find::server_in(&node.datadir).is_some() {
        if begun.elapsed() > patience {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Reaps it when it was our own child.
    let _ = process::adopt(&paths.pid_file("database"));
    true
}

/// Signals the database through a handle that is opened first and checked after, so that it cannot be another process.
fn signal(node: &DatabaseNode, pid: u32, signal: Signal) -> Result<(), Refusal> {
    let failed = |error: std::io::Error| {
        Refusal::new(Code::N003, "the database could not be signalled")
            .because(format!("process {pid}: {error}"))
    };
    let Some(raw) = i32::try_from(pid)
        .ok()
        .filter(|raw| *raw > 1)
        .and_then(Pid::from_raw)
    else {
        return Ok(());
    };
    let handle = match rustix::process::pidfd_open(raw, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(errno) => return Err(failed(errno.into())),
    };
    if find::server_in(&node.datadir) != Some(pid) {
        return Ok(());
    }
    match rustix::process::pidfd_send_signal(handle, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Starts or stops the unit of one of Pontoon's own tiers.
pub(crate) async fn control_tier(tier: Tier, start: bool) -> Result<(), Refusal> {
    let verb = if start { "start" } else { "stop" };
    let unit = format!("pontoon-{tier}.service");
    systemctl(verb, &unit).await.map_err(|refusal| Refusal {
        code: Code::N003,
        ..refusal
    })
}

async fn systemctl(verb: &str, unit: &str) -> Result<(), Refusal> {
    let output = Command::new("systemctl")
        .args(["--no-ask-password", verb, unit])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| Refusal::new(Code::N003, "systemctl cannot be run").because(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let code = if verb == "start" { Code::D005 } else { Code::N003 };
    let mut refusal = Refusal::new(code, format!("systemctl {verb} {unit} failed"));
    for line in String::from_utf8_lossy(&output.stderr).lines().take(4) {
        refusal = refusal.because(line);
    }
    if verb == "start" {
        let journal = Command::new("journalctl")
            .args(["-q", "-n", "8", "-o", "cat", "-u", unit])
            .output()
            .await;
        for line in journal
            .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
            .unwrap_or_default()
            .lines()
        {
            refusal = refusal.because(line);
        }
    }
    Err(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_went_to_another_program_is_no_database() {
        assert!(is_another_program(std::process::id()));
        assert!(!is_another_program(u32::MAX), "nobody");
    }
}
