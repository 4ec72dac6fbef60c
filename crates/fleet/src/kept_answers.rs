//! Which answers of the application an edge keeps, and what it is told to forget.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::UnixMillis;

/// Which answers an edge keeps, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheRules {
    /// The most bytes of memory on each edge.
    pub memory: u64,
    /// An answer with more bytes is not kept.
    pub largest: u64,
    /// What the paths begin with whose answers are kept.
    pub paths: Vec<String>,
    /// Nothing is kept for longer.
    pub longest: Duration,
    /// How long an answer is kept that does not say so itself; zero: not at all.
    pub unsaid: Duration,
    /// For how long an answer that is over, and does not say so itself, is shown while a new one is asked for.
    pub stale_while_revalidate: Duration,
    /// For how long an answer that is over, and does not say so itself, is shown in place of an error.
    pub stale_if_error: Duration,
    /// A request with a cookie whose name begins so gets nothing that was kept, and its answer is not kept.
    pub bypass_cookies: Vec<String>,
}

/// The longest that anything is kept. A purge is told of for longer than that, so an edge that was away for all of it has
/// nothing to forget.
pub const LONGEST_KEPT: Duration = Duration::from_secs(86_400);

impl Default for CacheRules {
    fn default() -> CacheRules {
        let cookies = [
            "wordpress_logged_in_",
            "wordpress_sec_",
            "wp-postpass_",
            "comment_author_",
            "woocommerce_",
            "wp_woocommerce_session_",
            "PHPSESSID",
        ];
        CacheRules {
            memory: 64 * 1024 * 1024,
            largest: 1024 * 1024,
            paths: vec!["/".to_owned()],
            longest: Duration::from_secs(3600),
            unsaid: Duration::ZERO,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            bypass_cookies: cookies.map(str::to_owned).to_vec(),
        }
    }
}

impl CacheRules {
    /// Nobody is shown anything that was kept for longer than this.
    pub fn oldest(&self) -> Duration {
        let stale = self
            .longest
            .max(self.stale_while_revalidate)
            .max(self.stale_if_error);
        self.longest.saturating_add(stale).min(LONGEST_KEPT)
    }
}

/// What edges are told to forget.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Purge {
    /// When it was said. Tells one purge from another, and is compared with no edge's clock.
    pub at: UnixMillis,
    /// Of this host alone, in lower case, with the port where one is asked for; `None`: of all.
    pub host: Option<String>,
    /// This path, with a query or without; a path with a query means that alone.
    pub path: String,
    /// Everything that begins with the path.
    pub prefix: bool,
}

impl Purge {
    /// Everything.
    pub fn everything(at: UnixMillis) -> Purge {
        Purge {
            at,
            host: None,
            path: "/".to_owned(),
            prefix: true,
        }
    }

    fn is_everything(&self) -> bool {
        self.host.is_none() && self.prefix && self.path == "/"
    }

    /// Whether what `host` answered for `target` is to be forgotten. A usual port may be said or not.
    pub fn takes(&self, host: &str, target: &str) -> bool {
        let of_host = self
            .host
            .as_ref()
            .is_none_or(|wanted| plain(wanted).eq_ignore_ascii_case(plain(host)));
        let Some(rest) = target.strip_prefix(self.path.as_str()).filter(|_| of_host) else {
            return false;
        };
        self.prefix || rest.is_empty() || (rest.starts_with('?') && !self.path.contains('?'))
    }
}

fn plain(host: &str) -> &str {
    let plain = host.strip_suffix(":443").or_else(|| host.strip_suffix(":80"));
    plain.unwrap_or(host)
}

/// The purges of the last while. Two books merge to the same in either order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PurgeBook(pub BTreeSet<Purge>);

impl PurgeBook {
    /// The most that are told of one by one: with more, edges forget everything.
    pub const MOST: usize = 64;
    /// The longest path, in bytes.
    pub const LONGEST_PATH: usize = 1024;

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// When the last one was said.
    pub fn last(&self) -> UnixMillis {
        self.0.last().map(|purge| purge.at).unwrap_or_default()
    }

    /// Takes over what `other` has and this has not; says whether that changed anything.
    pub fn merge(&mut self, other: &PurgeBook) -> bool {
        let before = self.clone();
        self.0.extend(other.0.iter().cloned());
        if self.0.len() > Self::MOST {
            let everything = Purge::everything(self.last());
            self.0.insert(everything);
        }
        // What was said before everything was forgotten is done with.
        let everything = self.0.iter().rev().find(|purge| purge.is_everything()).cloned();
        if let Some(everything) = everything {
            self.0
                .retain(|purge| purge.at > everything.at || *purge == everything);
        }
        *self != before
    }

    /// Forgets what was said before `moment`; no edge has anything left that it was said of.
    pub fn forget_before(&mut self, moment: UnixMillis) {
        self.0.retain(|purge| purge.at >= moment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purge(at: u64, path: &str, prefix: bool) -> Purge {
        Purge {
            at: UnixMillis(at),
            host: None,
            path: path.to_owned(),
            prefix,
        }
    }

    #[test]
    fn a_purge_takes_what_it_names() {
        let page = purge(1, "/news", false);
        for (target, taken) in [
            ("/news", true),
            ("/news?page=2", true),
            ("/newspaper", false),
            ("/", false),
        ] {
            assert_eq!(page.takes("a.test", target), taken, "{target}");
        }
        assert!(!purge(1, "/news?page=2", false).takes("a.test", "/news"));
        assert!(purge(1, "/ne", true).takes("a.test", "/newspaper"));
        let of_one = Purge {
            host: Some("a.test".to_owned()),
            ..purge(1, "/", true)
        };
        assert!(of_one.takes("A.test", "/x") && !of_one.takes("b.test", "/x"));
        assert!(of_one.takes("a.test:443", "/x") && !of_one.takes("a.test:8443", "/x"));
    }

    #[test]
    fn books_merge_to_the_same_in_either_order_and_stay_small() {
        let book = |range: std::ops::Range<u64>| {
            PurgeBook(range.map(|at| purge(at, &format!("/{at}"), false)).collect())
        };
        for (one, other) in [
            (book(0..3), book(2..9)),
            (book(0..50), book(40..90)),
            (book(0..64), book(0..64)),
        ] {
            let (mut here, mut there) = (one.clone(), other.clone());
            here.merge(&other);
            there.merge(&one);
            assert_eq!(here, there);
            assert!(here.0.len() <= PurgeBook::MOST);
            assert!(!here.clone().merge(&there), "told again it changes nothing");
        }
        let mut many = book(0..50);
        many.merge(&book(50..100));
        assert_eq!(
            many.0.into_iter().collect::<Vec<_>>(),
            [Purge::everything(UnixMillis(99))]
        );
    }
}
