//! What a statement is: by its first words.
//!
//! Statements in the order of the MySQL manual's chapter «SQL Statements»; those of MariaDB alone are named.

use crate::lexer::{Lexeme, Lexer, Token};
use crate::words::Keyword;
use crate::{Context, Effects, Engine, Kind, Previous, Reason};

use super::ends;
use super::show::{self, Show};

/// What the first words say.
#[derive(Clone, Copy)]
pub(super) struct Verb<'a> {
    pub(super) kind: Kind,
    /// Why it is for the primary whatever follows.
    pub(super) refusal: Option<Reason>,
    pub(super) previous: Option<Previous>,
    pub(super) effects: Effects,
    /// Where to go on reading; from the beginning when there is none.
    pub(super) resume: Option<Lexer<'a>>,
    /// `WITH`: the statement itself is still to come.
    pub(super) needs_main: bool,
}

impl<'a> Verb<'a> {
    /// Reads the first words; `rest` stands after the first.
    pub(super) fn read(first: Lexeme, rest: Lexer<'a>, context: &Context) -> Verb<'a> {
        match first.token {
            Token::Word(word) => Verb::of(word.keyword, rest, context),
            Token::Open => Verb::parenthesised(rest, context),
            Token::End | Token::Semicolon => Verb::refused(Kind::Empty, Reason::Empty, Effects::NONE),
            Token::Broken(reason) => Verb::refused(Kind::Unknown, reason, Effects::OPAQUE),
            _ => Verb::other(Kind::Unknown, Effects::OPAQUE),
        }
    }

    const fn a_read(kind: Kind) -> Verb<'a> {
        Verb {
            kind,
            refusal: None,
            previous: None,
            effects: Effects::NONE,
            resume: None,
            needs_main: false,
        }
    }

    const fn refused(kind: Kind, reason: Reason, effects: Effects) -> Verb<'a> {
        Verb {
            kind,
            refusal: Some(reason),
            previous: None,
            effects,
            resume: None,
            needs_main: false,
        }
    }

    const fn other(kind: Kind, effects: Effects) -> Verb<'a> {
        Verb::refused(kind, Reason::NotARead(kind), effects)
    }

    fn of(keyword: Keyword, rest: Lexer<'a>, context: &Context) -> Verb<'a> {
        use Keyword as K;
        match keyword {
            K::Select => Verb::a_read(Kind::Select),
            K::Insert => Verb::other(Kind::Insert, Effects::NONE),
            K::Update => Verb::other(Kind::Update, Effects::NONE),
            K::Delete => Verb::other(Kind::Delete, Effects::NONE),
            K::Replace => Verb::other(Kind::Replace, Effects::NONE),
            K::With => Verb {
                needs_main: true,
                ..Verb::a_read(Kind::Select)
            },
            K::Values => Verb::a_read(Kind::Values),
            // «TABLE Statement»: of MySQL alone.
            K::Table if context.engine == Engine::MySql => Verb::a_read(Kind::Values),
            K::Show => Verb::show(rest),
            K::Explain | K::Describe | K::Desc => Verb::explain(rest, context),
            K::Analyze => Verb::analyze(rest, context),
            K::Begin | K::Start | K::Commit | K::Rollback | K::Savepoint | K::Release | K::Xa => {
                Verb::transaction(keyword, rest)
            }
            K::Create | K::Alter | K::Drop | K::Rename | K::Truncate | K::Grant | K::Revoke => {
                Verb::definition(keyword, rest)
            }
            // Its assignments are read by `set`.
            K::Set => Verb::other(Kind::Set, Effects::NONE),
            K::Use => Verb::other(Kind::Use, Effects::CHANGES_DATABASE),
            K::Call => Verb::other(Kind::Call, Effects::RUNS_ROUTINE),
            K::Do => Verb::other(Kind::Do, Effects::NONE),
            K::Load | K::Import => Verb::other(Kind::Load, Effects::NONE),
            K::Handler => Verb::other(Kind::Handler, Effects::HANDLER),
            K::Help => Verb::other(Kind::Help, Effects::NONE),
            K::Kill => Verb::other(Kind::Kill, Effects::NONE),
            K::Prepare => Verb::other(Kind::Prepare, Effects::PREPARES),
            K::Execute => Verb::other(Kind::Execute, Effects::RUNS_ROUTINE),
            K::Deallocate => Verb::other(Kind::Deallocate, Effects::DEALLOCATES),
            K::Lock => Verb::other(Kind::Lock, Effects::LOCKS_TABLES | Effects::IMPLICIT_COMMIT),
            K::Unlock => Verb::other(Kind::Unlock, Effects::UNLOCKS_TABLES),
            K::Backup => Verb::backup(rest),
            K::Flush => Verb::flush(rest),
            K::Reset
            | K::Change
            | K::Check
            | K::Checksum
            | K::Optimize
            | K::Repair
            | K::Cache
            | K::Shutdown
            | K::Restart
            | K::Install
            | K::Uninstall
            | K::Purge
            | K::Binlog
            | K::Clone
            | K::Stop => Verb::other(Kind::Admin, Effects::IMPLICIT_COMMIT),
            K::Signal | K::Resignal => Verb::other(Kind::Compound, Effects::NONE),
            // GET DIAGNOSTICS @a = … reads the statement before and sets variables.
            K::Get => Verb::other(
                Kind::Compound,
                Effects::USES_PREVIOUS_STATEMENT | Effects::SETS_OPAQUE,
            ),
            _ => Verb::other(Kind::Unknown, Effects::OPAQUE),
        }
    }

    fn parenthesised(mut rest: Lexer<'a>, context: &Context) -> Verb<'a> {
        loop {
            match rest.next().token {
                Token::Open => {}
                Token::Word(word) => {
                    return match word.keyword {
                        Keyword::Select | Keyword::With => Verb::a_read(Kind::Select),
                        Keyword::Values => Verb::a_read(Kind::Values),
                        Keyword::Table if context.engine == Engine::MySql => Verb::a_read(Kind::Values),
                        _ => Verb::other(Kind::Unknown, Effects::OPAQUE),
                    };
                }
                Token::Broken(reason) => return Verb::refused(Kind::Unknown, reason, Effects::OPAQUE),
                _ => return Verb::other(Kind::Unknown, Effects::OPAQUE),
            }
        }
    }

    fn show(rest: Lexer<'a>) -> Verb<'a> {
        match show::read(rest) {
            Show::Anywhere(resume) => Verb {
                resume: Some(resume),
                ..Verb::a_read(Kind::Show)
            },
            Show::Previous(resume) => Verb {
                previous: Some(Previous::Statement),
                effects: Effects::USES_PREVIOUS_STATEMENT,
                resume: Some(resume),
                ..Verb::a_read(Kind::Show)
            },
            Show::Primary(reason) => Verb::refused(Kind::Show, reason, Effects::NONE),
        }
    }

    /// «EXPLAIN Statement»: of a read, or the columns of a table. `EXPLAIN ANALYZE` runs the statement.
    fn explain(mut rest: Lexer<'a>, context: &Context) -> Verb<'a> {
        loop {
            let resume = rest;
            let lexeme = rest.next();
            let Token::Word(word) = lexeme.token else {
                return match lexeme.token {
                    Token::Quoted | Token::Open => Verb {
                        resume: Some(resume),
                        ..Verb::a_read(Kind::Explain)
                    },
                    _ => Verb::refused(Kind::Explain, Reason::UnexpectedSyntax, Effects::NONE),
                };
            };
            match word.keyword {
                Keyword::Extended | Keyword::Partitions | Keyword::Analyze => {}
                Keyword::Format => {
                    if rest.next().token != Token::Equals {
                        return Verb::refused(Kind::Explain, Reason::UnexpectedSyntax, Effects::NONE);
                    }
                    rest.next();
                }
                Keyword::Select | Keyword::With | Keyword::Values | Keyword::None => {
                    return Verb {
                        resume: Some(resume),
                        needs_main: word.keyword == Keyword::With,
                        ..Verb::a_read(Kind::Explain)
                    };
                }
                Keyword::Table if context.engine == Engine::MySql => {
                    return Verb {
                        resume: Some(resume),
                        ..Verb::a_read(Kind::Explain)
                    };
                }
                Keyword::For => return Verb::refused(Kind::Explain, Reason::ServerFacts, Effects::NONE),
                Keyword::Into => return Verb::refused(Kind::Explain, Reason::Into, Effects::SETS_OPAQUE),
                _ => return Verb::other(Kind::Explain, Effects::NONE),
            }
        }
    }

    /// MariaDB KB, «ANALYZE Statement»: `ANALYZE [FORMAT=JSON] SELECT` runs it. `ANALYZE TABLE` writes statistics.
    fn analyze(rest: Lexer<'a>, context: &Context) -> Verb<'a> {
        let mut ahead = rest;
        match ahead.next().token.keyword() {
            Keyword::Select | Keyword::With | Keyword::Format if context.engine == Engine::MariaDb => {
                Verb::explain(rest, context)
            }
            _ => Verb::other(Kind::Admin, Effects::IMPLICIT_COMMIT),
        }
    }

    /// «START TRANSACTION, COMMIT, and ROLLBACK Statements», «SAVEPOINT», «XA Transactions».
    fn transaction(keyword: Keyword, rest: Lexer<'a>) -> Verb<'a> {
        let words = Words::read(rest);
        let control = |kind, effects| Verb::refused(kind, Reason::TransactionControl, effects);
        match keyword {
            Keyword::Begin => match words.first {
                None | Some(Keyword::Work) => Verb::other(Kind::Begin, Effects::BEGINS_TRANSACTION),
                // MariaDB KB, «BEGIN END»: BEGIN NOT ATOMIC.
                _ => Verb::other(Kind::Compound, Effects::OPAQUE),
            },
            Keyword::Start if words.first == Some(Keyword::Transaction) => {
                let effects = Effects::BEGINS_TRANSACTION;
                match says_read_only(rest) {
                    true => Verb {
                        effects,
                        ..Verb::a_read(Kind::Begin)
                    },
                    false => Verb::other(Kind::Begin, effects),
                }
            }
            Keyword::Start => Verb::other(Kind::Admin, Effects::IMPLICIT_COMMIT),
            Keyword::Commit => control(Kind::Commit, words.end_of_transaction()),
            Keyword::Rollback if words.has(Keyword::To) => control(Kind::Rollback, Effects::SAVEPOINT),
            Keyword::Rollback => control(Kind::Rollback, words.end_of_transaction()),
            Keyword::Savepoint | Keyword::Release => control(Kind::Savepoint, Effects::SAVEPOINT),
            _ => {
                let end = matches!(words.first, Some(Keyword::Commit | Keyword::Rollback));
                let ends = if end {
                    Effects::ENDS_TRANSACTION
                } else {
                    Effects::NONE
                };
                Verb::other(Kind::Xa, Effects::XA | ends)
            }
        }
    }

    fn definition(keyword: Keyword, rest: Lexer<'a>) -> Verb<'a> {
        let words = Words::read(rest);
        let temporary = words.has(Keyword::Temporary);
        let effects = match keyword {
            Keyword::Create if temporary => Effects::TEMPORARY_TABLE,
            Keyword::Drop if words.first == Some(Keyword::Prepare) => {
                return Verb::other(Kind::Deallocate, Effects::DEALLOCATES);
            }
            Keyword::Drop if temporary => Effects::DROPS_TEMPORARY_TABLE,
            // A temporary table hides the one of the same name.
            Keyword::Drop => Effects::DROPS_TEMPORARY_TABLE | Effects::IMPLICIT_COMMIT,
            _ => Effects::IMPLICIT_COMMIT,
        };
        Verb::other(Kind::Definition, effects)
    }

    /// MariaDB KB, «BACKUP STAGE», «BACKUP LOCK».
    fn backup(rest: Lexer<'a>) -> Verb<'a> {
        match Words::read(rest).first {
            Some(Keyword::Unlock) => Verb::other(Kind::Unlock, Effects::UNLOCKS_TABLES),
            _ => Verb::other(Kind::Lock, Effects::LOCKS_TABLES | Effects::IMPLICIT_COMMIT),
        }
    }

    /// «FLUSH Statement»: `WITH READ LOCK` and `FOR EXPORT` lock.
    fn flush(rest: Lexer<'a>) -> Verb<'a> {
        let words = Words::read(rest);
        let locks = words.has(Keyword::With) || words.has(Keyword::Lock) || words.has(Keyword::For);
        let effects = match locks || !words.complete {
            true => Effects::LOCKS_TABLES | Effects::IMPLICIT_COMMIT,
            false => Effects::IMPLICIT_COMMIT,
        };
        Verb::other(Kind::Admin, effects)
    }
}

/// Whether `TRANSACTION` is followed by `READ ONLY`, `WITH CONSISTENT SNAPSHOT` or both with a comma between, by nothing
/// else, and `READ ONLY` is among them.
fn says_read_only(mut rest: Lexer<'_>) -> bool {
    rest.next();
    let mut found = false;
    loop {
        match rest.next().token.keyword() {
            Keyword::Read if rest.next().token.keyword() == Keyword::Only => found = true,
            Keyword::With => {
                for word in [&b"CONSISTENT"[..], b"SNAPSHOT"] {
                    let next = rest.next();
                    if !rest.slice(next).eq_ignore_ascii_case(word) {
                        return false;
                    }
                }
            }
            _ => return false,
        }
        match rest.next().token {
            Token::Comma => {}
            token => return found && matches!(token, Token::End | Token::Semicolon),
        }
    }
}

/// The next keywords of a statement, names left out.
struct Words {
    /// The first one, when a word comes first; [`Keyword::None`] when it is a name or no word; none at the end.
    first: Option<Keyword>,
    found: [Keyword; 16],
    /// All of the statement was read.
    complete: bool,
}

impl Words {
    fn read(mut lexer: Lexer<'_>) -> Words {
        let mut words = Words {
            first: None,
            found: [Keyword::None; 16],
            complete: false,
        };
        let mut count = 0;
        // More tokens than any of these statements has, except for lists of names.
        for index in 0..64 {
            let token = lexer.next().token;
            if ends(token) {
                words.complete = true;
                break;
            }
            let keyword = token.keyword();
            if index == 0 {
                words.first = Some(keyword);
            }
            if keyword != Keyword::None && count < words.found.len() {
                words.found[count] = keyword;
                count += 1;
            }
        }
        words
    }

    fn has(&self, keyword: Keyword) -> bool {
        self.found.contains(&keyword)
    }

    /// Whether `keyword` comes without `NO` in front.
    fn affirms(&self, keyword: Keyword) -> bool {
        let at = self.found.iter().position(|found| *found == keyword);
        at.is_some_and(|at| at == 0 || self.found[at - 1] != Keyword::No)
    }

    /// `[AND [NO] CHAIN] [[NO] RELEASE]`.
    fn end_of_transaction(&self) -> Effects {
        let mut effects = Effects::ENDS_TRANSACTION;
        if self.affirms(Keyword::Chain) {
            effects |= Effects::BEGINS_TRANSACTION;
        }
        if self.affirms(Keyword::Release) {
            effects |= Effects::CLOSES_CONNECTION;
        }
        effects
    }
}
