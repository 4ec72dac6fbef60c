//! RSA for `caching_sha2_password` over plain TCP: the password, XORed with the challenge, goes encrypted under the
//! server's key (MySQL: "Caching_sha2_password information"; PKCS #1 OAEP with SHA1, RFC 8017 section 7.1).

use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
    PublicEncryptingKey,
};
use pontoon_mysql_wire::auth::sha2;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

/// The password with its closing NUL, XORed with the challenge and encrypted under the key of a database. `None` for
/// a key that is none, or is too short for the password.
pub fn encrypt(pem: &[u8], nonce: &[u8], password: &[u8]) -> Option<Vec<u8>> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
    let key = PublicEncryptingKey::from_der(&der).ok()?;
    let key = OaepPublicEncryptingKey::new(key).ok()?;
    let mut text = Zeroizing::new(password.to_vec());
    text.push(0);
    sha2::obfuscate(&mut text, nonce);
    let mut out = vec![0; key.ciphertext_size()];
    let len = key
        .encrypt(&OAEP_SHA1_MGF1SHA1, &text, &mut out, None)
        .ok()?
        .len();
    out.truncate(len);
    Some(out)
}

/// The proxy's own key pair, made when the first client asks for it: making one takes a tenth of a second.
#[derive(Debug, Default)]
pub struct OwnKey(OnceLock<Option<Pair>>);

#[derive(Debug)]
struct Pair {
    private: OaepPrivateDecryptingKey,
    pem: Vec<u8>,
}

impl OwnKey {
    fn pair(&self) -> Option<&Pair> {
        self.0.get_or_init(|| Pair::generate().ok()).as_ref()
    }

    /// The public key as a client wants it; blocks for as long as it takes to make one.
    pub fn public_pem(&self) -> Option<&[u8]> {
        Some(&self.pair()?.pem)
    }

    /// The password that a client encrypted, without its closing NUL.
    pub fn decrypt(&self, nonce: &[u8], ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let private = &self.pair()?.private;
        let mut buffer = Zeroizing::new(vec![0; private.min_output_size()]);
        let len = private
            .decrypt(&OAEP_SHA1_MGF1SHA1, ciphertext, &mut buffer, None)
            .ok()?
            .len();
        buffer.truncate(len);
        sha2::obfuscate(&mut buffer, nonce);
        (buffer.pop() == Some(0)).then_some(buffer)
    }
}

impl Pair {
    fn generate() -> Result<Pair, aws_lc_rs::error::Unspecified> {
        let key = PrivateDecryptingKey::generate(KeySize::Rsa2048)?;
        let der: PublicKeyX509Der<'_> = key.public_key().as_der()?;
        let pem = pontoon_pki::pem("PUBLIC KEY", der.as_ref()).into_bytes();
        Ok(Pair {
            private: OaepPrivateDecryptingKey::new(key)?,
            pem,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encrypted_under_our_key_comes_back() {
        let key = OwnKey::default();
        let nonce = b"abcdefghijklmnopqrst";
        for password in [&b"pw"[..], b"", &[b'x'; 200]] {
            let sent = encrypt(key.public_pem().unwrap(), nonce, password).unwrap();
            assert_eq!(sent.len(), 256);
            assert_eq!(key.decrypt(nonce, &sent).unwrap().as_slice(), password);
        }
        assert!(
            encrypt(key.public_pem().unwrap(), nonce, &[b'x'; 300]).is_none(),
            "too long"
        );
        let sent = encrypt(key.public_pem().unwrap(), nonce, b"pw").unwrap();
        assert!(
            key.decrypt(b"tsrqponmlkjihgfedcba", &sent).is_none(),
            "another challenge"
        );
        assert!(key.decrypt(nonce, &sent[..255]).is_none() && key.decrypt(nonce, b"").is_none());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for pem in [
            &b""[..],
            b"hello",
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        ] {
            assert!(encrypt(pem, b"nonce", b"pw").is_none());
        }
    }
}
