//! What a comparison found.

use pontoon_fleet::ServerName;
use serde::{Deserialize, Serialize};

use super::question::{KeyValue, Table};

/// What is said while it goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A table is begun.
    Table {
        /// Its name.
        name: String,
        /// Which one it is, from 1.
        number: usize,
        /// Of how many.
        tables: usize,
    },
    /// Rows of all tables that were compared, and about how many there are.
    Rows {
        /// So far.
        done: u64,
        /// In all.
        total: u64,
    },
    /// A replica is waited for.
    Waiting(ServerName),
    /// Something differs.
    Differs(Differing),
    /// Something was not compared.
    Unchecked(Unchecked),
}

/// Something that a replica has otherwise than the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differing {
    /// The replica.
    pub server: ServerName,
    /// The table, or `view app.v`.
    pub what: String,
    /// How it differs.
    pub kind: Kind,
    /// Between which keys the rows are; `None` without.
    pub range: Option<String>,
    /// How many rows were found there.
    pub count: u64,
    /// Whether there may be more, which were not looked at.
    pub or_more: bool,
    /// Some of them.
    pub rows: Vec<RowDifference>,
}

/// How something differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The replica lacks it.
    Missing,
    /// Only the replica has it.
    Extra,
    /// It is defined otherwise.
    Definition,
    /// Its rows differ.
    Rows,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowDifference {
    /// Its key, for people: `id=7`.
    pub key: String,
    /// Whether the replica lacks it, has it alone, or has other values ([`Kind::Rows`]).
    pub kind: Kind,
    /// The columns that differ (all, when one side lacks the row): name, on the primary, on the replica.
    pub columns: Vec<(String, Option<String>, Option<String>)>,
}

/// Something that was not compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unchecked {
    /// The table, or what else.
    pub what: String,
    /// Why not.
    pub why: String,
}

/// The end of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Tables whose rows were compared.
    pub tables: u64,
    /// Their rows, on the primary.
    pub rows: u64,
    /// Rows that were never the same in a pair of reads because they were written all the time.
    pub rewritten: u64,
    /// What differs: replica, what, and how many rows (0 for a definition).
    pub differing: Vec<(ServerName, String, u64)>,
    /// The rows of tables with a key that differ, as far as they were looked at.
    #[serde(skip)]
    pub found: Vec<(ServerName, Table, Vec<KeyValue>)>,
    /// What was not compared.
    pub unchecked: Vec<Unchecked>,
}

impl Checked {
    /// Whether everything that was compared is the same.
    pub fn is_same(&self) -> bool {
        self.differing.is_empty()
    }
}
