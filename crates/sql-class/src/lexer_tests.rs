use super::*;
use crate::SqlMode;

fn tokens(sql: &str, context: &Context) -> Vec<String> {
    let mut lexer = Lexer::new(sql.as_bytes(), context);
    let mut all = Vec::new();
    loop {
        let lexeme = lexer.next();
        let text = String::from_utf8_lossy(lexer.slice(lexeme)).into_owned();
        match lexeme.token {
            Token::End => return all,
            Token::Broken(reason) => {
                all.push(format!("{reason:?}"));
                return all;
            }
            Token::Word(Word {
                keyword: Keyword::None | Keyword::Clause,
                ..
            }) => all.push(text),
            Token::Word(word) => all.push(format!("{:?}", word.keyword)),
            _ => all.push(text),
        }
    }
}

fn mysql(sql: &str) -> Vec<String> {
    tokens(sql, &Context::new(Engine::MySql))
}

#[test]
fn numbers_end_where_servers_end_them() {
    for (sql, expected) in [
        ("1.for", &["1.", "For"][..]),
        ("1.5for", &["1.5", "For"]),
        ("1e5for", &["1e5", "For"]),
        ("1e+5for", &["1e+5", "For"]),
        ("1efor", &["1efor"]),
        ("1for", &["1for"]),
        ("0xffor", &["0xffor"]),
        ("0xff for", &["0xff", "For"]),
        ("0b12", &["0b12"]),
        (".5into", &[".5", "Into"]),
        ("t.5into", &["t", ".", "5into"]),
        ("`t`.5into", &["`t`", ".5", "Into"]),
        ("1.5.6", &["1.5", ".6"]),
    ] {
        assert_eq!(mysql(sql), expected, "{sql}");
    }
}

#[test]
fn a_keyword_at_a_dot_is_a_name() {
    assert_eq!(mysql("t.into"), ["t", ".", "into"]);
    assert_eq!(mysql("into.t"), ["into", ".", "t"]);
    assert_eq!(mysql("`t`.into"), ["`t`", ".", "into"]);
    assert_eq!(mysql("t. into"), ["t", ".", "Into"]);
    assert_eq!(mysql("into .t"), ["Into", ".", "t"]);
}

#[test]
fn quotes_in_every_mode() {
    let mut context = Context::new(Engine::MySql);
    assert_eq!(tokens(r"'a''b' into", &context), ["'a''b'", "Into"]);
    assert_eq!(tokens(r"'a\' into'", &context), [r"'a\' into'"]);
    assert_eq!(tokens(r#""a\" into""#, &context), [r#""a\" into""#]);
    assert_eq!(tokens(r"'a\", &context), ["Unterminated"]);
    context.sql_mode = SqlMode::parse("NO_BACKSLASH_ESCAPES");
    assert_eq!(tokens(r"'a\' into", &context), [r"'a\'", "Into"]);
    context.sql_mode = SqlMode::parse("ANSI_QUOTES");
    assert_eq!(
        tokens(r#""a\" into "b""c""#, &context),
        [r#""a\""#, "Into", r#""b""c""#]
    );
    context.sql_mode = SqlMode::UNKNOWN;
    assert_eq!(tokens(r"'a''b' into", &context), ["'a''b'", "Into"]);
    assert_eq!(tokens(r"'a\b'", &context), ["UnknownSqlMode"]);
    assert_eq!(tokens(r#""a""#, &context), ["UnknownSqlMode"]);
    assert_eq!(mysql("`a``b` 'x"), ["`a``b`", "Unterminated"]);
}

#[test]
fn comments() {
    for (sql, expected) in [
        ("1 -- into\n2", &["1", "2"][..]),
        ("1 --into", &["1", "-", "-", "Into"]),
        ("1 --", &["1"]),
        ("1 --\u{1}into\n2", &["1", "2"]),
        ("1 # into\r into\n2", &["1", "2"]),
        ("1 /* into */ 2", &["1", "2"]),
        ("1 /* /* */ into */", &["1", "Into", "*", "/"]),
        ("1 /*/ into */ 2", &["1", "2"]),
        ("1 /* into", &["1", "Unterminated"]),
        ("1 /*+ MAX_EXECUTION_TIME(10) */ 2", &["1", "2"]),
        ("1 /*+ SET_VAR(sql_mode) */", &["1", "OptimizerHint"]),
        ("1 /*+ QB_NAME(`a`) */", &["1", "OptimizerHint"]),
        ("1 /*! into */ 2", &["1", "Into", "2"]),
        ("1 /*!40001 into*/ 2", &["1", "Into", "2"]),
        ("1 /*!80000 into */", &["1", "ExecutableComment"]),
        ("1 /*!40001into */", &["1", "ExecutableComment"]),
        ("1 /*! /* into */ */", &["1", "ExecutableComment"]),
        ("1 /*! 2", &["1", "2", "Unterminated"]),
        ("1 /*M! into */ 2", &["1", "2"]),
        ("1 -- a\0into\n2", &["1", "StrangeByte"]),
        ("1 /* a\0 */ 2", &["1", "StrangeByte"]),
    ] {
        assert_eq!(mysql(sql), expected, "{sql}");
    }
    let mariadb = Context::new(Engine::MariaDb);
    assert_eq!(tokens("1 /*M! into */ 2", &mariadb), ["1", "Into", "2"]);
    assert_eq!(tokens("1 /*M!100100 into */", &mariadb), ["1", "Into"]);
    assert_eq!(tokens("1 /*!100100 into */", &mariadb), ["1", "Into"]);
    assert_eq!(
        tokens("1 /*M!110000 into */", &mariadb),
        ["1", "ExecutableComment"]
    );
}

#[test]
fn a_version_of_any_length_is_only_a_version() {
    // Found by fuzzing: more digits than a number can hold.
    for digits in [7, 20, 21, 22, 200] {
        let sql = format!("1 /*!{} into */", "9".repeat(digits));
        assert_eq!(mysql(&sql), ["1", "ExecutableComment"], "{digits}");
    }
}

#[test]
fn letters_beyond_ascii() {
    assert_eq!(mysql("größe = 'ü'"), ["größe", "=", "'ü'"]);
    assert_eq!(mysql("a\u{a0}b"), ["a\u{a0}b"], "in UTF-8 no white space");
    assert_eq!(mysql("😀"), ["NotAscii"]);
    let mut context = Context::new(Engine::MySql);
    context.charset = Charset::SingleByte;
    assert_eq!(tokens("a 'ü' größe", &context), ["a", "'ü'", "NotAscii"]);
    assert_eq!(tokens("1 --\u{a0}into", &context), ["1", "NotAscii"]);
}

#[test]
fn variables_and_signs() {
    assert_eq!(
        mysql("@a.b := @`c d` + @'e'"),
        ["@a.b", ":=", "@`c d`", "+", "@'e'"]
    );
    assert_eq!(
        mysql("@@session.sql_mode, @@ x"),
        ["@@session.sql_mode", ",", "@@", "x"]
    );
    assert_eq!(
        mysql("a->>'$.b' ? :x"),
        ["a", "-", ">", ">", "'$.b'", "?", "StrangeByte"]
    );
    for strange in ["$a", "\0", "\\N", "[a]", "{d '1'}", "\u{1}"] {
        assert_eq!(mysql(strange), ["StrangeByte"], "{strange:?}");
    }
}
