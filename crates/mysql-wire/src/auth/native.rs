//! `mysql_native_password` (MySQL: "Old Authentication" and "Native Authentication"; MariaDB: "Authentication Plugin -
//! mysql_native_password").
//!
//! The server stores `SHA1(SHA1(password))`. The client sends `SHA1(password) XOR SHA1(challenge, stored)`, so who has
//! what is stored and sees one login knows `SHA1(password)`, which is all that a login needs. That is why the servers
//! give `mysql.user` to nobody, and how the proxy logs in for its clients.
//!
//! An empty password is an empty answer; nothing here reckons with it.

use sha1::{Digest, Sha1};

use super::{nonce, same, xor};

/// Length of a hash and of an answer, in bytes.
pub const LEN: usize = 20;

/// `SHA1(password)`: what is needed to log in.
pub fn hash(password: &[u8]) -> [u8; LEN] {
    Sha1::digest(password).into()
}

/// `SHA1(SHA1(password))`, from `SHA1(password)`: what the server stores.
pub fn stored(hash: &[u8; LEN]) -> [u8; LEN] {
    Sha1::digest(hash).into()
}

/// The answer to `challenge` of who knows `SHA1(password)`.
pub fn answer(hash: &[u8; LEN], challenge: &[u8]) -> [u8; LEN] {
    xor(*hash, &mask(&stored(hash), challenge))
}

/// `SHA1(password)`, recovered from a client's `answer` to `challenge`; `None` when the answer is not right for what is
/// `stored`.
pub fn recover(answer: &[u8], challenge: &[u8], stored_hash: &[u8; LEN]) -> Option<[u8; LEN]> {
    let answer: [u8; LEN] = answer.try_into().ok()?;
    let hash = xor(answer, &mask(stored_hash, challenge));
    same(&stored(&hash), stored_hash).then_some(hash)
}

/// Whether a client's `answer` to `challenge` is right for what is `stored`.
pub fn verify(answer: &[u8], challenge: &[u8], stored_hash: &[u8; LEN]) -> bool {
    recover(answer, challenge, stored_hash).is_some()
}

/// What is stored, from the text in `mysql.user` (`authentication_string`, MariaDB's `Password`): `*` and 40
/// hexadecimal digits. `None` for anything else: an empty text (no password), one of before 4.1, `invalid`.
pub fn parse_stored(text: &[u8]) -> Option<[u8; LEN]> {
    let digits: &[u8; 2 * LEN] = text.strip_prefix(b"*")?.try_into().ok()?;
    let mut out = [0; LEN];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        *byte = (high? << 4 | low?) as u8;
    }
    Some(out)
}

fn mask(stored_hash: &[u8; LEN], challenge: &[u8]) -> [u8; LEN] {
    Sha1::new()
        .chain_update(nonce(challenge))
        .chain_update(stored_hash)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_stored_is_what_password_shows() {
        // SELECT PASSWORD('secret'), MariaDB 10.11.
        let text = b"*14E65567ABDB5135D0CFD9A70B3032C179A49EE7";
        assert_eq!(parse_stored(text), Some(stored(&hash(b"secret"))));
        assert_eq!(
            parse_stored(&text.to_ascii_lowercase()[..]),
            Some(stored(&hash(b"secret")))
        );
        for bad in [
            &b""[..],
            b"*",
            b"invalid",
            b"5d2e19393cc5ef67",
            b"*14E65567ABDB5135D0CFD9A70B3032C179A49EE",
            b"*14E65567ABDB5135D0CFD9A70B3032C179A49EE77",
            b"*14E65567ABDB5135D0CFD9A70B3032C179A49EEG",
            b"*+4E65567ABDB5135D0CFD9A70B3032C179A49EE7",
            b"$A$005$0123456789012345678901234567890123456789",
        ] {
            assert_eq!(parse_stored(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn wrong_answers_are_refused() {
        let hash = hash(b"secret");
        let stored = stored(&hash);
        let challenge = b"abcdefghijklmnopqrst";
        let right = answer(&hash, challenge);
        assert!(verify(&right, challenge, &stored));
        assert!(
            verify(&right, b"abcdefghijklmnopqrst\0", &stored),
            "with the NUL of the wire"
        );
        let mut wrong = right;
        wrong[19] ^= 1;
        for (answer, challenge) in [
            (&wrong[..], &challenge[..]),
            (&right, b"abcdefghijklmnopqrsT"),
            (&right[..19], challenge),
            (b"", challenge),
            (&stored, challenge),
        ] {
            assert!(!verify(answer, challenge, &stored));
        }
    }

    proptest! {
        #[test]
        fn the_hash_comes_back_from_a_login(password: Vec<u8>, other: Vec<u8>, challenge: [u8; 20]) {
            let known = hash(&password);
            let recovered = recover(&answer(&known, &challenge), &challenge, &stored(&known));
            prop_assert_eq!(recovered, Some(known));
            let wrong = verify(&answer(&hash(&other), &challenge), &challenge, &stored(&known));
            prop_assert_eq!(wrong, password == other);
        }
    }
}
