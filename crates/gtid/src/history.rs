//! Whole histories: not only how far a server is, but which transactions it has.
//!
//! MySQL's GTID sets say it exactly. MariaDB remembers for each domain and each server that wrote in it the highest
//! number (`gtid_binlog_state`); numbers grow, so a lower one of that server is in.

use std::collections::BTreeMap;
use std::fmt;

use crate::mariadb::number;
use crate::{Dialect, DomainPositions, GtidSet, MAX_TEXT, PositionError};

/// More writers in one history than anybody has.
const MAX_WRITERS: usize = 16_384;

/// The name of one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gtid {
    /// Of a MariaDB server.
    MariaDb {
        /// The replication domain.
        domain: u32,
        /// Who wrote it.
        server: u32,
        /// Its number within the domain.
        sequence: u64,
    },
    /// Of a MySQL server.
    MySql {
        /// Who numbered it.
        uuid: u128,
        /// The tag, in lower case; empty for none.
        tag: String,
        /// Its number.
        number: u64,
    },
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gtid::MariaDb {
                domain,
                server,
                sequence,
            } => write!(f, "{domain}-{server}-{sequence}"),
            Gtid::MySql { uuid, tag, number } => write!(f, "{}", GtidSet::of_one(*uuid, tag, *number)),
        }
    }
}

/// The transactions that a server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum History {
    /// Of a MariaDB server.
    MariaDb(Writers),
    /// Of a MySQL server.
    MySql(GtidSet),
}

/// MariaDB: the highest number by domain and server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writers(BTreeMap<(u32, u32), u64>);

impl Writers {
    fn parse(text: &str) -> Result<Writers, PositionError> {
        let mut writers = Writers::default();
        for gtid in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let mut parts = gtid.split('-');
            let (Some(domain), Some(server), Some(sequence), None) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                return Err(PositionError::Malformed("expected domain-server-sequence"));
            };
            writers.raise(number(domain)?, number(server)?, number(sequence)?);
            if writers.0.len() > MAX_WRITERS {
                return Err(PositionError::Malformed("too many servers"));
            }
        }
        Ok(writers)
    }

    /// Whether any server wrote in that domain.
    pub fn has_domain(&self, domain: u32) -> bool {
        self.0.keys().any(|(one, _)| *one == domain)
    }

    /// Takes a transaction in, and with it all lower ones of its server.
    pub(crate) fn raise(&mut self, domain: u32, server: u32, sequence: u64) {
        let here = self.0.entry((domain, server)).or_default();
        *here = (*here).max(sequence);
    }
}

impl History {
    /// Reads a GTID set (MySQL), or a list of the last transaction of each server in each domain (MariaDB's
    /// `gtid_binlog_state`; positions may be appended to it, since they are transactions that are in).
    ///
    /// # Errors
    /// [`PositionError`].
    pub fn parse(dialect: Dialect, text: &str) -> Result<History, PositionError> {
        if text.len() > MAX_TEXT {
            return Err(PositionError::TooLong(text.len()));
        }
        match dialect {
            Dialect::MariaDb => Writers::parse(text).map(History::MariaDb),
            Dialect::MySql => GtidSet::parse(text).map(History::MySql),
        }
    }

    /// Nothing.
    pub fn empty(dialect: Dialect) -> History {
        match dialect {
            Dialect::MariaDb => History::MariaDb(Writers::default()),
            Dialect::MySql => History::MySql(GtidSet::default()),
        }
    }

    /// Whether that transaction is in it.
    pub fn has(&self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (
                History::MariaDb(writers),
                Gtid::MariaDb {
                    domain,
                    server,
                    sequence,
                },
            ) => writers
                .0
                .get(&(*domain, *server))
                .is_some_and(|last| last >= sequence),
            (History::MySql(set), Gtid::MySql { uuid, tag, number }) => {
                set.contains(&GtidSet::of_one(*uuid, tag, *number))
            }
            _ => false,
        }
    }

    /// Whether everything of `other` is in it.
    pub fn contains(&self, other: &History) -> bool {
        match (self, other) {
            (History::MariaDb(here), History::MariaDb(other)) => other
                .0
                .iter()
                .all(|(writer, last)| here.0.get(writer).is_some_and(|here| here >= last)),
            (History::MySql(here), History::MySql(other)) => here.contains(other),
            _ => false,
        }
    }

    /// Whether it has everything of `other` and more, and nobody wrote in it who did not write in `other`.
    pub fn goes_on_after(&self, other: &History) -> bool {
        let same = match (self, other) {
            (History::MariaDb(here), History::MariaDb(other)) => here.0.keys().eq(other.0.keys()),
            (History::MySql(here), History::MySql(other)) => here.has_sources_of(other),
            _ => false,
        };
        same && self != other && self.contains(other)
    }

    /// Whether the last transaction of each domain of `position` is in it (MariaDB), or all of `position` (MySQL): whether
    /// who stands at `position` stands in this history and not beside it.
    pub fn has_position(&self, position: &crate::Position) -> bool {
        match position {
            crate::Position::MariaDb(position) => position.gtids().all(|gtid| self.has(&gtid)),
            crate::Position::MySql(set) => matches!(self, History::MySql(here) if here.contains(set)),
        }
    }

    /// How many transactions of `position` are not in it. MariaDB: of each domain those that its last writer wrote after
    /// what is in here of that one.
    pub fn lacks(&self, position: &crate::Position) -> u64 {
        match (self, position) {
            (History::MariaDb(writers), crate::Position::MariaDb(position)) => position
                .lasts()
                .map(|(domain, server, sequence)| {
                    let there = writers.0.get(&(domain, server)).copied();
                    sequence.saturating_sub(there.unwrap_or_default())
                })
                .sum(),
            (History::MySql(there), crate::Position::MySql(here)) => here.without(there).transactions(),
            (_, position) => position.transactions(),
        }
    }

    /// Takes a transaction in.
    pub fn add(&mut self, gtid: &Gtid) {
        match (self, gtid) {
            (
                History::MariaDb(writers),
                Gtid::MariaDb {
                    domain,
                    server,
                    sequence,
                },
            ) => writers.raise(*domain, *server, *sequence),
            (History::MySql(set), Gtid::MySql { uuid, tag, number }) => {
                set.merge(&GtidSet::of_one(*uuid, tag, *number));
            }
            _ => {}
        }
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            History::MySql(set) => set.fmt(f),
            History::MariaDb(writers) => {
                for (index, ((domain, server), last)) in writers.0.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{domain}-{server}-{last}")?;
                }
                Ok(())
            }
        }
    }
}

impl DomainPositions {
    /// The last transaction of each domain.
    pub fn gtids(&self) -> impl Iterator<Item = Gtid> + '_ {
        self.lasts().map(|(domain, server, sequence)| Gtid::MariaDb {
            domain,
            server,
            sequence,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Position;

    fn history(text: &str) -> History {
        History::parse(Dialect::MariaDb, text).unwrap()
    }

    fn gtid(server: u32, sequence: u64) -> Gtid {
        Gtid::MariaDb {
            domain: 0,
            server,
            sequence,
        }
    }

    #[test]
    fn a_number_that_another_server_wrote_is_another_transaction() {
        // 1 was replaced by 2 at number 140; what 1 wrote after that never came over.
        let leader = history("0-1-140,0-2-150");
        assert!(leader.has(&gtid(1, 140)) && leader.has(&gtid(2, 150)));
        assert!(!leader.has(&gtid(1, 145)) && !leader.has(&gtid(3, 1)));
        let at = |text| Position::parse(Dialect::MariaDb, text).unwrap();
        assert!(leader.has_position(&at("0-1-140")) && leader.has_position(&at("")));
        assert!(!leader.has_position(&at("0-1-141")));
        assert_eq!(
            (leader.lacks(&at("0-1-148")), leader.lacks(&at("0-1-140"))),
            (8, 0)
        );
        assert!(!leader.has_position(&at("0-1-140,1-1-1")));
    }

    #[test]
    fn a_history_goes_on_after_another_when_no_stranger_wrote_in_it() {
        let own = history("0-1-140,0-2-150");
        assert!(history("0-1-140,0-2-153").goes_on_after(&own));
        for other in [
            "0-1-140,0-2-150",
            "0-1-140,0-2-149",
            "0-1-140,0-2-150,0-3-151",
            "0-2-153",
            "",
        ] {
            assert!(!history(other).goes_on_after(&own), "{other}");
        }
        let (one, two) = (
            "3e11fa47-71ca-11e1-9e33-c80aa9429562",
            "3e11fa47-71ca-11e1-9e33-c80aa9429563",
        );
        let set = |text: &str| History::parse(Dialect::MySql, text).unwrap();
        let own = set(&format!("{one}:1-5"));
        assert!(set(&format!("{one}:1-7")).goes_on_after(&own));
        for other in [
            format!("{one}:1-5"),
            format!("{one}:1-4:6-7"),
            format!("{one}:1-7,{two}:1"),
        ] {
            assert!(!set(&other).goes_on_after(&own), "{other}");
        }
        assert!(!set(&format!("{one}:1-7")).goes_on_after(&history("0-1-1")));
    }

    #[test]
    fn a_list_is_read_and_written() {
        assert_eq!(history("0-2-150, 0-1-140,0-2-149").to_string(), "0-1-140,0-2-150");
        assert_eq!(history("").to_string(), "");
        for bad in ["0-1", "0-1-2-3", "0-1-x", "0--1"] {
            assert!(History::parse(Dialect::MariaDb, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mysql_set_is_exact() {
        let uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let set = |text: &str| History::parse(Dialect::MySql, &format!("{uuid}:{text}")).unwrap();
        let one = |number| Gtid::MySql {
            uuid: 0x3e11_fa47_71ca_11e1_9e33_c80a_a942_9562,
            tag: String::new(),
            number,
        };
        assert!(set("1-5:7").has(&one(7)) && !set("1-5:7").has(&one(6)));
        assert!(set("1-7").contains(&set("1-5:7")) && !set("1-5:7").contains(&set("1-7")));
        assert_eq!(one(7).to_string(), format!("{uuid}:7"));
        let mut more = set("1-5");
        more.add(&one(6));
        assert_eq!(more, set("1-6"));
        assert!(!set("1").has(&gtid(1, 1)) && !history("0-1-1").has(&one(1)));
    }
}
