//! The watcher: a thread that reads inotify(7) and says which paths to look at. A folder that appears is watched first and
//! then listed, so that nothing in it is missed; what the kernel had no room for is found by looking at everything.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pontoon_mirror::names::OWN;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::sync::mpsc::UnboundedSender;

use crate::folder::Folder;

/// What was seen. Paths are relative to the folder, as the file system has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A path to look at.
    Path(PathBuf, How),
    /// A folder is not there any more: look at what is known of it.
    FolderGone(PathBuf),
    /// Everything that is there has been said; what is not said and is known is gone.
    All,
    /// It does not work, in words.
    Trouble(String),
}

/// How a path came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum How {
    /// It was there, or is known, when everything was looked at: it changed at any time.
    Listed,
    /// Something happened to it now, or it is in a folder that came up now.
    Appeared,
    /// It was closed by somebody who wrote to it, or moved into its place, now.
    Closed,
}

const WATCHED: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::DONT_FOLLOW);

/// How often it is looked at whether the process is to end.
const LOOK_UP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

pub(crate) struct Watcher {
    fd: OwnedFd,
    root: PathBuf,
    folders: HashMap<i32, PathBuf>,
    to: UnboundedSender<Seen>,
}

impl Watcher {
    pub fn new(folder: &Folder, to: UnboundedSender<Seen>) -> io::Result<Watcher> {
        Ok(Watcher {
            fd: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            root: folder.path().to_owned(),
            folders: HashMap::new(),
            to,
        })
    }

    /// Watches everything and says everything that is there; then says what changes, until `ended`. `again` asks for
    /// everything once more.
    pub fn run(mut self, ended: impl Fn() -> bool, again: impl Fn() -> bool) {
        self.everything();
        let mut buffer = [MaybeUninit::uninit(); 64 << 10];
        while !ended() {
            let mut waiting = [PollFd::new(&self.fd, PollFlags::IN)];
            let _ = poll(&mut waiting, Some(&LOOK_UP));
            let lost = self.read(&mut buffer);
            if lost || again() {
                self.everything();
            }
        }
    }

    fn everything(&mut self) {
        self.enter(PathBuf::new(), How::Listed);
        self.say(Seen::All);
    }

    fn say(&self, seen: Seen) {
        // Nobody listens any more only when the process ends.
        let _ = self.to.send(seen);
    }

    /// Whether the kernel had no room for an event.
    fn read(&mut self, buffer: &mut [MaybeUninit<u8>]) -> bool {
        let mut events = Vec::new();
        {
            let mut reader = inotify::Reader::new(&self.fd, buffer);
            while let Ok(event) = reader.next() {
                let name = event
                    .file_name()
                    .map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
                events.push((event.wd(), event.events(), name));
                if reader.is_buffer_empty() {
                    break;
                }
            }
        }
        let mut lost = false;
        for (watch, what, name) in events {
            if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                lost = true;
            }
            if what.contains(ReadFlags::IGNORED) {
                self.folders.remove(&watch);
            }
            let (Some(dir), Some(name)) = (self.folders.get(&watch), name) else {
                continue;
            };
            let path = dir.join(name);
            if path.starts_with(OWN) {
                continue;
            }
            let appears = what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
            match (what.contains(ReadFlags::ISDIR), appears) {
                (true, true) => self.enter(path, How::Appeared),
                (true, false) => self.leave(path),
                (false, _) => {
                    let closed = what.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO);
                    let how = if closed { How::Closed } else { How::Appeared };
                    self.say(Seen::Path(path, how));
                }
            }
        }
        lost
    }

    /// Watches a folder and all that are in it, and says what is there.
    fn enter(&mut self, from: PathBuf, how: How) {
        let mut folders = vec![from];
        while let Some(dir) = folders.pop() {
            let full = self.root.join(&dir);
            match inotify::add_watch(&self.fd, &full, WATCHED) {
                Ok(watch) => drop(self.folders.insert(watch, dir.clone())),
                // It went again, or is something else by now.
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                    continue;
                }
                Err(error) => {
                    let text = format!("{} cannot be watched: {error}", full.display());
                    self.say(Seen::Trouble(text));
                }
            }
            let Ok(entries) = std::fs::read_dir(&full) else {
                continue;
            };
            for entry in entries.flatten() {
                let path = dir.join(entry.file_name());
                if path.starts_with(OWN) {
                    continue;
                }
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(path),
                    _ => self.say(Seen::Path(path, how)),
                }
            }
        }
    }

    /// A folder that was moved away is watched under a name that it does not have any more.
    fn leave(&mut self, gone: PathBuf) {
        let under: Vec<i32> = self
            .folders
            .iter()
            .filter(|(_, dir)| dir.starts_with(&gone))
            .map(|(watch, _)| *watch)
            .collect();
        for watch in under {
            self.folders.remove(&watch);
            let _ = inotify::remove_watch(&self.fd, watch);
        }
        self.say(Seen::FolderGone(gone));
    }
}

/// A path as text; what is not text cannot be a key.
pub(crate) fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
