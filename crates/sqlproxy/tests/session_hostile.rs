//! Clients and databases that do not keep to the protocol, in sessions: it costs them their connection, and nobody else
//! anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use pontoon_mysql_wire::{Command, ErrorPacket};
use support::raw::{Raw, about, command, execution};
use support::standin::{StandIn, definition, ok, packets, rows};
use support::{SOON, metrics, most_in_kernel_buffers};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// What a database says to `SELECT evil N`, and whether it closes then.
fn evil() -> Vec<(&'static str, Vec<u8>, bool)> {
    let row = || b"\x01x".to_vec();
    let begun = [vec![1], definition()];
    let result = |rest: &[Vec<u8>]| packets(1, &[&begun[..], rest].concat());
    vec![
        ("nothing, and closes", Vec::new(), true),
        ("half a header", vec![1, 0], true),
        ("a length without its bytes", vec![0x20, 0, 0, 1, 0xFF], true),
        ("an empty packet", vec![0, 0, 0, 1], false),
        (
            "a number out of order",
            {
                let mut bytes = result(&[row()]);
                bytes.extend(packets(9, &[ok(0xFE)]));
                bytes
            },
            false,
        ),
        (
            "a definition out of order",
            {
                let mut bytes = packets(1, &[vec![1]]);
                bytes.extend(packets(7, &[definition()]));
                bytes
            },
            false,
        ),
        ("no columns", packets(1, &[vec![0xFC, 0, 0]]), false),
        (
            "more columns than definitions",
            packets(1, &[vec![3], definition(), ok(0xFE)]),
            false,
        ),
        (
            "an end that is too long to be one",
            result(&[vec![0xFE; 2 << 20]]),
            false,
        ),
        ("an OK that is cut", packets(1, &[vec![0, 0xFC]]), false),
        ("an error that is cut", packets(1, &[vec![0xFF, 1]]), false),
        (
            "a state that lies",
            packets(1, &[b"\0\0\0\x02\x40\0\0\0\x05\0\x7fab".to_vec()]),
            false,
        ),
        ("rows, and closes", result(&[row(), row()]), true),
        (
            "the answer of another command",
            packets(1, &[b"\0\x07\0\0\0\x02\0\x01\0\0\0\0".to_vec(), definition()]),
            false,
        ),
        ("two answers", [rows(&[&["x"]]), rows(&[&["x"]])].concat(), false),
        ("plain text", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), false),
    ]
}

#[tokio::test]
async fn a_database_that_breaks_the_protocol_costs_one_session_its_connection() {
    let answers = Arc::new(evil());
    let count = answers.len();
    let stand_in = StandIn::start(move |sql, mut stream: TcpStream| {
        let answers = Arc::clone(&answers);
        async move {
            let number = sql
                .strip_prefix("SELECT evil FROM t")
                .and_then(|rest| rest.trim().parse::<usize>().ok());
            match number.and_then(|number| answers.get(number)) {
                Some((_, bytes, true)) => {
                    let _ = stream.write_all(bytes).await;
                    (stream, None)
                }
                Some((_, bytes, false)) => (stream, Some(bytes.clone())),
                None => (stream, Some(packets(1, &[ok(0)]))),
            }
        }
    })
    .await;
    let road = stand_in.road();
    let mut bystander = Raw::connect(&road).await;
    for number in 0..count {
        let what = evil()[number].0;
        let mut victim = Raw::connect(&road).await;
        victim.send_query(&format!("SELECT evil FROM t {number}")).await;
        // Whole packets as far as they were, then an error, the end, or an answer after which all is well.
        while let Some(packet) = victim.packet().await {
            match packet[0] {
                0xFF => {
                    let error = ErrorPacket::parse(&packet).unwrap();
                    assert_eq!(error.code, 1105, "{what}: {error}");
                    break;
                }
                0xFE if packet.len() < 100 => break,
                _ => {}
            }
        }
        assert_eq!(bystander.value("SELECT 1").await, "1", "{what}");
        let mut next = Raw::connect(&road).await;
        assert_eq!(
            next.value("SELECT 1").await,
            "1",
            "{what}: nobody gets what is left of it"
        );
    }
    let counted = counted(&metrics(&stand_in.one).await, "database");
    assert!(counted > 0 && counted <= count as u64, "{counted}");
}

/// How many malformed packets the proxy has counted.
fn counted(metrics: &str, from: &str) -> u64 {
    let line = format!("pontoon_sql_malformed_packets_total{{from=\"{from}\"}} ");
    let value = metrics.lines().find_map(|one| one.strip_prefix(&line));
    value.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_costs_nobody_else_anything() {
    let stand_in = StandIn::start(|_, stream| async move { (stream, Some(packets(1, &[ok(0)]))) }).await;
    let road = stand_in.road();
    let mut bystander = Raw::connect(&road).await;
    let numbered = |sequence, payload: &[u8]| packets(sequence, &[payload.to_vec()]);
    let cases: Vec<(&str, Vec<u8>, Option<u16>)> = vec![
        ("out of order", numbered(3, b"\x03SELECT 1"), Some(1156)),
        ("an empty packet", numbered(0, b""), None),
        ("no such command", numbered(0, b"\xee"), Some(1047)),
        ("a command of servers", numbered(0, b"\x12\0\0\0\0"), Some(1047)),
        ("an EXECUTE that is cut", numbered(0, b"\x17\x01"), Some(1835)),
        (
            "an EXECUTE of nothing",
            numbered(0, &execution(9, 0, true, &[b"x"])),
            Some(1243),
        ),
        ("a FETCH that is cut", numbered(0, b"\x1c\x01"), Some(1835)),
        (
            "a FETCH of nothing",
            numbered(0, &about(Command::StmtFetch, 9, b"\x01\0\0\0")),
            Some(1243),
        ),
        (
            "a RESET of nothing",
            numbered(0, &about(Command::StmtReset, 9, b"")),
            Some(1243),
        ),
        ("another user, cut", numbered(0, b"\x11u"), Some(1047)),
        ("a KILL that is cut", numbered(0, b"\x0c\x01"), None),
        (
            "long data that is cut, and a long one of nothing",
            [
                numbered(0, b"\x18\x01"),
                numbered(0, &about(Command::StmtSendLongData, 9, &vec![0; 2 << 20])),
                numbered(0, b"\xee"),
            ]
            .concat(),
            Some(1047),
        ),
    ];
    for (what, bytes, code) in cases {
        let mut client = Raw::connect(&road).await;
        client.write(&bytes).await;
        if let Some(code) = code {
            let packet = client
                .packet()
                .await
                .unwrap_or_else(|| panic!("{what}: no answer"));
            assert_eq!(ErrorPacket::parse(&packet).unwrap().code, code, "{what}");
        }
        if code == Some(1156) {
            assert!(client.is_closed().await, "{what}");
        }
        drop(client);
        assert_eq!(bystander.value("SELECT 1").await, "1", "{what}");
    }
    // Cut anywhere, and gone or silent.
    let whole = [
        numbered(0, &command(Command::Query, b"INSERT INTO t VALUES (1)")),
        vec![0xFF, 0xFF, 0xFF, 0, 3],
    ]
    .concat();
    let mut silent = Vec::new();
    for end in 0..whole.len() {
        let mut client = Raw::connect(&road).await;
        client.write(&whole[..end]).await;
        if end % 2 == 0 {
            silent.push(client);
        }
    }
    assert_eq!(bystander.value("SELECT 1").await, "1");
    // Bytes that mean nothing, the same in each run.
    let mut seed = 0x9E37_79B9_u32;
    for _ in 0..60 {
        let mut client = Raw::connect(&road).await;
        let bytes: Vec<u8> = (0..64)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            })
            .collect();
        client.write(&numbered(0, &bytes)).await;
        client.write(&bytes).await;
    }
    assert_eq!(bystander.value("SELECT 1").await, "1");
    let mut next = Raw::connect(&road).await;
    assert_eq!(next.value("SELECT 1").await, "1");
    // A packet out of order, and the EXECUTE and the FETCH that were cut; of the nonsense, what came to be one of these.
    let counted = counted(&metrics(&stand_in.one).await, "client");
    assert!(counted >= 3, "{counted}");
}

#[tokio::test]
async fn a_result_that_nobody_reads_and_that_never_ends_is_bounded_and_ended_with_its_client() {
    const CHUNK: usize = 64 * 1024;
    /// Bytes that the proxy may keep of one answer.
    const KEPT: u64 = 1 << 20;
    let written = Arc::new(AtomicU64::new(0));
    let ended = Arc::new(AtomicU64::new(0));
    let (progress, over) = (Arc::clone(&written), Arc::clone(&ended));
    let stand_in = StandIn::start(move |sql, mut stream: TcpStream| {
        let (progress, over) = (Arc::clone(&progress), Arc::clone(&over));
        async move {
            if !sql.starts_with("SELECT endless") {
                return (stream, Some(packets(1, &[ok(0)])));
            }
            let mut sequence = 1u8;
            let mut head = packets(sequence, &[vec![1], definition()]);
            sequence = 3;
            while stream.write_all(&head).await.is_ok() {
                progress.fetch_add(head.len() as u64, SeqCst);
                let mut row = vec![0xFD, (CHUNK - 4) as u8, ((CHUNK - 4) >> 8) as u8, 0];
                row.resize(CHUNK, b'x');
                head = packets(sequence, &[row]);
                sequence = sequence.wrapping_add(1);
            }
            over.fetch_add(1, SeqCst);
            (stream, None)
        }
    })
    .await;
    let road = stand_in.road();
    let mut bystander = Raw::connect(&road).await;
    let mut slow = Raw::connect(&road).await;
    slow.send_query("SELECT endless FROM t").await;
    // Until nothing is taken any more: everything is full.
    let (mut before, mut quiet) = (0, 0);
    while quiet < 5 {
        sleep(Duration::from_millis(100)).await;
        let now = written.load(SeqCst);
        quiet = if now == before && now > 0 { quiet + 1 } else { 0 };
        before = now;
    }
    let most = most_in_kernel_buffers() + KEPT;
    assert!(
        before < most,
        "{before} bytes were taken with nobody reading; kernels take {most}"
    );
    for _ in 0..20 {
        assert_eq!(bystander.value("SELECT 1").await, "1");
    }
    assert!(stand_in.kills.lock().unwrap().is_empty(), "it is slow, not gone");
    // It reads on a little, and is gone: its statement is ended, and the connection is not used again.
    for _ in 0..10 {
        assert!(slow.packet().await.is_some());
    }
    drop(slow);
    let gone = pontoon_testkit::wait_until("the statement to be ended", SOON, || {
        let (ended, kills) = (Arc::clone(&ended), Arc::clone(&stand_in.kills));
        async move {
            let killed = kills.lock().unwrap().iter().any(|sql| sql.starts_with("KILL "));
            (killed && ended.load(SeqCst) == 1).then_some(())
        }
    });
    gone.await.unwrap();
    for _ in 0..5 {
        let mut next = Raw::connect(&road).await;
        assert_eq!(next.value("SELECT 1").await, "1");
    }
    assert_eq!(bystander.value("SELECT 1").await, "1");
}
