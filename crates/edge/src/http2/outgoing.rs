//! A body in HTTP/1.1 framing, sent on as frames: shared by both directions.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;

use super::{broken, fields};
use crate::http1::body::Body;

/// A body on its way into a stream.
pub struct Outgoing {
    body: Body,
    stream: SendStream<Bytes>,
    /// What stood since the last content: in the end, the trailers.
    framing: Vec<u8>,
}

impl Outgoing {
    /// A body that has not ended yet.
    pub fn new(body: Body, stream: SendStream<Bytes>) -> Outgoing {
        Outgoing {
            body,
            stream,
            framing: Vec::new(),
        }
    }

    /// Takes some of `bytes`, at least one, as far as the receiver's window goes.
    pub fn poll_take(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let malformed = |_| io::Error::from(io::ErrorKind::InvalidData);
        let mut ahead = self.body.clone();
        let piece = ahead.next(bytes).map_err(malformed)?;
        if !piece.content {
            self.framing.extend_from_slice(&bytes[..piece.length]);
            self.body = ahead;
            if self.body.is_finished() {
                self.end()?;
            }
            return Poll::Ready(Ok(piece.length));
        }
        let wanted = piece.length.min(super::SEND_BUFFER);
        self.stream.reserve_capacity(wanted);
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(capacity) => capacity.map(drop).map_err(broken)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let count = wanted.min(self.stream.capacity());
        let piece = self.body.next(&bytes[..count]).map_err(malformed)?;
        self.framing.clear();
        let data = Bytes::copy_from_slice(&bytes[..piece.length]);
        self.stream
            .send_data(data, self.body.is_finished())
            .map_err(broken)?;
        Poll::Ready(Ok(piece.length))
    }

    /// Whether all of it was taken.
    pub fn is_finished(&self) -> bool {
        self.body.is_finished()
    }

    /// The bytes have ended: right for a body that ends so.
    pub fn end_of_bytes(&mut self) -> io::Result<()> {
        if matches!(self.body, Body::UntilClose) {
            self.body = Body::Finished;
            self.stream.send_data(Bytes::new(), true).map_err(broken)?;
        }
        Ok(())
    }

    /// For looking after the stream.
    pub fn stream(&mut self) -> &mut SendStream<Bytes> {
        &mut self.stream
    }

    fn end(&mut self) -> io::Result<()> {
        let trailers = fields::trailers(&self.framing).unwrap_or_default();
        if trailers.is_empty() {
            self.stream.send_data(Bytes::new(), true)
        } else {
            self.stream.send_trailers(trailers)
        }
        .map_err(broken)
    }
}

/// Collects a head that was made here, however it is cut.
#[derive(Default)]
pub struct HeadBytes(Vec<u8>);

impl HeadBytes {
    /// Takes `bytes` to the end of the head at the most: how many, and the head if it is whole.
    pub fn take(&mut self, bytes: &[u8]) -> io::Result<(usize, Option<Vec<u8>>)> {
        let before = self.0.len();
        self.0.extend_from_slice(bytes);
        let from = before.saturating_sub(3);
        let end = memchr::memmem::find(&self.0[from..], b"\r\n\r\n").map(|at| from + at + 4);
        match end {
            Some(end) => {
                self.0.truncate(end);
                Ok((end - before, Some(std::mem::take(&mut self.0))))
            }
            None if self.0.len() > MAX_HEAD => Err(io::ErrorKind::InvalidData.into()),
            None => Ok((bytes.len(), None)),
        }
    }
}

/// More than any head that is passed on has.
const MAX_HEAD: usize = 256 * 1024;
