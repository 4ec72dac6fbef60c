//! Bytes as text that people copy: base32 in lower case (RFC 4648 section 6, without padding), which survives fonts,
//! double clicks and shells.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The bytes as base32.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut buffer, mut bits) = (0u32, 0u32);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(buffer >> bits) as usize & 31]));
        }
        buffer &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(buffer << (5 - bits)) as usize & 31]));
    }
    text
}

/// Exactly `N` bytes from base32; `None` for any other text. One text for each value: surplus bits must be zero.
pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut next = 0;
    let (mut buffer, mut bits) = (0u32, 0u32);
    for letter in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter)?;
        buffer = (buffer << 5) | u32::try_from(value).ok()?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            *bytes.get_mut(next)? = u8::try_from((buffer >> bits) & 0xff).ok()?;
            next += 1;
            buffer &= (1 << bits) - 1;
        }
    }
    (next == N && bits < 5 && buffer == 0).then_some(bytes)
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// Which fleet: the SHA-256 of the authority's public key (SubjectPublicKeyInfo, as in RFC 7469 section 2.4), as 52
/// letters and digits. It stays when the authority's certificate is made anew with the same key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pin([u8; 32]);

impl Pin {
    pub(crate) fn of_spki(spki_der: &[u8]) -> Pin {
        Pin(sha256(spki_der))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&encode(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Pin, String> {
        decode(text)
            .map(Pin)
            .ok_or_else(|| "a pin has 52 letters and digits (a-z, 2-7)".to_owned())
    }
}

impl TryFrom<String> for Pin {
    type Error = String;

    fn try_from(text: String) -> Result<Pin, String> {
        text.parse()
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> String {
        pin.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_is_that_of_the_rfc() {
        // RFC 4648 section 10.
        for (bytes, text) in [
            ("", ""),
            ("f", "my"),
            ("fo", "mzxq"),
            ("foob", "mzxw6yq"),
            ("foobar", "mzxw6ytboi"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
        }
        assert_eq!(decode::<6>("mzxw6ytboi"), Some(*b"foobar"));
        assert_eq!(decode::<1>("my"), Some(*b"f"));
        for bad in ["mz", "m", "myy", "MY", "m=", "m1", "mé", ""] {
            assert_eq!(decode::<1>(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_pin_comes_back_as_it_was() {
        let pin = Pin::of_spki(b"key");
        assert_eq!(pin.to_string().len(), 52);
        assert_eq!(pin.to_string().parse(), Ok(pin));
        assert!("abc".parse::<Pin>().is_err());
    }
}
