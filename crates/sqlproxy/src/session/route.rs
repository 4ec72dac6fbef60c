//! Where a statement goes: the verdict about its text, what the session holds, and what the fleet offers. Pure.

use pontoon_sql_class::{Effects, Kind, Previous, Reason, Route, Verdict};
use pontoon_telemetry::metrics::Diverted;

/// A packet up to this length, in bytes, is read as a whole before anything is done. A longer one is passed on as it
/// comes.
pub const WHOLE: usize = 1024 * 1024;

/// The verdict about a statement of which not all has been read: what it leaves behind is not known.
pub fn unread() -> Verdict {
    Verdict {
        route: Route::Primary,
        reason: Reason::NotARead(Kind::Unknown),
        at: None,
        kind: Kind::Unknown,
        effects: Effects::OPAQUE,
    }
}

/// What kind of database a connection leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The primary.
    Primary,
    /// A replica.
    Replica,
}

/// What the session is bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bonds {
    /// A transaction is open, or may be, on the connection of this side.
    pub transaction: Option<Side>,
    /// The read-only transaction on a replica has read something already.
    pub has_read: bool,
    /// Something that cannot be set again lives in the connection to the primary.
    pub pinned: bool,
    /// Where the statement before ran, and so where its warnings and counts are.
    pub previous: Option<Side>,
    /// Replicas may be read from: the fleet has some, they are asked for, and what they must have is known.
    pub splits: bool,
    /// Each statement of a transaction sees what was committed before it (`READ COMMITTED` or less).
    pub read_committed: bool,
}

/// Where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The connection that the session holds, whatever it leads to.
    Held,
    /// Any connection to the primary.
    Primary,
    /// Any replica that has what the session must see; the primary when none has.
    Replica,
    /// The connection of that side that the statement before ran on; if it is gone, nobody can answer.
    Previous(Side),
    /// The primary, after the read-only transaction on the replica has been given up and begun there anew.
    Moved,
    /// The primary, after the read-only transaction on the replica has been committed, as the statement does.
    Committed,
    /// Nowhere: the answer would not fit the snapshot that the transaction has read from.
    Refused,
    /// Nowhere: it asks about a statement that ran on a replica, and does what only the primary may do.
    OutOfReach,
}

/// Where a statement of `verdict` goes in a session with these bonds.
pub fn place(verdict: &Verdict, bonds: &Bonds) -> Place {
    if bonds.pinned {
        return Place::Held;
    }
    match bonds.transaction {
        Some(Side::Primary) => Place::Held,
        Some(Side::Replica) => in_replica_transaction(verdict, bonds),
        None => match verdict.route {
            Route::Replica if bonds.splits => Place::Replica,
            Route::PreviousTarget(Previous::Statement) => {
                bonds.previous.map_or(Place::Primary, Place::Previous)
            }
            Route::Primary if verdict.effects.contains(Effects::USES_PREVIOUS_STATEMENT) => {
                match bonds.previous {
                    None => Place::Primary,
                    Some(Side::Primary) => Place::Previous(Side::Primary),
                    Some(Side::Replica) => Place::OutOfReach,
                }
            }
            Route::Replica | Route::Primary | Route::PreviousTarget(_) => Place::Primary,
        },
    }
}

fn in_replica_transaction(verdict: &Verdict, bonds: &Bonds) -> Place {
    let ends_first = Effects::BEGINS_TRANSACTION | Effects::IMPLICIT_COMMIT;
    match verdict.route {
        _ if verdict.effects.intersects(ends_first) => Place::Committed,
        Route::Replica | Route::PreviousTarget(Previous::Transaction | Previous::Statement) => Place::Held,
        // The transaction itself refuses these, and so does the replica: nothing of them is executed.
        _ if writes_tables(verdict) => Place::Held,
        // Literal settings hold on every connection: they are set again wherever the session goes.
        _ if verdict.kind == Kind::Set && !verdict.effects.pins() => Place::Held,
        _ if !bonds.has_read || bonds.read_committed => Place::Moved,
        _ => Place::Refused,
    }
}

/// Whether a statement is one of those that servers refuse in a read-only transaction before they look at its tables.
fn writes_tables(verdict: &Verdict) -> bool {
    match verdict.kind {
        Kind::Insert | Kind::Replace | Kind::Update | Kind::Delete | Kind::Load => true,
        Kind::Definition => verdict.effects.contains(Effects::TEMPORARY_TABLE),
        _ => false,
    }
}

/// Whether, and why, a statement that reads went to the primary.
pub fn diverted(verdict: &Verdict) -> Option<Diverted> {
    if !matches!(verdict.kind, Kind::Select | Kind::Values) || verdict.route == Route::Replica {
        return None;
    }
    match verdict.reason {
        Reason::InTransaction | Reason::AutocommitOff | Reason::Serializable | Reason::Pinned => {
            Some(Diverted::Transaction)
        }
        Reason::UnknownFunction
        | Reason::QualifiedFunction
        | Reason::ServerFunction
        | Reason::LockFunction => Some(Diverted::Function),
        _ => None,
    }
}

/// What a statement does to the session's bonds beyond what the server's status flags say: whether it has to stay
/// with its connection from now on.
///
/// Routines may do anything that a statement may. `CONNECTION_ID()` told the client a number that it may `KILL`.
pub fn pins(effects: Effects) -> bool {
    effects.pins() || effects.intersects(Effects::RUNS_ROUTINE | Effects::USES_CONNECTION_ID)
}

/// Whether the statement may leave the transaction in a state that an ERR packet does not tell. A statement of a kind
/// that is not on the list may have committed or begun one before it failed.
pub fn may_change_transaction(verdict: &Verdict, autocommit: bool) -> bool {
    let plain = matches!(
        verdict.kind,
        Kind::Select
            | Kind::Values
            | Kind::Show
            | Kind::Explain
            | Kind::Help
            | Kind::Insert
            | Kind::Replace
            | Kind::Update
            | Kind::Delete
            | Kind::Set
            | Kind::Use
    );
    !plain
        || !autocommit
        || verdict
            .effects
            .intersects(Effects::RUNS_ROUTINE | Effects::OPAQUE)
}

/// What may be done when the database was lost while the statement ran and nothing of its answer was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterLoss {
    /// Ask another: it only read.
    Repeat,
    /// Say that the transaction is gone: it was not committed.
    RolledBack,
    /// Nobody knows what happened: end the connection, as the database's death would have.
    Unknown,
}

/// What a lost database means for a statement of `verdict`, which ran within a transaction or not.
pub fn after_loss(verdict: &Verdict, in_transaction: bool, pinned: bool) -> AfterLoss {
    let within = matches!(
        verdict.kind,
        Kind::Select
            | Kind::Values
            | Kind::Show
            | Kind::Explain
            | Kind::Insert
            | Kind::Replace
            | Kind::Update
            | Kind::Delete
            | Kind::Savepoint
    );
    let routine = verdict
        .effects
        .intersects(Effects::RUNS_ROUTINE | Effects::OPAQUE | Effects::IMPLICIT_COMMIT);
    match in_transaction {
        _ if pinned || routine => AfterLoss::Unknown,
        true if within => AfterLoss::RolledBack,
        false if verdict.route == Route::Replica && verdict.kind != Kind::Begin => AfterLoss::Repeat,
        _ => AfterLoss::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_sql_class::{Context, Engine, classify};

    fn verdict(sql: &str, transaction: Option<Side>) -> Verdict {
        let context = Context {
            in_transaction: transaction.is_some(),
            read_only_transaction: transaction == Some(Side::Replica),
            ..Context::new(Engine::MariaDb)
        };
        classify(sql.as_bytes(), &context)
    }

    fn at(sql: &str, change: impl Fn(&mut Bonds)) -> Place {
        let mut bonds = Bonds {
            splits: true,
            ..Bonds::default()
        };
        change(&mut bonds);
        place(&verdict(sql, bonds.transaction), &bonds)
    }

    #[test]
    fn without_bonds_reads_go_to_replicas_and_all_else_to_the_primary() {
        let free = |_: &mut Bonds| ();
        for (sql, place) in [
            ("SELECT a FROM t", Place::Replica),
            ("START TRANSACTION READ ONLY", Place::Replica),
            ("SELECT a FROM t FOR UPDATE", Place::Primary),
            ("INSERT INTO t VALUES (1)", Place::Primary),
            ("BEGIN", Place::Primary),
            ("COMMIT", Place::Primary),
            ("SELECT LAST_INSERT_ID()", Place::Primary),
            ("SELECT f(1)", Place::Primary),
            ("SELECT 1; SELECT 2", Place::Primary),
            ("SHOW WARNINGS", Place::Primary),
        ] {
            assert_eq!(at(sql, free), place, "{sql}");
        }
        assert_eq!(
            at("SELECT a FROM t", |bonds| bonds.splits = false),
            Place::Primary
        );
    }

    #[test]
    fn what_asks_about_the_statement_before_goes_where_that_ran() {
        for side in [Side::Primary, Side::Replica] {
            for sql in [
                "SHOW WARNINGS",
                "SELECT FOUND_ROWS()",
                "SELECT ROW_COUNT()",
                "SELECT @@warning_count",
            ] {
                assert_eq!(
                    at(sql, |bonds| bonds.previous = Some(side)),
                    Place::Previous(side),
                    "{sql}"
                );
            }
        }
    }

    #[test]
    fn a_transaction_or_a_pin_keeps_its_connection() {
        for sql in [
            "SELECT a FROM t",
            "INSERT INTO t VALUES (1)",
            "COMMIT",
            "SHOW WARNINGS",
            "CREATE TABLE x (a INT)",
        ] {
            assert_eq!(
                at(sql, |bonds| bonds.transaction = Some(Side::Primary)),
                Place::Held,
                "{sql}"
            );
            assert_eq!(at(sql, |bonds| bonds.pinned = true), Place::Held, "{sql}");
        }
    }

    #[test]
    fn a_read_only_transaction_on_a_replica_moves_only_while_nobody_can_tell() {
        let replica = |bonds: &mut Bonds| bonds.transaction = Some(Side::Replica);
        let read = |bonds: &mut Bonds| {
            bonds.transaction = Some(Side::Replica);
            bonds.has_read = true;
        };
        for sql in [
            "SELECT a FROM t",
            "COMMIT",
            "ROLLBACK",
            "SHOW WARNINGS",
            "SET time_zone='+00:00'",
            "INSERT INTO t VALUES (1)",
            "CREATE TEMPORARY TABLE x (a INT)",
        ] {
            assert_eq!(at(sql, read), Place::Held, "{sql}");
        }
        for sql in [
            "START TRANSACTION",
            "BEGIN",
            "CREATE TABLE x (a INT)",
            "START TRANSACTION READ ONLY",
        ] {
            assert_eq!(at(sql, read), Place::Committed, "{sql}");
        }
        for sql in ["SELECT f(1)", "SELECT GET_LOCK('a',1)", "SET sql_log_bin=0"] {
            assert_eq!(at(sql, replica), Place::Moved, "{sql}");
            assert_eq!(at(sql, read), Place::Refused, "{sql}");
            let committed = |bonds: &mut Bonds| {
                read(bonds);
                bonds.read_committed = true;
            };
            assert_eq!(at(sql, committed), Place::Moved, "{sql}");
        }
    }

    #[test]
    fn nothing_with_an_unknown_outcome_is_repeated() {
        let loss =
            |sql: &str, open: bool| after_loss(&verdict(sql, open.then_some(Side::Primary)), open, false);
        assert_eq!(loss("SELECT a FROM t", false), AfterLoss::Repeat);
        for sql in [
            "INSERT INTO t VALUES (1)",
            "SELECT a FROM t FOR UPDATE",
            "SELECT f(1)",
            "CALL p()",
            "CREATE TABLE x (a INT)",
            "SELECT 1; SELECT 2",
            "SELECT GET_LOCK('a', 1)",
            "START TRANSACTION READ ONLY",
            "COMMIT",
        ] {
            assert_eq!(loss(sql, false), AfterLoss::Unknown, "{sql}");
        }
        for sql in [
            "SELECT a FROM t",
            "INSERT INTO t VALUES (1)",
            "UPDATE t SET a=1",
            "SAVEPOINT x",
        ] {
            assert_eq!(loss(sql, true), AfterLoss::RolledBack, "{sql}");
        }
        for sql in [
            "COMMIT",
            "CALL p()",
            "CREATE TABLE x (a INT)",
            "SELECT f(1)",
            "INSERT INTO t VALUES (1); COMMIT",
        ] {
            assert_eq!(loss(sql, true), AfterLoss::Unknown, "{sql}");
        }
        assert_eq!(
            after_loss(&verdict("SELECT a FROM t", None), false, true),
            AfterLoss::Unknown
        );
    }

    #[test]
    fn an_error_leaves_the_transaction_unknown_unless_the_statement_is_plain() {
        let changes = |sql: &str, autocommit| may_change_transaction(&verdict(sql, None), autocommit);
        for sql in ["SELECT a FROM t", "INSERT INTO t VALUES (1)", "SET sql_mode=''"] {
            assert!(!changes(sql, true) && changes(sql, false), "{sql}");
        }
        for sql in [
            "CALL p()",
            "SELECT f(1)",
            "SELECT 1; SELECT 2",
            "BEGIN",
            "COMMIT",
            "EXECUTE s",
            "nonsense",
        ] {
            assert!(changes(sql, true), "{sql}");
        }
    }

    #[test]
    fn routines_and_connection_ids_pin() {
        for sql in [
            "CALL p()",
            "SELECT f(1)",
            "SELECT CONNECTION_ID()",
            "CREATE TEMPORARY TABLE x (a INT)",
            "SET @a=@@pid_file",
        ] {
            assert!(pins(verdict(sql, None).effects), "{sql}");
        }
        for sql in [
            "SELECT a FROM t",
            "INSERT INTO t VALUES (1)",
            "SET NAMES utf8mb4",
            "USE shop",
            "BEGIN",
        ] {
            assert!(!pins(verdict(sql, None).effects), "{sql}");
        }
    }
}
