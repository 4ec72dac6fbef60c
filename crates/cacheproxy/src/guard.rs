//! Who may speak to the memcached of this server: connections that go by the list that is served, and nobody else.
//!
//! The guard serves the newest list that it has heard of, if that is open, this server is in it, and memcached holds nothing
//! of an earlier life. Of a newer list it says [`Guard::closed`] only when every connection of the one before is gone, to the
//! last byte, and that is on the disk: a guard that is started again with an older view serves nothing.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use pontoon_fleet::{CacheList, FleetView, ServerName};
use pontoon_rt::files::{self, FileError};
use pontoon_rt::process::Running;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::memcached;

/// What is served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Under the list of this number.
    pub list: u64,
    /// By the memcached with this process id.
    pub pid: u32,
}

/// What every connection asks.
#[derive(Debug)]
pub struct Guard {
    serving: watch::Sender<Option<Serving>>,
    /// Connections to memcached, each until memcached has closed it.
    open: AtomicU64,
}

/// A connection to memcached that is counted.
#[derive(Debug)]
pub struct Pass<'a> {
    guard: &'a Guard,
    /// What it was made under.
    pub serving: Serving,
}

impl Default for Guard {
    fn default() -> Guard {
        Guard {
            serving: watch::channel(None).0,
            open: AtomicU64::new(0),
        }
    }
}

impl Guard {
    /// Leave for a connection under `list`; `None` when that is not what is served.
    pub fn admit(&self, list: u64) -> Option<Pass<'_>> {
        // Counted first: whoever closes the list looks at the number after.
        self.open.fetch_add(1, SeqCst);
        let serving = *self.serving.borrow();
        let pass = Pass {
            guard: self,
            serving: serving.unwrap_or(Serving { list: 0, pid: 0 }),
        };
        serving.filter(|serving| serving.list == list).map(|_| pass)
    }

    /// A place in the count beside that of a pass, for a task that closes its connection: given back with
    /// [`Guard::give_back`].
    pub fn keep(&self, serving: Serving) -> Serving {
        self.open.fetch_add(1, SeqCst);
        serving
    }

    /// The connection is closed.
    pub fn give_back(&self, _kept: Serving) {
        self.open.fetch_sub(1, SeqCst);
    }

    /// What is served now.
    pub fn serving(&self) -> Option<Serving> {
        *self.serving.borrow()
    }

    fn serve(&self, serving: Option<Serving>) {
        self.serving
            .send_if_modified(|now| std::mem::replace(now, serving) != serving);
    }

    fn is_empty(&self) -> bool {
        self.open.load(SeqCst) == 0
    }
}

impl Pass<'_> {
    /// Whether the connection may go on.
    pub fn is_valid(&self) -> bool {
        *self.guard.serving.borrow() == Some(self.serving)
    }

    /// Until it may not.
    pub async fn ended(&self) {
        let mut serving = self.guard.serving.subscribe();
        // The sender lives as long as the guard.
        let _ = serving.wait_for(|now| *now != Some(self.serving)).await;
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.guard.open.fetch_sub(1, SeqCst);
    }
}

/// What is remembered of this server's memcached for as long as the machine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    /// The process that was used.
    process: Option<Running>,
    /// With what it holds.
    life: u64,
    /// No list before this one is served.
    closed: u64,
}

/// Who decides what is served. One for the process.
#[derive(Debug)]
pub struct Keeper {
    me: ServerName,
    file: PathBuf,
    socket: PathBuf,
    remembered: Remembered,
    /// The memory that memcached was told of.
    memory: Option<(u32, u64)>,
    /// Why nothing is served, if it should be.
    pub trouble: Option<String>,
}

const MAX_FILE_BYTES: u64 = 4096;

impl Keeper {
    /// Remembers what is in `file`, which is lost with the machine, as memcached is.
    pub fn new(me: ServerName, file: PathBuf, socket: PathBuf) -> Keeper {
        let read = files::read_limited(&file, MAX_FILE_BYTES).ok().flatten();
        let remembered = read
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Keeper {
            me,
            file,
            socket,
            remembered,
            memory: None,
            trouble: None,
        }
    }

    /// No list before this one is served, now or later.
    pub fn closed(&self) -> u64 {
        self.remembered.closed
    }

    /// Brings the guard a step nearer to what `view` wants. Called at each view and a few times a second.
    pub async fn tend(&mut self, guard: &Guard, view: Option<&FleetView>) {
        let Some((cache, list)) =
            view.and_then(|view| Some((view.cache.as_ref()?, view.cache.as_ref()?.list.as_ref()?)))
        else {
            // A view without a cache is the configuration's word; no view is nobody's.
            if view.is_some() {
                guard.serve(None);
            }
            return;
        };
        if list.number < self.remembered.closed {
            return;
        }
        if guard.serving().is_some_and(|serving| serving.list != list.number) {
            guard.serve(None);
        }
        if list.number > self.remembered.closed {
            guard.serve(None);
            if !guard.is_empty() {
                return;
            }
            let closed = Remembered {
                closed: list.number,
                ..self.remembered.clone()
            };
            if let Err(error) = self.remember(closed) {
                self.trouble = Some(error.to_string());
                return;
            }
        }
        self.trouble = match self.serve(guard, list, cache.memory_bytes).await {
            Ok(()) => None,
            Err(error) => {
                guard.serve(None);
                Some(error)
            }
        };
    }

    async fn serve(&mut self, guard: &Guard, list: &CacheList, memory_bytes: u64) -> Result<(), String> {
        let Some(member) = list.members.iter().find(|member| member.server == self.me) else {
            guard.serve(None);
            return Ok(());
        };
        let used = self.remembered.process.clone();
        if let (Some(serving), Some(used)) = (guard.serving(), &used)
            && serving.pid == used.pid
            && used.alive()
        {
            return self.tell_memory(used.pid, memory_bytes).await;
        }
        guard.serve(None);
        if !guard.is_empty() {
            return Err("connections to the memcached before it are not closed yet".to_owned());
        }
        let process = memcached::process(&self.socket)
            .await
            .map_err(|error| format!("memcached: {error}"))?;
        if self.remembered.process.as_ref() == Some(&process) && self.remembered.life != member.life {
            memcached::end(&self.socket)
                .await
                .map_err(|error| format!("memcached: {error}"))?;
            return Err("memcached is started anew, because it holds old values".to_owned());
        }
        let pid = process.pid;
        let now = Remembered {
            process: Some(process),
            life: member.life,
            closed: self.remembered.closed,
        };
        if now != self.remembered {
            self.remember(now).map_err(|error| error.to_string())?;
        }
        self.tell_memory(pid, memory_bytes).await?;
        if list.open {
            tracing::info!(list = list.number, pid, "memcached serves");
            guard.serve(Some(Serving {
                list: list.number,
                pid,
            }));
        }
        Ok(())
    }

    /// The memory may change while memcached runs.
    async fn tell_memory(&mut self, pid: u32, memory_bytes: u64) -> Result<(), String> {
        if self.memory == Some((pid, memory_bytes)) {
            return Ok(());
        }
        if let Err(error) = memcached::set_memory(&self.socket, memory_bytes).await {
            tracing::warn!(%error, "memcached was not told how much memory it may have");
        }
        self.memory = Some((pid, memory_bytes));
        Ok(())
    }

    fn remember(&mut self, now: Remembered) -> Result<(), FileError> {
        write(&self.file, &now)?;
        self.remembered = now;
        Ok(())
    }
}

fn write(file: &Path, remembered: &Remembered) -> Result<(), FileError> {
    let bytes =
        serde_json::to_vec(remembered).map_err(|error| FileError::new(file, "write", error.into()))?;
    files::write_atomic(file, &bytes, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_let_in_for_the_list_that_is_served_and_counted_until_it_is_gone() {
        let guard = Guard::default();
        assert!(guard.admit(1).is_none() && guard.is_empty());
        guard.serve(Some(Serving { list: 1, pid: 7 }));
        assert!(guard.admit(2).is_none());
        let pass = guard.admit(1).unwrap();
        assert!(pass.is_valid() && !guard.is_empty());
        guard.serve(Some(Serving { list: 1, pid: 8 }));
        assert!(!pass.is_valid(), "another memcached answers there");
        drop(pass);
        assert!(guard.is_empty());
    }
}
