//! The cache: which servers hold which keys, and what is reported of it.

use serde::{Deserialize, Serialize};

use crate::{ListenAddress, ServerName};

/// The cache and how the application reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheView {
    /// What the application dials.
    pub listen: Vec<ListenAddress>,
    /// Memory of each memcached, in bytes.
    pub memory_bytes: u64,
    /// Keys that begin so are filled by one client, for which the others wait a moment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fill_once: Vec<String>,
    /// The servers; `None` while the keeper has not said.
    pub list: Option<CacheList>,
}

/// How keys are spread over the servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CachePlacement {
    /// As libmemcached's `ketama_weighted`.
    #[default]
    Ketama,
    /// As twemproxy's `ketama` with `fnv1a_64`.
    Twemproxy,
    /// Highest random weight.
    Rendezvous,
}

impl CachePlacement {
    /// All of them.
    pub const ALL: [CachePlacement; 3] = [
        CachePlacement::Ketama,
        CachePlacement::Twemproxy,
        CachePlacement::Rendezvous,
    ];

    /// As the configuration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            CachePlacement::Ketama => "ketama",
            CachePlacement::Twemproxy => "twemproxy",
            CachePlacement::Rendezvous => "rendezvous",
        }
    }
}

/// The servers that hold keys, and which hold which. The keeper numbers the lists; whoever knows two goes by the later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheList {
    /// Grows with each list.
    pub number: u64,
    /// Whether it is served. One that is not closes the one before it: it is opened when no server serves that any more.
    pub open: bool,
    /// How keys are spread.
    pub placement: CachePlacement,
    /// The servers in the order of the ring.
    pub members: Vec<CacheMember>,
    /// Who served the list before it: those have to say that they no longer do.
    #[serde(default)]
    pub before: Vec<ServerName>,
    /// The list before it, for as long as this one is not open: it can be gone back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<Box<CacheList>>,
}

/// A server that holds keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheMember {
    /// Which.
    pub server: ServerName,
    /// What stands for it in the ring.
    pub label: String,
    /// The number of the list with which it began, empty. What it holds from an earlier life must not be read.
    pub life: u64,
    /// Whether keys went from it to another since then, so that it holds values that may be old.
    pub left_behind: bool,
}

/// What a cache proxy saw since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheReport {
    /// Client connections open now.
    pub clients: u64,
    /// Client connections taken.
    pub connections_total: u64,
    /// Requests.
    pub requests_total: u64,
    /// Reads that found nothing because their server did not answer.
    pub missed_total: u64,
    /// Writes that failed because their server did not answer.
    pub failed_total: u64,
    /// Reads that waited for another client to fill the key.
    #[serde(default)]
    pub waited_total: u64,
    /// The list that is served through this proxy; `None` while none is.
    pub list: Option<u64>,
    /// This server's memcached serves no list before this one, now or later.
    pub closed: u64,
    /// The cache servers that were asked for something.
    pub servers: Vec<CacheServerReport>,
    /// Why this server's memcached serves nobody, if it should.
    pub trouble: Option<String>,
    /// Listening addresses that could not be bound, with the reason.
    pub not_listening: Vec<String>,
}

/// A cache server as a proxy sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheServerReport {
    /// Which.
    pub server: ServerName,
    /// Why it does not answer; `None` when it does.
    pub trouble: Option<String>,
}
