use std::path::PathBuf;

use clap::Parser;
use pontoon_agent::detect::addresses::Address;
use pontoon_agent::detect::system::System;
use pontoon_config::{Config, starter};
use pontoon_decide::{ListenerFact, RunBy, ServerFacts, Tools};
use pontoon_fleet::Engine;

use super::*;
use crate::args::{Cli, Command};

fn typed(line: &str) -> Init {
    match Cli::try_parse_from(format!("pontoon init {line}").split_whitespace())
        .unwrap()
        .command
    {
        Command::Init(args) => args,
        other => panic!("{other:?}"),
    }
}

fn listener(at: &str, program: &str) -> ListenerFact {
    ListenerFact {
        at: at.parse().unwrap(),
        program: program.to_owned(),
        pid: Some(7),
    }
}

/// A rented server: nginx in front, the application behind it, MariaDB.
fn rented() -> Found {
    let facts = ServerFacts {
        debian: "Debian 12".into(),
        cores: 4,
        memory_bytes: 8 << 30,
        disk_free_bytes: 50 << 30,
        addresses: vec![],
        database: Some(DatabaseFacts {
            engine: Engine::Mariadb,
            version: "10.11.6-MariaDB-0+deb12u1".into(),
            socket: Some(PathBuf::from("/run/mysqld/mysqld.sock")),
            port: Some(3306),
            datadir: PathBuf::from("/var/lib/mysql"),
            size_bytes: 1_288_490_188,
            databases: 3,
            run_by: RunBy::Unit("mariadb.service".into()),
            settings_active: false,
        }),
        listeners: vec![
            listener("0.0.0.0:80", "nginx"),
            listener("127.0.0.1:3306", "mariadbd"),
            listener("127.0.0.1:8080", "php"),
        ],
        app_answers: None,
        tools: Tools::default(),
    };
    let address = |ip: &str, interface: &str| Address {
        ip: ip.parse().unwrap(),
        interface: interface.into(),
    };
    Found {
        system: System {
            name: "Debian 12".into(),
            cores: 4,
            memory_bytes: 8 << 30,
            host_name: "web1.example.com".into(),
        },
        addresses: vec![address("198.51.100.10", "eth0"), address("10.0.0.1", "eth1")],
        facts,
        node: None,
        unsupported: None,
        recipe: Vec::new(),
        port_80: Some("nginx".into()),
        upstream: Some("127.0.0.1:8080".parse().unwrap()),
        upstream_answers: true,
        also_http: vec![],
        health_path: Some("/up"),
    }
}

#[test]
fn a_rented_server_gets_a_file_of_fourteen_lines_that_parses() {
    let found = rented();
    let settled = settle(&found, &typed("--domain www.notes.example.com")).unwrap();
    let text = starter(&settled.starter);
    let config = Config::parse(&text).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"));
    assert_eq!(config.fleet.name.as_str(), "notes");
    assert_eq!(config.servers[0].name.as_str(), "web1");
    assert_eq!(config.servers[0].private, "10.0.0.1".parse::<IpAddr>().unwrap());
    assert_eq!(
        config.servers[0].public,
        ["198.51.100.10".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(config.db.unwrap().server_port, 3307);
    assert!(
        text.lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .count()
            <= 14,
        "{text}"
    );
    assert_eq!(
        settled.notes,
        ["the edge will take port 80: nginx must release it before `pontoon apply`"]
    );
    assert_eq!(
        found.in_words(),
        "Debian 12, 4 cores, 8.0 GiB; MariaDB 10.11 (3 databases, 1.2 GiB) on /run/mysqld/mysqld.sock; nginx on :80; \
         app answers on 127.0.0.1:8080"
    );
}

#[test]
fn where_only_the_web_server_answers_it_is_said_what_to_do() {
    let mut found = rented();
    (found.upstream, found.upstream_answers, found.health_path) = (None, false, None);
    found.port_80 = Some("apache2".into());
    let settled = settle(&found, &typed("")).unwrap();
    assert_eq!(settled.starter.upstream, Some(ASSUMED_UPSTREAM));
    assert!(
        settled
            .notes
            .iter()
            .any(|note| note.contains("/etc/apache2/ports.conf")),
        "{:?}",
        settled.notes
    );
}

#[test]
fn what_was_typed_goes_before_what_was_found() {
    let line = "--name a --fleet shop --private 10.9.9.9 --public 198.51.100.99 --health /status";
    let settled = settle(&rented(), &typed(line)).unwrap();
    let starter = settled.starter;
    assert_eq!((starter.server.as_str(), starter.fleet.as_str()), ("a", "shop"));
    assert_eq!(starter.private, "10.9.9.9".parse::<IpAddr>().unwrap());
    assert_eq!(starter.public, ["198.51.100.99".parse::<IpAddr>().unwrap()]);
    assert_eq!(starter.health_path.as_deref(), Some("/status"));
}

#[test]
fn an_empty_machine_gives_a_file_and_every_assumption_is_said() {
    let mut found = rented();
    found.facts.database = None;
    found.facts.listeners.clear();
    found.addresses.truncate(1);
    (
        found.upstream,
        found.upstream_answers,
        found.health_path,
        found.port_80,
    ) = (None, false, None, None);
    let settled = settle(&found, &typed("")).unwrap();
    Config::parse(&starter(&settled.starter)).unwrap();
    assert_eq!(settled.notes.len(), 3, "{:?}", settled.notes);
    found.addresses.clear();
    assert_eq!(settle(&found, &typed("")).unwrap_err().code, Code::C003);
}

#[test]
fn the_database_moves_to_a_port_that_is_free() {
    let mut found = rented();
    found.facts.listeners.push(listener("127.0.0.1:3307", "node"));
    let settled = settle(&found, &typed("")).unwrap();
    assert_eq!(
        Config::parse(&starter(&settled.starter))
            .unwrap()
            .db
            .unwrap()
            .server_port,
        3308
    );
}

#[test]
fn a_database_that_others_dial_is_not_taken_from_them_silently() {
    let mut found = rented();
    found.facts.listeners[1] = listener("0.0.0.0:3306", "mariadbd");
    let settled = settle(&found, &typed("")).unwrap();
    assert!(
        settled.notes.iter().any(|note| note.contains("0.0.0.0:3306")),
        "{:?}",
        settled.notes
    );
    let listen = settled.starter.db.unwrap().listen;
    assert_eq!(listen[0].to_string(), "127.0.0.1:3306");
}
