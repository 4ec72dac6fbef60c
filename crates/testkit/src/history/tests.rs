use super::*;

use End::{Aborted, Committed, Unknown};

/// Transactions that all ran at once.
fn t(end: End, ops: &[Op]) -> Transaction {
    at(end, 0..1_000_000, ops)
}

fn at(end: End, seconds: std::ops::Range<u64>, ops: &[Op]) -> Transaction {
    Transaction {
        ops: ops.to_vec(),
        end,
        began: Duration::from_secs(seconds.start),
        ended: Duration::from_secs(seconds.end),
    }
}

fn a(key: u32, value: u64) -> Op {
    Op::Append(key, value)
}

fn r(key: u32, list: &[u64]) -> Op {
    Op::Read(key, list.to_vec())
}

fn w(key: u32, value: u64) -> Op {
    Op::Write(key, value)
}

fn g(key: u32, value: impl Into<Option<u64>>) -> Op {
    Op::Get(key, value.into())
}

fn lists(lists: &[(u32, &[u64])]) -> Last {
    Last {
        lists: lists.iter().map(|(key, list)| (*key, list.to_vec())).collect(),
        ..Last::default()
    }
}

fn registers(registers: &[(u32, u64)]) -> Last {
    Last {
        registers: registers.iter().copied().collect(),
        ..Last::default()
    }
}

fn strict(history: &[Transaction], last: &Last) -> Vec<Anomaly> {
    check(history, last, Duration::ZERO)
}

fn class(found: &[Anomaly]) -> Option<&'static str> {
    match found {
        [Anomaly::Cycle { class, .. }] => Some(class),
        _ => None,
    }
}

#[test]
fn what_can_have_happened_is_no_anomaly() {
    let history = [
        t(Committed, &[a(1, 1), r(1, &[1])]),
        t(Unknown, &[a(1, 2), a(2, 3)]),
        t(Committed, &[r(1, &[1, 2]), a(1, 4), r(1, &[1, 2, 4])]),
        t(Unknown, &[a(2, 9)]),
        t(Aborted, &[a(1, 5), r(1, &[1, 5])]),
    ];
    let found = strict(&history, &lists(&[(1, &[1, 2, 4]), (2, &[3])]));
    assert_eq!(found, [], "an unknown one may have happened or not");

    let history = [
        t(Committed, &[g(1, None), w(1, 10), g(1, 10), w(1, 11)]),
        t(Unknown, &[g(1, 11), w(1, 12)]),
        t(Committed, &[g(1, 12), w(2, 20)]),
        t(Committed, &[w(1, 13)]),
        t(Unknown, &[w(2, 21)]),
        t(Aborted, &[w(1, 14), g(1, 14)]),
    ];
    assert_eq!(strict(&history, &registers(&[(1, 13), (2, 21)])), []);
    assert_eq!(strict(&history, &registers(&[(1, 13), (2, 20)])), []);
}

/// A client of a primary that is being replaced reads what is old by then, and its commit is never answered.
#[test]
fn what_one_read_that_was_not_carried_out_says_nothing() {
    let write = t(Committed, &[a(1, 1), w(2, 1)]);
    let history = [write, t(Unknown, &[r(1, &[]), g(2, 1), a(3, 7)])];
    assert_eq!(strict(&history, &lists(&[(1, &[1])])), []);
    // Once its write was seen, its reads count.
    let found = strict(&history, &lists(&[(1, &[1]), (3, &[7])]));
    assert_eq!(class(&found), Some("G2-item"), "{found:?}");
}

#[test]
fn a_lost_write_is_found() {
    let history = [t(Committed, &[a(1, 1)]), t(Committed, &[a(1, 2)])];
    let lost = |key, value| Anomaly::Lost { key, value };
    assert_eq!(strict(&history, &lists(&[(1, &[2])])), [lost(1, 1)]);
    assert_eq!(strict(&history, &lists(&[])), [lost(1, 1), lost(1, 2)]);
    // Of a register: what was read last is older than a write that had been acknowledged before the end.
    let history = [
        at(Committed, 0..1, &[w(1, 1)]),
        at(Committed, 2..3, &[w(1, 2)]),
        at(Committed, 2..3, &[w(2, 7)]),
    ];
    assert_eq!(strict(&history, &registers(&[(1, 2), (2, 7)])), []);
    let found = strict(&history, &registers(&[(1, 1), (2, 7)]));
    assert_eq!(class(&found), Some("real-time"), "{found:?}");
}

#[test]
fn what_was_rolled_back_or_never_written_is_not_read() {
    let never = |value| Anomaly::NeverCommitted { key: 1, value };
    let history = [t(Aborted, &[a(1, 1)])];
    assert_eq!(strict(&history, &lists(&[(1, &[1, 7])])), [never(1), never(7)]);
    // By somebody, and not in the end (G1a).
    let history = [t(Aborted, &[a(1, 1)]), t(Committed, &[r(1, &[1])])];
    assert_eq!(strict(&history, &lists(&[])), [never(1)]);
    let history = [t(Aborted, &[w(1, 1)]), t(Committed, &[g(1, 1)])];
    assert_eq!(strict(&history, &registers(&[])), [never(1)]);
}

#[test]
fn what_its_writer_did_not_leave_is_not_read() {
    let midst = Anomaly::Intermediate { key: 1, value: 1 };
    let history = [t(Committed, &[a(1, 1), a(1, 2)]), t(Committed, &[r(1, &[1])])];
    assert_eq!(
        strict(&history, &lists(&[(1, &[1, 2])])),
        std::slice::from_ref(&midst)
    );
    let history = [t(Committed, &[w(1, 1), w(1, 2)]), t(Committed, &[g(1, 1)])];
    assert_eq!(strict(&history, &registers(&[(1, 2)])), [midst]);
}

#[test]
fn one_s_own_write_is_read() {
    let own = Anomaly::Internal {
        transaction: 0,
        key: 1,
    };
    let history = [t(Committed, &[w(1, 1), g(1, None)])];
    assert_eq!(
        strict(&history, &registers(&[(1, 1)])),
        std::slice::from_ref(&own)
    );
    let history = [t(Committed, &[a(1, 1), r(1, &[])])];
    assert_eq!(strict(&history, &lists(&[(1, &[1])])), [own]);
}

#[test]
fn a_fork_is_found() {
    // Two primaries: each client saw its own end.
    let history = [
        t(Committed, &[a(1, 1)]),
        t(Unknown, &[a(1, 2)]),
        t(Committed, &[r(1, &[1, 2])]),
        t(Committed, &[a(1, 3)]),
    ];
    let found = strict(&history, &lists(&[(1, &[1, 3])]));
    let fork = Anomaly::Fork {
        key: 1,
        reads: [vec![1, 2], vec![1, 3]],
    };
    assert_eq!(found, [fork]);
    let twice = strict(&history[..1], &lists(&[(1, &[1, 1])]));
    assert!(matches!(&twice[..], [Anomaly::Fork { .. }, ..]), "{twice:?}");
}

#[test]
fn a_lost_update_is_found() {
    let update = Anomaly::LostUpdate {
        key: 1,
        writers: [0, 1],
    };
    let history = [
        t(Committed, &[r(1, &[]), a(1, 1)]),
        t(Committed, &[r(1, &[]), a(1, 2)]),
    ];
    let found = strict(&history, &lists(&[(1, &[1, 2])]));
    assert_eq!(found, std::slice::from_ref(&update));
    let history = [
        t(Committed, &[g(1, None), w(1, 1)]),
        t(Committed, &[g(1, None), w(1, 2)]),
    ];
    assert_eq!(strict(&history, &registers(&[(1, 2)])), [update]);
}

#[test]
fn circles_of_lists_are_found_and_told_apart() {
    let writes = [
        t(Committed, &[a(1, 1), a(2, 1)]),
        t(Committed, &[a(1, 2), a(2, 2)]),
    ];
    let found = strict(&writes, &lists(&[(1, &[1, 2]), (2, &[2, 1])]));
    assert_eq!(class(&found), Some("G0"), "{found:?}");

    let reads = [
        t(Committed, &[a(1, 1), r(2, &[1])]),
        t(Committed, &[a(2, 1), r(1, &[1])]),
    ];
    let found = strict(&reads, &lists(&[(1, &[1]), (2, &[1])]));
    assert_eq!(class(&found), Some("G1c"), "{found:?}");

    // Write skew: each read what the other was about to change.
    let skew = [
        t(Committed, &[r(1, &[]), a(2, 1)]),
        t(Committed, &[r(2, &[]), a(1, 1)]),
    ];
    let found = strict(&skew, &lists(&[(1, &[1]), (2, &[1])]));
    assert_eq!(class(&found), Some("G2-item"), "{found:?}");

    // A stale read after one's own fresher one, through a third.
    let stale = [
        t(Committed, &[a(1, 1)]),
        t(Committed, &[a(2, 1), r(1, &[1])]),
        t(Committed, &[r(2, &[1]), r(1, &[])]),
    ];
    let found = strict(&stale, &lists(&[(1, &[1]), (2, &[1])]));
    assert_eq!(class(&found), Some("G2-item"), "{found:?}");
}

#[test]
fn circles_of_registers_are_found_and_told_apart() {
    // Each overwrote what the other left.
    let writes = [
        t(Committed, &[w(1, 1), g(2, 2), w(2, 1)]),
        t(Committed, &[w(2, 2), g(1, 1), w(1, 2)]),
    ];
    let found = strict(&writes, &registers(&[(1, 2), (2, 1)]));
    assert_eq!(class(&found), Some("G0"), "{found:?}");

    let reads = [
        t(Committed, &[w(1, 1), g(2, 1)]),
        t(Committed, &[w(2, 1), g(1, 1)]),
    ];
    let found = strict(&reads, &registers(&[(1, 1), (2, 1)]));
    assert_eq!(class(&found), Some("G1c"), "{found:?}");

    let skew = [
        t(Committed, &[g(1, None), w(2, 1)]),
        t(Committed, &[g(2, None), w(1, 1)]),
    ];
    let found = strict(&skew, &registers(&[(1, 1), (2, 1)]));
    assert_eq!(class(&found), Some("G2-item"), "{found:?}");
}

/// A primary that was replaced, and answers still.
#[test]
fn a_stale_read_is_found_by_the_clock() {
    let list = [
        at(Committed, 0..1, &[a(1, 1)]),
        at(Committed, 2..3, &[a(1, 2)]),
        at(Committed, 8..9, &[r(1, &[1])]),
    ];
    let last = lists(&[(1, &[1, 2])]);
    assert_eq!(class(&strict(&list, &last)), Some("real-time"));
    // As old as is allowed, and older.
    assert_eq!(check(&list, &last, Duration::from_secs(6)), []);
    assert_eq!(
        class(&check(&list, &last, Duration::from_secs(4))),
        Some("real-time")
    );

    let register = [
        at(Committed, 0..1, &[w(1, 1)]),
        at(Committed, 2..3, &[w(1, 2)]),
        at(Committed, 8..9, &[g(1, 1)]),
    ];
    let last = registers(&[(1, 2)]);
    assert_eq!(class(&strict(&register, &last)), Some("real-time"));
    assert_eq!(check(&register, &last, Duration::from_secs(6)), []);
    // Who writes is never late: nobody acknowledges for a primary that was replaced.
    let writes = [
        at(Committed, 0..1, &[w(1, 1)]),
        at(Committed, 2..3, &[w(1, 2)]),
        at(Committed, 4..5, &[g(1, 1), w(2, 1)]),
    ];
    let found = check(&writes, &registers(&[(1, 2), (2, 1)]), Duration::from_secs(60));
    assert_eq!(class(&found), Some("real-time"), "{found:?}");
}

/// Nothing else is wrong with it: it is serializable in an order that time forbids.
#[test]
fn the_order_of_time_is_kept() {
    let history = [at(Committed, 0..1, &[a(1, 1)]), at(Committed, 2..3, &[a(1, 2)])];
    assert_eq!(strict(&history, &lists(&[(1, &[1, 2])])), []);
    let found = strict(&history, &lists(&[(1, &[2, 1])]));
    assert_eq!(class(&found), Some("real-time"), "{found:?}");
    // One whose answer was lost may have been carried out at any time after.
    let late = [at(Unknown, 0..1, &[a(1, 1)]), at(Committed, 2..3, &[a(1, 2)])];
    assert_eq!(strict(&late, &lists(&[(1, &[2, 1])])), []);
}

/// A thousand serial transactions are no anomaly; two of their values exchanged in what was read last are.
#[test]
fn a_long_serial_history_is_clean_and_one_exchange_in_it_is_seen() {
    let mut last = Last::default();
    let mut history = Vec::new();
    for number in 0..1_000_u64 {
        let (one, other) = (1, (number % 5 + 10) as u32);
        let read = last.lists.get(&one).cloned().unwrap_or_default();
        let held = last.registers.insert(other, number);
        last.lists.entry(other).or_default().push(number);
        last.lists.entry(one).or_default().push(number + 10_000);
        history.push(at(
            Committed,
            number * 10..number * 10 + 5,
            &[
                r(one, &read),
                a(other, number),
                g(other, held),
                w(other, number),
                a(one, number + 10_000),
            ],
        ));
    }
    assert_eq!(strict(&history, &last), []);
    last.lists.get_mut(&12).unwrap().swap(40, 41);
    assert_eq!(class(&strict(&history, &last)), Some("G0"));
}
