//! A visitor's connection that speaks HTTP/2: its streams are served side by side.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{CONNECTION_WINDOW, SEND_BUFFER, STREAM_WINDOW, VisitorStream};
use crate::connection;
use crate::http1::reject::Reject;
use crate::http1::request::Sender;
use crate::io::Stream;
use crate::worker::{Route, Worker};

/// Streams that a visitor may have open at the same time.
const MAX_STREAMS: u32 = 128;
/// So many streams may be given up within [`WINDOW`] before they are answered, or half of all, whichever is more. Beyond
/// that somebody makes work for the application and takes nothing of it (CVE-2023-44487). A page that scrolls past
/// images gives up some, too.
const MAX_GIVEN_UP: u64 = 512;
const WINDOW: Duration = Duration::from_secs(10);
/// What a connection that was told to end is given when nothing is open on it.
const GRACE: Duration = Duration::from_secs(5);

/// The streams of one connection.
#[derive(Clone, Default)]
struct Streams {
    open: Rc<Cell<u64>>,
    /// Of the present window, as the next.
    total: Rc<Cell<u64>>,
    given_up: Rc<Cell<u64>>,
    /// When the last one ended.
    ended: Rc<Cell<Option<Instant>>>,
}

impl Streams {
    fn are_abused(&self) -> bool {
        let given_up = self.given_up.get();
        given_up > MAX_GIVEN_UP && given_up * 2 > self.total.get()
    }

    /// Counts from anew.
    fn forgive(&self) {
        self.total.set(0);
        self.given_up.set(0);
    }
}

/// Serves the connection `io` until it ends.
pub async fn serve<T>(worker: &Rc<Worker>, io: T, sender: Sender)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    // As configured when the connection began.
    let upstreams = worker.upstreams();
    let tuning = &upstreams.tuning;
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buffer_size(SEND_BUFFER)
        // A head and what HPACK counts beside it; CONTINUATION frames without end meet it too.
        .max_header_list_size(u32::try_from(2 * tuning.head.head).unwrap_or(u32::MAX));
    let handshake = builder.handshake::<_, Bytes>(io);
    let Ok(Ok(mut connection)) = tokio::time::timeout(tuning.head_timeout, handshake).await else {
        return;
    };
    let streams = Streams::default();
    let begun = Instant::now();
    let mut counted_since = begun;
    let mut ends_at: Option<Instant> = None;
    loop {
        let idle_since = streams.ended.get().unwrap_or(begun);
        let patience = match streams.ended.get() {
            Some(_) => tuning.idle_timeout,
            None => tuning.head_timeout,
        };
        // What was answered may still be on its way when its stream is no longer open.
        let forced = ends_at.map(|at| at.max(idle_since + tuning.write_timeout));
        let look_at = match streams.open.get() {
            0 => forced.unwrap_or(idle_since + patience),
            _ => Instant::now() + LOOK_EVERY,
        };
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => begin(worker, sender, request, respond, &streams),
                // A broken rule of the protocol: the peer was told which.
                Some(Err(error)) => {
                    tracing::debug!(%error, "an HTTP/2 connection broke");
                    return;
                }
                None => return,
            },
            () = worker.drain_begins.notified(), if ends_at.is_none() => {
                connection.graceful_shutdown();
                ends_at = Some(Instant::now() + GRACE);
            }
            () = tokio::time::sleep_until(look_at) => {
                if streams.open.get() > 0 {
                    // Somebody is served; what is slow about it is timed there.
                } else if forced.is_some_and(|at| at <= Instant::now()) {
                    return;
                } else if ends_at.is_none() && streams.ended.get().unwrap_or(begun) == idle_since {
                    connection.graceful_shutdown();
                    ends_at = Some(Instant::now() + GRACE);
                }
            }
        }
        if ends_at.is_none() && worker.draining.get() {
            connection.graceful_shutdown();
            ends_at = Some(Instant::now() + GRACE);
        }
        if counted_since.elapsed() > WINDOW {
            counted_since = Instant::now();
            streams.forgive();
        }
        if streams.are_abused() {
            worker.stats.rejected(Reject::TooManyResets as usize);
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            // What is to be said is said within the grace; the streams end with the connection.
            let said = std::future::poll_fn(|cx| connection.poll_closed(cx));
            let _ = tokio::time::timeout(GRACE, said).await;
            return;
        }
    }
}

/// How often a busy connection looks whether it is still one.
const LOOK_EVERY: Duration = Duration::from_secs(5);

fn begin(
    worker: &Rc<Worker>,
    sender: Sender,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    streams: &Streams,
) {
    streams.total.set(streams.total.get() + 1);
    let stream = match VisitorStream::new(request, respond, Rc::clone(&streams.given_up)) {
        Ok(stream) => stream,
        Err((reject, mut respond)) => {
            worker.stats.rejected(reject as usize);
            let mut answer = Response::new(());
            *answer.status_mut() = StatusCode::from_u16(reject.status()).unwrap_or(StatusCode::BAD_REQUEST);
            // A visitor that is gone needs no answer.
            let _ = respond.send_response(answer, true);
            return;
        }
    };
    let place = Open::one(streams);
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let _place = place;
        let stream = Stream::Http2Visitor(Box::new(stream));
        connection::serve(&worker, stream, sender, Route::Visitors, None, true).await;
    });
}

/// A stream that is open.
struct Open(Streams);

impl Open {
    fn one(streams: &Streams) -> Open {
        streams.open.set(streams.open.get() + 1);
        Open(streams.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.ended.set(Some(Instant::now()));
    }
}
