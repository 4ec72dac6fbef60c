use pontoon_agent::api::{API_VERSION, Problem};
use pontoon_fleet::{DatabaseReport, Engine, Epoch, Event, EventKind, LeaseRecord, UnixMillis};

use super::*;
use crate::output::paint::Paint;

fn server(name: &str, role: DatabaseRole, lag_ms: Option<u64>) -> DbServer {
    DbServer {
        delay_seconds: None,
        source: None,
        name: name.parse().unwrap(),
        state: ServerState::Up,
        heard_ms_ago: Some(300),
        database: Some(DatabaseReport {
            engine: Engine::Mariadb,
            version: "10.11".to_owned(),
            role,
            read_only: role == DatabaseRole::Replica,
            position: "0-1-4711".to_owned(),
            lag_ms,
            error: None,
        }),
        failover: None,
        errant: None,
    }
}

fn status() -> DbStatus {
    DbStatus {
        version: API_VERSION,
        fleet: Some("notes".to_owned()),
        me: Some("a".parse().unwrap()),
        health: Health::Healthy,
        problems: Vec::new(),
        lease: Some(LeaseRecord {
            epoch: Epoch(4),
            leader: "a".parse().unwrap(),
        }),
        lease_store: "s3".to_owned(),
        durability: Some("two-copies".to_owned()),
        failover: "auto".to_owned(),
        in_sync: vec!["b".parse().unwrap()],
        acks: 1,
        loss: None,
        since_ms: Some(90_000),
        write_ms: None,
        servers: vec![
            server("a", DatabaseRole::Primary, None),
            server("b", DatabaseRole::Replica, Some(12)),
        ],
        backup: None,
        recent: Vec::new(),
        next: vec!["pontoon db switchover b".to_owned(), "pontoon events".to_owned()],
        now: UnixMillis(1_800_000_000_000),
    }
}

fn shown(status: &DbStatus, columns: usize) -> String {
    let frame = Frame {
        wide: false,
        paint: Paint::off(),
        columns,
        lines: None,
    };
    render(status, frame)
}

#[test]
fn who_leads_what_is_lost_and_what_comes_next_are_on_one_screen() {
    let text = shown(&status(), 100);
    for part in [
        "HEALTHY",
        "a leads, epoch 4",
        "90.0 s",
        "in sync: b has every acknowledged write",
        "12 ms",
        "0-1-4711",
        "next:  pontoon db switchover b    pontoon events",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(text.lines().count() <= 24, "{text}");
}

#[test]
fn alone_and_wrong_is_said_before_anything_else() {
    let mut status = status();
    status.health = Health::Degraded;
    status.in_sync = vec!["b".parse().unwrap(), "c".parse().unwrap()];
    let text = shown(&status, 100);
    assert!(
        text.contains("every acknowledged write is on 1 of b, c"),
        "{text}"
    );
    status.loss = Some(DbLoss {
        window_ms: Some(812),
        known: 3,
    });
    let text = shown(&status, 100);
    assert!(
        text.contains("acknowledged in the last 812 ms before") && text.contains("missing: 3"),
        "{text}"
    );
    status.in_sync.clear();
    status.servers[1].state = ServerState::Unreachable;
    status.problems.push(Problem {
        health: Health::Degraded,
        what: "a is alone".to_owned(),
        done: None,
        next: vec!["pontoon events".to_owned()],
    });
    status.recent.push(Event {
        at: UnixMillis(1_799_999_990_000),
        server: "a".parse().unwrap(),
        kind: EventKind::PrimaryAlone { epoch: Epoch(4) },
    });
    let text = shown(&status, 100);
    for part in [
        "DEGRADED",
        "alone: acknowledged writes are on the primary only",
        "no answer",
        "! a is alone",
        "no replica is in sync",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn a_limited_lease_and_a_loss_are_named() {
    let mut status = status();
    (status.durability, status.write_ms) = (Some("one-copy".to_owned()), Some(8_200));
    let text = shown(&status, 120);
    assert!(
        text.contains("writes for 8.2 s more") && text.contains("is lost with the primary"),
        "{text}"
    );
}

#[test]
fn a_narrow_screen_and_what_a_server_says_of_itself_break_nothing() {
    let mut status = status();
    let database = status.servers[0].database.as_mut().unwrap();
    database.position = format!("\u{1b}[31m{}", "0-1-4711,".repeat(40));
    let text = shown(&status, 60);
    assert!(!text.contains('\u{1b}'), "{text:?}");
    status.servers.clear();
    status.lease = None;
    assert!(shown(&status, 60).contains("no database of its own"));
}
