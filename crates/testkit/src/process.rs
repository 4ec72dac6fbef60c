//! A program that runs in a server of the lab.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::LabError;
use crate::proc::{self, ProcessId};
use crate::wait::{ENDS, tail, wait_until};

/// What to start in a server.
#[derive(Clone, Debug)]
pub struct Spawn {
    pub(crate) program: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) log: String,
}

impl Spawn {
    /// A program of the server; `log` names the file in `/var/log` that takes what it prints.
    pub fn new(program: impl Into<String>, log: impl Into<String>) -> Spawn {
        Spawn {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            log: log.into(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Spawn {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable; those of the caller are not passed on.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Spawn {
        self.env.push((name.into(), value.into()));
        self
    }
}

/// A program that runs in a server.
#[derive(Clone, Debug)]
pub struct Process {
    pub(crate) program: String,
    pub(crate) id: ProcessId,
    pub(crate) log: PathBuf,
}

impl Process {
    /// The process as the caller sees it.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Whether it still runs.
    pub fn alive(&self) -> bool {
        self.id.alive()
    }

    /// The end of what it printed.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }

    /// An error that shows the end of its log when it has ended by itself.
    ///
    /// # Errors
    /// [`LabError::Ended`].
    pub fn check_alive(&self) -> Result<(), LabError> {
        if self.alive() {
            return Ok(());
        }
        Err(LabError::Ended {
            program: self.program.clone(),
            log: self.log.clone(),
            tail: self.log_tail(),
        })
    }

    /// The process and everything it started that stayed in its session.
    pub fn session(&self) -> Vec<ProcessId> {
        proc::all()
            .into_iter()
            .filter(|process| process.session == self.id.pid)
            .map(|process| process.id)
            .collect()
    }

    /// Kills it and what it started at once, and waits until they are gone.
    ///
    /// # Errors
    /// When they cannot be killed.
    pub async fn kill_9(&self) -> Result<(), LabError> {
        let session = self.session();
        session.iter().try_for_each(|id| id.kill_9())?;
        wait_until(&format!("end of {}", self.program), ENDS, || async {
            session.iter().all(|id| !id.alive()).then_some(())
        })
        .await
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// When it has not ended within `grace`; it runs on then.
    pub async fn terminate(&self, grace: Duration) -> Result<(), LabError> {
        self.id.signal(Signal::TERM)?;
        wait_until(&format!("end of {}", self.program), grace, || async {
            (!self.alive()).then_some(())
        })
        .await
    }
}

/// The last lines of a log file.
pub(crate) fn log_tail(path: &Path) -> String {
    tail(&fs::read(path).unwrap_or_default(), 20)
}
