//! Floors: what a reader must see.

use std::fmt;

use pontoon_fleet::Epoch;

use crate::{Dialect, Position, PositionError};

/// A position and the epoch in which it means something: when the primary changes, what only the old one had is
/// gone, and its numbers may be given out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    /// The epoch of the primary that it is of.
    pub epoch: Epoch,
    /// What must be reached.
    pub position: Position,
}

/// What one session must see.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum SessionFloor {
    /// All that it wrote.
    Known(Floor),
    /// It has written nothing yet.
    #[default]
    Nothing,
    /// It may have written something without being told its position: an error, or a connection that broke, where
    /// something may have been committed.
    Unknown,
}

impl Floor {
    /// Reads `EPOCH@POSITION`, which [`Display`](fmt::Display) writes.
    ///
    /// # Errors
    /// [`PositionError`].
    pub fn parse(dialect: Dialect, text: &str) -> Result<Floor, PositionError> {
        let (epoch, position) = text
            .split_once('@')
            .ok_or(PositionError::Malformed("expected EPOCH@POSITION"))?;
        Ok(Floor {
            epoch: Epoch(crate::mariadb::number(epoch)?),
            position: Position::parse(dialect, position)?,
        })
    }

    /// Takes in what `other` asks for. Of two epochs the later counts alone.
    pub fn merge(&mut self, other: &Floor) {
        match other.epoch.cmp(&self.epoch) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => self.position.merge(&other.position),
            std::cmp::Ordering::Greater => *self = other.clone(),
        }
    }
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.epoch.0, self.position)
    }
}

impl SessionFloor {
    /// The session's write was acknowledged with `floor`. What was unknown before stays so: a later position says
    /// nothing of an earlier transaction in another domain or of another connection.
    pub fn wrote(&mut self, floor: &Floor) {
        match self {
            SessionFloor::Known(known) => {
                known.merge(floor);
                known.position.widen(MAX_INTERVALS);
            }
            SessionFloor::Nothing => *self = SessionFloor::Known(floor.clone()),
            SessionFloor::Unknown => {}
        }
    }
}

/// Intervals that a session's floor has of each source.
const MAX_INTERVALS: usize = 4;
