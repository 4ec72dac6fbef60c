//! What a visitor wrote is seen by its next request, whichever server that goes to (P3): the edge in front of an
//! application carries floors between the visitor's cookie and the SQL proxy of its server.

use std::cell::RefCell;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use pontoon_fleet::{CacheRules, FleetView};
use pontoon_rt::files;
use pontoon_rt::floor::{FloorClient, Saying, Told};
use pontoon_telemetry::metrics::{EdgeThread, FloorEvent};

use crate::cookie::{FloorKey, Forged, set_cookie};

/// How long the proxy may take to take in a floor before the request goes on without.
const SEE: Duration = Duration::from_millis(250);
/// How long it may take to say whether something was written. When it does not, the visitor is told that nobody knows.
const ASK: Duration = Duration::from_millis(250);
/// The least that a cookie lives. By then every replica that is read from has what it says: one further behind than
/// `max_lag` is not read from.
const LEAST_AGE: Duration = Duration::from_secs(30);
/// More than a key file has.
const MAX_KEY: u64 = 4096;

/// How floors are carried, by the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloorRule {
    /// How long a cookie lives, in seconds.
    pub max_age: u64,
}

impl FloorRule {
    /// By `view`; `None` when reads are not spread, and so nothing need be carried.
    pub fn of(view: &FleetView) -> Option<FloorRule> {
        let spread = view.sql.as_ref()?.spread()?;
        let age = (spread.max_lag * 2 + Duration::from_secs(10)).max(LEAST_AGE);
        // Whoever has a cookie gets nothing that is kept. By its end nothing is left that was kept before the write.
        let kept = view.answers.cache.as_ref().map(CacheRules::oldest);
        let age = age.saturating_add(kept.unwrap_or_default());
        Some(FloorRule {
            max_age: age.as_secs(),
        })
    }
}

/// The fleet's key, read when there is one.
#[derive(Debug)]
pub struct SharedKey {
    path: PathBuf,
    key: Mutex<Option<Arc<FloorKey>>>,
}

impl SharedKey {
    /// The key in the file `path`, which need not be there yet.
    pub fn new(path: PathBuf) -> SharedKey {
        SharedKey {
            path,
            key: Mutex::new(None),
        }
    }

    /// Reads the file; what was read last stays when it cannot be read.
    pub fn load(&self) {
        match files::read_limited(&self.path, MAX_KEY) {
            Ok(Some(bytes)) => {
                if let Some(key) = FloorKey::new(&bytes) {
                    *self.lock() = Some(Arc::new(key));
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the key of floors cannot be read"),
        }
    }

    /// Whether there is one.
    pub fn is_known(&self) -> bool {
        self.lock().is_some()
    }

    fn get(&self) -> Option<Arc<FloorKey>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<FloorKey>>> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread's side.
#[derive(Clone, Debug)]
pub struct Floors {
    client: FloorClient,
    key: Arc<SharedKey>,
    /// The proxy's word for what readers must see, as last heard.
    mark: Rc<RefCell<String>>,
    stats: Arc<EdgeThread>,
}

impl Floors {
    /// Of the proxy whose socket is at `socket`.
    pub fn new(socket: PathBuf, key: Arc<SharedKey>, stats: Arc<EdgeThread>) -> Floors {
        Floors {
            client: FloorClient::new(socket),
            key,
            mark: Rc::default(),
            stats,
        }
    }

    /// A request comes with the cookie `value`: returns when the proxy has its floor, so that whatever the
    /// application reads for this request sees what the visitor has seen. When that fails the request goes on; the
    /// client tells the proxy as soon as it can that something is unknown.
    pub async fn arrive(&self, value: &[u8]) {
        let floor = match self.key.get().map(|key| key.open(value)) {
            Some(Ok(floor)) => floor,
            Some(Err(Forged)) => return self.stats.floor(FloorEvent::Invalid),
            // Not to be judged yet: something may be in it.
            None => None,
        };
        match self.client.say(&Saying::See(floor), SEE).await {
            Ok(told) => {
                self.remember(&told);
                self.stats.floor(FloorEvent::Seen);
            }
            Err(error) => {
                tracing::debug!(%error, "a visitor's floor was not taken in");
                self.stats.floor(FloorEvent::Failed);
            }
        }
    }

    /// A request that may have written is answered: the field that gives the visitor its floor, if something was
    /// written since `before`.
    async fn leave(self, before: String, rule: FloorRule) -> Option<String> {
        let key = self.key.get()?;
        let floor = match self.client.say(&Saying::Floor, ASK).await {
            Ok(told) => {
                self.remember(&told);
                match told {
                    Told::Off => return None,
                    Told::Floor { mark, .. } if mark == before => return None,
                    Told::Floor { floor, .. } => floor,
                }
            }
            Err(error) => {
                tracing::debug!(%error, "whether something was written is not known");
                self.stats.floor(FloorEvent::Failed);
                None
            }
        };
        self.stats.floor(FloorEvent::Given);
        Some(set_cookie(&key.seal(floor.as_deref()), rule.max_age))
    }

    fn remember(&self, told: &Told) {
        if let Told::Floor { mark, .. } = told {
            self.mark.replace(mark.clone());
        }
    }
}

/// The end of a request that may have written: asks, when its answer's head has come, whether something was written.
pub struct Leaving {
    asking: Pin<Box<dyn Future<Output = Option<String>>>>,
}

impl Leaving {
    /// To be made before the request is sent; asks nothing until it is polled.
    pub fn new(floors: Floors, rule: FloorRule) -> Leaving {
        let before = floors.mark.borrow().clone();
        Leaving {
            asking: Box::pin(floors.leave(before, rule)),
        }
    }

    /// The field to add to the answer, if any. Not to be polled again once it is ready.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<String>> {
        self.asking.as_mut().poll(cx)
    }
}
