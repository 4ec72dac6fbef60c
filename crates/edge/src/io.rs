//! Streams and buffers: what bytes come from and go to, and where they are in between.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsStream;

use crate::http2::{UpstreamStream, VisitorStream};

/// A connection, plain or encrypted.
pub enum Stream {
    /// Plain TCP: visitors, and applications.
    Tcp(TcpStream),
    /// Visitors over TLS, and mutual TLS between two edges.
    Tls(Box<TlsStream<TcpStream>>),
    /// One HTTP/2 stream of a visitor.
    Http2Visitor(Box<VisitorStream>),
    /// One HTTP/2 stream to an application.
    Http2Upstream(Box<UpstreamStream>),
    /// An answer that is here already.
    Kept(Box<KeptStream>),
}

impl Stream {
    /// Reads into the free part of `buffer`; 0 means that the peer will send no more. While it waits, an empty
    /// buffer's memory is lent to others.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        let mut space = ReadBuf::new(buffer.space());
        let poll = match self {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_read(cx, &mut space),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, &mut space),
            Stream::Http2Visitor(stream) => stream.poll_read(cx, &mut space),
            Stream::Http2Upstream(stream) => stream.poll_read(cx, &mut space),
            Stream::Kept(stream) => {
                stream.read(&mut space);
                Poll::Ready(Ok(()))
            }
        };
        let read = space.filled().len();
        match poll {
            Poll::Pending => {
                buffer.release();
                Poll::Pending
            }
            Poll::Ready(result) => {
                buffer.end += read;
                Poll::Ready(result.map(|()| read))
            }
        }
    }

    /// Writes some of `parts`.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(tcp) => match parts {
                // Costs the kernel less.
                [one] => Pin::new(tcp).poll_write(cx, one),
                _ => Pin::new(tcp).poll_write_vectored(cx, parts),
            },
            Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, parts),
            Stream::Http2Visitor(stream) => stream.poll_write(cx, parts),
            Stream::Http2Upstream(stream) => stream.poll_write(cx, parts),
            // Who has the answer need not hear the request.
            Stream::Kept(_) => Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum())),
        }
    }

    /// Sends what encryption still holds back.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // Frames are written by the connection's own task.
            Stream::Tcp(_) | Stream::Http2Visitor(_) | Stream::Http2Upstream(_) | Stream::Kept(_) => {
                Poll::Ready(Ok(()))
            }
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    /// Tells the peer that nothing more will come.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Stream::Http2Visitor(stream) => Poll::Ready(stream.shutdown()),
            Stream::Http2Upstream(_) | Stream::Kept(_) => Poll::Ready(Ok(())),
        }
    }

    /// Whether an unused connection is still good: open, and nothing has come that nobody asked for.
    pub fn is_quiet(&mut self) -> bool {
        match self {
            // Asks the kernel only when the last poll said that something came, be it bytes or a close. What has come
            // since that poll is not seen; what a question just before the use would not see either is no less real
            // and only rarer, and who uses a kept connection is ready for its close.
            Stream::Tcp(tcp) => match tcp.try_read(&mut [0u8; 1]) {
                Ok(_) => false,
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            },
            // The bytes may be session tickets: only TLS itself can tell them from an answer.
            Stream::Tls(tls) => {
                let mut byte = [0u8; 1];
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(tls)
                    .poll_read(&mut cx, &mut ReadBuf::new(&mut byte))
                    .is_pending()
            }
            // Each carries one request.
            Stream::Http2Visitor(_) | Stream::Http2Upstream(_) | Stream::Kept(_) => false,
        }
    }
}

/// An answer that is here already, as if a server sent it.
#[derive(Default)]
pub struct KeptStream {
    parts: [Bytes; 2],
}

impl KeptStream {
    /// Of this head and body.
    pub fn new(head: Vec<u8>, body: Bytes) -> KeptStream {
        KeptStream {
            parts: [head.into(), body],
        }
    }

    fn read(&mut self, space: &mut ReadBuf<'_>) {
        for part in &mut self.parts {
            let piece = part.split_to(part.len().min(space.remaining()));
            space.put_slice(&piece);
        }
    }
}

/// Bytes that were read and not yet passed on. Has memory only while there are some, or while it is read into.
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    pool: Rc<BufferPool>,
}

/// Size of a buffer. A 64 KB answer passes in one read and one write.
const BUFFER: usize = 64 * 1024;

impl Buffer {
    /// What is in it.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether nothing more goes in.
    pub fn is_full(&self) -> bool {
        self.end - self.start == BUFFER
    }

    /// Forgets the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// The free part, never empty unless the buffer is full.
    fn space(&mut self) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = self.pool.get();
        }
        // Moved to the front only when the tail is short, so that bytes are not copied at each read.
        if self.start > 0 && self.bytes.len() - self.end < BUFFER / 4 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.bytes[self.end..]
    }
}

impl Buffer {
    /// As if `bytes` had been read.
    #[cfg(test)]
    pub fn fill(&mut self, bytes: &[u8]) {
        self.space()[..bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Gives its memory back if nothing is in it.
    fn release(&mut self) {
        if self.is_empty() && !self.bytes.is_empty() {
            self.pool.put(std::mem::take(&mut self.bytes));
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.consume(usize::MAX);
        self.release();
    }
}

/// Memory of one thread that nobody uses at the moment: what was used last is used next, while the processor still has
/// it at hand.
#[derive(Default)]
pub struct BufferPool {
    free: RefCell<Vec<Box<[u8]>>>,
    heads: RefCell<Vec<Vec<u8>>>,
}

/// The most memory for a head that is kept for another.
const HEAD: usize = 4 * 1024;
/// How many of each kind are kept.
const KEPT: usize = 128;

impl BufferPool {
    /// An empty buffer.
    pub fn take(self: &Rc<Self>) -> Buffer {
        Buffer {
            bytes: Box::default(),
            start: 0,
            end: 0,
            pool: Rc::clone(self),
        }
    }

    fn get(&self) -> Box<[u8]> {
        let free = self.free.borrow_mut().pop();
        free.unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
    }

    /// Memory for a head, empty.
    pub fn take_head(&self) -> Vec<u8> {
        let head = self.heads.borrow_mut().pop();
        head.unwrap_or_else(|| Vec::with_capacity(HEAD))
    }

    /// Gives it back. One large request must not be what idle connections cost from then on.
    pub fn put_head(&self, mut head: Vec<u8>) {
        let mut heads = self.heads.borrow_mut();
        if (1..=HEAD).contains(&head.capacity()) && heads.len() < KEPT {
            head.clear();
            heads.push(head);
        }
    }

    fn put(&self, bytes: Box<[u8]>) {
        let mut free = self.free.borrow_mut();
        if free.len() < KEPT {
            free.push(bytes);
        }
    }
}

/// A point in time that moves often and is rarely reached: moving it further away costs nothing, because the
/// timer behind it is left where it is and set again when it fires too early.
pub struct Deadline {
    at: Instant,
    armed: Instant,
    sleep: Pin<Box<Sleep>>,
    /// Who the timer will wake, once it was told.
    wakes: Option<Waker>,
}

impl Deadline {
    /// `span` from now.
    pub fn new(span: Duration) -> Deadline {
        let at = Instant::now() + span;
        Deadline {
            at,
            armed: at,
            sleep: Box::pin(tokio::time::sleep_until(at)),
            wakes: None,
        }
    }

    /// Moves it to `span` from now.
    pub fn set(&mut self, span: Duration) {
        self.set_to(Instant::now() + span);
    }

    /// Moves it to `at`.
    pub fn set_to(&mut self, at: Instant) {
        self.at = at;
        if self.at < self.armed || self.sleep.is_elapsed() {
            self.arm();
        }
    }

    /// Ready when it is reached.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_told = |waker: &Waker| waker.will_wake(cx.waker());
        if self.wakes.as_ref().is_some_and(is_told) && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        loop {
            if self.sleep.as_mut().poll(cx).is_pending() {
                // Without a budget the timer has not looked at who is to be woken.
                let has_looked = tokio::task::coop::has_budget_remaining();
                self.wakes = has_looked.then(|| cx.waker().clone());
                return Poll::Pending;
            }
            if Instant::now() >= self.at {
                return Poll::Ready(());
            }
            self.arm();
        }
    }

    fn arm(&mut self) {
        self.armed = self.at;
        self.wakes = None;
        self.sleep.as_mut().reset(self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_moves_in_both_directions() {
        let mut deadline = Deadline::new(Duration::from_secs(10));
        let start = Instant::now();
        let reached = async |deadline: &mut Deadline| {
            std::future::poll_fn(|cx| deadline.poll(cx)).await;
            start.elapsed().as_secs()
        };
        deadline.set(Duration::from_secs(30));
        assert_eq!(reached(&mut deadline).await, 30);
        deadline.set(Duration::from_secs(5));
        assert_eq!(reached(&mut deadline).await, 35);
    }

    #[test]
    fn a_buffer_keeps_what_is_not_consumed() {
        let pool = Rc::new(BufferPool::default());
        let mut buffer = pool.take();
        let size = buffer.space().len();
        buffer.end = size;
        assert!(buffer.is_full());
        buffer.consume(size - 3);
        assert!(!buffer.space().is_empty());
        assert_eq!(buffer.filled().len(), 3);
        buffer.consume(10);
        assert!(buffer.is_empty());
    }
}
