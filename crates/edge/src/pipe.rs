//! One direction of an exchange: a head that was made here, then a body that streams through. Reads only when all
//! that was read before is written, so a slow reader slows its writer and nothing piles up.

use std::io::{self, IoSlice, Write};
use std::task::{Context, Poll, ready};

use pontoon_fleet::Coding;

use crate::compress::Encoder;
use crate::http1::body::Body;
use crate::http1::reject::Reject;
use crate::io::{Buffer, Stream};

/// What happens to a body on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Nothing: chunks stay chunks.
    AsIs,
    /// Chunks are taken apart, for a client that speaks HTTP/1.0.
    Unchunk,
    /// What ends with a close is put in chunks, so that the client can tell the end from a loss.
    Chunk,
    /// Chunks of what a coder makes of the content; see [`Pipe::encode`].
    Encode,
}

/// Why a pipe stopped.
#[derive(Debug)]
pub enum PipeError {
    /// The source failed, or ended before the body did.
    Source,
    /// The destination takes nothing more.
    Destination,
    /// The body is malformed.
    Malformed(Reject),
}

/// One direction of an exchange.
pub struct Pipe {
    /// What is written first. Kept after it was written, so that it can be written again.
    staged: Vec<u8>,
    staged_at: usize,
    /// Bytes at the front of the source's buffer that belong to the body.
    ready: usize,
    body: Body,
    form: Form,
    /// For [`Form::Encode`].
    encoder: Option<Box<Encoder>>,
    /// A chunk of [`Form::Chunk`] is open.
    in_chunk: bool,
    /// Something of the body that is not staged was taken from the source.
    streamed: bool,
    flushed: bool,
    written: u64,
    /// Bytes of content that the body may still have.
    left: u64,
    /// What has passed of the body, as it came, while that is wanted.
    copy: Option<Box<Copied>>,
}

/// What has passed of a body.
struct Copied {
    bytes: Vec<u8>,
    most: usize,
}

impl Pipe {
    /// A pipe that writes `staged`, then the body.
    pub fn new(staged: Vec<u8>, body: Body) -> Pipe {
        Pipe {
            staged,
            staged_at: 0,
            ready: 0,
            body,
            form: Form::AsIs,
            encoder: None,
            in_chunk: false,
            streamed: false,
            flushed: false,
            written: 0,
            left: u64::MAX,
            copy: None,
        }
    }

    /// As [`Pipe::new`], with a body of at most `limit` bytes.
    pub fn limited(staged: Vec<u8>, body: Body, limit: Option<u64>) -> Pipe {
        Pipe {
            left: limit.unwrap_or(u64::MAX),
            ..Pipe::new(staged, body)
        }
    }

    /// What is written first.
    pub fn staged(&self) -> &[u8] {
        &self.staged
    }

    /// Gives the memory of `staged` back, to be used again.
    pub fn into_staged(self) -> Vec<u8> {
        self.staged
    }

    /// More to write before the body.
    pub fn stage(&mut self) -> &mut Vec<u8> {
        self.flushed = false;
        &mut self.staged
    }

    /// The body that follows, and its form.
    pub fn set_body(&mut self, body: Body, form: Form) {
        (self.body, self.form, self.left) = (body, form, u64::MAX);
    }

    /// The body that follows, which is compressed on its way.
    pub fn encode(&mut self, body: Body, encoder: Encoder) {
        self.set_body(body, Form::Encode);
        self.encoder = Some(Box::new(encoder));
    }

    /// Holds what passes of the body, too, as it comes, up to `most` bytes.
    pub fn copy(&mut self, most: usize) {
        let bytes = Vec::new();
        self.copy = Some(Box::new(Copied { bytes, most }));
    }

    /// The body as it came, if it was to be held and was not too long.
    pub fn take_copy(&mut self) -> Option<Vec<u8>> {
        Some(self.copy.take()?.bytes)
    }

    /// What was compressed: by what, how many bytes, and to how many.
    pub fn encoded(&self) -> Option<(Coding, u64, u64)> {
        self.encoder.as_ref().map(|encoder| encoder.counts())
    }

    /// Takes the body into `staged` when all of it is in `buffer`.
    pub fn stage_body(&mut self, buffer: &mut Buffer) -> Result<bool, Reject> {
        let mut body = self.body.clone();
        let mut left = self.left;
        let taken = body.take_at_most(buffer.filled(), &mut left)?;
        if body.is_finished() {
            self.staged.extend_from_slice(&buffer.filled()[..taken]);
            buffer.consume(taken);
            self.body = body;
        }
        Ok(self.body.is_finished())
    }

    /// Puts `field` in the place of `length` bytes at `at`, while nothing is written yet.
    pub fn replace(&mut self, at: usize, length: usize, field: &[u8]) {
        if self.staged_at == 0 && at + length <= self.staged.len() {
            self.staged.splice(at..at + length, field.iter().copied());
        }
    }

    /// Back to the first byte, for another destination; `false` when the source has moved on.
    pub fn rewind(&mut self) -> bool {
        if self.can_rewind() {
            (self.staged_at, self.flushed, self.written) = (0, false, 0);
        }
        self.can_rewind()
    }

    /// Whether all that was written can be written again.
    pub fn can_rewind(&self) -> bool {
        !self.streamed
    }

    /// Bytes written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether nothing of the body is left in the source or its buffer: what stands there is the next message.
    pub fn is_past(&self) -> bool {
        self.body.is_finished() && self.ready == 0
    }

    /// Whether something waits to be written.
    pub fn is_blocked(&self) -> bool {
        self.staged_at < self.staged.len() || self.ready > 0
    }

    /// Ready when the body has ended and all of it is written.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        buffer: &mut Buffer,
        to: &mut Stream,
    ) -> Poll<Result<(), PipeError>> {
        loop {
            ready!(self.poll_write(cx, buffer, to))?;
            if self.body.is_finished() {
                return Poll::Ready(Ok(()));
            }
            if self.find_more(buffer).map_err(PipeError::Malformed)? {
                continue;
            }
            match from.poll_read(cx, buffer) {
                // Nothing more comes now: what a coder holds back is what a visitor waits for.
                Poll::Pending if self.flush_encoder() => {}
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => self.end_of_source()?,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(PipeError::Source)),
            }
        }
    }

    /// Writes all that may be written now.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
        to: &mut Stream,
    ) -> Poll<Result<(), PipeError>> {
        while self.is_blocked() {
            let head = &self.staged[self.staged_at..];
            let parts = [IoSlice::new(head), IoSlice::new(&buffer.filled()[..self.ready])];
            let parts = if head.is_empty() {
                &parts[1..]
            } else {
                &parts[..1 + usize::from(self.ready > 0)]
            };
            let count = match ready!(to.poll_write(cx, parts)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(PipeError::Destination)),
                Ok(count) => count,
            };
            let of_head = count.min(self.staged.len() - self.staged_at);
            self.staged_at += of_head;
            self.ready -= count - of_head;
            buffer.consume(count - of_head);
            self.written += count as u64;
            self.flushed = false;
        }
        if !self.flushed {
            match ready!(to.poll_flush(cx)) {
                Ok(()) => self.flushed = true,
                Err(_) => return Poll::Ready(Err(PipeError::Destination)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what `buffer` has of the body already, so that it goes out in one write with what is staged; a little of it
    /// in one piece with that, too, which costs less than to tell the kernel of two.
    ///
    /// # Errors
    /// The body is malformed.
    pub fn gather(&mut self, buffer: &mut Buffer) -> Result<(), Reject> {
        const LITTLE: usize = 2 * 1024;
        if self.ready == 0 && !self.body.is_finished() {
            self.find_more(buffer)?;
        }
        if (1..=LITTLE).contains(&self.ready) {
            self.staged.extend_from_slice(&buffer.filled()[..self.ready]);
            buffer.consume(std::mem::take(&mut self.ready));
        }
        Ok(())
    }

    /// Looks in `buffer` for more of the body; `true` when there is something to write or the end was found.
    fn find_more(&mut self, buffer: &mut Buffer) -> Result<bool, Reject> {
        if buffer.is_empty() {
            return Ok(false);
        }
        self.streamed = true;
        match self.form {
            Form::AsIs => {
                self.ready = self.body.take_at_most(buffer.filled(), &mut self.left)?;
                copied(&mut self.copy, &buffer.filled()[..self.ready]);
            }
            Form::Unchunk => {
                let mut piece = self.body.next(buffer.filled())?;
                while piece.length > 0 && !piece.content {
                    buffer.consume(piece.length);
                    piece = self.body.next(buffer.filled())?;
                }
                self.ready = piece.length;
            }
            Form::Encode => return self.encode_more(buffer),
            Form::Chunk => {
                self.ready = buffer.filled().len();
                self.restage(format_args!("{:x}\r\n", buffer.filled().len()));
                self.in_chunk = true;
            }
        }
        Ok(self.ready > 0 || self.body.is_finished())
    }

    /// Puts all of the content that `buffer` has through the coder; `true` when something came out, or the end was found.
    fn encode_more(&mut self, buffer: &mut Buffer) -> Result<bool, Reject> {
        self.forget_written();
        let before = self.staged.len();
        while !self.body.is_finished() {
            let piece = self.body.next(buffer.filled())?;
            if piece.length == 0 {
                break;
            }
            copied(&mut self.copy, &buffer.filled()[..piece.length]);
            if let Some(encoder) = self.encoder.as_mut().filter(|_| piece.content) {
                encoder.take(&buffer.filled()[..piece.length], &mut self.staged);
            }
            buffer.consume(piece.length);
        }
        if let Some(encoder) = self.encoder.as_mut().filter(|_| self.body.is_finished()) {
            encoder.finish(&mut self.staged);
        }
        Ok(self.staged.len() > before || self.body.is_finished())
    }

    fn flush_encoder(&mut self) -> bool {
        if self.encoder.is_none() {
            return false;
        }
        self.forget_written();
        let Pipe { encoder, staged, .. } = self;
        encoder.as_mut().is_some_and(|encoder| encoder.flush(staged))
    }

    /// Makes room where all that is staged is written.
    fn forget_written(&mut self) {
        if self.staged_at == self.staged.len() {
            self.staged.clear();
            self.staged_at = 0;
        }
    }

    /// The source has ended: right for a body that ends so, a loss for any other.
    fn end_of_source(&mut self) -> Result<(), PipeError> {
        if !matches!(self.body, Body::UntilClose) {
            return Err(PipeError::Source);
        }
        if let Some(encoder) = &mut self.encoder {
            encoder.finish(&mut self.staged);
        } else if self.form == Form::Chunk {
            self.restage(format_args!("0\r\n\r\n"));
        }
        self.body = Body::Finished;
        Ok(())
    }

    fn restage(&mut self, line: std::fmt::Arguments<'_>) {
        self.forget_written();
        if self.in_chunk {
            self.staged.extend_from_slice(b"\r\n");
        }
        // Writing to a Vec cannot fail.
        let _: io::Result<()> = self.staged.write_fmt(line);
    }
}

fn copied(copy: &mut Option<Box<Copied>>, bytes: &[u8]) {
    let Some(held) = copy else { return };
    if held.bytes.len() + bytes.len() > held.most {
        *copy = None;
        return;
    }
    held.bytes.extend_from_slice(bytes);
}
