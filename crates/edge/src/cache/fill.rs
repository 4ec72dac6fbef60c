//! An answer on its way that may be kept.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use pontoon_fleet::CacheRules;
use tokio::sync::watch;

use super::answer::Kept;
use super::asked::Key;
use super::store::{Cache, Moment};
use crate::http1::body::Length;
use crate::http1::response::{Ending, Parsed};

/// An answer on its way that may be kept. Dropped when it is clear that it is not.
pub struct Fill {
    cache: Arc<Cache>,
    rules: CacheRules,
    key: Key,
    moment: Moment,
    /// When it was asked for, in milliseconds of the clock of all threads.
    asked_at: u64,
    /// Those who wait for it wait no longer when this is dropped.
    flight: Option<watch::Sender<()>>,
    /// Its head, once that has come.
    kept: Option<Kept>,
    room: u64,
}

impl Fill {
    /// Of what is asked for at `asked_at`, when the cache stood at `moment`.
    pub fn new(
        cache: Arc<Cache>,
        rules: CacheRules,
        key: Key,
        moment: Moment,
        asked_at: u64,
        flight: Option<watch::Sender<()>>,
    ) -> Fill {
        Fill {
            cache,
            rules,
            key,
            moment,
            asked_at,
            flight,
            kept: None,
            room: 0,
        }
    }

    /// The head of the answer to the request whose head is `head` has come: how many bytes of body are to be held;
    /// `None`: it is not kept, and nobody need wait for it.
    pub fn begin(&mut self, answer: &Parsed<'_>, head: &[u8]) -> Option<usize> {
        self.give_back();
        let kept = Kept::of(&self.rules, answer, head, self.asked_at, SystemTime::now());
        let room = match answer.response.ending {
            Ending::Announced(Length::None) => 0,
            Ending::Announced(Length::Known(length)) => length,
            // Nobody knows how much it will be.
            Ending::Announced(Length::Chunked) | Ending::Close => self.rules.largest,
        };
        if kept.is_none() {
            self.cache.pass(&self.key, self.asked_at);
        }
        let Some(kept) = kept.filter(|_| self.cache.take_room(room, &self.rules)) else {
            self.land();
            return None;
        };
        self.room = room;
        self.kept = Some(kept);
        usize::try_from(room).ok()
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
        if let Some(flight) = self.flight.take() {
            // First out of the way, so that who wakes finds nobody to wait for.
            self.cache.landed(&self.key);
            drop(flight);
        }
    }
}
