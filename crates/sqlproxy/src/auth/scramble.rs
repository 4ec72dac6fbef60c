//! The arithmetic of the authentication plugins: what is sent for a challenge, and what can be told from it. Pure,
//! but for the random numbers of `parsec`.

use std::num::NonZeroU32;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512};
use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA512};
use aws_lc_rs::rand;
use aws_lc_rs::signature::Ed25519KeyPair;
use curve25519_dalek::scalar::clamp_integer;
use curve25519_dalek::{EdwardsPoint, Scalar};
use zeroize::Zeroizing;

/// SHA1 of parts, one after the other.
pub fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    hash(&SHA1_FOR_LEGACY_USE_ONLY, parts)
}

/// SHA256 of parts, one after the other.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    hash(&SHA256, parts)
}

fn sha512(parts: &[&[u8]]) -> Zeroizing<[u8; 64]> {
    Zeroizing::new(hash(&SHA512, parts))
}

fn hash<const N: usize>(algorithm: &'static aws_lc_rs::digest::Algorithm, parts: &[&[u8]]) -> [u8; N] {
    let mut context = Context::new(algorithm);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; N];
    let digest = context.finish();
    let len = N.min(digest.as_ref().len());
    out[..len].copy_from_slice(&digest.as_ref()[..len]);
    out
}

fn xor<const N: usize>(a: [u8; N], b: [u8; N]) -> [u8; N] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// `mysql_native_password` (MySQL: "Native Authentication"): `SHA1(password) XOR SHA1(nonce, SHA1(SHA1(password)))`,
/// of SHA1(password).
pub fn native_answer(nonce: &[u8], sha1_password: &[u8; 20]) -> [u8; 20] {
    let stored = sha1(&[sha1_password]);
    xor(*sha1_password, sha1(&[nonce, &stored]))
}

/// SHA1(password) out of a client's answer, when the answer is right for the stored hash.
pub fn native_recover(nonce: &[u8], stored: &[u8; 20], answer: &[u8]) -> Option<[u8; 20]> {
    let answer: [u8; 20] = answer.try_into().ok()?;
    let recovered = xor(answer, sha1(&[nonce, stored]));
    verify_slices_are_equal(&sha1(&[&recovered]), stored).ok()?;
    Some(recovered)
}

/// `caching_sha2_password`, fast (MySQL: "Caching_sha2_password information"): `SHA256(password) XOR
/// SHA256(SHA256(SHA256(password)), nonce)`.
pub fn sha2_answer(nonce: &[u8], password: &[u8]) -> [u8; 32] {
    let once = sha256(&[password]);
    xor(once, sha256(&[&sha256(&[&once]), nonce]))
}

/// Whether a fast answer is the password's.
pub fn sha2_verify(nonce: &[u8], password: &[u8], answer: &[u8]) -> bool {
    verify_slices_are_equal(&sha2_answer(nonce, password), answer).is_ok()
}

/// `client_ed25519` (MariaDB: "Authentication Plugin - ed25519"): an Ed25519 signature of the challenge, whose secret
/// scalar comes from SHA512 of the password itself (RFC 8032 section 5.1.5 takes 32 random bytes there).
pub fn ed25519_answer(nonce: &[u8], password: &[u8]) -> [u8; 64] {
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

/// Length of a `parsec` challenge, in bytes.
pub const PARSEC_NONCE: usize = 32;
/// `P`, the factor, and 18 bytes of salt.
const PARSEC_SALT: usize = 20;
/// The server's own limit for the factor: 1024 << 3 rounds.
const PARSEC_MAX_FACTOR: u8 = 3;

/// `parsec` (MariaDB: "Authentication Plugin - PARSEC"): an Ed25519 signature of both sides' nonces with a key that
/// PBKDF2 derives from the password. `salt` is what the server sends after its challenge; `None` when it is not one.
pub fn parsec_answer(nonce: &[u8], salt: &[u8], password: &[u8]) -> Option<Vec<u8>> {
    let mut own = [0; PARSEC_NONCE];
    rand::fill(&mut own).ok()?;
    parsec_answer_with(nonce, salt, password, &own)
}

fn parsec_answer_with(
    nonce: &[u8],
    salt: &[u8],
    password: &[u8],
    own: &[u8; PARSEC_NONCE],
) -> Option<Vec<u8>> {
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
    fn a_native_answer_gives_sha1_to_who_knows_the_stored_hash_and_to_nobody_else() {
        let (nonce, secret) = (b"abcdefghijklmnopqrst", sha1(&[b"pw"]));
        let stored = sha1(&[&secret]);
        // SELECT PASSWORD('pw') on a MariaDB 10.11.
        assert_eq!(stored[..4], [0xD8, 0x21, 0x80, 0x9F]);
        let answer = native_answer(nonce, &secret);
        assert_eq!(native_recover(nonce, &stored, &answer), Some(secret));
        assert_eq!(native_recover(b"abcdefghijklmnopqrsT", &stored, &answer), None);
        assert_eq!(native_recover(nonce, &sha1(&[b"other"]), &answer), None);
        assert_eq!(native_recover(nonce, &stored, &answer[..19]), None);
        assert_eq!(native_recover(nonce, &stored, b""), None);
    }

    #[test]
    fn a_sha2_answer_is_mysqls() {
        // The vector of MySQL's own client tests: password "G!der27".
        let nonce = b"\x4e\x52\x33\x48\x50\x3a\x71\x49\x59\x61\x5f\x39\x3d\x64\x62\x3f\x53\x64\x7b\x60";
        let wanted = b"\x4f\x97\xbb\xfd\x20\x24\x01\xc4\x2a\x69\xde\xaa\xe5\x3b\xda\x07\x7e\xd7\x57\x85\x63\xc1\xa8\x0e\xb8\x16\xc8\x21\x19\xb6\x8d\x2e";
        assert_eq!(&sha2_answer(nonce, b"G!der27"), wanted);
        assert!(sha2_verify(nonce, b"G!der27", wanted));
        assert!(!sha2_verify(nonce, b"G!der28", wanted) && !sha2_verify(nonce, b"G!der27", b""));
    }

    #[test]
    fn an_ed25519_answer_is_a_signature_under_the_stored_key() {
        // The public key that MariaDB stores for the password "secret" (its manual's example):
        // ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY.
        let public = [
            0x64, 0x88, 0x14, 0x44, 0x45, 0x20, 0xe4, 0xf5, 0x60, 0x43, 0xa2, 0xec, 0x92, 0x15, 0xe6, 0x3b,
            0xe7, 0x99, 0x2d, 0x2d, 0x27, 0x0b, 0xc6, 0xde, 0xe8, 0x73, 0xe3, 0x61, 0x64, 0x78, 0x60, 0x96,
        ];
        let nonce = [7; 32];
        let answer = ed25519_answer(&nonce, b"secret");
        UnparsedPublicKey::new(&ED25519, public)
            .verify(&nonce, &answer)
            .unwrap();
        let wrong = ed25519_answer(&nonce, b"Secret");
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
        let answer = parsec_answer(&nonce, &salt, b"pw").unwrap();
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
            assert_eq!(
                parsec_answer(nonce, salt, b"pw"),
                None,
                "a hostile server makes no work"
            );
        }
    }
}
