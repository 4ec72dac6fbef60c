//! A fleet of servers on one bridge, in the private namespaces made by [`enter`](crate::enter()).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use tokio::process::Command;

use crate::LabError;
use crate::enter::Inside;
use crate::server::{Bind, Server, ip};
use crate::wait::{ENDS, run};

/// The fleet. Everything in it dies with the process that holds it.
#[derive(Debug)]
pub struct Lab {
    inside: Inside,
    servers: Vec<Server>,
}

impl Lab {
    /// An empty fleet: a bridge with the address of the visitors' side, [`Lab::VISITOR`].
    ///
    /// # Errors
    /// When the bridge cannot be made.
    pub async fn new(inside: Inside) -> Result<Lab, LabError> {
        ip(&["link", "set", "lo", "up"]).await?;
        ip(&["link", "add", BRIDGE, "type", "bridge"]).await?;
        ip(&["addr", "add", &format!("{}/24", Lab::VISITOR), "dev", BRIDGE]).await?;
        // Left to itself a bridge has the lowest of its ports' addresses, and another one when that server is switched off.
        ip(&["link", "set", BRIDGE, "address", "02:00:00:00:00:01"]).await?;
        ip(&["link", "set", BRIDGE, "up"]).await?;
        if Path::new("/proc/sys/net/ipv6").is_dir() {
            // A kernel without IPv6 still makes a lab.
            let _ = ip(&["-6", "addr", "add", "2001:db8::1/64", "dev", BRIDGE, "nodad"]).await;
        }
        Ok(Lab {
            inside,
            servers: Vec::new(),
        })
    }

    /// The address that the caller, and so the visitors, come from.
    pub const VISITOR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

    /// Adds a server and switches it on.
    ///
    /// # Errors
    /// When the name is taken or unfit for a folder, there are 60 servers already, or it does not start.
    pub async fn add_server(&mut self, name: &str, binds: Vec<Bind>) -> Result<Server, LabError> {
        self.add(name, binds, None).await
    }

    /// The same with a disk of its own of so many MiB, in memory, which [`Server::fill_disk`] can fill.
    ///
    /// # Errors
    /// As [`add_server`](Lab::add_server), or when there is no such memory.
    pub async fn add_server_with_disk(
        &mut self,
        name: &str,
        binds: Vec<Bind>,
        mebibytes: u32,
    ) -> Result<Server, LabError> {
        self.add(name, binds, Some(mebibytes)).await
    }

    async fn add(&mut self, name: &str, binds: Vec<Bind>, disk: Option<u32>) -> Result<Server, LabError> {
        let fit = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !fit || self.servers.iter().any(|server| server.name() == name) {
            return Err(LabError::Unknown(format!("{name:?} is no name for a new server")));
        }
        let number = u8::try_from(self.servers.len() + 1)
            .ok()
            .filter(|number| *number <= MOST_SERVERS);
        let number =
            number.ok_or_else(|| LabError::Unknown(format!("a lab has {MOST_SERVERS} servers at most")))?;
        let dir = self.inside.workdir().join(name);
        fs::create_dir_all(&dir).map_err(LabError::io("folder of a server"))?;
        if let Some(mebibytes) = disk {
            let options = format!("mode=755,size={mebibytes}m");
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", &options, "disk"]).arg(&dir);
            run(&mut mount, ENDS).await?;
        }
        let server = Server::new(name, number, dir, binds);
        server.power_on().await?;
        self.servers.push(server.clone());
        Ok(server)
    }

    /// The servers, in the order they were added.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The server of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn server(&self, name: &str) -> Result<&Server, LabError> {
        let found = self.servers.iter().find(|server| server.name() == name);
        found.ok_or_else(|| LabError::Unknown(format!("the lab has no server {name:?}")))
    }

    /// The lab's folder on disk, which is removed with it.
    pub fn workdir(&self) -> &Path {
        self.inside.workdir()
    }

    /// Opens a port on the host's loopback that leads to `target` in the lab, and returns it. How many there can be was
    /// said when the lab was entered.
    ///
    /// # Errors
    /// When there is no such gateway.
    pub fn open_gateway(&self, index: usize, target: SocketAddr) -> Result<u16, LabError> {
        self.inside.open_gateway(index, target)
    }

    /// Cuts the network between two servers; both are still reached by visitors and by all others. Two pairs cut at a
    /// time cut all four from each other, because the bridge knows only isolated and other ports.
    ///
    /// # Errors
    /// When the bridge refuses.
    pub async fn isolate(&self, one: &Server, other: &Server) -> Result<(), LabError> {
        set_isolated(one, true).await?;
        set_isolated(other, true).await
    }

    /// Loses everything that `from` sends to `to`, silently, or lets it arrive again; what `to` sends arrives all the
    /// same. A server that is switched off forgets it.
    ///
    /// # Errors
    /// When `from` is off.
    pub async fn lose_one_way(&self, from: &Server, to: &Server, lost: bool) -> Result<(), LabError> {
        // To a hardware address that nobody has.
        let change = |address: std::net::IpAddr| match lost {
            true => format!("ip neigh replace {address} lladdr 02:00:00:00:ff:ff dev eth0 nud permanent\n"),
            false => format!("ip neigh del {address} dev eth0 || true\n"),
        };
        let mut script = change(to.private().into()) + &change(to.public().into());
        if Path::new("/proc/sys/net/ipv6").is_dir() {
            for address in [to.private6(), to.public6()] {
                script += change(address.into()).trim_end();
                script += " || true\n";
            }
        }
        from.sh(&script).await.map(drop)
    }

    /// Joins two servers again.
    ///
    /// # Errors
    /// When the bridge refuses.
    pub async fn rejoin(&self, one: &Server, other: &Server) -> Result<(), LabError> {
        set_isolated(one, false).await?;
        set_isolated(other, false).await
    }
}

async fn set_isolated(server: &Server, isolated: bool) -> Result<(), LabError> {
    let value = if isolated { "on" } else { "off" };
    let mut command = Command::new("bridge");
    command.args(["link", "set", "dev", &server.port(), "isolated", value]);
    run(&mut command, ENDS).await.map(drop)
}

/// The bridge that joins the servers.
pub(crate) const BRIDGE: &str = "fleet";

const MOST_SERVERS: u8 = 60;
