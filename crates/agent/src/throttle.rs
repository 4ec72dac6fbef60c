//! Keeps a stranger, or a server that was taken out and does not know it, from filling the timeline.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a count lasts.
const WINDOW: Duration = Duration::from_secs(60);

/// Different things that are counted at a time; of more than that nothing is told.
const MOST: usize = 256;

/// Counts what happens again and again, by whom.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<BTreeMap<String, (Duration, u32)>>);

impl Throttle {
    /// Whether `what` may be told once more: `most` times a minute. `now` is the steady clock's.
    pub(crate) fn may(&self, what: &str, most: u32, now: Duration) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !counts.contains_key(what) && counts.len() >= MOST {
            counts.retain(|_, (begun, _)| now.saturating_sub(*begun) < WINDOW);
            if counts.len() >= MOST {
                return false;
            }
        }
        let (begun, count) = counts.entry(what.to_owned()).or_insert((now, 0));
        if now.saturating_sub(*begun) >= WINDOW {
            (*begun, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_so_often_a_minute_and_not_more_of_them_than_fit() {
        let throttle = Throttle::default();
        let second = Duration::from_secs;
        let told = (0..10).filter(|n| throttle.may("b", 2, second(*n))).count();
        assert_eq!(told, 2);
        assert!(throttle.may("c", 2, second(10)));
        assert!(throttle.may("b", 2, second(60)));
        let told = (0..1_000)
            .filter(|n| throttle.may(&n.to_string(), 2, second(61)))
            .count();
        assert!(told <= MOST);
        assert!(throttle.0.lock().unwrap().len() <= MOST);
        assert!(throttle.may("later", 2, second(200)));
    }
}
