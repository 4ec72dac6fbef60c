//! The record in a [`Cell`]: the nonce, and the look back after every doubt.

use futures::FutureExt;
use futures::future::BoxFuture;
use pontoon_decide::failover::Record;

use crate::cell::{Cell, CellError, Put};
use crate::{Found, LeaseError, LeaseStore, Swap, Version};

/// A lease store in a cell. A write that is not plainly answered with «taken» is looked back at: when the record there
/// has the nonce of the one that was to be written, it was taken, whatever was answered.
#[derive(Debug)]
pub struct Kept {
    cell: Box<dyn Cell>,
}

impl Kept {
    /// The store that keeps its record in `cell`.
    pub fn new(cell: Box<dyn Cell>) -> Kept {
        Kept { cell }
    }

    /// Its object.
    pub fn cell(&self) -> &dyn Cell {
        &*self.cell
    }

    async fn load(&self) -> Result<Found<Record>, LeaseError> {
        let Some((bytes, version)) = self.cell.get().await.map_err(|error| self.failed(error))? else {
            return Ok(None);
        };
        let damaged = |why: String| LeaseError::Damaged {
            place: self.cell.place(),
            why,
        };
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        record.check().map_err(damaged)?;
        Ok(Some((record, version)))
    }

    async fn swap(&self, expected: Option<&Version>, new: &Record) -> Result<Swap<Record>, LeaseError> {
        let body = serde_json::to_vec(new).map_err(|error| LeaseError::Refused(error.to_string()))?;
        let answer = self.cell.put(expected, body).await;
        let why = match answer {
            Ok(Put::Taken(version)) => return Ok(Swap::Won(version)),
            Err(error @ (CellError::NotSent(_) | CellError::Rejected(_))) => return Err(self.failed(error)),
            Ok(Put::Refused) => None,
            Err(CellError::Doubt(why)) => Some(why),
        };
        let doubt = |more: String| LeaseError::Doubt(format!("{}: {more}", self.cell.place()));
        let found = self.load().await.map_err(|error| doubt(error.to_string()))?;
        match (&found, why) {
            (Some((record, version)), _) if record.nonce == new.nonce => Ok(Swap::Won(version.clone())),
            // The condition can still hold, so the write can still come.
            (found, Some(why)) if found.as_ref().map(|(_, version)| version) == expected => Err(doubt(why)),
            _ => Ok(Swap::Lost(found)),
        }
    }

    fn failed(&self, error: CellError) -> LeaseError {
        LeaseError::Unanswered {
            place: self.cell.place(),
            why: error.to_string(),
        }
    }
}

impl LeaseStore for Kept {
    type Record = Record;

    fn read(&self) -> BoxFuture<'_, Result<Found<Record>, LeaseError>> {
        self.load().boxed()
    }

    fn compare_and_swap<'a>(
        &'a self,
        expected: Option<&'a Version>,
        new: &'a Record,
    ) -> BoxFuture<'a, Result<Swap<Record>, LeaseError>> {
        self.swap(expected, new).boxed()
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
