//! The view's way from the agent to the tiers, and the reports' way back.
//!
//! On the socket `<run>/view.sock`: the tier says hello with one JSON line, the agent sends the view as one JSON line
//! at once and at every change, the tier sends a report a line. A line of the agent is a [`FleetView`] with one field
//! more, `agent_run`: it tells a late view of the same agent from the first view of its successor. On disk,
//! `<state>/view.json` holds the last view for a tier that starts while the agent is away.
//!
//! Neither side waits for the other: a slow tier gets the latest view when it reads again and misses those between.

mod client;
mod publisher;

use std::io;
use std::time::Duration;

use pontoon_fleet::{Code, FleetView, Refusal, Tier};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::files::FileError;

pub use client::ViewClient;
pub use publisher::ViewPublisher;

/// The largest view that is published or accepted: 50 servers take about 50 KiB.
pub const MAX_VIEW_BYTES: usize = 4 << 20;

/// The largest hello or report.
pub const MAX_REPORT_BYTES: usize = 1 << 20;

/// How long one line may take to be written before the peer counts as gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a view could not be published or read.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The socket could not be bound.
    #[error("cannot listen on {path}: {source}")]
    Listen {
        /// The socket.
        path: String,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// A view that no tier would accept.
    #[error("a view of {0} bytes is over the limit of {MAX_VIEW_BYTES}")]
    TooLarge(usize),
    /// A view or report that cannot be read.
    #[error("not a view: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The view file.
    #[error(transparent)]
    File(#[from] FileError),
}

impl From<ViewError> for Refusal {
    fn from(error: ViewError) -> Refusal {
        match error {
            ViewError::File(error) => error.into(),
            ViewError::Listen { ref path, ref source } => {
                Refusal::new(Code::N004, format!("cannot listen on {path}")).because(source.to_string())
            }
            other => {
                Refusal::new(Code::N007, "the fleet view could not be published").because(other.to_string())
            }
        }
    }
}

/// The first line that a tier sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    tier: Tier,
    pid: u32,
}

/// A view as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Published {
    #[serde(default)]
    agent_run: String,
    #[serde(flatten)]
    view: FleetView,
}

/// The next line without its end; `None` at the end of the stream.
async fn read_line<R: AsyncBufRead + Unpin>(
    reader: &mut R,
    line: &mut Vec<u8>,
    limit: usize,
) -> io::Result<Option<()>> {
    line.clear();
    let got = reader.take(limit as u64 + 1).read_until(b'\n', line).await?;
    if got == 0 {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_none() {
        let text = if got > limit {
            "a line over the limit"
        } else {
            "the stream ended within a line"
        };
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(Some(()))
}

async fn write_line<W: AsyncWrite + Unpin>(writer: &mut W, line: &[u8]) -> io::Result<()> {
    let write = async {
        writer.write_all(line).await?;
        writer.write_all(b"\n").await
    };
    tokio::time::timeout(WRITE_TIMEOUT, write)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// The last view that was published on this server; `None` before the first.
///
/// # Errors
/// The file cannot be read, or is none.
pub fn last(paths: &crate::paths::Paths) -> Result<Option<pontoon_fleet::FleetView>, ViewError> {
    client::read_file(&paths.view_file())
}

#[cfg(test)]
mod tests;
