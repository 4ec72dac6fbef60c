//! Colour, only where it is wanted, and the width of text on a screen.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Colours text, or leaves it as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// With colours.
    pub fn on() -> Paint {
        Paint { on: true }
    }

    /// Without.
    pub fn off() -> Paint {
        Paint { on: false }
    }

    /// As it should be.
    pub fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    /// Less than it should be.
    pub fn warn(self, text: &str) -> String {
        self.with("33", text)
    }

    /// Broken or refused.
    pub fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    /// What matters most on its line.
    pub fn strong(self, text: &str) -> String {
        self.with("1", text)
    }

    /// What matters least.
    pub fn faint(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Columns that `text` takes on a screen.
pub fn width(text: &str) -> usize {
    text.width()
}

/// `text` cut to `columns`, with an ellipsis when something is missing.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 0;
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if used + wide + 1 > columns {
            break;
        }
        kept.push(c);
        used += wide;
    }
    if columns > 0 {
        kept.push('…');
    }
    kept
}

/// Words that came over the wire, made harmless for a terminal: control characters (escape sequences among
/// them) become `·`. A lying peer must not be able to rewrite the operator's screen.
pub fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '·' } else { c })
        .collect()
}

/// Breaks `text` into lines of at most `columns` at spaces.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && width(&line) + 1 + width(word) > columns {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_counts_columns_not_bytes() {
        assert_eq!(cut("größer", 6), "größer");
        assert_eq!(cut("größer", 4), "grö…");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn what_a_peer_says_cannot_move_the_cursor() {
        assert_eq!(harmless("a\x1b[2Jb\r\nc\u{9b}d"), "a·[2Jb··c·d");
    }

    #[test]
    fn colour_is_off_when_off() {
        assert_eq!(Paint::off().bad("x"), "x");
        assert_eq!(Paint::on().bad("x"), "\x1b[31mx\x1b[0m");
    }

    #[test]
    fn text_is_wrapped_at_spaces() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 3), ["unbreakable"]);
    }
}
