//! The bucket, in memory.

use std::fs;
use std::sync::Arc;

use futures::StreamExt as _;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutPayload};
use pontoon_mirror::Entry;

use crate::bucket::{Bucket, Sent};
use crate::folder::Folder;
use crate::journal::Journal;
use crate::node::{Node, now_ms};
use crate::watch::How;

struct Here {
    dir: tempfile::TempDir,
    node: Node,
    bucket: Bucket,
}

impl Here {
    fn new() -> Here {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("uploads")).unwrap();
        let folder = Folder::open(&dir.path().join("uploads")).unwrap();
        let journal = Journal::open(&dir.path().join("journal.redb")).unwrap();
        let node = Node::open("a".parse().unwrap(), folder, journal).unwrap();
        let store = Arc::new(InMemory::new());
        Here {
            dir,
            node,
            bucket: Bucket { store },
        }
    }

    /// Writes a file and gives its version.
    fn write(&self, path: &str, bytes: &[u8]) -> Entry {
        fs::write(self.dir.path().join("uploads").join(path), bytes).unwrap();
        self.node.mark(path, How::Closed);
        let due = self.node.take_due();
        self.node.look_at(due).unwrap();
        self.node.journal.get(path).unwrap().have.unwrap()
    }

    async fn send(&self, path: &str, entry: &Entry) -> Sent {
        self.bucket.send(&self.node, path, entry).await.unwrap()
    }

    async fn holds(&self, path: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.bucket
            .fetch(path, &mut bytes)
            .await
            .unwrap()
            .then_some(bytes)
    }

    async fn keys(&self) -> Vec<String> {
        let listed: Vec<_> = self.bucket.store.list(None).collect().await;
        let mut keys: Vec<String> = listed
            .into_iter()
            .map(|meta| meta.unwrap().location.to_string())
            .collect();
        keys.sort();
        keys
    }
}

#[tokio::test]
async fn a_version_goes_there_once_and_an_older_one_never_over_it() {
    let here = Here::new();
    let first = here.write("2026.txt", b"first");
    assert_eq!(here.send("2026.txt", &first).await, Sent::Done);
    let (version, digest) = here.bucket.has("2026.txt").await.unwrap().unwrap();
    assert_eq!(version.as_ref(), Some(&first.version));
    assert_eq!(digest, first.content().map(|content| content.sha256));
    let second = here.write("2026.txt", b"second");
    assert_eq!(
        here.send("2026.txt", &first).await,
        Sent::Done,
        "the bucket has it"
    );
    assert_eq!(here.send("2026.txt", &second).await, Sent::Done);
    assert_eq!(here.holds("2026.txt").await.unwrap(), b"second");
    // Somebody who is late neither replaces nor deletes it.
    let late = Entry {
        what: pontoon_mirror::What::Gone,
        ..first.clone()
    };
    assert_eq!(here.send("2026.txt", &late).await, Sent::Done);
    assert_eq!(here.holds("2026.txt").await.unwrap(), b"second");
    let mut kept = Vec::new();
    assert!(here.bucket.fetch_trash("2026.txt", &mut kept).await.unwrap());
    assert_eq!(kept, b"first");
}

#[tokio::test]
async fn what_is_sent_is_what_the_version_says_or_nothing() {
    let here = Here::new();
    let entry = here.write("a", b"hashed");
    fs::write(here.dir.path().join("uploads/a"), b"another").unwrap();
    assert_eq!(here.send("a", &entry).await, Sent::LookFirst);
    // In parts: another one of the same size, which nothing but its bytes tells apart.
    let big = vec![1; 17 << 20];
    let entry = here.write("big", &big);
    let print = here.node.journal.print("big").unwrap().unwrap();
    let mut other = big.clone();
    other[16 << 20] = 2;
    fs::write(here.dir.path().join("uploads/big"), &other).unwrap();
    assert_eq!(here.send("big", &entry).await, Sent::LookFirst);
    let (file, stat) = here.node.folder.open_file("big").unwrap();
    drop(file);
    let now = crate::folder::print(&stat);
    assert_ne!(now.ctime_ns, print.ctime_ns);
    here.node
        .journal
        .update(|batch| batch.put_print("big", &now))
        .unwrap();
    assert_eq!(here.send("big", &entry).await, Sent::LookFirst);
    assert!(here.keys().await.is_empty());
    fs::remove_file(here.dir.path().join("uploads/a")).unwrap();
    assert_eq!(here.send("a", &entry).await, Sent::LookFirst);
}

#[tokio::test]
async fn a_deletion_is_kept_for_a_while() {
    let here = Here::new();
    let entry = here.write("a", b"bytes");
    here.send("a", &entry).await;
    let mut gone = entry.clone();
    gone.what = pontoon_mirror::What::Gone;
    gone.version.stamp.ms += 1;
    assert_eq!(here.send("a", &gone).await, Sent::Done);
    assert_eq!(here.holds("a").await, None);
    assert_eq!(here.send("a", &gone).await, Sent::Done, "and once more");
    let keys = here.keys().await;
    assert!(
        keys.len() == 1 && keys[0].starts_with(".pontoon/trash/a/"),
        "{keys:?}"
    );
    // Of a file whose name is a number, and of one below it.
    for key in [".pontoon/trash/a/5/1000", ".pontoon/trash/note"] {
        let payload = PutPayload::from_static(b"x");
        here.bucket.store.put(&Key::from(key), payload).await.unwrap();
    }
    assert_eq!(here.bucket.purge_trash(now_ms() - 60_000).await.unwrap(), 1);
    assert_eq!(here.keys().await.len(), 2);
    assert_eq!(here.bucket.purge_trash(now_ms() + 60_000).await.unwrap(), 1);
    assert_eq!(
        here.keys().await,
        [".pontoon/trash/note"],
        "what has no moment is not ours to remove"
    );
}
