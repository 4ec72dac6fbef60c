//! A visitor sees at once what it wrote, whichever server answers next (P3): the edge's cookie, from the browser to
//! the replica, with real programs on two servers.

use std::time::Duration;

use pontoon_e2e::fleet::{Fleet, ask, expect, run, tell, wait_until_healthy};
use pontoon_testkit::database::connect_root;
use pontoon_testkit::{LabError, Server, in_lab};

const FILE: &str = "/etc/pontoon/fleet.toml";
/// Long enough that the replica is read from all the time that it stands still: floors alone keep visitors from it.
const SPLIT: &str = "reads = { split = true, max_lag = \"10m\" }";
const ROUNDS: usize = 40;

#[test]
fn what_a_visitor_wrote_is_seen_through_the_other_server() -> Result<(), LabError> {
    in_lab(
        "what_a_visitor_wrote_is_seen_through_the_other_server",
        Duration::from_secs(240),
        |lab| async move {
            let fleet = Fleet::new(lab).await?;
            fleet.found().await?;
            fleet.join().await?;
            let (a, b) = (&fleet.a, &fleet.b);
            run(a, &["plan"]).await?;
            let file = a.path(FILE)?;
            let text = std::fs::read_to_string(&file).map_err(LabError::io("read fleet.toml"))?;
            let text = text.replacen("[db]", &format!("[db]\n{SPLIT}"), 1);
            std::fs::write(&file, text).map_err(LabError::io("write fleet.toml"))?;
            run(a, &["apply", "--yes"]).await?;
            wait_until_healthy(a, 2).await?;
            until_carried(a).await?;
            until_carried(b).await?;
            // With its cookie a visitor may write anywhere and read anywhere, while the replica keeps up and while it
            // stands still.
            for still in [false, true] {
                let without = rounds(&fleet, still).await?;
                tell(&format!(
                    "replica {}: 0 of {ROUNDS} stale; without the cookie {without} would have been",
                    if still {
                        "stopped before each write"
                    } else {
                        "running"
                    }
                ));
            }
            reads_at_replicas(&fleet).await?;
            made_up_cookies_are_counted_and_ignored(&fleet).await
        },
    )
}

/// Waits until what is written through any server is told to the others, so that the cookie is what counts.
async fn until_carried(server: &Server) -> Result<(), LabError> {
    let mut last = String::new();
    for _ in 0..300 {
        let view = server.path("/var/lib/pontoon/view.json")?;
        last = std::fs::read_to_string(view).unwrap_or_default();
        if last.contains("\"after_write\":\"session\"") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(LabError::App(format!(
        "{} is not sure of the others: {last}",
        server.name()
    )))
}

/// Writes through one edge and reads through the other with the visitor's cookie. Gives how many notes a visitor
/// without it would not have found.
async fn rounds(fleet: &Fleet, still: bool) -> Result<usize, LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    let mut without = 0;
    for round in 0..ROUNDS {
        let (one, other) = if round % 2 == 0 { (a, b) } else { (b, a) };
        let text = format!("note-{still}-{round}");
        if still {
            replication(fleet, "STOP SLAVE SQL_THREAD").await?;
        }
        let written = visit(one, "/notes", None, Some(&text)).await?;
        let place = field(&written, "location").ok_or_else(|| LabError::App(written.clone()))?;
        let cookie = field(&written, "set-cookie").and_then(|set| Some(set.split_once(';')?.0.to_owned()));
        let cookie = cookie.ok_or_else(|| LabError::App(format!("no cookie: {written}")))?;
        let id = place.rsplit('/').next().unwrap_or_default();
        let count = format!("SELECT CONCAT(COUNT(*)) FROM notes.notes WHERE id = {id}");
        if still {
            let there = ask(b, &count).await?;
            expect(there == ["0"], || format!("the replica has note {id} already"))?;
        }
        if visit(other, &place, None, None)
            .await?
            .starts_with("HTTP/1.1 404")
        {
            without += 1;
        }
        for (server, which) in [(other, "the other"), (one, "the same")] {
            let read = visit(server, &place, Some(&cookie), None).await?;
            expect(read.starts_with("HTTP/1.1 200") && read.contains(&text), || {
                format!("round {round}, read through {which} server with {cookie}: stale\n{written}\n{read}")
            })?;
        }
        if still {
            // Caught up, so that in the next round floors alone keep readers from it again.
            replication(fleet, "START SLAVE SQL_THREAD").await?;
            for _ in 0..300 {
                if ask(b, &count).await? == ["1"] {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    Ok(without)
}

/// Reads do go to the replica: otherwise nothing has been shown.
async fn reads_at_replicas(fleet: &Fleet) -> Result<(), LabError> {
    let (_, b) = (&fleet.a, &fleet.b);
    for _ in 0..200 {
        visit(b, "/", None, None).await?;
        let numbers = numbers(b, "sql").await?;
        let replica = "pontoon_sql_queries_total{route=\"replica\",verb=\"select\"} ";
        let count = numbers
            .lines()
            .find_map(|line| line.strip_prefix(replica)?.parse::<u64>().ok());
        if count.is_some_and(|count| count > 0) {
            let top = run(b, &["sql", "top"]).await?;
            return expect(top.contains("SELECT text FROM notes WHERE id = ?"), || {
                format!("not counted: {top}")
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(LabError::App("nothing is read from the replica".to_owned()))
}

/// Cookies that no edge of this fleet wrote: altered, signed by another fleet's key, garbage.
async fn made_up_cookies_are_counted_and_ignored(fleet: &Fleet) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    let written = visit(a, "/notes", None, Some("one more")).await?;
    let cookie = field(&written, "set-cookie").and_then(|set| Some(set.split_once(';')?.0.to_owned()));
    let cookie = cookie.ok_or_else(|| LabError::App(format!("no cookie: {written}")))?;
    let (value, signature) = cookie.rsplit_once('.').unwrap_or_default();
    let before = invalid(a).await? + invalid(b).await?;
    let made_up = [
        format!("{value}9.{signature}"),
        format!("{value}.{}", "5a".repeat(signature.len() / 2)),
        "pontoon_floor=1.99@0-1-99999999.00".to_owned(),
        format!("pontoon_floor={}", "x".repeat(300)),
    ];
    for cookie in &made_up {
        let read = visit(b, "/", Some(cookie), None).await?;
        expect(read.starts_with("HTTP/1.1 200"), || format!("{cookie}: {read}"))?;
    }
    let after = invalid(a).await? + invalid(b).await?;
    expect(after == before + made_up.len() as u64, || {
        format!("{} made-up cookies, counted {}", made_up.len(), after - before)
    })
}

async fn invalid(server: &Server) -> Result<u64, LabError> {
    let numbers = numbers(server, "edge").await?;
    let line = "pontoon_edge_floors_total{event=\"invalid\"} ";
    let count = numbers
        .lines()
        .find_map(|found| found.strip_prefix(line)?.parse().ok());
    count.ok_or_else(|| LabError::App(format!("no such number in {numbers}")))
}

async fn numbers(server: &Server, process: &str) -> Result<String, LabError> {
    let socket = format!("/run/pontoon/{process}.sock");
    let words = [
        "-s",
        "-m",
        "5",
        "--unix-socket",
        &socket,
        "http://pontoon/metrics",
    ];
    server.exec("curl", &words).await
}

/// What a browser sends, and the whole answer.
async fn visit(
    server: &Server,
    path: &str,
    cookie: Option<&str>,
    text: Option<&str>,
) -> Result<String, LabError> {
    let url = format!("http://{}{path}", server.public());
    let mut words = vec!["-s", "-i", "-m", "30", "-H", "Host: notes.example.com"];
    let cookie = cookie.map(|cookie| format!("Cookie: {cookie}"));
    if let Some(cookie) = &cookie {
        words.extend(["-H", cookie]);
    }
    if let Some(text) = text {
        words.extend(["-H", "Content-Type: text/plain", "--data-binary", text]);
    }
    words.push(&url);
    server.exec("curl", &words).await
}

fn field(answer: &str, name: &str) -> Option<String> {
    let mut lines = answer.lines().take_while(|line| !line.trim().is_empty());
    lines.find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

async fn replication(fleet: &Fleet, statement: &str) -> Result<(), LabError> {
    let socket = fleet.b.path("/run/mysqld/mysqld-server.sock")?;
    let mut root = connect_root(&socket).await?;
    let told = mysql_async::prelude::Queryable::query_drop(&mut root, statement).await;
    told.map_err(LabError::database(statement.to_owned()))
}
