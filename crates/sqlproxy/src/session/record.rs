//! What a statement did to the session.

use std::rc::Rc;

use pontoon_mysql_wire::StatusFlags;
use pontoon_mysql_wire::reply::{Done, Outcome};
use pontoon_sql_class::{
    Charset, Context, Effects, Kind, Route, SqlMode, Target, Verdict, assignments, used_database,
};

use super::Session;
use super::route::{Side, may_change_transaction, pins};
use super::state::{Noted, State, TRACKED};
use crate::pool::{Connection, LastInsertId};

/// `ER_PARSE_ERROR`: nothing was executed.
const PARSE_ERROR: u16 = 1064;

/// Effects whose details are in the statement's text.
const LITERAL: Effects = Effects::SETS_VARIABLES
    .and(Effects::SETS_USER_VARIABLES)
    .and(Effects::CHANGES_CHARSET)
    .and(Effects::SETS_OPAQUE);

impl Session {
    /// What the classifier has to know.
    pub(super) fn context(&self) -> Context {
        let transaction = self.bonds.transaction;
        Context {
            engine: self.facts.engine,
            version: self.facts.version,
            sql_mode: self.sql_mode,
            charset: self.charset,
            in_transaction: transaction.is_some(),
            read_only_transaction: transaction.is_some() && self.status.has(StatusFlags::IN_TRANS_READONLY),
            autocommit: self.status.has(StatusFlags::AUTOCOMMIT),
            serializable: self.serializable,
            pinned: self.is_pinned(),
            system_database: self
                .state
                .database
                .as_deref()
                .is_some_and(pontoon_sql_class::is_system_schema),
        }
    }

    /// Whether everything has to run on the connection that is held.
    pub(super) fn is_pinned(&self) -> bool {
        self.bound || self.bonds.pinned || self.statements.bind()
    }

    /// Notes everything that an answer says. `sql` is the statement's text, when it has one.
    pub(super) fn record(
        &mut self,
        verdict: &Verdict,
        sql: Option<&[u8]>,
        done: &Done,
        connection: &mut Connection,
    ) {
        let side = connection.key.side;
        let failed = match done.outcome {
            Outcome::Error { code, .. } => Some(code),
            Outcome::Ok | Outcome::Rows => None,
        };
        if done.status_told {
            self.status = done.status;
        }
        self.bonds.previous = Some(side);
        connection.warned = done.warnings > 0 || failed.is_some();
        let effects = verdict.effects;
        // A statement that could not even be read did nothing, unless it is one of several or runs others.
        let unread = failed == Some(PARSE_ERROR)
            && done.delivered_bytes == 0
            && !matches!(
                verdict.kind,
                Kind::Multiple | Kind::Compound | Kind::Call | Kind::Execute
            )
            && !effects.intersects(Effects::RUNS_ROUTINE);
        if unread {
            return;
        }
        self.record_found(verdict, done, connection);
        self.record_transaction(verdict, done, failed.is_some(), side);
        let literal_set = verdict.kind == Kind::Set && sql.is_some();
        let mut pin = match literal_set {
            // What its assignments are is looked at one by one.
            true => pins(without(effects, Effects::SETS_OPAQUE)) && failed.is_none(),
            false => pins(effects),
        };
        if failed.is_none() {
            pin |= self.record_state(verdict, sql, done, literal_set);
            connection.applied = Rc::clone(&self.state);
        }
        if done.last_insert_id != 0
            || effects.intersects(Effects::SETS_LAST_INSERT_ID | Effects::RUNS_ROUTINE | Effects::OPAQUE)
        {
            self.owner.last_insert_id.set(LastInsertId::At(connection.serial));
            connection.insert_id = None;
        }
        if pin && side == Side::Primary {
            self.bonds.pinned = true;
        }
    }

    fn record_transaction(&mut self, verdict: &Verdict, done: &Done, failed: bool, side: Side) {
        let before = self.bonds.transaction;
        if done.status_told {
            self.bonds.transaction = self.status.has(StatusFlags::IN_TRANS).then_some(side);
        } else if failed && may_change_transaction(verdict, self.status.has(StatusFlags::AUTOCOMMIT)) {
            // Not known: kept until an answer tells.
            self.bonds.transaction = Some(side);
        }
        self.bonds.has_read = match (before, self.bonds.transaction) {
            (Some(_), Some(_)) => self.bonds.has_read || verdict.route == Route::Replica,
            _ => false,
        };
    }

    /// Notes what was set; says whether the session is pinned by it.
    fn record_state(
        &mut self,
        verdict: &Verdict,
        sql: Option<&[u8]>,
        done: &Done,
        literal_set: bool,
    ) -> bool {
        let effects = verdict.effects;
        let said = &done.state;
        let reported = said.changed
            || said.incomplete
            || said.schema.is_some()
            || !said.variables.is_empty()
            || done.status.has(StatusFlags::DB_DROPPED);
        if !reported && !effects.intersects(LITERAL | Effects::CHANGES_DATABASE) {
            return false;
        }
        let mut pin = done.state.incomplete;
        // A statement that sets nothing by its text has set something all the same: a trigger or a routine has.
        let explained = matches!(verdict.kind, Kind::Set | Kind::Use) || pins(effects);
        pin |= done.state.changed && !explained;
        let context = self.context();
        let mut state = (*self.state).clone();
        if let Some(sql) = sql.filter(|_| literal_set) {
            for one in assignments(sql, &context) {
                let opaque = matches!(one.value, pontoon_sql_class::Value::Opaque);
                if opaque && is_reported(one.target) {
                    continue;
                }
                pin |= state.assign(&one) == Noted::Pin;
            }
        }
        for (name, value) in &done.state.variables {
            pin |= state.report(name, value) == Noted::Pin;
            self.note_variable(name, value);
        }
        if done.status_told && done.status.has(StatusFlags::DB_DROPPED) && done.state.schema.is_none() {
            // The default database, as the server's status flag means it.
            state.database = None;
        } else if let Some(name) = &done.state.schema {
            state.database = (!name.is_empty()).then(|| name.clone().into());
        } else if effects.contains(Effects::CHANGES_DATABASE)
            && let Some(name) = sql.and_then(|sql| used_database(sql, &context))
        {
            state.database = Some(name.into_owned().into());
        }
        if state != *self.state {
            self.state = Rc::new(state);
        }
        pin
    }

    fn note_variable(&mut self, name: &[u8], value: &[u8]) {
        let text = String::from_utf8_lossy(value);
        if name.eq_ignore_ascii_case(b"sql_mode") {
            self.sql_mode = SqlMode::parse(&text);
        } else if name.eq_ignore_ascii_case(b"character_set_client") {
            self.charset = Charset::from_name(&text);
        } else if name.eq_ignore_ascii_case(b"tx_isolation")
            || name.eq_ignore_ascii_case(b"transaction_isolation")
        {
            self.serializable = text.eq_ignore_ascii_case("SERIALIZABLE");
            self.read_committed = text.to_ascii_uppercase().starts_with("READ-");
        }
    }

    /// What a session is after a reset: fresh, but for its default database, and on MySQL for its character set.
    pub(super) fn forget_everything(&mut self) {
        let mut state = State::fresh(self.state.database.as_deref());
        self.status = self.facts.status;
        self.sql_mode = self.facts.sql_mode;
        self.charset = self.facts.charset;
        if let Some(text) = &self.facts.text_after_reset {
            let set = format!("SET {}", text.assignments());
            for one in assignments(set.as_bytes(), &Context::new(self.facts.engine)) {
                // Names of character sets: nothing that could not be noted.
                let _ = state.assign(&one);
            }
            self.charset = Charset::from_name(&text.client);
        }
        self.state = Rc::new(state);
        self.track_again();
        self.serializable = self.facts.serializable;
        self.read_committed = false;
        self.statements.clear();
        self.owner.last_insert_id.set(LastInsertId::Known(0));
        self.bonds.transaction = None;
        self.bonds.has_read = false;
        self.bonds.previous = None;
        self.found = None;
        self.bonds.pinned = self.bound || self.facts.auto_is_null;
    }
}

/// Whether the server itself reports the variable's new value, so that an expression does not matter.
fn is_reported(target: Target<'_>) -> bool {
    let (Target::Session(name) | Target::SessionOrNext(name)) = target else {
        return false;
    };
    let charset = name
        .get(..13)
        .is_some_and(|head| head.eq_ignore_ascii_case(b"character_set"));
    !charset
        && TRACKED
            .iter()
            .any(|tracked| tracked.as_bytes().eq_ignore_ascii_case(name))
}

fn without(effects: Effects, other: Effects) -> Effects {
    Effects::NAMES
        .iter()
        .filter(|(one, _)| effects.contains(*one) && !other.contains(*one))
        .fold(Effects::NONE, |all, (one, _)| all | *one)
}
