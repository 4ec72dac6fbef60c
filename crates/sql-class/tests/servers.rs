//! Against the real servers: what the classifier sends to a replica neither writes, nor locks, nor calls a stored
//! function that has taken the name of a built-in one.
// Outside of `#[test]` functions clippy does not know that this is test code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, OptsBuilder};
use pontoon_sql_class::{
    Charset, Context, Engine, Route, SqlMode, Version, built_in_functions, classify,
    keywords_before_parentheses,
};
use pontoon_testkit::{DatabaseOptions, LabError, Standalone, free_port, say};
use tokio::time::timeout;

use common::corpus;

/// A server with a database, accounts and traps, or nothing when it is not here.
async fn server(engine: Engine, dir: &Path) -> Option<(Standalone, Conn, Version)> {
    let port = free_port().unwrap();
    let mut config = vec![
        "log_bin=binlog".to_owned(),
        "server_id=1".to_owned(),
        "max_connections=30".to_owned(),
    ];
    let started = match engine {
        Engine::MariaDb => {
            config.push("log_bin_trust_function_creators=1".to_owned());
            Standalone::mariadb(dir, &DatabaseOptions { port, config }).await
        }
        Engine::MySql => {
            for line in [
                "gtid_mode=ON",
                "enforce_gtid_consistency=ON",
                "log_bin_trust_function_creators=1",
                "mysqlx=OFF",
            ] {
                config.push(line.to_owned());
            }
            Standalone::mysql(dir, &DatabaseOptions { port, config }).await
        }
    };
    let server = match started {
        Ok(server) => server,
        Err(LabError::Skip(skip)) => {
            say(&skip);
            return None;
        }
        Err(e) => panic!("{e}"),
    };
    let mut root = server.root().await.unwrap();
    let version: String = root.query_first("SELECT VERSION()").await.unwrap().unwrap();
    let version = Version::parse(&version).unwrap();
    Some((server, root, version))
}

async fn connect(server: &Standalone, user: &str, database: &str) -> Conn {
    let options = OptsBuilder::default()
        .socket(Some(server.socket().to_string_lossy()))
        .user(Some(user))
        .db_name(Some(database));
    Conn::new(options).await.unwrap()
}

/// Tables with the names and columns that the corpus likes best.
const TABLES: &[&str] = &[
    "users",
    "orders",
    "products",
    "`order items`",
    "wp_posts",
    "Kunden",
    "t1",
    "t",
    "u",
    "x",
    "tags",
    "roles",
    "posts",
    "role_user",
    "wp_options",
    "a",
    "b",
];
const COLUMNS: &[&str] = &[
    "id INT",
    "name VARCHAR(50)",
    "`created at` DATETIME",
    "price DECIMAL(10,2)",
    "email VARCHAR(50)",
    "`status` INT",
    "a VARCHAR(50)",
    "b VARCHAR(50)",
    "x INT",
    "`into` INT",
    "`for` INT",
    "`update` INT",
    "deleted_at DATETIME",
    "created_at DATETIME",
    "user_id INT",
    "x_id INT",
    "ID2 INT",
    "post_type VARCHAR(20)",
    "post_status VARCHAR(20)",
    "post_date DATETIME",
    "option_name VARCHAR(50)",
    "option_value TEXT",
    "autoload VARCHAR(20)",
    "title VARCHAR(20)",
    "straße INT",
    "größe INT",
    "value INT",
    "mode INT",
    "next INT",
    "begin INT",
    "nextval INT",
    "last_insert_id INT",
];

async fn prepare(root: &mut Conn, engine: Engine) {
    run(root, "CREATE DATABASE shop CHARACTER SET utf8mb4").await;
    run(root, "USE shop").await;
    for table in TABLES {
        run(root, &format!("CREATE TABLE {table} ({})", COLUMNS.join(", "))).await;
        run(
            root,
            &format!("INSERT INTO {table} (id, name, a) VALUES (1, 'x', '[1]'), (2, 'y', '[]')"),
        )
        .await;
    }
    run(root, "CREATE TABLE written (n INT)").await;
    let body = "RETURNS INT DETERMINISTIC MODIFIES SQL DATA BEGIN INSERT INTO shop.written VALUES (1); RETURN 1; END";
    run(root, &format!("CREATE FUNCTION f(n INT) {body}")).await;
    run(root, &format!("CREATE FUNCTION price(n INT) {body}")).await;
    if engine == Engine::MariaDb {
        run(root, "CREATE SEQUENCE s").await;
    }
    for (user, rights) in [("owner", "ALL"), ("viewer", "SELECT, EXECUTE, SHOW VIEW")] {
        run(root, &format!("CREATE USER {user}@localhost IDENTIFIED BY ''")).await;
        run(root, &format!("GRANT {rights} ON shop.* TO {user}@localhost")).await;
    }
}

async fn run(conn: &mut Conn, sql: &str) {
    conn.query_drop(sql)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// Where the server's log of changes stands.
async fn position(root: &mut Conn, engine: Engine) -> String {
    let query = match engine {
        Engine::MariaDb => "SELECT @@global.gtid_binlog_pos",
        Engine::MySql => "SELECT @@global.gtid_executed",
    };
    let changes: String = root.query_first(query).await.unwrap().unwrap();
    let rows: u64 = root
        .query_first("SELECT COUNT(*) FROM shop.written")
        .await
        .unwrap()
        .unwrap();
    format!("{changes} {rows}")
}

fn mode_of(mode: SqlMode) -> &'static str {
    match mode {
        mode if mode.ansi_quotes => "ANSI_QUOTES",
        mode if mode.no_backslash_escapes => "NO_BACKSLASH_ESCAPES",
        mode if mode.ignore_space => "IGNORE_SPACE",
        _ => "",
    }
}

/// The number of the server's error, 0 when there was none.
async fn ask(conn: &mut Conn, context: &Context, sql: &[u8]) -> (u16, String) {
    let mode = mode_of(context.sql_mode);
    run(
        conn,
        &format!(
            "SET sql_mode = '{mode}', character_set_client = {}",
            charset(context)
        ),
    )
    .await;
    let limit = Duration::from_secs(20);
    let answer = timeout(limit, conn.query_drop(sql.to_vec()))
        .await
        .unwrap_or_else(|_| panic!("no answer: {}", String::from_utf8_lossy(sql)));
    let _ = conn.query_drop("ROLLBACK").await;
    match answer {
        Ok(()) => (0, String::new()),
        Err(Error::Server(e)) => (e.code, e.message),
        Err(e) => panic!("{e}: {}", String::from_utf8_lossy(sql)),
    }
}

fn charset(context: &Context) -> &'static str {
    match context.charset {
        Charset::Utf8 => "utf8mb4",
        _ => "latin1",
    }
}

/// Read-only, or a right that only a lock or a write asks for.
fn is_refusal_of_a_write(code: u16, message: &str) -> bool {
    match code {
        1290 | 1792 | 1836 | 3906 => true,
        1142 => !message.starts_with("SELECT command") && !message.starts_with("SHOW VIEW command"),
        _ => false,
    }
}

async fn reads_do_not_write(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let Some((server, mut root, version)) = server(engine, dir.path()).await else {
        return;
    };
    prepare(&mut root, engine).await;
    let before = position(&mut root, engine).await;
    let (mut ran, mut errors, mut refused) = (0, 0, 0);
    // As an owner on a server that refuses writes; as one who may only read (MySQL asks for a right to lock); as an
    // owner on a server that would write.
    for (user, read_only) in [("owner", true), ("viewer", true), ("owner", false)] {
        let variable = if engine == Engine::MySql {
            "super_read_only"
        } else {
            "read_only"
        };
        run(
            &mut root,
            &format!("SET GLOBAL {variable} = {}", u8::from(read_only)),
        )
        .await;
        if !read_only {
            run(&mut root, "SET GLOBAL read_only = 0").await;
        }
        let mut conn = connect(&server, user, "shop").await;
        for line in corpus() {
            for context in line.contexts.iter().filter(|context| context.engine == engine) {
                // Verdicts about another version, or about a mode that the server does not have.
                if context.version > version || context.sql_mode.unknown || context.sql_mode.other_dialect {
                    continue;
                }
                let here = Context { version, ..*context };
                let route = classify(&line.sql, &here).route;
                if route == Route::Replica {
                    let (code, message) = ask(&mut conn, context, &line.sql).await;
                    assert!(
                        !is_refusal_of_a_write(code, &message),
                        "{} as {user}: {code} {message}: {}",
                        line.place,
                        String::from_utf8_lossy(&line.sql)
                    );
                    ran += u32::from(code == 0);
                    errors += u32::from(code != 0);
                } else if read_only && user == "owner" && harmless_to_try(&line.sql) {
                    let (code, message) = ask(&mut conn, context, &line.sql).await;
                    refused += u32::from(is_refusal_of_a_write(code, &message));
                }
            }
        }
        let after = position(&mut root, engine).await;
        assert_eq!(before, after, "as {user}, read-only {read_only}");
    }
    println!(
        "{engine:?} {version:?}: {ran} reads ran, {errors} had another error, {refused} writes were refused"
    );
    assert!(ran > 1000, "too few statements ran to say anything: {ran}");
    assert!(refused > 50, "the server would not notice: {refused}");
    server.stop().await.unwrap();
}

/// What a read-only server is to refuse: a proof that this test could fail.
fn harmless_to_try(sql: &[u8]) -> bool {
    let text = String::from_utf8_lossy(sql).to_ascii_uppercase();
    [
        "INSERT ",
        "UPDATE ",
        "DELETE ",
        "REPLACE ",
        "SELECT F(",
        "SELECT SHOP.PRICE(",
        "SELECT NEXT",
    ]
    .iter()
    .any(|head| text.starts_with(head))
        && !text.contains(';')
}

/// Every word of either language that could be a function's name gets a stored function of that name. Where the
/// classifier says replica, the server must not call it.
async fn no_stored_function_takes_a_name(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let Some((server, mut root, version)) = server(engine, dir.path()).await else {
        return;
    };
    run(&mut root, "CREATE DATABASE traps").await;
    run(&mut root, "USE traps").await;
    let words: Vec<String> = root
        .query("SELECT WORD FROM information_schema.KEYWORDS")
        .await
        .unwrap();
    let latest = Version(u32::MAX - 1);
    let names: BTreeSet<String> = words
        .into_iter()
        .chain([Engine::MySql, Engine::MariaDb].into_iter().flat_map(|engine| {
            built_in_functions(engine, latest)
                .chain(built_in_functions(engine, Version(0)))
                .chain(keywords_before_parentheses(engine))
                .map(str::to_owned)
        }))
        .filter(|word| {
            word.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        })
        .collect();
    run(&mut root, "SET sql_log_bin = 0").await;
    for name in &names {
        run(
            &mut root,
            &format!("CREATE FUNCTION `{name}`() RETURNS INT DETERMINISTIC RETURN 42424"),
        )
        .await;
    }
    let (mut called, mut asked) = (0, 0);
    for mode in ["", "IGNORE_SPACE"] {
        run(&mut root, &format!("SET sql_mode = '{mode}'")).await;
        let mut context = Context::new(engine);
        (context.version, context.sql_mode) = (version, SqlMode::parse(mode));
        for name in &names {
            for form in ["()", " ()", "/**/()", "\n()"] {
                let sql = format!("SELECT {name}{form}");
                let value: Result<Vec<Option<String>>, _> = root.query(&sql).await;
                let trapped =
                    value.is_ok_and(|rows| rows.first().is_some_and(|v| v.as_deref() == Some("42424")));
                called += u32::from(trapped);
                asked += 1;
                let route = classify(sql.as_bytes(), &context).route;
                assert!(
                    !trapped || route == Route::Primary,
                    "{mode} {sql:?} calls a stored function"
                );
            }
        }
    }
    println!(
        "{engine:?} {version:?}: {asked} forms of {} names, {called} called the stored function",
        names.len()
    );
    assert!(called > 100, "the traps do not work: {called}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn reads_do_not_write_on_mariadb() {
    reads_do_not_write(Engine::MariaDb).await;
}

#[tokio::test]
async fn reads_do_not_write_on_mysql() {
    reads_do_not_write(Engine::MySql).await;
}

#[tokio::test]
async fn no_stored_function_takes_a_name_on_mariadb() {
    no_stored_function_takes_a_name(Engine::MariaDb).await;
}

#[tokio::test]
async fn no_stored_function_takes_a_name_on_mysql() {
    no_stored_function_takes_a_name(Engine::MySql).await;
}
