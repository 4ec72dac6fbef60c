//! Many that miss at once: of a key whose prefix is configured (`cache.fill_once`), the first that finds nothing is told so,
//! and is expected to store it. Who finds nothing meanwhile waits for that, and asks the server again: what it gets is what
//! is there then, so that nothing old can be told (P8).

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pontoon_memcache_wire::answers::Expect;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::client::{Outcome, Reply};
use crate::lane::{Frame, Job};
use crate::proxy::Thread;

/// Keys that somebody was told to fill, of all threads.
#[derive(Debug, Default)]
pub struct Fills {
    under_way: Mutex<HashMap<Bytes, Fill>>,
}

#[derive(Clone, Debug)]
struct Fill {
    until: Instant,
    stored: CancellationToken,
}

/// What somebody who found nothing does.
#[derive(Debug)]
pub enum Turn {
    /// It is told so.
    Fill,
    /// It waits for this, until then.
    Wait(CancellationToken, Instant),
}

/// More at a time are not remembered: then everybody is told.
const MAX_FILLS: usize = 10_000;

impl Fills {
    /// Whose turn it is to fill `key`; who does so has `patience`.
    pub fn turn(&self, key: &[u8], now: Instant, patience: Duration) -> Turn {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fill) = under_way.get(key).filter(|fill| fill.until > now) {
            return Turn::Wait(fill.stored.clone(), fill.until);
        }
        if under_way.len() >= MAX_FILLS {
            under_way.retain(|_, fill| fill.until > now);
        }
        if under_way.len() < MAX_FILLS {
            let fill = Fill {
                until: now + patience,
                stored: CancellationToken::new(),
            };
            under_way.insert(Bytes::copy_from_slice(key), fill);
        }
        Turn::Fill
    }

    /// Something was stored under `key`, or was not and will not be: who waits asks again.
    pub fn stored(&self, key: &[u8]) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fill) = under_way.remove(key) {
            fill.stored.cancel();
        }
    }
}

/// Reads a key that is filled once. The server is asked before this returns: what the client sends next comes after.
pub fn read(thread: &Rc<Thread>, frame: Frame, expect: Expect, key: Bytes, reply: Reply) {
    let found = ask(thread, &frame, expect, &key);
    let thread = Rc::clone(thread);
    tokio::task::spawn_local(async move {
        let found = found.await.unwrap_or(Outcome::Missed);
        match is_nothing(&found, expect) {
            true => take_turns(&thread, &frame, expect, &key, found, reply).await,
            false => reply.settle(found),
        }
    });
}

async fn take_turns(
    thread: &Thread,
    frame: &Frame,
    expect: Expect,
    key: &[u8],
    found: Outcome,
    reply: Reply,
) {
    let context = &thread.context;
    let turn = || context.fills.turn(key, Instant::now(), context.limits.fill);
    let Turn::Wait(stored, until) = turn() else {
        return reply.settle(found);
    };
    context.counters.waited.fetch_add(1, Relaxed);
    // In vain or not: it asks once more, and waits no second time.
    let _ = timeout_at(until, stored.cancelled()).await;
    let found = ask(thread, frame, expect, key).await.unwrap_or(Outcome::Missed);
    if is_nothing(&found, expect) {
        turn();
    }
    reply.settle(found);
}

fn ask(thread: &Thread, frame: &Frame, expect: Expect, key: &[u8]) -> oneshot::Receiver<Outcome> {
    let (sender, receiver) = oneshot::channel();
    let job = Job {
        frame: frame.clone(),
        expect,
        read: true,
        reply: Reply::Once(sender),
    };
    thread.to_home(key, expect == Expect::Packet, job);
    receiver
}

/// Whether the server answered that it has nothing. One that does not answer is not waited for.
fn is_nothing(outcome: &Outcome, expect: Expect) -> bool {
    match outcome {
        Outcome::Answer(answer) if expect == Expect::Packet => answer.get(6..8) == Some(&[0, 1]),
        Outcome::Answer(answer) => &answer[..] == b"END\r\n",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(100);

    #[test]
    fn one_fills_and_the_others_wait_until_it_has_or_should_have() {
        let (fills, now) = (Fills::default(), Instant::now());
        assert!(matches!(fills.turn(b"k", now, PATIENCE), Turn::Fill));
        let Turn::Wait(stored, until) = fills.turn(b"k", now, PATIENCE) else {
            panic!("two fill");
        };
        assert!(!stored.is_cancelled() && until == now + PATIENCE);
        assert!(matches!(fills.turn(b"other", now, PATIENCE), Turn::Fill));
        fills.stored(b"k");
        assert!(stored.is_cancelled());
        assert!(matches!(fills.turn(b"k", now, PATIENCE), Turn::Fill));
        // It never stored anything: the next one may.
        assert!(matches!(fills.turn(b"k", until, PATIENCE), Turn::Fill));
    }

    #[test]
    fn keys_without_end_are_not_remembered() {
        let (fills, now) = (Fills::default(), Instant::now());
        for number in 0..MAX_FILLS + 10 {
            let turn = fills.turn(number.to_string().as_bytes(), now, PATIENCE);
            assert!(matches!(turn, Turn::Fill));
        }
        assert_eq!(fills.under_way.lock().unwrap().len(), MAX_FILLS);
        assert!(matches!(fills.turn(b"new", now + PATIENCE, PATIENCE), Turn::Fill));
        assert_eq!(fills.under_way.lock().unwrap().len(), 1);
    }
}
