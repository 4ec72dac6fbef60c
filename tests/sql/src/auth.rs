//! What a client computes to log in: the scrambles of the two plugins that every supported server has.

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

/// The answer of `plugin` to `challenge`; `None` for a plugin that this client does not know. No password is no bytes.
pub fn response(plugin: &[u8], password: &[u8], challenge: &[u8]) -> Option<Vec<u8>> {
    let answer = match plugin {
        b"mysql_native_password" => native(password, challenge),
        b"caching_sha2_password" => sha2(password, challenge),
        // MySQL asks for it in the name of users that it does not know. This asks for the public key.
        b"sha256_password" => vec![1],
        _ => return None,
    };
    Some(if password.is_empty() { Vec::new() } else { answer })
}

/// `SHA1(pw) XOR SHA1(challenge, SHA1(SHA1(pw)))`.
fn native(password: &[u8], challenge: &[u8]) -> Vec<u8> {
    let once = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[password]);
    let twice = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[&once]);
    xor(&once, &hash(&SHA1_FOR_LEGACY_USE_ONLY, &[challenge, &twice]))
}

/// `SHA256(pw) XOR SHA256(SHA256(SHA256(pw)), challenge)`.
fn sha2(password: &[u8], challenge: &[u8]) -> Vec<u8> {
    let once = hash(&SHA256, &[password]);
    let twice = hash(&SHA256, &[&once]);
    xor(&once, &hash(&SHA256, &[&twice, challenge]))
}

/// The password for a server that gave its public key, as over plain TCP; `None` when that is not a key.
pub fn sealed(password: &[u8], challenge: &[u8], pem: &[u8]) -> Option<Vec<u8>> {
    let key = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
    let key = PublicEncryptingKey::from_der(&key).ok()?;
    let key = OaepPublicEncryptingKey::new(key).ok()?;
    let mut plain = password.to_vec();
    plain.push(0);
    let masked: Vec<u8> = plain
        .iter()
        .zip(challenge.iter().cycle())
        .map(|(a, b)| a ^ b)
        .collect();
    let mut out = vec![0; key.ciphertext_size()];
    let sealed = key.encrypt(&OAEP_SHA1_MGF1SHA1, &masked, &mut out, None).ok()?;
    Some(sealed.to_vec())
}

fn hash(algorithm: &'static Algorithm, parts: &[&[u8]]) -> Vec<u8> {
    digest(algorithm, &parts.concat()).as_ref().to_vec()
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_keeps_the_double_hash_accepts_the_native_answer() {
        let (password, challenge) = (b"secret", b"abcdefghijklmnopqrst");
        let answer = response(b"mysql_native_password", password, challenge).unwrap();
        let kept = hash(
            &SHA1_FOR_LEGACY_USE_ONLY,
            &[&hash(&SHA1_FOR_LEGACY_USE_ONLY, &[password])],
        );
        let once = xor(&answer, &hash(&SHA1_FOR_LEGACY_USE_ONLY, &[challenge, &kept]));
        assert_eq!(hash(&SHA1_FOR_LEGACY_USE_ONLY, &[&once]), kept);
    }

    #[test]
    fn no_password_is_no_answer_and_an_unknown_plugin_none() {
        assert_eq!(response(b"caching_sha2_password", b"", b"x"), Some(Vec::new()));
        assert_eq!(response(b"dialog", b"pw", b"x"), None);
    }
}
