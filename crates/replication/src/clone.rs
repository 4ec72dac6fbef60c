//! A joining server's copy: each step can be repeated after a kill at any moment, because what is done is read from
//! the disk (the helper's mark, the replica's own status), not remembered.

use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pontoon_fleet::{Code, Engine, Refusal, ServerName};
use pontoon_helper::frame::{self, Frame};
use pontoon_helper::{BackupOptions, IncomingState, RestoreSession, Setting};
use pontoon_rt::files;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::control::Session;
use crate::database::{Database, STOP_PATIENCE, check_position, replication_user};
use crate::flavor::{Account, Source, Wanted};
use crate::method::{Means, Method, Wish};
use crate::secret;
use crate::version::Version;
use crate::work::FATAL_READING;

/// A source that sends nothing for this long is gone; one that lives sends its progress every second.
const SOURCE_PATIENCE: Duration = Duration::from_secs(30);

/// MariaDB: «Could not initialize master info structure».
const UNREADABLE_SOURCE: &str = "ERROR 1201";

/// Who wants a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joiner {
    /// Its name.
    pub server: ServerName,
    /// Its address inside the fleet, from where it will replicate.
    pub address: IpAddr,
    /// Its engine.
    pub engine: Engine,
    /// Its version, such as `10.11.19`.
    pub version: String,
    /// How it can be given a copy.
    pub means: Means,
}

/// What a source gives a joiner: all it needs to copy and to follow. Holds a password: it travels over mutual TLS only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTicket {
    /// The source's engine.
    pub engine: Engine,
    /// Its version.
    pub version: String,
    /// Its address inside the fleet.
    pub address: IpAddr,
    /// Its own port there.
    pub port: u16,
    /// The joiner's account.
    pub account: Account,
    /// The size of its data: an estimate of the copy.
    pub expected_bytes: u64,
    /// Settings that a replica must share.
    pub inherited: Vec<Setting>,
    /// How the copy is made.
    pub method: Method,
    /// Why not of the files, when it is not.
    #[serde(default)]
    pub reason: Option<String>,
}

impl SourceTicket {
    /// How the copy is made, for people, when that is not the usual way.
    pub fn words(&self) -> Option<String> {
        let reason = self.reason.as_ref()?;
        Some(format!("copied as a dump, not as files: {reason}"))
    }
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneProgress {
    /// The step.
    pub step: CloneStep,
    /// Bytes so far.
    pub bytes: u64,
    /// Bytes expected.
    pub total: u64,
}

/// The steps of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CloneStep {
    /// The data comes over.
    Copying,
    /// The copy is made consistent.
    Preparing,
    /// The data directories change places.
    Activating,
    /// The new replica starts to follow.
    Following,
    /// It follows and has what the source had.
    Done,
}

impl CloneStep {
    /// A word for a progress line.
    pub fn as_str(self) -> &'static str {
        match self {
            CloneStep::Copying => "copying database",
            CloneStep::Preparing => "preparing the copy",
            CloneStep::Activating => "putting the copy in place",
            CloneStep::Following => "catching up",
            CloneStep::Done => "replica",
        }
    }
}

/// What is kept on disk about a copy (`<state>/clone.json`): for people, and so that a repeated attempt keeps the
/// replication id of the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneState {
    /// The source's address.
    pub source: IpAddr,
    /// The last step that was begun.
    pub step: CloneStep,
    /// The copy's replication id.
    pub server_id: u32,
    /// What it shares with its source, for as long as it is a replica.
    #[serde(default)]
    pub inherited: Vec<Setting>,
    /// Where the data directory went that was there before.
    #[serde(default)]
    pub aside: Option<PathBuf>,
    /// How it is made, for people, when that is not the usual way.
    #[serde(default)]
    pub how: Option<String>,
}

impl Database {
    /// Makes this server ready to be copied by `joiner`: checks that it can be, makes the joiner's account (TLS with a
    /// fleet certificate required, only from its address). `own_address` is where the joiner reaches this server.
    /// Repeatable: the same joiner gets the same password.
    ///
    /// # Errors
    /// [`Code::D001`], [`Code::D002`], [`Code::D007`], [`Code::D015`], [`Code::D017`]; [`Code::D008`].
    pub async fn prepare_source(
        &self,
        joiner: &Joiner,
        own_address: IpAddr,
        wish: Wish,
    ) -> Result<SourceTicket, Refusal> {
        let own = self.version()?;
        own.check_supported(self.node.engine)?;
        let theirs = Version::parse(&joiner.version)
            .ok_or_else(|| Refusal::new(Code::D002, format!("{:?} is not a version", joiner.version)))?;
        theirs.check_supported(joiner.engine)?;
        self.check_unfiltered().await?;
        let (method, reason) = self.choose(joiner, theirs, wish).await?;
        let account = self.replication_account(&joiner.server, joiner.address);
        self.control.run(&self.flavor.create_account(&account)).await?;
        let inherited = self.shared_settings().await?;
        Ok(SourceTicket {
            engine: self.node.engine,
            version: self.node.version.clone(),
            address: own_address,
            port: self.place.port,
            account,
            expected_bytes: self.data_bytes().await,
            inherited,
            method,
            reason,
        })
    }

    /// Settings that a copy of this server's files must share.
    pub(crate) async fn shared_settings(&self) -> Result<Vec<Setting>, Refusal> {
        let rows = self.control.query(self.flavor.inherited()).await?;
        Ok(rows
            .iter()
            .filter_map(|row| Some(Setting::new(row.get("name")?, row.get("value")?)))
            .collect())
    }

    /// Takes a joiner's account away: when it leaves. Repeatable.
    ///
    /// # Errors
    /// [`Code::D008`].
    pub async fn forget_joiner(&self, joiner: &ServerName, address: IpAddr) -> Result<(), Refusal> {
        let account = Account {
            user: replication_user(joiner),
            host: address.to_string(),
            password: String::new(),
        };
        self.control
            .query(&self.flavor.drop_account(&account))
            .await
            .map(drop)
    }

    /// Sends a copy of the running database as frames. What goes wrong after the first byte is said in the last frame.
    ///
    /// # Errors
    /// [`Code::D007`] without mariadb-backup; [`Code::N002`] when the receiver is gone.
    pub async fn serve_backup<W: AsyncWrite + Unpin>(
        &self,
        to: &mut W,
        options: &BackupOptions,
    ) -> Result<(), Refusal> {
        let outcome = self.helper.backup(options).await;
        let gone = |error: std::io::Error| {
            Refusal::new(Code::N002, "the receiver of the copy is gone").because(error.to_string())
        };
        match outcome {
            Ok(mut frames) => {
                tokio::io::copy_buf(&mut frames, to).await.map_err(gone)?;
                tokio::io::AsyncWriteExt::flush(to).await.map_err(gone)
            }
            Err(refusal) => {
                // The joiner should hear the reason, not only that the stream ended.
                frame::write(to, &Frame::Failed(refusal.clone()))
                    .await
                    .map_err(gone)?;
                Err(refusal)
            }
        }
    }

    /// Takes such a copy and prepares it beside the present data directory, which is not touched. Returns its GTID
    /// position.
    ///
    /// # Errors
    /// [`Code::D003`] when it is truncated, falsified or does not fit on the disk; [`Code::D007`].
    pub async fn receive_backup<R: AsyncRead + Unpin>(
        &self,
        from: &mut R,
        expected_bytes: u64,
        progress: &mut (dyn FnMut(CloneProgress) + Send),
    ) -> Result<String, Refusal> {
        let session = self.helper.restore(expected_bytes).await?;
        self.receive(session, from, expected_bytes, progress).await
    }

    /// Passes a copy on to the helper, to its end.
    async fn receive<R: AsyncRead + Unpin>(
        &self,
        mut session: RestoreSession,
        from: &mut R,
        expected_bytes: u64,
        progress: &mut (dyn FnMut(CloneProgress) + Send),
    ) -> Result<String, Refusal> {
        let mut now = CloneProgress {
            step: CloneStep::Copying,
            bytes: 0,
            total: expected_bytes,
        };
        loop {
            let read = tokio::time::timeout(SOURCE_PATIENCE, frame::read(from)).await;
            let read =
                read.unwrap_or_else(|_| Err(std::io::Error::other("the source sends nothing any more")));
            let frame = read.map_err(|error| {
                Refusal::new(Code::D003, "the copy of the database failed")
                    .because(format!("the stream ended after {} bytes: {error}", now.bytes))
                    .next(
                        "repeat it: the old data directory was not touched",
                        "pontoon join …",
                    )
            })?;
            match &frame {
                Frame::Data(bytes) => now.bytes += bytes.len() as u64,
                Frame::Progress(said) => now.total = said.total,
                Frame::End(_) => now.step = CloneStep::Preparing,
                Frame::Failed(refusal) => {
                    let refusal = refusal.clone();
                    // The helper's own answer would say the same.
                    let _ = session.send(&frame).await;
                    return Err(refusal);
                }
            }
            now.total = now.total.max(now.bytes);
            progress(now);
            session.send(&frame).await?;
            if now.step == CloneStep::Preparing {
                return session.finish().await;
            }
        }
    }

    /// Makes this server a replica of the ticket's source: copy, put in place, follow. `open` is called when the copy's
    /// stream is needed, which it is not when an earlier attempt already has the whole of it. To be repeated after
    /// any failure or kill: it goes on where the last one ended. `wanted` is what the replica shall be.
    ///
    /// # Errors
    /// [`Code::D002`], [`Code::D003`], [`Code::D004`], [`Code::D005`], [`Code::D006`], [`Code::D007`]: see each.
    pub async fn clone_from<R, F>(
        &self,
        ticket: &SourceTicket,
        wanted: &Wanted,
        open: impl FnOnce() -> F,
        progress: &mut (dyn FnMut(CloneProgress) + Send),
    ) -> Result<(), Refusal>
    where
        R: AsyncRead + Unpin,
        F: Future<Output = Result<R, Refusal>>,
    {
        let mut noted = |now: CloneProgress| {
            self.reseed.note(now);
            progress(now);
        };
        let copied = self.copy_from(ticket, wanted, open, &mut noted).await;
        self.reseed.ended(copied.as_ref().err());
        copied
    }

    async fn copy_from<R, F>(
        &self,
        ticket: &SourceTicket,
        wanted: &Wanted,
        open: impl FnOnce() -> F,
        progress: &mut (dyn FnMut(CloneProgress) + Send),
    ) -> Result<(), Refusal>
    where
        R: AsyncRead + Unpin,
        F: Future<Output = Result<R, Refusal>>,
    {
        let source_version = Version::parse(&ticket.version)
            .ok_or_else(|| Refusal::new(Code::N005, format!("{:?} is not a version", ticket.version)))?;
        self.version()?.check_supported(self.node.engine)?;
        let source = (ticket.engine, source_version);
        match ticket.method {
            Method::Dump => self.version()?.check_may_load(self.node.engine, source)?,
            Method::Stream | Method::Clone => self.version()?.check_may_follow(self.node.engine, source)?,
        }
        let mut state = self.clone_state(ticket)?;

        let mut mark = self.helper.state().await?.incoming;
        let of_another = self
            .last_clone()?
            .is_some_and(|last| last.source != ticket.address);
        if of_another
            && mark
                .as_ref()
                .is_some_and(|mark| mark.state == IncomingState::Ready)
        {
            // The primary has changed since: what the old one had last may not be in the history of this one.
            self.helper.discard_incoming().await?;
            mark = None;
        }
        if mark
            .as_ref()
            .is_none_or(|mark| mark.state == IncomingState::Receiving)
        {
            state.how = ticket.words();
            self.note(&mut state, CloneStep::Copying)?;
            match ticket.method {
                Method::Dump => {
                    // A server that takes it first: the source is not kept waiting for that.
                    let session = self.helper.load(ticket.expected_bytes, &ticket.inherited).await?;
                    let mut stream = open().await?;
                    self.receive(session, &mut stream, ticket.expected_bytes, progress)
                        .await?;
                }
                Method::Stream => {
                    let mut stream = open().await?;
                    self.receive_backup(&mut stream, ticket.expected_bytes, progress)
                        .await?;
                }
                Method::Clone => self.fetch_clone(ticket, wanted, &mut state, progress).await?,
            }
        }
        let total = ticket.expected_bytes;
        progress(CloneProgress {
            step: CloneStep::Activating,
            bytes: total,
            total,
        });
        self.activate_clone(ticket, wanted, &mut state).await?;
        progress(CloneProgress {
            step: CloneStep::Following,
            bytes: total,
            total,
        });
        if let Err(refusal) = self.follow(ticket).await {
            if refusal.code == Code::D011 {
                // This copy never will: the next attempt makes another.
                self.helper.discard_incoming().await?;
            }
            return Err(refusal);
        }
        self.order_is_done()?;
        self.helper.discard_incoming().await?;
        self.note(&mut state, CloneStep::Done)?;
        progress(CloneProgress {
            step: CloneStep::Done,
            bytes: total,
            total,
        });
        Ok(())
    }

    /// Puts a complete copy into the data directory's place and starts it, read-only, under a replication id of its
    /// own. The old data directory is renamed. Repeatable.
    async fn activate_clone(
        &self,
        ticket: &SourceTicket,
        wanted: &Wanted,
        state: &mut CloneState,
    ) -> Result<(), Refusal> {
        self.note(state, CloneStep::Activating)?;
        let mark = self.helper.state().await?.incoming;
        if mark.is_none_or(|mark| mark.state != IncomingState::Active) {
            self.control.close().await;
            self.helper.stop(STOP_PATIENCE, false).await?;
            let wanted = Wanted {
                replica: true,
                inherited: ticket.inherited.clone(),
                ..wanted.clone()
            };
            let (settings, _) = self.settings(&wanted, state.server_id)?;
            self.helper.write_settings(&settings).await?;
            let moved = self.helper.activate_incoming().await?;
            // Of two the first one is the user's.
            state.aside = state.aside.take().or(moved.map(|moved| moved.to));
            self.note(state, CloneStep::Activating)?;
        }
        self.helper.start().await?;
        self.login().await
    }

    /// Lets this server follow the ticket's source and waits until it does. A server that never followed starts at the
    /// position of its copy; one that did goes on where it is. Repeatable.
    ///
    /// # Errors
    /// [`Code::D004`] with the server's own words.
    pub async fn follow(&self, ticket: &SourceTicket) -> Result<(), Refusal> {
        let source = Source {
            address: ticket.address,
            port: ticket.port,
            account: ticket.account.clone(),
            delay_seconds: self.delay_seconds(),
        };
        let mut session = self.control.session().await?;
        let patience = Duration::from_secs(60);
        if self.replica_status().await?.is_some() {
            session.query(self.flavor.stop_replica(), patience).await?;
        } else if let Some(mark) = self.helper.state().await?.incoming
            && let Some(position) = mark.position.filter(|_| mark.state == IncomingState::Active)
        {
            check_position(&position)?;
            for statement in self.flavor.set_position(&position) {
                session.query(&statement, patience).await?;
            }
        }
        self.point_to(&mut session, &source).await?;
        if let Some(appliers) = self.flavor.set_appliers() {
            session.query(&appliers, patience).await?;
        }
        session.query(self.flavor.start_replica(), patience).await?;

        let begun = Instant::now();
        loop {
            let status = self.replica_status().await?.unwrap_or_default();
            if status.receiving && status.applying {
                return Ok(());
            }
            if status.receiving_error == FATAL_READING {
                return Err(Refusal::new(
                    Code::D011,
                    "the source's binary log does not go on where this copy ends",
                )
                .because(status.error.unwrap_or_default()));
            }
            let given_up =
                status.error.is_some() && !status.connecting && begun.elapsed() > Duration::from_secs(2);
            if given_up || begun.elapsed() > Duration::from_secs(30) {
                let said = status.error.unwrap_or_else(|| "it says nothing".to_owned());
                return Err(Refusal::new(Code::D004, "the replica does not follow")
                    .because(format!("source {}:{}", ticket.address, ticket.port))
                    .because(said));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Writes down whom this stopped replica follows, from the position that it has.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`].
    pub(crate) async fn point_to(&self, session: &mut Session, source: &Source) -> Result<(), Refusal> {
        let patience = Duration::from_secs(60);
        for statement in self.flavor.follow(source, &self.tls_files()) {
            let Err(refusal) = session.query(&statement, patience).await else {
                continue;
            };
            if !refusal
                .evidence
                .iter()
                .any(|line| line.contains(UNREADABLE_SOURCE))
            {
                return Err(refusal);
            }
            // A MariaDB that was killed while it wrote this down never can again, until that is taken away. The position
            // is in a table, and stays.
            tracing::warn!(%refusal, "what the database wrote down of its source is damaged: it is written anew");
            session.query(self.flavor.forget_source(), patience).await?;
            session.query(&statement, patience).await?;
        }
        Ok(())
    }

    /// Stops following and becomes a server of its own that still takes no writes. Repeatable.
    ///
    /// # Errors
    /// [`Code::D008`].
    pub async fn stop_following(&self) -> Result<(), Refusal> {
        if self.replica_status().await?.is_some() {
            let mut session = self.control.session().await?;
            session
                .query(self.flavor.stop_replica(), Duration::from_secs(60))
                .await?;
            session
                .query(self.flavor.forget_source(), Duration::from_secs(60))
                .await?;
        }
        Ok(())
    }

    /// The copy that is under way or was the last; `None` when there was none.
    ///
    /// # Errors
    /// [`Code::N006`].
    pub fn last_clone(&self) -> Result<Option<CloneState>, Refusal> {
        let path = self.paths.state_dir.join("clone.json");
        Ok(files::read_limited(&path, 1 << 16)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    fn clone_state(&self, ticket: &SourceTicket) -> Result<CloneState, Refusal> {
        match self.last_clone()? {
            Some(state) if state.source == ticket.address && state.step != CloneStep::Done => Ok(state),
            _ => Ok(CloneState {
                source: ticket.address,
                step: CloneStep::Copying,
                server_id: secret::new_server_id()?,
                inherited: ticket.inherited.clone(),
                aside: None,
                how: None,
            }),
        }
    }

    fn note(&self, state: &mut CloneState, step: CloneStep) -> Result<(), Refusal> {
        state.step = step;
        let bytes = serde_json::to_vec(state).map_err(|error| Refusal::new(Code::N007, error.to_string()))?;
        files::write_atomic(&self.paths.state_dir.join("clone.json"), &bytes, 0o600)?;
        Ok(())
    }

    /// MySQL: this server fetches the copy from the source's server.
    async fn fetch_clone(
        &self,
        ticket: &SourceTicket,
        wanted: &Wanted,
        state: &mut CloneState,
        progress: &mut (dyn FnMut(CloneProgress) + Send),
    ) -> Result<(), Refusal> {
        // Our account and our certificate first, on the data that is still there; writable, or no plugin can be
        // installed.
        // A replica that is copied anew goes on following, and takes no writes of clients.
        let follows = matches!(self.replica_status().await, Ok(Some(_)));
        let wanted = Wanted {
            replica: follows,
            inherited: Vec::new(),
            ..wanted.clone()
        };
        if let Err(refusal) = self.move_aside(&wanted).await {
            if refusal.code != Code::D005 || !self.copy_ordered() {
                return Err(refusal);
            }
            // It does not start on what is there, and an operator gave that up: CLONE needs a server that runs.
            tracing::warn!(%refusal, "the database does not start; an empty one takes its place until the copy is there");
            self.helper.stop(STOP_PATIENCE, true).await?;
            let moved = self.helper.make_empty(&ticket.inherited).await?;
            if let Some(moved) = moved {
                state.aside.get_or_insert(moved.to);
                self.note(state, CloneStep::Copying)?;
            }
            self.move_aside(&wanted).await?;
        }
        if wanted.failover || follows {
            // Clients stay out: `read_only` holds for them.
            self.helper.start().await?;
            self.login().await?;
            self.control.query("SET GLOBAL super_read_only = OFF").await?;
        }
        if let Err(refusal) = self.install_clone_plugin().await {
            // Known from now on: the next copy is asked for as a dump.
            let why = refusal.evidence.last().unwrap_or(&refusal.what).clone();
            self.reseed.note_without_clone(why);
            return Err(refusal);
        }
        self.end_old_clones().await?;
        let place = self.helper.make_incoming(ticket.expected_bytes).await?;
        let (source, tls) = (format!("{}:{}", ticket.address, ticket.port), self.tls_files());
        let mut session = self.control.session().await?;
        let patience = Duration::from_secs(60);
        for (name, value) in [
            ("clone_valid_donor_list", source.clone()),
            ("clone_ssl_ca", tls.ca.display().to_string()),
            ("clone_ssl_cert", tls.cert.display().to_string()),
            ("clone_ssl_key", tls.key.display().to_string()),
        ] {
            session
                .query(&format!("SET GLOBAL {name} = '{value}'"), patience)
                .await?;
        }
        let statement = format!(
            "CLONE INSTANCE FROM '{}'@'{}':{} IDENTIFIED BY '{}' DATA DIRECTORY = '{}' REQUIRE SSL",
            ticket.account.user,
            ticket.address,
            ticket.port,
            ticket.account.password,
            place.display()
        );
        // The source may still be busy with an attempt whose joiner was killed: it notices in its own time.
        let begun = Instant::now();
        while let Err(refusal) = self
            .run_clone(&mut session, &statement, ticket.expected_bytes, progress)
            .await
        {
            let is_busy = refusal
                .evidence
                .iter()
                .any(|line| line.contains("Too many concurrent clone"));
            if !is_busy || begun.elapsed() > Duration::from_secs(60) {
                return Err(Refusal {
                    code: Code::D003,
                    ..refusal
                });
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let rows = self
            .control
            .query("SELECT gtid_executed FROM performance_schema.clone_status")
            .await?;
        let position = rows
            .first()
            .and_then(|row| row.first())
            .unwrap_or_default()
            .replace(['\n', ' '], "");
        check_position(&position)?;
        self.helper.seal_incoming(&position).await
    }

    async fn run_clone(
        &self,
        session: &mut Session,
        statement: &str,
        expected_bytes: u64,
        progress: &mut (dyn FnMut(CloneProgress) + Send),
    ) -> Result<(), Refusal> {
        let cloning = session.query(statement, Duration::from_secs(86_400));
        tokio::pin!(cloning);
        let so_far = "SELECT CAST(SUM(data) AS UNSIGNED) AS bytes, CAST(SUM(estimate) AS UNSIGNED) AS total \
                      FROM performance_schema.clone_progress";
        progress(CloneProgress {
            step: CloneStep::Copying,
            bytes: 0,
            total: expected_bytes,
        });
        loop {
            tokio::select! {
                outcome = &mut cloning => return outcome.map(drop),
                () = tokio::time::sleep(Duration::from_millis(250)) => {
                    if let Some(row) = self.control.query(so_far).await.unwrap_or_default().first() {
                        let (bytes, total) = (row.number("bytes"), row.number("total"));
                        let total = total.max(bytes).max(expected_bytes);
                        progress(CloneProgress { step: CloneStep::Copying, bytes, total });
                    }
                }
            }
        }
    }

    /// Ends the CLONE of an attempt whose agent was killed: the server goes on with it otherwise, and allows one.
    async fn end_old_clones(&self) -> Result<(), Refusal> {
        let running = "SELECT id FROM information_schema.processlist \
                       WHERE user = 'pontoon' AND info LIKE 'CLONE INSTANCE FROM%'";
        let begun = Instant::now();
        loop {
            let rows = self.control.query(running).await?;
            if rows.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_secs(60) {
                return Err(Refusal::new(Code::D003, "an earlier CLONE does not end")
                    .because("it was killed a minute ago and still runs"));
            }
            for row in &rows {
                // It may have ended meanwhile: the next look tells.
                let _ = self.control.query(&format!("KILL {}", row.number("id"))).await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub(crate) async fn install_clone_plugin(&self) -> Result<(), Refusal> {
        let there = "SELECT 1 FROM information_schema.plugins WHERE plugin_name = 'clone' AND plugin_status = 'ACTIVE'";
        if !self.control.query(there).await?.is_empty() {
            return Ok(());
        }
        self.control
            .query("INSTALL PLUGIN clone SONAME 'mysql_clone.so'")
            .await
            .map(drop)
            .map_err(|refusal| Refusal {
                code: Code::D007,
                what: "MySQL's clone plugin cannot be loaded".to_owned(),
                ..refusal
            })
    }

    /// The size of the tables' files; 0 when the server does not say.
    pub(crate) async fn data_bytes(&self) -> u64 {
        let table = match self.node.engine {
            Engine::Mysql => "INNODB_TABLESPACES",
            _ => "INNODB_SYS_TABLESPACES",
        };
        let statement =
            format!("SELECT CAST(SUM(FILE_SIZE) AS UNSIGNED) AS bytes FROM information_schema.{table}");
        self.control
            .query(&statement)
            .await
            .ok()
            .and_then(|rows| Some(rows.first()?.number("bytes")))
            .unwrap_or(0)
    }
}
