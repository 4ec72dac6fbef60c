//! The fleet, its network, its bucket and its applications; and what must hold.

use std::collections::{BTreeMap, BTreeSet};

use super::server::{Bytes, File, LEAST, Path, Placing, Server, Stage, bytes_of};
use super::{Duty, Mutant};
use crate::{Entry, Offered, Version};

pub(super) const MOST_PATHS: u64 = 4;
const STEPS: u64 = 240;
/// How long a tombstone stays.
const TOMBSTONE_MS: u64 = 4_000;
/// Changes in one answer: few, so that one is cut where it hurts.
const AT_A_TIME: usize = 2;

pub(super) type Checked = Result<(), String>;

#[derive(Clone, Debug)]
pub(super) enum Message {
    Ask {
        from: usize,
        to: usize,
        after: u64,
    },
    Changes {
        from: usize,
        to: usize,
        after: u64,
        upto: u64,
        entries: Vec<(Path, Entry)>,
    },
}

pub(super) struct World {
    pub(super) dice: u64,
    pub(super) paths: u64,
    pub(super) one_writes: bool,
    pub(super) now_ms: u64,
    pub(super) servers: Vec<Server>,
    pub(super) network: Vec<Message>,
    pub(super) cut: BTreeSet<(usize, usize)>,
    pub(super) bucket: BTreeMap<Path, (Version, Bytes)>,
    pub(super) bucket_up: bool,
    pub(super) next: Bytes,
    /// Contents that an application overwrote or deleted itself.
    pub(super) destroyed: BTreeSet<Bytes>,
    /// Contents that a server had before it joined.
    pub(super) stale: BTreeSet<Bytes>,
    /// Paths that an application wrote to, and some server saw it.
    pub(super) written: BTreeSet<Path>,
    /// What each version comes after.
    pub(super) lineage: BTreeMap<(Path, Version), BTreeSet<Bytes>>,
    /// Tombstones by server: when.
    pub(super) tombstones: Vec<(usize, u64)>,
}

impl World {
    pub fn new(seed: u64, mutant: Option<Mutant>) -> World {
        let mut world = World {
            dice: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66,
            paths: MOST_PATHS,
            one_writes: false,
            now_ms: 10_000_000,
            servers: Vec::new(),
            network: Vec::new(),
            cut: BTreeSet::new(),
            bucket: BTreeMap::new(),
            bucket_up: true,
            next: 0,
            destroyed: BTreeSet::new(),
            stale: BTreeSet::new(),
            written: BTreeSet::new(),
            lineage: BTreeMap::new(),
            tombstones: Vec::new(),
        };
        world.paths = 1 + world.roll(MOST_PATHS);
        world.one_writes = world.roll(3) == 0;
        let count = 2 + world.roll(2) as usize;
        for at in 0..count {
            let skew = world.roll(16 * 60_000);
            world.servers.push(Server::new(["a", "b", "c"][at], skew, mutant));
            if at == 0 || world.roll(2) == 0 {
                world.servers[at].start();
            }
        }
        // The last one may have an old copy.
        if world.roll(2) == 0 {
            for path in 0..world.paths as Path {
                let bytes = world.fresh();
                world.stale.insert(bytes);
                world.put(count - 1, path, bytes, 1_000);
            }
        }
        world
    }

    pub fn run(&mut self) -> Checked {
        for _ in 0..STEPS {
            self.step()?;
        }
        self.heal()?;
        self.check()
    }

    fn roll(&mut self, sides: u64) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn fresh(&mut self) -> Bytes {
        self.next += 1;
        self.next
    }

    pub(super) fn step(&mut self) -> Checked {
        self.now_ms += self.roll(400);
        let at = self.roll(self.servers.len() as u64) as usize;
        match self.roll(100) {
            0..18 => self.application(at),
            18..21 => self.servers[at].kill(),
            21..27 if !self.servers[at].up => self.start(at),
            27..29 => {
                self.servers[at].mounted = !self.servers[at].mounted && self.servers[at].placing.is_none()
            }
            29..32 => self.servers[at].mounted = true,
            32..34 => {
                let other = self.roll(self.servers.len() as u64) as usize;
                self.cut.insert((at, other));
            }
            34..37 => self.cut.clear(),
            37..39 => self.bucket_up = !self.bucket_up,
            39..41 => self.now_ms += 5_000,
            41..43 => self.servers[at].rescan = true,
            43..45 => self.forget(at),
            45..65 => self.work(at)?,
            65..75 => self.ask(at),
            75..95 => self.deliver()?,
            _ => self.bucket_step(at),
        }
        Ok(())
    }

    /// What was counted before is forgotten.
    pub(super) fn start(&mut self, at: usize) {
        self.servers[at].start();
        self.tombstones.retain(|(who, _)| *who != at);
    }

    fn application(&mut self, at: usize) {
        // In some fleets visitors write to one server only.
        let at = if self.one_writes { 0 } else { at };
        if !self.servers[at].mounted {
            return;
        }
        let path = self.roll(self.paths) as Path;
        match self.roll(8) {
            0..5 => {
                // One that is restored has an old time on it. A server that joins has only that to go by.
                let is_restored = self.servers[at].journal.looked_around && self.roll(4) == 0;
                let mtime_ms = if is_restored { 500 } else { self.now_ms };
                let bytes = self.fresh();
                self.put(at, path, bytes, mtime_ms);
            }
            5 | 6 => {
                let all = self.roll(6) == 0;
                for path in 0..self.paths as Path {
                    if all || path as u64 == self.now_ms % self.paths {
                        self.remove(at, path);
                    }
                }
            }
            _ => {
                let to = self.roll(self.paths) as Path;
                let file = self.servers[at].disk.get(&path).copied();
                if let Some(file) = file.filter(|_| to != path) {
                    self.servers[at].disk.remove(&path);
                    self.servers[at].deleted.insert(path);
                    self.stale.remove(&file.bytes);
                    self.put(at, to, file.bytes, file.mtime_ms);
                    self.notice(at, path);
                }
            }
        }
    }

    fn put(&mut self, at: usize, path: Path, bytes: Bytes, mtime_ms: u64) {
        let changed_ms = self.now_ms;
        let server = &mut self.servers[at];
        let file = File {
            bytes,
            mtime_ms,
            changed_ms,
            by_application: true,
        };
        if let Some(old) = server.disk.insert(path, file) {
            self.destroyed.insert(old.bytes);
        }
        server.deleted.remove(&path);
        server.lineage.entry(path).or_default().insert(bytes);
        self.notice(at, path);
    }

    fn remove(&mut self, at: usize, path: Path) {
        if let Some(old) = self.servers[at].disk.remove(&path) {
            self.destroyed.insert(old.bytes);
            self.servers[at].deleted.insert(path);
            self.notice(at, path);
        }
    }

    /// The watcher sees it, or says that it missed something.
    fn notice(&mut self, at: usize, path: Path) {
        let overflow = self.roll(10) == 0;
        let server = &mut self.servers[at];
        if server.up && overflow {
            server.rescan = true;
        } else if server.up {
            server.dirty.insert(path);
        }
    }

    pub(super) fn made(&mut self, at: usize, versions: Vec<(Path, Version)>) {
        for (path, version) in versions {
            let here = self.servers[at].disk.get(&path);
            if here.is_some_and(|file| !self.stale.contains(&file.bytes)) {
                self.written.insert(path);
            }
            let lineage = self.servers[at].lineage.get(&path).cloned().unwrap_or_default();
            self.lineage.insert((path, version), lineage);
        }
    }

    fn work(&mut self, at: usize) -> Checked {
        if !self.servers[at].up {
            return Ok(());
        }
        match self.roll(6) {
            0 => self.servers[at].scan(),
            1 | 2 => {
                let made = self.servers[at].observe(self.now_ms)?;
                self.made(at, made.into_iter().collect());
            }
            3 => self.judge(at)?,
            _ if self.servers[at].placing.is_some() => {
                self.place(at)?;
                if self.roll(10) == 0 {
                    self.servers[at].kill();
                }
            }
            _ => self.fetch(at),
        }
        Ok(())
    }

    pub(super) fn judge(&mut self, at: usize) -> Checked {
        let moved: BTreeSet<Path> = (0..self.paths as Path)
            .filter(|path| self.servers[at].is_elsewhere(*path))
            .collect();
        let made = self.servers[at].judge(self.now_ms);
        for (path, _) in &made {
            if !self.servers[at].deleted.contains(path) {
                return Err(format!(
                    "{} deletes {path}, which nobody deleted",
                    self.servers[at].name
                ));
            }
            if !moved.contains(path) {
                self.tombstones.push((at, self.now_ms));
            }
        }
        self.made(at, made);
        let since = self.now_ms.saturating_sub(60_000);
        let lately = self
            .tombstones
            .iter()
            .filter(|(who, when)| *who == at && *when >= since);
        if lately.count() as u64 > LEAST {
            return Err("many deletions were believed without a question".to_owned());
        }
        Ok(())
    }

    /// Drops tombstones that everybody has heard of. No message is as old as they are.
    fn forget(&mut self, at: usize) {
        if !self.servers[at].up {
            return;
        }
        let until_ms = (self.now_ms + self.servers[at].skew_ms).saturating_sub(TOMBSTONE_MS);
        let travels = |path: Path| {
            self.network.iter().any(|message| match message {
                Message::Changes { entries, .. } => entries.iter().any(|(other, _)| *other == path),
                Message::Ask { .. } => false,
            })
        };
        let spent: Vec<Path> = self.servers[at]
            .journal
            .records
            .iter()
            .filter(|(path, record)| record.is_spent(until_ms) && !travels(**path))
            .map(|(path, _)| *path)
            .collect();
        for path in spent {
            let serial = self.servers[at].journal.serials.get(&path).copied();
            let all_heard = (0..self.servers.len()).filter(|other| *other != at).all(|other| {
                let cursor = self.servers[other].journal.cursors.get(&at).copied();
                cursor >= serial
            });
            if all_heard || !self.servers[at].does(Duty::Heard) {
                self.servers[at].journal.forget(path);
            }
        }
    }

    fn is_cut(&self, one: usize, other: usize) -> bool {
        self.cut.contains(&(one, other)) || self.cut.contains(&(other, one))
    }

    pub(super) fn ask(&mut self, at: usize) {
        let to = self.roll(self.servers.len() as u64) as usize;
        if to != at && self.servers[at].up && self.servers[at].journal.looked_around {
            let after = self.servers[at].journal.cursors.get(&to).copied().unwrap_or(0);
            self.network.push(Message::Ask { from: at, to, after });
        }
    }

    pub(super) fn deliver(&mut self) -> Checked {
        if self.network.is_empty() {
            return Ok(());
        }
        let at = self.roll(self.network.len() as u64) as usize;
        let message = match self.roll(8) {
            0 => self.network[at].clone(),
            _ => self.network.swap_remove(at),
        };
        let lost = self.roll(8) == 0;
        let (Message::Ask { from, to, .. } | Message::Changes { from, to, .. }) = message;
        if lost || self.is_cut(from, to) || !self.servers[to].up {
            return Ok(());
        }
        match message {
            Message::Ask { from, to, after } => {
                let journal = &self.servers[to].journal;
                let changes: Vec<(u64, Path)> = journal
                    .log
                    .range(after + 1..)
                    .take(AT_A_TIME)
                    .map(|(serial, path)| (*serial, *path))
                    .collect();
                let entries = changes
                    .iter()
                    .filter_map(|(_, path)| Some((*path, journal.records.get(path)?.have.clone()?)))
                    .collect();
                let upto = changes.last().map_or(after, |(serial, _)| *serial);
                self.network.push(Message::Changes {
                    from: to,
                    to: from,
                    after,
                    upto,
                    entries,
                });
            }
            Message::Changes {
                from,
                to,
                after,
                upto,
                entries,
            } => self.learn(from, to, after, upto, entries),
        }
        Ok(())
    }

    fn learn(&mut self, from: usize, to: usize, after: u64, upto: u64, entries: Vec<(Path, Entry)>) {
        let source = self.servers[from].name.clone();
        let dies = self.roll(6) == 0;
        let server = &mut self.servers[to];
        let cursor = server.journal.cursors.entry(from).or_default();
        // An answer to an old question: what it says is true, how far it goes is not news.
        if after <= *cursor {
            *cursor = upto.max(*cursor);
        }
        if !server.does(Duty::Cursor) && dies {
            server.kill();
            return;
        }
        for (path, entry) in entries {
            if server.does(Duty::Clock) {
                server.clock.saw(entry.version.stamp);
            }
            let mut record = server.journal.records.get(&path).cloned().unwrap_or_default();
            if record.offered(entry, &source) != Offered::Old {
                server.journal.write(path, record, server.clock.last());
            }
        }
    }

    /// Gets what is wanted from whoever has it, and begins to put it in place.
    pub(super) fn fetch(&mut self, at: usize) {
        let wanted: Vec<(Path, Entry)> = self.servers[at]
            .journal
            .records
            .iter()
            .filter_map(|(path, record)| Some((*path, record.wanted.as_ref()?.entry.clone())))
            .collect();
        if wanted.is_empty() || !self.servers[at].mounted {
            return;
        }
        let (path, entry) = wanted[self.roll(wanted.len() as u64) as usize].clone();
        let bytes = entry.content().map(bytes_of);
        let has = |server: &Server| server.sees(path).map(|file| file.bytes) == bytes;
        let somebody = (0..self.servers.len())
            .any(|other| !self.is_cut(at, other) && self.servers[other].up && has(&self.servers[other]));
        let in_bucket = self.bucket_up && self.bucket.get(&path).map(|(_, bytes)| *bytes) == bytes;
        if bytes.is_some() && !somebody && !in_bucket {
            return;
        }
        let server = &mut self.servers[at];
        let record = server.journal.records.get(&path).cloned().unwrap_or_default();
        let expected = server.sees(path).map(|file| file.bytes);
        let had = record.have.as_ref().and_then(|have| have.content()).map(bytes_of);
        if server.does(Duty::Look) && expected.is_some() && expected != had {
            server.dirty.insert(path);
            return;
        }
        server.swap.extend(bytes);
        server.placing = Some(Placing {
            path,
            conflict: record.is_conflict(&entry),
            entry,
            expected,
            came_out: None,
            stage: Stage::Exchange,
        });
    }

    pub(super) fn place(&mut self, at: usize) -> Checked {
        let (now_ms, server) = (self.now_ms, &mut self.servers[at]);
        let Some(mut placing) = server.placing.take().filter(|_| server.mounted) else {
            return Ok(());
        };
        let path = placing.path;
        let bytes = placing.entry.content().map(bytes_of);
        match placing.stage {
            Stage::Exchange => {
                let file = bytes.map(|bytes| File {
                    bytes,
                    mtime_ms: now_ms,
                    changed_ms: now_ms,
                    by_application: false,
                });
                placing.came_out = match file {
                    Some(file) => server.disk.insert(path, file),
                    None => server.disk.remove(&path),
                };
                server.swap.retain(|swapped| Some(*swapped) != bytes);
                let came_out = placing.came_out.map(|file| file.bytes);
                let unexpected = came_out.is_some() && came_out != placing.expected;
                if unexpected && !server.does(Duty::Look) {
                    placing.stage = Stage::WriteDown;
                } else {
                    server.swap.extend(came_out);
                    placing.stage = if unexpected { Stage::Back } else { Stage::Keep };
                }
                if !unexpected {
                    server.deleted.remove(&path);
                    let lineage = self.lineage.get(&(path, placing.entry.version.clone()));
                    server
                        .lineage
                        .entry(path)
                        .or_default()
                        .extend(lineage.into_iter().flatten());
                }
            }
            // The application was there in between: its file goes back, and is looked at.
            Stage::Back => {
                let back = placing.came_out.take();
                let out = match back {
                    Some(file) => server.disk.insert(path, file),
                    None => server.disk.remove(&path),
                };
                server
                    .swap
                    .retain(|swapped| Some(*swapped) != back.map(|file| file.bytes));
                if let Some(out) = out.filter(|out| Some(out.bytes) != bytes) {
                    server.conflicts.insert(out.bytes);
                }
                server.dirty.insert(path);
                return Ok(());
            }
            Stage::Keep => {
                if let Some(file) = placing.came_out {
                    let lineage = self.lineage.get(&(path, placing.entry.version.clone()));
                    let after = lineage.is_some_and(|lineage| lineage.contains(&file.bytes));
                    if !placing.conflict && bytes.is_some() && !after {
                        return Err(format!(
                            "{} loses {} to a version that never saw it",
                            server.name, file.bytes
                        ));
                    }
                    match placing.conflict {
                        true => server.conflicts.insert(file.bytes),
                        false => server.trash.insert(file.bytes),
                    };
                    server.swap.retain(|swapped| *swapped != file.bytes);
                }
                placing.stage = Stage::WriteDown;
            }
            Stage::WriteDown => {
                let mut record = server.journal.records.get(&path).cloned().unwrap_or_default();
                if record.placed(&placing.entry) {
                    server.journal.write(path, record, server.clock.last());
                }
                return Ok(());
            }
        }
        server.placing = Some(placing);
        Ok(())
    }

    /// Looks what the bucket has of a path, or gives it what it lacks.
    pub(super) fn bucket_step(&mut self, at: usize) {
        let dice = self.roll(4);
        let server = &mut self.servers[at];
        if !server.up || !self.bucket_up {
            server.uploading = None;
            return;
        }
        let Some((path, entry)) = server.uploading.take() else {
            let owed = server
                .journal
                .records
                .iter()
                .find_map(|(path, record)| Some((*path, record.owed_to_bucket()?.clone())));
            if let Some((path, entry)) = owed {
                let there = self.bucket.get(&path).map(|(version, _)| version);
                let done = match entry.content() {
                    Some(_) => there.is_some_and(|there| *there >= entry.version),
                    None => there.is_none_or(|there| *there >= entry.version),
                };
                match done {
                    true => settle(server, path, &entry),
                    false => server.uploading = Some((path, entry)),
                }
            }
            return;
        };
        match entry.content().map(bytes_of) {
            Some(bytes) if server.sees(path).map(|file| file.bytes) != Some(bytes) => {
                server.dirty.insert(path);
                return;
            }
            // Not done, and said so.
            _ if dice == 0 => return,
            Some(bytes) => drop(self.bucket.insert(path, (entry.version.clone(), bytes))),
            None => drop(self.bucket.remove(&path)),
        }
        // Done, and the answer was lost.
        if dice != 1 {
            settle(server, path, &entry);
        }
    }
}

fn settle(server: &mut Server, path: Path, entry: &Entry) {
    let mut record = server.journal.records.get(&path).cloned().unwrap_or_default();
    record.in_bucket = Some(entry.version.clone());
    server.journal.write(path, record, server.clock.last());
}
