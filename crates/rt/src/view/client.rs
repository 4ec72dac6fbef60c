//! A tier's side.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pontoon_fleet::{FleetView, Tier, TierReport};
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::{Hello, MAX_VIEW_BYTES, Published, ViewError, read_line, write_line};
use crate::files;
use crate::paths::Paths;
use crate::shutdown::Shutdown;

/// Between two attempts to reach the agent: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Receives the view and sends reports. The view is kept whatever happens to the agent (P5). Cheap to clone.
#[derive(Clone, Debug)]
pub struct ViewClient {
    views: watch::Receiver<Option<Arc<FleetView>>>,
    reports: Arc<watch::Sender<Option<TierReport>>>,
}

/// The last view of `path`; `None` when there is no file yet.
///
/// # Errors
/// When the file cannot be read or is not a view.
pub(super) fn read_file(path: &Path) -> Result<Option<FleetView>, ViewError> {
    match files::read_limited(path, MAX_VIEW_BYTES as u64)? {
        Some(bytes) => Ok(Some(serde_json::from_slice::<Published>(&bytes)?.view)),
        None => Ok(None),
    }
}

impl ViewClient {
    /// Reads the view file and begins to look for the agent. Must be called within a tokio runtime; ends with
    /// `shutdown`.
    pub fn start(paths: &Paths, tier: Tier, shutdown: Shutdown) -> ViewClient {
        let from_file = read_file(&paths.view_file()).unwrap_or_else(|error| {
            tracing::warn!(%error, "the view file is unreadable: waiting for the agent");
            None
        });
        let (view_sender, views) = watch::channel(from_file.map(Arc::new));
        let (report_sender, reports) = watch::channel(None);
        let connection = Connection {
            socket: paths.view_socket(),
            tier,
            views: view_sender,
            reports,
            agent_run: None,
        };
        tokio::spawn(async move {
            tokio::select! {
                () = connection.keep() => {}
                () = shutdown.requested() => {}
            }
        });
        ViewClient {
            views,
            reports: Arc::new(report_sender),
        }
    }

    /// The present view and every change; `None` until there is a first one.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<FleetView>>> {
        self.views.clone()
    }

    /// The present view.
    pub fn current(&self) -> Option<Arc<FleetView>> {
        self.views.borrow().clone()
    }

    /// Sends a report. Never waits: when the agent is slow or away, only the latest is kept.
    pub fn report(&self, report: TierReport) {
        self.reports.send_replace(Some(report));
    }
}

struct Connection {
    socket: PathBuf,
    tier: Tier,
    views: watch::Sender<Option<Arc<FleetView>>>,
    reports: watch::Receiver<Option<TierReport>>,
    /// The run of the agent that the present view came from; `None` when it came from the file.
    agent_run: Option<String>,
}

impl Connection {
    /// Connects again and again.
    async fn keep(mut self) {
        let mut pause = BACKOFF.0;
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => {
                    let ended = self.converse(stream, &mut pause).await;
                    tracing::debug!(?ended, "the connection to the agent ended: keeping the view");
                }
                Err(error) => tracing::debug!(%error, "the agent does not answer"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// One connection. `pause` is reset by the first good view, so that a peer that accepts and hangs up is not
    /// dialled ten times a second.
    async fn converse(&mut self, stream: UnixStream, pause: &mut Duration) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let hello = Hello {
            tier: self.tier,
            pid: std::process::id(),
        };
        write_line(&mut writer, &serde_json::to_vec(&hello)?).await?;

        let Connection {
            views,
            reports,
            agent_run,
            ..
        } = self;
        let receive = async {
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while read_line(&mut reader, &mut line, MAX_VIEW_BYTES).await?.is_some() {
                let published: Published = serde_json::from_slice(&line)?;
                accept(views, agent_run, published);
                *pause = BACKOFF.0;
            }
            Ok(())
        };
        let send = async {
            loop {
                let report = reports.borrow_and_update().clone();
                if let Some(report) = report {
                    write_line(&mut writer, &serde_json::to_vec(&report)?).await?;
                }
                if reports.changed().await.is_err() {
                    // Nobody can report any more; the view goes on being received.
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            received = receive => received,
            sent = send => sent,
        }
    }
}

/// Takes over a view unless it is an older one of the same run of the agent.
fn accept(
    views: &watch::Sender<Option<Arc<FleetView>>>,
    agent_run: &mut Option<String>,
    published: Published,
) {
    let Published { agent_run: run, view } = published;
    let same_run = agent_run.as_ref() == Some(&run);
    views.send_if_modified(|current| {
        let is_old = current
            .as_ref()
            .is_some_and(|now| same_run && view.serial <= now.serial);
        let is_same = current.as_deref() == Some(&view);
        if is_old || is_same {
            return false;
        }
        *current = Some(Arc::new(view));
        true
    });
    *agent_run = Some(run);
}
