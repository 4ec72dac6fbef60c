//! Deletions: believed after a while and unless they are too many, and forgotten when everybody has heard of them.

use pontoon_fleet::ServerName;
use pontoon_mirror::{Entry, Look};

use crate::folder::Found;
use crate::journal::{JournalError, Whole};
use crate::node::{Node, now_ms};
use crate::watch::How;

/// How long a deletion waits before it is judged: so long it can turn out to be the half of a move.
const GRACE_MS: u64 = 2_000;

/// Records that are looked through, or written, in one transaction.
const AT_A_TIME: usize = 1000;

impl Node {
    /// Judges deletions that waited long enough at `now`, in milliseconds since 1970.
    pub fn judge(&self, now: u64) -> Result<(), JournalError> {
        let vanishing: Vec<(String, u64)> = {
            let state = self.state();
            if state.whole.braked {
                return Ok(());
            }
            state
                .vanishing
                .iter()
                .map(|(path, since)| (path.clone(), *since))
                .collect()
        };
        if !vanishing.iter().any(|(_, since)| since + GRACE_MS <= now) || !self.is_here() {
            return Ok(());
        }
        let mut lost = 0;
        for (path, _) in &vanishing {
            let record = self.journal.get(path)?;
            let content = record
                .have
                .as_ref()
                .and_then(Entry::content)
                .map(|content| content.sha256.short());
            // Its own entry counts one: another file with the same content means that it was moved.
            let copies = content.and_then(|content| self.state().contents.get(&content).copied());
            lost += u64::from(copies.unwrap_or(0) < 2);
        }
        let believed = {
            let mut state = self.state();
            let files = state.files;
            state.brake.believes(now, lost, files)
        };
        match believed {
            true => self.believe(vanishing.into_iter().map(|(path, _)| path).collect()),
            false => self.set_braked(true),
        }
    }

    fn set_braked(&self, braked: bool) -> Result<(), JournalError> {
        let whole = Whole {
            braked,
            ..self.state().whole.clone()
        };
        self.journal.update(|batch| batch.set_whole(&whole))?;
        let mut state = self.state();
        state.whole.braked = braked;
        if !braked {
            state.brake.confirmed();
        }
        Ok(())
    }

    fn believe(&self, paths: Vec<String>) -> Result<(), JournalError> {
        let (gone, back): (Vec<String>, Vec<String>) = paths.into_iter().partition(|path| {
            matches!(
                self.folder.look(path, None, How::Listed),
                Found::Nothing | Found::Folder
            )
        });
        for path in &back {
            self.state().vanishing.remove(path);
            self.mark(path, How::Listed);
        }
        self.change(&gone, None, |_, record, clock| {
            let mut look = Look {
                me: &self.me,
                clock,
                now_ms: now_ms(),
                changed_ms: now_ms(),
                first: false,
            };
            (record.deleted(&mut look), Some(None))
        })?;
        let mut state = self.state();
        for path in &gone {
            state.vanishing.remove(path);
        }
        Ok(())
    }

    /// Somebody confirms the deletions that are held (`true`), or wants the files back. Gives how many.
    pub fn settle_deletions(&self, confirm: bool, from: &ServerName) -> Result<u64, JournalError> {
        let held: Vec<String> = self.state().vanishing.keys().cloned().collect();
        let count = held.len() as u64;
        if confirm {
            self.believe(held)?;
        } else {
            self.change(&held, None, |_, record, _| (record.bring_back(from), Some(None)))?;
            self.state().vanishing.clear();
        }
        self.set_braked(false)?;
        Ok(count)
    }

    /// Forgets tombstones from before `until_ms` that every one of `others` has heard of. Gives how many.
    pub fn forget(&self, until_ms: u64, others: &[ServerName]) -> Result<u64, JournalError> {
        let upto = {
            let state = self.state();
            let heard = others.iter().map(|server| state.heard.get(server).copied());
            // Who has not asked since this process began may have heard of nothing.
            heard.min().unwrap_or(Some(u64::MAX))
        };
        let (Some(upto), mut after, mut forgotten) = (upto, String::new(), 0) else {
            return Ok(0);
        };
        loop {
            let page = self.journal.page(&after, AT_A_TIME)?;
            let Some((last, _)) = page.last() else {
                return Ok(forgotten);
            };
            after = last.clone();
            let spent: Vec<String> = page
                .into_iter()
                .filter(|(_, record)| record.is_spent(until_ms))
                .map(|(path, _)| path)
                .collect();
            if spent.is_empty() {
                continue;
            }
            forgotten += self.journal.update(|batch| {
                let mut forgotten = 0;
                for path in &spent {
                    // It may be another one by now.
                    let is_spent = batch.get(path)?.is_spent(until_ms);
                    if is_spent && batch.serial(path)?.is_some_and(|serial| serial <= upto) {
                        batch.forget(path)?;
                        forgotten += 1;
                    }
                }
                Ok(forgotten)
            })?;
        }
    }
}
