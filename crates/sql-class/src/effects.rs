//! What a statement does to the session, so that the proxy replays it, pins the session, or forgets a pin.
//!
//! The servers' own trackers report system variables, the schema and the transaction. They do not report
//! `SELECT @a := 1`, `SELECT … INTO @a`, `GET_LOCK`, `HANDLER … OPEN` or `LAST_INSERT_ID(n)`: these flags do.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// A set of effects on the session.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Effects(u32);

macro_rules! effects {
    ($($(#[$doc:meta])* $name:ident = $bit:literal $text:literal,)*) => {
        impl Effects {
            $($(#[$doc])* pub const $name: Effects = Effects(1 << $bit);)*

            /// Every single effect with a short stable name.
            pub const NAMES: &[(Effects, &'static str)] = &[$((Effects::$name, $text)),*];
        }
    };
}

effects! {
    /// Sets session variables to literal values: [`crate::assignments`] lists them for replay.
    SETS_VARIABLES = 0 "sets-variables",
    /// Sets user variables to literal values: [`crate::assignments`] lists them for replay.
    SETS_USER_VARIABLES = 1 "sets-user-variables",
    /// Sets session or user variables to values that only the server knows, or that must not be replayed
    /// (`sql_log_bin`, `insert_id`, `gtid_next`…).
    SETS_OPAQUE = 2 "sets-opaque",
    /// Sets global variables.
    SETS_GLOBAL = 3 "sets-global",
    /// Changes the default database: [`crate::used_database`] says to which.
    CHANGES_DATABASE = 4 "changes-database",
    /// `SET NAMES`, `SET CHARACTER SET`; also listed by [`crate::assignments`].
    CHANGES_CHARSET = 5 "changes-charset",
    /// `SET TRANSACTION` without a scope: for the next transaction of this connection only.
    NEXT_TRANSACTION = 6 "next-transaction",
    /// Changes the active roles.
    CHANGES_ROLE = 7 "changes-role",
    /// Makes a temporary table.
    TEMPORARY_TABLE = 8 "temporary-table",
    /// May drop temporary tables.
    DROPS_TEMPORARY_TABLE = 9 "drops-temporary-table",
    /// Takes a named lock.
    NAMED_LOCK = 10 "named-lock",
    /// Releases named locks.
    RELEASES_NAMED_LOCK = 11 "releases-named-lock",
    /// Locks tables, the instance or a backup stage.
    LOCKS_TABLES = 12 "locks-tables",
    /// Releases these.
    UNLOCKS_TABLES = 13 "unlocks-tables",
    /// Makes a prepared statement by name (`PREPARE`).
    PREPARES = 14 "prepares",
    /// Forgets one.
    DEALLOCATES = 15 "deallocates",
    /// Uses a handler of this connection.
    HANDLER = 16 "handler",
    /// Opens a transaction.
    BEGINS_TRANSACTION = 17 "begins-transaction",
    /// Ends the transaction; with `AND CHAIN` it opens the next.
    ENDS_TRANSACTION = 18 "ends-transaction",
    /// Makes or releases a savepoint.
    SAVEPOINT = 19 "savepoint",
    /// A distributed transaction.
    XA = 20 "xa",
    /// Sets what `LAST_INSERT_ID()` says, without an insert.
    SETS_LAST_INSERT_ID = 21 "sets-last-insert-id",
    /// Uses what an earlier write left in its connection: `LAST_INSERT_ID()`, `@@identity`.
    USES_LAST_INSERT_ID = 22 "uses-last-insert-id",
    /// Uses what the statement before left in its connection: `FOUND_ROWS()`, `ROW_COUNT()`, warnings.
    USES_PREVIOUS_STATEMENT = 23 "uses-previous-statement",
    /// `SQL_CALC_FOUND_ROWS`: a `FOUND_ROWS()` will follow to the same connection.
    SETS_FOUND_ROWS = 24 "sets-found-rows",
    /// Uses user variables: those that were set have to be there.
    USES_USER_VARIABLES = 25 "uses-user-variables",
    /// Asks for the connection's id, which the proxy has its own of.
    USES_CONNECTION_ID = 26 "uses-connection-id",
    /// Runs stored code (a procedure, a function that is not built in, `EXECUTE`), which may set user variables,
    /// make temporary tables and take locks.
    RUNS_ROUTINE = 27 "runs-routine",
    /// Commits what is open before it runs (MySQL manual, «Statements That Cause an Implicit Commit»).
    IMPLICIT_COMMIT = 28 "implicit-commit",
    /// The statement could not be read: it may do anything.
    OPAQUE = 29 "opaque",
    /// Ends the connection after the transaction (`COMMIT RELEASE`).
    CLOSES_CONNECTION = 30 "closes-connection",
}

impl Effects {
    /// No effect.
    pub const NONE: Effects = Effects(0);

    /// What cannot be replayed on another connection: after it, the session stays with its connection to the primary
    /// until the state is gone.
    pub const PINNING: Effects = Effects(
        Effects::SETS_OPAQUE.0
            | Effects::NEXT_TRANSACTION.0
            | Effects::CHANGES_ROLE.0
            | Effects::TEMPORARY_TABLE.0
            | Effects::NAMED_LOCK.0
            | Effects::LOCKS_TABLES.0
            | Effects::PREPARES.0
            | Effects::HANDLER.0
            | Effects::XA.0
            | Effects::SETS_LAST_INSERT_ID.0
            | Effects::OPAQUE.0,
    );

    /// Whether all effects of `other` are in this set.
    pub const fn contains(self, other: Effects) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any effect of `other` is in this set.
    pub const fn intersects(self, other: Effects) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// These and those of `other`; [`BitOr`] for constants.
    pub const fn and(self, other: Effects) -> Effects {
        Effects(self.0 | other.0)
    }

    /// Whether the session has to stay with its connection to the primary after this. [`Effects::RUNS_ROUTINE`] does
    /// not pin by itself: whether routines are trusted to leave nothing behind is for the caller to say.
    pub const fn pins(self) -> bool {
        self.intersects(Effects::PINNING)
    }

    /// The names of the effects in this set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Effects::NAMES
            .iter()
            .filter(move |(effect, _)| self.contains(*effect))
            .map(|(_, name)| *name)
    }
}

impl BitOr for Effects {
    type Output = Effects;

    fn bitor(self, other: Effects) -> Effects {
        self.and(other)
    }
}

impl BitOrAssign for Effects {
    fn bitor_assign(&mut self, other: Effects) {
        self.0 |= other.0;
    }
}

impl fmt::Display for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names().enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Effects({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_effects_have_names() {
        let both = Effects::NAMED_LOCK | Effects::RELEASES_NAMED_LOCK;
        assert_eq!(both.to_string(), "named-lock, releases-named-lock");
        assert!(both.pins() && !Effects::RELEASES_NAMED_LOCK.pins());
        assert!(Effects::NONE.is_empty() && Effects::NONE.to_string().is_empty());
        let all = Effects::NAMES
            .iter()
            .fold(Effects::NONE, |all, (one, _)| all | *one);
        assert_eq!(
            all.names().count(),
            Effects::NAMES.len(),
            "each has a bit of its own"
        );
    }
}
