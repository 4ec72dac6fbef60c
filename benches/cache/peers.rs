//! The two that are compared, before one memcached on a Unix socket.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pontoon_benches::program::{Proxy, list, start};
use pontoon_fleet::{CacheList, CacheMember, CachePlacement, CacheView, ListenAddress, Ports, ServerName};
use pontoon_rt::paths::Paths;
use pontoon_testkit::{LabError, Skip, find_program, free_port, wait_until};
use serde_json::json;
use tokio::process::{Child, Command};

fn program(name: &str) -> Result<PathBuf, LabError> {
    find_program(name).ok_or_else(|| {
        let why = format!("{name} is not here: script/get-memcached unpacks Debian's");
        LabError::from(Skip(why))
    })
}

/// What the servers are started in.
pub struct Stand {
    dir: tempfile::TempDir,
    paths: Paths,
    _memcached: Child,
}

impl Stand {
    /// Memcached on those cores, with a thread for each.
    ///
    /// # Errors
    /// [`LabError::Skip`] when it is not here.
    pub async fn new(cores: &[usize]) -> Result<Stand, LabError> {
        let dir = tempfile::tempdir().map_err(LabError::io("folder"))?;
        let paths = Paths::under(&dir.path().join("pontoon"));
        paths.create_dirs().map_err(|error| odd(&error))?;
        let socket = paths.memcached_socket();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--", "taskset", "-c", &list(cores)]);
        command.arg(program("memcached")?);
        command.arg("-s").arg(&socket).args(["-U", "0", "-m", "256"]);
        command.args(["-t", &cores.len().to_string()]);
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "root"]);
        }
        let memcached = command.stdin(Stdio::null()).kill_on_drop(true).spawn();
        let memcached = memcached.map_err(LabError::io("memcached"))?;
        wait_until("memcached", Duration::from_secs(20), || async {
            UnixStream::connect(&socket).ok()
        })
        .await?;
        Ok(Stand {
            dir,
            paths,
            _memcached: memcached,
        })
    }

    /// `pontoon cache` as it is shipped, by the view of a fleet of one server.
    ///
    /// # Errors
    /// When it is not built, or does not serve.
    pub async fn pontoon(&self, cores: &[usize]) -> Result<Proxy, LabError> {
        let program = std::env::current_exe()
            .map_err(LabError::io("this program"))?
            .with_file_name("pontoon");
        let address = listen()?;
        // Each has a folder of its own; memcached's socket is the same.
        let paths = Paths::under(&self.dir.path().join(format!("pontoon-{}", cores.len())));
        paths.create_dirs().map_err(|error| odd(&error))?;
        std::os::unix::fs::symlink(self.paths.memcached_socket(), paths.memcached_socket())
            .map_err(LabError::io("socket"))?;
        let view = view(address)?;
        std::fs::write(paths.view_file(), view.to_string()).map_err(LabError::io("view"))?;
        let arguments = [
            "cache".to_owned(),
            "--server=a".to_owned(),
            format!("--threads={}", cores.len()),
            format!("--state-dir={}", paths.state_dir.display()),
            format!("--run-dir={}", paths.run_dir.display()),
        ];
        let log = self.dir.path().join(format!("pontoon-{}.log", cores.len()));
        let name = if cores.len() == 1 {
            "pontoon"
        } else {
            "pontoon on two"
        };
        let proxy = start(name, &program, &arguments, &log, address, cores).await?;
        serves(&proxy).await?;
        Ok(proxy)
    }

    /// twemproxy, which has one thread.
    ///
    /// # Errors
    /// [`LabError::Skip`] when it is not here.
    pub async fn twemproxy(&self, core: usize) -> Result<Proxy, LabError> {
        let address = listen()?;
        let config = format!(
            "pool:\n  listen: {address}\n  distribution: ketama\n  preconnect: true\n  tcpkeepalive: true\n  servers:\n   - {}:1\n",
            self.paths.memcached_socket().display()
        );
        let file = self.dir.path().join("nutcracker.yml");
        std::fs::write(&file, config).map_err(LabError::io("nutcracker.yml"))?;
        let text = |path: &Path| path.display().to_string();
        let arguments = [
            "-c".to_owned(),
            text(&file),
            "-s".to_owned(),
            free_port()?.to_string(),
            "-a".to_owned(),
            "127.0.0.1".to_owned(),
            "-o".to_owned(),
            text(&self.dir.path().join("nutcracker.said")),
        ];
        let (program, log) = (program("nutcracker")?, self.dir.path().join("nutcracker.log"));
        let proxy = start("twemproxy", &program, &arguments, &log, address, &[core]).await?;
        serves(&proxy).await?;
        Ok(proxy)
    }
}

async fn serves(proxy: &Proxy) -> Result<(), LabError> {
    let address = proxy.address;
    let filled = wait_until(proxy.name, Duration::from_secs(20), || async move {
        let filled = tokio::task::spawn_blocking(move || crate::load::fill(address)).await;
        filled.ok()?.ok()
    });
    filled.await
}

fn listen() -> Result<SocketAddr, LabError> {
    Ok(SocketAddr::from(([127, 0, 0, 1], free_port()?)))
}

fn view(listen: SocketAddr) -> Result<serde_json::Value, LabError> {
    let ports = Ports::from_base(free_port()?);
    let name: ServerName = "a".parse().map_err(|error| odd(&error))?;
    let member = CacheMember {
        label: name.to_string(),
        server: name,
        life: 1,
        left_behind: false,
    };
    let cache = CacheView {
        listen: vec![ListenAddress::Tcp(listen)],
        memory_bytes: 256 << 20,
        fill_once: Vec::new(),
        list: Some(CacheList {
            number: 1,
            open: true,
            placement: CachePlacement::Ketama,
            members: vec![member],
            before: Vec::new(),
            back: None,
        }),
    };
    Ok(json!({
        "fleet": "bench", "revision": 1, "epoch": 1, "serial": 1, "sql": null, "app": null,
        "servers": [{
            "name": "a", "private": listen.ip(), "public": [], "roles": ["app", "cache"], "zone": null,
            "standby": false, "state": "up", "ports": ports, "edge_listen": [],
        }],
        "cache": cache,
    }))
}

fn odd(error: &dyn std::fmt::Display) -> LabError {
    LabError::Unknown(error.to_string())
}
