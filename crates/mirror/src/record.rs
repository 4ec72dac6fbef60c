//! One path on one server: what is in place, what is wanted, and what follows from news.

use std::collections::BTreeMap;

use pontoon_fleet::ServerName;
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Stamp, Version};
use crate::digest::Digest;

/// A file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Of its bytes.
    pub sha256: Digest,
    /// How many bytes.
    pub size: u64,
    /// Its access rights (the lowest nine bits); they travel with the content and are no change by themselves.
    pub mode: u32,
    /// When it was last written, in milliseconds since 1970, as its own file system said.
    pub mtime_ms: u64,
}

/// What a change left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A file.
    File(Content),
    /// Nothing: a tombstone.
    Gone,
}

/// One change of a path, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which.
    pub version: Version,
    /// Of each server, the latest change of this path that it comes after, its own among them.
    pub seen: BTreeMap<ServerName, Stamp>,
    /// What it left.
    pub what: What,
}

impl Entry {
    /// The content; `None` for a tombstone.
    pub fn content(&self) -> Option<&Content> {
        match &self.what {
            What::File(content) => Some(content),
            What::Gone => None,
        }
    }

    /// Whether it was made in knowledge of `other`.
    pub fn has_seen(&self, other: &Version) -> bool {
        self.seen
            .get(&other.server)
            .is_some_and(|seen| *seen >= other.stamp)
    }
}

/// A version that counts and is not in place yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Which.
    pub entry: Entry,
    /// A server that had it in place.
    pub from: ServerName,
}

/// One path on one server. Must be written down before anything follows from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What is in place here, as far as it was looked at; `None`: this server knows of nothing.
    pub have: Option<Entry>,
    /// What is to be in place.
    pub wanted: Option<Wanted>,
    /// What was wanted before: it may be in place, when this server was killed before it could write that down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<Entry>,
    /// The version that the bucket is known to hold.
    pub in_bucket: Option<Version>,
}

/// Who looks, and when.
#[derive(Debug)]
pub struct Look<'a> {
    /// This server.
    pub me: &'a ServerName,
    /// Its hybrid clock.
    pub clock: &'a mut Clock,
    /// The wall clock, in milliseconds since 1970.
    pub now_ms: u64,
    /// When the file changed: when the watcher noticed it, else what its file system says of the inode (`ctime`). Not the
    /// time that stands on the file, which whoever restores an old one sets back (`tar x`, `cp -p`, `rsync -t`).
    pub changed_ms: u64,
    /// Whether this is the first look around, before this server has heard of anything.
    pub first: bool,
}

/// What a look at the disk means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// What was known.
    Same,
    /// What was wanted: it had been put in place when this server was killed.
    Arrived,
    /// A change of the application's. It has a new version.
    Written,
    /// A file is not there any more. Nothing changes before the deletion is believed ([`Record::deleted`]).
    Vanished,
}

/// What an offer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// Known, or older than what is known.
    Old,
    /// It counts, and nothing on the disk changes for it.
    Taken,
    /// It counts, and is to be put in place: fetched, or the file removed.
    Wanted,
}

impl Record {
    /// The disk was looked at: the file's content, or `None` where there is none.
    pub fn observed(&mut self, found: Option<&Content>, look: &mut Look<'_>) -> Observed {
        let had = self.have.as_ref().and_then(Entry::content);
        if let (Some(had), Some(found)) = (had, found)
            && had.sha256 == found.sha256
        {
            return Observed::Same;
        }
        if let Some(entry) = self.expected(found) {
            self.placed(&entry);
            return Observed::Arrived;
        }
        match found {
            None if had.is_none() => Observed::Same,
            None => Observed::Vanished,
            Some(content) => {
                self.changed(What::File(*content), look);
                Observed::Written
            }
        }
    }

    /// What this server was about to put in place and looks like `found`.
    fn expected(&self, found: Option<&Content>) -> Option<Entry> {
        let known = self.have.as_ref().map(|have| &have.version);
        self.wanted
            .iter()
            .map(|wanted| &wanted.entry)
            .chain(self.passed.iter().filter(|_| guard(Rule::Passed)))
            .filter(|entry| known.is_none_or(|known| *known < entry.version))
            .find(|entry| entry.content().map(|content| content.sha256) == found.map(|found| found.sha256))
            .cloned()
    }

    /// A file that vanished is believed to have been deleted. `false`: something else happened meanwhile, such as a newer
    /// one being on its way, and nothing changes.
    pub fn deleted(&mut self, look: &mut Look<'_>) -> bool {
        let is_here = self.have.as_ref().and_then(Entry::content).is_some();
        let is_wanted = self
            .wanted
            .as_ref()
            .is_some_and(|wanted| wanted.entry.content().is_some());
        if is_here && !is_wanted {
            self.changed(What::Gone, look);
        }
        is_here && !is_wanted
    }

    fn changed(&mut self, what: What, look: &mut Look<'_>) {
        let stamp = match what {
            // A server that joins with an old copy must not be newer than everybody because it came last.
            What::File(content) if look.first && self.have.is_none() && guard(Rule::AsOldAsTheFile) => {
                let stamp = Stamp {
                    ms: content.mtime_ms.min(look.now_ms),
                    count: 0,
                };
                look.clock.saw(stamp);
                stamp
            }
            // When it changed, not when it was looked at: this server may have been down in between.
            What::File(content) => {
                let changed_ms = match guard(Rule::WhenItChanged) {
                    true => look.changed_ms,
                    false => content.mtime_ms,
                };
                look.clock.tick(changed_ms.min(look.now_ms))
            }
            What::Gone => look.clock.tick(look.now_ms),
        };
        let mut seen = self.have.take().map(|entry| entry.seen).unwrap_or_default();
        seen.insert(look.me.clone(), stamp);
        let version = Version {
            stamp,
            server: look.me.clone(),
        };
        self.wanted.take_if(|wanted| wanted.entry.version <= version);
        self.passed.clear();
        self.have = Some(Entry { version, seen, what });
    }

    /// `from` has `entry` in place.
    pub fn offered(&mut self, entry: Entry, from: &ServerName) -> Offered {
        let known = [
            self.have.as_ref(),
            self.wanted.as_ref().map(|wanted| &wanted.entry),
        ];
        let is_old = known.into_iter().flatten().any(|known| {
            known.version == entry.version || (known.version > entry.version && guard(Rule::LaterWins))
        });
        if is_old {
            return Offered::Old;
        }
        let had = self.have.as_ref().and_then(Entry::content);
        if had.map(|content| content.sha256) == entry.content().map(|content| content.sha256) {
            self.have = Some(entry);
            self.wanted = None;
            self.passed.clear();
            return Offered::Taken;
        }
        let wanted = Wanted {
            entry,
            from: from.clone(),
        };
        if let Some(before) = self.wanted.replace(wanted) {
            self.passed.push(before.entry);
            let too_many = self.passed.len().saturating_sub(PASSED);
            self.passed.drain(..too_many);
        }
        Offered::Wanted
    }

    /// Whether what is in place was made beside `entry`, which replaces it: then it is kept as a conflict, and not in the
    /// trash.
    pub fn is_conflict(&self, entry: &Entry) -> bool {
        let file = self.have.as_ref().filter(|have| have.content().is_some());
        file.is_some_and(|have| !entry.has_seen(&have.version)) && guard(Rule::Conflicts)
    }

    /// `entry` is in place, whatever is wanted by now. `false`: something newer is, and nothing changes.
    pub fn placed(&mut self, entry: &Entry) -> bool {
        if self
            .have
            .as_ref()
            .is_some_and(|have| have.version >= entry.version)
        {
            return false;
        }
        self.wanted
            .take_if(|wanted| wanted.entry.version <= entry.version);
        self.passed.retain(|passed| passed.version > entry.version);
        self.have = Some(entry.clone());
        true
    }

    /// A file that vanished is to come back, from whoever has it: `from`, to begin with.
    pub fn bring_back(&mut self, from: &ServerName) -> bool {
        let Some(entry) = self.have.take_if(|entry| entry.content().is_some()) else {
            return false;
        };
        if self.wanted.is_none() {
            self.wanted = Some(Wanted {
                entry,
                from: from.clone(),
            });
        }
        true
    }

    /// Whether a tombstone from before `until_ms` has done its work, as far as this server can tell: nothing is on its way, and
    /// the bucket knows. It may be forgotten when every other server has heard of it, and not before: who has not would
    /// bring the file back.
    pub fn is_spent(&self, until_ms: u64) -> bool {
        let gone = |entry: &Entry| entry.content().is_none() && entry.version.stamp.ms < until_ms;
        self.have.as_ref().is_some_and(gone) && self.wanted.is_none() && self.owed_to_bucket().is_none()
    }

    /// The version that the bucket is to be given; `None` when it has it.
    pub fn owed_to_bucket(&self) -> Option<&Entry> {
        self.have
            .as_ref()
            .filter(|entry| self.in_bucket.as_ref() != Some(&entry.version))
    }
}

/// How many versions that were overtaken before they were in place are remembered.
const PASSED: usize = 8;

/// A rule that the simulation takes out, to see that it is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// The later version wins, not the one that comes last.
    LaterWins,
    /// What was made beside the winner is a conflict.
    Conflicts,
    /// A change is as new as the change, not as what stands on the file.
    WhenItChanged,
    /// What is found first counts as old as the file.
    AsOldAsTheFile,
    /// What was overtaken before it was in place is known when it is found.
    Passed,
}

#[cfg(not(test))]
fn guard(_: Rule) -> bool {
    true
}

#[cfg(test)]
fn guard(rule: Rule) -> bool {
    WITHOUT.get() != Some(rule)
}

#[cfg(test)]
std::thread_local! {
    /// The rule that is taken out on this thread.
    pub(crate) static WITHOUT: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}
