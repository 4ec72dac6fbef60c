//! Processes that outlive the one that started them, and are found again by its successor.
//!
//! A process is known by pid, start time and boot: a pid that was given to somebody else is never signalled. The pid
//! file is on disk before the program runs: the child waits behind a pipe until then, and ends when its parent dies
//! first. So there is never a running tier that nobody can find.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pontoon_fleet::{Code, Refusal};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use crate::files::{self, FileError};

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The program: a path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Set in its environment, beyond what it inherits.
    pub env: Vec<(OsString, OsString)>,
}

impl Spec {
    /// `program` without arguments.
    pub fn new(program: impl Into<PathBuf>) -> Spec {
        Spec {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Spec {
        self.args.push(arg.into());
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Spec {
        self.env.push((name.into(), value.into()));
        self
    }
}

/// Why a process could not be started, found or ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program is not there or may not be run.
    #[error("cannot run {}: {source}", program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// Its pid or log file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// It could not be signalled.
    #[error("cannot signal process {pid}: {source}")]
    Signal {
        /// Which.
        pid: u32,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// It is still there after SIGKILL: it hangs in the kernel, on a disk or network file system.
    #[error("process {0} does not end, not even by SIGKILL")]
    Unkillable(u32),
}

impl From<ProcessError> for Refusal {
    fn from(error: ProcessError) -> Refusal {
        match error {
            ProcessError::File(error) => error.into(),
            ProcessError::Program { program, source } => {
                Refusal::new(Code::N006, format!("cannot run {}", program.display()))
                    .because(source.to_string())
            }
            other => Refusal::new(Code::N007, "a process could not be controlled").because(other.to_string()),
        }
    }
}

/// A process that was started or adopted. What the pid file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of /proc/PID/stat, proc_pid_stat(5)).
    pub start_time: u64,
    /// In which boot of the machine.
    pub boot_id: String,
}

/// Starts `spec` in a session of its own, output appended to `log_file`, identity in `pid_file`. It goes on when this
/// process is killed.
///
/// # Errors
/// When the program cannot be run or a file cannot be written; then nothing runs.
pub fn spawn_detached(spec: &Spec, pid_file: &Path, log_file: &Path) -> Result<Running, ProcessError> {
    let program_error = |source| ProcessError::Program {
        program: spec.program.clone(),
        source,
    };
    rustix::fs::access(&spec.program, rustix::fs::Access::EXEC_OK)
        .map_err(|errno| program_error(errno.into()))?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(log_file)
        .map_err(|error| FileError::new(log_file, "open", error))?;
    let log_too = log
        .try_clone()
        .map_err(|error| FileError::new(log_file, "open", error))?;

    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", START_SCRIPT, "pontoon-start"])
        .arg(&spec.program)
        .args(&spec.args);
    command.envs(spec.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(log).stderr(log_too);
    #[allow(clippy::zombie_processes)]
    // meant to outlive us; `alive` reaps it if it ends while we are its parent
    let mut child = command.spawn().map_err(program_error)?;

    let started = start_time(child.id())
        .ok_or_else(|| program_error(io::Error::other("it ended at once")))
        .and_then(|start_time| {
            let running = Running {
                pid: child.id(),
                start_time,
                boot_id: boot_id(),
            };
            running.save(pid_file)?;
            Ok(running)
        })
        .and_then(
            |running| match child.stdin.take().map(|mut pipe| pipe.write_all(b"go\n")) {
                Some(Ok(())) => Ok(running),
                Some(Err(error)) => Err(program_error(error)),
                None => Err(program_error(io::Error::other("no pipe to it"))),
            },
        );
    if started.is_err() {
        // The shell ends at the closed pipe; wait for it so that no zombie stays.
        drop(child.stdin.take());
        let _ = child.wait();
        let _ = files::remove_optional(pid_file);
    }
    started
}

/// Raises the soft limit of open files to the hard one, because the usual 1,024 are for programs that use select(2).
/// Gives the limit that then holds, at most 2²⁰.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const MOST: u64 = 1 << 20;
    let mut limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum.or(Some(MOST)),
        maximum: limit.maximum,
    };
    if raised.current > limit.current
        && limit.current.is_some()
        && setrlimit(Resource::Nofile, raised).is_ok()
    {
        limit = raised;
    }
    limit.current.unwrap_or(MOST).min(MOST)
}

/// Waits for the word that the pid file is on disk, then becomes the program. `setsid` (util-linux, essential in
/// Debian) gives it a session of its own, so that neither Ctrl-C nor a closed terminal reaches it.
const START_SCRIPT: &str = r#"read -r go && [ "$go" = go ] || exit 125
if command -v setsid >/dev/null 2>&1; then exec setsid "$@" </dev/null; fi
exec "$@" </dev/null"#;

/// The process of `pid_file` if it still runs: not another one that was given its pid, not one of an earlier boot.
///
/// # Errors
/// When the file is there and cannot be read. A file with nonsense in it is nobody.
pub fn adopt(pid_file: &Path) -> Result<Option<Running>, ProcessError> {
    Ok(named(pid_file)?.filter(Running::alive))
}

/// The process of `pid_file`, whether it still runs or not.
///
/// # Errors
/// As [`adopt`].
pub fn named(pid_file: &Path) -> Result<Option<Running>, ProcessError> {
    let Some(bytes) = files::read_limited(pid_file, 4096)? else {
        return Ok(None);
    };
    let Ok(running) = serde_json::from_slice::<Running>(&bytes) else {
        tracing::warn!(path = %pid_file.display(), "the pid file holds nonsense: ignored");
        return Ok(None);
    };
    Ok(Some(running))
}

impl Running {
    /// This very process.
    pub fn me() -> Running {
        let pid = std::process::id();
        Running {
            pid,
            start_time: start_time(pid).unwrap_or(0),
            boot_id: boot_id(),
        }
    }

    /// The process with this pid as it is now; `None` when there is none.
    pub fn of(pid: u32) -> Option<Running> {
        Some(Running {
            pid,
            start_time: start_time(pid)?,
            boot_id: boot_id(),
        })
    }

    /// Writes the pid file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, pid_file: &Path) -> Result<(), FileError> {
        let text =
            serde_json::to_vec(self).map_err(|error| FileError::new(pid_file, "write", error.into()))?;
        files::write_atomic(pid_file, &text, 0o644)
    }

    /// Whether it still runs. A zombie does not; one that is our own child is reaped on the way.
    pub fn alive(&self) -> bool {
        if self.boot_id != boot_id() {
            return false;
        }
        match stat(self.pid) {
            Some(stat) if stat.start_time == self.start_time => {
                if stat.is_dead {
                    self.reap();
                }
                !stat.is_dead
            }
            _ => false,
        }
    }

    /// Waits until it has ended. Cancel safe.
    pub async fn ended(&self) {
        // Deprecated because a caller's type may close its descriptor early; an `OwnedFd` is open as long as it lives.
        #[allow(deprecated)]
        if let Some(fd) = self.pidfd()
            && let Ok(fd) = AsyncFd::with_interest(fd, tokio::io::Interest::READABLE)
        {
            // A pidfd becomes readable when the process ends (pidfd_open(2)).
            let _ = fd.readable().await;
        }
        // Without pidfds (an old kernel, a sandbox), or to be sure: look.
        while self.alive() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it: SIGTERM, and SIGKILL when it is still there after `grace`. Returns once it is gone.
    ///
    /// # Errors
    /// When it may not be signalled, or outlives SIGKILL by ten seconds.
    pub async fn terminate(&self, grace: Duration) -> Result<(), ProcessError> {
        for (signal, patience) in [(Signal::TERM, grace), (Signal::KILL, Duration::from_secs(10))] {
            if !self.alive() {
                return Ok(());
            }
            self.signal(signal)?;
            if tokio::time::timeout(patience, self.ended()).await.is_ok() {
                return Ok(());
            }
        }
        Err(ProcessError::Unkillable(self.pid))
    }

    /// Sends a signal to this process and to no other. One that has ended meanwhile is fine.
    ///
    /// # Errors
    /// When it may not be signalled.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        let sent = match self.pidfd() {
            Some(fd) => rustix::process::pidfd_send_signal(fd, signal),
            // No pidfds here: the check and the signal are two steps, the best that such a kernel offers.
            None if self.alive() => match self.rustix_pid() {
                Some(pid) => rustix::process::kill_process(pid, signal),
                None => Ok(()),
            },
            None => Ok(()),
        };
        match sent {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(ProcessError::Signal {
                pid: self.pid,
                source: errno.into(),
            }),
        }
    }

    /// A handle on exactly this process: opened first and checked after, so the pid cannot have changed hands between.
    fn pidfd(&self) -> Option<OwnedFd> {
        let fd = rustix::process::pidfd_open(self.rustix_pid()?, PidfdFlags::empty()).ok()?;
        self.alive().then_some(fd)
    }

    fn reap(&self) {
        if let Some(pid) = self.rustix_pid() {
            // ECHILD when it is somebody else's child: then that one, or init, reaps it.
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }

    fn rustix_pid(&self) -> Option<Pid> {
        // 0 and negative numbers mean groups to kill(2): never.
        i32::try_from(self.pid)
            .ok()
            .filter(|pid| *pid > 0)
            .and_then(Pid::from_raw)
    }
}

/// How far a process is with its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It runs, or could.
    Lives,
    /// It was killed or ends by itself, and still has files, locks or memory to give back: kill(2) finds it, although its
    /// command line and its folder in `/proc` are gone.
    Ends,
    /// Nobody has waited for it yet (a zombie).
    Dead,
}

/// How far the process with this number is with its life; nothing when there is none.
pub fn life(pid: u32) -> Option<Life> {
    stat(pid).map(|stat| match stat {
        Stat { is_dead: true, .. } => Life::Dead,
        Stat { is_ending: true, .. } => Life::Ends,
        _ => Life::Lives,
    })
}

struct Stat {
    start_time: u64,
    is_ending: bool,
    is_dead: bool,
}

/// `PF_EXITING` of the kernel's `include/linux/sched.h`: since Linux 2.4 this bit.
const EXITING: u64 = 4;

fn start_time(pid: u32) -> Option<u64> {
    stat(pid).map(|stat| stat.start_time)
}

/// Reads /proc/PID/stat. The name in field 2 may hold anything, `)` and spaces too: what follows the last `)` counts.
fn stat(pid: u32) -> Option<Stat> {
    let bytes = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?; // field 3
    let flags: u64 = fields.nth(5)?.parse().ok()?; // field 9
    let start_time = fields.nth(12)?.parse().ok()?; // field 22
    Some(Stat {
        start_time,
        is_ending: flags & EXITING != 0,
        is_dead: matches!(state, "Z" | "X"),
    })
}

/// This boot of the machine; empty where it cannot be told, which then compares equal to itself.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
