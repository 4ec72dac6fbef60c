//! Prepared statements of the binary protocol.

use std::rc::Rc;

use pontoon_mysql_wire::reply::{Done, Expect, Outcome};
use pontoon_mysql_wire::{Command, FrameHeader, HEADER_LEN, SqlState, encode_packet};
use pontoon_sql_class::{Effects, Kind, Verdict, classify};

use super::run::{What, Work, command_verdict};
use super::say::{MALFORMED, UNKNOWN_STATEMENT};
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
        match work.what {
            What::Prepare { id, .. } => {
                if let (Some(prepared), Some(sql)) = (done.prepared, work.sql) {
                    let text: Rc<[u8]> = sql.into();
                    let statement = Statement {
                        text: Rc::clone(&text),
                        reads: Rc::clone(&self.state),
                        params: prepared.params,
                        types: Vec::new(),
                        long_data: false,
                        cursor: false,
                    };
                    let closed = connection
                        .statements
                        .add(text, Rc::clone(&self.state), prepared.id);
                    connection.close_later(closed);
                    self.statements.add(id, statement);
                }
            }
            What::Execute { id, .. } => {
                if let Some(statement) = self.statements.get_mut(id) {
                    statement.long_data = false;
                    statement.cursor = done.cursor;
                }
            }
            What::About { id, .. } => {
                let failed = matches!(done.outcome, Outcome::Error { .. });
                if let Some(statement) = self.statements.get_mut(id) {
                    match work.expect {
                        Expect::Fetch => statement.cursor = done.cursor && !failed,
                        // COM_STMT_RESET.
                        _ => (statement.cursor, statement.long_data) = (false, false),
                    }
                }
            }
            What::Frame(_) | What::Streamed(_) => {}
        }
    }

    /// COM_STMT_EXECUTE.
    pub(super) async fn execute(&mut self, payload: &[u8]) -> Flow {
        let Some(id) = Execute::statement_of(payload).map(|id| self.statements.resolve(id)) else {
            return self.malformed().await;
        };
        let Some(statement) = self.statements.get(id) else {
            return self.unknown_statement(id, "mysqld_stmt_execute").await;
        };
        let text = Rc::clone(&statement.text);
        let params = statement.params;
        let Ok(execute) = Execute::parse(payload, params) else {
            return self.malformed().await;
        };
        if let Some(types) = execute.types(payload)
            && let Some(statement) = self.statements.get_mut(id)
            && statement.types != types
        {
            statement.types = types.to_vec();
        }
        let mut verdict = classify(&text, &self.context());
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
        let Some(id) = Execute::statement_of(payload).map(|id| self.statements.resolve(id)) else {
            return self.malformed().await;
        };
        let Some(statement) = self.statements.get(id) else {
            return self.unknown_statement(id, name).await;
        };
        if expect == Expect::Fetch && !statement.cursor {
            let text = format!("The statement ({id}) has no open cursor.");
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
        let Some(id) = Execute::statement_of(payload) else {
            return Flow::Next;
        };
        let id = self.statements.resolve(id);
        let Some(statement) = self.statements.remove(id) else {
            return Flow::Next;
        };
        if (statement.cursor || statement.long_data)
            && let Some(mut held) = self.held.take()
        {
            // What it left in the connection goes with it.
            if let Some(there) = held.statements.find(&statement.text, &statement.reads) {
                held.statements.forget(there);
                let mut bytes = Vec::new();
                encode_packet(&mut bytes, 0, &close(there));
                if send(&mut held.backend.peer, &bytes, &held.link).await.is_err() {
                    return Flow::Next;
                }
            }
            self.keep_or_leave(held, false);
        }
        Flow::Next
    }

    /// COM_STMT_SEND_LONG_DATA: no answer; whatever goes wrong is said when the statement is executed.
    pub(super) async fn long_data(&mut self, payload: &[u8]) -> Flow {
        let Some(id) = Execute::statement_of(payload).map(|id| self.statements.resolve(id)) else {
            return Flow::Next;
        };
        let Some(mut connection) = self.for_long_data(id).await else {
            return Flow::Next;
        };
        let Ok(there) = self.prepared_on(id, &mut connection).await else {
            return Flow::Next;
        };
        let mut payload = payload.to_vec();
        set_statement(&mut payload, there);
        let mut bytes = connection.closing();
        encode_packet(&mut bytes, 0, &payload);
        if send(&mut connection.backend.peer, &bytes, &connection.link)
            .await
            .is_ok()
        {
            if let Some(statement) = self.statements.get_mut(id) {
                statement.long_data = true;
            }
            self.keep_or_leave(connection, false);
        }
        Flow::Next
    }

    /// The same in a packet that is passed on while it comes.
    pub(super) async fn long_long_data(&mut self, begin: &[u8]) -> Flow {
        let payload = begin.get(HEADER_LEN..).unwrap_or_default();
        let id = Execute::statement_of(payload).map(|id| self.statements.resolve(id));
        let Some(id) = id else {
            return Flow::Close;
        };
        let Some(mut connection) = self.for_long_data(id).await else {
            return Flow::Close;
        };
        let Ok(there) = self.prepared_on(id, &mut connection).await else {
            return Flow::Close;
        };
        let mut begin = begin.to_vec();
        set_statement(&mut begin[HEADER_LEN..], there);
        let mut bytes = connection.closing();
        bytes.extend_from_slice(&begin);
        if send(&mut connection.backend.peer, &bytes, &connection.link)
            .await
            .is_err()
            || Box::pin(self.stream(&begin, &mut connection)).await.is_err()
        {
            return Flow::Close;
        }
        if let Some(statement) = self.statements.get_mut(id) {
            statement.long_data = true;
        }
        self.keep_or_leave(connection, false);
        Flow::Next
    }

    /// COM_STMT_EXECUTE in a packet that is passed on while it comes. Types cannot be put into it.
    pub(super) async fn long_execute(&mut self, begin: &[u8]) -> Flow {
        let payload = begin.get(HEADER_LEN..).unwrap_or_default();
        let id = Execute::statement_of(payload).map(|id| self.statements.resolve(id));
        let Some((id, statement)) = id.and_then(|id| Some((id, self.statements.get(id)?))) else {
            return Flow::Close;
        };
        let params = statement.params;
        let types = statement.types.clone();
        let text = Rc::clone(&statement.text);
        let Ok(execute) = Execute::parse(payload, params) else {
            return Flow::Close;
        };
        let Some(mut frame) = header(begin) else {
            return Flow::Close;
        };
        let added = if execute.lacks_types() { types.len() } else { 0 };
        if frame.is_continued() && added > 0 || frame.len + added >= pontoon_mysql_wire::MAX_FRAME_PAYLOAD {
            let text = "Pontoon: a statement of more than 16 MiB has to carry its parameters' types";
            let _ = self.say_error(MALFORMED, SqlState::GENERAL, text).await;
            return Flow::Close;
        }
        if let Some(types) = execute.types(payload)
            && let Some(statement) = self.statements.get_mut(id)
        {
            statement.types = types.to_vec();
        }
        let verdict = classify(&text, &self.context());
        let Some(mut connection) = self.for_long_data(id).await else {
            return Flow::Close;
        };
        let Ok(there) = self.prepared_on(id, &mut connection).await else {
            return Flow::Close;
        };
        frame.len += added;
        let mut bytes = frame.to_bytes().to_vec();
        bytes.extend_from_slice(&with_types(payload, &execute, &types, there));
        if let Some(statement) = self.statements.get_mut(id) {
            // Has the connection held until it is sent.
            statement.long_data = true;
        }
        self.keep_or_leave(connection, false);
        let work = Work {
            verdict,
            sql: Some(&text),
            expect: Expect::Execute,
            records: true,
            what: What::Streamed(&bytes),
        };
        let flow = Box::pin(self.run(&work)).await;
        if let Some(statement) = self.statements.get_mut(id) {
            statement.long_data = false;
        }
        flow
    }

    /// The connection that parts of parameters go to: the one that is held, or the primary.
    async fn for_long_data(&mut self, id: u32) -> Option<Box<Connection>> {
        self.statements.get(id)?;
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
        if let Some(there) = connection.statements.find(&statement.text, &statement.reads) {
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
        self.say_error(MALFORMED, SqlState::GENERAL, "Malformed communication packet.")
            .await
    }

    async fn unknown_statement(&mut self, id: u32, function: &str) -> Flow {
        let text = format!("Unknown prepared statement handler ({id}) given to {function}");
        self.say_error(UNKNOWN_STATEMENT, SqlState::GENERAL, &text).await
    }
}

/// `ER_STMT_HAS_NO_OPEN_CURSOR`.
const NO_CURSOR: u16 = 1421;

fn header(bytes: &[u8]) -> Option<FrameHeader> {
    crate::exchange::header(bytes)
}
