//! What is kept goes out, through the same exchange as an answer from a server.

use std::rc::Rc;

use super::answer::{Kept, Shown};
use super::fill::Fill;
use pontoon_telemetry::metrics::CacheEvent;
use tokio::time::Instant;

use crate::compress::{self, Offer};
use crate::connection::Client;
use crate::exchange::{Exchange, State};
use crate::forward::{After, Served};
use crate::front::Told;
use crate::http1::body::Body;
use crate::http1::request::Request;
use crate::io::{KeptStream, Stream};
use crate::pipe::Pipe;
use crate::worker::Worker;

/// Answers a request for which the application has nothing but an error with what `fill` was to replace; `None`: there is
/// nothing that may still be shown.
pub async fn instead(
    worker: &Rc<Worker>,
    client: &mut Client,
    request: &Request,
    up: &mut Pipe,
    fill: &mut Fill,
) -> Option<Served> {
    let now = worker.shared.clock.now();
    let kept = fill.take_instead(now)?;
    worker.stats.cache(CacheEvent::Stale);
    client.now = Instant::now();
    let delivered = deliver(worker, client, request, up, &kept, now, Shown::InsteadOfAnError);
    Some(Box::pin(delivered).await)
}

/// Answers a request with what is kept, at `now` of the clock of all threads, as if a server had sent it.
pub async fn deliver(
    worker: &Rc<Worker>,
    client: &mut Client,
    request: &Request,
    up: &mut Pipe,
    kept: &Kept,
    now: u64,
    shown: Shown,
) -> Served {
    let upstreams = worker.upstreams();
    let head = up.staged().get(..request.head_length).unwrap_or_default();
    let (answer, body) = kept.deliver(head, request.is_head, now, shown);
    let told = Told::of(&upstreams.front, request, head);
    let rules = upstreams.answers.compress.as_ref();
    let compress = rules.map(|rules| Offer {
        rules,
        coding: compress::accepted(rules, head),
        taken: &worker.coders,
    });
    let https = worker.https().filter(|_| request.secure);
    let mut exchange = Exchange {
        client: &mut client.stream,
        client_buffer: &mut client.buffer,
        deadline: &mut client.deadline,
        server: &mut Stream::Kept(Box::new(KeptStream::new(answer, body))),
        server_buffer: worker.buffers.take(),
        up,
        down: Pipe::new(std::mem::take(&mut client.scratch), Body::Finished),
        request,
        may_keep_alive: &|| !worker.draining.get() && !worker.is_crowded(),
        relay: false,
        kept: false,
        tuning: &upstreams.tuning,
        body_rate: 0,
        state: State::begun_at(client.now),
        floor: None,
        answer_timeout: upstreams.tuning.answer_timeout,
        stay: None,
        hsts: https.as_ref().and_then(|https| https.hsts.as_deref()),
        compress,
        fill: None,
        told: told.as_ref(),
        worth_waiting: &|| true,
    };
    exchange.down.stage().clear();
    let result = exchange.run().await;
    let status = exchange.state.response.map_or(0, |response| response.status);
    let bytes = exchange.down.written();
    if let Some((coding, read, coded)) = exchange.down.encoded() {
        worker.stats.compressed(coding, read, coded);
    }
    client.scratch = exchange.down.into_staged();
    Served {
        status,
        bytes,
        after: match result {
            Ok(done) if done.keep_alive => After::KeepAlive,
            Ok(_) => After::Linger,
            Err(_) => After::Close,
        },
        ..Served::nothing()
    }
}
