//! A program of the operator's, for providers that Pontoon does not know. The contract is told in `docs/addresses.md`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use pontoon_fleet::FleetName;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::api::clean;
use crate::{Assign, MoveError};

/// What a program said of an address.
pub(crate) enum Said {
    /// A server's name, or the provider's name for one.
    At(String),
    /// Nobody has it.
    Nowhere,
    /// It cannot tell.
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    fleet: FleetName,
    timeout: Duration,
}

/// How a call ended.
struct Ended {
    status: ExitStatus,
    out: String,
    err: String,
}

impl Program {
    pub(crate) fn new(path: PathBuf, fleet: FleetName, timeout: Duration) -> Program {
        Program { path, fleet, timeout }
    }

    /// `PROGRAM where ADDRESS`.
    pub(crate) async fn find(&self, ip: IpAddr) -> Result<Said, MoveError> {
        let mut command = self.command("where", ip);
        command.arg("where").arg(ip.to_string());
        let ended = self.run(command).await?;
        if ended.status.code() == Some(CANNOT_TELL) {
            return Ok(Said::Nothing);
        }
        self.judged(&ended)?;
        let first = ended.out.lines().next().unwrap_or_default().trim();
        match first {
            "" => Ok(Said::Nowhere),
            name if name.chars().all(|c| c.is_ascii_graphic()) => Ok(Said::At(name.to_owned())),
            other => Err(self.failed(
                format!("says {:?} when it is asked where {ip} is", clean(other)),
                false,
            )),
        }
    }

    /// `PROGRAM claim ADDRESS SERVER`.
    pub(crate) async fn claim(&self, assign: Assign<'_>) -> Result<(), MoveError> {
        let claim = assign.claim;
        let mut command = self.command("claim", claim.ip);
        command
            .args(["claim", &claim.ip.to_string(), claim.to.as_str()])
            .env("PONTOON_TO", claim.to.as_str())
            .env("PONTOON_TARGET", assign.target)
            .env("PONTOON_HOME", claim.home.as_str())
            .env("PONTOON_EPOCH", claim.epoch.to_string());
        let ended = self.run(command).await?;
        self.judged(&ended)
    }

    fn command(&self, action: &str, ip: IpAddr) -> Command {
        let mut command = Command::new(&self.path);
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("PONTOON_ACTION", action)
            .env("PONTOON_IP", ip.to_string())
            .env("PONTOON_FLEET", self.fleet.as_str())
            .env("PONTOON_TIMEOUT", self.timeout.as_secs().to_string())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// Runs it to its end. When this is dropped, the program and all that it started end.
    async fn run(&self, mut command: Command) -> Result<Ended, MoveError> {
        let child = command
            .spawn()
            .map_err(|error| self.failed(format!("cannot be started: {error}"), false))?;
        let mut running = Running(child);
        let (out, err) = (running.0.stdout.take(), running.0.stderr.take());
        let (status, out, err) = tokio::join!(running.0.wait(), beginning(out), beginning(err));
        let status = status.map_err(|error| self.failed(error.to_string(), false))?;
        Ok(Ended { status, out, err })
    }

    fn judged(&self, ended: &Ended) -> Result<(), MoveError> {
        if ended.status.success() {
            return Ok(());
        }
        let last = ended.err.lines().map(clean).rfind(|line| !line.is_empty());
        let how = match ended.status.code() {
            Some(code) => format!("exit status {code}"),
            None => ended.status.to_string(),
        };
        let why = [Some(how), last]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(": ");
        Err(self.failed(why, ended.status.code() == Some(TRY_LATER)))
    }

    fn failed(&self, why: String, later: bool) -> MoveError {
        MoveError::Program {
            program: self.path.display().to_string(),
            why,
            later,
        }
    }
}

/// A program in a process group of its own, which ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // An id that was waited for is none any more.
        let id = self
            .0
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(id) = id
            && let Err(error) = kill_process_group(id, Signal::KILL)
        {
            tracing::debug!(%error, "a program's process group was not ended");
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The beginning of what it says. The rest is read, so that it is not held up, and forgotten.
async fn beginning(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else {
        return String::new();
    };
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let room = KEPT.saturating_sub(kept.len());
        kept.extend(buffer.iter().take(count.min(room)));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Of what a program says, in bytes.
const KEPT: usize = 4096;

/// `EX_TEMPFAIL` of sysexits.h.
const TRY_LATER: i32 = 75;

/// To `where`: the program does not know.
const CANNOT_TELL: i32 = 69;
