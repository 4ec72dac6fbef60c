//! What MariaDB's plugins with signatures send for a challenge. Pure, but for the random numbers of `parsec`.

use std::num::NonZeroU32;

use aws_lc_rs::digest::{Context, SHA512};
use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA512};
use aws_lc_rs::rand;
use aws_lc_rs::signature::Ed25519KeyPair;
use curve25519_dalek::scalar::clamp_integer;
use curve25519_dalek::{EdwardsPoint, Scalar};
use pontoon_mysql_wire::auth::SIGNED_CHALLENGE_LEN;
use zeroize::Zeroizing;

fn sha512(parts: &[&[u8]]) -> Zeroizing<[u8; 64]> {
    let mut context = Context::new(&SHA512);
    for part in parts {
        context.update(part);
    }
    let mut out = Zeroizing::new([0; 64]);
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// `client_ed25519` (MariaDB: "Authentication Plugin - ed25519"): an Ed25519 signature of the challenge, whose secret
/// scalar comes from SHA512 of the password itself (RFC 8032 section 5.1.5 takes 32 random bytes there).
pub fn ed25519(nonce: &[u8], password: &[u8]) -> [u8; 64] {
    let hashed = sha512(&[password]);
    let (secret, prefix) = halves(&hashed);
    let secret = Zeroizing::new(Scalar::from_bytes_mod_order(clamp_integer(secret)));
    let public = EdwardsPoint::mul_base(&secret).compress();
    let r = Zeroizing::new(Scalar::from_bytes_mod_order_wide(&sha512(&[&prefix, nonce])));
    let point = EdwardsPoint::mul_base(&r).compress();
    let k = Scalar::from_bytes_mod_order_wide(&sha512(&[point.as_bytes(), public.as_bytes(), nonce]));
    let s = k * *secret + *r;
    let mut out = [0; 64];
    out[..32].copy_from_slice(point.as_bytes());
    out[32..].copy_from_slice(s.as_bytes());
    out
}

fn halves(bytes: &[u8; 64]) -> ([u8; 32], [u8; 32]) {
    (
        std::array::from_fn(|i| bytes[i]),
        std::array::from_fn(|i| bytes[i + 32]),
    )
}

/// Length of a `parsec` challenge of either side, in bytes.
const PARSEC_NONCE: usize = SIGNED_CHALLENGE_LEN;
/// `P`, the factor, and 18 bytes of salt.
const PARSEC_SALT: usize = 20;
/// The server's own limit for the factor: 1024 << 3 rounds.
const PARSEC_MAX_FACTOR: u8 = 3;

/// `parsec` (MariaDB: "Authentication Plugin - PARSEC"): an Ed25519 signature of both sides' nonces with a key that
/// PBKDF2 derives from the password. `salt` is what the server sends after its challenge; `None` when it is not one.
pub fn parsec(nonce: &[u8], salt: &[u8], password: &[u8]) -> Option<Vec<u8>> {
    let mut own = [0; PARSEC_NONCE];
    rand::fill(&mut own).ok()?;
    parsec_with(nonce, salt, password, &own)
}

fn parsec_with(nonce: &[u8], salt: &[u8], password: &[u8], own: &[u8; PARSEC_NONCE]) -> Option<Vec<u8>> {
    let salt: &[u8; PARSEC_SALT] = salt.try_into().ok()?;
    if nonce.len() != PARSEC_NONCE || salt[0] != b'P' || salt[1] > PARSEC_MAX_FACTOR {
        return None;
    }
    let rounds = NonZeroU32::new(1024 << salt[1])?;
    let mut seed = Zeroizing::new([0; 32]);
    pbkdf2::derive(PBKDF2_HMAC_SHA512, rounds, &salt[2..], password, &mut *seed);
    let key = Ed25519KeyPair::from_seed_unchecked(&*seed).ok()?;
    let mut message = nonce.to_vec();
    message.extend_from_slice(own);
    let signature = key.sign(&message);
    let mut out = own.to_vec();
    out.extend_from_slice(signature.as_ref());
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ED25519, KeyPair, UnparsedPublicKey};

    #[test]
    fn an_ed25519_answer_is_a_signature_under_the_stored_key() {
        // The public key that MariaDB stores for the password "secret" (its manual's example):
        // ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY.
        let public = [
            0x64, 0x88, 0x14, 0x44, 0x45, 0x20, 0xe4, 0xf5, 0x60, 0x43, 0xa2, 0xec, 0x92, 0x15, 0xe6, 0x3b,
            0xe7, 0x99, 0x2d, 0x2d, 0x27, 0x0b, 0xc6, 0xde, 0xe8, 0x73, 0xe3, 0x61, 0x64, 0x78, 0x60, 0x96,
        ];
        let nonce = [7; 32];
        let answer = ed25519(&nonce, b"secret");
        UnparsedPublicKey::new(&ED25519, public)
            .verify(&nonce, &answer)
            .unwrap();
        let wrong = ed25519(&nonce, b"Secret");
        assert!(
            UnparsedPublicKey::new(&ED25519, public)
                .verify(&nonce, &wrong)
                .is_err()
        );
    }

    #[test]
    fn a_parsec_answer_signs_both_nonces() {
        let mut salt = [9; PARSEC_SALT];
        salt[..2].copy_from_slice(b"P\x01");
        let nonce = [1; PARSEC_NONCE];
        let answer = parsec(&nonce, &salt, b"pw").unwrap();
        let mut seed = [0; 32];
        pbkdf2::derive(
            PBKDF2_HMAC_SHA512,
            NonZeroU32::new(2048).unwrap(),
            &[9; 18],
            b"pw",
            &mut seed,
        );
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let mut message = nonce.to_vec();
        message.extend_from_slice(&answer[..32]);
        UnparsedPublicKey::new(&ED25519, key.public_key().as_ref())
            .verify(&message, &answer[32..])
            .unwrap();
        for (nonce, salt) in [
            (&nonce[..31], &salt[..]),
            (&nonce[..], &salt[..19]),
            (&nonce[..], &[b'Q'; 20]),
            (&nonce[..], &[b'P'; 20]),
            (&nonce[..], b""),
        ] {
            assert_eq!(parsec(nonce, salt, b"pw"), None, "a hostile server makes no work");
        }
    }
}
