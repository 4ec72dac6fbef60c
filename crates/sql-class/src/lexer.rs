//! Bytes to tokens, as both servers read them; what they could read in two ways is [`Token::Broken`].
//!
//! The rules are those of the two servers' own lexers (in both, `sql/sql_lex.cc`), section by section of the MySQL
//! manual's chapter «Language Structure»:
//!
//! - «Comments»: `#` to the end of the line; `--` only before white space, a control character or the end; `/* */`
//!   does not nest. A line comment ends at a newline only.
//! - «Comments», executable ones: `/*!` and `/*!NNNNN` are code when the server's version is not older. Versions that
//!   every supported server has reached are read as code, all others are broken. MariaDB KB, «Comment Syntax»: it also
//!   executes `/*M!`, and does not execute `/*!50700` to `/*!99999`.
//! - «Optimizer Hints»: `/*+ */` is a comment with a grammar of its own; with quotes inside it could end elsewhere.
//! - «String Literals»: doubled quotes, `\` unless `NO_BACKSLASH_ESCAPES`; `"` is a name with `ANSI_QUOTES`.
//! - «Numeric Literals»: `1.for` is the number `1.` and a keyword, `1e5for` is a number and a keyword, `1for` and
//!   `0xfor` are names.
//! - «Identifier Qualifiers»: after a dot that touches both sides, and before one, a keyword is a name.

use memchr::{memchr, memchr2, memmem};

use crate::words::{self, Keyword, Word};
use crate::{Charset, Context, Engine, Reason};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A keyword or a name without quotes.
    Word(Word),
    /// A quoted name.
    Quoted,
    /// A string.
    Text,
    /// A number.
    Number,
    /// `@@name`, `@@scope.name`.
    SystemVariable,
    /// `@name`.
    UserVariable,
    /// `?`.
    Parameter,
    /// `(`.
    Open,
    /// `)`.
    Close,
    /// `,`.
    Comma,
    /// `.`.
    Dot,
    /// `;`.
    Semicolon,
    /// `:=`.
    Assign,
    /// `=`.
    Equals,
    /// Any other operator.
    Operator,
    /// The end of the statement.
    End,
    /// It cannot be read.
    Broken(Reason),
}

impl Token {
    /// The keyword, if it is one.
    pub(crate) const fn keyword(self) -> Keyword {
        match self {
            Token::Word(word) => word.keyword,
            _ => Keyword::None,
        }
    }
}

/// A token and where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lexeme {
    pub(crate) token: Token,
    /// Of its first byte.
    pub(crate) start: usize,
    /// After its last byte.
    pub(crate) end: usize,
    /// It stands after a dot, or (a word) right before one: never a keyword.
    pub(crate) qualified: bool,
}

impl Lexeme {
    /// Before the first token.
    pub(crate) const NONE: Lexeme = Lexeme {
        token: Token::Semicolon,
        start: 0,
        end: 0,
        qualified: false,
    };
}

/// A reader of tokens. Cheap to copy, for looking ahead.
#[derive(Clone, Copy)]
pub(crate) struct Lexer<'a> {
    sql: &'a [u8],
    position: usize,
    engine: Engine,
    ansi_quotes: bool,
    escapes: bool,
    unknown_mode: bool,
    charset: Charset,
    /// Inside of an executable comment.
    in_code: bool,
    /// The token before ended here and was a word without quotes.
    word_end: usize,
    /// The token before was a dot, and a name follows it directly.
    name_follows: bool,
    /// The token before was a dot.
    after_dot: bool,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(sql: &'a [u8], context: &Context) -> Lexer<'a> {
        Lexer {
            sql,
            position: 0,
            engine: context.engine,
            ansi_quotes: context.sql_mode.ansi_quotes,
            escapes: !context.sql_mode.no_backslash_escapes,
            unknown_mode: context.sql_mode.unknown,
            charset: context.charset,
            in_code: false,
            word_end: usize::MAX,
            name_follows: false,
            after_dot: false,
        }
    }

    /// The bytes between two positions.
    pub(crate) fn slice(&self, lexeme: Lexeme) -> &'a [u8] {
        self.sql.get(lexeme.start..lexeme.end).unwrap_or_default()
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.sql.get(self.position..).unwrap_or_default()
    }

    /// The byte at `at`, or 0 after the end, as servers see it.
    #[inline]
    fn peek(&self, at: usize) -> u8 {
        self.sql.get(at).copied().unwrap_or(0)
    }

    /// The next token. After the end and after [`Token::Broken`] it is the same again.
    #[inline]
    pub(crate) fn next(&mut self) -> Lexeme {
        if let Err(reason) = self.skip_blank() {
            return self.broken(self.position, reason);
        }
        let start = self.position;
        let Some(&byte) = self.sql.get(start) else {
            let token = match self.in_code {
                true => Token::Broken(Reason::Unterminated),
                false => Token::End,
            };
            return self.lexeme(start, token, false);
        };
        let class = CLASSES[byte as usize];
        if self.name_follows && IDENT[byte as usize] {
            return self.word(start);
        }
        match class {
            Class::Letter => self.word(start),
            Class::Digit => self.number_or_name(start),
            Class::Single(token) => self.take(start, 1, token),
            Class::Quote => self.quoted(start, byte),
            Class::Backtick => self.name_in_backticks(start),
            Class::Dot => self.dot(start),
            Class::At => self.variable(start),
            Class::Colon if self.peek(start + 1) == b'=' => self.take(start, 2, Token::Assign),
            Class::High | Class::Colon | Class::Strange | Class::Blank => match class {
                Class::High if self.charset == Charset::Utf8 => self.word(start),
                Class::High => self.broken(start, Reason::NotAscii),
                _ => self.broken(start, Reason::StrangeByte),
            },
        }
    }

    /// Whether only blanks, comments and semicolons follow.
    pub(crate) fn at_end(mut self) -> bool {
        loop {
            match self.next().token {
                Token::Semicolon => {}
                Token::End => return true,
                _ => return false,
            }
        }
    }

    #[inline]
    fn lexeme(&mut self, start: usize, token: Token, qualified: bool) -> Lexeme {
        self.after_dot = matches!(token, Token::Dot);
        Lexeme {
            token,
            start,
            end: self.position,
            qualified,
        }
    }

    fn broken(&mut self, start: usize, reason: Reason) -> Lexeme {
        self.position = start;
        Lexeme {
            token: Token::Broken(reason),
            start,
            end: start,
            qualified: false,
        }
    }

    #[inline]
    fn take(&mut self, start: usize, length: usize, token: Token) -> Lexeme {
        self.position = start + length;
        let qualified = self.after_dot;
        self.lexeme(start, token, qualified)
    }

    // ---- words and numbers

    #[inline]
    fn word(&mut self, start: usize) -> Lexeme {
        if let Err(reason) = self.skip_name() {
            return self.broken(start, reason);
        }
        let end = self.position;
        let before_dot = self.peek(end) == b'.' && IDENT[self.peek(end + 1) as usize];
        let qualified = self.after_dot || before_dot;
        // After a dot with a space a keyword is a keyword, although no sane statement has one there.
        let word = match self.name_follows || before_dot {
            true => Word::NAME,
            false => words::find(&self.sql[start..end]),
        };
        self.name_follows = false;
        self.word_end = end;
        self.lexeme(start, Token::Word(word), qualified)
    }

    /// Moves past the letters, digits, `_`, `$` and, in UTF-8, characters of two or three bytes.
    #[inline]
    fn skip_name(&mut self) -> Result<(), Reason> {
        let mut at = self.position;
        loop {
            let byte = self.peek(at);
            if !IDENT[byte as usize] {
                break;
            }
            if byte < 0x80 {
                at += 1;
                continue;
            }
            if self.charset != Charset::Utf8 {
                return Err(Reason::NotAscii);
            }
            at += utf8_length(&self.sql[at..]).ok_or(Reason::NotAscii)?;
        }
        self.position = at;
        Ok(())
    }

    fn number_or_name(&mut self, start: usize) -> Lexeme {
        let radix_digit: fn(&u8) -> bool = match self.peek(start + 1) {
            b'x' if self.peek(start) == b'0' => u8::is_ascii_hexdigit,
            b'b' if self.peek(start) == b'0' => |byte| matches!(byte, b'0' | b'1'),
            _ => return self.decimal_or_name(start),
        };
        let digits = self.count(start + 2, radix_digit);
        let end = start + 2 + digits;
        match digits > 0 && !IDENT[self.peek(end) as usize] {
            true => self.number(start, end),
            false => self.word(start),
        }
    }

    fn decimal_or_name(&mut self, start: usize) -> Lexeme {
        let end = start + self.count(start, u8::is_ascii_digit);
        let next = self.peek(end);
        if matches!(next, b'e' | b'E')
            && let Some(end) = self.exponent(end)
        {
            return self.number(start, end);
        }
        if IDENT[next as usize] {
            return self.word(start);
        }
        if next == b'.' {
            return self.fraction(start, end + 1);
        }
        self.number(start, end)
    }

    /// What follows the dot of a number.
    fn fraction(&mut self, start: usize, after_dot: usize) -> Lexeme {
        let end = after_dot + self.count(after_dot, u8::is_ascii_digit);
        let end = match self.peek(end) {
            b'e' | b'E' => self.exponent(end).unwrap_or(end),
            _ => end,
        };
        self.number(start, end)
    }

    /// The end of an exponent that begins with the `e` at `at`, when it is one.
    fn exponent(&self, at: usize) -> Option<usize> {
        let sign = matches!(self.peek(at + 1), b'+' | b'-') as usize;
        let digits = self.count(at + 1 + sign, u8::is_ascii_digit);
        (digits > 0).then_some(at + 1 + sign + digits)
    }

    fn number(&mut self, start: usize, end: usize) -> Lexeme {
        self.position = end;
        self.name_follows = false;
        self.lexeme(start, Token::Number, false)
    }

    fn count(&self, from: usize, wanted: fn(&u8) -> bool) -> usize {
        let rest = self.sql.get(from..).unwrap_or_default();
        rest.iter().take_while(|byte| wanted(byte)).count()
    }

    fn dot(&mut self, start: usize) -> Lexeme {
        let next = self.peek(start + 1);
        // A digit after a dot belongs to a number, except right after a name without quotes: `t.5x` is a column.
        if next.is_ascii_digit() && self.word_end != start {
            return self.fraction(start, start + 1);
        }
        self.position = start + 1;
        self.name_follows = IDENT[next as usize];
        self.lexeme(start, Token::Dot, false)
    }

    // ---- quotes

    fn quoted(&mut self, start: usize, quote: u8) -> Lexeme {
        let is_name = quote == b'"' && self.ansi_quotes;
        if self.unknown_mode && quote == b'"' {
            return self.broken(start, Reason::UnknownSqlMode);
        }
        let mut at = start + 1;
        loop {
            let rest = self.sql.get(at..).unwrap_or_default();
            let found = match is_name {
                true => memchr(quote, rest),
                // NO_BACKSLASH_ESCAPES still has to look, when the mode is not known.
                false if self.escapes || self.unknown_mode => memchr2(quote, b'\\', rest),
                false => memchr(quote, rest),
            };
            let Some(found) = found else {
                return self.broken(start, Reason::Unterminated);
            };
            at += found;
            if self.peek(at) == b'\\' && !is_name {
                if self.unknown_mode {
                    return self.broken(start, Reason::UnknownSqlMode);
                }
                at += 2;
            } else if self.peek(at + 1) == quote {
                at += 2;
            } else {
                break;
            }
        }
        self.name_follows = false;
        let token = if is_name { Token::Quoted } else { Token::Text };
        self.take(start, at + 1 - start, token)
    }

    fn name_in_backticks(&mut self, start: usize) -> Lexeme {
        let mut at = start + 1;
        loop {
            match memchr(b'`', self.sql.get(at..).unwrap_or_default()) {
                None => return self.broken(start, Reason::Unterminated),
                Some(found) if self.peek(at + found + 1) == b'`' => at += found + 2,
                Some(found) => {
                    self.name_follows = false;
                    return self.take(start, at + found + 1 - start, Token::Quoted);
                }
            }
        }
    }

    // ---- variables

    /// «User-Defined Variables»: `@name`, `@'name'`, `@"name"`, `` @`name` ``; «Using System Variables»: `@@name`.
    fn variable(&mut self, start: usize) -> Lexeme {
        let system = self.peek(start + 1) == b'@';
        self.position = start + 1 + system as usize;
        let token = match system {
            true => Token::SystemVariable,
            false => Token::UserVariable,
        };
        let name = match self.peek(self.position) {
            quote @ (b'\'' | b'"') if !system => self.quoted(self.position, quote).token,
            b'`' => self.name_in_backticks(self.position).token,
            _ => token,
        };
        if let Token::Broken(reason) = name {
            return self.broken(start, reason);
        }
        if name == token {
            while IDENT[self.peek(self.position) as usize] || self.peek(self.position) == b'.' {
                let byte = self.peek(self.position);
                match byte {
                    b'.' => self.position += 1,
                    _ => {
                        if let Err(reason) = self.skip_name() {
                            return self.broken(start, reason);
                        }
                    }
                }
            }
        }
        self.name_follows = false;
        self.lexeme(start, token, false)
    }

    // ---- blanks and comments

    #[inline]
    fn skip_blank(&mut self) -> Result<(), Reason> {
        loop {
            let byte = self.peek(self.position);
            if byte > b'/' {
                return Ok(());
            }
            match byte {
                b' ' | b'\t'..=b'\r' => self.position += 1,
                b'#' => self.skip_line()?,
                b'-' if self.peek(self.position + 1) == b'-' => match self.peek(self.position + 2) {
                    0..=b' ' | 0x7f => self.skip_line()?,
                    // In some character sets these are white space, or control characters.
                    0x80.. => return Err(Reason::NotAscii),
                    _ => return Ok(()),
                },
                b'/' if self.peek(self.position + 1) == b'*' => self.comment()?,
                b'*' if self.in_code && self.peek(self.position + 1) == b'/' => {
                    self.in_code = false;
                    self.position += 2;
                }
                _ => return Ok(()),
            }
            self.name_follows = false;
            self.word_end = usize::MAX;
        }
    }

    fn skip_line(&mut self) -> Result<(), Reason> {
        let rest = self.sql.get(self.position..).unwrap_or_default();
        let end = memchr(b'\n', rest).map_or(rest.len(), |found| found + 1);
        // Servers end a line comment at a NUL too, and go on in an odd state.
        if memchr(0, rest.get(..end).unwrap_or_default()).is_some() {
            return Err(Reason::StrangeByte);
        }
        self.position += end;
        Ok(())
    }

    fn comment(&mut self) -> Result<(), Reason> {
        let start = self.position;
        match (self.peek(start + 2), self.peek(start + 3)) {
            (b'!', _) => return self.executable(start + 3, false),
            (b'M', b'!') if self.engine == Engine::MariaDb => return self.executable(start + 4, true),
            (b'm', b'!') => return Err(Reason::ExecutableComment),
            _ => {}
        }
        let rest = self.sql.get(start + 2..).unwrap_or_default();
        let length = memmem::find(rest, b"*/").ok_or(Reason::Unterminated)?;
        let body = rest.get(..length).unwrap_or_default();
        if memchr(0, body).is_some() {
            return Err(Reason::StrangeByte);
        }
        if self.in_code {
            // A comment in executable code: the servers' versions differ in where the code ends.
            return Err(Reason::ExecutableComment);
        }
        if body.first() == Some(&b'+') && !harmless_hint(body) {
            return Err(Reason::OptimizerHint);
        }
        self.position = start + 2 + length + 2;
        Ok(())
    }

    fn executable(&mut self, code: usize, mariadb_only: bool) -> Result<(), Reason> {
        if self.in_code {
            return Err(Reason::ExecutableComment);
        }
        let digits = self.count(code, u8::is_ascii_digit);
        let version = self.sql.get(code..code + digits).unwrap_or_default();
        let version = version.iter().fold(0u64, |number, digit| {
            // The number may be as long as the statement.
            number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
        });
        let certain = match digits {
            0 => true,
            5 => version < 50_700 || (mariadb_only && version < 100_600),
            6 => self.engine == Engine::MariaDb && (100_000..=100_600).contains(&version),
            _ => false,
        };
        // A letter after the digits is code too, but not in the way that a reader expects.
        if !certain || IDENT[self.peek(code + digits) as usize] {
            return Err(Reason::ExecutableComment);
        }
        self.in_code = true;
        self.position = code + digits;
        Ok(())
    }
}

/// Whether a hint contains only words, numbers, commas and parentheses, and sets no variable.
fn harmless_hint(body: &[u8]) -> bool {
    let plain = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'+' | b' ' | b'\t'..=b'\r' | b'_' | b'@' | b',' | b'(' | b')' | b'.'
            )
    };
    body.iter().all(plain) && !body.windows(7).any(|part| part.eq_ignore_ascii_case(b"SET_VAR"))
}

/// The length of a character of two or three bytes. Longer ones are not for names: identifiers are of the Basic
/// Multilingual Plane («Schema Object Names»).
fn utf8_length(bytes: &[u8]) -> Option<usize> {
    let continues = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    match (*bytes.first()?, *bytes.get(1)?) {
        (0xc2..=0xdf, _) if continues(1) => Some(2),
        (0xe0, 0xa0..=0xbf) | (0xed, 0x80..=0x9f) if continues(2) => Some(3),
        (0xe1..=0xec | 0xee..=0xef, _) if continues(1) && continues(2) => Some(3),
        _ => None,
    }
}

/// What a byte begins.
#[derive(Clone, Copy)]
enum Class {
    Letter,
    Digit,
    Single(Token),
    Quote,
    Backtick,
    Dot,
    At,
    Colon,
    High,
    Blank,
    Strange,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Strange; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'(' => Class::Single(Token::Open),
            b')' => Class::Single(Token::Close),
            b',' => Class::Single(Token::Comma),
            b';' => Class::Single(Token::Semicolon),
            b'=' => Class::Single(Token::Equals),
            b'?' => Class::Single(Token::Parameter),
            b'+' | b'-' | b'*' | b'/' | b'%' | b'<' | b'>' | b'!' | b'&' | b'|' | b'^' | b'~' => {
                Class::Single(Token::Operator)
            }
            b'\'' | b'"' => Class::Quote,
            b'`' => Class::Backtick,
            b'.' => Class::Dot,
            b'@' => Class::At,
            b':' => Class::Colon,
            b' ' | b'\t'..=b'\r' => Class::Blank,
            0x80.. => Class::High,
            _ => Class::Strange,
        };
        byte += 1;
    }
    classes
};

/// Bytes that a name without quotes may contain.
const IDENT: [bool; 256] = {
    let mut ident = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        ident[byte] = b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80;
        byte += 1;
    }
    ident
};

#[cfg(test)]
#[path = "lexer_tests.rs"]
mod tests;
