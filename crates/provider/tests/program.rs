//! A program of the operator's: its contract, and how it fails.

#![allow(clippy::unwrap_used, clippy::panic)] // a panic is the report

mod stand_in;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_config::AddressMethod;
use pontoon_provider::{MoveError, Mover, Place};
use stand_in::{IP, claim, settings};

const LONG: Duration = Duration::from_secs(60);

/// A program that is being written cannot be started (`ETXTBSY`), and a child of another test's would hold it open.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn program(dir: &Path, body: &str) -> PathBuf {
    let path = dir.join("move");
    let _ = fs::remove_file(&path);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn mover(path: PathBuf, timeout: Duration) -> Mover {
    let targets = [("b".parse().unwrap(), "machine-7".to_owned())].into();
    let settings = settings(AddressMethod::Exec(path), None, None, timeout, targets);
    let mover = Mover::new(&"notes".parse().unwrap(), &settings).unwrap().unwrap();
    mover.looking_each(Duration::from_millis(10))
}

#[tokio::test]
async fn it_is_told_what_it_needs_and_nothing_else_and_asked_where_the_address_is() {
    let _alone = ALONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().display();
    let body = format!(
        "case $1 in\n\
         claim) env | sort > {place}/env; echo \"$*\" >> {place}/args; echo $PONTOON_TARGET > {place}/at ;;\n\
         where) cat {place}/at 2>/dev/null || : ;;\n\
         esac"
    );
    let mover = mover(program(dir.path(), &body), LONG);
    assert_eq!(mover.place(IP).await, Ok(Place::Nowhere));
    assert_eq!(mover.claim(&claim("b")).await, Ok(()));
    assert_eq!(
        mover.place(IP).await,
        Ok(Place::At("b".parse().unwrap())),
        "by the provider's name"
    );
    // A server without a target goes by its own name.
    assert_eq!(mover.claim(&claim("c")).await, Ok(()));
    assert_eq!(mover.place(IP).await, Ok(Place::At("c".parse().unwrap())));
    assert_eq!(mover.claim(&claim("b")).await, Ok(()));
    // A program is told each time: it may have more to do than the provider knows.
    assert_eq!(mover.claim(&claim("b")).await, Ok(()));
    let args = fs::read_to_string(dir.path().join("args")).unwrap();
    assert_eq!(args.matches("claim 198.51.100.111 b\n").count(), 3, "{args}");
    let env = fs::read_to_string(dir.path().join("env")).unwrap();
    for line in [
        "PONTOON_ACTION=claim",
        "PONTOON_EPOCH=7",
        "PONTOON_FLEET=notes",
        "PONTOON_HOME=a",
        "PONTOON_IP=198.51.100.111",
        "PONTOON_TARGET=machine-7",
        "PONTOON_TIMEOUT=60",
        "PONTOON_TO=b",
    ] {
        assert!(env.lines().any(|found| found == line), "{line}: {env}");
    }
    assert!(
        !env.contains("CARGO"),
        "nothing of the agent's environment: {env}"
    );
}

#[tokio::test]
async fn how_it_ends_is_told_with_its_last_words() {
    let _alone = ALONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    for (body, wanted, later) in [
        (
            "echo first >&2; echo no such address >&2; exit 1",
            "exit status 1: no such address",
            false,
        ),
        ("echo locked >&2; exit 75", "exit status 75: locked", true),
        ("kill -9 $$", "signal: 9", false),
        (
            "printf '\\033[31mred' >&2; exit 2",
            "exit status 2:  [31mred",
            false,
        ),
    ] {
        let error = mover(program(dir.path(), body), LONG)
            .claim(&claim("b"))
            .await
            .unwrap_err();
        let MoveError::Program {
            why, later: found, ..
        } = &error
        else {
            panic!("{body}: {error:?}");
        };
        assert!(why.contains(wanted) && *found == later, "{body}: {error:?}");
        assert_eq!(error.patience(9) == Duration::from_secs(2), later, "{body}");
    }
    let error = mover(dir.path().join("none"), LONG).place(IP).await.unwrap_err();
    assert!(error.to_string().contains("cannot be started"), "{error}");
    let nonsense = program(dir.path(), "printf 'two words\\n'");
    let error = mover(nonsense, LONG).place(IP).await.unwrap_err();
    assert!(error.to_string().contains("two words"), "{error}");
}

#[tokio::test]
async fn one_that_says_done_and_is_wrong_is_found_out_and_one_that_cannot_tell_is_believed() {
    let _alone = ALONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let lying = program(dir.path(), "[ $1 != where ] || echo a");
    let error = mover(lying, Duration::from_secs(2))
        .claim(&claim("b"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, MoveError::Untrue { .. } | MoveError::Late(_)),
        "{error:?}"
    );
    let dumb = mover(program(dir.path(), "[ $1 != where ] || exit 69"), LONG);
    assert_eq!(dumb.claim(&claim("b")).await, Ok(()));
    assert_eq!(dumb.place(IP).await, Ok(Place::Unsaid));
}

#[tokio::test]
async fn one_that_does_not_end_is_ended_with_all_that_it_started() {
    let _alone = ALONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let body = format!("sleep 300 & echo $! > {0}; echo $$ >> {0}; wait", pids.display());
    let mover = mover(program(dir.path(), &body), Duration::from_secs(2));
    let error = mover.claim(&claim("b")).await.unwrap_err();
    assert_eq!(error, MoveError::Late(Duration::from_secs(2)));
    let started = fs::read_to_string(&pids).unwrap_or_default();
    for pid in started.lines() {
        let ended = || match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        let deadline = std::time::Instant::now() + LONG;
        while !ended() && std::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(ended(), "{pid} runs on");
    }
}

#[tokio::test]
async fn one_that_talks_without_end_is_not_held_up_and_not_kept() {
    let _alone = ALONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let body = "head -c 3000000 /dev/zero | tr '\\0' x; head -c 3000000 /dev/zero | tr '\\0' y >&2";
    let talker = mover(
        program(dir.path(), &format!("[ $1 = where ] && echo b && exit\n{body}")),
        LONG,
    );
    assert_eq!(talker.claim(&claim("b")).await, Ok(()));
}

/// `packaging/examples/move-address-aws` with a stand-in for `aws`.
#[tokio::test]
async fn the_example_keeps_the_contract() {
    let _alone = ALONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().display();
    let aws = format!(
        "#!/bin/sh\ncase $2 in\n\
         describe-addresses) cat {place}/at 2>/dev/null || echo None ;;\n\
         associate-address) [ ! -e {place}/busy ] || {{ echo RequestLimitExceeded >&2; exit 254; }}\n\
         [ $6 != i-none ] || {{ echo InvalidInstanceID >&2; exit 254; }}; echo $6 > {place}/at ;;\n\
         esac\n"
    );
    fs::write(dir.path().join("aws"), aws).unwrap();
    fs::set_permissions(dir.path().join("aws"), fs::Permissions::from_mode(0o755)).unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/examples/move-address-aws");
    let run = |args: &[&str], target: &str| {
        let path = format!("{place}:/usr/bin:/bin");
        let output = std::process::Command::new(&example)
            .args(args)
            .env_clear()
            .envs([("PATH", path.as_str()), ("PONTOON_TARGET", target)])
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let where_is = || run(&["where", "198.51.100.111"], "");
    assert_eq!(where_is(), (Some(0), String::new()));
    assert_eq!(run(&["claim", "198.51.100.111", "b"], "i-7").0, Some(0));
    assert_eq!(where_is(), (Some(0), "i-7\n".to_owned()));
    assert_eq!(run(&["claim", "198.51.100.111", "b"], "i-none").0, Some(1));
    fs::write(dir.path().join("busy"), "").unwrap();
    assert_eq!(run(&["claim", "198.51.100.111", "b"], "i-8").0, Some(75));
    assert_eq!(run(&["dance"], "").0, Some(2));
    assert_eq!(where_is().1, "i-7\n");
}
