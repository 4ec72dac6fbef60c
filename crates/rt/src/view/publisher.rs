//! The agent's side.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_fleet::{FleetView, TierReport};
use tokio::io::BufReader;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};

use super::{Hello, MAX_REPORT_BYTES, MAX_VIEW_BYTES, Published, ViewError, read_line, write_line};
use crate::files;
use crate::listen;
use crate::paths::Paths;
use crate::shutdown::Shutdown;

/// Tiers that may be connected at a time: each kind once, some restarting, and then some.
const MAX_CONNECTIONS: usize = 64;

/// How long a tier may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Reports that wait for the agent; beyond, a report is dropped: the next comes within a second.
const REPORT_QUEUE: usize = 256;

/// A view on its way: one serialisation for all tiers and the file.
#[derive(Clone)]
struct Line {
    bytes: Arc<Vec<u8>>,
}

/// Publishes the view to the tiers of this server. Cheap to clone.
#[derive(Clone)]
pub struct ViewPublisher {
    agent_run: Arc<str>,
    last: Arc<Mutex<Last>>,
    lines: watch::Sender<Option<Line>>,
}

struct Last {
    serial: u64,
    view: Option<FleetView>,
}

impl ViewPublisher {
    /// Listens on the view socket. Must be called within a tokio runtime; ends with `shutdown`.
    ///
    /// The second value receives what the tiers report. Serials go on from the view file, so they grow across
    /// restarts of the agent too.
    ///
    /// # Errors
    /// When the socket cannot be bound: another agent runs, or the run directory cannot be written.
    pub fn bind(
        paths: &Paths,
        shutdown: Shutdown,
    ) -> Result<(ViewPublisher, mpsc::Receiver<TierReport>), ViewError> {
        let path = paths.view_socket();
        let listen_error = |source| ViewError::Listen {
            path: path.display().to_string(),
            source,
        };
        let listener = listen::unix(&path, 0o660).map_err(listen_error)?;
        let listener = UnixListener::from_std(listener).map_err(listen_error)?;
        // Whoever may read the view's file may have the socket: under systemd the tiers are another user than the agent.
        let group = std::fs::metadata(&paths.state_dir).map(|dir| dir.gid());
        if let Ok(group) = group
            && group != rustix::process::getegid().as_raw()
        {
            std::os::unix::fs::chown(&path, None, Some(group)).map_err(listen_error)?;
        }

        let serial = match super::client::read_file(&paths.view_file()) {
            Ok(view) => view.map_or(0, |view| view.serial),
            Err(error) => {
                tracing::warn!(%error, "the old view file is unreadable: serials begin anew");
                0
            }
        };
        let (lines, receiver) = watch::channel(None);
        let (reports, receive_reports) = mpsc::channel(REPORT_QUEUE);
        tokio::spawn(keep_file(paths.view_file(), receiver.clone(), shutdown.clone()));
        tokio::spawn(accept(listener, receiver, reports, shutdown));
        let publisher = ViewPublisher {
            agent_run: run_id().into(),
            last: Arc::new(Mutex::new(Last { serial, view: None })),
            lines,
        };
        Ok((publisher, receive_reports))
    }

    /// The serial that the next view will get.
    pub fn next_serial(&self) -> u64 {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .serial
            .saturating_add(1)
    }

    /// Publishes `view` and returns its serial, which is this publisher's to give: one more than the last. A view
    /// that differs from the last one in nothing but the serial is not sent again. Never waits.
    ///
    /// # Errors
    /// When the view is over [`MAX_VIEW_BYTES`]; then the last one stays.
    pub fn publish(&self, mut view: FleetView) -> Result<u64, ViewError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        view.serial = last.serial;
        if last.view.as_ref() == Some(&view) {
            return Ok(last.serial);
        }
        view.serial = last.serial.saturating_add(1);
        let published = Published {
            agent_run: self.agent_run.to_string(),
            view,
        };
        let bytes = serde_json::to_vec(&published)?;
        if bytes.len() > MAX_VIEW_BYTES {
            return Err(ViewError::TooLarge(bytes.len()));
        }
        last.serial = published.view.serial;
        last.view = Some(published.view);
        self.lines.send_replace(Some(Line {
            bytes: Arc::new(bytes),
        }));
        Ok(last.serial)
    }
}

/// Names this run of the agent: no two have the same, even with the same pid in another boot or namespace.
fn run_id() -> String {
    let me = crate::process::Running::me();
    format!("{}.{}.{}", me.boot_id, me.pid, me.start_time)
}

/// Writes every view to the file, the latest when several came during a write. A full disk is logged and survived:
/// the socket does not depend on it.
async fn keep_file(path: PathBuf, mut lines: watch::Receiver<Option<Line>>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            changed = lines.changed() => if changed.is_err() { return },
            () = shutdown.requested() => if !lines.has_changed().unwrap_or(false) { return },
        }
        let Some(line) = lines.borrow_and_update().clone() else {
            continue;
        };
        let target = path.clone();
        let written =
            tokio::task::spawn_blocking(move || files::write_atomic(&target, &line.bytes, 0o640)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the view is published but not on disk"),
            Err(error) => tracing::error!(%error, "the view could not be written"),
        }
    }
}

async fn accept(
    listener: UnixListener,
    lines: watch::Receiver<Option<Line>>,
    reports: mpsc::Sender<TierReport>,
    shutdown: Shutdown,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.requested() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors: accepting again at once would spin.
                tracing::warn!(%error, "cannot accept a tier's connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            tracing::warn!("over {MAX_CONNECTIONS} connections on the view socket: refused");
            continue;
        };
        let (lines, reports, shutdown) = (lines.clone(), reports.clone(), shutdown.clone());
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                ended = serve(stream, lines, reports) => if let Err(error) = ended {
                    tracing::warn!(%error, "a connection on the view socket was closed");
                },
                () = shutdown.requested() => {}
            }
        });
    }
}

/// One tier's connection, until either side ends it.
async fn serve(
    stream: UnixStream,
    lines: watch::Receiver<Option<Line>>,
    reports: mpsc::Sender<TierReport>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut buffer = Vec::new();
    let hello = tokio::time::timeout(
        HELLO_TIMEOUT,
        read_line(&mut reader, &mut buffer, MAX_REPORT_BYTES),
    );
    if hello
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
        .is_none()
    {
        return Ok(());
    }
    let hello: Hello = serde_json::from_slice(&buffer)?;

    let send = async {
        let mut lines = lines;
        loop {
            let line = lines.borrow_and_update().clone();
            if let Some(line) = line {
                write_line(&mut writer, &line.bytes).await?;
            }
            if lines.changed().await.is_err() {
                return Ok(());
            }
        }
    };
    tokio::select! {
        sent = send => sent,
        received = receive(reader, buffer, &hello, reports) => received,
    }
}

async fn receive(
    mut reader: BufReader<OwnedReadHalf>,
    mut buffer: Vec<u8>,
    hello: &Hello,
    reports: mpsc::Sender<TierReport>,
) -> io::Result<()> {
    while read_line(&mut reader, &mut buffer, MAX_REPORT_BYTES)
        .await?
        .is_some()
    {
        let report: TierReport = serde_json::from_slice(&buffer)?;
        if report.tier() != hello.tier || report.pid != hello.pid {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a report in another tier's name",
            ));
        }
        match reports.try_send(report) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::debug!("the agent is behind: a report was dropped")
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Ok(()),
        }
    }
    Ok(())
}
