//! Prepared statements of the binary protocol.

use std::rc::Rc;

use pontoon_mysql_wire::reply::{Done, Expect, Outcome, Prepared};
use pontoon_mysql_wire::{Command, ErrorPacket, FrameHeader, HEADER_LEN, Reframer, SqlState, encode_packet};
use pontoon_sql_class::{Effects, Engine, Kind, Verdict, classify};

use pontoon_telemetry::metrics::Sender;

use super::run::{What, Work, command_verdict};
use super::say::{MALFORMED, UNKNOWN_STATEMENT};
use super::stream::Rest;
use super::{Flow, Session};
use crate::exchange::ask::{AskError, Question};
use crate::exchange::send;
use crate::pool::Connection;
use crate::statements::{Execute, Statement, close, set_statement, with_types};

/// The most statements that one session may have at once: as many as a server's own default allows over all.
const MAX_STATEMENTS: usize = 16_382;
/// `ER_MAX_PREPARED_STMT_COUNT_REACHED`.
const TOO_MANY_STATEMENTS: u16 = 1461;

impl Session {
    /// COM_STMT_PREPARE.
    pub(super) async fn prepare(&mut self, frame: &[u8], sql: &[u8]) -> Flow {
        if self.statements.len() >= MAX_STATEMENTS {
            let text = "Can't create more than max_prepared_stmt_count statements";
            return self
                .say_error(
                    TOO_MANY_STATEMENTS,
                    SqlState::new(*b"42000").unwrap_or(SqlState::GENERAL),
                    text,
                )
                .await;
        }
        let mut verdict = classify(sql, &self.context());
        // Nothing is executed yet.
        verdict.effects = Effects::NONE;
        let id = self.statements.next_id();
        let work = Work {
            verdict,
            sql: Some(sql),
            expect: Expect::Prepare,
            records: false,
            what: What::Prepare { id, frame },
        };
        self.run(&work).await
    }

    /// After an answer: what it means for prepared statements.
    pub(super) fn record_statement(&mut self, work: &Work<'_>, done: &Done, connection: &mut Connection) {
        let failed = matches!(done.outcome, Outcome::Error { .. });
        let id = match work.what {
            What::Prepare { id, .. } => {
                return match (done.prepared, work.sql) {
                    (Some(prepared), Some(sql)) if !failed => {
                        self.add_statement(id, prepared, sql, connection)
                    }
                    _ => self.statements.refused(),
                };
            }
            What::Execute { id, .. }
            | What::About { id, .. }
            | What::Streamed {
                statement: Some(id), ..
            } => id,
            What::Frame(_) | What::Streamed { statement: None, .. } => return,
        };
        let Some(statement) = self.statements.get_mut(id) else {
            return;
        };
        match work.expect {
            Expect::Fetch => statement.cursor = done.cursor && !failed,
            // The values are used up, whatever came of it.
            Expect::Execute => (statement.cursor, statement.long_data) = (done.cursor, false),
            // COM_STMT_RESET.
            _ => (statement.cursor, statement.long_data) = (false, false),
        }
        let there = statement
            .there
            .or_else(|| connection.statements.find(&statement.text, &statement.reads));
        if let Some(there) = there {
            connection.statements.bind(there, statement.binds());
        }
        statement.there = there.filter(|_| statement.binds());
    }

    fn add_statement(&mut self, id: u32, prepared: Prepared, sql: &[u8], connection: &mut Connection) {
        let text: Rc<[u8]> = sql.into();
        let statement = Statement {
            text: Rc::clone(&text),
            reads: Rc::clone(&self.state),
            known: None,
            params: prepared.params,
            types: Vec::new(),
            long_data: false,
            cursor: false,
            there: None,
        };
        let closed = connection
            .statements
            .add(text, Rc::clone(&self.state), prepared.id);
        connection.close_later(closed);
        self.statements.add(id, statement);
    }

    /// COM_STMT_EXECUTE.
    pub(super) async fn execute(&mut self, payload: &[u8]) -> Flow {
        let Some(written) = Execute::statement_of(payload) else {
            return self.malformed().await;
        };
        let Some((id, statement)) = self.statement(written) else {
            return self.unknown_statement(1, written, "mysqld_stmt_execute").await;
        };
        let text = Rc::clone(&statement.text);
        let params = statement.params;
        let Ok(execute) = Execute::parse(payload, params) else {
            return self.malformed().await;
        };
        let context = self.context();
        let Some(statement) = self.statements.get_mut(id) else {
            return self.unknown_statement(1, written, "mysqld_stmt_execute").await;
        };
        if let Some(types) = execute.types(payload)
            && statement.types != types
        {
            statement.types = types.to_vec();
        }
        let mut verdict = statement.verdict(context);
        if execute.flags != 0 {
            // A cursor stays open in its connection: only the primary's may be held for a session.
            verdict = Verdict {
                route: pontoon_sql_class::Route::Primary,
                ..verdict
            };
        }
        let work = Work {
            verdict,
            sql: Some(&text),
            expect: Expect::Execute,
            records: true,
            what: What::Execute { id, payload },
        };
        self.run(&work).await
    }

    /// The statement that a client means, with its number.
    fn statement(&self, written: u32) -> Option<(u32, &Statement)> {
        let id = self.statements.resolve(written)?;
        Some((id, self.statements.get(id)?))
    }

    /// COM_STMT_FETCH.
    pub(super) async fn fetch(&mut self, payload: &[u8]) -> Flow {
        self.about(payload, Expect::Fetch, "mysqld_stmt_fetch").await
    }

    /// COM_STMT_RESET.
    pub(super) async fn reset_statement(&mut self, payload: &[u8]) -> Flow {
        self.about(payload, Expect::ResetOrPing, "mysqld_stmt_reset")
            .await
    }

    async fn about(&mut self, payload: &[u8], expect: Expect, name: &str) -> Flow {
        let Some(written) = Execute::statement_of(payload) else {
            return self.malformed().await;
        };
        let Some((id, statement)) = self.statement(written) else {
            return self.unknown_statement(1, written, name).await;
        };
        if expect == Expect::Fetch && !statement.cursor {
            let end = match self.facts.engine {
                Engine::MariaDb => "",
                Engine::MySql => ".",
            };
            let text = format!("The statement ({id}) has no open cursor{end}");
            return self.say_error(NO_CURSOR, SqlState::GENERAL, &text).await;
        }
        let work = Work {
            verdict: command_verdict(Kind::Execute, Effects::NONE),
            sql: None,
            expect,
            records: false,
            what: What::About { id, payload },
        };
        self.run(&work).await
    }

    /// COM_STMT_CLOSE: no answer. The connections keep the statement, for others and for later.
    pub(super) async fn close_statement(&mut self, payload: &[u8]) -> Flow {
        let id = Execute::statement_of(payload).and_then(|id| self.statements.resolve(id));
        let Some(statement) = id.and_then(|id| self.statements.remove(id)) else {
            return Flow::Next;
        };
        if let Some(there) = statement.there
            && let Some(mut held) = self.held.take()
        {
            // What it left in the connection goes with it.
            held.statements.forget(there);
            let mut bytes = Vec::new();
            encode_packet(&mut bytes, 0, &close(there));
            if send(&mut held.backend.peer, &bytes, &held.link).await.is_err() {
                return Flow::Next;
            }
            self.keep_or_leave(held, false);
        }
        Flow::Next
    }

    /// COM_STMT_SEND_LONG_DATA: no answer; whatever goes wrong is said when the statement is executed.
    pub(super) async fn long_data(&mut self, payload: &[u8]) -> Flow {
        let mut frame = Vec::with_capacity(HEADER_LEN + payload.len());
        encode_packet(&mut frame, 0, payload);
        if let Ok(Some((connection, _))) = self.begin_long_data(&frame).await {
            self.keep_or_leave(connection, false);
        }
        Flow::Next
    }

    /// The same in a packet that is passed on while it comes.
    pub(super) async fn long_long_data(&mut self, begin: &[u8]) -> Flow {
        let sent = self.begin_long_data(begin).await;
        let Ok(Some((mut connection, begun))) = sent else {
            return match self.skip(begin).await {
                Some(_) => Flow::Next,
                None => Flow::Close,
            };
        };
        match Box::pin(self.stream(Rest::of(&begun), &mut connection)).await {
            Ok(_) => {
                self.keep_or_leave(connection, false);
                Flow::Next
            }
            Err(_) => Flow::Close,
        }
    }

    /// Sends a frame of long data to the connection that the statement's parameters go to. Returns that connection,
    /// from which the statement cannot go away any more, and the frame as it was sent; `None` for a statement that is
    /// not known.
    async fn begin_long_data(
        &mut self,
        frame: &[u8],
    ) -> Result<Option<(Box<Connection>, Vec<u8>)>, AskError> {
        let payload = frame.get(HEADER_LEN..).unwrap_or_default();
        let written = Execute::statement_of(payload);
        let Some(id) = written.and_then(|written| Some(self.statement(written)?.0)) else {
            return Ok(None);
        };
        let Some(mut connection) = self.for_long_data().await else {
            return Ok(None);
        };
        let there = self.prepared_on(id, &mut connection).await?;
        let mut begun = frame.to_vec();
        set_statement(begun.get_mut(HEADER_LEN..).unwrap_or_default(), there);
        let mut bytes = connection.closing();
        bytes.extend_from_slice(&begun);
        send(&mut connection.backend.peer, &bytes, &connection.link).await?;
        connection.statements.bind(there, true);
        if let Some(statement) = self.statements.get_mut(id) {
            statement.long_data = true;
            statement.there = Some(there);
        }
        Ok(Some((connection, begun)))
    }

    /// COM_STMT_EXECUTE in a packet that is passed on while it comes.
    pub(super) async fn long_execute(&mut self, begin: &[u8]) -> Flow {
        let payload = begin.get(HEADER_LEN..).unwrap_or_default();
        let written = Execute::statement_of(payload).unwrap_or_default();
        let found = self.statement(written);
        let Some((id, statement)) = found else {
            return match self.skip(begin).await {
                Some(sequence) => {
                    self.unknown_statement(sequence, written, "mysqld_stmt_execute")
                        .await
                }
                None => Flow::Close,
            };
        };
        let types = statement.types.clone();
        let text = Rc::clone(&statement.text);
        let (Ok(execute), Some(frame)) = (Execute::parse(payload, statement.params), header(begin)) else {
            return match self.skip(begin).await {
                Some(sequence) => self.malformed_at(sequence).await,
                None => Flow::Close,
            };
        };
        let context = self.context();
        let Some(statement) = self.statements.get_mut(id) else {
            return Flow::Close;
        };
        if let Some(types) = execute.types(payload) {
            statement.types = types.to_vec();
        }
        let verdict = statement.verdict(context);
        let prepared = match self.for_long_data().await {
            Some(mut connection) => match self.prepared_on(id, &mut connection).await {
                Ok(there) => Ok((there, connection)),
                Err(AskError::Refused(packet)) => Err(Some(packet)),
                Err(_) => Err(None),
            },
            None => Err(None),
        };
        let (there, mut connection) = match prepared {
            Ok(prepared) => prepared,
            Err(refused) => {
                return match (self.skip(begin).await, refused) {
                    (Some(sequence), Some(packet)) => self.say_packet_at(sequence, &packet).await,
                    _ => Flow::Close,
                };
            }
        };
        let whole = with_types(payload, &execute, &types, there);
        let mut bytes = connection.closing();
        let rest = if whole.len() == payload.len() {
            bytes.extend_from_slice(&frame.to_bytes());
            bytes.extend_from_slice(&whole);
            Rest::of(begin)
        } else {
            // What the types are put in for moves all that follows.
            let Ok(mut anew) = Reframer::begin(frame, payload.len(), whole) else {
                return Flow::Close;
            };
            if anew.feed(b"", &mut bytes).is_err() {
                return Flow::Close;
            }
            Rest::Anew(Box::new(anew))
        };
        // Has the connection held until it is sent.
        connection.statements.bind(there, true);
        if let Some(statement) = self.statements.get_mut(id) {
            statement.long_data = true;
            statement.there = Some(there);
        }
        self.keep_or_leave(connection, false);
        let work = Work {
            verdict,
            sql: Some(&text),
            expect: Expect::Execute,
            records: true,
            what: What::Streamed {
                begun: &bytes,
                rest,
                statement: Some(id),
            },
        };
        Box::pin(self.run(&work)).await
    }

    /// The connection that parts of parameters go to: the one that is held, or the primary.
    async fn for_long_data(&mut self) -> Option<Box<Connection>> {
        if let Some(held) = self.held.take() {
            return Some(held);
        }
        let verdict = command_verdict(Kind::Execute, Effects::NONE);
        let mut connection = self.primary_silently(&verdict).await?;
        connection.owner = Some(Rc::clone(&self.owner));
        Some(connection)
    }

    /// The connection's number for a statement; prepares it there if need be.
    async fn prepared_on(&mut self, id: u32, connection: &mut Connection) -> Result<u32, AskError> {
        let Some(statement) = self.statements.get(id) else {
            return Err(AskError::Wire(pontoon_mysql_wire::WireError::Malformed(
                "no such statement",
            )));
        };
        let known = statement.there;
        if let Some(there) = known.or_else(|| connection.statements.find(&statement.text, &statement.reads)) {
            return Ok(there);
        }
        let (text, reads) = (Rc::clone(&statement.text), Rc::clone(&statement.reads));
        let here = Rc::clone(&self.state);
        let same = here.reads_like(&reads);
        if !same {
            connection.become_like(&reads, false).await?;
        }
        let question = Question::new(Command::StmtPrepare, &text, Expect::Prepare);
        let told = connection.ask(&[question]).await?;
        if !same {
            connection.become_like(&here, false).await?;
        }
        let prepared = told.first().and_then(|told| told.done.prepared);
        let there = prepared
            .ok_or(pontoon_mysql_wire::WireError::Malformed(
                "a statement without a number",
            ))?
            .id;
        let closed = connection.statements.add(text, reads, there);
        connection.close_later(closed);
        Ok(there)
    }

    /// An EXECUTE for this connection: its number for the statement, and the types.
    pub(super) async fn execute_bytes(
        &mut self,
        id: u32,
        payload: &[u8],
        connection: &mut Connection,
    ) -> Result<Vec<u8>, AskError> {
        let there = self.prepared_on(id, connection).await?;
        let (params, types) = match self.statements.get(id) {
            Some(statement) => (statement.params, &statement.types[..]),
            None => (0, &[][..]),
        };
        let execute = Execute::parse(payload, params)
            .map_err(|_| pontoon_mysql_wire::WireError::Malformed("not an EXECUTE"))?;
        let mut bytes = connection.closing();
        encode_packet(&mut bytes, 0, &with_types(payload, &execute, types, there));
        Ok(bytes)
    }

    /// Another command about a statement, for this connection.
    pub(super) async fn about_bytes(
        &mut self,
        id: u32,
        payload: &[u8],
        connection: &mut Connection,
    ) -> Result<Vec<u8>, AskError> {
        let there = self.prepared_on(id, connection).await?;
        let mut payload = payload.to_vec();
        set_statement(&mut payload, there);
        let mut bytes = connection.closing();
        encode_packet(&mut bytes, 0, &payload);
        Ok(bytes)
    }

    async fn malformed(&mut self) -> Flow {
        self.malformed_at(1).await
    }

    async fn malformed_at(&mut self, sequence: u8) -> Flow {
        self.thread.context.metrics.malformed(Sender::Client);
        let error = ErrorPacket::new(MALFORMED, SqlState::GENERAL, "Malformed communication packet.");
        self.say_packet_at(sequence, &error).await
    }

    /// What a server says about a number that is no statement's. MySQL names a function of its own for all commands.
    async fn unknown_statement(&mut self, sequence: u8, id: u32, function: &str) -> Flow {
        let function = match self.facts.engine {
            Engine::MariaDb => function,
            Engine::MySql => "mysql_stmt_precheck",
        };
        let text = format!("Unknown prepared statement handler ({id}) given to {function}");
        let error = ErrorPacket::new(UNKNOWN_STATEMENT, SqlState::GENERAL, &text);
        self.say_packet_at(sequence, &error).await
    }
}

/// `ER_STMT_HAS_NO_OPEN_CURSOR`.
const NO_CURSOR: u16 = 1421;

fn header(bytes: &[u8]) -> Option<FrameHeader> {
    crate::exchange::header(bytes)
}
