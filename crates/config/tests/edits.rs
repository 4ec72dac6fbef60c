//! Edits keep what the user wrote; the starter file is short and complete; the schema knows what the reader knows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a panic is the report

use pontoon_config::edit::{ServerEntry, add_server, remove_server};
use pontoon_config::{Config, Starter, StarterDb, not_yet, render_all, schema, starter};
use pontoon_fleet::{Code, Engine, Role};

const ONE: &str = include_str!("../examples/fleet-1.toml");
const TWO: &str = include_str!("../examples/fleet-2.toml");
const SIX: &str = include_str!("../examples/fleet-6.toml");

fn entry(name: &str, private: &str) -> ServerEntry {
    ServerEntry {
        name: name.parse().unwrap(),
        private: private.parse().unwrap(),
        public: vec!["203.0.113.77".parse().unwrap()],
        roles: None,
        zone: None,
    }
}

#[test]
fn a_server_is_added_behind_the_last_one_and_nothing_else_changes() {
    let after = add_server(ONE, &entry("b", "10.0.0.2")).unwrap();
    let block = "\n[[server]]\nname = \"b\"\nprivate = \"10.0.0.2\"\npublic = [\"203.0.113.77\"]\n";
    assert_eq!(
        after.replacen(block, "", 1),
        ONE,
        "every comment and blank is where it was:\n{after}"
    );
    assert!(
        after.find(block).unwrap() < after.find("[app]").unwrap(),
        "{after}"
    );
    assert_eq!(
        add_server(&after, &entry("b", "10.0.0.2")).unwrap(),
        after,
        "a join can be repeated"
    );
    let back = remove_server(&after, &"b".parse().unwrap()).unwrap();
    assert_eq!(back, ONE);
    assert_eq!(
        remove_server(&back, &"b".parse().unwrap()).unwrap(),
        ONE,
        "a leave can be repeated"
    );
}

#[test]
fn the_other_samples_too() {
    for text in [TWO, SIX] {
        let mut c = entry("c", "10.0.0.99");
        c.roles = Some([Role::App, Role::Edge].into());
        c.zone = Some("nbg1".to_owned());
        let after = add_server(text, &c).unwrap();
        assert!(
            after.contains("roles = [\"edge\", \"app\"]\nzone = \"nbg1\"\n"),
            "{after}"
        );
        for line in text.lines() {
            assert!(after.contains(line), "{line}");
        }
        assert_eq!(remove_server(&after, &c.name).unwrap(), text);
    }
    let without = remove_server(TWO, &"a".parse().unwrap()).unwrap();
    assert_eq!(Config::parse(&without).unwrap().servers.len(), 1);
    let without_b = remove_server(TWO, &"b".parse().unwrap()).unwrap();
    assert!(
        without_b.contains("# a commit is acknowledged once a replica has it"),
        "{without_b}"
    );
}

#[test]
fn what_would_not_be_a_configuration_is_refused() {
    let code = |result: Result<String, Vec<pontoon_config::ConfigError>>| result.unwrap_err()[0].code;
    assert_eq!(
        code(add_server(ONE, &entry("a", "10.0.0.2"))),
        Code::C005,
        "the name is taken"
    );
    assert_eq!(
        code(add_server(ONE, &entry("b", "10.0.0.1"))),
        Code::C005,
        "the address is taken"
    );
    assert_eq!(
        code(add_server("version = ", &entry("b", "10.0.0.2"))),
        Code::C001
    );
    assert_eq!(
        code(remove_server(ONE, &"a".parse().unwrap())),
        Code::C003,
        "the last server"
    );
    let lb1 = remove_server(SIX, &"lb1".parse().unwrap());
    assert_eq!(code(lb1), Code::C006, "then every edge would be a standby");
}

#[test]
fn inline_servers_and_odd_ends() {
    let inline =
        "version = 1\nserver = [{ name = \"a\", private = \"10.0.0.1\" }] # mine\n[fleet]\nname = \"n\"";
    let after = add_server(inline, &entry("b", "10.0.0.2")).unwrap();
    assert_eq!(Config::parse(&after).unwrap().servers.len(), 2, "{after}");
    let last = "version = 1\n[fleet]\nname = \"n\"\n[[server]]\nname = \"a\"\nprivate = \"10.0.0.1\"";
    let after = add_server(last, &entry("b", "10.0.0.2")).unwrap();
    assert!(after.starts_with(last), "{after}");
}

fn facts() -> Starter {
    Starter {
        fleet: "notes".parse().unwrap(),
        domains: vec!["notes.example.com".to_owned()],
        server: "a".parse().unwrap(),
        private: "10.0.0.1".parse().unwrap(),
        public: vec!["203.0.113.10".parse().unwrap()],
        upstream: Some("127.0.0.1:8080".parse().unwrap()),
        health_path: Some("/up".to_owned()),
        db: Some(StarterDb {
            engine: Engine::Mariadb,
            listen: vec![
                "127.0.0.1:3306".parse().unwrap(),
                "/run/mysqld/mysqld.sock".parse().unwrap(),
            ],
            server_port: 3310,
        }),
    }
}

#[test]
fn the_starter_has_fourteen_lines_at_most_and_means_what_was_found() {
    let text = starter(&facts());
    let config =
        Config::parse(&text).unwrap_or_else(|errors| panic!("{}", render_all(&errors, &text, "starter")));
    let lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .count();
    assert!(lines <= 14, "{lines} lines:\n{text}");
    assert_eq!(config.servers[0].private, facts().private);
    assert_eq!(config.app.as_ref().unwrap().health.path.as_deref(), Some("/up"));
    let db = config.db.as_ref().unwrap();
    assert_eq!((&db.listen, db.server_port), (&facts().db.unwrap().listen, 3310));
    assert_eq!(not_yet(&config), []);
    let bare = Starter {
        domains: vec![],
        public: vec![],
        upstream: None,
        health_path: None,
        db: None,
        ..facts()
    };
    Config::parse(&starter(&bare)).unwrap();
}

#[test]
fn the_schema_is_closed_and_described() {
    let schema = schema();
    let mut open = Vec::new();
    let mut tables = 0;
    let mut visit = vec![("root".to_owned(), &schema)];
    while let Some((name, node)) = visit.pop() {
        if let Some(properties) = node.get("properties").and_then(|p| p.as_object()) {
            tables += 1;
            if node.get("additionalProperties") != Some(&false.into()) {
                open.push(name.clone());
            }
            for (key, property) in properties {
                if property.get("description").is_none() {
                    open.push(format!("{name}.{key} has no description"));
                }
            }
        }
        for (key, child) in node.as_object().into_iter().flatten() {
            visit.push((format!("{name}/{key}"), child));
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(tables > 15, "{tables}");
    assert!(schema["properties"]["server"]["items"].is_object(), "{schema:#}");
}
