use pontoon_agent::api::API_VERSION;
use pontoon_fleet::{
    DrainBook, EdgeReport, Engine, Epoch, Event, EventKind, LeaseRecord, PoolReport, ReplicaReport, Revision,
    ServerReport, SpreadReport, SqlReport, TierReport, UnixMillis,
};

use super::*;
use crate::output::snapshot;

const NOW: UnixMillis = UnixMillis(1_795_349_085_000);

fn wide() -> Frame {
    Frame {
        paint: Paint::off(),
        columns: usize::MAX,
        lines: None,
        wide: false,
    }
}

fn database(role: DatabaseRole) -> DatabaseReport {
    DatabaseReport {
        engine: Engine::Mariadb,
        version: "10.11.19-MariaDB".into(),
        role,
        read_only: role == DatabaseRole::Replica,
        position: "0-1-88213".into(),
        lag_ms: (role == DatabaseRole::Replica).then_some(0),
        error: None,
    }
}

fn server(name: &str, last: u8, role: Option<DatabaseRole>) -> ServerStatus {
    let tier = |detail| TierReport {
        pid: 7,
        view_serial: 3,
        detail,
    };
    ServerStatus {
        name: name.parse().unwrap(),
        roles: Role::ALL.to_vec(),
        private: IpAddr::from([198, 51, 100, last]),
        public: vec![IpAddr::from([198, 51, 100, 100 + last])],
        state: ServerState::Up,
        heard_ms_ago: Some(200),
        report: Some(ServerReport {
            server: name.parse().unwrap(),
            at: NOW,
            version: "0.1.0".into(),
            revision: Revision(4),
            settled: Revision(4),
            trouble: None,
            config_digest: "aa".into(),
            tiers: vec![
                tier(TierDetail::Edge(EdgeReport::default())),
                tier(TierDetail::Sql(SqlReport::default())),
            ],
            database: role.map(database),
            load_percent: 30 + last,
            drains: DrainBook::default(),
            lease: None,
            unheard: Vec::new(),
            full_disk: None,
            maintenance: Default::default(),
            purges: Default::default(),
            addresses_changed: pontoon_fleet::UnixMillis::default(),
            elsewhere: Vec::new(),
            routing: None,
        }),
        edge_millirequests_per_second: Some(200_400 + u64::from(last)),
        app_healthy: Some(true),
        app_reason: None,
    }
}

fn fleet(servers: Vec<ServerStatus>) -> Status {
    Status {
        version: API_VERSION,
        fleet: Some("notes".into()),
        me: Some("a".parse().unwrap()),
        revision: Revision(4),
        health: Health::Healthy,
        problems: vec![],
        lease: Some(LeaseRecord {
            epoch: Epoch(1),
            leader: "a".parse().unwrap(),
        }),
        lease_store: "single".into(),
        servers,
        recent: vec![],
        now: NOW,
    }
}

fn degraded() -> Status {
    let mut a = server("a", 1, Some(DatabaseRole::Primary));
    (a.state, a.heard_ms_ago, a.app_healthy) = (ServerState::Unreachable, Some(14_100), None);
    let mut status = fleet(vec![a, server("b", 2, Some(DatabaseRole::Replica))]);
    status.health = Health::Degraded;
    status.problems = vec![Problem {
        health: Health::Degraded,
        what: "a has not answered for 14 s".into(),
        done: Some("b serves all visitors; writes wait until a is back, for up to 10 s each".into()),
        next: vec!["pontoon events".into(), "pontoon token new".into()],
    }];
    let event = |at: u64, kind| Event {
        at: UnixMillis(1_795_349_071_250 + at),
        server: "b".parse().unwrap(),
        kind,
    };
    status.recent = vec![
        event(
            0,
            EventKind::PeerUnreachable {
                peer: "a".parse().unwrap(),
                reason: "connection refused".into(),
            },
        ),
        event(
            700,
            EventKind::UpstreamDown {
                upstream: "a".parse().unwrap(),
                reason: "no answer\x1b[31m".into(),
            },
        ),
    ];
    status
}

#[test]
fn a_healthy_fleet() {
    let status = fleet(vec![
        server("a", 1, Some(DatabaseRole::Primary)),
        server("b", 2, Some(DatabaseRole::Replica)),
    ]);
    snapshot::check("status-healthy.txt", &render(&status, wide()));
}

#[test]
fn a_degraded_fleet_says_what_to_do() {
    snapshot::check("status-degraded.txt", &render(&degraded(), wide()));
}

#[test]
fn a_server_that_joins() {
    let mut b = server("b", 2, Some(DatabaseRole::Standalone));
    b.app_healthy = None;
    b.edge_millirequests_per_second = None;
    let mut c = server("c", 3, None);
    (c.state, c.heard_ms_ago, c.report, c.app_healthy) = (ServerState::Unreachable, None, None, None);
    let mut status = fleet(vec![server("a", 1, Some(DatabaseRole::Primary)), b, c]);
    status.health = Health::Degraded;
    snapshot::check("status-joining.txt", &render(&status, wide()));
}

#[test]
fn a_machine_without_a_fleet() {
    let mut status = fleet(vec![]);
    status.fleet = None;
    snapshot::check("status-empty.txt", &render(&status, wide()));
}

#[test]
fn a_fleet_with_everything_wrong() {
    let mut a = server("a", 1, Some(DatabaseRole::Down));
    a.app_healthy = Some(false);
    a.app_reason = Some("GET /up answered 502 after 12 ms, expected 200".into());
    let mut b = server("b", 2, Some(DatabaseRole::Replica));
    b.state = ServerState::Draining;
    if let Some(report) = &mut b.report {
        report.tiers.clear();
        report.load_percent = 97;
        if let Some(database) = &mut report.database {
            database.error = Some("Last_SQL_Error: duplicate key".into());
        }
    }
    let mut long = server(
        "a-very-long-name-of-a-server-that-somebody-chose",
        3,
        Some(DatabaseRole::Replica),
    );
    long.roles = vec![Role::Db];
    long.public.clear();
    if let Some(database) = long.report.as_mut().and_then(|report| report.database.as_mut()) {
        database.lag_ms = Some(754_000);
    }
    let mut status = fleet(vec![a, b, long]);
    (status.health, status.lease) = (Health::Down, None);
    snapshot::check("status-wrong.txt", &render(&status, wide()));
}

#[test]
fn fifty_servers_fit_a_small_screen_and_the_bad_one_is_shown() {
    let mut servers: Vec<ServerStatus> = (1..=50)
        .map(|n| server(&format!("app{n}"), n, Some(DatabaseRole::Replica)))
        .collect();
    for server in &mut servers {
        server.public.push(IpAddr::from([198, 51, 100, 250]));
    }
    (servers[44].app_healthy, servers[44].app_reason) = (Some(false), Some("connection refused".into()));
    let mut status = fleet(servers);
    status.problems = degraded().problems;
    for columns in [60, 80, 100, 200] {
        let frame = Frame {
            paint: Paint::off(),
            columns,
            lines: Some(24),
            wide: false,
        };
        let text = render(&status, frame);
        assert!(
            text.lines().count() < 24,
            "{} lines:\n{text}",
            text.lines().count()
        );
        assert!(text.contains("app45") && text.contains("✗ connect"), "{text}");
        for line in text.lines().filter(|_| columns >= 80) {
            assert!(width(line) <= columns, "{columns}: {line}");
        }
    }
    assert_eq!(
        render(
            &status,
            Frame {
                lines: None,
                ..wide()
            }
        )
        .lines()
        .count(),
        50 + 2 + 4
    );
}

#[test]
fn what_a_peer_says_cannot_paint_the_screen() {
    let text = render(&degraded(), wide());
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
}

#[test]
fn the_json_form_keeps_its_fields() {
    let text = serde_json::to_string_pretty(&degraded()).unwrap() + "\n";
    snapshot::check("status.json", &text);
}

#[test]
fn where_reads_go_is_shown_when_it_is_asked_for() {
    let spread = SpreadReport {
        obstacle: None,
        unwatched: 3,
        primary_total: 250,
        replica_total: 750,
        held_total: 12,
        diverted_total: [("after_write".to_owned(), 7), ("function".to_owned(), 2)].into(),
        queued_total: 0,
        replicas: vec![ReplicaReport {
            server: "b".parse().unwrap(),
            behind_ms: None,
            usable: false,
        }],
        pools: vec![PoolReport {
            server: "a".parse().unwrap(),
            used: 4,
            limit: 60,
            waiting: 2,
        }],
    };
    let with = |spread: Option<SpreadReport>| {
        let mut a = server("a", 1, Some(DatabaseRole::Primary));
        let tiers = &mut a.report.as_mut().unwrap().tiers;
        tiers[1].detail = TierDetail::Sql(SqlReport {
            spread,
            ..SqlReport::default()
        });
        fleet(vec![a])
    };
    let frame = Frame { wide: true, ..wide() };
    let text = render(&with(Some(spread.clone())), frame);
    for part in [
        "75 %",
        "a 4/60 (2 wait)",
        "b not read from (silent)",
        "7 because no replica had what was written, 2 that call functions",
        "3 connections are from before",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let nothing = [
        render(&with(None), frame),
        render(&with(Some(spread.clone())), wide()),
    ];
    assert!(nothing.iter().all(|text| !text.contains("SQL PROXY")));
    let stuck = SpreadReport {
        obstacle: Some("sql-account.json is not there yet".to_owned()),
        ..spread
    };
    let text = render(&with(Some(stuck)), frame);
    assert!(
        text.contains("spreads no reads: sql-account.json is not there yet"),
        "{text}"
    );
}
