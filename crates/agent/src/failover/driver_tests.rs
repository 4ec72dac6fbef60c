use pontoon_decide::failover::{Mode, Policy, Timing};

use super::*;

fn setup() -> Setup {
    let policy = Policy {
        mode: Mode::Safe,
        acks: 1,
        max_lag: Duration::from_secs(1),
    };
    Setup {
        founder: true,
        automatic: true,
        ..Setup::new(
            "notes".parse().unwrap(),
            "a".parse().unwrap(),
            Timing::etcd(),
            policy,
        )
    }
}

fn facts(open: bool) -> Facts {
    Facts {
        answers: true,
        closed: false,
        open,
        receiving: false,
        applying: false,
        position: 5,
        received: String::new(),
        applied: String::new(),
        behind_ms: None,
        late: false,
        waiting: false,
        error: None,
    }
}

struct Bench {
    driver: Driver,
    now: Duration,
    nonces: u128,
}

impl Bench {
    fn new(found: Option<Facts>) -> Bench {
        Bench {
            driver: Driver::new(setup(), Durable::default(), found),
            now: Duration::from_secs(100),
            nonces: 0,
        }
    }

    fn take(&mut self, input: Input) -> Vec<Action> {
        self.now += Duration::from_millis(100);
        let nonces = &mut self.nonces;
        let mut fresh = || {
            *nonces += 1;
            Nonce(*nonces)
        };
        self.driver.take(input, self.now, &mut fresh)
    }

    /// To where the record is written and the database runs, not open yet.
    fn lead(&mut self) -> Record {
        let asked = self.take(Input::Event(Event::Tick));
        assert_eq!(asked, [Action::Read]);
        let found = self.take(Input::Read(Ok(None)));
        let record = found
            .iter()
            .find_map(|action| match action {
                Action::Swap(None, record) => Some((**record).clone()),
                _ => None,
            })
            .expect("the first record");
        assert!(
            matches!(found[0], Action::Keep(_)),
            "kept before it is written: {found:?}"
        );
        self.take(Input::Swapped(record.nonce, Ok(Swap::Won(Version::new("v1")))));
        record
    }
}

#[test]
fn a_record_is_replaced_by_the_version_that_the_store_gave_it() {
    let mut bench = Bench::new(Some(facts(false)));
    let record = bench.lead();
    let mut versions = Vec::new();
    for _ in 0..40 {
        for action in bench.take(Input::Event(Event::Tick)) {
            match action {
                Action::Read => {
                    let there = Some((record.clone(), Version::new("v1")));
                    let more = bench.take(Input::Read(Ok(there)));
                    versions.extend(more.into_iter().filter_map(swapped));
                }
                Action::Begin(_) => {
                    let more = bench.take(Input::Event(Event::Worked(Outcome::Done)));
                    versions.extend(more.into_iter().filter_map(swapped));
                }
                other => versions.extend(swapped(other)),
            }
        }
        if !versions.is_empty() {
            break;
        }
    }
    assert_eq!(versions.first(), Some(&Some(Version::new("v1"))));
}

fn swapped(action: Action) -> Option<Option<Version>> {
    match action {
        Action::Swap(version, _) => Some(version),
        _ => None,
    }
}

#[test]
fn a_store_that_does_not_answer_is_asked_again_and_never_believed() {
    let mut bench = Bench::new(Some(facts(false)));
    bench.take(Input::Event(Event::Tick));
    let nothing = bench.take(Input::Read(Err(LeaseError::Doubt("late".to_owned()))));
    assert!(
        !nothing.iter().any(|action| matches!(action, Action::Swap(..))),
        "{nothing:?}"
    );
    let mut again = Vec::new();
    for _ in 0..20 {
        again.extend(bench.take(Input::Event(Event::Tick)));
    }
    assert!(again.contains(&Action::Read));
    let found = bench.take(Input::Read(Ok(None)));
    let Some(Action::Swap(None, record)) = found.last() else {
        panic!("{found:?}")
    };
    // It may be there: looked at before anything else.
    let doubt = bench.take(Input::Swapped(
        record.nonce,
        Err(LeaseError::Doubt("late".to_owned())),
    ));
    assert_eq!(doubt, [Action::Read]);
}

#[test]
fn a_database_that_ended_is_noticed_and_one_that_others_opened_is_killed_once_sure() {
    let mut bench = Bench::new(Some(facts(false)));
    bench.lead();
    assert!(bench.driver.watches());
    // The first work ends, so that nothing is under way.
    let mut pending = vec![Event::Worked(Outcome::Failed)];
    while let Some(event) = pending.pop() {
        bench.take(Input::Event(event));
    }
    assert_eq!(
        bench.take(Input::Looked(Some(facts(true)))),
        [],
        "once may be a look from before"
    );
    assert_eq!(bench.take(Input::Looked(Some(facts(true)))), [Action::Kill]);
    // Nothing begins until it is gone, and what comes meanwhile is not lost.
    assert_eq!(bench.take(Input::Event(Event::Tick)), []);
    let late = Input::Event(Event::Command(Command::Pause));
    assert_eq!(bench.take(late), []);
    bench.take(Input::Event(Event::Stopped));
    assert!(bench.driver.is_paused() && !bench.driver.watches());
}

#[test]
fn while_paused_others_may_start_and_open_it() {
    let mut bench = Bench::new(None);
    bench.lead();
    bench.take(Input::Event(Event::Command(Command::Pause)));
    bench.take(Input::Event(Event::Worked(Outcome::Failed)));
    for _ in 0..5 {
        let actions = bench.take(Input::Looked(Some(facts(true))));
        assert!(
            !actions.contains(&Action::Kill) && !actions.contains(&Action::Rethink),
            "{actions:?}"
        );
    }
}

#[test]
fn lag_is_said_only_when_a_new_beat_came() {
    let mut bench = Bench::new(Some(facts(false)));
    let replica = |bench: &mut Bench, behind| {
        let facts = Facts {
            receiving: true,
            behind_ms: Some(behind),
            ..facts(false)
        };
        let before = bench.driver.beat;
        bench.take(Input::Looked(Some(facts)));
        bench.driver.beat != before
    };
    assert!(replica(&mut bench, 30));
    assert!(replica(&mut bench, 40), "a beat of 90 ms later");
    // The leader is dead: the last beat grows old.
    assert!(!replica(&mut bench, 140));
    assert!(!replica(&mut bench, 240));
}

#[test]
fn a_replica_is_near_by_its_beat_or_by_its_transactions() {
    let mut bench = Bench::new(Some(Facts {
        receiving: true,
        behind_ms: None,
        ..facts(false)
    }));
    assert!(!bench.driver.peer_facts().near, "nothing is known");
    bench.driver.leader_position = Some(105);
    assert!(bench.driver.peer_facts().near, "100 transactions are soon there");
    bench.driver.leader_position = Some(106);
    assert!(!bench.driver.peer_facts().near);
    let facts = bench.driver.facts.as_mut().unwrap();
    facts.behind_ms = Some(200);
    assert!(bench.driver.peer_facts().near);
    let facts = bench.driver.facts.as_mut().unwrap();
    facts.answers = false;
    assert!(!bench.driver.peer_facts().near, "one that does not answer is not");
}

#[test]
fn commits_that_wait_for_long_are_told_of_and_those_that_end_are_not() {
    let mut bench = Bench::new(Some(facts(true)));
    let patience = Timing::etcd().peer;
    let mut events = VecDeque::new();
    let mut look = |bench: &mut Bench, facts: Facts, after: Duration| {
        bench.now += after;
        bench
            .driver
            .look(Some(facts), bench.now, &mut events, &mut Vec::new());
        let told = events.contains(&Event::Unacknowledged);
        events.clear();
        told
    };
    let waiting = |open| Facts {
        waiting: true,
        ..facts(open)
    };
    let moment = Duration::from_millis(100);
    assert!(!look(&mut bench, waiting(true), moment), "it has only begun");
    assert!(!look(&mut bench, facts(true), patience), "one was acknowledged");
    assert!(!look(&mut bench, waiting(true), patience));
    assert!(!look(&mut bench, waiting(true), patience - WAITING_FOR - moment));
    assert!(look(&mut bench, waiting(true), moment));
    assert!(look(&mut bench, waiting(true), moment), "until it has helped");
    assert!(!look(&mut bench, mute(), moment), "not known");
    let mut bench = Bench::new(Some(facts(false)));
    assert!(!look(&mut bench, waiting(false), moment));
    assert!(!look(&mut bench, waiting(false), patience), "nobody writes here");
}

#[test]
fn a_primary_that_commits_nothing_is_told_of_only_where_its_disk_was_full_meanwhile() {
    let patience = Timing::etcd().peer;
    let stands = || Facts {
        late: true,
        ..facts(true)
    };
    let waits = || Facts {
        waiting: true,
        ..stands()
    };
    let told = |full: &[bool], facts: &dyn Fn() -> Facts| {
        let mut bench = Bench::new(Some(super::tests::facts(true)));
        let mut events = VecDeque::new();
        for full in full {
            bench.driver.note_disk(*full);
            bench
                .driver
                .look(Some(facts()), bench.now, &mut events, &mut Vec::new());
            bench.now += patience / 2;
        }
        events.contains(&Event::Full)
    };
    assert!(told(&[true; 3], &stands));
    assert!(!told(&[true; 2], &stands), "it has only begun");
    assert!(
        told(&[true, false, false], &stands),
        "MariaDB looks for room once a minute"
    );
    assert!(!told(&[true; 3], &|| facts(true)), "it commits");
    assert!(!told(&[false; 3], &stands), "a long lock, such as a backup's");
    assert!(!told(&[true; 3], &waits), "a replica is waited for");

    let mut bench = Bench::new(Some(facts(true)));
    let mut events = VecDeque::new();
    bench.driver.note_disk(true);
    for seen in [stands(), facts(true), stands()] {
        bench
            .driver
            .look(Some(seen), bench.now, &mut events, &mut Vec::new());
        bench.now += patience * 3 / 4;
    }
    assert!(events.is_empty(), "it committed between: {events:?}");
    // Others hear of it.
    assert!(!bench.driver.peer_facts().room);
}

#[test]
fn a_primary_that_answers_nothing_and_whose_disk_is_full_is_not_waited_for_as_long() {
    let patience = Timing::etcd().peer;
    for full in [true, false] {
        let mut bench = Bench::new(Some(facts(true)));
        let mut events = VecDeque::new();
        bench.driver.listen(bench.now, &mut events);
        bench.driver.note_disk(full);
        bench.driver.facts = Some(mute());
        bench.driver.listen(bench.now + patience, &mut events);
        assert_eq!(events.contains(&Event::Silent), full);
    }
}

/// One that lives and does not answer.
fn mute() -> Facts {
    Facts {
        answers: false,
        open: true,
        ..facts(false)
    }
}

#[test]
fn a_database_that_is_ending_is_not_waited_for_as_long_as_one_that_may_go_on() {
    let mut bench = Bench::new(Some(facts(true)));
    let ending = || Facts {
        closed: true,
        ..mute()
    };
    let mut events = VecDeque::new();
    bench.driver.listen(bench.now, &mut events);
    bench.driver.facts = Some(ending());
    bench
        .driver
        .listen(bench.now + Duration::from_millis(1_900), &mut events);
    assert!(events.is_empty(), "it may take its time");
    bench
        .driver
        .listen(bench.now + Duration::from_secs(2), &mut events);
    assert_eq!(events.len(), 1);
    // One that is being started does not answer either.
    bench.driver.work = Some(Work::Follow("b".parse().unwrap(), Epoch(2)));
    events.clear();
    bench
        .driver
        .listen(bench.now + Duration::from_secs(5), &mut events);
    assert!(events.is_empty());
}

#[test]
fn a_database_that_stands_still_is_reported_only_after_long_and_not_while_it_is_busy() {
    let silence = Timing::etcd().silence;
    let mut bench = Bench::new(Some(facts(true)));
    let listen = |bench: &mut Bench, facts: Facts, after: Duration| {
        let mut events = VecDeque::new();
        bench.now += after;
        bench.driver.facts = Some(facts);
        bench.driver.listen(bench.now, &mut events);
        !events.is_empty()
    };
    assert!(!listen(&mut bench, facts(true), Duration::ZERO));
    assert!(!listen(&mut bench, mute(), silence / 2));
    assert!(!listen(&mut bench, facts(true), silence / 4), "it answers again");
    assert!(!listen(&mut bench, mute(), silence / 2));
    assert!(listen(&mut bench, mute(), silence / 2));
    // Work that may take its time, and has an end of its own.
    bench.driver.work = Some(Work::Close("b".parse().unwrap()));
    assert!(!listen(&mut bench, mute(), silence));
    bench.driver.work = Some(Work::CaughtUp(Default::default()));
    assert!(
        listen(&mut bench, mute(), silence),
        "waiting for replicas keeps nothing busy"
    );
    bench.driver.work = None;
    bench.driver.database.open = false;
    assert!(
        !listen(&mut bench, mute(), silence),
        "only the one that takes writes"
    );
}

#[test]
fn a_replica_that_stands_still_does_not_follow() {
    let following = Facts {
        receiving: true,
        behind_ms: Some(10),
        ..facts(false)
    };
    let durable = Durable {
        follows: Some(Epoch(1)),
        ..Durable::default()
    };
    let mut driver = Driver::new(setup(), durable, Some(following.clone()));
    let mut events = VecDeque::new();
    let mut at = |driver: &mut Driver, facts: &Facts, seconds| {
        driver.facts = Some(facts.clone());
        driver.listen(Duration::from_secs(seconds), &mut events);
        driver.peer_facts().follows
    };
    assert_eq!(at(&mut driver, &following, 100), Some(Epoch(1)));
    assert_eq!(at(&mut driver, &mute(), 103), Some(Epoch(1)), "a short stall");
    assert_eq!(at(&mut driver, &mute(), 104), None, "the leader waits no longer");
    assert_eq!(at(&mut driver, &following, 110), Some(Epoch(1)));
}
