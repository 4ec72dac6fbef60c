//! Damping: one failed check is not an outage, one good check is not a recovery.

/// Counts checks in a row. Starts as told, changes over after `fall` failures or `rise` successes in a row, and
/// not otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damper {
    fall: u32,
    rise: u32,
    healthy: bool,
    /// Checks in a row that spoke against the present state.
    against: u32,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It was unhealthy and counts as healthy now.
    Rose,
    /// It was healthy and counts as unhealthy now.
    Fell,
}

impl Damper {
    /// Begins with `healthy`. A `fall` or `rise` of zero means one.
    pub fn new(healthy: bool, fall: u32, rise: u32) -> Damper {
        Damper {
            fall: fall.max(1),
            rise: rise.max(1),
            healthy,
            against: 0,
        }
    }

    /// Whether it counts as healthy.
    pub fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// Checks in a row that spoke against the present state.
    pub fn against(&self) -> u32 {
        self.against
    }

    /// Takes in one check.
    pub fn observe(&mut self, good: bool) -> Option<Turn> {
        if good == self.healthy {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if self.healthy { self.fall } else { self.rise };
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.healthy = good;
        Some(if good { Turn::Rose } else { Turn::Fell })
    }

    /// Takes new limits and keeps the state: a changed configuration must not make a server flap.
    pub fn set_limits(&mut self, fall: u32, rise: u32) {
        self.fall = fall.max(1);
        self.rise = rise.max(1);
    }

    /// Sets the state at once, without damping: for evidence that needs no second look (a refused connection of a
    /// real request, a server that was taken out).
    pub fn force(&mut self, healthy: bool) -> Option<Turn> {
        self.against = 0;
        if self.healthy == healthy {
            return None;
        }
        self.healthy = healthy;
        Some(if healthy { Turn::Rose } else { Turn::Fell })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_failures_in_a_row_and_not_two_in_all() {
        let mut damper = Damper::new(true, 2, 3);
        assert_eq!(
            [false, true, false].map(|good| damper.observe(good)),
            [None, None, None]
        );
        assert_eq!(damper.observe(false), Some(Turn::Fell));
        assert_eq!([true, true].map(|good| damper.observe(good)), [None, None]);
        assert_eq!(damper.observe(true), Some(Turn::Rose));
    }

    proptest! {
        /// Against the definition: the state turns exactly when the last `fall` (or `rise`) checks all spoke
        /// against it since it last turned.
        #[test]
        fn it_is_its_definition(
            fall in 1u32..5, rise in 1u32..5, start: bool, checks in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut damper = Damper::new(start, fall, rise);
            let mut healthy = start;
            let mut since = Vec::new();
            for good in checks {
                since.push(good);
                let needed = if healthy { fall } else { rise } as usize;
                let turns = since.len() >= needed && since.iter().rev().take(needed).all(|good| *good != healthy);
                let turn = damper.observe(good);
                prop_assert_eq!(turn.is_some(), turns);
                if turns {
                    healthy = !healthy;
                    since.clear();
                }
                prop_assert_eq!(damper.is_healthy(), healthy);
            }
        }
    }
}
