//! Do the primary and its replicas hold the same rows? [`check`] finds out while the application writes, and neither side
//! waits for it.
//!
//! **How.** Tables are walked along their primary or unique key in chunks that take about `chunk_time`. The primary gives
//! the sum of a chunk's row digests, and the position that it had written *afterwards*. The replica waits until it has
//! applied that position and gives its own sum of the same range of keys. Equal sums: the same rows. Other sums are only a
//! suspicion, since the replica may be further by then, and the rows of the chunk are compared one by one. Those that
//! differ are *settled* (`settle`): read on the primary, read on the replica when it has what the primary had by then, again
//! and again at irregular times.
//!
//! **Why a row that differs is found.** Equal sums mean equal contents (44 + 44 bits of SHA-256), at two moments. A row that
//! differed between those moments was written meanwhile. With row-based logging and full images, which Pontoon sets, a
//! replicated write sets the whole row: a row that was written is right again. So what differs and stays is seen by
//! whichever pass reads it.
//!
//! **Why nothing else is reported.** A row counts as different when in every round the primary had one value, or the
//! replica had one value, and they were never the same in a round. A row that is written between the two reads of a round
//! shows another value on both sides sooner or later, or the same one, and either acquits it. What is left to chance is a
//! row that jumps between two values and is met in opposite phase each time: at most one in 2^16 for each row that does
//! nothing else.
//!
//! **Why it is light.** No lock is taken, no position is forced on the replica, nothing is written on either side, nothing
//! has to be cleaned up after a kill. Every read is one statement of bounded time, so that no old snapshot is kept. When a
//! replica takes longer than `max_lag` to reach what the primary has, the check waits until it does not.

mod look;
mod question;
mod report;
mod settle;
pub(crate) mod sql;
mod walk;

use std::time::Duration;

use pontoon_fleet::{Refusal, ServerName};

pub use question::{
    Answer, Ask, Column, Form, Inventory, Key, KeyColumn, KeyForm, KeyValue, Range, Reach, Sum, Table, Values,
};
pub use report::{Checked, Differing, Kind, RowDifference, Told, Unchecked};
pub use walk::check;

use crate::work::BoxFuture;

/// A database that answers questions, wherever it is.
pub trait Side: Send + Sync {
    /// The server's name.
    fn name(&self) -> &ServerName;

    /// Asks it.
    fn ask<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, Result<Answer, Refusal>>;
}

/// What is compared, and how gently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Only these tables, `schema.table`; empty: all.
    pub only: Vec<String>,
    /// A replica that needs longer to reach what the primary has is waited for.
    pub max_lag: Duration,
    /// How long a chunk may take to read.
    pub chunk_time: Duration,
    /// How many rows of each table are shown, for each replica.
    pub show: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            only: Vec::new(),
            max_lag: Duration::from_secs(1),
            chunk_time: Duration::from_millis(100),
            show: 10,
        }
    }
}
