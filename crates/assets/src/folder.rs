//! The folder itself. Nothing here follows a symbolic link or leaves the folder (`openat2`, RESOLVE_BENEATH), and nothing of
//! the application's is overwritten without being kept.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use pontoon_mirror::names::{OWN, Unfit};
use pontoon_mirror::{Content, Digest};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::journal::Print;
use crate::node::now_ms;
use crate::watch::How;

const MARK: &str = ".pontoon/mark";
const INCOMING: &str = ".pontoon/incoming";
const SWAP: &str = ".pontoon/swap";

/// What is kept of what is not in place any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Trash,
    Conflict,
}

impl Kept {
    fn dir(self) -> &'static str {
        match self {
            Kept::Trash => ".pontoon/trash",
            Kept::Conflict => ".pontoon/conflicts",
        }
    }
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// A folder: folders are not mirrored, what is in them is.
    Folder,
    File(Content, Print),
    /// As it was when it was hashed last.
    Unchanged,
    Unfit(Unfit),
    /// Somebody writes to it, or has it open to do so.
    Busy,
}

/// Where a file system does not tell whether somebody has a file open to write to it, one that was not seen to be closed is
/// left alone for so long after its last change.
const SETTLE_MS: u64 = 2_000;

/// More than a tick of a file system's clock (10 ms at `CONFIG_HZ=100`).
const TICK_NS: i128 = 20_000_000;

/// How putting something in place ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    Done(Option<Print>),
    /// The application was there: look first.
    LookFirst,
}

#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    root: OwnedFd,
    next: AtomicU64,
}

impl Folder {
    pub fn open(path: &Path) -> io::Result<Folder> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Folder {
            path: path.to_owned(),
            root,
            next: AtomicU64::new(0),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes what is Pontoon's own, for nobody else to read.
    pub fn prepare(&self, mark: &str) -> io::Result<()> {
        for dir in [OWN, INCOMING, SWAP, Kept::Trash.dir(), Kept::Conflict.dir()] {
            match rustix::fs::mkdirat(&self.root, dir, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.mark().is_none() {
            let path = self.path.join(MARK);
            pontoon_rt::files::write_atomic(&path, mark.as_bytes(), 0o600).map_err(|error| error.source)?;
        }
        Ok(())
    }

    /// The mark that says which folder it is.
    pub fn mark(&self) -> Option<String> {
        std::fs::read_to_string(self.path.join(MARK)).ok()
    }

    /// Whether what is at the path now is the folder that was opened, with its mark: a disk that is not mounted any more, or
    /// a folder that was made anew, is not.
    pub fn is_the_one(&self, mark: &str) -> bool {
        let (Ok(opened), Ok(now)) = (rustix::fs::fstat(&self.root), rustix::fs::stat(&self.path)) else {
            return false;
        };
        opened.st_dev == now.st_dev && opened.st_ino == now.st_ino && self.mark().as_deref() == Some(mark)
    }

    fn open_beneath(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        pontoon_rt::beneath::open(&self.root, path, flags)
    }

    fn stat(&self, path: &str) -> rustix::io::Result<Stat> {
        rustix::fs::fstat(self.open_beneath(path, OFlags::PATH)?)
    }

    /// Opens a regular file to read it.
    pub fn open_file(&self, path: &str) -> io::Result<(File, Stat)> {
        if FileType::from_raw_mode(self.stat(path)?.st_mode) != FileType::RegularFile {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Not waiting: what was a file a moment ago may be a FIFO by now.
        let fd = self.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok((File::from(fd), stat))
    }

    /// Looks at a path. A file that looks as in `known` is not read again. One that somebody can still write to is never
    /// taken for a file: half of it may be missing.
    pub fn look(&self, path: &str, known: Option<&Print>, how: How) -> Found {
        let stat = match self.stat(path) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR) => return Found::Nothing,
            Err(Errno::LOOP | Errno::XDEV) => return Found::Unfit(Unfit::Link),
            Err(Errno::NAMETOOLONG) => return Found::Unfit(Unfit::TooLong),
            Err(_) => return Found::Unfit(Unfit::Unreadable),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Found::Folder,
            FileType::Symlink => return Found::Unfit(Unfit::Link),
            _ => return Found::Unfit(Unfit::Special),
        }
        if known.is_some_and(|known| !known.is_fresh && known.is_as(&print(&stat))) {
            return Found::Unchanged;
        }
        let (mut file, before) = match self.open_file(path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
            Err(_) => return Found::Unfit(Unfit::Unreadable),
        };
        if is_busy(&file, &before, how) {
            return Found::Busy;
        }
        let begun_ns = i128::from(now_ms()) * 1_000_000;
        let Ok(sha256) = hash(&mut file) else {
            return Found::Unfit(Unfit::Unreadable);
        };
        let mut looks = print(&before);
        looks.is_fresh = begun_ns - looks.ctime_ns < TICK_NS;
        match (rustix::fs::fstat(&file), self.stat(path)) {
            (Ok(after), Ok(there))
                if print(&after).is_as(&looks)
                    && print(&there).is_as(&looks)
                    && !is_busy(&file, &after, how) =>
            {
                Found::File(content(&before, sha256), looks)
            }
            _ => Found::Busy,
        }
    }

    /// A new file for what comes in; renamed into place, or removed with [`Folder::discard`].
    pub fn incoming(&self) -> io::Result<(String, File)> {
        let name = format!(
            "{}-{}",
            std::process::id(),
            self.next.fetch_add(1, Ordering::Relaxed)
        );
        let path = format!("{INCOMING}/{name}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&self.root, &path, flags, Mode::from_raw_mode(0o600))?;
        Ok((name, File::from(fd)))
    }

    pub fn discard(&self, name: &str) {
        let _ = rustix::fs::unlinkat(&self.root, format!("{INCOMING}/{name}"), AtFlags::empty());
    }

    /// Puts a whole file that came in into its place. What is there goes to `keep`, if it looks as in `expected`; else
    /// nothing changes. The file gets the owner of the folder that it is in, as if the application had written it there.
    pub fn place(
        &self,
        name: &str,
        path: &str,
        content: &Content,
        expected: Option<&Print>,
        keep: (Kept, &str),
    ) -> io::Result<Placed> {
        let incoming = format!("{INCOMING}/{name}");
        let (dir, last) = self.parent(path, true)?;
        let file = File::from(self.open_beneath(&incoming, OFlags::WRONLY)?);
        let owner = rustix::fs::fstat(&dir)?;
        own(&file, &owner)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(content.mode & 0o777))?;
        let times = rustix::fs::Timestamps {
            last_access: time_of(content.mtime_ms),
            last_modification: time_of(content.mtime_ms),
        };
        rustix::fs::futimens(&file, &times)?;
        file.sync_all()?;
        let written = print(&rustix::fs::fstat(&file)?);
        let swap = format!("{SWAP}/{name}");
        rustix::fs::renameat(&self.root, &incoming, &self.root, &swap)?;
        let there = match self.stat(path) {
            Ok(stat) => Some(print(&stat)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        if !is_expected(there.as_ref(), expected) {
            self.unlink(&swap);
            return Ok(Placed::LookFirst);
        }
        let flags = match there {
            Some(_) => RenameFlags::EXCHANGE,
            None => RenameFlags::NOREPLACE,
        };
        match rustix::fs::renameat_with(&self.root, &swap, &dir, &last, flags) {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOENT) => {
                self.unlink(&swap);
                return Ok(Placed::LookFirst);
            }
            Err(error) => return Err(error.into()),
        }
        // The rename has changed `ctime`. What the application did to it since is looked at.
        let mut placed = print(&rustix::fs::fstat(&file)?);
        placed.is_fresh = !placed.is_same_file(&written);
        if there.is_some() {
            if !self.is_as(&swap, expected) {
                // The application was there in between: its file goes back.
                rustix::fs::renameat_with(&self.root, &swap, &dir, &last, RenameFlags::EXCHANGE)?;
                match self.is_as(&swap, Some(&written)) {
                    true => self.unlink(&swap),
                    false => self.keep(&swap, path, (Kept::Conflict, keep.1))?,
                }
                return Ok(Placed::LookFirst);
            }
            self.keep(&swap, path, keep)?;
        }
        sync(&dir)?;
        Ok(Placed::Done(Some(placed)))
    }

    /// Takes a file out of its place and keeps it, if it looks as in `expected`.
    pub fn remove(&self, path: &str, expected: Option<&Print>, keep: (Kept, &str)) -> io::Result<Placed> {
        let there = match self.stat(path) {
            Ok(stat) => Some(print(&stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            Err(error) => return Err(error.into()),
        };
        let Some(there) = there else {
            return Ok(Placed::Done(None));
        };
        if !is_expected(Some(&there), expected) {
            return Ok(Placed::LookFirst);
        }
        let (dir, last) = self.parent(path, false)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let swap = format!("{SWAP}/{}-{number}", std::process::id());
        rustix::fs::renameat_with(&dir, &last, &self.root, &swap, RenameFlags::NOREPLACE)?;
        if !self.is_as(&swap, expected) {
            match rustix::fs::renameat_with(&self.root, &swap, &dir, &last, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(_) => self.keep(&swap, path, (Kept::Conflict, keep.1))?,
            }
            return Ok(Placed::LookFirst);
        }
        self.keep(&swap, path, keep)?;
        sync(&dir)?;
        Ok(Placed::Done(None))
    }

    /// What was being exchanged when this server was killed may be the application's: it goes to the trash. What was coming
    /// in is fetched again.
    pub fn tidy(&self, moment: &str) -> io::Result<u64> {
        let mut kept = 0;
        for entry in std::fs::read_dir(self.path.join(SWAP))? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            self.keep(&format!("{SWAP}/{name}"), &name, (Kept::Trash, moment))?;
            kept += 1;
        }
        for entry in std::fs::read_dir(self.path.join(INCOMING))? {
            self.discard(&entry?.file_name().to_string_lossy());
        }
        Ok(kept)
    }

    /// The latest that is kept of a path: where it is.
    pub fn kept(&self, path: &str) -> Option<PathBuf> {
        let dir = self.path.join(Kept::Trash.dir());
        let mut moments: Vec<PathBuf> = std::fs::read_dir(dir)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        moments.sort();
        let mut found = moments.into_iter().rev().map(|moment| moment.join(path));
        found.find(|file| std::fs::symlink_metadata(file).is_ok_and(|meta| meta.is_file()))
    }

    /// Removes what has been in the trash since before `until_ms`. Conflicts stay.
    pub fn purge(&self, until_ms: u64) -> io::Result<()> {
        for entry in std::fs::read_dir(self.path.join(Kept::Trash.dir()))? {
            let entry = entry?;
            let name = entry.file_name();
            let moment = name
                .to_str()
                .and_then(|name| name.split('-').next()?.parse::<u64>().ok());
            if moment.is_some_and(|moment| moment < until_ms) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Puts a whole file that came in where nothing is, as the application would.
    pub fn restore(&self, name: &str, path: &str) -> io::Result<()> {
        let (dir, last) = self.parent(path, true)?;
        let incoming = format!("{INCOMING}/{name}");
        let file = File::from(self.open_beneath(&incoming, OFlags::WRONLY)?);
        own(&file, &rustix::fs::fstat(&dir)?)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
        file.sync_all()?;
        rustix::fs::renameat_with(&self.root, &incoming, &dir, &last, RenameFlags::NOREPLACE)?;
        sync(&dir)
    }

    fn is_as(&self, path: &str, expected: Option<&Print>) -> bool {
        let there = self.stat(path).ok().map(|stat| print(&stat));
        there
            .zip(expected)
            .is_some_and(|(there, expected)| there.is_same_file(expected))
    }

    fn unlink(&self, path: &str) {
        let _ = rustix::fs::unlinkat(&self.root, path, AtFlags::empty());
    }

    fn keep(&self, from: &str, path: &str, (kept, moment): (Kept, &str)) -> io::Result<()> {
        let to = format!("{}/{moment}/{path}", kept.dir());
        if let Some(dir) = self.path.join(&to).parent() {
            pontoon_rt::files::create_dir(dir, 0o700).map_err(|error| error.source)?;
        }
        rustix::fs::renameat(&self.root, from, &self.root, &to)?;
        Ok(())
    }

    /// The folder of a path, and its last name. Folders that are missing are made like the one that they are in.
    fn parent(&self, path: &str, make: bool) -> io::Result<(OwnedFd, String)> {
        let (dirs, last) = path.rsplit_once('/').unwrap_or(("", path));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = self.open_beneath(".", flags)?;
        let mut walked = String::new();
        for name in dirs.split('/').filter(|name| !name.is_empty()) {
            walked = if walked.is_empty() {
                name.to_owned()
            } else {
                format!("{walked}/{name}")
            };
            at = match self.open_beneath(&walked, flags) {
                Err(Errno::NOENT) if make => {
                    let like = rustix::fs::fstat(&at)?;
                    let mode = Mode::from_raw_mode(like.st_mode & 0o7777);
                    match rustix::fs::mkdirat(&at, name, mode) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    let made = self.open_beneath(&walked, flags)?;
                    own(&made, &like)?;
                    rustix::fs::fchmod(&made, mode)?;
                    sync(&at)?;
                    made
                }
                other => other?,
            };
        }
        Ok((at, last.to_owned()))
    }
}

/// Whether somebody writes to it. Where that cannot be known, for how long nobody has.
fn is_busy(file: &File, stat: &Stat, how: How) -> bool {
    pontoon_sys::is_written_to(file).unwrap_or_else(|_| {
        let since_ms = now_ms().saturating_sub(print(stat).changed_ms());
        how < How::Closed && since_ms < SETTLE_MS
    })
}

fn is_expected(there: Option<&Print>, expected: Option<&Print>) -> bool {
    match (there, expected) {
        (Some(there), Some(expected)) => there.is_as(expected),
        (there, expected) => there.is_none() && expected.is_none(),
    }
}

/// Gives a file or folder the owner of the folder that it is in.
fn own(what: impl AsFd, like: &Stat) -> io::Result<()> {
    let is = rustix::fs::fstat(&what)?;
    if (is.st_uid, is.st_gid) == (like.st_uid, like.st_gid) {
        return Ok(());
    }
    let owner = rustix::fs::Uid::from_raw(like.st_uid);
    let group = rustix::fs::Gid::from_raw(like.st_gid);
    Ok(rustix::fs::fchown(what, Some(owner), Some(group))?)
}

fn sync(dir: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fsync(dir)?)
}

pub(crate) fn print(stat: &Stat) -> Print {
    Print {
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
        ctime_ns: i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec),
        is_fresh: false,
    }
}

fn mtime_ms(stat: &Stat) -> u64 {
    u64::try_from(print(stat).mtime_ns / 1_000_000).unwrap_or(0)
}

fn content(stat: &Stat, sha256: Digest) -> Content {
    Content {
        sha256,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o777,
        mtime_ms: mtime_ms(stat),
    }
}

fn time_of(ms: u64) -> rustix::fs::Timespec {
    rustix::fs::Timespec {
        tv_sec: i64::try_from(ms / 1000).unwrap_or(0),
        tv_nsec: i64::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
    }
}

/// The sha256 of all that comes.
pub(crate) fn hash(from: &mut impl Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(Digest(hasher.finalize().into())),
            read => hasher.update(&buffer[..read]),
        }
    }
}
