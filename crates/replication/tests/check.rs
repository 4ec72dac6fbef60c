//! Are primary and replica the same? Against real servers: no false alarm while everything is written to, and every kind of
//! difference is found. See FAILURES.md.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::load::Load;
use common::pair::Pair;
use common::{Software, have};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use pontoon_replication::check::{Checked, Differing, Kind, Options, Told, check};

/// Not a test: the helper's process, see `Machine::start_helper`.
#[test]
#[ignore = "started by other tests"]
fn helper_process() {
    common::run_helper();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mariadb_what_differs_is_found_and_nothing_else() {
    what_differs_is_found_and_nothing_else(Software::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mysql_what_differs_is_found_and_nothing_else() {
    what_differs_is_found_and_nothing_else(Software::Mysql).await;
}

async fn what_differs_is_found_and_nothing_else(software: Software) {
    if !have(software) {
        return;
    }
    let pair = Pair::start(software, fill).await;
    // A replica applies in one row what many wrote at once: on a slow disk it would fall behind for good.
    pair.b
        .moved_sql("SET GLOBAL sync_binlog = 0; SET GLOBAL innodb_flush_log_at_trx_commit = 0");
    let long = std::env::var("PONTOON_LONG").is_ok_and(|value| value == "1");

    // Inserts, rows that are rewritten, toggled, deleted and put back all the time.
    let load = Load::start(pair.source.backend_socket(), 100).await;
    let storm = Storm::start(&pair.source.backend_socket()).await;
    let before = pair.replica.position().await.unwrap();
    // A busy machine writes slowly: checked until enough was written meanwhile.
    let mut rounds = 0;
    while rounds < if long { 50 } else { 2 } || (storm.writes() <= 100 && rounds < 100) {
        rounds += 1;
        let (checked, told) = run(&pair, &Options::default()).await;
        assert!(checked.is_same(), "a false alarm: {told:#?}");
        assert!(checked.rows > 1_000 && checked.tables >= 9, "{checked:?}");
        let unchecked: Vec<&str> = checked.unchecked.iter().map(|one| one.what.as_str()).collect();
        assert_eq!(unchecked, ["app.old"], "{:?}", checked.unchecked);
    }
    assert_ne!(
        before,
        pair.replica.position().await.unwrap(),
        "nothing was written"
    );
    assert!(storm.writes() > 100, "{}", storm.writes());

    plant(&pair);
    let all_shown = Options {
        show: 14,
        ..Options::default()
    };
    let (checked, told) = run(&pair, &all_shown).await;
    let (written, (_, failed)) = (storm.stop().await, load.stop().await);
    println!("{software:?}: {written} writes meanwhile, {checked:?}");
    assert_eq!(failed, 0);
    found_what_was_planted(&checked, &told);

    // Nobody writes any more: the same, and only in the table that was asked for.
    let only = Options {
        only: vec!["app.pairs".to_owned()],
        chunk_time: Duration::from_millis(1),
        show: 0,
        ..Options::default()
    };
    let (checked, told) = run(&pair, &only).await;
    assert_eq!(checked.tables, 1);
    let shown = |told: &Told| matches!(told, Told::Differs(what) if !what.rows.is_empty());
    assert!(!told.iter().any(shown), "{told:?}");
    assert_eq!(checked.differing.len(), 1, "{checked:?}");

    // A table that nobody has, and one that is dropped on the way.
    let (a, b) = pair.sides();
    let nobody = Options {
        only: vec!["app.nobody".to_owned()],
        ..Options::default()
    };
    let refusal = check(&a, &[&b], &nobody, &mut |_| {}).await.unwrap_err();
    assert!(refusal.to_string().contains("app.nobody"), "{refusal}");
    let dropped = AtomicBool::new(false);
    let checked = check(&a, &[&b], &Options::default(), &mut |told| {
        if matches!(&told, Told::Table { name, .. } if name == "app.pairs")
            && !dropped.swap(true, Ordering::Relaxed)
        {
            pair.a.moved_sql("DROP TABLE app.pairs");
        }
    })
    .await
    .unwrap();
    assert!(
        checked.unchecked.iter().any(|one| one.what == "app.pairs"),
        "{checked:?}"
    );
}

async fn run(pair: &Pair, options: &Options) -> (Checked, Vec<Told>) {
    let (a, b) = pair.sides();
    let mut told = Vec::new();
    let checked = check(&a, &[&b], options, &mut |what| {
        if !matches!(what, Told::Rows { .. }) {
            told.push(what);
        }
    })
    .await
    .unwrap();
    (checked, told)
}

async fn connect(socket: &Path) -> Conn {
    let options = OptsBuilder::default()
        .socket(Some(socket.to_string_lossy()))
        .user(Some("root"))
        .prefer_socket(false);
    Conn::new(options).await.unwrap()
}

/// Tables of every kind.
async fn fill(socket: &Path) {
    common::load::fill(socket, 2).await;
    let mut conn = connect(socket).await;
    for statement in [
        "CREATE TABLE app.kinds (id INT PRIMARY KEY, t VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci, \
         l VARCHAR(40) CHARACTER SET latin1, f FLOAT, d DOUBLE, n DECIMAL(12,4), b BIT(9), at DATETIME(3), \
         e ENUM('x','y'), j JSON, g INT AS (id * 2) STORED, v INT AS (id * 3) VIRTUAL, body LONGTEXT)",
        "INSERT INTO app.kinds (id, t, l, f, d, n, b, at, e, j, body) SELECT seq, CONCAT('é', seq), 'ü', 1.1, 0.1, 12.3456, \
         5, '2026-01-02 03:04:05.678', 'x', '{\"a\": 1.5}', REPEAT('z', 3000) FROM (SELECT 1 AS seq UNION SELECT 2 UNION \
         SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9 UNION SELECT 10 \
         UNION SELECT 11 UNION SELECT 12) AS numbers",
        "CREATE TABLE app.pairs (tenant VARCHAR(20) COLLATE utf8mb4_general_ci, id BIGINT UNSIGNED, body VARCHAR(50), \
         PRIMARY KEY (tenant, id)) DEFAULT CHARSET utf8mb4",
        "INSERT INTO app.pairs SELECT CONCAT('tén', k.id), l.id, 'x' FROM app.kinds k, app.kinds l",
        "INSERT INTO app.pairs SELECT CONCAT(p.tenant, ' ', k.id), p.id, p.body FROM app.pairs p, app.kinds k",
        "INSERT INTO app.pairs VALUES ('max', 18446744073709551615, 'm')",
        "CREATE TABLE app.unique_only (u VARBINARY(16) NOT NULL, x INT, UNIQUE KEY by_u (u))",
        "INSERT INTO app.unique_only SELECT UNHEX(CONCAT('00', HEX(id), 'FF')), id FROM app.kinds",
        "CREATE TABLE app.keyless (x INT, t TEXT)",
        "INSERT INTO app.keyless SELECT 1, 'same' FROM app.kinds",
        "CREATE TABLE app.days (day DATE PRIMARY KEY, n INT)",
        "INSERT INTO app.days SELECT DATE_ADD('2026-01-01', INTERVAL id DAY), id FROM app.kinds",
        "CREATE TABLE app.hot (id INT PRIMARY KEY, n BIGINT, t VARCHAR(20))",
        "INSERT INTO app.hot SELECT id, 0, 'x' FROM app.kinds",
        "CREATE TABLE app.old (id INT PRIMARY KEY) ENGINE=MyISAM",
        "INSERT INTO app.old VALUES (1)",
        "CREATE TABLE app.parent (id INT PRIMARY KEY)",
        "INSERT INTO app.parent SELECT id FROM app.kinds",
        "CREATE TABLE app.child (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES app.parent (id))",
        "INSERT INTO app.child SELECT id, id FROM app.kinds",
        "CREATE VIEW app.seen AS SELECT id, t FROM app.kinds",
        "CREATE TRIGGER app.fires BEFORE INSERT ON app.parent FOR EACH ROW SET NEW.id = NEW.id",
    ] {
        conn.query_drop(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    conn.disconnect().await.unwrap();
}

/// One difference of each kind.
fn plant(pair: &Pair) {
    let statements = [
        "UPDATE app.kinds SET t = NULL WHERE id = 1",
        // Equal for the collation.
        "UPDATE app.kinds SET t = 'E2' WHERE id = 2",
        "UPDATE app.kinds SET l = 'u' WHERE id = 3",
        "UPDATE app.kinds SET f = 1.1000001 WHERE id = 4",
        "UPDATE app.kinds SET d = 0.1 + 1e-16 WHERE id = 5",
        "UPDATE app.kinds SET n = 12.3457 WHERE id = 6",
        "UPDATE app.kinds SET b = 4 WHERE id = 7",
        "UPDATE app.kinds SET at = '2026-01-02 03:04:05.679' WHERE id = 8",
        "UPDATE app.kinds SET e = 'y' WHERE id = 9",
        "UPDATE app.kinds SET j = '{\"a\": 1.25}' WHERE id = 10",
        "UPDATE app.kinds SET body = CONCAT(LEFT(body, 2999), 'y') WHERE id = 11",
        "DELETE FROM app.kinds WHERE id = 12",
        "INSERT INTO app.kinds (id) VALUES (-5), (4000000)",
        "UPDATE app.pairs SET body = 'other' WHERE id = 18446744073709551615",
        "UPDATE app.unique_only SET x = NULL WHERE x = 3",
        "DELETE FROM app.keyless WHERE x = 1 LIMIT 1",
        "DELETE FROM app.days WHERE n = 12",
        "INSERT INTO app.child VALUES (100, 777)",
        "ALTER TABLE app.bulk ADD INDEX more (id)",
        "CREATE TABLE app.of_its_own (id INT PRIMARY KEY)",
        "DROP TABLE app.parent",
        "CREATE OR REPLACE VIEW app.seen AS SELECT id FROM app.kinds",
    ];
    pair.plant(&statements.join("; "));
}

fn found_what_was_planted(checked: &Checked, told: &[Told]) {
    let differing: Vec<&Differing> = told
        .iter()
        .filter_map(|told| match told {
            Told::Differs(what) => Some(what),
            _ => None,
        })
        .collect();
    let of = |what: &str, kind: Kind| differing.iter().any(|one| one.what == what && one.kind == kind);
    assert!(of("app.bulk", Kind::Definition), "{differing:#?}");
    assert!(of("app.of_its_own", Kind::Extra), "{differing:#?}");
    assert!(of("app.parent", Kind::Missing), "{differing:#?}");
    assert!(of("view app.seen", Kind::Definition), "{differing:#?}");
    // It went with its table.
    assert!(of("trigger app.fires", Kind::Missing), "{differing:#?}");
    let rows: Vec<(&str, &str, Kind, Vec<&str>)> = differing
        .iter()
        .flat_map(|one| {
            one.rows.iter().map(|row| {
                let columns = row.columns.iter().map(|(name, ..)| name.as_str()).collect();
                (one.what.as_str(), row.key.as_str(), row.kind, columns)
            })
        })
        .collect();
    let has = |table: &str, key: &str, kind: Kind, column: &str| {
        rows.iter().any(|row| {
            row.0 == table && row.1 == key && row.2 == kind && (column.is_empty() || row.3 == [column])
        })
    };
    let count = |table: &str| {
        let found = checked.differing.iter().find(|(_, what, _)| what == table);
        found.map_or(0, |(_, _, rows)| *rows)
    };
    assert_eq!(count("app.kinds"), 14, "{checked:?}");
    assert!(has("app.kinds", "id=-5", Kind::Extra, ""), "{rows:#?}");
    assert!(has("app.kinds", "id=4000000", Kind::Extra, ""), "{rows:#?}");
    assert!(has("app.kinds", "id=12", Kind::Missing, ""), "{rows:#?}");
    for (id, column) in [
        (1, "t"),
        (2, "t"),
        (3, "l"),
        (4, "f"),
        (5, "d"),
        (6, "n"),
        (7, "b"),
        (8, "at"),
        (9, "e"),
        (10, "j"),
        (11, "body"),
    ] {
        assert!(
            has("app.kinds", &format!("id={id}"), Kind::Rows, column),
            "{id}: {rows:#?}"
        );
    }
    assert!(
        has(
            "app.pairs",
            "tenant='max' id=18446744073709551615",
            Kind::Rows,
            "body"
        ),
        "{rows:#?}"
    );
    assert!(
        has("app.unique_only", "u=X'0003FF'", Kind::Rows, "x"),
        "{rows:#?}"
    );
    assert!(
        has("app.days", "day='2026-01-13'", Kind::Missing, ""),
        "{rows:#?}"
    );
    assert!(has("app.child", "id=100", Kind::Extra, ""), "{rows:#?}");
    assert_eq!(count("app.keyless"), 1);
    assert!(
        rows.iter()
            .any(|row| row.0 == "app.keyless" && row.2 == Kind::Missing && row.3 == ["x", "t"]),
        "{rows:#?}"
    );
    let clean = ["app.ledger", "app.hot", "app.odd, `name"];
    assert!(
        checked
            .differing
            .iter()
            .all(|(_, what, _)| !clean.contains(&what.as_str())),
        "{checked:?}"
    );
    let views = checked.unchecked.iter().any(|one| one.what.contains("views"));
    assert!(!views, "{:?}", checked.unchecked);
}

/// Rewrites few rows all the time.
struct Storm {
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
    writers: Vec<tokio::task::JoinHandle<()>>,
}

impl Storm {
    async fn start(socket: &Path) -> Storm {
        let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut writers = Vec::new();
        for statements in [
            vec!["UPDATE app.hot SET n = n + 1 WHERE id = 1"],
            vec!["UPDATE app.hot SET n = 1 - n WHERE id = 2"],
            vec![
                "DELETE FROM app.hot WHERE id = 3",
                "INSERT INTO app.hot VALUES (3, 3, 'x')",
            ],
            vec![
                "UPDATE app.hot SET t = CONCAT('y', n), n = n + 1 WHERE id > 3",
                "INSERT INTO app.keyless VALUES (2, 'more')",
                "DELETE FROM app.keyless WHERE x = 2",
            ],
        ] {
            let (stop, writes) = (stop.clone(), writes.clone());
            let mut conn = connect(socket).await;
            writers.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    for statement in &statements {
                        conn.query_drop(*statement).await.unwrap();
                        writes.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
                let _ = conn.disconnect().await;
            }));
        }
        Storm {
            stop,
            writes,
            writers,
        }
    }

    fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap();
        }
        self.writes.load(Ordering::Relaxed)
    }
}
