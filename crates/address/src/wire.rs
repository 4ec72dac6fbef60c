//! Heartbeats on the wire: one UDP datagram each, signed with the fleet's key.
//!
//! `PNA1`, HMAC-SHA256 of what follows (RFC 2104), then the beat as JSON. What is not signed is not read. A recorded
//! datagram that is sent again is older than what is known of that boot, and proves nothing: a proof of hearing names
//! the receiver's own boot and number.

use std::path::Path;

use aws_lc_rs::hmac;
use pontoon_decide::address::Beat;
use pontoon_rt::files;

/// The fleet's key for addresses.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key([u8; KEY]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// The key in `path`; `None` while there is none.
    pub(crate) fn load(path: &Path) -> Option<Key> {
        let bytes = files::read_limited(path, 4096).ok()??;
        Some(Key(bytes.try_into().ok()?))
    }

    /// The datagram of a beat.
    pub(crate) fn seal(&self, beat: &Beat) -> Vec<u8> {
        // A beat is text and numbers: it can always be written.
        let body = serde_json::to_vec(beat).unwrap_or_default();
        let tag = hmac::sign(&self.hmac(), &body);
        [MAGIC, tag.as_ref(), &body].concat()
    }

    /// The beat of a datagram; `None` when it is not signed with this key, or is not a beat.
    pub(crate) fn open(&self, datagram: &[u8]) -> Option<Beat> {
        let rest = datagram.strip_prefix(MAGIC)?;
        let (tag, body) = rest.split_at_checked(TAG)?;
        hmac::verify(&self.hmac(), body, tag).ok()?;
        serde_json::from_slice(body).ok()
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

/// The largest datagram that is read: a beat of 50 servers is about 8 KiB.
pub(crate) const MAX_DATAGRAM: usize = 64 * 1024;

const MAGIC: &[u8] = b"PNA1";
const TAG: usize = 32;
const KEY: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn beat() -> Beat {
        Beat {
            from: "a".parse().unwrap(),
            boot: u64::MAX,
            seq: 7,
            fit: true,
            settling: false,
            ask: false,
            heard: Vec::new(),
            shares: Vec::new(),
        }
    }

    #[test]
    fn a_datagram_reads_back_and_no_other_does() {
        let (key, other) = (Key([1; KEY]), Key([2; KEY]));
        let sealed = key.seal(&beat());
        assert_eq!(key.open(&sealed), Some(beat()));
        assert_eq!(other.open(&sealed), None);
        for cut in 0..sealed.len() {
            assert_eq!(key.open(&sealed[..cut]), None, "{cut}");
        }
        for at in 0..sealed.len() {
            let mut wrong = sealed.clone();
            wrong[at] ^= 1;
            assert_eq!(key.open(&wrong), None, "{at}");
        }
        let mut longer = sealed.clone();
        longer.push(b' ');
        assert_eq!(key.open(&longer), None);
    }

    #[test]
    fn signed_nonsense_is_not_a_beat() {
        let key = Key([1; KEY]);
        for body in [&b""[..], b"{}", b"null", b"{\"from\":\"../a\"}", &[0xff; 40]] {
            let tag = hmac::sign(&key.hmac(), body);
            assert_eq!(key.open(&[MAGIC, tag.as_ref(), body].concat()), None);
        }
    }

    #[test]
    fn a_key_of_the_wrong_length_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("address.key");
        assert_eq!(Key::load(&path), None);
        for (length, good) in [(0, false), (31, false), (32, true), (33, false), (5000, false)] {
            std::fs::write(&path, vec![7; length]).unwrap();
            assert_eq!(Key::load(&path).is_some(), good, "{length}");
        }
    }
}
