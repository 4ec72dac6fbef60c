//! The proof of P3, end to end: real proxies on two servers, a real primary and a real replica, clients that write and
//! then look whether what they wrote is there. In the same connection, in another through the same proxy, and through
//! the proxy of the other server with the floor that its edge was given; in text and as prepared statements; with
//! writes that answer with rows and writes that fail after a commit; while the replica stands still, lags, flaps, is
//! frozen and killed.
//!
//! `PONTOON_LONG=1` makes it 100,000 pairs and more for each engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

mod support;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use pontoon_fleet::{AfterWrite, Engine, ReadsView};
use pontoon_rt::floor::{FloorClient, Saying, Told};
use support::pair::{ASKER, Kind, Pair};
use support::two::Two;
use tokio::time::{sleep, timeout};

const REPLICA_ID: u64 = 2;
/// How long an answer may take before the pair counts as not made: a read that met a frozen replica.
const PATIENCE: Duration = Duration::from_secs(8);

struct Fleet {
    pair: Pair,
    two: Two,
}

impl Fleet {
    async fn start(kind: Kind) -> Option<Fleet> {
        let pair = Pair::start(kind).await?;
        let sockets = pair.sockets();
        let ports = [pair.primary.port(), pair.replica.as_ref().unwrap().port()];
        let server = Cell::new(0);
        let two = Two::start("127.0.0.1:1".parse().unwrap(), |view| {
            let at = server.replace(1);
            view.backend_socket = Some(sockets[at].clone());
            view.backend_tcp = ([127, 0, 0, 1], ports[at]).into();
            view.hold = Duration::from_secs(5);
            view.databases = vec!["a", "b"];
            view.engine = match kind {
                Kind::Mariadb => Engine::Mariadb,
                Kind::Mysql => Engine::Mysql,
            };
            view.reads = Some(ReadsView {
                split: true,
                max_lag: Duration::from_secs(1),
                after_write: AfterWrite::Session,
                heard: None,
            });
        })
        .await;
        for server in [&two.a, &two.b] {
            let account = format!(r#"{{"user":"{ASKER}","password":"asker"}}"#);
            std::fs::write(server.paths.sql_account_file(), account).unwrap();
        }
        Some(Fleet { pair, two })
    }

    /// Waits until the replica has caught up and is read from again.
    async fn settle(&self) {
        let mut conn = dial(&self.doors()[0]).await.unwrap();
        let began = Instant::now();
        while conn.query_first("SELECT @@server_id").await.unwrap() != Some(REPLICA_ID) {
            assert!(
                began.elapsed() < Duration::from_secs(90),
                "the replica is never read from again"
            );
            sleep(Duration::from_millis(50)).await;
        }
        println!(
            "{:?}, caught up after {:.1} s",
            self.pair.kind,
            began.elapsed().as_secs_f64()
        );
    }

    fn doors(&self) -> [PathBuf; 2] {
        [&self.two.a, &self.two.b].map(|server| server.dir.path().join("mysqld.sock"))
    }
}

async fn dial(door: &Path) -> Option<Conn> {
    let opts: Opts = OptsBuilder::default()
        .user(Some("app"))
        .pass(Some("pw"))
        .db_name(Some("app"))
        .prefer_socket(false)
        .socket(Some(door.to_string_lossy()))
        .into();
    timeout(PATIENCE, Conn::new(opts)).await.ok()?.ok()
}

#[derive(Default)]
struct Tally {
    pairs: AtomicU64,
    from_replica: AtomicU64,
    stale: AtomicU64,
    /// Writes or reads that failed or took too long: no pair.
    unmade: AtomicU64,
}

/// A client that writes through server `home` and reads there and through the other.
struct Visitor {
    kind: Kind,
    doors: [PathBuf; 2],
    floors: [FloorClient; 2],
    home: usize,
    /// To write with, to read with at home, and at the other server.
    conns: [Option<Conn>; 3],
}

impl Visitor {
    async fn conn(&mut self, which: usize) -> Option<&mut Conn> {
        let door = match which {
            2 => &self.doors[1 - self.home],
            _ => &self.doors[self.home],
        };
        if self.conns[which].is_none() {
            self.conns[which] = dial(door).await;
        }
        self.conns[which].as_mut()
    }

    /// Whether the write came to an end; an error that is not the one that is asked for breaks the connection.
    async fn write(&mut self, value: u64) -> bool {
        let kind = self.kind;
        let Some(conn) = self.conn(0).await else {
            return false;
        };
        let write = async {
            match (value % 6, kind) {
                (0, _) => {
                    let failed = conn.query_drop(format!("CALL half({value})")).await;
                    matches!(failed, Err(mysql_async::Error::Server(error)) if error.state == "45000")
                }
                (1, _) => conn
                    .exec_drop("INSERT INTO t (v) VALUES (?)", (value,))
                    .await
                    .is_ok(),
                (2, Kind::Mariadb) => {
                    let insert = format!("INSERT INTO t (v) VALUES ({value}) RETURNING v");
                    conn.query_first::<u64, _>(insert)
                        .await
                        .is_ok_and(|row| row == Some(value))
                }
                (2 | 3, _) => conn.query_drop(format!("CALL told({value})")).await.is_ok(),
                (4, _) => {
                    let begun = conn.query_drop("BEGIN").await.is_ok();
                    let insert = format!("INSERT INTO t (v) VALUES ({value})");
                    begun && conn.query_drop(insert).await.is_ok() && conn.query_drop("COMMIT").await.is_ok()
                }
                _ => conn
                    .query_drop(format!("INSERT INTO t (v) VALUES ({value})"))
                    .await
                    .is_ok(),
            }
        };
        let written = timeout(PATIENCE, write).await.unwrap_or(false);
        if !written {
            self.conns[0] = None;
        }
        written
    }

    /// What the other server's edge does with the cookie that this one's edge made of the floor.
    async fn go_there(&self) -> bool {
        let limit = Duration::from_secs(2);
        match self.floors[self.home].say(&Saying::Floor, limit).await {
            Ok(Told::Floor { floor, .. }) => {
                let see = Saying::See(floor);
                self.floors[1 - self.home].say(&see, limit).await.is_ok()
            }
            _ => false,
        }
    }

    async fn pair(&mut self, value: u64, tally: &Tally) {
        if !self.write(value).await {
            tally.unmade.fetch_add(1, SeqCst);
            return;
        }
        let which = (value / 6 % 3) as usize;
        if which == 2 && !self.go_there().await {
            tally.unmade.fetch_add(1, SeqCst);
            return;
        }
        let prepared = value.is_multiple_of(2);
        let Some(conn) = self.conn(which).await else {
            tally.unmade.fetch_add(1, SeqCst);
            return;
        };
        let read = async {
            let by = "SELECT COUNT(*), @@server_id FROM t WHERE v = ";
            match prepared {
                true => {
                    conn.exec_first::<(u64, u64), _, _>(format!("{by}?"), (value,))
                        .await
                }
                false => conn.query_first::<(u64, u64), _>(format!("{by}{value}")).await,
            }
        };
        match timeout(PATIENCE, read).await {
            Ok(Ok(Some((count, server)))) => {
                tally.pairs.fetch_add(1, SeqCst);
                tally
                    .from_replica
                    .fetch_add(u64::from(server == REPLICA_ID), SeqCst);
                if count != 1 {
                    println!("stale: {value}, read from {server}");
                    tally.stale.fetch_add(1, SeqCst);
                }
            }
            _ => {
                self.conns[which] = None;
                tally.unmade.fetch_add(1, SeqCst);
            }
        }
    }
}

/// Visitors at both servers while `what` happens; counts pairs, those read from the replica.
async fn during(
    fleet: &Fleet,
    name: &str,
    first: u64,
    what: impl Future<Output = ()>,
    totals: &mut [u64; 3],
) -> u64 {
    let kind = fleet.pair.kind;
    during_at(
        kind,
        fleet.doors(),
        sockets_of(&fleet.two),
        name,
        first,
        what,
        totals,
    )
    .await
}

fn sockets_of(two: &Two) -> [PathBuf; 2] {
    [two.a.paths.floor_socket(), two.b.paths.floor_socket()]
}

async fn during_at(
    kind: Kind,
    doors: [PathBuf; 2],
    sockets: [PathBuf; 2],
    name: &str,
    first: u64,
    what: impl Future<Output = ()>,
    totals: &mut [u64; 3],
) -> u64 {
    let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Tally::default()));
    let mut visitors = tokio::task::JoinSet::new();
    for number in 0..8u64 {
        let (stop, tally) = (Arc::clone(&stop), Arc::clone(&tally));
        let mut visitor = Visitor {
            kind,
            doors: doors.clone(),
            floors: sockets.clone().map(FloorClient::new),
            home: (number % 2) as usize,
            conns: [None, None, None],
        };
        visitors.spawn(async move {
            let mut value = first + number * 10_000_000;
            while !stop.load(SeqCst) {
                value += 1;
                visitor.pair(value, &tally).await;
            }
        });
    }
    what.await;
    stop.store(true, SeqCst);
    while let Some(ended) = visitors.join_next().await {
        ended.unwrap();
    }
    let count = |counter: &AtomicU64| counter.load(SeqCst);
    let (pairs, from_replica, stale) = (
        count(&tally.pairs),
        count(&tally.from_replica),
        count(&tally.stale),
    );
    let unmade = count(&tally.unmade);
    println!(
        "{kind:?}, {name}: {stale} stale of {pairs} pairs, {from_replica} read from the replica, {unmade} not made"
    );
    for (total, more) in totals.iter_mut().zip([pairs, from_replica, stale]) {
        *total += more;
    }
    from_replica
}

async fn nobody_misses_what_they_wrote(kind: Kind) {
    let Some(mut fleet) = Fleet::start(kind).await else {
        return;
    };
    let long = std::env::var_os("PONTOON_LONG").is_some();
    let length = Duration::from_secs(if long { 30 } else { 1 });
    let mut totals = [0; 3];
    fleet.settle().await;
    let from_replica = during(&fleet, "well", 0, sleep(length), &mut totals).await;
    // On a busy machine one second may be too little for it to keep up.
    assert!(!long || from_replica > 0, "nothing is read from the replica");
    let mut control = fleet.pair.replica().await;
    let mut round = 0;
    loop {
        round += 1;
        let base = round * 1_000_000_000;
        let pair = &fleet.pair;
        let stopped = async {
            pair.tell(&mut control, "STOP SLAVE SQL_THREAD").await;
            sleep(length).await;
            pair.tell(&mut control, "START SLAVE SQL_THREAD").await;
        };
        during(
            &fleet,
            "SQL thread stopped",
            base + 100_000_000,
            stopped,
            &mut totals,
        )
        .await;
        let stopped = async {
            pair.tell(&mut control, "STOP SLAVE IO_THREAD").await;
            sleep(length).await;
            pair.tell(&mut control, "START SLAVE IO_THREAD").await;
        };
        during(
            &fleet,
            "IO thread stopped",
            base + 200_000_000,
            stopped,
            &mut totals,
        )
        .await;
        let flapping = async {
            let began = Instant::now();
            while began.elapsed() < length {
                pair.tell(&mut control, "STOP SLAVE SQL_THREAD").await;
                sleep(Duration::from_millis(50)).await;
                pair.tell(&mut control, "START SLAVE SQL_THREAD").await;
                sleep(Duration::from_millis(400)).await;
            }
        };
        during(&fleet, "flapping", base + 300_000_000, flapping, &mut totals).await;
        let lagging = async {
            pair.tell(&mut control, "STOP SLAVE").await;
            pair.tell(&mut control, "CHANGE MASTER TO MASTER_DELAY = 5").await;
            pair.tell(&mut control, "START SLAVE").await;
            sleep(length + Duration::from_secs(3)).await;
            pair.tell(&mut control, "STOP SLAVE").await;
            pair.tell(&mut control, "CHANGE MASTER TO MASTER_DELAY = 0").await;
            pair.tell(&mut control, "START SLAVE").await;
        };
        during(&fleet, "lagging 5 s", base + 400_000_000, lagging, &mut totals).await;
        let process = pair.replica.as_ref().unwrap().process().unwrap();
        let frozen = async {
            process.signal(rustix::process::Signal::STOP).unwrap();
            sleep(length.min(Duration::from_secs(5))).await;
            process.signal(rustix::process::Signal::CONT).unwrap();
        };
        during(&fleet, "frozen", base + 500_000_000, frozen, &mut totals).await;
        fleet.settle().await;
        during(&fleet, "well", base + 600_000_000, sleep(length), &mut totals).await;
        if !long || totals[0] >= 100_000 {
            break;
        }
    }
    drop(control);
    let (doors, sockets) = (fleet.doors(), sockets_of(&fleet.two));
    let killed = fleet.pair.restart_replica();
    during_at(
        kind,
        doors,
        sockets,
        "killed",
        90_000_000_000,
        killed,
        &mut totals,
    )
    .await;
    fleet.settle().await;
    let from_replica = during(&fleet, "well again", 91_000_000_000, sleep(length), &mut totals).await;
    assert!(
        !long || from_replica > 0,
        "nothing is read from the replica any more"
    );
    let [pairs, from_replica, stale] = totals;
    println!("{kind:?}: {stale} stale of {pairs} pairs, {from_replica} read from the replica");
    assert_eq!(stale, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_nobody_misses_what_they_wrote() {
    nobody_misses_what_they_wrote(Kind::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_nobody_misses_what_they_wrote() {
    nobody_misses_what_they_wrote(Kind::Mysql).await;
}
