//! Machines with real database servers, each below a temporary directory, on loopback.
// Outside of `#[test]` functions clippy does not know that this is test code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]
#![allow(dead_code, clippy::zombie_processes)] // each test file uses its part; children are waited for in `drop`

pub mod fleet;
pub mod load;
pub mod pair;

use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pontoon_helper::{Node, Run, find};
use pontoon_replication::{Database, Joiner, Place, Wanted, detect};
use pontoon_rt::paths::Paths;
use pontoon_testkit::datadirs::Fresh;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

/// Which server software.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Software {
    Mariadb,
    Mysql,
}

/// A fleet's certificate authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A server of the fleet: directories, a helper in a process of its own, a database.
pub struct Machine {
    pub name: String,
    pub address: IpAddr,
    pub root: tempfile::TempDir,
    pub paths: Paths,
    pub software: Software,
    pub original_port: u16,
    pub server_port: u16,
    helper: Option<Child>,
    original: Option<Child>,
}

/// The server's program, or the reason why tests with it are skipped. `PONTOON_TEST_MARIADB` names a folder of the checkout
/// with another MariaDB than the installed one, as `script/get-sid mariadb` makes it; its `bin` must come first in
/// `PATH` too, for the tools.
pub fn program(software: Software) -> Result<PathBuf, String> {
    let another = std::env::var_os("PONTOON_TEST_MARIADB").filter(|_| software == Software::Mariadb);
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = match software {
        Software::Mariadb if another.is_some() => {
            checkout.join(another.unwrap_or_default()).join("bin/mariadbd")
        }
        Software::Mariadb => PathBuf::from("/usr/sbin/mariadbd"),
        Software::Mysql => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/mysql/bin/mysqld"),
    };
    if path.exists() {
        return Ok(path.canonicalize().unwrap());
    }
    Err(match software {
        Software::Mariadb => "mariadb-server is not installed".to_owned(),
        Software::Mysql => "no .cache/mysql in the checkout: run script/get-sid mysql".to_owned(),
    })
}

/// Says SKIPPED and why when `software` is not there.
pub fn have(software: Software) -> bool {
    let missing = match program(software) {
        Err(reason) => Some(reason),
        Ok(_)
            if software == Software::Mariadb
                && Command::new("mariadb-backup").arg("--version").output().is_err() =>
        {
            Some("mariadb-backup is not installed".to_owned())
        }
        Ok(_) => None,
    };
    if let Some(reason) = &missing {
        println!("SKIPPED: {reason}");
    }
    missing.is_none()
}

impl Ca {
    pub fn new() -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "fleet test");
        let pem = params.self_signed(&key).unwrap().pem();
        Ca {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Writes an identity as the fleet's own would be.
    pub fn issue(&self, dir: &Path, name: &str, address: IpAddr) {
        std::fs::create_dir_all(dir).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress(address));
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(dir.join("ca.pem"), &self.pem).unwrap();
        std::fs::write(dir.join("cert.pem"), cert.pem()).unwrap();
        std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    }
}

impl Machine {
    /// A machine whose database runs the way its user started it, described in the node file.
    pub async fn start(ca: &Ca, software: Software, name: &str, address: &str) -> Machine {
        let root = tempfile::Builder::new().prefix("pon").tempdir_in("/tmp").unwrap();
        let address: IpAddr = address.parse().unwrap();
        let paths = Paths::under(root.path());
        paths.create_dirs().unwrap();
        ca.issue(&paths.identity_dir(), name, address);
        let mut machine = Machine {
            name: name.to_owned(),
            address,
            paths,
            software,
            original_port: free_port(),
            server_port: free_port(),
            root,
            helper: None,
            original: None,
        };
        machine.install();
        machine.start_original();
        let pid = find::server_in(&machine.datadir()).expect("the original server runs");
        let found = detect::describe(&find::server(pid).unwrap()).await.unwrap();
        assert_eq!(found.node.port, machine.original_port);
        assert_eq!(found.node.socket, machine.original_socket());
        Node {
            database: Some(found.node),
        }
        .save(&machine.paths.node_file())
        .unwrap();
        machine.start_helper();
        machine
    }

    pub fn datadir(&self) -> PathBuf {
        self.root.path().join("mysql")
    }

    fn tmpdir(&self) -> PathBuf {
        self.root.path().join("tmp")
    }

    pub fn original_socket(&self) -> PathBuf {
        self.root.path().join("mysqld.sock")
    }

    pub fn place(&self) -> Place {
        Place {
            port: self.server_port,
            socket_name: Some("server.sock".to_owned()),
        }
    }

    pub fn database(&self) -> Database {
        Database::open(&self.paths, self.place()).unwrap().unwrap()
    }

    pub fn wanted(&self, replica: bool) -> Wanted {
        Wanted {
            port: self.server_port,
            private: Some(self.address),
            replica,
            tls: true,
            inherited: Vec::new(),
            by_position: false,
            failover: false,
        }
    }

    pub fn joiner(&self) -> Joiner {
        let node = Node::load(&self.paths.node_file()).unwrap().database.unwrap();
        Joiner {
            server: self.name.parse().unwrap(),
            address: self.address,
            engine: node.engine,
            version: node.version,
            means: pontoon_replication::Means::default(),
        }
    }

    fn install(&self) {
        let datadir = self.datadir();
        // Not /tmp: a starting MariaDB removes the temporary tables of others from there.
        std::fs::create_dir(self.tmpdir()).unwrap();
        let fresh = match self.software {
            Software::Mariadb => Fresh::mariadb(false, &[]),
            Software::Mysql => Fresh::mysql(&[]),
        };
        fresh.unwrap().fill(&datadir).unwrap();
    }

    fn start_original(&mut self) {
        let log = std::fs::File::create(self.root.path().join("original.log")).unwrap();
        let mut command = Command::new(program(self.software).unwrap());
        command
            .arg("--no-defaults")
            .arg(format!("--user={}", user()))
            .arg(format!("--datadir={}", self.datadir().display()))
            .arg(format!("--tmpdir={}", self.tmpdir().display()))
            .arg(format!("--socket={}", self.original_socket().display()))
            .arg(format!("--port={}", self.original_port))
            .arg(format!(
                "--pid-file={}",
                self.root.path().join("mysqld.pid").display()
            ))
            .args(["--bind-address=127.0.0.1", "--innodb-buffer-pool-size=64M"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.original = Some(command.spawn().unwrap());
        wait_for_socket(&self.original_socket());
    }

    /// Starts the helper as a process of its own: this test binary, run as the test `helper_process`.
    pub fn start_helper(&mut self) {
        self.start_helper_with_path(&std::env::var("PATH").unwrap_or_default());
    }

    pub fn start_helper_with_path(&mut self, path: &str) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.root.path().join("helper.log"))
            .unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "helper_process", "--ignored", "--nocapture"])
            .env("PONTOON_TEST_HELPER_ROOT", self.root.path())
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.helper = Some(child);
        wait_for_socket(&self.paths.helper_socket());
    }

    /// SIGKILL to the helper, as a crash would.
    pub fn kill_helper(&mut self) {
        if let Some(mut helper) = self.helper.take() {
            helper.kill().unwrap();
            helper.wait().unwrap();
        }
    }

    /// SIGKILL to the database.
    pub fn kill_database(&mut self) {
        if let Some(pid) = find::server_in(&self.datadir()) {
            kill(pid);
            let begun = Instant::now();
            while find::server_in(&self.datadir()).is_some() {
                assert!(begun.elapsed() < Duration::from_secs(10));
                std::thread::yield_now();
            }
        }
    }

    /// Freezes the database, or lets it go on.
    pub fn signal_database(&self, signal: rustix::process::Signal) {
        let pid = find::server_in(&self.datadir()).expect("the database runs");
        let process = pontoon_testkit::ProcessId::of(i32::try_from(pid).unwrap()).unwrap();
        process.signal(signal).unwrap();
    }

    /// Runs SQL as root over a socket, for the tests' own purposes.
    pub fn sql(&self, socket: &Path, statement: &str) -> String {
        self.try_sql(socket, ("root", ""), statement)
            .unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    fn try_sql(
        &self,
        socket: &Path,
        (user, password): (&str, &str),
        statement: &str,
    ) -> Result<String, String> {
        let client = match self.software {
            Software::Mariadb => PathBuf::from("mariadb"),
            Software::Mysql => program(self.software).unwrap().with_file_name("mysql"),
        };
        let done = Command::new(client)
            .args(["--no-defaults", "-N", "-B", "-u", user])
            .env("MYSQL_PWD", password)
            .arg("-S")
            .arg(socket)
            .args(["-e", statement])
            .output()
            .unwrap();
        if !done.status.success() {
            return Err(String::from_utf8_lossy(&done.stderr).into_owned());
        }
        Ok(String::from_utf8(done.stdout).unwrap().trim().to_owned())
    }

    /// As [`Machine::sql`], on the moved server.
    pub fn moved_sql(&self, statement: &str) -> String {
        self.sql(&self.database().backend_socket(), statement)
    }

    /// The same as a user of `localhost`.
    pub fn moved_sql_as(&self, user: &str, password: &str, statement: &str) -> Result<String, String> {
        self.try_sql(&self.database().backend_socket(), (user, password), statement)
    }

    /// Gives the process's own options to the node file (to break them, in tests).
    pub fn edit_node(&self, edit: impl FnOnce(&mut pontoon_helper::DatabaseNode)) {
        let mut node = Node::load(&self.paths.node_file()).unwrap();
        edit(node.database.as_mut().unwrap());
        node.save(&self.paths.node_file()).unwrap();
    }

    /// The directory's entries whose name holds `part`.
    pub fn entries(&self, part: &str) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = std::fs::read_dir(self.root.path())
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.file_name().unwrap().to_string_lossy().contains(part))
            .collect();
        found.sort();
        found
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill_helper();
        let dirs: Vec<PathBuf> = std::fs::read_dir(self.root.path())
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .collect();
        for dir in dirs {
            if let Some(pid) = find::server_in(&dir) {
                kill(pid);
            }
        }
        if let Some(mut original) = self.original.take() {
            let _ = original.kill();
            let _ = original.wait();
        }
        if std::thread::panicking() {
            for name in ["helper.log", "mysql.pontoon.log", "original.log"] {
                let text = std::fs::read_to_string(self.root.path().join(name)).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(25).collect();
                eprintln!("--- {} {name}", self.name);
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

/// The helper of a machine: what `helper_process` runs.
pub fn run_helper() {
    let Some(root) = std::env::var_os("PONTOON_TEST_HELPER_ROOT") else {
        return;
    };
    let paths = Paths::under(Path::new(&root));
    pontoon_helper::run(pontoon_helper::HelperOptions { paths }).unwrap();
}

/// A beat every 200 ms, as the agent gives.
pub fn beating(machine: &Machine) -> tokio::task::JoinHandle<()> {
    let database = machine.database();
    tokio::spawn(async move {
        loop {
            let _ = database.heartbeat(Duration::from_millis(200)).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
}

pub fn is_process(node: &pontoon_helper::DatabaseNode) -> bool {
    matches!(node.run, Run::Process { .. })
}

fn user() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let text = std::fs::read_to_string("/etc/passwd").unwrap();
    text.lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
        .unwrap()
}

fn free_port() -> u16 {
    pontoon_testkit::free_port().unwrap()
}

fn wait_for_socket(path: &Path) {
    let begun = Instant::now();
    while UnixStream::connect(path).is_err() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "nobody listens on {}",
            path.display()
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}
