//! An answer on its way: it may be kept, or says that what is kept is over.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use pontoon_fleet::CacheRules;
use tokio::sync::watch;

use super::answer::Kept;
use super::asked::Key;
use super::store::{Asking, Cache, Moment};
use crate::http1::body::Length;
use crate::http1::response::{Ending, Parsed};

/// An answer on its way that may be kept. Dropped when it is clear that it is not.
pub struct Fill {
    cache: Arc<Cache>,
    rules: CacheRules,
    key: Key,
    /// How the cache stood when it was asked for.
    moment: Moment,
    /// When it was asked for, in milliseconds of the clock of all threads.
    asked_at: u64,
    /// Those who wait for it wait no longer when this is dropped.
    flight: Option<watch::Sender<()>>,
    /// What may be shown in place of an error.
    instead: Option<Arc<Kept>>,
    /// Its head, once that has come.
    kept: Option<Kept>,
    room: u64,
    /// The request may write to what is kept as `key`.
    is_of_a_write: bool,
    /// It may have done so, and what is kept is not forgotten yet.
    may_have_written: bool,
}

impl Fill {
    /// Of what is asked for at `asked_at`.
    pub fn new(cache: Arc<Cache>, rules: CacheRules, key: Key, asking: Asking, asked_at: u64) -> Fill {
        Fill {
            cache,
            rules,
            key,
            moment: asking.moment,
            asked_at,
            flight: asking.flight,
            instead: asking.instead,
            kept: None,
            room: 0,
            is_of_a_write: false,
            may_have_written: false,
        }
    }

    /// Of a request that may write to what is kept as `key`: when its answer comes that is over (RFC 9111 section 4.4),
    /// before the visitor hears of it, and also when nobody knows what the application did.
    pub fn of_a_write(cache: Arc<Cache>, rules: CacheRules, key: Key) -> Fill {
        let asking = Asking {
            moment: Moment::default(),
            flight: None,
            instead: None,
        };
        let mut fill = Fill::new(cache, rules, key, asking, 0);
        (fill.is_of_a_write, fill.may_have_written) = (true, true);
        fill
    }

    /// Whether something better than an answer with `status` can be shown (RFC 5861 section 4).
    pub fn has_better_than(&self, status: u16) -> bool {
        matches!(status, 500 | 502 | 503 | 504) && self.instead.is_some()
    }

    /// What is shown at `now` in place of an error; nobody waits for this request any longer then.
    pub fn take_instead(&mut self, now: u64) -> Option<Arc<Kept>> {
        self.land();
        self.instead.take().filter(|kept| kept.is_shown_for_an_error(now))
    }

    /// The head of the answer to the request whose head is `head` has come: how many bytes of body are to be held;
    /// `None`: it is not kept, and nobody need wait for it.
    pub fn begin(&mut self, answer: &Parsed<'_>, head: &[u8]) -> Option<usize> {
        self.give_back();
        if self.is_of_a_write {
            // A refusal changes nothing, and nobody shall empty the cache with what is refused.
            self.wrote(!(400..500).contains(&answer.response.status));
            return None;
        }
        let kept = Kept::of(&self.rules, answer, head, self.asked_at, SystemTime::now());
        let room = match answer.response.ending {
            Ending::Announced(Length::None) => 0,
            Ending::Announced(Length::Known(length)) => length,
            // Nobody knows how much it will be.
            Ending::Announced(Length::Chunked) | Ending::Close => self.rules.largest,
        };
        if kept.is_none() {
            let is_error = answer.response.status >= 500;
            self.cache.pass(&self.key, self.asked_at, is_error);
        }
        let Some(kept) = kept.filter(|_| self.cache.take_room(room, &self.rules)) else {
            self.land();
            return None;
        };
        self.room = room;
        self.kept = Some(kept);
        usize::try_from(room).ok()
    }

    /// The request is over; `maybe` it has written something.
    pub fn wrote(&mut self, maybe: bool) {
        if std::mem::take(&mut self.may_have_written) && maybe {
            self.cache.forget(&self.key);
        }
    }

    /// The answer has come whole, and this is its body.
    pub fn end(&mut self, body: Vec<u8>) -> bool {
        let Some(mut kept) = self.kept.take() else {
            return false;
        };
        kept.body = Bytes::from(body.into_boxed_slice());
        self.cache.keep(&self.key, kept, self.moment)
    }

    fn land(&mut self) {
        if self.flight.take().is_some() {
            self.cache.landed(&self.key);
        }
    }

    fn give_back(&mut self) {
        self.cache.give_back(std::mem::take(&mut self.room));
        self.kept = None;
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.give_back();
        self.wrote(true);
        if let Some(flight) = self.flight.take() {
            // First out of the way, so that who wakes finds nobody to wait for.
            self.cache.landed(&self.key);
            drop(flight);
        }
    }
}
