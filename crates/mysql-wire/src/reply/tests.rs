use std::sync::Arc;

use super::*;
use crate::{Capabilities, OkPacket, SqlState, StatusFlags, WireError, encode_packet, write};

/// What every connection to a server has.
pub(super) const FULL: Capabilities = Capabilities(
    Capabilities::PROTOCOL_41.0
        | Capabilities::DEPRECATE_EOF.0
        | Capabilities::SESSION_TRACK.0
        | Capabilities::LOCAL_FILES.0,
);
/// A client of the old kind, such as PHP's mysqlnd.
const OLD: Capabilities = Capabilities(Capabilities::PROTOCOL_41.0 | Capabilities::LOCAL_FILES.0);
const DEFINITION: &[u8] = b"\x03def\0\0\0\x01a\0\x0c\x3f\0\x01\0\0\0\x08\x81\0\0\0\0";
const PREPARE_OK: &[u8] = b"\0\x07\0\0\0\x02\0\x01\0\0\0\0";
const ERROR: &[u8] = b"\xff\x0a\x05#HY000read only";
const MORE: u16 = 0x0A;
const CURSOR: u16 = 0x42;
const LAST_ROW: u16 = 0x82;

pub(super) fn packets(payloads: &[&[u8]]) -> Vec<u8> {
    packets_from(1, payloads)
}

fn packets_from(mut sequence: u8, payloads: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for payload in payloads {
        sequence = encode_packet(&mut out, sequence, payload);
    }
    out
}

fn ok(header: u8, status: u16, state: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let packet = OkPacket {
        affected_rows: 0,
        last_insert_id: 0,
        status: StatusFlags(status),
        warnings: 1,
        info: b"",
        state,
    };
    packet.write(&mut out, header, FULL);
    out
}

fn eof(warnings: u8, status: u16) -> Vec<u8> {
    let [low, high] = status.to_le_bytes();
    vec![0xFE, warnings, 0, low, high]
}

fn walk(mut walker: ReplyWalker, bytes: &[u8]) -> (Vec<u8>, Result<Done, WireError>) {
    let mut out = Vec::new();
    let result = match walker.feed(bytes, &mut out) {
        Ok(Fed {
            consumed,
            step: Step::Done(done),
        }) => {
            assert_eq!(consumed, bytes.len());
            Ok(done)
        }
        Ok(fed) => panic!("{fed:?}"),
        Err(e) => Err(e),
    };
    (out, result)
}

fn translated(expect: Expect, client: Capabilities, bytes: &[u8]) -> (Vec<u8>, Done) {
    let (out, done) = walk(ReplyWalker::new(expect, FULL, client, 1), bytes);
    (out, done.unwrap())
}

#[test]
fn a_result_set_goes_through_as_it_is_between_equals() {
    let end = ok(0xFE, 2, b"");
    let bytes = packets(&[b"\x01", DEFINITION, b"\x011", b"\xfb", b"\0", &end]);
    let (out, done) = translated(Expect::Simple, FULL, &bytes);
    assert_eq!(out, bytes);
    assert_eq!(
        (done.outcome, done.warnings, done.status.0),
        (Outcome::Rows, 1, 2)
    );
    assert_eq!(done.row_count, 3);
    assert_eq!(
        (done.delivered_bytes as usize, done.final_bytes),
        (bytes.len() - 11, 11)
    );
}

#[test]
fn an_old_client_gets_both_eof_packets() {
    let end = ok(0xFE, 0x22, b"");
    let bytes = packets(&[b"\x01", DEFINITION, b"\x011", b"\x012", &end]);
    let walker = ReplyWalker::new(Expect::Simple, FULL, OLD, 1).with_status(StatusFlags(3));
    let (out, done) = walk(walker, &bytes);
    let expected = packets(&[b"\x01", DEFINITION, &eof(0, 3), b"\x011", b"\x012", &eof(1, 0x22)]);
    assert_eq!(out, expected);
    assert_eq!(done.unwrap().status.0, 0x22);
}

#[test]
fn an_empty_result_set_has_both_eof_packets_and_an_opened_cursor_one() {
    let end = ok(0xFE, 2, b"");
    let bytes = packets(&[b"\x01", DEFINITION, &end]);
    for expect in [Expect::Simple, Expect::Execute] {
        let (out, done) = translated(expect, OLD, &bytes);
        assert_eq!(out, packets(&[b"\x01", DEFINITION, &eof(0, 2), &eof(1, 2)]));
        assert!(!done.cursor);
    }
    let end = ok(0xFE, CURSOR, b"");
    let bytes = packets(&[b"\x01", DEFINITION, &end]);
    let (out, done) = translated(Expect::Execute, OLD, &bytes);
    assert_eq!(out, packets(&[b"\x01", DEFINITION, &eof(1, CURSOR)]));
    assert!(done.cursor);
}

#[test]
fn a_cursor_inside_a_procedure_is_not_the_clients() {
    // MariaDB 10.11 and MySQL 9.7, `CALL` of a procedure that selects while its own cursor is open.
    let end = ok(0xFE, CURSOR | MORE, b"");
    let last = b"\0\0\0\x02\0\0\0";
    let bytes = packets(&[
        b"\x01",
        DEFINITION,
        &end,
        b"\x01",
        DEFINITION,
        b"\0\0\x01",
        &end,
        last,
    ]);
    let (out, done) = translated(Expect::Execute, OLD, &bytes);
    let (put_in, end) = (eof(0, 2), eof(1, CURSOR | MORE));
    let one = [b"\x01", DEFINITION, &put_in, &end];
    let other = [b"\x01", DEFINITION, &put_in, b"\0\0\x01", &end, last];
    assert_eq!(out, packets(&[&one[..], &other].concat()));
    assert!(!done.cursor);
    let (_, again) = walk(ReplyWalker::new(Expect::Execute, OLD, OLD, 1), &out);
    assert_eq!(again.unwrap().outcome, Outcome::Rows);
}

#[test]
fn out_parameters_of_an_old_mysql_connection_are_not_the_end() {
    // MySQL 9.7 without DEPRECATE_EOF: the EOF packet behind the row says that nothing follows.
    let (first, behind) = (eof(0, MORE | 0x1000), eof(0, 2));
    let last = b"\0\0\0\x02\0\0\0";
    let bytes = packets(&[b"\x01", DEFINITION, &first, b"\0\0\x05", &behind, last]);
    let (out, done) = walk(ReplyWalker::new(Expect::Execute, OLD, OLD, 1), &bytes);
    assert_eq!((out, done.unwrap().status.0), (bytes, 2));
}

/// What an old client gets of a procedure with out-parameters, in pieces of so many bytes, if whatever is not held back
/// is sent at once.
fn out_params(manner: OutParams, row: &[u8], piece: usize) -> Vec<u8> {
    const OUT: u16 = 0x100A;
    let row = [b"\0\0", row].concat();
    let bytes = packets(&[b"\x01", DEFINITION, &row, &ok(0xFE, OUT, b""), &ok(0, 2, b"")]);
    let mut walker = ReplyWalker::new(Expect::Execute, FULL, OLD, 1).with_out_params(manner);
    let (mut sent, mut out, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for bytes in bytes.chunks(piece) {
        rest.extend_from_slice(bytes);
        let fed = walker.feed(&rest, &mut out).unwrap();
        rest.drain(..fed.consumed);
        assert!(walker.held() <= MAX_HELD);
        sent.extend(out.drain(..out.len() - walker.held()));
    }
    assert!(out.is_empty() && rest.is_empty());
    sent
}

#[test]
fn an_old_client_is_told_of_out_parameters_before_their_row() {
    let wanted = |row: &[u8], before, behind| {
        let row = [b"\0\0", row].concat();
        packets(&[
            b"\x01",
            DEFINITION,
            &eof(0, before),
            &row,
            &eof(1, behind),
            &ok(0, 2, b""),
        ])
    };
    for piece in [1, 7, 1_000] {
        for (manner, behind) in [(OutParams::BeforeAndBehind, 0x100A), (OutParams::Before, 2)] {
            assert_eq!(
                out_params(manner, b"\x01x", piece),
                wanted(b"\x01x", 0x100A, behind)
            );
        }
    }
    // A row that is too long is not kept back for it.
    let long = [&b"\xfd\x00\x00\x02"[..], &[b'x'; 0x20000]].concat();
    assert_eq!(out_params(OutParams::Before, &long, 1_000), wanted(&long, 2, 2));
}

#[test]
fn a_command_tells_the_warnings_of_the_statement_before() {
    let walker = ReplyWalker::new(Expect::ResetOrPing, FULL, FULL, 1).with_warnings(3);
    let mut told = Vec::new();
    let packet = ok(0, 2, b"");
    let packet = OkPacket {
        warnings: 3,
        ..OkPacket::parse(&packet, FULL).unwrap()
    };
    packet.write(&mut told, 0, FULL);
    assert_eq!(walk(walker, &packets(&[&ok(0, 2, b"")])).0, packets(&[&told]));
}

#[test]
fn fetched_rows_have_no_definitions() {
    for (status, cursor) in [(CURSOR, true), (LAST_ROW, false), (CURSOR | LAST_ROW, false)] {
        let end = ok(0xFE, status, b"");
        let (out, done) = translated(Expect::Fetch, OLD, &packets(&[b"\0\0\x01", &end]));
        assert_eq!(out, packets(&[b"\0\0\x01", &eof(1, status)]));
        assert_eq!((done.outcome, done.cursor), (Outcome::Rows, cursor));
    }
    let (_, done) = translated(Expect::Fetch, OLD, &packets(&[ERROR]));
    assert!(matches!(done.outcome, Outcome::Error { code: 1290, .. }));
}

#[test]
fn several_results_add_up() {
    let first = ok(0, MORE, b"\x03\x05\0\x03u:1");
    let rows_end = ok(0xFE, MORE, b"\x03\x05\0\x03u:2");
    let last = b"\0\x03\x09\x02\0\0\0";
    let bytes = packets(&[&first, b"\x01", DEFINITION, b"\x01x", &rows_end, last]);
    let (out, done) = translated(Expect::Simple, OLD, &bytes);
    let expected = packets(&[
        b"\0\0\0\x0a\0\x01\0",
        b"\x01",
        DEFINITION,
        &eof(0, 2),
        b"\x01x",
        &eof(1, MORE),
        last,
    ]);
    assert_eq!(out, expected);
    assert_eq!(done.state.gtids, [b"u:1", b"u:2"]);
    assert_eq!(
        (
            done.affected_rows,
            done.last_insert_id,
            done.status.0,
            done.warnings
        ),
        (3, 9, 2, 0)
    );
}

#[test]
fn an_error_ends_everything_and_says_whether_it_was_the_first() {
    let (out, done) = translated(Expect::Simple, OLD, &packets(&[ERROR]));
    let state = SqlState::GENERAL;
    assert_eq!(done.outcome, Outcome::Error { code: 1290, state });
    assert_eq!((done.delivered_bytes, done.final_bytes), (0, out.len()));
    assert!(!done.status_told);

    for (payloads, eof_in) in [
        (&[b"\x01", DEFINITION, ERROR][..], 9),
        (&[b"\x02", DEFINITION, ERROR], 0),
        (&[b"\x01", DEFINITION, b"\x01x", ERROR], 9),
    ] {
        let bytes = packets(payloads);
        let (out, done) = translated(Expect::Simple, OLD, &bytes);
        assert_eq!(out.len(), bytes.len() + eof_in);
        assert_eq!(done.delivered_bytes as usize, out.len() - ERROR.len() - 4);
    }
}

#[test]
fn a_prepared_statement_gets_the_clients_number_and_an_old_clients_eof_packets() {
    let bytes = packets(&[PREPARE_OK, DEFINITION, DEFINITION, DEFINITION]);
    let walker = ReplyWalker::new(Expect::Prepare, FULL, OLD, 1).with_statement_id(99);
    let (out, done) = walk(walker, &bytes);
    let told = b"\0\x63\0\0\0\x02\0\x01\0\0\0\0";
    let expected = packets(&[told, DEFINITION, &eof(0, 2), DEFINITION, DEFINITION, &eof(0, 2)]);
    assert_eq!(out, expected);
    let prepared = Prepared {
        id: 7,
        params: 1,
        columns: 2,
    };
    assert_eq!(done.unwrap().prepared, Some(prepared));

    let none = b"\0\x07\0\0\0\0\0\0\0\0\0\0";
    let (out, done) = translated(Expect::Prepare, OLD, &packets(&[none]));
    assert_eq!((out, done.final_bytes), (packets(&[none]), 16));
    let (out, done) = translated(Expect::Prepare, FULL, &bytes);
    assert_eq!((out, done.final_bytes), (bytes, 0));
    let (_, done) = translated(Expect::Prepare, FULL, &packets(&[ERROR]));
    assert!(done.prepared.is_none() && done.delivered_bytes == 0);
}

#[test]
fn small_answers_have_their_own_forms() {
    let end = ok(0xFE, 2, b"");
    let (out, _) = translated(Expect::FieldList, OLD, &packets(&[DEFINITION, DEFINITION, &end]));
    assert_eq!(out, packets(&[DEFINITION, DEFINITION, &eof(1, 2)]));
    let (out, _) = translated(Expect::ResetOrPing, OLD, &packets(&[&end]));
    assert_eq!(out, packets(&[&eof(1, 2)]));
    let text = packets(&[b"Uptime: 3  Threads: 1"]);
    let (out, done) = translated(Expect::Statistics, OLD, &text);
    assert_eq!((out, done.outcome), (text, Outcome::Ok));
    let (_, done) = translated(Expect::Statistics, OLD, &packets(&[ERROR]));
    assert!(matches!(done.outcome, Outcome::Error { .. }));
    let (out, done) = translated(Expect::Nothing, OLD, b"");
    assert_eq!((out, done.outcome), (Vec::new(), Outcome::Ok));
    for payload in [&b"\x01"[..], b"\xfbfile"] {
        let bytes = packets(&[payload]);
        let (_, result) = walk(ReplyWalker::new(Expect::ResetOrPing, FULL, FULL, 1), &bytes);
        assert!(matches!(result, Err(WireError::Malformed(_))));
    }
}

#[test]
fn a_server_of_the_old_kind_is_understood_too() {
    let bytes = packets(&[b"\x01", DEFINITION, &eof(0, 2), b"\x011", &eof(1, 2)]);
    let (out, _) = walk(ReplyWalker::new(Expect::Simple, OLD, FULL, 1), &bytes);
    assert_eq!(out, packets(&[b"\x01", DEFINITION, b"\x011", &ok(0xFE, 2, b"")]));
    let (out, _) = walk(ReplyWalker::new(Expect::Simple, OLD, OLD, 1), &bytes);
    assert_eq!(out, bytes);
    let bytes = packets(&[b"\x01", DEFINITION, &eof(1, CURSOR)]);
    let (out, done) = walk(ReplyWalker::new(Expect::Execute, OLD, FULL, 1), &bytes);
    assert_eq!(out, packets(&[b"\x01", DEFINITION, &ok(0xFE, CURSOR, b"")]));
    assert!(done.unwrap().cursor);
}

#[test]
fn the_client_does_not_see_what_the_proxy_tracks_for_itself() {
    let mut state = b"\x03\x05\0\x03u:9".to_vec();
    let mut pair = Vec::new();
    for text in [&b"last_gtid"[..], b"0-1-8", b"autocommit", b"ON"] {
        write::lenenc_bytes(&mut pair, text);
    }
    state.push(0);
    write::lenenc_bytes(&mut state, &pair);
    let bytes = packets(&[&ok(0, 2, &state)]);
    let hidden = |variables: &[&str]| {
        Arc::new(Hidden {
            gtids: true,
            variables: variables.iter().map(|name| name.as_bytes().to_vec()).collect(),
            ..Hidden::default()
        })
    };
    let walker = ReplyWalker::new(Expect::Simple, FULL, FULL, 1);

    let (out, done) = walk(walker.clone().with_hidden(hidden(&["LAST_GTID"])), &bytes);
    assert_eq!(out, packets(&[&ok(0, 2, b"\0\x0e\x0aautocommit\x02ON")]));
    let state = done.unwrap().state;
    assert_eq!(state.gtids, [&b"u:9"[..], b"0-1-8"]);
    assert_eq!(state.variables, [(b"autocommit".to_vec(), b"ON".to_vec())]);

    let (out, done) = walk(
        walker.clone().with_hidden(hidden(&["last_gtid", "autocommit"])),
        &bytes,
    );
    assert_eq!(
        out,
        packets(&[b"\0\0\0\x02\0\x01\0"]),
        "and the flag is gone with the state"
    );
    assert!(done.unwrap().status.has(StatusFlags::SESSION_STATE_CHANGED));

    let (out, _) = walk(walker, &bytes);
    assert_eq!(out, bytes, "nothing is hidden unless it is asked for");
}

#[test]
fn mariadb_gtids_count_by_domain_and_variables_by_name() {
    let entry = |name: &str, value: &str| {
        let (mut pair, mut entry) = (Vec::new(), vec![0]);
        write::lenenc_bytes(&mut pair, name.as_bytes());
        write::lenenc_bytes(&mut pair, value.as_bytes());
        write::lenenc_bytes(&mut entry, &pair);
        entry
    };
    let said = [
        ("last_gtid", "0-1-8"),
        ("last_gtid", "01-1-3"),
        ("last_gtid", "0-2-9"),
        ("sql_mode", "ANSI"),
        ("last_gtid", ""),
        ("SQL_MODE", ""),
    ];
    let payloads = said.map(|(name, value)| ok(0, MORE, &entry(name, value)));
    let mut list = payloads.iter().map(Vec::as_slice).collect::<Vec<_>>();
    list.push(b"\0\0\0\x02\0\0\0");
    let (_, done) = translated(Expect::Simple, OLD, &packets(&list));
    assert_eq!(done.state.gtids, [&b"0-2-9"[..], b"01-1-3"]);
    assert_eq!(done.state.variables, [(b"sql_mode".to_vec(), Vec::new())]);
    assert!(!done.state.incomplete && !done.state.is_empty());
}

#[test]
fn a_local_file_is_asked_for_and_the_answer_goes_on_behind_it() {
    let mut walker = ReplyWalker::new(Expect::Simple, FULL, OLD, 2);
    let mut out = Vec::new();
    let fed = walker.feed(&packets(&[b"\xfb/tmp/x"]), &mut out).unwrap();
    assert_eq!((fed.step, fed.consumed), (Step::LocalInfile, 11));
    assert_eq!(out, packets_from(2, &[b"\xfb/tmp/x"]));
    assert_eq!((walker.upload_offset(), walker.next_sequence()), (255, 3));
    walker.uploaded(3);
    out.clear();
    let fed = walker
        .feed(&packets_from(5, &[b"\0\x02\0\x02\0\0\0"]), &mut out)
        .unwrap();
    assert_eq!(out, packets_from(6, &[b"\0\x02\0\x02\0\0\0"]));
    assert!(matches!(fed.step, Step::Done(Done { affected_rows: 2, .. })));
}

#[test]
fn a_client_that_offered_no_files_is_not_asked_for_one() {
    let client = OLD.without(Capabilities::LOCAL_FILES);
    let walker = ReplyWalker::new(Expect::Simple, FULL, client, 1);
    let (out, result) = walk(walker, &packets(&[b"\xfb/etc/passwd"]));
    assert!(out.is_empty() && result.is_err());
}

#[test]
fn progress_reports_reach_only_those_who_asked() {
    let report = b"\xff\xff\xff\x01\x01\x02\0\0\0\x04sort";
    let bytes = packets(&[report, b"\x01", DEFINITION, report, b"\x011", &ok(0xFE, 2, b"")]);
    let (out, _) = translated(Expect::Simple, FULL, &bytes);
    assert_eq!(out, packets(&[b"\x01", DEFINITION, b"\x011", &ok(0xFE, 2, b"")]));
    let (out, _) = translated(Expect::Simple, FULL | Capabilities::MARIADB_PROGRESS, &bytes);
    assert_eq!(out, bytes);
}

#[test]
fn sequence_numbers_wrap_on_both_sides() {
    let row: &[u8] = b"\x01r";
    let mut list: Vec<&[u8]> = vec![b"\x01", DEFINITION];
    list.extend(std::iter::repeat_n(row, 1000));
    let end = ok(0xFE, 2, b"");
    list.push(&end);
    let (out, _) = translated(Expect::Simple, OLD, &packets(&list));
    let (old_end, old_eof) = (eof(1, 2), eof(0, 2));
    list.pop();
    list.push(&old_end);
    list.insert(2, &old_eof);
    assert_eq!(out, packets(&list));
}

#[test]
fn a_row_of_more_than_16_mib_goes_through_in_frames_and_pieces() {
    let mut row = vec![0xFE];
    row.extend_from_slice(&(40_000_000u64).to_le_bytes());
    row.resize(40_000_009, b'x');
    let exact = {
        let mut row = vec![0xFD, 0xFB, 0xFF, 0xFF];
        row.resize(crate::MAX_FRAME_PAYLOAD, b'y');
        row
    };
    let end = ok(0xFE, 2, b"");
    let bytes = packets(&[b"\x01", DEFINITION, &row, &exact, b"\x01z", &end]);
    let expected = packets(&[
        b"\x01",
        DEFINITION,
        &eof(0, 2),
        &row,
        &exact,
        b"\x01z",
        &eof(1, 2),
    ]);
    let (out, done) = translated(Expect::Simple, OLD, &bytes);
    assert!(out == expected && done.outcome == Outcome::Rows);

    let mut walker = ReplyWalker::new(Expect::Simple, FULL, OLD, 1);
    let (mut out, mut pending) = (Vec::new(), Vec::new());
    let mut largest = 0;
    for piece in bytes.chunks(65_521) {
        pending.extend_from_slice(piece);
        let fed = walker.feed(&pending, &mut out).unwrap();
        pending.drain(..fed.consumed);
        largest = largest.max(pending.len());
    }
    assert!(out == expected && pending.is_empty());
    assert!(largest < 16, "{largest} bytes were left lying");
}
