//! Running one command: finding its connection, passing the answer on, and what to do when the database is lost.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use pontoon_mysql_wire::reply::{Done, Expect, OutParams, Outcome, ReplyWalker};
use pontoon_mysql_wire::{SqlState, WireError};
use pontoon_sql_class::{Effects, Engine, Kind, Reason, Route, Verdict};

use pontoon_telemetry::metrics::{Diverted, Sender};

use super::found::asks;
use super::reads::Reader;
use super::route::{self, AfterLoss, Place, Side};
use super::say::LOCK_DEADLOCK;
use super::stream::{BrokenOff, Rest};
use super::{Flow, Session};
use crate::exchange::ask::{AskError, Question};
use crate::exchange::{Answer, End, Ended, send};
use crate::pool::{Connection, Database, LastInsertId, Left, Need, NoConnection};
use crate::target::NoPrimary;

/// `ER_OPTION_PREVENTS_STATEMENT` (read-only), `ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION`,
/// `ER_READ_ONLY_MODE`: what a replica says to what was no read after all.
const READ_ONLY: [u16; 3] = [1290, READ_ONLY_TRANSACTION, 1836];
const READ_ONLY_TRANSACTION: u16 = 1792;

/// What ends a statement from outside (`ER_QUERY_INTERRUPTED`, `ER_CONNECTION_KILLED`) or by its own limit of time
/// (`ER_STATEMENT_TIMEOUT` of MariaDB, `ER_QUERY_TIMEOUT` of MySQL): it is not tried again.
const ENDED: [u16; 4] = [1317, 1927, 1969, 3024];

/// How often a read is asked of another connection because the one before was lost.
const REPEATS: u32 = 5;

/// A command to run.
pub(super) struct Work<'a> {
    /// What is known of it.
    pub verdict: Verdict,
    /// The statement's text, if it has one that sets something by itself.
    pub sql: Option<&'a [u8]>,
    /// What its answer looks like.
    pub expect: Expect,
    /// Whether what it does to the session is noted: it is a statement.
    pub records: bool,
    /// What is sent.
    pub what: What<'a>,
}

/// What is sent to the database.
pub(super) enum What<'a> {
    /// These bytes.
    Frame(&'a [u8]),
    /// These bytes of a packet that goes on in what the client still sends.
    Streamed {
        begun: &'a [u8],
        rest: Rest,
        /// The statement that it executes.
        statement: Option<u32>,
    },
    /// An EXECUTE of a prepared statement.
    Execute { id: u32, payload: &'a [u8] },
    /// Any other command about a prepared statement.
    About { id: u32, payload: &'a [u8] },
    /// Preparing a statement, which the client will know by this number.
    Prepare { id: u32, frame: &'a [u8] },
}

impl Work<'_> {
    /// Whether it is a command that leaves the conditions of the statement before as they are.
    fn is_command(&self) -> bool {
        matches!(self.what, What::Frame(_)) && self.expect == Expect::ResetOrPing
    }
}

/// How one attempt ended.
enum Attempt {
    /// The client has its answer.
    Answered,
    /// To be tried on the primary.
    NotARead,
    /// To be tried again.
    Repeat,
    /// The session ends.
    Close,
}

/// A verdict about a command that is no statement.
pub(super) fn command_verdict(kind: Kind, effects: Effects) -> Verdict {
    Verdict {
        route: Route::Primary,
        reason: Reason::NotARead(kind),
        at: None,
        kind,
        effects,
    }
}

impl Session {
    /// Runs a command to its answer.
    pub(super) async fn run(&mut self, work: &Work<'_>) -> Flow {
        let began = Instant::now();
        if self.passed.is_none() && !self.pass().await {
            return Flow::Close;
        }
        if let Some(flow) = self.notice_loss(&work.verdict).await {
            return flow;
        }
        if !self.untracked && work.sql.is_some_and(super::tracks::mentions_tracking) {
            self.show_own_tracking();
        }
        let asks = asks(work);
        let mut diverted = None;
        for _ in 0..REPEATS {
            let place = route::place(&work.verdict, &self.bonds_now());
            let mut place = self.place_of_found(asks, &work.verdict, place);
            if diverted.is_some() && place == Place::Replica {
                place = Place::Primary;
            }
            let mut reader = None;
            if place == Place::Replica {
                match self.choose_reader().await {
                    Reader::Replica(replica) => reader = Some(replica),
                    Reader::Primary(why) => (place, diverted) = (Place::Primary, why),
                }
            }
            if let Some(why) = diverted.or_else(|| route::diverted(&work.verdict)) {
                self.thread.context.metrics.diverted(why);
            }
            let mut connection = match self.connection(place, reader.as_ref(), &work.verdict).await {
                Ok(connection) => connection,
                Err(Refused::Flow(flow)) => return flow,
                Err(Refused::NoReplica(why)) => {
                    diverted = Some(why);
                    continue;
                }
            };
            if !self.tells_found(asks, &connection) {
                self.keep_or_leave(connection, true);
                return self.say_gone().await;
            }
            connection.owner = Some(Rc::clone(&self.owner));
            match Box::pin(self.attempt(work, connection, began)).await {
                Attempt::Answered => return Flow::Next,
                Attempt::Close => return Flow::Close,
                Attempt::NotARead => diverted = Some(Diverted::Refused),
                Attempt::Repeat => {}
            }
        }
        self.say_error(
            pontoon_mysql_wire::error_code::UNKNOWN_ERROR,
            SqlState::GENERAL,
            "Pontoon: the database was lost again and again while it read",
        )
        .await
    }

    /// Passes the boundary to a new statement: waits while the primary is about to hand over, as long as for a primary.
    /// False when the client went meanwhile.
    async fn pass(&mut self) -> bool {
        let thread = Rc::clone(&self.thread);
        let context = &thread.context;
        self.passed = context.boundary.pass(&thread.lane);
        if self.passed.is_some() {
            return true;
        }
        let _held = context.metrics.hold();
        let mut targets = context.targets.clone();
        let until = tokio::time::Instant::now() + targets.borrow().hold;
        loop {
            let over = targets.wait_for(|target| !matches!(target.primary, Err(NoPrimary::HandingOver(_))));
            tokio::select! {
                over = tokio::time::timeout_at(until, over) => if !matches!(over, Ok(Ok(_))) {
                    // Nobody took over in all that time: the statement takes its chance.
                    return true;
                },
                () = self.client.gone() => return false,
            }
            // The mark is set a moment before the target is.
            tokio::task::yield_now().await;
            self.passed = context.boundary.pass(&thread.lane);
            if self.passed.is_some() {
                return true;
            }
        }
    }

    fn bonds_now(&self) -> route::Bonds {
        route::Bonds {
            pinned: self.is_pinned(),
            splits: self.splits(),
            read_committed: self.read_committed,
            ..self.bonds
        }
    }

    /// Before a command is sent: whether the connection that the session holds is still there, and what it means if
    /// not. Nothing was on its way, so what is lost is known.
    async fn notice_loss(&mut self, verdict: &Verdict) -> Option<Flow> {
        let mut held = self.held.take()?;
        // Also has the thread close what belongs to a primary of before.
        self.thread.obey();
        if held.is_good().await {
            // It may be one that was kept for a moment only.
            self.keep_or_leave(held, true);
            return None;
        }
        self.entry.rests();
        if self.is_pinned() {
            return Some(Flow::Close);
        }
        let open = self.bonds.transaction.take();
        if open.is_none() || verdict.kind == Kind::Rollback {
            return None;
        }
        Some(self.say_rolled_back().await)
    }

    async fn say_gone(&mut self) -> Flow {
        let text = "Pontoon: what the statement before left behind is gone: its connection was needed for another client, \
                    or it is on two";
        let code = pontoon_mysql_wire::error_code::UNKNOWN_ERROR;
        self.say_error(code, SqlState::GENERAL, text).await
    }

    /// What servers say to a write in a read-only transaction.
    async fn say_read_only(&mut self) -> Flow {
        let text = match self.facts.engine {
            Engine::MariaDb => "Cannot execute statement in a READ ONLY transaction",
            Engine::MySql => "Cannot execute statement in a READ ONLY transaction.",
        };
        let state = SqlState::new(*b"25006").unwrap_or(SqlState::GENERAL);
        self.say_error(READ_ONLY_TRANSACTION, state, text).await
    }

    async fn say_rolled_back(&mut self) -> Flow {
        let text = "Deadlock found when trying to get lock; try restarting transaction (Pontoon: the database of this \
                    transaction was lost before it was committed)";
        let state = SqlState::new(*b"40001").unwrap_or(SqlState::GENERAL);
        self.say_error(LOCK_DEADLOCK, state, text).await
    }

    /// The connection for `place`, in the session's state; `reader` is the replica that was chosen.
    async fn connection(
        &mut self,
        place: Place,
        reader: Option<&Rc<Database>>,
        verdict: &Verdict,
    ) -> Result<Box<Connection>, Refused> {
        match place {
            Place::Held => match self.held.take() {
                Some(mut connection) => match self.ready_for(&mut connection, verdict).await {
                    Ok(()) => Ok(connection),
                    Err(AskError::Refused(packet)) => {
                        self.keep_or_leave(connection, true);
                        Err(Refused::Flow(self.say_packet(&packet).await))
                    }
                    Err(_) => Err(Refused::Flow(self.held_is_lost(connection, verdict).await)),
                },
                // Pinned by what comes, such as long data before anything else.
                None => self.any(None, verdict).await,
            },
            Place::Primary | Place::Replica => self.any(reader, verdict).await,
            Place::Previous(side) => match self.claim(side).await {
                Some(connection) if self.tells_insert_id(&connection, verdict) => Ok(connection),
                other => {
                    if let Some(connection) = other {
                        self.keep_or_leave(connection, true);
                    }
                    Err(Refused::Flow(self.say_gone().await))
                }
            },
            Place::Moved | Place::Committed => self.leave_replica(place, verdict).await,
            Place::Refused | Place::OutOfReach => {
                let text = match place {
                    Place::Refused => {
                        "Pontoon: this statement cannot run in a read-only transaction that has read from a replica"
                    }
                    _ => {
                        "Pontoon: what the statement before left behind is at a replica, and this statement cannot run \
                         there"
                    }
                };
                Err(Refused::Flow(
                    self.say_error(
                        pontoon_mysql_wire::error_code::UNKNOWN_ERROR,
                        SqlState::GENERAL,
                        text,
                    )
                    .await,
                ))
            }
        }
    }

    /// Any connection to the primary, or to that replica: the session's own if it is still there.
    async fn any(
        &mut self,
        replica: Option<&Rc<Database>>,
        verdict: &Verdict,
    ) -> Result<Box<Connection>, Refused> {
        let side = if replica.is_some() {
            Side::Replica
        } else {
            Side::Primary
        };
        let mut own = match self.claim(side).await {
            Some(own) if replica.is_none_or(|wanted| wanted.pin == own.backend.pin) => Some(own),
            Some(other) => {
                self.thread.leave(other, FREE);
                None
            }
            None => None,
        };
        if let Some(mut useless) = own.take_if(|own| own.effort(&self.state).is_none()) {
            // It has a default database, and the session has none any more.
            if useless.settle().await.is_ok() {
                self.thread.leave(useless, FREE);
            }
        }
        if replica.is_none() && !self.thread.has_primary() {
            // Held until there is one; what was left may be of the one before.
            own = None;
        }
        for _ in 0..REPEATS {
            let mut connection = match own.take() {
                Some(own) => own,
                None => {
                    let need = Need {
                        identity: &self.identity,
                        replica,
                        state: &self.state,
                        login: self.login,
                        urgent: false,
                    };
                    match Box::pin(self.thread.acquire(&need, Some(&self.client))).await {
                        Ok(connection) => connection,
                        Err(_) if replica.is_some() => return Err(Refused::NoReplica(Diverted::Lag)),
                        Err(why) => return Err(Refused::Flow(self.say_refusal(&why).await)),
                    }
                }
            };
            if replica.is_some() && !self.reads_like_here(&connection) {
                self.thread.leave(connection, FREE);
                return Err(Refused::NoReplica(Diverted::Differs));
            }
            match self.ready(&mut connection, verdict).await {
                Ok(()) => return Ok(connection),
                Err(AskError::Refused(packet)) => {
                    return Err(Refused::Flow(self.say_packet(&packet).await));
                }
                // Lost before anything of the client's was sent to it.
                Err(error) => tracing::debug!(%error, "a connection was lost between two uses"),
            }
        }
        Err(match replica {
            Some(_) => Refused::NoReplica(Diverted::Lag),
            None => {
                let why = NoConnection::Failed("the database is lost again and again".to_owned());
                Refused::Flow(self.say_refusal(&why).await)
            }
        })
    }

    /// Whether a session on that server reads statements as this one does: the servers' settings may differ.
    fn reads_like_here(&self, connection: &Connection) -> bool {
        let set = self.state.variable("sql_mode").is_some();
        set || connection.facts.sql_mode == self.facts.sql_mode
    }

    /// Gives a connection the session's state.
    async fn ready(&mut self, connection: &mut Connection, verdict: &Verdict) -> Result<(), AskError> {
        // Asked before this session has run anything: what the connection would tell is another session's.
        let mine = connection
            .owner
            .as_ref()
            .is_some_and(|owner| Rc::ptr_eq(owner, &self.owner));
        let uses_previous = verdict.effects.contains(Effects::USES_PREVIOUS_STATEMENT);
        let nothing_yet = self.bonds.previous.is_none() || self.found.is_none();
        let clean = (uses_previous && nothing_yet) || (connection.warned && !mine);
        if clean || !Rc::ptr_eq(&connection.applied, &self.state) {
            connection.become_like(&self.state, clean).await?;
        }
        // MySQL tells the warnings of the statement before with commands that are none. If that was not here, these are
        // older.
        let older = connection.warned && self.bonds.previous != Some(connection.key.side);
        if older && self.facts.engine == Engine::MySql && matches!(verdict.kind, Kind::Use | Kind::Admin) {
            connection.ask(&[Question::query(b"DO 0")]).await?;
            connection.warned = false;
        }
        self.ready_for(connection, verdict).await
    }

    /// What a statement needs of a connection beside the session's state.
    async fn ready_for(&mut self, connection: &mut Connection, verdict: &Verdict) -> Result<(), AskError> {
        if !self.tells_insert_id(connection, verdict) {
            if verdict.effects.contains(Effects::USES_PREVIOUS_STATEMENT) && self.bonds.previous.is_some() {
                let text = "Pontoon: LAST_INSERT_ID() cannot be had together with what the statement before left behind: \
                            they are on two connections";
                return Err(AskError::Refused(pontoon_mysql_wire::ErrorPacket::new(
                    pontoon_mysql_wire::error_code::UNKNOWN_ERROR,
                    SqlState::GENERAL,
                    text,
                )));
            }
            self.carry_insert_id(connection).await?;
        } else if writes(verdict.kind) && matches!(self.owner.last_insert_id.get(), LastInsertId::Known(_)) {
            // What the write leaves and the id may be asked for at once: then it would be too late to carry the id.
            self.carry_insert_id(connection).await?;
        }
        if self.untracked {
            connection.untrack().await?;
        }
        Ok(())
    }

    /// Whether a connection says what `LAST_INSERT_ID()` is to this session, or the statement does not ask.
    fn tells_insert_id(&self, connection: &Connection, verdict: &Verdict) -> bool {
        let asks = Effects::USES_LAST_INSERT_ID | Effects::RUNS_ROUTINE | Effects::OPAQUE;
        !verdict.effects.intersects(asks)
            || match self.owner.last_insert_id.get() {
                LastInsertId::At(serial) => serial == connection.serial,
                LastInsertId::Known(id) => connection.insert_id == Some(id),
                LastInsertId::Lost => false,
            }
    }

    /// The connection that the session held broke before anything of the client's was sent to it.
    async fn held_is_lost(&mut self, connection: Box<Connection>, verdict: &Verdict) -> Flow {
        drop(connection);
        self.entry.rests();
        let open = self.bonds.transaction.take();
        if self.is_pinned() || open.is_none() {
            return Flow::Close;
        }
        if verdict.kind == Kind::Rollback {
            return self.say_ok(1).await;
        }
        self.say_rolled_back().await
    }

    /// Has a connection say what `LAST_INSERT_ID()` is to this session.
    async fn carry_insert_id(&mut self, connection: &mut Connection) -> Result<(), AskError> {
        let mut known = self.owner.last_insert_id.get();
        if known == LastInsertId::At(connection.serial) {
            return Ok(());
        }
        // Whoever took the connection that knows it is asking it at this moment.
        for _ in 0..200 {
            if !matches!(known, LastInsertId::At(_)) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            known = self.owner.last_insert_id.get();
        }
        match known {
            LastInsertId::Known(id) if connection.insert_id == Some(id) => Ok(()),
            LastInsertId::Known(id) => {
                let sql = format!("SET SESSION last_insert_id={id}");
                connection.ask(&[Question::query(sql.as_bytes())]).await?;
                connection.insert_id = Some(id);
                Ok(())
            }
            LastInsertId::At(_) | LastInsertId::Lost => {
                let text = "Pontoon: LAST_INSERT_ID() is gone: the connection of the last INSERT was lost";
                Err(AskError::Refused(pontoon_mysql_wire::ErrorPacket::new(
                    pontoon_mysql_wire::error_code::UNKNOWN_ERROR,
                    SqlState::GENERAL,
                    text,
                )))
            }
        }
    }

    /// Ends the read-only transaction on a replica, and goes on at the primary.
    async fn leave_replica(&mut self, place: Place, verdict: &Verdict) -> Result<Box<Connection>, Refused> {
        if let Some(mut replica) = self.held.take() {
            let end: &[u8] = if place == Place::Moved {
                b"ROLLBACK"
            } else {
                b"COMMIT"
            };
            if replica.ask(&[Question::query(end)]).await.is_ok() {
                self.thread.leave(replica, FREE);
            }
        }
        self.bonds.transaction = None;
        self.bonds.has_read = false;
        let mut primary = self.any(None, verdict).await?;
        if place == Place::Moved {
            match primary
                .ask(&[Question::query(b"START TRANSACTION READ ONLY")])
                .await
            {
                Ok(_) => self.bonds.transaction = Some(Side::Primary),
                Err(_) => return Err(Refused::Flow(self.say_rolled_back().await)),
            }
        }
        Ok(primary)
    }

    async fn attempt(&mut self, work: &Work<'_>, mut connection: Box<Connection>, began: Instant) -> Attempt {
        let bytes = match self.bytes_for(work, &mut connection).await {
            Ok(bytes) => bytes,
            Err(AskError::Refused(packet)) => {
                self.keep_or_leave(connection, false);
                return told(self.say_packet(&packet).await);
            }
            Err(_) => return Box::pin(self.lost(work, connection, false, began)).await,
        };
        let sequence = 1;
        let mut walker = ReplyWalker::new(
            work.expect,
            connection.backend.capabilities,
            self.capabilities,
            sequence,
        )
        .with_status(self.status)
        .with_hidden(Arc::clone(&self.hidden));
        if let What::Prepare { id, .. } = work.what {
            walker = walker.with_statement_id(id);
        }
        if work.verdict.kind == Kind::Call {
            walker = walker.with_out_params(match self.facts.engine {
                Engine::MariaDb => OutParams::BeforeAndBehind,
                Engine::MySql => OutParams::Before,
            });
        }
        if work.is_command() && self.facts.engine == Engine::MySql {
            walker = walker.with_warnings(self.conditions);
        }
        let mut answer = Answer::new(walker);
        answer.finish = !reads_only(work.verdict.kind);
        self.entry
            .uses(connection.key.server, connection.backend.thread_id);
        let _busy = connection.works();
        let sent = send(&mut connection.backend.peer, &bytes, &connection.link).await;
        // The client is not done with its packet, and nobody listens any more.
        let mut cut_off = false;
        if let (What::Streamed { rest, .. }, Ok(())) = (&work.what, sent) {
            match Box::pin(self.stream(rest.clone(), &mut connection)).await {
                Ok(sequence) => answer.begins_with(sequence),
                // What the database has of it is half a packet.
                Err(BrokenOff::Client) => return Attempt::Close,
                Err(BrokenOff::Database) if self.link.ended().is_some() => return Attempt::Close,
                Err(BrokenOff::Database) => cut_off = true,
            }
            answer.finish = true;
        }
        // What could not be sent may have been answered all the same: «packet too large», «killed».
        loop {
            let links = [&*self.link, &*connection.link];
            match answer
                .receive(&mut self.client, &mut connection.backend.peer, links)
                .await
            {
                Ended::Done(done) => {
                    let finished = Box::pin(self.finish(work, connection, answer, *done, began)).await;
                    return if cut_off { Attempt::Close } else { finished };
                }
                Ended::LocalInfile => {
                    if Box::pin(self.upload(&mut answer, &mut connection)).await.is_err() {
                        // What came of the file may have been written.
                        self.doubt_floor(&work.verdict, &connection);
                        return Attempt::Close;
                    }
                }
                Ended::ClientGone => {
                    self.doubt_floor(&work.verdict, &connection);
                    self.kill_what_runs(&connection);
                    return Attempt::Close;
                }
                Ended::Stopped(End::Killed | End::Closing) if self.link.ended().is_some() => {
                    self.doubt_floor(&work.verdict, &connection);
                    return Attempt::Close;
                }
                Ended::Lost | Ended::Stopped(_) => {
                    return Box::pin(self.lost(work, connection, answer.begun(), began)).await;
                }
                Ended::Broken(error) => return self.broken(error, answer.begun()).await,
            }
        }
    }

    /// The bytes to send, on this connection.
    async fn bytes_for<'a>(
        &mut self,
        work: &Work<'a>,
        connection: &mut Connection,
    ) -> Result<Cow<'a, [u8]>, AskError> {
        match work.what {
            What::Frame(frame) | What::Streamed { begun: frame, .. } | What::Prepare { frame, .. } => {
                Ok(Cow::Borrowed(frame))
            }
            What::Execute { id, payload } => {
                self.execute_bytes(id, payload, connection).await.map(Cow::Owned)
            }
            What::About { id, payload } => self.about_bytes(id, payload, connection).await.map(Cow::Owned),
        }
    }

    async fn finish(
        &mut self,
        work: &Work<'_>,
        mut connection: Box<Connection>,
        mut answer: Answer,
        done: Done,
        began: Instant,
    ) -> Attempt {
        if done.status_told {
            connection.backend.status = done.status;
        }
        if let Outcome::Error { code, .. } = done.outcome
            && connection.key.side == Side::Replica
            && !answer.begun()
        {
            match self.bonds.transaction {
                // The primary says what is wrong: then it also knows when it is asked (`GET DIAGNOSTICS`).
                None if work.verdict.route == Route::Replica && !ENDED.contains(&code) => {
                    connection.warned = true;
                    self.keep_or_leave(connection, false);
                    return Attempt::NotARead;
                }
                // What the primary says first to a write in such a transaction.
                Some(_) if READ_ONLY.contains(&code) => {
                    connection.warned = true;
                    self.keep_or_leave(connection, true);
                    return told(self.say_read_only().await);
                }
                _ => {}
            }
        }
        self.raise_floor(&work.verdict, &done, &connection);
        let sent = answer.send(&mut self.client, &self.link).await;
        self.tally(work, connection.key.side, began, Some(&done));
        if work.records {
            self.record(&work.verdict, work.sql, &done, &mut connection);
        } else if done.status_told {
            self.status = done.status;
        }
        self.record_statement(work, &done, &mut connection);
        let failed = matches!(done.outcome, Outcome::Error { .. });
        if !work.is_command() {
            self.conditions = done.warnings.max(u16::from(failed));
        }
        if work.verdict.effects.contains(Effects::CLOSES_CONNECTION) && !failed {
            return Attempt::Close;
        }
        let precious = work.verdict.effects.contains(Effects::SETS_FOUND_ROWS) || done.warnings > 0;
        self.keep_or_leave(connection, precious);
        match sent {
            Ok(()) => Attempt::Answered,
            Err(_) => Attempt::Close,
        }
    }

    /// The database was lost while the command ran.
    async fn lost(
        &mut self,
        work: &Work<'_>,
        connection: Box<Connection>,
        begun: bool,
        began: Instant,
    ) -> Attempt {
        let side = connection.key.side;
        tracing::debug!(server = %connection.backend.pin.server, ?side, kind = %work.verdict.kind, begun, "a database was lost");
        self.doubt_floor(&work.verdict, &connection);
        drop(connection);
        self.entry.rests();
        let open = self.bonds.transaction.is_some();
        let streamed = matches!(work.what, What::Streamed { .. });
        let mut after = route::after_loss(&work.verdict, open, self.is_pinned());
        if begun || streamed {
            after = AfterLoss::Unknown;
        }
        self.bonds.transaction = None;
        if after != AfterLoss::Repeat {
            self.tally(work, side, began, None);
        }
        match after {
            AfterLoss::Repeat => Attempt::Repeat,
            AfterLoss::RolledBack => told(self.say_rolled_back().await),
            AfterLoss::Unknown => Attempt::Close,
        }
    }

    async fn broken(&mut self, error: WireError, begun: bool) -> Attempt {
        tracing::warn!(%error, "a database broke the protocol");
        self.thread.context.metrics.malformed(Sender::Database);
        if !begun {
            let text = format!("Pontoon: the database broke the protocol: {error}");
            let _ = self
                .say_error(
                    pontoon_mysql_wire::error_code::UNKNOWN_ERROR,
                    SqlState::GENERAL,
                    &text,
                )
                .await;
        }
        Attempt::Close
    }
}

const FREE: Left = Left {
    free: true,
    precious: false,
};

/// Why there is no connection for a command.
enum Refused {
    /// The client has been told, or is gone.
    Flow(Flow),
    /// No replica has what is needed, or none works.
    NoReplica(Diverted),
}

fn told(flow: Flow) -> Attempt {
    match flow {
        Flow::Next => Attempt::Answered,
        Flow::Close => Attempt::Close,
    }
}

fn writes(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Insert | Kind::Replace | Kind::Update | Kind::Delete | Kind::Load
    )
}

/// Whether nobody misses anything when a statement of this kind is broken off: its client is gone.
fn reads_only(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Select | Kind::Values | Kind::Show | Kind::Explain | Kind::Help
    )
}
