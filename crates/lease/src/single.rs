//! The store of kind `single`: a file on one server.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use pontoon_fleet::LeaseRecord;
use pontoon_rt::files::{self, FileError};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{Found, LeaseError, LeaseStore, Swap, Version, check_step};

/// Larger than any record.
const MAX_BYTES: u64 = 64 << 10;

/// A frozen process may hold the lock: whoever waits gives up and says so.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A file, replaced atomically under a lock on a file beside it. The kernel drops the lock of a process that dies.
#[derive(Clone, Debug)]
pub struct Single {
    path: PathBuf,
    lock_path: PathBuf,
}

/// What is in the file. The serial makes every write a version of its own, also when a record comes again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    serial: u64,
    record: LeaseRecord,
}

impl Single {
    /// The store in the file `path`, which need not be there yet; its directory must be.
    pub fn new(path: impl Into<PathBuf>) -> Single {
        let path = path.into();
        let mut lock_path = path.clone().into_os_string();
        lock_path.push(".lock");
        Single {
            path,
            lock_path: lock_path.into(),
        }
    }

    /// Opens and locks the lock file. Waits on tokio's clock, not in the kernel, so that a frozen holder holds up one
    /// task and not a thread.
    async fn lock(&self) -> Result<File, LeaseError> {
        let file_error = |doing| move |error| FileError::new(&self.lock_path, doing, error);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&self.lock_path)
            .map_err(file_error("open"))?;
        let deadline = tokio::time::Instant::now() + LOCK_PATIENCE;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK | Errno::INTR) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    return Err(LeaseError::Busy {
                        place: self.path.display().to_string(),
                    });
                }
                Err(errno) => return Err(file_error("lock")(errno.into()).into()),
            }
        }
    }
}

impl LeaseStore for Single {
    type Record = LeaseRecord;

    fn read(&self) -> BoxFuture<'_, Result<Found, LeaseError>> {
        // No lock: a rename shows the old record or the new one, whole.
        let path = self.path.clone();
        blocking(move || Ok(load(&path)?.map(Stored::found))).boxed()
    }

    fn compare_and_swap<'a>(
        &'a self,
        expected: Option<&'a Version>,
        new: &'a LeaseRecord,
    ) -> BoxFuture<'a, Result<Swap, LeaseError>> {
        async move {
            let lock = self.lock().await?;
            let (path, expected, record) = (self.path.clone(), expected.cloned(), new.clone());
            // The lock moves along: a caller that goes away does not unlock a write that still runs.
            blocking(move || {
                let _lock = lock;
                swap(&path, expected.as_ref(), record)
            })
            .await
        }
        .boxed()
    }
}

impl Stored {
    fn version(&self) -> Version {
        Version::new(self.serial.to_string())
    }

    fn found(self) -> (LeaseRecord, Version) {
        let version = self.version();
        (self.record, version)
    }
}

/// Under the lock.
fn swap(path: &Path, expected: Option<&Version>, record: LeaseRecord) -> Result<Swap, LeaseError> {
    let current = load(path)?;
    if current.as_ref().map(Stored::version).as_ref() != expected {
        return Ok(Swap::Lost(current.map(Stored::found)));
    }
    check_step(current.as_ref().map(|stored| &stored.record), &record)?;
    let next = Stored {
        serial: current.map_or(1, |stored| stored.serial.saturating_add(1)),
        record,
    };
    let bytes = serde_json::to_vec(&next).map_err(|error| FileError::new(path, "write", error.into()))?;
    match files::write_atomic(path, &bytes, 0o600) {
        Ok(()) => Ok(Swap::Won(next.version())),
        // The record is in place, and may not survive a power cut: neither won nor lost.
        Err(error) if error.doing == "sync" => Err(LeaseError::Doubt(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

fn load(path: &Path) -> Result<Option<Stored>, LeaseError> {
    let Some(bytes) = files::read_limited(path, MAX_BYTES)? else {
        return Ok(None);
    };
    let damaged = |error: serde_json::Error| LeaseError::Damaged {
        place: path.display().to_string(),
        why: error.to_string(),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Runs file work where it may take its time.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LeaseError> + Send + 'static,
) -> Result<T, LeaseError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // The runtime is going down, or the work panicked.
        Err(error) => Err(LeaseError::Doubt(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use pontoon_fleet::{Code, Epoch, Refusal};

    use super::*;

    fn record(epoch: u64, leader: &str) -> LeaseRecord {
        LeaseRecord {
            epoch: Epoch(epoch),
            leader: leader.parse().unwrap(),
        }
    }

    fn store() -> (tempfile::TempDir, Single) {
        let dir = tempfile::tempdir().unwrap();
        let store = Single::new(dir.path().join("lease.json"));
        (dir, store)
    }

    fn won(swap: Swap) -> Version {
        match swap {
            Swap::Won(version) => version,
            Swap::Lost(found) => panic!("lost to {found:?}"),
        }
    }

    #[tokio::test]
    async fn a_record_is_read_back_and_replaced_by_who_knows_its_version() {
        let (_dir, store) = store();
        assert_eq!(store.read().await.unwrap(), None);
        let first = won(store.compare_and_swap(None, &record(1, "a")).await.unwrap());
        assert_eq!(store.read().await.unwrap(), Some((record(1, "a"), first.clone())));
        let second = won(store
            .compare_and_swap(Some(&first), &record(2, "b"))
            .await
            .unwrap());
        for stale in [None, Some(&first)] {
            let swap = store.compare_and_swap(stale, &record(3, "c")).await.unwrap();
            assert_eq!(swap, Swap::Lost(Some((record(2, "b"), second.clone()))));
        }
        // The same record again is another version.
        let third = won(store
            .compare_and_swap(Some(&second), &record(2, "b"))
            .await
            .unwrap());
        assert_ne!(second, third);
        let mode = std::fs::metadata(&store.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_racers_exactly_one_wins_each_round() {
        let (_dir, store) = store();
        let mut expected: Option<Version> = None;
        for round in 1..=10u64 {
            let start = Arc::new(tokio::sync::Barrier::new(16));
            let racers: Vec<_> = (0..16)
                .map(|racer| {
                    // A store of its own each: as different processes would have.
                    let (store, start, expected) = (
                        Single::new(store.path.clone()),
                        Arc::clone(&start),
                        expected.clone(),
                    );
                    tokio::spawn(async move {
                        start.wait().await;
                        let mine = record(round, &format!("s{racer}"));
                        (
                            mine.clone(),
                            store.compare_and_swap(expected.as_ref(), &mine).await.unwrap(),
                        )
                    })
                })
                .collect();
            let mut winners = Vec::new();
            for racer in racers {
                if let (mine, Swap::Won(version)) = racer.await.unwrap() {
                    winners.push((mine, version));
                }
            }
            assert_eq!(winners.len(), 1, "round {round}");
            assert_eq!(store.read().await.unwrap(), winners.first().cloned());
            expected = winners.pop().map(|(_, version)| version);
        }
    }

    #[tokio::test]
    async fn a_torn_file_is_damaged_and_never_missing() {
        let (_dir, store) = store();
        let version = won(store.compare_and_swap(None, &record(1, "a")).await.unwrap());
        let whole = std::fs::read(&store.path).unwrap();
        for torn in [&b""[..], &whole[..whole.len() / 2], b"{}", b"null", b"\xff"] {
            std::fs::write(&store.path, torn).unwrap();
            let error = store.read().await.unwrap_err();
            assert!(matches!(error, LeaseError::Damaged { .. }));
            assert_eq!(Refusal::from(error).code, Code::F001);
            for expected in [None, Some(&version)] {
                let error = store
                    .compare_and_swap(expected, &record(9, "b"))
                    .await
                    .unwrap_err();
                assert!(matches!(error, LeaseError::Damaged { .. }));
            }
            assert_eq!(
                std::fs::read(&store.path).unwrap(),
                torn,
                "left for the operator to see"
            );
        }
    }

    #[tokio::test]
    async fn an_epoch_never_goes_back_nor_has_two_leaders() {
        let (_dir, store) = store();
        let version = won(store.compare_and_swap(None, &record(5, "a")).await.unwrap());
        for bad in [record(4, "a"), record(4, "b"), record(5, "b")] {
            let error = store.compare_and_swap(Some(&version), &bad).await.unwrap_err();
            assert!(matches!(error, LeaseError::Backwards { .. }), "{bad:?}");
        }
        won(store
            .compare_and_swap(Some(&version), &record(6, "b"))
            .await
            .unwrap());
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_written_changes_nothing() {
        let (dir, store) = store();
        let version = won(store.compare_and_swap(None, &record(1, "a")).await.unwrap());
        let nowhere = Single::new(dir.path().join("no/such/lease.json"));
        assert_eq!(nowhere.read().await.unwrap(), None);
        assert!(matches!(
            nowhere.compare_and_swap(None, &record(1, "a")).await,
            Err(LeaseError::File(_))
        ));
        assert_eq!(store.read().await.unwrap(), Some((record(1, "a"), version)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_holder_of_the_lock_is_not_waited_for_without_end() {
        let (_dir, store) = store();
        let held = store.lock().await.unwrap();
        let error = store.compare_and_swap(None, &record(1, "a")).await.unwrap_err();
        assert!(matches!(error, LeaseError::Busy { .. }));
        drop(held);
        won(store.compare_and_swap(None, &record(1, "a")).await.unwrap());
    }
}
