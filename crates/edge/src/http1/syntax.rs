//! The character classes of RFC 9110 section 5.6 and RFC 3986, as tables.

const TOKEN: u8 = 1;
const VALUE: u8 = 2;
const HOST: u8 = 4;
const UNDERSCORE: u8 = 8;
const NAME: u8 = 16;

static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0u8; 256];
    let mut i = 0usize;
    while i < 256 {
        let byte = i as u8;
        let alphanumeric = byte.is_ascii_alphanumeric();
        if alphanumeric || is_in(byte, b"!#$%&'*+-.^_`|~") {
            table[i] |= TOKEN;
        }
        // Field values: HTAB, SP, VCHAR and obs-text (RFC 9110 section 5.5).
        if byte == b'\t' || (byte >= 0x20 && byte != 0x7f) {
            table[i] |= VALUE;
        }
        // uri-host [":" port]: reg-name, IPv4 and bracketed IPv6 (RFC 3986 section 3.2.2).
        if alphanumeric || is_in(byte, b"-._~!$&'()*+,;=%:[]") {
            table[i] |= HOST;
        }
        if byte == b'_' {
            table[i] |= UNDERSCORE;
        }
        // What a host without a port, and without brackets, usually is made of.
        if alphanumeric || byte == b'.' || byte == b'-' {
            table[i] |= NAME;
        }
        i += 1;
    }
    table
}

const fn is_in(byte: u8, set: &[u8]) -> bool {
    let mut i = 0;
    while i < set.len() {
        if set[i] == byte {
            return true;
        }
        i += 1;
    }
    false
}

/// A character of a method or a field name.
pub fn is_token_byte(byte: u8) -> bool {
    CLASS[usize::from(byte)] & TOKEN != 0
}

/// A character of a field value.
pub fn is_value_byte(byte: u8) -> bool {
    CLASS[usize::from(byte)] & VALUE != 0
}

/// Not empty, and all token characters.
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| is_token_byte(*b))
}

/// How many token characters `text` begins with, and whether an underscore is among them.
pub fn token_length(text: &[u8]) -> (usize, bool) {
    let (mut at, mut seen) = (letters(text), 0);
    while let Some(byte) = text.get(at) {
        let class = CLASS[usize::from(*byte)];
        if class & TOKEN == 0 {
            break;
        }
        seen |= class;
        at += 1;
    }
    (at, seen & UNDERSCORE != 0)
}

/// How many letters and hyphens `text` begins with, of which nearly all names are made; eight bytes are looked at together.
/// There may be more: the last few bytes are not looked at.
fn letters(text: &[u8]) -> usize {
    const EACH: u64 = u64::MAX / 255;
    let (words, _) = text.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The high bit of each byte says what it is; the lower seven are too few for a sum to reach the next byte.
        let small = (word | (EACH * 0x20)) & (EACH * 0x7f);
        let from_a = small + EACH * (0x80 - b'a' as u64);
        let after_z = small + EACH * (0x7f - b'z' as u64);
        let no_hyphen = ((word ^ (EACH * b'-' as u64)) & (EACH * 0x7f)) + EACH * 0x7f;
        let is_one = ((from_a & !after_z) | !no_hyphen) & !word;
        let other = !is_one & (EACH * 0x80);
        if other != 0 {
            return at * 8 + other.trailing_zeros() as usize / 8;
        }
    }
    words.len() * 8
}

/// Every line of `head` ends with CR LF, and all other characters may stand in a field value. As [`is_value`], without a
/// branch in the loop.
pub fn is_clean(head: &[u8]) -> bool {
    let (Some(first), Some((last, front))) = (head.first(), head.split_last()) else {
        return false;
    };
    let rest = &head[1..];
    let (blocks, end) = rest.as_chunks::<BLOCK>();
    let mut bad = [0; BLOCK];
    let mut look = |before: &[u8; BLOCK], block: &[u8; BLOCK]| {
        for lane in 0..BLOCK {
            bad[lane] |= unclean(before[lane], block[lane]);
        }
    };
    for (before, block) in front.as_chunks::<BLOCK>().0.iter().zip(blocks) {
        look(before, block);
    }
    let bad = match (front.last_chunk(), rest.last_chunk()) {
        // What is looked at twice does no harm.
        (Some(before), Some(block)) => {
            look(before, block);
            bad.iter().fold(0, |all, one| all | one)
        }
        _ => front
            .iter()
            .zip(end)
            .fold(0, |bad, (before, b)| bad | unclean(*before, *b)),
    };
    bad == 0 && *last != b'\r' && is_value_byte(*first)
}

/// Bytes that are looked at together.
const BLOCK: usize = 16;

/// Not 0 when `b`, which follows `before`, is what a clean head has not.
fn unclean(before: u8, b: u8) -> u8 {
    let control = (b < 0x20) & (b != b'\t') & (b != b'\r') & (b != b'\n');
    let apart = (before == b'\r') != (b == b'\n');
    u8::from(control | (b == 0x7f) | apart)
}

/// All characters may stand in a field value: the same as [`is_value_byte`] of each, without a branch in the loop, so
/// that many bytes are looked at together.
pub fn is_value(text: &[u8]) -> bool {
    every(text, |b| (b >= 0x20) & (b != 0x7f) | (b == b'\t'))
}

/// Not empty, and all characters may stand in a request target.
pub fn is_target(text: &[u8]) -> bool {
    // Everything visible but '#': browsers send `|` and `{` as they are, and no one agrees on what a fragment means here.
    !text.is_empty() && every(text, |b| (b > b' ') & (b < 0x7f) & (b != b'#'))
}

/// Whether all of `text` are `good`, without a branch for each.
fn every(text: &[u8], good: impl Fn(u8) -> bool) -> bool {
    let (blocks, end) = text.as_chunks::<BLOCK>();
    let mut all = [true; BLOCK];
    // What is looked at twice does no harm.
    let last = text.last_chunk::<BLOCK>();
    for block in blocks.iter().chain(last) {
        for (all, byte) in all.iter_mut().zip(block) {
            *all &= good(*byte);
        }
    }
    let all = all.iter().fold(true, |good, one| good & one);
    all && (last.is_some() || end.iter().all(|byte| good(*byte)))
}

/// A host with an optional port.
pub fn is_host(text: &[u8]) -> bool {
    // Most are nothing but a name.
    if !text.is_empty() && text.iter().all(|b| CLASS[usize::from(*b)] & NAME != 0) {
        return true;
    }
    if text.is_empty() || !text.iter().all(|b| CLASS[usize::from(*b)] & HOST != 0) {
        return false;
    }
    let (host, port) = match text.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|b| *b == b']') else {
                return false;
            };
            let (inside, port) = (&rest[..end], &rest[end + 1..]);
            if !inside
                .iter()
                .all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
            {
                return false;
            }
            (inside, port)
        }
        None => {
            let colon = text.iter().position(|b| *b == b':').unwrap_or(text.len());
            (&text[..colon], &text[colon..])
        }
    };
    let port_is_good = match port.split_first() {
        None => true,
        Some((b':', digits)) => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        Some(_) => false,
    };
    !host.is_empty() && !host.iter().any(|b| matches!(b, b'[' | b']')) && port_is_good
}

/// Whether spaces or tabs are at an end of `text`, or nothing else is in it.
pub fn has_space_around(text: &[u8]) -> bool {
    matches!(text, [] | [b' ' | b'\t', ..] | [.., b' ' | b'\t'])
}

/// Without the spaces and tabs at both ends (OWS).
pub fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// A decimal number of at most 18 digits and nothing else: no sign, no space.
pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| number * 10 + u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in [
            "a",
            "example.org",
            "example.org:80",
            "[::1]",
            "[2001:db8::1]:8080",
            "198.51.100.1:1",
            "a:",
        ] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a/b", "a@b", "a:b", "a:80:80", "[", "]", "[]", "[::1", "::1]", "[::1]x",
            "a[::1]", "[[::1]]", "a:123456", "a\\b", "a#", "a?b", "a]:1", "[a]:1]",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn values_and_targets_are_their_bytes() {
        assert!(is_value(b"") && !is_target(b""));
        for byte in 0..=255u8 {
            let is_in_targets = byte.is_ascii_graphic() && byte != b'#';
            for (length, place) in [(1, 0), (2, 1), (16, 3), (17, 16), (40, 0), (40, 33), (40, 39)] {
                let mut text = vec![b'a'; length];
                text[place] = byte;
                assert_eq!(is_value(&text), is_value_byte(byte), "{byte:#x}");
                assert_eq!(is_target(&text), is_in_targets, "{byte:#x}");
            }
        }
    }

    #[test]
    fn a_clean_head_has_only_whole_line_ends_and_values() {
        for byte in 0..=255u8 {
            for (text, good) in [
                (vec![b'a', byte, b'b', b'\r', b'\n'], is_value_byte(byte)),
                (vec![byte, b'a'], is_value_byte(byte)),
                (vec![b'a', byte], is_value_byte(byte)),
                (vec![b'a', b'\r', byte, b'b'], byte == b'\n'),
                (vec![b'a', byte, b'\n', b'b'], byte == b'\r'),
            ] {
                assert_eq!(is_clean(&text), good, "{text:?}");
            }
        }
        assert!(!is_clean(b"") && is_clean(b"a") && is_clean(b"a: b\r\n\r\n"));
        for length in 1..70 {
            for place in 0..length {
                let mut text = vec![b'a'; length];
                assert!(is_clean(&text));
                for bad in [0, b'\n', b'\r', 0x7f] {
                    text[place] = bad;
                    assert!(!is_clean(&text), "{bad:#x} at {place} of {length}");
                }
            }
        }
    }

    #[test]
    fn a_token_is_as_long_as_its_characters() {
        assert_eq!(token_length(b"a-b: c_d"), (3, false));
        assert_eq!(token_length(b"a_b"), (3, true));
        assert_eq!(token_length(b""), (0, false));
        for byte in 0..=255u8 {
            for place in 0..20 {
                let mut text = [b'a'; 20];
                text[place] = byte;
                let length = if is_token_byte(byte) { 20 } else { place };
                assert_eq!(
                    token_length(&text),
                    (length, byte == b'_'),
                    "{byte:#x} at {place}"
                );
            }
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"999999999999999999"), Some(999_999_999_999_999_999));
        for bad in [
            "",
            "+1",
            "-1",
            " 1",
            "1 ",
            "0x1",
            "1,1",
            "1000000000000000000",
            "\u{0661}",
        ] {
            assert_eq!(decimal(bad.as_bytes()), None, "{bad}");
        }
    }
}
