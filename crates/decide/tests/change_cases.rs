//! Single cases of the change protocol: late copies, restarts, and peers that lie.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a panic is the report

use std::collections::BTreeSet;
use std::time::Duration;

use pontoon_decide::change::{
    Ancestor, Change, ChangeId, Committed, Effect, Event, HOLD, Message, Node, Outcome, digest, step,
};
use pontoon_fleet::{Code, Revision, ServerName};

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn first() -> Committed {
    let members = BTreeSet::from([name("a"), name("b")]);
    Committed {
        revision: Revision(1),
        text: "first".to_owned(),
        members,
        lineage: Vec::new(),
    }
}

fn node(me: &str) -> Node {
    Node::new(name(me), name("a"), 7, first())
}

fn change(by: &str, number: u64, text: &str) -> Change {
    Change {
        id: ChangeId {
            coordinator: name(by),
            number,
        },
        base: Revision(1),
        base_digest: digest("first"),
        text: text.to_owned(),
        members: first().members,
    }
}

fn received(from: &str, message: Message) -> Event {
    Event::Received {
        from: name(from),
        message,
    }
}

fn decide(change: &Change, incarnation: u64, voted: &[&str]) -> Message {
    Message::Decide {
        id: change.id.clone(),
        revision: change.base.next(),
        digest: digest(&change.text),
        voted: voted.iter().map(|server| name(server)).collect(),
        incarnation,
    }
}

/// The keeper, holding a change of b that it has agreed to.
fn keeper_holding(change: &Change) -> Node {
    let (node, effects) = step(
        node("a"),
        received(
            "b",
            Message::Prepare {
                change: change.clone(),
            },
        ),
        Duration::ZERO,
    );
    assert_eq!(effects, [Effect::Validate(change.clone())]);
    let (node, effects) = step(
        node,
        Event::Validated {
            id: change.id.clone(),
            refusal: None,
        },
        Duration::ZERO,
    );
    assert!(matches!(
        effects.as_slice(),
        [Effect::Send {
            message: Message::Vote { refusal: None, .. },
            ..
        }]
    ));
    node
}

fn is_undecidable(effects: &[Effect]) -> bool {
    matches!(
        effects,
        [Effect::Send {
            message: Message::Undecidable { .. },
            ..
        }]
    )
}

#[test]
fn the_keeper_decides_and_tells_everybody() {
    let change = change("b", 1, "second");
    let (node, effects) = step(
        keeper_holding(&change),
        received("b", decide(&change, 7, &["a", "b"])),
        Duration::ZERO,
    );
    assert_eq!(node.active.revision, Revision(2));
    assert!(
        matches!(&effects[0], Effect::Activate(committed) if committed.text == "second"),
        "durable first"
    );
    assert!(matches!(&effects[1], Effect::Send { to, message: Message::Commit { .. } } if *to == name("b")));
    // The answer was lost and is asked for again, even after a restart.
    let node = Node::new(name("a"), name("a"), 8, node.active);
    let (_, effects) = step(
        node,
        received("b", decide(&change, 7, &["a", "b"])),
        Duration::ZERO,
    );
    assert!(matches!(
        effects.as_slice(),
        [Effect::Send {
            message: Message::Commit { .. },
            ..
        }]
    ));
}

#[test]
fn the_keeper_does_not_decide_on_a_vote_from_before_its_restart() {
    let change = change("b", 1, "second");
    let (node, effects) = step(
        keeper_holding(&change),
        received("b", decide(&change, 6, &["a", "b"])),
        Duration::ZERO,
    );
    assert!(is_undecidable(&effects));
    assert_eq!(node.active, first());
    assert_eq!(node.held(), None);
}

#[test]
fn the_keeper_does_not_decide_without_every_vote_nor_for_somebody_else() {
    let change = change("b", 1, "second");
    let (_, effects) = step(
        keeper_holding(&change),
        received("b", decide(&change, 7, &["a"])),
        Duration::ZERO,
    );
    assert!(is_undecidable(&effects));
    let (node, effects) = step(
        keeper_holding(&change),
        received("c", decide(&change, 7, &["a", "b"])),
        Duration::ZERO,
    );
    assert!(effects.is_empty());
    assert_eq!(node.active, first());
    let mut other = change.clone();
    other.text = "something else".to_owned();
    let (_, effects) = step(
        keeper_holding(&change),
        received("b", decide(&other, 7, &["a", "b"])),
        Duration::ZERO,
    );
    assert!(is_undecidable(&effects), "another text under the same attempt");
}

#[test]
fn a_late_copy_does_not_bring_an_attempt_back() {
    let change = change("b", 1, "second");
    let (node, _) = step(
        keeper_holding(&change),
        received(
            "b",
            Message::Abort {
                id: change.id.clone(),
            },
        ),
        Duration::ZERO,
    );
    assert_eq!(node.held(), None);
    let (node, effects) = step(node, received("b", Message::Prepare { change }), Duration::ZERO);
    assert!(effects.is_empty() && node.held().is_none());
}

#[test]
fn a_held_change_is_let_go_after_its_time() {
    let mine = change("b", 1, "second");
    let node = keeper_holding(&mine);
    let other = Message::Prepare {
        change: change("c", 1, "third"),
    };
    let (node, effects) = step(
        node,
        received("c", other.clone()),
        HOLD - Duration::from_millis(1),
    );
    let [
        Effect::Send {
            message: Message::Vote {
                refusal: Some(refusal),
                ..
            },
            ..
        },
    ] = effects.as_slice()
    else {
        panic!("{effects:?}")
    };
    assert_eq!(refusal.code, Code::P005);
    let (_, effects) = step(node, received("c", other), HOLD);
    assert!(matches!(effects.as_slice(), [Effect::Validate(_)]));
}

#[test]
fn nobody_prepares_in_the_name_of_somebody_else() {
    let (node, effects) = step(
        node("a"),
        received(
            "c",
            Message::Prepare {
                change: change("b", 1, "x"),
            },
        ),
        Duration::ZERO,
    );
    assert!(effects.is_empty() && node.held().is_none());
}

#[test]
fn a_revision_that_does_not_descend_from_mine_is_not_taken() {
    let foreign = Committed {
        revision: Revision(5),
        text: "foreign".to_owned(),
        members: first().members,
        lineage: vec![Ancestor {
            revision: Revision(1),
            digest: digest("another first"),
        }],
    };
    let (node, effects) = step(
        node("b"),
        received(
            "a",
            Message::Commit {
                committed: foreign.clone(),
            },
        ),
        Duration::ZERO,
    );
    assert_eq!(node.active, first());
    assert_eq!(
        effects,
        [Effect::Forked {
            peer: name("a"),
            revision: Revision(5)
        }]
    );
    let ours = Committed {
        lineage: vec![Ancestor {
            revision: Revision(1),
            digest: digest("first"),
        }],
        ..foreign
    };
    let (node, _) = step(
        node,
        received(
            "a",
            Message::Commit {
                committed: ours.clone(),
            },
        ),
        Duration::ZERO,
    );
    assert_eq!(node.active, ours, "several revisions at once");
    // The keeper is never behind: who claims so has made it up.
    let (keeper, effects) = step(
        self::node("a"),
        received("b", Message::Commit { committed: ours }),
        Duration::ZERO,
    );
    assert_eq!((keeper.active, effects), (first(), Vec::new()));
}

#[test]
fn a_single_server_changes_by_itself_and_cannot_remove_itself() {
    let alone = Node::new(name("a"), name("a"), 1, Committed::nothing());
    let propose = |members: &[&str]| Event::Propose {
        number: 1,
        text: "one".to_owned(),
        members: members.iter().map(|server| name(server)).collect(),
    };
    let (_, effects) = step(alone.clone(), propose(&["b"]), Duration::ZERO);
    let [
        Effect::Finished {
            outcome: Outcome::Refused(refusal),
            ..
        },
    ] = effects.as_slice()
    else {
        panic!("{effects:?}")
    };
    assert_eq!(refusal.code, Code::J008);
    let (alone, effects) = step(alone, propose(&["a"]), Duration::ZERO);
    let [Effect::Validate(change)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    let done = Event::Validated {
        id: change.id.clone(),
        refusal: None,
    };
    let (alone, effects) = step(alone, done, Duration::ZERO);
    assert!(
        matches!(
            effects.as_slice(),
            [
                Effect::Activate(_),
                Effect::Finished {
                    outcome: Outcome::Activated(Revision(1)),
                    ..
                }
            ]
        ),
        "{effects:?}"
    );
    let (_, effects) = step(alone, propose(&["a"]), Duration::ZERO);
    assert!(matches!(
        effects.as_slice(),
        [Effect::Finished {
            outcome: Outcome::Unchanged(Revision(1)),
            ..
        }]
    ));
}

#[test]
fn messages_travel_as_json() {
    let message = Message::Prepare {
        change: change("b", 1, "text\n"),
    };
    let json = serde_json::to_string(&message).unwrap();
    assert_eq!(serde_json::from_str::<Message>(&json).unwrap(), message);
}

#[test]
fn a_server_that_has_no_vote_can_neither_stop_nor_make_a_change() {
    let alone = BTreeSet::from([name("a")]);
    let proposed = Event::Propose {
        number: 5,
        text: "without b".to_owned(),
        members: alone,
    };
    let (node, effects) = step(node("a"), proposed, Duration::ZERO);
    let [Effect::Validate(change)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    let vote = |refusal| Message::Vote {
        id: change.id.clone(),
        incarnation: 1,
        refusal,
    };
    let no = pontoon_fleet::Refusal::new(Code::P003, "I want to stay");
    for said in [Some(no), None] {
        let (after, effects) = step(node.clone(), received("b", vote(said)), Duration::ZERO);
        assert_eq!((&after, effects), (&node, Vec::new()));
    }
}
