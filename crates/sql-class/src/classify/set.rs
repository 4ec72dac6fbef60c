//! What `SET` and `USE` leave behind, in pieces that can be sent again to another connection.
//!
//! Sources: MySQL manual, «SET Syntax for Variable Assignment», «SET NAMES», «SET CHARACTER SET», «SET TRANSACTION»;
//! MariaDB KB, «SET», «SET STATEMENT».

use std::borrow::Cow;

use crate::lexer::{Lexeme, Lexer, Token};
use crate::words::{Call, Keyword};
use crate::{Context, Effects};

use super::ends;

/// What is assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A session variable: `SET SESSION name = value`.
    Session(&'a [u8]),
    /// A session variable by `@@name`. The manual tells it apart from `SET name` for the isolation level and the
    /// access mode of transactions: there it means the next transaction only.
    SessionOrNext(&'a [u8]),
    /// A variable of the whole server, by `GLOBAL`, `PERSIST` or `PERSIST_ONLY`.
    Global(&'a [u8]),
    /// A user variable, as it was written after the `@`.
    UserVariable(&'a [u8]),
    /// `SET NAMES value`; a [`Target::Collation`] may follow.
    Names,
    /// `COLLATE value` of the `SET NAMES` before.
    Collation,
    /// `SET CHARACTER SET value`.
    CharacterSet,
    /// `SET SESSION TRANSACTION value`.
    SessionTransaction,
    /// `SET TRANSACTION value`: for the next transaction of the connection only.
    NextTransaction,
    /// `SET ROLE`, `SET DEFAULT ROLE`.
    Role,
    /// `SET PASSWORD`, `SET STATEMENT … FOR`, `SET RESOURCE GROUP`, or what cannot be read.
    Other,
}

/// The value that is assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A string, without its quotes. No quote and no backslash is inside, so that `'…'` around it is right in any
    /// `sql_mode`.
    Text(&'a [u8]),
    /// A number, perhaps with a sign, or plain words, to be sent as they are.
    Plain(&'a [u8]),
    /// `DEFAULT`.
    Default,
    /// An expression: only the server knows its value.
    Opaque,
}

/// One assignment of a `SET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment<'a> {
    /// What is assigned.
    pub target: Target<'a>,
    /// Its value.
    pub value: Value<'a>,
}

/// The assignments of a `SET`; of anything else, and of several statements, there are none.
pub fn assignments<'a>(sql: &'a [u8], context: &Context) -> Assignments<'a> {
    let mut lexer = Lexer::new(sql, context);
    let is_set = lexer.next().token.keyword() == Keyword::Set;
    let mut ahead = lexer;
    while is_set && !ends(ahead.next().token) {}
    Assignments {
        lexer,
        scope: Scope::Session,
        collate: false,
        done: !is_set || !ahead.at_end(),
    }
}

/// The database that a `USE` names; none for anything else.
pub fn used_database<'a>(sql: &'a [u8], context: &Context) -> Option<Cow<'a, [u8]>> {
    let mut lexer = Lexer::new(sql, context);
    if lexer.next().token.keyword() != Keyword::Use {
        return None;
    }
    let name = lexer.next();
    let written = lexer.slice(name);
    if !lexer.at_end() {
        return None;
    }
    match name.token {
        Token::Word(_) => Some(Cow::Borrowed(written)),
        Token::Quoted => {
            let quote = *written.first()?;
            let inner = written.get(1..written.len().checked_sub(1)?)?;
            if !inner.contains(&quote) {
                return Some(Cow::Borrowed(inner));
            }
            let mut plain = Vec::with_capacity(inner.len());
            let mut bytes = inner.iter();
            while let Some(byte) = bytes.next() {
                plain.push(*byte);
                if *byte == quote {
                    bytes.next();
                }
            }
            Some(Cow::Owned(plain))
        }
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Session,
    Global,
}

/// See [`assignments`].
#[derive(Clone)]
pub struct Assignments<'a> {
    lexer: Lexer<'a>,
    /// The last scope that was written holds for what follows without one.
    scope: Scope,
    /// `COLLATE` comes next.
    collate: bool,
    done: bool,
}

impl<'a> Iterator for Assignments<'a> {
    type Item = Assignment<'a>;

    fn next(&mut self) -> Option<Assignment<'a>> {
        if self.done {
            return None;
        }
        if std::mem::take(&mut self.collate) {
            return Some(self.valued(Target::Collation));
        }
        let mut name = self.lexer.next();
        let mut scoped = false;
        loop {
            self.scope = match name.token.keyword() {
                Keyword::Global | Keyword::Persist | Keyword::PersistOnly => Scope::Global,
                Keyword::Session | Keyword::Local => Scope::Session,
                _ => break,
            };
            scoped = true;
            name = self.lexer.next();
        }
        Some(match name.token {
            Token::UserVariable => {
                let target = Target::UserVariable(self.lexer.slice(name).get(1..).unwrap_or_default());
                self.assigned(target)
            }
            Token::SystemVariable => {
                let target = by_sign(self.lexer.slice(name));
                self.assigned(target)
            }
            Token::Word(_) | Token::Quoted => self.named(name, scoped),
            _ => self.other(Target::Other),
        })
    }
}

/// The target of `@@name`, `@@scope.name`.
fn by_sign(written: &[u8]) -> Target<'_> {
    let name = written.get(2..).unwrap_or_default();
    let dot = name.iter().position(|byte| *byte == b'.');
    let Some((scope, rest)) = dot.and_then(|dot| Some((name.get(..dot)?, name.get(dot + 1..)?))) else {
        return Target::SessionOrNext(name);
    };
    let is = |other: &[u8]| scope.eq_ignore_ascii_case(other);
    match () {
        () if is(b"session") || is(b"local") => Target::Session(rest),
        () if is(b"global") || is(b"persist") || is(b"persist_only") => Target::Global(rest),
        // A variable of a component or a key cache.
        () => Target::SessionOrNext(name),
    }
}

impl<'a> Assignments<'a> {
    fn named(&mut self, name: Lexeme, scoped: bool) -> Assignment<'a> {
        match name.token.keyword() {
            Keyword::Names => return self.valued(Target::Names),
            Keyword::Charset => return self.valued(Target::CharacterSet),
            Keyword::Character | Keyword::Char => {
                return match self.lexer.next().token.keyword() {
                    Keyword::Set => self.valued(Target::CharacterSet),
                    _ => self.other(Target::Other),
                };
            }
            Keyword::Transaction => return self.transaction(scoped),
            Keyword::Role => return self.other(Target::Role),
            Keyword::Default => return self.other(Target::Role),
            Keyword::Password | Keyword::Statement | Keyword::Resource => return self.other(Target::Other),
            _ => {}
        }
        // A variable may have a name of two parts.
        let mut end = name.end;
        let mut ahead = self.lexer;
        if ahead.next().token == Token::Dot {
            end = ahead.next().end;
            self.lexer = ahead;
        }
        let written = self.lexer.slice(Lexeme { end, ..name });
        let target = match self.scope {
            Scope::Session => Target::Session(written),
            Scope::Global => Target::Global(written),
        };
        self.assigned(target)
    }

    /// `= value` or `:= value`, and the comma after it.
    fn assigned(&mut self, target: Target<'a>) -> Assignment<'a> {
        match self.lexer.next().token {
            Token::Equals | Token::Assign => self.valued(target),
            _ => self.other(target),
        }
    }

    fn valued(&mut self, target: Target<'a>) -> Assignment<'a> {
        let first = self.lexer.next();
        let mut last = first;
        if first.token == Token::Operator && matches!(self.lexer.slice(first), b"-" | b"+") {
            last = self.lexer.next();
        }
        let value = self.value(first, last, target);
        let mut depth = 0usize;
        let mut alone = true;
        loop {
            let lexeme = self.lexer.next();
            match lexeme.token {
                token if ends(token) => {
                    self.done = true;
                    break;
                }
                Token::Comma if depth == 0 => break,
                Token::Word(word) if word.keyword == Keyword::Collate && target == Target::Names => {
                    self.collate = true;
                    break;
                }
                Token::Open => depth += 1,
                Token::Close => depth = depth.saturating_sub(1),
                _ => {}
            }
            alone = false;
        }
        Assignment {
            target,
            value: if alone { value } else { Value::Opaque },
        }
    }

    fn value(&self, first: Lexeme, last: Lexeme, target: Target<'a>) -> Value<'a> {
        let written = self.lexer.slice(Lexeme {
            end: last.end,
            ..first
        });
        let is_name = matches!(target, Target::Names | Target::CharacterSet | Target::Collation);
        match (first.token, last.token) {
            (Token::Text, _) => {
                let inner = written
                    .get(1..written.len().saturating_sub(1))
                    .unwrap_or_default();
                match inner.iter().any(|byte| matches!(byte, b'\'' | b'"' | b'\\' | 0)) {
                    true => Value::Opaque,
                    false => Value::Text(inner),
                }
            }
            (Token::Number, _) | (Token::Operator, Token::Number) => Value::Plain(written),
            (Token::Word(word), _) => match word.keyword {
                Keyword::Default => Value::Default,
                // CURRENT_TIMESTAMP and others are calls without parentheses.
                _ if word.call().call == Call::Pure && !is_name => Value::Opaque,
                _ => Value::Plain(written),
            },
            _ => Value::Opaque,
        }
    }

    fn transaction(&mut self, scoped: bool) -> Assignment<'a> {
        let target = match (scoped, self.scope) {
            (false, _) => Target::NextTransaction,
            (true, Scope::Session) => Target::SessionTransaction,
            (true, Scope::Global) => Target::Global(b"transaction"),
        };
        let first = self.lexer.next();
        let (mut last, mut plain) = (first, matches!(first.token, Token::Word(_)));
        self.done = true;
        loop {
            let lexeme = self.lexer.next();
            if ends(lexeme.token) {
                break;
            }
            plain &= matches!(lexeme.token, Token::Word(_) | Token::Comma);
            last = lexeme;
        }
        let written = self.lexer.slice(Lexeme {
            end: last.end,
            ..first
        });
        // A comment in the words would be sent again.
        plain &= written
            .iter()
            .all(|byte| byte.is_ascii_alphabetic() || byte.is_ascii_whitespace() || *byte == b',');
        Assignment {
            target,
            value: if plain {
                Value::Plain(written)
            } else {
                Value::Opaque
            },
        }
    }

    fn other(&mut self, target: Target<'a>) -> Assignment<'a> {
        self.done = true;
        Assignment {
            target,
            value: Value::Opaque,
        }
    }
}

/// The two names of one variable.
const LAST_INSERT_ID: [&[u8]; 2] = [b"last_insert_id", b"identity"];

/// Session variables whose value must not reach another connection by itself: they are about the next statement, the
/// binary log or replication (MySQL manual, «Replication and Binary Logging Options and Variables»; MariaDB KB,
/// «Global Transaction ID»).
const NOT_TO_REPLAY: &[&[u8]] = &[
    b"binlog_format",
    b"gtid_domain_id",
    b"gtid_next",
    b"gtid_seq_no",
    b"insert_id",
    b"pseudo_replica_mode",
    b"pseudo_slave_mode",
    b"pseudo_thread_id",
    b"rand_seed1",
    b"rand_seed2",
    b"server_id",
    b"skip_replication",
    b"sql_log_bin",
];

/// Whether a session variable's value must not be set on another connection, although it is known.
pub fn must_not_be_replayed(name: &[u8]) -> bool {
    let is = |other: &&[u8]| name.eq_ignore_ascii_case(other);
    NOT_TO_REPLAY.iter().any(is) || LAST_INSERT_ID.iter().any(is)
}

/// The effects of the `SET` that begins at `lexer`.
pub(super) fn effects(lexer: Lexer<'_>, broken: bool) -> Effects {
    if broken {
        return Effects::OPAQUE;
    }
    let mut lexer = lexer;
    lexer.next();
    let all = Assignments {
        lexer,
        scope: Scope::Session,
        collate: false,
        done: false,
    };
    all.fold(Effects::NONE, |effects, one| effects | effect(one))
}

fn effect(assignment: Assignment<'_>) -> Effects {
    let literal = |effects| match assignment.value {
        Value::Opaque => Effects::SETS_OPAQUE,
        _ => effects,
    };
    match assignment.target {
        Target::Session(name) | Target::SessionOrNext(name) => {
            let is = |other: &&[u8]| name.eq_ignore_ascii_case(other);
            const NEXT: [&[u8]; 4] = [
                b"transaction_isolation",
                b"transaction_read_only",
                b"tx_isolation",
                b"tx_read_only",
            ];
            match () {
                () if LAST_INSERT_ID.iter().any(is) => Effects::SETS_LAST_INSERT_ID,
                () if NOT_TO_REPLAY.iter().any(is) => Effects::SETS_OPAQUE,
                () if matches!(assignment.target, Target::SessionOrNext(_)) && NEXT.iter().any(is) => {
                    Effects::NEXT_TRANSACTION
                }
                () => literal(Effects::SETS_VARIABLES),
            }
        }
        Target::SessionTransaction => literal(Effects::SETS_VARIABLES),
        Target::Global(_) => Effects::SETS_GLOBAL,
        Target::UserVariable(_) => literal(Effects::SETS_USER_VARIABLES),
        Target::Names | Target::Collation | Target::CharacterSet => literal(Effects::CHANGES_CHARSET),
        Target::NextTransaction => Effects::NEXT_TRANSACTION,
        Target::Role => Effects::CHANGES_ROLE,
        Target::Other => Effects::SETS_OPAQUE,
    }
}
