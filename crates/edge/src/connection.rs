//! One client connection: a head comes in, its request is carried out, and so on until either side has had enough.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use pontoon_fleet::ServerName;
use tokio::net::TcpStream;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use crate::access_log::Record;
use crate::answer;
use crate::cache;
use crate::challenge;
use crate::forward::{self, After, Served};
use crate::front;
use crate::http1::body::Length;
use crate::http1::head::{self, Head, HeadLimits, Scanner};
use crate::http1::reject::Reject;
use crate::http1::request::{self, Request, Sender, Version};
use crate::http1::response::RelayWord;
use crate::https;
use crate::io::{Buffer, Deadline, Stream};
use crate::own;
use crate::pipe::Pipe;
use crate::uploads;
use crate::worker::{Idle, Route, Worker};

/// A client's connection.
pub struct Client {
    /// The connection.
    pub stream: Stream,
    /// What was read and not yet used.
    pub buffer: Buffer,
    /// What it waits for, at most.
    pub deadline: Deadline,
    /// Memory for heads of answers; none while it waits for a request.
    pub scratch: Vec<u8>,
    /// When it was last waited for something: the clock is not read more often than that.
    pub now: Instant,
}

/// Serves `stream` until it ends, or has been idle for so long that it is to be parked: it is given back then, with how
/// long it may still be idle. `caller` is who has proved to be on the other side, on a relay; `first`: it has not
/// carried a request yet.
pub async fn serve(
    worker: &Rc<Worker>,
    stream: Stream,
    sender: Sender,
    route: Route,
    caller: Option<ServerName>,
    mut first: bool,
) -> Option<(TcpStream, Instant)> {
    let mut client = Client {
        stream,
        buffer: worker.buffers.take(),
        deadline: Deadline::new(worker.upstreams().tuning.head_timeout),
        scratch: Vec::new(),
        now: Instant::now(),
    };
    let mut drain = Drain {
        begins: std::pin::pin!(worker.drain_begins.notified()),
        is_awaited: false,
    };
    let mut is_close = false;
    loop {
        if client.buffer.is_empty() {
            let since = client.now;
            // Of all memory an idle connection has only what tells it from others.
            worker.buffers.put_head(std::mem::take(&mut client.scratch));
            match wait_for_first_byte(worker, &mut client, route, first, &mut drain, false).await {
                Waited::Came => is_close = !first && follows_closely(&client, since),
                Waited::Ended => return None,
                Waited::Idle(until) => {
                    let Stream::Tcp(stream) = client.stream else {
                        return None;
                    };
                    return Some((stream, until));
                }
            }
        }
        let caller = caller.as_ref();
        let several = serve_several(worker, &mut client, &sender, route, caller, &mut drain, is_close);
        match Box::pin(several).await {
            After::KeepAlive => first = false,
            After::Linger => {
                Box::pin(linger(&mut client)).await;
                return None;
            }
            After::Close => return None,
        }
    }
}

/// Carries out a request, and more for as long as they follow each other closely: so the memory for one is not had anew
/// for each, and who has asked once holds none of it. `is_close`: this one has followed another so.
async fn serve_several(
    worker: &Rc<Worker>,
    client: &mut Client,
    sender: &Sender,
    route: Route,
    caller: Option<&ServerName>,
    drain: &mut Drain<'_, '_>,
    mut is_close: bool,
) -> After {
    loop {
        let after = serve_one(worker, client, sender, route, caller).await;
        if after != After::KeepAlive {
            return after;
        }
        if client.buffer.is_empty() {
            if !is_close {
                return after;
            }
            let since = client.now;
            match wait_for_first_byte(worker, client, route, false, drain, true).await {
                Waited::Came => is_close = follows_closely(client, since),
                Waited::Ended => return After::Close,
                Waited::Idle(_) => {
                    client.now = since;
                    return after;
                }
            }
        }
    }
}

/// Whether what came just now came so soon after `since` that more will.
fn follows_closely(client: &Client, since: Instant) -> bool {
    const CLOSELY: Duration = Duration::from_millis(50);
    client.now.saturating_duration_since(since) < CLOSELY
}

/// Reads one request and carries it out.
async fn serve_one(
    worker: &Rc<Worker>,
    client: &mut Client,
    sender: &Sender,
    route: Route,
    caller: Option<&ServerName>,
) -> After {
    let mut head = worker.buffers.take_head();
    match next_head(worker, client, sender, route, &mut head).await {
        // A server may leave the fleet while its connections are open.
        Next::Request(_) if caller.is_some_and(|name| !worker.admits(name)) => {
            let mut text = Vec::new();
            let word = RelayWord::NotSent.field();
            answer::write(&mut text, 503, "not a server of the fleet", word, false, false);
            let _ = send(client, &text, worker.upstreams().tuning.write_timeout).await;
            After::Linger
        }
        Next::Request(request) => {
            let (after, memory) = carry_out(worker, client, route, sender, &request, head).await;
            worker.buffers.put_head(memory);
            after
        }
        Next::Refuse(reject) => {
            refuse(worker, client, reject).await;
            After::Linger
        }
        Next::End => After::Close,
    }
}

enum Next {
    Request(Request),
    Refuse(Reject),
    End,
}

/// The beginning of the drain, as one connection hears of it.
struct Drain<'d, 'w> {
    begins: Pin<&'d mut Notified<'w>>,
    /// It wakes the connection's task, which is always the same.
    is_awaited: bool,
}

/// Waits for the next request's head, and reads it; `out` then holds what is passed on.
async fn next_head(
    worker: &Rc<Worker>,
    client: &mut Client,
    sender: &Sender,
    route: Route,
    out: &mut Vec<u8>,
) -> Next {
    // As they are now: the configuration may have changed while the connection was idle.
    let upstreams = worker.upstreams();
    let limits = match route {
        Route::Visitors => &upstreams.tuning.head,
        Route::Relay => &HeadLimits::RELAY,
    };
    client.deadline.set_to(client.now + upstreams.tuning.head_timeout);
    let mut scanner = Scanner::default();
    loop {
        let input = client.buffer.filled();
        let cut = scanner.is_fresh().then(|| head::cut(input, limits)).flatten();
        let found = match cut {
            Some(cut) => Some((cut.end(), Head::from(cut))),
            None => match scanner.scan(input, limits) {
                Err(reject) => return Next::Refuse(reject),
                Ok(extent) => extent.map(|extent| (extent.end, input[extent.start..extent.end].into())),
            },
        };
        if let Some((end, text)) = found {
            let front = &upstreams.front;
            let is_trusted = |address| front.trusts(address);
            let marks = front::marks(worker, front, sender, &is_trusted);
            let verdict = request::read_marked(text, sender, &marks, out);
            client.buffer.consume(end);
            return match verdict {
                Ok(request) => Next::Request(request),
                Err(reject) => Next::Refuse(reject),
            };
        }
        match read_more(client).await {
            Ok(count) if count > 0 => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                // On an encrypted connection the wait for the first byte is part of this one.
                return if client.buffer.is_empty() {
                    Next::End
                } else {
                    Next::Refuse(Reject::HeadTimeout)
                };
            }
            Ok(_) | Err(_) => return Next::End,
        }
    }
}

/// What came of waiting for a request.
enum Waited {
    /// Its first bytes.
    Came,
    /// The connection is to be closed.
    Ended,
    /// Nothing so far. It may stay until then.
    Idle(Instant),
}

/// Waits without holding a buffer's worth of anything; `briefly`: for no longer than until it would be parked, if it could.
async fn wait_for_first_byte(
    worker: &Worker,
    client: &mut Client,
    route: Route,
    first: bool,
    drain: &mut Drain<'_, '_>,
    briefly: bool,
) -> Waited {
    let upstreams = worker.upstreams();
    let tuning = &upstreams.tuning;
    let patience = if first {
        tuning.head_timeout
    } else {
        tuning.idle_timeout
    };
    let until = client.now + patience;
    let may_park = !first
        && route == Route::Visitors
        && matches!(client.stream, Stream::Tcp(_))
        && tuning.park_after < patience
        && worker.parking.is_open();
    let is_brief = may_park || (briefly && tuning.park_after < patience);
    let for_now = is_brief.then_some(tuning.park_after);
    client
        .deadline
        .set_to(for_now.map_or(until, |span| client.now + span));
    drop(upstreams);
    let Client {
        stream,
        buffer,
        deadline,
        ..
    } = client;
    let mut is_graced = false;
    let came = std::future::poll_fn(|cx| {
        if let Poll::Ready(result) = stream.poll_read(cx, buffer) {
            return Poll::Ready(match result {
                Ok(count) if count > 0 => Waited::Came,
                Ok(_) | Err(_) => Waited::Ended,
            });
        }
        // A relay's connections stay open to the end of the drain: the other edge learns from its checks, and until
        // then a request that is already on its way finds somebody.
        if route == Route::Visitors {
            if !std::mem::replace(&mut drain.is_awaited, true) {
                let _ = drain.begins.as_mut().poll(cx);
            }
            match (worker.draining.get() && worker.idle.get() == Idle::Close, first) {
                (true, false) => return Poll::Ready(Waited::Ended),
                // A connection that was made just now is about to carry a request; a kept one that is idle is not.
                (true, true) if !std::mem::replace(&mut is_graced, true) => deadline.set(GRACE),
                _ => {}
            }
        }
        deadline.poll(cx).map(|()| match for_now {
            Some(_) => Waited::Idle(until),
            None => Waited::Ended,
        })
    })
    .await;
    client.now = Instant::now();
    came
}

/// What a connection without a request yet is given when draining begins.
const GRACE: Duration = Duration::from_secs(1);

/// Reads some bytes before the deadline, and looks at the clock.
async fn read_more(client: &mut Client) -> io::Result<usize> {
    let Client {
        stream,
        buffer,
        deadline,
        ..
    } = client;
    let read = std::future::poll_fn(|cx| match stream.poll_read(cx, buffer) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending => {
            ready!(deadline.poll(cx));
            Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
        }
    })
    .await;
    client.now = Instant::now();
    read
}

/// Carries out one request. Gives back the memory of its head.
async fn carry_out(
    worker: &Rc<Worker>,
    client: &mut Client,
    route: Route,
    sender: &Sender,
    request: &Request,
    head: Vec<u8>,
) -> (After, Vec<u8>) {
    let begun = client.now;
    let head_length = head.len();
    let running = worker.stats.begin();
    let upstreams = worker.upstreams();
    // Of a request that comes from another edge it has seen to that.
    let limit = match route {
        Route::Visitors => upstreams.body_limit(head.get(request.target.clone()).unwrap_or(&[])),
        Route::Relay => None,
    };
    let mut up = Pipe::limited(head, request.length.into(), limit);
    let elsewhere = worker.https().and_then(|https| https.redirect);
    let elsewhere = elsewhere.filter(|_| request.peer.is_some() && !request.secure);
    let admitted = match request.peer {
        Some(peer) => worker.shared.clients.admit(&upstreams.client, peer),
        None => Ok(None),
    };
    let served = match &admitted {
        Err(denied) => own::denied(worker, client, request, denied).await,
        Ok(_) => match gather_body(worker, client, request, &mut up, limit).await {
            Ok(()) => match (challenge(worker, sender, request, &up), elsewhere) {
                (Some(body), _) => answer_challenge(worker, client, request, &body).await,
                (None, Some(port)) => redirect(worker, client, request, &up, port).await,
                (None, None) => match upstreams.maintenance(request.peer) {
                    Some(maintenance) => own::maintained(worker, client, request, &up, maintenance).await,
                    None => serve_or_forward(worker, client, request, &mut up, route).await,
                },
            },
            Err(Some(reject)) => own::refused(worker, client, request, reject).await,
            Err(None) => Served::nothing(),
        },
    };
    drop((running, admitted));
    if served.upstream.is_none() {
        client.now = Instant::now();
    }
    let took = client.now.saturating_duration_since(begun);
    if served.status != 0 {
        worker.stats.answered(served.status, took);
    }
    let mut head = up.into_staged();
    head.truncate(head_length);
    if let Some(peer) = request.peer {
        worker.log(&Record {
            peer,
            method: head.get(..request.method_length).unwrap_or(&[]),
            target: head.get(request.target.clone()).unwrap_or(&[]),
            user_agent: head.get(request.user_agent.clone()).unwrap_or(&[]),
            referer: head.get(request.referer.clone()).unwrap_or(&[]),
            version: match (&client.stream, request.version) {
                (Stream::Http2Visitor(_), _) => "HTTP/2.0",
                (_, Version::Http10) => "HTTP/1.0",
                (_, Version::Http11) => "HTTP/1.1",
            },
            // Nothing was answered: what nginx writes for a client that went away.
            status: if served.status == 0 { 499 } else { served.status },
            bytes: served.bytes,
            took,
            upstream: served.upstream.as_ref().map(|upstream| upstream.server.as_str()),
            retries: served.retries,
            request_id: request.id(&head),
            trace: request.trace_id(&head),
        });
    }
    (served.after, head)
}

/// Hands out an upload that is here, or an answer that is kept; else the application answers.
async fn serve_or_forward(
    worker: &Rc<Worker>,
    client: &mut Client,
    request: &Request,
    up: &mut Pipe,
    route: Route,
) -> Served {
    let upstreams = worker.upstreams();
    if route == Route::Relay {
        return forward::forward(worker, client, request, up, route, None).await;
    }
    if let Some(uploads) = upstreams.uploads.clone()
        && let Some(served) = uploads::serve(worker, client, request, up, &uploads).await
    {
        return served;
    }
    match &upstreams.answers.cache {
        Some(rules) => Box::pin(cache::serve(worker, client, request, up, rules)).await,
        None => forward::forward(worker, client, request, up, route, None).await,
    }
}

/// Takes a small body in whole, so that the request can be sent again, and goes up in one write.
async fn gather_body(
    worker: &Worker,
    client: &mut Client,
    request: &Request,
    up: &mut Pipe,
    limit: Option<u64>,
) -> Result<(), Option<Reject>> {
    let small = match request.length {
        Length::None => return Ok(()),
        // Said before a byte of it came: who asks first (`Expect`) is spared to send it.
        Length::Known(length) if limit.is_some_and(|limit| length > limit) => {
            return Err(Some(Reject::BodyTooLarge));
        }
        Length::Known(length) => length <= worker.shared.tuning.replay_limit as u64,
        Length::Chunked => false,
    };
    // Who waits for `100 Continue` has sent nothing.
    if request.expects_continue {
        return Ok(());
    }
    client.deadline.set(worker.upstreams().tuning.body_timeout);
    loop {
        let fits = !client.buffer.is_empty()
            && client.buffer.filled().len() <= worker.shared.tuning.replay_limit * 2;
        if (small || fits) && up.stage_body(&mut client.buffer).map_err(Some)? {
            return Ok(());
        }
        if !small {
            return Ok(());
        }
        match read_more(client).await {
            Ok(count) if count > 0 => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(Some(Reject::BodyTimeout)),
            Ok(_) | Err(_) => return Err(None),
        }
    }
}

/// What an authority that wants to see whether a name is ours is to be told; `None` when nobody asks that.
fn challenge(worker: &Worker, sender: &Sender, request: &Request, up: &Pipe) -> Option<String> {
    if !matches!(sender, Sender::Visitor { .. }) {
        return None;
    }
    let head = up.staged();
    let (method, target) = (
        head.get(..request.method_length)?,
        head.get(request.target.clone())?,
    );
    challenge::body(method, target, || worker.shared.acme_thumbprint.borrow().clone())
}

async fn answer_challenge(worker: &Worker, client: &mut Client, request: &Request, body: &str) -> Served {
    let mut text = Vec::new();
    answer::whole(&mut text, body, request.is_head);
    let sent = send(client, &text, worker.upstreams().tuning.write_timeout).await;
    Served {
        status: 200,
        bytes: text.len() as u64,
        after: if sent.is_ok() { After::Linger } else { After::Close },
        ..Served::nothing()
    }
}

/// Sends a visitor who came over plain HTTP to HTTPS. A method that is not to be changed gets a status that says so
/// (RFC 9110 section 15.4).
async fn redirect(worker: &Worker, client: &mut Client, request: &Request, up: &Pipe, port: u16) -> Served {
    let head = up.staged();
    let part = |range: std::ops::Range<usize>| head.get(range).unwrap_or(&[]);
    let status = match part(0..request.method_length) {
        b"GET" | b"HEAD" => 301,
        _ => 308,
    };
    let location = https::location(part(request.host.clone()), part(request.target.clone()), port);
    let location = String::from_utf8_lossy(&location);
    let mut text = Vec::new();
    answer::write(&mut text, status, "", &location, request.is_head, false);
    let sent = send(client, &text, worker.upstreams().tuning.write_timeout).await;
    Served {
        status,
        bytes: text.len() as u64,
        after: if sent.is_ok() { After::Linger } else { After::Close },
        ..Served::nothing()
    }
}

/// Answers a head that is refused.
async fn refuse(worker: &Worker, client: &mut Client, reject: Reject) {
    worker.stats.rejected(reject as usize);
    worker.stats.answered(reject.status(), Duration::ZERO);
    let mut text = Vec::new();
    worker.pages().refuse(&mut text, reject, false);
    let _ = send(client, &text, worker.upstreams().tuning.write_timeout).await;
}

/// Writes `bytes` to the client within `limit`.
///
/// # Errors
/// When the client takes them not.
pub async fn send(client: &mut Client, bytes: &[u8], limit: Duration) -> io::Result<()> {
    client.deadline.set(limit);
    let Client { stream, deadline, .. } = client;
    let mut at = 0;
    std::future::poll_fn(|cx| {
        let writing = loop {
            if at == bytes.len() {
                break stream.poll_flush(cx);
            }
            match stream.poll_write(cx, &[IoSlice::new(&bytes[at..])]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => at += count,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        if writing.is_pending() && deadline.poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        writing
    })
    .await
}

/// Closes so that the client can read the answer: what it still sends is taken and thrown away for a moment,
/// because closing with unread bytes resets the connection (RFC 9112 section 9.6).
async fn linger(client: &mut Client) {
    const LIMIT: usize = 1024 * 1024;
    client.deadline.set(Duration::from_secs(1));
    let Client {
        stream,
        buffer,
        deadline,
        ..
    } = client;
    let mut thrown = 0;
    let mut said = false;
    std::future::poll_fn(|cx| {
        if !said {
            said = stream.poll_shutdown(cx).is_ready();
        }
        loop {
            buffer.consume(usize::MAX);
            match stream.poll_read(cx, buffer) {
                Poll::Ready(Ok(count)) if count > 0 && thrown < LIMIT => thrown += count,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return deadline.poll(cx),
            }
        }
    })
    .await;
}
