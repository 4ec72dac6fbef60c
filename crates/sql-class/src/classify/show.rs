//! Which `SHOW` may be answered by a replica (MySQL manual, «SHOW Statements»; MariaDB KB, «SHOW»).
//!
//! Those that describe databases and their objects, which are the same everywhere. Those that describe a server, its
//! accounts, its variables or its replication are for the primary, also `SHOW TABLE STATUS` with its statistics and
//! next id, and `SHOW EVENTS`, whose status differs on replicas. What is not known is for the primary.

use crate::Reason;
use crate::lexer::Lexer;
use crate::words::Keyword;

/// Who can answer a `SHOW`.
pub(super) enum Show<'a> {
    /// Any server. The rest (names, `LIKE`, `WHERE` with an expression) still has to be read.
    Anywhere(Lexer<'a>),
    /// The connection of the statement before.
    Previous(Lexer<'a>),
    /// The primary.
    Primary(Reason),
}

/// Reads what follows `SHOW`.
pub(super) fn read(mut lexer: Lexer<'_>) -> Show<'_> {
    let mut keyword = lexer.next().token.keyword();
    while matches!(keyword, Keyword::Full | Keyword::Extended) {
        keyword = lexer.next().token.keyword();
    }
    match keyword {
        Keyword::Tables
        | Keyword::Databases
        | Keyword::Schemas
        | Keyword::Columns
        | Keyword::Fields
        | Keyword::Index
        | Keyword::Indexes
        | Keyword::Keys
        | Keyword::Triggers
        | Keyword::Charset
        | Keyword::Collation => Show::Anywhere(lexer),
        Keyword::Character => followed_by(lexer, &[Keyword::Set]),
        Keyword::Procedure | Keyword::Function => followed_by(lexer, &[Keyword::Status]),
        Keyword::Create => followed_by(
            lexer,
            &[
                Keyword::Table,
                Keyword::View,
                Keyword::Database,
                Keyword::Schema,
                Keyword::Procedure,
                Keyword::Function,
                Keyword::Trigger,
            ],
        ),
        // «SHOW COUNT(*) WARNINGS» counts those of the session's last statement too.
        Keyword::Warnings | Keyword::Errors | Keyword::Count | Keyword::Profile | Keyword::Profiles => {
            Show::Previous(lexer)
        }
        _ => Show::Primary(Reason::ServerFacts),
    }
}

fn followed_by<'a>(mut lexer: Lexer<'a>, keywords: &[Keyword]) -> Show<'a> {
    match keywords.contains(&lexer.next().token.keyword()) {
        true => Show::Anywhere(lexer),
        false => Show::Primary(Reason::ServerFacts),
    }
}
