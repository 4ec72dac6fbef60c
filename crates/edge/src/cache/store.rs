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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    generation: u64,
    written: u64,
}

/// What there is for a request.
pub enum Found {
    /// An answer that is fresh.
    Kept(Arc<Kept>),
    /// One that is over and may still be shown; whoever gets an [`Asking`] is to ask for a new one.
    Over(Arc<Kept>, Option<Asking>),
    /// Somebody is asking for it.
    Asked(watch::Receiver<()>),
    /// Nothing: whoever looked is to ask.
    Nothing(Asking),
}

/// What whoever asks the application needs.
pub struct Asking {
    /// When it began.
    pub moment: Moment,
    /// Dropped when others need not wait any longer.
    pub flight: Option<watch::Sender<()>>,
    /// What may be shown in place of an error.
    pub instead: Option<Arc<Kept>>,
}

/// How whoever looks would have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looking {
    /// By the clock of all threads, in milliseconds.
    pub now: u64,
    /// Without waiting for others who ask.
    pub alone: bool,
    /// What it asks for can be kept, and so stand for others.
    pub may_keep: bool,
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
    /// that view. Says how many addresses were forgotten for purges.
    pub fn obey(&self, answers: &EdgeAnswers) -> u64 {
        let mut store = self.store();
        let mut purged = 0;
        if store.rules != answers.cache {
            // What was kept by other rules may be what these would not keep.
            store.clear();
            store.rules.clone_from(&answers.cache);
        }
        for purge in &answers.purges.0 {
            if !store.obeyed.contains(purge) {
                purged += store.purge(purge);
            }
        }
        store.obeyed.clone_from(&answers.purges.0);
        purged
    }

    /// What there is that `suits`.
    pub fn find(&self, key: &Key, looking: Looking, suits: impl Fn(&Kept) -> bool) -> Found {
        let Looking { now, alone, may_keep } = looking;
        let mut store = self.store();
        // The newest first.
        let kept = store.kept.get(key).map(Vec::as_slice).unwrap_or_default();
        let suiting = || kept.iter().rev().filter(|one| suits(one));
        if let Some(found) = suiting().find(|one| one.fresh_for(now).is_some()) {
            return Found::Kept(Arc::clone(found));
        }
        let over = suiting().find(|one| one.is_shown_while_asking(now)).cloned();
        let instead = suiting().find(|one| one.is_shown_for_an_error(now)).cloned();
        let hash = store.hash(key);
        let moment = store.moment(hash);
        let passes = store.passes.get(&hash).is_some_and(|until| now < *until);
        let flight = store.flights.get(key).cloned();
        let asking = |flight| Asking {
            moment,
            flight,
            instead,
        };
        match (over, flight) {
            // A new one was asked for just now, and was none to keep; or is on its way.
            (Some(over), flight) if passes || flight.is_some() => Found::Over(over, None),
            (Some(over), None) if may_keep => Found::Over(over, Some(asking(Some(store.begin(key))))),
            (_, _) if alone || passes => Found::Nothing(asking(None)),
            (_, Some(flight)) => Found::Asked(flight),
            (_, None) => Found::Nothing(asking(Some(store.begin(key)))),
        }
    }

    /// What a request like this would get, without anything being changed by the question.
    pub fn peek(&self, key: &Key, suits: impl Fn(&Kept) -> bool) -> Option<Arc<Kept>> {
        let store = self.store();
        let kept = store.kept.peek(key)?;
        kept.iter().rev().find(|one| suits(one)).cloned()
    }

    /// How many answers are kept, and about how many bytes they take.
    pub fn size(&self) -> (u64, u64) {
        let store = self.store();
        let answers = store.kept.iter().map(|(_, variants)| variants.len() as u64).sum();
        (answers, store.bytes)
    }

    /// Whoever waited for this key need not any longer.
    pub fn landed(&self, key: &Key) {
        self.store().flights.remove(key);
    }

    /// The answer is one that is not kept: for a while nobody waits for another's. Unless it `is_error`, what was kept until
    /// now is not true any more.
    pub fn pass(&self, key: &Key, now: u64, is_error: bool) {
        let mut store = self.store();
        let hash = store.hash(key);
        store.passes.put(hash, now.saturating_add(PASS_FOR));
        if !is_error {
            store.drop_kept(key);
        }
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
        store.drop_kept(key);
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

    fn begin(&mut self, key: &Key) -> watch::Sender<()> {
        let (sender, receiver) = watch::channel(());
        self.flights.insert(key.clone(), receiver);
        sender
    }

    fn drop_kept(&mut self, key: &Key) {
        if let Some(gone) = self.kept.pop(key) {
            self.bytes -= cost_of(key, &gone);
        }
    }

    fn purge(&mut self, purge: &Purge) -> u64 {
        self.generation += 1;
        let takes = |key: &Key| {
            let (hosts, target) = key.parts();
            hosts.iter().any(|host| purge.takes(host, target))
        };
        let gone = self.kept.iter().map(|(key, _)| key).filter(|key| takes(key));
        let gone: Vec<Key> = gone.cloned().collect();
        for key in &gone {
            self.drop_kept(key);
        }
        gone.len() as u64
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
