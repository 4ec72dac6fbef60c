//! Single decisions, as people would describe them.

use pontoon_fleet::ServerName;

use crate::{Clock, Content, Digest, Look, Observed, Offered, Record};

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn bytes(number: u8) -> Content {
    Content {
        sha256: Digest([number; 32]),
        size: u64::from(number),
        mode: 0o644,
        mtime_ms: 500,
    }
}

fn observe(
    record: &mut Record,
    clock: &mut Clock,
    me: &str,
    found: Option<u8>,
    now_ms: u64,
    first: bool,
) -> Observed {
    let mut look = Look {
        me: &name(me),
        clock,
        now_ms,
        changed_ms: now_ms,
        first,
    };
    let content = found.map(|number| Content {
        mtime_ms: if first { 500 } else { now_ms },
        ..bytes(number)
    });
    record.observed(content.as_ref(), &mut look)
}

#[test]
fn a_server_that_knows_nothing_deletes_nothing() {
    let (mut record, mut clock) = (Record::default(), Clock::default());
    assert_eq!(
        observe(&mut record, &mut clock, "b", None, 9, false),
        Observed::Same
    );
    let mut look = Look {
        me: &name("b"),
        clock: &mut clock,
        now_ms: 9,
        changed_ms: 9,
        first: false,
    };
    assert!(!record.deleted(&mut look));
    assert_eq!(record, Record::default());
}

#[test]
fn equal_files_on_two_servers_meet_without_a_conflict_or_a_transfer() {
    let (mut a, mut b) = (Record::default(), Record::default());
    let (mut at_a, mut at_b) = (Clock::default(), Clock::default());
    observe(&mut a, &mut at_a, "a", Some(1), 1000, true);
    observe(&mut b, &mut at_b, "b", Some(1), 2000, true);
    let (of_a, of_b) = (a.have.clone().unwrap(), b.have.clone().unwrap());
    assert_eq!(of_a.version.stamp.ms, 500, "as old as the file");
    assert_eq!(a.offered(of_b.clone(), &name("b")), Offered::Taken);
    assert_eq!(b.offered(of_a, &name("a")), Offered::Old);
    assert_eq!((a.have, b.have), (Some(of_b.clone()), Some(of_b)));
}

#[test]
fn what_replaces_knowingly_is_no_conflict_and_what_does_not_is() {
    let (mut a, mut b) = (Record::default(), Record::default());
    let (mut at_a, mut at_b) = (Clock::default(), Clock::default());
    observe(&mut a, &mut at_a, "a", Some(1), 1000, false);
    let first = a.have.clone().unwrap();
    assert_eq!(b.offered(first.clone(), &name("a")), Offered::Wanted);
    assert!(b.placed(&first));
    at_b.saw(first.version.stamp);
    // B's clock is behind: its change is later all the same.
    observe(&mut b, &mut at_b, "b", Some(2), 10, false);
    let second = b.have.clone().unwrap();
    assert_eq!(a.offered(second.clone(), &name("b")), Offered::Wanted);
    assert!(!a.is_conflict(&second));
    // A has changed it meanwhile, without having seen B's: the later one wins, B's is the loser.
    observe(&mut a, &mut at_a, "a", Some(3), 5000, false);
    let third = a.have.clone().unwrap();
    assert!(a.wanted.is_none() || third.version < second.version);
    assert_eq!(b.offered(third.clone(), &name("a")), Offered::Wanted);
    assert!(b.is_conflict(&third));
}

#[test]
fn a_deletion_gives_way_to_what_is_on_its_way() {
    let (mut a, mut clock) = (Record::default(), Clock::default());
    observe(&mut a, &mut clock, "a", Some(1), 1000, false);
    assert_eq!(
        observe(&mut a, &mut clock, "a", None, 1001, false),
        Observed::Vanished
    );
    let (mut b, mut at_b) = (Record::default(), Clock::default());
    observe(&mut b, &mut at_b, "b", Some(2), 2000, false);
    a.offered(b.have.clone().unwrap(), &name("b"));
    let mut look = Look {
        me: &name("a"),
        clock: &mut clock,
        now_ms: 9000,
        changed_ms: 9000,
        first: false,
    };
    assert!(!a.deleted(&mut look));
    assert!(a.placed(&b.have.clone().unwrap()));
    let mut look = Look {
        me: &name("a"),
        clock: &mut clock,
        now_ms: 9000,
        changed_ms: 9000,
        first: false,
    };
    assert!(a.deleted(&mut look));
    assert_eq!(b.offered(a.have.unwrap(), &name("a")), Offered::Wanted);
}

#[test]
fn what_vanished_comes_back_when_people_say_so() {
    let (mut a, mut clock) = (Record::default(), Clock::default());
    observe(&mut a, &mut clock, "a", Some(1), 1000, false);
    let had = a.have.clone().unwrap();
    assert!(a.bring_back(&name("b")));
    assert_eq!(
        (a.have.clone(), a.wanted.clone().map(|wanted| wanted.entry)),
        (None, Some(had.clone()))
    );
    assert!(!a.bring_back(&name("b")));
    assert_eq!(
        observe(&mut a, &mut clock, "a", None, 1002, false),
        Observed::Same
    );
    assert!(a.placed(&had));
    assert_eq!(a.have, Some(had));
}

#[test]
fn an_old_file_that_is_restored_wins_over_what_it_replaces() {
    let (mut a, mut b) = (Record::default(), Record::default());
    let (mut at_a, mut at_b) = (Clock::default(), Clock::default());
    // B has written it; A, where nothing of that was heard, restores a copy from years ago a moment later.
    observe(&mut b, &mut at_b, "b", Some(2), 7000, false);
    let mut look = Look {
        me: &name("a"),
        clock: &mut at_a,
        now_ms: 7100,
        changed_ms: 7050,
        first: false,
    };
    assert_eq!(a.observed(Some(&bytes(1)), &mut look), Observed::Written);
    let restored = a.have.clone().unwrap();
    assert_eq!(
        restored.content().unwrap().mtime_ms,
        500,
        "the file's own time travels"
    );
    assert_eq!(restored.version.stamp.ms, 7050);
    assert_eq!(b.offered(restored.clone(), &name("a")), Offered::Wanted);
    assert!(b.is_conflict(&restored), "and B's is kept");
}

#[test]
fn a_tombstone_is_spent_when_it_is_old_and_settled() {
    let (mut a, mut clock) = (Record::default(), Clock::default());
    observe(&mut a, &mut clock, "a", Some(1), 1000, false);
    a.in_bucket = a.have.as_ref().map(|have| have.version.clone());
    assert!(!a.is_spent(u64::MAX), "a file");
    let mut look = Look {
        me: &name("a"),
        clock: &mut clock,
        now_ms: 2000,
        changed_ms: 2000,
        first: false,
    };
    assert!(a.deleted(&mut look));
    assert!(!a.is_spent(u64::MAX), "the bucket does not know");
    a.in_bucket = a.have.as_ref().map(|have| have.version.clone());
    assert!(!a.is_spent(2000));
    assert!(a.is_spent(2001));
    let mut newer = a.have.clone().unwrap();
    newer.version.server = name("b");
    newer.what = crate::What::File(bytes(2));
    assert_eq!(a.offered(newer, &name("b")), Offered::Wanted);
    assert!(!a.is_spent(2001), "something is on its way");
}
