//! `pontoon measure` as an operator meets it, beside a server whose limit is known.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{Machine, Ran};
use pontoon_capacity::models::{Law, Model, Trouble};
use pontoon_measure::ratebox::Ratebox;

const QUICK: Model = Model {
    workers: 4,
    service: 0.001,
    law: Law::Fixed,
    trouble: Trouble::None,
};

/// Runs `pontoon measure load`, as often as the generator itself was late: a busy machine makes it be.
fn load(machine: &Machine, words: &[&str]) -> Ran {
    let words = [&["measure", "load"], words].concat();
    let mut ran = machine.run(&words);
    for _ in 0..5 {
        if ran.status != 2 {
            break;
        }
        ran = machine.run(&words);
    }
    ran
}

#[test]
fn a_rate_is_measured_and_written_down() {
    let machine = Machine::new();
    let ratebox = Ratebox::start(QUICK, 1).unwrap();
    let url = format!("http://{}/?secret=1", ratebox.address());
    let out = machine.path("run.json");
    let words = [
        url.as_str(),
        "--rate",
        "50",
        "--for",
        "2s",
        "--good",
        "p99<9s,errors<1%",
        "--out",
        out.to_str().unwrap(),
    ];
    let ran = load(&machine, &words).must_exit(0);
    assert!(ran.out.contains("result     pass\n"), "{}", ran.out);
    assert!(
        ran.out.contains("none failed") && ran.out.contains("p99 "),
        "{}",
        ran.out
    );
    assert!(!ran.out.contains("secret"), "{}", ran.out);
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(written["verdict"], "pass");
    assert_eq!(written["totals"]["sent"], written["totals"]["answered"]);
    assert!(!written["totals"]["latencies"].as_array().unwrap().is_empty());
    assert!(!written.to_string().contains("secret"));

    // The page, and a run that is compared with itself.
    let page = machine.path("run.html");
    let steady = machine.path("steady.json");
    let more = [
        "--out",
        steady.to_str().unwrap(),
        "--html",
        page.to_str().unwrap(),
    ];
    let longer = [url.as_str(), "--rate", "50", "--for", "13s", "--good", "p99<9s"];
    load(&machine, &[&longer[..], &more].concat()).must_exit(0);
    assert!(std::fs::read_to_string(&page).unwrap().contains("<svg"));
    let same = [
        "measure",
        "compare",
        steady.to_str().unwrap(),
        steady.to_str().unwrap(),
    ];
    let ran = machine
        .run(&[&same[..], &["--fail-if-worse", "5%"]].concat())
        .must_exit(0);
    assert!(ran.out.contains("no difference detectable"), "{}", ran.out);
    // Another objective, no run at all, nothing there.
    for other in [
        out.as_path(),
        page.as_path(),
        std::path::Path::new("/no/such/run"),
    ] {
        let ran = machine
            .run(&["measure", "compare", same[2], other.to_str().unwrap()])
            .must_exit(2);
        assert!(ran.err.contains("error[M005]"), "{}", ran.err);
    }

    let slow = Model {
        workers: 1_000,
        service: 3.0,
        ..QUICK
    };
    let ratebox = Ratebox::start(slow, 1).unwrap();
    let url = format!("http://{}/", ratebox.address());
    let words = [
        url.as_str(),
        "--rate",
        "20",
        "--for",
        "2s",
        "--good",
        "p50<2s,p99<9s",
        "--json",
    ];
    let ran = load(&machine, &words).must_exit(1);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&json["version"], &json["verdict"]),
        (&1.into(), &"threshold".into())
    );
    assert!(
        json["reasons"][0].as_str().unwrap().starts_with("p50<2s: "),
        "{json}"
    );
}

#[test]
fn what_cannot_be_is_refused_before_the_first_request() {
    let machine = Machine::new();
    // Nobody listens there: whatever is asked, another refusal than this one comes first.
    let port = pontoon_testkit::free_port().unwrap();
    let url = format!("http://127.0.0.1:{port}/");
    let rate = ["--rate", "10", "--for", "2s"];
    for (words, code, word) in [
        (
            vec![url.as_str(), "--rate", "10", "--for", "2s", "--good", "p99<300"],
            "M001",
            "term 1",
        ),
        (
            vec![&url, "--rate", "10", "--for", "2s", "--good", "p99<1s,p50<2s"],
            "M001",
            "never matters",
        ),
        (
            vec![&url, "--find", "--good", "errors<1%"],
            "M001",
            "needs a time",
        ),
        (vec![&url, "--rate", "0", "--for", "2s"], "M004", "--rate"),
        (vec![&url, "--rate", "nan", "--for", "2s"], "M004", "--rate"),
        (vec![&url, "--rate", "10", "--for", "10ms"], "M004", "--for"),
        (
            vec![&url, "--rate", "200000", "--for", "2s", "--good", "p99<10s"],
            "M004",
            "file descriptors",
        ),
        (vec![&url, "--find", "--most-time", "10s"], "M004", "--most-time"),
        (
            vec![&url, "--find", "--first-rate", "9", "--most-rate", "5"],
            "M004",
            "--first-rate",
        ),
        (vec![&url, "--find", "--narrow", "0%"], "M004", "--narrow"),
        (
            vec![&url, "--rate", "10", "--for", "2s", "--patience", "100ms"],
            "M004",
            "--patience",
        ),
        (
            vec![
                &url,
                "--rate",
                "10",
                "--for",
                "2s",
                "--out",
                "/no/such/folder/run.json",
            ],
            "M005",
            "--out",
        ),
        (
            vec!["ftp://127.0.0.1/", rate[0], rate[1], rate[2], rate[3]],
            "M002",
            "ftp",
        ),
        (
            vec!["http://u:hunter2@127.0.0.1/", rate[0], rate[1], rate[2], rate[3]],
            "M002",
            "--header",
        ),
        (
            vec!["https://127.0.0.1/", "--ca", "/no/such/file", "--find"],
            "M002",
            "/no/such/file",
        ),
        (
            vec!["http://nobody.invalid/", rate[0], rate[1], rate[2], rate[3]],
            "M002",
            "nobody.invalid",
        ),
        (
            vec![&url, rate[0], rate[1], rate[2], rate[3]],
            "M003",
            "no load was sent",
        ),
    ] {
        let ran = machine
            .run(&[&["measure", "load"][..], &words].concat())
            .must_exit(2);
        assert!(
            ran.err.contains(&format!("error[{code}]")) && ran.err.contains(word),
            "{words:?}: {}",
            ran.err
        );
        assert!(!ran.err.contains("hunter2"), "{}", ran.err);
    }
    // What the parser itself refuses.
    for words in [
        &["measure", "load", &url][..],
        &["measure", "load", &url, "--rate", "10"],
        &["measure", "load", &url, "--for", "10s"],
        &["measure", "load", &url, "--find", "--rate", "10", "--for", "2s"],
        &["measure", "load", &url, "--find", "--header", "Host: elsewhere"],
        &["measure", "selftest", "--runs", "0"],
    ] {
        machine.run(words).must_exit(2);
    }
}

#[test]
fn the_selftest_prints_error_and_coverage_of_every_class() {
    let machine = Machine::new();
    let ran = machine.run(&["measure", "selftest", "--runs", "4"]).must_exit(0);
    for class in ["workers", "fixed-rate", "heavy-tail", "stalls"] {
        assert!(ran.out.contains(&format!("\n{class} ")), "{}", ran.out);
    }
    assert!(
        ran.out.starts_with("SERVERS") && ran.out.contains("in virtual time"),
        "{}",
        ran.out
    );
}
