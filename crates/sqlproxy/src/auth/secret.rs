//! What proves to a database who a client is.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use pontoon_mysql_wire::auth::native;
use zeroize::{Zeroize, Zeroizing};

/// A client's secret as the proxy came to know it. Overwritten when dropped, and never shown.
#[derive(Clone)]
pub enum Secret {
    /// No password.
    Empty,
    /// SHA1 of the password: what `mysql_native_password` gives away to who knows the stored hash. Of use for that
    /// plugin only.
    Sha1([u8; 20]),
    /// The password.
    Plain(Zeroizing<Vec<u8>>),
}

impl Secret {
    /// A password, which may be empty.
    pub fn password(bytes: &[u8]) -> Secret {
        if bytes.is_empty() {
            Secret::Empty
        } else {
            Secret::Plain(Zeroizing::new(bytes.to_vec()))
        }
    }

    /// SHA1 of the password; `None` for an account that has none.
    pub fn sha1(&self) -> Option<[u8; 20]> {
        match self {
            Secret::Empty => None,
            Secret::Sha1(hash) => Some(*hash),
            Secret::Plain(password) => Some(native::hash(password)),
        }
    }

    /// A number that two secrets share only when they are equal: for telling apart the connections that were logged
    /// in with one secret from those of another. It stays in this process: it is a fast hash of a password.
    pub fn fingerprint(&self) -> [u8; 32] {
        let (kind, bytes): (u8, &[u8]) = match self {
            Secret::Empty => (0, &[]),
            Secret::Sha1(hash) => (1, hash),
            Secret::Plain(password) => (2, password),
        };
        let mut text = Zeroizing::new(vec![kind]);
        text.extend_from_slice(bytes);
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, &text).as_ref());
        out
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        if let Secret::Sha1(hash) = self {
            hash.zeroize();
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Secret::Empty => "Secret::Empty",
            Secret::Sha1(_) => "Secret::Sha1(…)",
            Secret::Plain(_) => "Secret::Plain(…)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        for secret in [
            Secret::password(b"geheim"),
            Secret::Sha1([103; 20]),
            Secret::Empty,
        ] {
            let shown = format!("{secret:?}");
            assert!(!shown.contains("geheim") && !shown.contains("103"), "{shown}");
        }
    }

    #[test]
    fn fingerprints_tell_secrets_apart() {
        let plain = Secret::password(b"a");
        assert_eq!(plain.fingerprint(), Secret::password(b"a").fingerprint());
        assert_ne!(plain.fingerprint(), Secret::password(b"b").fingerprint());
        let hash = plain.sha1().unwrap();
        assert_ne!(
            Secret::Sha1(hash).fingerprint(),
            Secret::password(&hash).fingerprint()
        );
        assert_eq!(Secret::Sha1(hash).sha1(), Some(hash));
        assert_eq!(Secret::Empty.sha1(), None);
    }
}
