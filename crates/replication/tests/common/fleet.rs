//! Two machines whose databases do the work of failover, and writers that remember what was acknowledged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use pontoon_decide::failover::{Acks, Incarnation, Members, Outcome, Work};
use pontoon_fleet::{Epoch, Refusal, ServerName};
use pontoon_helper::BackupOptions;
use pontoon_replication::work::{Answer, AskPeers, BoxFuture, CopyStream, Peer, Peers, Worker, Works};
use pontoon_replication::{SourceTicket, Wanted, differences};

use super::{Ca, Machine, Software};

/// A server: its machine, what works on its database, what its agent would remember.
pub struct Member {
    pub machine: Mutex<Machine>,
    pub worker: Worker,
    pub incarnation: Mutex<u64>,
    pub drained: Mutex<Option<u64>>,
}

/// Two of them.
pub struct Pair {
    pub members: BTreeMap<ServerName, Arc<Member>>,
    pub epoch: u64,
    pub software: Software,
}

/// Asks a member of the same test, as agents ask each other.
struct Asks {
    me: ServerName,
    members: BTreeMap<ServerName, Arc<Member>>,
}

impl AskPeers for Asks {
    fn answer<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Option<Answer>> {
        Box::pin(async move {
            let member = self.members.get(server)?;
            let incarnation = Incarnation(*member.incarnation.lock().unwrap());
            let drained = member.drained.lock().unwrap().map(Epoch);
            let facts = member.worker.standing().await;
            Some(Answer {
                incarnation,
                drained,
                follows: None,
                facts,
            })
        })
    }

    fn acknowledge<'a>(&'a self, server: &'a ServerName, yes: bool) -> BoxFuture<'a, bool> {
        Box::pin(async move { self.members[server].worker.acknowledge(yes).await })
    }

    fn hold(&self) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async { Ok(()) })
    }

    fn go_on(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn ticket<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<SourceTicket, Refusal>> {
        Box::pin(async move {
            let joiner = self.members[&self.me].machine.lock().unwrap().joiner();
            let from = &self.members[server];
            let address = from.machine.lock().unwrap().address;
            from.worker
                .database()
                .prepare_source(&joiner, address, pontoon_replication::Wish::Auto)
                .await
        })
    }

    fn copy<'a>(
        &'a self,
        server: &'a ServerName,
        _method: pontoon_replication::Method,
    ) -> BoxFuture<'a, Result<CopyStream, Refusal>> {
        Box::pin(async move {
            let source = self.members[server].worker.database().clone();
            let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move {
                let _ = source.serve_backup(&mut ours, &BackupOptions::default()).await;
            });
            Ok(Box::new(theirs) as CopyStream)
        })
    }
}

/// Asks as others do; but `silent` does not answer while it is deaf, and `ghost` is nowhere and says yes to everything.
pub struct Deaf {
    pub ask: Arc<dyn AskPeers>,
    pub silent: ServerName,
    pub deaf: AtomicBool,
    pub ghost: ServerName,
}

impl AskPeers for Deaf {
    fn answer<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Option<Answer>> {
        let ghost = Answer {
            incarnation: Incarnation(1),
            drained: None,
            follows: None,
            facts: None,
        };
        match self.deaf.load(Ordering::Relaxed) {
            _ if *server == self.ghost => Box::pin(async { Some(ghost) }),
            true if *server == self.silent => Box::pin(async { None }),
            _ => self.ask.answer(server),
        }
    }

    fn acknowledge<'a>(&'a self, server: &'a ServerName, yes: bool) -> BoxFuture<'a, bool> {
        match self.deaf.load(Ordering::Relaxed) {
            _ if *server == self.ghost => Box::pin(async { true }),
            true if *server == self.silent => Box::pin(async { false }),
            _ => self.ask.acknowledge(server, yes),
        }
    }

    fn hold(&self) -> BoxFuture<'_, Result<(), Refusal>> {
        self.ask.hold()
    }

    fn go_on(&self) -> BoxFuture<'_, ()> {
        self.ask.go_on()
    }

    fn ticket<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<SourceTicket, Refusal>> {
        self.ask.ticket(server)
    }

    fn copy<'a>(
        &'a self,
        server: &'a ServerName,
        _method: pontoon_replication::Method,
    ) -> BoxFuture<'a, Result<CopyStream, Refusal>> {
        self.ask.copy(server, _method)
    }
}

pub fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

impl Pair {
    /// `a` leads epoch 1, `b` was copied from it and acknowledges.
    pub async fn start(software: Software) -> Pair {
        let ca = Ca::new();
        let mut members = BTreeMap::new();
        for server in ["a", "b"] {
            let machine = Machine::start(&ca, software, server, "127.0.0.1").await;
            // As a join hands it on: all database servers of a fleet have the same.
            let secret = machine.paths.state_dir.join("database.secret");
            std::fs::write(secret, "0123456789abcdefABCDEF").unwrap();
            let wanted = Wanted {
                failover: true,
                ..machine.wanted(false)
            };
            let worker = Worker::new(Arc::new(machine.database()), wanted);
            let member = Member {
                machine: Mutex::new(machine),
                worker,
                incarnation: Mutex::new(1),
                drained: Mutex::new(None),
            };
            members.insert(name(server), Arc::new(member));
        }
        let pair = Pair {
            members,
            epoch: 1,
            software,
        };
        let a = &pair.members[&name("a")];
        let wanted = Wanted {
            failover: true,
            ..a.machine.lock().unwrap().wanted(false)
        };
        // First as a server whose role never changes, then as one that may lead or follow.
        let fixed = Wanted {
            failover: false,
            ..wanted.clone()
        };
        a.worker.database().move_aside(&fixed).await.unwrap();
        let moved = a.worker.database().move_aside(&wanted).await.unwrap();
        let restarts = software == Software::Mysql;
        assert_eq!(moved.interruption > Duration::ZERO, restarts, "{moved:?}");
        assert_eq!(a.worker.standing().await.unwrap().open, !restarts);
        *a.drained.lock().unwrap() = Some(1);
        pair.must("a", Work::Acknowledge(Acks::Alone)).await;
        pair.must("a", Work::Open(Epoch(1))).await;
        let socket = pair.socket("a");
        let mut conn = connect(&socket).await.unwrap();
        for statement in [
            "CREATE DATABASE app",
            // Not root: MariaDB lets root write although `read_only` is on.
            "CREATE USER app@localhost IDENTIFIED BY 'app-Password-1'",
            "GRANT ALL ON app.* TO app@localhost",
            "CREATE TABLE app.acked (writer INT NOT NULL, n INT NOT NULL, body VARCHAR(200), PRIMARY KEY (writer, n))",
            "CREATE TABLE app.counters (id INT PRIMARY KEY, value INT)",
            "INSERT INTO app.counters VALUES (1, 0), (2, 0), (3, 0), (4, 0)",
        ] {
            conn.query_drop(statement).await.unwrap();
        }
        pair.must("b", Work::Copy(name("a"), Epoch(1))).await;
        pair.sync("a", "b").await;
        pair
    }

    pub fn member(&self, server: &str) -> &Arc<Member> {
        &self.members[&name(server)]
    }

    /// SIGKILL, not by its worker.
    pub async fn kill(&self, server: &str) {
        self.member(server).machine.lock().unwrap().kill_database();
        self.member(server).worker.stopped().await;
    }

    pub fn sql(&self, server: &str, statement: &str) -> String {
        self.member(server).machine.lock().unwrap().moved_sql(statement)
    }

    pub fn socket(&self, server: &str) -> PathBuf {
        self.member(server).worker.database().backend_socket()
    }

    pub fn peers(&self, server: &str) -> Peers {
        let me = name(server);
        let address = |member: &Member| member.machine.lock().unwrap().address;
        let servers = self.members.iter().filter(|(other, _)| **other != me);
        Peers {
            me: me.clone(),
            address: address(&self.members[&me]),
            servers: servers
                .map(|(name, member)| {
                    let port = member.machine.lock().unwrap().server_port;
                    (
                        name.clone(),
                        Peer {
                            address: address(member),
                            port,
                            delayed: false,
                        },
                    )
                })
                .collect(),
            ask: Arc::new(Asks {
                me,
                members: self.members.clone(),
            }),
        }
    }

    pub async fn work(&self, server: &str, work: Work) -> Outcome {
        let peers = self.peers(server);
        if let Work::Rejoin(..) | Work::Follow(..) | Work::Copy(..) = work {
            // As a node does before anything that can lose what was received.
            *self.member(server).incarnation.lock().unwrap() += 1;
            *self.member(server).drained.lock().unwrap() = None;
        }
        self.member(server).worker.carry_out(work, &peers).await
    }

    /// What must end well.
    pub async fn must(&self, server: &str, work: Work) -> Outcome {
        let outcome = self.work(server, work.clone()).await;
        let reason = self.member(server).worker.reason();
        assert!(
            matches!(outcome, Outcome::Done | Outcome::At(_)),
            "{server}: {work:?}: {outcome:?}: {reason:?}"
        );
        outcome
    }

    pub fn life(&self, server: &str) -> Members {
        let life = Incarnation(*self.member(server).incarnation.lock().unwrap());
        Members::from([(name(server), life)])
    }

    /// Commits on `leader` are acknowledged by `replica`, which has everything.
    pub async fn sync(&self, leader: &str, replica: &str) {
        let acks = Acks::Of {
            members: [name(replica)].into(),
            needed: 1,
        };
        self.must(leader, Work::Acknowledge(acks)).await;
        self.until(leader, Work::CaughtUp(self.life(replica)), || {})
            .await;
    }

    /// What ends well after a few tries, as a node makes them: a replica that just came, or a machine that is busy with
    /// other tests, may need more time than one has. `between` is done before each next one.
    pub async fn until(&self, server: &str, work: Work, between: impl Fn()) {
        for attempt in 0.. {
            if self.work(server, work.clone()).await == Outcome::Done {
                return;
            }
            assert!(
                attempt < 30,
                "{server}: {work:?}: {:?}",
                self.member(server).worker.reason()
            );
            between();
        }
    }

    /// `server` leads the next epoch.
    pub async fn promote(&mut self, server: &str) {
        self.epoch += 1;
        let epoch = Epoch(self.epoch);
        self.must(server, Work::Drain(epoch)).await;
        *self.member(server).drained.lock().unwrap() = Some(self.epoch);
        self.must(server, Work::Acknowledge(Acks::Alone)).await;
        self.must(server, Work::Open(epoch)).await;
    }

    /// The two have the same rows once the replica has applied all.
    pub async fn assert_equal(&self, leader: &str, replica: &str) {
        let (left, right) = (
            self.member(leader).worker.database(),
            self.member(replica).worker.database(),
        );
        let begun = Instant::now();
        loop {
            let position = self.member(leader).worker.standing().await.unwrap().position;
            let there = self.member(replica).worker.standing().await.unwrap();
            if there.position >= position && there.applying {
                let applied = self.member(replica).worker.standing().await.unwrap().applied;
                let dialect = match self.software {
                    Software::Mariadb => pontoon_gtid::Dialect::MariaDb,
                    Software::Mysql => pontoon_gtid::Dialect::MySql,
                };
                let applied = pontoon_gtid::Position::parse(dialect, &applied).unwrap();
                if applied.transactions() >= position {
                    break;
                }
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "{there:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let left = left.control().checksums().await.unwrap();
        let right = right.control().checksums().await.unwrap();
        assert!(left.len() >= 3, "{left:?}");
        assert_eq!(differences(&left, &right), []);
    }
}

/// As root, without a password.
pub async fn connect(socket: &Path) -> Result<Conn, mysql_async::Error> {
    connect_as(socket, ("root", None)).await
}

async fn connect_as(
    socket: &Path,
    (user, password): (&str, Option<&str>),
) -> Result<Conn, mysql_async::Error> {
    let options = OptsBuilder::default()
        .socket(Some(socket.to_string_lossy()))
        .user(Some(user))
        .pass(password)
        .prefer_socket(false);
    Conn::new(options).await
}

/// Writers that stop at the first error and remember what was acknowledged.
pub struct Writers {
    stop: Arc<AtomicBool>,
    pause_ms: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<u32>>,
    round: u32,
}

impl Writers {
    /// Each writes rows of its own and counts in rows of all.
    pub fn start(socket: &Path, count: u32, round: u32) -> Writers {
        let (stop, pause_ms) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..count).map(|writer| {
            let (stop, pause_ms, socket) = (stop.clone(), pause_ms.clone(), socket.to_owned());
            tokio::spawn(async move {
                let mut acked = 0;
                let application = ("app", Some("app-Password-1"));
                let Ok(mut conn) = connect_as(&socket, application).await else {
                    return acked;
                };
                while !stop.load(Ordering::Relaxed) {
                    match pause_ms.load(Ordering::Relaxed) {
                        0 => {}
                        pause_ms => tokio::time::sleep(Duration::from_millis(pause_ms)).await,
                    }
                    let n = acked + 1;
                    let id = writer + 100 * round;
                    let row = format!(
                        "INSERT INTO app.acked VALUES ({id}, {n}, REPEAT('x', {}))",
                        n % 150
                    );
                    let written = match n % 3 {
                        0 => conn.query_drop(format!(
                            "BEGIN; UPDATE app.counters SET value = value + 1 WHERE id = {}; {row}; COMMIT",
                            writer % 4 + 1
                        )),
                        _ => conn.query_drop(row),
                    };
                    match written.await {
                        Ok(()) => acked = n,
                        Err(_) => return acked,
                    }
                }
                acked
            })
        });
        Writers {
            stop: stop.clone(),
            pause_ms: pause_ms.clone(),
            tasks: tasks.collect(),
            round,
        }
    }

    /// From now on each waits for 20 ms more before it writes.
    pub fn slow_down(&self) {
        self.pause_ms.fetch_add(20, Ordering::Relaxed);
    }

    /// How many each had acknowledged, by the number in its rows.
    pub async fn end(self) -> BTreeMap<u32, u32> {
        self.stop.store(true, Ordering::Relaxed);
        let mut acked = BTreeMap::new();
        for (writer, task) in (0u32..).zip(self.tasks) {
            acked.insert(writer + 100 * self.round, task.await.unwrap());
        }
        acked
    }
}

/// What of it is missing in the database behind `socket`.
pub async fn missing(socket: &Path, acked: &BTreeMap<u32, u32>) -> Vec<(u32, u32)> {
    let mut conn = connect(socket).await.unwrap();
    let mut missing = Vec::new();
    for (writer, count) in acked {
        let there: Vec<u32> = conn
            .query(format!(
                "SELECT n FROM app.acked WHERE writer = {writer} ORDER BY n"
            ))
            .await
            .unwrap();
        let there: std::collections::BTreeSet<u32> = there.into_iter().collect();
        missing.extend((1..=*count).filter(|n| !there.contains(n)).map(|n| (*writer, n)));
    }
    missing
}

/// How many rounds a test plays: `PONTOON_ROUNDS` for more.
pub fn rounds(usual: u32) -> u32 {
    std::env::var("PONTOON_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(usual)
}
