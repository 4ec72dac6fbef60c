//! How a fleet proves to an authority that a name is its own.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::UnixMillis;

/// How it is proved to an authority that a name is the fleet's (RFC 8555 section 8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Challenge {
    /// By a file that every edge has on port 80 (section 8.3).
    #[default]
    #[serde(rename = "http-01")]
    Http01,
    /// By a TXT record that every name server has (section 8.4). The only one that authorities take for wildcards.
    #[serde(rename = "dns-01")]
    Dns01,
}

impl Challenge {
    /// All of them.
    pub const ALL: [Challenge; 2] = [Challenge::Http01, Challenge::Dns01];

    /// As the configuration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Challenge::Http01 => "http-01",
            Challenge::Dns01 => "dns-01",
        }
    }
}

/// What the zone holds for authorities: TXT records that are there while a certificate is ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proofs {
    /// By the name of the record. A name without texts has no record now, and had or will have one.
    pub texts: BTreeMap<String, BTreeSet<String>>,
    /// When they last changed, in whole seconds: each change has a later one.
    pub changed: UnixMillis,
}

impl Proofs {
    /// Whether there never were any.
    pub fn is_empty(&self) -> bool {
        *self == Proofs::default()
    }

    /// Where the record for a certificate's name is; a name and its wildcard have the same.
    pub fn place(name: &str) -> String {
        format!("_acme-challenge.{}", name.strip_prefix("*.").unwrap_or(name))
    }
}
