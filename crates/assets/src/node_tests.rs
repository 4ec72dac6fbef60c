//! How news from the disk and from other servers become records, with a real folder and journal.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use pontoon_fleet::ServerName;
use pontoon_mirror::{Content, Entry, Stamp, Version, What};

use crate::folder::{Folder, hash};
use crate::journal::{Change, Cursor, Journal};
use crate::node::{Node, now_ms};
use crate::watch::{How, Seen};

struct Here {
    dir: tempfile::TempDir,
    node: Node,
}

impl Here {
    fn new() -> Here {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("uploads")).unwrap();
        let node = open(&dir);
        let here = Here { dir, node };
        here.node.seen(Seen::All).unwrap();
        here.node.look_at(Vec::new()).unwrap();
        assert!(here.node.state().looked);
        here
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let file = self.path(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("uploads").join(path)
    }

    /// As the watcher says it.
    fn look(&self, path: &str, how: How) {
        self.node.mark(path, how);
        let due = self.node.take_due();
        self.node.look_at(due).unwrap();
    }

    fn have(&self, path: &str) -> Option<Entry> {
        self.node.journal.get(path).unwrap().have
    }

    fn put(&self, path: &str, entry: &Entry, bytes: &[u8]) -> bool {
        let (name, mut file) = self.node.folder.incoming().unwrap();
        file.write_all(bytes).unwrap();
        self.node.put_in_place(path, entry, Some(&name)).unwrap()
    }

    fn learn(&self, path: &str, entry: &Entry) {
        let cursor = Cursor {
            journal: "j".to_owned(),
            after: entry.version.stamp.ms,
        };
        let change = Change {
            path: path.to_owned(),
            entry: entry.clone(),
        };
        self.node.learn(&b(), &cursor, vec![change]).unwrap();
    }
}

fn open(dir: &tempfile::TempDir) -> Node {
    let folder = Folder::open(&dir.path().join("uploads")).unwrap();
    let journal = Journal::open(&dir.path().join("journal.redb")).unwrap();
    Node::open("a".parse().unwrap(), folder, journal).unwrap()
}

fn b() -> ServerName {
    "b".parse().unwrap()
}

fn entry(bytes: &[u8], ms: u64) -> Entry {
    let stamp = Stamp { ms, count: 0 };
    Entry {
        version: Version { stamp, server: b() },
        seen: [(b(), stamp)].into(),
        what: What::File(Content {
            sha256: hash(&mut &*bytes).unwrap(),
            size: bytes.len() as u64,
            mode: 0o644,
            mtime_ms: 7,
        }),
    }
}

fn digest(entry: Option<Entry>) -> pontoon_mirror::Digest {
    entry.unwrap().content().unwrap().sha256
}

#[test]
fn a_slow_upload_is_one_version_and_never_half() {
    let here = Here::new();
    let mut writer = fs::File::create(here.path("slow")).unwrap();
    for _ in 0..5 {
        writer.write_all(&[7; 1000]).unwrap();
        // Written long ago, for all that stands on the file.
        writer
            .set_modified(SystemTime::now() - Duration::from_secs(3600))
            .unwrap();
        for how in [How::Listed, How::Appeared, How::Closed] {
            here.look("slow", how);
            assert_eq!(here.have("slow"), None);
            here.node.forget_dirty();
        }
    }
    drop(writer);
    here.look("slow", How::Closed);
    assert_eq!(digest(here.have("slow")), hash(&mut &[7; 5000][..]).unwrap());
    assert_eq!(here.node.journal.counts().unwrap().last_serial, 1);
}

#[test]
fn what_is_open_does_not_keep_the_first_look_from_ending() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("uploads")).unwrap();
    fs::write(dir.path().join("uploads/done"), b"1").unwrap();
    let mut open_one = fs::File::create(dir.path().join("uploads/log")).unwrap();
    open_one.write_all(b"line").unwrap();
    let node = open(&dir);
    for path in ["done", "log"] {
        node.seen(Seen::Path(path.into(), How::Listed)).unwrap();
    }
    node.seen(Seen::All).unwrap();
    let due = node.take_due();
    node.look_at(due).unwrap();
    assert!(node.state().looked);
    assert!(node.journal.get("done").unwrap().have.is_some());
    assert!(node.journal.get("log").unwrap().have.is_none());
    let report = node.report().unwrap();
    assert_eq!(
        (report.being_written, report.unsettled),
        (1, 0),
        "it is looked at again"
    );
}

#[test]
fn an_old_file_that_is_restored_is_the_newest_version() {
    let here = Here::new();
    here.write("a", b"new");
    here.look("a", How::Closed);
    let before = here.have("a").unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let began = now_ms();
    // As `tar x` and `rsync -t` do: another inode, an old time.
    here.write("other", b"old");
    fs::File::options()
        .write(true)
        .open(here.path("other"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    fs::rename(here.path("other"), here.path("a")).unwrap();
    here.look("a", How::Closed);
    let after = here.have("a").unwrap();
    assert!(after.version > before.version && after.version.stamp.ms >= began);
    // The same while nobody watched.
    let began = now_ms();
    // The file system's clock goes in steps.
    while now_ms() < began + 30 {
        std::hint::spin_loop();
    }
    here.write("a", b"older");
    fs::File::options()
        .write(true)
        .open(here.path("a"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    here.look("a", How::Listed);
    let last = here.have("a").unwrap();
    assert!(last.version.stamp.ms >= began, "{last:?} {began}");
    assert_eq!(last.content().unwrap().mtime_ms, 1_000_000_000_000);
}

#[test]
fn a_joining_server_counts_as_old_as_its_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("uploads")).unwrap();
    let path = dir.path().join("uploads/a");
    fs::write(&path, b"old").unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(old).unwrap();
    drop(file);
    let node = open(&dir);
    node.seen(Seen::Path("a".into(), How::Listed)).unwrap();
    node.seen(Seen::All).unwrap();
    let due = node.take_due();
    node.look_at(due).unwrap();
    let have = node.journal.get("a").unwrap().have.unwrap();
    assert_eq!(have.version.stamp.ms, 1_000_000_000_000);
}

#[test]
fn what_comes_from_others_replaces_only_what_was_seen() {
    let here = Here::new();
    here.write("a", b"mine");
    here.look("a", How::Closed);
    let theirs = entry(b"theirs", now_ms() + 60_000);
    here.learn("a", &theirs);
    assert_eq!(here.node.take_wanted().as_deref(), Some("a"));
    here.node.release("a");
    // The application writes once more before it is placed.
    here.write("a", b"mine again");
    assert!(!here.put("a", &theirs, b"theirs"));
    assert_eq!(fs::read(here.path("a")).unwrap(), b"mine again");
    here.look("a", How::Closed);
    let mine = here.have("a").unwrap();
    assert!(mine.version > theirs.version, "the clock has seen theirs");
    let last = entry(b"last", now_ms() + 120_000);
    here.learn("a", &last);
    assert!(here.put("a", &last, b"last"));
    assert_eq!(here.have("a").unwrap(), last);
    // It had not seen mine.
    assert_eq!(here.node.report().unwrap().conflicts_total, 1);
    here.look("a", How::Closed);
    assert_eq!(here.have("a").unwrap(), last, "its own work is no write");
    let strange = entry(b"x", 1);
    here.learn("../a", &strange);
    here.learn(".pontoon/mark", &strange);
    assert_eq!(here.node.report().unwrap().wanted, 0);
}

#[test]
fn many_deletions_are_held_and_a_few_are_not() {
    let here = Here::new();
    for number in 0..60 {
        here.write(&format!("many/{number}"), number.to_string().as_bytes());
        here.look(&format!("many/{number}"), How::Closed);
    }
    let judge = || here.node.judge(now_ms() + 2_100).unwrap();
    let vanish = |count: u32| {
        for number in 0..count {
            let _ = fs::remove_file(here.path(&format!("many/{number}")));
            here.look(&format!("many/{number}"), How::Appeared);
        }
    };
    vanish(3);
    assert_eq!(here.node.report().unwrap().files, 60, "not at once");
    judge();
    assert_eq!(here.node.report().unwrap().files, 57);
    assert!(here.have("many/0").unwrap().content().is_none());
    vanish(60);
    judge();
    let report = here.node.report().unwrap();
    assert_eq!((report.files, report.held_deletions), (57, 57));
    assert_eq!(here.node.settle_deletions(false, &b()).unwrap(), 57);
    let report = here.node.report().unwrap();
    assert_eq!((report.held_deletions, report.wanted), (0, 57));
}

#[test]
fn a_tombstone_stays_until_everybody_has_heard_of_it() {
    let here = Here::new();
    here.write("a", b"1");
    here.look("a", How::Closed);
    fs::remove_file(here.path("a")).unwrap();
    here.look("a", How::Appeared);
    here.node.judge(now_ms()).unwrap();
    assert!(here.have("a").unwrap().content().is_some(), "too soon");
    here.node.judge(now_ms() + 2_100).unwrap();
    let gone = here.have("a").unwrap();
    assert!(gone.content().is_none());
    let late = now_ms() + 1000;
    let forget = |others: &[ServerName]| here.node.forget(late, others).unwrap();
    assert_eq!(forget(&[]), 0, "the bucket does not know");
    here.node.in_bucket("a", &gone).unwrap();
    assert_eq!(here.node.forget(now_ms() - 60_000, &[]).unwrap(), 0, "too young");
    assert_eq!(forget(&[b()]), 0, "b never asked");
    let last = here.node.journal.counts().unwrap().last_serial;
    here.node.state().heard.insert(b(), last - 1);
    assert_eq!(forget(&[b()]), 0, "b has not heard of it");
    here.node.state().heard.insert(b(), last);
    assert_eq!(forget(&[b()]), 1);
    assert_eq!(here.have("a"), None);
    assert!(here.node.journal.changes(0, 10).unwrap().0.is_empty());
    // Numbers go on where they were.
    here.write("c", b"1");
    here.look("c", How::Closed);
    assert!(here.node.journal.counts().unwrap().last_serial > last);
}
