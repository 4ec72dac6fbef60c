//! One request on one connection to an application server: the request goes up while the answer comes down.
//!
//! Both directions are driven from one place, so an answer that comes before the request's end is passed on at
//! once, and a server that reads nothing more can still be heard.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::cache::Fill;
use crate::compress::{self, Offer, Plan};
use crate::floors::Leaving;
use crate::front::Told;
use crate::http1::body::{Body, Length};
use crate::http1::head::{self, Extent, Head, HeadLimits, Scanner};
use crate::http1::reject::Reject;
use crate::http1::request::{Request, Version};
use crate::http1::response::{self, Asked, Ending, Handover, RelayWord, Response};
use crate::http2;
use crate::io::{Buffer, Deadline, Stream};
use crate::options::Tuning;
use crate::pipe::{Form, Pipe, PipeError};

/// Why an exchange did not come to its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server closed before a byte of the answer came.
    ClosedEarly,
    /// A relay said that its application got nothing of the request.
    NotSent,
    /// The server said that it has not looked at the request.
    Unprocessed,
    /// A relay said that its application closed before a byte of the answer came.
    RelayedClose,
    /// The server is out, and had not begun to answer.
    ServerOut,
    /// The server was silent for too long before it answered.
    Timeout,
    /// What came is not an answer.
    BadAnswer(Option<Reject>),
    /// The request's body is malformed, or did not come in time. Nothing was answered yet.
    BadRequest(Reject),
    /// The client went away, or took nothing for too long.
    ClientGone,
    /// The answer ended before its end. Part of it is with the client.
    CutShort,
    /// The application says that it failed, and there is something better to show. Nothing of that is with the client.
    Stale,
}

/// What remains after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Whether the connection to the server can carry another request.
    pub reuse: bool,
    /// Whether the connection to the client can.
    pub keep_alive: bool,
}

/// What an exchange is made of.
pub struct Exchange<'e> {
    /// The client's connection.
    pub client: &'e mut Stream,
    /// What it sent and was not yet passed on.
    pub client_buffer: &'e mut Buffer,
    /// Shared with all that the client's connection waits for.
    pub deadline: &'e mut Deadline,
    /// The server's connection.
    pub server: &'e mut Stream,
    /// What the server sent and was not yet passed on.
    pub server_buffer: Buffer,
    /// The request.
    pub up: &'e mut Pipe,
    /// The answer.
    pub down: Pipe,
    /// What is asked.
    pub request: &'e Request,
    /// Whether the client's connection may stay open after this; asked when the answer's head has come.
    pub may_keep_alive: &'e dyn Fn() -> bool,
    /// Whether the server is a relay, whose word on a request counts.
    pub relay: bool,
    /// Whether the server's connection carried requests before.
    pub kept: bool,
    /// Times and sizes.
    pub tuning: &'e Tuning,
    /// The fewest bytes a second of the request's body; 0 for as slow as it likes.
    pub body_rate: u64,
    /// Where the answer is.
    pub state: State,
    /// What is asked before the answer goes to the client.
    pub floor: Option<Leaving>,
    /// How long the server may be silent.
    pub answer_timeout: Duration,
    /// A field that makes the visitor come back to this server.
    pub stay: Option<&'e str>,
    /// A field that tells browsers to come over HTTPS only, for an answer that has none of its own.
    pub hsts: Option<&'e str>,
    /// How the answer may be compressed.
    pub compress: Option<Offer<'e>>,
    /// Where the answer is kept, if it may be.
    pub fill: Option<&'e mut Fill>,
    /// What the answer tells of its request.
    pub told: Option<&'e Told>,
    /// Whether it makes sense to go on waiting for this server; asked once a second while nothing was answered.
    pub worth_waiting: &'e dyn Fn() -> bool,
}

/// Where the answer is.
pub struct State {
    phase: Phase,
    scanner: Scanner,
    /// A head that was found and waits for [`Exchange::floor`], and what came of that.
    head: Option<Extent>,
    cookie: Option<String>,
    /// The final answer's head, once it was read.
    pub response: Option<Response>,
    /// When that was.
    pub answered_at: Option<Instant>,
    /// Nothing was waited for since then.
    pub head_is_new: bool,
    /// When it began.
    pub begun: Instant,
    /// It was looked whether anything moved.
    looked: bool,
    /// The request was sent, or the server takes nothing more of it.
    up_done: bool,
    up_broken: bool,
    client_ended: bool,
    keep_alive: bool,
    /// One side of a tunnel has said all.
    tunnel_ends: bool,
    last_progress: Instant,
    /// How long the request's body was waited for, in steps of [`LOOK_EVERY`].
    waited_for_body: Duration,
    /// Bytes written up, written down, and waiting to be written down. Three numbers, not their sum: what is
    /// written was waiting, so the sum stands still while a slow client takes a full buffer.
    moved: [u64; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Head,
    Body,
    Tunnel,
}

/// How often a silent server's health is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl State {
    /// Of an exchange that begins at `now`.
    pub fn begun_at(now: Instant) -> State {
        State {
            phase: Phase::Head,
            scanner: Scanner::default(),
            head: None,
            cookie: None,
            response: None,
            answered_at: None,
            head_is_new: false,
            begun: now,
            looked: false,
            up_done: false,
            up_broken: false,
            client_ended: false,
            keep_alive: false,
            tunnel_ends: false,
            last_progress: now,
            waited_for_body: Duration::ZERO,
            moved: [0; 3],
        }
    }
}

impl Exchange<'_> {
    /// Carries it out.
    ///
    /// # Errors
    /// Why it did not end well. Whether something went to the client is told by `state.response`.
    pub async fn run(&mut self) -> Result<Done, Failure> {
        self.deadline.set_to(self.state.begun + LOOK_EVERY);
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Done, Failure>> {
        self.state.head_is_new = false;
        if let Some(end) = self.poll_streams(cx) {
            return Poll::Ready(end);
        }
        // Who is answered soon need not be watched.
        if self.state.looked
            && self.state.up_done
            && self.state.phase != Phase::Tunnel
            && let Err(failure) = self.watch_client(cx)
        {
            return Poll::Ready(Err(failure));
        }
        self.note_progress();
        while self.deadline.poll(cx).is_ready() {
            if let Some(failure) = self.overdue() {
                return Poll::Ready(Err(failure));
            }
            self.deadline.set(LOOK_EVERY);
        }
        Poll::Pending
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Option<Result<Done, Failure>> {
        if let Err(failure) = self.poll_up(cx) {
            return Some(Err(failure));
        }
        if self.state.phase == Phase::Head {
            // Interim answers that wait to be written.
            if !self.down.staged().is_empty() {
                match self.down.poll_write(cx, &mut self.server_buffer, self.client) {
                    Poll::Ready(Err(_)) => return Some(Err(Failure::ClientGone)),
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            match self.poll_head(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(failure)) => return Some(Err(failure)),
                Poll::Pending => return None,
            }
            if self.state.phase == Phase::Tunnel
                && let Err(failure) = self.poll_up(cx)
            {
                return Some(Err(failure));
            }
        }
        match self
            .down
            .poll(cx, self.server, &mut self.server_buffer, self.client)
        {
            Poll::Pending => None,
            Poll::Ready(Ok(())) if self.state.phase == Phase::Tunnel => self.poll_tunnel_end(cx),
            Poll::Ready(Ok(())) => Some(Ok(self.done())),
            Poll::Ready(Err(PipeError::Destination)) => Some(Err(Failure::ClientGone)),
            Poll::Ready(Err(PipeError::Source | PipeError::Malformed(_))) => Some(Err(Failure::CutShort)),
        }
    }

    /// The request's direction.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        if self.state.up_done {
            return Ok(());
        }
        match self.up.poll(cx, self.client, self.client_buffer, self.server) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => {
                self.state.up_done = true;
                if self.state.phase == Phase::Tunnel {
                    // The client has said all; the server may still speak.
                    self.state.tunnel_ends = true;
                    let _ = self.server.poll_shutdown(cx);
                }
            }
            // It may have answered before it stopped reading: 413, for example.
            Poll::Ready(Err(PipeError::Destination)) => {
                (self.state.up_done, self.state.up_broken) = (true, true);
            }
            Poll::Ready(Err(PipeError::Source)) => return Err(Failure::ClientGone),
            Poll::Ready(Err(PipeError::Malformed(reject))) if self.state.phase == Phase::Head => {
                return Err(Failure::BadRequest(reject));
            }
            Poll::Ready(Err(PipeError::Malformed(_))) => return Err(Failure::CutShort),
        }
        Ok(())
    }

    /// Notices a client that was reset while its answer is awaited. One that only ended its sending side still
    /// wants the answer.
    fn watch_client(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        while !self.state.client_ended && !self.client_buffer.is_full() {
            match self.client.poll_read(cx, self.client_buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => self.state.client_ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Err(Failure::ClientGone),
            }
        }
        Ok(())
    }

    /// Reads heads until the final one; interim ones are passed on.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            match self.poll_found(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Ok(true)) if self.state.phase != Phase::Head => {
                    return Poll::Ready(self.gather());
                }
                Poll::Ready(Ok(true)) => {
                    match self.down.poll_write(cx, &mut self.server_buffer, self.client) {
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(Failure::ClientGone)),
                        Poll::Ready(Ok(())) | Poll::Pending => {}
                    }
                    continue;
                }
            }
            match self.server.poll_read(cx, &mut self.server_buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(Err(error)) if self.down.staged().is_empty() && http2::is_unprocessed(&error) => {
                    return Poll::Ready(Err(Failure::Unprocessed));
                }
                // An interim answer is an answer: the server has seen the request.
                Poll::Ready(_) if self.server_buffer.is_empty() && self.down.staged().is_empty() => {
                    return Poll::Ready(Err(Failure::ClosedEarly));
                }
                Poll::Ready(_) => return Poll::Ready(Err(Failure::BadAnswer(None))),
            }
        }
    }

    /// Takes the head that the server's bytes begin with; `false` when there is none yet.
    fn poll_found(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Failure>> {
        if self.server_buffer.is_empty() {
            return Poll::Ready(Ok(false));
        }
        // In one go, unless something is asked in between.
        let mut end = None;
        if self.floor.is_none() && self.state.scanner.is_fresh() {
            end = self.take_head(None)?;
        }
        if end.is_none() {
            let input = self.server_buffer.filled();
            let found = match self.state.head.take() {
                Some(extent) => Ok(Some(extent)),
                None => self.state.scanner.scan(input, &HeadLimits::default()),
            };
            let Some(extent) = found.map_err(|reject| Failure::BadAnswer(Some(reject)))? else {
                return Poll::Ready(Ok(false));
            };
            if self.poll_floor(cx, extent).is_pending() {
                self.state.head = Some(extent);
                return Poll::Pending;
            }
            end = self.take_head(Some(extent))?;
        }
        self.server_buffer.consume(end.unwrap_or(0));
        self.state.scanner = Scanner::default();
        Poll::Ready(Ok(true))
    }

    /// Before a final answer goes on: did the request write something that the client must see next time?
    fn poll_floor(&mut self, cx: &mut Context<'_>, extent: Extent) -> Poll<()> {
        let head = &self.server_buffer.filled()[extent.start..extent.end];
        // `HTTP/1.1 1xx`: another one follows.
        if head.get(9) == Some(&b'1') {
            return Poll::Ready(());
        }
        if let Some(floor) = &mut self.floor {
            self.state.cookie = ready!(floor.poll(cx));
            self.floor = None;
        }
        Poll::Ready(())
    }

    /// The answer's head and what came with it of its body go to the client in one write, not two.
    fn gather(&mut self) -> Result<(), Failure> {
        let Err(reject) = self.down.gather(&mut self.server_buffer) else {
            return Ok(());
        };
        if self.down.written() > 0 {
            return Err(Failure::CutShort);
        }
        // Not a byte of it is with the client yet.
        self.state.response = None;
        Err(Failure::BadAnswer(Some(reject)))
    }

    /// Takes the head at `extent`, or else one that can be cut in one go; says where it ends. `None` when there is none.
    fn take_head(&mut self, extent: Option<Extent>) -> Result<Option<usize>, Failure> {
        let input = self.server_buffer.filled();
        let (end, head) = match extent {
            Some(extent) => (extent.end, Head::from(&input[extent.start..extent.end])),
            None => match head::cut(input, &HeadLimits::default()) {
                Some(cut) => (cut.end(), Head::from(cut)),
                None => return Ok(None),
            },
        };
        let asked = Asked {
            head: self.request.is_head,
            upgrade: self.request.upgrade,
        };
        let parsed = response::read_head(head, &asked).map_err(|reject| Failure::BadAnswer(Some(reject)))?;
        let response = parsed.response;
        let version = self.request.version;
        if response.is_interim() {
            // HTTP/1.0 does not know them (RFC 9110 section 15.2).
            if version == Version::Http11 {
                // A server that sends interim answers without end meets the limit of a head.
                if self.down.staged().len() > HeadLimits::default().head {
                    return Err(Failure::BadAnswer(Some(Reject::HeadTooLarge)));
                }
                parsed.write(
                    &Handover {
                        version,
                        keep_alive: true,
                        chunk: false,
                    },
                    self.down.stage(),
                );
            }
            return Ok(Some(end));
        }
        // What a server says on an idle connection before it closes it, and no answer to what was sent since
        // (RFC 9110 section 15.5.9).
        if self.kept && !self.relay && response.status == 408 && !response.keep_alive && self.up.can_rewind()
        {
            return Err(Failure::ClosedEarly);
        }
        match response.relay_word.filter(|_| self.relay) {
            Some(RelayWord::NotSent) => return Err(Failure::NotSent),
            Some(RelayWord::Closed) => return Err(Failure::RelayedClose),
            None => {}
        }
        if response.status == 101 {
            parsed.write(
                &Handover {
                    version,
                    keep_alive: true,
                    chunk: false,
                },
                self.down.stage(),
            );
            self.down.set_body(Body::UntilClose, Form::AsIs);
            self.up.set_body(Body::UntilClose, Form::AsIs);
            (self.state.phase, self.state.up_done) = (Phase::Tunnel, false);
            self.state.response = Some(response);
            return Ok(Some(end));
        }
        let has_better = |fill: &&mut Fill| fill.has_better_than(response.status);
        if self.fill.as_ref().is_some_and(has_better) && self.down.staged().is_empty() {
            (self.state.answered_at, self.state.response) = (Some(Instant::now()), Some(response));
            return Err(Failure::Stale);
        }
        let (body, form, chunk) = match (response.ending, version) {
            (Ending::Announced(Length::Chunked), Version::Http11) => {
                (Length::Chunked.into(), Form::AsIs, true)
            }
            (Ending::Announced(Length::Chunked), Version::Http10) => {
                (Length::Chunked.into(), Form::Unchunk, false)
            }
            (Ending::Announced(length), _) => (length.into(), Form::AsIs, false),
            (Ending::Close, Version::Http11) => (Body::UntilClose, Form::Chunk, true),
            (Ending::Close, Version::Http10) => (Body::UntilClose, Form::AsIs, false),
        };
        let offer = self.compress.filter(|_| version == Version::Http11);
        let (plan, encoder) = offer.map_or((Plan::AsIs, None), |offer| {
            offer.take(&parsed, self.request.is_head)
        });
        let (form, chunk) = match encoder {
            Some(_) => (Form::Encode, true),
            None => (form, chunk),
        };
        let end_is_told = form != Form::Unchunk
            && (matches!(form, Form::Chunk | Form::Encode) || !matches!(body, Body::UntilClose));
        // With part of the request still to come, nobody knows where the next one would begin.
        self.state.keep_alive = (self.may_keep_alive)()
            && self.request.keep_alive
            && end_is_told
            && self.up.is_past()
            && !self.state.client_ended;
        let at = self.down.stage().len();
        parsed.write(
            &Handover {
                version,
                keep_alive: self.state.keep_alive,
                chunk,
            },
            self.down.stage(),
        );
        compress::rewrite(self.down.stage(), at, plan);
        let now = Instant::now();
        let cookie = self.state.cookie.take();
        let hsts = self.hsts.filter(|_| !parsed.has(b"strict-transport-security"));
        let told = self
            .told
            .map(|told| told.fields(&parsed, now.saturating_duration_since(self.state.begun)));
        let fields = [cookie.as_deref(), self.stay, hsts, told.as_deref()];
        for field in fields.into_iter().flatten() {
            let head = self.down.stage();
            // Before the empty line.
            head.truncate(head.len() - 2);
            head.extend_from_slice(field.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        if let Some(fill) = &mut self.fill {
            let request = self.up.staged().get(..self.request.head_length);
            if let Some(most) = fill.begin(&parsed, request.unwrap_or_default()) {
                self.down.copy(most);
            }
        }
        match encoder {
            Some(encoder) => self.down.encode(body, encoder),
            None => self.down.set_body(body, form),
        }
        (self.state.answered_at, self.state.head_is_new) = (Some(now), true);
        self.state.response = Some(response);
        self.state.phase = Phase::Body;
        Ok(Some(end))
    }

    /// The server has ended its side of a tunnel. The client hears of it, and may say the rest.
    fn poll_tunnel_end(&mut self, cx: &mut Context<'_>) -> Option<Result<Done, Failure>> {
        self.state.tunnel_ends = true;
        let _ = self.client.poll_shutdown(cx);
        self.state.up_done.then_some(Ok(Done {
            reuse: false,
            keep_alive: false,
        }))
    }

    fn done(&self) -> Done {
        let reuse = self.state.response.is_some_and(|response| response.keep_alive)
            && self.state.up_done
            && !self.state.up_broken
            && self.server_buffer.is_empty();
        Done {
            reuse,
            keep_alive: self.state.keep_alive,
        }
    }

    fn note_progress(&mut self) {
        let waiting = self.server_buffer.filled().len() as u64;
        let moved = [self.up.written(), self.down.written(), waiting];
        if moved != self.state.moved {
            self.state.moved = moved;
            // What moves at once moves when it has begun.
            if self.state.looked {
                self.state.last_progress = Instant::now();
            }
        }
        self.state.looked = true;
    }

    /// Who kept the exchange waiting, if for too long.
    fn overdue(&mut self) -> Option<Failure> {
        let waited = self.state.last_progress.elapsed();
        let answered = self.state.response.is_some();
        if self.state.phase == Phase::Tunnel {
            let limit = if self.state.tunnel_ends {
                self.tuning.write_timeout
            } else {
                self.tuning.tunnel_timeout
            };
            return (waited >= limit).then_some(Failure::CutShort);
        }
        if self.down.is_blocked() {
            return (waited >= self.tuning.write_timeout).then_some(Failure::ClientGone);
        }
        // Who was asked to wait for `100 Continue` is not late.
        let told_to_wait =
            self.request.expects_continue && self.down.staged().is_empty() && self.up.can_rewind();
        if !self.state.up_done && !self.up.is_blocked() && !answered && !told_to_wait {
            // The request's sender is silent.
            if waited >= self.tuning.body_timeout {
                return Some(Failure::BadRequest(Reject::BodyTimeout));
            }
            // Not one that trickles either: it would hold a worker of the application for as long as it likes.
            self.state.waited_for_body += LOOK_EVERY;
            let earned = self.up.written().checked_div(self.body_rate);
            let patience = earned.map(|seconds| self.tuning.body_timeout + Duration::from_secs(seconds));
            let too_slow = patience.is_some_and(|patience| self.state.waited_for_body > patience);
            return too_slow.then_some(Failure::BadRequest(Reject::BodyTooSlow));
        }
        let unanswered = !answered && self.server_buffer.is_empty() && self.down.staged().is_empty();
        if unanswered && self.up.can_rewind() && !(self.worth_waiting)() {
            return Some(Failure::ServerOut);
        }
        let late = if answered {
            Failure::CutShort
        } else {
            Failure::Timeout
        };
        (waited >= self.answer_timeout).then_some(late)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use socket2::SockRef;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    use super::*;
    use crate::http1::request::{self, Sender};
    use crate::io::BufferPool;

    /// Two ends of a connection that holds as little as the kernel allows.
    async fn narrow() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let client = socket.connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        SockRef::from(&accepted).set_send_buffer_size(4096).unwrap();
        (client, accepted)
    }

    #[tokio::test]
    async fn a_small_answer_goes_out_in_one_write() {
        for framing in ["Content-Length: 5\r\n\r\nhello", "\r\nhello"] {
            let answer = format!("HTTP/1.1 200 OK\r\n{framing}").replace("OK\r\n\r\n", "OK\r\nX: y\r\n\r\n");
            let buffers = Rc::new(BufferPool::default());
            let mut body = buffers.take();
            let head = answer.find("\r\n\r\n").unwrap() + 4;
            body.fill(&answer.as_bytes()[head..]);
            let mut down = Pipe::new(answer.as_bytes()[..head].to_vec(), Body::Finished);
            match framing.starts_with("Content") {
                true => down.set_body(Body::Counted(5), Form::AsIs),
                false => down.set_body(Body::UntilClose, Form::Chunk),
            }
            down.gather(&mut body).unwrap();
            let (mut reader, client) = narrow().await;
            let mut client = Stream::Tcp(client);
            std::future::poll_fn(|cx| down.poll_write(cx, &mut body, &mut client))
                .await
                .unwrap();
            let mut got = vec![0; 4096];
            reader.readable().await.unwrap();
            let count = reader.read(&mut got).await.unwrap();
            let text = String::from_utf8_lossy(&got[..count]).into_owned();
            assert!(
                text.starts_with("HTTP/1.1 200 OK") && text.ends_with("hello"),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_is_not_one_that_reads_nothing() {
        const LENGTH: usize = 128 * 1024;
        let (mut reader, client) = narrow().await;
        let (mut application, server) = narrow().await;
        let mut head = Vec::new();
        let request = request::read(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n", &Sender::Edge, &mut head).unwrap();
        let tuning = Tuning {
            write_timeout: Duration::from_secs(1),
            ..Tuning::default()
        };
        let buffers = Rc::new(BufferPool::default());
        let mut exchange = Exchange {
            client: &mut Stream::Tcp(client),
            client_buffer: &mut buffers.take(),
            deadline: &mut Deadline::new(Duration::from_secs(60)),
            server: &mut Stream::Tcp(server),
            server_buffer: buffers.take(),
            up: &mut Pipe::new(head, Body::Finished),
            down: Pipe::new(Vec::new(), Body::Finished),
            request: &request,
            may_keep_alive: &|| true,
            relay: false,
            kept: false,
            tuning: &tuning,
            body_rate: 0,
            state: State::begun_at(Instant::now()),
            floor: None,
            answer_timeout: tuning.answer_timeout,
            stay: None,
            hsts: None,
            compress: None,
            fill: None,
            told: None,
            worth_waiting: &|| true,
        };
        let answer = async {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
            application.write_all(head.as_bytes()).await.unwrap();
            let all = application.write_all(&[7; LENGTH]);
            let _ = tokio::time::timeout(Duration::from_secs(10), all).await;
        };
        let read = async {
            let mut got = 0;
            let mut bytes = [0; 2048];
            while got < LENGTH {
                tokio::time::sleep(Duration::from_millis(60)).await;
                match tokio::time::timeout(Duration::from_secs(3), reader.read(&mut bytes)).await {
                    Ok(Ok(count)) if count > 0 => got += count,
                    _ => break,
                }
            }
            got
        };
        let (ended, (), got) = tokio::join!(exchange.run(), answer, read);
        assert!(ended.is_ok(), "{ended:?} after {got} bytes");
    }
}
