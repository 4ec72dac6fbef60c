//! One request, with the cache between it and the application.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pontoon_fleet::CacheRules;
use pontoon_telemetry::metrics::CacheEvent;
use tokio::time::Instant;

use super::answer::Kept;
use super::asked::{Asked, Key, asked};
use super::deliver::deliver;
use super::fill::Fill;
use super::store::Found;
use crate::connection::Client;
use crate::forward::{self, Served};
use crate::http1::request::{Request, Version};
use crate::own;
use crate::pipe::Pipe;
use crate::worker::{Route, Worker};

/// How long a request waits for the answer to another that asks for the same.
const WAIT: Duration = Duration::from_secs(3);

/// Carries out `request` of a visitor, whose head and body come from `up`.
pub async fn serve(
    worker: &Rc<Worker>,
    client: &mut Client,
    request: &Request,
    up: &mut Pipe,
    rules: &CacheRules,
) -> Served {
    let head = up.staged().get(..request.head_length).unwrap_or_default();
    let Some(asked) = asked(rules, request, head) else {
        let method = head.get(..request.method_length).unwrap_or_default();
        let writes = !matches!(method, b"GET" | b"HEAD" | b"OPTIONS");
        let key = writes.then(|| Key::of(request, head));
        worker.stats.cache(CacheEvent::Bypass);
        let served = forward::forward(worker, client, request, up, Route::Visitors, None).await;
        if let Some(key) = key.filter(|_| (200..400).contains(&served.status)) {
            worker.shared.cache.forget(&key);
        }
        return served;
    };
    let cache = &worker.shared.cache;
    // What HTTP/1.0 gets is unpacked on its way, and nothing to keep.
    let may_keep = !request.is_head && request.version == Version::Http11;
    let mut alone = !may_keep || asked.wishes.no_cache || asked.wishes.only_if_cached;
    let (moment, flight) = loop {
        let now = worker.shared.clock.at(client.now);
        let head = up.staged().get(..request.head_length).unwrap_or_default();
        match cache.find(&asked.key, now, alone, |kept| is_wanted(&asked, kept, head, now)) {
            Found::Kept(kept) => {
                worker.stats.cache(CacheEvent::Hit);
                return deliver(worker, client, request, up, &kept, now).await;
            }
            Found::Nothing(moment, flight) => break (moment, flight),
            Found::Asked(mut landed) => {
                worker.stats.cache(CacheEvent::Collapsed);
                let _ = tokio::time::timeout(WAIT, landed.changed()).await;
                client.now = Instant::now();
                alone = true;
            }
        }
    };
    if asked.wishes.only_if_cached {
        return own::not_kept(worker, client, request, up).await;
    }
    worker.stats.cache(CacheEvent::Miss);
    let fill = may_keep.then(|| {
        let now = worker.shared.clock.at(client.now);
        let cache = Arc::clone(cache);
        Fill::new(cache, rules.clone(), asked.key, moment, now, flight)
    });
    forward::forward(worker, client, request, up, Route::Visitors, fill).await
}

/// Whether `kept` is what the request wants (RFC 9111 section 5.2.1).
fn is_wanted(asked: &Asked, kept: &Kept, head: &[u8], now: u64) -> bool {
    let wishes = &asked.wishes;
    let seconds = Duration::from_secs;
    let young = wishes.max_age.is_none_or(|most| kept.age(now) < seconds(most));
    let fresh = wishes
        .min_fresh
        .is_none_or(|least| kept.fresh_for(now).is_some_and(|left| left >= seconds(least)));
    !wishes.no_cache && young && fresh && kept.suits(head)
}
