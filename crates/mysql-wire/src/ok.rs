//! OK and EOF packets, and telling the kinds of reply apart (MySQL: "OK_Packet", "EOF_Packet", "COM_QUERY
//! Response"; MariaDB: "OK_Packet", "EOF_Packet").

use crate::{Capabilities, ErrorPacket, Reader, StatusFlags, WireError, frame::MAX_FRAME_PAYLOAD, write};

/// What the first packet of a reply to a command, or a packet where rows may end, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// An OK packet: done.
    Ok,
    /// An OK packet in the place of an EOF packet (`DEPRECATE_EOF` agreed): rows end.
    OkEof,
    /// An EOF packet: definitions or rows end.
    Eof,
    /// An ERR packet.
    Error,
    /// The server asks for a local file; the client sends next.
    LocalInfile,
    /// Something else: a result set's column count, or a row.
    Data,
}

impl Reply {
    /// Tells what a packet is that comes first after a text command. `agreed` are the capabilities of both sides.
    pub fn first(payload: &[u8], agreed: Capabilities) -> Reply {
        match payload.first() {
            Some(0x00) => Reply::Ok,
            Some(0xFB) => Reply::LocalInfile,
            _ => Reply::in_rows(payload, payload.len(), agreed),
        }
    }

    /// Tells what a packet is that comes where rows or column definitions come. `len` is the whole packet's length,
    /// of which `payload` may be the beginning only. A text row may begin with `0xFE` when its first value has
    /// 16 MiB or more, and with `0x00` or `0xFB`; the length tells them apart.
    pub fn in_rows(payload: &[u8], len: usize, agreed: Capabilities) -> Reply {
        match payload.first() {
            Some(&ErrorPacket::HEADER) => Reply::Error,
            Some(0xFE) if agreed.has(Capabilities::DEPRECATE_EOF) && len < MAX_FRAME_PAYLOAD => Reply::OkEof,
            Some(0xFE) if !agreed.has(Capabilities::DEPRECATE_EOF) && len < 9 => Reply::Eof,
            _ => Reply::Data,
        }
    }
}

/// An EOF packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EofPacket {
    /// Warnings of the statement.
    pub warnings: u16,
    /// The session's status.
    pub status: StatusFlags,
}

impl EofPacket {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`WireError`] when it is not an EOF packet of the 4.1 protocol.
    pub fn parse(payload: &[u8]) -> Result<EofPacket, WireError> {
        let mut reader = Reader::new(payload);
        if reader.u8("the EOF header")? != 0xFE || payload.len() >= 9 {
            return Err(WireError::Malformed("not an EOF packet"));
        }
        let warnings = reader.u16("the warnings")?;
        Ok(EofPacket {
            warnings,
            status: StatusFlags(reader.u16("the status")?),
        })
    }

    /// Appends the payload to send.
    pub fn write(self, out: &mut Vec<u8>) {
        out.push(OkPacket::AS_EOF);
        write::u16(out, self.warnings);
        write::u16(out, self.status.without(StatusFlags::SESSION_STATE_CHANGED).0);
    }
}

/// An OK packet, borrowed from its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OkPacket<'a> {
    /// Rows changed (or found, with `FOUND_ROWS`).
    pub affected_rows: u64,
    /// The last `AUTO_INCREMENT` value of the statement, or 0.
    pub last_insert_id: u64,
    /// The session's status.
    pub status: StatusFlags,
    /// Warnings of the statement.
    pub warnings: u16,
    /// Text for people, such as `Rows matched: 1`.
    pub info: &'a [u8],
    /// Session state changes, encoded; see [`OkPacket::session_state`].
    pub state: &'a [u8],
}

impl<'a> OkPacket<'a> {
    /// The first byte of an OK packet.
    pub const HEADER: u8 = 0x00;

    /// The first byte of an OK packet in the place of an EOF packet, and of an EOF packet.
    pub const AS_EOF: u8 = 0xFE;

    /// Reads a payload with either header, `0x00` or `0xFE`.
    ///
    /// # Errors
    /// [`WireError`] when it is not an OK packet under `agreed`.
    pub fn parse(payload: &'a [u8], agreed: Capabilities) -> Result<OkPacket<'a>, WireError> {
        let mut reader = Reader::new(payload);
        if !matches!(reader.u8("the OK header")?, 0x00 | 0xFE) {
            return Err(WireError::Malformed("not an OK packet"));
        }
        let affected_rows = reader.lenenc("the affected rows")?;
        let last_insert_id = reader.lenenc("the last insert id")?;
        let mut status = StatusFlags::default();
        let mut warnings = 0;
        if agreed.has(Capabilities::PROTOCOL_41) {
            status = StatusFlags(reader.u16("the status")?);
            warnings = reader.u16("the warnings")?;
        } else if agreed.has(Capabilities::TRANSACTIONS) {
            status = StatusFlags(reader.u16("the status")?);
        }
        let (mut info, mut state) = (&[][..], &[][..]);
        if !reader.is_empty() {
            info = reader.lenenc_bytes("the info text")?;
            if agreed.has(Capabilities::SESSION_TRACK) && status.has(StatusFlags::SESSION_STATE_CHANGED) {
                state = reader.lenenc_bytes("the session state")?;
            }
        }
        Ok(OkPacket {
            affected_rows,
            last_insert_id,
            status,
            warnings,
            info,
            state,
        })
    }

    /// Appends the payload to send, with the header `0x00`, or `0xFE` where it stands in the place of an EOF packet
    /// ([`OkPacket::AS_EOF`]). A receiver without [`Capabilities::SESSION_TRACK`] gets no session state.
    ///
    /// The info text goes with its length to every receiver: the documents have `string<EOF>` for those without
    /// `SESSION_TRACK`, both servers send `string<lenenc>`, and clients read that (`net_send_ok`, `read_ok_ex`).
    pub fn write(&self, out: &mut Vec<u8>, header: u8, agreed: Capabilities) {
        let state = if agreed.has(Capabilities::SESSION_TRACK) {
            self.state
        } else {
            &[]
        };
        let mut status = self.status.without(StatusFlags::SESSION_STATE_CHANGED);
        if !state.is_empty() {
            status = status | StatusFlags::SESSION_STATE_CHANGED;
        }
        out.push(header);
        write::lenenc(out, self.affected_rows);
        write::lenenc(out, self.last_insert_id);
        if agreed.has(Capabilities::PROTOCOL_41) {
            write::u16(out, status.0);
            write::u16(out, self.warnings);
        } else if agreed.has(Capabilities::TRANSACTIONS) {
            write::u16(out, status.0);
        }
        if !state.is_empty() || !self.info.is_empty() {
            write::lenenc_bytes(out, self.info);
        }
        if !state.is_empty() {
            write::lenenc_bytes(out, state);
        }
    }

    /// The session state changes, one by one.
    pub fn session_state(&self) -> SessionStateReader<'a> {
        SessionStateReader {
            rest: Reader::new(self.state),
            variables: Reader::new(&[]),
        }
    }
}

/// A change of session state, reported because the session asked to track it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState<'a> {
    /// A system variable: name and value. MariaDB reports GTIDs as `last_gtid`.
    SystemVariable(&'a [u8], &'a [u8]),
    /// The default database.
    Schema(&'a [u8]),
    /// `session_track_state_change`: something changed.
    StateChange(&'a [u8]),
    /// MySQL: the transaction's GTID, or a set of them.
    Gtids(&'a [u8]),
    /// The statements that would recreate the transaction's characteristics.
    TransactionCharacteristics(&'a [u8]),
    /// The transaction's state, eight characters.
    TransactionState(&'a [u8]),
    /// A kind that this version does not know.
    Other(u8, &'a [u8]),
}

/// Goes through session state changes. Ends after the first malformed one.
#[derive(Clone, Debug)]
pub struct SessionStateReader<'a> {
    rest: Reader<'a>,
    /// What is left of an entry with several system variables.
    variables: Reader<'a>,
}

impl<'a> Iterator for SessionStateReader<'a> {
    type Item = Result<SessionState<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() && self.variables.is_empty() {
            return None;
        }
        let item = self.read();
        if item.is_err() {
            *self = SessionStateReader {
                rest: Reader::new(&[]),
                variables: Reader::new(&[]),
            };
        }
        Some(item)
    }
}

impl<'a> SessionStateReader<'a> {
    fn read(&mut self) -> Result<SessionState<'a>, WireError> {
        if self.variables.is_empty() {
            let kind = self.rest.u8("a session state's kind")?;
            let data = self.rest.lenenc_bytes("a session state")?;
            let mut reader = Reader::new(data);
            match kind {
                0 => self.variables = reader,
                1 => return Ok(SessionState::Schema(reader.lenenc_bytes("the schema")?)),
                // One character, without a length of its own.
                2 => return Ok(SessionState::StateChange(data)),
                3 => {
                    // One byte of encoding, of which 0 (text) is the only one.
                    reader.u8("the GTIDs' encoding")?;
                    return Ok(SessionState::Gtids(reader.lenenc_bytes("the GTIDs")?));
                }
                4 => {
                    let text = reader.lenenc_bytes("the transaction characteristics")?;
                    return Ok(SessionState::TransactionCharacteristics(text));
                }
                5 => {
                    return Ok(SessionState::TransactionState(
                        reader.lenenc_bytes("the transaction state")?,
                    ));
                }
                other => return Ok(SessionState::Other(other, data)),
            }
        }
        let name = self.variables.lenenc_bytes("a variable's name")?;
        Ok(SessionState::SystemVariable(
            name,
            self.variables.lenenc_bytes("a variable's value")?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tracking() -> Capabilities {
        Capabilities::PROTOCOL_41 | Capabilities::SESSION_TRACK | Capabilities::DEPRECATE_EOF
    }

    #[test]
    fn an_ok_with_a_mariadb_gtid_is_read() {
        let payload = b"\0\x01\x07\x02\x40\0\0\0\x14\0\x12\x09last_gtid\x070-1-800";
        let ok = OkPacket::parse(payload, tracking()).unwrap();
        assert_eq!((ok.affected_rows, ok.last_insert_id, ok.info), (1, 7, &b""[..]));
        assert!(
            ok.status
                .has(StatusFlags::AUTOCOMMIT | StatusFlags::SESSION_STATE_CHANGED)
        );
        let states = ok.session_state().collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(states, [SessionState::SystemVariable(b"last_gtid", b"0-1-800")]);
    }

    #[test]
    fn an_ok_with_a_mysql_gtid_is_read() {
        let payload = b"\0\x01\0\x02\x40\0\0\x02hi\x07\x03\x05\0\x03u:9";
        let ok = OkPacket::parse(payload, tracking()).unwrap();
        assert_eq!(ok.info, b"hi");
        let states = ok.session_state().collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(states, [SessionState::Gtids(b"u:9")]);
    }

    #[test]
    fn an_ok_is_written_for_who_gets_it() {
        let payload = b"\0\x01\0\x02\x40\0\0\x02hi\x07\x03\x05\0\x03u:9";
        let ok = OkPacket::parse(payload, tracking()).unwrap();
        let mut out = Vec::new();
        ok.write(&mut out, OkPacket::HEADER, tracking());
        assert_eq!(out, payload);
        out.clear();
        ok.write(&mut out, OkPacket::HEADER, Capabilities::PROTOCOL_41);
        assert_eq!(out, b"\0\x01\0\x02\0\0\0\x02hi");
        let old = OkPacket::parse(&out, Capabilities::PROTOCOL_41).unwrap();
        assert_eq!((old.info, old.state), (&b"hi"[..], &b""[..]));
    }

    #[test]
    fn lying_lengths_of_session_state_are_errors() {
        let outer = b"\0\x01\0\x02\x40\0\0\x02hi\x08\x03\x05\0\x03u:9";
        let outer = OkPacket::parse(outer, tracking());
        assert_eq!(outer, Err(WireError::Truncated("the session state")));
        let inner = b"\0\x01\0\x02\x40\0\0\x02hi\x07\x03\x06\0\x03u:9";
        let states = OkPacket::parse(inner, tracking())
            .unwrap()
            .session_state()
            .collect::<Vec<_>>();
        assert_eq!(
            states,
            [Err(WireError::Truncated("a session state"))],
            "it ends after the first error"
        );
    }

    #[test]
    fn replies_are_told_apart() {
        let (old, new) = (Capabilities::PROTOCOL_41, tracking());
        assert_eq!(Reply::first(b"\0\0\0\x02\0\0\0", old), Reply::Ok);
        assert_eq!(Reply::first(b"\xfb/etc/passwd", old), Reply::LocalInfile);
        assert_eq!(Reply::first(b"\x03", old), Reply::Data);
        assert_eq!(Reply::in_rows(b"\xfe\0\0\x02\0", 5, old), Reply::Eof);
        assert_eq!(Reply::in_rows(b"\xfe\0\0\x02\0\0\0", 7, new), Reply::OkEof);
        assert_eq!(
            Reply::in_rows(b"\xfe\0\0\0\x01\0\0\0\0xyz", 16_777_225, old),
            Reply::Data
        );
        assert_eq!(
            Reply::in_rows(b"\xfe\0\0\0\x01\0\0\0\0xyz", 16_777_225, new),
            Reply::Data
        );
        assert_eq!(Reply::in_rows(b"\xff\x28\x04", 3, new), Reply::Error);
        assert_eq!(Reply::first(b"", new), Reply::Data);
        assert_eq!(
            EofPacket::parse(b"\xfe\x01\0\x22\0"),
            Ok(EofPacket {
                warnings: 1,
                status: StatusFlags(0x22)
            })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_without_a_panic(bytes: Vec<u8>, bits: u64) {
            let agreed = Capabilities(bits);
            let _ = EofPacket::parse(&bytes);
            let _ = Reply::first(&bytes, agreed);
            if let Ok(ok) = OkPacket::parse(&bytes, agreed) {
                let _ = ok.session_state().count();
            }
            let reader = SessionStateReader { rest: Reader::new(&bytes), variables: Reader::new(&[]) };
            prop_assert!(reader.count() <= bytes.len());
        }
    }
}
