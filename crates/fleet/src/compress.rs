//! Which answers an edge compresses, and how.

use serde::{Deserialize, Serialize};

/// A coding of content (RFC 9110 section 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coding {
    /// Zstandard (RFC 8878), in windows of at most 8 MB (RFC 9659).
    Zstd,
    /// Brotli (RFC 7932).
    Br,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// All of them, in the order in which they are offered.
    pub const ALL: [Coding; 3] = [Coding::Zstd, Coding::Br, Coding::Gzip];

    /// As it stands in a field.
    pub fn as_str(self) -> &'static str {
        match self {
            Coding::Zstd => "zstd",
            Coding::Br => "br",
            Coding::Gzip => "gzip",
        }
    }
}

/// Which answers an edge compresses, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compress {
    /// How; of those that a visitor likes as much the first is taken.
    pub codings: Vec<Coding>,
    /// What: media types in lower case, without parameters; `text/*` for all of a kind.
    pub types: Vec<String>,
    /// An answer that says it has fewer bytes stays as it is.
    pub min_bytes: u64,
}

impl Default for Compress {
    fn default() -> Compress {
        let types = [
            "text/*",
            "application/javascript",
            "application/json",
            "application/ld+json",
            "application/manifest+json",
            "application/xml",
            "application/rss+xml",
            "application/atom+xml",
            "application/xhtml+xml",
            "image/svg+xml",
        ];
        Compress {
            codings: Coding::ALL.to_vec(),
            types: types.map(str::to_owned).to_vec(),
            min_bytes: 1024,
        }
    }
}

impl Compress {
    /// Whether content of this type, as `Content-Type` has it, is compressed.
    pub fn takes(&self, content_type: &[u8]) -> bool {
        let essence = content_type
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default();
        let essence = essence.trim_ascii();
        self.types.iter().any(|wanted| match wanted.strip_suffix('*') {
            Some(kind) => essence
                .get(..kind.len())
                .is_some_and(|begin| begin.eq_ignore_ascii_case(kind.as_bytes())),
            None => essence.eq_ignore_ascii_case(wanted.as_bytes()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_by_what_stands_before_their_parameters() {
        let rules = Compress::default();
        for taken in [
            "text/html",
            "Text/HTML ; charset=utf-8",
            "application/json",
            "text/event-stream",
            "IMAGE/svg+xml",
        ] {
            assert!(rules.takes(taken.as_bytes()), "{taken}");
        }
        for left in [
            "",
            "image/png",
            "application/jsonx",
            "texthtml",
            "tex",
            "application/octet-stream; x=text/html",
        ] {
            assert!(!rules.takes(left.as_bytes()), "{left}");
        }
    }
}
