//! Splits a client's bytes into requests. The first byte says which protocol the connection speaks, as in memcached.

use bytes::{Buf, Bytes, BytesMut};

use crate::binary::{self, Asked};
use crate::text::{self, BAD_CHUNK, Keyed, Line};

/// What a client wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A command of the text protocol. Never [`Line::Close`].
    Text(Line),
    /// One of the binary protocol.
    Binary(Asked),
    /// The connection ends here, after the answers to what came before.
    Close,
}

/// Where a client's connection stands.
#[derive(Debug, Default)]
pub struct Requests {
    is_binary: Option<bool>,
    /// Bytes still to be dropped.
    swallow_bytes: usize,
    /// A command whose data is not all there.
    waits: Option<Keyed>,
    /// A line that is longer than this is not one, unless it asks for many keys.
    seen: usize,
    over: bool,
}

/// `rbytes > 2048` in `try_read_command_ascii`.
const MAX_LINE_BYTES: usize = 2048;
/// A `get` may be longer. Memcached has no bound; this is room for 32,000 of the longest keys.
const MAX_GET_BYTES: usize = 8 << 20;

impl Requests {
    /// Whether it speaks binary; `None` before it has spoken.
    pub fn is_binary(&self) -> Option<bool> {
        self.is_binary
    }

    /// The next whole request in `buffer`, which is taken out of it; `None` when more is needed. After
    /// [`Request::Close`] there is none.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Option<Request> {
        if self.over {
            return None;
        }
        let swallowed = self.swallow_bytes.min(buffer.len());
        buffer.advance(swallowed);
        self.swallow_bytes -= swallowed;
        let first = *buffer.first()?;
        let is_binary = *self.is_binary.get_or_insert(first == binary::REQUEST);
        let request = if is_binary {
            self.next_binary(buffer)?
        } else {
            self.next_text(buffer)?
        };
        self.over = request == Request::Close;
        Some(request)
    }

    fn next_binary(&mut self, buffer: &mut BytesMut) -> Option<Request> {
        Some(match binary::next(buffer)? {
            binary::Next::Asked(asked) => {
                self.swallow_bytes = asked.swallow_bytes;
                Request::Binary(asked)
            }
            binary::Next::Close => Request::Close,
        })
    }

    fn next_text(&mut self, buffer: &mut BytesMut) -> Option<Request> {
        if let Some(keyed) = self.waits.take() {
            return self.with_data(keyed, buffer);
        }
        let Some(end) = memchr::memchr(b'\n', buffer.get(self.seen..)?).map(|at| at + self.seen) else {
            self.seen = buffer.len();
            return (self.seen > MAX_LINE_BYTES && !may_grow(buffer)).then_some(Request::Close);
        };
        self.seen = 0;
        let mut line = buffer.split_to(end + 1).freeze();
        line.truncate(end);
        if line.len() > 1 && line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        // What follows a NUL is not seen by memcached, whose words are C strings.
        if let Some(nul) = memchr::memchr(0, &line) {
            line.truncate(nul);
        }
        match text::parse(line) {
            Line::Close => Some(Request::Close),
            Line::Keyed(keyed) if keyed.data_bytes > 0 => self.with_data(keyed, buffer),
            line => {
                if let Line::TooLarge { swallow_bytes, .. } = line {
                    self.swallow_bytes = swallow_bytes;
                }
                Some(Request::Text(line))
            }
        }
    }

    fn with_data(&mut self, mut keyed: Keyed, buffer: &mut BytesMut) -> Option<Request> {
        if buffer.len() < keyed.data_bytes {
            buffer.reserve(keyed.data_bytes - buffer.len());
            self.waits = Some(keyed);
            return None;
        }
        let data = buffer.split_to(keyed.data_bytes);
        if !data.ends_with(b"\r\n") {
            let quiet = keyed.quiet && keyed.verb == text::Verb::Store;
            return Some(Request::Text(Line::Answer(if quiet { b"" } else { BAD_CHUNK })));
        }
        let mut frame = BytesMut::with_capacity(keyed.line_bytes + data.len());
        frame.extend_from_slice(&keyed.frame);
        frame.extend_from_slice(&data);
        keyed.frame = frame.freeze();
        Some(Request::Text(Line::Keyed(keyed)))
    }
}

/// Whether an unfinished line that is long already may become longer.
fn may_grow(buffer: &[u8]) -> bool {
    let start = buffer.iter().take_while(|byte| **byte == b' ').count();
    let rest = buffer.get(start..).unwrap_or_default();
    start <= 100 && buffer.len() <= MAX_GET_BYTES && (rest.starts_with(b"get ") || rest.starts_with(b"gets "))
}

/// Every request of `bytes` at once; for tests and fuzzing.
pub fn all(bytes: &[u8]) -> Vec<Request> {
    in_pieces(std::iter::once(bytes))
}

/// Every request of pieces that come one after the other; for tests and fuzzing.
pub fn in_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Request> {
    let (mut requests, mut buffer, mut found) = (Requests::default(), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some(request) = requests.next(&mut buffer) {
            found.push(request);
        }
    }
    found
}

/// A key for a request that the proxy makes itself.
pub fn delete(key: &Bytes, out: &mut BytesMut) {
    out.extend_from_slice(b"delete ");
    out.extend_from_slice(key);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line() -> impl Strategy<Value = Vec<u8>> {
        let word = "[a-c]{1,3}";
        prop_oneof![
            4 => (word, 0usize..12).prop_map(|(key, length)| {
                format!("set {key} 1 0 {length}\r\n{}\r\n", "x".repeat(length)).into_bytes()
            }),
            2 => proptest::collection::vec(word, 1..5).prop_map(|keys| format!("get {}\r\n", keys.join(" ")).into_bytes()),
            1 => (word, 0usize..8, 0usize..12).prop_map(|(key, said, length)| {
                format!("set {key} 1 0 {said} noreply\r\n{}\r\n", "x".repeat(length)).into_bytes()
            }),
            1 => (word, 0usize..8).prop_map(|(key, length)| {
                format!("ms {key} {length} q\r\n{}\r\n", "x".repeat(length)).into_bytes()
            }),
            1 => Just(b"flush_all 0 noreply\r\n".to_vec()),
            1 => Just(b"quit\r\n".to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..30),
            2 => (0u8..0x26, 0u8..9, 0u16..5, 0u32..20).prop_map(|(opcode, extras, key, body)| {
                let mut packet = vec![0x80, opcode];
                packet.extend(key.to_be_bytes());
                packet.extend([extras, 0, 0, 0]);
                packet.extend(body.to_be_bytes());
                packet.extend([7; 12]);
                packet.extend(vec![b'y'; body as usize]);
                packet
            }),
        ]
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_gives(lines in proptest::collection::vec(line(), 0..8), sizes in proptest::collection::vec(1usize..9, 1..9)) {
            let bytes = lines.concat();
            let mut pieces = Vec::new();
            let (mut rest, mut at) = (&bytes[..], 0);
            while !rest.is_empty() {
                let (piece, left) = rest.split_at(sizes[at % sizes.len()].min(rest.len()));
                pieces.push(piece);
                rest = left;
                at += 1;
            }
            prop_assert_eq!(in_pieces(pieces), all(&bytes));
        }
    }

    #[test]
    fn a_line_without_an_end_closes_and_a_long_get_does_not() {
        assert_eq!(all(&[b'x'; 2049]), [Request::Close]);
        assert_eq!(all(&[b'x'; 2048]), []);
        let many = format!("get {}", "key ".repeat(2000));
        assert_eq!(all(many.as_bytes()), []);
        let whole = all(format!("{many}\r\n").as_bytes());
        assert!(matches!(&whole[..], [Request::Text(Line::Keyed(get))] if get.keys.len() == 2000));
    }

    #[test]
    fn what_is_too_large_is_dropped_and_the_next_command_found() {
        let mut bytes = b"set a 0 0 1048577\r\n".to_vec();
        bytes.extend(vec![b'z'; 1_048_577]);
        bytes.extend(b"\r\nversion\r\n");
        let found = all(&bytes);
        assert!(matches!(
            found[0],
            Request::Text(Line::TooLarge { key: Some(_), .. })
        ));
        assert_eq!(found[1], Request::Text(Line::Version));
    }
}
