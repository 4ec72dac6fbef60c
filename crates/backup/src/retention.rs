//! What is no longer needed. Pure, but for [`apply`].

use std::time::Duration;

use pontoon_fleet::{Refusal, UnixMillis};

use crate::archive::Index;
use crate::catalog::Catalog;
use crate::manifest::Manifest;
use crate::store::Store;

/// Clocks of servers and store that are further apart than this decide nothing.
const CLOCKS_APART: Duration = Duration::from_secs(3600);

/// A binary log's clock is that of whoever wrote it: files are kept for so much longer.
const RESERVE: Duration = Duration::from_secs(3600);

/// What may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Copies, by name.
    pub copies: Vec<String>,
    /// Files of the archive, by their index.
    pub archive: Vec<Index>,
}

/// What is not needed to go back to any moment of the last `keep`. The newest copy from before that stays, since the
/// moments after it begin there; so the last whole copy always stays.
pub fn expired(catalog: &Catalog, now: UnixMillis, keep: Duration) -> Expired {
    let begin = UnixMillis(
        now.0
            .saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX)),
    );
    let Some(base) = catalog
        .copies
        .iter()
        .filter(|copy| copy.ended <= begin)
        .max_by_key(|copy| copy.ended)
    else {
        return Expired::default();
    };
    let needed_from = base
        .begun
        .0
        .saturating_sub(u64::try_from(RESERVE.as_millis()).unwrap_or(0))
        / 1000;
    Expired {
        copies: catalog
            .copies
            .iter()
            .filter(|copy| copy.ended < base.ended)
            .map(|copy| copy.id.clone())
            .collect(),
        archive: catalog
            .archive
            .iter()
            .filter(|index| index.complete && u64::from(index.last) < needed_from)
            .cloned()
            .collect(),
    }
}

/// Removes what has expired. `newest` is a copy that was made just now: when the store's clock and this one's do not agree
/// about it, nothing is removed.
///
/// # Errors
/// The store's; what was not removed is tried again the next time.
pub async fn apply(
    store: &Store,
    newest: &Manifest,
    now: UnixMillis,
    keep: Duration,
) -> Result<Expired, Refusal> {
    let written = store.written(&Manifest::object(&newest.id)).await?;
    let apart = written.since(now).max(now.since(written));
    if apart > CLOCKS_APART {
        tracing::warn!(
            ?apart,
            "the store's clock and this server's differ: no old copy is removed"
        );
        return Ok(Expired::default());
    }
    let catalog = Catalog::load(store).await?;
    let expired = expired(&catalog, now, keep);
    for id in &expired.copies {
        // The manifest first: what is left of a copy then looks like none.
        store.delete(&Manifest::object(id)).await?;
        store.delete(&Manifest::data(id)).await?;
        tracing::info!(%id, "removed a copy that is older than what is kept");
    }
    for index in &expired.archive {
        store.delete(&index.object()).await?;
        for number in 0..index.blocks.len() {
            store.delete(&index.block(number)).await?;
        }
    }
    Ok(expired)
}
