use std::time::Duration;

use pontoon_fleet::{
    CacheReport, CacheServerReport, Epoch, FleetView, LeaseRecord, PoolReport, Ports, ReplicaReport,
    Revision, Role, ServerState, ServerView, SpreadReport,
};

use super::*;

fn registry() -> Registry {
    Registry::new(&"a".parse().unwrap(), "edge", "0.1.0")
}

fn has(text: &str, line: &str) {
    assert!(
        text.lines().any(|have| have == line),
        "{line:?} is not in\n{text}"
    );
}

#[test]
fn the_caches_numbers_are_those_of_its_report() {
    let mut registry = registry();
    let cache = CacheMetrics::register(&mut registry);
    let mut report = CacheReport {
        clients: 3,
        connections_total: 9,
        requests_total: 100,
        missed_total: 2,
        failed_total: 1,
        waited_total: 4,
        list: Some(7),
        closed: 7,
        servers: vec![CacheServerReport {
            server: "a".parse().unwrap(),
            trouble: Some("it does not answer".to_owned()),
        }],
        trouble: None,
        not_listening: Vec::new(),
    };
    cache.set(&report);
    report.requests_total = 150;
    report.list = None;
    cache.set(&report);
    let text = registry.encode();
    for line in [
        "pontoon_cache_clients 3",
        "pontoon_cache_requests_total 150",
        "pontoon_cache_reads_missed_total 2",
        "pontoon_cache_reads_waited_total 4",
        "pontoon_cache_list 0",
        "pontoon_cache_server_up{server=\"a\"} 0",
    ] {
        has(&text, line);
    }
}

#[test]
fn the_edges_numbers_read_as_the_text_format_says() {
    let mut registry = registry();
    let edge = EdgeMetrics::register(&mut registry, 2, &["bare line feed", "head too large"]);
    let [first, second] = edge.threads() else {
        panic!("two threads")
    };
    for status in [200, 204, 302, 404, 502, 999] {
        first.answered(status, Duration::from_millis(3));
    }
    second.answered(200, Duration::from_secs(100));
    second.retried(RetryReason::Connect);
    first.tls_failed(TlsFailure::Certificate);
    first.rejected(1);
    second.rejected(1);
    second.rejected(2);
    first.connected();
    let running = second.begin();
    let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
    edge.upstreams([(&a, true), (&b, false)].into_iter());
    let text = registry.encode();
    for line in [
        "pontoon_build_info{version=\"0.1.0\",process=\"edge\",server=\"a\"} 1",
        "# TYPE pontoon_edge_requests counter",
        "pontoon_edge_requests_total{code_class=\"2xx\"} 3",
        "pontoon_edge_requests_total{code_class=\"5xx\"} 1",
        "pontoon_edge_requests_total{code_class=\"other\"} 1",
        "# TYPE pontoon_edge_request_duration_seconds histogram",
        "pontoon_edge_request_duration_seconds_bucket{le=\"0.0025\"} 0",
        "pontoon_edge_request_duration_seconds_bucket{le=\"0.005\"} 6",
        "pontoon_edge_request_duration_seconds_bucket{le=\"60.0\"} 6",
        "pontoon_edge_request_duration_seconds_bucket{le=\"+Inf\"} 7",
        "pontoon_edge_request_duration_seconds_count 7",
        "pontoon_edge_request_duration_seconds_sum 100.018",
        "pontoon_edge_inflight_requests 1",
        "pontoon_edge_client_connections 1",
        "pontoon_edge_rejected_total{reason=\"head too large\"} 2",
        "pontoon_edge_rejected_total{reason=\"bare line feed\"} 0",
        "pontoon_edge_failed_requests_total 0",
        "pontoon_edge_retries_total{reason=\"connect\"} 1",
        "pontoon_edge_retries_total{reason=\"closed\"} 0",
        "pontoon_edge_tls_handshake_failures_total{reason=\"certificate\"} 1",
        "pontoon_edge_upstream_healthy{upstream=\"b\"} 0",
        "# EOF",
    ] {
        has(&text, line);
    }
    let totals = edge.totals();
    assert_eq!((totals.requests, totals.retried, totals.in_flight), (7, 1, 1));
    drop(running);
    edge.upstreams([(&a, true)].into_iter());
    let text = registry.encode();
    has(&text, "pontoon_edge_inflight_requests 0");
    assert!(
        !text.contains("upstream=\"b\""),
        "a server that left is no longer shown"
    );
}

#[test]
fn the_sql_proxys_numbers() {
    let mut registry = registry();
    let sql = SqlMetrics::register(&mut registry);
    let open = sql.served(ConnectionState::Relayed);
    let held = sql.hold();
    sql.refused();
    let text = registry.encode();
    has(&text, "pontoon_sql_connections_total{result=\"served\"} 1");
    has(&text, "pontoon_sql_connections_total{result=\"refused\"} 1");
    has(&text, "pontoon_sql_pool_connections{state=\"relayed\"} 1");
    has(&text, "pontoon_sql_pool_connections{state=\"local\"} 0");
    has(&text, "pontoon_sql_held_queries 1");
    drop((open, held));
    let text = registry.encode();
    has(&text, "pontoon_sql_pool_connections{state=\"relayed\"} 0");
    has(&text, "pontoon_sql_hold_duration_seconds_count 1");
}

#[test]
fn the_agents_numbers_follow_the_view() {
    let mut registry = registry();
    let agent = AgentMetrics::register(&mut registry);
    let server = |name: &str, state| ServerView {
        name: name.parse().unwrap(),
        private: [198, 51, 100, 1].into(),
        public: Vec::new(),
        roles: [Role::Edge, Role::Db].into(),
        zone: None,
        standby: false,
        state,
        ports: Ports::from_base(7400),
        edge_listen: Vec::new(),
        weight: 1,
        drained_at: None,
    };
    let mut view = FleetView {
        fleet: "notes".parse().unwrap(),
        revision: Revision(4),
        epoch: Epoch(1),
        serial: 1,
        assets: None,
        takeover: None,
        routed: false,
        cache: None,
        servers: vec![
            server("a", ServerState::Draining),
            server("b", ServerState::Unreachable),
        ],
        app: None,
        https: None,
        sql: None,
        limits: Default::default(),
        front: Default::default(),
        dns: None,
        addresses: Vec::new(),
        answers: Default::default(),
        addresses_changed: pontoon_fleet::UnixMillis::default(),
    };
    agent.view(&view);
    let lease = LeaseRecord {
        epoch: Epoch(1),
        leader: "a".parse().unwrap(),
    };
    agent.lease(Some(&lease), view.servers.iter().map(|server| &server.name));
    agent.replication(Some(Duration::from_millis(1500)), Some(3));
    agent.replication_error(1062);
    agent.pending_changes(2);
    let text = registry.encode();
    for line in [
        "pontoon_server_up{server=\"a\"} 1",
        "pontoon_server_up{server=\"b\"} 0",
        "pontoon_role{server=\"b\",role=\"db\"} 1",
        "pontoon_lease_held{server=\"a\"} 1",
        "pontoon_lease_held{server=\"b\"} 0",
        "pontoon_fleet_revision 4",
        "pontoon_plan_pending_changes 2",
        "pontoon_db_replication_lag_seconds 1.5",
        "pontoon_db_replication_transactions_behind 3.0",
        "pontoon_db_replication_errors_total{code=\"1062\"} 1",
    ] {
        has(&text, line);
    }
    view.servers.pop();
    agent.view(&view);
    agent.replication(None, None);
    let text = registry.encode();
    assert!(!text.contains("pontoon_server_up{server=\"b\"}") && !text.contains("pontoon_role{server=\"b\""));
    has(&text, "pontoon_db_replication_lag_seconds NaN");
    has(&text, "pontoon_db_replication_transactions_behind NaN");
}

#[test]
fn threads_add_without_losing_any() {
    let histogram = AtomicHistogram::new(&[0.5, 1.0]);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let histogram = histogram.clone();
            std::thread::spawn(move || {
                (0..10_000).for_each(|_| histogram.observe(Duration::from_millis(700)))
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(histogram.count(), 40_000);
}

#[test]
fn where_statements_went_and_why() {
    let mut registry = registry();
    let sql = SqlMetrics::register(&mut registry);
    sql.query(Route::Replica, Verb::Select, Duration::from_millis(2));
    sql.query(Route::Primary, Verb::Insert, Duration::from_millis(3));
    sql.diverted(Diverted::AfterWrite);
    sql.placed(&Placed {
        reads: [5, 4, 3, 2, 1],
        questions: 9,
        doubts: [8, 7],
    });
    let queued = sql.queue();
    let mut report = SpreadReport {
        unwatched: 2,
        replicas: vec![ReplicaReport {
            server: "b".parse().unwrap(),
            behind_ms: Some(40),
            usable: true,
        }],
        pools: vec![PoolReport {
            server: "a".parse().unwrap(),
            used: 3,
            limit: 60,
            waiting: 0,
        }],
        ..SpreadReport::default()
    };
    sql.show(&report);
    let text = registry.encode();
    for line in [
        "pontoon_sql_queries_total{route=\"replica\",verb=\"select\"} 1",
        "pontoon_sql_queries_total{route=\"primary\",verb=\"insert\"} 1",
        "pontoon_sql_query_duration_seconds_count{route=\"replica\"} 1",
        "pontoon_sql_reads_diverted_total{reason=\"after_write\"} 1",
        "pontoon_sql_reads_placed_total{result=\"behind\"} 3",
        "pontoon_sql_floor_questions_total 9",
        "pontoon_sql_floor_doubts_total{from=\"elsewhere\"} 7",
        "pontoon_sql_queued_queries 1",
        "pontoon_sql_unwatched_connections 2",
        "pontoon_sql_pool_places{server=\"a\",state=\"limit\"} 60",
        "pontoon_sql_replica_usable{server=\"b\"} 1",
    ] {
        has(&text, line);
    }
    drop(queued);
    sql.fill(&mut report);
    assert_eq!((report.primary_total, report.replica_total), (1, 1));
    assert_eq!((report.held_total, report.queued_total), (4, 1));
    assert_eq!(report.diverted_total, [("after_write".to_owned(), 1)].into());
    sql.show(&SpreadReport::default());
    assert!(
        !registry.encode().contains("server=\"b\""),
        "a replica that left is no longer shown"
    );
}
