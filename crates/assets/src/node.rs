//! One server's part: what it has in hand, and how news from the disk and from other servers become records.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pontoon_fleet::{AssetsReport, ServerName};
use pontoon_mirror::names::{self, Unfit};
use pontoon_mirror::{Brake, Clock, Content, Entry, Look, Observed, Offered, Record};
use pontoon_rt::clock::{Clock as _, SystemClock};
use tokio::sync::{Notify, watch};

use crate::folder::{Folder, Found, Kept, Placed};
use crate::journal::{Change, Cursor, Journal, JournalError, Print, Whole};
use crate::watch::{How, Seen, bytes};

/// A file that somebody writes to is looked at again so often: the watcher says when it is closed, but for what it cannot see.
const BUSY: Duration = Duration::from_millis(500);

/// Names that are kept of what cannot be mirrored; all are counted.
const SKIPPED: usize = 10_000;

/// Paths that are looked at in one go, and written down together.
const AT_A_TIME: usize = 32;

/// Something to look at.
#[derive(Clone, Copy, Debug)]
struct Dirty {
    due: Instant,
    what: Due,
}

/// What is known of a path that is to be looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    how: How,
    /// When the watcher noticed a change, in milliseconds since 1970; `None`: it may have happened at any time.
    noticed_ms: Option<u64>,
}

impl Due {
    fn new(how: How) -> Due {
        Due {
            how,
            noticed_ms: (how > How::Listed).then(now_ms),
        }
    }

    fn and(self, other: Due) -> Due {
        Due {
            how: self.how.max(other.how),
            noticed_ms: self.noticed_ms.max(other.noticed_ms),
        }
    }
}

/// In memory only: all of it follows from the journal and another look at the disk.
#[derive(Debug, Default)]
pub(crate) struct State {
    dirty: HashMap<String, Dirty>,
    /// Files that somebody has open to write to them.
    open: HashSet<String>,
    /// Being looked at or put in place.
    busy: HashSet<String>,
    /// Since when, in milliseconds since 1970.
    pub vanishing: BTreeMap<String, u64>,
    pub(crate) brake: Brake,
    pub skipped: BTreeMap<String, Unfit>,
    pub wanted: VecDeque<String>,
    pub owed: VecDeque<String>,
    /// How many files have a content, by the beginning of its digest.
    pub(crate) contents: HashMap<u64, u32>,
    pub(crate) files: u64,
    bytes: u64,
    pub whole: Whole,
    /// What is left of this process's first look around; `None` before everything was said.
    first_left: Option<HashSet<String>>,
    /// Whether that is over. Nothing is heard of other servers before: what changed here while nobody looked must not seem
    /// newer than what they say.
    pub looked: bool,
    /// How far other servers have read.
    pub heard: BTreeMap<ServerName, u64>,
    conflicts_total: u64,
    pub trouble: BTreeMap<String, String>,
}

pub(crate) struct Node {
    pub me: ServerName,
    pub folder: Folder,
    pub journal: Journal,
    clock: Mutex<Clock>,
    state: Mutex<State>,
    /// Grows with every change that others may read.
    pub changed: watch::Sender<u64>,
    pub to_look: Notify,
    pub to_fetch: Notify,
    pub to_upload: Notify,
}

pub(crate) fn now_ms() -> u64 {
    SystemClock.unix().0
}

impl Node {
    pub fn open(me: ServerName, folder: Folder, journal: Journal) -> Result<Node, JournalError> {
        let mut whole = journal.whole()?;
        let mut state = State::default();
        if whole.id.is_empty() {
            whole.id = format!("{me}-{:x}-{:x}", now_ms(), std::process::id());
            whole.mark = folder.mark().unwrap_or_else(|| whole.id.clone());
            // Only the first time: a folder that has lost its mark is not the one that is known.
            if let Err(error) = folder.prepare(&whole.mark) {
                state.trouble.insert(
                    "folder".to_owned(),
                    format!("the folder cannot be written to: {error}"),
                );
            } else {
                journal.update(|batch| batch.set_whole(&whole))?;
            }
        }
        state.whole = whole;
        let mut after = String::new();
        loop {
            let page = journal.page(&after, 1000)?;
            let Some((last, _)) = page.last() else { break };
            after = last.clone();
            for (_, record) in &page {
                count(&mut state, record.have.as_ref(), 1);
            }
        }
        state.wanted.extend(journal.all_wanted()?);
        state.owed.extend(journal.all_owed()?);
        let serial = journal.counts()?.last_serial;
        Ok(Node {
            clock: Mutex::new(journal.clock()?),
            me,
            folder,
            journal,
            state: Mutex::new(state),
            changed: watch::Sender::new(serial),
            to_look: Notify::new(),
            to_fetch: Notify::new(),
            to_upload: Notify::new(),
        })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what does not work, or that it works again.
    pub fn trouble(&self, about: &str, what: Option<String>) {
        let mut state = self.state();
        match what {
            Some(what) => drop(state.trouble.insert(about.to_owned(), what)),
            None => drop(state.trouble.remove(about)),
        }
    }

    /// Whether the folder is the one that is known; until it is, nothing is believed and nothing written.
    pub fn is_here(&self) -> bool {
        let mark = self.state().whole.mark.clone();
        let is_here = self.folder.is_the_one(&mark);
        let text = format!(
            "{} is not the folder that it was (its mark is missing): is a disk not mounted?",
            self.folder.path().display()
        );
        self.trouble("folder", (!is_here).then_some(text));
        is_here
    }

    /// Changes records, all of them or none, and tells whoever waits for what follows.
    pub(crate) fn change<T>(
        &self,
        paths: &[String],
        cursor: Option<(&ServerName, &Cursor)>,
        mut each: impl FnMut(&str, &mut Record, &mut Clock) -> (T, Option<Option<Print>>),
    ) -> Result<Vec<T>, JournalError> {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ticking = *clock;
        let now = now_ms();
        let mut moved = Vec::new();
        let done = self.journal.update(|batch| {
            let mut done = Vec::new();
            for path in paths {
                let before = batch.get(path)?;
                let mut after = before.clone();
                let (said, print) = each(path, &mut after, &mut ticking);
                batch.put(path, &after, now)?;
                match print {
                    Some(Some(print)) => batch.put_print(path, &print)?,
                    Some(None) => batch.forget_print(path)?,
                    None => {}
                }
                done.push(said);
                moved.push((path.clone(), before, after));
            }
            if let Some((server, cursor)) = cursor {
                batch.set_cursor(server, cursor)?;
            }
            batch.set_clock(&ticking)?;
            Ok(done)
        })?;
        *clock = ticking;
        drop(clock);
        self.follow(moved);
        Ok(done)
    }

    fn follow(&self, moved: Vec<(String, Record, Record)>) {
        let (mut changed, mut wants, mut owes) = (false, false, false);
        let mut state = self.state();
        for (path, before, after) in moved {
            if before.have != after.have {
                count(&mut state, before.have.as_ref(), -1);
                count(&mut state, after.have.as_ref(), 1);
                changed = true;
            }
            if after.wanted.is_some() && before.wanted != after.wanted {
                state.wanted.push_back(path.clone());
                wants = true;
            }
            if after.owed_to_bucket().is_some() && before.owed_to_bucket() != after.owed_to_bucket() {
                state.owed.push_back(path);
                owes = true;
            }
        }
        drop(state);
        if changed {
            self.changed.send_modify(|serial| *serial += 1);
        }
        if wants {
            self.to_fetch.notify_one();
        }
        if owes {
            self.to_upload.notify_one();
        }
    }

    /// Takes what the watcher says.
    pub fn seen(&self, seen: Seen) -> Result<(), JournalError> {
        match seen {
            Seen::Path(path, how) => self.mark_bytes(&path, how),
            Seen::FolderGone(folder) => {
                if let Ok(folder) = names::check_bytes(bytes(&folder)) {
                    self.mark_below(&format!("{folder}/"))?;
                }
            }
            Seen::All => {
                self.mark_below("")?;
                let mut state = self.state();
                if state.first_left.is_none() && !state.looked {
                    state.first_left = Some(state.dirty.keys().cloned().collect());
                }
                self.to_look.notify_one();
            }
            Seen::Trouble(text) => self.trouble("watcher", Some(text)),
        }
        Ok(())
    }

    fn mark_bytes(&self, path: &Path, how: How) {
        match names::check_bytes(bytes(path)) {
            Ok(path) => self.mark(path, how),
            Err(Unfit::Own) => {}
            Err(why) => self.skip(&path.to_string_lossy(), why),
        }
    }

    /// Everything that is known below `prefix` is looked at.
    fn mark_below(&self, prefix: &str) -> Result<(), JournalError> {
        let mut after = prefix.to_owned();
        loop {
            let page = self.journal.page(&after, 1000)?;
            for (path, record) in &page {
                if !path.starts_with(prefix) {
                    return Ok(());
                }
                if record.have.as_ref().is_some_and(|have| have.content().is_some()) {
                    self.mark(path, How::Listed);
                }
            }
            match page.into_iter().next_back() {
                Some((last, _)) => after = last,
                None => return Ok(()),
            }
        }
    }

    /// `path` is to be looked at.
    pub fn mark(&self, path: &str, how: How) {
        let (due, what) = (Instant::now(), Due::new(how));
        let mut state = self.state();
        let dirty = state.dirty.entry(path.to_owned()).or_insert(Dirty { due, what });
        dirty.due = dirty.due.min(due);
        dirty.what = dirty.what.and(what);
        drop(state);
        self.to_look.notify_one();
    }

    fn skip(&self, path: &str, why: Unfit) {
        let mut state = self.state();
        if state.skipped.len() < SKIPPED {
            state.skipped.insert(path.to_owned(), why);
        }
    }

    fn again(&self, path: &str, after: Duration, what: Due) {
        let due = Instant::now() + after;
        let mut state = self.state();
        let dirty = state.dirty.entry(path.to_owned()).or_insert(Dirty { due, what });
        dirty.what = dirty.what.and(what);
    }

    /// As if nothing were to be looked at.
    #[cfg(test)]
    pub fn forget_dirty(&self) {
        self.state().dirty.clear();
    }

    /// Paths that are due and that nobody else works on.
    pub fn take_due(&self) -> Vec<(String, Due)> {
        let now = Instant::now();
        let mut state = self.state();
        let due: Vec<(String, Due)> = state
            .dirty
            .iter()
            .filter(|(path, dirty)| dirty.due <= now && !state.busy.contains(*path))
            .take(AT_A_TIME)
            .map(|(path, dirty)| (path.clone(), dirty.what))
            .collect();
        for (path, _) in &due {
            state.dirty.remove(path);
            state.busy.insert(path.clone());
        }
        due
    }

    /// Looks at paths and writes down what follows.
    pub fn look_at(&self, paths: Vec<(String, Due)>) -> Result<(), JournalError> {
        let looked = self.look_at_some(&paths);
        let mut state = self.state();
        for (path, _) in &paths {
            state.busy.remove(path);
        }
        // One that is being written to counts as looked at: it is new when it is closed.
        if let (Ok(true), Some(left)) = (&looked, &mut state.first_left) {
            for (path, _) in &paths {
                left.remove(path);
            }
        }
        drop(state);
        if looked.is_err() {
            paths
                .iter()
                .for_each(|(path, due)| self.again(path, Duration::from_secs(1), *due));
        }
        looked?;
        self.finish_first()
    }

    fn finish_first(&self) -> Result<(), JournalError> {
        let mut whole = {
            let mut state = self.state();
            if state.first_left.as_ref().is_none_or(|left| !left.is_empty()) || state.looked {
                return Ok(());
            }
            state.first_left = None;
            state.looked = true;
            state.whole.clone()
        };
        if whole.looked_around {
            return Ok(());
        }
        whole.looked_around = true;
        self.journal.update(|batch| batch.set_whole(&whole))?;
        self.state().whole.looked_around = true;
        Ok(())
    }

    /// `false`: the folder is not there, and nothing was looked at.
    fn look_at_some(&self, paths: &[(String, Due)]) -> Result<bool, JournalError> {
        if !paths.is_empty() && !self.is_here() {
            for (path, due) in paths {
                self.again(path, Duration::from_secs(1), *due);
            }
            return Ok(false);
        }
        let mut found: BTreeMap<String, (Due, Option<(Content, Print)>)> = BTreeMap::new();
        for (path, due) in paths {
            let record = self.journal.get(path)?;
            let has_file = record.have.as_ref().is_some_and(|have| have.content().is_some());
            let known = match has_file {
                true => self.journal.print(path)?,
                false => None,
            };
            let looked = self.folder.look(path, known.as_ref(), due.how);
            match looked {
                Found::Busy => drop(self.state().open.replace(path.clone())),
                _ => drop(self.state().open.take(path)),
            }
            match looked {
                Found::Unchanged => {
                    self.state().vanishing.remove(path);
                }
                Found::Nothing | Found::Folder => drop(found.insert(path.clone(), (*due, None))),
                Found::File(content, print) => {
                    self.state().skipped.remove(path);
                    found.insert(path.clone(), (*due, Some((content, print))));
                }
                Found::Busy => self.again(path, BUSY, *due),
                Found::Unfit(why) => {
                    self.skip(path, why);
                    if why == Unfit::Link || why == Unfit::Special {
                        found.insert(path.clone(), (*due, None));
                    }
                }
            }
        }
        let paths: Vec<String> = found.keys().cloned().collect();
        let first = !self.state().whole.looked_around;
        let seen = self.change(&paths, None, |path, record, clock| {
            let (noticed_ms, file) = match found.get(path) {
                Some((due, file)) => (due.noticed_ms, file.as_ref()),
                None => (None, None),
            };
            let now_ms = now_ms();
            let by_inode_ms = file.map_or(now_ms, |(_, print)| print.changed_ms());
            let mut look = Look {
                me: &self.me,
                clock,
                now_ms,
                changed_ms: noticed_ms.unwrap_or(by_inode_ms),
                first: first && noticed_ms.is_none(),
            };
            let seen = record.observed(file.map(|(content, _)| content), &mut look);
            (seen, file.map(|(_, print)| Some(*print)))
        })?;
        let mut state = self.state();
        for (path, seen) in paths.into_iter().zip(seen) {
            match seen {
                Observed::Vanished => drop(state.vanishing.entry(path).or_insert_with(now_ms)),
                _ => drop(state.vanishing.remove(&path)),
            }
        }
        Ok(true)
    }

    /// Another server said what it has in place.
    pub fn learn(
        &self,
        from: &ServerName,
        cursor: &Cursor,
        changes: Vec<Change>,
    ) -> Result<(), JournalError> {
        let mut news: BTreeMap<String, Entry> = BTreeMap::new();
        for change in changes {
            match names::check(&change.path) {
                Ok(()) => drop(news.insert(change.path, change.entry)),
                Err(why) => {
                    tracing::warn!(path = ?change.path, %why, server = %from, "a path that cannot be")
                }
            }
        }
        let paths: Vec<String> = news.keys().cloned().collect();
        self.change(&paths, Some((from, cursor)), |path, record, clock| {
            if let Some(entry) = news.get(path) {
                clock.saw(entry.version.stamp);
                if record.offered(entry.clone(), from) == Offered::Taken && entry.content().is_none() {
                    return ((), Some(None));
                }
            }
            ((), None)
        })?;
        Ok(())
    }

    /// The next path that is wanted, for the caller alone until [`Node::release`].
    pub fn take_wanted(&self) -> Option<String> {
        let mut state = self.state();
        for _ in 0..state.wanted.len() {
            let path = state.wanted.pop_front()?;
            if state.busy.insert(path.clone()) {
                return Some(path);
            }
            state.wanted.push_back(path);
        }
        None
    }

    pub fn release(&self, path: &str) {
        self.state().busy.remove(path);
        self.to_look.notify_one();
    }

    /// Puts in place what was fetched into `incoming`, or takes a file away (`None`). `false`: not now.
    pub fn put_in_place(
        &self,
        path: &str,
        entry: &Entry,
        incoming: Option<&str>,
    ) -> Result<bool, JournalError> {
        let record = self.journal.get(path)?;
        let has_file = record.have.as_ref().is_some_and(|have| have.content().is_some());
        // A file that vanished and is not judged yet: nothing is there to be kept.
        let expected = match has_file && !self.state().vanishing.contains_key(path) {
            true => self.journal.print(path)?,
            false => None,
        };
        let conflict = record.is_conflict(entry);
        let kept = if conflict { Kept::Conflict } else { Kept::Trash };
        let moment = format!("{}-{}", now_ms(), entry.version.server);
        let placed = if !self.is_here() {
            Ok(Placed::LookFirst)
        } else {
            match (incoming, entry.content()) {
                (Some(incoming), Some(content)) => {
                    self.folder
                        .place(incoming, path, content, expected.as_ref(), (kept, &moment))
                }
                _ => self.folder.remove(path, expected.as_ref(), (kept, &moment)),
            }
        };
        let about = format!("place {path}");
        let print = match placed {
            Ok(Placed::Done(print)) => print,
            Ok(Placed::LookFirst) => {
                self.mark(path, How::Listed);
                return Ok(false);
            }
            Err(error) => {
                self.trouble(&about, Some(format!("{path} cannot be put in place: {error}")));
                return Ok(false);
            }
        };
        self.trouble(&about, None);
        self.change(&[path.to_owned()], None, |_, record, _| {
            (record.placed(entry), Some(print))
        })?;
        let mut state = self.state();
        state.vanishing.remove(path);
        state.conflicts_total += u64::from(conflict && has_file);
        Ok(true)
    }

    /// The bucket has this version.
    pub fn in_bucket(&self, path: &str, entry: &Entry) -> Result<(), JournalError> {
        self.change(&[path.to_owned()], None, |_, record, _| {
            record.in_bucket = Some(entry.version.clone());
            ((), None)
        })?;
        Ok(())
    }

    pub fn report(&self) -> Result<AssetsReport, JournalError> {
        let counts = self.journal.counts()?;
        let state = self.state();
        let unread = state
            .heard
            .iter()
            .map(|(server, serial)| (server.clone(), counts.last_serial.saturating_sub(*serial)))
            .collect();
        Ok(AssetsReport {
            files: state.files,
            bytes: state.bytes,
            looked_around: state.looked && state.whole.looked_around,
            unsettled: (state.dirty.len() + state.busy.len()).saturating_sub(state.open.len()) as u64,
            being_written: state.open.len() as u64,
            wanted: counts.wanted,
            oldest_wanted_ms: counts
                .oldest_wanted
                .map_or(0, |since| now_ms().saturating_sub(since)),
            owed_to_bucket: counts.owed,
            unread,
            held_deletions: if state.whole.braked {
                state.vanishing.len() as u64
            } else {
                0
            },
            conflicts_total: state.conflicts_total,
            skipped: state.skipped.len() as u64,
            trouble: state.trouble.values().take(8).cloned().collect(),
        })
    }
}

fn count(state: &mut State, have: Option<&Entry>, by: i8) {
    let Some(content) = have.and_then(Entry::content) else {
        return;
    };
    let copies = state.contents.entry(content.sha256.short()).or_default();
    if by > 0 {
        *copies += 1;
        state.files += 1;
        state.bytes += content.size;
    } else {
        *copies = copies.saturating_sub(1);
        if *copies == 0 {
            state.contents.remove(&content.sha256.short());
        }
        state.files = state.files.saturating_sub(1);
        state.bytes = state.bytes.saturating_sub(content.size);
    }
}
