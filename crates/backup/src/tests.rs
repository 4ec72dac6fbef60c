//! Copies and archives in a store that is a map in memory.

#![allow(clippy::unwrap_used, clippy::panic)] // a panic is the report

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::memory::InMemory;
use pontoon_fleet::{Code, Engine, Refusal, UnixMillis};
use pontoon_gtid::binlog::{Committed, Feed};
use pontoon_gtid::{Dialect, Position};
use pontoon_helper::BinlogFile;
use pontoon_helper::frame::{self, End, Frame, Progress};
use sha2::{Digest, Sha256};

use crate::archive::{Archiver, BLOCK, Binlogs, indexes};
use crate::manifest::Format;
use crate::restore::select::{Select, Verdict};
use crate::upload::hex;
use crate::*;

const DAY: u64 = 86_400_000;

fn store() -> Store {
    Store::of(Arc::new(InMemory::new()), "shop")
}

fn about(id: &str) -> About {
    About {
        id: id.to_owned(),
        fleet: "shop".to_owned(),
        server: "a".to_owned(),
        primary: true,
        engine: Engine::Mariadb,
        engine_version: "10.11.19".to_owned(),
        begun: UnixMillis(1_000),
        settings: Vec::new(),
        position: "0-1-5".to_owned(),
    }
}

async fn wire(data: &[&[u8]], last: Option<Frame>) -> Vec<u8> {
    let mut wire = Vec::new();
    let progress = Frame::Progress(Progress { bytes: 0, total: 9 });
    frame::write(&mut wire, &progress).await.unwrap();
    for data in data {
        frame::write_data(&mut wire, data).await.unwrap();
    }
    if let Some(last) = last {
        frame::write(&mut wire, &last).await.unwrap();
    }
    wire
}

fn end(whole: &[u8]) -> Frame {
    Frame::End(End {
        bytes: whole.len() as u64,
        sha256: hex(&Sha256::digest(whole)),
        position: Some("0-1-7".to_owned()),
    })
}

async fn send(store: &Store, id: &str, wire: &[u8]) -> Result<Manifest, Refusal> {
    let mut from = wire;
    upload(store, about(id), &mut from, || UnixMillis(2_000), &mut |_| {}).await
}

#[tokio::test]
async fn a_copy_is_whole_with_its_manifest_and_in_parts() {
    let store = store();
    let half = vec![7; 1 << 20];
    let parts: Vec<&[u8]> = vec![&half; 33];
    let whole = vec![7; 33 << 20];
    let manifest = send(&store, "x", &wire(&parts, Some(end(&whole))).await)
        .await
        .unwrap();
    assert_eq!((manifest.parts.len(), manifest.bytes), (3, 33 << 20));
    assert_eq!(
        (manifest.position.as_str(), manifest.ended),
        ("0-1-7", UnixMillis(2_000))
    );
    let catalog = Catalog::load(&store).await.unwrap();
    assert_eq!(catalog.copies, [manifest]);
    let line = catalog.lines().remove(0);
    assert_eq!((line.from, line.to), (UnixMillis(2_000), UnixMillis(2_000)));
}

#[tokio::test]
async fn a_copy_that_failed_does_not_look_whole() {
    let store = store();
    let refused = Frame::Failed(Refusal::new(Code::D003, "no").because("mariadb-backup failed"));
    let lying = Frame::End(End {
        bytes: 3,
        sha256: hex(&Sha256::digest(b"xyz")),
        position: None,
    });
    for (data, last, code) in [
        (&[&b"abc"[..]][..], None, Code::D020),
        (&[&b"abc"[..]][..], Some(refused), Code::D003),
        (&[&b"abc"[..]][..], Some(lying), Code::D020),
        (&[][..], Some(end(b"")), Code::D020),
    ] {
        let refusal = send(&store, "x", &wire(data, last).await).await.unwrap_err();
        assert_eq!(refusal.code, code, "{refusal:?}");
        assert_eq!(Catalog::load(&store).await.unwrap(), Catalog::default());
    }
}

#[tokio::test]
async fn manifests_that_lie_are_named_and_not_used() {
    let store = store();
    let good = send(&store, "x", &wire(&[b"abc"], Some(end(b"abc"))).await)
        .await
        .unwrap();
    let mut newer = good.clone();
    newer.version += 1;
    store
        .put_json("copies/newer/manifest.json", &newer)
        .await
        .unwrap();
    store
        .put_json("copies/another/manifest.json", &good)
        .await
        .unwrap();
    store
        .put("copies/nonsense/manifest.json", &b"{"[..])
        .await
        .unwrap();
    let catalog = Catalog::load(&store).await.unwrap();
    assert_eq!(
        (catalog.copies.len(), catalog.flawed.len()),
        (1, 3),
        "{catalog:?}"
    );
}

#[test]
fn the_last_whole_copy_is_never_removed() {
    let copy = |day: u64| Manifest {
        version: 1,
        id: format!("day-{day}"),
        fleet: "shop".to_owned(),
        server: "a".to_owned(),
        primary: true,
        engine: Engine::Mariadb,
        engine_version: "10.11.19".to_owned(),
        format: Format::Mbstream,
        begun: UnixMillis(day * DAY),
        ended: UnixMillis(day * DAY + 1),
        position: String::new(),
        settings: Vec::new(),
        bytes: 1,
        sha256: String::new(),
        parts: Vec::new(),
    };
    let keep = Duration::from_secs(14 * 86_400);
    let of = |days: &[u64], now: u64| {
        let catalog = Catalog {
            copies: days.iter().map(|day| copy(*day)).collect(),
            ..Catalog::default()
        };
        expired(&catalog, UnixMillis(now * DAY), keep).copies
    };
    assert_eq!(of(&[], 100), Vec::<String>::new());
    assert_eq!(of(&[1], 100), Vec::<String>::new());
    // Day 5 is the newest from before the last fourteen days: they begin with it.
    assert_eq!(of(&[1, 2, 5, 8, 15, 20], 20), ["day-1", "day-2"]);
    assert_eq!(of(&[18, 19, 20], 20), Vec::<String>::new());
}

#[tokio::test]
async fn clocks_that_differ_remove_nothing() {
    let store = store();
    send(&store, "old", &wire(&[b"abc"], Some(end(b"abc"))).await)
        .await
        .unwrap();
    let newest = send(&store, "new", &wire(&[b"abc"], Some(end(b"abc"))).await)
        .await
        .unwrap();
    let wrong = UnixMillis(9_000_000 * DAY);
    let keep = Duration::from_secs(3600);
    let expired = apply_retention(&store, &newest, wrong, keep).await.unwrap();
    assert_eq!(expired, Expired::default());
    assert_eq!(Catalog::load(&store).await.unwrap().copies.len(), 2);
}

/// A binary log of a MariaDB server, event by event.
fn binlog(begun: u32, before: &str, transactions: &[(u32, u64, u32)]) -> Vec<u8> {
    let event = |kind: u8, server: u32, at: u32, body: &[u8], flags: u8| {
        let mut bytes = at.to_le_bytes().to_vec();
        bytes.push(kind);
        bytes.extend(server.to_le_bytes());
        bytes.extend(u32::try_from(19 + body.len() + 4).unwrap().to_le_bytes());
        bytes.extend([0, 0, 0, 0, flags, 0]);
        bytes.extend(body);
        bytes.extend([0xcc; 4]);
        bytes
    };
    let mut format = vec![4, 0];
    format.extend([b'x'; 50]);
    format.extend([0; 4]);
    format.push(19);
    format.extend([8; 42]);
    format.push(1);
    let mut list = Vec::new();
    let before: Vec<Vec<u64>> = before
        .split(',')
        .filter(|one| !one.is_empty())
        .map(|one| one.split('-').map(|number| number.parse().unwrap()).collect())
        .collect();
    list.extend(u32::try_from(before.len()).unwrap().to_le_bytes());
    for one in before {
        list.extend(u32::try_from(one[0]).unwrap().to_le_bytes());
        list.extend(u32::try_from(one[1]).unwrap().to_le_bytes());
        list.extend(one[2].to_le_bytes());
    }
    let mut bytes = b"\xfebin".to_vec();
    bytes.extend(event(15, 1, begun, &format, 1));
    bytes.extend(event(163, 1, begun, &list, 0));
    for (server, number, at) in transactions {
        let mut gtid = number.to_le_bytes().to_vec();
        gtid.extend([0; 4]);
        gtid.push(2);
        gtid.extend([0; 6]);
        bytes.extend(event(162, *server, *at, &gtid, 0));
        // Rows, of which nothing is read.
        bytes.extend(event(23, *server, *at, &[5; 3000], 0));
        bytes.extend(event(16, *server, *at, &[0; 8], 0));
    }
    bytes
}

/// Files that a server has.
#[derive(Default)]
struct Files(Mutex<Vec<(String, Vec<u8>)>>);

impl Binlogs for Files {
    fn files(&self) -> BoxFuture<'_, Result<Vec<BinlogFile>, Refusal>> {
        let files = self.0.lock().unwrap();
        let files = files.iter().map(|(name, bytes)| BinlogFile {
            name: name.clone(),
            bytes: bytes.len() as u64,
        });
        let files = files.collect();
        async { Ok(files) }.boxed()
    }

    fn read<'a>(&'a self, file: &'a str, from: u64, most: u64) -> BoxFuture<'a, Result<Vec<u8>, Refusal>> {
        let files = self.0.lock().unwrap();
        let found = files.iter().find(|(name, _)| name == file);
        let bytes = found.map_or(&[][..], |(_, bytes)| bytes);
        let from = usize::try_from(from).unwrap().min(bytes.len());
        let end = (from + usize::try_from(most).unwrap()).min(bytes.len());
        let part = bytes[from..end].to_vec();
        async { Ok(part) }.boxed()
    }
}

impl Files {
    fn set(&self, name: &str, bytes: Vec<u8>) {
        let mut files = self.0.lock().unwrap();
        files.retain(|(there, _)| there != name);
        files.push((name.to_owned(), bytes));
    }

    fn purge(&self, name: &str) {
        self.0.lock().unwrap().retain(|(there, _)| there != name);
    }
}

fn at(now: u64) -> impl Fn() -> UnixMillis + Send + Sync {
    move || UnixMillis(now)
}

fn ones(server: u32, numbers: std::ops::RangeInclusive<u64>, at: u32) -> Vec<(u32, u64, u32)> {
    numbers.map(|number| (server, number, at)).collect()
}

#[tokio::test]
async fn an_archive_goes_on_after_a_kill_and_is_what_the_server_wrote() {
    let (store, files) = (store(), Files::default());
    // More than a block, and not whole at its end.
    let mut all = binlog(100, "", &ones(1, 1..=700, 100));
    let cut = all.len() - 10;
    files.set("bin.000001", all[..cut].to_vec());
    let mut archiver = Archiver::new(store.clone(), "a", Engine::Mariadb);
    archiver.tick(&files, 1, &at(5_000)).await.unwrap();
    let index = indexes(&store).await.unwrap().remove(0);
    assert_eq!(
        (index.bytes, index.blocks.len()),
        (cut as u64, cut / BLOCK as usize + 1)
    );
    assert_eq!((index.after.as_str(), index.complete), ("0-1-699", false));
    assert_eq!(archiver.tick(&files, 1, &at(6_000)).await.unwrap(), 0);

    // Killed, and the next one goes on; what it finds begins with the flag of an open file.
    drop(archiver);
    let mut archiver = Archiver::new(store.clone(), "a", Engine::Mariadb);
    files.set("bin.000001", all.clone());
    files.set("bin.000002", binlog(200, "0-1-700", &ones(1, 701..=705, 200)));
    let sent = archiver.tick(&files, 1, &at(7_000)).await.unwrap();
    assert!(sent < 10_000 * 3, "{sent}");
    let found = indexes(&store).await.unwrap();
    assert_eq!(found.len(), 2);
    assert!(found[0].complete && found[0].after == "0-1-700", "{:?}", found[0]);
    assert_eq!(
        (found[1].before.as_str(), found[1].after.as_str()),
        ("0-1-700", "0-1-705")
    );

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("raw");
    crate::restore::fetch::binlog(&store, &found[0], &path)
        .await
        .unwrap();
    all[21] &= !1;
    assert!(std::fs::read(&path).unwrap() == all, "not what the server wrote");

    // A block that is another is not taken.
    store.put(&found[0].block(0), vec![1; 1 << 20]).await.unwrap();
    let refusal = crate::restore::fetch::binlog(&store, &found[0], &path)
        .await
        .unwrap_err();
    assert_eq!(refusal.code, Code::D021);
}

#[tokio::test]
async fn a_gap_ends_what_can_be_restored() {
    let (store, files) = (store(), Files::default());
    files.set("bin.000001", binlog(100, "", &ones(1, 1..=10, 100)));
    let mut archiver = Archiver::new(store.clone(), "a", Engine::Mariadb);
    archiver.tick(&files, 1, &at(5_000)).await.unwrap();
    let copy = send(&store, "x", &wire(&[b"abc"], Some(end(b"abc"))).await)
        .await
        .unwrap();
    let reach = |catalog: &Catalog| catalog.lines()[0].to;
    assert_eq!(reach(&Catalog::load(&store).await.unwrap()), UnixMillis(5_000));

    // The agent was away while the server wrote and purged a file.
    drop(archiver);
    files.purge("bin.000001");
    files.set("bin.000003", binlog(300, "0-1-20", &ones(1, 21..=30, 300)));
    let mut archiver = Archiver::new(store.clone(), "a", Engine::Mariadb);
    archiver.tick(&files, 1, &at(9_000)).await.unwrap();
    let catalog = Catalog::load(&store).await.unwrap();
    assert_eq!(catalog.archive.len(), 2);
    assert_eq!(reach(&catalog), UnixMillis(5_000));
    let mut here = Position::parse(Dialect::MariaDb, &copy.position).unwrap();
    assert_eq!(catalog.chain(&copy, &mut here).len(), 1);
}

fn go(select: &mut Select, epoch: u64, bytes: &[u8]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let mut feed = Feed::new(Dialect::MariaDb);
    // In pieces of any size.
    for piece in bytes.chunks(997) {
        feed.take(piece, &mut |one: Committed| {
            verdicts.push(select.next(epoch, &one))
        })
        .unwrap();
    }
    verdicts
}

#[tokio::test]
async fn what_a_lost_primary_had_alone_is_not_restored() {
    use Verdict::{Skip, Stop, Take};
    let (store, a, b) = (store(), Files::default(), Files::default());
    // Server 1 wrote 1 to 6; 5 and 6 never came to server 2, which took over with another 5.
    let of_a = binlog(100, "", &ones(1, 1..=6, 100));
    let mut both = ones(1, 3..=4, 100);
    both.extend(ones(2, 5..=8, 200));
    let of_b = binlog(90, "", &both);
    a.set("bin.000001", of_a.clone());
    b.set("bin.000001", of_b.clone());
    Archiver::new(store.clone(), "a", Engine::Mariadb)
        .tick(&a, 1, &at(5_000))
        .await
        .unwrap();
    Archiver::new(store.clone(), "b", Engine::Mariadb)
        .tick(&b, 2, &at(6_000))
        .await
        .unwrap();
    let mut about = about("x");
    about.position = "0-1-1".to_owned();
    let wire = wire(
        &[b"abc"],
        Some(Frame::End(End {
            bytes: 3,
            sha256: hex(&Sha256::digest(b"abc")),
            position: None,
        })),
    )
    .await;
    let copy = upload(&store, about, &mut wire.as_slice(), || UnixMillis(2), &mut |_| {})
        .await
        .unwrap();
    let catalog = Catalog::load(&store).await.unwrap();
    let start = Position::parse(Dialect::MariaDb, &copy.position).unwrap();
    let chain = catalog.chain(&copy, &mut start.clone());
    // That of b begins with 3, which does not follow on 1: so that of a comes first, though it was begun later.
    assert_eq!(
        chain
            .iter()
            .map(|index| index.server.as_str())
            .collect::<Vec<_>>(),
        ["a", "b"]
    );

    let mut select = Select::new(Dialect::MariaDb, start.clone(), Moment::Latest, &chain);
    assert_eq!(go(&mut select, 1, &of_a), [Skip, Take, Skip, Skip, Skip, Skip]);
    assert_eq!(go(&mut select, 2, &of_b), [Take; 6]);
    assert_eq!(
        (select.here().to_string().as_str(), select.taken()),
        ("0-2-8", (7, Some(200)))
    );

    let mut select = Select::new(Dialect::MariaDb, start.clone(), Moment::Before(200), &chain);
    go(&mut select, 1, &of_a);
    assert_eq!(go(&mut select, 2, &of_b), [Take, Take, Stop, Stop, Stop, Stop]);
    let mut select = Select::new(
        Dialect::MariaDb,
        start,
        Moment::Through("0-2-6".to_owned()),
        &chain,
    );
    go(&mut select, 1, &of_a);
    assert_eq!(go(&mut select, 2, &of_b), [Take, Take, Take, Take, Stop, Stop]);
    assert!(select.has_found() && select.is_done());
}

#[test]
fn places_are_read_and_nonsense_is_refused() {
    let place = Place::parse("s3://copies/shop/", Some("https://s3.example.com"), None).unwrap();
    assert_eq!((place.bucket.as_str(), place.prefix.as_str()), ("copies", "shop"));
    for (url, endpoint, code) in [
        ("copies/shop", None, Code::C002),
        ("s3://copies", None, Code::C002),
        ("s3:///shop", None, Code::C002),
        ("s3://co pies/shop", None, Code::C002),
        ("s3://copies/shop", Some("s3.example.com"), Code::C002),
        ("s3://key:hunter2@copies/shop", None, Code::C007),
    ] {
        let refusal = Place::parse(url, endpoint, None).unwrap_err();
        assert_eq!(refusal.code, code, "{url}");
        assert!(!format!("{refusal:?}").contains("hunter2"));
    }
}
