//! The key that signs the zone, as it lies on the disk and travels between agents, and how many signatures may be made
//! while somebody waits.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use pontoon_fleet::UnixMillis;
use pontoon_rt::files;

/// What the fleet's key follows from, and when it was made.
///
/// The same on all servers: of two the one that was made first counts, on whichever server they meet. So a server that
/// lost its disk and made another gets the one that the zone's parent points to again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ZoneKey {
    /// When it was made.
    pub made: UnixMillis,
    /// What [`Signer`](pontoon_zone::Signer) makes the key of.
    pub seed: [u8; 32],
}

/// Nothing of the seed.
impl fmt::Debug for ZoneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZoneKey").field("made", &self.made).finish()
    }
}

/// A text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("that is not the key of a zone")]
pub struct BadKey;

impl FromStr for ZoneKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<ZoneKey, BadKey> {
        let (made, hex) = text.trim_end().split_once(' ').ok_or(BadKey)?;
        if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(BadKey);
        }
        let mut seed = [0; 32];
        for (at, byte) in seed.iter_mut().enumerate() {
            let digits = hex.get(2 * at..2 * at + 2).ok_or(BadKey)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| BadKey)?;
        }
        let made = UnixMillis(made.parse().map_err(|_| BadKey)?);
        Ok(ZoneKey { made, seed })
    }
}

impl ZoneKey {
    /// As it lies in its file. Not [`Display`](fmt::Display): nobody shall print it without meaning to.
    pub fn to_text(&self) -> String {
        let mut text = format!("{} ", self.made.0);
        for byte in self.seed {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
        text
    }

    /// Reads it; `None` when there is no file.
    ///
    /// # Errors
    /// Why the file cannot be read, or that it holds no key.
    pub fn load(path: &Path) -> Result<Option<ZoneKey>, String> {
        let wrong = |reason: String| format!("{}: {reason}", path.display());
        let bytes = files::read_limited(path, MAX_FILE).map_err(|error| wrong(error.to_string()))?;
        let text = bytes.map(String::from_utf8).transpose();
        let text = text.map_err(|_| wrong(BadKey.to_string()))?;
        text.map(|text| text.parse().map_err(|error: BadKey| wrong(error.to_string())))
            .transpose()
    }
}

const MAX_FILE: u64 = 4096;

/// Signatures in a second that are made for single answers. Each takes about a tenth of a millisecond of a core: a flood
/// of names that do not exist takes a fifth of one core at most, and all that is signed beforehand is answered as ever.
#[derive(Debug)]
pub(crate) struct Budget {
    per_second: u32,
    /// The second (upper half) and what was made in it.
    spent: AtomicU64,
}

impl Budget {
    pub(crate) fn new(per_second: u32) -> Budget {
        Budget {
            per_second,
            spent: AtomicU64::new(0),
        }
    }

    /// Whether there is something left in the second `now`.
    pub(crate) fn is_left(&self, now: u32) -> bool {
        let spent = self.spent.load(Ordering::Relaxed);
        spent >> 32 != u64::from(now) || (spent as u32) < self.per_second
    }

    /// Counts what was made. Threads that count at once may lose some: the limit need not be exact.
    pub(crate) fn spend(&self, now: u32, signatures: u32) {
        if signatures == 0 {
            return;
        }
        let before = self.spent.load(Ordering::Relaxed);
        let spent = match before >> 32 == u64::from(now) {
            true => before as u32,
            false => 0,
        };
        let after = u64::from(now) << 32 | u64::from(spent.saturating_add(signatures));
        self.spent.store(after, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_and_read_and_the_older_counts() {
        let key = ZoneKey {
            made: UnixMillis(17),
            seed: [0xA5; 32],
        };
        assert_eq!(key.to_text().parse(), Ok(key.clone()));
        assert!(!format!("{key:?}").contains("165"), "no secret in a log");
        for bad in [
            String::new(),
            "17".to_owned(),
            format!("17 {}", "a5".repeat(31)),
            format!("x {}", "a5".repeat(32)),
            format!("17 {}", "é".repeat(32)),
            format!("17 {}", "+1".repeat(32)),
        ] {
            assert_eq!(bad.parse::<ZoneKey>(), Err(BadKey), "{bad}");
        }
        let later = ZoneKey {
            made: UnixMillis(18),
            seed: [0; 32],
        };
        assert!(key < later);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dnssec.key");
        assert_eq!(ZoneKey::load(&path), Ok(None));
        std::fs::write(&path, key.to_text()).unwrap();
        assert_eq!(ZoneKey::load(&path), Ok(Some(key)));
        std::fs::write(&path, "nonsense").unwrap();
        assert!(ZoneKey::load(&path).unwrap_err().contains("dnssec.key"));
    }

    #[test]
    fn a_second_has_so_many_signatures() {
        let budget = Budget::new(3);
        for (now, left) in [
            (7, [true, true, true, false, false]),
            (8, [true, true, true, false, false]),
        ] {
            for left in left {
                assert_eq!(budget.is_left(now), left);
                budget.spend(now, 1);
            }
        }
        budget.spend(9, 0);
        assert!(!budget.is_left(8), "nothing was made in the ninth");
    }
}
