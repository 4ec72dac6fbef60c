//! Reading the protocol's basic types from a slice (MySQL: "Protocol Basics", Integer Types and String Types;
//! MariaDB: "Protocol Data Types").

use crate::WireError;

/// A cursor over one packet's payload. Every method either returns what the bytes say or an error; none allocates.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Begins at the start of `payload`.
    pub fn new(payload: &'a [u8]) -> Reader<'a> {
        Reader { rest: payload }
    }

    /// What has not been read yet.
    pub fn remaining(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes; `what` names the field in the error.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when fewer are left.
    pub fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(WireError::Truncated(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(WireError::Truncated(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// `int<1>`.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// `int<2>`, little-endian.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// `int<3>`, little-endian.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn u24(&mut self, what: &'static str) -> Result<u32, WireError> {
        let [a, b, c] = self.array(what)?;
        Ok(u32::from_le_bytes([a, b, c, 0]))
    }

    /// `int<4>`, little-endian.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// `int<8>`, little-endian.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// `int<lenenc>`. `0xFB` (the NULL of a text row) and `0xFF` (the first byte of an ERR packet) are not numbers.
    ///
    /// # Errors
    /// [`WireError::Truncated`] or [`WireError::Malformed`].
    pub fn lenenc(&mut self, what: &'static str) -> Result<u64, WireError> {
        match self.u8(what)? {
            small @ 0..=0xFA => Ok(u64::from(small)),
            0xFC => self.u16(what).map(u64::from),
            0xFD => self.u24(what).map(u64::from),
            0xFE => self.u64(what),
            0xFB | 0xFF => Err(WireError::Malformed(
                "a length-encoded integer begins with 0xFB or 0xFF",
            )),
        }
    }

    /// `string<lenenc>`: a borrowed slice, so a lying length costs nothing.
    ///
    /// # Errors
    /// [`WireError::Truncated`] or [`WireError::Malformed`].
    pub fn lenenc_bytes(&mut self, what: &'static str) -> Result<&'a [u8], WireError> {
        let count = self.lenenc(what)?;
        self.bytes(
            usize::try_from(count).map_err(|_| WireError::Truncated(what))?,
            what,
        )
    }

    /// `string<NUL>`, without its NUL.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when there is no NUL.
    pub fn nul_bytes(&mut self, what: &'static str) -> Result<&'a [u8], WireError> {
        let end = self
            .rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(WireError::Truncated(what))?;
        let (taken, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Ok(taken)
    }

    /// `string<EOF>`: everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write;
    use proptest::prelude::*;

    #[test]
    fn a_lying_length_is_an_error_and_costs_nothing() {
        for lie in [
            &[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1][..],
            &[0xFC, 0xFF],
            &[0xFA, 1],
            &[],
        ] {
            assert_eq!(
                Reader::new(lie).lenenc_bytes("x"),
                Err(WireError::Truncated("x")),
                "{lie:?}"
            );
        }
        assert!(matches!(
            Reader::new(&[0xFB]).lenenc("x"),
            Err(WireError::Malformed(_))
        ));
        assert!(matches!(
            Reader::new(&[0xFF]).lenenc("x"),
            Err(WireError::Malformed(_))
        ));
        assert_eq!(
            Reader::new(b"no end").nul_bytes("x"),
            Err(WireError::Truncated("x"))
        );
    }

    proptest! {
        #[test]
        fn a_length_encoded_integer_comes_back(number: u64) {
            for number in [number, number >> 8, number >> 40, number >> 48, number >> 56] {
                let mut bytes = Vec::new();
                write::lenenc(&mut bytes, number);
                let mut reader = Reader::new(&bytes);
                prop_assert_eq!(reader.lenenc("n"), Ok(number));
                prop_assert!(reader.is_empty());
            }
        }

        #[test]
        fn a_length_encoded_string_comes_back(text: Vec<u8>, tail: Vec<u8>) {
            let mut bytes = Vec::new();
            write::lenenc_bytes(&mut bytes, &text);
            bytes.extend_from_slice(&tail);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.lenenc_bytes("s"), Ok(&text[..]));
            prop_assert_eq!(reader.rest(), &tail[..]);
        }
    }
}
