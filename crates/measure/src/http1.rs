//! HTTP/1.1 as a client that throws away what it is told (RFC 9112).

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::target::{Stream, Target};

/// One request, as it goes out each time.
pub fn request(target: &Target) -> Vec<u8> {
    let place = &target.place;
    let mut text = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", place.path, place.authority());
    let named = |name: &str| {
        target
            .fields
            .iter()
            .any(|(field, _)| field.eq_ignore_ascii_case(name))
    };
    for (name, value) in [("User-Agent", USER_AGENT), ("Accept", "*/*")] {
        if !named(name) {
            text.extend([name, ": ", value, "\r\n"]);
        }
    }
    for (name, value) in &target.fields {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// What the generator calls itself.
pub const USER_AGENT: &str = concat!("pontoon-measure/", env!("CARGO_PKG_VERSION"));

/// An answer, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Where a redirection points.
    pub location: Option<String>,
}

/// A connection that is kept.
pub struct Connection {
    stream: Box<dyn Stream>,
    bytes: Vec<u8>,
    /// What of `bytes` was received and not used.
    held: usize,
    /// Whether it answered before.
    used: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Fault {
    /// A kept connection was closed before it answered anything: the server had ended it meanwhile.
    Stale,
    /// Anything else.
    Broken(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Broken(error)
    }
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Length(u64),
    Chunked,
    UntilClosed,
}

struct Head {
    answer: Answer,
    body: Body,
    keep: bool,
    length: usize,
}

impl Connection {
    /// A new one over `stream`.
    pub fn new(stream: Box<dyn Stream>) -> Connection {
        Connection {
            stream,
            bytes: vec![0; 16 * 1024],
            held: 0,
            used: false,
        }
    }

    /// Sends `request` and reads the whole answer. Gives whether the connection may be used again.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn ask(&mut self, request: &[u8]) -> Result<(Answer, bool), Fault> {
        let sent = self.stream.write_all(request).await;
        if sent.is_ok() {
            self.stream.flush().await.map_err(|error| self.fault(error))?;
        }
        sent.map_err(|error| self.fault(error))?;
        let head = loop {
            if let Some(head) = head(&self.bytes[..self.held])? {
                self.consume(head.length);
                // An interim answer (RFC 9110, 15.2) is followed by the real one.
                if head.answer.status >= 200 {
                    break head;
                }
                continue;
            }
            if self.held == MOST_HEAD {
                return Err(odd("the head of the answer is longer than 64 KiB").into());
            }
            self.more().await.map_err(|error| self.fault(error))?;
        };
        self.used = true;
        let reusable = self.skip(head.body).await?;
        Ok((head.answer, head.keep && reusable && self.held == 0))
    }

    fn fault(&self, error: io::Error) -> Fault {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let ended = matches!(
            error.kind(),
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
        );
        match self.used && self.held == 0 && ended {
            true => Fault::Stale,
            false => Fault::Broken(error),
        }
    }

    /// Receives more; an end is an error.
    async fn more(&mut self) -> io::Result<()> {
        if self.held == self.bytes.len() {
            self.bytes.resize((self.bytes.len() * 2).min(MOST_HEAD), 0);
        }
        match self.stream.read(&mut self.bytes[self.held..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                self.held += length;
                Ok(())
            }
        }
    }

    fn consume(&mut self, length: usize) {
        self.bytes.copy_within(length..self.held, 0);
        self.held -= length;
    }

    /// Reads a body to its end; gives whether another answer may follow.
    async fn skip(&mut self, body: Body) -> io::Result<bool> {
        match body {
            Body::Length(length) => self.pass(length).await.map(|()| true),
            Body::UntilClosed => loop {
                self.held = 0;
                if self.stream.read(&mut self.bytes).await? == 0 {
                    return Ok(false);
                }
            },
            Body::Chunked => loop {
                match httparse::parse_chunk_size(&self.bytes[..self.held]) {
                    Ok(httparse::Status::Complete((start, 0))) => {
                        self.consume(start);
                        return self.trailers().await.map(|()| true);
                    }
                    Ok(httparse::Status::Complete((start, size))) => {
                        self.consume(start);
                        let whole = size.checked_add(2).ok_or_else(|| odd("a chunk without an end"))?;
                        self.pass(whole).await?;
                    }
                    Ok(httparse::Status::Partial) if self.held < MOST_CHUNK_HEAD => self.more().await?,
                    _ => return Err(odd("a chunk without a size")),
                }
            },
        }
    }

    async fn trailers(&mut self) -> io::Result<()> {
        loop {
            if self.bytes[..self.held].starts_with(b"\r\n") {
                self.consume(2);
                return Ok(());
            }
            match self.bytes[..self.held].windows(2).position(|two| two == b"\r\n") {
                Some(end) => self.consume(end + 2),
                None if self.held < MOST_HEAD => self.more().await?,
                None => return Err(odd("a trailer longer than 64 KiB")),
            }
        }
    }

    async fn pass(&mut self, mut left: u64) -> io::Result<()> {
        loop {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.held);
            self.consume(here);
            left -= here as u64;
            if left == 0 {
                return Ok(());
            }
            self.more().await?;
        }
    }
}

/// The head of an answer, when it is whole.
fn head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Response::new(&mut fields);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(odd(&format!("this is not HTTP/1.1: {error}"))),
    };
    let status = parsed.code.unwrap_or(0);
    let mut body = match status {
        100..=199 | 204 | 304 => Body::Length(0),
        _ => Body::UntilClosed,
    };
    let bodiless = body == Body::Length(0);
    let mut keep = parsed.version == Some(1);
    let mut location = None;
    for field in parsed.headers.iter() {
        let value = std::str::from_utf8(field.value).unwrap_or("").trim();
        if field.name.eq_ignore_ascii_case("content-length") && !bodiless && body != Body::Chunked {
            body = Body::Length(value.parse().map_err(|_| odd("a length that is no number"))?);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") && !bodiless {
            body = Body::Chunked;
        } else if field.name.eq_ignore_ascii_case("connection") {
            let has = |word: &str| {
                value
                    .split(',')
                    .any(|part| part.trim().eq_ignore_ascii_case(word))
            };
            keep = (keep || has("keep-alive")) && !has("close");
        } else if field.name.eq_ignore_ascii_case("location") {
            location = Some(value.to_owned());
        }
    }
    Ok(Some(Head {
        answer: Answer { status, location },
        body,
        keep,
        length,
    }))
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

const MOST_HEAD: usize = 64 * 1024;
const MOST_CHUNK_HEAD: usize = 1024;

#[cfg(test)]
#[path = "http1_tests.rs"]
mod tests;
