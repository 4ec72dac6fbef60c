//! Who may read from a replica, decided over a real primary and a real replica: no read misses what was written before
//! it, whatever the replica goes through. The reads and writes here do what sessions do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use pontoon_fleet::{AfterWrite, DatabaseServerView, Engine, Epoch, FleetView, ListenAddress, ReadsView};
use pontoon_sqlproxy::account::Account;
use pontoon_sqlproxy::auth::Secret;
use pontoon_sqlproxy::floor::{self, Floors, Ground, Place, Why};
use pontoon_sqlproxy::target::{Local, Pin, Primary, Replica, Target, Way};
use pontoon_sqlproxy::tls::FleetTls;
use support::View;
use support::pair::{ASKER, Kind, Pair, dial_root};
use tokio::time::{sleep, timeout};

const MAX_LAG: Duration = Duration::from_secs(1);

struct Stand {
    tls: FleetTls,
    password: std::sync::Mutex<&'static str>,
}

impl Ground for Stand {
    fn tls(&self) -> &FleetTls {
        &self.tls
    }

    fn account(&self) -> Result<Account, String> {
        Ok(Account {
            user: ASKER.into(),
            secret: Secret::password(self.password.lock().unwrap().as_bytes()),
        })
    }
}

/// What one proxy knows, of the database `a` (primary) and `b`.
struct Proxy {
    floors: Arc<Floors>,
    stand: Arc<Stand>,
    sockets: [PathBuf; 2],
    kind: Kind,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    fn start(pair: &Pair, after_write: AfterWrite) -> Proxy {
        let floors = Arc::new(Floors::default());
        let stand = Arc::new(Stand {
            tls: FleetTls::new(pair.dir.path().join("none")),
            password: std::sync::Mutex::new("asker"),
        });
        let proxy = Proxy {
            task: tokio::spawn(floor::run(Arc::clone(&floors), Arc::clone(&stand))),
            floors,
            stand,
            sockets: pair.sockets(),
            kind: pair.kind,
        };
        proxy.follow(1, after_write);
        proxy
    }

    fn follow(&self, epoch: u64, after_write: AfterWrite) {
        let listen = [ListenAddress::Tcp("127.0.0.1:3306".parse().unwrap())];
        let mut view: FleetView = View::new(&listen, "127.0.0.1:3307".parse().unwrap()).build();
        let sql = view.sql.as_mut().unwrap();
        sql.engine = match self.kind {
            Kind::Mariadb => Engine::Mariadb,
            Kind::Mysql => Engine::Mysql,
        };
        sql.backend_socket = Some(self.sockets[0].clone());
        sql.servers = ["a", "b"]
            .map(|name| DatabaseServerView {
                server: name.parse().unwrap(),
                lag_ms: None,
                position: None,
            })
            .into();
        sql.reads = Some(ReadsView {
            split: true,
            max_lag: MAX_LAG,
            after_write,
            heard: None,
        });
        let pin = |server: &str| Pin {
            server: server.parse().unwrap(),
            epoch: Epoch(epoch),
        };
        let way = |socket: &PathBuf| {
            Way::Local(Local {
                tcp: "127.0.0.1:1".parse().unwrap(),
                socket: Some(socket.clone()),
            })
        };
        let target = Target {
            write_until: None,
            holding: None,
            primary: Ok(Primary {
                pin: pin("a"),
                way: way(&self.sockets[0]),
            }),
            replicas: vec![Replica {
                pin: pin("b"),
                way: way(&self.sockets[1]),
            }],
            hold: Duration::from_secs(1),
        };
        self.floors.follow(Some(&view), &target);
    }

    async fn is_ready(&self) -> bool {
        matches!(self.floors.place().await, Place::Replicas(_))
    }

    async fn wait_ready(&self, ready: bool) {
        let began = Instant::now();
        while self.is_ready().await != ready {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "never ready = {ready}: {:?}",
                self.floors.standing()
            );
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client's connections: to the primary, and to the replica while that works.
struct Session {
    kind: Kind,
    floors: Arc<Floors>,
    sockets: [PathBuf; 2],
    primary: Conn,
    replica: Option<Conn>,
}

/// Counts of all sessions.
#[derive(Default)]
struct Tally {
    pairs: AtomicU64,
    from_replica: AtomicU64,
    stale: AtomicU64,
}

impl Session {
    async fn open(proxy: &Proxy) -> Session {
        Session {
            kind: proxy.kind,
            floors: Arc::clone(&proxy.floors),
            sockets: proxy.sockets.clone(),
            primary: dial_root(&proxy.sockets[0], Duration::from_secs(5))
                .await
                .unwrap(),
            replica: None,
        }
    }

    /// One transaction; the position as the database reports it.
    async fn write(&mut self, value: u64) {
        match value % 5 {
            // Fails after its commit: nobody is told a position.
            0 => {
                let failed = self.primary.query_drop(format!("CALL app.half({value})")).await;
                assert!(failed.is_err());
                self.floors.doubt(Epoch(1));
            }
            _ => {
                let insert = format!("INSERT INTO app.t (v) VALUES ({value})");
                self.primary.query_drop(insert).await.unwrap();
                let position = match self.kind {
                    Kind::Mariadb => "SELECT @@last_gtid",
                    Kind::Mysql => {
                        "SELECT CONCAT(@@server_uuid, ':', REGEXP_SUBSTR(SUBSTRING_INDEX(@@global.gtid_executed, @@server_uuid, -1), '[0-9]+$'))"
                    }
                };
                let gtids: Option<String> = self.primary.query_first(position).await.unwrap();
                self.floors.raise(Epoch(1), gtids.unwrap().as_bytes());
            }
        }
    }

    /// Whether the row is there; a replica that does not answer is left for the primary, as sessions do.
    async fn sees(&mut self, value: u64, tally: &Tally) -> bool {
        let query = format!("SELECT COUNT(*) FROM app.t WHERE v = {value}");
        if let Place::Replicas(ready) = self.floors.place().await {
            assert_eq!(ready.epoch(), Epoch(1));
            let limit = Duration::from_millis(300);
            if self.replica.is_none() {
                self.replica = dial_root(&self.sockets[1], limit).await;
            }
            if let Some(replica) = &mut self.replica {
                match timeout(limit, replica.query_first::<u64, _>(&query)).await {
                    Ok(Ok(count)) => {
                        tally.from_replica.fetch_add(1, SeqCst);
                        return count == Some(1);
                    }
                    _ => self.replica = None,
                }
            }
        }
        self.primary.query_first::<u64, _>(&query).await.unwrap() == Some(1)
    }
}

/// Pairs of a write and a read, of eight sessions at once: half of them read through the session that wrote, half
/// through another of the same proxy. Until `stop`.
fn run_pairs(
    proxy: &Proxy,
    first: u64,
    stop: &Arc<AtomicBool>,
    tally: &Arc<Tally>,
) -> tokio::task::JoinSet<()> {
    let mut sessions = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (stop, tally) = (Arc::clone(stop), Arc::clone(tally));
        let parts = (Arc::clone(&proxy.floors), proxy.sockets.clone(), proxy.kind);
        sessions.spawn(async move {
            let open = || async {
                Session {
                    kind: parts.2,
                    floors: Arc::clone(&parts.0),
                    sockets: parts.1.clone(),
                    primary: dial_root(&parts.1[0], Duration::from_secs(5)).await.unwrap(),
                    replica: None,
                }
            };
            let (mut writer, mut reader) = (open().await, open().await);
            let mut value = first + number * 10_000_000;
            while !stop.load(SeqCst) {
                value += 1;
                writer.write(value).await;
                let other = value.is_multiple_of(2);
                let session = if other { &mut reader } else { &mut writer };
                if !session.sees(value, &tally).await {
                    tally.stale.fetch_add(1, SeqCst);
                }
                tally.pairs.fetch_add(1, SeqCst);
            }
        });
    }
    sessions
}

/// `what` happens to the replica while pairs run; how many came, how many of the replica.
async fn during(proxy: &Proxy, name: &str, first: u64, what: impl Future<Output = ()>) -> (u64, u64) {
    let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Tally::default()));
    let mut sessions = run_pairs(proxy, first, &stop, &tally);
    what.await;
    stop.store(true, SeqCst);
    while let Some(ended) = sessions.join_next().await {
        ended.unwrap();
    }
    let count = |counter: &AtomicU64| counter.load(SeqCst);
    let (pairs, from_replica) = (count(&tally.pairs), count(&tally.from_replica));
    let stale = count(&tally.stale);
    println!(
        "{:?} {name}: {stale} stale of {pairs} pairs, {from_replica} read from the replica",
        proxy.kind
    );
    println!("  {:?}", proxy.floors.counts);
    assert_eq!(stale, 0, "{name}");
    assert!(pairs > 0, "{name}");
    (pairs, from_replica)
}

async fn nothing_is_stale(kind: Kind) {
    let Some(mut pair) = Pair::start(kind).await else {
        return;
    };
    let long = std::env::var_os("PONTOON_LONG").is_some();
    let length = Duration::from_secs(if long { 20 } else { 1 });
    let proxy = Proxy::start(&pair, AfterWrite::Session);
    proxy.wait_ready(true).await;

    let (pairs, from_replica) = during(&proxy, "well", 0, sleep(length)).await;
    // How much a replica is used in one second is the machine's business: asked for in the long form only.
    assert!(
        !long || from_replica * 3 > pairs,
        "the replica is hardly used: {from_replica} of {pairs}"
    );
    let mut control = pair.replica().await;

    during(&proxy, "SQL thread stopped", 100_000_000, async {
        pair.tell(&mut control, "STOP SLAVE SQL_THREAD").await;
        sleep(length).await;
        assert!(!proxy.is_ready().await);
        pair.tell(&mut control, "START SLAVE SQL_THREAD").await;
        sleep(Duration::from_millis(500)).await;
    })
    .await;
    during(&proxy, "IO thread stopped", 200_000_000, async {
        pair.tell(&mut control, "STOP SLAVE IO_THREAD").await;
        sleep(length).await;
        assert!(!proxy.is_ready().await);
        pair.tell(&mut control, "START SLAVE IO_THREAD").await;
        sleep(Duration::from_millis(500)).await;
    })
    .await;
    during(&proxy, "flapping", 300_000_000, async {
        let began = Instant::now();
        while began.elapsed() < length {
            pair.tell(&mut control, "STOP SLAVE SQL_THREAD").await;
            sleep(Duration::from_millis(30)).await;
            pair.tell(&mut control, "START SLAVE SQL_THREAD").await;
            sleep(Duration::from_millis(70)).await;
        }
    })
    .await;
    during(&proxy, "lagging 5 s", 400_000_000, async {
        pair.tell(&mut control, "STOP SLAVE").await;
        pair.tell(&mut control, "CHANGE MASTER TO MASTER_DELAY = 5").await;
        pair.tell(&mut control, "START SLAVE").await;
        sleep(length + Duration::from_secs(3)).await;
        pair.tell(&mut control, "STOP SLAVE").await;
        pair.tell(&mut control, "CHANGE MASTER TO MASTER_DELAY = 0").await;
        pair.tell(&mut control, "START SLAVE").await;
    })
    .await;
    proxy.wait_ready(true).await;
    let process = pair.replica.as_ref().unwrap().process().unwrap();
    during(&proxy, "frozen", 500_000_000, async {
        process.signal(rustix::process::Signal::STOP).unwrap();
        sleep(length).await;
        process.signal(rustix::process::Signal::CONT).unwrap();
        sleep(Duration::from_millis(300)).await;
    })
    .await;
    proxy.wait_ready(true).await;
    drop(control);
    during(&proxy, "killed", 600_000_000, pair.restart_replica()).await;
    proxy.wait_ready(true).await;
    let (_, from_replica) = during(&proxy, "well again", 700_000_000, sleep(length)).await;
    assert!(!long || from_replica > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_gives_no_stale_read() {
    nothing_is_stale(Kind::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_gives_no_stale_read() {
    nothing_is_stale(Kind::Mysql).await;
}

/// Another proxy knows nothing of the writes, and its readers see them all the same.
async fn everybody_sees_everything(kind: Kind) {
    let Some(pair) = Pair::start(kind).await else {
        return;
    };
    let [one, other] = [(); 2].map(|()| Proxy::start(&pair, AfterWrite::FleetWide));
    one.wait_ready(true).await;
    other.wait_ready(true).await;
    let mut readers = Vec::new();
    for _ in 0..8 {
        readers.push((Session::open(&one).await, Session::open(&other).await));
    }
    let tally = Arc::new(Tally::default());
    let mut running = tokio::task::JoinSet::new();
    let before = other.floors.counts.questions.load(SeqCst);
    for (number, (mut writer, mut reader)) in readers.into_iter().enumerate() {
        let tally = Arc::clone(&tally);
        running.spawn(async move {
            for value in 0..150 {
                let value = number as u64 * 1_000_000 + value + 1;
                writer.write(value).await;
                assert!(reader.sees(value, &tally).await, "stale: {value}");
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    let from_replica = tally.from_replica.load(SeqCst);
    let questions = other.floors.counts.questions.load(SeqCst) - before;
    println!(
        "{kind:?}: 0 stale of 1200 pairs through two proxies, {from_replica} from the replica, {questions} questions"
    );
    // How many depends on how busy the machine is.
    assert!(std::env::var_os("PONTOON_LONG").is_none() || from_replica > 0);
    // A replica that stands still is left for the primary, and a primary that does not answer is waited for.
    let mut control = pair.replica().await;
    pair.tell(&mut control, "STOP SLAVE SQL_THREAD").await;
    let (mut writer, mut reader) = (Session::open(&one).await, Session::open(&other).await);
    for value in 90_000_001..90_000_020 {
        writer.write(value).await;
        assert!(reader.sees(value, &tally).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_shows_everybody_everything() {
    everybody_sees_everything(Kind::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_shows_everybody_everything() {
    everybody_sees_everything(Kind::Mysql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_way_to_ask_reads_go_to_the_primary() {
    let Some(pair) = Pair::start(Kind::Mariadb).await else {
        return;
    };
    let proxy = Proxy::start(&pair, AfterWrite::Session);
    proxy.wait_ready(true).await;
    // The view says that the primary has changed: what was known is of the past, until the new one has answered.
    *proxy.stand.password.lock().unwrap() = "wrong";
    proxy.follow(2, AfterWrite::Session);
    for _ in 0..20 {
        assert!(matches!(
            proxy.floors.place().await,
            Place::Primary(Why::NoReplica | Why::Behind)
        ));
        sleep(Duration::from_millis(20)).await;
    }
    *proxy.stand.password.lock().unwrap() = "asker";
    proxy.wait_ready(true).await;
    // Fleet-wide, the primary must answer: without it there is no read from a replica.
    proxy.follow(2, AfterWrite::FleetWide);
    proxy.wait_ready(true).await;
    let primary = pair.primary.process().unwrap();
    primary.signal(rustix::process::Signal::STOP).unwrap();
    let began = Instant::now();
    // By the question that is not answered, or because by then nobody can say that the replica is fresh.
    assert!(matches!(
        proxy.floors.place().await,
        Place::Primary(Why::Unanswered | Why::Behind | Why::NoReplica)
    ));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    primary.signal(rustix::process::Signal::CONT).unwrap();
    proxy.wait_ready(true).await;
    // Nobody writes, and the primary is frozen: soon nobody can say that the replica is fresh.
    proxy.follow(2, AfterWrite::Session);
    proxy.wait_ready(true).await;
    primary.signal(rustix::process::Signal::STOP).unwrap();
    proxy.wait_ready(false).await;
    primary.signal(rustix::process::Signal::CONT).unwrap();
    proxy.wait_ready(true).await;
}
