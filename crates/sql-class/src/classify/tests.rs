//! The rules that the corpus (`corpus/`) does not show: effects, assignments, the session's state.

use super::*;
use crate::{Engine, SqlMode};

fn context() -> Context {
    Context::new(Engine::MariaDb)
}

fn verdict(sql: &str) -> Verdict {
    classify(sql.as_bytes(), &context())
}

fn effects(sql: &str) -> Effects {
    verdict(sql).effects
}

#[test]
fn the_reason_and_its_place() {
    let sql = "SELECT a FROM t WHERE b = f(1)";
    let found = verdict(sql);
    assert_eq!(
        (found.route, found.reason),
        (Route::Primary, Reason::UnknownFunction)
    );
    assert_eq!(found.at, sql.find("f(1)"));
    let found = verdict("SELECT 1 FOR UPDATE");
    assert_eq!((found.reason, found.at), (Reason::Locking, Some(13)));
    assert_eq!(
        verdict("INSERT INTO t VALUES (1)").reason,
        Reason::NotARead(Kind::Insert)
    );
    assert_eq!(verdict("SELECT 1").reason, Reason::Read);
    assert_eq!(verdict(" ; ").reason, Reason::Empty);
    assert_eq!(verdict("WITH a AS (SELECT 1) DELETE FROM t").kind, Kind::Delete);
}

#[test]
fn the_state_of_the_session_decides_about_reads_only() {
    type Change = fn(&mut Context);
    let changes: [(Change, Reason); 6] = [
        (|c| c.pinned = true, Reason::Pinned),
        (|c| c.in_transaction = true, Reason::InTransaction),
        (|c| c.autocommit = false, Reason::AutocommitOff),
        (|c| c.serializable = true, Reason::Serializable),
        (|c| c.system_database = true, Reason::SystemDatabase),
        (|c| c.charset = Charset::Unsafe, Reason::UnsafeCharset),
    ];
    for (change, reason) in changes {
        let mut context = context();
        change(&mut context);
        let found = classify(b"SELECT a FROM t", &context);
        assert_eq!((found.route, found.reason), (Route::Primary, reason));
    }
    let mut reading = context();
    (
        reading.in_transaction,
        reading.read_only_transaction,
        reading.autocommit,
    ) = (true, true, false);
    assert_eq!(classify(b"SELECT a FROM t", &reading).route, Route::Replica);
    assert_eq!(
        classify(b"SELECT a FROM t FOR UPDATE", &reading).route,
        Route::Primary
    );
    let mut oracle = context();
    oracle.sql_mode = SqlMode::parse("ORACLE");
    assert_eq!(
        classify(b"SELECT s.nextval", &oracle).reason,
        Reason::OtherDialect
    );
}

#[test]
fn what_the_servers_do_not_report() {
    for (sql, expected) in [
        ("SELECT @a := 1", Effects::SETS_OPAQUE),
        ("SELECT a INTO @x FROM t", Effects::SETS_OPAQUE),
        ("SELECT GET_LOCK('a', 1)", Effects::NAMED_LOCK),
        ("INSERT INTO t VALUES (get_lock ('a', 1))", Effects::NAMED_LOCK),
        ("DO RELEASE_LOCK('a')", Effects::RELEASES_NAMED_LOCK),
        ("SELECT LAST_INSERT_ID(5)", Effects::SETS_LAST_INSERT_ID),
        (
            "UPDATE s SET id = LAST_INSERT_ID(id + 1)",
            Effects::SETS_LAST_INSERT_ID,
        ),
        (
            "INSERT INTO c VALUES (LAST_INSERT_ID())",
            Effects::USES_LAST_INSERT_ID,
        ),
        ("HANDLER t OPEN", Effects::HANDLER),
        (
            "CREATE OR REPLACE TEMPORARY TABLE a (b INT)",
            Effects::TEMPORARY_TABLE,
        ),
        ("LOCK TABLES a READ", Effects::LOCKS_TABLES),
        ("FLUSH TABLES WITH READ LOCK", Effects::LOCKS_TABLES),
        ("PREPARE s FROM 'SELECT 1'", Effects::PREPARES),
        ("DROP PREPARE s", Effects::DEALLOCATES),
        ("XA START 'a'", Effects::XA),
        (
            "SELECT SQL_CALC_FOUND_ROWS a FROM t LIMIT 1",
            Effects::SETS_FOUND_ROWS,
        ),
        ("SELECT f(1)", Effects::RUNS_ROUTINE),
        ("CALL p()", Effects::RUNS_ROUTINE),
        (
            "SELECT 1; CREATE TEMPORARY TABLE a (b INT)",
            Effects::TEMPORARY_TABLE,
        ),
        ("SELECT 1; SELECT 'x", Effects::OPAQUE),
        ("BEGIN NOT ATOMIC SET @a = 1; END", Effects::OPAQUE),
        ("nonsense", Effects::OPAQUE),
        (
            "COMMIT AND CHAIN",
            Effects::ENDS_TRANSACTION | Effects::BEGINS_TRANSACTION,
        ),
        (
            "COMMIT RELEASE",
            Effects::ENDS_TRANSACTION | Effects::CLOSES_CONNECTION,
        ),
        ("XA COMMIT 'a'", Effects::XA | Effects::ENDS_TRANSACTION),
        ("/*!40101 SET NAMES utf8 */", Effects::CHANGES_CHARSET),
    ] {
        assert!(
            effects(sql).contains(expected),
            "{sql}: {} without {expected}",
            effects(sql)
        );
    }
    for sql in [
        "SELECT a FROM t",
        "INSERT INTO t (a, b) VALUES (1, UPPER('x')) ON DUPLICATE KEY UPDATE a = VALUES(a)",
        "INSERT t (a) SELECT b FROM c",
        "REPLACE INTO `t` (a) VALUES (1)",
        "UPDATE t SET a = a + 1 WHERE b IN (1, 2)",
        "DELETE FROM t WHERE a = 'DROP TEMPORARY'",
    ] {
        assert!(effects(sql).is_empty(), "{sql}: {}", effects(sql));
    }
    assert_eq!(
        effects("COMMIT AND NO CHAIN NO RELEASE"),
        Effects::ENDS_TRANSACTION
    );
    assert_eq!(effects("ROLLBACK TO SAVEPOINT a"), Effects::SAVEPOINT);
}

fn listed(sql: &str) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assignments(sql.as_bytes(), &context())
        .map(|one| {
            let value = match one.value {
                Value::Text(value) => format!("'{}'", text(value)),
                Value::Plain(value) => text(value),
                Value::Default => "DEFAULT".to_owned(),
                Value::Opaque => "?".to_owned(),
            };
            let target = match one.target {
                Target::Session(name) => text(name),
                Target::SessionOrNext(name) => format!("@@{}", text(name)),
                Target::Global(name) => format!("GLOBAL {}", text(name)),
                Target::UserVariable(name) => format!("@{}", text(name)),
                other => format!("{other:?}"),
            };
            format!("{target}={value}")
        })
        .collect()
}

#[test]
fn assignments_that_can_be_sent_again() {
    for (sql, expected, flag) in [
        (
            "SET NAMES utf8mb4 COLLATE 'utf8mb4_bin', time_zone = '+00:00';",
            &["Names=utf8mb4", "Collation='utf8mb4_bin'", "time_zone='+00:00'"][..],
            Effects::CHANGES_CHARSET | Effects::SETS_VARIABLES,
        ),
        (
            "SET SESSION sql_mode = 'ANSI,TRADITIONAL', @@wait_timeout := -1, foreign_key_checks=off",
            &[
                "sql_mode='ANSI,TRADITIONAL'",
                "@@wait_timeout=-1",
                "foreign_key_checks=off",
            ],
            Effects::SETS_VARIABLES,
        ),
        (
            "SET @a = 1, @b := 'x'",
            &["@a=1", "@b='x'"],
            Effects::SETS_USER_VARIABLES,
        ),
        (
            "SET sql_mode = DEFAULT",
            &["sql_mode=DEFAULT"],
            Effects::SETS_VARIABLES,
        ),
        (
            "SET CHARACTER SET utf8",
            &["CharacterSet=utf8"],
            Effects::CHANGES_CHARSET,
        ),
        (
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY",
            &["SessionTransaction=ISOLATION LEVEL READ COMMITTED, READ ONLY"],
            Effects::SETS_VARIABLES,
        ),
        (
            "SET GLOBAL a = 1, b = 2, SESSION c = 3, @@global.d = 4",
            &["GLOBAL a=1", "GLOBAL b=2", "c=3", "GLOBAL d=4"],
            Effects::SETS_GLOBAL | Effects::SETS_VARIABLES,
        ),
    ] {
        assert_eq!(listed(sql), expected, "{sql}");
        assert_eq!(effects(sql), flag, "{sql}");
        assert!(!effects(sql).pins(), "{sql}");
    }
}

#[test]
fn assignments_that_cannot() {
    for (sql, flag) in [
        ("SET @a = (SELECT 1)", Effects::SETS_OPAQUE),
        ("SET sql_mode = CONCAT(@@sql_mode, ',ANSI')", Effects::SETS_OPAQUE),
        ("SET sql_mode = 'a\\'b'", Effects::SETS_OPAQUE),
        ("SET timestamp = CURRENT_TIMESTAMP", Effects::SETS_OPAQUE),
        ("SET a = 1 + 1", Effects::SETS_OPAQUE),
        ("SET sql_log_bin = 0", Effects::SETS_OPAQUE),
        ("SET SESSION insert_id = 5", Effects::SETS_OPAQUE),
        ("SET last_insert_id = 5", Effects::SETS_LAST_INSERT_ID),
        (
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            Effects::NEXT_TRANSACTION,
        ),
        (
            "SET @@transaction_isolation = 'SERIALIZABLE'",
            Effects::NEXT_TRANSACTION,
        ),
        ("SET ROLE admin", Effects::CHANGES_ROLE),
        (
            "SET STATEMENT max_statement_time = 1 FOR SELECT 1",
            Effects::SETS_OPAQUE,
        ),
        ("SET NAMES utf8; SELECT 1", Effects::SETS_OPAQUE),
        ("SET", Effects::SETS_OPAQUE),
        ("SET a = 'x", Effects::OPAQUE),
    ] {
        assert!(effects(sql).contains(flag), "{sql}: {}", effects(sql));
        assert!(effects(sql).pins(), "{sql}");
    }
    assert!(listed("SET NAMES utf8; SELECT 1").is_empty());
    assert!(listed("SELECT 1").is_empty());
}

#[test]
fn the_database_of_use() {
    let used = |sql: &'static str| used_database(sql.as_bytes(), &context()).map(|name| name.into_owned());
    assert_eq!(used("use Shop;").as_deref(), Some(&b"Shop"[..]));
    assert_eq!(used("USE `a``b`").as_deref(), Some(&b"a`b"[..]));
    assert_eq!(used("USE a; DROP TABLE b"), None);
    assert_eq!(used("SELECT 1"), None);
    assert!(effects("use a").contains(Effects::CHANGES_DATABASE));
}
