//! What is done to files, with real ones.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use pontoon_mirror::names::Unfit;
use pontoon_mirror::{Content, Digest};

use crate::folder::{Folder, Found, Kept, Placed, hash};
use crate::journal::Print;
use crate::watch::How;

fn folder() -> (tempfile::TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    folder.prepare("mark").unwrap();
    (dir, folder)
}

fn look(folder: &Folder, path: &str) -> (Content, Print) {
    match folder.look(path, None, How::Listed) {
        Found::File(content, print) => (content, print),
        other => panic!("{path}: {other:?}"),
    }
}

fn incoming(folder: &Folder, bytes: &[u8]) -> (String, Content) {
    let (name, mut file) = folder.incoming().unwrap();
    file.write_all(bytes).unwrap();
    let content = Content {
        sha256: hash(&mut &*bytes).unwrap(),
        size: bytes.len() as u64,
        mode: 0o640,
        mtime_ms: 1_000_000,
    };
    (name, content)
}

fn age(path: &Path, by: Duration) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - by).unwrap();
}

#[test]
fn a_file_that_somebody_can_still_write_to_is_busy() {
    let (dir, folder) = folder();
    let mut writer = fs::File::create(dir.path().join("a")).unwrap();
    writer.write_all(b"half").unwrap();
    // However long ago it was written to: an upload may pause.
    age(&dir.path().join("a"), Duration::from_secs(3600));
    assert_eq!(folder.look("a", None, How::Closed), Found::Busy);
    writer.write_all(b" and half").unwrap();
    drop(writer);
    let (content, _) = look(&folder, "a");
    assert_eq!(content.size, 13);
    assert_eq!(content.sha256, hash(&mut &b"half and half"[..]).unwrap());
}

#[test]
fn a_rewrite_is_seen_whatever_time_stands_on_the_file() {
    let (dir, folder) = folder();
    let path = dir.path().join("a");
    fs::write(&path, b"one").unwrap();
    age(&path, Duration::from_secs(60));
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let print = loop {
        let (_, print) = look(&folder, "a");
        if !print.is_fresh {
            break print;
        }
    };
    assert_eq!(folder.look("a", Some(&print), How::Closed), Found::Unchanged);
    // As `cp -p` does: the same size, and the old time put back.
    fs::write(&path, b"two").unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    match folder.look("a", Some(&print), How::Closed) {
        Found::File(content, _) => assert_eq!(content.sha256, hash(&mut &b"two"[..]).unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_looked_at_right_after_a_write_is_looked_at_again() {
    let (dir, folder) = folder();
    // Fast enough at least once: a look within the tick of the write.
    let fresh = (0..100).find_map(|_| {
        fs::write(dir.path().join("a"), b"one").unwrap();
        let (_, print) = look(&folder, "a");
        print.is_fresh.then_some(print)
    });
    let fresh = fresh.unwrap();
    assert!(matches!(
        folder.look("a", Some(&fresh), How::Closed),
        Found::File(..)
    ));
}

#[test]
fn nothing_that_is_no_file_is_opened_and_no_link_followed() {
    let (dir, folder) = folder();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), b"x").unwrap();
    symlink(outside.path().join("secret"), dir.path().join("link")).unwrap();
    symlink(outside.path(), dir.path().join("links")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let unfit = |path: &str| folder.look(path, None, How::Closed);
    assert_eq!(unfit("link"), Found::Unfit(Unfit::Link));
    assert_eq!(unfit("links/secret"), Found::Unfit(Unfit::Link));
    assert_eq!(unfit("fifo"), Found::Unfit(Unfit::Special));
    assert!(folder.open_file("fifo").is_err() && folder.open_file("../etc/passwd").is_err());
    let (name, content) = incoming(&folder, b"new");
    let placed = folder.place(&name, "links/new", &content, None, (Kept::Trash, "1-a"));
    assert!(placed.is_err());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn what_is_replaced_is_kept_and_what_is_not_expected_stays() {
    let (dir, folder) = folder();
    let (name, content) = incoming(&folder, b"first");
    let placed = folder.place(&name, "2026/11/a", &content, None, (Kept::Trash, "1-a"));
    let Ok(Placed::Done(Some(print))) = placed else {
        panic!("{placed:?}");
    };
    let path = dir.path().join("2026/11/a");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(
        folder.look("2026/11/a", Some(&print), How::Closed),
        Found::Unchanged
    );
    let (name, content) = incoming(&folder, b"second");
    let placed = folder.place(&name, "2026/11/a", &content, Some(&print), (Kept::Trash, "2-a"));
    assert!(matches!(placed, Ok(Placed::Done(Some(_)))));
    assert_eq!(fs::read(&path).unwrap(), b"second");
    assert_eq!(fs::read(folder.kept("2026/11/a").unwrap()).unwrap(), b"first");
    // The application was there in between.
    let (_, known) = look(&folder, "2026/11/a");
    fs::write(&path, b"the application's").unwrap();
    let (name, content) = incoming(&folder, b"third");
    let placed = folder.place(&name, "2026/11/a", &content, Some(&known), (Kept::Trash, "3-a"));
    assert_eq!(placed.unwrap(), Placed::LookFirst);
    assert_eq!(
        folder
            .remove("2026/11/a", Some(&known), (Kept::Trash, "3-a"))
            .unwrap(),
        Placed::LookFirst
    );
    assert_eq!(fs::read(&path).unwrap(), b"the application's");
    let (_, known) = look(&folder, "2026/11/a");
    let removed = folder.remove("2026/11/a", Some(&known), (Kept::Conflict, "4-a"));
    assert_eq!(removed.unwrap(), Placed::Done(None));
    assert!(!path.exists() && dir.path().join(".pontoon/conflicts/4-a/2026/11/a").exists());
}

#[test]
fn the_trash_keeps_what_is_young_and_an_interrupted_exchange_is_put_there() {
    let (dir, folder) = folder();
    for moment in ["1000-a", "9000-b"] {
        let trash = dir.path().join(".pontoon/trash").join(moment);
        fs::create_dir_all(&trash).unwrap();
        fs::write(trash.join("x"), moment).unwrap();
    }
    fs::write(dir.path().join(".pontoon/swap/7-7"), b"swapped").unwrap();
    fs::write(dir.path().join(".pontoon/incoming/7-8"), b"half").unwrap();
    assert_eq!(folder.tidy("9500-interrupted").unwrap(), 1);
    assert_eq!(fs::read(folder.kept("x").unwrap()).unwrap(), b"9000-b");
    folder.purge(5000).unwrap();
    let mut left: Vec<_> = fs::read_dir(dir.path().join(".pontoon/trash"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["9000-b", "9500-interrupted"]);
    assert_eq!(
        fs::read_dir(dir.path().join(".pontoon/incoming"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_folder_that_is_not_the_one_is_noticed() {
    let (dir, folder) = folder();
    assert!(folder.is_the_one("mark") && !folder.is_the_one("other"));
    fs::rename(dir.path(), dir.path().with_extension("moved")).unwrap();
    fs::create_dir(dir.path()).unwrap();
    assert!(!folder.is_the_one("mark"));
    fs::remove_dir_all(dir.path().with_extension("moved")).unwrap();
    assert_ne!(Digest([0; 32]), hash(&mut &b""[..]).unwrap());
}
