//! Servers take turns, the local one included like any other.
//!
//! Each edge thread has a [`RoundRobin`] of its own; nothing is shared, nothing is locked.

/// Whose turn it is.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    /// Of first tries.
    turn: usize,
    /// Of retries. Were there one turn for both, a retry would use up its neighbour's turn, and of two servers
    /// the failing one would be first in line for every request.
    retry_turn: usize,
}

impl RoundRobin {
    /// The first turn is that of server `start` (modulo their number). Threads start at different servers so
    /// that the first requests of all threads do not meet at the same one.
    pub fn new(start: usize) -> RoundRobin {
        RoundRobin {
            turn: start,
            retry_turn: start,
        }
    }

    /// The next of `count` servers that `may` be chosen; `None` when none may.
    ///
    /// Retries take turns of their own: when one of three servers fails, it is still asked first by a third of
    /// the requests and no more, and the other two share those evenly.
    pub fn choose(&mut self, count: usize, may: impl Fn(usize) -> bool, retry: bool) -> Option<usize> {
        let turn = if retry {
            &mut self.retry_turn
        } else {
            &mut self.turn
        };
        let index = (0..count)
            .map(|step| (*turn % count + step) % count)
            .find(|&index| may(index))?;
        *turn = index + 1;
        Some(index)
    }
}
