//! How requests are dispatched to the application's servers, beyond the rule that chooses one.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ProxyProtocol;
use crate::units::{millis, optional_millis};

/// How requests are dispatched to the application's servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dispatch {
    /// By what [`crate::BalanceRule::Hash`] tells requests apart.
    pub key: HashKey,
    /// With what header of the PROXY protocol connections to the application begin; `None`: with none.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The name of a cookie by which a visitor stays with a server; `None`: visitors do not.
    pub sticky: Option<String>,
    /// How long a server that came into service takes to its full share.
    #[serde(with = "millis")]
    pub slow_start: Duration,
    /// Whose requests stay near.
    pub prefer: Prefer,
    /// When fewer than this share of the servers are in service (thousandths of a percent), all of them get requests.
    pub panic: u32,
    /// When a server whose answers are bad is left out; `None`: never.
    pub outliers: Option<OutlierRules>,
    /// The most requests that one edge has under way on one server; `None`: as many as come.
    pub max_in_flight: Option<u32>,
    /// Who waits while every server has as many.
    pub queue: QueueRules,
    /// How long a server may be silent before and within an answer; `None`: the edge's own default.
    #[serde(with = "optional_millis")]
    pub answer_timeout: Option<Duration>,
    /// What is otherwise for some paths; of those that match a request the longest counts.
    pub routes: Vec<PathRule>,
}

/// Which servers an edge asks first; the others get what these have no room for, or all when these are out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prefer {
    /// All are alike.
    #[default]
    Any,
    /// Its own, then those in its zone.
    Local,
    /// Those in its zone.
    Zone,
}

impl Prefer {
    /// All of them.
    pub const ALL: [Prefer; 3] = [Prefer::Any, Prefer::Local, Prefer::Zone];

    /// As the configuration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Prefer::Any => "any",
            Prefer::Local => "local",
            Prefer::Zone => "zone",
        }
    }

    /// How far a server is: `here`, or in the same zone. Who is nearer is asked first.
    pub fn distance(self, here: bool, same_zone: bool) -> u8 {
        match (self, here, same_zone) {
            (Prefer::Any, _, _) | (_, true, _) => 0,
            (Prefer::Zone, false, true) => 0,
            (Prefer::Local, false, true) | (Prefer::Zone, false, false) => 1,
            (Prefer::Local, false, false) => 2,
        }
    }
}

/// By what requests are told apart, so that equal ones go to the same server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HashKey {
    /// The client's address.
    #[default]
    Address,
    /// The request's target, with its query.
    Target,
    /// A header field's value; the address where there is none.
    Field(String),
    /// A cookie's value; the address where there is none.
    Cookie(String),
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HashKey::Address => f.write_str("address"),
            HashKey::Target => f.write_str("target"),
            HashKey::Field(name) => write!(f, "field:{name}"),
            HashKey::Cookie(name) => write!(f, "cookie:{name}"),
        }
    }
}

impl FromStr for HashKey {
    type Err = String;

    fn from_str(text: &str) -> Result<HashKey, String> {
        let named = |name: &str| is_token(name).then(|| name.to_owned());
        let key = match text.split_once(':') {
            None if text == "address" => Some(HashKey::Address),
            None if text == "target" => Some(HashKey::Target),
            Some(("field", name)) => named(name).map(HashKey::Field),
            Some(("cookie", name)) => named(name).map(HashKey::Cookie),
            _ => None,
        };
        key.ok_or_else(|| "is none of \"address\", \"target\", \"field:NAME\", \"cookie:NAME\"".to_owned())
    }
}

impl TryFrom<String> for HashKey {
    type Error = String;

    fn try_from(text: String) -> Result<HashKey, String> {
        text.parse()
    }
}

impl From<HashKey> for String {
    fn from(key: HashKey) -> String {
        key.to_string()
    }
}

/// Whether `name` can be the name of a header field or of a cookie (RFC 9110 section 5.6.2).
pub fn is_token(name: &str) -> bool {
    let symbol = |byte: u8| b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty()
        && name.len() <= 100
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || symbol(byte))
}

/// When a server whose answers are bad is left out for a while, though its checks are good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutlierRules {
    /// So many bad answers in a row: none at all, or a status of 500 and above.
    pub failures: u32,
    /// For how long it is left out the first time; each time in a row for so much longer.
    #[serde(with = "millis")]
    pub eject: Duration,
    /// Never for longer than this.
    #[serde(with = "millis")]
    pub max_eject: Duration,
    /// The largest share of the servers that may be left out so, in thousandths of a percent.
    pub max_share: u32,
}

impl Default for OutlierRules {
    fn default() -> OutlierRules {
        OutlierRules {
            failures: 5,
            eject: Duration::from_secs(10),
            max_eject: Duration::from_secs(300),
            max_share: 50_000,
        }
    }
}

/// Who waits while every server has as many requests as it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRules {
    /// The most requests that wait on one edge.
    pub size: u32,
    /// How long one waits.
    #[serde(with = "millis")]
    pub wait: Duration,
}

impl Default for QueueRules {
    fn default() -> QueueRules {
        QueueRules {
            size: 1024,
            wait: Duration::from_secs(5),
        }
    }
}

/// What is otherwise for paths that begin with something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRule {
    /// What they begin with; begins with `/`.
    pub path: String,
    /// How long a server may be silent.
    #[serde(default, with = "optional_millis")]
    pub answer_timeout: Option<Duration>,
    /// The most bytes of a request's body.
    #[serde(default)]
    pub body: Option<u64>,
}

impl Dispatch {
    /// What is otherwise for `target`, as it stands in a request.
    pub fn route(&self, target: &[u8]) -> Option<&PathRule> {
        let matching = self
            .routes
            .iter()
            .filter(|route| target.starts_with(route.path.as_bytes()));
        matching.max_by_key(|route| route.path.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_paths_that_match_the_longest_counts() {
        let rule = |path: &str| PathRule {
            path: path.to_owned(),
            answer_timeout: None,
            body: None,
        };
        let dispatch = Dispatch {
            routes: vec![rule("/export/"), rule("/"), rule("/export/all")],
            ..Dispatch::default()
        };
        let path = |target: &[u8]| dispatch.route(target).map(|route| route.path.as_str());
        assert_eq!(path(b"/export/1"), Some("/export/"));
        assert_eq!(path(b"/export/all?x"), Some("/export/all"));
        assert_eq!(path(b"/expor"), Some("/"));
        assert_eq!(path(b"*"), None);
    }

    #[test]
    fn keys_come_back_as_they_were() {
        for text in ["address", "target", "field:X-User", "cookie:session"] {
            assert_eq!(text.parse::<HashKey>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "Address",
            "field:",
            "field:a b",
            "cookie",
            "cookie:a;b",
            "field:a:b",
        ] {
            assert!(text.parse::<HashKey>().is_err(), "{text}");
        }
    }
}
