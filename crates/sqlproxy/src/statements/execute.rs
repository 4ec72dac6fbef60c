//! COM_STMT_EXECUTE, as far as it has to be changed on its way (MySQL: "COM_STMT_EXECUTE"; MariaDB:
//! "COM_STMT_EXECUTE").

use pontoon_mysql_wire::Command;

/// Where things are in a COM_STMT_EXECUTE. None of it is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execute {
    /// The statement's number.
    pub statement: u32,
    /// The kind of cursor; 0 for none.
    pub flags: u8,
    /// Where the byte stands that says whether types follow; none for a statement without parameters.
    bound: Option<usize>,
    /// The end of the types, when they follow.
    types_end: Option<usize>,
}

/// Not a COM_STMT_EXECUTE for a statement with so many parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotExecute;

const ID: usize = 1;
const FLAGS: usize = 5;
const NULLS: usize = 10;

impl Execute {
    /// The number of the statement, before anything else is known.
    pub fn statement_of(payload: &[u8]) -> Option<u32> {
        let id = payload.get(ID..FLAGS)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*id))
    }

    /// How long what stands before the values is at most, with so many parameters.
    pub fn longest_head(params: u16) -> usize {
        let params = usize::from(params);
        NULLS + params.div_ceil(8) + 1 + 2 * params
    }

    /// Reads a payload, of which the beginning may be enough.
    ///
    /// # Errors
    /// [`NotExecute`].
    pub fn parse(payload: &[u8], params: u16) -> Result<Execute, NotExecute> {
        let statement = Execute::statement_of(payload).ok_or(NotExecute)?;
        let fixed = payload.get(..NULLS).ok_or(NotExecute)?;
        if fixed[0] != Command::StmtExecute.to_byte() {
            return Err(NotExecute);
        }
        let mut execute = Execute {
            statement,
            flags: fixed[FLAGS],
            bound: None,
            types_end: None,
        };
        if params > 0 {
            let params = usize::from(params);
            let bound = NULLS + params.div_ceil(8);
            execute.bound = Some(bound);
            match payload.get(bound) {
                Some(0) => {}
                Some(_) => {
                    let end = bound + 1 + 2 * params;
                    payload.get(..end).ok_or(NotExecute)?;
                    execute.types_end = Some(end);
                }
                None => return Err(NotExecute),
            }
        }
        Ok(execute)
    }

    /// The types that it carries.
    pub fn types<'a>(&self, payload: &'a [u8]) -> Option<&'a [u8]> {
        payload.get(self.bound? + 1..self.types_end?)
    }
}

/// The payload with the types put in that it relies on, and with another statement's number.
pub fn with_types(payload: &[u8], execute: &Execute, types: &[u8], statement: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + types.len());
    match execute.bound {
        Some(bound) if execute.types_end.is_none() && !types.is_empty() => {
            out.extend_from_slice(payload.get(..bound).unwrap_or_default());
            out.push(1);
            out.extend_from_slice(types);
            out.extend_from_slice(payload.get(bound + 1..).unwrap_or_default());
        }
        _ => out.extend_from_slice(payload),
    }
    set_statement(&mut out, statement);
    out
}

/// Puts another statement's number into the payload of a command that begins with one.
pub fn set_statement(payload: &mut [u8], statement: u32) {
    if let Some(place) = payload.get_mut(ID..FLAGS) {
        place.copy_from_slice(&statement.to_le_bytes());
    }
}

/// COM_STMT_CLOSE.
pub fn close(statement: u32) -> [u8; 5] {
    let [a, b, c, d] = statement.to_le_bytes();
    [Command::StmtClose.to_byte(), a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUND: &[u8] = b"\x17\x05\0\0\0\0\x01\0\0\0\0\x01\x03\0\xfd\0\x2a\0\0\0\x01x";
    const UNBOUND: &[u8] = b"\x17\x05\0\0\0\0\x01\0\0\0\0\0\x2a\0\0\0\x01x";

    #[test]
    fn types_are_read_and_put_back_in() {
        let first = Execute::parse(BOUND, 2).unwrap();
        assert_eq!((first.statement, first.flags), (5, 0));
        let types = first.types(BOUND).unwrap();
        assert_eq!(types, b"\x03\0\xfd\0");
        let second = Execute::parse(UNBOUND, 2).unwrap();
        assert!(second.types(UNBOUND).is_none());
        let mut expected = BOUND.to_vec();
        set_statement(&mut expected, 9);
        assert_eq!(with_types(UNBOUND, &second, types, 9), expected);
        assert_eq!(with_types(BOUND, &first, types, 9), expected);
    }

    #[test]
    fn without_parameters_there_are_no_types() {
        let payload = b"\x17\x05\0\0\0\x01\x01\0\0\0";
        let execute = Execute::parse(payload, 0).unwrap();
        assert!(execute.types(payload).is_none() && execute.flags == 1);
        assert_eq!(
            with_types(payload, &execute, b"", 6),
            b"\x17\x06\0\0\0\x01\x01\0\0\0"
        );
        assert_eq!(Execute::parse(&payload[..8], 0), Err(NotExecute));
        assert_eq!(
            Execute::parse(&BOUND[..14], 2),
            Err(NotExecute),
            "the types are cut off"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(payload: Vec<u8>, params: u16) {
            if let Ok(execute) = Execute::parse(&payload, params) {
                let types = execute.types(&payload).unwrap_or_default().to_vec();
                prop_assert!(with_types(&payload, &execute, &types, 1).len() >= payload.len());
            }
        }
    }
}
