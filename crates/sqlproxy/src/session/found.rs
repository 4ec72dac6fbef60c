//! `FOUND_ROWS()`: the rows of the last statement that had any, whatever ran since. It is on the connection of that
//! statement, where what the statement before left need not be.

use pontoon_mysql_wire::reply::{Done, Outcome};
use pontoon_sql_class::{Effects, Kind, Route, Verdict};

use super::Session;
use super::route::{Place, Side};
use super::run::Work;
use super::tracks::mentions;
use crate::pool::Connection;

/// What a statement asks about those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// Not about found rows.
    Other,
    /// About found rows only.
    Found,
    /// About found rows and about the statement before: row counts, warnings.
    Both,
}

/// What `work` asks.
pub(super) fn asks(work: &Work<'_>) -> Asks {
    let Some(sql) = work.sql else {
        return Asks::Other;
    };
    if !work.verdict.effects.contains(Effects::USES_PREVIOUS_STATEMENT) || !mentions(sql, b"found", b"rows") {
        return Asks::Other;
    }
    match work.verdict.kind == Kind::Compound || mentions(sql, b"", b"count") {
        true => Asks::Both,
        false => Asks::Found,
    }
}

impl Session {
    /// Where a statement goes that asks about found rows and would go to `place` because of the statement before.
    pub(super) fn place_of_found(&self, asks: Asks, verdict: &Verdict, place: Place) -> Place {
        match (asks, place, self.found) {
            (Asks::Found, Place::Previous(_) | Place::OutOfReach, Some((side, _))) => {
                match side == Side::Replica && verdict.route == Route::Primary {
                    true => Place::OutOfReach,
                    false => Place::Previous(side),
                }
            }
            // Nothing was found yet: any connection that is clean says so.
            (Asks::Found, Place::Previous(_) | Place::OutOfReach, None) => Place::Primary,
            _ => place,
        }
    }

    /// Whether a connection knows what the session has found last, if it is asked.
    pub(super) fn tells_found(&self, asks: Asks, connection: &Connection) -> bool {
        asks == Asks::Other || self.found.is_none_or(|(_, serial)| serial == connection.serial)
    }

    /// Notes that a statement may have found rows.
    pub(super) fn record_found(&mut self, verdict: &Verdict, done: &Done, connection: &Connection) {
        let none = matches!(
            verdict.kind,
            Kind::Insert
                | Kind::Replace
                | Kind::Update
                | Kind::Delete
                | Kind::Begin
                | Kind::Commit
                | Kind::Rollback
                | Kind::Savepoint
                | Kind::Set
                | Kind::Use
                | Kind::Definition
                | Kind::Admin
        );
        if done.outcome == Outcome::Rows || !none {
            self.found = Some((connection.key.side, connection.serial));
        }
    }
}
