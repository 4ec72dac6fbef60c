//! What a client sends, one command after the other.

use std::rc::Rc;

use pontoon_mysql_wire::reply::Expect;
use pontoon_mysql_wire::{
    ChangeUser, Command, ErrorPacket, FrameHeader, HEADER_LEN, MAX_FRAME_PAYLOAD, SqlState,
};
use pontoon_sql_class::{Effects, Engine, Kind, classify};

use pontoon_telemetry::metrics::Sender;

use super::route::{WHOLE, unread};
use super::run::{What, Work, command_verdict};
use super::stream::Rest;
use super::{Flow, Session};
use crate::exchange::ask::{AskError, Question};
use crate::exchange::{buffers, header};
use crate::statements::Execute;

/// Enough of any command to see which it is, and which statement's.
const BEGINNING: usize = 16;

impl Session {
    /// Serves commands to the end.
    pub(super) async fn serve(&mut self) {
        loop {
            let Some(frame) = self.next_frame().await else {
                return;
            };
            let inbound = std::mem::take(&mut self.inbound);
            let whole = HEADER_LEN + frame.len;
            let flow = if whole <= inbound.len() && !frame.is_continued() {
                let (bytes, rest) = inbound.split_at(whole);
                // Answers begin with the number after the command's; a command begins with 0.
                let flow = match frame.sequence {
                    0 => Box::pin(self.command(bytes)).await,
                    _ => self.out_of_order().await,
                };
                self.keep_rest(rest);
                flow
            } else {
                Box::pin(self.long_command(&inbound)).await
            };
            buffers::give(inbound);
            if flow == Flow::Close {
                return;
            }
            if self.bonds.transaction.is_none() {
                self.passed = None;
            }
        }
    }

    /// Waits for a command: all of it, or so much that it is seen to be long. `None` at the client's end.
    async fn next_frame(&mut self) -> Option<FrameHeader> {
        loop {
            if let Some(frame) = header(&self.inbound) {
                let whole = self.inbound.len() >= HEADER_LEN + frame.len;
                // The first bytes say which command it is, and of which statement.
                let seen = self.inbound.len() >= HEADER_LEN + BEGINNING;
                if whole || (seen && frame.len >= self.longest_whole()) {
                    return Some(frame);
                }
            }
            if !self.hear().await {
                return None;
            }
        }
    }

    /// From which length on the command that has begun is passed on as it comes.
    fn longest_whole(&self) -> usize {
        let command = self
            .inbound
            .get(HEADER_LEN)
            .and_then(|byte| Command::from_byte(*byte));
        match command {
            // Its text is kept, to be prepared elsewhere.
            Some(Command::StmtPrepare) => MAX_FRAME_PAYLOAD,
            // So are the types of its parameters, which stand near its beginning.
            Some(Command::StmtExecute) => {
                let id = self.inbound.get(HEADER_LEN..).and_then(Execute::statement_of);
                let statement = id.and_then(|id| self.statements.get(self.statements.resolve(id)?));
                let types = statement.map_or(0, |statement| Execute::longest_head(statement.params));
                match self.inbound.len() >= HEADER_LEN + types {
                    true => WHOLE,
                    false => usize::MAX,
                }
            }
            _ => WHOLE,
        }
    }

    fn keep_rest(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.inbound = buffers::take();
            self.inbound.extend_from_slice(rest);
        }
    }

    async fn out_of_order(&mut self) -> Flow {
        self.thread.context.metrics.malformed(Sender::Client);
        let state = SqlState::LINK_FAILURE;
        let _ = self
            .say_error(OUT_OF_ORDER, state, "Got packets out of order")
            .await;
        Flow::Close
    }

    /// A whole command in one frame.
    async fn command(&mut self, frame: &[u8]) -> Flow {
        let payload = frame.get(HEADER_LEN..).unwrap_or_default();
        let Some((&byte, argument)) = payload.split_first() else {
            return self.simple(frame, Expect::Simple, Effects::OPAQUE).await;
        };
        let Some(command) = Command::from_byte(byte) else {
            return self.unknown().await;
        };
        match command {
            Command::Quit => Flow::Close,
            Command::Query => self.query(frame, argument).await,
            Command::InitDb => {
                let work = Work {
                    verdict: command_verdict(Kind::Use, Effects::CHANGES_DATABASE),
                    sql: None,
                    expect: Expect::ResetOrPing,
                    records: true,
                    what: What::Frame(frame),
                };
                self.run(&work).await
            }
            Command::StmtPrepare => self.prepare(frame, argument).await,
            Command::StmtExecute => self.execute(payload).await,
            Command::StmtFetch => self.fetch(payload).await,
            Command::StmtReset => self.reset_statement(payload).await,
            Command::StmtSendLongData => self.long_data(payload).await,
            Command::StmtClose => self.close_statement(payload).await,
            Command::ChangeUser => match ChangeUser::parse(payload, self.capabilities) {
                Ok(change) => {
                    self.change = Some((change, 1));
                    Flow::Close
                }
                Err(_) => self.unknown().await,
            },
            Command::ResetConnection => self.reset(frame).await,
            Command::ProcessKill if self.lacks_process_kill().await => self.unknown().await,
            Command::ProcessKill => self.process_kill(frame, argument).await,
            Command::Ping | Command::Statistics | Command::Debug | Command::Refresh | Command::Shutdown => {
                let expect = Expect::of(command).unwrap_or(Expect::ResetOrPing);
                self.simple(frame, expect, Effects::NONE).await
            }
            Command::FieldList | Command::ProcessInfo => {
                let expect = Expect::of(command).unwrap_or(Expect::Simple);
                self.simple(frame, expect, Effects::NONE).await
            }
            // From here on the connection is another one than the flags of its login say.
            Command::SetOption => self.set_option(frame).await,
            Command::CreateDb
            | Command::DropDb
            | Command::BinlogDump
            | Command::BinlogDumpGtid
            | Command::RegisterReplica
            | Command::Clone
            | Command::StmtBulkExecute => self.unknown().await,
        }
    }

    /// A command that says nothing about the session, for the primary.
    async fn simple(&mut self, frame: &[u8], expect: Expect, effects: Effects) -> Flow {
        let work = Work {
            verdict: command_verdict(Kind::Admin, effects),
            sql: None,
            expect,
            records: false,
            what: What::Frame(frame),
        };
        self.run(&work).await
    }

    /// Whether the database is one of those that have lost the command (MySQL 9): it is asked to end a connection that
    /// nobody has.
    async fn lacks_process_kill(&mut self) -> bool {
        if self.facts.engine == Engine::MariaDb {
            return false;
        }
        let verdict = command_verdict(Kind::Kill, Effects::NONE);
        let Some(mut connection) = self.primary_silently(&verdict).await else {
            return false;
        };
        let nobody = u32::MAX.to_le_bytes();
        let question = Question::new(Command::ProcessKill, &nobody, Expect::ResetOrPing);
        let said = connection.ask(&[question]).await;
        connection.owner = Some(Rc::clone(&self.owner));
        self.leave_own(connection, false);
        matches!(said, Err(AskError::Refused(packet)) if packet.code == UNKNOWN_COMMAND)
    }

    /// What a server says to a command that it does not know.
    async fn unknown(&mut self) -> Flow {
        self.unknown_at(1).await
    }

    async fn unknown_at(&mut self, sequence: u8) -> Flow {
        let state = SqlState::new(*b"08S01").unwrap_or(SqlState::GENERAL);
        let error = ErrorPacket::new(UNKNOWN_COMMAND, state, "Unknown command");
        self.say_packet_at(sequence, &error).await
    }

    /// COM_QUERY.
    async fn query(&mut self, frame: &[u8], sql: &[u8]) -> Flow {
        let verdict = classify(sql, &self.context());
        if verdict.kind == Kind::Kill
            && let Some(flow) = Box::pin(self.kill(sql)).await
        {
            return flow;
        }
        let work = Work {
            verdict,
            sql: Some(sql),
            expect: Expect::Simple,
            records: true,
            what: What::Frame(frame),
        };
        self.run(&work).await
    }

    /// A command that is passed on while it comes.
    async fn long_command(&mut self, begin: &[u8]) -> Flow {
        let payload = begin.get(HEADER_LEN..).unwrap_or_default();
        let Some(command) = payload.first().and_then(|byte| Command::from_byte(*byte)) else {
            return match self.skip(begin).await {
                Some(sequence) => self.unknown_at(sequence).await,
                None => Flow::Close,
            };
        };
        match command {
            Command::Query => {
                let work = Work {
                    verdict: unread(),
                    sql: None,
                    expect: Expect::Simple,
                    records: true,
                    what: What::Streamed {
                        begun: begin,
                        rest: Rest::of(begin),
                        statement: None,
                    },
                };
                self.run(&work).await
            }
            Command::StmtExecute => self.long_execute(begin).await,
            Command::StmtSendLongData => self.long_long_data(begin).await,
            _ => {
                if self.skip(begin).await.is_none() {
                    return Flow::Close;
                }
                let state = SqlState::LINK_FAILURE;
                let text = "Got a packet bigger than 'max_allowed_packet' bytes";
                let _ = self.say_error(PACKET_TOO_LARGE, state, text).await;
                Flow::Close
            }
        }
    }
}

/// `ER_UNKNOWN_COM_ERROR`.
pub(super) const UNKNOWN_COMMAND: u16 = 1047;
/// `ER_NET_PACKET_TOO_LARGE`.
const PACKET_TOO_LARGE: u16 = 1153;
/// `ER_NET_PACKETS_OUT_OF_ORDER`.
const OUT_OF_ORDER: u16 = 1156;
