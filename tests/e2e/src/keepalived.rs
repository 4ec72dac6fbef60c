//! Debian's keepalived on two servers of a lab, for comparison: one address by VRRPv3, unicast, first at `a`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pontoon_testkit::{Bind, Lab, LabError, Process, Server, Spawn};
use rustix::process::Signal;

use crate::addresses::{ANSWERS_AT, Watch};
use crate::fleet::sibling;

/// The address that moves.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 200);

/// Two servers with keepalived.
pub struct Vrrp {
    _lab: Lab,
    servers: Vec<Server>,
    pids: Arc<Mutex<Vec<Option<i32>>>>,
    daemons: Vec<Option<Process>>,
}

impl Vrrp {
    /// Switches two servers on; `unpacked` is where the package and its libraries were unpacked.
    ///
    /// # Errors
    /// A `Skip` when something cannot be had here.
    pub async fn new(mut lab: Lab, unpacked: PathBuf) -> Result<Vrrp, LabError> {
        let answerer = sibling("answerer")?;
        let mut servers = Vec::new();
        for name in ["a", "b"] {
            let binds = vec![
                Bind {
                    host: answerer.clone(),
                    server: "/run/answerer".into(),
                },
                Bind {
                    host: unpacked.clone(),
                    server: UNPACKED.into(),
                },
            ];
            servers.push(lab.add_server(name, binds).await?);
        }
        let vrrp = Vrrp {
            _lab: lab,
            pids: Arc::new(Mutex::new(vec![None; servers.len()])),
            daemons: servers.iter().map(|_| None).collect(),
            servers,
        };
        for at in 0..vrrp.servers.len() {
            vrrp.answer(at).await?;
        }
        Ok(vrrp)
    }

    async fn answer(&self, at: usize) -> Result<(), LabError> {
        let server = &self.servers[at];
        let first = server.processes().first().map(|id| id.pid);
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)[at] = first;
        let answerer = Spawn::new("/run/answerer", "answerer").args([server.name(), &ANSWERS_AT.to_string()]);
        server.spawn(answerer).await.map(drop)
    }

    /// Starts both, with this time between two advertisements, in seconds.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn start(&mut self, interval: &str) -> Result<(), LabError> {
        for at in 0..self.servers.len() {
            let (server, peer) = (&self.servers[at], &self.servers[1 - at]);
            let text = format!(
                "global_defs {{\n vrrp_version 3\n}}\nvrrp_instance lab {{\n state BACKUP\n interface eth0\n \
                 virtual_router_id 51\n priority {}\n advert_int {interval}\n unicast_src_ip {}\n unicast_peer {{\n  {}\n }}\n \
                 virtual_ipaddress {{\n  {ADDRESS}/24\n }}\n}}\n",
                200 - at,
                server.private(),
                peer.private()
            );
            let file = server.path("/etc/keepalived.conf")?;
            std::fs::write(file, text).map_err(LabError::io("keepalived's configuration"))?;
            let program = format!("{UNPACKED}/usr/sbin/keepalived");
            let libraries = format!(
                "{UNPACKED}/usr/lib/{0}-linux-gnu:{UNPACKED}/lib/{0}-linux-gnu",
                std::env::consts::ARCH
            );
            let daemon = Spawn::new(program, "keepalived")
                .args([
                    "-n",
                    "-l",
                    "-P",
                    "-f",
                    "/etc/keepalived.conf",
                    "-p",
                    "/run/keepalived.pid",
                ])
                .args(["-r", "/run/vrrp.pid"])
                .env("LD_LIBRARY_PATH", libraries);
            self.daemons[at] = Some(server.spawn(daemon).await?);
        }
        Ok(())
    }

    /// Kills or freezes the daemon of a server, its parts together.
    ///
    /// # Errors
    /// When it does not run.
    pub fn end(&self, at: usize, killed: bool) -> Result<(), LabError> {
        let signal = if killed { Signal::KILL } else { Signal::STOP };
        let daemon = self.daemons[at].as_ref();
        let daemon = daemon.ok_or_else(|| LabError::Unknown("no keepalived".to_owned()))?;
        for process in daemon.session() {
            process.signal(signal)?;
        }
        Ok(())
    }

    /// Cuts the power.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn power_off(&mut self, at: usize) -> Result<(), LabError> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)[at] = None;
        self.servers[at].power_off().await
    }

    /// Ends the daemons, takes the address away, and switches on what was switched off.
    ///
    /// # Errors
    /// When a server does not come back.
    pub async fn reset(&mut self) -> Result<(), LabError> {
        for at in 0..self.servers.len() {
            let daemon = self.daemons[at].take();
            if !self.servers[at].is_on() {
                self.servers[at].power_on().await?;
                self.answer(at).await?;
                continue;
            }
            for process in daemon.iter().flat_map(Process::session) {
                process.kill_9()?;
            }
            self.servers[at]
                .sh(&format!("ip addr del {ADDRESS}/24 dev eth0 2>/dev/null || :"))
                .await?;
        }
        Ok(())
    }

    /// A visitor of the address.
    ///
    /// # Errors
    /// When there is no socket.
    pub fn watch(&self) -> Result<Watch, LabError> {
        Watch::start(IpAddr::V4(ADDRESS), Arc::clone(&self.pids))
    }
}

const UNPACKED: &str = "/run/keepalived-root";
