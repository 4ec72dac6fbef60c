//! Private keys, made here and never shown.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use pontoon_fleet::{Code, Refusal, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::book::Account;

/// A private key, PKCS#8 in base64. Shown to nobody.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// Of a key in PKCS#8.
    pub fn of_der(der: &[u8]) -> Secret {
        Secret(BASE64_STANDARD.encode(der))
    }

    /// PKCS#8; `None` when what was read is not base64.
    pub fn der(&self) -> Option<Vec<u8>> {
        BASE64_STANDARD.decode(&self.0).ok()
    }

    /// As TLS servers read it.
    pub fn pem(&self) -> String {
        let mut text = String::from("-----BEGIN PRIVATE KEY-----\n");
        // RFC 7468 section 2: lines of 64 characters.
        for line in self.0.as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text + "-----END PRIVATE KEY-----\n"
    }
}

/// A key for the fleet's accounts with authorities: ECDSA on P-256, which every authority takes (RFC 8555 section 6.2).
///
/// # Errors
/// N006 when the system gives no random numbers.
pub fn account_key(now: UnixMillis) -> Result<Account, Refusal> {
    let (pair, der) = generate()?;
    let broken = || Refusal::new(Code::N006, "a new key has no public half");
    // Uncompressed: a byte that says so, then 32 bytes of each coordinate (SEC 1 section 2.3.3).
    let (_, point) = pair.public_key().as_ref().split_first().ok_or_else(broken)?;
    let (x, y) = point.split_at_checked(32).ok_or_else(broken)?;
    let text = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(part);
    // RFC 7638 section 3: these members in this order, no blanks.
    let public = format!(
        r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
        text(x),
        text(y)
    );
    Ok(Account {
        made: now,
        thumbprint: text(digest::digest(&digest::SHA256, public.as_bytes()).as_ref()),
        key: Some(Secret::of_der(&der)),
    })
}

/// A key for one certificate.
///
/// # Errors
/// As [`account_key`].
pub fn certificate_key() -> Result<Secret, Refusal> {
    generate().map(|(_, der)| Secret::of_der(&der))
}

fn generate() -> Result<(EcdsaKeyPair, Vec<u8>), Refusal> {
    let none = |_| Refusal::new(Code::N006, "the system gives no random numbers");
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(none)?;
    let der = pair.to_pkcs8v1().map_err(none)?;
    Ok((pair, der.as_ref().to_vec()))
}
