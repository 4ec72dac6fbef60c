//! Answers that change from query to query: which addresses stand in one, by weight, and which comes first.

/// The largest weight, so that there are few different answers.
pub const MAX_WEIGHT: u32 = 10;

/// Which of the addresses stand in each of the answers of one round: as many answers as the largest weight, each address
/// in as many of them as its own weight says, spread evenly. Those with the largest are in all of them, so none is empty.
/// `None` when all are in all.
pub(crate) fn round(weights: &[u32]) -> Option<Vec<Vec<usize>>> {
    let most = weights.iter().copied().max()?.min(MAX_WEIGHT);
    if most == 0 || weights.iter().all(|weight| *weight >= most) {
        return None;
    }
    let is_in = |turn: u32, weight: u32| turn * weight % most < weight;
    let answer = |turn| {
        let all = weights.iter().enumerate();
        all.filter(|(_, weight)| is_in(turn, **weight))
            .map(|(at, _)| at)
            .collect()
    };
    Some((0..most).map(answer).collect())
}

/// A number for a turn in which nothing is left of the order of turns: who asks for A and AAAA in turns has every second
/// one for each, and shall get all answers all the same.
pub(crate) fn mixed(turn: u32) -> usize {
    let mixed = u64::from(turn).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 40) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_in_as_many_answers_as_its_weight_says_and_none_is_empty() {
        for weights in [
            &[2, 1][..],
            &[10, 3, 1],
            &[7, 7, 2, 5],
            &[1, 10],
            &[3, 0, 1],
            &[4, 4, 3],
        ] {
            let round = round(weights).unwrap();
            let most = *weights.iter().max().unwrap();
            assert_eq!(round.len(), most as usize);
            for (at, weight) in weights.iter().enumerate() {
                let count = round.iter().filter(|answer| answer.contains(&at)).count();
                assert_eq!(count as u32, *weight, "{weights:?}: {round:?}");
            }
            assert!(round.iter().all(|answer| !answer.is_empty()), "{round:?}");
        }
        for even in [&[][..], &[1], &[3, 3], &[0, 0]] {
            assert_eq!(round(even), None);
        }
    }

    #[test]
    fn every_stride_of_turns_gets_all_answers() {
        for stride in 1..=12 {
            for round in 2..=10usize {
                let mut counts = vec![0; round];
                for n in 0..10_000u32 {
                    counts[mixed(n * stride + 5) % round] += 1;
                }
                for count in counts {
                    let share = f64::from(count) / 10_000.0 * round as f64;
                    assert!((0.9..1.1).contains(&share), "{stride} {round}: {share}");
                }
            }
        }
    }
}
