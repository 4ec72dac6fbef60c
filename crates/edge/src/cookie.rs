//! The floor in the visitor's hands: a cookie that says what its next request must see (P3). Pure.
//!
//! `pontoon_floor=1.FLOOR.SIGNATURE`: the floor as [`pontoon_rt::floor`] writes it with `/` for `,` (which no cookie may
//! have), or `?`; half an HMAC-SHA256 of it in hexadecimal, by a key that the fleet's edges share. It is no secret and
//! no session: who makes one up can only cause a question to the primary, and with the signature not even that.

use aws_lc_rs::{constant_time, hmac};

use crate::http1::crumb::FLOOR_COOKIE;

/// A longer value is not ours.
pub const MAX_VALUE: usize = 512;

const VERSION: &str = "1.";
const SIGNATURE: usize = 16;
/// Part of what is signed, so that the key may serve for something else one day.
const PURPOSE: &[u8] = b"pontoon_floor 1 ";

/// What the edges of a fleet sign with.
#[derive(Debug)]
pub struct FloorKey(hmac::Key);

impl FloorKey {
    /// The least that makes a key, in bytes.
    pub const LEAST: usize = 32;

    /// From the bytes of the key file; `None` when they are too few.
    pub fn new(bytes: &[u8]) -> Option<FloorKey> {
        (bytes.len() >= FloorKey::LEAST).then(|| FloorKey(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// The cookie's value for `floor`; `None` for something that nobody knows.
    pub fn seal(&self, floor: Option<&str>) -> String {
        // What cannot be told is said to be unknown: it is asked for then.
        let word = match floor {
            Some(floor) if floor.len() <= MAX_VALUE - 64 && floor.bytes().all(is_plain) => floor,
            _ => "?",
        };
        let mut value = String::from(VERSION);
        value.push_str(&word.replace(',', "/"));
        value.push('.');
        for byte in self.sign(word) {
            value.push_str(&format!("{byte:02x}"));
        }
        value
    }

    /// The floor in `value`, if an edge of this fleet wrote it.
    ///
    /// # Errors
    /// [`Forged`].
    pub fn open(&self, value: &[u8]) -> Result<Option<String>, Forged> {
        if value.len() > MAX_VALUE {
            return Err(Forged);
        }
        let value = std::str::from_utf8(value).map_err(|_| Forged)?;
        let (word, signature) = value
            .strip_prefix(VERSION)
            .and_then(|rest| rest.rsplit_once('.'))
            .ok_or(Forged)?;
        let word = word.replace('/', ",");
        let signature = unhex(signature).ok_or(Forged)?;
        constant_time::verify_slices_are_equal(&signature, &self.sign(&word)).map_err(|_| Forged)?;
        Ok((word != "?").then_some(word))
    }

    fn sign(&self, word: &str) -> [u8; SIGNATURE] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(PURPOSE);
        context.update(word.as_bytes());
        let mut signature = [0; SIGNATURE];
        signature.copy_from_slice(&context.sign().as_ref()[..SIGNATURE]);
        signature
    }
}

/// No edge of this fleet wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forged;

/// What floors are written with.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b':' | b',' | b'@' | b'_')
}

fn unhex(text: &str) -> Option<[u8; SIGNATURE]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * SIGNATURE {
        return None;
    }
    let mut bytes = [0; SIGNATURE];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |at: usize| pair.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(bytes)
}

/// The `Set-Cookie` field. Not for scripts, not for other sites' forms; without `Secure`, because the edge cannot tell
/// whether whoever stands before it speaks TLS, and there is nothing in it to hide.
pub fn set_cookie(value: &str, max_age_seconds: u64) -> String {
    format!(
        "Set-Cookie: {FLOOR_COOKIE}={value}; Path=/; Max-Age={max_age_seconds}; HttpOnly; SameSite=Lax\r\n"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> FloorKey {
        FloorKey::new(&[byte; 32]).unwrap()
    }

    #[test]
    fn a_cookie_comes_back_to_who_has_the_key() {
        for floor in [
            None,
            Some("7@0-1-8,4-2-9"),
            Some("1@3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:tag_x:9"),
        ] {
            let value = key(1).seal(floor);
            assert_eq!(
                key(1).open(value.as_bytes()),
                Ok(floor.map(str::to_owned)),
                "{value}"
            );
            assert_eq!(key(2).open(value.as_bytes()), Err(Forged));
            // RFC 6265 section 4.1.1.
            assert!(
                value
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !b",;\"\\".contains(&b)),
                "{value}"
            );
        }
        assert!(FloorKey::new(&[1; 31]).is_none());
        // What does not fit, or could break a line, goes as unknown.
        for floor in [
            "9".repeat(MAX_VALUE),
            "1@a\r\nX: y".to_owned(),
            "1@a/b".to_owned(),
            "1@a.b".to_owned(),
        ] {
            assert_eq!(key(1).open(key(1).seal(Some(&floor)).as_bytes()), Ok(None));
        }
    }

    #[test]
    fn whatever_is_changed_is_noticed() {
        let value = key(1).seal(Some("7@0-1-8")).into_bytes();
        for at in 0..value.len() {
            for change in [1, 32, 128] {
                let mut other = value.clone();
                other[at] ^= change;
                let opened = key(1).open(&other);
                // The signature's letters may be of either case.
                let same = opened == Ok(Some("7@0-1-8".to_owned())) && at > value.len() - 33;
                assert!(
                    opened == Err(Forged) || same,
                    "{}",
                    String::from_utf8_lossy(&other)
                );
            }
        }
        assert_eq!(key(1).open(&value[..value.len() - 2]), Err(Forged));
        assert_eq!(key(1).open(&[value, vec![b'0'; MAX_VALUE]].concat()), Err(Forged));
    }

    proptest! {
        #[test]
        fn any_bytes_are_forged(value in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(key(1).open(&value), Err(Forged));
        }
    }
}
