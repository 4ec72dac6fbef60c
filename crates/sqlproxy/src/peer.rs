//! One end of a connection: an application, a database or another proxy.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

/// A stream of one of the kinds that the proxy speaks over.
#[derive(Debug)]
pub enum Peer {
    /// TCP, to an application or a database.
    Tcp(TcpStream),
    /// A Unix socket, to an application or a database.
    Unix(UnixStream),
    /// Mutual TLS, to another proxy.
    Tls(Box<TlsStream<TcpStream>>),
    /// TLS within one of the others: a client that asked for it, or a database whose account demands it.
    Within(Box<TlsStream<Peer>>),
}

/// A peer that went away without a word is noticed after idle + interval × retries, in about a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
/// How long sent bytes may stay unacknowledged (`TCP_USER_TIMEOUT`, tcp(7)). The kernel's own limit is a quarter of
/// an hour: too long for a database whose locks are held for a server that lost its power. But the kernel also counts
/// the time that a living peer's window is closed, so this is how long an application may pause within a result; a
/// database itself waits for `net_write_timeout`, 60 s unless the user raised it.
const UNACKNOWLEDGED: Duration = Duration::from_secs(300);

/// Sets what every TCP connection of the proxy has: no delay, and an end when the far side has vanished. Failures
/// are ignored: a connection without them still works.
pub fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
}

/// What can be seen of a peer without reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It has closed at least its sending half.
    Closed,
    /// It has sent something.
    Speaks,
}

/// Whether a stream that is readable is so because it was closed.
fn is_closed(ready: impl Future<Output = io::Result<Ready>>) -> bool {
    let mut ready = pin!(ready);
    let mut cx = Context::from_waker(Waker::noop());
    match ready.as_mut().poll(&mut cx) {
        Poll::Ready(Ok(ready)) => ready.is_read_closed(),
        Poll::Ready(Err(_)) => true,
        Poll::Pending => false,
    }
}

/// How often a client that spoke out of turn is looked at for having gone.
const EARLY_BYTES_POLL: Duration = Duration::from_millis(100);

impl Peer {
    /// Waits until the peer has closed, without taking a byte from it. A MySQL client says nothing before the
    /// greeting, so this is how a client that gave up while held is noticed.
    pub async fn gone(&self) {
        loop {
            let ready = match self {
                Peer::Tcp(stream) => stream.ready(Interest::READABLE).await,
                Peer::Unix(stream) => stream.ready(Interest::READABLE).await,
                Peer::Tls(stream) => stream.get_ref().0.ready(Interest::READABLE).await,
                Peer::Within(stream) => return Box::pin(stream.get_ref().0.gone()).await,
            };
            match ready {
                Ok(ready) if !ready.is_read_closed() => tokio::time::sleep(EARLY_BYTES_POLL).await,
                _ => return,
            }
        }
    }

    /// Whether the peer has closed, or has something to say; pending while it does neither. Takes nothing from it, and
    /// costs no system call.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<Gone> {
        let ready = match self {
            Peer::Tcp(stream) => stream
                .poll_read_ready(cx)
                .map(|_| is_closed(stream.ready(Interest::READABLE))),
            Peer::Unix(stream) => stream
                .poll_read_ready(cx)
                .map(|_| is_closed(stream.ready(Interest::READABLE))),
            Peer::Tls(stream) => {
                let tcp = stream.get_ref().0;
                tcp.poll_read_ready(cx)
                    .map(|_| is_closed(tcp.ready(Interest::READABLE)))
            }
            Peer::Within(stream) => return stream.get_ref().0.poll_gone(cx),
        };
        ready.map(|closed| if closed { Gone::Closed } else { Gone::Speaks })
    }

    /// Whether what is written stays in the process until it is flushed.
    pub fn needs_flush(&self) -> bool {
        !matches!(self, Peer::Tcp(_) | Peer::Unix(_))
    }

    /// Makes the coming drop discard what was written and not yet sent: a statement that waits in our socket's
    /// buffer must not reach a database that was demoted meanwhile.
    pub fn abort_on_drop(&self) {
        let tcp = match self {
            Peer::Tcp(stream) => stream,
            Peer::Tls(stream) => stream.get_ref().0,
            Peer::Within(stream) => return stream.get_ref().0.abort_on_drop(),
            Peer::Unix(_) => return,
        };
        let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
    }
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Peer::Tcp($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Peer::Unix($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Peer::Tls($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
            Peer::Within($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Peer {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_may_pause_for_longer_than_a_database_waits_for_one() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune(&stream);
        // The kernel counts the time that a reader's window stays closed too (tcp_probe_timer); MySQL's own limit is
        // net_write_timeout, 60 s unless the user raised it.
        let limit = SockRef::from(&stream).tcp_user_timeout().unwrap().unwrap();
        assert!(limit >= Duration::from_secs(240), "{limit:?}");
    }
}
