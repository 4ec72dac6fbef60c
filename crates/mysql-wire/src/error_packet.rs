//! ERR packets (MySQL: "ERR_Packet"; MariaDB: "ERR_Packet").

use std::fmt;

use crate::{Capabilities, Reader, WireError};

/// Error codes that Pontoon sends or tells apart (MySQL: "Server Error Message Reference"; MariaDB: "MariaDB Error
/// Codes").
pub mod error_code {
    /// `ER_CON_COUNT_ERROR`, 08004: too many connections.
    pub const TOO_MANY_CONNECTIONS: u16 = 1040;
    /// `ER_SERVER_SHUTDOWN`, 08S01: the server shuts down.
    pub const SERVER_SHUTDOWN: u16 = 1053;
    /// `ER_UNKNOWN_ERROR`, HY000: the code for a condition that has none of its own.
    pub const UNKNOWN_ERROR: u16 = 1105;
    /// `ER_HOST_IS_BLOCKED`, HY000: too many interrupted connections from the host.
    pub const HOST_IS_BLOCKED: u16 = 1129;
    /// `ER_CONNECTION_KILLED` (MariaDB), 70100: the session was ended, also by a shutdown.
    pub const CONNECTION_KILLED: u16 = 1927;
}

/// A five-character SQLSTATE (ISO/IEC 9075-2, subclause 24.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// `HY000`: general error.
    pub const GENERAL: SqlState = SqlState(*b"HY000");
    /// `08004`: the server refused the connection.
    pub const REFUSED: SqlState = SqlState(*b"08004");
    /// `08S01`: the connection is going away.
    pub const LINK_FAILURE: SqlState = SqlState(*b"08S01");

    /// From five characters; `None` when one is neither a digit nor an upper-case letter.
    pub fn new(text: [u8; 5]) -> Option<SqlState> {
        text.iter()
            .all(|c| c.is_ascii_digit() || c.is_ascii_uppercase())
            .then_some(SqlState(text))
    }

    /// The five characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("HY000")
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An error as a server says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPacket {
    /// The error code, such as 1045. 65535 is not an error but a progress report of old MariaDB servers.
    pub code: u16,
    /// The SQLSTATE; absent before the capabilities are agreed on.
    pub state: Option<SqlState>,
    /// The text, in the session's character set.
    pub message: Vec<u8>,
}

impl ErrorPacket {
    /// The first byte of an ERR packet.
    pub const HEADER: u8 = 0xFF;

    /// The longest message that clients keep (`MYSQL_ERRMSG_SIZE`), in bytes.
    pub const MAX_MESSAGE: usize = 512;

    /// An error to send. The message is cut at [`ErrorPacket::MAX_MESSAGE`] bytes, between characters.
    pub fn new(code: u16, state: SqlState, message: &str) -> ErrorPacket {
        let mut end = message.len().min(ErrorPacket::MAX_MESSAGE);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        ErrorPacket {
            code,
            state: Some(state),
            message: message.as_bytes()[..end].to_vec(),
        }
    }

    /// Reads a payload. Whether it carries a SQLSTATE is read off its marker `#`, as every client library does:
    /// in place of the greeting, MySQL and MariaDB differ between versions in sending one.
    ///
    /// # Errors
    /// [`WireError`] when the payload is not an ERR packet.
    pub fn parse(payload: &[u8]) -> Result<ErrorPacket, WireError> {
        let mut reader = Reader::new(payload);
        if reader.u8("the ERR header")? != ErrorPacket::HEADER {
            return Err(WireError::Malformed("not an ERR packet"));
        }
        let code = reader.u16("the error code")?;
        let mut state = None;
        if let Some((&[b'#', a, b, c, d, e], rest)) = reader.remaining().split_first_chunk::<6>()
            && let Some(found) = SqlState::new([a, b, c, d, e])
        {
            state = Some(found);
            reader = Reader::new(rest);
        }
        Ok(ErrorPacket {
            code,
            state,
            message: reader.rest().to_vec(),
        })
    }

    /// The payload to send. The SQLSTATE goes with it only when `agreed` has [`Capabilities::PROTOCOL_41`]; an
    /// error in place of the greeting has `Capabilities::default()`: nothing is agreed on yet, and a client would
    /// take the marker for text.
    pub fn to_payload(&self, agreed: Capabilities) -> Vec<u8> {
        let mut out = Vec::with_capacity(9 + self.message.len());
        out.push(ErrorPacket::HEADER);
        out.extend_from_slice(&self.code.to_le_bytes());
        if agreed.has(Capabilities::PROTOCOL_41) {
            out.push(b'#');
            out.extend_from_slice(&self.state.unwrap_or(SqlState::GENERAL).0);
        }
        out.extend_from_slice(&self.message);
        out
    }

    /// The message for people; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.message).into_owned()
    }
}

impl fmt::Display for ErrorPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}): {}",
            self.code,
            self.state.unwrap_or(SqlState::GENERAL),
            self.text()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_two_servers_own_packets_are_read() {
        // MariaDB 10.11 in place of the greeting; MySQL 8 after the handshake (captured).
        let early = ErrorPacket::parse(b"\xff\x10\x04Too many connections").unwrap();
        assert_eq!(
            (early.code, early.state, early.text().as_str()),
            (1040, None, "Too many connections")
        );
        let late = ErrorPacket::parse(b"\xff\x15\x04#28000Access denied for user 'x'@'localhost'").unwrap();
        assert_eq!((late.code, late.state.unwrap().as_str()), (1045, "28000"));
        assert!(late.text().starts_with("Access denied"));
    }

    #[test]
    fn a_message_that_begins_with_a_hash_stays_a_message() {
        let odd = ErrorPacket::parse(b"\xff\x51\x04#not a state").unwrap();
        assert_eq!((odd.state, odd.text().as_str()), (None, "#not a state"));
    }

    #[test]
    fn before_the_handshake_there_is_no_sqlstate() {
        let error = ErrorPacket::new(1105, SqlState::GENERAL, "no primary");
        assert_eq!(
            error.to_payload(Capabilities::default()),
            b"\xff\x51\x04no primary"
        );
        assert_eq!(
            error.to_payload(Capabilities::PROTOCOL_41),
            b"\xff\x51\x04#HY000no primary"
        );
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let error = ErrorPacket::new(1105, SqlState::GENERAL, &"é".repeat(400));
        assert_eq!(error.text(), "é".repeat(256));
        let error = ErrorPacket::new(1105, SqlState::GENERAL, &format!("x{}", "é".repeat(400)));
        assert!(error.message.len() <= 512 && !error.text().contains('\u{FFFD}'));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_without_a_panic(bytes: Vec<u8>) {
            let _ = ErrorPacket::parse(&bytes);
        }

        #[test]
        fn an_error_comes_back(code: u16, message in "[^#].{0,200}") {
            let error = ErrorPacket::new(code, SqlState::LINK_FAILURE, &message);
            let parsed = ErrorPacket::parse(&error.to_payload(Capabilities::PROTOCOL_41)).unwrap();
            prop_assert_eq!(&parsed, &error);
            let parsed = ErrorPacket::parse(&error.to_payload(Capabilities::default())).unwrap();
            prop_assert_eq!(parsed.message, error.message);
        }
    }
}
