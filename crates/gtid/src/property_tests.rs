//! Positions against a plain model: sets of numbers.

use std::collections::BTreeSet;

use pontoon_fleet::Epoch;
use proptest::prelude::*;

use crate::{Dialect, Floor, MAX_TEXT, Position, PositionError, SessionFloor};

const UUIDS: [&str; 2] = [
    "3e11fa47-71ca-11e1-9e33-c80aa9429562",
    "00000000-0000-0000-0000-00000000000a",
];

type Model = BTreeSet<(usize, u64)>;

/// Transactions of two sources, as a text with one interval each, and as a set.
fn model() -> impl Strategy<Value = Model> {
    prop::collection::btree_set((0..UUIDS.len(), 1u64..40), 0..30)
}

fn mysql(model: &Model) -> Position {
    let parts: Vec<String> = model
        .iter()
        .map(|(source, number)| format!("{}:{number}", UUIDS[*source]))
        .collect();
    Position::parse(Dialect::MySql, &parts.join(", ")).unwrap()
}

fn mariadb(parts: &[(u32, u32, u64)]) -> Position {
    let parts: Vec<String> = parts.iter().map(|(d, s, n)| format!("{d}-{s}-{n}")).collect();
    Position::parse(Dialect::MariaDb, &parts.join(",")).unwrap()
}

proptest! {
    #[test]
    fn what_one_has_and_the_other_lacks_is_what_the_model_says(here in model(), other in model()) {
        let set = |model: &Model| match mysql(model) {
            Position::MySql(set) => set,
            Position::MariaDb(_) => unreachable!(),
        };
        let left: Model = here.difference(&other).copied().collect();
        let without = set(&here).without(&set(&other));
        prop_assert_eq!(without.transactions(), left.len() as u64);
        prop_assert_eq!(without, set(&left));
    }

    #[test]
    fn a_set_is_what_the_model_is(here in model(), floor in model()) {
        let (ours, theirs) = (mysql(&here), mysql(&floor));
        prop_assert_eq!(ours.reaches(&theirs), floor.is_subset(&here));
        let mut both = ours.clone();
        both.merge(&theirs);
        prop_assert_eq!(&both, &mysql(&here.union(&floor).copied().collect()));
        prop_assert!(both.reaches(&ours) && both.reaches(&theirs));
        prop_assert_eq!(ours.is_empty(), here.is_empty());
    }

    #[test]
    fn a_position_comes_back_from_its_text(here in model(), parts in prop::collection::vec((0u32..4, 1u32..4, 0u64..100), 0..6)) {
        for position in [mysql(&here), mariadb(&parts)] {
            prop_assert_eq!(&Position::parse(position.dialect(), &position.to_string()).unwrap(), &position);
            let floor = Floor { epoch: Epoch(7), position };
            prop_assert_eq!(Floor::parse(floor.position.dialect(), &floor.to_string()).unwrap(), floor);
        }
    }

    #[test]
    fn a_widened_floor_asks_for_no_less(here in model(), most in 1usize..4) {
        let floor = mysql(&here);
        let mut wide = floor.clone();
        wide.widen(most);
        prop_assert!(wide.reaches(&floor));
        for source in wide.to_string().split(',').filter(|part| !part.is_empty()) {
            prop_assert!(source.split(':').count() <= 1 + most, "{}", source);
        }
        // Nothing above the newest, nothing below the oldest: who waits for it waits for what exists.
        let all = |(source, number): &(usize, u64)| {
            let of: Vec<u64> = here.iter().filter(|(s, _)| s == source).map(|(_, n)| *n).collect();
            of.iter().min() <= Some(number) && Some(number) <= of.iter().max()
        };
        let everything: Model = (0..2).flat_map(|s| (1..40).map(move |n| (s, n))).filter(all).collect();
        prop_assert!(mysql(&everything).reaches(&wide));
    }

    #[test]
    fn mariadb_counts_within_domains(
        here in prop::collection::vec((0u32..3, 1u32..4, 0u64..20), 0..5),
        floor in prop::collection::vec((0u32..3, 1u32..4, 0u64..20), 0..5),
    ) {
        let best = |parts: &[(u32, u32, u64)], domain| parts.iter().filter(|p| p.0 == domain).map(|p| p.2).max();
        let expected = (0..3).all(|domain| best(&floor, domain).is_none_or(|n| best(&here, domain) >= Some(n)));
        let (ours, theirs) = (mariadb(&here), mariadb(&floor));
        prop_assert_eq!(ours.reaches(&theirs), expected);
        let mut both = ours.clone();
        both.merge(&theirs);
        prop_assert!(both.reaches(&ours) && both.reaches(&theirs));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[-0-9a-f:,@ xX\\PC]{0,60}") {
        for dialect in [Dialect::MariaDb, Dialect::MySql] {
            if let Ok(position) = Position::parse(dialect, &text) {
                prop_assert_eq!(Position::parse(dialect, &position.to_string()).unwrap(), position);
            }
            let _ = Floor::parse(dialect, &text);
        }
    }
}

#[test]
fn what_databases_write() {
    let parse = |text: &str| Position::parse(Dialect::MySql, text);
    let uuid = UUIDS[0];
    let set = parse(&format!("{uuid}:1-5:7,\n{}:1", UUIDS[1])).unwrap();
    assert!(set.reaches(&parse(&format!("{}:2-5", uuid.to_uppercase())).unwrap()));
    assert!(!set.reaches(&parse(&format!("{uuid}:6")).unwrap()));
    assert!(!set.reaches(&parse(&format!("{uuid}:5-7")).unwrap()));
    // Tags number on their own (MySQL 8.3 and later).
    let tagged = parse(&format!("{uuid}:1-3:Nightly:1-9:11:other:4")).unwrap();
    assert!(tagged.reaches(&parse(&format!("{uuid}:nightly:11")).unwrap()));
    assert!(!tagged.reaches(&parse(&format!("{uuid}:4")).unwrap()));
    assert!(!set.reaches(&parse(&format!("{uuid}:nightly:1")).unwrap()));
    assert_eq!(tagged, parse(&tagged.to_string()).unwrap());
    let domains = Position::parse(Dialect::MariaDb, " 0-1-8, 4294967295-2-18446744073709551615 ").unwrap();
    assert_eq!(domains.to_string(), "0-1-8,4294967295-2-18446744073709551615");
}

#[test]
fn what_is_no_position_is_refused() {
    for text in [
        "0-1",
        "0-1-2-3",
        "a-1-2",
        "+0-1-2",
        "-1-1-2",
        "0-1-",
        "4294967296-1-1",
        "0-1-18446744073709551616",
        "0-1-8,",
        ",",
        "0--1",
        "0-1-2;0-1-3",
    ] {
        assert!(Position::parse(Dialect::MariaDb, text).is_err(), "{text}");
    }
    let uuid = UUIDS[0];
    for rest in [
        "",
        ":",
        ":0",
        ":5-4",
        ":1-",
        ":-1",
        ":1:",
        ":9223372036854775807",
        ":tag",
        ":1:tag",
        ":1-2-3",
        ":ta-g:1",
        ":+1",
        ":1 2",
    ] {
        let text = format!("{uuid}{rest}");
        assert!(Position::parse(Dialect::MySql, &text).is_err(), "{text}");
    }
    let long_tag = format!("{uuid}:{}:1", "t".repeat(33));
    for text in [
        long_tag.as_str(),
        "x:1",
        &uuid.replace('-', ""),
        &uuid.replacen('-', "_", 1),
        "é1e11fa4-71ca-11e1-9e33-c80aa9429562:1",
    ] {
        assert!(Position::parse(Dialect::MySql, text).is_err(), "{text}");
    }
    let many: Vec<String> = (0..20_000).map(|n| (n * 2 + 1).to_string()).collect();
    assert!(Position::parse(Dialect::MySql, &format!("{uuid}:{}", many.join(":"))).is_err());
    let long = "0-1-1,".repeat(MAX_TEXT);
    assert_eq!(
        Position::parse(Dialect::MariaDb, &long),
        Err(PositionError::TooLong(long.len()))
    );
    for text in ["", "@", "1@x", "@0-1-1", "-1@0-1-1", "1"] {
        assert!(Floor::parse(Dialect::MariaDb, text).is_err(), "{text}");
    }
}

#[test]
fn positions_of_two_databases_do_not_reach_each_other() {
    let (maria, mysql) = (mariadb(&[(0, 1, 9)]), mysql(&[(0, 1)].into()));
    assert!(!maria.reaches(&mysql) && !mysql.reaches(&maria));
    assert!(maria.reaches(&Position::empty(Dialect::MySql)));
    let mut replaced = maria.clone();
    replaced.merge(&mysql);
    assert_eq!(replaced, mysql);
}

#[test]
fn a_floor_of_a_later_epoch_stands_alone() {
    let floor = |epoch, number| Floor {
        epoch: Epoch(epoch),
        position: mariadb(&[(0, 1, number)]),
    };
    let mut session = SessionFloor::default();
    session.wrote(&floor(1, 90));
    session.wrote(&floor(2, 7));
    session.wrote(&floor(1, 91));
    assert_eq!(session, SessionFloor::Known(floor(2, 7)));
    let mut unknown = SessionFloor::Unknown;
    unknown.wrote(&floor(1, 1));
    assert_eq!(unknown, SessionFloor::Unknown);
}

#[test]
fn a_huge_set_is_read_in_time_that_does_not_explode() {
    let uuid = UUIDS[0];
    let backwards: Vec<String> = (0..16_000u64).rev().map(|n| (n * 2 + 1).to_string()).collect();
    let began = std::time::Instant::now();
    let set = Position::parse(Dialect::MySql, &format!("{uuid}:{}", backwards.join(":"))).unwrap();
    let mut both = set.clone();
    both.merge(&set);
    assert_eq!(both, set);
    both.widen(3);
    assert!(
        began.elapsed() < std::time::Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}
