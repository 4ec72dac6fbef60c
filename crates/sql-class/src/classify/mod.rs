//! From tokens to a verdict.
//!
//! [`verb`] reads the first words of a statement and says what it is. [`scan`] walks over all its tokens and notes
//! what speaks against a replica and what the statement leaves behind. Here both become a [`Verdict`].

mod scan;
mod set;
mod show;
mod system;
mod verb;

pub use set::{Assignment, Assignments, Target, Value, assignments, must_not_be_replayed, used_database};
pub use system::is_system_schema;

use crate::lexer::{Lexer, Token};
use crate::{Charset, Context, Effects, Kind, Previous, Reason, Route, Verdict};

use scan::Scan;
use verb::Verb;

/// Where `sql` may run, why, and what it does to the session.
///
/// Several statements in one are for the primary, with the effects of all of them. The verdict of a prepared statement
/// is that of its text, with `?` where its parameters are; it holds until the context changes.
pub fn classify(sql: &[u8], context: &Context) -> Verdict {
    let unread = |reason| Verdict {
        route: Route::Primary,
        reason,
        at: None,
        kind: Kind::Unknown,
        effects: Effects::OPAQUE,
    };
    if context.charset == Charset::Unsafe {
        return unread(Reason::UnsafeCharset);
    }
    if context.sql_mode.other_dialect {
        return unread(Reason::OtherDialect);
    }
    let mut lexer = Lexer::new(sql, context);
    let (mut verdict, ended) = statement(&mut lexer, context);
    if ended || lexer.at_end() {
        return within(verdict, context);
    }
    verdict.at = Some(sql.len() - lexer.rest().len());
    verdict.route = Route::Primary;
    verdict.reason = Reason::MultipleStatements;
    let mut whole = verdict.effects;
    let mut kind = Kind::Multiple;
    if verdict.kind == Kind::Definition || verdict.kind == Kind::Compound {
        // The semicolon may be one of a body of statements; or what follows may be anything.
        (kind, whole) = (verdict.kind, whole | Effects::OPAQUE);
    } else {
        while !lexer.at_end() {
            let (next, ended) = statement(&mut lexer, context);
            whole |= next.effects;
            if ended {
                break;
            }
        }
    }
    if whole.intersects(LITERAL) {
        // Nobody can list the assignments of several statements.
        whole |= Effects::SETS_OPAQUE;
    }
    Verdict {
        kind,
        effects: whole,
        ..verdict
    }
}

/// Effects whose details [`assignments`] and [`used_database`] give.
const LITERAL: Effects = Effects::SETS_VARIABLES
    .and(Effects::SETS_USER_VARIABLES)
    .and(Effects::CHANGES_CHARSET)
    .and(Effects::CHANGES_DATABASE);

/// The verdict about the next statement by itself, without regard to what the session has open; and whether nothing
/// can follow.
fn statement<'a>(lexer: &mut Lexer<'a>, context: &'a Context) -> (Verdict, bool) {
    let begin = *lexer;
    let first = lexer.next();
    let verb = Verb::read(first, *lexer, context);
    let mut scan = Scan::new(context, verb, begin);
    let ended = scan.run();
    *lexer = scan.lexer;
    let verb = scan.verb;
    let mut effects = verb.effects | scan.effects;
    if verb.kind == Kind::Set {
        effects |= set::effects(begin, scan.broken);
    }
    let (route, reason, at) = match (verb.refusal, scan.refusal, scan.previous) {
        (Some(Reason::TransactionControl), ..) if !scan.broken => (
            Route::PreviousTarget(Previous::Transaction),
            Reason::TransactionControl,
            Some(first.start),
        ),
        (Some(reason), ..) => (Route::Primary, reason, Some(first.start)),
        (None, Some((reason, at)), _) => (Route::Primary, reason, Some(at)),
        (None, None, Some((previous, at))) => {
            let reason = match previous {
                Previous::Write => Reason::LastInsert,
                _ => Reason::PreviousStatement,
            };
            (Route::PreviousTarget(previous), reason, Some(at))
        }
        (None, None, None) if effects.contains(Effects::BEGINS_TRANSACTION) => {
            (Route::Replica, Reason::ReadOnlyTransaction, None)
        }
        (None, None, None) => (Route::Replica, Reason::Read, None),
    };
    let verdict = Verdict {
        route,
        reason,
        at,
        kind: verb.kind,
        effects,
    };
    (verdict, ended)
}

/// The verdict with regard to what the session has open.
fn within(verdict: Verdict, context: &Context) -> Verdict {
    if verdict.route != Route::Replica {
        return verdict;
    }
    let reason = match () {
        () if context.pinned => Reason::Pinned,
        () if context.in_transaction && !context.read_only_transaction => Reason::InTransaction,
        // In a read-only transaction `autocommit` does not matter until it ends.
        () if !context.autocommit && !context.in_transaction => Reason::AutocommitOff,
        () if context.serializable => Reason::Serializable,
        () if context.system_database => Reason::SystemDatabase,
        () => return verdict,
    };
    Verdict {
        route: Route::Primary,
        reason,
        ..verdict
    }
}

/// Whether a token ends a statement.
fn ends(token: Token) -> bool {
    matches!(token, Token::End | Token::Semicolon | Token::Broken(_))
}

#[cfg(test)]
mod tests;
