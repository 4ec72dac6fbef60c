//! What looks like a secret: such keys are refused, and what stands behind them is not shown, whatever else is
//! wrong in the same line.

use std::ops::Range;

const WORDS: [&str; 8] = [
    "password",
    "passwd",
    "secret",
    "access_key",
    "api_key",
    "private_key",
    "token",
    "credentials",
];

/// Whether a key of that name would hold a secret.
pub(crate) fn is_key(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

/// The parts of a line that may be secret: values of such keys, and what stands before an `@` in a URL. Too much
/// rather than too little, for the line may not be TOML. A reference (`{ credential = "s3" }`) is not a secret.
pub(crate) fn parts_of(line: &str) -> Vec<Range<usize>> {
    let lower = line.to_ascii_lowercase();
    let mut found = Vec::new();
    for word in WORDS {
        for (at, _) in lower.match_indices(word) {
            let behind = at + word.len();
            let Some(equals) = lower[behind..].find('=').map(|offset| behind + offset) else {
                continue;
            };
            let is_key = lower[behind..equals]
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_-\"'. \t".contains(c));
            let start = equals + 1 + (line.len() - equals - 1 - line[equals + 1..].trim_start().len());
            if is_key && start < line.len() && !line[start..].starts_with('{') {
                found.push(start..value_end(line, start));
            }
        }
    }
    for (at, _) in line.match_indices("://") {
        let start = at + 3;
        let host = line[start..]
            .find(['/', '"', '\'', ' '])
            .map_or(line.len(), |offset| start + offset);
        if let Some(until) = line[start..host].rfind('@') {
            found.push(start..start + until);
        }
    }
    found
}

/// To the closing quote, or to what ends a bare value.
fn value_end(line: &str, start: usize) -> usize {
    let value = &line[start..];
    let end = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].rfind(quote).map(|at| at + 2),
        _ => value.find([',', '}', '#']),
    };
    end.map_or(line.len(), |end| start + end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_lines_of_every_kind() {
        for (line, hidden) in [
            ("password = \"x y\"", vec!["\"x y\""]),
            ("  DB_Password='x'  # c", vec!["'x'"]),
            ("a = { secret_key = \"x\", b = 1 }", vec!["\"x\""]),
            ("credentials = \"x", vec!["\"x"]),
            ("credentials = { credential = \"s3\" }", vec![]),
            ("token = x # y", vec!["x "]),
            ("url = \"https://u:p@host/a@b\"", vec!["u:p"]),
            ("password", vec![]),
            ("password =", vec![]),
            ("é_secret = \"é\"", vec!["\"é\""]),
            ("# the token is elsewhere", vec![]),
        ] {
            let parts: Vec<_> = parts_of(line).into_iter().map(|part| &line[part]).collect();
            assert_eq!(parts, hidden, "{line}");
        }
    }
}
