//! Domain names in wire form.

use std::fmt;
use std::str::FromStr;

use domain::base::name::Name as ParsedName;

/// An absolute domain name in wire form (RFC 1035 section 3.1), in lower case: names are compared without regard to
/// case (RFC 4343).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

/// A text that is no domain name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a domain name: {reason}")]
pub struct BadName {
    text: String,
    reason: String,
}

/// The longest name, in bytes of its wire form.
pub(crate) const MAX: usize = 255;

impl Name {
    /// Takes a whole name in wire form; `None` when it is not exactly one.
    pub fn from_wire(wire: &[u8]) -> Option<Name> {
        (length(wire)? == wire.len()).then(|| Name(wire.to_ascii_lowercase().into()))
    }

    /// The name in wire form.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is `apex` or a name below it.
    pub fn is_in(&self, apex: &Name) -> bool {
        is_in(&self.0, &apex.0)
    }

    /// The name without its first label; `None` for the root.
    pub fn parent(&self) -> Option<Name> {
        parent(&self.0).map(|parent| Name(parent.into()))
    }

    /// `*.` and this name; `None` when that would be too long.
    pub fn wildcard(&self) -> Option<Name> {
        self.child(b"*")
    }

    /// `label.` and this name; `None` when that would be too long.
    pub fn child(&self, label: &[u8]) -> Option<Name> {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..=63).contains(length))?;
        let wire: Vec<u8> = [&[length], label, &self.0].concat();
        (wire.len() <= MAX).then(|| Name(wire.to_ascii_lowercase().into()))
    }

    /// Whether its first label is `*`.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with(b"\x01*")
    }
}

impl FromStr for Name {
    type Err = BadName;

    /// `example.com` and `example.com.` are the same: names are absolute here.
    fn from_str(text: &str) -> Result<Name, BadName> {
        let bad = |reason: String| BadName {
            text: text.to_owned(),
            reason,
        };
        let name = ParsedName::<Vec<u8>>::from_str(text).map_err(|error| bad(error.to_string()))?;
        // The parser lets some through that are a little longer than a name may be.
        Name::from_wire(name.as_slice()).ok_or_else(|| bad("longer than 255 bytes".to_owned()))
    }
}

impl fmt::Display for Name {
    /// Without the dot at the end, except for the root.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() <= 1 {
            return f.write_str(".");
        }
        let (mut rest, mut first) = (&self.0[..], true);
        while let Some((label, after)) = split(rest) {
            if !first {
                f.write_str(".")?;
            }
            first = false;
            for byte in label {
                match byte {
                    b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'$' => {
                        write!(f, "\\{}", char::from(*byte))?;
                    }
                    0x21..=0x7E => write!(f, "{}", char::from(*byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            rest = after;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first label and what follows it; `None` at the root.
fn split(wire: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = wire.split_first()?;
    (length > 0 && rest.len() > usize::from(length)).then(|| rest.split_at(usize::from(length)))
}

/// A name without its first label; `None` for the root.
pub(crate) fn parent(wire: &[u8]) -> Option<&[u8]> {
    split(wire).map(|(_, rest)| rest)
}

/// Whether `wire` is `apex` or below it. Both are in lower case.
pub(crate) fn is_in(wire: &[u8], apex: &[u8]) -> bool {
    let mut rest = Some(wire);
    while let Some(name) = rest {
        if name.len() <= apex.len() {
            return name == apex;
        }
        rest = parent(name);
    }
    false
}

/// How long the uncompressed name is that `bytes` begins with; `None` when there is none.
pub(crate) fn length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let label = usize::from(*bytes.get(at)?);
        at += 1 + label;
        if label > 63 || at > MAX {
            return None;
        }
        if label == 0 {
            return Some(at);
        }
    }
}

/// A name on its own memory: the target of an alias.
pub(crate) struct Target {
    wire: [u8; MAX],
    length: usize,
}

impl Target {
    pub(crate) fn new(head: &[u8], tail: &[u8]) -> Option<Target> {
        let mut wire = [0; MAX];
        let length = head.len() + tail.len();
        wire.get_mut(..head.len())?.copy_from_slice(head);
        wire.get_mut(head.len()..length)?.copy_from_slice(tail);
        wire[..length].make_ascii_lowercase();
        Some(Target { wire, length })
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.wire[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_and_printed() {
        for (text, shown) in [
            ("Www.Example.COM.", "www.example.com"),
            ("example.com", "example.com"),
            (".", "."),
            (r"a\.b.example", r"a\.b.example"),
            (r"\007.example", r"\007.example"),
            ("*.example", "*.example"),
        ] {
            let name: Name = text.parse().unwrap();
            assert_eq!(name.to_string(), shown);
            assert_eq!(name.to_string().parse::<Name>().unwrap(), name);
            assert_eq!(Name::from_wire(name.wire()), Some(name));
        }
        for bad in [
            "",
            "a..b",
            &"a".repeat(64),
            &[&"a".repeat(63)[..]; 4].join("."),
            r"\256.a",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_name_is_longer_than_its_wire_form_may_be() {
        for last in 1..=63 {
            for dot in ["", "."] {
                let text = format!(
                    "{}{}{dot}",
                    format!("{}.", "a".repeat(62)).repeat(3),
                    "a".repeat(last)
                );
                let wire = 3 * 63 + 1 + last + 1;
                assert_eq!(text.parse::<Name>().is_ok(), wire <= MAX, "{wire}");
                // With one more label behind, whichever way the end is reached.
                let more = format!("{}.z{dot}", text.trim_end_matches('.'));
                assert_eq!(more.parse::<Name>().is_ok(), wire + 2 <= MAX, "{}", wire + 2);
            }
        }
    }

    #[test]
    fn below_means_by_whole_labels() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let apex = name("example.com");
        for inside in ["example.com", "a.example.com", "a.b.EXAMPLE.com"] {
            assert!(name(inside).is_in(&apex), "{inside}");
        }
        for outside in ["com", "xample.com", "aexample.com", "example.com.net", "."] {
            assert!(!name(outside).is_in(&apex), "{outside}");
        }
        assert!(name("com").is_in(&name(".")));
    }

    #[test]
    fn a_wire_that_is_no_name_is_refused() {
        for bad in [
            &b""[..],
            b"\x01",
            b"\x01a",
            b"\x40",
            b"\xc0\x0c",
            b"\x00\x00",
            b"\x03ab\x00",
        ] {
            assert_eq!(Name::from_wire(bad), None, "{bad:?}");
        }
        let long: Vec<u8> = std::iter::repeat_n(*b"\x01a", 128).flatten().chain([0]).collect();
        assert_eq!(length(&long), None);
        assert_eq!(length(&long[4..]), Some(253));
    }
}
