//! What is kept, of all threads of an edge: what was not asked for the longest goes first.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use pontoon_fleet::{CacheRules, EdgeAnswers, Purge};
use tokio::sync::watch;

use super::answer::Kept;
use super::asked::Key;

/// The most answers that are kept of one address, for requests that differ in the fields that it depends on.
const VARIANTS: usize = 16;
/// How many addresses are remembered for answers that are not kept.
const PASSES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);
/// For how many milliseconds.
const PASS_FOR: u64 = 10_000;

/// What is kept.
#[derive(Debug)]
pub struct Cache {
    store: Mutex<Store>,
    /// Bytes of answers on their way that may be kept.
    filling: AtomicU64,
}

/// Hashed with a secret of the process: nobody can choose addresses that meet.
type Hasher = RandomState;

#[derive(Debug)]
struct Store {
    kept: LruCache<Key, Vec<Arc<Kept>>, Hasher>,
    bytes: u64,
    hasher: Hasher,
    rules: Option<CacheRules>,
    /// The purges that were obeyed.
    obeyed: BTreeSet<Purge>,
    /// Counts them: who began before one keeps nothing.
    generation: u64,
    /// How often something of these was forgotten because it was written to, by their hash.
    written: [u64; 256],
    /// Who is asking for these at the moment.
    flights: HashMap<Key, watch::Receiver<()>>,
    /// What turned out not to be kept lately, by its hash.
    passes: LruCache<u64, u64>,
}

/// How things stood when an answer was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    generation: u64,
    written: u64,
}

/// What there is for a request.
pub enum Found {
    /// An answer that is fresh.
    Kept(Arc<Kept>),
    /// Somebody is asking for it.
    Asked(watch::Receiver<()>),
    /// Nothing: whoever looked is to ask. The sender, if there is one, is dropped when others need not wait any longer.
    Nothing(Moment, Option<watch::Sender<()>>),
}

impl Default for Cache {
    fn default() -> Cache {
        Cache {
            store: Mutex::new(Store {
                kept: LruCache::unbounded_with_hasher(Hasher::default()),
                bytes: 0,
                hasher: Hasher::default(),
                rules: None,
                obeyed: BTreeSet::new(),
                generation: 0,
                written: [0; 256],
                flights: HashMap::new(),
                passes: LruCache::new(PASSES),
            }),
            filling: AtomicU64::new(0),
        }
    }
}

impl Cache {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the view says: rules, and purges that were not obeyed yet. To be called before anybody serves by
    /// that view.
    pub fn obey(&self, answers: &EdgeAnswers) {
        let mut store = self.store();
        if store.rules != answers.cache {
            // What was kept by other rules may be what these would not keep.
            store.clear();
            store.rules.clone_from(&answers.cache);
        }
        for purge in &answers.purges.0 {
            if !store.obeyed.contains(purge) {
                store.purge(purge);
            }
        }
        store.obeyed.clone_from(&answers.purges.0);
    }

    /// What there is at `now` that `suits`; `alone`: without waiting for others who ask.
    pub fn find(&self, key: &Key, now: u64, alone: bool, suits: impl Fn(&Kept) -> bool) -> Found {
        let mut store = self.store();
        let kept = store.kept.get(key);
        let found = kept.and_then(|kept| kept.iter().find(|one| one.fresh_for(now).is_some() && suits(one)));
        if let Some(found) = found {
            return Found::Kept(Arc::clone(found));
        }
        let hash = store.hash(key);
        let moment = store.moment(hash);
        let passes = store.passes.get(&hash).is_some_and(|until| now < *until);
        if alone || passes {
            return Found::Nothing(moment, None);
        }
        if let Some(flight) = store.flights.get(key) {
            return Found::Asked(flight.clone());
        }
        let (sender, receiver) = watch::channel(());
        store.flights.insert(key.clone(), receiver);
        Found::Nothing(moment, Some(sender))
    }

    /// Whoever waited for this key need not any longer.
    pub fn landed(&self, key: &Key) {
        self.store().flights.remove(key);
    }

    /// The answer is one that is not kept: for a while nobody waits for another's.
    pub fn pass(&self, key: &Key, now: u64) {
        let mut store = self.store();
        let hash = store.hash(key);
        store.passes.put(hash, now.saturating_add(PASS_FOR));
    }

    /// Keeps an answer that was asked for at `moment`, unless something of it was forgotten since.
    pub fn keep(&self, key: &Key, kept: Kept, moment: Moment) -> bool {
        let mut store = self.store();
        let hash = store.hash(key);
        let Some(most) = store.rules.as_ref().map(|rules| rules.memory) else {
            return false;
        };
        if store.moment(hash) != moment || kept.cost() + cost(key) > most {
            return false;
        }
        store.insert(key, kept);
        while store.bytes > most {
            let Some((key, gone)) = store.kept.pop_lru() else {
                break;
            };
            store.bytes -= cost_of(&key, &gone);
        }
        true
    }

    /// Something was written to this address: what is kept of it is over (RFC 9111 section 4.4).
    pub fn forget(&self, key: &Key) {
        let mut store = self.store();
        let hash = store.hash(key);
        if let Some(written) = store.written.get_mut(hash as usize % 256) {
            *written += 1;
        }
        if let Some(gone) = store.kept.pop(key) {
            store.bytes -= cost_of(key, &gone);
        }
    }

    /// Whether an answer of `bytes` may be held until it is whole: all that are on their way together take no more than
    /// half of the memory that there is for answers. To be given back with [`Cache::give_back`].
    pub fn take_room(&self, bytes: u64, rules: &CacheRules) -> bool {
        let before = self.filling.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= rules.memory / 2;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    /// See [`Cache::take_room`].
    pub fn give_back(&self, bytes: u64) {
        self.filling.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Store {
    fn hash(&self, key: &Key) -> u64 {
        self.hasher.hash_one(key)
    }

    fn moment(&self, hash: u64) -> Moment {
        Moment {
            generation: self.generation,
            written: self.written.get(hash as usize % 256).copied().unwrap_or(0),
        }
    }

    fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
        self.generation += 1;
        self.passes.clear();
    }

    fn purge(&mut self, purge: &Purge) {
        self.generation += 1;
        let takes = |key: &Key| {
            let (hosts, target) = key.parts();
            hosts.iter().any(|host| purge.takes(host, target))
        };
        let gone = self.kept.iter().map(|(key, _)| key).filter(|key| takes(key));
        let gone: Vec<Key> = gone.cloned().collect();
        for key in gone {
            if let Some(kept) = self.kept.pop(&key) {
                self.bytes -= cost_of(&key, &kept);
            }
        }
    }

    fn insert(&mut self, key: &Key, kept: Kept) {
        let mut variants = self.kept.pop(key).unwrap_or_default();
        if !variants.is_empty() {
            self.bytes -= cost_of(key, &variants);
        }
        variants.retain(|one| !one.is_same_variant(&kept));
        if variants.len() >= VARIANTS {
            variants.remove(0);
        }
        variants.push(Arc::new(kept));
        self.bytes += cost_of(key, &variants);
        self.kept.put(key.clone(), variants);
    }
}

fn cost(key: &Key) -> u64 {
    const OVERHEAD: usize = 128;
    (key.0.len() + OVERHEAD) as u64
}

fn cost_of(key: &Key, variants: &[Arc<Kept>]) -> u64 {
    cost(key) + variants.iter().map(|kept| kept.cost()).sum::<u64>()
}
