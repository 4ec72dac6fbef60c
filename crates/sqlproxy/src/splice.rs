//! Passing bytes between a client and a database, both ways, unread.
//!
//! An idle connection holds no buffer: bytes are read into one scratch buffer a thread and written on at once. Only
//! what the far side does not take is kept, at most [`SCRATCH_BYTES`] a direction, and nothing more is read in that
//! direction until it is gone: a slow reader slows its own query, not the proxy's memory.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// The most that one read takes, and so the most that one direction of one connection keeps.
pub const SCRATCH_BYTES: usize = 64 * 1024;

/// How long a client may go on reading what its database said last before it is closed.
const LINGER: Duration = Duration::from_secs(1);

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

/// Passes bytes until the database has ended or broken off the connection and the client has all that it said, or the
/// client fails. A client that closes its sending half still gets its answers.
///
/// # Errors
/// Those of either stream; both are to be dropped.
pub async fn splice<C, D>(client: &mut C, database: &mut D) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    D: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let mut client_failed = false;
    let ended = poll_fn(|cx| {
        if let Poll::Ready(Err(error)) = up.poll(cx, client, database) {
            if !up.refused {
                client_failed = true;
                return Poll::Ready(Err(error));
            }
            // The database may have said why before it closed: that is still passed on.
            up.ended = true;
        }
        down.poll(cx, database, client)
    })
    .await;
    if !client_failed && !down.refused && !up.ending {
        // A database closes both halves at once. Closing ours while the client's last bytes are unread would make
        // the kernel reset the connection and the client lose the database's last words: read for a moment more.
        let last_words = async {
            if client.shutdown().await.is_ok() {
                discard(client).await;
            }
        };
        let _ = tokio::time::timeout(LINGER, last_words).await;
    }
    ended
}

/// Reads and forgets until the end.
pub async fn discard<R: AsyncRead + Unpin>(from: &mut R) {
    let mut bytes = [0; 512];
    while from.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
}

/// One way of a connection.
#[derive(Debug, Default)]
struct Direction {
    /// What was read and not yet taken, from `taken` on.
    kept: Vec<u8>,
    taken: usize,
    unflushed: bool,
    /// The source has ended; the destination is to be told.
    ending: bool,
    ended: bool,
    /// The error was the destination's.
    refused: bool,
}

impl Direction {
    /// Goes on until the source has ended and the destination was told.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.ended {
            if self.taken < self.kept.len() {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.kept[self.taken..]));
                self.taken += self.written(count)?;
                if self.taken == self.kept.len() {
                    // Given back, not kept for next time: most connections are never slow again.
                    (self.kept, self.taken) = (Vec::new(), 0);
                }
            } else if self.ending {
                let told = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                self.refused = told.is_err();
                told?;
                self.ended = true;
            } else if SCRATCH
                .with_borrow_mut(|scratch| self.poll_move(cx, from, to, scratch))?
                .is_pending()
            {
                if self.unflushed {
                    let flushed = ready!(Pin::new(&mut *to).poll_flush(cx));
                    self.refused = flushed.is_err();
                    flushed?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes once; keeps what was not taken. Pending only when there is nothing to read.
    fn poll_move<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        scratch: &mut [u8],
    ) -> io::Result<Poll<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = ReadBuf::new(scratch);
        match Pin::new(from).poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(read) => read?,
        }
        let bytes = buffer.filled();
        if bytes.is_empty() {
            self.ending = true;
            return Ok(Poll::Ready(()));
        }
        let count = match Pin::new(to).poll_write(cx, bytes) {
            Poll::Ready(count) => self.written(count)?,
            Poll::Pending => 0,
        };
        self.kept
            .extend_from_slice(bytes.get(count..).unwrap_or_default());
        Ok(Poll::Ready(()))
    }

    fn written(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        let count = result.and_then(|count| {
            if count == 0 {
                Err(io::ErrorKind::WriteZero.into())
            } else {
                Ok(count)
            }
        });
        self.refused = count.is_err();
        self.unflushed = true;
        count
    }
}
