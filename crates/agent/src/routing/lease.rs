//! The lease in the store: which server gives a provider orders. Beside the failover's record, under a name of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_config::Config;
use pontoon_decide::routing::{Due, Keeper, Record};
use pontoon_fleet::{Epoch, ServerName};
use pontoon_lease::{Cell, CellError, Place, Put, Version};
use pontoon_rt::clock::Clock;

/// How long one request to the store may take: shorter than between two renewals.
const REQUEST: Duration = Duration::from_millis(1_500);

/// Of the object, after the lease's own.
const NAME: &str = "addresses";

pub(super) struct Lease {
    me: ServerName,
    cell: Result<Box<dyn Cell>, String>,
    keeper: Keeper,
    version: Option<Version>,
    trouble: Option<String>,
}

impl Lease {
    pub(super) fn of(config: &Config, me: ServerName) -> Lease {
        let place = Place::of(config.lease.as_ref(), &config.fleet.name);
        let cell = place
            .ok_or_else(|| "the lease is in no store that servers share".to_owned())
            .and_then(|place| pontoon_lease::open(&place, REQUEST).map_err(|refusal| refusal.to_string()))
            .map(|cell| cell.beside(NAME));
        Lease {
            me,
            cell,
            keeper: Keeper::default(),
            version: None,
            trouble: None,
        }
    }

    pub(super) fn holds(&self, now: Duration) -> bool {
        self.keeper.holds(now)
    }

    pub(super) fn placed(&self) -> BTreeMap<ServerName, ServerName> {
        self.keeper
            .record()
            .map(|record| record.placed.clone())
            .unwrap_or_default()
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.keeper.record().map_or(Epoch(0), |record| record.epoch)
    }

    pub(super) fn caller(&self) -> Option<ServerName> {
        self.keeper.record().map(|record| record.caller.clone())
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.cell.as_ref().err().cloned().or_else(|| self.trouble.clone())
    }

    /// Reads or writes the record when it is time, or when something else is wanted than it says.
    pub(super) async fn keep(&mut self, clock: &dyn Clock, wanted: &BTreeMap<ServerName, ServerName>) {
        let Ok(cell) = &self.cell else { return };
        let asked = clock.now();
        let decides =
            self.keeper.holds(asked) && self.keeper.record().is_some_and(|now| now.placed != *wanted);
        let due = self.keeper.due(asked, &self.me);
        // In doubt the first thing is a look.
        let due = if decides && self.keeper.is_certain() {
            Due::Write
        } else {
            due
        };
        if due == Due::Nothing {
            return;
        }
        self.keeper.asks(asked);
        let failed = match due {
            Due::Write => {
                let record = self.keeper.next(&self.me, nonce(), wanted);
                let body = serde_json::to_vec(&record).unwrap_or_default();
                match cell.put(self.version.as_ref(), body).await {
                    Ok(Put::Taken(version)) => {
                        self.version = Some(version);
                        self.keeper.wrote(asked, record);
                        None
                    }
                    // Somebody was faster, or an answer to this server's own last write was lost.
                    Ok(Put::Refused) => {
                        self.keeper.doubts(asked, record);
                        None
                    }
                    Err(error @ (CellError::NotSent(_) | CellError::Rejected(_))) => Some(error.to_string()),
                    Err(error @ CellError::Doubt(_)) => {
                        self.keeper.doubts(asked, record);
                        Some(error.to_string())
                    }
                }
            }
            _ => match cell.get().await {
                Ok(found) => match read(found) {
                    Ok((record, version)) => {
                        self.version = version;
                        self.keeper.saw(clock.now(), record);
                        None
                    }
                    Err(why) => Some(why),
                },
                Err(error) => Some(error.to_string()),
            },
        };
        if failed != self.trouble {
            if let Some(why) = &failed {
                tracing::warn!(place = cell.place(), why, "the lease for addresses was not had");
            }
            self.trouble = failed;
        }
    }
}

/// What is damaged is never taken for «nothing there».
fn read(found: pontoon_lease::Content) -> Result<(Option<Record>, Option<Version>), String> {
    let Some((bytes, version)) = found else {
        return Ok((None, None));
    };
    let record = serde_json::from_slice(&bytes)
        .map_err(|error| format!("the lease for addresses is damaged: {error}"))?;
    Ok((Some(record), Some(version)))
}

fn nonce() -> u64 {
    let mut bytes = [0; 8];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        // Two writes of one server are never at the same time.
        Err(_) => pontoon_rt::clock::SystemClock.unix().0,
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
