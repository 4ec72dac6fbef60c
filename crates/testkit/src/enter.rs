//! The outer namespaces: the program runs itself again in private network, mount and pid namespaces (and, for an
//! ordinary user, a user namespace in which it is root), so that everything a lab makes dies with it.
//!
//! The chain of deaths: when the process outside dies in any way, the kernel kills `unshare` (parent death signal),
//! then the process inside (`--kill-child`), which is process 1 of its pid namespace, so that the kernel kills every
//! process in it and in the namespaces below. Mounts, bridges and interfaces go with their namespaces.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::proc::{self, ProcessId};
use crate::wait::{find_program, tail};
use crate::workdir::Workdir;
use crate::{LabError, Skip};

/// Set for the process inside: the lab's folder.
pub const INSIDE_VARIABLE: &str = "PONTOON_LAB_INSIDE";

/// What a program wants of its second self.
#[derive(Clone, Debug, Default)]
pub struct EnterOptions {
    /// Its arguments.
    pub args: Vec<OsString>,
    /// How many ports of the host's loopback lead into the lab, for a person's browser.
    pub gateways: usize,
    /// How long the process inside may take to end after an interrupt before it is killed.
    pub grace: Duration,
    /// When it is killed in any case.
    pub limit: Option<Duration>,
}

/// Where the caller stands.
#[derive(Debug)]
pub enum Entered {
    /// In the namespaces: build the lab here.
    Inside(Inside),
    /// Outside: wait for the process inside with [`Outside::wait`], and do nothing else.
    Outside(Outside),
}

/// Runs this program again in private namespaces, or notices that this is the process running there.
///
/// Call it from `main` before threads are started, or from a test's thread: the process inside dies with the
/// **thread** that called this.
///
/// # Errors
/// [`LabError::Skip`] with the reason where namespaces cannot be had.
pub fn enter(options: EnterOptions) -> Result<Entered, LabError> {
    if let Some(dir) = std::env::var_os(INSIDE_VARIABLE) {
        return Inside::new(dir.into()).map(Entered::Inside);
    }
    let flags = namespace_flags()?;
    let workdir = Workdir::create()?;
    let mut listeners = Vec::new();
    for _ in 0..options.gateways {
        listeners.push(std::net::TcpListener::bind("127.0.0.1:0").map_err(LabError::io("gateway"))?);
    }
    let ports = listeners
        .iter()
        .map(|l| l.local_addr().map(|addr| addr.port().to_string()));
    let ports = ports
        .collect::<Result<Vec<_>, _>>()
        .map_err(LabError::io("gateway"))?;
    std::fs::write(workdir.path().join(GATEWAYS_FILE), ports.join(" ")).map_err(LabError::io("gateway"))?;

    let program = std::env::current_exe().map_err(LabError::io("own program"))?;
    // The shell starts nothing when the parent died before the death signal was armed.
    let mut command = Command::new("setpriv");
    command
        .args([
            "--pdeathsig",
            "KILL",
            "sh",
            "-c",
            "[ \"$PPID\" = \"$0\" ] && exec unshare \"$@\"",
        ])
        .arg(std::process::id().to_string())
        .args(flags)
        .args(OUTER_FLAGS)
        .arg("--")
        .arg(program)
        .args(&options.args)
        .env(INSIDE_VARIABLE, workdir.path())
        .env("PATH", search_path())
        .stdin(Stdio::null())
        // A Ctrl-C reaches the process inside once, through this one.
        .process_group(0);
    let child = command.spawn().map_err(LabError::io("start setpriv"))?;
    Ok(Entered::Outside(Outside {
        child,
        workdir,
        listeners,
        grace: options.grace,
        limit: options.limit,
    }))
}

/// Why namespaces cannot be had here, or nothing.
pub fn namespaces_unavailable() -> Option<Skip> {
    namespace_flags().err()
}

/// The process that waits outside.
#[derive(Debug)]
pub struct Outside {
    child: Child,
    workdir: Workdir,
    listeners: Vec<std::net::TcpListener>,
    grace: Duration,
    limit: Option<Duration>,
}

impl Outside {
    /// The lab's folder.
    pub fn workdir(&self) -> &Path {
        self.workdir.path()
    }

    /// The ports on loopback that lead into the lab.
    pub fn gateway_ports(&self) -> Vec<u16> {
        read_gateways(self.workdir.path())
    }

    /// Waits for the process inside, hands interrupts on to it, serves the gateways, and removes the lab's folder.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn wait(mut self) -> Result<ExitStatus, LabError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(LabError::io("runtime"))?;
        let result = runtime.block_on(self.watch());
        if result.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        result
    }

    async fn watch(&mut self) -> Result<ExitStatus, LabError> {
        for (index, listener) in self.listeners.drain(..).enumerate() {
            listener.set_nonblocking(true).map_err(LabError::io("gateway"))?;
            let listener = TcpListener::from_std(listener).map_err(LabError::io("gateway"))?;
            tokio::spawn(lead_inside(listener, gateway_socket(self.workdir.path(), index)));
        }
        let listen = |kind| signal(kind).map_err(LabError::io("signals"));
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        let mut hangup = listen(SignalKind::hangup())?;
        let mut deadline = self.limit.map(|limit| Instant::now() + limit);
        let mut interrupted = false;
        loop {
            if let Some(status) = self.child.try_wait().map_err(LabError::io("wait for the lab"))? {
                return Ok(status);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.child.kill().map_err(LabError::io("end the lab"))?;
                deadline = None;
            }
            tokio::select! {
                () = sleep(Duration::from_millis(20)) => continue,
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            // The second interrupt does not wait for anybody.
            let grace = if interrupted { Duration::ZERO } else { self.grace };
            deadline = Some(Instant::now() + grace);
            interrupted = true;
            if let Some(inside) = self.inside() {
                inside.signal(Signal::TERM)?;
            }
        }
    }

    fn inside(&self) -> Option<ProcessId> {
        let unshare = self.child.id() as i32;
        proc::all()
            .into_iter()
            .find(|process| process.parent == unshare)
            .map(|process| process.id)
    }
}

/// The process in the outer namespaces.
#[derive(Clone, Debug)]
pub struct Inside {
    dir: PathBuf,
}

impl Inside {
    fn new(dir: PathBuf) -> Result<Inside, LabError> {
        if std::process::id() != 1 || !dir.is_dir() {
            return Err(LabError::Unknown(format!(
                "{INSIDE_VARIABLE} is set, but this process is in no lab"
            )));
        }
        Ok(Inside { dir })
    }

    /// The lab's folder.
    pub fn workdir(&self) -> &Path {
        &self.dir
    }

    /// The ports on the host's loopback that lead into the lab.
    pub fn gateway_ports(&self) -> Vec<u16> {
        read_gateways(&self.dir)
    }

    /// Opens a gateway: connections to its port on the host's loopback reach `target` in the lab.
    ///
    /// # Errors
    /// When there is no such gateway or its socket cannot be made.
    pub fn open_gateway(&self, index: usize, target: std::net::SocketAddr) -> Result<u16, LabError> {
        let port = self.gateway_ports().get(index).copied();
        let port = port.ok_or_else(|| LabError::Unknown(format!("the lab has no gateway {index}")))?;
        let listener =
            UnixListener::bind(gateway_socket(&self.dir, index)).map_err(LabError::io("gateway"))?;
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Ok(port)
    }
}

/// Unix sockets cross network namespaces; TCP does not.
async fn lead_inside(listener: TcpListener, socket: PathBuf) {
    while let Ok((mut client, _)) = listener.accept().await {
        let socket = socket.clone();
        tokio::spawn(async move {
            if let Ok(mut inside) = UnixStream::connect(socket).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut inside).await;
            }
        });
    }
}

fn read_gateways(dir: &Path) -> Vec<u16> {
    let text = std::fs::read_to_string(dir.join(GATEWAYS_FILE)).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|port| port.parse().ok())
        .collect()
}

fn gateway_socket(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("gateway-{index}.sock"))
}

/// Which flags of `unshare` give this user the namespaces, found by trying.
fn namespace_flags() -> Result<&'static [&'static str], Skip> {
    for program in ["unshare", "nsenter", "setpriv", "mount", "ip", "bridge"] {
        if find_program(program).is_none() {
            let package = if matches!(program, "ip" | "bridge") {
                "iproute2"
            } else {
                "util-linux"
            };
            return Err(Skip(format!(
                "`{program}` is not installed (Debian package {package})"
            )));
        }
    }
    let root = rustix::process::geteuid().is_root();
    let candidates: &[&'static [&'static str]] = if root { &[&[], AS_USER] } else { &[AS_USER] };
    let mut reason = String::new();
    for flags in candidates {
        let probe = "ip link add probe type bridge && mount -t tmpfs tmpfs /run";
        let output = Command::new("unshare")
            .args(*flags)
            .args(OUTER_FLAGS)
            .args(["sh", "-c", probe])
            .env("PATH", search_path())
            .output();
        match output {
            Ok(output) if output.status.success() => return Ok(flags),
            Ok(output) => reason = tail(&output.stderr, 3).replace('\n', "; "),
            Err(e) => reason = e.to_string(),
        }
    }
    let advice = if reason.contains("/proc") {
        "a container that hides parts of /proc does not let its users mount a private one: \
         start it with --security-opt systempaths=unconfined or run as root with CAP_SYS_ADMIN"
    } else {
        "run as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone, \
         kernel.apparmor_restrict_unprivileged_userns, the container's seccomp profile)"
    };
    Err(Skip(format!(
        "namespaces cannot be had here ({reason}); {advice}"
    )))
}

/// The caller's `PATH` and the `sbin` folders, which an ordinary user of Debian does not have in it.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin");
    path
}

const AS_USER: &[&str] = &["--user", "--map-root-user"];
const OUTER_FLAGS: &[&str] = &[
    "--net",
    "--mount",
    "--uts",
    "--ipc",
    "--pid",
    "--fork",
    "--kill-child=KILL",
    "--mount-proc",
    "--propagation",
    "private",
];
const GATEWAYS_FILE: &str = "gateways";
