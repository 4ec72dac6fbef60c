//! Draws a mistake under the line that it is in.
//!
//! ```text
//! error[C004]: unknown key `max_lagg`
//!    ╭─[/etc/pontoon/fleet.toml:24:26]
//! 24 │ reads = { split = true, max_lagg = "1s" }
//!    ·                         ────┬───
//!    ·                             ╰── did you mean `max_lag`?
//!    ╰─
//! ```
//!
//! One line is shown; a longer one is cut around the place. Tabs become four blanks, control characters are shown
//! as symbols, so that what a file holds cannot steer the terminal. The value of a secret is covered.

use std::ops::Range;

use pontoon_fleet::Code;

use crate::{ConfigError, secret};

/// Draws one mistake. `text` is the configuration, `origin` what to call it (its path).
pub fn render(error: &ConfigError, text: &str, origin: &str) -> String {
    let head = format!("error[{}]: {}\n", error.code, visible(&error.message));
    let (text, origin) = match &error.origin {
        Some(from) => (from.text.as_str(), from.name.as_str()),
        None => (text, origin),
    };
    let Some(span) = error.span.clone() else {
        let hint = error
            .hint
            .as_ref()
            .map(|hint| format!("   = {}\n", visible(hint)))
            .unwrap_or_default();
        return head + &hint;
    };
    let place = Place::of(text, span);
    let shown = place.window(error.code == Code::C007);
    let number = place.line_number.to_string();
    let margin = " ".repeat(number.len());
    let mut out = head;
    out.push_str(&format!(
        "{margin} ╭─[{}:{number}:{}]\n",
        visible(origin),
        place.column
    ));
    out.push_str(&format!("{number} │ {}\n", shown.line.trim_end()));
    let before = " ".repeat(shown.before);
    match &error.hint {
        Some(hint) => {
            let stem = shown.width / 2;
            let under = format!("{}┬{}", "─".repeat(stem), "─".repeat(shown.width - stem - 1));
            out.push_str(&format!("{margin} · {before}{under}\n"));
            out.push_str(&format!(
                "{margin} · {before}{}╰── {}\n",
                " ".repeat(stem),
                visible(hint)
            ));
        }
        None => out.push_str(&format!("{margin} · {before}{}\n", "─".repeat(shown.width))),
    }
    out.push_str(&format!("{margin} ╰─\n"));
    out
}

/// Draws every mistake, a blank line between two.
pub fn render_all(errors: &[ConfigError], text: &str, origin: &str) -> String {
    errors
        .iter()
        .map(|error| render(error, text, origin))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Where a range of bytes is, in the terms of a person.
struct Place<'t> {
    line: &'t str,
    /// The range within `line`, at character boundaries.
    span: Range<usize>,
    line_number: usize,
    /// In characters, from 1.
    column: usize,
}

impl<'t> Place<'t> {
    fn of(text: &'t str, span: Range<usize>) -> Place<'t> {
        let start = floor(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line = &text[line_start..line_end];
        let line = line.strip_suffix('\r').unwrap_or(line);
        let start_in_line = floor(line, start - line_start);
        let end_in_line = floor(line, span.end.saturating_sub(line_start)).max(start_in_line);
        Place {
            line,
            span: start_in_line..end_in_line,
            line_number: text[..line_start].matches('\n').count() + 1,
            column: line[..start_in_line].chars().count() + 1,
        }
    }

    /// The part of the line that is shown, and what of it is underlined.
    fn window(&self, covered: bool) -> Shown {
        let mut cells: Vec<(String, bool)> = Vec::new();
        let mut first = None;
        let secrets = secret::parts_of(self.line);
        for (at, c) in self.line.char_indices() {
            let inside = self.span.contains(&at);
            if at >= self.span.start && first.is_none() {
                first = Some(cells.len());
            }
            match c {
                '\t' => cells.extend((0..4).map(|_| (" ".to_owned(), inside))),
                _ if (covered && inside) || secrets.iter().any(|part| part.contains(&at)) => {
                    cells.push(("•".to_owned(), inside));
                }
                _ => cells.extend(show(c).into_iter().map(|cell| (cell, inside))),
            }
        }
        let first = first.unwrap_or(cells.len());
        let marked = cells.iter().filter(|(_, inside)| *inside).count();
        let from = if cells.len() > WIDEST && first > WIDEST / 2 {
            first - WIDEST / 3
        } else {
            0
        };
        let to = cells.len().min(from + WIDEST);
        let mut line = String::new();
        if from > 0 {
            line.push('…');
        }
        line.extend(cells.iter().take(to).skip(from).map(|(cell, _)| cell.as_str()));
        if to < cells.len() {
            line.push('…');
        }
        let before = first - from + usize::from(from > 0);
        Shown {
            line,
            before,
            width: marked.min(to.saturating_sub(first)).max(1),
        }
    }
}

struct Shown {
    line: String,
    /// Columns before the underlined part.
    before: usize,
    /// Columns underlined, at least one.
    width: usize,
}

/// One string for each column that `c` takes: an empty one for the second column of a wide character.
fn show(c: char) -> Vec<String> {
    let c = printable(c);
    match width(c) {
        0 => Vec::new(),
        1 => vec![c.to_string()],
        _ => vec![c.to_string(), String::new()],
    }
}

/// Control characters, and those that turn the direction of writing, as symbols.
fn printable(c: char) -> char {
    match c {
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}' => '\u{fffd}',
        _ => c,
    }
}

/// Columns on a terminal: the blocks of Unicode that East Asian Width (UAX #11) calls wide, and combining marks.
fn width(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036f
        | 0x1ab0..=0x1aff
        | 0x1dc0..=0x1dff
        | 0x20d0..=0x20ff
        | 0xfe00..=0xfe0f
        | 0xfe20..=0xfe2f => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xa960..=0xa97f
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

fn visible(text: &str) -> String {
    text.chars().map(printable).collect()
}

/// The last character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Longer lines are cut.
const WIDEST: usize = 100;
