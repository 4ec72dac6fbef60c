//! Text in a URL (RFC 3986 section 2.1).

/// Everything but letters and digits is written as `%XX`: good for a value in a query.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() {
            true => encoded.push(char::from(byte)),
            false => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// What was written so; `None` when something that begins with `%` is no such thing, or when it is not UTF-8.
pub fn decode(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = rest.get(2..)?;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_survives_a_query_and_nonsense_does_not() {
        for path in ["a b/é&=%?#", "2026/11/x.jpg", "%", "日本"] {
            assert_eq!(decode(encode(path).as_bytes()).as_deref(), Some(path));
        }
        for wrong in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(decode(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
