//! Statements without their values, to count those that are alike.

use crate::lexer::{Lexer, Token};
use crate::{Context, words};

/// The longest digest, in bytes; what is longer ends in `…`.
const LONGEST: usize = 1024;

/// `sql` with every value as `?`, lists of values as `(…)`, keywords in capitals, and without comments. Statements that
/// differ in these alone have the same digest. Text of values never gets into it, also when the statement is broken.
pub fn digest(sql: &[u8], context: &Context) -> String {
    let mut out = String::with_capacity(sql.len().min(LONGEST));
    let mut lexer = Lexer::new(sql, context);
    let mut before = Token::Semicolon;
    loop {
        let lexeme = lexer.next();
        if out.len() > LONGEST || matches!(lexeme.token, Token::Broken(_)) {
            out.push('…');
            return out;
        }
        let text = match lexeme.token {
            Token::End => break,
            Token::Semicolon if lexer.at_end() => break,
            Token::Text | Token::Number | Token::Parameter => "?".into(),
            Token::Open => match values(lexer) {
                Some(after) => {
                    lexer = after;
                    collapse_rows(&mut out, before);
                    before = Token::Close;
                    continue;
                }
                None => "(".into(),
            },
            _ => String::from_utf8_lossy(lexer.slice(lexeme)),
        };
        let touches = matches!(
            lexeme.token,
            Token::Dot | Token::Comma | Token::Close | Token::Semicolon
        ) || matches!(before, Token::Dot | Token::Open)
            || (lexeme.token == Token::Open && matches!(before, Token::Word(word) if is_call(word)));
        if !out.is_empty() && !touches {
            out.push(' ');
        }
        match lexeme.token {
            Token::Word(word) if !lexeme.qualified && word != words::Word::NAME => {
                out.push_str(&text.to_ascii_uppercase());
            }
            _ => out.push_str(&text),
        }
        before = lexeme.token;
    }
    out
}

/// After the parenthesis that closes a list of values alone, if it is one.
fn values(mut lexer: Lexer<'_>) -> Option<Lexer<'_>> {
    loop {
        let value = lexer.next().token;
        let value = match value {
            Token::Operator => lexer.next().token,
            value => value,
        };
        if !matches!(value, Token::Text | Token::Number | Token::Parameter) && !is_literal(value) {
            return None;
        }
        match lexer.next().token {
            Token::Comma => {}
            Token::Close => return Some(lexer),
            _ => return None,
        }
    }
}

fn is_literal(token: Token) -> bool {
    use words::Keyword;
    matches!(
        token.keyword(),
        Keyword::Null | Keyword::True | Keyword::False | Keyword::Default
    )
}

fn is_call(word: words::Word) -> bool {
    word.call().call != words::Call::Grammar
}

/// `(…), (…), (…)` becomes `(…)`: inserts of one row and of a thousand are alike.
fn collapse_rows(out: &mut String, before: Token) {
    const ROW: &str = "(…)";
    if before == Token::Comma && out.ends_with("(…),") {
        out.pop();
        return;
    }
    if !out.is_empty() && !matches!(before, Token::Open) {
        out.push(' ');
    }
    out.push_str(ROW);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Engine;

    fn of(sql: &str) -> String {
        digest(sql.as_bytes(), &Context::new(Engine::MySql))
    }

    #[test]
    fn values_and_spaces_do_not_matter() {
        let expected = "SELECT `a`.b, COUNT(*) FROM t WHERE id IN (…) AND name = ? LIMIT ?";
        for sql in [
            "select `a`.b, count(*) from t where id in (1,2,3) and name = 'x' limit 10",
            "SELECT `a`.b , COUNT( * ) /* c */ FROM t\nWHERE id IN (?) AND name = ? LIMIT ?;",
            "SELECT `a`.b,COUNT(*) FROM t WHERE id IN (-1, NULL) AND name='it''s' LIMIT 5 -- end",
        ] {
            assert_eq!(of(sql), expected, "{sql}");
        }
    }

    #[test]
    fn rows_of_an_insert_do_not_matter() {
        let expected = "INSERT INTO t(a, b) VALUES (…)";
        assert_eq!(of("insert into t (a, b) values (1, 'x')"), expected);
        assert_eq!(
            of("insert into t (a,b) values (1,'x'), (2, 'y'),(3,NULL)"),
            expected
        );
    }

    #[test]
    fn no_value_gets_out_of_a_broken_statement() {
        assert_eq!(
            of("SELECT * FROM t WHERE secret = 'never ends"),
            "SELECT * FROM t WHERE secret =…"
        );
        assert!(of(&format!("SELECT {}", "a, ".repeat(9000))).len() < 1100);
    }
}
