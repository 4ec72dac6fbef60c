//! `Cache-Control` (RFC 9111 section 5.2).

use crate::http1::syntax;

/// What a message says of how long, and whether, it may be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// It was there at all.
    pub said: bool,
    pub no_store: bool,
    /// With fields or without: what may be kept of an answer without some fields is not worth the doubt.
    pub no_cache: bool,
    pub private: bool,
    pub only_if_cached: bool,
    /// What is over is never shown (sections 5.2.2.2, 5.2.2.8 and 5.2.2.10).
    pub must_revalidate: bool,
    /// Seconds.
    pub max_age: Option<u64>,
    /// Seconds.
    pub s_maxage: Option<u64>,
    /// Seconds.
    pub min_fresh: Option<u64>,
    /// Seconds (RFC 5861 section 3).
    pub stale_while_revalidate: Option<u64>,
    /// Seconds (RFC 5861 section 4).
    pub stale_if_error: Option<u64>,
}

impl Directives {
    /// Adds those of one field.
    pub fn read(&mut self, value: &[u8]) {
        self.said = true;
        for directive in split(value) {
            let (name, value) = match directive.iter().position(|byte| *byte == b'=') {
                Some(at) => (&directive[..at], Some(&directive[at + 1..])),
                None => (directive, None),
            };
            match name.trim_ascii().to_ascii_lowercase().as_slice() {
                b"no-store" => self.no_store = true,
                b"no-cache" => self.no_cache = true,
                b"private" => self.private = true,
                b"only-if-cached" => self.only_if_cached = true,
                b"max-age" => least(&mut self.max_age, value),
                b"must-revalidate" | b"proxy-revalidate" => self.must_revalidate = true,
                b"s-maxage" => {
                    least(&mut self.s_maxage, value);
                    self.must_revalidate = true;
                }
                b"stale-while-revalidate" => least(&mut self.stale_while_revalidate, value),
                b"stale-if-error" => least(&mut self.stale_if_error, value),
                b"min-fresh" => self.min_fresh = self.min_fresh.max(Some(seconds(value))),
                _ => {}
            }
        }
    }
}

/// Of several the least counts, and what is no number is none at all (section 4.2.1).
fn least(known: &mut Option<u64>, value: Option<&[u8]>) {
    let said = seconds(value);
    *known = Some(known.map_or(said, |known| known.min(said)));
}

fn seconds(value: Option<&[u8]>) -> u64 {
    let value = value.unwrap_or_default().trim_ascii();
    let plain = value
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""))
        .unwrap_or(value);
    syntax::decimal(plain).unwrap_or(0)
}

/// The members of a list; a comma between quotes divides nothing.
fn split(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    value
        .split(move |byte| {
            let divides = *byte == b',' && !quoted;
            let quotes = *byte == b'"' && !escaped;
            escaped = quoted && *byte == b'\\' && !escaped;
            quoted ^= quotes;
            divides
        })
        .map(<[u8]>::trim_ascii)
}
