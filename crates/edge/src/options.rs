//! What the edge is started with.

use std::io;
use std::time::Duration;

use pontoon_fleet::{EdgeLimits, ServerName};
use pontoon_rt::handover::HandoverError;
use pontoon_rt::paths::Paths;
use pontoon_rt::process::Spec;

use crate::http1::head::HeadLimits;

/// What the edge is started with.
#[derive(Clone, Debug)]
pub struct EdgeOptions {
    /// This server's name in the view.
    pub server: ServerName,
    /// Where everything lies.
    pub paths: Paths,
    /// Threads that serve; 0 means one a core.
    pub threads: usize,
    /// How requests are logged.
    pub access_log: AccessLog,
    /// Times and sizes. The defaults are right unless a test or a measurement says otherwise.
    pub tuning: Tuning,
    /// What is run to take over from this process when an operator asks for it; `None`: it cannot be asked.
    pub successor: Option<Spec>,
}

impl EdgeOptions {
    /// The edge of `server` with default settings: one thread a core, no access log.
    pub fn new(server: ServerName, paths: Paths) -> EdgeOptions {
        EdgeOptions {
            server,
            paths,
            threads: 0,
            access_log: AccessLog::default(),
            tuning: Tuning::default(),
            successor: None,
        }
    }
}

/// How requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessLog {
    /// As what.
    pub format: AccessLogFormat,
    /// Where to.
    pub to: AccessLogTo,
}

/// As what a request is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// Not at all.
    #[default]
    Off,
    /// A line in the combined format of Apache and nginx.
    Combined,
    /// A JSON object a line.
    Json,
}

/// Where the access log is written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLogTo {
    /// `edge-access.log` in the log directory.
    #[default]
    File,
    /// Standard error.
    Stderr,
}

/// Times and sizes.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Sizes of heads.
    pub head: HeadLimits,
    /// How long a client may take from the first byte of a head to the last (slowloris), and to send its first.
    pub head_timeout: Duration,
    /// How long a kept connection may wait for its next request.
    pub idle_timeout: Duration,
    /// When a kept connection of plain HTTP that says nothing is made as small as can be.
    pub park_after: Duration,
    /// How long a client may pause while it sends a body.
    pub body_timeout: Duration,
    /// The fewest bytes a second of a body, on average and after [`Tuning::body_timeout`]; 0 for as slow as it likes.
    pub body_rate: u64,
    /// The most bytes of a body.
    pub body: Option<u64>,
    /// How long a client may take nothing of an answer.
    pub write_timeout: Duration,
    /// How long a connection to an application server may take to be made.
    pub connect_timeout: Duration,
    /// How long an application server may be silent before and within an answer.
    pub answer_timeout: Duration,
    /// How long a tunnel (WebSocket) may be silent.
    pub tunnel_timeout: Duration,
    /// How long an unused connection to an application server is kept.
    pub pool_idle: Duration,
    /// Unused connections kept for all of that time, for each application server and thread; those beyond, for less.
    pub pool_size: usize,
    /// How long a request is held while no application server can be reached (P4).
    pub hold: Duration,
    /// The most requests that are held at the same time.
    pub hold_limit: usize,
    /// The most client connections of the process; 0 means as many as open files allow.
    pub max_connections: usize,
    /// Bodies up to this length are taken in whole before an application server is chosen, so that the request
    /// can be sent again.
    pub replay_limit: usize,
}

impl Tuning {
    /// As the configuration has it, where it says something.
    #[must_use]
    pub fn under(&self, limits: &EdgeLimits) -> Tuning {
        let size = |bytes: Option<u32>, default: usize| bytes.map_or(default, |bytes| bytes as usize);
        Tuning {
            head: HeadLimits {
                first_line: size(limits.request_line, self.head.first_line),
                head: size(limits.head, self.head.head),
                fields: size(limits.fields, self.head.fields),
            },
            head_timeout: limits.head_timeout.unwrap_or(self.head_timeout),
            idle_timeout: limits.idle_timeout.unwrap_or(self.idle_timeout),
            body_timeout: limits.body_timeout.unwrap_or(self.body_timeout),
            body_rate: limits.body_rate.unwrap_or(self.body_rate),
            body: limits.body.or(self.body),
            write_timeout: limits.write_timeout.unwrap_or(self.write_timeout),
            ..self.clone()
        }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            head: HeadLimits::default(),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            park_after: Duration::from_millis(500),
            body_timeout: Duration::from_secs(30),
            body_rate: 512,
            body: None,
            write_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(60),
            tunnel_timeout: Duration::from_secs(3600),
            pool_idle: Duration::from_secs(15),
            pool_size: 256,
            hold: Duration::from_secs(5),
            hold_limit: 1024,
            max_connections: 0,
            replay_limit: 16 * 1024,
        }
    }
}

/// Why the edge could not run.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The operating system refused something that the edge cannot do without.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The operating system's words.
        source: io::Error,
    },
    /// A serving thread ended before its time: a bug.
    #[error("a serving thread ended: {0}")]
    Thread(#[from] pontoon_rt::threads::ThreadError),
    /// It was started to take over from another process, and that did not come about.
    #[error("taking over: {0}")]
    Handover(#[from] HandoverError),
}
