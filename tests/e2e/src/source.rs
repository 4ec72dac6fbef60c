//! Rules on single source files: their length, their first line, `unsafe`, and what a pure crate may name.

/// Lines above which a file fails.
pub const HARD_LIMIT: usize = 1000;
/// Lines above which a file is listed as worth splitting.
pub const SOFT_LIMIT: usize = 600;

/// Why the file is too long, if it is.
pub fn too_long(path: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > HARD_LIMIT).then(|| format!("{path}: {lines} lines; {HARD_LIMIT} is the limit"))
}

/// Whether the file should be split before long.
pub fn long(path: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > SOFT_LIMIT && lines <= HARD_LIMIT)
        .then(|| format!("{path}: {lines} lines; aim for {SOFT_LIMIT}"))
}

/// Why the head of a `lib.rs` or `main.rs` does not say what the crate is, if so.
pub fn unexplained(path: &str, text: &str) -> Option<String> {
    let head: String = text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .collect::<Vec<_>>()
        .join("\n");
    if head.is_empty() {
        return Some(format!(
            "{path}: does not begin with //!, saying what the crate is"
        ));
    }
    let said = head.to_lowercase();
    let library = path.ends_with("lib.rs");
    for part in ["in:", "out:", "never"] {
        if library && !said.contains(part) {
            return Some(format!(
                "{path}: its head does not say what goes in, what comes out and what it must never do ({part:?} is missing)"
            ));
        }
    }
    None
}

/// Places where the word `unsafe` stands in code (not in comments or texts). Only `crates/sys` may have it.
pub fn unsafe_code(path: &str, text: &str) -> Vec<String> {
    if path.starts_with("crates/sys/") {
        return Vec::new();
    }
    words_in_code(text, &["unsafe"])
        .into_iter()
        .map(|(line, _)| format!("{path}:{line}: unsafe outside crates/sys"))
        .collect()
}

/// Places where a pure crate names a clock, a thread, a file or a socket outside its tests.
pub fn impure(path: &str, text: &str) -> Vec<String> {
    const NAMES: &[&str] = &[
        "std::fs",
        "std::thread",
        "std::process",
        "Instant::now",
        "SystemTime::now",
        "TcpStream",
        "UnixStream",
        "UdpSocket",
    ];
    let code = text.split("#[cfg(test)]").next().unwrap_or(text);
    words_in_code(code, NAMES)
        .into_iter()
        .map(|(line, name)| format!("{path}:{line}: {name} in a pure crate; make it an argument"))
        .collect()
}

/// Where these words stand in code, with line numbers from 1.
fn words_in_code<'a>(text: &str, words: &[&'a str]) -> Vec<(usize, &'a str)> {
    let code = code_only(text);
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        for word in words {
            if has_word(line, word) {
                found.push((number + 1, *word));
            }
        }
    }
    found
}

fn has_word(line: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(part_of_name)
            && !line[at + word.len()..].chars().next().is_some_and(part_of_name)
    })
}

/// The source with comments and the contents of texts taken out; line breaks stay, so that line numbers hold.
pub fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = comment(rest)
            .or_else(|| raw_text(rest, out.chars().next_back()))
            .or_else(|| quoted(rest, '"'))
            .or_else(|| character(rest));
        let taken = match skipped {
            Some(length) => {
                out.extend(rest[..length].chars().filter(|c| *c == '\n'));
                out.push(' ');
                length
            }
            None => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    out
}

/// The length of the comment that begins here. Block comments nest.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0usize, 0usize);
    while at < text.len() {
        let here = &text[at..];
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    Some(text.len())
}

/// The length of the raw text (`r"…"`, `br#"…"#`) that begins here, unless this is the tail of a name.
fn raw_text(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let start = text
        .strip_prefix("br")
        .or_else(|| text.strip_prefix("cr"))
        .or_else(|| text.strip_prefix('r'))?;
    let hashes = start.len() - start.trim_start_matches('#').len();
    let body = start[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let opened = text.len() - body.len();
    Some(
        body.find(&close)
            .map_or(text.len(), |at| opened + at + close.len()),
    )
}

/// The length of the text between two `quote`s that begins here; a backslash takes the next character along.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut characters = text.char_indices();
    if characters.next()?.1 != quote {
        return None;
    }
    while let Some((at, c)) = characters.next() {
        if c == '\\' {
            characters.next();
        } else if c == quote {
            return Some(at + 1);
        }
    }
    Some(text.len())
}

/// The length of the character literal that begins here; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    let first = inner.chars().next()?;
    let literal = first == '\\' || inner[first.len_utf8()..].starts_with('\'');
    literal.then(|| quoted(text, '\''))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_file() {
        assert_eq!(too_long("a.rs", &"x\n".repeat(HARD_LIMIT)), None);
        assert!(too_long("a.rs", &"x\n".repeat(HARD_LIMIT + 1)).is_some());
        assert_eq!(long("a.rs", &"x\n".repeat(SOFT_LIMIT)), None);
        assert!(long("a.rs", &"x\n".repeat(SOFT_LIMIT + 1)).is_some());
        assert_eq!(long("a.rs", &"x\n".repeat(HARD_LIMIT + 1)), None);
    }

    #[test]
    fn the_head_of_a_crate() {
        let good =
            "//! The words.\n//!\n//! **In:** nothing. **Out:** types. **Must never:** do I/O.\n\nmod a;\n";
        assert_eq!(unexplained("crates/a/src/lib.rs", good), None);
        assert_eq!(unexplained("crates/a/src/main.rs", "//! The program.\n"), None);
        assert!(unexplained("crates/a/src/lib.rs", "mod a;\n").is_some());
        assert!(unexplained("crates/a/src/lib.rs", "//! (being written)\n").is_some());
        assert!(unexplained("crates/a/src/main.rs", "// The program.\n").is_some());
    }

    #[test]
    fn unsafe_is_found_in_code_only() {
        let at = |text| unsafe_code("crates/edge/src/a.rs", text);
        assert_eq!(
            at("fn a() {}\nunsafe { b() }\n"),
            ["crates/edge/src/a.rs:2: unsafe outside crates/sys"]
        );
        assert!(unsafe_code("crates/sys/src/a.rs", "unsafe fn a() {}").is_empty());
        for harmless in [
            "// unsafe\n",
            "/* a /* nested */ unsafe */ fn a() {}",
            "let a = \"unsafe \\\" unsafe\";",
            "let a = r#\"unsafe \" unsafe\"#;",
            "#![forbid(unsafe_code)]",
            "let unsafe_methods = ();",
        ] {
            assert!(at(harmless).is_empty(), "{harmless}");
        }
        for harmful in [
            "let quote = '\"'; unsafe { a() }",
            "fn a<'a>(b: &'a str) { unsafe { c(b) } }",
            "let b = b'\\''; unsafe {}",
        ] {
            assert_eq!(at(harmful).len(), 1, "{harmful}");
        }
    }

    #[test]
    fn a_pure_crate_names_no_clock() {
        assert_eq!(
            impure("a.rs", "\nlet now = std::time::Instant::now();\n").len(),
            1
        );
        assert!(impure("a.rs", "// Instant::now is forbidden here\n").is_empty());
        assert!(impure("a.rs", "#[cfg(test)]\nmod tests { use std::fs; }").is_empty());
    }

    #[test]
    fn nothing_makes_it_panic() {
        for odd in [
            "", "'", "\"", "r#\"", "/*", "/* é", "'é", "'\\", "\"\\", "r##", "b'", "é'é'",
        ] {
            code_only(odd);
        }
    }
}
