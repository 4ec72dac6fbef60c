//! A reader as servers were before request smuggling had a name: lines end with a line feed, `Content-Length` goes before
//! `Transfer-Encoding`, the first of several counts, a number is what it begins with. It stands for the many that
//! are not here, beside those that are; without it the test would not show that it can tell a difference at all.

use super::recorder::Seen;

/// What it takes those bytes for.
pub fn read(mut bytes: &[u8]) -> Vec<Seen> {
    let mut all = Vec::new();
    while let Some((seen, rest)) = one(bytes) {
        all.push(seen);
        bytes = rest;
    }
    all
}

fn one(bytes: &[u8]) -> Option<(Seen, &[u8])> {
    let mut rest = bytes.trim_ascii_start();
    let first = line(&mut rest)?;
    let mut words = first.split_ascii_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut fields: Vec<String> = Vec::new();
    loop {
        let text = line(&mut rest)?;
        match fields.last_mut() {
            _ if text.is_empty() => break,
            Some(last) if text.starts_with([' ', '\t']) => last.push_str(&text),
            _ => fields.push(text),
        }
    }
    let field = |wanted: &str| {
        fields.iter().find_map(|field| {
            let (name, value) = field.split_once(':')?;
            name.trim()
                .eq_ignore_ascii_case(wanted)
                .then(|| value.trim().to_ascii_lowercase())
        })
    };
    let (body, rest) = match (field("content-length"), field("transfer-encoding")) {
        (Some(length), _) => {
            let digits = length.trim_start_matches('+');
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            let length = digits[..end].parse().unwrap_or(0);
            (rest.get(..length)?.to_vec(), &rest[length..])
        }
        (None, Some(coding)) if coding.contains("chunked") => chunks(rest)?,
        (None, _) => (Vec::new(), rest),
    };
    Some((Seen { method, target, body }, rest))
}

fn chunks(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut content = Vec::new();
    loop {
        let text = line(&mut rest)?;
        let digits = text.trim();
        let end = digits
            .find(|c: char| !c.is_ascii_hexdigit())
            .unwrap_or(digits.len());
        let size = usize::from_str_radix(&digits[..end], 16).ok()?;
        if size == 0 {
            while !line(&mut rest)?.is_empty() {}
            return Some((content, rest));
        }
        content.extend_from_slice(rest.get(..size)?);
        rest = &rest[size..];
        line(&mut rest)?;
    }
}

/// A line without its end.
fn line(rest: &mut &[u8]) -> Option<String> {
    let feed = rest.iter().position(|byte| *byte == b'\n')?;
    let text = String::from_utf8_lossy(&rest[..feed]).into_owned();
    *rest = &rest[feed + 1..];
    Some(text.strip_suffix('\r').map(str::to_owned).unwrap_or(text))
}
