//! Shares of servers that are not equal.

/// What a server that came into service `since` milliseconds ago has of its full share, when it takes `slow_start` to it:
/// from a tenth to all of it. A cold cache or a just-started runtime would drown in its full share at once.
pub fn ramp(since: u64, slow_start: u64) -> f32 {
    const LEAST: f32 = 0.1;
    if since >= slow_start {
        return 1.0;
    }
    (since as f32 / slow_start as f32).max(LEAST)
}

/// Turns in proportion to weights, spread as evenly as can be: at each turn everybody who may be chosen earns its weight,
/// and who has most pays all that was earned (nginx calls it smooth weighted round robin).
#[derive(Clone, Debug, Default)]
pub struct Turns(Vec<f32>);

impl Turns {
    /// One of `candidates`, the index and the weight of each.
    pub fn choose(&mut self, candidates: impl Iterator<Item = (usize, f32)> + Clone) -> Option<usize> {
        let mut total = 0.0;
        let mut best: Option<usize> = None;
        for (index, weight) in candidates {
            if self.0.len() <= index {
                self.0.resize(index + 1, 0.0);
            }
            self.0[index] += weight;
            total += weight;
            if best.is_none_or(|best| self.0[index] > self.0[best]) {
                best = Some(index);
            }
        }
        let best = best?;
        // What was earned while others were out is not saved for later: it would come as a flood.
        self.0[best] = (self.0[best] - total).max(-total);
        Some(best)
    }
}

/// A number for `bytes`, the same on every edge and in every version (FNV-1a, with the last mixing of MurmurHash3).
pub fn hash(bytes: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325;
    let hash = bytes.iter().fold(start, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(hash)
}

fn mix(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

/// How much the server `id` wants the requests of `key`: who wants them most gets them (rendezvous hashing, Thaler and
/// Ravishankar 1998, with the weights of Schindelhauer and Schomaker 2005). When a server goes, only its requests change
/// theirs; when one comes, it takes its share from all.
pub fn wish(key: u64, id: u64, weight: f32) -> f64 {
    // Above 0 and below 1.
    let unit = ((mix(key ^ id.rotate_left(32)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(weight) / unit.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_came_gets_its_share_bit_by_bit() {
        assert_eq!(ramp(0, 30_000), 0.1);
        assert_eq!(ramp(15_000, 30_000), 0.5);
        assert_eq!(ramp(30_000, 30_000), 1.0);
        assert_eq!(ramp(0, 0), 1.0);
    }

    #[test]
    fn turns_are_in_proportion_and_mixed() {
        let mut turns = Turns::default();
        let weights = [(0, 5.0), (1, 1.0), (2, 1.0)];
        let order: Vec<usize> = (0..7).filter_map(|_| turns.choose(weights.into_iter())).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn who_was_out_does_not_get_a_flood() {
        let mut turns = Turns::default();
        let both = [(0, 1.0), (1, 3.0)];
        assert!((0..1000).all(|_| turns.choose([(0, 1.0)].into_iter()) == Some(0)));
        let first = (0..400)
            .filter(|_| turns.choose(both.into_iter()) == Some(0))
            .count();
        assert!((95..=105).contains(&first), "{first}");
    }

    #[test]
    fn when_a_server_goes_only_its_requests_move() {
        let ids = ["a", "b", "c", "d"].map(|name| hash(name.as_bytes()));
        let of = |key: u64, ids: &[u64]| {
            let best = ids
                .iter()
                .max_by(|a, b| wish(key, **a, 1.0).total_cmp(&wish(key, **b, 1.0)));
            *best.unwrap()
        };
        let mut counts = [0; 4];
        for key in (0..10_000u32).map(|n| hash(&n.to_be_bytes())) {
            let before = of(key, &ids);
            counts[ids.iter().position(|id| *id == before).unwrap()] += 1;
            let after = of(key, &ids[..3]);
            assert!(before == after || before == ids[3]);
        }
        assert!(
            counts.iter().all(|count| (2300..2700).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn wishes_are_in_proportion_to_weights() {
        let [a, b] = ["a", "b"].map(|name| hash(name.as_bytes()));
        let keys = (0..10_000u32).map(|n| hash(&n.to_be_bytes()));
        let first = keys.filter(|key| wish(*key, a, 3.0) > wish(*key, b, 1.0)).count();
        assert!((7300..7700).contains(&first), "{first}");
    }
}
