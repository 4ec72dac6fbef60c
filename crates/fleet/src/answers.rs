//! What edges answer themselves, in place of the application, and what they do to its answers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{CacheRules, Compress, IpPrefix, PurgeBook, UnixMillis};

/// What edges answer themselves, and what they do to the application's answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeAnswers {
    /// The files of error pages, by what they are for: a status (`"503"`), a class (`"5xx"`), or [`MAINTENANCE_PAGE`].
    pub pages: BTreeMap<String, PathBuf>,
    /// Which answers of the application are compressed; `None`: none.
    pub compress: Option<Compress>,
    /// Which answers of the application are kept; `None`: none.
    pub cache: Option<CacheRules>,
    /// What is to be forgotten of them.
    #[serde(skip_serializing_if = "PurgeBook::is_none")]
    pub purges: PurgeBook,
    /// Visitors get the maintenance page; `None`: they are served.
    pub maintenance: Option<Maintenance>,
}

/// The key of the page for visitors while there is maintenance.
pub const MAINTENANCE_PAGE: &str = "maintenance";

/// Visitors get the maintenance page.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Maintenance {
    /// Until then; `None`: until an operator ends it.
    pub until: Option<UnixMillis>,
    /// Who is served all the same.
    pub except: Vec<IpPrefix>,
}

impl Maintenance {
    /// Whether it is over by itself at `now`.
    pub fn is_over(&self, now: UnixMillis) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Whether a visitor from `address` gets the page at `now`.
    pub fn meets(&self, address: IpAddr, now: UnixMillis) -> bool {
        !self.is_over(now) && !self.except.iter().any(|network| network.contains(address))
    }
}

/// An operator's last word on maintenance. Of two the later one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MaintenanceMark {
    /// When it was said.
    pub at: UnixMillis,
    /// What; `None`: visitors are served.
    pub maintenance: Option<Maintenance>,
}

impl MaintenanceMark {
    /// Whether nobody has said anything yet.
    pub fn is_none(&self) -> bool {
        *self == MaintenanceMark::default()
    }

    /// Takes over `other` if it is later; says whether it was. Of the same millisecond the one that says more wins, so that
    /// all sides end up with the same.
    pub fn merge(&mut self, other: &MaintenanceMark) -> bool {
        let later = *self < *other;
        if later {
            *self = other.clone();
        }
        later
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maintenance_meets_everybody_but_its_exceptions_until_it_is_over() {
        let office: IpPrefix = "198.51.100.0/24".parse().unwrap();
        let maintenance = Maintenance {
            until: Some(UnixMillis(2_000)),
            except: vec![office],
        };
        let (visitor, colleague) = ("203.0.113.5".parse().unwrap(), "198.51.100.7".parse().unwrap());
        assert!(maintenance.meets(visitor, UnixMillis(1_999)));
        assert!(!maintenance.meets(colleague, UnixMillis(1_999)));
        assert!(!maintenance.meets(visitor, UnixMillis(2_000)), "over");
        let open = Maintenance::default();
        assert!(open.meets(visitor, UnixMillis(u64::MAX)) && open.meets(colleague, UnixMillis(0)));
    }

    #[test]
    fn two_marks_merge_to_the_same_in_either_order() {
        let mark = |at, on: bool| MaintenanceMark {
            at: UnixMillis(at),
            maintenance: on.then(Maintenance::default),
        };
        let marks = [mark(1, true), mark(1, false), mark(2, false), mark(3, true)];
        for one in &marks {
            for other in &marks {
                let (mut here, mut there) = (one.clone(), other.clone());
                assert_eq!(here.merge(other), one < other);
                there.merge(one);
                assert_eq!(here, there);
            }
        }
    }
}
