//! Each kind of mistake: its code, its place and what it says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a panic is the report

use pontoon_config::{Config, ConfigError, Overrides, edit, render, render_all};
use pontoon_fleet::Code;

#[path = "mistakes/copies.rs"]
mod copies;
#[path = "mistakes/edge.rs"]
mod edge_tests;
#[path = "mistakes/providers.rs"]
mod providers;
#[path = "mistakes/uploads.rs"]
mod uploads;

const ONE: &str = include_str!("../examples/fleet-1.toml");
const TWO: &str = include_str!("../examples/fleet-2.toml");
const SIX: &str = include_str!("../examples/fleet-6.toml");

fn errors(text: &str) -> Vec<ConfigError> {
    Config::parse(text).expect_err("there is a mistake in it")
}

/// `text` with `from` replaced by `to` has exactly one mistake, of that code, at `place`.
#[track_caller]
fn one(text: &str, from: &str, to: &str, code: Code, place: &str) -> ConfigError {
    assert!(text.contains(from), "{from}");
    let text = text.replacen(from, to, 1);
    let errors = errors(&text);
    assert_eq!(errors.len(), 1, "{}", render_all(&errors, &text, "x"));
    let error = errors.into_iter().next().unwrap();
    assert_eq!(
        (error.code, &text[error.span.clone().unwrap()]),
        (code, place),
        "{}",
        render(&error, &text, "x")
    );
    error
}

#[test]
fn unknown_keys_and_what_was_meant() {
    let error = one(TWO, "max_lag", "max_lagg", Code::C004, "max_lagg");
    assert_eq!(error.hint.as_deref(), Some("did you mean `max_lag`?"));
    let found: Vec<_> = errors(&ONE.replace("[fleet]", "[flet]"))
        .iter()
        .map(|error| error.code)
        .collect();
    assert_eq!(
        found,
        [Code::C003, Code::C004],
        "`fleet` is missing, `flet` is unknown"
    );
    let error = one(ONE, "server_port = 3307", "zzz = 3307", Code::C004, "zzz");
    assert!(error.hint.unwrap().starts_with("known here: `acks`"));
}

#[test]
fn all_of_them_at_once() {
    let text = ONE
        .replace("port = 3307", "port = \"x\"")
        .replace("upstream", "upsteam")
        .replace("10.0.0.1", "ten")
        .replace("engine   = \"mariadb\"", "engine   = \"mariadbb\"");
    let found: Vec<_> = errors(&text).iter().map(|error| error.code).collect();
    assert_eq!(
        found,
        [Code::C003, Code::C004, Code::C002, Code::C002],
        "shape first"
    );
    let text = ONE
        .replace("3307", "0")
        .replace("127.0.0.1:8080", "localhost:8080")
        .replace("10.0.0.1", "ten")
        .replace("\"1s\"", "\"1\"")
        .replace("public  =", "pubic  =");
    let found: Vec<_> = errors(&text).iter().map(|error| error.code).collect();
    assert_eq!(
        found,
        [Code::C002, Code::C004, Code::C002, Code::C002, Code::C002],
        "values and unknown keys"
    );
}

#[test]
fn wrong_types_and_forms() {
    one(ONE, "\"1s\"", "1", Code::C002, "1");
    one(ONE, "\"1s\"", "\"1\"", Code::C002, "\"1\"");
    one(ONE, "\"1s\"", "\"1.5us\"", Code::C002, "\"1.5us\"");
    one(ONE, "\"1s\"", "\"0s\"", Code::C002, "\"0s\"");
    one(ONE, "200", "2000", Code::C002, "2000");
    one(
        ONE,
        "200",
        "99999999999999999999",
        Code::C002,
        "99999999999999999999",
    );
    one(ONE, "\"/up\"", "\"up\"", Code::C002, "\"up\"");
    let (from, to) = ("\"127.0.0.1:8080\"", "\"127.0.0.1:8080\"\nprotocol = \"h2\"");
    one(ONE, from, to, Code::C002, "\"h2\"");
    one(ONE, "\"/up\"", "\"/u p\"", Code::C002, "\"/u p\"");
    one(ONE, "\"notes\"", "\"Notes\"", Code::C002, "\"Notes\"");
    one(
        ONE,
        "\"10.0.0.1\"",
        "\"10.0.0.1:80\"",
        Code::C002,
        "\"10.0.0.1:80\"",
    );
    one(ONE, "\"10.0.0.1\"", "\"0.0.0.0\"", Code::C002, "\"0.0.0.0\"");
    one(
        ONE,
        "[\"203.0.113.10\"]",
        "\"203.0.113.10\"",
        Code::C002,
        "\"203.0.113.10\"",
    );
    one(
        ONE,
        "127.0.0.1:3306",
        "127.0.0.1:0",
        Code::C002,
        "\"127.0.0.1:0\"",
    );
    one(
        ONE,
        "/run/mysqld/mysqld.sock",
        "/run/../etc/x",
        Code::C002,
        "\"/run/../etc/x\"",
    );
    one(SIX, "\"512MiB\"", "\"512\"", Code::C002, "\"512\"");
    for prefix in ["\"\"", "\"a page\""] {
        let line = format!("\"512MiB\"\nfill_once = [\"page:\", {prefix}]");
        one(SIX, "\"512MiB\"", &line, Code::C002, prefix);
    }
    one(SIX, "\"20%\"", "\"120%\"", Code::C002, "\"120%\"");
    one(
        SIX,
        "[\"GET\", \"HEAD\"]",
        "[\"GET\", \"POST\"]",
        Code::C002,
        "\"POST\"",
    );
    let error = one(
        TWO,
        "\"fleet-wide\"",
        "\"fleetwide\"",
        Code::C002,
        "\"fleetwide\"",
    );
    assert_eq!(error.hint.as_deref(), Some("did you mean \"fleet-wide\"?"));
    let error = one(
        SIX,
        "[\"edge\", \"dns\"]",
        "[\"edge\", \"mail\"]",
        Code::C002,
        "\"mail\"",
    );
    assert!(error.hint.unwrap().contains("\"edge\", \"app\", \"db\""));
    let error = one(
        ONE,
        "notes.example.com",
        "nötes.example.com",
        Code::C002,
        "\"nötes.example.com\"",
    );
    assert!(error.hint.unwrap().contains("xn--"));
}

#[test]
fn what_is_the_same_and_must_differ() {
    one(TWO, "name = \"b\"", "name = \"a\"", Code::C005, "\"a\"");
    one(TWO, "\"10.0.0.2\"", "\"10.0.0.1\"", Code::C005, "\"10.0.0.1\"");
    one(
        TWO,
        "203.0.113.20",
        "203.0.113.10",
        Code::C005,
        "\"203.0.113.10\"",
    );
    one(ONE, "3307", "3306", Code::C005, "3306");
    one(ONE, "3307", "7401", Code::C005, "7401");
    one(ONE, "127.0.0.1:8080", "0.0.0.0:80", Code::C005, "\"0.0.0.0:80\"");
    one(
        ONE,
        "server_port = 3307",
        "server_socket = \"/run/mysqld/mysqld.sock\"",
        Code::C005,
        "\"/run/mysqld/mysqld.sock\"",
    );
    one(
        SIX,
        "[\"edge\", \"dns\"]",
        "[\"edge\", \"edge\"]",
        Code::C005,
        "\"edge\"",
    );
    // An application on port 80 of servers that are no edges is nobody's trouble.
    Config::parse(&SIX.replace("0.0.0.0:8080", "0.0.0.0:80")).unwrap();
}

#[test]
fn what_contradicts_itself() {
    let arp = "method = \"arp\"";
    for (key, value) in [
        ("fast", "true"),
        ("home_after", "\"1m\""),
        ("gateway", "\"198.51.100.1\""),
        ("interface", "\"eth0\""),
    ] {
        let none = format!("method = \"none\"\n{key} = {value}");
        one(TWO, arp, &none, Code::C006, value);
        let good = TWO.replacen(arp, &format!("{arp}\n{key} = {value}"), 1);
        Config::parse(&good).unwrap();
    }
    for (key, value) in [
        ("home_after", "\"0s\""),
        ("home_after", "\"2h\""),
        ("gateway", "\"2001:db8::1\""),
        ("gateway", "\"gate\""),
        ("interface", "\"\""),
        ("interface", "\"eth 0\""),
        ("interface", "\"../../../../etc\""),
    ] {
        one(TWO, arp, &format!("{arp}\n{key} = {value}"), Code::C002, value);
    }
    one(TWO, "[ip]", "[ip]\nexec = \"/x\"", Code::C006, "\"/x\"");
    for key in [
        "timeout = \"9s\"",
        "endpoint = \"https://x\"",
        "credentials = { env = \"X\" }",
        "targets = { a = \"1\" }",
    ] {
        let value = key.split_once(" = ").unwrap().1;
        one(TWO, arp, &format!("{arp}\n{key}"), Code::C006, value);
    }
    one(
        TWO,
        "method = \"arp\"",
        "method = \"exec\"",
        Code::C003,
        "\"exec\"",
    );
    one(
        TWO,
        "\"6s\"",
        "\"6s\"\nendpoints = [\"a:1\"]",
        Code::C006,
        "[\"a:1\"]",
    );
    one(TWO, "bucket = \"notes-fleet\"", "", Code::C003, "[lease]");
    one(
        TWO,
        "\"6s\"",
        "\"6s\"\nca = \"/ca.pem\"",
        Code::C006,
        "\"/ca.pem\"",
    );
    one(
        ONE,
        "server_port = 3307",
        "proxy = false",
        Code::C006,
        "[\"127.0.0.1:3306\", \"/run/mysqld/mysqld.sock\"]",
    );
    one(ONE, "\"mariadb\"", "\"external\"", Code::C003, "\"external\"");
    let without_proxy = ONE.replacen(
        "server_port = 3307",
        "proxy = false\nserver_port = 3307\nreads = { split = true }",
        1,
    );
    let without_proxy = without_proxy.lines().filter(|line| !line.starts_with("listen"));
    let text = without_proxy.collect::<Vec<_>>().join("\n");
    let found = errors(&text);
    let codes: Vec<_> = found
        .iter()
        .map(|error| (error.code, &text[error.span.clone().unwrap()]))
        .collect();
    assert_eq!(
        codes,
        [(Code::C006, "true")],
        "reads are split by the proxy: {found:?}"
    );
    // Finer than what is measured, so it would not be what it says.
    let fine = "\"1s\", after_write";
    one(TWO, fine, "\"100ms\", after_write", Code::C002, "\"100ms\"");
    one(
        ONE,
        "health   = { path = \"/up\", ",
        "health   = { ",
        Code::C006,
        "200",
    );
    one(ONE, "[app]", "roles = []\n[app]", Code::C006, "[]");
    one(
        SIX,
        "roles = [\"app\", \"cache\"]\n[[server]]\nname = \"app2\"",
        "standby = true\nroles = [\"app\", \"cache\"]\n[[server]]\nname = \"app2\"",
        Code::C006,
        "true",
    );
    let both = SIX.replacen(
        "roles = [\"edge\", \"dns\"]",
        "standby = true\nroles = [\"edge\", \"dns\"]",
        1,
    );
    assert_eq!(errors(&both)[0].code, Code::C006, "every edge is a standby");
    let no_db = SIX.replace("roles = [\"db\"]", "roles = [\"app\"]");
    assert_eq!(errors(&no_db)[0].code, Code::C006, "a [db] and no server for it");
    let single = TWO.replace("store  = \"s3\"", "store  = \"single\"");
    assert!(errors(&single).iter().all(|error| error.code == Code::C006));
}

#[test]
fn certificates_for_etcd_are_for_tls_and_come_in_pairs() {
    let etcd = |members: &str, more: &str| {
        let text = SIX.split("\n[lease]").next().unwrap();
        format!("{text}\n[lease]\nstore = \"etcd\"\nendpoints = [{members}]\n{more}\n")
    };
    let https = "\"https://etcd.example.com:2379\"";
    let files = "ca = \"/e/ca.pem\"\ncertificate = \"/e/a.pem\"\nkey = \"/e/a.key\"";
    Config::parse(&etcd(https, files)).unwrap();
    for (members, more, place) in [
        ("\"etcd.example.com:2379\"", "ca = \"/e/ca.pem\"", "\"/e/ca.pem\""),
        (https, "certificate = \"/e/a.pem\"", "\"/e/a.pem\""),
        (https, "key = \"/e/a.key\"", "\"/e/a.key\""),
    ] {
        let text = etcd(members, more);
        let found = errors(&text);
        let found: Vec<_> = found
            .iter()
            .map(|error| (error.code, &text[error.span.clone().unwrap()]))
            .collect();
        assert_eq!(found, [(Code::C006, place)], "{members} {more}");
    }
    let text = etcd(https, "ca = \"ca.pem\"");
    assert_eq!(errors(&text)[0].code, Code::C002, "not an absolute path");
}

#[test]
fn a_lease_store_that_dies_with_a_database_decides_nothing() {
    const ENDPOINT: &str = "\"https://s3.eu-central-1.amazonaws.com\"";
    for own in ["\"http://10.0.0.2:9000\"", "\"http://203.0.113.10:9000/x\""] {
        let error = one(TWO, ENDPOINT, own, Code::C006, own);
        assert!(error.message.contains("dies with"), "{}", error.message);
    }
    for own in [
        "\"http://127.0.0.1:9000\"",
        "\"http://[::1]:9000\"",
        "\"http://localhost:9000\"",
    ] {
        let error = one(TWO, ENDPOINT, own, Code::C006, own);
        assert!(error.message.contains("loopback"), "{}", error.message);
    }
    let etcd = |members: &str| {
        let from = TWO.find("store  = \"s3\"").unwrap();
        let to = TWO.find("ttl    = \"6s\"").unwrap();
        format!(
            "{}store = \"etcd\"\nendpoints = {members}\n{}",
            &TWO[..from],
            &TWO[to..]
        )
    };
    for bad in [
        r#"["10.0.0.1:2379", "10.0.0.2:2379"]"#,
        r#"["10.0.0.1:2379"]"#,
        r#"["10.0.0.1:2379", "http://203.0.113.10:2379", "10.0.0.9:2379"]"#,
    ] {
        let text = etcd(bad);
        let errors = errors(&text);
        let said: Vec<_> = errors
            .iter()
            .map(|error| (error.code, error.message.as_str()))
            .collect();
        assert!(
            said.iter()
                .all(|(code, what)| *code == Code::C006 && what.contains("dies with")),
            "{said:?}"
        );
    }
    for good in [
        r#"["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.9:2379"]"#,
        r#"["10.0.0.9:2379"]"#,
        r#"["etcd.example.com:2379"]"#,
    ] {
        assert!(Config::parse(&etcd(good)).is_ok(), "{good}");
    }
    // Where nobody is promoted by itself, a store beside the database is a choice.
    let manual = TWO
        .replace("\"auto\"", "\"manual\"")
        .replace(ENDPOINT, "\"http://10.0.0.2:9000\"");
    assert!(Config::parse(&manual).is_ok());
}

#[test]
fn what_an_acknowledged_write_is_worth_fits_together() {
    let two = "durability = \"two-copies\"";
    let error = one(TWO, two, "durability = \"quorum\"", Code::C006, "\"quorum\"");
    assert!(error.message.contains("it needs three"), "{}", error.message);
    one(TWO, two, "durability = \"two-copies\"\nacks = 2", Code::C006, "2");
    one(
        TWO,
        two,
        "durability = \"two-copies\"\nmax_lag = \"1s\"",
        Code::C006,
        "\"1s\"",
    );
    let error = one(
        TWO,
        two,
        "durability = \"two-copys\"",
        Code::C002,
        "\"two-copys\"",
    );
    let shown = format!("{} {:?}", error.message, error.hint);
    assert!(shown.contains("two-copies"), "{shown}");
    let three = |rest: &str| {
        let third = "[[server]]\nname = \"c\"\nprivate = \"10.0.0.3\"\n\n[app]";
        TWO.replacen("[app]", third, 1).replacen(two, rest, 1)
    };
    assert!(Config::parse(&three("durability = \"quorum\"")).is_ok());
    let error = &errors(&three("durability = \"quorum\"\nacks = 2"))[0];
    assert!(error.message.contains("MariaDB"), "{}", error.message);
    let mysql = three("durability = \"quorum\"\nacks = 3").replace("\"mariadb\"", "\"mysql\"");
    assert!(errors(&mysql)[0].message.contains("2 replicas at the most"));
    let one_copy = TWO.replacen(two, "durability = \"one-copy\"\nmax_lag = \"500ms\"", 1);
    let db = Config::parse(&one_copy).unwrap().db.unwrap();
    assert_eq!(db.max_lag.as_millis(), 500);
    let error = one(TWO, "ttl    = \"6s\"", "ttl    = \"2s\"", Code::C002, "\"2s\"");
    assert!(error.message.contains("lease.ttl"), "{}", error.message);
}

#[test]
fn secrets_do_not_belong_here_and_are_not_shown() {
    for (from, to) in [
        ("{ credential = \"s3\" }", "\"AKIA:hunter2\""),
        ("{ credential = \"s3\" }", "{ secret_key = \"hunter2\" }"),
        ("{ credential = \"s3\" }", "{ value = \"hunter2\" }"),
        ("https://s3.eu", "https://me:hunter2@s3.eu"),
        ("ttl    = \"6s\"", "password = \"hunter2\""),
        ("{ credential = \"s3\" }", "{ credential = \"hunter2 /+\" }"),
        ("{ credential = \"s3\" }", "{ file = \"hunter2\" }"),
        ("{ credential = \"s3\" }", "{ secret = \"hunter2\", env = 7 }"),
    ] {
        let text = TWO.replacen(from, to, 1);
        let errors = errors(&text);
        assert!(
            errors.iter().any(|error| error.code == Code::C007),
            "{to}: {errors:?}"
        );
        let shown = render_all(&errors, &text, "fleet.toml");
        assert!(!shown.contains("hunter2") && shown.contains('•'), "{shown}");
    }
    one(
        TWO,
        "{ credential = \"s3\" }",
        "{ credential = \"s3\", env = \"X\" }",
        Code::C006,
        "{ credential = \"s3\", env = \"X\" }",
    );
}

#[test]
fn versions() {
    one(ONE, "version = 1 ", "version = 2 ", Code::C008, "2");
    one(ONE, "version = 1 ", "version = \"1\" ", Code::C002, "\"1\"");
    assert_eq!(
        errors("").iter().map(|error| error.code).collect::<Vec<_>>(),
        [Code::C003; 3]
    );
}

#[test]
fn overrides_come_last_and_are_named() {
    let environment = [
        ("PONTOON_SET_DB__SERVER_PORT", "3311"),
        ("PONTOON_SET_DB__HOLD_WRITES", "5s"),
        ("HOME", "/"),
    ];
    let flags = [
        "db.server_port=3310",
        "server.a.zone=fsn1",
        "fleet.name=7",
        "app.health={ path = \"/x\" }",
    ];
    let overrides = Overrides::new(flags, environment).unwrap();
    let config = Config::parse_with(ONE, &overrides).unwrap();
    let db = config.db.as_ref().unwrap();
    assert_eq!(
        (db.server_port, db.hold_writes.as_secs()),
        (3310, 5),
        "a flag wins over the environment"
    );
    assert_eq!(config.servers[0].zone.as_deref(), Some("fsn1"));
    assert_eq!(config.fleet.name.as_str(), "7");
    assert_eq!(config.app.unwrap().health.path.as_deref(), Some("/x"));

    let check = |flag: &str| {
        let overrides = Overrides::new([flag], std::iter::empty::<(&str, &str)>()).unwrap();
        let errors = Config::parse_with(ONE, &overrides).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        let shown = render(&errors[0], ONE, "fleet.toml");
        assert!(shown.contains("╭─[--set:1:"), "{shown}");
        let origin = errors[0].origin.clone().unwrap();
        (
            errors[0].code,
            origin.text[errors[0].span.clone().unwrap()].to_owned(),
        )
    };
    assert_eq!(check("db.server_port=x"), (Code::C002, "x".to_owned()));
    assert_eq!(
        check("db.server_prot=3310"),
        (Code::C004, "db.server_prot".to_owned())
    );
    assert_eq!(check("db.listen=[\"x\"]"), (Code::C002, "\"x\"".to_owned()));
    assert_eq!(
        check("db.listen=[\"127"),
        (Code::C001, check("db.listen=[\"127").1)
    );
    assert_eq!(check("server.z.zone=x").0, Code::C002);
    assert_eq!(check("version.x=1").0, Code::C002);

    let environment = [("PONTOON_SET_DB__SERVER_PORT", "x")];
    let overrides = Overrides::new(std::iter::empty::<&str>(), environment).unwrap();
    let errors = Config::parse_with(ONE, &overrides).unwrap_err();
    assert!(render(&errors[0], ONE, "f").contains("[PONTOON_SET_DB__SERVER_PORT:1:1]"));
    assert_eq!(
        Overrides::new(["nothing", "=x", "a..b=1"], environment)
            .unwrap_err()
            .len(),
        3
    );
}

#[test]
fn a_mistake_is_drawn_as_in_the_mock_up() {
    let text = "version = 1\nreads = { split = true, max_lagg = \"1s\" }\n";
    let error =
        ConfigError::new(Code::C004, "unknown key `max_lagg`", 36..44).hint("did you mean `max_lag`?");
    let wanted = "\
error[C004]: unknown key `max_lagg`
  ╭─[/etc/pontoon/fleet.toml:2:25]
2 │ reads = { split = true, max_lagg = \"1s\" }
  ·                         ────┬───
  ·                             ╰── did you mean `max_lag`?
  ╰─
";
    assert_eq!(render(&error, text, "/etc/pontoon/fleet.toml"), wanted);
}

#[test]
fn the_line_under_the_place_is_under_the_place() {
    // Where the underlined columns begin and how many there are, for what a terminal shows.
    let check = |text: &str, span: std::ops::Range<usize>| {
        let shown = render(&ConfigError::new(Code::C002, "x", span), text, "f");
        let lines: Vec<&str> = shown.lines().collect();
        let under = lines[3].split_once("· ").unwrap().1;
        (
            lines[2]
                .split_once("│ ")
                .map(|(_, line)| line.to_owned())
                .unwrap_or_default(),
            under.find('─').unwrap(),
            under.chars().filter(|c| *c == '─').count(),
        )
    };
    assert_eq!(
        check("\ta = 1", 5..6),
        ("    a = 1".to_owned(), 8, 1),
        "a tab is four columns"
    );
    assert_eq!(check("é = 1", 5..6).1, 4, "two bytes are one column");
    assert_eq!(check("日 = 1", 6..7).1, 5, "one character, two columns");
    assert_eq!(
        check("a = \u{1b}[31mx", 4..5).0,
        "a = ␛[31mx",
        "a file does not steer the terminal"
    );
    assert_eq!(check("", 0..0), (String::new(), 0, 1));
    assert_eq!(check("a\n", 900..901).1, 0, "beyond the end");
    let long = format!("k = \"{}\" x", "v".repeat(10_000));
    let (line, at, width) = check(&long, 10_007..10_008);
    assert!(line.chars().count() <= 102 && line.starts_with('…'));
    assert_eq!((line.chars().nth(at), width), (Some('x'), 1));
    assert_eq!(check("a = 1\r\nb = 2\r\n", 11..12), ("b = 2".to_owned(), 4, 1));
    assert_eq!(check("a = \"é\"", 6..7).1, 5, "in the middle of a character");
}

#[test]
fn https_without_what_it_needs() {
    let with = |table: &str| ONE.replace("[app]", &format!("[edge.tls]\n{table}\n\n[app]"));
    let good = "certificates = [{ certificate = \"/c.pem\", key = \"/k.pem\" }]";
    assert!(Config::parse(&with(good)).is_ok());
    let wrong = |table: &str, code: Code, place: &str| one(&with(good), good, table, code, place);
    wrong("redirect = true", Code::C003, "[edge.tls]");
    wrong("certificates = []", Code::C003, "[]");
    wrong(
        "certificates = [{ certificate = \"/c.pem\" }]",
        Code::C003,
        "{ certificate = \"/c.pem\" }",
    );
    wrong(
        "certificates = [{ certificate = \"c.pem\", key = \"/k\" }]",
        Code::C002,
        "\"c.pem\"",
    );
    let twice =
        "certificates = [{ certificate = \"/c\", key = \"/k\" }, { certificate = \"/c\", key = \"/l\" }]";
    let error = Config::parse(&with(twice)).unwrap_err();
    assert_eq!((error.len(), error[0].code), (1, Code::C005));
    let more = |line: &str, code: Code, place: &str| wrong(&format!("{good}\n{line}"), code, place);
    more("min_version = \"1.1\"", Code::C002, "\"1.1\"");
    more("hsts = \"0s\"", Code::C002, "\"0s\"");
    more("hsts = \"1500ms\"", Code::C002, "\"1500ms\"");
    more("hsts = 3600", Code::C002, "3600");
    more("listen = []", Code::C006, "[]");
    more(
        "listen = [\"203.0.113.10:80\"]",
        Code::C005,
        "[\"203.0.113.10:80\"]",
    );
    more("cipher = \"x\"", Code::C004, "cipher");
}

#[test]
fn certificates_of_an_authority_that_cannot_be_had() {
    let with = |table: &str| ONE.replace("[app]", &format!("[edge.tls.acme]\n{table}\n\n[app]"));
    let good = "names = [\"www.example.com\"]";
    let config = Config::parse(&with(good)).unwrap();
    let acme = config.edge.tls.unwrap().acme.unwrap();
    assert!(
        acme.directory
            .starts_with("https://acme-v02.api.letsencrypt.org/")
    );
    assert_eq!(
        (acme.names, acme.email, acme.ca),
        (vec!["www.example.com".to_owned()], None, None)
    );
    // Without names it is for those of the fleet.
    let config = Config::parse(&with("")).unwrap();
    assert_eq!(config.edge.tls.unwrap().acme.unwrap().names, config.fleet.domains);
    let wrong = |table: &str, code: Code, place: &str| one(&with(good), good, table, code, place);
    wrong("names = []", Code::C003, "[]");
    wrong("names = [\"*.example.com\"]", Code::C006, "\"*.example.com\"");
    wrong("names = [\"localhost\"]", Code::C006, "\"localhost\"");
    wrong("names = [\"198.51.100.7:80\"]", Code::C002, "\"198.51.100.7:80\"");
    wrong("names = [\"WWW.example.com\"]", Code::C002, "\"WWW.example.com\"");
    let more = |line: &str, code: Code, place: &str| wrong(&format!("{good}\n{line}"), code, place);
    for email in [
        "nobody",
        "@example.com",
        "a@b@c.example",
        "a b@example.com",
        "a@example.com?x=y",
        "a@",
    ] {
        more(
            &format!("email = \"{email}\""),
            Code::C002,
            &format!("\"{email}\""),
        );
    }
    more(
        "directory = \"http://ca.example/dir\"",
        Code::C002,
        "\"http://ca.example/dir\"",
    );
    more("directory = \"ca.example\"", Code::C002, "\"ca.example\"");
    more(
        "directory = \"https://me:word@ca.example/\"",
        Code::C007,
        "\"https://me:word@ca.example/\"",
    );
    more("ca = \"ca.pem\"", Code::C002, "\"ca.pem\"");
    more("challenge = \"tls-alpn-01\"", Code::C002, "\"tls-alpn-01\"");
    more("challenge = \"dns-01\"", Code::C006, "\"dns-01\"");
    more("domains = [\"x.example\"]", Code::C004, "domains");
    let twice = with("names = [\"a.example.com\", \"a.example.com\"]");
    assert_eq!(Config::parse(&twice).unwrap_err()[0].code, Code::C005);
    let many: Vec<String> = (0..101).map(|n| format!("n{n}.example.com")).collect();
    assert_eq!(
        Config::parse(&with(&format!("names = {many:?}"))).unwrap_err()[0].code,
        Code::C006
    );
}

#[test]
fn names_that_are_proved_in_the_dns_are_in_the_zone() {
    let names = "names = [\"example.com\", \"*.example.com\"]";
    let table =
        format!("[edge.tls.acme]\n{names}\nchallenge = \"dns-01\"\n[dns]\nzone = \"example.com\"\n[app]");
    let with = ONE.replace("[app]", &table);
    let acme = Config::parse(&with).unwrap().edge.tls.unwrap().acme.unwrap();
    assert_eq!(
        (acme.challenge, acme.names.len()),
        (pontoon_fleet::Challenge::Dns01, 2)
    );
    let reread = Config::parse(&Config::parse(&with).unwrap().to_toml()).unwrap();
    assert_eq!(reread.edge.tls.unwrap().acme.unwrap(), acme);
    for name in ["*.example.org", "xexample.com", "com"] {
        let wrong = with.replace("*.example.com", name);
        let errors = Config::parse(&wrong).unwrap_err();
        assert_eq!(errors[0].code, Code::C006, "{name}");
        assert!(
            name == "com" || errors[0].message.contains("is not in the zone example.com"),
            "{errors:?}"
        );
    }
}

#[test]
fn what_stands_for_the_edges_is_in_the_zone() {
    let with = |lines: &str| {
        let dns = format!("[dns]\nzone = \"example.com\"\n{lines}\n");
        let plain = TWO.split("[dns]").next().unwrap_or(TWO);
        format!("{plain}{dns}")
    };
    for (lines, code, said) in [
        (
            "names = [\"www.example.org\"]",
            Code::C002,
            "is not in the zone example.com",
        ),
        (
            "names = [\"xexample.com\"]",
            Code::C002,
            "is not in the zone example.com",
        ),
        (
            "names = [\"https://example.com\"]",
            Code::C002,
            "is not a host name",
        ),
        ("names = \"example.com\"", Code::C002, "names"),
        ("file = \"example.zone\"", Code::C002, "is not an absolute path"),
        ("file = \"/etc/../zone\"", Code::C002, "is not an absolute path"),
        ("listen = [\"everywhere\"]", Code::C002, "dns.listen"),
        ("ttl = \"1500ms\"", Code::C002, "whole seconds"),
        ("name = [\"example.com\"]", Code::C004, "name"),
        ("transfer = { to = [\"192.0.2.1\"] }", Code::C003, "key_file"),
        (
            "transfer = { key_file = \"keys\", to = [] }",
            Code::C002,
            "is not an absolute path",
        ),
        (
            "transfer = { key_file = \"/keys\", to = [\"ns.example.org\"] }",
            Code::C002,
            "dns.transfer.to",
        ),
        (
            "update = { server = \"ns.example.org\", key_file = \"/keys\" }",
            Code::C002,
            "dns.update.server",
        ),
        ("update = { server = \"192.0.2.7\" }", Code::C003, "key_file"),
        (
            "dnssec = { lifetime = \"1d\" }",
            Code::C002,
            "dns.dnssec.lifetime",
        ),
        ("dnssec = { key = \"x\" }", Code::C004, "key"),
        (
            "dnssec = {}\ntransfer = { key_file = \"/keys\", to = [\"192.0.2.1\"] }",
            Code::C006,
            "do not go together",
        ),
        (
            "hook = { exec = \"hook\" }",
            Code::C002,
            "is not an absolute path",
        ),
        (
            "hook = { exec = \"/hook\", timeout = \"1h\" }",
            Code::C002,
            "dns.hook.timeout",
        ),
        (
            "transfer = { key_file = \"/keys\", to = [], from = [\"192.0.2.0/24\"] }",
            Code::C002,
            "dns.transfer.from",
        ),
    ] {
        let found = errors(&with(lines));
        let right = |error: &pontoon_config::ConfigError| error.code == code && error.message.contains(said);
        assert!(found.iter().any(right), "{lines}: {found:?}");
    }
    let config = Config::parse(&with("")).unwrap_or_else(|errors| panic!("{errors:?}"));
    let dns = config.dns.as_ref().unwrap();
    assert!(!dns.names.is_empty());
    assert_eq!((dns.ttl.as_secs(), dns.listeners().len()), (60, 2));
    let config = Config::parse(&with("names = [\"*.example.com\", \"example.com\"]")).unwrap();
    assert_eq!(config.dns.unwrap().names.len(), 2);
    let to = "transfer = { key_file = \"/keys\", to = [\"192.0.2.7\", \"[2001:db8::7]:5353\"] }";
    let transfer = Config::parse(&with(to)).unwrap().dns.unwrap().transfer.unwrap();
    let texts: Vec<String> = transfer.to.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["192.0.2.7:53", "[2001:db8::7]:5353"]);
    assert_eq!(transfer.from.len(), 2, "those who are told");
}
