//! The form of a zone file (RFC 1035 section 5.1): entries of one line, or of several in parentheses.

/// One word of an entry. Escapes are still in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word<'a> {
    pub(crate) text: &'a str,
    pub(crate) quoted: bool,
}

/// A line with something on it, or several in parentheses.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// Where it begins, from 1.
    pub(crate) line: usize,
    /// It begins with a space: the owner is the one before.
    pub(crate) indented: bool,
    pub(crate) words: Vec<Word<'a>>,
}

/// Takes the entries out of a text, one after the other.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Scanner<'a> {
        Scanner { text, at: 0, line: 1 }
    }

    /// The line that is read now, from 1.
    pub(crate) fn line(&self) -> usize {
        self.line
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// Line and reason.
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'a>>, (usize, &'static str)> {
        let mut entry = Entry {
            line: self.line,
            indented: false,
            words: Vec::new(),
        };
        let bytes = self.text.as_bytes();
        let mut open = false;
        let mut start_of_line = true;
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b'\n' => {
                    self.at += 1;
                    self.line += 1;
                    if open {
                        continue;
                    }
                    if !entry.words.is_empty() {
                        return Ok(Some(entry));
                    }
                    (start_of_line, entry.indented) = (true, false);
                    continue;
                }
                b' ' | b'\t' | b'\r' => {
                    entry.indented |= start_of_line && entry.words.is_empty();
                    self.at += 1;
                }
                b';' => self.at += self.until(|byte| byte == b'\n'),
                b'(' if open => return Err((self.line, "a parenthesis inside of a parenthesis")),
                b')' if !open => return Err((self.line, "a closing parenthesis without an opening one")),
                b'(' | b')' => {
                    open = byte == b'(';
                    self.at += 1;
                }
                _ => {
                    if entry.words.is_empty() {
                        entry.line = self.line;
                    }
                    let word = self.word(byte == b'"')?;
                    entry.words.push(word);
                }
            }
            start_of_line = false;
        }
        match (open, entry.words.is_empty()) {
            (true, _) => Err((entry.line, "a parenthesis is not closed")),
            (false, true) => Ok(None),
            (false, false) => Ok(Some(entry)),
        }
    }

    fn word(&mut self, quoted: bool) -> Result<Word<'a>, (usize, &'static str)> {
        let begin = self.at + usize::from(quoted);
        let bytes = self.text.as_bytes();
        let mut end = begin;
        loop {
            match bytes.get(end) {
                Some(b'\\') if bytes.get(end + 1).is_none_or(|byte| *byte == b'\n') => {
                    return Err((self.line, "a backslash at the end of the line"));
                }
                // The next character, which may have several bytes.
                Some(b'\\') => end += 2,
                Some(b'"') if quoted => break,
                None | Some(b'\n') if quoted => return Err((self.line, "a quotation mark is missing")),
                None | Some(b'\n' | b' ' | b'\t' | b'\r' | b';' | b'(' | b')' | b'"') if !quoted => break,
                _ => end += 1,
            }
        }
        self.at = end + usize::from(quoted);
        Ok(Word {
            text: self.text.get(begin..end).unwrap_or_default(),
            quoted,
        })
    }

    fn until(&self, stop: impl Fn(u8) -> bool) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        rest.iter().position(|byte| stop(*byte)).unwrap_or(rest.len())
    }
}

/// Seconds, or the form with units that BIND knows: `1h30m`.
pub(crate) fn ttl(text: &str) -> Option<u32> {
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let (mut total, mut number, mut digits) = (0u32, 0u32, false);
    for byte in text.bytes() {
        let unit = match byte.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => {
                number = number.checked_mul(10)?.checked_add(u32::from(digit - b'0'))?;
                digits = true;
                continue;
            }
            _ if !digits => return None,
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        (number, digits) = (0, false);
    }
    total.checked_add(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_taken_apart() {
        let mut scanner = Scanner::new(
            "; head\n\n$TTL 1h ; x\n@ IN SOA a ( b\n 1 ; c\n ) 2\n  TXT \"a b\" c\\ d\"e;\"\nlast",
        );
        let mut found = Vec::new();
        while let Some(entry) = scanner.next().unwrap() {
            let words: Vec<&str> = entry.words.iter().map(|word| word.text).collect();
            found.push((entry.line, entry.indented, words.join("|")));
        }
        let expected = [
            (3, false, "$TTL|1h"),
            (4, false, "@|IN|SOA|a|b|1|2"),
            (7, true, "TXT|a b|c\\ d|e;"),
            (8, false, "last"),
        ];
        assert_eq!(
            found,
            expected.map(|(line, indented, words)| (line, indented, words.to_owned()))
        );
    }

    #[test]
    fn what_is_open_at_the_end_is_refused() {
        for (text, line) in [
            ("\na (\nb", 2),
            ("a\n\"b\n", 2),
            ("a )", 1),
            ("a ((", 1),
            ("a\nb\\", 2),
            ("\"a\\\"", 1),
        ] {
            let mut scanner = Scanner::new(text);
            let error = loop {
                match scanner.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{text:?} was taken"),
                    Err((line, _)) => break line,
                }
            };
            assert_eq!(error, line, "{text:?}");
        }
    }

    #[test]
    fn a_time_to_live_may_have_units() {
        assert_eq!(
            ["0", "3600", "1h30m", "1W", "2d1s"].map(ttl),
            [0, 3600, 5400, 604_800, 172_801].map(Some)
        );
        assert_eq!(
            ["", "a", "h", "1x", "1hh", "4294967296", "9999999w"].map(ttl),
            [None; 7]
        );
    }
}
