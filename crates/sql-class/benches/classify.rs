//! How long a verdict takes: `cargo bench -p pontoon-sql-class`. One thread, nanoseconds a statement, the best and the
//! median of rounds.
#![allow(clippy::print_stdout, clippy::expect_used)]

use std::hint::black_box;
use std::time::Instant;

use pontoon_sql_class::{Context, Engine, classify, digest};

const ROUNDS: usize = 15;
const STATEMENTS: usize = 20_000;

fn main() {
    let big = format!("INSERT INTO t (a) VALUES ('{}')", "x".repeat(64 * 1024));
    let list = format!(
        "SELECT * FROM t WHERE id IN ({})",
        (0..1000).map(|n| n.to_string()).collect::<Vec<_>>().join(",")
    );
    let cases: [(&str, &str); 8] = [
        ("point select", "SELECT c FROM sbtest1 WHERE id=?"),
        (
            "simple select",
            "SELECT id, name FROM users WHERE email = 'a@example.org' LIMIT 1",
        ),
        (
            "wordpress posts",
            "SELECT SQL_CALC_FOUND_ROWS wp_posts.ID FROM wp_posts WHERE 1=1 AND ((wp_posts.post_type = 'post' AND \
             (wp_posts.post_status = 'publish' OR wp_posts.post_status = 'private'))) ORDER BY wp_posts.post_date \
             DESC LIMIT 0, 10",
        ),
        (
            "join and functions",
            "SELECT u.id, COUNT(*) AS n, MAX(o.created_at), COALESCE(SUM(o.total), 0) FROM users u LEFT JOIN orders \
             o ON o.user_id = u.id WHERE o.created_at > NOW() - INTERVAL 30 DAY GROUP BY u.id HAVING COUNT(*) > 3",
        ),
        (
            "update",
            "UPDATE users SET last_login = NOW(), logins = logins + 1 WHERE id = 5",
        ),
        ("set", "SET NAMES utf8mb4 COLLATE utf8mb4_unicode_ci"),
        ("list of 1000", &list),
        ("insert of 64 KiB", &big),
    ];
    let context = Context::new(Engine::MariaDb);
    println!(
        "{:<20} {:>8} {:>10} {:>10} {:>14}",
        "statement", "bytes", "best ns", "median ns", "digest best ns"
    );
    for (name, sql) in cases {
        let (best, median) = measure(sql, |sql| {
            black_box(classify(black_box(sql.as_bytes()), &context));
        });
        let (digested, _) = measure(sql, |sql| {
            black_box(digest(black_box(sql.as_bytes()), &context));
        });
        println!(
            "{name:<20} {:>8} {best:>10.0} {median:>10.0} {digested:>14.0}",
            sql.len()
        );
    }
}

fn measure(sql: &str, run: impl Fn(&str)) -> (f64, f64) {
    let count = (STATEMENTS * 100 / (sql.len() + 100)).max(20);
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..count {
                run(sql);
            }
            start.elapsed().as_nanos() as f64 / count as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    (rounds[0], rounds[ROUNDS / 2])
}
