//! The program as an operator meets it: words in, text and exit status out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use common::{Machine, Ran, compare, http, snapshot};
use pontoon_agent::api::PlanAnswer;

const COMMANDS: [&str; 45] = [
    "init",
    "db",
    "db-status",
    "db-check",
    "db-unstick",
    "db-reseed",
    "db-rejoin",
    "db-switchover",
    "db-failover",
    "db-pause",
    "db-resume",
    "lease",
    "check",
    "plan",
    "apply",
    "token",
    "join",
    "leave",
    "status",
    "events",
    "explain",
    "drain",
    "undrain",
    "app",
    "app-drain",
    "app-undrain",
    "measure",
    "measure-compare",
    "measure-load",
    "measure-selftest",
    "edge-explain",
    "edge-maintenance-off",
    "edge-maintenance-on",
    "edge-purge",
    "schema",
    "completions",
    "man",
    "demo",
    "agent",
    "edge",
    "sql",
    "helper",
    "token-new",
    "sql-explain",
    "sql-top",
];

const ONE_SERVER: &str = r#"version = 1
[fleet]
name = "notes"
[[server]]
name = "a"
private = "198.51.100.1"
[app]
upstream = "127.0.0.1:8080"
"#;

#[test]
fn help_man_pages_and_completions_know_every_command() {
    let machine = Machine::new();
    let help = machine.run(&["--help"]).must_exit(0).out;
    machine
        .run(&["man", machine.path("man").to_str().unwrap()])
        .must_exit(0);
    let bash = machine.run(&["completions", "bash"]).must_exit(0).out;
    for command in COMMANDS {
        let page = std::fs::read_to_string(machine.path(&format!("man/pontoon-{command}.1"))).expect(command);
        assert!(page.contains(".SH NAME") && page.len() > 300, "{command}: {page}");
        let words: Vec<&str> = command.split('-').chain(["--help"]).collect();
        let own = machine.run(&words).must_exit(0).out;
        assert!(own.contains("Usage: pontoon"), "{own}");
        if !command.contains('-') {
            assert!(
                help.contains(&format!("  {command} ")),
                "{command} is not in the help:\n{help}"
            );
            assert!(bash.contains(command), "{command} has no completion");
        }
    }
    assert!(machine.run(&["man"]).must_exit(0).out.contains(".TH pontoon 1"));
    for shell in ["zsh", "fish"] {
        assert!(
            machine
                .run(&["completions", shell])
                .must_exit(0)
                .out
                .contains("undrain")
        );
    }
}

#[test]
fn exit_statuses_say_what_kind_of_no_it_was() {
    let machine = Machine::new();
    machine.run(&[]).must_exit(2);
    machine.run(&["frobnicate"]).must_exit(2);
    machine.run(&["explain", "X999"]).must_exit(2);
    // No configuration.
    let ran = machine.run(&["check"]).must_exit(2);
    assert!(
        ran.err.contains("error[C009]") && ran.err.contains("pontoon init"),
        "{}",
        ran.err
    );
    // No fleet.
    for words in [
        &["status"][..],
        &["events"],
        &["token", "new"],
        &["leave"],
        &["drain", "a"],
        &["edge", "maintenance", "on", "--for", "30m"],
        &["edge", "maintenance", "off"],
        &["edge", "purge", "--prefix", "/"],
        &["apply", "7f3a"],
    ] {
        let ran = machine.run(words).must_exit(2);
        assert!(
            ran.err.contains("error[J007]") && ran.err.contains("pontoon init"),
            "{words:?}: {}",
            ran.err
        );
    }
    // A fleet and no agent.
    machine.belongs_to_a_fleet();
    let ran = machine.run(&["status"]).must_exit(4);
    assert!(ran.err.contains("error[N001]"), "{}", ran.err);
    assert_eq!(
        ran.err.matches("\n  = ").count(),
        2,
        "two next commands: {}",
        ran.err
    );
    // Not a token: refused before anything is started or sent.
    let ran = machine
        .run(&["join", "198.51.100.1", "pon1.nonsense"])
        .must_exit(2);
    assert!(ran.err.contains("error[J002]"), "{}", ran.err);
    assert!(!machine.path("run/agent.pid").exists());
    // An id that is none.
    assert!(
        machine
            .run(&["apply", "../../x"])
            .must_exit(2)
            .err
            .contains("error[P002]")
    );
}

#[test]
fn check_shows_every_mistake_with_its_place() {
    let machine = Machine::new();
    std::fs::write(
        machine.path("fleet.toml"),
        format!("{ONE_SERVER}helth = 3\n[db]\nlissten = []\n"),
    )
    .unwrap();
    let ran = machine.run(&["check"]).must_exit(2);
    assert!(
        ran.err.contains("error[C004]: unknown key `helth`"),
        "{}",
        ran.err
    );
    assert!(
        ran.err.contains("fleet.toml:9:1]") && ran.err.contains("did you mean `listen`?"),
        "{}",
        ran.err
    );
    let json: serde_json::Value =
        serde_json::from_str(&machine.run(&["check", "--json"]).must_exit(2).out).unwrap();
    assert_eq!((&json["version"], &json["valid"]), (&1.into(), &false.into()));
    assert_eq!(
        (&json["errors"][0]["code"], &json["errors"][0]["line"]),
        (&"C004".into(), &9.into())
    );
}

#[test]
fn check_names_what_comes_later_and_apply_refuses_it() {
    let machine = Machine::new();
    std::fs::write(
        machine.path("fleet.toml"),
        format!("{ONE_SERVER}[cache]\nmemory = \"64MiB\"\ncopies = 2\n"),
    )
    .unwrap();
    let ran = machine.run(&["check"]).must_exit(0);
    assert!(
        ran.out.contains("is correct: fleet notes, 1 server") && ran.out.contains("line 11"),
        "{}",
        ran.out
    );
    let json: serde_json::Value =
        serde_json::from_str(&machine.run(&["check", "--json"]).must_exit(0).out).unwrap();
    assert_eq!(json["not_yet"][0]["path"], "cache.copies");
    let ran = machine.run(&["apply", "--yes"]).must_exit(3);
    assert!(
        ran.err.contains("error[C010]") && ran.err.contains("cache.copies: keeping cached items"),
        "{}",
        ran.err
    );
    let json: serde_json::Value =
        serde_json::from_str(&machine.run(&["apply", "--json"]).must_exit(3).out).unwrap();
    assert_eq!(
        (&json["version"], &json["refusal"]["code"]),
        (&1.into(), &"C010".into())
    );
}

#[test]
fn check_says_what_spreading_reads_means_here() {
    let machine = Machine::new();
    let with = |reads: &str| {
        let db = "[db]\nengine = \"mariadb\"\nlisten = [\"127.0.0.1:3306\"]\n";
        std::fs::write(machine.path("fleet.toml"), format!("{ONE_SERVER}{db}{reads}")).unwrap();
    };
    with("reads = { split = true }\n");
    let said = machine.run(&["check"]).must_exit(0).out;
    assert!(
        said.contains("once a second has joined") && !said.contains("not do yet"),
        "{said}"
    );
    let said = machine.run(&["sql", "explain", "SELECT 1"]).must_exit(0).out;
    assert!(said.contains("the primary: reads are not spread here"), "{said}");
    with("reads = { split = false }\n");
    assert!(!machine.run(&["check"]).must_exit(0).out.contains("reads"));
    with("proxy = false\nreads = { split = true }\n");
    assert!(machine.run(&["check"]).must_exit(2).err.contains("C006"));
}

#[test]
fn flags_and_environment_go_before_the_file() {
    let machine = Machine::new();
    std::fs::write(machine.path("fleet.toml"), ONE_SERVER).unwrap();
    let ran = machine.run(&["check", "--set", "fleet.name=shop"]).must_exit(0);
    assert!(ran.out.contains("fleet shop"), "{}", ran.out);
    let mut command = machine.command(&["check"]);
    command.env("PONTOON_SET_FLEET__NAME", "stall");
    assert!(Ran::of(command).must_exit(0).out.contains("fleet stall"));
    let mut both = machine.command(&["check", "--set", "fleet.name=shop"]);
    both.env("PONTOON_SET_FLEET__NAME", "stall");
    assert!(Ran::of(both).must_exit(0).out.contains("fleet shop"));
    assert!(
        machine
            .run(&["check", "--set", "fleet"])
            .must_exit(2)
            .err
            .contains("--set fleet")
    );
    assert!(
        machine
            .run(&["check", "--set", "fleet.nam=x"])
            .must_exit(2)
            .err
            .contains("did you mean `name`?")
    );
    let other = machine.path("other.toml");
    std::fs::write(&other, ONE_SERVER.replace("notes", "other")).unwrap();
    let ran = machine
        .run(&["--config", other.to_str().unwrap(), "check"])
        .must_exit(0);
    assert!(ran.out.contains("fleet other"), "{}", ran.out);
}

#[test]
fn colour_is_for_terminals_unless_asked_for() {
    let machine = Machine::new();
    assert!(
        !machine
            .run(&["explain", "f002"])
            .must_exit(0)
            .out
            .contains('\x1b')
    );
    assert!(
        machine
            .run(&["explain", "f002", "--color", "always"])
            .must_exit(0)
            .out
            .contains('\x1b')
    );
    assert!(!machine.run(&["status", "--color", "never"]).err.contains('\x1b'));
}

#[test]
fn explain_knows_every_code() {
    let machine = Machine::new();
    let list = machine.run(&["explain"]).must_exit(0).out;
    assert!(
        list.lines().count() > 30 && list.contains("P001  the fleet changed"),
        "{list}"
    );
    let one = machine.run(&["explain", "P001"]).must_exit(0).out;
    assert!(one.contains("exit status 5"), "{one}");
    let json: serde_json::Value =
        serde_json::from_str(&machine.run(&["explain", "--json"]).must_exit(0).out).unwrap();
    assert_eq!(json["codes"].as_array().unwrap().len(), list.lines().count());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let machine = Machine::new();
    let mut child = machine
        .command(&["schema"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().unwrap()).must_exit(0);
    assert_eq!(ran.err, "");
}

#[test]
fn status_shows_what_the_agent_says_and_check_exits_by_it() {
    let machine = Machine::new();
    machine.agent_says(http("200 OK", &snapshot("status.json")));
    let ran = machine.run(&["status"]).must_exit(0);
    assert_eq!(ran.out, snapshot("status-degraded.txt"));
    machine.run(&["status", "--check"]).must_exit(11);
    let json: serde_json::Value =
        serde_json::from_str(&machine.run(&["status", "--json"]).must_exit(0).out).unwrap();
    assert_eq!(
        json,
        serde_json::from_str::<serde_json::Value>(&snapshot("status.json")).unwrap()
    );
    let down = Machine::new();
    down.agent_says(http(
        "200 OK",
        &snapshot("status.json").replacen("DEGRADED", "DOWN", 1),
    ));
    down.run(&["status", "--check", "--json"]).must_exit(12);
}

#[test]
fn the_token_is_the_line_to_paste_and_nothing_else() {
    let machine = Machine::new();
    let now = pontoon_fleet::UnixMillis(1_795_349_071_250);
    let pin = pontoon_pki::Authority::create(&"notes".parse().unwrap(), now)
        .unwrap()
        .pin();
    let token = pontoon_pki::TokenBook::default()
        .issue(pin, now, Duration::from_secs(3600), None)
        .unwrap()
        .to_string();
    let answer = |token: &str| {
        let body = serde_json::json!({ "token": token, "expires": 1_795_349_071_250_u64, "address": "198.51.100.1:7400" });
        http("200 OK", &body.to_string())
    };
    machine.agent_says(answer(&token));
    let ran = machine.run(&["token", "new"]).must_exit(0);
    assert_eq!(ran.out, format!("pontoon join 198.51.100.1 {token}\n"));
    assert!(ran.err.contains("valid 1 h, once"), "{}", ran.err);
    let liar = Machine::new();
    liar.agent_says(answer("pon1.a.b.c; reboot"));
    let ran = liar.run(&["token", "new"]).must_exit(1);
    assert!(
        ran.err.contains("error[N005]") && ran.out.is_empty(),
        "{}{}",
        ran.out,
        ran.err
    );
}

#[test]
fn a_plan_is_shown_and_not_applied_without_a_yes() {
    let config = pontoon_config::Config::parse(ONE_SERVER).unwrap();
    let plan = |listeners: Vec<pontoon_decide::ListenerFact>| {
        let facts = pontoon_decide::ServerFacts {
            debian: "Debian 12".into(),
            cores: 4,
            memory_bytes: 8 << 30,
            disk_free_bytes: 50 << 30,
            addresses: vec!["198.51.100.1".parse().unwrap()],
            database: None,
            listeners,
            app_answers: Some(true),
            tools: pontoon_decide::Tools::default(),
        };
        let facts = std::collections::BTreeMap::from([("a".parse().unwrap(), facts)]);
        let plan = pontoon_decide::plan(None, &config, &facts);
        http(
            "200 OK",
            &serde_json::to_string(&PlanAnswer {
                base: plan.base,
                plan,
            })
            .unwrap(),
        )
    };
    let machine = Machine::new();
    std::fs::write(machine.path("fleet.toml"), ONE_SERVER).unwrap();
    machine.agent_says(plan(vec![]));
    compare("plan.txt", &machine.run(&["plan"]).must_exit(0).out);
    machine.run(&["plan", "--exit-code"]).must_exit(10);
    let json: serde_json::Value =
        serde_json::from_str(&machine.run(&["plan", "--json"]).must_exit(0).out).unwrap();
    assert_eq!((&json["version"], &json["base"]), (&1.into(), &0.into()));
    let ran = machine.run(&["apply"]).must_exit(2);
    assert!(
        ran.err.contains("error[P007]") && ran.err.contains("pontoon apply --yes"),
        "{}",
        ran.err
    );

    let busy = Machine::new();
    std::fs::write(busy.path("fleet.toml"), ONE_SERVER).unwrap();
    let nginx = pontoon_decide::ListenerFact {
        at: "0.0.0.0:80".parse().unwrap(),
        program: "nginx".into(),
        pid: Some(7),
    };
    busy.agent_says(plan(vec![nginx]));
    let ran = busy.run(&["apply", "--yes"]).must_exit(3);
    assert!(
        ran.err.contains("error[P006]") && ran.out.contains("nginx must release :80"),
        "{}{}",
        ran.out,
        ran.err
    );
}

#[test]
fn watching_and_following_go_on_until_they_are_stopped() {
    let machine = Machine::new();
    machine.agent_says(http("200 OK", &snapshot("status.json")));
    let for_a_while = |words: &[&str]| {
        let mut command = std::process::Command::new("timeout");
        command
            .args(["--foreground", "2", env!("CARGO_BIN_EXE_pontoon")])
            .args(words);
        command.args(["--run-dir", machine.path("run").to_str().unwrap()]);
        Ran::of(command).must_exit(124)
    };
    let watched = for_a_while(&["status", "--watch", "--every", "200ms", "--json"]).out;
    assert!(watched.lines().count() >= 3, "{watched}");
    assert!(
        watched
            .lines()
            .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
    );
    assert!(
        for_a_while(&["status", "--watch"])
            .out
            .matches("DEGRADED")
            .count()
            >= 2
    );
    let other = Machine::new();
    other.agent_says(http(
        "200 OK",
        r#"[{"at":1795349071250,"server":"b","event":"agent_stopped"}]"#,
    ));
    let mut command = std::process::Command::new("timeout");
    command.args([
        "--foreground",
        "3",
        env!("CARGO_BIN_EXE_pontoon"),
        "events",
        "--follow",
    ]);
    command.args(["--run-dir", other.path("run").to_str().unwrap()]);
    let followed = Ran::of(command).must_exit(124).out;
    assert_eq!(
        followed, "2026-11-22 12:04:31.250  b         agent stopped\n",
        "once, however often it is heard"
    );
    let json = other.run(&["events", "--json"]).must_exit(0).out;
    assert!(json.starts_with(r#"{"version":1,"at":1795349071250"#), "{json}");
}

#[test]
fn init_founds_a_fleet_once_and_plan_works_without_an_agent() {
    let machine = Machine::new();
    let words = [
        "init",
        "--private",
        "198.51.100.1",
        "--name",
        "a",
        "--domain",
        "notes.example.com",
    ];
    let probe = machine.isolated(&["explain", "C001"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: user and network namespaces are not to be had here");
        return;
    }
    let ran = Ran::of(machine.isolated(&words)).must_exit(0);
    assert!(
        ran.out
            .contains("created fleet \"notes\" with this server as \"a\""),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("pontoon plan"), "{}", ran.out);
    machine.run(&["check"]).must_exit(0);
    let mode = |name: &str| {
        std::fs::metadata(machine.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode("state/identity"), mode("state/identity/ca-key.pem")),
        (0o700, 0o600)
    );
    assert_eq!(
        (mode("state/identity/key.pem"), mode("fleet.toml")),
        (0o640, 0o644)
    );
    assert!(!machine.path("run/agent.pid").exists(), "nothing was started");

    let config = std::fs::read_to_string(machine.path("fleet.toml")).unwrap();
    let ran = Ran::of(machine.isolated(&words)).must_exit(3);
    assert!(
        ran.err.contains("error[J006]") && ran.err.contains("pontoon init --force"),
        "{}",
        ran.err
    );
    assert_eq!(
        std::fs::read_to_string(machine.path("fleet.toml")).unwrap(),
        config
    );

    let ran = Ran::of(machine.isolated(&["plan"])).must_exit(0);
    assert!(ran.out.contains("fleet notes  revision 0 → 1"), "{}", ran.out);
    let plan = Ran::of(machine.isolated(&["plan", "--json", "--exit-code"])).must_exit(10);
    let plan: serde_json::Value = serde_json::from_str(&plan.out).unwrap();
    let id = plan["plan"]["id"].as_str().unwrap();
    assert!(machine.path(&format!("state/plans/{id}.json")).exists());
    let again = Ran::of(machine.isolated(&["plan", "--json"])).must_exit(0);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&again.out).unwrap()["plan"]["id"],
        *id,
        "the same plan"
    );

    let mut forced = words.to_vec();
    forced.push("--force");
    let ran = Ran::of(machine.isolated(&forced)).must_exit(0);
    assert_eq!(ran.out.matches("renamed").count(), 2, "{}", ran.out);
    let kept = |prefix: &str| {
        std::fs::read_dir(machine.path("."))
            .unwrap()
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
    };
    assert!(kept("fleet.toml.before-init-") && kept("state.before-init-"));
}

#[test]
fn an_init_that_cannot_write_leaves_nothing_behind() {
    let machine = Machine::new();
    let probe = machine.isolated(&["explain", "C001"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: user and network namespaces are not to be had here");
        return;
    }
    // The identity's place is taken by a file: the last step fails.
    std::fs::create_dir(machine.path("state")).unwrap();
    std::fs::write(machine.path("state/identity"), "mine").unwrap();
    let ran = Ran::of(machine.isolated(&["init", "--private", "198.51.100.1"])).must_exit(1);
    assert!(ran.err.contains("error[N006]"), "{}", ran.err);
    assert!(!machine.path("fleet.toml").exists());
    assert_eq!(
        std::fs::read_to_string(machine.path("state/identity")).unwrap(),
        "mine"
    );
}

#[test]
fn edge_explain_needs_an_edge_and_a_url() {
    let machine = Machine::new();
    let url = "https://notes.example.com/";
    let nobody = machine.run(&["edge", "explain", url]).must_exit(4).err;
    assert!(
        nobody.contains("N002") && nobody.contains("edge.sock"),
        "{nobody}"
    );
    for wrong in [
        "notes.example.com",
        "https://",
        "https:///a",
        "https://a/b c",
        "ftp://a/",
    ] {
        machine.run(&["edge", "explain", wrong]).must_exit(2);
    }
}

#[test]
fn sql_explain_says_where_a_statement_goes() {
    let machine = Machine::new();
    let read = machine
        .run(&["sql", "explain", "SELECT 1 FROM t"])
        .must_exit(0)
        .out;
    assert!(read.contains("a replica"), "{read}");
    let json = machine
        .run(&[
            "sql",
            "explain",
            "--json",
            "--engine",
            "mysql",
            "--in-transaction",
            "SELECT 1 FROM t",
        ])
        .must_exit(0)
        .out;
    let verdict: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&verdict["route"], &verdict["reason"]),
        (&"primary".into(), &"in-transaction".into())
    );
    // The version decides which functions are known.
    let newer = [
        "sql",
        "explain",
        "--server-version",
        "11.8.2",
        "SELECT VEC_TOTEXT(v) FROM t",
    ];
    assert!(machine.run(&newer).must_exit(0).out.contains("a replica"));
    machine.run(&["sql", "explain"]).must_exit(2);
    let nobody = machine.run(&["sql", "top"]).must_exit(4).err;
    assert!(nobody.contains("N002"), "{nobody}");
    machine.run(&["sql", "top", "-n", "0"]).must_exit(2);
    machine
        .run(&["sql", "explain", "--server-version", "new", "SELECT 1"])
        .must_exit(2);
    machine
        .run(&["sql", "explain", "--engine", "oracle", "SELECT 1"])
        .must_exit(2);
}
