//! Real stores: etcd and moto are fit for a lease, Garage and s3s-fs are not. A store that is not installed here is
//! skipped (`script/get-stores`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a panic is the report

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pontoon_config::Credentials;
use pontoon_decide::failover::{Members, Mode, Nonce, Policy, Record};
use pontoon_fleet::{Code, Epoch};
use pontoon_lease::probe::{Effort, Report};
use pontoon_lease::{Cell, Kept, LeaseError, LeaseStore, Place, Swap, Version, open, probe};

const PATIENCE: Duration = Duration::from_secs(3);

/// A store that runs; killed at the end, by its pid.
struct Running {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn s3(&self) -> Box<dyn Cell> {
        let keys = self.dir.path().join("keys");
        std::fs::write(&keys, "aws_access_key_id = GK0123456789abcdef01234567\naws_secret_access_key = 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\nregion = us-east-1\n").unwrap();
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let place = Place::parse("s3://lease-test", Some(&endpoint), Some(Credentials::File(keys))).unwrap();
        open(&place, PATIENCE).unwrap()
    }

    fn etcd(&self) -> Box<dyn Cell> {
        let place = Place::parse(&format!("etcd://127.0.0.1:{}", self.port), None, None).unwrap();
        open(&place, PATIENCE).unwrap()
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A program of `script/get-stores`, or of the system.
fn program(name: &str, inside: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/stores");
    let unpacked = root.join(inside).join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file());
    let found = if unpacked.is_file() {
        Some(unpacked)
    } else {
        system
    };
    if found.is_none() {
        println!("SKIPPED: {name} is not here: script/get-stores");
    }
    found
}

fn start(program: PathBuf, prepare: impl FnOnce(&Path, u16, &mut Command)) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut command = Command::new(program);
    prepare(dir.path(), port, &mut command);
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let running = Running { child, dir, port };
    for _ in 0..600 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return running;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    panic!(
        "{}",
        std::fs::read_to_string(running.dir.path().join("log")).unwrap()
    );
}

fn etcd() -> Option<Running> {
    Some(start(program("etcd", "etcd/usr/bin")?, |dir, port, command| {
        let (client, peer) = (
            format!("http://127.0.0.1:{port}"),
            format!("http://127.0.0.1:{}", free_port()),
        );
        command.arg("--data-dir").arg(dir.join("data"));
        command.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        command.args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
    }))
}

fn moto() -> Option<Running> {
    let running = start(program("moto_server", "moto/bin")?, |_, port, command| {
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    });
    // A bucket, with an unsigned request: moto checks no signatures.
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", running.port)).unwrap();
    write!(
        stream,
        "PUT /lease-test HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        running.port
    )
    .unwrap();
    std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    Some(running)
}

fn s3s_fs() -> Option<Running> {
    Some(start(program("s3s-fs", "s3s-fs/bin")?, |dir, port, command| {
        std::fs::create_dir_all(dir.join("data/lease-test")).unwrap();
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--access-key", "GK0123456789abcdef01234567"]);
        command.args([
            "--secret-key",
            "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ]);
        command.arg(dir.join("data"));
    }))
}

fn garage() -> Option<Running> {
    let garage = program("garage", "garage/bin")?;
    let running = start(garage.clone(), |dir, port, command| {
        let config = format!(
            "metadata_dir = \"{0}/meta\"\ndata_dir = \"{0}/data\"\ndb_engine = \"sqlite\"\nreplication_factor = 1\n\
             rpc_bind_addr = \"127.0.0.1:{1}\"\nrpc_public_addr = \"127.0.0.1:{1}\"\nrpc_secret = \"{2}\"\n\
             [s3_api]\ns3_region = \"us-east-1\"\napi_bind_addr = \"127.0.0.1:{port}\"\n",
            dir.display(),
            free_port(),
            "ab".repeat(32)
        );
        std::fs::write(dir.join("garage.toml"), config).unwrap();
        command.arg("-c").arg(dir.join("garage.toml")).arg("server");
    });
    let run = |args: &[&str]| {
        let output = Command::new(&garage)
            .arg("-c")
            .arg(running.dir.path().join("garage.toml"))
            .args(args)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let node = run(&["node", "id", "-q"]);
    run(&[
        "layout",
        "assign",
        "-z",
        "z",
        "-c",
        "1G",
        node.split('@').next().unwrap(),
    ]);
    run(&["layout", "apply", "--version", "1"]);
    let (id, secret) = (
        "GK0123456789abcdef01234567",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    );
    run(&["key", "import", "--yes", id, secret]);
    run(&["bucket", "create", "lease-test"]);
    run(&["bucket", "allow", "--read", "--write", "lease-test", "--key", id]);
    Some(running)
}

fn record(epoch: u64, leader: &str, seq: u64) -> Record {
    Record {
        fleet: "notes".parse().unwrap(),
        epoch: Epoch(epoch),
        leader: leader.parse().unwrap(),
        incarnation: Default::default(),
        electing: false,
        released: false,
        sync: Members::new(),
        acks: 0,
        policy: Policy {
            mode: Mode::Safe,
            acks: 1,
            max_lag: Duration::ZERO,
        },
        candidate: None,
        fragile: false,
        seq,
        nonce: Nonce(u128::from(seq) * 1_000 + u128::from(epoch)),
    }
}

fn won(swap: Result<Swap<Record>, LeaseError>) -> Version {
    match swap.unwrap() {
        Swap::Won(version) => version,
        Swap::Lost(found) => panic!("lost to {found:?}"),
    }
}

/// What every store must do, in the order of a fleet's life.
async fn keeps_a_lease(cell: Box<dyn Cell>) {
    let store = Kept::new(cell);
    assert_eq!(store.read().await.unwrap(), None);
    let first = won(store.compare_and_swap(None, &record(1, "a", 1)).await);
    assert_eq!(
        store.read().await.unwrap(),
        Some((record(1, "a", 1), first.clone()))
    );
    let second = won(store.compare_and_swap(Some(&first), &record(2, "b", 2)).await);
    for stale in [None, Some(&first)] {
        let swap = store.compare_and_swap(stale, &record(3, "c", 3)).await.unwrap();
        assert_eq!(swap, Swap::Lost(Some((record(2, "b", 2), second.clone()))));
    }
}

async fn races(cell: &dyn Cell, rounds: usize) -> Report {
    let report = probe(cell, "t", Effort { writers: 4, rounds }).await.unwrap();
    println!("{}", serde_json::to_string(&report).unwrap());
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn etcd_keeps_a_lease_and_takes_one_winner() {
    let Some(store) = etcd() else { return };
    keeps_a_lease(store.etcd()).await;
    let report = races(&*store.etcd(), 50).await;
    assert_eq!((report.verdict(), report.rounds), (Ok(()), 50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn moto_keeps_a_lease_and_takes_one_winner() {
    let Some(store) = moto() else { return };
    keeps_a_lease(store.s3()).await;
    let report = races(&*store.s3(), 20).await;
    assert_eq!((report.verdict(), report.rounds), (Ok(()), 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn s3s_fs_lets_two_win_and_is_refused() {
    let Some(store) = s3s_fs() else { return };
    let refusal = races(&*store.s3(), 50).await.verdict().unwrap_err();
    assert_eq!(refusal.code, Code::F005, "{refusal:?}");
    assert!(
        refusal
            .evidence
            .iter()
            .any(|line| line.contains("were all told that they won")),
        "{refusal:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn garage_is_refused() {
    let Some(store) = garage() else { return };
    let refusal = races(&*store.s3(), 50).await.verdict().unwrap_err();
    println!("{refusal:?}");
    assert!(matches!(refusal.code, Code::F005 | Code::F006), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_frozen_store_is_a_doubt_and_a_dead_one_no_answer() {
    let Some(store) = etcd() else { return };
    let kept = Kept::new(store.etcd());
    let first = won(kept.compare_and_swap(None, &record(1, "a", 1)).await);
    store.signal(rustix::process::Signal::STOP);
    // All its threads have to notice.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = kept
        .compare_and_swap(Some(&first), &record(1, "a", 2))
        .await
        .unwrap_err();
    assert!(matches!(error, LeaseError::Doubt(_)), "{error}");
    store.signal(rustix::process::Signal::CONT);
    // The late write has landed or not: whoever looks sees which, and nothing is guessed.
    // It may take etcd a moment to find its leader again.
    let mut answer = kept.read().await;
    for _ in 0..20 {
        if answer.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        answer = kept.read().await;
    }
    let (there, _) = answer.unwrap().unwrap();
    assert!(
        there == record(1, "a", 1) || there == record(1, "a", 2),
        "{there:?}"
    );
    store.signal(rustix::process::Signal::KILL);
    std::thread::park_timeout(Duration::from_millis(300));
    let error = kept.read().await.unwrap_err();
    assert!(matches!(error, LeaseError::Unanswered { .. }), "{error}");
}

#[tokio::test]
async fn a_port_where_something_else_listens_is_told_apart() {
    let Some(store) = moto() else { return };
    let place = Place::parse(&format!("etcd://127.0.0.1:{}", store.port), None, None).unwrap();
    let error = probe(&*open(&place, PATIENCE).unwrap(), "t", Effort::default())
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::N002, "{error:?}");
    let endpoint = format!("http://127.0.0.1:{}", store.port);
    let keys = store.dir.path().join("keys");
    std::fs::write(&keys, "access_key_id=x\nsecret_access_key=y\n").unwrap();
    let place = Place::parse(
        "s3://no-such-bucket",
        Some(&endpoint),
        Some(Credentials::File(keys)),
    )
    .unwrap();
    let error = probe(&*open(&place, PATIENCE).unwrap(), "t", Effort::default())
        .await
        .unwrap_err();
    assert!(
        error.evidence.iter().any(|line| line.contains("no bucket")),
        "{error:?}"
    );
}
