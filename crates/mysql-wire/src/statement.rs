//! Commands about prepared statements (MySQL: "Prepared Statements", COM_STMT_EXECUTE and its neighbours; MariaDB:
//! "3 - Binary Protocol"). `QUERY_ATTRIBUTES` must not be agreed on: it changes the form of COM_STMT_EXECUTE.

use crate::{Command, Reader, WireError, write};

/// Where the statement's id stands in the payload of every such command but COM_STMT_PREPARE.
const ID: std::ops::Range<usize> = 1..5;

/// MariaDB: the id that stands for the statement prepared last, sent before its answer has come.
pub const LAST_PREPARED: u32 = u32::MAX;

/// The statement that a COM_STMT_EXECUTE, COM_STMT_FETCH, COM_STMT_RESET, COM_STMT_CLOSE, COM_STMT_SEND_LONG_DATA or
/// COM_STMT_BULK_EXECUTE is about. The beginning of the payload is enough.
///
/// # Errors
/// [`WireError`] when it is none of them, or cut.
pub fn statement_id(payload: &[u8]) -> Result<u32, WireError> {
    let mut reader = Reader::new(payload);
    match Command::from_byte(reader.u8("the command")?) {
        Some(
            Command::StmtExecute
            | Command::StmtFetch
            | Command::StmtReset
            | Command::StmtClose
            | Command::StmtSendLongData
            | Command::StmtBulkExecute,
        ) => reader.u32("the statement's id"),
        _ => Err(WireError::Malformed("not a command about a prepared statement")),
    }
}

/// Gives such a command another statement's id, in place.
///
/// # Errors
/// As [`statement_id`]; nothing is changed then.
pub fn set_statement_id(payload: &mut [u8], id: u32) -> Result<(), WireError> {
    statement_id(payload)?;
    if let Some(place) = payload.get_mut(ID) {
        place.copy_from_slice(&id.to_le_bytes());
    }
    Ok(())
}

/// COM_STMT_EXECUTE, with its values left as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    /// The statement.
    pub statement: u32,
    /// See [`Execute::opens_cursor`].
    pub flags: u8,
    /// Always 1.
    pub iterations: u32,
    /// The NULL bitmap: a bit for each parameter.
    pub nulls: &'a [u8],
    /// Two bytes for each parameter: its type, and `0x80` for unsigned. `None` when the client did not send them
    /// (`new_params_bound` 0) because they are those of the last execution; a server that did not see that one takes
    /// the values for something else.
    pub types: Option<&'a [u8]>,
    /// The values, of whatever has arrived.
    pub values: &'a [u8],
}

impl<'a> Execute<'a> {
    /// The bit of [`Execute::flags`] that asks for a read-only cursor.
    const CURSOR_TYPE_READ_ONLY: u8 = 0x01;

    /// The most bytes before the values, whatever the number of parameters.
    pub const MAX_HEAD: usize = 10 + (u16::MAX as usize).div_ceil(8) + 1 + 2 * u16::MAX as usize;

    /// Reads the payload, or its beginning up to the values, of a statement with `params` parameters.
    ///
    /// # Errors
    /// [`WireError`] when it is not a COM_STMT_EXECUTE of so many parameters.
    pub fn parse(payload: &'a [u8], params: u16) -> Result<Execute<'a>, WireError> {
        let mut reader = Reader::new(payload);
        if reader.u8("the command")? != Command::StmtExecute.to_byte() {
            return Err(WireError::Malformed("not a COM_STMT_EXECUTE"));
        }
        let mut execute = Execute {
            statement: reader.u32("the statement's id")?,
            flags: reader.u8("the flags")?,
            iterations: reader.u32("the iterations")?,
            nulls: &[],
            types: None,
            values: &[],
        };
        let params = usize::from(params);
        if params > 0 {
            execute.nulls = reader.bytes(params.div_ceil(8), "the NULL bitmap")?;
            execute.types = match reader.u8("the flag of new types")? {
                0 => None,
                1 => Some(reader.bytes(2 * params, "the parameters' types")?),
                _ => return Err(WireError::Malformed("the flag of new types is neither 0 nor 1")),
            };
        }
        execute.values = reader.rest();
        Ok(execute)
    }

    /// Appends the payload with another statement's id. Where the client sent no types, `types` (those that it sent
    /// last, two bytes for each parameter) go with it. Only what was given to [`Execute::parse`] is written: more
    /// values may follow.
    pub fn write(&self, out: &mut Vec<u8>, statement: u32, types: Option<&[u8]>) {
        out.push(Command::StmtExecute.to_byte());
        write::u32(out, statement);
        out.push(self.flags);
        write::u32(out, self.iterations);
        if !self.nulls.is_empty() {
            out.extend_from_slice(self.nulls);
            match self.types.or(types) {
                None => out.push(0),
                Some(types) => {
                    out.push(1);
                    out.extend_from_slice(types);
                }
            }
        }
        out.extend_from_slice(self.values);
    }

    /// Whether the client asks for a cursor; the server may answer with rows all the same.
    pub fn opens_cursor(&self) -> bool {
        self.flags & Execute::CURSOR_TYPE_READ_ONLY != 0
    }
}

/// COM_STMT_SEND_LONG_DATA, which has no answer: a failure shows at the next COM_STMT_EXECUTE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendLongData<'a> {
    /// The statement.
    pub statement: u32,
    /// The parameter's place, from 0.
    pub param: u16,
    /// A part of its value, added to those sent before; of whatever has arrived.
    pub data: &'a [u8],
}

impl<'a> SendLongData<'a> {
    /// Reads the payload, or its beginning.
    ///
    /// # Errors
    /// [`WireError`] when it is not a COM_STMT_SEND_LONG_DATA.
    pub fn parse(payload: &'a [u8]) -> Result<SendLongData<'a>, WireError> {
        let mut reader = Reader::new(payload);
        if reader.u8("the command")? != Command::StmtSendLongData.to_byte() {
            return Err(WireError::Malformed("not a COM_STMT_SEND_LONG_DATA"));
        }
        Ok(SendLongData {
            statement: reader.u32("the statement's id")?,
            param: reader.u16("the parameter's place")?,
            data: reader.rest(),
        })
    }
}

/// COM_STMT_FETCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The statement, which has a cursor open.
    pub statement: u32,
    /// How many rows at most.
    pub rows: u32,
}

impl Fetch {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`WireError`] when it is not a COM_STMT_FETCH.
    pub fn parse(payload: &[u8]) -> Result<Fetch, WireError> {
        let mut reader = Reader::new(payload);
        if reader.u8("the command")? != Command::StmtFetch.to_byte() {
            return Err(WireError::Malformed("not a COM_STMT_FETCH"));
        }
        Ok(Fetch {
            statement: reader.u32("the statement's id")?,
            rows: reader.u32("the number of rows")?,
        })
    }
}

/// The payload of a COM_STMT_CLOSE, which has no answer.
pub fn close_statement(statement: u32) -> [u8; 5] {
    about(Command::StmtClose, statement)
}

/// The payload of a COM_STMT_RESET: the statement's long data are forgotten, its cursor is closed.
pub fn reset_statement(statement: u32) -> [u8; 5] {
    about(Command::StmtReset, statement)
}

fn about(command: Command, statement: u32) -> [u8; 5] {
    let [a, b, c, d] = statement.to_le_bytes();
    [command.to_byte(), a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two parameters, an int and a string; captured from a MariaDB client.
    const FIRST: &[u8] = b"\x17\x05\0\0\0\0\x01\0\0\0\0\x01\x03\0\xfd\0\x07\0\0\0\x02hi";
    const AGAIN: &[u8] = b"\x17\x05\0\0\0\0\x01\0\0\0\x02\0\x08\0\0\0";

    #[test]
    fn types_that_the_client_left_out_go_with_the_values() {
        let first = Execute::parse(FIRST, 2).unwrap();
        assert_eq!((first.statement, first.types), (5, Some(&b"\x03\0\xfd\0"[..])));
        assert_eq!(
            (first.nulls, first.values),
            (&b"\0"[..], &b"\x07\0\0\0\x02hi"[..])
        );
        let again = Execute::parse(AGAIN, 2).unwrap();
        assert_eq!((again.types, again.nulls), (None, &b"\x02"[..]));

        let mut out = Vec::new();
        again.write(&mut out, 77, first.types);
        let expected = b"\x17\x4d\0\0\0\0\x01\0\0\0\x02\x01\x03\0\xfd\0\x08\0\0\0";
        assert_eq!(out, expected);
        out.clear();
        first.write(&mut out, 5, Some(b"\x01\0\x01\0"));
        assert_eq!(out, FIRST, "the client's own types win");
        out.clear();
        again.write(&mut out, 5, None);
        assert_eq!(out, AGAIN);
    }

    #[test]
    fn without_parameters_there_is_nothing_behind_the_head() {
        let bare = b"\x17\x05\0\0\0\x01\x01\0\0\0";
        let execute = Execute::parse(bare, 0).unwrap();
        assert!(execute.opens_cursor() && execute.types.is_none() && execute.nulls.is_empty());
        let mut out = Vec::new();
        execute.write(&mut out, 5, None);
        assert_eq!(out, bare);
        assert!(!Execute::parse(FIRST, 2).unwrap().opens_cursor());
    }

    #[test]
    fn cut_and_lying_ones_are_errors() {
        for end in 0..16 {
            assert!(Execute::parse(&FIRST[..end], 2).is_err(), "{end}");
        }
        assert!(Execute::parse(FIRST, u16::MAX).is_err());
        let mut odd = FIRST.to_vec();
        odd[11] = 7;
        assert!(matches!(Execute::parse(&odd, 2), Err(WireError::Malformed(_))));
        assert!(Execute::parse(b"\x03SELECT 1", 0).is_err());
        assert!(statement_id(b"\x03SELECT 1").is_err());
        assert!(statement_id(b"\x17\x01\0\0").is_err());
    }

    #[test]
    fn the_small_commands_are_read_and_written() {
        assert_eq!(close_statement(258), *b"\x19\x02\x01\0\0");
        assert_eq!(reset_statement(1), *b"\x1a\x01\0\0\0");
        let data = SendLongData::parse(b"\x18\x01\0\0\0\x02\0abc").unwrap();
        assert_eq!((data.statement, data.param, data.data), (1, 2, &b"abc"[..]));
        let fetch = Fetch::parse(b"\x1c\x01\0\0\0\x64\0\0\0").unwrap();
        assert_eq!((fetch.statement, fetch.rows), (1, 100));
        assert!(Fetch::parse(b"\x1c\x01\0\0\0\x64").is_err());
        assert!(SendLongData::parse(b"\x18\x01\0\0\0\x02").is_err());
        let mut payload = b"\x18\x01\0\0\0\x02\0abc".to_vec();
        set_statement_id(&mut payload, LAST_PREPARED).unwrap();
        assert_eq!(statement_id(&payload), Ok(LAST_PREPARED));
        let mut query = b"\x03SELECT 1".to_vec();
        assert!(set_statement_id(&mut query, 1).is_err() && query == b"\x03SELECT 1");
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_without_a_panic(mut bytes: Vec<u8>, params: u16, command in 0x17u8..0x1D) {
            bytes.insert(0, command);
            let _ = (Fetch::parse(&bytes), SendLongData::parse(&bytes));
            let _ = set_statement_id(&mut bytes, 1);
            for params in [params, params >> 8, params >> 12] {
                if let Ok(execute) = Execute::parse(&bytes, params) {
                    let mut out = Vec::new();
                    execute.write(&mut out, execute.statement, None);
                    prop_assert_eq!(&out, &bytes);
                }
            }
        }
    }
}
