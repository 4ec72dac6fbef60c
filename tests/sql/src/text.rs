//! `${…}` in scripts: what differs from run to run, and what is too long to write down.

use std::collections::BTreeMap;

use crate::value::unhex;

/// Replaces `${id:A}` (a connection's id), `${i}` (the loop's count), `${repeat:TEXT:COUNT}` and `${hex:DIGITS}`.
///
/// # Errors
/// Says what it does not know.
pub fn expand(text: &str, ids: &BTreeMap<String, u32>, count: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.extend_from_slice(before.as_bytes());
        let (name, after) = after
            .split_once('}')
            .ok_or_else(|| format!("no closing brace: {text}"))?;
        rest = after;
        let bad = || format!("no such substitution: ${{{name}}}");
        match name.split_once(':').unwrap_or((name, "")) {
            ("i", "") => out.extend_from_slice(count.to_string().as_bytes()),
            ("id", who) => out.extend_from_slice(ids.get(who).ok_or_else(bad)?.to_string().as_bytes()),
            ("hex", digits) => out.extend_from_slice(&unhex(digits).ok_or_else(bad)?),
            ("repeat", what) => {
                let (what, times) = what.rsplit_once(':').ok_or_else(bad)?;
                out.extend_from_slice(&what.as_bytes().repeat(times.parse().map_err(|_| bad())?));
            }
            _ => return Err(bad()),
        }
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

/// Words of a command's line: parted by blanks, `'…'` keeps blanks together.
pub fn words(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut word, mut begun, mut quoted) = (String::new(), false, false);
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                begun = true;
            }
            c if c.is_whitespace() && !quoted => {
                if begun {
                    found.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        found.push(word);
    }
    found
}

/// Replaces the ids of connections by their names, where they stand as whole words.
pub fn mask(text: &str, ids: &BTreeMap<String, u32>) -> String {
    let part = |c: &char| c.is_ascii_alphanumeric();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = match part(&first) {
            true => rest.find(|c| !part(&c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (word, after) = rest.split_at(end);
        match ids.iter().find(|(_, id)| id.to_string() == word) {
            Some((name, _)) => out.push_str(&format!("<id of {name}>")),
            None => out.push_str(word),
        }
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_put_in_and_taken_out_again() {
        let ids = BTreeMap::from([("A".to_owned(), 41)]);
        assert_eq!(
            expand("KILL ${id:A} ${i} '${repeat:ab:3}' ${hex:00ff}", &ids, 7).unwrap(),
            b"KILL 41 7 'ababab' \x00\xff"
        );
        assert!(expand("${id:B}", &ids, 0).is_err() && expand("${x", &ids, 0).is_err());
        assert_eq!(
            mask("41 410 (41S02) =41", &ids),
            "<id of A> 410 (41S02) =<id of A>"
        );
    }

    #[test]
    fn words_keep_quoted_blanks() {
        assert_eq!(words("s1 'str:a b'  null ''"), ["s1", "str:a b", "null", ""]);
    }
}
