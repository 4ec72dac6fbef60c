//! Names of fleets and servers: what they may look like, checked once, at the door.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a name was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// No characters at all.
    Empty,
    /// Over 63 characters, the limit of a DNS label (RFC 1035 section 2.3.4).
    TooLong,
    /// A character other than `a-z`, `0-9` and `-`.
    BadCharacter(char),
    /// A hyphen at one end (RFC 952).
    HyphenAtEnd,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Empty => write!(f, "a name cannot be empty"),
            NameError::TooLong => write!(f, "a name has 63 characters at most"),
            NameError::BadCharacter(c) => {
                write!(f, "{c:?} cannot be part of a name: use a-z, 0-9 and '-'")
            }
            NameError::HyphenAtEnd => write!(f, "a name cannot begin or end with '-'"),
        }
    }
}

impl std::error::Error for NameError {}

/// The name of a server: a DNS label, because it also becomes a certificate's subject.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct ServerName(Arc<str>);

/// The name of a fleet: a DNS label too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct FleetName(Arc<str>);

macro_rules! label {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check_label(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                check_label(&text)?;
                Ok(Self(text.into()))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

label!(ServerName);
label!(FleetName);

fn check_label(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > 63 {
        return Err(NameError::TooLong);
    }
    if let Some(c) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return Err(NameError::BadCharacter(c));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::HyphenAtEnd);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_dns_label() {
        for good in ["a", "db1", "lb-2", "0"] {
            assert_eq!(good.parse::<ServerName>().unwrap().as_str(), good);
        }
        let long = "x".repeat(64);
        for (bad, why) in [
            ("", NameError::Empty),
            ("A", NameError::BadCharacter('A')),
            ("a.b", NameError::BadCharacter('.')),
            ("a/../b", NameError::BadCharacter('/')),
            ("-a", NameError::HyphenAtEnd),
            ("a-", NameError::HyphenAtEnd),
            (long.as_str(), NameError::TooLong),
        ] {
            assert_eq!(bad.parse::<ServerName>(), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_bad_name_does_not_come_in_through_json_either() {
        assert!(serde_json::from_str::<ServerName>("\"../etc\"").is_err());
    }
}
