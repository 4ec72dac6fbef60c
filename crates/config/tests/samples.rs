//! The three sample files mean what their comments say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a panic is the report

use std::collections::BTreeSet;
use std::time::Duration;

use pontoon_config::{
    AddressMethod, AfterWrite, Config, Credentials, Durability, Failover, LeaseStore, WhenAlone, not_yet,
};
use pontoon_fleet::{Engine, ListenAddress, Role};

const ONE: &str = include_str!("../examples/fleet-1.toml");
const TWO: &str = include_str!("../examples/fleet-2.toml");
const SIX: &str = include_str!("../examples/fleet-6.toml");

fn parse(text: &str) -> Config {
    Config::parse(text)
        .unwrap_or_else(|errors| panic!("{}", pontoon_config::render_all(&errors, text, "sample")))
}

#[test]
fn rung_one() {
    let config = parse(ONE);
    assert_eq!(config.fleet.name.as_str(), "notes");
    assert_eq!(config.fleet.domains, ["notes.example.com"]);
    assert_eq!(
        (
            config.ports().agent,
            config.ports().edge_relay,
            config.ports().sql_relay
        ),
        (7400, 7401, 7402)
    );
    let [a] = config.servers.as_slice() else {
        panic!("one server")
    };
    assert_eq!(a.roles, BTreeSet::from(Role::ALL), "roles omitted = all");
    assert_eq!(config.edge_listen(a), ["203.0.113.10:80".parse().unwrap()]);
    let app = config.app.as_ref().unwrap();
    assert_eq!(app.upstream, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(
        (app.health.path.as_deref(), app.health.expect),
        (Some("/up"), Some(200))
    );
    assert_eq!(app.health.interval, Duration::from_secs(1));
    let db = config.db.as_ref().unwrap();
    assert_eq!(
        (db.engine, db.server_port, db.proxy),
        (Engine::Mariadb, 3307, true)
    );
    let unix = ListenAddress::Unix("/run/mysqld/mysqld.sock".into());
    assert_eq!(db.listen, ["127.0.0.1:3306".parse().unwrap(), unix]);
    assert_eq!(
        db.server_socket.as_deref(),
        Some("/run/mysqld/mysqld-server.sock".as_ref())
    );
    assert_eq!(db.hold_writes, Duration::from_secs(10));
    assert_eq!(config.lease_store(), LeaseStore::Single);
    assert_eq!(not_yet(&config), [], "this version does all of rung one");
}

#[test]
fn rung_two() {
    let config = parse(TWO);
    assert_eq!(config.servers.len(), 2);
    let db = config.db.as_ref().unwrap();
    assert_eq!(db.failover, Some(Failover::Auto));
    assert_eq!(db.durability, Some(Durability::TwoCopies));
    assert_eq!(db.when_alone, Some(WhenAlone::Continue));
    let reads = db.reads.unwrap();
    assert_eq!(
        (reads.split, reads.max_lag, reads.after_write),
        (true, Duration::from_secs(1), AfterWrite::FleetWide)
    );
    let lease = config.lease.as_ref().unwrap();
    assert_eq!(lease.ttl, Duration::from_secs(6));
    assert_eq!(
        lease.store,
        LeaseStore::S3 {
            bucket: "notes-fleet".to_owned(),
            endpoint: Some("https://s3.eu-central-1.amazonaws.com".to_owned()),
            credentials: Some(Credentials::Systemd("s3".to_owned())),
        }
    );
    let assets = config.assets.as_ref().unwrap();
    assert_eq!(
        (assets.url.as_str(), assets.bucket.as_str()),
        ("/wp-content/uploads/", "notes-uploads")
    );
    assert_eq!(config.ip.as_ref().unwrap().method, AddressMethod::Arp);
    assert_eq!(config.dns.as_ref().unwrap().ttl, Duration::from_secs(30));
    let later = not_yet(&config);
    let paths: Vec<_> = later.iter().map(|later| later.path.as_str()).collect();
    assert_eq!(paths, ["assets"],);
    for later in &later {
        let span = later.span.clone().unwrap();
        let key = later.path.rsplit('.').next().unwrap();
        assert_eq!(&TWO[span], key, "{} is shown at its key", later.path);
    }
}

#[test]
fn failover_is_between_two_database_servers_and_loses_nothing() {
    let shared = "[lease]\nstore = \"s3\"\nbucket = \"notes-fleet\"\n";
    let paths = |servers: &[&str], db: &str, lease: &str| {
        let mut text = "version = 1\n[fleet]\nname = \"notes\"\n".to_owned();
        for (number, server) in servers.iter().enumerate() {
            text += &format!(
                "[[server]]\nname = \"{server}\"\nprivate = \"10.0.0.{}\"\n",
                number + 1
            );
        }
        text += &format!("[db]\nengine = \"mysql\"\nlisten = [\"127.0.0.1:3306\"]\n{db}\n{lease}");
        let later = not_yet(&parse(&text));
        later.into_iter().map(|later| later.path).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(paths(&["a", "b"], "failover = \"auto\"", shared), none);
    assert_eq!(paths(&["a", "b"], "failover = \"manual\"", shared), none);
    assert_eq!(paths(&["a", "b"], "durability = \"two-copies\"", shared), none);
    assert_eq!(paths(&["a", "b"], "durability = \"one-copy\"", ""), none);
    assert_eq!(
        paths(&["a", "b"], "durability = \"two-copies\"", ""),
        ["db.durability"],
        "nobody waits while the primary cannot change"
    );
    assert_eq!(paths(&["a", "b"], "durability = \"one-copy\"", shared), none);
    assert_eq!(paths(&["a", "b", "c"], "failover = \"auto\"", shared), none);
    assert_eq!(paths(&["a", "b", "c"], "durability = \"quorum\"", shared), none);
    assert_eq!(
        paths(&["a", "b", "c"], "durability = \"quorum\"", ""),
        ["db.durability"],
        "nobody waits while the primary cannot change"
    );
}

#[test]
fn rung_three() {
    let config = parse(SIX);
    assert_eq!(config.servers.len(), 6);
    assert!(
        config
            .servers
            .iter()
            .all(|server| server.zone.as_deref() == Some("fsn1")),
        "[defaults.server]"
    );
    let standby: Vec<_> = config
        .servers
        .iter()
        .filter(|server| server.standby)
        .map(|s| s.name.as_str())
        .collect();
    assert_eq!(standby, ["lb2"]);
    let names = |role| {
        config
            .with_role(role)
            .map(|server| server.name.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(Role::Edge), ["lb1", "lb2"]);
    assert_eq!(names(Role::App), ["app1", "app2"]);
    assert_eq!(names(Role::Db), ["db1", "db2"]);
    let app = config.app.as_ref().unwrap();
    assert_eq!(app.retries.methods, ["GET", "HEAD"]);
    assert_eq!((app.retries.max, app.retries.budget), (1, 20_000));
    assert_eq!(app.drain, Duration::from_secs(10));
    for server in &config.servers {
        let is_app = server.roles.contains(&Role::App);
        assert_eq!(
            !config.sql_listen(server).is_empty(),
            is_app,
            "a proxy on every app server"
        );
        assert_eq!(
            config.runs_edge(server),
            server.roles.contains(&Role::Edge),
            "no relay: upstream is reachable"
        );
    }
    let cache = config.cache.as_ref().unwrap();
    assert_eq!((cache.memory_bytes, cache.copies), (512 << 20, 1));
    assert!(matches!(config.lease_store(), LeaseStore::Etcd { endpoints, .. } if endpoints.len() == 3));
    let capacity = config.capacity.unwrap();
    assert_eq!(
        (capacity.p99, capacity.errors, capacity.warn_at),
        (Duration::from_millis(500), 100, 70_000)
    );
    let paths: Vec<_> = not_yet(&config).into_iter().map(|later| later.path).collect();
    let wanted = ["assets", "capacity"];
    assert_eq!(paths, wanted);
}

#[test]
fn each_prints_as_something_that_means_the_same() {
    for text in [ONE, TWO, SIX] {
        let config = parse(text);
        let printed = config.to_toml();
        assert_eq!(parse(&printed), config, "{printed}");
        let paths = |config: &Config| {
            not_yet(config)
                .into_iter()
                .map(|later| later.path)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            paths(&parse(&printed)),
            paths(&config),
            "a printed default asks for nothing more"
        );
    }
}
