use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use pontoon_decide::routing::{HELD_FOR, RENEW, TTL};
use pontoon_lease::Content;
use pontoon_rt::clock::TestClock;

use super::*;

/// A store in memory, which loses answers when it is told to.
#[derive(Clone, Debug, Default)]
struct Store(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    body: Option<Vec<u8>>,
    version: u64,
    lost: bool,
    away: bool,
}

impl Cell for Store {
    fn place(&self) -> String {
        "a store in memory".to_owned()
    }

    fn get(&self) -> BoxFuture<'_, Result<Content, CellError>> {
        let inner = self.0.lock().unwrap();
        let version = Version::new(inner.version.to_string());
        let found = match inner.away {
            true => Err(CellError::NotSent("away".to_owned())),
            false => Ok(inner.body.clone().map(|body| (body, version))),
        };
        async move { found }.boxed()
    }

    fn put<'a>(
        &'a self,
        expected: Option<&'a Version>,
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<Put, CellError>> {
        let mut inner = self.0.lock().unwrap();
        let now = inner
            .body
            .is_some()
            .then(|| Version::new(inner.version.to_string()));
        let answer = if inner.away {
            Err(CellError::NotSent("away".to_owned()))
        } else if now.as_ref() != expected {
            Ok(Put::Refused)
        } else {
            inner.body = Some(body);
            inner.version += 1;
            match inner.lost {
                true => Err(CellError::Doubt("no answer".to_owned())),
                false => Ok(Put::Taken(Version::new(inner.version.to_string()))),
            }
        };
        async move { answer }.boxed()
    }

    fn beside(&self, _: &str) -> Box<dyn Cell> {
        Box::new(self.clone())
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), CellError>> {
        async { Ok(()) }.boxed()
    }
}

fn lease(store: &Store, me: &str) -> Lease {
    Lease {
        me: me.parse().unwrap(),
        cell: Ok(store.beside(NAME)),
        keeper: Keeper::default(),
        version: None,
        trouble: None,
    }
}

fn placed(pairs: &[(&str, &str)]) -> BTreeMap<ServerName, ServerName> {
    pairs
        .iter()
        .map(|(home, to)| (home.parse().unwrap(), to.parse().unwrap()))
        .collect()
}

/// Both look for so long.
async fn pass(clock: &TestClock, leases: &mut [&mut Lease], time: Duration) {
    let until = clock.now() + time;
    while clock.now() < until {
        for lease in leases.iter_mut() {
            let wanted = lease.placed();
            lease.keep(clock, &wanted).await;
        }
        clock.advance(Duration::from_millis(250));
    }
}

#[tokio::test]
async fn one_of_two_has_it_and_the_other_goes_on_from_what_was_written() {
    let (store, clock) = (Store::default(), TestClock::default());
    let (mut a, mut b) = (lease(&store, "a"), lease(&store, "b"));
    pass(&clock, &mut [&mut a, &mut b], TTL * 2).await;
    assert!(a.holds(clock.now()) && !b.holds(clock.now()));
    // A decision is written at once.
    let decided = placed(&[("b", "a")]);
    let epoch = a.epoch();
    a.keep(&clock, &decided).await;
    assert_eq!((a.placed(), a.epoch()), (decided.clone(), epoch.next()));
    // It is gone; the other takes over when the record has stood still, and knows what was decided.
    pass(&clock, &mut [&mut b], TTL - RENEW).await;
    assert!(!b.holds(clock.now()));
    pass(&clock, &mut [&mut b], RENEW * 3).await;
    assert!(b.holds(clock.now()) && !a.holds(clock.now()));
    assert_eq!(b.placed(), decided);
    // The first one comes back: it finds out that it lost.
    pass(&clock, &mut [&mut a, &mut b], TTL).await;
    assert!(!a.holds(clock.now()) && b.holds(clock.now()));
    assert_eq!(a.caller(), Some("b".parse().unwrap()));
}

#[tokio::test]
async fn an_answer_that_was_lost_takes_nothing_away() {
    let (store, clock) = (Store::default(), TestClock::default());
    let (mut a, mut b) = (lease(&store, "a"), lease(&store, "b"));
    pass(&clock, &mut [&mut a, &mut b], RENEW * 2).await;
    assert!(a.holds(clock.now()));
    store.0.lock().unwrap().lost = true;
    for _ in 0..20 {
        pass(&clock, &mut [&mut a, &mut b], RENEW).await;
        assert!(a.holds(clock.now()) && !b.holds(clock.now()));
    }
}

#[tokio::test]
async fn without_the_store_nobody_has_it_and_what_is_damaged_is_not_replaced() {
    let (store, clock) = (Store::default(), TestClock::default());
    let (mut a, mut b) = (lease(&store, "a"), lease(&store, "b"));
    pass(&clock, &mut [&mut a, &mut b], RENEW * 2).await;
    store.0.lock().unwrap().away = true;
    pass(&clock, &mut [&mut a, &mut b], HELD_FOR).await;
    assert!(!a.holds(clock.now()) && !b.holds(clock.now()));
    assert!(
        a.trouble().is_some_and(|why| why.contains("away")),
        "{:?}",
        a.trouble()
    );
    {
        let mut inner = store.0.lock().unwrap();
        inner.away = false;
        inner.body = Some(b"{".to_vec());
        inner.version += 1;
    }
    pass(&clock, &mut [&mut a, &mut b], TTL * 3).await;
    assert!(!a.holds(clock.now()) && !b.holds(clock.now()));
    assert_eq!(store.0.lock().unwrap().body.as_deref(), Some(&b"{"[..]));
    assert!(
        b.trouble().is_some_and(|why| why.contains("damaged")),
        "{:?}",
        b.trouble()
    );
}
