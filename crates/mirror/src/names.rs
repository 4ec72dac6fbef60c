//! Which paths are mirrored. A path is a file's key too, on every server and in the bucket, so it must be one everywhere.

use std::fmt;

/// What is Pontoon's own in the folder: never mirrored, never served.
pub const OWN: &str = ".pontoon";

/// The most bytes of an object's key (Amazon S3 User Guide, "Naming Amazon S3 objects").
pub const KEY_BYTES: usize = 1024;

/// The most bytes of one name (`NAME_MAX`, limits.h).
const NAME_BYTES: usize = 255;

/// Why a file is not mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unfit {
    /// Not UTF-8: a key is text.
    NotText,
    /// Longer than a key may be.
    TooLong,
    /// A control character, NUL among them.
    Control,
    /// `.`, `..`, nothing between two slashes, or a slash at an end.
    Segment,
    /// In Pontoon's own folder.
    Own,
    /// A symbolic link: what it names may be anywhere.
    Link,
    /// A FIFO, a socket or a device: reading it could wait for ever, or read something else.
    Special,
    /// It cannot be read.
    Unreadable,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unfit::NotText => "its name is not UTF-8",
            Unfit::TooLong => "its path is over 1024 bytes",
            Unfit::Control => "its name has a control character",
            Unfit::Segment => "its path has a part that is no name",
            Unfit::Own => "it is in Pontoon's own folder",
            Unfit::Link => "it is a symbolic link",
            Unfit::Special => "it is a FIFO, a socket or a device",
            Unfit::Unreadable => "it cannot be read",
        })
    }
}

/// Whether `path`, relative to the folder, may be mirrored.
///
/// # Errors
/// Why not. What comes from other servers is checked with the same function, so that nothing is ever written outside.
pub fn check(path: &str) -> Result<(), Unfit> {
    if path.len() > KEY_BYTES {
        return Err(Unfit::TooLong);
    }
    if path.chars().any(char::is_control) {
        return Err(Unfit::Control);
    }
    if path.split('/').next() == Some(OWN) {
        return Err(Unfit::Own);
    }
    for name in path.split('/') {
        if name.is_empty() || name == "." || name == ".." {
            return Err(Unfit::Segment);
        }
        if name.len() > NAME_BYTES {
            return Err(Unfit::TooLong);
        }
    }
    Ok(())
}

/// As [`check`], of bytes as a file system has them.
///
/// # Errors
/// Why not.
pub fn check_bytes(path: &[u8]) -> Result<&str, Unfit> {
    let path = std::str::from_utf8(path).map_err(|_| Unfit::NotText)?;
    check(path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_refused() {
        for path in [
            "a",
            "a/b",
            "2026/11/é ü.jpg",
            "..a/b..",
            "a/.pontoon",
            "a b/%2e%2e",
        ] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
        for (path, why) in [
            ("", Unfit::Segment),
            ("/etc/passwd", Unfit::Segment),
            ("../a", Unfit::Segment),
            ("a/../../b", Unfit::Segment),
            ("a/./b", Unfit::Segment),
            ("a//b", Unfit::Segment),
            ("a/", Unfit::Segment),
            ("a\0b", Unfit::Control),
            ("a\nb", Unfit::Control),
            ("a\u{85}b", Unfit::Control),
            (".pontoon/trash/x", Unfit::Own),
        ] {
            assert_eq!(check(path), Err(why), "{path:?}");
        }
        assert_eq!(check(&"a/".repeat(600)), Err(Unfit::TooLong));
        assert_eq!(check(&"a".repeat(256)), Err(Unfit::TooLong));
        assert_eq!(check_bytes(b"a\xff"), Err(Unfit::NotText));
    }
}
