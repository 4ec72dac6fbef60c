use std::collections::BTreeMap;

use pontoon_decide::failover::{Incarnation, Mode, Nonce, Policy, Record};
use pontoon_fleet::{Code, DatabaseReport, Engine, Epoch, Refusal};

use super::*;
use crate::failover::FailoverReport;

const SHARED: &str = r#"
version = 1
[fleet]
name = "notes"
[[server]]
name = "a"
private = "10.0.0.1"
[[server]]
name = "b"
private = "10.0.0.2"
[db]
engine = "mariadb"
listen = ["127.0.0.1:3306"]
failover = "auto"
[lease]
store = "s3"
bucket = "notes-fleet"
"#;

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn record(sync: &[&str]) -> Record {
    Record {
        fleet: "notes".parse().unwrap(),
        epoch: Epoch(4),
        leader: name("a"),
        incarnation: Incarnation(1),
        electing: false,
        released: false,
        sync: sync
            .iter()
            .map(|text| (name(text), Incarnation(1)))
            .collect::<BTreeMap<_, _>>(),
        acks: u8::from(!sync.is_empty()),
        policy: Policy {
            mode: Mode::Safe,
            acks: 1,
            max_lag: Duration::from_secs(1),
        },
        candidate: None,
        fragile: false,
        loss: None,
        seq: 9,
        nonce: Nonce(7),
    }
}

fn report(state: State, sync: &[&str]) -> FailoverReport {
    FailoverReport {
        state,
        state_ms: 42_000,
        record: Some(record(sync)),
        store_ms: Some(300),
        store_error: None,
        incarnation: Incarnation(1),
        follows: None,
        through: false,
        leaving: false,
        declines: None,
        drained: None,
        near: true,
        position: 7,
        facts: None,
        work: None,
        paused: false,
        left_ms: None,
        notices: Vec::new(),
        given_up: 0,
        gave_up: None,
    }
}

fn server(text: &str, role: DatabaseRole, failover: FailoverReport) -> DbServer {
    DbServer {
        delay_seconds: None,
        source: None,
        name: name(text),
        state: ServerState::Up,
        heard_ms_ago: Some(100),
        database: Some(DatabaseReport {
            engine: Engine::Mariadb,
            version: "10.11".to_owned(),
            role,
            read_only: role != DatabaseRole::Primary,
            position: "0-1-7".to_owned(),
            lag_ms: None,
            error: None,
        }),
        failover: Some(failover),
        errant: None,
    }
}

fn healthy() -> Vec<DbServer> {
    vec![
        server("a", DatabaseRole::Primary, report(State::LeaderSync, &["b"])),
        server("b", DatabaseRole::Replica, report(State::FollowSync, &["b"])),
    ]
}

fn verdict(servers: Vec<DbServer>, change: impl FnOnce(&mut Inputs<'_>)) -> DbStatus {
    let config = Config::parse(SHARED).unwrap();
    let me = name("a");
    let mut inputs = Inputs {
        config: &config,
        lease: Some(LeaseRecord {
            epoch: Epoch(4),
            leader: name("a"),
        }),
        servers,
        trouble: None,
        me: &me,
        write_left: None,
        recent: Vec::new(),
        now: UnixMillis(1),
    };
    change(&mut inputs);
    status(inputs)
}

fn all(status: &DbStatus) -> String {
    status
        .problems
        .iter()
        .map(|problem| problem.what.as_str())
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn a_primary_with_a_replica_in_sync_is_healthy_and_says_how_to_hand_over() {
    let status = verdict(healthy(), |_| {});
    assert_eq!((status.health, all(&status).as_str()), (Health::Healthy, ""));
    assert_eq!(status.in_sync, [name("b")]);
    assert_eq!(status.durability.as_deref(), Some("two-copies"));
    assert_eq!(status.next, ["pontoon events", "pontoon db switchover b"]);
}

#[test]
fn alone_is_degraded_and_named() {
    let mut servers = healthy();
    servers[0].failover = Some(report(State::LeaderAlone, &[]));
    servers[1].failover = Some(report(State::Follow, &[]));
    let status = verdict(servers, |_| {});
    assert_eq!(status.health, Health::Degraded);
    assert!(all(&status).contains("a is alone for 42 s"), "{}", all(&status));
}

#[test]
fn every_trouble_is_named_and_never_more_than_two_commands_come_next() {
    type Change = fn(&mut Inputs<'_>);
    let cases: [(Change, Health, &str); 9] = [
        (
            |inputs| inputs.lease = None,
            Health::Down,
            "nobody holds the lease",
        ),
        (
            |inputs| inputs.servers[0].state = ServerState::Unreachable,
            Health::Degraded,
            "the agent of the primary a does not answer",
        ),
        (
            |inputs| inputs.servers[0].database.as_mut().unwrap().role = DatabaseRole::Down,
            Health::Down,
            "the primary database on a does not answer",
        ),
        (
            |inputs| inputs.write_left = Some(Duration::ZERO),
            Health::Down,
            "the lease of a has run out",
        ),
        (
            |inputs| inputs.servers[1].failover = Some(report(State::Stranded, &["b"])),
            Health::Degraded,
            "may lack acknowledged writes",
        ),
        (
            |inputs| inputs.servers[1].failover.as_mut().unwrap().paused = true,
            Health::Degraded,
            "failover is paused on b",
        ),
        (
            |inputs| {
                let report = inputs.servers[1].failover.as_mut().unwrap();
                (report.store_error, report.store_ms) = (Some("timed out".to_owned()), Some(30_000));
            },
            Health::Degraded,
            "the lease store has not answered b for 30 s",
        ),
        (
            |inputs| inputs.servers[1].database.as_mut().unwrap().error = Some("1062 Duplicate".to_owned()),
            Health::Degraded,
            "replication to b does not run: 1062",
        ),
        (
            |inputs| inputs.servers[1].database.as_mut().unwrap().lag_ms = Some(60_000),
            Health::Degraded,
            "b is 60 s behind",
        ),
    ];
    for (change, health, words) in cases {
        let status = verdict(healthy(), change);
        assert_eq!(status.health, health, "{words}: {}", all(&status));
        assert!(all(&status).contains(words), "{words}: {}", all(&status));
        assert!((1..=2).contains(&status.next.len()), "{:?}", status.next);
    }
    let trouble = Refusal::new(Code::L001, "the file is damaged");
    let config = Config::parse(SHARED).unwrap();
    let me = name("a");
    let status = status(Inputs {
        config: &config,
        lease: None,
        servers: healthy(),
        trouble: Some(&trouble),
        me: &me,
        write_left: None,
        recent: Vec::new(),
        now: UnixMillis(1),
    });
    assert!(
        all(&status).contains("failover does not run on a"),
        "{}",
        all(&status)
    );
}

#[test]
fn only_what_concerns_databases_is_recent() {
    let event = |at, kind| Event {
        at: UnixMillis(at),
        server: name("a"),
        kind,
    };
    let mut events: Vec<Event> = (0..20).map(|at| event(at, EventKind::AgentStopped)).collect();
    events.extend((20..30).map(|at| event(at, EventKind::PrimaryAlone { epoch: Epoch(at) })));
    let kept = recent(events);
    assert_eq!(kept.len(), RECENT);
    assert!(kept.iter().all(|event| event.at.0 >= 25));
}
