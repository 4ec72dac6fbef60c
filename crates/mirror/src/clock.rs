//! Hybrid logical clocks: time as people know it, and never before what was seen (Kulkarni et al., "Logical Physical
//! Clocks", 2014).

use pontoon_fleet::ServerName;
use serde::{Deserialize, Serialize};

/// A moment of the hybrid clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds since 1970, by the clock of whoever is ahead.
    pub ms: u64,
    /// Tells moments of the same millisecond apart.
    pub count: u32,
}

/// Which change of a path it is. No two changes have the same; the greater one wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// When.
    pub stamp: Stamp,
    /// Where; decides between changes of the same moment.
    pub server: ServerName,
}

/// A server's hybrid clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    last: Stamp,
}

impl Clock {
    /// One that goes on after `last`, which was written down.
    pub fn after(last: Stamp) -> Clock {
        Clock { last }
    }

    /// The latest moment that it gave or saw.
    pub fn last(&self) -> Stamp {
        self.last
    }

    /// The moment of a change that happens now; later than everything given or seen before, wherever the wall clock is.
    pub fn tick(&mut self, now_ms: u64) -> Stamp {
        let ms = self.last.ms.max(now_ms);
        self.last = match (ms == self.last.ms, self.last.count.checked_add(1)) {
            (false, _) => Stamp { ms, count: 0 },
            (true, Some(count)) => Stamp { ms, count },
            (true, None) => Stamp {
                ms: ms.saturating_add(1),
                count: 0,
            },
        };
        self.last
    }

    /// Another server's moment became known.
    pub fn saw(&mut self, stamp: Stamp) {
        self.last = self.last.max(stamp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_goes_back_and_never_repeats() {
        let mut clock = Clock::default();
        let first = clock.tick(1000);
        let second = clock.tick(400);
        assert!(second > first && second.ms == 1000);
        clock.saw(Stamp { ms: 5000, count: 7 });
        assert_eq!(clock.tick(1001), Stamp { ms: 5000, count: 8 });
        clock.saw(Stamp { ms: 3, count: 9 });
        assert_eq!(clock.tick(6000), Stamp { ms: 6000, count: 0 });
        let mut full = Clock::after(Stamp {
            ms: 7,
            count: u32::MAX,
        });
        assert_eq!(full.tick(7), Stamp { ms: 8, count: 0 });
    }
}
