//! Positions in the history of a database, and floors: the position that a reader must see (P3).
//!
//! **In:** the texts that databases send: MariaDB's GTID positions (`0-1-8`), MySQL's GTID sets (`uuid:1-5:7`).
//! **Out:** [`Position`], which can be merged with another and asked whether it [reaches](Position::reaches) it; the
//! text again; [`Floor`], a position with the epoch in which it means something; [`History`], which transactions a
//! server has; [`binlog`], which ones a binary log holds.
//!
//! **Must never:** say that a position reaches another when something of the other is missing in it; take memory or
//! time without bound for a text from outside.

pub mod binlog;
mod floor;
mod history;
mod mariadb;
mod mysql;
#[cfg(test)]
mod property_tests;

use std::fmt;

pub use floor::{Floor, SessionFloor};
pub use history::{Gtid, History, Writers};
pub use mariadb::DomainPositions;
pub use mysql::GtidSet;

/// The longest text that is read, in bytes. A GTID set of 10,000 intervals is shorter.
pub const MAX_TEXT: usize = 256 * 1024;

/// How a database writes positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `domain-server-sequence`, separated by commas.
    MariaDb,
    /// `uuid[:tag]:interval[:interval]…`, separated by commas.
    MySql,
}

/// A place in the history of a database: which transactions are in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// Of a MariaDB server.
    MariaDb(DomainPositions),
    /// Of a MySQL server.
    MySql(GtidSet),
}

/// A text that is no position. Says what was expected, never more than a few bytes of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    /// Over [`MAX_TEXT`].
    #[error("a position of {0} bytes is too long")]
    TooLong(usize),
    /// Not what this dialect looks like.
    #[error("not a position: {0}")]
    Malformed(&'static str),
}

impl Position {
    /// Nothing at all: reached by everybody.
    pub fn empty(dialect: Dialect) -> Position {
        match dialect {
            Dialect::MariaDb => Position::MariaDb(DomainPositions::default()),
            Dialect::MySql => Position::MySql(GtidSet::default()),
        }
    }

    /// Reads what a database of `dialect` sent. The empty text is the empty position.
    ///
    /// # Errors
    /// [`PositionError`].
    pub fn parse(dialect: Dialect, text: &str) -> Result<Position, PositionError> {
        if text.len() > MAX_TEXT {
            return Err(PositionError::TooLong(text.len()));
        }
        match dialect {
            Dialect::MariaDb => DomainPositions::parse(text).map(Position::MariaDb),
            Dialect::MySql => GtidSet::parse(text).map(Position::MySql),
        }
    }

    /// The dialect that it is of.
    pub fn dialect(&self) -> Dialect {
        match self {
            Position::MariaDb(_) => Dialect::MariaDb,
            Position::MySql(_) => Dialect::MySql,
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        match self {
            Position::MariaDb(position) => position.is_empty(),
            Position::MySql(set) => set.is_empty(),
        }
    }

    /// Whether everything that is in `floor` is in it. Never of another dialect's, unless nothing is in that.
    pub fn reaches(&self, floor: &Position) -> bool {
        match (self, floor) {
            (Position::MariaDb(here), Position::MariaDb(floor)) => here.reaches(floor),
            (Position::MySql(here), Position::MySql(floor)) => here.contains(floor),
            (_, floor) => floor.is_empty(),
        }
    }

    /// Takes in what `other` has. A position of another dialect takes its place: the database was replaced.
    pub fn merge(&mut self, other: &Position) {
        match (&mut *self, other) {
            (Position::MariaDb(here), Position::MariaDb(other)) => here.merge(other),
            (Position::MySql(here), Position::MySql(other)) => here.merge(other),
            _ => *self = other.clone(),
        }
    }

    /// How many transactions are in it. MariaDB: the sum of the domains' numbers.
    pub fn transactions(&self) -> u64 {
        match self {
            Position::MariaDb(position) => position.transactions(),
            Position::MySql(set) => set.transactions(),
        }
    }

    /// How many parts it has: what it costs to compare and to send.
    pub fn parts(&self) -> usize {
        match self {
            Position::MariaDb(position) => position.parts(),
            Position::MySql(set) => set.parts(),
        }
    }

    /// Makes a floor small by asking for more: of each source at most `most` intervals stay, the smallest gaps are
    /// filled. What reaches the result reaches what it was made of.
    pub fn widen(&mut self, most: usize) {
        if let Position::MySql(set) = self {
            set.widen(most);
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::MariaDb(position) => position.fmt(f),
            Position::MySql(set) => set.fmt(f),
        }
    }
}
