//! Real stores on loopback, each a process that ends with its test.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pontoon_config::Credentials;
use pontoon_lease::{Cell, Place, open};

pub const PATIENCE: Duration = Duration::from_secs(3);

const ACCESS: &str = "GK0123456789abcdef01234567";
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A store that runs; killed at the end, by its pid.
pub struct Running {
    child: Child,
    pub dir: tempfile::TempDir,
    pub port: u16,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn s3(&self) -> Box<dyn Cell> {
        let keys = self.dir.path().join("keys");
        std::fs::write(
            &keys,
            format!(
                "aws_access_key_id = {ACCESS}
aws_secret_access_key = {SECRET}
region = us-east-1
"
            ),
        )
        .unwrap();
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let place = Place::parse("s3://lease-test", Some(&endpoint), Some(Credentials::File(keys))).unwrap();
        open(&place, PATIENCE).unwrap()
    }

    pub fn etcd(&self) -> Box<dyn Cell> {
        let place = Place::parse(&format!("etcd://127.0.0.1:{}", self.port), None, None).unwrap();
        open(&place, PATIENCE).unwrap()
    }
}

pub fn free_port() -> u16 {
    pontoon_testkit::free_port().unwrap()
}

/// A program of `script/get-stores`, or of the system.
pub fn program(name: &str, inside: &str) -> Option<PathBuf> {
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

pub fn start(program: PathBuf, prepare: impl FnOnce(&Path, u16, &mut Command)) -> Running {
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
    let mut running = Running { child, dir, port };
    for _ in 0..1800 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return running;
        }
        if running.child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    panic!(
        "{}",
        std::fs::read_to_string(running.dir.path().join("log")).unwrap()
    );
}

pub fn etcd() -> Option<Running> {
    etcd_with("http", |_, _| {})
}

/// With more options; `prepare` is given its folder.
pub fn etcd_with(scheme: &str, prepare: impl FnOnce(&Path, &mut Command)) -> Option<Running> {
    Some(start(program("etcd", "etcd/usr/bin")?, |dir, port, command| {
        prepare(dir, command);
        let (client, peer) = (
            format!("{scheme}://127.0.0.1:{port}"),
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

pub fn moto() -> Option<Running> {
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

pub fn s3s_fs() -> Option<Running> {
    Some(start(program("s3s-fs", "s3s-fs/bin")?, |dir, port, command| {
        std::fs::create_dir_all(dir.join("data/lease-test")).unwrap();
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--access-key", ACCESS, "--secret-key", SECRET]);
        command.arg(dir.join("data"));
    }))
}

pub fn garage() -> Option<Running> {
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
    run(&["key", "import", "--yes", ACCESS, SECRET]);
    run(&["bucket", "create", "lease-test"]);
    run(&[
        "bucket",
        "allow",
        "--read",
        "--write",
        "lease-test",
        "--key",
        ACCESS,
    ]);
    Some(running)
}

/// Ceph's object gateway. Its bucket is made with curl, which can sign.
pub fn ceph() -> Option<Running> {
    program("radosgw", "ceph/root/usr/bin")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../script/run-ceph");
    let running = start(script, |dir, port, command| {
        command.arg(dir.join("ceph"));
        command.args([&free_port().to_string(), &port.to_string(), ACCESS, SECRET]);
    });
    let output = Command::new("curl")
        .args([
            "-sS",
            "--fail",
            "-X",
            "PUT",
            "--aws-sigv4",
            "aws:amz:us-east-1:s3",
        ])
        .args(["--user", &format!("{ACCESS}:{SECRET}")])
        // The SHA-256 of no bytes.
        .args([
            "-H",
            "x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ])
        .arg(format!("http://127.0.0.1:{}/lease-test", running.port))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(running)
}
