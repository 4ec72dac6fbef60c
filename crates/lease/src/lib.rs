//! Who may be primary, agreed on in a store.
//!
//! **In:** a [`LeaseRecord`] and the [`Version`] of the one that it replaces. **Out:** exactly one winner of each
//! version, and the record that is there now. Consensus comes from the store; nothing here is home-made.
//!
//! [`Single`] is the store of a fleet whose record lives on one server: a file. [`Kept`] is one in an object store
//! ([`S3Cell`]) or in etcd ([`EtcdCell`]). All have the same face: a version is opaque (an ETag, a revision), and an
//! answer that was lost on the way is [`LeaseError::Doubt`], never a guess. [`probe()`] finds out whether a store takes
//! one winner; one that does not must not be used.
//!
//! **Must never:** answer "won" twice for one version, take a damaged record for a missing one, or let an epoch go back.

mod cell;
mod etcd;
pub mod http;
mod kept;
mod place;
pub mod probe;
mod s3;
mod secret;
mod single;

use std::fmt;

use futures::future::BoxFuture;
use pontoon_fleet::{Code, LeaseRecord, Refusal};
use pontoon_rt::files::FileError;

pub use cell::{Cell, CellError, Content, Put};
pub use etcd::{EtcdCell, EtcdSettings};
pub use kept::Kept;
pub use place::{Place, open};
pub use probe::probe;
pub use s3::{S3Cell, S3Settings, bucket};
pub use secret::Secret;
pub use single::Single;

/// Which write of the record. Opaque: only equality means something, and only within one store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(String);

impl Version {
    /// A version as a store calls it.
    pub fn new(text: impl Into<String>) -> Version {
        Version(text.into())
    }

    /// The store's word for it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The record that is there, and which it is.
pub type Found<R = LeaseRecord> = Option<(R, Version)>;

/// How a compare-and-swap ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap<R = LeaseRecord> {
    /// The new record is there, under this version.
    Won(Version),
    /// Somebody else was first. Nothing was changed; this is what is there.
    Lost(Found<R>),
}

/// Why a store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The store's file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is there is not a record. Never taken for "nothing there": that could make a second primary.
    #[error("the lease in {place} is damaged: {why}")]
    Damaged {
        /// Where.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// The epoch would go back, or stand still while the leader changes.
    #[error("refused to replace epoch {current} by {wanted}: epochs only grow")]
    Backwards {
        /// The epoch that is there.
        current: pontoon_fleet::Epoch,
        /// The epoch that was to replace it.
        wanted: pontoon_fleet::Epoch,
    },
    /// Another holds the store's lock for too long. Nothing was changed.
    #[error("the lease in {place} is locked by another process")]
    Busy {
        /// Where.
        place: String,
    },
    /// The store did not answer, or refused the request whatever was in it. Nothing was changed.
    #[error("{place}: {why}")]
    Unanswered {
        /// Where.
        place: String,
        /// What was heard instead.
        why: String,
    },
    /// The record cannot be written at all. Nothing was changed.
    #[error("the lease cannot be written: {0}")]
    Refused(String),
    /// The request may have been carried out or not. Read before doing anything else.
    #[error("whether the lease was written is not known: {0}")]
    Doubt(String),
}

impl From<LeaseError> for Refusal {
    fn from(error: LeaseError) -> Refusal {
        match error {
            LeaseError::File(error) => error.into(),
            LeaseError::Damaged { .. } => Refusal::new(
                Code::F001,
                "the lease cannot be read, so nobody can tell who may be primary",
            )
            .because(error.to_string()),
            LeaseError::Backwards { .. } | LeaseError::Refused(_) => {
                Refusal::new(Code::F001, "the lease was not changed").because(error.to_string())
            }
            LeaseError::Unanswered { .. } => {
                Refusal::new(Code::N002, "the lease store did not answer").because(error.to_string())
            }
            LeaseError::Busy { .. } | LeaseError::Doubt(_) => {
                Refusal::new(Code::N006, "the lease store did not answer").because(error.to_string())
            }
        }
    }
}

/// A store with one record in it.
pub trait LeaseStore: fmt::Debug + Send + Sync {
    /// What it keeps: [`LeaseRecord`] says who is primary and no more, which is all that one server needs;
    /// `pontoon_decide::failover::Record` is what several need to agree on it.
    type Record;

    /// The record; `None` when none was ever written.
    ///
    /// Fails with any [`LeaseError`] but [`LeaseError::Doubt`].
    fn read(&self) -> BoxFuture<'_, Result<Found<Self::Record>, LeaseError>>;

    /// Writes `new` if the record is still the one of `expected` (`None`: if there is none). Of several that try with
    /// one `expected`, exactly one is told [`Swap::Won`]. When the future ends, the record is durable.
    ///
    /// Fails with any [`LeaseError`].
    fn compare_and_swap<'a>(
        &'a self,
        expected: Option<&'a Version>,
        new: &'a Self::Record,
    ) -> BoxFuture<'a, Result<Swap<Self::Record>, LeaseError>>;
}

/// Whether `new` may follow `current`: the epoch grows with each change of leader and never goes back. Every store asks
/// this before it writes.
///
/// # Errors
/// [`LeaseError::Backwards`].
pub fn check_step(current: Option<&LeaseRecord>, new: &LeaseRecord) -> Result<(), LeaseError> {
    let Some(current) = current else { return Ok(()) };
    let same_leader = current.leader == new.leader;
    if new.epoch > current.epoch || (same_leader && new.epoch == current.epoch) {
        return Ok(());
    }
    Err(LeaseError::Backwards {
        current: current.epoch,
        wanted: new.epoch,
    })
}
