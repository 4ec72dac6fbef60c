//! What can go wrong in a lab, and what merely cannot be had on this machine.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A reason why something cannot be had here: a program is missing, or the kernel does not allow namespaces.
/// A test prints it and passes: `SKIPPED: reason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SKIPPED: {}", self.0)
    }
}

impl std::error::Error for Skip {}

/// Why a lab could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// It cannot be had on this machine; nothing is broken.
    #[error(transparent)]
    Skip(#[from] Skip),
    /// The operating system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{command} ended with {status}: {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        stderr: String,
    },
    /// Something did not come true in time.
    #[error("{what}: not within {} ms", .after.as_millis())]
    Timeout {
        /// What was awaited.
        what: String,
        /// How long.
        after: Duration,
    },
    /// A process that should run has ended.
    #[error("{program} ended by itself; the end of {log}:\n{tail}", log = .log.display())]
    Ended {
        /// The program.
        program: String,
        /// Its log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// The database refused a statement.
    #[error("{what}: {source}")]
    Database {
        /// What was attempted.
        what: String,
        /// The database's answer.
        source: Box<mysql_async::Error>,
    },
    /// The application did not do what it should while it was set up or read again.
    #[error("{0}")]
    App(String),
    /// The caller asked for something that is not there.
    #[error("{0}")]
    Unknown(String),
}

impl LabError {
    /// Names what was attempted when the system said no.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
        let what = what.into();
        move |source| LabError::Io { what, source }
    }

    /// Names what was attempted when the database said no.
    pub fn database(what: impl Into<String>) -> impl FnOnce(mysql_async::Error) -> LabError {
        let what = what.into();
        move |source| LabError::Database {
            what,
            source: Box::new(source),
        }
    }
}
