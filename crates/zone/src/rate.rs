//! Limits responses per network, so that a flood of queries with a forged sender isn't sent on to whoever was forged.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::answer::Verdict;

/// What to do with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Send it.
    Send,
    /// Send it cut down to "ask again over TCP": a real asker can, a forged one gets no more than it sent.
    Slip,
    /// Send nothing.
    Drop,
}

/// Counts responses by network (/24 or /56) and kind, in a table of fixed size that all threads share.
///
/// Two networks may share a place; then the one that came last counts from zero. So nobody is limited for what
/// somebody else does, and a flood over so many networks that they meet is limited less.
#[derive(Debug)]
pub struct RateLimiter {
    places: Box<[AtomicU64]>,
    per_second: u32,
    slip: u32,
}

/// Places in the table.
const PLACES: usize = 1 << 16;

impl RateLimiter {
    /// At most `per_second` responses of a kind to a network in each second; of those beyond, every `slip`th is cut
    /// down in place of dropped. Zero responses means no limit; zero slip means never.
    pub fn new(per_second: u32, slip: u32) -> RateLimiter {
        RateLimiter {
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            per_second,
            slip,
        }
    }

    /// Counts a response to `address` in the second `now`, and says what becomes of it.
    pub fn count(&self, address: IpAddr, verdict: Verdict, now: u32) -> Limit {
        if self.per_second == 0 {
            return Limit::Send;
        }
        let network = match address {
            IpAddr::V4(address) => u64::from(u32::from(address) >> 8),
            // /56 of the address, with a bit that no IPv4 network has.
            IpAddr::V6(address) => 1 << 63 | (u128::from(address) >> 72) as u64,
        };
        let mixed = mix(network ^ (verdict as u64) << 56);
        let Some(place) = self.places.get(mixed as usize % PLACES) else {
            return Limit::Send;
        };
        // Network 24 bits, second 16 bits, count 24 bits.
        let mark = (mixed >> 40) << 40 | u64::from(now & 0xFFFF) << 24;
        let before = place.load(Ordering::Relaxed);
        let count = match before & !COUNT == mark {
            true => (before & COUNT).min(COUNT - 1) + 1,
            false => 1,
        };
        // Threads that store at once lose counts: the limit need not be exact.
        place.store(mark | count, Ordering::Relaxed);
        let Some(over) = count
            .checked_sub(u64::from(self.per_second))
            .filter(|over| *over > 0)
        else {
            return Limit::Send;
        };
        match self.slip > 0 && over.is_multiple_of(u64::from(self.slip)) {
            true => Limit::Slip,
            false => Limit::Drop,
        }
    }
}

const COUNT: u64 = 0xFF_FFFF;

/// The finalizer of MurmurHash3.
fn mix(mut word: u64) -> u64 {
    word = (word ^ word >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    word = (word ^ word >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(limiter: &RateLimiter, address: &str, n: u32, now: u32) -> [u32; 3] {
        let mut tally = [0; 3];
        for _ in 0..n {
            tally[limiter.count(address.parse().unwrap(), Verdict::Answer, now) as usize] += 1;
        }
        tally
    }

    #[test]
    fn a_network_gets_its_share_in_each_second() {
        let limiter = RateLimiter::new(200, 2);
        assert_eq!(tally(&limiter, "198.51.100.1", 1000, 7), [200, 400, 400]);
        assert_eq!(
            tally(&limiter, "198.51.100.250", 10, 7),
            [0, 5, 5],
            "the same network"
        );
        assert_eq!(tally(&limiter, "198.51.101.1", 200, 7), [200, 0, 0], "another");
        assert_eq!(
            tally(&limiter, "198.51.100.1", 200, 8),
            [200, 0, 0],
            "a second later"
        );
        assert_eq!(tally(&limiter, "2001:db8::1", 200, 7), [200, 0, 0]);
        assert_eq!(
            tally(&limiter, "2001:db8:0:ff::1", 2, 7),
            [0, 1, 1],
            "the same /56"
        );
        assert_eq!(tally(&limiter, "2001:db8:0:100::1", 2, 7), [2, 0, 0]);
        assert_eq!(
            tally(&RateLimiter::new(0, 2), "198.51.100.1", 1000, 7),
            [1000, 0, 0]
        );
        assert_eq!(
            tally(&RateLimiter::new(1, 0), "198.51.100.1", 1000, 7),
            [1, 0, 999]
        );
    }

    #[test]
    fn kinds_are_counted_apart() {
        let limiter = RateLimiter::new(1, 0);
        let address = "198.51.100.1".parse().unwrap();
        for verdict in [
            Verdict::Answer,
            Verdict::NoName,
            Verdict::Referral,
            Verdict::Error,
        ] {
            assert_eq!(limiter.count(address, verdict, 7), Limit::Send);
            assert_eq!(limiter.count(address, verdict, 7), Limit::Drop);
        }
    }
}
