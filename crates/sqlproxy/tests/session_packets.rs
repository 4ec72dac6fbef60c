//! Packets that are long, come in pieces, or belong to one connection, in sessions before a real MariaDB.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod support;

use mysql_async::prelude::Queryable;
use pontoon_mysql_wire::reply::Expect;
use pontoon_mysql_wire::{Command, MAX_FRAME_PAYLOAD, encode_packet};
use support::SOON;
use support::database::Engine;
use support::raw::*;
use support::session::Through;

const TABLE: &str = "CREATE TABLE app.t (id INT AUTO_INCREMENT PRIMARY KEY, v LONGBLOB)";
/// Longer than one frame.
const LONG: usize = MAX_FRAME_PAYLOAD + 100_000;

async fn start() -> Option<Through> {
    let prepare = [TABLE, "SET GLOBAL max_allowed_packet = 67108864"];
    Through::start(Engine::Mariadb, &prepare).await
}

/// Ends every connection that sessions of `native` have to the database; they get others.
async fn lose_connections(through: &Through) {
    let mut root = through.database.root().await;
    root.query_drop("KILL USER native").await.unwrap();
    let gone = pontoon_testkit::wait_until("connections to end", SOON, || {
        let through = &through;
        async move {
            let mut root = through.database.root().await;
            let left: Option<u32> = root
                .query_first("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'native'")
                .await
                .unwrap();
            (left == Some(0)).then_some(())
        }
    });
    gone.await.unwrap();
}

/// Answers a request for a file with `file` in packets of `piece` bytes.
async fn give_file(client: &mut Raw, file: &[u8], piece: usize) {
    let request = client.packet().await.unwrap();
    assert_eq!(request[0], 0xFB, "{request:?}");
    let mut sequence = 2;
    let mut bytes = Vec::new();
    for part in file.chunks(piece) {
        sequence = encode_packet(&mut bytes, sequence, part);
    }
    encode_packet(&mut bytes, sequence, b"");
    client.write(&bytes).await;
}

const LOAD: &str = "LOAD DATA LOCAL INFILE 'x' INTO TABLE t (v)";

#[tokio::test]
async fn local_files_arrive_whole_or_not_at_all() {
    let Some(through) = start().await else {
        return;
    };
    for road in &through.roads {
        let mut client = Raw::connect(road).await;
        for (lines, len, piece) in [(0, 0, 1), (1, 5, 2), (1_000, 10, 700), (20, 1 << 20, 1 << 20)] {
            client.query("TRUNCATE TABLE t").await;
            let line = [vec![b'x'; len], vec![b'\n']].concat();
            client.send_query(LOAD).await;
            give_file(&mut client, &line.repeat(lines), piece).await;
            // What the answer is numbered with is checked by every client: here by hand.
            let said = client.answer(Expect::Simple).await;
            assert!(said.error().is_none(), "{:?}", said.error());
            let counted = client
                .value("SELECT CONCAT(COUNT(*), ' ', COALESCE(SUM(LENGTH(v)), 0)) FROM t")
                .await;
            assert_eq!(counted, format!("{lines} {}", lines * len));
        }
        client.query("TRUNCATE TABLE t").await;
        // The next command with it.
        client.send_query(LOAD).await;
        give_file(&mut client, b"a\nb\n", 100).await;
        client.send_query("SELECT COUNT(*) FROM t").await;
        assert!(client.answer(Expect::Simple).await.error().is_none());
        assert_eq!(client.answer(Expect::Simple).await.rows(1), [b"\x012"]);
    }
    // The database does not take any: its own words, and the session goes on.
    through.database.execute(&["SET GLOBAL local_infile = 0"]).await;
    let mut client = Raw::connect(&through.roads[0]).await;
    let mut direct = Raw::connect(&through.direct()[0]).await;
    let (ours, theirs) = (client.query(LOAD).await, direct.query(LOAD).await);
    assert_eq!(ours.packets, theirs.packets);
    assert_eq!(client.value("SELECT 5").await, "5");
}

#[tokio::test]
async fn half_a_local_file_is_no_file() {
    let Some(through) = start().await else {
        return;
    };
    let mut watcher = Raw::connect(&through.roads[1]).await;
    for half in [&b""[..], b"\x06", b"\x06\0\0\x02a\nb", b"\x04\0\0\x02a\nb\n"] {
        let mut client = Raw::connect(&through.roads[0]).await;
        client.send_query(LOAD).await;
        assert_eq!(client.packet().await.unwrap()[0], 0xFB);
        client.write(half).await;
        drop(client);
        assert_eq!(watcher.value("SELECT COUNT(*) FROM t").await, "0", "{half:?}");
    }
    // Nor is what was on its way anybody else's.
    let mut next = Raw::connect(&through.roads[0]).await;
    assert_eq!(next.value("SELECT COUNT(*) FROM t").await, "0");
}

#[tokio::test]
async fn packets_of_more_than_16_mib_go_both_ways() {
    let Some(through) = start().await else {
        return;
    };
    for road in &through.roads {
        let mut client = Raw::connect(road).await;
        for len in [
            MAX_FRAME_PAYLOAD - 60,
            MAX_FRAME_PAYLOAD - 40,
            LONG,
            2 * MAX_FRAME_PAYLOAD + 9,
        ] {
            client.query("TRUNCATE TABLE t").await;
            let text = "q".repeat(len);
            let said = client
                .query(&format!("INSERT INTO t (v) VALUES ('{text}')"))
                .await;
            assert!(said.error().is_none(), "{:?}", said.error());
            let said = client.query("SELECT v FROM t").await;
            let row = &said.rows(1)[0];
            assert!(
                row.ends_with(text.as_bytes()) && row.len() < len + 10,
                "{len}: {}",
                row.len()
            );

            let insert = client.prepare("INSERT INTO t (v) VALUES (?)").await;
            let said = client.ask(&execution(insert, 0, true, &[text.as_bytes()])).await;
            assert!(said.error().is_none(), "{len}: {:?}", said.error());
            let select = client.prepare("SELECT v FROM t WHERE id > ?").await;
            let said = client.ask(&execution(select, 0, true, &[b"1"])).await;
            let row = &said.rows(1)[0];
            assert!(row.ends_with(text.as_bytes()), "{len}: {}", row.len());
            client.send(&about(Command::StmtClose, insert, b"")).await;
        }
        assert_eq!(
            client.value("SELECT COUNT(*) FROM t").await,
            "2",
            "the session goes on"
        );
    }
}

#[tokio::test]
async fn a_long_packet_that_nobody_can_take_is_answered() {
    let Some(through) = start().await else {
        return;
    };
    let text = vec![b'x'; LONG];
    for road in [&through.direct()[0], &through.roads[0]] {
        let mut client = Raw::connect(road).await;
        // No such statement; no parameter of that number; a command that is none.
        let said = client.ask(&execution(77, 0, true, &[&text])).await;
        assert_eq!(said.error().unwrap().code, 1243);
        client.send(&long_data(77, 0, &text)).await;
        assert_eq!(client.value("SELECT 6").await, "6");
        let insert = client.prepare("INSERT INTO t (v) VALUES (?)").await;
        client.send(&long_data(insert, 9, &text)).await;
        let said = client.ask(&execution(insert, 0, true, &[b"x"])).await;
        assert!(said.error().is_some());
        client
            .send(&command(Command::StmtReset, &insert.to_le_bytes()))
            .await;
        assert!(client.answer(Expect::ResetOrPing).await.error().is_none());
        client.send(&[&[0x7F][..], &text].concat()).await;
        let said = client.answer(Expect::ResetOrPing).await;
        assert_eq!(said.error().unwrap().code, 1047);
        assert_eq!(client.value("SELECT 7").await, "7", "the session goes on");
    }
}

#[tokio::test]
async fn parameters_types_go_along_to_another_connection() {
    let Some(through) = start().await else {
        return;
    };
    let mut client = Raw::connect(&through.roads[1]).await;
    let insert = client.prepare("INSERT INTO t (v) VALUES (?)").await;
    for (round, len) in [3, 2_000_000, MAX_FRAME_PAYLOAD - 21, MAX_FRAME_PAYLOAD - 20, LONG]
        .into_iter()
        .enumerate()
    {
        let text = vec![b'a' + round as u8; len];
        // The first tells the types; the others rely on them, on connections that never heard of them.
        let said = client.ask(&execution(insert, 0, round == 0, &[&text])).await;
        assert!(said.error().is_none(), "{len}: {:?}", said.error());
        let stored = client
            .value("SELECT CONCAT(LENGTH(v), LEFT(v, 1), RIGHT(v, 1)) FROM t ORDER BY id DESC LIMIT 1")
            .await;
        let letter = (b'a' + round as u8) as char;
        assert_eq!(stored, format!("{len}{letter}{letter}"));
        lose_connections(&through).await;
    }
    assert_eq!(client.value("SELECT COUNT(*) FROM t").await, "5");
}

#[tokio::test]
async fn long_data_is_kept_for_its_statement_whatever_comes_between() {
    let Some(through) = start().await else {
        return;
    };
    for road in &through.roads {
        let mut client = Raw::connect(road).await;
        client.query("TRUNCATE TABLE t").await;
        let insert = client.prepare("INSERT INTO t (v) VALUES (?)").await;
        // Of the same text, and yet another statement.
        let other = client.prepare("INSERT INTO t (v) VALUES (?)").await;
        let part = vec![b'p'; 100_000];
        for round in 0..25 {
            client.send(&long_data(insert, 0, &part)).await;
            if round % 5 == 0 {
                assert_eq!(client.value("SELECT 1 + 1").await, "2");
                let said = client.ask(&execution(other, 0, true, &[b"other"])).await;
                assert!(said.error().is_none(), "{:?}", said.error());
            }
        }
        client.send(&long_data(insert, 0, &vec![b'q'; LONG])).await;
        let mut execute = execution(insert, 0, true, &[b""]);
        execute.pop();
        let said = client.ask(&execute).await;
        assert!(said.error().is_none(), "{:?}", said.error());
        let said = client
            .value("SELECT GROUP_CONCAT(LENGTH(v) ORDER BY id) FROM t")
            .await;
        assert_eq!(said, format!("5,5,5,5,5,{}", 2_500_000 + LONG));
        // The next one has its own value again.
        let said = client.ask(&execution(insert, 0, true, &[b"short"])).await;
        assert!(said.error().is_none(), "{:?}", said.error());
        assert_eq!(
            client.value("SELECT v FROM t ORDER BY id DESC LIMIT 1").await,
            "short"
        );
    }
}

#[tokio::test]
async fn cursors_are_read_in_pieces_with_other_statements_between() {
    const READ_ONLY: u8 = 1;
    let Some(through) = start().await else {
        return;
    };
    for road in &through.roads {
        let mut client = Raw::connect(road).await;
        client.query("TRUNCATE TABLE t").await;
        let fill = "INSERT INTO t (v) WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10) \
                    SELECT n FROM n";
        assert!(client.query(fill).await.error().is_none());
        let text = "SELECT v FROM t ORDER BY id";
        let (first, second) = (client.prepare(text).await, client.prepare(text).await);
        assert!(
            client
                .ask(&execution(first, READ_ONLY, true, &[]))
                .await
                .done
                .cursor
        );
        assert!(
            client
                .ask(&execution(second, READ_ONLY, true, &[]))
                .await
                .done
                .cursor
        );
        let mut seen = [Vec::new(), Vec::new()];
        for round in 0..4 {
            for (statement, seen) in [first, second].into_iter().zip(&mut seen) {
                let fetch = about(Command::StmtFetch, statement, &3u32.to_le_bytes());
                let said = client.ask(&fetch).await;
                assert!(said.error().is_none(), "{:?}", said.error());
                seen.extend(said.packets[..said.packets.len() - 1].to_vec());
                assert_eq!(said.done.cursor, round < 3);
                assert_eq!(client.value("SELECT 4").await, "4");
                assert!(client.query("UPDATE t SET v = v + 100").await.error().is_none());
            }
        }
        assert_eq!(seen[0].len(), 10);
        assert_eq!(seen[0], seen[1], "each has its own place");
        // The same as a whole afterwards, from wherever it is executed.
        let said = client.ask(&execution(second, 0, true, &[])).await;
        assert_eq!(said.rows(1).len(), 10);
    }
}

#[tokio::test]
async fn the_statement_prepared_last_may_be_meant_before_its_number_is_known() {
    const LAST: u32 = u32::MAX;
    let Some(through) = start().await else {
        return;
    };
    for road in [&through.direct()[1], &through.roads[1]] {
        let mut client = Raw::connect(road).await;
        for text in ["SELECT ?", "SELECT CONCAT(?, 'x')"] {
            let prepare = command(Command::StmtPrepare, text.as_bytes());
            let mut both = Vec::new();
            encode_packet(&mut both, 0, &prepare);
            encode_packet(&mut both, 0, &execution(LAST, 0, true, &[b"v"]));
            client.write(&both).await;
            assert!(client.answer(Expect::Prepare).await.error().is_none());
            let said = client.answer(Expect::Execute).await;
            assert_eq!(said.rows(1).len(), 1);
        }
        let mut both = Vec::new();
        encode_packet(&mut both, 0, &command(Command::StmtPrepare, b"SELEKT ?"));
        encode_packet(&mut both, 0, &execution(LAST, 0, true, &[b"v"]));
        client.write(&both).await;
        assert_eq!(client.answer(Expect::Prepare).await.error().unwrap().code, 1064);
        assert_eq!(client.answer(Expect::Execute).await.error().unwrap().code, 1243);
        assert_eq!(client.value("SELECT 8").await, "8");
    }
}

#[tokio::test]
async fn statements_come_back_elsewhere_and_no_connection_has_too_many() {
    let Some(through) = start().await else {
        return;
    };
    let mut client = Raw::connect(&through.roads[1]).await;
    let mut statements = Vec::new();
    for number in 0..300 {
        let id = client.prepare(&format!("SELECT CONCAT(?, '{number}')")).await;
        statements.push((number, id));
    }
    for round in 0..2 {
        for (number, id) in &statements {
            let said = client.ask(&execution(*id, 0, round == 0, &[b"n"])).await;
            assert!(said.rows(1)[0].ends_with(format!("n{number}").as_bytes()));
        }
        let mut root = through.database.root().await;
        let count: (String, u32) = root
            .query_first("SHOW GLOBAL STATUS LIKE 'Prepared_stmt_count'")
            .await
            .unwrap()
            .unwrap();
        assert!(count.1 <= 129, "{count:?}");
        lose_connections(&through).await;
    }
}
