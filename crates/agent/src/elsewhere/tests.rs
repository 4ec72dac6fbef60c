//! Who tells others of the addresses, and what a program of `[dns.hook]` is called with.

use std::path::{Path, PathBuf};

use pontoon_decide::addresses::Addresses;
use pontoon_fleet::UnixMillis;
use pontoon_zone::rtype;

use super::*;
use crate::testing;

/// Another process writes it: a file that a fork of this one still has open for writing cannot be executed.
fn program(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    let status = std::process::Command::new("sh")
        .args([
            "-c",
            "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\" && chmod 755 \"$0\"",
        ])
        .args([path.as_os_str(), text.as_ref()])
        .status();
    assert!(status.unwrap().success());
    path
}

async fn call_it(exec: PathBuf, timeout: Duration) -> Result<(), String> {
    let hook = DnsHook { exec, timeout };
    let place = ("www.example.com".parse().unwrap(), rtype::A);
    let set = Rrset {
        ttl: 20,
        data: [1, 2].map(|last| Box::from([192, 0, 2, last])).to_vec(),
    };
    hook::call(&hook, &"example.com".parse().unwrap(), &place, &set).await
}

#[tokio::test]
async fn a_program_is_called_as_it_is_documented() {
    let dir = tempfile::tempdir().unwrap();
    let said = dir.path().join("said");
    let text = format!("echo \"$PONTOON_ZONE: $*\" >{}", said.display());
    let long = Duration::from_secs(60);
    call_it(program(dir.path(), "good", &text), long).await.unwrap();
    let line = std::fs::read_to_string(&said).unwrap();
    assert_eq!(
        line,
        "example.com: set www.example.com A 20 192.0.2.1 192.0.2.2\n"
    );

    let bad = program(dir.path(), "bad", "echo one >&2; echo 'no such zone' >&2; exit 3");
    let reason = call_it(bad, long).await.unwrap_err();
    assert!(
        reason.contains('3') && reason.ends_with("no such zone"),
        "{reason}"
    );
    let reason = call_it(dir.path().join("missing"), long).await.unwrap_err();
    assert!(reason.contains("cannot be started"), "{reason}");
    let talker = program(
        dir.path(),
        "talker",
        "i=0; while [ $i -lt 5000 ]; do echo xxxxxxxxxxxxxxxxxxxx >&2; i=$((i+1)); done",
    );
    call_it(talker, long).await.unwrap();
    // What it leaves behind in the background does not count.
    let parent = program(dir.path(), "parent", "sleep 600 & exit 0");
    call_it(parent, long).await.unwrap();
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_killed_with_what_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let text = format!("sleep 600 & echo $! >{}; wait", pid.display());
    let reason = call_it(program(dir.path(), "slow", &text), Duration::from_secs(2))
        .await
        .unwrap_err();
    assert!(reason.contains("was killed"), "{reason}");
    let pid: u32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    let lives = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    for _ in 0..600 {
        if !lives() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("what it started still runs");
}

fn with_hook(exec: &Path) -> String {
    let dns = format!(
        "[dns]\nzone = \"example.com\"\n[dns.hook]\nexec = \"{}\"\n",
        exec.display()
    );
    format!(
        "{}{dns}",
        testing::CONFIG.replace("notes.example.com", "example.com")
    )
}

/// The fleet's address is in this state.
fn address_is(agent: &Agent, state: &str) {
    let view = serde_json::json!({
        "address": "198.51.100.111", "home": "a", "holder": "a", "state": state, "reason": "",
    });
    let views = vec![serde_json::from_value(view).unwrap()];
    *agent.addresses.lock().unwrap() = Addresses::resume(views, UnixMillis::default());
}

/// What the program was called with since it was last asked.
fn calls(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let _ = std::fs::remove_file(path);
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn it_is_called_for_what_changed_again_after_a_failure_and_once_an_hour() {
    let dir = tempfile::tempdir().unwrap();
    let (said, fail) = (dir.path().join("said"), dir.path().join("fail"));
    let text = format!("echo \"$*\" >>{}; test ! -e {}", said.display(), fail.display());
    let exec = program(dir.path(), "hook", &text);
    let fixture = testing::founder_of(&with_hook(&exec)).await;
    let agent = &fixture.agent;
    let mut calls_made = Calls::default();
    call(agent, &mut calls_made).await;
    assert_eq!(calls(&said), Vec::<String>::new(), "nothing is known yet");
    address_is(agent, "up");
    call(agent, &mut calls_made).await;
    let up = ["set example.com A 60 198.51.100.111", "set example.com AAAA 60"];
    assert_eq!(calls(&said), up);
    call(agent, &mut calls_made).await;
    assert_eq!(calls(&said), Vec::<String>::new());
    std::fs::write(&fail, "").unwrap();
    address_is(agent, "down");
    call(agent, &mut calls_made).await;
    assert_eq!(calls(&said).len(), 1, "the first that fails ends the attempt");
    assert!(
        agent.elsewhere.reports()[0]
            .trouble
            .as_ref()
            .unwrap()
            .contains("example.com")
    );
    call(agent, &mut calls_made).await;
    assert_eq!(calls(&said), Vec::<String>::new(), "not at once again");
    std::fs::remove_file(&fail).unwrap();
    fixture.clock.advance(FIRST_PAUSE);
    call(agent, &mut calls_made).await;
    let down = ["set example.com A 20 198.51.100.111", "set example.com AAAA 20"];
    assert_eq!(calls(&said), down);
    assert_eq!(agent.elsewhere.reports()[0].trouble, None);
    fixture.clock.advance(CALL_AGAIN);
    call(agent, &mut calls_made).await;
    assert_eq!(calls(&said), down);
    assert_eq!(agent.report().unwrap().elsewhere.len(), 1, "the others are told");
}

#[tokio::test]
async fn it_is_called_for_what_authorities_look_for_too() {
    let dir = tempfile::tempdir().unwrap();
    let said = dir.path().join("said");
    let exec = program(dir.path(), "hook", &format!("echo \"$*\" >>{}", said.display()));
    let acme = "[edge.tls.acme]\nnames = [\"*.example.com\"]\nchallenge = \"dns-01\"\n";
    let fixture = testing::founder_of(&format!("{}{acme}", with_hook(&exec))).await;
    let agent = &fixture.agent;
    let mut calls_made = Calls::default();
    address_is(agent, "up");
    call(agent, &mut calls_made).await;
    let place = "set _acme-challenge.example.com TXT 60";
    assert!(calls(&said).iter().any(|call| call == place), "none yet");
    assert!(agent.elsewhere.reports()[0].proofs.is_empty());
    acme::prove(agent, "*.example.com", Some("a_proof"));
    call(agent, &mut calls_made).await;
    assert_eq!(calls(&said), [format!("{place} a_proof")]);
    assert_eq!(agent.elsewhere.reports()[0].proofs, ["a_proof".to_owned()].into());
    acme::prove(agent, "*.example.com", None);
    call(agent, &mut calls_made).await;
    assert_eq!(calls(&said), [place]);
}

#[tokio::test]
async fn a_server_that_cannot_be_given_them_is_told_of_and_asked_ever_more_seldom() {
    let dns = "[dns]\nzone = \"example.com\"\n[dns.update]\nserver = \"127.0.0.1:9\"\nkey_file = \"/nowhere/key\"\n";
    let config = format!(
        "{}{dns}",
        testing::CONFIG.replace("notes.example.com", "example.com")
    );
    let fixture = testing::founder_of(&config).await;
    let agent = &fixture.agent;
    let mut way = Way::default();
    give(agent, &mut way).await;
    assert_eq!(agent.elsewhere.reports(), [], "nothing is known yet");
    address_is(agent, "up");
    for failures in 1..12 {
        give(agent, &mut way).await;
        assert_eq!(way.failures, failures);
        let report = agent.elsewhere.reports().remove(0);
        assert!(report.trouble.unwrap().contains("no such file"));
        give(agent, &mut way).await;
        assert_eq!(way.failures, failures, "not at once again");
        let pause = way.again - agent.clock.now();
        assert!(pause >= FIRST_PAUSE && pause <= LONGEST_PAUSE, "{pause:?}");
        fixture.clock.advance(pause);
    }
}

#[tokio::test]
async fn with_a_shared_lease_only_its_leader_tells_others() {
    let fixture = testing::founder().await;
    assert!(is_ours(&fixture.agent), "alone, and a control server");
    let shared = r#"
[db]
engine = "mariadb"
listen = ["127.0.0.1:3306"]
[lease]
store = "s3"
bucket = "lease"
"#;
    let fixture = testing::founder_of(&testing::two_servers(shared)).await;
    assert!(!is_ours(&fixture.agent), "nobody knows yet who leads");
}
