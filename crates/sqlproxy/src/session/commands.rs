//! What a client sends, one command after the other.

use pontoon_mysql_wire::reply::Expect;
use pontoon_mysql_wire::{ChangeUser, Command, FrameHeader, HEADER_LEN, SqlState};
use pontoon_sql_class::{Effects, Kind, classify};

use super::route::{WHOLE, unread};
use super::run::{What, Work, command_verdict};
use super::{Flow, Session};
use crate::exchange::{buffers, header};

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
        }
    }

    /// Waits for a command: all of it, or so much that it is seen to be long. `None` at the client's end.
    async fn next_frame(&mut self) -> Option<FrameHeader> {
        loop {
            if let Some(frame) = header(&self.inbound)
                && (self.inbound.len() >= HEADER_LEN + frame.len || frame.len >= WHOLE)
            {
                // The first byte says which command it is.
                if frame.len == 0 || self.inbound.len() > HEADER_LEN {
                    return Some(frame);
                }
            }
            if !self.hear().await {
                return None;
            }
        }
    }

    fn keep_rest(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.inbound = buffers::take();
            self.inbound.extend_from_slice(rest);
        }
    }

    async fn out_of_order(&mut self) -> Flow {
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

    /// What a server says to a command that it does not know.
    async fn unknown(&mut self) -> Flow {
        let state = SqlState::new(*b"08S01").unwrap_or(SqlState::GENERAL);
        self.say_error(UNKNOWN_COMMAND, state, "Unknown command").await
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
            return Flow::Close;
        };
        match command {
            Command::Query => {
                let work = Work {
                    verdict: unread(),
                    sql: None,
                    expect: Expect::Simple,
                    records: true,
                    what: What::Streamed(begin),
                };
                self.run(&work).await
            }
            Command::StmtExecute => self.long_execute(begin).await,
            Command::StmtSendLongData => self.long_long_data(begin).await,
            _ => {
                let state = SqlState::LINK_FAILURE;
                let text = "Got a packet bigger than 'max_allowed_packet' bytes";
                let _ = self.say_error(PACKET_TOO_LARGE, state, text).await;
                Flow::Close
            }
        }
    }
}

/// `ER_UNKNOWN_COM_ERROR`.
const UNKNOWN_COMMAND: u16 = 1047;
/// `ER_NET_PACKET_TOO_LARGE`.
const PACKET_TOO_LARGE: u16 = 1153;
/// `ER_NET_PACKETS_OUT_OF_ORDER`.
const OUT_OF_ORDER: u16 = 1156;
