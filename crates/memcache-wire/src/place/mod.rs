//! Which server a key belongs to.
//!
//! * [`Rule::Ketama`]: libmemcached's weighted ketama (`hosts.cc`, `MEMCACHED_DISTRIBUTION_CONSISTENT_KETAMA` with
//!   `MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED`), also pylibmc's, php-memcached's and dalli's relatives: what an existing cache
//!   was most likely filled by.
//! * [`Rule::Twemproxy`]: twemproxy's `distribution: ketama` with `hash: fnv1a_64`, its defaults.
//! * [`Rule::Rendezvous`]: the highest of a hash of server and key; nothing of an old cache is found again, and the spread is
//!   the most even.

use md5::{Digest, Md5};

/// How keys are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// As libmemcached with `ketama_weighted`.
    #[default]
    Ketama,
    /// As twemproxy.
    Twemproxy,
    /// Highest random weight.
    Rendezvous,
}

/// The servers by their labels: what the application's own list of servers said, `host:port`. All weigh the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    rule: Rule,
    labels: Vec<String>,
    /// Points and whose they are, by point.
    points: Vec<(u32, usize)>,
}

/// What libmemcached and twemproxy leave out of the names of points.
const DEFAULT_PORT: &str = ":11211";
/// Points of a server (`MEMCACHED_POINTS_PER_SERVER_KETAMA`, `KETAMA_POINTS_PER_SERVER`), four of one digest.
const POINTS: usize = 160;

impl Ring {
    /// The ring of these servers.
    pub fn new(rule: Rule, labels: &[String]) -> Ring {
        let mut points = Vec::new();
        if rule != Rule::Rendezvous {
            for (index, label) in labels.iter().enumerate() {
                let label = label.strip_suffix(DEFAULT_PORT).unwrap_or(label);
                for number in 0..digests(labels.len()) {
                    let digest = Md5::digest(format!("{label}-{number}"));
                    points.extend(digest.chunks_exact(4).map(|part| (little_endian(part), index)));
                }
            }
            // Of equal points the one of the earlier server is found first, as far as a sort that keeps order can say.
            points.sort_by_key(|point| point.0);
        }
        Ring {
            rule,
            labels: labels.to_vec(),
            points,
        }
    }

    /// The servers in the order in which they are asked for `key`: the first is its own, the next take its place while it
    /// is away.
    pub fn order(&self, key: &[u8]) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.labels.len());
        if self.rule == Rule::Rendezvous {
            let mut scores: Vec<_> = (0..self.labels.len())
                .map(|index| (self.score(index, key), index))
                .collect();
            scores.sort_by(|one, other| other.cmp(one));
            return scores.into_iter().map(|(_, index)| index).collect();
        }
        let from = self.first(key);
        for (_, index) in self.points.iter().cycle().skip(from).take(self.points.len()) {
            if !order.contains(index) {
                order.push(*index);
            }
            if order.len() == self.labels.len() {
                break;
            }
        }
        order
    }

    /// The server that `key` belongs to; `None` without servers.
    pub fn home(&self, key: &[u8]) -> Option<usize> {
        if self.labels.len() < 2 {
            return (!self.labels.is_empty()).then_some(0);
        }
        match self.rule {
            Rule::Rendezvous => (0..self.labels.len()).max_by_key(|index| (self.score(*index, key), *index)),
            _ => self.points.get(self.first(key)).map(|point| point.1),
        }
    }

    /// The hashes at which the owner may change, one after the other.
    pub fn points(&self) -> impl Iterator<Item = u32> + '_ {
        self.points.iter().map(|point| point.0)
    }

    /// The server of keys with this hash; `None` without points.
    pub fn at(&self, hash: u32) -> Option<usize> {
        let at = self.points.partition_point(|point| point.0 < hash);
        self.points.get(at).or(self.points.first()).map(|point| point.1)
    }

    /// The first point that is not before the key's, around the circle.
    fn first(&self, key: &[u8]) -> usize {
        let hash = match self.rule {
            Rule::Twemproxy => fnv1a_64(key),
            _ => little_endian(&Md5::digest(key)[..4]),
        };
        let at = self.points.partition_point(|point| point.0 < hash);
        if at == self.points.len() { 0 } else { at }
    }

    fn score(&self, index: usize, key: &[u8]) -> u64 {
        let label = self.labels.get(index).map_or("", String::as_str);
        // The lengths apart, so that no label runs into a key.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in label.bytes().chain([0]).chain(key.iter().copied()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        // FNV's high bits are poor for short input; the finaliser of MurmurHash3 spreads them.
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ (hash >> 33)
    }
}

/// Digests for each of so many servers of the same weight. Both reckon in single precision and cut off, so that it may be
/// one less than `POINTS / 4`.
fn digests(servers: usize) -> usize {
    #[allow(clippy::cast_precision_loss)] // as they do
    let (servers, points) = (servers as f32, POINTS as f32);
    let share = 1.0_f32 / servers;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // not negative, and small
    let count = (f64::from(share * points / 4.0 * servers) + 0.000_000_000_1).floor() as usize;
    count
}

fn little_endian(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// Twemproxy's: the constants of 64 bits, in 32 (`hash_fnv1a_64`).
#[allow(clippy::cast_possible_truncation)] // as it does
fn fnv1a_64(key: &[u8]) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 as u32;
    for byte in key {
        // A signed char there.
        hash ^= *byte as i8 as u32;
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3_u64 as u32);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(count: usize) -> Vec<String> {
        (1..=count)
            .map(|number| format!("10.0.0.{number}:11211"))
            .collect()
    }

    #[test]
    fn every_server_gets_its_share_and_order_names_each_once() {
        for rule in [Rule::Ketama, Rule::Twemproxy, Rule::Rendezvous] {
            let ring = Ring::new(rule, &labels(4));
            let mut counts = [0; 4];
            for number in 0..4000 {
                let key = format!("key-{number}");
                let order = ring.order(key.as_bytes());
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, [0, 1, 2, 3]);
                assert_eq!(ring.home(key.as_bytes()), Some(order[0]));
                counts[order[0]] += 1;
            }
            assert!(
                counts.iter().all(|count| (600..1500).contains(count)),
                "{rule:?} {counts:?}"
            );
        }
    }

    #[test]
    fn a_server_that_is_added_takes_keys_and_nobody_else_does() {
        for rule in [Rule::Ketama, Rule::Rendezvous] {
            let (three, four) = (Ring::new(rule, &labels(3)), Ring::new(rule, &labels(4)));
            let moved = (0..4000).filter(|number| {
                let key = format!("key-{number}");
                let (before, after) = (three.home(key.as_bytes()), four.home(key.as_bytes()));
                assert!(before == after || after == Some(3), "{rule:?} {key}");
                before != after
            });
            let moved = moved.count();
            assert!((600..1500).contains(&moved), "{rule:?} {moved}");
        }
    }

    #[test]
    fn no_servers_and_one() {
        assert_eq!(Ring::new(Rule::Ketama, &[]).home(b"k"), None);
        assert!(Ring::new(Rule::Ketama, &[]).order(b"k").is_empty());
        assert_eq!(Ring::new(Rule::Ketama, &labels(1)).order(b"k"), [0]);
    }
}
