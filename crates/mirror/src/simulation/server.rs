//! One server: what is on its disk and in its journal, what it keeps in memory only, and the steps of the shell, each of
//! which a kill may follow.

use std::collections::{BTreeMap, BTreeSet};

use pontoon_fleet::ServerName;

use super::{Duty, Mutant};
use crate::{Brake, Clock, Content, Digest, Entry, Look, Observed, Record, Stamp, Version};

pub(super) type Path = u8;
/// A content: no two writes of an application make the same.
pub(super) type Bytes = u32;

/// How long a deletion waits before it is judged.
pub(super) const GRACE_MS: u64 = 2_000;
/// Deletions within a minute that are believed.
pub(super) const LEAST: u64 = 2;

/// A file on the disk, and whether the application put it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub bytes: Bytes,
    pub mtime_ms: u64,
    /// When that file came there (`ctime`), by the world's clock.
    pub changed_ms: u64,
    pub by_application: bool,
}

/// What survives a kill, beside the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal {
    pub records: BTreeMap<Path, Record>,
    pub serials: BTreeMap<Path, u64>,
    pub log: BTreeMap<u64, Path>,
    pub last_serial: u64,
    /// Of each server: how far its changes were read.
    pub cursors: BTreeMap<usize, u64>,
    pub looked_around: bool,
    pub braked: bool,
    pub clock: Stamp,
}

impl Journal {
    pub fn forget(&mut self, path: Path) {
        self.records.remove(&path);
        if let Some(serial) = self.serials.remove(&path) {
            self.log.remove(&serial);
        }
    }

    pub fn write(&mut self, path: Path, record: Record, clock: Stamp) {
        let before = self.records.get(&path).and_then(|record| record.have.as_ref());
        if before != record.have.as_ref() {
            if let Some(old) = self.serials.get(&path) {
                self.log.remove(old);
            }
            self.last_serial += 1;
            self.serials.insert(path, self.last_serial);
            self.log.insert(self.last_serial, path);
        }
        self.records.insert(path, record);
        self.clock = clock;
    }
}

/// Something being put in place.
#[derive(Clone, Debug)]
pub(super) struct Placing {
    pub path: Path,
    pub entry: Entry,
    /// What was there when it was looked at.
    pub expected: Option<Bytes>,
    pub came_out: Option<File>,
    pub stage: Stage,
    pub conflict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Exchange,
    Back,
    Keep,
    WriteDown,
}

#[derive(Debug)]
pub(super) struct Server {
    pub name: ServerName,
    pub up: bool,
    pub mounted: bool,
    pub skew_ms: u64,
    pub disk: BTreeMap<Path, File>,
    pub swap: Vec<Bytes>,
    pub trash: BTreeSet<Bytes>,
    pub conflicts: BTreeSet<Bytes>,
    pub journal: Journal,
    /// What the application deleted here and has not been there since.
    pub deleted: BTreeSet<Path>,
    /// Per path, every content that was here or came before one that was.
    pub lineage: BTreeMap<Path, BTreeSet<Bytes>>,
    // In memory only.
    pub clock: Clock,
    pub brake: Brake,
    pub dirty: BTreeSet<Path>,
    pub rescan: bool,
    pub vanishing: BTreeMap<Path, u64>,
    pub placing: Option<Placing>,
    pub uploading: Option<(Path, Entry)>,
    pub mutant: Option<Mutant>,
}

pub(super) fn content(file: &File) -> Content {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&file.bytes.to_be_bytes());
    Content {
        sha256: Digest(bytes),
        size: 1,
        mode: 0o644,
        mtime_ms: file.mtime_ms,
    }
}

pub(super) fn bytes_of(content: &Content) -> Bytes {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&content.sha256.0[..4]);
    Bytes::from_be_bytes(bytes)
}

impl Server {
    pub fn new(name: &str, skew_ms: u64, mutant: Option<Mutant>) -> Server {
        Server {
            name: name.parse().unwrap(),
            up: false,
            mounted: true,
            skew_ms,
            disk: BTreeMap::new(),
            swap: Vec::new(),
            trash: BTreeSet::new(),
            conflicts: BTreeSet::new(),
            journal: Journal::default(),
            deleted: BTreeSet::new(),
            lineage: BTreeMap::new(),
            clock: Clock::default(),
            brake: Brake::new(LEAST, 5, 60_000),
            dirty: BTreeSet::new(),
            rescan: false,
            vanishing: BTreeMap::new(),
            placing: None,
            uploading: None,
            mutant,
        }
    }

    pub fn does(&self, duty: Duty) -> bool {
        self.mutant != Some(Mutant::Duty(duty))
    }

    pub fn kill(&mut self) {
        self.up = false;
        self.dirty.clear();
        self.vanishing.clear();
        self.placing = None;
        self.uploading = None;
    }

    pub fn start(&mut self) {
        self.up = true;
        self.clock = Clock::after(self.journal.clock);
        self.brake.confirmed();
        self.rescan = true;
        let swap = std::mem::take(&mut self.swap);
        if self.does(Duty::Swap) {
            self.trash.extend(swap);
        }
    }

    /// What the folder shows.
    pub fn sees(&self, path: Path) -> Option<File> {
        self.disk.get(&path).filter(|_| self.mounted).copied()
    }

    /// Whether the folder is the one that is known.
    pub fn has_mark(&self) -> bool {
        self.mounted || !self.does(Duty::Mark)
    }

    pub fn scan(&mut self) {
        if self.rescan && self.has_mark() {
            self.rescan = false;
            let known = self.journal.records.keys().copied();
            self.dirty.extend(known.chain(self.disk.keys().copied()));
        }
    }

    /// Looks at one path. Gives the version of a change that is new.
    pub fn observe(&mut self, now_ms: u64) -> Result<Option<(Path, Version)>, String> {
        let busy = self.placing.as_ref().map(|placing| placing.path);
        let next = self.dirty.iter().find(|path| Some(**path) != busy).copied();
        let Some(path) = next.filter(|_| self.has_mark()) else {
            if self.dirty.is_empty() && !self.rescan && self.has_mark() {
                self.journal.looked_around = true;
            }
            return Ok(None);
        };
        self.dirty.remove(&path);
        let file = self.sees(path);
        let mut record = self.journal.records.get(&path).cloned().unwrap_or_default();
        let first = !self.journal.looked_around;
        let mut look = Look {
            me: &self.name,
            clock: &mut self.clock,
            now_ms: now_ms + self.skew_ms,
            changed_ms: file.map_or(now_ms, |file| file.changed_ms) + self.skew_ms,
            first,
        };
        let seen = record.observed(file.as_ref().map(content).as_ref(), &mut look);
        if seen == Observed::Vanished {
            self.vanishing.entry(path).or_insert(now_ms);
            return Ok(None);
        }
        self.vanishing.remove(&path);
        if seen == Observed::Written && file.is_some_and(|file| !file.by_application) {
            return Err(format!("{} takes its own work at {path} for a write", self.name));
        }
        let version = record.have.as_ref().map(|have| have.version.clone());
        self.journal.write(path, record, self.clock.last());
        Ok(version
            .filter(|_| seen == Observed::Written)
            .map(|version| (path, version)))
    }

    /// Judges deletions. Gives those that were believed.
    pub fn judge(&mut self, now_ms: u64) -> Vec<(Path, Version)> {
        if !self.has_mark() || self.journal.braked || self.vanishing.is_empty() {
            return Vec::new();
        }
        let due: Vec<Path> = self
            .vanishing
            .iter()
            .filter(|(_, since)| **since + GRACE_MS <= now_ms)
            .map(|(path, _)| *path)
            .collect();
        if due.is_empty() {
            return Vec::new();
        }
        let vanished = self
            .vanishing
            .keys()
            .filter(|path| !self.is_elsewhere(**path))
            .count() as u64;
        let files = self.journal.records.len() as u64;
        if !self.brake.believes(now_ms, vanished, files) && self.does(Duty::Brake) {
            self.journal.braked = true;
            return Vec::new();
        }
        let all: Vec<Path> = self.vanishing.keys().copied().collect();
        self.believe(all, now_ms)
    }

    /// Whether the content of a file that vanished is at another path.
    pub fn is_elsewhere(&self, path: Path) -> bool {
        let sha = |path: &Path| {
            let have = self.journal.records.get(path)?.have.as_ref()?;
            Some(have.content()?.sha256)
        };
        let own = sha(&path);
        own.is_some()
            && self
                .journal
                .records
                .keys()
                .any(|other| !self.vanishing.contains_key(other) && sha(other) == own)
    }

    pub fn believe(&mut self, paths: Vec<Path>, now_ms: u64) -> Vec<(Path, Version)> {
        let mut made = Vec::new();
        for path in paths {
            self.vanishing.remove(&path);
            if self.sees(path).is_some() {
                self.dirty.insert(path);
                continue;
            }
            let mut record = self.journal.records.get(&path).cloned().unwrap_or_default();
            let mut look = Look {
                me: &self.name,
                clock: &mut self.clock,
                now_ms: now_ms + self.skew_ms,
                changed_ms: now_ms + self.skew_ms,
                first: false,
            };
            if record.deleted(&mut look) {
                made.extend(record.have.as_ref().map(|have| (path, have.version.clone())));
                self.journal.write(path, record, self.clock.last());
            }
        }
        made
    }
}
