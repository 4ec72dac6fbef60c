//! Many deletions in a short time are not believed: an empty folder is more often a disk that is not mounted, a deployment
//! gone wrong or a command in the wrong place than a wish.

use std::collections::VecDeque;

/// Counts deletions, and says when they are too many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brake {
    /// So many are always believed.
    pub least: u64,
    /// Of all files, in percent.
    pub percent: u64,
    /// In how long, in milliseconds.
    pub window_ms: u64,
    /// Deletions that were believed: when, and how many.
    believed: VecDeque<(u64, u64)>,
}

impl Default for Brake {
    /// More than 50 files and more than 5 % of all, within a minute.
    fn default() -> Brake {
        Brake::new(50, 5, 60_000)
    }
}

impl Brake {
    /// One that holds when more than `least` files and more than `percent` of all vanish within `window_ms`.
    pub fn new(least: u64, percent: u64, window_ms: u64) -> Brake {
        Brake {
            least,
            percent,
            window_ms,
            believed: VecDeque::new(),
        }
    }

    /// Whether `vanished` deletions that are known at `now_ms` are believed, of `files` that there were. Those that are count
    /// from now on; of those that are not, not one is.
    pub fn believes(&mut self, now_ms: u64, vanished: u64, files: u64) -> bool {
        let since = now_ms.saturating_sub(self.window_ms);
        while self.believed.front().is_some_and(|(at, _)| *at < since) {
            self.believed.pop_front();
        }
        let lately: u64 = self.believed.iter().map(|(_, count)| count).sum();
        let most = self
            .least
            .max(files.saturating_add(lately).saturating_mul(self.percent) / 100);
        if lately.saturating_add(vanished) > most {
            return false;
        }
        if vanished > 0 {
            self.believed.push_back((now_ms, vanished));
        }
        true
    }

    /// Somebody confirmed what was held: counting begins anew.
    pub fn confirmed(&mut self) {
        self.believed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_believed_and_many_are_not_however_they_are_spread() {
        let mut brake = Brake::default();
        assert!(brake.believes(0, 50, 60));
        // One by one within the minute: the 51st is one too many.
        assert!(!brake.believes(59_000, 1, 10));
        assert!(brake.believes(60_001, 1, 10));
        brake.confirmed();
        assert!(brake.believes(60_001, 50, 51));
        let mut large = Brake::default();
        assert!(large.believes(0, 5_000, 100_000));
        assert!(!large.believes(1, 1, 94_000));
        assert!(!Brake::default().believes(0, u64::MAX, u64::MAX));
    }
}
