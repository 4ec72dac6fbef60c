//! Follows the bytes of a body to its end, without changing or keeping them (RFC 9112 sections 6 and 7).

use super::head::{Known, known};
use super::reject::Reject;
use super::syntax;

/// How long a body is, as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// There is none.
    None,
    /// This many bytes, at least one.
    Known(u64),
    /// In chunks.
    Chunked,
}

/// Where in a body the next byte stands.
#[derive(Clone, Debug)]
pub enum Body {
    /// At the end.
    Finished,
    /// This many bytes before the end.
    Counted(u64),
    /// Somewhere in the chunks.
    Chunked(Chunks),
    /// Before a close of the connection.
    UntilClose,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// How many bytes; zero when more input is needed, or at the end.
    pub length: usize,
    /// Whether they are content, or the framing around it.
    pub content: bool,
}

impl From<Length> for Body {
    fn from(length: Length) -> Body {
        match length {
            Length::None => Body::Finished,
            Length::Known(length) => Body::Counted(length),
            Length::Chunked => Body::Chunked(Chunks::default()),
        }
    }
}

impl Body {
    /// Whether the last byte of the body was seen.
    pub fn is_finished(&self) -> bool {
        matches!(self, Body::Finished)
    }

    /// Says what `input` begins with and moves past it.
    ///
    /// # Errors
    /// Malformed chunks or trailers.
    pub fn next(&mut self, input: &[u8]) -> Result<Piece, Reject> {
        let piece = match self {
            Body::Finished => Piece {
                length: 0,
                content: false,
            },
            Body::UntilClose => Piece {
                length: input.len(),
                content: true,
            },
            Body::Counted(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= length as u64;
                Piece {
                    length,
                    content: true,
                }
            }
            Body::Chunked(chunks) => chunks.next(input)?,
        };
        if matches!(
            self,
            Body::Counted(0)
                | Body::Chunked(Chunks {
                    state: State::End,
                    ..
                })
        ) {
            *self = Body::Finished;
        }
        Ok(piece)
    }

    /// Moves past as much of `input` as belongs to the body, framing and all; says how many bytes.
    ///
    /// # Errors
    /// Malformed chunks or trailers.
    pub fn take(&mut self, input: &[u8]) -> Result<usize, Reject> {
        let mut left = u64::MAX;
        self.take_at_most(input, &mut left)
    }

    /// As [`Body::take`], with `left` bytes of content still allowed.
    ///
    /// # Errors
    /// As [`Body::take`], and more content than that.
    pub fn take_at_most(&mut self, input: &[u8], left: &mut u64) -> Result<usize, Reject> {
        let mut taken = 0;
        loop {
            let piece = self.next(&input[taken..])?;
            if piece.length == 0 {
                return Ok(taken);
            }
            if piece.content {
                *left = left
                    .checked_sub(piece.length as u64)
                    .ok_or(Reject::BodyTooLarge)?;
            }
            taken += piece.length;
        }
    }
}

/// Where in a chunked body the next byte stands.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    state: State,
    /// Of the chunk: bytes left. Of its size line: the size so far.
    left: u64,
    /// Digits or bytes of the line so far.
    seen: usize,
    /// Bytes of all trailers so far.
    trailers: usize,
    /// The name of the present trailer, as far as it can matter.
    name: TrailerName,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Hexadecimal digits of a size.
    #[default]
    Size,
    /// A chunk extension.
    Extension,
    /// The line feed after a size.
    SizeFeed,
    Content,
    /// The carriage return after content.
    ContentReturn,
    ContentFeed,
    /// The first byte of a trailer line, or the empty line.
    LineStart,
    TrailerName,
    TrailerValue,
    TrailerFeed,
    /// The last line feed.
    LastFeed,
    End,
}

/// The beginning of a trailer's name: no name that is forbidden as a whole has more than 17 letters
/// (`transfer-encoding`), and `x-forwarded…` is told by its beginning.
#[derive(Clone, Debug, Default)]
struct TrailerName {
    letters: [u8; 20],
    length: usize,
}

const MAX_EXTENSION: usize = 256;
const MAX_TRAILERS: usize = 8 * 1024;

impl Chunks {
    fn next(&mut self, input: &[u8]) -> Result<Piece, Reject> {
        if self.state == State::Content {
            let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
            self.left -= length as u64;
            if self.left == 0 {
                self.state = State::ContentReturn;
            }
            return Ok(Piece {
                length,
                content: true,
            });
        }
        let mut length = 0;
        for byte in input {
            if matches!(self.state, State::Content | State::End) {
                break;
            }
            self.step(*byte)?;
            length += 1;
        }
        Ok(Piece {
            length,
            content: false,
        })
    }

    /// One byte of framing.
    fn step(&mut self, byte: u8) -> Result<(), Reject> {
        self.state = match (self.state, byte) {
            (State::Size, digit) if digit.is_ascii_hexdigit() && self.seen < 15 => {
                let value = (digit as char).to_digit(16).unwrap_or(0);
                self.left = self.left * 16 + u64::from(value);
                self.seen += 1;
                State::Size
            }
            (State::Size, b'\r') if self.seen > 0 => State::SizeFeed,
            (State::Size, b';') if self.seen > 0 => {
                self.seen = 0;
                State::Extension
            }
            (State::Extension, b'\r') => State::SizeFeed,
            (State::Extension, byte) if syntax::is_value_byte(byte) && self.seen < MAX_EXTENSION => {
                self.seen += 1;
                State::Extension
            }
            (State::SizeFeed, b'\n') if self.left == 0 => State::LineStart,
            (State::SizeFeed, b'\n') => State::Content,
            (State::ContentReturn, b'\r') => State::ContentFeed,
            (State::ContentFeed, b'\n') => {
                (self.left, self.seen) = (0, 0);
                State::Size
            }
            (
                State::LineStart
                | State::TrailerName
                | State::TrailerValue
                | State::TrailerFeed
                | State::LastFeed,
                _,
            ) => return self.trailer(byte),
            _ => return Err(Reject::BadChunk),
        };
        Ok(())
    }

    fn trailer(&mut self, byte: u8) -> Result<(), Reject> {
        self.trailers += 1;
        if self.trailers > MAX_TRAILERS {
            return Err(Reject::TrailersTooLarge);
        }
        self.state = match (self.state, byte) {
            (State::LineStart, b'\r') => State::LastFeed,
            (State::LastFeed, b'\n') => State::End,
            (State::LineStart, byte) if syntax::is_token_byte(byte) => {
                self.name.length = 0;
                self.name.push(byte);
                State::TrailerName
            }
            (State::TrailerName, byte) if syntax::is_token_byte(byte) => {
                self.name.push(byte);
                State::TrailerName
            }
            (State::TrailerName, b':') if !self.name.is_forbidden() => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerFeed,
            (State::TrailerValue, byte) if syntax::is_value_byte(byte) => State::TrailerValue,
            (State::TrailerFeed, b'\n') => State::LineStart,
            _ => return Err(Reject::BadTrailer),
        };
        Ok(())
    }
}

impl TrailerName {
    fn push(&mut self, byte: u8) {
        if let Some(letter) = self.letters.get_mut(self.length) {
            *letter = byte;
        }
        self.length += 1;
    }

    /// Fields that frame, route or say who sent a message never come after its body (RFC 9110 section 6.5.1).
    fn is_forbidden(&self) -> bool {
        let name = &self.letters[..self.length.min(self.letters.len())];
        !matches!(known(name), Known::Other | Known::UserAgent | Known::Referer)
            || name.eq_ignore_ascii_case(b"authorization")
            || name.eq_ignore_ascii_case(b"cookie")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(input: &[u8]) -> Result<(usize, bool), Reject> {
        let mut body = Body::from(Length::Chunked);
        let taken = body.take(input)?;
        Ok((taken, body.is_finished()))
    }

    #[test]
    fn chunks_end_where_they_end() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "005\r\nhello\r\nA;x=\"y\"\r\n0123456789\r\n0;last\r\n\r\n",
            "1\r\na\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n",
        ] {
            assert_eq!(take(body.as_bytes()), Ok((body.len(), true)), "{body:?}");
            let more = format!("{body}GET / HTTP/1.1\r\n");
            assert_eq!(
                take(more.as_bytes()),
                Ok((body.len(), true)),
                "{body:?} and another request"
            );
        }
        assert_eq!(take(b"5\r\nhel"), Ok((6, false)));
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for (body, why) in [
            ("5\nhello\r\n0\r\n\r\n", Reject::BadChunk),
            ("5\r\nhello\n0\r\n\r\n", Reject::BadChunk),
            ("5\r\nhello0\r\n\r\n", Reject::BadChunk),
            ("5\r\nhello!\r\n", Reject::BadChunk),
            ("\r\n", Reject::BadChunk),
            (" 5\r\nhello\r\n", Reject::BadChunk),
            ("5 \r\nhello\r\n", Reject::BadChunk),
            ("+5\r\nhello\r\n", Reject::BadChunk),
            ("-1\r\n", Reject::BadChunk),
            ("0x5\r\nhello\r\n", Reject::BadChunk),
            ("5;a\nb\r\nhello", Reject::BadChunk),
            ("5;a\rb\r\nhello", Reject::BadChunk),
            ("5;\0\r\nhello", Reject::BadChunk),
            ("FFFFFFFFFFFFFFFFF\r\n", Reject::BadChunk),
            ("0\r\nContent-Length: 5\r\n\r\n", Reject::BadTrailer),
            ("0\r\ntransfer_encoding: chunked\r\n\r\n", Reject::BadTrailer),
            ("0\r\nHost: a\r\n\r\n", Reject::BadTrailer),
            ("0\r\nX-Forwarded-For: a\r\n\r\n", Reject::BadTrailer),
            ("0\r\nX-Forwarded-Client-Cert: a\r\n\r\n", Reject::BadTrailer),
            ("0\r\nx_forwarded_and_much_more: a\r\n\r\n", Reject::BadTrailer),
            ("0\r\nX : y\r\n\r\n", Reject::BadTrailer),
            ("0\r\n folded\r\n\r\n", Reject::BadTrailer),
            ("0\r\nX: a\nb\r\n\r\n", Reject::BadTrailer),
            ("0\r\nX\r\n\r\n", Reject::BadTrailer),
            ("0\r\n\n", Reject::BadTrailer),
        ] {
            assert_eq!(take(body.as_bytes()), Err(why), "{body:?}");
        }
        let long = format!("5;{}\r\n", "x".repeat(MAX_EXTENSION + 1));
        assert_eq!(take(long.as_bytes()), Err(Reject::BadChunk));
        let long = format!("0\r\nX: {}\r\n", "x".repeat(MAX_TRAILERS));
        assert_eq!(take(long.as_bytes()), Err(Reject::TrailersTooLarge));
    }

    #[test]
    fn content_is_told_from_framing() {
        let input = b"3\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n";
        let (mut body, mut at, mut content) = (Body::from(Length::Chunked), 0, Vec::new());
        while !body.is_finished() {
            let piece = body.next(&input[at..]).unwrap();
            if piece.content {
                content.extend_from_slice(&input[at..at + piece.length]);
            }
            at += piece.length;
        }
        assert_eq!((content.as_slice(), at), (&b"abcde"[..], input.len()));
    }

    #[test]
    fn a_counted_body_takes_no_byte_of_the_next_request() {
        let mut body = Body::from(Length::Known(3));
        assert_eq!(body.take(b"ab").unwrap(), 2);
        assert_eq!(body.take(b"cGET /").unwrap(), 1);
        assert!(body.is_finished());
    }
}
