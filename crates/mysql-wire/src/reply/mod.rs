//! A server's answer to one command, forwarded without its rows being looked at.
//!
//! **In:** what was sent ([`Expect`]), what the two sides of the proxy agreed on, and the server's bytes in pieces of
//! any size. **Out:** the bytes that the client is to get, and at the end what the answer said ([`Done`]).
//!
//! The two sides may speak differently. A client without `DEPRECATE_EOF` gets EOF packets where the server sends OK
//! packets or nothing; one without `SESSION_TRACK` gets no session state; sequence numbers are counted anew. Nothing
//! else changes: the capabilities that decide what rows and definitions look like (`MARIADB_EXTENDED_METADATA`) must
//! be the same on both sides, and those that leave definitions out (`OPTIONAL_RESULTSET_METADATA`,
//! `MARIADB_CACHE_METADATA`), compress or number otherwise must be agreed on by neither.
//!
//! Of a row only the frame header and the first byte are read. That is enough: a text row begins with `0xFB` (NULL) or
//! a length, of which `0xFE` needs a frame of the full 16 MiB − 1; a binary row begins with `0x00` (MySQL: "Text
//! Resultset Row", "Binary Protocol Resultset Row"; MariaDB: "Result Set Packets").

mod changes;
mod control;
#[cfg(test)]
mod tests;
mod walker;

pub use changes::{Changes, Hidden, MAX_COLLECTED};
pub use walker::{MAX_CONTROL_PACKET, MAX_HELD, OutParams, ReplyWalker};

use crate::{Command, SqlState, StatusFlags};

/// What was sent, and so what an answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    /// COM_QUERY and COM_PROCESS_INFO: OK, ERR, a request for a local file, or result sets, one after the other.
    Simple,
    /// COM_STMT_PREPARE: a statement's id with the definitions of its parameters and columns, or ERR.
    Prepare,
    /// COM_STMT_EXECUTE and MariaDB's COM_STMT_BULK_EXECUTE: as [`Expect::Simple`], or an open cursor.
    Execute,
    /// COM_STMT_FETCH: rows, or ERR.
    Fetch,
    /// COM_FIELD_LIST: definitions, or ERR.
    FieldList,
    /// COM_STATISTICS: one packet of text, or ERR.
    Statistics,
    /// COM_QUIT, COM_STMT_CLOSE and COM_STMT_SEND_LONG_DATA: no answer.
    Nothing,
    /// COM_PING, COM_RESET_CONNECTION, COM_STMT_RESET, COM_INIT_DB, COM_SET_OPTION and the like: OK, EOF or ERR.
    ResetOrPing,
}

impl Expect {
    /// What a command's answer looks like; `None` for those with a dialogue of their own (COM_CHANGE_USER) or without
    /// end (COM_BINLOG_DUMP), and those that only replicas send.
    pub fn of(command: Command) -> Option<Expect> {
        Some(match command {
            Command::Query | Command::ProcessInfo => Expect::Simple,
            Command::StmtPrepare => Expect::Prepare,
            Command::StmtExecute | Command::StmtBulkExecute => Expect::Execute,
            Command::StmtFetch => Expect::Fetch,
            Command::FieldList => Expect::FieldList,
            Command::Statistics => Expect::Statistics,
            Command::Quit | Command::StmtSendLongData | Command::StmtClose => Expect::Nothing,
            Command::InitDb
            | Command::CreateDb
            | Command::DropDb
            | Command::Refresh
            | Command::Shutdown
            | Command::ProcessKill
            | Command::Debug
            | Command::Ping
            | Command::StmtReset
            | Command::SetOption
            | Command::ResetConnection => Expect::ResetOrPing,
            Command::ChangeUser
            | Command::BinlogDump
            | Command::BinlogDumpGtid
            | Command::RegisterReplica
            | Command::Clone => return None,
        })
    }
}

/// What one call of [`ReplyWalker::feed`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fed {
    /// How many of the bytes were taken. The rest is the beginning of a packet that has to be whole, or comes after the
    /// answer; feed it again, with more behind it.
    pub consumed: usize,
    /// What has to happen next.
    pub step: Step,
}

/// What has to happen next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The answer goes on: feed more.
    More,
    /// The server asks for a local file, and the request has been written for the client. The client sends next; see
    /// [`ReplyWalker::upload_offset`] and [`ReplyWalker::uploaded`].
    LocalInfile,
    /// The answer has ended.
    Done(Done),
}

/// The end of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// How it ended.
    pub outcome: Outcome,
    /// The session's status after the answer's last packet that tells one; what the walker was given
    /// ([`ReplyWalker::with_status`]) when none does.
    pub status: StatusFlags,
    /// Whether the answer's last packet told the status. An ERR packet does not: an error may or may not have ended the
    /// transaction.
    pub status_told: bool,
    /// Warnings, as the last packet that tells them has it.
    pub warnings: u16,
    /// Affected rows of the last OK packet that is not the end of rows.
    pub affected_rows: u64,
    /// Rows of all result sets; `u32::MAX` for as many and more.
    pub row_count: u32,
    /// The last insert id that is not 0, over all results of the answer. For an INSERT with an explicit value it is
    /// that value, which `LAST_INSERT_ID()` is not (MySQL: `mysql_insert_id()`).
    pub last_insert_id: u64,
    /// Session state changes over all results, also those that the client does not get to see.
    pub state: Changes,
    /// The statement that was prepared.
    pub prepared: Option<Prepared>,
    /// Whether a cursor is open that has more rows.
    pub cursor: bool,
    /// Bytes written for the client before the answer's last packet. 0 with [`Outcome::Error`]: the answer is nothing
    /// but the error, and the last [`Done::final_bytes`] bytes of `out` may be taken back while they are not sent.
    pub delivered_bytes: u64,
    /// Length of the answer's last packet as it was written for the client, header included; 0 when a definition ends
    /// the answer.
    pub final_bytes: usize,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Without rows.
    Ok,
    /// With at least one result set, or rows of a cursor.
    Rows,
    /// With an error, perhaps after results.
    Error {
        /// The error code.
        code: u16,
        /// The SQLSTATE; `HY000` when the server sent none.
        state: SqlState,
    },
}

/// A statement that was prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The server's number for it.
    pub id: u32,
    /// How many parameters it has.
    pub params: u16,
    /// How many columns its result has; 0 when it has none.
    pub columns: u16,
}
