//! HTTP/2 without TLS to an application (`app.protocol = "h2c"`): one connection a thread, a stream for each request.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use super::outgoing::{HeadBytes, Outgoing};
use super::{CONNECTION_WINDOW, Made, SEND_BUFFER, STREAM_WINDOW, broken, fields};

/// One thread's connections to applications that speak HTTP/2.
#[derive(Default)]
pub struct Connections(RefCell<HashMap<SocketAddr, Known>>);

#[derive(Clone)]
struct Known {
    sender: SendRequest<Bytes>,
    /// Streams on it now.
    open: Rc<Cell<usize>>,
}

impl Known {
    /// Its next stream.
    async fn stream(self) -> Result<UpstreamStream, h2::Error> {
        Ok(UpstreamStream::new(
            self.sender.ready().await?,
            Open::one(self.open),
        ))
    }
}

/// A stream that is open.
struct Open(Rc<Cell<usize>>);

impl Open {
    fn one(count: Rc<Cell<usize>>) -> Open {
        count.set(count.get() + 1);
        Open(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Connections {
    /// A stream for one request to the application at `address`, and whether the connection was there before, which it
    /// may not be when it is to be `fresh`.
    ///
    /// # Errors
    /// When no connection can be made. Not a byte of a request was sent.
    pub async fn open(&self, address: SocketAddr, fresh: bool) -> io::Result<(UpstreamStream, bool)> {
        // A connection that has as many streams as the application takes would make this one wait.
        let has_room = |known: &&Known| !fresh && known.open.get() < known.sender.current_max_send_streams();
        let known = self.0.borrow().get(&address).filter(has_room).cloned();
        if let Some(known) = known
            && let Ok(stream) = known.stream().await
        {
            return Ok((stream, true));
        }
        let made = dial(address).await?;
        self.0.borrow_mut().insert(address, made.clone());
        Ok((made.stream().await.map_err(broken)?, false))
    }

    /// Lets go of the one to `address`, which may be dead without anybody having said so. Requests on it go on.
    pub fn forget(&self, address: SocketAddr) {
        self.0.borrow_mut().remove(&address);
    }

    /// Keeps only those to applications that `stay`. Requests on the others go on.
    pub fn retain(&self, stay: impl Fn(SocketAddr) -> bool) {
        self.0.borrow_mut().retain(|address, _| stay(*address));
    }
}

/// The one stream of a connection of its own.
///
/// # Errors
/// When it cannot be made.
pub async fn connect(address: SocketAddr) -> io::Result<UpstreamStream> {
    dial(address).await?.stream().await.map_err(broken)
}

async fn dial(address: SocketAddr) -> io::Result<Known> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let (sender, connection) = Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake::<_, Bytes>(tcp)
        .await
        .map_err(broken)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%address, %error, "an HTTP/2 connection to an application broke");
        }
    });
    Ok(Known {
        sender,
        open: Rc::default(),
    })
}

/// A stream to an application, as a connection that carries one HTTP/1.1 request.
pub struct UpstreamStream {
    sender: SendRequest<Bytes>,
    _open: Open,
    writing: Writing,
    made: Made,
    reading: Reading,
    chunked: bool,
}

enum Writing {
    Head(HeadBytes),
    Body(Box<Outgoing>),
    Done,
}

enum Reading {
    /// The request's head is not out yet.
    Nothing,
    Head(Pin<Box<ResponseFuture>>),
    Data(RecvStream),
    Trailers(RecvStream),
    /// The request could not be sent.
    Failed(Option<io::Error>),
    End,
}

impl UpstreamStream {
    /// The next stream of a connection that is ready for one.
    fn new(sender: SendRequest<Bytes>, open: Open) -> UpstreamStream {
        UpstreamStream {
            sender,
            _open: open,
            writing: Writing::Head(HeadBytes::default()),
            made: Made::default(),
            reading: Reading::Nothing,
            chunked: false,
        }
    }

    /// Reads the answer.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let before = out.filled().len();
            let of_data = self.made.read(out);
            if let (Reading::Data(incoming) | Reading::Trailers(incoming), true) =
                (&mut self.reading, of_data > 0)
            {
                incoming
                    .flow_control()
                    .release_capacity(of_data)
                    .map_err(broken)?;
            }
            if out.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            match &mut self.reading {
                // Woken by the write that sends the head: both directions are driven by one task.
                Reading::Nothing => return Poll::Pending,
                Reading::Head(answer) => {
                    if let Poll::Ready(Some(interim)) = answer.poll_informational(cx) {
                        let mut head = Vec::new();
                        fields::response_head(&interim.map_err(broken)?, false, &mut head);
                        self.made.text(head);
                        continue;
                    }
                    let answer = ready!(answer.as_mut().poll(cx)).map_err(broken)?;
                    let (parts, incoming) = answer.into_parts();
                    let has_body = !incoming.is_end_stream();
                    let mut head = Vec::with_capacity(512);
                    self.chunked =
                        fields::response_head(&http::Response::from_parts(parts, ()), has_body, &mut head);
                    self.made.text(head);
                    self.reading = match has_body {
                        true => Reading::Data(incoming),
                        false => Reading::End,
                    };
                }
                Reading::Data(incoming) => match ready!(incoming.poll_data(cx)) {
                    Some(data) => self.made.data(data.map_err(broken)?, self.chunked),
                    None => {
                        if let Reading::Data(incoming) = std::mem::replace(&mut self.reading, Reading::End) {
                            self.reading = Reading::Trailers(incoming);
                        }
                    }
                },
                Reading::Trailers(incoming) => {
                    let trailers = ready!(incoming.poll_trailers(cx)).map_err(broken)?;
                    if self.chunked {
                        self.made.text(fields::last_chunk(trailers.as_ref()));
                    }
                    self.reading = Reading::End;
                }
                Reading::Failed(error) => return Poll::Ready(error.take().map_or(Ok(()), Err)),
                Reading::End => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Takes some of the request.
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
                    self.ask(&head)?;
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
            Writing::Done => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn ask(&mut self, head: &[u8]) -> io::Result<()> {
        let sent = fields::request(head)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
            .and_then(|(request, body)| {
                let ends = body.is_finished();
                let (answer, stream) = self.sender.send_request(request, ends).map_err(broken)?;
                Ok((answer, stream, body, ends))
            });
        let (answer, stream, body, ends) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                // Who waits for the answer hears of it.
                self.reading = Reading::Failed(Some(error));
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        };
        self.reading = Reading::Head(Box::pin(answer));
        self.writing = match ends {
            true => Writing::Done,
            false => Writing::Body(Box::new(Outgoing::new(body, stream))),
        };
        Ok(())
    }
}
