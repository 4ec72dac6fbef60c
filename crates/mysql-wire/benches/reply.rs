//! How long the walk through an answer takes: `cargo bench -p pontoon-mysql-wire`. One thread, the best and the median
//! of rounds; the answer is fed in pieces of 16 KiB, as a socket gives it.
#![allow(clippy::print_stdout, clippy::expect_used)]

use std::hint::black_box;
use std::time::Instant;

use pontoon_mysql_wire::reply::{Expect, ReplyWalker, Step};
use pontoon_mysql_wire::{Capabilities, encode_packet};

const ROUNDS: usize = 15;
/// Bytes that a round walks, at least.
const ENOUGH: usize = 32 << 20;
const PIECE: usize = 16 * 1024;
const DEFINITION: &[u8] = b"\x03def\0\0\0\x01a\0\x0c\x3f\0\x01\0\0\0\x08\x81\0\0\0\0";

fn main() {
    let old = Capabilities::PROTOCOL_41;
    let full = old | Capabilities::DEPRECATE_EOF | Capabilities::SESSION_TRACK;
    println!(
        "{:<28} {:>10} {:>12} {:>12} {:>10}",
        "answer", "rows", "best ns", "median ns", "GiB/s"
    );
    for (name, rows, len) in [
        ("OK", 0, 0),
        ("point select", 1, 120),
        ("1000 rows of 20 bytes", 1000, 20),
        ("1000 rows of 200 bytes", 1000, 200),
        ("10000 rows of 2000 bytes", 10_000, 2000),
    ] {
        let bytes = answer(rows, len);
        for (kind, client) in [("same", full), ("old", old)] {
            let (best, median) = measure(&bytes, full, client);
            println!(
                "{:<28} {rows:>10} {best:>12.0} {median:>12.0} {:>10.2}",
                format!("{name}, {kind}"),
                bytes.len() as f64 / best * 1e9 / f64::from(1 << 30),
            );
        }
    }
}

fn answer(rows: usize, len: usize) -> Vec<u8> {
    let mut list: Vec<Vec<u8>> = Vec::new();
    if rows == 0 {
        list.push(b"\0\x01\0\x02\0\0\0".to_vec());
    } else {
        list.extend([b"\x01".to_vec(), DEFINITION.to_vec()]);
        list.extend((0..rows).map(|_| vec![b'x'; len]));
        list.push(b"\xfe\0\0\x02\0\0\0".to_vec());
    }
    let mut out = Vec::new();
    let mut sequence = 1;
    for payload in list {
        sequence = encode_packet(&mut out, sequence, &payload);
    }
    out
}

/// Nanoseconds for one answer.
fn measure(bytes: &[u8], backend: Capabilities, client: Capabilities) -> (f64, f64) {
    let times = (ENOUGH / bytes.len()).min(200_000);
    let mut out = Vec::with_capacity(2 * PIECE);
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..times {
                walk(black_box(bytes), backend, client, &mut out);
            }
            start.elapsed().as_nanos() as f64 / times as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    (rounds[0], rounds[ROUNDS / 2])
}

fn walk(bytes: &[u8], backend: Capabilities, client: Capabilities, out: &mut Vec<u8>) {
    let mut walker = ReplyWalker::new(Expect::Simple, backend, client, 1);
    let mut at = 0;
    loop {
        let piece = &bytes[at..bytes.len().min(at + PIECE)];
        out.clear();
        let fed = walker.feed(piece, out).expect("a good answer");
        black_box(&out);
        at += fed.consumed;
        if let Step::Done(done) = fed.step {
            black_box(done);
            return;
        }
    }
}
