//! One request, with the cache between it and the application.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pontoon_fleet::CacheRules;
use pontoon_telemetry::metrics::CacheEvent;
use tokio::time::Instant;

use super::answer::{Kept, Shown};
use super::asked::{Asked, Key, asked};
use super::deliver::deliver;
use super::fill::Fill;
use super::refresh::refresh;
use super::store::{Found, Looking};
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
    let cache = &worker.shared.cache;
    let head = up.staged().get(..request.head_length).unwrap_or_default();
    let Ok(asked) = asked(rules, request, head) else {
        worker.stats.cache(CacheEvent::Bypass);
        let method = head.get(..request.method_length).unwrap_or_default();
        let writes = !matches!(method, b"GET" | b"HEAD" | b"OPTIONS");
        let fill = writes.then(|| Fill::of_a_write(Arc::clone(cache), rules.clone(), Key::of(request, head)));
        return forward::forward(worker, client, request, up, Route::Visitors, fill).await;
    };
    // What HTTP/1.0 gets is unpacked on its way, and nothing to keep; nor is a 304.
    let may_keep = !request.is_head && request.version == Version::Http11 && !asked.is_conditional;
    let only_kept = asked.wishes.only_if_cached;
    let mut looking = Looking {
        now: 0,
        alone: !may_keep || asked.wishes.no_cache || only_kept,
        may_keep: may_keep && !only_kept,
    };
    let fill = |now, asking| Fill::new(Arc::clone(cache), rules.clone(), asked.key.clone(), asking, now);
    let asking = loop {
        let now = worker.shared.clock.at(client.now);
        looking.now = now;
        let head = up.staged().get(..request.head_length).unwrap_or_default();
        match cache.find(&asked.key, looking, |kept| is_wanted(&asked, kept, head, now)) {
            Found::Kept(kept) => {
                worker.stats.cache(CacheEvent::Hit);
                return deliver(worker, client, request, up, &kept, now, Shown::Hit).await;
            }
            Found::Over(kept, asking) => {
                if let Some(asking) = asking {
                    refresh(worker, request, head, fill(now, asking));
                }
                worker.stats.cache(CacheEvent::Stale);
                return deliver(worker, client, request, up, &kept, now, Shown::Hit).await;
            }
            Found::Nothing(asking) => break asking,
            Found::Asked(mut landed) => {
                worker.stats.cache(CacheEvent::Collapsed);
                let _ = tokio::time::timeout(WAIT, landed.changed()).await;
                client.now = Instant::now();
                looking.alone = true;
            }
        }
    };
    if only_kept {
        return own::not_kept(worker, client, request, up).await;
    }
    worker.stats.cache(CacheEvent::Miss);
    let fill = may_keep.then(|| fill(looking.now, asking));
    forward::forward(worker, client, request, up, Route::Visitors, fill).await
}

/// Whether `kept` is what the request wants (RFC 9111 section 5.2.1).
pub(super) fn is_wanted(asked: &Asked, kept: &Kept, head: &[u8], now: u64) -> bool {
    let wishes = &asked.wishes;
    let seconds = Duration::from_secs;
    let young = wishes.max_age.is_none_or(|most| kept.age(now) < seconds(most));
    let fresh = wishes
        .min_fresh
        .is_none_or(|least| kept.fresh_for(now).is_some_and(|left| left >= seconds(least)));
    !wishes.no_cache && young && fresh && kept.suits(head)
}
