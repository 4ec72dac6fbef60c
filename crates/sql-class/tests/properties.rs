//! For any bytes: no panic, and nothing that is cut, hidden or dressed up goes to a replica that should not.

mod common;

use std::ops::ControlFlow;

use pontoon_sql_class::{
    Charset, Context, Effects, Engine, Kind, Reason, Route, SqlMode, assignments, classify, digest,
    used_database,
};
use proptest::prelude::*;

use common::{Dice, corpus};

fn contexts() -> Vec<Context> {
    let mut all = Vec::new();
    for engine in [Engine::MySql, Engine::MariaDb] {
        for mode in [
            "",
            "ANSI_QUOTES",
            "NO_BACKSLASH_ESCAPES",
            "IGNORE_SPACE",
            "ORACLE",
            "?",
        ] {
            for charset in [Charset::Utf8, Charset::SingleByte] {
                let mut context = Context::new(engine);
                context.charset = charset;
                context.sql_mode = match mode {
                    "?" => SqlMode::UNKNOWN,
                    mode => SqlMode::parse(mode),
                };
                all.push(context);
            }
        }
    }
    all
}

/// What a fuzzer calls: it must not panic, and what it finds must hold together.
pub fn fuzz(data: &[u8]) {
    for context in contexts() {
        let found = classify(data, &context);
        assert!(found.at.is_none_or(|at| at <= data.len()));
        assert_eq!(
            found.route == Route::Replica,
            matches!(found.reason, Reason::Read | Reason::ReadOnlyTransaction)
        );
        if found.route == Route::Replica {
            assert!(!found.effects.pins(), "{}", found.effects);
            let read = matches!(
                found.kind,
                Kind::Select | Kind::Values | Kind::Show | Kind::Explain | Kind::Begin
            );
            assert!(read, "{:?}", found.kind);
            let mut unknown = context;
            unknown.sql_mode = SqlMode::UNKNOWN;
            let careful = classify(data, &unknown);
            assert!(
                careful.route == Route::Replica
                    || careful.reason == Reason::UnknownSqlMode
                    || context.sql_mode.ignore_space
            );
        }
        let listed = assignments(data, &context).take(data.len() + 1).count();
        assert!(listed <= data.len());
        assert!(listed == 0 || found.kind == Kind::Set || found.effects.contains(Effects::OPAQUE));
        let _ = used_database(data, &context);
        assert!(digest(data, &context).len() < 4 * data.len() + 64);
    }
}

/// Bytes that mean something to a lexer, and words that mean something to the classifier.
const PIECES: &[&str] = &[
    "SELECT",
    "select ",
    " FROM t",
    " WHERE ",
    "a",
    "1",
    "'",
    "\"",
    "`",
    "\\",
    "/*",
    "*/",
    "/*!",
    "/*!40001 ",
    "/*M!",
    "--",
    "-- ",
    "#",
    "\n",
    ";",
    "(",
    ")",
    ",",
    ".",
    "@",
    "@@",
    ":=",
    "=",
    "?",
    " FOR UPDATE",
    "INTO",
    " AS ",
    "WITH ",
    "f(",
    "COUNT(*)",
    "GET_LOCK(",
    "LAST_INSERT_ID()",
    "SET ",
    "SHOW ",
    "EXPLAIN ",
    "VALUES",
    "NULL",
    "\0",
    "é",
    "😀",
    "INSERT ",
    "DELETE ",
    "0x",
    "1e",
    ".5",
    "IN ",
    "N'",
    "$",
    "JSON_TABLE(",
    " COLUMNS (",
    "START TRANSACTION READ ONLY",
    "USE ",
    "NAMES ",
    "COLLATE ",
    "TRANSACTION ",
    "GLOBAL ",
    "mysql.",
    "information_schema.",
    "NEXT VALUE FOR ",
];

#[test]
fn random_pieces_never_panic() {
    let total: u64 = std::env::var("PONTOON_FUZZ_ITERATIONS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20_000);
    let mut dice = Dice(7);
    let corpus = corpus();
    for _ in 0..total {
        let mut data = Vec::new();
        match dice.below(3) {
            0 => {
                for _ in 0..dice.below(12) {
                    data.extend(dice.pick(PIECES).bytes());
                }
            }
            1 => {
                // A statement of the corpus with a few wounds.
                data.clone_from(&dice.pick(&corpus).sql);
                data.truncate(400);
                for _ in 0..1 + dice.below(3) {
                    let at = dice.below(data.len() + 1);
                    let piece = dice.pick(PIECES).as_bytes();
                    let end = (at + dice.below(4)).min(data.len());
                    data.splice(at..end, piece.iter().copied());
                }
            }
            _ => data.extend((0..dice.below(40)).map(|_| dice.roll() as u8)),
        }
        fuzz(&data);
    }
}

/// The statement's tokens as the test sees them: cut at single spaces outside of quotes and comments.
fn respaced(sql: &str, with: &str) -> Option<String> {
    // A name and its parenthesis must go on touching, so only the spaces that are there change.
    let plain =
        !sql.contains(['\'', '"', '`', '#', '\\', '\n', '\t']) && !sql.contains("--") && !sql.contains("/*");
    plain.then(|| sql.replace(' ', with))
}

#[test]
fn spaces_comments_and_case_do_not_matter() {
    let mut tried = 0;
    for line in corpus() {
        let Ok(sql) = std::str::from_utf8(&line.sql) else {
            continue;
        };
        for context in &line.contexts {
            for with in [
                "  ",
                "\n",
                " /* FOR UPDATE ; ' */ ",
                " -- x'\n",
                "\t# `\n",
                "/**/ ",
            ] {
                // In IGNORE_SPACE mode a comment is not a space, and a space before a parenthesis may be one or not.
                let Some(other) = respaced(sql, with).filter(|_| !context.sql_mode.ignore_space) else {
                    continue;
                };
                assert_eq!(
                    classify(other.as_bytes(), context).route,
                    line.route,
                    "{}: {other:?}",
                    line.place
                );
                tried += 1;
            }
            if sql.is_ascii() && !sql.contains("/*") {
                for other in [sql.to_ascii_lowercase(), sql.to_ascii_uppercase()] {
                    // In \N and 0xFF the case matters.
                    if other.contains("0X") || sql.contains('\\') || other.contains("0B") {
                        continue;
                    }
                    assert_eq!(
                        classify(other.as_bytes(), context).route,
                        line.route,
                        "{}: {other:?}",
                        line.place
                    );
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 5000, "{tried}");
}

/// A statement for the primary must not become one for a replica when it loses its end, unless what is left is a whole
/// read: then it has no open quote, parenthesis or comment and no word of a clause at its end.
#[test]
fn a_part_of_a_statement_is_a_whole_read_or_not_for_a_replica() {
    for line in corpus().iter().filter(|line| line.sql.len() < 300) {
        for context in &line.contexts {
            for cut in 0..line.sql.len() {
                let part = &line.sql[..cut];
                if classify(part, context).route == Route::Replica {
                    whole(part, context)
                        .unwrap_or_else(|| panic!("{}: {:?}", line.place, String::from_utf8_lossy(part)));
                }
            }
        }
    }
}

/// An independent look at a part that was taken for a read: its quotes, comments and parentheses close.
fn whole(part: &[u8], context: &Context) -> Option<()> {
    let mut depth = 0i32;
    let mut at = 0;
    let escapes = !context.sql_mode.no_backslash_escapes;
    while at < part.len() {
        let rest = &part[at..];
        let length = match rest {
            [quote @ (b'\'' | b'"' | b'`'), ..] => {
                let string = *quote == b'\'' || (*quote == b'"' && !context.sql_mode.ansi_quotes);
                1 + closing(&rest[1..], *quote, string && escapes)?
            }
            // Executable comments are code; the server of this test skips their frame.
            [b'/', b'*', b'!', ..] => 3,
            [b'/', b'*', b'M', b'!', ..] if context.engine == Engine::MariaDb => 4,
            [b'/', b'*', ..] => 2 + find(&rest[2..], b"*/")? + 2,
            [b'#', ..] => find(rest, b"\n").map_or(rest.len(), |end| end + 1),
            [b'-', b'-'] | [b'-', b'-', 0..=b' ' | 127, ..] => {
                find(rest, b"\n").map_or(rest.len(), |end| end + 1)
            }
            [b'(', ..] => {
                depth += 1;
                1
            }
            [b')', ..] => {
                depth -= 1;
                1
            }
            _ => 1,
        };
        at += length;
    }
    (depth == 0).then_some(())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

/// The length of a quoted text up to and with its closing quote.
fn closing(bytes: &[u8], quote: u8, escapes: bool) -> Option<usize> {
    let mut skip = false;
    let found = bytes.iter().enumerate().try_for_each(|(at, byte)| match byte {
        _ if std::mem::take(&mut skip) => ControlFlow::Continue(()),
        b'\\' if escapes => {
            skip = true;
            ControlFlow::Continue(())
        }
        byte if *byte == quote => ControlFlow::Break(at + 1),
        _ => ControlFlow::Continue(()),
    });
    match found {
        ControlFlow::Break(length) => Some(length),
        ControlFlow::Continue(()) => None,
    }
}

/// One more thing at the end of a read turns it away from replicas.
#[test]
fn an_addition_that_writes_is_always_seen() {
    for line in corpus()
        .iter()
        .filter(|line| line.route == Route::Replica && line.sql.len() < 1000)
    {
        let sql = &line.sql;
        for context in &line.contexts {
            for addition in [
                "; DELETE FROM t",
                " FOR UPDATE",
                " INTO @a",
                " , f(1)",
                " @a",
                " /*! FOR UPDATE */",
                ")",
                " '",
            ] {
                let mut longer = sql.clone();
                // A line comment at the end would swallow it; the newline ends that.
                longer.push(b'\n');
                longer.extend(addition.bytes());
                assert_ne!(
                    classify(&longer, context).route,
                    Route::Replica,
                    "{}: {addition}",
                    line.place
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz(&data);
    }

    #[test]
    fn whatever_is_in_a_string_stays_in_it(text in "[^'\\\\\u{0}]{0,40}") {
        for context in contexts() {
            let sql = format!("SELECT a FROM t WHERE b = '{text}'");
            let expected = if context.sql_mode.other_dialect { Route::Primary } else { Route::Replica };
            prop_assert_eq!(classify(sql.as_bytes(), &context).route, expected);
            let locking = format!("{sql} FOR UPDATE");
            prop_assert_eq!(classify(locking.as_bytes(), &context).route, Route::Primary);
        }
    }

    #[test]
    fn whatever_a_function_is_called_it_is_unknown(name in "[a-z_]{1,12}_udf") {
        for context in contexts() {
            let sql = format!("SELECT {name}(1)");
            prop_assert_eq!(classify(sql.as_bytes(), &context).route, Route::Primary);
        }
    }
}
