//! A database as an application has it: a shop with a blog. Parents and children, secondary indexes in order and at
//! random, long texts, files in rows, and one table with more columns than anybody can read.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use pontoon_testkit::database::{SOCKET, connect_root, rows};
use pontoon_testkit::{LabError, Server};
use tokio::time::timeout;

/// The account of the writers.
pub(super) const USER: &str = "shop";
/// Its password.
pub(super) const PASSWORD: &str = "noSecretInALab1";

/// Makes the schema `shop` on a server that Pontoon has not touched yet, and fills it until its files have this size.
///
/// # Errors
/// When the database refuses, or takes longer than 10 minutes.
pub async fn fill(server: &Server, mebibytes: u64) -> Result<(), LabError> {
    let limit = Duration::from_secs(600);
    timeout(limit, fill_all(server, mebibytes))
        .await
        .map_err(|_| LabError::Timeout {
            what: "filling the database".to_owned(),
            after: limit,
        })?
}

/// The size of the schema's files.
pub fn size_bytes(server: &Server) -> u64 {
    TABLES.iter().map(|table| file_bytes(server, table.name)).sum()
}

async fn fill_all(server: &Server, mebibytes: u64) -> Result<(), LabError> {
    let mut root = connect_root(&server.path(SOCKET)?).await?;
    let flush: Vec<u8> = rows(&mut root, "SELECT @@GLOBAL.innodb_flush_log_at_trx_commit").await?;
    drop_query(&mut root, "SET GLOBAL innodb_flush_log_at_trx_commit = 0").await?;
    drop_query(&mut root, "CREATE DATABASE shop CHARACTER SET utf8mb4").await?;
    drop_query(
        &mut root,
        &format!("CREATE USER '{USER}'@'localhost' IDENTIFIED BY '{PASSWORD}'"),
    )
    .await?;
    drop_query(&mut root, &format!("GRANT ALL ON shop.* TO '{USER}'@'localhost'")).await?;
    drop_query(
        &mut root,
        "CREATE TABLE shop.receipts (writer INT, number INT, PRIMARY KEY (writer, number))",
    )
    .await?;
    drop_query(&mut root, "CREATE TABLE shop.n (i INT PRIMARY KEY)").await?;
    drop_query(&mut root, "INSERT INTO shop.n VALUES (1)").await?;
    for power in 0..12 {
        let statement = format!("INSERT INTO shop.n SELECT i + (1 << {power}) FROM shop.n");
        drop_query(&mut root, &statement).await?;
    }
    let filling = TABLES.iter().map(|table| {
        let share = mebibytes * table.percent * (1 << 20) / 100;
        async move { fill_table(server, table, share).await }
    });
    // Side by side: one connection uses one core.
    let mut tasks: Vec<_> = filling.map(Box::pin).collect();
    let (first, rest) = tasks.split_at_mut(2);
    let (uploads, posts) = first.split_at_mut(1);
    let others = async {
        for task in rest {
            task.await?;
        }
        Ok(())
    };
    let (one, two, three) = tokio::join!(&mut uploads[0], &mut posts[0], others);
    one.and(two).and(three)?;
    let flush = flush.first().copied().unwrap_or(1);
    drop_query(
        &mut root,
        &format!("SET GLOBAL innodb_flush_log_at_trx_commit = {flush}"),
    )
    .await
}

async fn fill_table(server: &Server, table: &Table, share: u64) -> Result<(), LabError> {
    let mut conn = connect_root(&server.path(SOCKET)?).await?;
    // MySQL has a binary log from its first start, and nothing will ever read this part of it.
    drop_query(&mut conn, "SET SESSION sql_log_bin = 0").await?;
    drop_query(
        &mut conn,
        &format!("CREATE TABLE shop.{} ({})", table.name, (table.columns)()),
    )
    .await?;
    // The smallest data set has a chunk of each.
    loop {
        match table.insert {
            Insert::Select(select) => {
                drop_query(&mut conn, &format!("INSERT INTO shop.{} {select}", table.name)).await?;
            }
            Insert::Files => insert_files(&mut conn, table.name).await?,
        }
        if file_bytes(server, table.name) >= share {
            return Ok(());
        }
    }
}

/// Bytes that do not compress, from 8 to 512 KiB a row.
async fn insert_files(conn: &mut Conn, table: &str) -> Result<(), LabError> {
    let statement = format!("INSERT INTO shop.{table} (name, mime, body) VALUES (?, 'image/jpeg', ?)");
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ std::process::id() as u64;
    for number in 0..16_u32 {
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take((1 << 10) << (number % 7))
        .flatten()
        .collect();
        conn.exec_drop(&statement, (format!("photo-{number}.jpg"), bytes))
            .await
            .map_err(LabError::database("a file in a row"))?;
    }
    Ok(())
}

async fn drop_query(conn: &mut Conn, statement: &str) -> Result<(), LabError> {
    conn.query_drop(statement)
        .await
        .map_err(LabError::database(statement))
}

fn file_bytes(server: &Server, table: &str) -> u64 {
    let file = server.dir().join(format!("var-lib/mysql/shop/{table}.ibd"));
    std::fs::metadata(file).map_or(0, |metadata| metadata.len())
}

struct Table {
    name: &'static str,
    columns: fn() -> String,
    insert: Insert,
    percent: u64,
}

enum Insert {
    Select(&'static str),
    Files,
}

const TABLES: &[Table] = &[
    Table {
        name: "uploads",
        columns: || {
            "id BIGINT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(200) NOT NULL, mime VARCHAR(80) NOT NULL, \
             body LONGBLOB NOT NULL, KEY by_name (name)"
                .to_owned()
        },
        insert: Insert::Files,
        percent: 40,
    },
    Table {
        name: "posts",
        columns: || {
            "id BIGINT AUTO_INCREMENT PRIMARY KEY, author INT NOT NULL, slug CHAR(40) NOT NULL, published DATETIME NOT \
             NULL, body LONGTEXT NOT NULL, KEY by_author (author, published), KEY by_slug (slug)"
                .to_owned()
        },
        insert: Insert::Select(
            "(author, slug, published, body) SELECT RAND() * 500, LEFT(SHA2(RAND(), 256), 40), NOW() - INTERVAL i HOUR, \
             REPEAT(CONCAT(SHA2(RAND(), 512), ' lorem ipsum dolor sit amet, Grüße. '), 5 + RAND() * 70) FROM shop.n \
             WHERE i <= 1024",
        ),
        percent: 25,
    },
    Table {
        name: "orders",
        columns: || {
            "id BIGINT AUTO_INCREMENT PRIMARY KEY, customer INT NOT NULL, status ENUM('new', 'paid', 'sent') NOT NULL, \
             placed TIMESTAMP(3) NOT NULL, total DECIMAL(12, 2) NOT NULL, note VARCHAR(255) NULL, token CHAR(36) NOT NULL, \
             KEY by_customer (customer), KEY by_status (status, placed), UNIQUE KEY by_token (token)"
                .to_owned()
        },
        insert: Insert::Select(
            "(customer, status, placed, total, note, token) SELECT 1 + RAND() * 4000, 1 + FLOOR(RAND() * 3), NOW(3), \
             RAND() * 900, IF(RAND() < 0.3, SHA2(RAND(), 256), NULL), UUID() FROM shop.n",
        ),
        percent: 12,
    },
    Table {
        name: "order_lines",
        columns: || {
            "order_id BIGINT NOT NULL, line INT NOT NULL, sku VARCHAR(40) NOT NULL, amount INT NOT NULL, price DOUBLE NOT \
             NULL, id BIGINT AUTO_INCREMENT PRIMARY KEY, KEY by_order (order_id, line), KEY by_sku (sku)"
                .to_owned()
        },
        insert: Insert::Select(
            "(order_id, line, sku, amount, price) SELECT RAND() * 100000, i % 9, CONCAT('sku-', FLOOR(RAND() * 100000)), \
             1 + RAND() * 5, RAND() * 100 FROM shop.n",
        ),
        percent: 15,
    },
    Table {
        name: "customers",
        columns: || {
            "id INT AUTO_INCREMENT PRIMARY KEY, email VARCHAR(120) NOT NULL, name VARCHAR(80) NOT NULL, country CHAR(2) NOT \
             NULL, orders INT NOT NULL DEFAULT 0, settings JSON NULL, UNIQUE KEY by_email (email), KEY by_country (country)"
                .to_owned()
        },
        insert: Insert::Select(
            "(email, name, country, settings) SELECT CONCAT(UUID(), '@example.com'), SHA2(RAND(), 224), \
             CHAR(65 + RAND() * 25 USING utf8mb4), '{\"newsletter\": true, \"theme\": \"dark\"}' FROM shop.n",
        ),
        percent: 4,
    },
    Table {
        name: "wide",
        columns: wide_columns,
        insert: Insert::Select("(id) SELECT NULL FROM shop.n WHERE i <= 1024"),
        percent: 4,
    },
];

/// 160 columns with defaults.
fn wide_columns() -> String {
    let mut columns = "id INT AUTO_INCREMENT PRIMARY KEY".to_owned();
    for number in 0..40 {
        columns.push_str(&format!(
            ", t{number} VARCHAR(30) NOT NULL DEFAULT 'value of column {number}', i{number} BIGINT NOT NULL DEFAULT {number}, \
             d{number} DATETIME NULL, f{number} DOUBLE NULL DEFAULT 0.5"
        ));
    }
    columns
}
