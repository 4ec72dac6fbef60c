//! Where keys belong, from the view. Pure.

use std::net::SocketAddr;

use pontoon_fleet::{CachePlacement, FleetView, ServerName};
use pontoon_memcache_wire::place::{Ring, Rule};

/// The list of cache servers that is served now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its number; 0 for none.
    pub number: u64,
    /// Whether keys may be asked for: a list that is about to change is closed until everybody knows.
    pub open: bool,
    /// The servers, in the order of the ring.
    pub targets: Vec<Target>,
    ring: Ring,
    /// What the keys that are filled once begin with.
    pub fill_once: Vec<String>,
}

/// A cache server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which.
    pub server: ServerName,
    /// Where its proxy takes connections of other proxies; `None` on the server itself.
    pub relay: Option<SocketAddr>,
}

impl Table {
    /// The table that `view` asks for, on the server `me`.
    pub fn of(view: Option<&FleetView>, me: &ServerName) -> Table {
        let cache = view.and_then(|view| view.cache.as_ref());
        let Some((view, list)) = view.and_then(|view| Some((view, cache?.list.as_ref()?))) else {
            return Table::empty();
        };
        let rule = match list.placement {
            CachePlacement::Ketama => Rule::Ketama,
            CachePlacement::Twemproxy => Rule::Twemproxy,
            CachePlacement::Rendezvous => Rule::Rendezvous,
        };
        let labels: Vec<String> = list.members.iter().map(|member| member.label.clone()).collect();
        let targets = list.members.iter().map(|member| Target {
            server: member.server.clone(),
            relay: view
                .server(&member.server)
                .filter(|server| server.name != *me)
                .map(pontoon_fleet::ServerView::cache_relay),
        });
        Table {
            number: list.number,
            open: list.open,
            targets: targets.collect(),
            ring: Ring::new(rule, &labels),
            fill_once: cache.map(|cache| cache.fill_once.clone()).unwrap_or_default(),
        }
    }

    /// No list.
    pub fn empty() -> Table {
        Table {
            number: 0,
            open: false,
            targets: Vec::new(),
            ring: Ring::new(Rule::Ketama, &[]),
            fill_once: Vec::new(),
        }
    }

    /// Whether connections that were made under `other` may go on.
    pub fn is_list_of(&self, other: &Table) -> bool {
        (self.number, self.open, &self.targets) == (other.number, other.open, &other.targets)
    }

    /// Which of the targets `key` belongs to; `None` while there is no list.
    pub fn home(&self, key: &[u8]) -> Option<usize> {
        self.ring.home(key)
    }
}
