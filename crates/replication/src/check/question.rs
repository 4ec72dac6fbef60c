//! What is asked of a database while two are compared, and what it answers: structured, so that no statement goes from
//! one server to another. The side that is asked makes the statement itself.

use std::time::Duration;

use pontoon_fleet::units::millis;
use serde::{Deserialize, Serialize};

/// How a column enters the digest of its row: so that two values have the same text exactly when they are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Its text says everything: whole and decimal numbers, dates, times.
    Plain,
    /// A number with a floating point: multiplied by one as a double, because a FLOAT is printed with six digits.
    Float,
    /// BIT: as a number.
    Bits,
    /// A short text or bytes: byte for byte, whatever the collation says.
    Bytes,
    /// One that may be long: its own digest.
    Long,
}

/// A column whose value is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// How it is compared.
    pub form: Form,
    /// The character set of a text.
    pub charset: Option<String>,
    /// Whether it is computed when its row is written.
    pub generated: bool,
}

/// How a column of a key is written into a statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyForm {
    /// A number, as it is printed.
    Number,
    /// A date, a time, a UUID, an address: in quotes, as it is printed.
    Quoted,
    /// Bytes: in hexadecimal digits.
    Bytes,
    /// Text of this character set and collation: its bytes in hexadecimal digits.
    Text {
        /// The character set.
        charset: String,
        /// The collation, by which the key is ordered.
        collation: String,
    },
}

/// A column of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyColumn {
    /// Its name.
    pub name: String,
    /// How its values are written.
    pub form: KeyForm,
}

/// A key by which rows are told apart: the primary one, or a unique one without NULLs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The index's name.
    pub index: String,
    /// Its columns, in its order.
    pub columns: Vec<KeyColumn>,
}

/// A table, as one server has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its columns but for those that are computed when they are read.
    pub columns: Vec<Column>,
    /// How rows are told apart; `None`: by all that they hold.
    pub key: Option<Key>,
    /// About how many rows it has, by the engine's estimate.
    pub rows: u64,
    /// The storage engine.
    pub engine: String,
    /// The digest of `SHOW CREATE TABLE` without what differs between equal tables.
    pub definition: String,
    /// The longest key, in bytes.
    pub key_bytes: u64,
}

impl Table {
    /// `schema.name`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

/// What a server has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The server's version.
    pub version: String,
    /// What it had written when it had been asked for the rest.
    pub position: String,
    /// Its tables, by schema and name.
    pub tables: Vec<Table>,
    /// Views, triggers, routines and events: what it is (`view app.v`) and the digest of its definition. `None` when the
    /// account may not see them.
    pub others: Option<Vec<(String, String)>>,
}

/// Values of a key's columns: numbers and quoted ones as printed, others in hexadecimal digits. Without a key: the
/// digest of the row.
pub type KeyValue = Vec<String>;

/// Keys above `after` up to and including `until`; `None` is without end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The last key before it.
    pub after: Option<KeyValue>,
    /// Its last key.
    pub until: Option<KeyValue>,
}

/// Count and digest of the rows of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// How many rows.
    pub rows: u64,
    /// The digests of all rows, first half.
    pub high: u64,
    /// Second half.
    pub low: u64,
}

/// A row by its key and what it holds: the digest, or, without a key, how often that digest is there.
pub type Digest = (KeyValue, String);

/// The columns of a row with their values as text; `None` for NULL.
pub type Values = Vec<(String, Option<String>)>;

/// A question to a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// What it has. Answer: [`Answer::Inventory`].
    Inventory {
        /// Only these tables, `schema.table`; empty: all.
        only: Vec<String>,
    },
    /// The sum of a range, after it has applied `reach`. Answer: [`Answer::Sum`].
    Sum {
        /// Where.
        table: Table,
        /// Which rows; without an end when `rows` says how many.
        range: Range,
        /// At most so many rows: the answer says where they end.
        rows: Option<u64>,
        /// What it must have applied before.
        reach: Option<Reach>,
    },
    /// The digests of the rows of a range. Answer: [`Answer::Rows`].
    Rows {
        /// Where.
        table: Table,
        /// Which rows.
        range: Range,
        /// At most so many.
        most: u64,
        /// What it must have applied before.
        reach: Option<Reach>,
    },
    /// The digests of the rows with these keys. Answer: [`Answer::Rows`].
    Find {
        /// Where.
        table: Table,
        /// Which rows.
        keys: Vec<KeyValue>,
        /// What it must have applied before.
        reach: Option<Reach>,
    },
    /// What these rows hold, for people. Answer: [`Answer::Show`].
    Show {
        /// Where.
        table: Table,
        /// Which rows.
        keys: Vec<KeyValue>,
    },
    /// Waits for a position. Answer: [`Answer::Reached`].
    Wait {
        /// Which.
        reach: Reach,
    },
}

/// A position to be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Which.
    pub position: String,
    /// How long that may take.
    #[serde(with = "millis")]
    pub patience: Duration,
}

/// A database's answer. `None` in place of rows: it did not reach the position in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Ask::Inventory`].
    Inventory(Inventory),
    /// To [`Ask::Sum`].
    Sum {
        /// The sum.
        sum: Option<Sum>,
        /// Where the range ends; `None`: with the table.
        until: Option<KeyValue>,
        /// What this server had written when the rows had been read.
        position: String,
        /// How long reading took, in microseconds.
        took_us: u64,
        /// How long it waited for the position, in milliseconds.
        waited_ms: u64,
    },
    /// To [`Ask::Rows`] and [`Ask::Find`].
    Rows {
        /// The rows.
        rows: Option<Vec<Digest>>,
        /// What this server had written when the rows had been read.
        position: String,
    },
    /// To [`Ask::Show`].
    Show {
        /// For each row that is there: its key, and its columns with their values as text.
        rows: Vec<(KeyValue, Values)>,
    },
    /// To [`Ask::Wait`].
    Reached {
        /// Whether it did.
        reached: bool,
        /// What keeps it from following, if something does.
        error: Option<String>,
    },
}
