//! Prepared statements: a client's numbers, texts, and what each connection has prepared. Pure.
//!
//! A statement is prepared where it is first asked for, and again wherever it is executed later. Its text means what
//! it meant when the client prepared it: default database, SQL mode and character set of that time go with it.

mod execute;

use std::collections::HashMap;
use std::rc::Rc;

pub use execute::{Execute, close, set_statement, with_types};

use pontoon_sql_class::{Context, Verdict, classify, digest};

use crate::session::state::State;

/// A statement that a client has prepared.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Its text.
    pub text: Rc<[u8]>,
    /// The session's state when it was prepared.
    pub reads: Rc<State>,
    /// What was found out about its text when it was executed last.
    pub known: Option<Known>,
    /// How many parameters it has.
    pub params: u16,
    /// The types of its parameters, as the client last sent them.
    pub types: Vec<u8>,
    /// Parts of parameters were sent to the connection that is held.
    pub long_data: bool,
    /// A cursor is open in the connection that is held.
    pub cursor: bool,
    /// Its number in the connection that is held, while something of it lives there.
    pub there: Option<u32>,
}

/// What is known of a statement's text, so that it is not read again each time it is executed.
#[derive(Clone, Debug)]
pub struct Known {
    /// How the session read it.
    pub context: Context,
    /// Where it goes.
    pub verdict: Verdict,
    /// The statement without its values.
    pub digest: String,
}

impl Statement {
    /// Where it goes when a session in `context` executes it.
    pub fn verdict(&mut self, context: Context) -> Verdict {
        if let Some(known) = &self.known
            && known.context == context
        {
            return known.verdict;
        }
        let verdict = classify(&self.text, &context);
        self.known = Some(Known {
            context,
            verdict,
            digest: digest(&self.text, &context),
        });
        verdict
    }

    /// Whether something of it lives in the connection that is held.
    pub fn binds(&self) -> bool {
        self.long_data || self.cursor
    }
}

/// A client's statements.
#[derive(Debug, Default)]
pub struct Statements {
    by_id: HashMap<u32, Statement>,
    last: u32,
    /// The last one was prepared, not refused.
    last_is_good: bool,
}

/// MariaDB: «the statement that was prepared last», so that a client can send the next command with the first.
pub const LAST_PREPARED: u32 = u32::MAX;

impl Statements {
    /// The number that the next statement gets.
    pub fn next_id(&self) -> u32 {
        let mut id = self.last.wrapping_add(1);
        while id == 0 || id == LAST_PREPARED || self.by_id.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        id
    }

    /// Keeps a statement under the number that [`Statements::next_id`] said.
    pub fn add(&mut self, id: u32, statement: Statement) {
        self.last = id;
        self.last_is_good = true;
        self.by_id.insert(id, statement);
    }

    /// Notes that the last one to be prepared was refused: there is none that [`LAST_PREPARED`] could mean.
    pub fn refused(&mut self) {
        self.last_is_good = false;
    }

    /// The number that a client means; `None` for the last one when that was refused.
    pub fn resolve(&self, id: u32) -> Option<u32> {
        match id {
            LAST_PREPARED => self.last_is_good.then_some(self.last),
            id => Some(id),
        }
    }

    /// A statement.
    pub fn get(&self, id: u32) -> Option<&Statement> {
        self.by_id.get(&id)
    }

    /// A statement, to note something about it.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut Statement> {
        self.by_id.get_mut(&id)
    }

    /// Forgets a statement.
    pub fn remove(&mut self, id: u32) -> Option<Statement> {
        self.by_id.remove(&id)
    }

    /// Forgets all; their memory too.
    pub fn clear(&mut self) {
        *self = Statements {
            last: self.last,
            ..Statements::default()
        };
    }

    /// Whether something of a statement lives in the connection that is held.
    pub fn bind(&self) -> bool {
        !self.by_id.is_empty() && self.by_id.values().any(Statement::binds)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }
}

/// The most statements that one connection has at once; servers have a limit over all connections
/// (`max_prepared_stmt_count`, 16,382).
const MAX_ON_BACKEND: usize = 128;

/// What one connection has prepared.
#[derive(Debug, Default)]
pub struct OnBackend {
    entries: Vec<Entry>,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    text: Rc<[u8]>,
    reads: Rc<State>,
    id: u32,
    used: u64,
    /// A client's statement has something open in it: it is not for another of the same text.
    bound: bool,
}

impl OnBackend {
    /// The connection's number for a statement, if it has it.
    pub fn find(&mut self, text: &Rc<[u8]>, reads: &Rc<State>) -> Option<u32> {
        self.clock += 1;
        let same_state = |entry: &Entry| Rc::ptr_eq(&entry.reads, reads) || entry.reads.reads_like(reads);
        let found = self.entries.iter_mut().find(|entry| {
            !entry.bound && (Rc::ptr_eq(&entry.text, text) || entry.text == *text) && same_state(entry)
        })?;
        found.used = self.clock;
        Some(found.id)
    }

    /// Notes that a statement was prepared; says which to close: the same of an earlier time, or when there are too many
    /// the one that was not used for longest.
    #[must_use]
    pub fn add(&mut self, text: Rc<[u8]>, reads: Rc<State>, id: u32) -> Option<u32> {
        self.clock += 1;
        let same = |entry: &Entry| !entry.bound && entry.text == text && entry.reads.reads_like(&reads);
        // One is enough, and the new one knows the tables as they are now.
        let mut going = self.entries.iter().position(same);
        if going.is_none() && self.entries.len() >= MAX_ON_BACKEND {
            let free = (0..self.entries.len()).filter(|at| !self.entries[*at].bound);
            going = free.min_by_key(|at| self.entries[*at].used);
        }
        let closed = going.map(|at| self.entries.swap_remove(at).id);
        self.entries.push(Entry {
            text,
            reads,
            id,
            used: self.clock,
            bound: false,
        });
        closed
    }

    /// Notes whether a client's statement has something open in this one.
    pub fn bind(&mut self, id: u32, bound: bool) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) {
            entry.bound = bound;
        }
    }

    /// Forgets a statement that the server does not know any more.
    pub fn forget(&mut self, id: u32) {
        self.entries.retain(|entry| entry.id != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(text: &str) -> Statement {
        Statement {
            text: text.as_bytes().into(),
            reads: Rc::default(),
            known: None,
            params: 0,
            types: Vec::new(),
            long_data: false,
            cursor: false,
            there: None,
        }
    }

    #[test]
    fn numbers_are_the_clients_own() {
        let mut statements = Statements::default();
        for expected in 1..4 {
            let id = statements.next_id();
            assert_eq!(id, expected);
            statements.add(id, statement("SELECT 1"));
        }
        assert_eq!(statements.resolve(LAST_PREPARED), Some(3));
        assert_eq!(statements.resolve(2), Some(2));
        statements.refused();
        assert_eq!(statements.resolve(LAST_PREPARED), None);
        statements.remove(3);
        assert_eq!(statements.next_id(), 4, "a number is not used again at once");
        statements.last = u32::MAX - 1;
        assert_eq!(statements.next_id(), 3, "neither 0 nor -1, nor one in use");
        assert!(!statements.bind());
        statements.get_mut(1).unwrap().cursor = true;
        assert!(statements.bind());
        statements.clear();
        assert!(!statements.bind() && statements.len() == 0);
    }

    #[test]
    fn a_text_is_found_again_only_where_it_means_the_same() {
        let mut on = OnBackend::default();
        let text: Rc<[u8]> = b"SELECT a FROM t"[..].into();
        let here = Rc::new(State::fresh(Some(b"here")));
        let there = Rc::new(State::fresh(Some(b"there")));
        assert_eq!(on.add(Rc::clone(&text), Rc::clone(&here), 7), None);
        assert_eq!(on.find(&text, &here), Some(7));
        assert_eq!(on.find(&text, &there), None);
        assert_eq!(
            on.find(&b"SELECT a FROM t"[..].into(), &Rc::new((*here).clone())),
            Some(7)
        );
        assert_eq!(
            on.add(Rc::clone(&text), Rc::clone(&here), 8),
            Some(7),
            "prepared anew"
        );
        assert_eq!(on.find(&text, &here), Some(8));
        on.bind(8, true);
        assert_eq!(
            on.find(&text, &here),
            None,
            "it is another's while that has a cursor"
        );
        assert_eq!(
            on.add(Rc::clone(&text), Rc::clone(&here), 9),
            None,
            "nor is it closed"
        );
        assert_eq!(on.find(&text, &here), Some(9));
        on.forget(9);
        on.bind(8, false);
        assert_eq!(on.find(&text, &here), Some(8));
        on.forget(8);
        assert_eq!(on.find(&text, &here), None);
    }

    #[test]
    fn the_one_that_was_not_used_for_longest_makes_room() {
        let mut on = OnBackend::default();
        let state = Rc::new(State::default());
        let text = |n: usize| -> Rc<[u8]> { format!("SELECT {n}").as_bytes().into() };
        for n in 0..MAX_ON_BACKEND {
            assert_eq!(on.add(text(n), Rc::clone(&state), n as u32), None);
        }
        assert_eq!(on.find(&text(0), &state), Some(0));
        assert_eq!(on.add(text(999), Rc::clone(&state), 999), Some(1));
        assert_eq!(on.find(&text(1), &state), None);
        assert_eq!(on.find(&text(0), &state), Some(0));
    }
}
