//! One server of a lab: a set of namespaces with its own addresses, processes, `/run`, `/etc`, `/var/lib` and
//! `/var/log`. What is in `/etc`, `/var/lib` and `/var/log` is on disk and outlives a power cut.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::{Child, Command};

use crate::LabError;
use crate::proc::{self, ProcessId};
use crate::process::{Process, Spawn, log_tail};
use crate::wait::{ENDS, run, wait_until};

/// A folder or file of the host that a server sees at a place of its own.
#[derive(Clone, Debug)]
pub struct Bind {
    /// Where it is on the host.
    pub host: PathBuf,
    /// Where the server sees it: below `/run`, `/etc`, `/var/lib` or `/var/log`, or a place that exists already.
    pub server: PathBuf,
}

/// A server of a lab. Clones are the same server.
#[derive(Clone, Debug)]
pub struct Server {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    number: u8,
    dir: PathBuf,
    binds: Vec<Bind>,
    machine: Mutex<Option<Machine>>,
}

/// What exists only while the server is switched on.
#[derive(Debug)]
struct Machine {
    init: ProcessId,
    pid_namespace: String,
    _holder: Child,
}

impl Server {
    pub(crate) fn new(name: &str, number: u8, dir: PathBuf, binds: Vec<Bind>) -> Server {
        let machine = Mutex::new(None);
        Server {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                number,
                dir,
                binds,
                machine,
            }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its address for the fleet: `198.51.100.11` for the first server.
    pub fn private(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, 10 + self.inner.number)
    }

    /// Its address for visitors: `198.51.100.111` for the first server.
    pub fn public(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, 110 + self.inner.number)
    }

    /// Its IPv6 address for the fleet: `2001:db8::b` for the first server (where the kernel has IPv6).
    pub fn private6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(10 + self.inner.number))
    }

    /// Its IPv6 address for visitors: `2001:db8::6f` for the first server (where the kernel has IPv6).
    pub fn public6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(110 + self.inner.number))
    }

    /// The lab's folder for this server, with `etc`, `var-lib` and `var-log` in it; readable while it is off too.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// A log file of the server as the caller sees it.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.inner.dir.join("var-log").join(format!("{name}.log"))
    }

    /// A file of the server as the caller sees it; Unix sockets can be dialled by this path.
    ///
    /// # Errors
    /// When the server is switched off.
    pub fn path(&self, path: impl AsRef<Path>) -> Result<PathBuf, LabError> {
        let path = path.as_ref();
        let root = PathBuf::from(format!("/proc/{}/root", self.init()?.pid));
        Ok(root.join(path.strip_prefix("/").unwrap_or(path)))
    }

    /// Whether it is switched on.
    pub fn is_on(&self) -> bool {
        self.init().is_ok()
    }

    /// A command that will run in the server. Add arguments and run it; its children die with the server.
    ///
    /// # Errors
    /// When the server is switched off.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command, LabError> {
        let mut command = Command::new("nsenter");
        command
            .args([
                "-t",
                &self.init()?.pid.to_string(),
                "-n",
                "-m",
                "-p",
                "-u",
                "-i",
                "--",
            ])
            .arg(program)
            .env_clear()
            .envs(ENVIRONMENT.iter().copied());
        Ok(command)
    }

    /// Runs a program in the server to its end, for a minute at most, and gives what it printed.
    ///
    /// # Errors
    /// When it cannot be run or ends with an error.
    pub async fn exec(&self, program: &str, args: &[&str]) -> Result<String, LabError> {
        let output = run(self.command(program)?.args(args), Duration::from_secs(60)).await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a shell script in the server; it stops at the first error.
    ///
    /// # Errors
    /// When it cannot be run or ends with an error.
    pub async fn sh(&self, script: &str) -> Result<String, LabError> {
        self.exec("sh", &["-euc", script]).await
    }

    /// Starts a program in the server that runs on by itself, in a session of its own.
    ///
    /// # Errors
    /// When it cannot be started or has ended at once.
    pub async fn spawn(&self, what: Spawn) -> Result<Process, LabError> {
        let log = self.log_file(&what.log);
        let mut command = self.command("sh")?;
        command.args([
            "-euc",
            SPAWN_SCRIPT,
            &format!("/var/log/{}.log", what.log),
            &what.program,
        ]);
        command
            .args(&what.args)
            .envs(what.env.iter().map(|(k, v)| (k, v)));
        let output = run(&mut command, ENDS).await?;
        let pid = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
        let ended = || LabError::Ended {
            program: what.program.clone(),
            log: log.clone(),
            tail: log_tail(&log),
        };
        let id = pid.and_then(|pid| self.process(pid)).ok_or_else(ended)?;
        Ok(Process {
            program: what.program,
            id,
            log,
        })
    }

    /// Every process of the server, as the caller sees them; process 1 of the server is among them.
    pub fn processes(&self) -> Vec<ProcessId> {
        let namespace = self
            .machine(|machine| machine.pid_namespace.clone())
            .unwrap_or_default();
        let here = |pid| proc::namespace(pid, "pid").is_some_and(|found| found == namespace);
        proc::all()
            .into_iter()
            .map(|process| process.id)
            .filter(|id| here(id.pid))
            .collect()
    }

    /// The process that has `pid` inside the server (as a pid file there says), as the caller sees it.
    pub fn process(&self, pid: i32) -> Option<ProcessId> {
        self.processes()
            .into_iter()
            .find(|id| proc::innermost_pid(id.pid) == Some(pid))
    }

    /// Switches the server on: new namespaces, the disk as it was, an empty `/run`.
    ///
    /// # Errors
    /// When it is on already or something of it cannot be made.
    pub async fn power_on(&self) -> Result<(), LabError> {
        if self.is_on() {
            return Err(LabError::Unknown(format!("server {} is on already", self.name())));
        }
        self.prepare_disk().await?;
        let dir = &self.inner.dir;
        let (ready, boot_log) = (dir.join("ready"), dir.join("boot.log"));
        let _ = fs::remove_file(&ready);
        let log = fs::File::create(&boot_log).map_err(LabError::io("boot log"))?;
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
            "--kill-child=KILL",
        ]);
        command.args([
            "--mount-proc",
            "--propagation",
            "private",
            "--",
            "sh",
            "-euc",
            BOOT_SCRIPT,
            "lab",
        ]);
        command.arg(self.name()).arg(dir);
        for bind in &self.inner.binds {
            command
                .arg(&bind.host)
                .arg(self.staged(&bind.server).unwrap_or_else(|| bind.server.clone()));
        }
        let out = log.try_clone().map_err(LabError::io("boot log"))?;
        command.stdin(Stdio::null()).stdout(out).stderr(log);
        command.env_clear().envs(ENVIRONMENT.iter().copied());
        let mut holder = command.spawn().map_err(LabError::io("start unshare"))?;
        let boot = wait_until(
            &format!("boot of server {}", self.name()),
            Duration::from_secs(20),
            || {
                let up = ready.exists();
                let gone = holder.try_wait().is_ok_and(|status| status.is_some());
                async move { if up || gone { Some(up) } else { None } }
            },
        )
        .await?;
        let failed = || LabError::Ended {
            program: format!("server {}", self.name()),
            log: boot_log.clone(),
            tail: log_tail(&boot_log),
        };
        if !boot {
            return Err(failed());
        }
        let unshare = holder.id().ok_or_else(failed)? as i32;
        let init = proc::all()
            .into_iter()
            .find(|process| process.parent == unshare)
            .ok_or_else(failed)?
            .id;
        let pid_namespace = proc::namespace(init.pid, "pid").ok_or_else(failed)?;
        *self.lock() = Some(Machine {
            init,
            pid_namespace,
            _holder: holder,
        });
        self.connect(init.pid).await
    }

    /// Cuts the power: every process of the server dies at once and nothing is said to anybody. The disk stays (the
    /// page cache too: this is no test of fsync).
    ///
    /// # Errors
    /// When processes of it are still there a minute later.
    pub async fn power_off(&self) -> Result<(), LabError> {
        let Some(machine) = self.lock().take() else {
            return Ok(());
        };
        machine.init.kill_9()?;
        wait_until(&format!("end of server {}", self.name()), ENDS, || async {
            (!machine.init.alive()).then_some(())
        })
        .await?;
        // The kernel takes the interface away in its own time; a server that comes back wants its name.
        let _ = ip(&["link", "del", &self.port()]).await;
        Ok(())
    }

    /// Freezes every process of the server (SIGSTOP): it holds its connections and answers nothing.
    ///
    /// # Errors
    /// When a process cannot be stopped.
    pub async fn freeze(&self) -> Result<(), LabError> {
        wait_until(&format!("freezing of server {}", self.name()), ENDS, || async {
            // A process that was being forked meanwhile is met in the next round.
            let mut all_stopped = true;
            for id in self.processes() {
                if proc::stat(id.pid).is_some_and(|now| !matches!(now.state, 'T' | 'Z' | 'X')) {
                    all_stopped = false;
                    let _ = id.signal(Signal::STOP);
                }
            }
            all_stopped.then_some(())
        })
        .await
    }

    /// Lets every process of the server run on, also those that were stopped one by one.
    ///
    /// # Errors
    /// When a process cannot be continued.
    pub fn thaw(&self) -> Result<(), LabError> {
        let processes = self.processes();
        // An nsenter outside stops itself together with its child.
        let parents = processes
            .iter()
            .filter_map(|id| ProcessId::of(proc::stat(id.pid)?.parent))
            .filter(|id| id.pid > 1);
        let all: Vec<ProcessId> = parents.chain(processes.iter().copied()).collect();
        all.into_iter().try_for_each(|id| id.signal(Signal::CONT))
    }

    /// Pulls the network cable: loopback still works.
    ///
    /// # Errors
    /// When the interface cannot be changed.
    pub async fn link_down(&self) -> Result<(), LabError> {
        ip(&["link", "set", &self.port(), "down"]).await
    }

    /// Plugs the network cable in again.
    ///
    /// # Errors
    /// When the interface cannot be changed.
    pub async fn link_up(&self) -> Result<(), LabError> {
        ip(&["link", "set", &self.port(), "up"]).await
    }

    /// Fills the disk of a server that was made with one of its own, to the last byte: nothing more can be written.
    ///
    /// # Errors
    /// When it has no disk of its own, or the file cannot be made.
    pub async fn fill_disk(&self) -> Result<(), LabError> {
        let dir = self.inner.dir.clone();
        let of = |path: &Path| rustix::fs::stat(path).map(|stat| stat.st_dev);
        let own = dir.parent().map(|parent| of(parent) != of(&dir));
        if own != Some(true) {
            return Err(LabError::Unknown(format!(
                "server {} has no disk of its own",
                self.name()
            )));
        }
        let fill = tokio::task::spawn_blocking(move || {
            let mut file = fs::File::create(dir.join(BALLAST))?;
            let zeros = vec![0; 1 << 20];
            loop {
                match file.write_all(&zeros) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        });
        let filled = fill.await.map_err(|error| LabError::Unknown(error.to_string()))?;
        filled.map_err(LabError::io("fill a disk"))
    }

    /// Gives the space back that [`fill_disk`](Server::fill_disk) took.
    ///
    /// # Errors
    /// When the disk was not filled.
    pub fn free_disk(&self) -> Result<(), LabError> {
        fs::remove_file(self.inner.dir.join(BALLAST)).map_err(LabError::io("free a disk"))
    }

    /// The name of the bridge's port that leads to the server.
    pub(crate) fn port(&self) -> String {
        format!("port{}", self.inner.number)
    }

    /// Makes the server's disk at its first start: `/etc` is a copy of the host's, the rest is empty.
    async fn prepare_disk(&self) -> Result<(), LabError> {
        let dir = &self.inner.dir;
        let first = !dir.join("etc").exists();
        for folder in [
            "etc/pontoon",
            "var-lib/mysql",
            "var-lib/pontoon",
            "var-lib/lab-tmp",
            "var-log/mysql",
            "run",
        ] {
            fs::create_dir_all(dir.join(folder)).map_err(LabError::io("disk of a server"))?;
        }
        if first {
            // What this user may not read is left out.
            let copy = Command::new("cp")
                .args(["-a", "/etc/."])
                .arg(dir.join("etc"))
                .output()
                .await;
            copy.map_err(LabError::io("copy /etc"))?;
            let _ = fs::remove_dir_all(dir.join("etc/pontoon"));
            let write = |file: &str, text: String| {
                let path = dir.join("etc").join(file);
                let _ = fs::remove_file(&path);
                fs::write(path, text).map_err(LabError::io(format!("/etc/{file} of a server")))
            };
            fs::create_dir_all(dir.join("etc/pontoon")).map_err(LabError::io("disk of a server"))?;
            write("hostname", format!("{}\n", self.name()))?;
            write(
                "hosts",
                format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {}\n", self.name()),
            )?;
            write("resolv.conf", String::new())?;
        }
        for bind in &self.inner.binds {
            let Some(target) = self.staged(&bind.server) else {
                continue;
            };
            if target.starts_with(dir.join("run")) {
                continue; // `/run` is fresh memory at each start: the boot script makes the place
            }
            make_mount_point(&bind.host, &target)?;
        }
        Ok(())
    }

    /// Where a place of the server is in the lab's folder while the server is being put together.
    fn staged(&self, place: &Path) -> Option<PathBuf> {
        [
            ("/etc", "etc"),
            ("/var/lib", "var-lib"),
            ("/var/log", "var-log"),
            ("/run", "run"),
        ]
        .into_iter()
        .find_map(|(server, staged)| Some(self.inner.dir.join(staged).join(place.strip_prefix(server).ok()?)))
    }

    /// Joins the server to the bridge and gives it its addresses.
    async fn connect(&self, init: i32) -> Result<(), LabError> {
        let port = self.port();
        let netns = init.to_string();
        ip(&[
            "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &netns,
        ])
        .await?;
        ip(&["link", "set", &port, "master", crate::lab::BRIDGE, "up"]).await?;
        let (private, public) = (self.private(), self.public());
        let (private6, public6) = (self.private6(), self.public6());
        self.sh(&format!(
            "ip link set lo up
             ip addr add {private}/24 dev eth0
             ip addr add {public}/24 dev eth0
             ip link set eth0 up
             if [ -d /proc/sys/net/ipv6 ]; then
                 ip -6 addr add {private6}/64 dev eth0 nodad || true
                 ip -6 addr add {public6}/64 dev eth0 nodad || true
             fi"
        ))
        .await?;
        Ok(())
    }

    fn init(&self) -> Result<ProcessId, LabError> {
        self.machine(|machine| machine.init)
            .filter(|init| init.alive())
            .ok_or_else(|| LabError::Unknown(format!("server {} is switched off", self.name())))
    }

    fn machine<T>(&self, f: impl FnOnce(&Machine) -> T) -> Option<T> {
        self.lock().as_ref().map(f)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Machine>> {
        self.inner.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `ip` in the lab's outer network namespace.
pub(crate) async fn ip(args: &[&str]) -> Result<(), LabError> {
    run(Command::new("ip").args(args), ENDS).await.map(drop)
}

fn make_mount_point(host: &Path, target: &Path) -> Result<(), LabError> {
    let what = || format!("mount point {}", target.display());
    if host.is_dir() {
        return fs::create_dir_all(target).map_err(LabError::io(what()));
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(LabError::io(what()))?;
    }
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(target)
        .map(drop)
        .map_err(LabError::io(what()))
}

/// A server's own folder for temporary files, on its disk. `/tmp` is the host's and shared by all, and a starting
/// MariaDB removes what looks like temporary tables of a dead one there.
pub(crate) const TMPDIR: &str = "/var/lib/lab-tmp";

/// What fills a disk.
const BALLAST: &str = "ballast";

/// What programs in a server get, whoever started the lab.
const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "PATH",
        // Last, what a test puts there because it is not installed on this machine.
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/lab/bin",
    ),
    ("HOME", "/run/lab/home"),
    ("TMPDIR", TMPDIR),
    ("LANG", "C.UTF-8"),
];

/// Starts `$1…` in a session of its own, with `$0` as its log, and prints its pid in the server. Process 1 of the
/// server becomes its parent.
const SPAWN_SCRIPT: &str = r#"setsid "$@" </dev/null >>"$0" 2>&1 & echo $!"#;

/// Process 1 of a server. `$1` its name, `$2` its folder, then pairs of what to bind and where. The private folders
/// are put over the system's last, since the binds may come from below them. The loop collects orphans, as an init
/// must: otherwise the dead would look alive to whoever asks by pid.
const BOOT_SCRIPT: &str = r#"
name=$1 dir=$2; shift 2
cd "$dir"
hostname "$name"
mount -t tmpfs -o mode=755,size=256m tmpfs "$dir/run"
mkdir -p "$dir/run/lab/home" "$dir/run/lock" "$dir/run/mysqld" "$dir/run/pontoon"
# A machine that was switched on again is known by this, and so is a server of the lab.
cat /proc/sys/kernel/random/uuid >"$dir/run/lab/boot_id"
mount --bind "$dir/run/lab/boot_id" /proc/sys/kernel/random/boot_id
while [ $# -ge 2 ]; do
    if [ -d "$1" ]; then mkdir -p "$2"; elif [ ! -e "$2" ]; then mkdir -p "${2%/*}"; : >"$2"; fi
    mount --rbind "$1" "$2"; shift 2
done
mount --rbind "$dir/var-lib" /var/lib
mount --rbind "$dir/var-log" /var/log
mount --rbind "$dir/etc" /etc
mount --rbind "$dir/run" /run
: >ready
cd /
while :; do sleep 3600 & wait $! || :; done
"#;
