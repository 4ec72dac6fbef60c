//! An agent that lies, breaks off or says nothing: every answer ends in a refusal, none in a panic or a hang.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::{Machine, http};

const STEP: &str = r#"{"progress":"step","server":"b","text":"copying database from a"}"#;
const FINISHED: &str = r#"{"progress":"finished","text":"b is drained"}"#;

#[test]
fn answers_that_are_not_answers() {
    for (name, answer, status, code) in [
        ("not HTTP", b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(), 1, "N005"),
        ("nothing", Vec::new(), 4, "N001"),
        (
            "half a head",
            b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(),
            4,
            "N001",
        ),
        (
            "half a body",
            b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"version\":".to_vec(),
            4,
            "N001",
        ),
        ("not JSON", http("200 OK", "<html>\x1b[2J</html>"), 1, "N005"),
        (
            "other JSON",
            http("200 OK", r#"{"version":99,"fleets":[]}"#),
            1,
            "N005",
        ),
        ("deep JSON", http("200 OK", &"[".repeat(100_000)), 1, "N005"),
        ("huge", http("200 OK", &"x".repeat(5 << 20)), 1, "N005"),
        (
            "endless head",
            format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(3 << 20)).into_bytes(),
            1,
            "N005",
        ),
        (
            "an error without words",
            http("500 Internal Server Error", "oops"),
            1,
            "N005",
        ),
        ("binary", vec![0xff; 4096], 1, "N005"),
    ] {
        let machine = Machine::new();
        machine.belongs_to_a_fleet();
        machine.agent_says(answer);
        for words in [&["status"][..], &["events"], &["drain", "b"]] {
            let ran = machine.run(words);
            assert!(
                ran.err.contains("error["),
                "{name} {words:?}: {} {}",
                ran.out,
                ran.err
            );
            assert!(
                !ran.err.contains("panicked") && !ran.err.contains('\x1b'),
                "{name}: {}",
                ran.err
            );
            // A stream that is no stream can only be told line by line.
            if words != ["drain", "b"] {
                assert!(
                    ran.err.contains(&format!("error[{code}]")),
                    "{name} {words:?}: {}",
                    ran.err
                );
                assert_eq!(ran.status, status, "{name} {words:?}: {}", ran.err);
            }
        }
    }
}

#[test]
fn streams_that_break_off_or_lie() {
    for (name, body, status, code) in [
        ("ends midway", format!("{STEP}\n"), 4, "N001"),
        (
            "breaks off in a line",
            format!("{STEP}\n{{\"progress\":\"fin"),
            4,
            "N001",
        ),
        ("is not JSON", format!("{STEP}\n<html>\n"), 1, "N005"),
        ("has a line without end", "x".repeat(3 << 20), 4, "N001"),
        (
            "has a name that is none",
            STEP.replace("\"b\"", "\"../etc\"") + "\n",
            1,
            "N005",
        ),
        ("is empty", String::new(), 4, "N001"),
    ] {
        let machine = Machine::new();
        machine.belongs_to_a_fleet();
        machine.agent_says(http("200 OK", &body));
        let ran = machine.run(&["drain", "b"]).must_exit(status);
        assert!(ran.err.contains(&format!("error[{code}]")), "{name}: {}", ran.err);
        let json = machine.run(&["drain", "b", "--json"]).must_exit(status);
        let last: serde_json::Value = serde_json::from_str(json.out.lines().last().unwrap()).unwrap();
        assert_eq!(last["refusal"]["code"], code, "{name}");
    }
}

#[test]
fn a_stream_that_ends_well_and_one_that_is_refused() {
    let machine = Machine::new();
    machine.agent_says(http(
        "200 OK",
        &format!("{STEP}\n\n{FINISHED}\n{{nothing after it counts"),
    ));
    let ran = machine.run(&["drain", "b"]).must_exit(0);
    assert_eq!(ran.err, "  … b  copying database from a\nb is drained\n");
    let json = machine.run(&["drain", "b", "--json"]).must_exit(0);
    assert!(
        json.out
            .lines()
            .all(|line| line.starts_with("{\"version\":1,\"progress\":")),
        "{}",
        json.out
    );

    let refusal = r#"{"code":"F003","what":"b is the last one","evidence":["a is drained"],"next":[]}"#;
    let machine = Machine::new();
    machine.agent_says(http(
        "200 OK",
        &format!("{{\"progress\":\"refused\",\"refusal\":{refusal}}}\n"),
    ));
    let ran = machine.run(&["drain", "b"]).must_exit(3);
    assert!(
        ran.err
            .contains("error[F003]: b is the last one\n  │ a is drained\n"),
        "{}",
        ran.err
    );
    let machine = Machine::new();
    machine.agent_says(http("403 Forbidden", refusal));
    assert!(
        machine
            .run(&["drain", "b"])
            .must_exit(3)
            .err
            .contains("error[F003]")
    );
    assert!(machine.run(&["status"]).must_exit(3).err.contains("error[F003]"));
}

#[test]
fn ctrl_c_ends_the_looking_and_says_how_to_go_on() {
    let machine = Machine::new();
    machine.agent(|mut io| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let line = format!("{STEP}\n");
        let _ = io.write_all(format!("{head}{:x}\r\n{line}\r\n", line.len()).as_bytes());
        // Says nothing more until the other side has gone.
        let _ = io.set_read_timeout(Some(Duration::from_secs(20)));
        let _ = io.read(&mut [0; 10]);
    });
    let begun = Instant::now();
    let mut command = std::process::Command::new("timeout");
    command.args([
        "--foreground",
        "--preserve-status",
        "--signal=INT",
        "2",
        env!("CARGO_BIN_EXE_pontoon"),
    ]);
    command.args(["drain", "b", "--run-dir", machine.path("run").to_str().unwrap()]);
    let ran = common::Ran::of(command).must_exit(130);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(
        ran.err.contains("The agent goes on") && ran.err.contains("pontoon status"),
        "{}",
        ran.err
    );
}
