//! What this server remembers of every path, in one file that a kill cannot tear (redb: a transaction is whole or not
//! there).

use std::path::Path;

use pontoon_fleet::ServerName;
use pontoon_mirror::{Clock, Entry, Record};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use serde::{Deserialize, Serialize};

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
/// What a file looked like when it was hashed.
const PRINTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("prints");
const SERIALS: TableDefinition<'_, &str, u64> = TableDefinition::new("serials");
/// Changes in their order; a path stands in it once, at its last change.
const LOG: TableDefinition<'_, u64, &str> = TableDefinition::new("log");
/// What is wanted: since when, in milliseconds since 1970.
const WANTED: TableDefinition<'_, &str, u64> = TableDefinition::new("wanted");
const OWED: TableDefinition<'_, &str, ()> = TableDefinition::new("owed");
/// Of each server, how far its changes were read.
const CURSORS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("cursors");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// What can go wrong with the journal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("the journal: {0}")]
    Database(Box<redb::Error>),
    #[error("the journal holds what cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

macro_rules! from_redb {
    ($($error:ident)*) => {
        $(impl From<redb::$error> for JournalError {
            fn from(error: redb::$error) -> JournalError {
                JournalError::Database(Box::new(error.into()))
            }
        })*
    };
}

from_redb!(DatabaseError TransactionError TableError StorageError CommitError);

/// What a file looks like from outside; another one after each write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Print {
    pub inode: u64,
    pub size: u64,
    pub mtime_ns: i128,
    /// When anything of the inode changed. Nobody can set it back, as `mtime` can be.
    pub ctime_ns: i128,
    /// Whether it was taken so soon after the last change that another one may have followed within the same tick of the file
    /// system's clock, and would look the same.
    pub is_fresh: bool,
}

impl Print {
    /// Whether nothing was done to the file between the two, as far as its file system tells.
    pub fn is_as(&self, other: &Print) -> bool {
        self.is_same_file(other) && self.ctime_ns == other.ctime_ns
    }

    /// When it changed, in milliseconds since 1970.
    pub fn changed_ms(&self) -> u64 {
        u64::try_from(self.ctime_ns / 1_000_000).unwrap_or(0)
    }

    /// As [`Print::is_as`], when it was renamed in between, which changes `ctime`.
    pub fn is_same_file(&self, other: &Print) -> bool {
        (self.inode, self.size, self.mtime_ns) == (other.inode, other.size, other.mtime_ns)
    }
}

/// How far another server's changes were read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Which journal: a new one counts anew.
    pub journal: String,
    pub after: u64,
}

/// What holds for the whole folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Whole {
    /// Names this journal, and stands in the folder's mark.
    pub id: String,
    pub mark: String,
    pub looked_around: bool,
    pub braked: bool,
}

/// One change, as others read it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Change {
    pub path: String,
    pub entry: Entry,
}

/// Figures for the report.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub wanted: u64,
    pub oldest_wanted: Option<u64>,
    pub owed: u64,
    pub last_serial: u64,
}

#[derive(Debug)]
pub(crate) struct Journal {
    db: Database,
}

impl Journal {
    pub fn open(path: &Path) -> Result<Journal, JournalError> {
        let db = Database::create(path)?;
        let write = db.begin_write()?;
        write.open_table(RECORDS)?;
        write.open_table(PRINTS)?;
        write.open_table(SERIALS)?;
        write.open_table(LOG)?;
        write.open_table(WANTED)?;
        write.open_table(OWED)?;
        write.open_table(CURSORS)?;
        write.open_table(META)?;
        write.commit()?;
        Ok(Journal { db })
    }

    pub fn get(&self, path: &str) -> Result<Record, JournalError> {
        let read = self.db.begin_read()?;
        let table = read.open_table(RECORDS)?;
        let found = table.get(path)?;
        Ok(found
            .map(|bytes| serde_json::from_slice(bytes.value()))
            .transpose()?
            .unwrap_or_default())
    }

    pub fn print(&self, path: &str) -> Result<Option<Print>, JournalError> {
        let read = self.db.begin_read()?;
        let table = read.open_table(PRINTS)?;
        let found = table.get(path)?;
        Ok(found
            .map(|bytes| serde_json::from_slice(bytes.value()))
            .transpose()?)
    }

    pub fn whole(&self) -> Result<Whole, JournalError> {
        self.meta("whole")
    }

    pub fn clock(&self) -> Result<Clock, JournalError> {
        Ok(Clock::after(self.meta("clock")?))
    }

    fn meta<T: Default + serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, JournalError> {
        let read = self.db.begin_read()?;
        let table = read.open_table(META)?;
        let found = table.get(name)?;
        Ok(found
            .map(|bytes| serde_json::from_slice(bytes.value()))
            .transpose()?
            .unwrap_or_default())
    }

    pub fn cursor(&self, server: &ServerName) -> Result<Cursor, JournalError> {
        let read = self.db.begin_read()?;
        let table = read.open_table(CURSORS)?;
        let found = table.get(server.as_str())?;
        Ok(found
            .map(|bytes| serde_json::from_slice(bytes.value()))
            .transpose()?
            .unwrap_or_default())
    }

    /// The changes after `after`, `most` at a time, and how far they go.
    pub fn changes(&self, after: u64, most: usize) -> Result<(Vec<Change>, u64), JournalError> {
        let read = self.db.begin_read()?;
        let (log, records) = (read.open_table(LOG)?, read.open_table(RECORDS)?);
        let (mut changes, mut upto) = (Vec::new(), after);
        for row in log.range(after.saturating_add(1)..)?.take(most) {
            let (serial, path) = row?;
            upto = serial.value();
            let path = path.value().to_owned();
            let Some(bytes) = records.get(path.as_str())? else {
                continue;
            };
            let record: Record = serde_json::from_slice(bytes.value())?;
            changes.extend(record.have.map(|entry| Change { path, entry }));
        }
        Ok((changes, upto))
    }

    /// Records in the order of their paths, after `after`.
    pub fn page(&self, after: &str, most: usize) -> Result<Vec<(String, Record)>, JournalError> {
        let read = self.db.begin_read()?;
        let table = read.open_table(RECORDS)?;
        let mut found = Vec::new();
        for row in table.range(after..)? {
            let (path, bytes) = row?;
            if path.value() == after {
                continue;
            }
            found.push((path.value().to_owned(), serde_json::from_slice(bytes.value())?));
            if found.len() >= most {
                break;
            }
        }
        Ok(found)
    }

    pub fn all_wanted(&self) -> Result<Vec<String>, JournalError> {
        let read = self.db.begin_read()?;
        let table = read.open_table(WANTED)?;
        let rows = table.iter()?;
        rows.map(|row| Ok(row?.0.value().to_owned())).collect()
    }

    pub fn all_owed(&self) -> Result<Vec<String>, JournalError> {
        let read = self.db.begin_read()?;
        let table = read.open_table(OWED)?;
        let rows = table.iter()?;
        rows.map(|row| Ok(row?.0.value().to_owned())).collect()
    }

    /// Counted in the tables, none of which is walked but that of what is wanted.
    pub fn counts(&self) -> Result<Counts, JournalError> {
        let read = self.db.begin_read()?;
        let wanted = read.open_table(WANTED)?;
        let mut oldest: Option<u64> = None;
        for row in wanted.iter()? {
            let since = row?.1.value();
            oldest = Some(oldest.map_or(since, |oldest| oldest.min(since)));
        }
        Ok(Counts {
            wanted: wanted.len()?,
            oldest_wanted: oldest,
            owed: read.open_table(OWED)?.len()?,
            last_serial: read.open_table(LOG)?.last()?.map_or(0, |row| row.0.value()),
        })
    }

    /// Everything that `change` writes, or nothing. On the disk when this returns.
    pub fn update<T>(
        &self,
        change: impl FnOnce(&Batch<'_>) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let write = self.db.begin_write()?;
        let done = change(&Batch { write: &write })?;
        write.commit()?;
        Ok(done)
    }
}

/// A transaction.
pub(crate) struct Batch<'a> {
    write: &'a redb::WriteTransaction,
}

impl Batch<'_> {
    pub fn get(&self, path: &str) -> Result<Record, JournalError> {
        let table = self.write.open_table(RECORDS)?;
        let found = table.get(path)?;
        Ok(found
            .map(|bytes| serde_json::from_slice(bytes.value()))
            .transpose()?
            .unwrap_or_default())
    }

    /// Writes a record down, with everything that follows from it.
    pub fn put(&self, path: &str, record: &Record, now_ms: u64) -> Result<(), JournalError> {
        let before = self.get(path)?;
        if before == *record {
            return Ok(());
        }
        let bytes = serde_json::to_vec(record)?;
        self.write.open_table(RECORDS)?.insert(path, bytes.as_slice())?;
        if before.have != record.have {
            let mut log = self.write.open_table(LOG)?;
            let last: u64 = match log.last()? {
                Some(row) => row.0.value(),
                None => 0,
            };
            // The last one may be taken out below: what was given out once is never given out again.
            let serial = last.max(self.meta("serial")?.unwrap_or(0)) + 1;
            let old = self
                .write
                .open_table(SERIALS)?
                .insert(path, serial)?
                .map(|old| old.value());
            if let Some(old) = old {
                log.remove(old)?;
            }
            log.insert(serial, path)?;
            self.set("serial", &serial)?;
        }
        let mut wanted = self.write.open_table(WANTED)?;
        match (&before.wanted, &record.wanted) {
            (None, Some(_)) => drop(wanted.insert(path, now_ms)?),
            (Some(_), None) => drop(wanted.remove(path)?),
            _ => {}
        }
        let mut owed = self.write.open_table(OWED)?;
        match record.owed_to_bucket() {
            Some(_) => drop(owed.insert(path, ())?),
            None => drop(owed.remove(path)?),
        }
        Ok(())
    }

    pub fn put_print(&self, path: &str, print: &Print) -> Result<(), JournalError> {
        let bytes = serde_json::to_vec(print)?;
        self.write.open_table(PRINTS)?.insert(path, bytes.as_slice())?;
        Ok(())
    }

    /// Forgets a path altogether, with its change in the log.
    pub fn forget(&self, path: &str) -> Result<(), JournalError> {
        self.write.open_table(RECORDS)?.remove(path)?;
        self.forget_print(path)?;
        let serial = self
            .write
            .open_table(SERIALS)?
            .remove(path)?
            .map(|serial| serial.value());
        if let Some(serial) = serial {
            self.write.open_table(LOG)?.remove(serial)?;
        }
        Ok(())
    }

    /// Where in the log the last change of a path stands.
    pub fn serial(&self, path: &str) -> Result<Option<u64>, JournalError> {
        let table = self.write.open_table(SERIALS)?;
        let found = table.get(path)?;
        Ok(found.map(|serial| serial.value()))
    }

    pub fn forget_print(&self, path: &str) -> Result<(), JournalError> {
        self.write.open_table(PRINTS)?.remove(path)?;
        Ok(())
    }

    pub fn set_cursor(&self, server: &ServerName, cursor: &Cursor) -> Result<(), JournalError> {
        let bytes = serde_json::to_vec(cursor)?;
        self.write
            .open_table(CURSORS)?
            .insert(server.as_str(), bytes.as_slice())?;
        Ok(())
    }

    pub fn set_clock(&self, clock: &Clock) -> Result<(), JournalError> {
        self.set("clock", &clock.last())
    }

    pub fn set_whole(&self, whole: &Whole) -> Result<(), JournalError> {
        self.set("whole", whole)
    }

    fn set<T: Serialize>(&self, name: &str, value: &T) -> Result<(), JournalError> {
        let bytes = serde_json::to_vec(value)?;
        self.write.open_table(META)?.insert(name, bytes.as_slice())?;
        Ok(())
    }

    fn meta<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, JournalError> {
        let table = self.write.open_table(META)?;
        let found = table.get(name)?;
        Ok(found
            .map(|bytes| serde_json::from_slice(bytes.value()))
            .transpose()?)
    }
}

#[cfg(test)]
mod tests {
    use pontoon_mirror::{Content, Digest, Look, Observed};

    use super::*;

    fn written(record: &mut Record, clock: &mut Clock, byte: u8) {
        let content = Content {
            sha256: Digest([byte; 32]),
            size: 1,
            mode: 0o644,
            mtime_ms: 1,
        };
        let mut look = Look {
            me: &"a".parse().unwrap(),
            clock,
            now_ms: 10,
            changed_ms: 10,
            first: false,
        };
        assert_eq!(record.observed(Some(&content), &mut look), Observed::Written);
    }

    #[test]
    fn changes_are_read_in_their_order_and_each_path_once() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(&dir.path().join("journal.redb")).unwrap();
        let mut clock = Clock::default();
        for (path, byte) in [("a", 1), ("b", 2), ("a", 3), ("a", 4)] {
            journal
                .update(|batch| {
                    let mut record = batch.get(path)?;
                    written(&mut record, &mut clock, byte);
                    batch.put(path, &record, 5)?;
                    batch.set_clock(&clock)
                })
                .unwrap();
        }
        let (changes, upto) = journal.changes(0, 10).unwrap();
        let paths: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
        assert_eq!((paths.as_slice(), upto), (["b", "a"].as_slice(), 4));
        assert_eq!(journal.changes(4, 10).unwrap().1, 4);
        assert_eq!(journal.all_owed().unwrap(), ["a", "b"]);
        assert_eq!(journal.clock().unwrap(), clock);
        // What was not committed is not there.
        let failed: Result<(), JournalError> = journal.update(|batch| {
            batch.put(
                "c",
                &Record {
                    have: changes.first().map(|change| change.entry.clone()),
                    ..Record::default()
                },
                5,
            )?;
            serde_json::from_str::<()>("no").map_err(JournalError::from)
        });
        assert!(failed.is_err());
        assert_eq!(journal.get("c").unwrap(), Record::default());
        assert_eq!(journal.page("a", 10).unwrap().len(), 1);
    }
}
