//! The timeline: every [`Event`] once, to the log, to a file, to memory and to whoever listens.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_fleet::{Event, EventKind, ServerName, Severity};
use pontoon_rt::clock::{Clock, SystemClock};
use tokio::sync::broadcast;

/// How much is kept, and where time comes from.
#[derive(Clone)]
pub struct Options {
    /// A file that grows beyond this is set aside.
    pub max_file_bytes: u64,
    /// How many files are kept beside the present one, as `events.jsonl.1` (the latest), `.2`, …
    pub keep_files: usize,
    /// How many events stay in memory.
    pub tail: usize,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    /// 4 files of 8 MiB, 1,000 events in memory, the machine's clock.
    fn default() -> Options {
        Options {
            max_file_bytes: 8 << 20,
            keep_files: 3,
            tail: 1_000,
            clock: Arc::new(SystemClock),
        }
    }
}

/// Lines that wait for the disk. A disk that hangs longer costs lines in the file, not time in the process.
const QUEUE: usize = 1_024;

/// Events that a subscriber may be behind before it is told that it missed some.
const LIVE: usize = 256;

/// How much of a file's end is read at the start: some thousand events.
const READ_BACK_BYTES: u64 = 2 << 20;

/// The timeline of one server. Cheap to clone.
#[derive(Clone)]
pub struct EventLog {
    server: ServerName,
    clock: Arc<dyn Clock>,
    tail_limit: usize,
    tail: Arc<Mutex<VecDeque<Event>>>,
    live: broadcast::Sender<Event>,
    disk: SyncSender<Work>,
}

enum Work {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

impl EventLog {
    /// The timeline in the file `path`, going on where it ended. Never fails: events that cannot be written are still
    /// logged, kept in memory and sent to subscribers, and the file is tried again with the next one.
    pub fn open(path: &Path, server: ServerName) -> EventLog {
        EventLog::open_with(path, server, Options::default())
    }

    /// As [`open`](EventLog::open), with other limits.
    pub fn open_with(path: &Path, server: ServerName, options: Options) -> EventLog {
        let mut tail = VecDeque::new();
        for file in [numbered(path, 1), path.to_owned()] {
            match read_back(&file) {
                Ok(events) => tail.extend(events),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(file = %file.display(), %error, "earlier events cannot be read"),
            }
        }
        tail.drain(..tail.len().saturating_sub(options.tail));

        let (disk, work) = sync_channel(QUEUE);
        let appender = Appender {
            path: path.to_owned(),
            max_file_bytes: options.max_file_bytes,
            keep_files: options.keep_files,
            file: None,
            failing: false,
        };
        let started = std::thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || appender.run(&work));
        if let Err(error) = started {
            tracing::error!(%error, "no thread for the event file: events are not kept on disk");
        }
        EventLog {
            server,
            clock: options.clock,
            tail_limit: options.tail,
            tail: Arc::new(Mutex::new(tail)),
            live: broadcast::Sender::new(LIVE),
            disk,
        }
    }

    /// Something happened, now and here. Never waits.
    pub fn record(&self, kind: EventKind) -> Event {
        let event = Event {
            at: self.clock.unix(),
            server: self.server.clone(),
            kind,
        };
        match event.kind.severity() {
            Severity::Info => tracing::info!(event = true, "{}", event.kind),
            Severity::Warning => tracing::warn!(event = true, "{}", event.kind),
            Severity::Error => tracing::error!(event = true, "{}", event.kind),
        }
        {
            // One lock around all three: the file, the tail and the subscribers see one order.
            let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
            while tail.len() >= self.tail_limit.max(1) {
                tail.pop_front();
            }
            tail.push_back(event.clone());
            self.to_disk(&event);
            // An error means that nobody listens.
            let _ = self.live.send(event.clone());
        }
        event
    }

    /// The last `limit` events, the oldest first.
    pub fn tail(&self, limit: usize) -> Vec<Event> {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter()
            .skip(tail.len().saturating_sub(limit))
            .cloned()
            .collect()
    }

    /// Every event from now on. A subscriber that is too slow is told how many it missed.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.live.subscribe()
    }

    /// The last `limit` events and every one after them, with none between lost or doubled.
    pub fn tail_and_subscribe(&self, limit: usize) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live.subscribe();
        (
            tail.iter()
                .skip(tail.len().saturating_sub(limit))
                .cloned()
                .collect(),
            live,
        )
    }

    /// Waits until what was recorded is written (blocking, `patience` at most): for the end of a process. Says whether
    /// it came to that.
    pub fn flush(&self, patience: Duration) -> bool {
        let (done, is_done) = sync_channel(1);
        self.disk.try_send(Work::Flush(done)).is_ok() && is_done.recv_timeout(patience).is_ok()
    }

    fn to_disk(&self, event: &Event) {
        let mut line = match serde_json::to_vec(event) {
            Ok(line) => line,
            Err(error) => return tracing::error!(%error, "an event has no JSON form"),
        };
        line.push(b'\n');
        if let Err(TrySendError::Full(_)) = self.disk.try_send(Work::Line(line)) {
            tracing::warn!("the disk does not keep up: an event is missing in the file");
        }
    }
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// Writes lines, in a thread of its own.
struct Appender {
    path: PathBuf,
    max_file_bytes: u64,
    keep_files: usize,
    file: Option<(File, u64)>,
    /// Said once, not with every line.
    failing: bool,
}

impl Appender {
    fn run(mut self, work: &Receiver<Work>) {
        while let Ok(work) = work.recv() {
            match work {
                Work::Line(line) => self.line(&line),
                Work::Flush(done) => drop(done.send(())),
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        match self.append(line) {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("events are written to disk again");
            }
            Ok(()) => {}
            Err(error) => {
                // Opened anew for the next line, which then begins on a line of its own.
                self.file = None;
                if !self.failing {
                    self.failing = true;
                    tracing::error!(path = %self.path.display(), %error, "events are not being written to disk");
                }
            }
        }
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self
            .file
            .as_ref()
            .is_some_and(|(_, size)| *size > 0 && size + line.len() as u64 > self.max_file_bytes)
        {
            self.file = None;
            self.rotate()?;
        }
        let (file, size) = match &mut self.file {
            Some(open) => open,
            closed => closed.insert(open_for_append(&self.path)?),
        };
        file.write_all(line)?;
        *size += line.len() as u64;
        Ok(())
    }

    fn rotate(&self) -> io::Result<()> {
        let from = |number: usize| {
            if number == 0 {
                self.path.clone()
            } else {
                numbered(&self.path, number)
            }
        };
        if self.keep_files == 0 {
            return std::fs::remove_file(&self.path);
        }
        // The oldest is replaced by the rename onto it.
        for number in (0..self.keep_files).rev() {
            match std::fs::rename(from(number), from(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Opens the file and ends a line that a crash or a full disk tore.
fn open_for_append(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .mode(0o640)
        .open(path)?;
    let mut size = file.seek(SeekFrom::End(0))?;
    if size > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size += 1;
        }
    }
    Ok((file, size))
}

/// The events at the end of a file. Lines that are torn, or of a version that knows more, are passed over.
fn read_back(path: &Path) -> io::Result<Vec<Event>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let start = size.saturating_sub(READ_BACK_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(READ_BACK_BYTES).read_to_end(&mut bytes)?;
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use pontoon_fleet::Tier;
    use pontoon_rt::clock::TestClock;

    use super::*;

    fn kind(pid: u32) -> EventKind {
        EventKind::TierStarted {
            tier: Tier::Edge,
            pid,
        }
    }

    fn pids(events: &[Event]) -> Vec<u32> {
        let pid = |event: &Event| match event.kind {
            EventKind::TierStarted { pid, .. } => pid,
            _ => 0,
        };
        events.iter().map(pid).collect()
    }

    fn log(path: &Path, max_file_bytes: u64) -> EventLog {
        let clock = Arc::new(TestClock::default());
        EventLog::open_with(
            path,
            "a".parse().unwrap(),
            Options {
                max_file_bytes,
                tail: 50,
                clock,
                ..Options::default()
            },
        )
    }

    fn flush(log: &EventLog) {
        assert!(log.flush(Duration::from_secs(10)));
    }

    #[test]
    fn events_go_to_memory_to_the_file_and_to_subscribers_in_one_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let log = log(&path, 1 << 20);
        log.record(kind(1));
        let (before, mut live) = log.tail_and_subscribe(10);
        let said = log.record(kind(2));
        assert_eq!((pids(&before), live.try_recv().unwrap()), (vec![1], said.clone()));
        assert_eq!(said.at, TestClock::default().unix());
        assert_eq!(pids(&log.tail(10)), [1, 2]);
        assert_eq!(pids(&log.tail(1)), [2]);
        flush(&log);
        assert_eq!(read_back(&path).unwrap(), log.tail(10));
    }

    #[test]
    fn a_torn_line_costs_that_line_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let first = log(&path, 1 << 20);
        first.record(kind(1));
        first.record(kind(2));
        flush(&first);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 10);
        bytes.splice(0..0, *b"\xff\xfe\n{\"event\":\"of_a_later_version\"}\n[]\n");
        std::fs::write(&path, &bytes).unwrap();

        let second = log(&path, 1 << 20);
        assert_eq!(pids(&second.tail(10)), [1]);
        second.record(kind(3));
        flush(&second);
        assert_eq!(pids(&log(&path, 1 << 20).tail(10)), [1, 3]);
    }

    #[test]
    fn a_large_file_is_set_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let small = log(&path, 400);
        for pid in 1..=60 {
            small.record(kind(pid));
        }
        flush(&small);
        let names = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 4, "the present one and three before it");
        for number in 1..=3 {
            assert!(std::fs::metadata(numbered(&path, number)).unwrap().len() <= 400);
        }
        let tail = pids(&log(&path, 400).tail(100));
        assert_eq!(tail.last(), Some(&60));
        assert!(tail.is_sorted() && tail.len() > 3, "{tail:?}");
        assert_eq!(pids(&small.tail(100)).len(), 50, "memory is bounded");
    }

    #[test]
    fn a_disk_that_refuses_does_not_stop_anything_and_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = dir.path().join("later");
        let path = nowhere.join("events.jsonl");
        let log = log(&path, 1 << 20);
        log.record(kind(1));
        flush(&log);
        std::fs::create_dir(&nowhere).unwrap();
        log.record(kind(2));
        flush(&log);
        assert_eq!(pids(&log.tail(10)), [1, 2]);
        assert_eq!(pids(&read_back(&path).unwrap()), [2]);
    }

    #[test]
    fn a_full_disk_is_survived() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            println!("SKIPPED: no /dev/full here");
            return;
        }
        // Every write to it is ENOSPC (full(4)).
        let mut appender = Appender {
            path: full.to_owned(),
            max_file_bytes: 1 << 20,
            keep_files: 3,
            file: Some((OpenOptions::new().write(true).open(full).unwrap(), 0)),
            failing: false,
        };
        appender.line(b"{}\n");
        assert!(appender.failing && appender.file.is_none());
    }

    #[test]
    fn a_subscriber_that_sleeps_is_told_what_it_missed() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir.path().join("events.jsonl"), 1 << 20);
        let mut slow = log.subscribe();
        for pid in 0..(LIVE as u32 + 10) {
            log.record(kind(pid));
        }
        assert!(matches!(
            slow.try_recv(),
            Err(broadcast::error::TryRecvError::Lagged(10))
        ));
    }
}
