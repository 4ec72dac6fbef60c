//! `caching_sha2_password` (MySQL: "Caching_sha2_password information").
//!
//! The server caches `SHA256(SHA256(password))` after a full login. The client sends `SHA256(password) XOR
//! SHA256(cached, challenge)`; where the server has nothing cached it asks for the password itself, over TLS, a Unix
//! socket or encrypted with the server's RSA key.
//!
//! An empty password is an empty answer; nothing here reckons with it.

use ::sha2::{Digest, Sha256};

use super::{nonce, same, xor};

/// Length of a hash and of an answer, in bytes.
pub const LEN: usize = 32;

/// The client's request for the server's RSA key, its whole payload.
pub const REQUEST_KEY: u8 = 0x02;
/// Data from the server: the answer was right, OK follows.
pub const FAST_OK: u8 = 0x03;
/// Data from the server: nothing is cached, it needs the password.
pub const FULL: u8 = 0x04;

/// `SHA256(SHA256(password))`: what the server caches.
pub fn cached(password: &[u8]) -> [u8; LEN] {
    Sha256::digest(Sha256::digest(password)).into()
}

/// The answer to `challenge` of who knows the password.
pub fn answer(password: &[u8], challenge: &[u8]) -> [u8; LEN] {
    let hash: [u8; LEN] = Sha256::digest(password).into();
    xor(hash, &mask(&Sha256::digest(hash).into(), challenge))
}

/// Whether a client's `answer` to `challenge` is right for what is `cached`.
pub fn verify(answer: &[u8], challenge: &[u8], cached: &[u8; LEN]) -> bool {
    let Ok(answer) = <[u8; LEN]>::try_from(answer) else {
        return false;
    };
    let hash = xor(answer, &mask(cached, challenge));
    same(&Sha256::digest(hash).into(), cached)
}

/// Masks or unmasks, in place, the password with its closing NUL as it is encrypted with the server's RSA key: XOR
/// with the challenge, over and over.
pub fn obfuscate(password: &mut [u8], challenge: &[u8]) {
    for (byte, mask) in password.iter_mut().zip(nonce(challenge).iter().cycle()) {
        *byte ^= mask;
    }
}

fn mask(cached: &[u8; LEN], challenge: &[u8]) -> [u8; LEN] {
    Sha256::new()
        .chain_update(cached)
        .chain_update(nonce(challenge))
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wrong_answers_are_refused() {
        let cached = cached(b"secret");
        let challenge = b"abcdefghijklmnopqrst";
        let right = answer(b"secret", challenge);
        assert!(verify(&right, challenge, &cached));
        assert!(!verify(&right, b"abcdefghijklmnopqrsT", &cached));
        assert!(!verify(&right[..31], challenge, &cached));
        assert!(!verify(b"", challenge, &cached));
        assert!(!verify(&cached, challenge, &cached));
    }

    #[test]
    fn a_masked_password_comes_back() {
        let mut text = b"a password longer than the challenge\0".to_vec();
        obfuscate(&mut text, b"abcdefghijklmnopqrst\0");
        assert_eq!((text[0], text[21]), (0, b'n' ^ b'b'));
        obfuscate(&mut text, b"abcdefghijklmnopqrst");
        assert_eq!(text, b"a password longer than the challenge\0");
        obfuscate(&mut text, b"");
        assert_eq!(text[0], b'a', "no challenge, no mask, no division by zero");
    }

    proptest! {
        #[test]
        fn an_answer_is_right_for_its_password_only(password: Vec<u8>, other: Vec<u8>, challenge: [u8; 20]) {
            let known = cached(&password);
            prop_assert!(verify(&answer(&password, &challenge), &challenge, &known));
            prop_assert_eq!(verify(&answer(&other, &challenge), &challenge, &known), password == other);
        }
    }
}
