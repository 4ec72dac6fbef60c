//! Copies as a dump, between real servers: what they hold, whom they know, what stops them, and kills at every step.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::time::Duration;

use common::load::{Load, fill};
use common::{Ca, Machine, Software, beating, have};
use pontoon_fleet::{Code, Refusal};
use pontoon_helper::frame::{self, End, Frame};
use pontoon_replication::{CloneProgress, CloneStep, Means, Method, SourceTicket, Wish, differences};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Not a test: the helper's process, see `Machine::start_helper`.
#[test]
#[ignore = "started by other tests"]
fn helper_process() {
    common::run_helper();
}

/// One with data, one that shall get a copy.
struct Pair {
    a: Machine,
    b: Machine,
    ticket: SourceTicket,
}

async fn pair(software: Software) -> Pair {
    let ca = Ca::new();
    let a = Machine::start(&ca, software, "a", "127.0.0.2").await;
    let b = Machine::start(&ca, software, "b", "127.0.0.1").await;
    fill(&a.original_socket(), 3).await;
    for statement in accounts(software).into_iter().chain(definitions()) {
        a.sql(&a.original_socket(), statement);
    }
    b.sql(
        &b.original_socket(),
        "CREATE DATABASE precious; CREATE TABLE precious.t (id INT PRIMARY KEY)",
    );
    a.database().move_aside(&a.wanted(false)).await.unwrap();
    let ticket = ticket(&a, &b, without_files(&b).await, Wish::Auto).await.unwrap();
    assert_eq!(ticket.method, Method::Dump);
    Pair { a, b, ticket }
}

/// What an operator may have made.
fn definitions() -> Vec<&'static str> {
    vec![
        "CREATE VIEW app.some AS SELECT id, writer FROM app.ledger WHERE id > 3",
        "CREATE TABLE app.notes (id INT PRIMARY KEY, t TEXT, n INT GENERATED ALWAYS AS (id * 2) STORED, KEY (n)) \
         CHARACTER SET utf8mb4",
        "INSERT INTO app.notes (id, t) VALUES (1, 'größer; ''quoted'' \\\\! echo'), (2, NULL), (3, '')",
        "CREATE TRIGGER app.on_note BEFORE INSERT ON app.notes FOR EACH ROW SET NEW.t = CONCAT(NEW.t, ';')",
        "CREATE PROCEDURE app.twice(x INT) SELECT x * 2",
        "CREATE FUNCTION app.half(x INT) RETURNS INT DETERMINISTIC RETURN x / 2",
        "CREATE EVENT app.nightly ON SCHEDULE EVERY 1 DAY DO DELETE FROM app.notes WHERE id < 0",
        "INSERT INTO mysql.time_zone_name (Name, Time_zone_id) VALUES ('Here/There', 1)",
    ]
}

/// Accounts with roles, a grant for a column, and one for a table that is gone.
fn accounts(software: Software) -> Vec<&'static str> {
    let mut statements = vec![
        "CREATE ROLE reader",
        "CREATE TABLE app.gone (id INT PRIMARY KEY)",
        "GRANT SELECT ON app.* TO reader",
        "CREATE USER 'app'@'localhost' IDENTIFIED BY 'Secret-1'",
        "GRANT SELECT, INSERT ON app.* TO 'app'@'localhost'",
        "GRANT SELECT (id) ON app.bulk TO 'app'@'localhost'",
        "GRANT SELECT ON app.gone TO 'app'@'localhost'",
        "CREATE USER 'o''hara'@'%' IDENTIFIED BY 'Secret-2'",
        "GRANT reader TO 'o''hara'@'%'",
        "DROP TABLE app.gone",
    ];
    statements.push(match software {
        Software::Mariadb => "SET DEFAULT ROLE reader FOR 'o''hara'@'%'",
        Software::Mysql => "SET DEFAULT ROLE reader TO 'o''hara'@'%'",
    });
    statements
}

async fn without_files(b: &Machine) -> Means {
    let means = b.database().means().await;
    assert_eq!(means.no_dump, None);
    Means {
        no_files: Some("a tool is missing".to_owned()),
        ..means
    }
}

async fn ticket(a: &Machine, b: &Machine, means: Means, wish: Wish) -> Result<SourceTicket, Refusal> {
    let joiner = pontoon_replication::Joiner { means, ..b.joiner() };
    a.database().prepare_source(&joiner, a.address, wish).await
}

impl Pair {
    fn stream(&self, bytes_per_second: Option<u64>) -> DuplexStream {
        let source = self.a.database();
        let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let _ = source.serve_dump(&mut ours, bytes_per_second).await;
        });
        theirs
    }

    async fn join(&self, stream: DuplexStream) -> Result<(), Refusal> {
        let (database, wanted) = (self.b.database(), self.b.wanted(true));
        database
            .clone_from(&self.ticket, &wanted, || async { Ok(stream) }, &mut |_| {})
            .await
    }

    async fn assert_joined(&self) {
        let (source, replica) = (self.a.database(), self.b.database());
        let position = source.position().await.unwrap();
        let patience = Duration::from_secs(60);
        assert!(replica.wait_for_position(&position, patience).await.unwrap());
        let left = source.control().checksums().await.unwrap();
        let right = replica.control().checksums().await.unwrap();
        assert_eq!(differences(&left, &right), []);
        for query in self.definitions() {
            let (left, right) = (self.a.moved_sql(query), self.b.moved_sql(query));
            // What a grant is for that table is not there any more.
            let left: Vec<&str> = left.lines().filter(|line| !line.contains("`gone`")).collect();
            assert_eq!(left, right.lines().collect::<Vec<_>>(), "{query}");
        }
        let seen = self
            .b
            .moved_sql_as("app", "Secret-1", "SELECT COUNT(*) FROM app.notes");
        assert_eq!(seen.as_deref(), Ok("3"));
        let aside = self.b.entries("mysql.pontoon-aside");
        assert_eq!(aside.len(), 1, "{aside:?}");
        assert!(
            aside[0].join("precious").is_dir(),
            "what was there before is kept"
        );
        assert!(self.b.entries("pontoon-incoming").is_empty());
    }

    /// What tells whether two servers know the same.
    fn definitions(&self) -> Vec<&'static str> {
        let mut queries = vec![
            "SHOW GRANTS FOR 'app'@'localhost'",
            "SHOW GRANTS FOR 'o''hara'@'%'",
            "SHOW GRANTS FOR 'root'@'localhost'",
            "SELECT user, host FROM mysql.user ORDER BY 1, 2",
            "SELECT routine_name, routine_definition FROM information_schema.routines WHERE routine_schema = 'app' ORDER BY 1",
            "SELECT event_name FROM information_schema.events",
            "SELECT trigger_name, action_statement FROM information_schema.triggers WHERE trigger_schema = 'app'",
            "SELECT Name FROM mysql.time_zone_name WHERE Name = 'Here/There'",
            "SELECT * FROM app.notes",
        ];
        queries.push(match self.a.software {
            Software::Mysql => "SHOW GRANTS FOR reader",
            Software::Mariadb => "SELECT * FROM mysql.roles_mapping ORDER BY 1, 2, 3",
        });
        queries
    }
}

async fn copied_under_load(pair: &Pair) {
    let software = pair.a.software;
    let beats = beating(&pair.a);
    let words = pair.ticket.words().unwrap();
    assert!(words.ends_with("on b: a tool is missing"), "{words}");
    let load = Load::start(pair.a.database().backend_socket(), 100).await;
    pair.join(pair.stream(None)).await.unwrap();
    let (acknowledged, failed) = load.stop().await;
    assert_eq!(failed, 0);
    pair.assert_joined().await;
    println!("{software:?}: copied as a dump beside {acknowledged} writes");
    let how = pair.b.database().last_clone().unwrap().unwrap().how;
    assert!(how.unwrap().contains("a tool is missing"));
    beats.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_of_mariadb_is_refused_with_a_reason_or_copies_everything_under_load() {
    if !have(Software::Mariadb) {
        return;
    }
    let mut pair = pair(Software::Mariadb).await;
    chosen_or_refused(&mut pair).await;
    spoilt(&mut pair).await;
    copied_under_load(&pair).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_of_mysql_keeps_nobody_waiting_and_copies_everything_under_load() {
    if !have(Software::Mysql) {
        return;
    }
    let pair = pair(Software::Mysql).await;
    nobody_waits(&pair).await;
    copied_under_load(&pair).await;
}

/// The joiner's agent and helper are killed as soon as a step begins, or in the middle of the first; the join is repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_is_killed_at_any_step_is_begun_anew_or_gone_on_with() {
    if std::env::var_os("PONTOON_LONG").is_none() {
        println!("SKIPPED: loads are killed at every step in the long form only: PONTOON_LONG=1");
        return;
    }
    for software in [Software::Mariadb, Software::Mysql] {
        if have(software) {
            killed_at_every_step(software).await;
        }
    }
}

async fn killed_at_every_step(software: Software) {
    let mut pair = pair(software).await;
    for step in [
        Some(CloneStep::Copying),
        None,
        Some(CloneStep::Preparing),
        Some(CloneStep::Activating),
        Some(CloneStep::Following),
    ] {
        let (reached, mut reaching) = tokio::sync::mpsc::unbounded_channel();
        let (database, wanted, ticket) = (pair.b.database(), pair.b.wanted(true), pair.ticket.clone());
        let stream = pair.stream(Some(2 << 20));
        let attempt = tokio::spawn(async move {
            let mut tell = |now: CloneProgress| {
                let _ = reached.send(now);
            };
            database
                .clone_from(&ticket, &wanted, || async { Ok(stream) }, &mut tell)
                .await
        });
        while let Some(now) = reaching.recv().await {
            if step.map_or(now.bytes > 1 << 20, |step| now.step >= step) {
                break;
            }
        }
        attempt.abort();
        let _ = attempt.await;
        pair.b.kill_helper();
        pair.b.start_helper();
    }
    let beats = beating(&pair.a);
    pair.join(pair.stream(None)).await.unwrap();
    pair.assert_joined().await;
    beats.abort();
}

/// Cut off, falsified, or of two moments: nothing changes on the joiner.
async fn spoilt(pair: &mut Pair) {
    let mut whole = Vec::new();
    pair.stream(None).read_to_end(&mut whole).await.unwrap();
    for falsified in [None, Some(whole.len() / 2)] {
        let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
        let mut bytes = whole.clone();
        match falsified {
            None => bytes.truncate(whole.len() / 2),
            Some(at) => bytes[at] ^= 1,
        }
        tokio::spawn(async move { ours.write_all(&bytes).await });
        let refusal = pair.join(theirs).await.unwrap_err();
        assert_eq!(refusal.code, Code::D003, "{refusal:?}");
    }
    // A statement that the server does not take.
    let failed = pair
        .join(lying("CREATE TABLE no.such (id INT);\n").await)
        .await
        .unwrap_err();
    assert_eq!(failed.code, Code::D003);
    assert!(
        failed.evidence.iter().any(|line| line.contains("1049")),
        "{failed:?}"
    );
    // Commands of the client are none in a stream.
    let mark = pair.b.root.path().join("called");
    let shell = format!("\\! touch {0}\nsystem touch {0}\n", mark.display());
    let failed = pair.join(lying(&shell).await).await.unwrap_err();
    assert_eq!(failed.code, Code::D003, "{failed:?}");
    assert!(!mark.exists());

    // Definitions change in the middle of it.
    let stream = pair.stream(Some(1 << 20));
    let (joined, ()) = tokio::join!(pair.join(stream), async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        pair.a
            .moved_sql("CREATE TABLE app.meanwhile (id INT PRIMARY KEY)");
    });
    let refusal = joined.unwrap_err();
    assert_eq!(refusal.code, Code::D003, "{refusal:?}");
    assert!(refusal.what.contains("definitions changed"), "{refusal:?}");

    // The source's database dies in the middle.
    let stream = pair.stream(Some(1 << 20));
    let (joined, ()) = {
        let join = pair.join(stream);
        let pid = pontoon_helper::find::server_in(&pair.a.datadir()).unwrap();
        tokio::join!(join, async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            kill_9(pid);
        })
    };
    let refusal = joined.unwrap_err();
    assert_eq!(refusal.code, Code::D003, "{refusal:?}");
    pair.a.kill_database();
    pair.a.database().ensure_running().await.unwrap();

    // The joiner's own database was there all the time, as its user started it.
    pair.b
        .sql(&pair.b.original_socket(), "INSERT INTO precious.t VALUES (1)");
    assert!(pair.b.entries("mysql.pontoon-aside").is_empty());
}

/// A whole stream of frames around that text.
async fn lying(text: &str) -> DuplexStream {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(text.as_bytes());
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    frame::write_data(&mut ours, text.as_bytes()).await.unwrap();
    let end = Frame::End(End {
        bytes: text.len() as u64,
        sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        position: None,
    });
    frame::write(&mut ours, &end).await.unwrap();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(120)).await;
        drop(ours);
    });
    theirs
}

fn kill_9(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// How a copy is made, with the reason; or why there is none.
async fn chosen_or_refused(pair: &mut Pair) {
    let means = pair.b.database().means().await;
    let choose = async |means: &Means, wish| ticket(&pair.a, &pair.b, means.clone(), wish).await;
    let files = choose(&means, Wish::Auto).await.unwrap();
    assert_eq!((files.method, files.words()), (Method::Stream, None));
    let asked = choose(&means, Wish::Logical).await.unwrap();
    assert!(asked.words().unwrap().contains("asked for"));
    let asked = Means {
        logical: true,
        ..means.clone()
    };
    assert_eq!(choose(&asked, Wish::Physical).await.unwrap().method, Method::Dump);

    let poor = without_files(&pair.b).await;
    let refusal = choose(&poor, Wish::Physical).await.unwrap_err();
    assert_eq!(refusal.code, Code::D007, "{refusal:?}");
    let poorer = Means {
        no_dump: Some("mariadb cannot be found".to_owned()),
        ..poor.clone()
    };
    let refusal = choose(&poorer, Wish::Auto).await.unwrap_err();
    assert_eq!(refusal.code, Code::D007);
    assert!(
        refusal.evidence.iter().any(|line| line.contains("nor can it")),
        "{refusal:?}"
    );
    // One of an older version does not say that it can.
    assert!(
        choose(
            &Means {
                no_files: poor.no_files.clone(),
                ..Means::default()
            },
            Wish::Auto
        )
        .await
        .is_err()
    );

    // Versions.
    let of = async |version: &str, wish| {
        let joiner = pontoon_replication::Joiner {
            version: version.to_owned(),
            means: means.clone(),
            ..pair.b.joiner()
        };
        pair.a
            .database()
            .prepare_source(&joiner, pair.a.address, wish)
            .await
    };
    let newer = of("11.8.99", Wish::Auto).await.unwrap();
    assert_eq!(newer.method, Method::Dump);
    assert!(
        newer.words().unwrap().contains("release series"),
        "{:?}",
        newer.words()
    );
    assert_eq!(of("11.8.99", Wish::Physical).await.unwrap_err().code, Code::D002);
    assert_eq!(of("10.6.1", Wish::Logical).await.unwrap_err().code, Code::D002);

    // Tables without transactions.
    pair.a
        .moved_sql("CREATE TABLE app.old (id INT PRIMARY KEY) ENGINE=MyISAM");
    let refusal = choose(&means, Wish::Logical).await.unwrap_err();
    assert_eq!(refusal.code, Code::D017);
    assert!(refusal.evidence[0].contains("app.old (MyISAM)"), "{refusal:?}");
    assert!(
        refusal.next[0].command.contains("ALTER TABLE `app`.`old`"),
        "{refusal:?}"
    );
    assert_eq!(choose(&means, Wish::Auto).await.unwrap().method, Method::Stream);
    pair.a.moved_sql("DROP TABLE app.old");

    // Without the client's programs.
    pair.b.kill_helper();
    pair.b.start_helper_with_path("/nonexistent");
    assert_eq!(pair.join(pair.stream(None)).await.unwrap_err().code, Code::D007);
    assert!(pair.b.entries("pontoon-incoming").is_empty());
    assert!(pair.b.database().means().await.no_dump.is_some());
    pair.b.kill_helper();
    pair.b.start_helper();
}

/// MySQL takes a lock for the moment of its snapshot, which waits for statements that run, and writes wait behind it.
async fn nobody_waits(pair: &Pair) {
    let socket = pair.a.database().backend_socket();
    let mut slow =
        std::process::Command::new(common::program(Software::Mysql).unwrap().with_file_name("mysql"))
            .args(["--no-defaults", "-uroot", "-S"])
            .arg(&socket)
            .args(["-e", "SELECT SLEEP(60) FROM app.notes LIMIT 1"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut stream = pair.stream(None);
    let refusal = loop {
        match frame::read(&mut stream).await.unwrap() {
            Frame::Failed(refusal) => break refusal,
            // What it begins with comes out when it is ended.
            Frame::Progress(_) | Frame::Data(_) => {}
            Frame::End(_) => panic!("it was not ended"),
        }
    };
    assert_eq!(refusal.code, Code::D003, "{refusal:?}");
    assert!(refusal.what.contains("keep the source writable"), "{refusal:?}");
    assert_eq!(slow.try_wait().unwrap(), None, "the statement goes on");
    pair.a
        .moved_sql("UPDATE app.notes SET t = 'after it' WHERE id = 3");
    slow.kill().unwrap();
    slow.wait().unwrap();
}
