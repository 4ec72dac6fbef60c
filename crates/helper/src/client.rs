//! The agent's side of the socket.

use std::path::PathBuf;

use pontoon_fleet::{Code, Refusal, ServerName, Tier};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::alone::Alone;
use crate::cut::Cut;
use crate::frame::{self, Frame};
use crate::load::is_shared;
use crate::programs::Lacks;
use crate::protocol::{BackupOptions, BinlogFile, DatabaseState, DumpOptions, Moved, Reply, Request};
use crate::settings::{DatabaseSettings, Setting};

/// Calls the helper; a connection for each call.
#[derive(Clone, Debug)]
pub struct HelperClient {
    socket: PathBuf,
}

/// A copy on its way into this machine.
pub struct RestoreSession {
    stream: BufReader<UnixStream>,
}

impl HelperClient {
    /// The helper that listens on `socket` (`Paths::helper_socket`).
    pub fn new(socket: impl Into<PathBuf>) -> HelperClient {
        HelperClient {
            socket: socket.into(),
        }
    }

    /// What runs and what lies around.
    ///
    /// # Errors
    /// The helper's refusal, or [`Code::N003`] when it does not answer.
    pub async fn state(&self) -> Result<DatabaseState, Refusal> {
        match self.call(&Request::State).await? {
            Reply::State(state) => Ok(state),
            other => Err(unexpected(&other)),
        }
    }

    /// Starts the database; see [`Request::Start`].
    ///
    /// # Errors
    /// [`Code::D005`] with the database's last words.
    pub async fn start(&self) -> Result<(), Refusal> {
        self.done(&Request::Start).await
    }

    /// Starts or stops the systemd unit of a tier; see [`Request::TierUnit`].
    ///
    /// # Errors
    /// [`Code::N003`] with systemd's words.
    pub async fn tier_unit(&self, tier: Tier, start: bool) -> Result<(), Refusal> {
        self.done(&Request::TierUnit { tier, start }).await
    }

    /// Stops the database; see [`Request::Stop`].
    ///
    /// # Errors
    /// [`Code::N003`] when it does not stop.
    pub async fn stop(&self, patience: std::time::Duration, kill: bool) -> Result<(), Refusal> {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.done(&Request::Stop { patience_ms, kill }).await
    }

    /// Restarts the database that is this process; see [`Request::Restart`].
    ///
    /// # Errors
    /// [`Code::N003`] when it is not, was killed or does not stop, [`Code::D005`] when it does not start.
    pub async fn restart(&self, pid: u32, patience: std::time::Duration) -> Result<(), Refusal> {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.done(&Request::Restart { pid, patience_ms }).await
    }

    /// Kills the database; see [`Request::Kill`].
    ///
    /// # Errors
    /// [`Code::N003`] when it does not end.
    pub async fn kill(&self) -> Result<(), Refusal> {
        self.done(&Request::Kill).await
    }

    /// Ends the database's connections with another server, or those to a port of it; see [`Request::HangUp`].
    ///
    /// # Errors
    /// [`Code::N003`] when the kernel does not let it.
    pub async fn hang_up(&self, address: std::net::IpAddr, port: Option<u16>) -> Result<(), Refusal> {
        self.done(&Request::HangUp { address, port }).await
    }

    /// Cuts the binary log; see [`Request::CutBinlog`].
    ///
    /// # Errors
    /// [`Code::D011`] when it cannot be cut with certainty, [`Code::N003`] when the database runs.
    pub async fn cut_binlog(&self, keep: &str, leader: &ServerName) -> Result<Option<Cut>, Refusal> {
        let request = Request::CutBinlog {
            keep: keep.to_owned(),
            leader: leader.clone(),
        };
        match self.call(&request).await? {
            Reply::Cut { cut } => Ok(cut),
            other => Err(unexpected(&other)),
        }
    }

    /// Looks what the binary log has and `keep`, the history of `leader`, has not; see [`Request::Alone`].
    ///
    /// # Errors
    /// [`Code::N006`] when the binary log cannot be read, [`Code::N003`] when nobody knows where it is.
    pub async fn alone(
        &self,
        keep: &str,
        only: Option<&str>,
        leader: &ServerName,
        export: bool,
    ) -> Result<Alone, Refusal> {
        let request = Request::Alone {
            keep: keep.to_owned(),
            only: only.map(str::to_owned),
            leader: leader.clone(),
            export,
        };
        match self.call(&request).await? {
            Reply::Alone { alone } => Ok(alone),
            other => Err(unexpected(&other)),
        }
    }

    /// Checks what the engine had committed; see [`Request::CheckRecovery`].
    ///
    /// # Errors
    /// [`Code::D011`] when something of what was cut off may be.
    pub async fn check_recovery(&self) -> Result<(), Refusal> {
        self.done(&Request::CheckRecovery).await
    }

    /// Writes Pontoon's settings; see [`Request::WriteSettings`].
    ///
    /// # Errors
    /// [`Code::N003`] for a setting that is not on the list, [`Code::N006`], [`Code::J009`].
    pub async fn write_settings(&self, settings: &DatabaseSettings) -> Result<(), Refusal> {
        self.done(&Request::WriteSettings(settings.clone())).await
    }

    /// Renames Pontoon's settings; see [`Request::RemoveSettings`].
    ///
    /// # Errors
    /// [`Code::D006`], [`Code::N006`].
    pub async fn remove_settings(&self) -> Result<Option<Moved>, Refusal> {
        self.moved(&Request::RemoveSettings).await
    }

    /// Copies the fleet certificate to the database; see [`Request::RefreshTls`].
    ///
    /// # Errors
    /// [`Code::J009`], [`Code::N006`].
    pub async fn refresh_tls(&self) -> Result<(), Refusal> {
        self.done(&Request::RefreshTls).await
    }

    /// Starts a copy and returns the stream of [`frame`]s.
    ///
    /// # Errors
    /// [`Code::D007`] when mariadb-backup is missing; what happens later is in the last frame.
    pub async fn backup(&self, options: &BackupOptions) -> Result<BufReader<UnixStream>, Refusal> {
        let (reply, stream) = self.open(&Request::Backup(options.clone())).await?;
        match reply {
            Reply::Done => Ok(stream),
            other => Err(unexpected(&other)),
        }
    }

    /// Which programs for a copy are missing; see [`Request::Lacks`].
    ///
    /// # Errors
    /// [`Code::N003`].
    pub async fn lacks(&self) -> Result<Lacks, Refusal> {
        match self.call(&Request::Lacks).await? {
            Reply::Lacks { lacks } => Ok(lacks),
            other => Err(unexpected(&other)),
        }
    }

    /// Starts a dump and returns the stream of [`frame`]s.
    ///
    /// # Errors
    /// [`Code::D007`] when the tool is missing; what happens later is in the last frame.
    pub async fn dump(&self, options: &DumpOptions) -> Result<BufReader<UnixStream>, Refusal> {
        let (reply, stream) = self.open(&Request::Dump(options.clone())).await?;
        match reply {
            Reply::Done => Ok(stream),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a server ready that takes a dump, and opens it for [`RestoreSession::send`].
    ///
    /// # Errors
    /// [`Code::D003`] when the disk is too small, [`Code::D005`] when no server can be made, [`Code::D006`],
    /// [`Code::D007`].
    pub async fn load(&self, expected_bytes: u64, settings: &[Setting]) -> Result<RestoreSession, Refusal> {
        let settings = settings.iter().filter(|option| is_shared(option)).cloned();
        let request = Request::Load {
            expected_bytes,
            settings: settings.collect(),
        };
        let (reply, stream) = self.open(&request).await?;
        match reply {
            Reply::Done => Ok(RestoreSession { stream }),
            other => Err(unexpected(&other)),
        }
    }

    /// See [`Request::MakeCloning`].
    ///
    /// # Errors
    /// [`Code::D003`] when the disk is too small, [`Code::D006`].
    pub async fn make_cloning(&self, expected_bytes: u64) -> Result<PathBuf, Refusal> {
        match self.call(&Request::MakeCloning { expected_bytes }).await? {
            Reply::Place { path } => Ok(path),
            other => Err(unexpected(&other)),
        }
    }

    /// The binary log's files; see [`Request::Binlogs`].
    ///
    /// # Errors
    /// [`Code::N006`] when its index cannot be read, [`Code::N003`].
    pub async fn binlogs(&self) -> Result<Vec<BinlogFile>, Refusal> {
        match self.call(&Request::Binlogs).await? {
            Reply::Binlogs { files } => Ok(files),
            other => Err(unexpected(&other)),
        }
    }

    /// A part of a file of the binary log: fewer bytes than `most` when it ends there. See [`Request::ReadBinlog`].
    ///
    /// # Errors
    /// [`Code::N006`] when the file is gone, [`Code::N003`].
    pub async fn read_binlog(&self, file: &str, from: u64, most: u64) -> Result<Vec<u8>, Refusal> {
        let request = Request::ReadBinlog {
            file: file.to_owned(),
            from,
            most,
        };
        let (reply, mut stream) = self.open(&request).await?;
        if reply != Reply::Done {
            return Err(unexpected(&reply));
        }
        let broken = |error: std::io::Error| {
            Refusal::new(Code::N003, "the helper ended in the middle of a file").because(error.to_string())
        };
        let mut bytes = Vec::new();
        loop {
            match frame::read(&mut stream).await.map_err(broken)? {
                Frame::Data(more) => bytes.extend_from_slice(&more),
                Frame::Progress(_) => {}
                Frame::Failed(refusal) => return Err(refusal),
                Frame::End(end) if end.bytes == bytes.len() as u64 => return Ok(bytes),
                Frame::End(_) => return Err(broken(std::io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }

    /// Makes room for a copy and opens it for [`RestoreSession::send`].
    ///
    /// # Errors
    /// [`Code::D003`] when the disk is too small, [`Code::D006`], [`Code::D007`].
    pub async fn restore(&self, expected_bytes: u64) -> Result<RestoreSession, Refusal> {
        let (reply, stream) = self.open(&Request::Restore { expected_bytes }).await?;
        match reply {
            Reply::Done => Ok(RestoreSession { stream }),
            other => Err(unexpected(&other)),
        }
    }

    /// See [`Request::MakeIncoming`].
    ///
    /// # Errors
    /// [`Code::D003`] when the disk is too small, [`Code::D006`].
    pub async fn make_incoming(&self, expected_bytes: u64) -> Result<PathBuf, Refusal> {
        match self.call(&Request::MakeIncoming { expected_bytes }).await? {
            Reply::Place { path } => Ok(path),
            other => Err(unexpected(&other)),
        }
    }

    /// See [`Request::SealIncoming`].
    ///
    /// # Errors
    /// [`Code::D003`] when nothing arrived.
    pub async fn seal_incoming(&self, position: &str) -> Result<(), Refusal> {
        match self
            .call(&Request::SealIncoming {
                position: position.to_owned(),
            })
            .await?
        {
            Reply::Ready { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// See [`Request::ActivateIncoming`].
    ///
    /// # Errors
    /// [`Code::D006`] when the database runs or something is in the way, [`Code::D003`] when there is no copy.
    pub async fn activate_incoming(&self) -> Result<Option<Moved>, Refusal> {
        self.moved(&Request::ActivateIncoming).await
    }

    /// See [`Request::MakeEmpty`].
    ///
    /// # Errors
    /// [`Code::D005`] when the server cannot make it, [`Code::D006`] when the database runs.
    pub async fn make_empty(&self, settings: &[Setting]) -> Result<Option<Moved>, Refusal> {
        self.moved(&Request::MakeEmpty {
            settings: settings.to_vec(),
        })
        .await
    }

    /// See [`Request::DiscardIncoming`].
    ///
    /// # Errors
    /// [`Code::D006`] when it is halfway into the data directory's place.
    pub async fn discard_incoming(&self) -> Result<(), Refusal> {
        self.done(&Request::DiscardIncoming).await
    }

    async fn done(&self, request: &Request) -> Result<(), Refusal> {
        match self.call(request).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn moved(&self, request: &Request) -> Result<Option<Moved>, Refusal> {
        match self.call(request).await? {
            Reply::Moved { moved } => Ok(moved),
            other => Err(unexpected(&other)),
        }
    }

    async fn call(&self, request: &Request) -> Result<Reply, Refusal> {
        self.open(request).await.map(|(reply, _)| reply)
    }

    async fn open(&self, request: &Request) -> Result<(Reply, BufReader<UnixStream>), Refusal> {
        let away = |error: std::io::Error| {
            Refusal::new(Code::N003, "the helper does not answer")
                .because(format!("{}: {error}", self.socket.display()))
                .next("start it", "systemctl start pontoon-helper")
        };
        let mut stream = BufReader::new(UnixStream::connect(&self.socket).await.map_err(away)?);
        let mut line =
            serde_json::to_vec(request).map_err(|error| Refusal::new(Code::N007, error.to_string()))?;
        line.push(b'\n');
        stream.write_all(&line).await.map_err(away)?;
        let reply = read_reply(&mut stream).await?;
        Ok((reply, stream))
    }
}

impl RestoreSession {
    /// Passes one frame on.
    ///
    /// # Errors
    /// The helper's own reason when it gave up, such as a full disk.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), Refusal> {
        match frame::write(&mut self.stream, frame).await {
            Ok(()) => Ok(()),
            // It closed: its refusal is there to be read.
            Err(error) => Err(self.reply().await.err().unwrap_or_else(|| {
                Refusal::new(Code::N003, "the helper closed the connection").because(error.to_string())
            })),
        }
    }

    /// Waits until the copy is prepared; after the last frame was sent. Returns its GTID position.
    ///
    /// # Errors
    /// [`Code::D003`] and why.
    pub async fn finish(mut self) -> Result<String, Refusal> {
        match self.reply().await? {
            Reply::Ready { position } => Ok(position),
            other => Err(unexpected(&other)),
        }
    }

    async fn reply(&mut self) -> Result<Reply, Refusal> {
        read_reply(&mut self.stream).await
    }
}

async fn read_reply(stream: &mut BufReader<UnixStream>) -> Result<Reply, Refusal> {
    let mut line = Vec::new();
    let failed = |why: String| Refusal::new(Code::N003, "the helper gave no answer").because(why);
    stream
        .take(1 << 20)
        .read_until(b'\n', &mut line)
        .await
        .map_err(|error| failed(error.to_string()))?;
    if line.is_empty() {
        return Err(failed(
            "it closed the connection: it was stopped, or this user may not call it".to_owned(),
        ));
    }
    match serde_json::from_slice(&line) {
        Ok(Reply::Refused { refusal }) => Err(refusal),
        Ok(reply) => Ok(reply),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn unexpected(reply: &Reply) -> Refusal {
    Refusal::new(Code::N003, "the helper's answer fits another question").because(format!("{reply:?}"))
}
