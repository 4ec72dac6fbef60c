//! An operator's word to a replica that is not in sync: what it would lose must be named, and what is not known counts as
//! more than any number.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_decide::failover::{
    Command, Database, Durable, Effect, Event, Incarnation, Mode, Node, Nonce, Notice, Outcome, Policy,
    Record, Setup, Timing, Why,
};
use pontoon_fleet::{Epoch, ServerName};

const SECOND: Duration = Duration::from_secs(1);

fn name(text: &str) -> ServerName {
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a name"))
}

fn policy() -> Policy {
    Policy {
        mode: Mode::Safe,
        acks: 1,
        max_lag: SECOND,
    }
}

fn record(nonce: u128) -> Record {
    Record {
        fleet: "notes".parse().unwrap_or_else(|_| unreachable!()),
        epoch: Epoch(3),
        leader: name("a"),
        incarnation: Incarnation(1),
        electing: false,
        released: false,
        sync: BTreeMap::new(),
        acks: 0,
        policy: policy(),
        candidate: None,
        fragile: false,
        loss: None,
        seq: nonce as u64,
        nonce: Nonce(nonce),
    }
}

/// A replica that has seen the leader renew its lease at each of these seconds and a beat, with so many transactions
/// missing, at each of those.
fn replica(renewals: &[u64], beats: &[(u64, u64)]) -> (Node, Duration) {
    let setup = Setup::new(
        "notes".parse().unwrap_or_else(|_| unreachable!()),
        name("b"),
        Timing::etcd(),
        policy(),
    );
    let durable = Durable {
        incarnation: Incarnation(2),
        follows: Some(Epoch(3)),
        through: false,
        drained: None,
    };
    let receiving = Database::Running {
        open: false,
        receiving: true,
    };
    let mut node = Node::new(setup, durable, receiving);
    let (mut nonce, mut last) = (1, 0);
    for second in 0..=20_u32 {
        let now = SECOND * second;
        nonce += u128::from(renewals.contains(&u64::from(second)));
        node.step(Event::Tick, now, Nonce(1_000 + u128::from(second)));
        let read = Event::Read(Some(record(nonce)));
        node.step(read, now, Nonce(2_000 + u128::from(second)));
        if let Some((_, missing)) = beats.iter().find(|(at, _)| *at == u64::from(second)) {
            let lag = Event::Lag {
                behind: Duration::ZERO,
                missing: *missing,
            };
            node.step(lag, now, Nonce(3_000 + u128::from(second)));
        }
        last = second;
    }
    (node, SECOND * last)
}

/// Why it is not done; `None`: it is.
fn forced(mut node: Node, now: Duration, accept_loss: u64) -> Option<Why> {
    let effects = node.step(Event::Command(Command::Force { accept_loss }), now, Nonce(9_999));
    effects.into_iter().find_map(|effect| match effect {
        Effect::Tell(Notice::Refused(why)) => Some(why),
        _ => None,
    })
}

#[test]
fn a_record_that_changed_meanwhile_is_the_one_that_counts() {
    let in_sync = |nonce| Record {
        sync: BTreeMap::from([(name("b"), Incarnation(2))]),
        acks: 1,
        ..record(nonce)
    };
    let (mut node, now) = replica(&[1], &[]);
    node.step(Event::Tick, now, Nonce(4_001));
    node.step(Event::Read(Some(in_sync(9))), now, Nonce(4_002));
    // Long ago: nobody knows who is in sync now.
    let late = now + SECOND * 30;
    assert_eq!(forced(node.clone(), late, 0), Some(Why::Busy));

    // In time, and before anything came of it the leader has gone on alone.
    let effects = node.step(
        Event::Command(Command::Force { accept_loss: 0 }),
        now,
        Nonce(4_003),
    );
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::Tell(Notice::Refused(_)))),
        "{effects:?}"
    );
    let mut said = node.step(Event::Lost(Some(record(10))), now, Nonce(4_004));
    for step in 1..20_u32 {
        let at = now + Duration::from_millis(100) * step;
        let effects = node.step(Event::Tick, at, Nonce(5_000 + u128::from(step)));
        let swaps = effects.iter().any(|effect| matches!(effect, Effect::Swap { .. }));
        assert!(!swaps, "it takes over, and loses what nobody accepted to lose");
        if effects.contains(&Effect::Read) {
            let nonce = Nonce(6_000 + u128::from(step));
            said.extend(node.step(Event::Read(Some(record(10))), at, nonce));
        }
        said.extend(effects);
    }
    assert!(
        said.contains(&Effect::Tell(Notice::Refused(Why::Loss(None)))),
        "{said:?}"
    );
}

#[test]
fn the_beat_of_a_leader_that_was_replaced_is_no_word_about_its_successor() {
    let (mut node, now) = replica(&[1], &[(20, 0)]);
    assert_eq!(forced(node.clone(), now, 0), None, "it lacks nothing");
    let replaced = Record {
        epoch: Epoch(4),
        leader: name("c"),
        ..record(30)
    };
    node.step(Event::Tick, now, Nonce(4_001));
    node.step(Event::Read(Some(replaced)), now, Nonce(4_002));
    // The one that it still follows lives on, and what it writes arrives.
    let lag = Event::Lag {
        behind: Duration::ZERO,
        missing: 0,
    };
    node.step(lag, now, Nonce(4_003));
    assert_eq!(forced(node, now, 0), Some(Why::Loss(None)));
}

/// A database that is stopped and keeps what it had received has not drained. It may receive more, and acknowledge it, before
/// the word of the store arrives that it leads.
#[test]
fn a_leader_by_an_operators_word_applies_what_it_had_received() {
    let base = Setup::new(
        "notes".parse().unwrap_or_else(|_| unreachable!()),
        name("b"),
        Timing::etcd(),
        policy(),
    );
    let setup = Setup {
        relay_survives: true,
        ..base
    };
    let durable = Durable {
        incarnation: Incarnation(2),
        follows: Some(Epoch(3)),
        through: false,
        drained: None,
    };
    let in_sync = |nonce| Record {
        sync: BTreeMap::from([(name("b"), Incarnation(2))]),
        acks: 1,
        ..record(nonce)
    };
    let mut node = Node::new(setup, durable, Database::Stopped);
    node.step(Event::Tick, SECOND, Nonce(4_000));
    node.step(Event::Read(Some(in_sync(1))), SECOND, Nonce(4_001));
    // Its start failed; it is read once more who leads, and the operator does not wait for the next attempt.
    node.step(Event::Worked(Outcome::Failed), SECOND, Nonce(4_002));
    let later = SECOND * 60;
    node.step(Event::Command(Command::Pause), later, Nonce(4_003));
    node.step(Event::Tick, later, Nonce(4_004));
    node.step(Event::Read(Some(in_sync(2))), later, Nonce(4_005));
    let force = Event::Command(Command::Force { accept_loss: 0 });
    let mut said = node.step(force, later, Nonce(4_006));
    said.extend(node.step(Event::Command(Command::Resume), later, Nonce(4_007)));
    assert!(
        said.iter().any(|effect| matches!(effect, Effect::Swap { .. })),
        "{said:?}"
    );
    let drained = |effect: &Effect| matches!(effect, Effect::Remember(durable) if durable.drained.is_some());
    assert!(!said.iter().any(drained), "{said:?}");
}

#[test]
fn one_of_several_in_sync_may_lack_what_another_acknowledged() {
    let asked = |acks| {
        let quorum = Record {
            sync: ["b", "c"].map(|member| (name(member), Incarnation(2))).into(),
            acks,
            ..record(9)
        };
        let (mut node, now) = replica(&[1], &[]);
        node.step(Event::Tick, now, Nonce(4_001));
        node.step(Event::Read(Some(quorum)), now, Nonce(4_002));
        forced(node, now, 0)
    };
    assert_eq!(asked(1), Some(Why::Loss(None)));
    assert_eq!(asked(2), None, "both have acknowledged everything");
}

#[test]
fn a_loss_that_is_known_must_be_named_and_no_less() {
    let case = || replica(&[1, 4, 7], &[(2, 0), (8, 12)]);
    let (node, now) = case();
    assert_eq!(forced(node, now, 11), Some(Why::Loss(Some(12))));
    let (node, now) = case();
    assert_eq!(forced(node, now, 12), None);
}

#[test]
fn a_leader_that_renewed_after_the_last_beat_has_written_nobody_knows_how_much() {
    for beats in [&[(2, 0), (6, 12)][..], &[]] {
        let case = || replica(&[1, 4, 7], beats);
        let (node, now) = case();
        assert_eq!(forced(node, now, 12), Some(Why::Loss(None)), "{beats:?}");
        let (node, now) = case();
        assert_eq!(
            forced(node, now, u64::MAX - 1),
            Some(Why::Loss(None)),
            "{beats:?}"
        );
        let (node, now) = case();
        assert_eq!(forced(node, now, u64::MAX), None, "{beats:?}");
    }
}
