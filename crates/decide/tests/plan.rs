//! Plans: what they say, what they refuse, and that they are stable.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a panic is the report

use std::collections::BTreeMap;

use pontoon_config::Config;
use pontoon_decide::facts::{DatabaseFacts, ListenerFact, RunBy, ServerFacts, Tools};
use pontoon_decide::plan::{Action, Plan, Sign, plan};
use pontoon_fleet::{Code, Engine, Revision, ServerName};

const ONE: &str = include_str!("../../config/examples/fleet-1.toml");

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn config(text: &str) -> Config {
    Config::parse(text).unwrap()
}

fn two() -> String {
    format!("{ONE}\n[[server]]\nname = \"b\"\nprivate = \"10.0.0.2\"\npublic = [\"203.0.113.20\"]\n")
}

fn listener(at: &str, program: &str) -> ListenerFact {
    ListenerFact {
        at: at.parse().unwrap(),
        program: program.to_owned(),
        pid: Some(4711),
    }
}

fn facts() -> ServerFacts {
    ServerFacts {
        debian: "12.8".to_owned(),
        cores: 4,
        memory_bytes: 8 << 30,
        disk_free_bytes: 50 << 30,
        addresses: vec!["10.0.0.1".parse().unwrap()],
        database: Some(DatabaseFacts {
            engine: Engine::Mariadb,
            version: "10.11.6-MariaDB-0+deb12u1".to_owned(),
            socket: Some("/run/mysqld/mysqld.sock".into()),
            port: Some(3306),
            datadir: "/var/lib/mysql".into(),
            size_bytes: 1_200 << 20,
            databases: 3,
            run_by: RunBy::Unit("mariadb.service".to_owned()),
            settings_active: false,
        }),
        listeners: vec![
            listener("127.0.0.1:3306", "mariadbd"),
            listener("/run/mysqld/mysqld.sock", "mariadbd"),
            listener("127.0.0.1:8080", "php"),
        ],
        app_answers: Some(true),
        tools: Tools {
            mariadb_backup: true,
            mbstream: true,
            dump: false,
        },
    }
}

/// After the first plan was carried out.
fn settled() -> ServerFacts {
    let mut facts = facts();
    let database = facts.database.as_mut().unwrap();
    database.port = Some(3307);
    database.socket = Some("/run/mysqld/mysqld-server.sock".into());
    database.settings_active = true;
    facts.listeners = vec![
        listener("127.0.0.1:3307", "mariadbd"),
        listener("10.0.0.1:3307", "mariadbd"),
        listener("127.0.0.1:3306", "pontoon"),
        listener("/run/mysqld/mysqld.sock", "pontoon"),
        listener("203.0.113.10:80", "pontoon"),
        listener("10.0.0.1:7400", "pontoon"),
    ];
    facts
}

fn all<const N: usize>(facts: [(&str, ServerFacts); N]) -> BTreeMap<ServerName, ServerFacts> {
    facts
        .into_iter()
        .map(|(server, facts)| (name(server), facts))
        .collect()
}

fn codes(plan: &Plan) -> Vec<Code> {
    plan.blockers.iter().map(|blocker| blocker.code).collect()
}

#[test]
fn the_first_plan_is_that_of_the_mock_up() {
    let plan = plan(None, &config(ONE), &all([("a", facts())]));
    let lines: Vec<_> = plan
        .steps
        .iter()
        .map(|s| format!("{} {} {} {}", s.server, s.sign.as_char(), s.subject, s.text))
        .collect();
    assert_eq!(
        lines,
        [
            "a ~ mariadb port 3306 → 3307, socket moved, log_bin on, gtid_strict_mode on",
            "a + sqlproxy 127.0.0.1:3306, /run/mysqld/mysqld.sock",
            "a + edge 203.0.113.10:80  → 127.0.0.1:8080",
        ]
    );
    assert!(plan.is_allowed(), "{:?}", plan.blockers);
    let Action::DatabaseMoveAside(moved) = &plan.steps[0].action else {
        panic!("{:?}", plan.steps[0])
    };
    assert_eq!((moved.from_port, moved.to_port), (Some(3306), Some(3307)));
    assert_eq!(
        moved.to_socket.as_deref(),
        Some("/run/mysqld/mysqld-server.sock".as_ref())
    );
    let text = plan.render();
    assert!(text.starts_with("fleet notes  revision 0 → 1"), "{text}");
    assert!(
        text.contains("restart, ~2 s") && text.contains("! 1 step interrupts service"),
        "{text}"
    );
    assert!(
        text.ends_with(&format!(
            "3 to change. Apply exactly this:  pontoon apply {}\n",
            plan.id
        )),
        "{text}"
    );
}

#[test]
fn nothing_to_do_is_nothing_to_do() {
    let config = config(ONE);
    let plan = plan(Some((&config, Revision(1))), &config, &all([("a", settled())]));
    assert!(plan.is_empty() && plan.is_allowed(), "{plan:?}");
    assert!(plan.render().contains("Nothing to change."));
}

#[test]
fn the_same_plan_has_the_same_id_and_another_has_another() {
    let (one, facts) = (config(ONE), all([("a", facts())]));
    let first = plan(None, &one, &facts);
    assert_eq!(first, plan(None, &one, &facts));
    assert_eq!(first.id.len(), 8);
    let other = config(&ONE.replace("3307", "3308"));
    assert_ne!(first.id, plan(None, &other, &facts).id);
    assert_ne!(first.id, plan(Some((&one, Revision(1))), &other, &facts).id);
    assert_ne!(
        first.id,
        plan(None, &one, &all([("a", settled())])).id,
        "the facts changed"
    );
    let json = serde_json::to_string(&first).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), first);
}

#[test]
fn a_web_server_in_the_way_is_named_and_not_stopped() {
    for (at, blocks) in [
        ("0.0.0.0:80", true),
        ("203.0.113.10:80", true),
        ("[::]:80", true),
        ("127.0.0.1:80", false),
    ] {
        let mut facts = facts();
        facts.listeners.push(listener(at, "nginx"));
        let plan = plan(None, &config(ONE), &all([("a", facts)]));
        assert_eq!(
            codes(&plan),
            if blocks { vec![Code::P006] } else { Vec::new() },
            "{at}"
        );
        if blocks {
            assert_eq!(plan.blockers[0].what, "nginx must release :80 on a");
            assert!(plan.render().contains("nothing can be applied yet"));
        }
    }
}

#[test]
fn what_a_plan_refuses() {
    let check = |change: &dyn Fn(&mut ServerFacts)| {
        let mut facts = facts();
        change(&mut facts);
        codes(&plan(None, &config(ONE), &all([("a", facts)])))
    };
    assert_eq!(check(&|facts| facts.database = None), [Code::D009]);
    assert_eq!(
        check(&|facts| facts.database.as_mut().unwrap().version = "10.5.1-MariaDB".into()),
        [Code::D001]
    );
    assert_eq!(
        check(&|facts| facts.database.as_mut().unwrap().version = "garbage".into()),
        [Code::D001]
    );
    assert_eq!(
        check(&|facts| facts.database.as_mut().unwrap().engine = Engine::Mysql)[0],
        Code::D002
    );
    assert_eq!(
        check(&|facts| facts.listeners.push(listener("0.0.0.0:3307", "redis"))),
        [Code::P006]
    );
    assert_eq!(
        check(&|facts| facts.listeners.push(listener("127.0.0.1:3307", ""))),
        [Code::P006]
    );
    let later = config(&ONE.replace("[db]", "[capacity]\nobjective = { p99 = \"1s\" }\n[db]"));
    assert_eq!(codes(&plan(None, &later, &all([("a", facts())]))), [Code::C010]);
}

#[test]
fn a_second_server_needs_facts_tools_room_and_a_database_that_is_not_older() {
    let (one, both) = (config(ONE), config(&two()));
    let active = Some((&one, Revision(1)));
    let silent = plan(active, &both, &all([("a", settled())]));
    assert_eq!(codes(&silent), [Code::P004]);
    assert!(silent.blockers[0].what.contains("has not joined"));
    let mut b = facts();
    b.listeners.clear();
    let good = plan(active, &both, &all([("a", settled()), ("b", b.clone())]));
    assert!(good.is_allowed(), "{:?}", good.blockers);
    let of_b: Vec<_> = good
        .of(&name("b"))
        .map(|step| (step.sign, step.subject.as_str()))
        .collect();
    assert_eq!(
        of_b,
        [
            (Sign::Add, "server"),
            (Sign::Change, "mariadb"),
            (Sign::Add, "sqlproxy"),
            (Sign::Add, "edge")
        ]
    );
    let check = |change: &dyn Fn(&mut ServerFacts)| {
        let mut b = b.clone();
        change(&mut b);
        codes(&plan(active, &both, &all([("a", settled()), ("b", b)])))
    };
    assert_eq!(check(&|b| b.tools.mbstream = false), [Code::D007]);
    assert_eq!(check(&|b| b.disk_free_bytes = 1 << 30), [Code::D010]);
    assert_eq!(
        check(&|b| b.database.as_mut().unwrap().version = "10.6.1-MariaDB".into()),
        [Code::D002]
    );
    assert_eq!(
        check(&|b| b.database.as_mut().unwrap().version = "11.4.1-MariaDB".into()),
        []
    );
}

#[test]
fn a_server_that_leaves_gets_its_database_back() {
    let (one, both) = (config(ONE), config(&two()));
    let mut b = settled();
    b.listeners.clear();
    let leaves = plan(
        Some((&both, Revision(2))),
        &one,
        &all([("a", settled()), ("b", b)]),
    );
    let of_b: Vec<_> = leaves.of(&name("b")).map(|step| step.action.clone()).collect();
    assert!(
        matches!(
            of_b.as_slice(),
            [Action::EdgeStop, Action::SqlProxyStop, Action::DatabaseMoveBack(back), Action::ServerRemoved]
                if back.to_port == Some(3306) && back.to_socket.as_deref() == Some("/run/mysqld/mysqld.sock".as_ref())
        ),
        "{of_b:?}"
    );
    let dead = plan(Some((&both, Revision(2))), &one, &all([("a", settled())]));
    assert!(dead.is_allowed());
    let of_b: Vec<_> = dead.of(&name("b")).map(|step| step.action.clone()).collect();
    assert_eq!(of_b, [Action::ServerRemoved]);
    assert!(
        dead.notes
            .iter()
            .any(|note| note.starts_with("b does not answer")),
        "{:?}",
        dead.notes
    );
}

#[test]
fn the_proxy_lets_go_of_the_port_before_the_database_takes_it() {
    let one = config(ONE);
    let without = ONE
        .lines()
        .filter(|line| !line.starts_with("listen") && !line.starts_with("server_port"))
        .collect::<Vec<_>>()
        .join("\n");
    let without = config(&format!("{without}\nproxy = false\n"));
    let plan = plan(Some((&one, Revision(1))), &without, &all([("a", settled())]));
    let Action::DatabaseMoveAside(back) = &plan.steps[1].action else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!(plan.steps[0].action, Action::SqlProxyStop);
    assert_eq!(
        (back.to_port, back.to_socket.as_deref()),
        (Some(3306), Some("/run/mysqld/mysqld.sock".as_ref()))
    );
    assert!(plan.is_allowed(), "{:?}", plan.blockers);
    assert!(
        plan.render().contains("refused until it is back"),
        "{}",
        plan.render()
    );
}

#[test]
fn what_cannot_change_under_way_is_refused() {
    let one = config(ONE);
    for (from, to) in [
        ("name    = \"notes\"", "name    = \"other\""),
        ("10.0.0.1", "10.0.0.9"),
        ("[fleet]", "[fleet]\nport = 7500"),
    ] {
        let changed = config(&ONE.replacen(from, to, 1));
        let plan = plan(Some((&one, Revision(1))), &changed, &all([("a", settled())]));
        assert_eq!(codes(&plan), [Code::C010], "{from} → {to}: {:?}", plan.blockers);
    }
}

#[test]
fn where_it_stands_who_is_primary_does_not_move_under_way() {
    let with = |lease: &str| config(&format!("{ONE}\n[lease]\n{lease}\n"));
    let etcd = "store = \"etcd\"\nendpoints = [\"10.0.0.8:2379\", \"10.0.0.9:2379\"]";
    let bucket = "store = \"s3\"\nbucket = \"notes-fleet\"";
    let codes_of =
        |from: &Config, to: &Config| codes(&plan(Some((from, Revision(1))), to, &all([("a", settled())])));
    assert_eq!(
        codes_of(&config(ONE), &with(etcd)),
        [],
        "given to a running fleet"
    );
    assert_eq!(
        codes_of(&with(etcd), &config(ONE)),
        [Code::C010],
        "and not taken away"
    );
    assert_eq!(codes_of(&with(etcd), &with(bucket)), [Code::C010]);
    assert_eq!(
        codes_of(&with(bucket), &with("store = \"s3\"\nbucket = \"other-fleet\"")),
        [Code::C010]
    );
    let grown = "store = \"etcd\"\nendpoints = [\"10.0.0.9:2379\", \"10.0.0.7:2379\"]";
    assert_eq!(codes_of(&with(etcd), &with(grown)), [], "a member is replaced");
    let keys = format!("{bucket}\ncredentials = {{ file = \"/etc/pontoon/s3\" }}");
    assert_eq!(codes_of(&with(bucket), &with(&keys)), []);
}

#[test]
fn a_change_that_touches_no_process_is_still_a_change() {
    let one = config(ONE);
    let more = config(&ONE.replace(
        "[\"notes.example.com\"]",
        "[\"notes.example.com\", \"www.example.com\"]",
    ));
    let plan = plan(Some((&one, Revision(1))), &more, &all([("a", settled())]));
    assert_eq!(plan.steps.len(), 1);
    assert_eq!(plan.steps[0].action, Action::FleetSettings);
}
