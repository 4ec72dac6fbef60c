//! What each client has under way and how often it asks, for the limits on that. One table for all threads; nothing is
//! counted while nothing is limited.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pontoon_fleet::{ClientLimits, IpPrefix};

use crate::http1::reject::Reject;

/// The clients of this process.
#[derive(Debug)]
pub struct Clients {
    begun: Instant,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

/// Tables, so that threads seldom wait for each other.
const SHARDS: usize = 16;
/// Clients that one table remembers. With more than so many at the same time, those who come new are not limited: who
/// has a million addresses is not stopped by counting each of them, and everybody else must be served.
const MOST: usize = 8192;
/// In the microseconds that are counted here.
const SECOND: u64 = 1_000_000;
/// Below this, nobody looks whether any can be forgotten.
const FEW: usize = 1024;

#[derive(Debug, Default)]
struct Shard {
    clients: HashMap<IpPrefix, Client>,
    /// With so many it is time to forget some.
    forget_at: usize,
    /// When a full table is looked through again.
    look_at: u64,
}

/// What is known of one client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Client {
    under_way: u32,
    /// When all that it asked so far would have been asked at the allowed rate (the «theoretical arrival time» of the
    /// generic cell rate algorithm, ITU-T I.371), microseconds since the table began.
    paid_until: u64,
}

/// A request that is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Why.
    pub reject: Reject,
    /// When it makes sense to ask again, seconds.
    pub retry_after: u64,
}

/// A request that counts as under way until this is dropped.
#[derive(Debug)]
#[must_use = "the request counts as ended when this is dropped"]
pub struct Admitted {
    clients: Arc<Clients>,
    client: IpPrefix,
}

impl Default for Clients {
    fn default() -> Clients {
        Clients {
            begun: Instant::now(),
            hasher: RandomState::new(),
            shards: Default::default(),
        }
    }
}

impl Clients {
    /// Whether a request from `peer` may be carried out; `None` when nothing is to be counted.
    ///
    /// # Errors
    /// Which limit it has met.
    pub fn admit(
        self: &Arc<Clients>,
        limits: &ClientLimits,
        peer: IpAddr,
    ) -> Result<Option<Admitted>, Denied> {
        if limits.requests.is_none() && limits.rate.is_none() {
            return Ok(None);
        }
        let peer = peer.to_canonical();
        if limits.exempt.iter().any(|network| network.contains(peer)) {
            return Ok(None);
        }
        let bits = match peer {
            IpAddr::V4(_) => limits.prefix_v4,
            IpAddr::V6(_) => limits.prefix_v6,
        };
        let client = IpPrefix::of(peer, bits);
        let now = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let counted = self.shard(&client).admit(limits, client, now)?;
        Ok(counted.then(|| Admitted {
            clients: Arc::clone(self),
            client,
        }))
    }

    fn shard(&self, client: &IpPrefix) -> std::sync::MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(client) as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut shard = self.clients.shard(&self.client);
        if let Some(client) = shard.clients.get_mut(&self.client) {
            client.under_way = client.under_way.saturating_sub(1);
        }
    }
}

impl Shard {
    /// Says whether the request is counted.
    fn admit(&mut self, limits: &ClientLimits, client: IpPrefix, now: u64) -> Result<bool, Denied> {
        if !self.clients.contains_key(&client) && self.clients.len() >= self.forget_at.max(FEW) {
            let full = self.clients.len() >= MOST;
            // To look through a full table for each stranger would be work that strangers can cause.
            if !full || now >= self.look_at {
                self.clients
                    .retain(|_, client| client.under_way > 0 || client.paid_until > now);
                self.forget_at = (self.clients.len() * 2).min(MOST);
                self.look_at = now + SECOND;
            }
            if self.clients.len() >= MOST {
                return Ok(false);
            }
        }
        self.clients.entry(client).or_default().admit(limits, now)?;
        Ok(true)
    }
}

impl Client {
    /// At `now`, microseconds.
    fn admit(&mut self, limits: &ClientLimits, now: u64) -> Result<(), Denied> {
        if limits.requests.is_some_and(|most| self.under_way >= most) {
            return Err(Denied {
                reject: Reject::ClientRequests,
                retry_after: 1,
            });
        }
        if let Some(rate) = limits.rate {
            let each = SECOND / u64::from(rate.max(1));
            let paid_until = self.paid_until.max(now) + each;
            let allowed_until = now + each * u64::from(limits.burst.max(1));
            if paid_until > allowed_until {
                let wait = Duration::from_micros(paid_until - allowed_until);
                return Err(Denied {
                    reject: Reject::ClientRate,
                    retry_after: wait.as_secs() + u64::from(wait.subsec_nanos() > 0),
                });
            }
            self.paid_until = paid_until;
        }
        self.under_way += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(requests: Option<u32>, rate: Option<u32>, burst: u32) -> ClientLimits {
        ClientLimits {
            requests,
            rate,
            burst,
            ..ClientLimits::default()
        }
    }

    fn peer(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn so_many_at_the_same_time_and_one_more_when_one_has_ended() {
        let clients = Arc::new(Clients::default());
        let limits = limits(Some(2), None, 0);
        let admit = |from: &str| clients.admit(&limits, peer(from)).map(Option::unwrap);
        let first = admit("203.0.113.1").unwrap();
        let _second = admit("::ffff:203.0.113.1").unwrap();
        let denied = admit("203.0.113.1").unwrap_err();
        assert_eq!((denied.reject, denied.retry_after), (Reject::ClientRequests, 1));
        let _other = admit("203.0.113.2").unwrap();
        drop(first);
        let _third = admit("203.0.113.1").unwrap();
        // One household has 2⁶⁴ addresses, and is one client.
        let _six = [admit("2001:db8::1").unwrap(), admit("2001:db8::2").unwrap()];
        assert!(admit("2001:db8::3").is_err());
        let _neighbour = admit("2001:db8:0:1::3").unwrap();
    }

    #[test]
    fn a_rate_allows_a_burst_and_then_one_at_a_time() {
        let (limits, mut client) = (limits(None, Some(10), 5), Client::default());
        let mut admit = |millis: u64| client.admit(&limits, 50_000_000 + millis * 1_000);
        assert_eq!((0..20).filter(|_| admit(0).is_ok()).count(), 5, "the burst");
        assert!(admit(99).is_err());
        assert!(admit(100).is_ok() && admit(100).is_err());
        let denied = admit(150).unwrap_err();
        assert_eq!((denied.reject, denied.retry_after), (Reject::ClientRate, 1));
        assert_eq!((0..20).filter(|_| admit(10_000).is_ok()).count(), 5, "rested");
    }

    #[test]
    fn who_asks_too_often_is_told_when_to_come_back() {
        let (limits, mut client) = (limits(None, Some(1), 3), Client::default());
        let mut admit = |seconds: u64| client.admit(&limits, seconds * 1_000_000);
        assert!((0..3).all(|_| admit(0).is_ok()));
        assert_eq!(admit(0).unwrap_err().retry_after, 1);
        assert!(admit(1).is_ok());
    }

    #[test]
    fn nothing_is_counted_for_the_exempt_and_without_limits() {
        let clients = Arc::new(Clients::default());
        assert!(
            clients
                .admit(&limits(None, None, 0), peer("203.0.113.1"))
                .unwrap()
                .is_none()
        );
        let exempt = ClientLimits {
            exempt: vec!["203.0.113.0/24".parse().unwrap()],
            ..limits(Some(1), None, 0)
        };
        assert!((0..3).all(|_| clients.admit(&exempt, peer("203.0.113.7")).unwrap().is_none()));
        assert!(
            clients
                .shards
                .iter()
                .all(|shard| shard.lock().unwrap().clients.is_empty())
        );
    }

    #[test]
    fn clients_that_are_gone_are_forgotten_and_too_many_are_not_counted() {
        let (limits, mut shard) = (limits(Some(1), None, 0), Shard::default());
        let client = |n: usize| IpPrefix::of(IpAddr::from((n as u32).to_be_bytes()), 32);
        for n in 0..MOST * 4 {
            assert!(shard.admit(&limits, client(n), 0).unwrap());
            shard.clients.get_mut(&client(n)).unwrap().under_way = 0;
            assert!(shard.clients.len() <= FEW);
        }
        let counted =
            (0..MOST * 4).filter(|n| shard.admit(&limits, client(*n), 0).is_ok_and(|counted| counted));
        let counted = counted.count();
        assert_eq!((counted, shard.clients.len()), (MOST, MOST));
        shard.clients.values_mut().for_each(|client| client.under_way = 0);
        assert!(!shard.admit(&limits, client(MOST * 5), SECOND / 2).unwrap());
        assert!(shard.admit(&limits, client(MOST * 5), SECOND).unwrap());
        assert_eq!(shard.clients.len(), 1);
    }

    proptest! {
        /// In no window does a client get more than the rate allows, and the burst.
        #[test]
        fn never_more_than_the_rate(rate in 1u32..200, burst in 1u32..50, steps in prop::collection::vec(0u64..300_000, 1..200)) {
            let (limits, mut client) = (limits(None, Some(rate), burst), Client::default());
            let (mut now, mut allowed) = (0, 0u64);
            for step in steps {
                now += step;
                allowed += u64::from(client.admit(&limits, now).is_ok());
                let most = now / (SECOND / u64::from(rate)) + u64::from(burst) + 1;
                prop_assert!(allowed <= most, "{allowed} of {most}");
            }
        }
    }
}
