//! A leader that commits nothing gives way: for want of room, to a copy that has some; and for want of acknowledgements,
//! where it may not go on alone.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_decide::failover::{
    Database, Durable, Effect, Event, Incarnation, Mode, Node, Nonce, Notice, Outcome, PeerFacts, Policy,
    Record, Setup, State, Timing, Work,
};
use pontoon_fleet::{Epoch, ServerName};

fn name(text: &str) -> ServerName {
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a name"))
}

/// What `b` says of itself, with room on its disk or without.
fn facts(room: bool) -> PeerFacts {
    PeerFacts {
        incarnation: Incarnation(2),
        follows: Some(Epoch(3)),
        through: false,
        leaving: false,
        near: true,
        position: 5,
        declines: None,
        room,
    }
}

struct Case {
    mode: Mode,
    /// Whether `b` is in sync when it begins.
    in_sync: bool,
    /// Whether `b` has room.
    room: bool,
    continue_alone: bool,
}

const CASE: Case = Case {
    mode: Mode::Safe,
    in_sync: true,
    room: true,
    continue_alone: true,
};

/// A leader of whom all that it asked for was done, and what that was.
fn leader(case: &Case) -> (Node, Duration, Vec<Effect>) {
    let Case {
        mode,
        in_sync,
        room,
        continue_alone,
    } = *case;
    let policy = Policy {
        mode,
        acks: 1,
        max_lag: Duration::from_secs(1),
    };
    let fleet: pontoon_fleet::FleetName = "notes".parse().unwrap_or_else(|_| unreachable!());
    let setup = Setup {
        automatic: true,
        continue_alone,
        ..Setup::new(fleet.clone(), name("a"), Timing::etcd(), policy)
    };
    let replica = in_sync.then(|| (name("b"), Incarnation(2)));
    let sync: BTreeMap<_, _> = replica.into_iter().collect();
    let record = Record {
        fleet,
        epoch: Epoch(3),
        leader: name("a"),
        incarnation: Incarnation(1),
        electing: false,
        released: false,
        acks: u8::try_from(sync.len()).unwrap_or(0),
        sync,
        policy,
        candidate: None,
        fragile: false,
        loss: None,
        seq: 7,
        nonce: Nonce(7),
    };
    let durable = Durable {
        incarnation: Incarnation(1),
        follows: None,
        through: false,
        drained: Some(Epoch(3)),
    };
    let closed = Database::Running {
        open: false,
        receiving: false,
    };
    let mut node = Node::new(setup, durable, closed);
    let mut now = Duration::from_secs(100);
    let (mut events, mut effects) = (vec![Event::Read(Some(record))], Vec::new());
    // Whatever it asks for goes well, until it is open and asks for nothing.
    for step in 0..40 {
        now += Duration::from_millis(100);
        events.push(Event::Peer(name("b"), facts(room)));
        for event in std::mem::take(&mut events) {
            for effect in node.step(event, now, Nonce(1_000 + step)) {
                match &effect {
                    Effect::Work(_) => events.push(Event::Worked(Outcome::Done)),
                    Effect::Swap { .. } => events.push(Event::Won),
                    Effect::Read => events.push(Event::Unreadable),
                    _ => {}
                }
                effects.push(effect);
            }
        }
    }
    let open = matches!(node.standing().state, State::LeaderSync | State::LeaderAlone);
    assert!(open, "{:?}", node.standing());
    (node, now, effects)
}

fn is_killed(effects: &[Effect]) -> bool {
    effects.contains(&Effect::Kill)
}

#[test]
fn a_leader_whose_disk_is_full_gives_way_to_one_that_has_room() {
    let (mut node, now, _) = leader(&CASE);
    let effects = node.step(Event::Full, now, Nonce(2_000));
    assert!(is_killed(&effects), "{effects:?}");
    assert!(effects.contains(&Effect::Tell(Notice::KilledFull)), "{effects:?}");
    // The lease is released only once it is dead.
    let early = |effect: &Effect| matches!(effect, Effect::Swap { record, .. } if record.released);
    assert!(!effects.iter().any(early), "{effects:?}");
}

#[test]
fn one_whose_replica_has_no_room_either_stays() {
    let (mut node, now, _) = leader(&Case { room: false, ..CASE });
    let effects = node.step(Event::Full, now, Nonce(2_000));
    assert!(!is_killed(&effects), "{effects:?}");
    // Nor is the lease of one that died given to it: it starts where it is.
    let mut effects = node.step(Event::Stopped, now, Nonce(2_001));
    for step in 1..20_u32 {
        let at = now + Duration::from_millis(100) * step;
        effects.extend(node.step(Event::Won, at, Nonce(3_000 + u128::from(step))));
        effects.extend(node.step(Event::Tick, at, Nonce(4_000 + u128::from(step))));
    }
    let released = |effect: &Effect| matches!(effect, Effect::Swap { record, .. } if record.released);
    assert!(!effects.iter().any(released), "{effects:?}");
    let recovers = |effect: &Effect| matches!(effect, Effect::Work(Work::Recover));
    assert!(effects.iter().any(recovers), "{effects:?}");
}

#[test]
fn with_one_copy_a_new_start_makes_no_room_and_is_not_tried() {
    let (mode, in_sync) = (Mode::Available, false);
    let (mut node, now, _) = leader(&Case {
        mode,
        in_sync,
        ..CASE
    });
    assert!(!is_killed(&node.step(Event::Full, now, Nonce(2_000))));
    assert!(is_killed(&node.step(Event::Silent, now, Nonce(2_001))));
}

#[test]
fn a_replica_without_room_is_not_taken_into_sync_while_writes_may_go_on_without_it() {
    let taken = |room, continue_alone| {
        let (.., effects) = leader(&Case {
            in_sync: false,
            room,
            continue_alone,
            ..CASE
        });
        let counts = |effect: &Effect| matches!(effect, Effect::Work(Work::CaughtUp(_)));
        effects.iter().any(counts)
    };
    assert!(taken(true, true));
    assert!(!taken(false, true), "commits would wait for it in vain");
    assert!(taken(false, false), "better than nobody");
}

#[test]
fn commits_that_wait_in_vain_end_with_the_leader_only_where_it_may_not_go_on_alone() {
    let killed_after = |continue_alone, step: u32, hears: bool| {
        let (mut node, begun, _) = leader(&Case {
            continue_alone,
            ..CASE
        });
        let timing = Timing::etcd();
        let mut nonce = 10_000;
        let mut record = node.standing().record.unwrap_or_else(|| unreachable!());
        for number in 0..200_u32 {
            let now = begun + Duration::from_millis(100) * number;
            // What it asked for last was not answered yet.
            let mut events = vec![if number == 0 {
                Event::Unreadable
            } else {
                Event::Tick
            }];
            if hears {
                events.push(Event::Peer(name("b"), facts(true)));
            }
            if number % step == 0 {
                events.push(Event::Unacknowledged);
            }
            while let Some(event) = events.pop() {
                nonce += 1;
                for effect in node.step(event, now, Nonce(nonce)) {
                    match effect {
                        Effect::Kill => return Some(now + timing.peer - begun),
                        Effect::Read => events.push(Event::Read(Some(record.clone()))),
                        Effect::Work(_) => events.push(Event::Worked(Outcome::Done)),
                        Effect::Swap { record: next, .. } => {
                            record = *next;
                            events.push(Event::Won);
                        }
                        _ => {}
                    }
                }
            }
        }
        None
    };
    assert_eq!(killed_after(false, 1, true), Some(Timing::etcd().silence));
    assert_eq!(killed_after(true, 1, true), None, "it goes on alone");
    assert_eq!(killed_after(false, 20, true), None, "they ended between");
    assert_eq!(
        killed_after(false, 1, false),
        None,
        "nobody is there to take over"
    );
}
