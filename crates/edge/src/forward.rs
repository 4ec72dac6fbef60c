//! Carries a request to an application server and its answer back; to another server when that is safe.
//!
//! *Safe* means: not a byte of the request was sent; or nothing of an answer came, and the method may be repeated
//! (`RetryPolicy::methods`), and all that was sent can be sent again, and the retry budget allows it. Never once
//! a byte of an answer is with the client.

mod hold;
mod reach;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pontoon_balance::{Asked, Standing, Tried};
use pontoon_fleet::{Coding, ProxyProtocol};
use pontoon_telemetry::metrics::RetryReason;
use tokio::time::Instant;

use self::hold::Hold;
use crate::cache::{self, Fill};
use crate::compress::{self, Offer};
use crate::connection::{Client, send};
use crate::exchange::{Done, Exchange, Failure, State};
use crate::floors::Leaving;
use crate::front::Told;
use crate::http1::body::Body;
use crate::http1::reject::Reject;
use crate::http1::request::{Request, Version};
use crate::http1::response::RelayWord;
use crate::io::Stream;
use crate::own;
use crate::pages::{Own, Pages};
use crate::pipe::Pipe;
use crate::queue::Place;
use crate::stay::Wish;
use crate::upstream::{Upstream, Way};
use crate::worker::{Chosen, Pick, Route, Worker};

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It takes the next request.
    KeepAlive,
    /// It ends; the client may still be sending.
    Linger,
    /// It ends now.
    Close,
}

/// How a request ended.
pub struct Served {
    /// The status that the client got; 0 when it got none.
    pub status: u16,
    /// Bytes written to the client.
    pub bytes: u64,
    /// Whose answer it was; `None` for the edge's own.
    pub upstream: Option<Arc<Upstream>>,
    /// How many servers were tried before.
    pub retries: u32,
    /// What becomes of the connection.
    pub after: After,
}

impl Served {
    /// The client went away.
    pub fn nothing() -> Served {
        Served {
            status: 0,
            bytes: 0,
            upstream: None,
            retries: 0,
            after: After::Close,
        }
    }
}

/// Carries out `request`, whose head and body come from `up`; its answer may be kept by `fill`.
pub async fn forward(
    worker: &Rc<Worker>,
    client: &mut Client,
    request: &Request,
    up: &mut Pipe,
    route: Route,
    fill: Option<Fill>,
) -> Served {
    // As it is when the request comes; servers are chosen from the newest.
    let upstreams = worker.pay_into_budget();
    let queue = &worker.shared.queue;
    let head = up.staged();
    let answer_timeout = upstreams.answer_timeout(head.get(request.target.clone()).unwrap_or(&[]));
    let wish = match route {
        Route::Visitors => Wish::of(
            &upstreams,
            head.get(..request.head_length).unwrap_or(&[]),
            request,
        ),
        Route::Relay => Wish::default(),
    };
    let told = match route {
        Route::Visitors => Told::of(&upstreams.front, request, head),
        Route::Relay => None,
    };
    let compress = upstreams.answers.compress.as_ref();
    let coding = match (compress, route) {
        (Some(rules), Route::Visitors) => {
            compress::accepted(rules, head.get(..request.head_length).unwrap_or(&[]))
        }
        _ => None,
    };
    let may_repeat = upstreams.may_repeat(head.get(..request.method_length).unwrap_or(&[]));
    let mut attempt = Attempt {
        worker,
        client,
        request,
        up,
        route,
        tried: Tried::default(),
        retries: 0,
        repeats: 0,
        may_repeat,
        fresh: false,
        floor_field: 0,
        floor_told: false,
        wish,
        answer_timeout,
        told,
        coding,
        fill,
        proxy_protocol: upstreams.proxy_protocol(),
    };
    let mut hold: Option<Hold<'_>> = None;
    let mut place: Option<Place<'_>> = None;
    loop {
        // Who comes new does not overtake who waits.
        let waits = place.is_none() && attempt.retries == 0 && route == Route::Visitors && !queue.is_empty();
        let asked = Asked {
            tried: &attempt.tried,
            key: attempt.wish.key,
            stay: attempt.wish.server,
        };
        let chosen = if waits {
            Chosen::Full
        } else {
            worker.choose(route, &asked, worker.shared.clock.at(attempt.client.now))
        };
        let pick = match chosen {
            Chosen::Picked(pick) => Some(pick),
            Chosen::Nobody => None,
            Chosen::Full => {
                if place.is_none() {
                    let rules = upstreams.app.as_ref().map(|app| app.dispatch.queue.clone());
                    place = queue.join(&rules.unwrap_or_default());
                }
                let refusal = match &mut place {
                    None => Reject::QueueFull,
                    Some(place) => {
                        let its_turn = place.turn().await;
                        attempt.client.now = Instant::now();
                        if its_turn {
                            continue;
                        }
                        Reject::QueueTimeout
                    }
                };
                worker.stats.rejected(refusal as usize);
                return attempt.answer(503, refusal.word(), RETRY_AFTER).await;
            }
        };
        place = None;
        let Some(pick) = pick else {
            if route == Route::Relay {
                return attempt
                    .answer(
                        503,
                        "the application cannot be reached",
                        RelayWord::NotSent.field(),
                    )
                    .await;
            }
            // Who can be shown something need not wait.
            let waits = attempt
                .fill
                .as_ref()
                .is_none_or(|fill| !fill.has_better_than(503));
            if hold.is_none() && waits {
                hold = Hold::begin(worker);
            }
            let again = match &mut hold {
                Some(hold) => hold.wait().await,
                None => false,
            };
            if !again {
                return attempt
                    .answer(503, "no application server can be reached", RETRY_AFTER)
                    .await;
            }
            attempt.client.now = Instant::now();
            attempt.tried.clear();
            continue;
        };
        if let Some(served) = attempt.at(&pick).await {
            return served;
        }
    }
}

const RETRY_AFTER: &str = "Retry-After: 1\r\n";

/// A request and what was done for it so far.
struct Attempt<'a> {
    worker: &'a Rc<Worker>,
    client: &'a mut Client,
    request: &'a Request,
    up: &'a mut Pipe,
    route: Route,
    tried: Tried,
    retries: u32,
    /// Times that it was sent again after it had been sent.
    repeats: u32,
    may_repeat: bool,
    /// Kept connections are not to be trusted for this request.
    fresh: bool,
    /// Length of the field for a relay that stands at the end of the head.
    floor_field: usize,
    /// The SQL proxy here has what the request must see.
    floor_told: bool,
    /// Where it would go by itself.
    wish: Wish,
    /// How long the application may be silent.
    answer_timeout: Duration,
    /// What the answer tells of the request.
    told: Option<Told>,
    /// How the visitor would have it compressed.
    coding: Option<Coding>,
    /// Where its answer is kept, if it may be.
    fill: Option<Fill>,
    /// With what header connections to the application itself begin.
    proxy_protocol: Option<ProxyProtocol>,
}

/// What came of one exchange.
struct Outcome {
    result: Result<Done, Failure>,
    /// That of the final answer; 0 when there was none.
    status: u16,
    /// Bytes written to the client.
    written: u64,
}

impl Attempt<'_> {
    /// Tries one server; `None` when another should be tried.
    async fn at(&mut self, pick: &Pick) -> Option<Served> {
        let upstream = &pick.upstream;
        loop {
            let floor = self.carry_floor(upstream).await;
            let (mut stream, kept) = match self.connect(upstream).await {
                Some(connection) => connection,
                None => {
                    self.try_another(pick, RetryReason::Connect);
                    return None;
                }
            };
            let Outcome {
                result,
                status,
                written,
            } = self.exchange(upstream, &mut stream, kept, floor).await;
            let failure = match result {
                Ok(done) => {
                    return Some(self.finished(upstream, stream, done, status, written));
                }
                Err(failure) => failure,
            };
            if failure == Failure::Stale
                && let Some(served) = self.instead().await
            {
                return Some(served);
            }
            if status != 0 && failure != Failure::Stale {
                // Part of an answer is with the client: all that is left is to not pretend it is whole.
                self.worker.stats.aborted();
                return Some(self.ended(upstream, status, written, After::Close));
            }
            match failure {
                // The server closed a kept connection in the moment it was used again.
                Failure::ClosedEarly if kept && self.may_repeat && written == 0 && self.up.rewind() => {
                    self.fresh = true;
                }
                // A connection that is about to end: the next one is another.
                Failure::Unprocessed if !self.fresh && written == 0 && self.up.rewind() => {
                    self.fresh = true;
                }
                Failure::ClosedEarly | Failure::ServerOut | Failure::RelayedClose | Failure::Unprocessed => {
                    // A relay has one application: whether another gets the request is for the edge that asked.
                    let relays = self.route == Route::Relay;
                    if !relays && written == 0 && self.may_send_again() {
                        self.try_another(pick, RetryReason::Closed);
                        return None;
                    }
                    let word = if relays { RelayWord::Closed.field() } else { "" };
                    return Some(
                        self.answer(502, "the application closed without an answer", word)
                            .await,
                    );
                }
                Failure::NotSent => {
                    upstream.health.doubt(
                        &upstream.server,
                        "its relay cannot reach the application".to_owned(),
                    );
                    if written == 0 && self.up.rewind() {
                        self.try_another(pick, RetryReason::Connect);
                        return None;
                    }
                    return Some(self.answer(502, "the application cannot be reached", "").await);
                }
                Failure::Timeout => {
                    if let Way::Direct(address) = upstream.way {
                        self.worker.h2c.forget(address);
                    }
                    return Some(
                        self.answer(504, "the application did not answer in time", "")
                            .await,
                    );
                }
                Failure::BadAnswer(_) => {
                    return Some(self.answer(502, "the application's answer is not HTTP", "").await);
                }
                Failure::BadRequest(reject) => {
                    return Some(own::refused(self.worker, self.client, self.request, reject).await);
                }
                // It was over in the meantime.
                Failure::Stale => return Some(self.answer(502, "the application failed", "").await),
                Failure::ClientGone | Failure::CutShort => {
                    return Some(self.ended(upstream, 0, written, After::Close));
                }
            }
        }
    }

    async fn exchange(
        &mut self,
        upstream: &Arc<Upstream>,
        stream: &mut Stream,
        kept: bool,
        floor: Option<Leaving>,
    ) -> Outcome {
        let worker = self.worker;
        let upstreams = worker.upstreams();
        let mut memory = std::mem::take(&mut self.client.scratch);
        if memory.capacity() == 0 {
            memory = worker.buffers.take_head();
        }
        memory.clear();
        // Nothing was waited for since the client's clock was read, or else it is read again.
        if !kept || self.floor_told || self.repeats + self.retries > 0 || self.fresh {
            self.client.now = Instant::now();
        }
        let somewhere_else = || {
            let now = worker.shared.clock.now();
            let upstreams = worker.upstreams();
            upstreams
                .servers
                .iter()
                .any(|other| other.standing(now) == Standing::InService)
        };
        let stay = self.stay_field(&upstreams, upstream);
        // Who could not be sent elsewhere is better served by waiting than by a 502.
        let may_leave = self.may_repeat && self.route == Route::Visitors && self.repeats < self.max_repeats();
        let https = worker.https().filter(|_| self.request.secure);
        let mut exchange = Exchange {
            client: &mut self.client.stream,
            client_buffer: &mut self.client.buffer,
            deadline: &mut self.client.deadline,
            server: stream,
            server_buffer: worker.buffers.take(),
            up: self.up,
            down: Pipe::new(memory, Body::Finished),
            request: self.request,
            may_keep_alive: &|| !worker.draining.get() && !worker.is_crowded(),
            relay: matches!(upstream.way, Way::Relay(_)),
            kept,
            tuning: &upstreams.tuning,
            // An HTTP/2 application has no worker that a slow stream would hold; of a relayed body the other edge has
            // seen to that.
            body_rate: match self.route {
                Route::Visitors if !upstream.h2c => upstreams.tuning.body_rate,
                Route::Visitors | Route::Relay => 0,
            },
            state: State::begun_at(self.client.now),
            floor,
            answer_timeout: self.answer_timeout,
            stay: stay.as_deref(),
            hsts: https.as_ref().and_then(|https| https.hsts.as_deref()),
            compress: upstreams
                .answers
                .compress
                .as_ref()
                .filter(|_| self.route == Route::Visitors)
                .map(|rules| Offer {
                    rules,
                    coding: self.coding,
                    taken: &worker.coders,
                }),
            fill: self.fill.as_mut(),
            told: self.told.as_ref(),
            worth_waiting: &|| {
                !may_leave || upstream.health.is_healthy() || !worker.has_budget() || !somewhere_else()
            },
        };
        let result = exchange.run().await;
        let (response, begun) = (exchange.state.response, exchange.state.begun);
        let answered_at = exchange.state.answered_at;
        // Whoever was not waited for since the clock was read needs no other reading.
        let now = answered_at.filter(|_| exchange.state.head_is_new);
        let written = exchange.down.written();
        // One that was cut short is no answer to keep.
        let whole = exchange.down.take_copy().filter(|_| result.is_ok());
        if let (Some(body), Some(fill)) = (whole, &mut exchange.fill) {
            worker.stats.cache_kept(fill.end(body));
        }
        if let Some((coding, read, coded)) = exchange.down.encoded() {
            worker.stats.compressed(coding, read, coded);
        }
        let memory = exchange.down.into_staged();
        self.client.scratch = memory;
        self.client.now = now.unwrap_or_else(Instant::now);
        let now = worker.shared.clock.at(self.client.now);
        let millis = now as u32;
        match (&response, &result) {
            (Some(response), _) => {
                if let Some(answered_at) = answered_at {
                    let took = answered_at.saturating_duration_since(begun);
                    upstream.health.answered(response.status, took, millis);
                    upstreams.judge(upstream, response.status < 500, now);
                }
            }
            // A kept connection may be closed at any time.
            (None, Err(Failure::ClosedEarly)) if kept => {}
            (
                None,
                Err(
                    Failure::ClosedEarly
                    | Failure::RelayedClose
                    | Failure::Timeout
                    | Failure::ServerOut
                    | Failure::BadAnswer(_),
                ),
            ) => {
                upstream.health.failed(millis);
                upstreams.judge(upstream, false, now);
            }
            (None, _) => {}
        }
        Outcome {
            result,
            status: response.map_or(0, |response| response.status),
            written,
        }
    }

    /// Whether a request that was sent may be sent to another server.
    fn may_send_again(&mut self) -> bool {
        let allowed = self.may_repeat && self.repeats < self.max_repeats() && self.up.can_rewind();
        if !allowed || !self.worker.take_from_budget() {
            return false;
        }
        self.repeats += 1;
        self.up.rewind()
    }

    fn max_repeats(&self) -> u32 {
        let upstreams = self.worker.upstreams();
        upstreams.app.as_ref().map_or(0, |app| app.retries.max)
    }

    fn try_another(&mut self, pick: &Pick, reason: RetryReason) {
        self.tried.add(pick.index);
        self.fresh = false;
        self.retries += 1;
        if self.retries == 1 {
            self.worker.stats.retried(reason);
        }
    }

    fn finished(
        &mut self,
        upstream: &Arc<Upstream>,
        stream: Stream,
        done: Done,
        status: u16,
        bytes: u64,
    ) -> Served {
        if done.reuse && self.introduces(upstream).is_none() {
            self.worker.keep(upstream, stream, self.client.now);
        }
        // Who asked for the end sends nothing more (RFC 9112 section 9.6), so nothing is lost by a close at once.
        let has_said_all = !self.request.keep_alive && self.up.is_past() && self.client.buffer.is_empty();
        let may_close =
            has_said_all && matches!(self.client.stream, Stream::Tcp(_)) && self.client.stream.is_quiet();
        let after = match done.keep_alive {
            true => After::KeepAlive,
            false if may_close => After::Close,
            false => After::Linger,
        };
        self.ended(upstream, status, bytes, after)
    }

    fn ended(&self, upstream: &Arc<Upstream>, status: u16, bytes: u64, after: After) -> Served {
        Served {
            status,
            bytes,
            upstream: Some(Arc::clone(upstream)),
            retries: self.retries,
            after,
        }
    }

    /// What is kept, in place of an error.
    async fn instead(&mut self) -> Option<Served> {
        let mut fill = self.fill.take()?;
        cache::instead(self.worker, self.client, self.request, self.up, &mut fill).await
    }

    /// An answer of the edge itself.
    async fn answer(&mut self, status: u16, detail: &str, extra: &str) -> Served {
        if let Some(fill) = &mut self.fill {
            fill.wrote(status != 503);
        }
        if let Some(served) = self.instead().await {
            return served;
        }
        self.worker.stats.failed();
        // With part of the body still to come, nobody knows where the next request would begin.
        let keep_alive = self.request.keep_alive
            && self.request.version == Version::Http11
            && self.up.is_past()
            && !self.worker.draining.get();
        let mut text = std::mem::take(&mut self.client.scratch);
        text.clear();
        let told = self.told.as_ref().map(|told| told.request_id.clone() + extra);
        let extra = told.as_deref().unwrap_or(extra);
        let own = Own {
            status,
            detail,
            extra,
            request_id: self.request.id(self.up.staged()),
            head_only: self.request.is_head,
            keep_alive,
        };
        // What is said to another edge is shown to nobody.
        match self.route {
            Route::Relay if !own.extra.is_empty() => Pages::default().write(&mut text, &own),
            Route::Relay | Route::Visitors => self.worker.pages().write(&mut text, &own),
        }
        let sent = send(self.client, &text, self.worker.upstreams().tuning.write_timeout).await;
        let bytes = text.len() as u64;
        self.client.scratch = text;
        let after = match (sent, keep_alive) {
            (Err(_), _) => After::Close,
            (Ok(()), true) => After::KeepAlive,
            (Ok(()), false) => After::Linger,
        };
        Served {
            status,
            bytes,
            upstream: None,
            retries: self.retries,
            after,
        }
    }
}
