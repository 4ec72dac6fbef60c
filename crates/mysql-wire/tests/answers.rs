//! Servers that lie, stop, repeat themselves or never end: the walk neither panics nor keeps what it need not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{BACKEND, Client, EXPECTS, answer, packets, payloads, walk};
use pontoon_mysql_wire::reply::{Expect, MAX_COLLECTED, MAX_CONTROL_PACKET, ReplyWalker, Step};
use pontoon_mysql_wire::{Capabilities, FrameHeader, WireError, write};
use proptest::prelude::*;

const DEFINITION: &[u8] = b"\x03def\0\0\0\x01a\0\x0c\x3f\0\x01\0\0\0\x08\x81\0\0\0\0";
const END: &[u8] = b"\xfe\0\0\x02\0\0\0";
const OLD: Capabilities = Capabilities::PROTOCOL_41;

fn walker(expect: Expect) -> ReplyWalker {
    ReplyWalker::new(expect, BACKEND, OLD, 1)
}

fn error_of(expect: Expect, bytes: &[u8]) -> WireError {
    walk(walker(expect), bytes, &[]).1.unwrap_err()
}

#[test]
fn an_answer_cut_anywhere_only_waits() {
    let bytes = packets([b"\x01", DEFINITION, b"\x011", b"\x012", END]);
    for end in 0..bytes.len() {
        let (out, result) = walk(walker(Expect::Simple), &bytes[..end], &[]);
        assert_eq!(result, Ok(None), "{end}");
        assert!(out.len() <= end + 9);
    }
}

#[test]
fn frames_out_of_order_are_refused() {
    let good = packets([b"\x01", DEFINITION, b"\x011", b"\x012", END]);
    let mut at = 0;
    let mut frames = 0;
    while at < good.len() {
        let header = FrameHeader::parse(*good[at..].first_chunk().unwrap());
        for other in [header.sequence.wrapping_sub(1), header.sequence.wrapping_add(7)] {
            let mut bytes = good.clone();
            bytes[at + 3] = other;
            let (_, result) = walk(walker(Expect::Simple), &bytes, &[]);
            // The first frame sets the number; what comes after it shows the lie.
            assert!(
                matches!(result, Err(WireError::OutOfOrder { .. })),
                "{at}: {result:?}"
            );
        }
        at += 4 + header.len;
        frames += 1;
    }
    assert_eq!(frames, 5);
}

#[test]
fn a_frame_that_continues_a_row_out_of_order_is_refused() {
    let mut row = vec![0xFD, 0xFF, 0xFF, 0xFF];
    row.resize(0xFF_FFFF + 10, b'x');
    let mut bytes = packets([b"\x01", DEFINITION, &row[..]]);
    let second = bytes.len() - 14;
    bytes[second + 3] = 9;
    assert_eq!(
        error_of(Expect::Simple, &bytes),
        WireError::OutOfOrder { expected: 4, got: 9 }
    );
}

#[test]
fn wrong_numbers_of_columns_are_noticed_where_they_can_be() {
    let few = packets([&b"\x02"[..], DEFINITION, END]);
    assert!(matches!(error_of(Expect::Simple, &few), WireError::Malformed(_)));
    for count in [
        &b"\xfc\0"[..],
        b"\xfd\x01\0",
        b"\x01\0",
        b"\xfc\0\0",
        b"\xfe\0\0\x01",
    ] {
        let bytes = packets([count]);
        assert!(walk(walker(Expect::Simple), &bytes, &[]).1.is_err(), "{count:?}");
    }
    // So many columns as a number can hold: it waits for them, and keeps nothing.
    let mut many = walker(Expect::Simple);
    let mut out = Vec::new();
    let huge = packets([&b"\xfd\xff\xff\xff"[..], DEFINITION]);
    assert_eq!(many.feed(&huge, &mut out).unwrap().step, Step::More);
    assert_eq!(out, huge);
}

#[test]
fn what_has_no_place_is_refused() {
    for (expect, payload) in [
        (Expect::Simple, &b""[..]),
        (Expect::Fetch, b""),
        (Expect::Statistics, b""),
        (Expect::Simple, b"\0"),
        (Expect::Simple, b"\xfe\0\0\x02"),
        (Expect::Fetch, b"\xfe"),
        (Expect::Fetch, b"\xff"),
        (Expect::Prepare, b"\x01"),
        (Expect::Prepare, b"\0\x01\0\0"),
        (Expect::Prepare, END),
        (Expect::Prepare, b"\xfbfile"),
        (Expect::ResetOrPing, b"\x05"),
        (Expect::Simple, b"\0\0\0\x02\x40\0\0\0\x7f"),
        (Expect::Simple, b"\0\0\0\x02\x40\0\0\0\x03\x03\x05\0"),
    ] {
        let result = walk(walker(expect), &packets([payload]), &[]).1;
        assert!(result.is_err(), "{expect:?} {payload:?}: {result:?}");
    }
}

#[test]
fn a_control_packet_that_promises_too_much_is_refused_at_its_header() {
    for (expect, first) in [
        (Expect::Simple, 0x00),
        (Expect::Simple, 0xFF),
        (Expect::Simple, 0xFB),
        (Expect::Fetch, 0xFE),
    ] {
        let mut bytes = FrameHeader {
            len: MAX_CONTROL_PACKET + 1,
            sequence: 1,
        }
        .to_bytes()
        .to_vec();
        bytes.push(first);
        let limit = MAX_CONTROL_PACKET;
        assert_eq!(error_of(expect, &bytes), WireError::TooLarge { limit });
    }
}

#[test]
fn rows_without_end_are_forwarded_without_growing() {
    let mut walker = walker(Expect::Simple);
    let mut out = Vec::with_capacity(1 << 20);
    let head = packets([b"\x01", DEFINITION]);
    walker.feed(&head, &mut out).unwrap();
    let mut sequence = 3u8;
    for _ in 0..2_000 {
        out.clear();
        let mut rows = Vec::new();
        for _ in 0..100 {
            rows.extend_from_slice(&[2, 0, 0, sequence, 1, b'x']);
            sequence = sequence.wrapping_add(1);
        }
        let fed = walker.feed(&rows, &mut out).unwrap();
        assert_eq!((fed.step, fed.consumed), (Step::More, rows.len()));
        assert!(out.len() <= rows.len() + 9);
    }
    assert_eq!(out.capacity(), 1 << 20);
    assert!(walker.changes().is_empty());
    assert!(walker.delivered_bytes() > 1_000_000);
}

#[test]
fn results_without_end_keep_a_bounded_number_of_gtids() {
    let mut walker = walker(Expect::Simple);
    let mut out = Vec::new();
    let mut sequence = 1u8;
    for number in 0..20_000 {
        let mut payload = b"\0\0\0\x0a\x40\0\0\0".to_vec();
        let gtid = format!("00000000-0000-0000-0000-000000000000:{number}");
        let mut entry = vec![0];
        write::lenenc_bytes(&mut entry, gtid.as_bytes());
        let mut state = vec![3];
        write::lenenc_bytes(&mut state, &entry);
        write::lenenc_bytes(&mut payload, &state);
        let mut bytes = Vec::new();
        sequence = pontoon_mysql_wire::encode_packet(&mut bytes, sequence, &payload);
        out.clear();
        assert_eq!(walker.feed(&bytes, &mut out).unwrap().step, Step::More);
    }
    let changes = walker.changes();
    assert!(
        changes.incomplete,
        "it says that it does not know the session's position"
    );
    let kept = changes.gtids.iter().map(Vec::len).sum::<usize>();
    assert!(kept > 1000 && kept <= MAX_COLLECTED);
}

#[test]
fn bytes_behind_the_end_are_left_alone() {
    let mut walker = walker(Expect::ResetOrPing);
    let mut bytes = packets([b"\0\0\0\x02\0\0\0"]);
    let end = bytes.len();
    bytes.extend_from_slice(b"next");
    let mut out = Vec::new();
    let fed = walker.feed(&bytes, &mut out).unwrap();
    assert!(fed.consumed == end && matches!(fed.step, Step::Done(_)));
    assert!(
        walker.feed(&bytes[end..], &mut out).is_err(),
        "a walker is for one answer"
    );
}

/// Payloads of which answers are made, right and wrong.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<Vec<u8>> = [
        &b"\x01"[..],
        b"\x02",
        b"\x01",
        DEFINITION,
        DEFINITION,
        DEFINITION,
        END,
        END,
        b"\xfe\0\0\x0a\0\x01\0",
        b"\xfe\0\0\x42\0\0\0",
        b"\xfe\0\0\x82\0\0\0",
        b"\xfe\0\0\x02\x40\0\0\0\x07\x03\x05\0\x03u:9",
        b"\0\x01\x07\x02\x40\0\0\0\x14\0\x12\x09last_gtid\x070-1-800",
        b"\0\x01\x07\x0a\x40\0\0\x02hi\x09\x01\x03\x02db\x02\x02\x011",
        b"\0\0\0\x02\0\0\0",
        b"\0\0\0\x0a\0\0\0",
        b"\0\x07\0\0\0\x01\0\x02\0\0\0\0",
        b"\0\x07\0\0\0\0\0\0\0\0\0\0",
        b"\xff\x0a\x05#HY000read only",
        b"\xff\xff\xff\x01\x01\x02\0\0\0\x04sort",
        b"\xfb/tmp/x",
        b"\x011",
        b"\0\0\x01",
        b"\xfb\xfb",
        b"",
    ]
    .iter()
    .map(|payload| payload.to_vec())
    .collect();
    prop_oneof![
        12 => prop::sample::select(known),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_sequence_of_packets_holds_together(
        list in prop::collection::vec(payload(), 0..12), expect in prop::sample::select(&EXPECTS[..]), client: u8,
        pieces in prop::collection::vec(1u8..30, 1..5),
    ) {
        answer(expect, Client(client), &pieces, &packets(list));
    }

    #[test]
    fn results_one_after_the_other_hold_together(
        rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 0..6),
        client: u8, execute: bool, pieces in prop::collection::vec(1u8..200, 1..5), end in 0u8..3,
    ) {
        let mut list = vec![b"\x01".to_vec(), DEFINITION.to_vec()];
        // A row never begins with 0xFE or 0xFF.
        list.extend(rows.into_iter().map(|mut row| { row[0] = row[0].min(0xFD); row }));
        list.push(match end {
            0 => END.to_vec(),
            1 => b"\xfe\0\0\x0a\0\0\0".to_vec(),
            _ => b"\xfe\0\0\x42\0\0\0".to_vec(),
        });
        if end == 1 {
            list.push(b"\0\x01\x07\x02\x40\0\0\0\x14\0\x12\x09last_gtid\x070-1-800".to_vec());
        }
        let expect = if execute { Expect::Execute } else { Expect::Simple };
        answer(expect, Client(client), &pieces, &packets(&list));
        let (_, result) = walk(ReplyWalker::new(expect, BACKEND, OLD, 1), &packets(&list), &[]);
        prop_assert!(matches!(result, Ok(Some(_))));
    }

    #[test]
    fn any_bytes_hold_together(
        bytes: Vec<u8>, expect in prop::sample::select(&EXPECTS[..]), client: u8, pieces: Vec<u8>,
    ) {
        answer(expect, Client(client), &pieces, &bytes);
        answer(expect, Client(client), &pieces, &packets(payloads(&bytes)));
    }
}
