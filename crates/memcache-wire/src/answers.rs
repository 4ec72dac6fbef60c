//! Splits a memcached's bytes into answers, one for each command that was sent.

use bytes::{Bytes, BytesMut};

use crate::{MAX_ITEM_BYTES, binary};

/// What kind of answer comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// `VALUE` blocks and `END`, or one line.
    Values,
    /// A line, and data when it begins with `VA`.
    Meta,
    /// One line.
    Line,
    /// Lines up to `END`, or one line that is an error: `stats`.
    Lines,
    /// A packet.
    Packet,
}

/// Why what came is no answer: the connection cannot be trusted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbled;

/// Takes the answer at the beginning of `buffer` out of it; `None` when more is needed.
///
/// # Errors
/// [`Garbled`].
pub fn take(buffer: &mut BytesMut, expect: Expect) -> Result<Option<Bytes>, Garbled> {
    let length = match expect {
        Expect::Values => values(buffer)?,
        Expect::Meta => meta(buffer)?,
        Expect::Line => line(buffer, 0)?,
        Expect::Lines => lines(buffer)?,
        Expect::Packet => binary::answer_length(buffer)?,
    };
    Ok(length
        .filter(|length| *length <= buffer.len())
        .map(|length| buffer.split_to(length).freeze()))
}

/// The blocks of an answer to `get`, without the `END`; `None` when it is an error.
pub fn blocks(answer: &Bytes) -> Option<Bytes> {
    let length = answer.len().checked_sub(END.len())?;
    answer.ends_with(END).then(|| answer.slice(..length))
}

/// The answer to `get` with `key` as the name of what was found.
pub fn renamed(answer: &Bytes, key: &[u8]) -> Bytes {
    let Some(rest) = answer.strip_prefix(b"VALUE ") else {
        return answer.clone();
    };
    let Some(end) = memchr::memchr(b' ', rest) else {
        return answer.clone();
    };
    let mut out = BytesMut::with_capacity(answer.len() + key.len());
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    out.extend_from_slice(&rest[end..]);
    out.freeze()
}

/// The answer to a meta command in which the flag `k` is `key`, as it was asked with.
pub fn renamed_meta(answer: &Bytes, key: &[u8]) -> Bytes {
    let end = memchr::memchr(b'\r', answer).unwrap_or(answer.len());
    let mut out = BytesMut::with_capacity(answer.len() + key.len());
    for (index, word) in answer[..end].split(|byte| *byte == b' ').enumerate() {
        if index > 0 {
            out.extend_from_slice(b" ");
        }
        if index > 0 && word.first() == Some(&b'k') {
            out.extend_from_slice(b"k");
            out.extend_from_slice(key);
        } else {
            out.extend_from_slice(word);
        }
    }
    out.extend_from_slice(&answer[end..]);
    out.freeze()
}

const END: &[u8] = b"END\r\n";
/// Longer than any line of an answer.
const MAX_LINE_BYTES: usize = 4096;
/// More than any `stats` says.
const MAX_LINES_BYTES: usize = 4 << 20;

/// Where the line from `from` ends, its end included.
fn line(bytes: &[u8], from: usize) -> Result<Option<usize>, Garbled> {
    match memchr::memchr(b'\n', bytes.get(from..).unwrap_or_default()) {
        Some(at) => Ok(Some(from + at + 1)),
        None if bytes.len() > from + MAX_LINE_BYTES => Err(Garbled),
        None => Ok(None),
    }
}

fn values(bytes: &[u8]) -> Result<Option<usize>, Garbled> {
    let mut at = 0;
    loop {
        let Some(end) = line(bytes, at)? else {
            return Ok(None);
        };
        let Some(rest) = bytes[at..end].strip_prefix(b"VALUE ") else {
            return Ok(Some(end));
        };
        // key, flags, bytes, and a number for cas
        let length = rest
            .trim_ascii_end()
            .split(|byte| *byte == b' ')
            .nth(2)
            .and_then(length)
            .ok_or(Garbled)?;
        at = end + length + 2;
        if bytes.len() < at {
            return Ok(None);
        }
        if bytes[at - 2..at] != *b"\r\n" {
            return Err(Garbled);
        }
    }
}

fn meta(bytes: &[u8]) -> Result<Option<usize>, Garbled> {
    let Some(end) = line(bytes, 0)? else {
        return Ok(None);
    };
    let Some(rest) = bytes[..end].strip_prefix(b"VA ") else {
        return Ok(Some(end));
    };
    let word = rest.trim_ascii_end().split(|byte| *byte == b' ').next();
    Ok(Some(end + word.and_then(length).ok_or(Garbled)? + 2))
}

fn lines(bytes: &[u8]) -> Result<Option<usize>, Garbled> {
    let mut at = 0;
    loop {
        let Some(end) = line(bytes, at)? else {
            return if bytes.len() > MAX_LINES_BYTES {
                Err(Garbled)
            } else {
                Ok(None)
            };
        };
        let is_last = !bytes[at..end].starts_with(b"STAT ");
        at = end;
        if is_last {
            return Ok(Some(at));
        }
    }
}

fn length(word: &[u8]) -> Option<usize> {
    let length: usize = std::str::from_utf8(word).ok()?.parse().ok()?;
    (length <= MAX_ITEM_BYTES).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answers(bytes: &[u8], expect: &[Expect]) -> Vec<Vec<u8>> {
        let mut buffer = BytesMut::from(bytes);
        let mut found = Vec::new();
        for expect in expect {
            if let Ok(Some(answer)) = take(&mut buffer, *expect) {
                found.push(answer.to_vec());
            }
        }
        found
    }

    #[test]
    fn each_answer_ends_where_the_next_begins() {
        let bytes = b"VALUE a 0 5\r\nEND\r\n\r\nEND\r\nVA 2 f0\r\nxx\r\nSTORED\r\nSTAT a 1\r\nEND\r\nSERVER_ERROR no\r\n";
        use Expect::{Line, Lines, Meta, Values};
        let found = answers(bytes, &[Values, Meta, Line, Lines, Values]);
        let wanted: [&[u8]; 5] = [
            b"VALUE a 0 5\r\nEND\r\n\r\nEND\r\n",
            b"VA 2 f0\r\nxx\r\n",
            b"STORED\r\n",
            b"STAT a 1\r\nEND\r\n",
            b"SERVER_ERROR no\r\n",
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn the_clients_key_is_put_back() {
        let get = Bytes::from_static(b"VALUE tag-a 0 1 9\r\nx\r\nEND\r\n");
        assert_eq!(renamed(&get, b"a"), &b"VALUE a 0 1 9\r\nx\r\nEND\r\n"[..]);
        let meta = Bytes::from_static(b"VA 2 ktag-a s2\r\nk \r\n");
        assert_eq!(renamed_meta(&meta, b"a"), &b"VA 2 ka s2\r\nk \r\n"[..]);
    }

    proptest! {
        #[test]
        fn nothing_is_taken_before_it_is_whole(value in proptest::collection::vec(any::<u8>(), 0..40), cut in 0usize..200) {
            let mut whole = format!("VALUE key 7 {}\r\n", value.len()).into_bytes();
            whole.extend(&value);
            whole.extend(b"\r\nEND\r\n");
            let cut = cut % whole.len();
            let mut buffer = BytesMut::from(&whole[..cut]);
            prop_assert_eq!(take(&mut buffer, Expect::Values), Ok(None));
            buffer.extend_from_slice(&whole[cut..]);
            prop_assert_eq!(take(&mut buffer, Expect::Values), Ok(Some(Bytes::from(whole))));
        }

        #[test]
        fn any_bytes_are_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for expect in [Expect::Values, Expect::Meta, Expect::Line, Expect::Lines, Expect::Packet] {
                let _ = take(&mut BytesMut::from(&bytes[..]), expect);
            }
        }
    }
}
