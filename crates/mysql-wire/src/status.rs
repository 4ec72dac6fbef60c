//! Server status flags of OK and EOF packets and of the greeting (MySQL: `SERVER_STATUS_flags_enum`; MariaDB:
//! "OK_Packet", Server Status Flag).

use std::fmt;

use crate::capability::flags;

/// What a server says about a session after each statement.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct StatusFlags(pub u16);

flags! { StatusFlags:
    /// A transaction is open. (MySQL clears it after `XA PREPARE`, MariaDB does not.)
    IN_TRANS = 0;
    /// Autocommit is on.
    AUTOCOMMIT = 1;
    /// Another result follows.
    MORE_RESULTS_EXISTS = 3;
    /// The query used no good index.
    NO_GOOD_INDEX_USED = 4;
    /// The query used no index.
    NO_INDEX_USED = 5;
    /// A cursor is open for the statement.
    CURSOR_EXISTS = 6;
    /// The cursor's last row was sent.
    LAST_ROW_SENT = 7;
    /// A database was dropped.
    DB_DROPPED = 8;
    /// `sql_mode` has `NO_BACKSLASH_ESCAPES`: a lexer must know.
    NO_BACKSLASH_ESCAPES = 9;
    /// A statement's metadata changed.
    METADATA_CHANGED = 10;
    /// The query was slow.
    QUERY_WAS_SLOW = 11;
    /// The result set carries out-parameters.
    PS_OUT_PARAMS = 12;
    /// The open transaction is read-only.
    IN_TRANS_READONLY = 13;
    /// Session state follows in the OK packet.
    SESSION_STATE_CHANGED = 14;
    /// MariaDB: `sql_mode` has `ANSI_QUOTES`.
    ANSI_QUOTES = 15;
}
