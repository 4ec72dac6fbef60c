//! Over all tokens of one statement: what speaks against a replica, and what is left behind.

use crate::lexer::{Lexeme, Lexer, Token};
use crate::words::{Call, Keyword, Use, Word};
use crate::{Context, Effects, Kind, Previous, Reason};

use super::system;
use super::verb::Verb;

/// What the walk over a statement has found so far.
pub(super) struct Scan<'a> {
    pub(super) verb: Verb<'a>,
    /// After the semicolon, once it has run.
    pub(super) lexer: Lexer<'a>,
    pub(super) effects: Effects,
    /// The first thing that speaks against a replica, and where.
    pub(super) refusal: Option<(Reason, usize)>,
    /// A connection of before that has to answer.
    pub(super) previous: Option<(Previous, usize)>,
    /// A token could not be read.
    pub(super) broken: bool,
    context: &'a Context,
    depth: usize,
    before: Lexeme,
    earlier: Lexeme,
    /// What the next token has to be.
    expected: Expected,
    /// `INTO` was passed.
    into: bool,
    /// `JSON_TABLE(` was passed as often without its `COLUMNS`.
    json_tables: usize,
    /// The last string followed a comma.
    path_after_comma: bool,
    /// `SELECT`, `VALUES` or `TABLE` stands outside of all parentheses.
    has_main: bool,
    /// The names of information_schema and of its column AUTO_INCREMENT were passed.
    information_schema: bool,
    auto_increment: bool,
    /// In `INSERT`: what comes next with a parenthesis is a table and its columns.
    columns_follow: bool,
}

/// What the token before asks of this one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Anything,
    /// `INSERT` and `REPLACE` are functions in a read.
    Parenthesis,
    /// `USE INDEX`, `USE KEY`.
    Index,
    /// `FOR` of what?
    ForWhat,
    /// A table of information_schema.
    InformationSchemaTable,
}

impl<'a> Scan<'a> {
    pub(super) fn new(context: &'a Context, verb: Verb<'a>, begin: Lexer<'a>) -> Scan<'a> {
        Scan {
            lexer: verb.resume.unwrap_or(begin),
            effects: Effects::NONE,
            refusal: None,
            previous: verb.previous.map(|previous| (previous, 0)),
            broken: false,
            context,
            depth: 0,
            before: Lexeme::NONE,
            earlier: Lexeme::NONE,
            expected: Expected::Anything,
            into: false,
            json_tables: 0,
            path_after_comma: false,
            has_main: !verb.needs_main,
            information_schema: false,
            auto_increment: false,
            columns_follow: matches!(verb.kind, Kind::Insert | Kind::Replace),
            verb,
        }
    }

    /// Walks to the end of the statement. True when nothing can follow: the end of the text, or of what can be read.
    pub(super) fn run(&mut self) -> bool {
        loop {
            let lexeme = self.lexer.next();
            if self.expected != Expected::Anything {
                self.check_expected(lexeme);
            }
            match lexeme.token {
                Token::Word(word) => self.word(lexeme, word),
                Token::Open => {
                    self.depth += 1;
                    self.parenthesis(lexeme);
                }
                Token::Close => match self.depth.checked_sub(1) {
                    Some(depth) => self.depth = depth,
                    None => self.refuse(Reason::Unbalanced, lexeme),
                },
                Token::Dot => self.dot(lexeme),
                Token::Assign => {
                    self.refuse(Reason::Assignment, lexeme);
                    if self.verb.kind != Kind::Set {
                        self.effects |= Effects::SETS_OPAQUE;
                    }
                }
                Token::UserVariable => {
                    self.refuse(Reason::UserVariable, lexeme);
                    // SET @a = 1, @b = 2
                    let assigned = self.verb.kind == Kind::Set
                        && (self.before.token == Token::Comma || self.before.token.keyword() == Keyword::Set);
                    self.effects |= match (self.into, assigned) {
                        (true, _) => Effects::SETS_OPAQUE,
                        (_, true) => Effects::NONE,
                        (false, false) => Effects::USES_USER_VARIABLES,
                    };
                }
                Token::SystemVariable => self.system_variable(lexeme),
                Token::Semicolon | Token::End => {
                    self.finish(lexeme);
                    return lexeme.token == Token::End;
                }
                Token::Broken(reason) => {
                    self.refuse(reason, lexeme);
                    self.effects |= Effects::OPAQUE;
                    self.broken = true;
                    return true;
                }
                Token::Text => self.path_after_comma = self.before.token == Token::Comma,
                Token::Quoted
                | Token::Number
                | Token::Parameter
                | Token::Comma
                | Token::Equals
                | Token::Operator => {}
            }
            self.earlier = self.before;
            self.before = lexeme;
        }
    }

    fn refuse(&mut self, reason: Reason, at: Lexeme) {
        if self.refusal.is_none() {
            self.refusal = Some((reason, at.start));
        }
    }

    fn check_expected(&mut self, lexeme: Lexeme) {
        let keyword = lexeme.token.keyword();
        let reason = match self.expected {
            Expected::Parenthesis if lexeme.token != Token::Open => Some(Reason::UnexpectedKeyword),
            Expected::Index if !matches!(keyword, Keyword::Index | Keyword::Key) => {
                Some(Reason::UnexpectedKeyword)
            }
            Expected::ForWhat => match keyword {
                Keyword::Update | Keyword::Share => Some(Reason::Locking),
                // «SELECT Statement», index hints; MariaDB KB, «System-Versioned Tables».
                Keyword::Join | Keyword::Order | Keyword::Group | Keyword::SystemTime => None,
                // SUBSTRING(a FROM 1 FOR 2)
                _ if self.depth > 0 && !super::ends(lexeme.token) => None,
                _ => Some(Reason::UnexpectedSyntax),
            },
            Expected::InformationSchemaTable => {
                (!system::same_everywhere(self.lexer.slice(lexeme))).then_some(Reason::ServerFacts)
            }
            _ => None,
        };
        self.expected = Expected::Anything;
        if let Some(reason) = reason {
            self.refuse(reason, lexeme);
        }
    }

    fn word(&mut self, lexeme: Lexeme, word: Word) {
        let keyword = word.keyword;
        match keyword {
            Keyword::None | Keyword::Clause => return,
            Keyword::Select | Keyword::Values | Keyword::Table => {
                self.columns_follow = false;
                self.has_main |= self.depth == 0;
            }
            Keyword::CalcFoundRows => self.effects |= Effects::SETS_FOUND_ROWS,
            Keyword::AutoIncrement => self.auto_increment = true,
            Keyword::Into => self.into = true,
            Keyword::Set => self.columns_follow = false,
            _ => {}
        }
        match keyword.usage() {
            Use::Free | Use::Open => {}
            Use::Depends => self.contextual(lexeme, keyword),
            Use::Never => self.forbidden(lexeme, keyword),
        }
    }

    fn contextual(&mut self, lexeme: Lexeme, keyword: Keyword) {
        match keyword {
            // MariaDB KB, «Sequence Functions»: NEXT VALUE FOR s, PREVIOUS VALUE FOR s.
            Keyword::For if self.before.token.keyword() == Keyword::Value => {
                self.refuse(Reason::Sequence, lexeme);
            }
            Keyword::For => self.expected = Expected::ForWhat,
            Keyword::Use => self.expected = Expected::Index,
            // CAST(a AS CHAR CHARACTER SET utf8mb4)
            Keyword::Set if matches!(self.before.token.keyword(), Keyword::Character | Keyword::Char) => {}
            _ => self.refuse(Reason::UnexpectedKeyword, lexeme),
        }
    }

    fn forbidden(&mut self, lexeme: Lexeme, keyword: Keyword) {
        if self.verb.needs_main && !self.has_main && self.depth == 0 {
            // «WITH (Common Table Expressions)»: the statement after the list.
            self.verb.kind = match keyword {
                Keyword::Update => Kind::Update,
                Keyword::Delete => Kind::Delete,
                Keyword::Insert => Kind::Insert,
                Keyword::Replace => Kind::Replace,
                _ => self.verb.kind,
            };
            if self.verb.kind != Kind::Select {
                self.refuse(Reason::NotARead(self.verb.kind), lexeme);
            }
        }
        match keyword {
            Keyword::Insert | Keyword::Replace => self.expected = Expected::Parenthesis,
            Keyword::Into => self.refuse(Reason::Into, lexeme),
            Keyword::Lock => self.refuse(Reason::Locking, lexeme),
            _ => self.refuse(Reason::UnexpectedKeyword, lexeme),
        }
    }

    /// `schema.` before a name.
    fn dot(&mut self, lexeme: Lexeme) {
        let name = match self.before.token {
            Token::Word(_) | Token::Quoted if self.earlier.token != Token::Dot => {
                system::unquoted(self.lexer.slice(self.before))
            }
            _ => return,
        };
        if name.eq_ignore_ascii_case(b"information_schema") {
            self.information_schema = true;
            self.expected = Expected::InformationSchemaTable;
        } else if system::is_system_schema(name) {
            self.refuse(Reason::ServerFacts, lexeme);
        }
    }

    fn system_variable(&mut self, lexeme: Lexeme) {
        match system::variable(self.lexer.slice(lexeme)) {
            system::Variable::Everywhere => {}
            system::Variable::Previous(previous) => self.ask(previous, lexeme),
            system::Variable::Primary => self.refuse(Reason::SystemVariable, lexeme),
        }
    }

    /// The answer is on a connection of before. The last write wins over the last statement: a wrong id is worse than
    /// a wrong count.
    fn ask(&mut self, previous: Previous, lexeme: Lexeme) {
        self.effects |= match previous {
            Previous::Write => Effects::USES_LAST_INSERT_ID,
            _ => Effects::USES_PREVIOUS_STATEMENT,
        };
        if self.previous.is_none() || previous == Previous::Write {
            self.previous = Some((previous, lexeme.start));
        }
    }

    // ---- parentheses

    /// What stands before a parenthesis: nothing, an operator or a keyword; or a call.
    fn parenthesis(&mut self, open: Lexeme) {
        let before = self.before;
        match before.token {
            Token::Word(word) if self.earlier.token != Token::Dot => self.call(open, word),
            Token::Word(_) | Token::Quoted => self.name_with_parenthesis(),
            Token::Text
            | Token::Number
            | Token::Parameter
            | Token::Close
            | Token::SystemVariable
            | Token::UserVariable => self.refuse(Reason::UnexpectedSyntax, open),
            _ => {}
        }
    }

    fn call(&mut self, open: Lexeme, word: Word) {
        let group = word.call();
        let context = self.context;
        if !group.exists(context.engine, context.version) {
            return self.name_with_parenthesis();
        }
        if group.touching(context.engine) && self.before.end != open.start && !self.only_blanks_before(open) {
            return self.name_with_parenthesis();
        }
        let before = self.before;
        match group.call {
            Call::Pure => {}
            Call::Grammar => self.json_tables += usize::from(word.keyword == Keyword::JsonTable),
            Call::Unknown => self.name_with_parenthesis(),
            Call::Refused(reason) => self.refuse(reason, before),
            Call::TakesLock => {
                self.refuse(Reason::LockFunction, before);
                self.effects |= Effects::NAMED_LOCK;
            }
            Call::ReleasesLock => {
                self.refuse(Reason::LockFunction, before);
                self.effects |= Effects::RELEASES_NAMED_LOCK;
            }
            Call::ConnectionId => {
                self.refuse(Reason::ServerFunction, before);
                self.effects |= Effects::USES_CONNECTION_ID;
            }
            Call::Previous(Previous::Write) if !self.closes_at_once() => {
                self.refuse(Reason::SetsLastInsertId, before);
                self.effects |= Effects::SETS_LAST_INSERT_ID;
            }
            Call::Previous(previous) => self.ask(previous, before),
        }
    }

    /// In mode IGNORE_SPACE, blanks may stand between a name and its parenthesis; comments may not.
    fn only_blanks_before(&self, open: Lexeme) -> bool {
        let gap = Lexeme {
            start: self.before.end,
            end: open.start,
            ..open
        };
        self.context.sql_mode.ignore_space
            && self
                .lexer
                .slice(gap)
                .iter()
                .all(|byte| matches!(byte, b' ' | b'\t'..=b'\r'))
    }

    fn closes_at_once(&self) -> bool {
        let mut ahead = self.lexer;
        ahead.next().token == Token::Close
    }

    /// A name that is in no list before a parenthesis: in a few places of the grammar that is no call.
    fn name_with_parenthesis(&mut self) {
        let keyword = self.before.token.keyword();
        let earlier = self.earlier.token;
        let no_call = match earlier {
            // A type or a derived table's columns: CAST(a AS t(1)), (SELECT …) AS t (a).
            Token::Word(word) if word.keyword == Keyword::As && !self.earlier.qualified => true,
            Token::Word(word) if matches!(word.keyword, Keyword::With | Keyword::Recursive) => {
                self.is_common_table()
            }
            Token::Comma => self.is_common_table(),
            // MATCH (a) AGAINST ('b'): no call follows a parenthesis directly.
            Token::Close => keyword == Keyword::Against,
            // JSON_TABLE(a, '$' COLUMNS (…)): nor a string. The path of its own columns follows a comma, that of NESTED
            // PATH does not.
            Token::Text if keyword == Keyword::Columns => {
                self.json_tables = self
                    .json_tables
                    .saturating_sub(usize::from(self.path_after_comma));
                true
            }
            _ => false,
        };
        let table_of_insert = self.columns_follow && self.depth == 1;
        self.columns_follow = false;
        if no_call || table_of_insert {
            return;
        }
        let reason = match earlier {
            Token::Dot => Reason::QualifiedFunction,
            _ => Reason::UnknownFunction,
        };
        self.refuse(reason, self.before);
        if self.verb.kind != Kind::Definition {
            self.effects |= Effects::RUNS_ROUTINE;
        }
    }

    /// Whether a list of names, `AS` and a query in parentheses follow: the head of a common table expression. After
    /// a call, `AS (` is an error in every statement.
    fn is_common_table(&self) -> bool {
        let mut ahead = self.lexer;
        loop {
            if !matches!(ahead.next().token, Token::Word(_) | Token::Quoted) {
                return false;
            }
            match ahead.next().token {
                Token::Comma => {}
                Token::Close => break,
                _ => return false,
            }
        }
        ahead.next().token.keyword() == Keyword::As
            && ahead.next().token == Token::Open
            && match ahead.next().token {
                Token::Open => true,
                token => matches!(
                    token.keyword(),
                    Keyword::Select | Keyword::With | Keyword::Values | Keyword::Table
                ),
            }
    }

    // ---- the end

    fn finish(&mut self, end: Lexeme) {
        let last = self.before;
        let open_end = match last.token {
            Token::Word(word) => !last.qualified && word.keyword.usage() != Use::Free,
            Token::Operator | Token::Comma | Token::Dot | Token::Assign | Token::Equals => true,
            _ => false,
        };
        if self.depth > 0 {
            self.refuse(Reason::Unbalanced, end);
        }
        if open_end || !self.has_main {
            self.refuse(Reason::Incomplete, end);
        }
        if self.json_tables > 0 {
            self.refuse(Reason::UnknownFunction, end);
        }
        if self.information_schema && self.auto_increment {
            self.refuse(Reason::ServerFacts, end);
        }
    }
}
