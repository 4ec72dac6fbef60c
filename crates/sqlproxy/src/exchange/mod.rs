//! One command and its answer, passed on without a row being looked at.
//!
//! Each direction of a small exchange is one read and one write. What a client does not take at once is kept, and
//! nothing more is read from the database until it is gone: a slow reader slows its own query, not the proxy's memory.

pub mod ask;
pub mod buffers;
mod link;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pontoon_mysql_wire::reply::{Done, ReplyWalker, Step};
use pontoon_mysql_wire::{FrameHeader, HEADER_LEN, WireError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use link::{End, Link};

use crate::peer::{Gone, Peer};
use buffers::with_scratch;

/// What is written to the client while more is expected: less would be a system call for little.
const WRITE_AT: usize = 16 * 1024;
/// The most that is kept for a client that does not read.
const KEEP_AT_MOST: usize = 256 * 1024;

/// How receiving an answer ended. Whatever is in the buffer then has not been sent.
#[derive(Debug)]
pub enum Ended {
    /// The answer is complete.
    Done(Box<Done>),
    /// The client is to send a local file.
    LocalInfile,
    /// The database broke off, or was ended from outside.
    Lost,
    /// What the database says is no answer.
    Broken(WireError),
    /// The client closed or broke off.
    ClientGone,
    /// The client's session or the connection was ended from outside.
    Stopped(End),
}

/// An answer on its way.
#[derive(Debug)]
pub struct Answer {
    walker: ReplyWalker,
    /// Bytes of the database that the walker wants to see again with more behind them.
    unread: Vec<u8>,
    /// What the client is to get, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    /// Whether any byte went to the client.
    begun: bool,
    unflushed: bool,
    /// The client's being gone does not end it: what runs is to run to its end.
    pub finish: bool,
    client_gone: bool,
    /// Bytes of the client wait, so that its end cannot be seen.
    pipelined: bool,
}

impl Answer {
    /// An answer that `walker` understands.
    pub fn new(walker: ReplyWalker) -> Answer {
        Answer {
            walker,
            unread: Vec::new(),
            out: buffers::take(),
            sent: 0,
            begun: false,
            unflushed: false,
            finish: false,
            client_gone: false,
            pipelined: false,
        }
    }

    /// The first packet to the client carries this number: its command came in several frames.
    pub fn begins_with(&mut self, sequence: u8) {
        self.walker.begin_with(sequence);
    }

    /// What understands it.
    pub fn walker(&mut self) -> &mut ReplyWalker {
        &mut self.walker
    }

    /// Whether the client got any of it.
    pub fn begun(&self) -> bool {
        self.begun
    }

    /// Receives until the answer ends or somebody else has to act.
    pub async fn receive(&mut self, client: &mut Peer, database: &mut Peer, links: [&Link; 2]) -> Ended {
        poll_fn(|cx| self.poll(cx, client, database, links)).await
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Peer,
        database: &mut Peer,
        links: [&Link; 2],
    ) -> Poll<Ended> {
        loop {
            for link in links {
                if let Some(end) = link.ended() {
                    return Poll::Ready(Ended::Stopped(end));
                }
            }
            let kept = self.sendable() - self.sent;
            if kept >= WRITE_AT {
                match self.poll_write(cx, client) {
                    Poll::Ready(Err(_)) => return Poll::Ready(Ended::ClientGone),
                    Poll::Pending if kept >= KEEP_AT_MOST => return self.wait(cx, links),
                    _ => {}
                }
            }
            let read = with_scratch(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(&mut *database).poll_read(cx, &mut buffer) {
                    Poll::Pending => None,
                    Poll::Ready(Err(_)) => Some(Some(Ended::Lost)),
                    Poll::Ready(Ok(())) if buffer.filled().is_empty() => Some(Some(Ended::Lost)),
                    Poll::Ready(Ok(())) => Some(self.feed(buffer.filled())),
                }
            });
            match read {
                Some(Some(ended)) => return Poll::Ready(ended),
                Some(None) => {}
                None => {
                    if let Poll::Ready(Err(_)) = self.poll_flush_all(cx, client) {
                        return Poll::Ready(Ended::ClientGone);
                    }
                    if !self.pipelined && !self.client_gone {
                        match client.poll_gone(cx) {
                            Poll::Ready(Gone::Closed) if self.finish => self.client_gone = true,
                            Poll::Ready(Gone::Closed) => return Poll::Ready(Ended::ClientGone),
                            Poll::Ready(Gone::Speaks) => self.pipelined = true,
                            Poll::Pending => {}
                        }
                    }
                    return self.wait(cx, links);
                }
            }
        }
    }

    fn wait(&self, cx: &mut Context<'_>, links: [&Link; 2]) -> Poll<Ended> {
        for link in links {
            link.wake_me(cx);
        }
        Poll::Pending
    }

    fn feed(&mut self, bytes: &[u8]) -> Option<Ended> {
        if self.client_gone {
            // Nobody is there to hear it.
            self.out.drain(..self.sendable());
            self.sent = 0;
        }
        let fed = if self.unread.is_empty() {
            let fed = self.walker.feed(bytes, &mut self.out);
            if let Ok(fed) = &fed {
                self.unread
                    .extend_from_slice(bytes.get(fed.consumed..).unwrap_or_default());
            }
            fed
        } else {
            self.unread.extend_from_slice(bytes);
            let fed = self.walker.feed(&self.unread, &mut self.out);
            if let Ok(fed) = &fed {
                self.unread.drain(..fed.consumed.min(self.unread.len()));
            }
            fed
        };
        match fed {
            Err(error) => Some(Ended::Broken(error)),
            Ok(fed) => match fed.step {
                Step::More => None,
                Step::LocalInfile => Some(Ended::LocalInfile),
                Step::Done(_) if !self.unread.is_empty() => Some(Ended::Broken(WireError::Malformed(
                    "the database talks out of turn",
                ))),
                Step::Done(done) => Some(Ended::Done(Box::new(done))),
            },
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, client: &mut Peer) -> Poll<io::Result<()>> {
        let end = self.sendable();
        while self.sent < end {
            let count = ready!(Pin::new(&mut *client).poll_write(cx, &self.out[self.sent..end]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.begun = true;
            self.unflushed = true;
            self.sent += count;
        }
        self.out.drain(..end);
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// The end of what may be sent already.
    fn sendable(&self) -> usize {
        self.out.len() - self.walker.held()
    }

    fn poll_flush_all(&mut self, cx: &mut Context<'_>, client: &mut Peer) -> Poll<io::Result<()>> {
        if self.sent < self.sendable() {
            ready!(self.poll_write(cx, client))?;
        }
        if self.unflushed && client.needs_flush() {
            ready!(Pin::new(&mut *client).poll_flush(cx))?;
        }
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Sends what is left to the client.
    ///
    /// # Errors
    /// The client's.
    pub async fn send(&mut self, client: &mut Peer, session: &Link) -> io::Result<()> {
        if self.client_gone {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        poll_fn(|cx| match self.poll_flush_all(cx, client) {
            Poll::Pending if session.ended().is_some() => {
                Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
            }
            Poll::Pending => {
                session.wake_me(cx);
                Poll::Pending
            }
            ready => ready,
        })
        .await
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        buffers::give(std::mem::take(&mut self.out));
    }
}

/// Sends all of `bytes` to a database or a client.
///
/// # Errors
/// The peer's; also when `link` was ended.
pub async fn send(peer: &mut Peer, bytes: &[u8], link: &Link) -> io::Result<()> {
    let mut sent = 0;
    poll_fn(|cx| {
        while sent < bytes.len() {
            if link.ended().is_some() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            match Pin::new(&mut *peer).poll_write(cx, &bytes[sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => sent += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    link.wake_me(cx);
                    return Poll::Pending;
                }
            }
        }
        match peer.needs_flush() {
            true => Pin::new(&mut *peer).poll_flush(cx),
            false => Poll::Ready(Ok(())),
        }
    })
    .await
}

/// Reads once and appends to `into`; 0 at the end.
///
/// # Errors
/// The peer's; also when `link` was ended.
pub async fn read_more(peer: &mut Peer, into: &mut Vec<u8>, link: &Link) -> io::Result<usize> {
    poll_fn(|cx| {
        if link.ended().is_some() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let read = with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *peer).poll_read(cx, &mut buffer))?;
            if into.capacity() == 0 {
                *into = buffers::take();
            }
            into.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        });
        if read.is_pending() {
            link.wake_me(cx);
        }
        read
    })
    .await
}

/// Whether a connection that nobody uses is still good: open, and silent.
pub async fn is_quiet(peer: &mut Peer) -> bool {
    poll_fn(|cx| {
        with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            Poll::Ready(Pin::new(&mut *peer).poll_read(cx, &mut buffer).is_pending())
        })
    })
    .await
}

/// The header of the packet that `bytes` begin with, when it is there.
pub fn header(bytes: &[u8]) -> Option<FrameHeader> {
    bytes
        .first_chunk::<HEADER_LEN>()
        .map(|header| FrameHeader::parse(*header))
}
