//! One object in a store that takes conditional writes: what the stores of kind `s3` and `etcd` have in common.

use std::fmt;

use futures::future::BoxFuture;

use crate::Version;

/// Larger than any record.
pub(crate) const MAX_BYTES: usize = 64 << 10;

/// How a conditional write was answered. Not what happened: see [`Kept`](crate::Kept).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// Taken, under this version.
    Taken(Version),
    /// Not taken, because the condition did not hold.
    Refused,
}

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CellError {
    /// The request did not leave this machine.
    #[error("{0}")]
    NotSent(String),
    /// The store refused the request, whatever its condition: not done, and not to be done.
    #[error("the store refused the request: {0}")]
    Rejected(String),
    /// The request may have been carried out, or may yet be.
    #[error("{0}")]
    Doubt(String),
}

/// What an object holds, and which write of it that is.
pub type Content = Option<(Vec<u8>, Version)>;

/// One object.
pub trait Cell: fmt::Debug + Send + Sync {
    /// Where it is, for people; without secrets.
    fn place(&self) -> String;

    /// What is in it; `None` when it is not there.
    fn get(&self) -> BoxFuture<'_, Result<Content, CellError>>;

    /// Writes `body` if the object is still of `expected` (`None`: if it is not there). One request, never repeated.
    fn put<'a>(
        &'a self,
        expected: Option<&'a Version>,
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<Put, CellError>>;

    /// Another object of the same store, beside this one.
    fn beside(&self, name: &str) -> Box<dyn Cell>;

    /// Removes it, without a condition. Only for objects that a probe made.
    fn remove(&self) -> BoxFuture<'_, Result<(), CellError>>;
}
