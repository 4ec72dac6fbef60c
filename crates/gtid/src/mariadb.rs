//! MariaDB: the last transaction of each replication domain (`gtid_slave_pos`, `gtid_binlog_pos`, `last_gtid`).
//!
//! Within a domain sequence numbers grow, whichever server wrote (MariaDB manual, "Global Transaction ID"), so a
//! position is reached when the sequence number is. That holds for one line of primaries: a floor carries the epoch
//! because a transaction of a primary that was lost may have the number of another one.

use std::collections::BTreeMap;
use std::fmt;

use crate::PositionError;

/// More domains than anybody has.
const MAX_DOMAINS: usize = 4096;

/// The last transaction of each domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainPositions(BTreeMap<u32, Last>);

/// The last transaction of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    server: u32,
    sequence: u64,
}

impl DomainPositions {
    /// Reads `0-1-8,7-2-44`. A domain that is named twice has the higher of both.
    ///
    /// # Errors
    /// [`PositionError::Malformed`].
    pub fn parse(text: &str) -> Result<DomainPositions, PositionError> {
        let mut position = DomainPositions::default();
        if text.trim().is_empty() {
            return Ok(position);
        }
        for gtid in text.split(',') {
            let mut parts = gtid.trim().split('-');
            let (Some(domain), Some(server), Some(sequence), None) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                return Err(PositionError::Malformed("expected domain-server-sequence"));
            };
            let last = Last {
                server: number(server)?,
                sequence: number(sequence)?,
            };
            position.raise(number(domain)?, last);
            if position.0.len() > MAX_DOMAINS {
                return Err(PositionError::Malformed("too many domains"));
            }
        }
        Ok(position)
    }

    fn raise(&mut self, domain: u32, last: Last) {
        let here = self.0.entry(domain).or_insert(last);
        if here.sequence < last.sequence {
            *here = last;
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sum of its numbers: grows by one with each transaction.
    pub fn transactions(&self) -> u64 {
        self.0
            .values()
            .fold(0, |sum, last| sum.saturating_add(last.sequence))
    }

    /// Domain, server and number of each last transaction.
    pub(crate) fn lasts(&self) -> impl Iterator<Item = (u32, u32, u64)> + '_ {
        self.0
            .iter()
            .map(|(domain, last)| (*domain, last.server, last.sequence))
    }

    /// How many domains it has.
    pub fn parts(&self) -> usize {
        self.0.len()
    }

    /// Whether it is at least as far as `floor` in every domain of `floor`.
    pub fn reaches(&self, floor: &DomainPositions) -> bool {
        let reached = |(domain, last): (&u32, &Last)| {
            self.0
                .get(domain)
                .is_some_and(|here| here.sequence >= last.sequence)
        };
        floor.0.iter().all(reached)
    }

    /// The further of both, in every domain.
    pub fn merge(&mut self, other: &DomainPositions) {
        for (domain, last) in &other.0 {
            self.raise(*domain, *last);
        }
    }
}

impl fmt::Display for DomainPositions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (domain, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{domain}-{}-{}", last.server, last.sequence)?;
        }
        Ok(())
    }
}

/// Digits and nothing else: `u64::from_str` takes a sign too.
pub(crate) fn number<T: std::str::FromStr>(text: &str) -> Result<T, PositionError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PositionError::Malformed("expected a number"));
    }
    text.parse()
        .map_err(|_| PositionError::Malformed("a number that is too large"))
}
