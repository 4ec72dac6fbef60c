//! The answer: where a statement goes, why, and what it does to the session.

use crate::{Effects, Kind, Reason};

/// Where a statement may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// On a replica, or anywhere else: a read without side effects. In a read-only transaction: on its connection.
    Replica,
    /// On the primary only.
    Primary,
    /// On a connection that this session used before.
    PreviousTarget(Previous),
}

/// Which connection of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Previous {
    /// The one that ran the statement before: `SHOW WARNINGS`, `FOUND_ROWS()`, `ROW_COUNT()`.
    Statement,
    /// The one that ran the session's last write, even when reads went elsewhere since: `LAST_INSERT_ID()`.
    Write,
    /// The one that holds the open transaction, if any; otherwise the primary: `COMMIT`, `ROLLBACK`, savepoints.
    Transaction,
}

impl Route {
    /// A short stable name, for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Route::Replica => "replica",
            Route::Primary => "primary",
            Route::PreviousTarget(Previous::Statement) => "previous-statement",
            Route::PreviousTarget(Previous::Write) => "previous-write",
            Route::PreviousTarget(Previous::Transaction) => "transaction",
        }
    }
}

/// What [`crate::classify`] says about a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Where it goes.
    pub route: Route,
    /// The one reason that decided.
    pub reason: Reason,
    /// The byte where the reason is to be seen, for `sql explain`; none when it is the session's state.
    pub at: Option<usize>,
    /// What kind of statement it is.
    pub kind: Kind,
    /// What it does to the session.
    pub effects: Effects,
}
