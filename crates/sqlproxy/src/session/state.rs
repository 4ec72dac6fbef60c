//! What a session has set, and what of it a backend connection has. Pure.
//!
//! Both are a [`State`]: everything that differs from a fresh login with the same pool key. A state is shared, not
//! copied: the connection that a session last used has the session's own, so that «nothing to do» is one comparison
//! of two pointers.

use std::rc::Rc;

use pontoon_sql_class::{Assignment, Target, Value, must_not_be_replayed};

/// A name, and what stands after the `=`.
type Entry = (Box<[u8]>, Box<[u8]>);

/// Everything that a session has set and that can be set again elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The default database.
    pub database: Option<Box<[u8]>>,
    /// `SET NAMES`: what stands after it.
    names: Option<Box<[u8]>>,
    /// `SET SESSION TRANSACTION`: what stands after it, by kind (isolation level, access mode).
    transaction: [Option<Box<[u8]>>; 2],
    /// Session variables by name in lower case, and what stands after the `=`; sorted.
    variables: Vec<Entry>,
    /// User variables likewise.
    user_variables: Vec<Entry>,
}

/// Whether an assignment could be noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Noted {
    /// It will be set on every other connection too.
    Yes,
    /// It cannot be set again elsewhere: the session has to stay where it is.
    Pin,
}

/// One command that makes a connection's state what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setup {
    /// A statement.
    Sql(Vec<u8>),
    /// COM_INIT_DB.
    InitDb(Vec<u8>),
}

/// How to get from one state to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// These commands, in this order; none when the states are equal.
    Commands(Vec<Setup>),
    /// COM_RESET_CONNECTION first: something is to be as if it had never been set.
    Reset,
    /// Not at all: no command takes the default database away.
    Impossible,
}

/// The variables that a server reports by itself when they change (`session_track_system_variables`), beside the
/// position. What is reported is believed rather than what was written.
pub const TRACKED: &[&str] = &[
    "autocommit",
    "character_set_client",
    "character_set_connection",
    "character_set_results",
    "foreign_key_checks",
    "sql_mode",
    "time_zone",
    "unique_checks",
];

const CHARSET: [&[u8]; 4] = [
    b"character_set_client",
    b"character_set_connection",
    b"character_set_results",
    b"collation_connection",
];
const ISOLATION: [&[u8]; 2] = [b"transaction_isolation", b"tx_isolation"];
const ACCESS: [&[u8]; 2] = [b"transaction_read_only", b"tx_read_only"];

/// More is not carried along: the session stays where it is.
const MAX_ENTRIES: usize = 64;
const MAX_VALUE: usize = 1024;

impl State {
    /// A fresh session with that default database.
    pub fn fresh(database: Option<&[u8]>) -> State {
        State {
            database: database.map(Into::into),
            ..State::default()
        }
    }

    /// What MariaDB leaves a session when its COM_CHANGE_USER was refused: its database and its character sets.
    pub fn after_refused_change(&self) -> State {
        let charset = |entry: &&Entry| CHARSET.contains(&&entry.0[..]);
        State {
            database: self.database.clone(),
            names: self.names.clone(),
            variables: self.variables.iter().filter(charset).cloned().collect(),
            ..State::default()
        }
    }

    /// Notes one assignment of a statement that the server has executed.
    pub fn assign(&mut self, assignment: &Assignment<'_>) -> Noted {
        let value: Box<[u8]> = match assignment.value {
            Value::Text(text) => [b"'", text, b"'"].concat().into(),
            Value::Plain(plain) => plain.into(),
            Value::Default => b"DEFAULT"[..].into(),
            Value::Opaque => return Noted::Pin,
        };
        if value.len() > MAX_VALUE || !value.is_ascii() {
            // Bytes beyond ASCII mean something else once the character set has changed.
            return Noted::Pin;
        }
        match assignment.target {
            Target::Session(name) | Target::SessionOrNext(name) => self.assign_variable(name, value),
            Target::UserVariable(name) => {
                let plain = name
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_.$".contains(byte));
                match plain && !name.is_empty() {
                    true => put(&mut self.user_variables, name.to_ascii_lowercase().into(), value),
                    false => Noted::Pin,
                }
            }
            Target::Names => {
                self.variables.retain(|(name, _)| !CHARSET.contains(&&name[..]));
                self.names = Some(value);
                self.charset_changed()
            }
            Target::Collation => match &mut self.names {
                Some(names) => {
                    *names = [names, &b" COLLATE "[..], &value].concat().into();
                    Noted::Yes
                }
                None => Noted::Pin,
            },
            Target::SessionTransaction => self.assign_transaction(&value),
            Target::Global(_) => Noted::Yes,
            Target::CharacterSet | Target::NextTransaction | Target::Role | Target::Other => Noted::Pin,
        }
    }

    fn assign_variable(&mut self, written: &[u8], value: Box<[u8]>) -> Noted {
        let name = written.to_ascii_lowercase();
        let plain = name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        // A session that changes what is tracked can no longer be followed.
        if !plain || name.is_empty() || name.starts_with(b"session_track") || must_not_be_replayed(&name) {
            return Noted::Pin;
        }
        let stays = match &name[..] {
            // `WHERE id IS NULL` finds the row that the connection inserted last.
            b"sql_auto_is_null" => !is_one_of(&value, &[b"0", b"OFF", b"FALSE"]),
            // The server closes the connection after each transaction.
            b"completion_type" => !is_one_of(&value, &[b"0", b"1", b"NO_CHAIN", b"CHAIN", b"DEFAULT"]),
            _ => false,
        };
        if stays {
            return Noted::Pin;
        }
        let others: &[&[u8]] = match &name[..] {
            b"character_set_connection" => &[b"collation_connection"],
            b"collation_connection" => &[b"character_set_connection"],
            name if ISOLATION.contains(&name) => {
                self.transaction[0] = None;
                &ISOLATION
            }
            name if ACCESS.contains(&name) => {
                self.transaction[1] = None;
                &ACCESS
            }
            _ => &[],
        };
        self.variables.retain(|(known, _)| !others.contains(&&known[..]));
        let charset = CHARSET.contains(&&name[..]);
        match put(&mut self.variables, name.into(), value) {
            Noted::Yes if charset => self.charset_changed(),
            noted => noted,
        }
    }

    /// Strings in user variables have the character set of the time when they were set.
    fn charset_changed(&self) -> Noted {
        match self
            .user_variables
            .iter()
            .any(|(_, value)| value.starts_with(b"'"))
        {
            true => Noted::Pin,
            false => Noted::Yes,
        }
    }

    fn assign_transaction(&mut self, words: &[u8]) -> Noted {
        for part in words.split(|byte| *byte == b',') {
            let part = part.trim_ascii();
            let kind = match part.first().map(u8::to_ascii_uppercase) {
                Some(b'I') => 0,
                Some(b'R') => 1,
                _ => return Noted::Pin,
            };
            let names = if kind == 0 { ISOLATION } else { ACCESS };
            self.variables.retain(|(name, _)| !names.contains(&&name[..]));
            self.transaction[kind] = Some(part.into());
        }
        Noted::Yes
    }

    /// Notes what a server reported about a variable of [`TRACKED`]; all others are ignored.
    pub fn report(&mut self, name: &[u8], value: &[u8]) -> Noted {
        let known = TRACKED
            .iter()
            .any(|tracked| tracked.as_bytes().eq_ignore_ascii_case(name));
        if !known {
            return Noted::Yes;
        }
        if value.len() > MAX_VALUE
            || value.iter().any(|byte| matches!(byte, b'\'' | b'\\'))
            || !value.is_ascii()
        {
            return Noted::Pin;
        }
        let is_charset = CHARSET.iter().any(|charset| charset.eq_ignore_ascii_case(name));
        if is_charset {
            // `SET NAMES` is noted as written, with its collation. Set by another way (in a procedure), it is not
            // the whole truth: the collation is not reported.
            return Noted::Yes;
        }
        put(
            &mut self.variables,
            name.to_ascii_lowercase().into(),
            [b"'", value, b"'"].concat().into(),
        )
    }

    /// The commands that lead from `applied`, which a connection has, to this state.
    pub fn difference(self: &Rc<State>, applied: &Rc<State>) -> Difference {
        if Rc::ptr_eq(self, applied) || self == applied {
            return Difference::Commands(Vec::new());
        }
        if self.database.is_none() && applied.database.is_some() {
            return Difference::Impossible;
        }
        let lacks = |wanted: &[Entry], has: &[Entry]| {
            has.iter()
                .any(|(name, _)| wanted.binary_search_by(|(known, _)| known.cmp(name)).is_err())
        };
        let unset = lacks(&self.variables, &applied.variables)
            || lacks(&self.user_variables, &applied.user_variables)
            || (self.names.is_none() && applied.names.is_some())
            || self
                .transaction
                .iter()
                .zip(&applied.transaction)
                .any(|(wanted, has)| wanted.is_none() && has.is_some());
        if unset {
            return Difference::Reset;
        }
        Difference::Commands(self.commands(applied))
    }

    /// The commands that make a connection in its fresh state, but with the database of `kept`, have this one.
    pub fn after_reset(&self, kept: &Option<Box<[u8]>>) -> Vec<Setup> {
        self.commands(&State::fresh(kept.as_deref()))
    }

    fn commands(&self, applied: &State) -> Vec<Setup> {
        let mut commands = Vec::new();
        let mut set = Vec::new();
        let mut item = |parts: &[&[u8]]| {
            set.extend_from_slice(if set.is_empty() { b"SET " } else { b"," });
            parts.iter().for_each(|part| set.extend_from_slice(part));
        };
        let names = match &self.names {
            Some(names) if self.names != applied.names => Some(names),
            _ => None,
        };
        if let Some(names) = names {
            item(&[b"NAMES ", names]);
        }
        for (name, value) in &self.variables {
            // SET NAMES changes what these were.
            let again = names.is_some() && CHARSET.contains(&&name[..]);
            if again || get(&applied.variables, name) != Some(&value[..]) {
                item(&[b"SESSION ", name, b"=", value]);
            }
        }
        if !set.is_empty() {
            commands.push(Setup::Sql(set));
        }
        for (wanted, has) in self.transaction.iter().zip(&applied.transaction) {
            if let Some(words) = wanted.as_ref().filter(|_| wanted != has) {
                commands.push(Setup::Sql([b"SET SESSION TRANSACTION ", &words[..]].concat()));
            }
        }
        let mut set = Vec::new();
        for (name, value) in &self.user_variables {
            if get(&applied.user_variables, name) != Some(&value[..]) {
                set.extend_from_slice(if set.is_empty() { b"SET @" } else { b",@" });
                [name, &b"="[..], value]
                    .iter()
                    .for_each(|part| set.extend_from_slice(part));
            }
        }
        if !set.is_empty() {
            commands.push(Setup::Sql(set));
        }
        if let Some(database) = &self.database
            && self.database != applied.database
        {
            commands.push(Setup::InitDb(database.to_vec()));
        }
        commands
    }

    /// The value of a session variable that was set, as it stands after the `=`.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        get(&self.variables, name.as_bytes())
    }

    /// What the meaning of a statement's text depends on.
    pub fn reads_like(&self, other: &State) -> bool {
        let mode = |state: &State| state.variable("sql_mode").map(<[u8]>::to_vec);
        let charset = |state: &State| CHARSET.map(|name| get(&state.variables, name).map(<[u8]>::to_vec));
        self.database == other.database
            && self.names == other.names
            && mode(self) == mode(other)
            && charset(self) == charset(other)
    }
}

fn is_one_of(value: &[u8], known: &[&[u8]]) -> bool {
    let plain = value.strip_prefix(b"'").unwrap_or(value);
    let plain = plain.strip_suffix(b"'").unwrap_or(plain);
    known.iter().any(|one| one.eq_ignore_ascii_case(plain))
}

fn get<'a>(entries: &'a [Entry], name: &[u8]) -> Option<&'a [u8]> {
    let at = entries.binary_search_by(|(known, _)| known[..].cmp(name)).ok()?;
    entries.get(at).map(|(_, value)| &value[..])
}

fn put(entries: &mut Vec<Entry>, name: Box<[u8]>, value: Box<[u8]>) -> Noted {
    match entries.binary_search_by(|(known, _)| known.cmp(&name)) {
        Ok(at) => entries[at].1 = value,
        Err(_) if entries.len() >= MAX_ENTRIES => return Noted::Pin,
        Err(at) => entries.insert(at, (name, value)),
    }
    Noted::Yes
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
