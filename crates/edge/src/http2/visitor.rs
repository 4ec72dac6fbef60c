//! One stream of a visitor, as a client connection that carries one HTTP/1.1 request.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;
use tokio::io::ReadBuf;

use super::outgoing::{HeadBytes, Outgoing};
use super::{Made, broken, fields};
use crate::http1::reject::Reject;

/// A stream of a visitor.
pub struct VisitorStream {
    made: Made,
    incoming: RecvStream,
    reading: Reading,
    chunked: bool,
    to_head: bool,
    respond: SendResponse<Bytes>,
    writing: Writing,
    /// Counts the streams that the visitor gave up before they were answered.
    given_up: Rc<Cell<u64>>,
    is_given_up: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Data,
    Trailers,
    End,
}

enum Writing {
    Head(HeadBytes),
    Body(Box<Outgoing>),
    Done,
}

impl VisitorStream {
    /// The stream that `request` came on.
    ///
    /// # Errors
    /// A request that is refused as it stands, and where to say so.
    pub fn new(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        given_up: Rc<Cell<u64>>,
    ) -> Result<VisitorStream, (Reject, SendResponse<Bytes>)> {
        let (parts, incoming) = request.into_parts();
        let has_body = !incoming.is_end_stream();
        let mut head = Vec::with_capacity(512);
        let chunked = match fields::request_head(&parts, has_body, &mut head) {
            Ok(chunked) => chunked,
            Err(reject) => return Err((reject, respond)),
        };
        let mut made = Made::default();
        made.text(head);
        Ok(VisitorStream {
            made,
            incoming,
            reading: if has_body { Reading::Data } else { Reading::End },
            chunked,
            to_head: parts.method == http::Method::HEAD,
            respond,
            writing: Writing::Head(HeadBytes::default()),
            given_up,
            is_given_up: false,
        })
    }

    /// Reads the request. It has ended when the answer has: until then nothing more comes, or a reset.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let before = out.filled().len();
            let of_data = self.made.read(out);
            if of_data > 0 {
                // What was read makes room for as much.
                self.incoming
                    .flow_control()
                    .release_capacity(of_data)
                    .map_err(broken)?;
            }
            if out.filled().len() > before || matches!(self.writing, Writing::Done) {
                return Poll::Ready(Ok(()));
            }
            match self.reading {
                Reading::Data => match ready!(self.incoming.poll_data(cx)) {
                    Some(Ok(data)) => self.made.data(data, self.chunked),
                    Some(Err(error)) => return Poll::Ready(Err(self.gone(error))),
                    None => self.reading = Reading::Trailers,
                },
                Reading::Trailers => {
                    let trailers = match ready!(self.incoming.poll_trailers(cx)) {
                        Ok(trailers) => trailers,
                        Err(error) => return Poll::Ready(Err(self.gone(error))),
                    };
                    if self.chunked {
                        self.made.text(fields::last_chunk(trailers.as_ref()));
                    }
                    self.reading = Reading::End;
                }
                Reading::End => {
                    let reset = match &mut self.writing {
                        Writing::Body(body) => body.stream().poll_reset(cx),
                        _ => self.respond.poll_reset(cx),
                    };
                    return match ready!(reset) {
                        Ok(reason) => Poll::Ready(Err(self.gone(reason.into()))),
                        Err(error) => Poll::Ready(Err(self.gone(error))),
                    };
                }
            }
        }
    }

    /// Takes some of the answer.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        for part in parts {
            let mut at = 0;
            while at < part.len() {
                match self.poll_take(cx, &part[at..]) {
                    Poll::Ready(Ok(count)) => at += count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if taken + at > 0 => return Poll::Ready(Ok(taken + at)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            taken += at;
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.writing {
            Writing::Head(head) => {
                let (count, head) = head.take(bytes)?;
                if let Some(head) = head {
                    self.answer(&head)?;
                }
                Poll::Ready(Ok(count))
            }
            Writing::Body(body) => {
                let count = ready!(body.poll_take(cx, bytes))?;
                if body.is_finished() {
                    self.writing = Writing::Done;
                }
                Poll::Ready(Ok(count))
            }
            // Nothing follows an answer.
            Writing::Done => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn answer(&mut self, head: &[u8]) -> io::Result<()> {
        let (answer, body) = fields::response(head, self.to_head)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        if answer.status().is_informational() {
            return self.respond.send_informational(answer).map_err(broken);
        }
        let ends = body.is_finished();
        let stream = self.respond.send_response(answer, ends).map_err(broken)?;
        self.writing = match ends {
            true => Writing::Done,
            false => Writing::Body(Box::new(Outgoing::new(body, stream))),
        };
        Ok(())
    }

    /// The answer has ended, where it ends so.
    pub fn shutdown(&mut self) -> io::Result<()> {
        if let Writing::Body(body) = &mut self.writing {
            body.end_of_bytes()?;
            if body.is_finished() {
                self.writing = Writing::Done;
            }
        }
        Ok(())
    }

    fn gone(&mut self, error: h2::Error) -> io::Error {
        if !std::mem::replace(&mut self.is_given_up, true) {
            self.given_up.set(self.given_up.get() + 1);
        }
        broken(error)
    }
}

impl Drop for VisitorStream {
    /// A part of an answer must not pass for the whole.
    fn drop(&mut self) {
        match &mut self.writing {
            Writing::Head(_) => self.respond.send_reset(Reason::INTERNAL_ERROR),
            Writing::Body(body) => body.stream().send_reset(Reason::INTERNAL_ERROR),
            Writing::Done => {}
        }
    }
}
