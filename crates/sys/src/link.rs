//! One interface's local network.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{LinkAddr, bind};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::frame::{Arp, Mac};

/// An interface, as it is now.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its hardware address.
    pub mac: Mac,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// Its addresses and how long their networks' prefixes are.
    pub addresses: Vec<(IpAddr, u8)>,
    link: LinkAddr,
}

impl Interface {
    /// Whether `ip` is in the network of one of its addresses.
    pub fn reaches(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|(own, prefix)| match (own, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                *prefix < 32 && (own.to_bits() ^ ip.to_bits()).leading_zeros() >= u32::from(*prefix)
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                *prefix < 128 && (own.to_bits() ^ ip.to_bits()).leading_zeros() >= u32::from(*prefix)
            }
            _ => false,
        })
    }
}

/// The interfaces that speak Ethernet.
///
/// # Errors
/// The operating system's.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut found: Vec<Interface> = Vec::new();
    let mut addresses = Vec::new();
    for entry in getifaddrs()? {
        let Some(address) = &entry.address else { continue };
        if let Some(link) = address.as_link_addr() {
            if link.halen() != 6 || entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
                continue;
            }
            let (Some(mac), Ok(index)) = (link.addr(), u32::try_from(link.ifindex())) else {
                continue;
            };
            found.push(Interface {
                name: entry.interface_name.clone(),
                index,
                mac,
                up: entry
                    .flags
                    .contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING),
                addresses: Vec::new(),
                link: *link,
            });
            continue;
        }
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => continue,
        };
        let mask = entry.netmask.as_ref();
        let prefix = mask.map_or(0, |mask| match (mask.as_sockaddr_in(), mask.as_sockaddr_in6()) {
            (Some(v4), _) => v4.ip().to_bits().count_ones(),
            (_, Some(v6)) => v6.ip().to_bits().count_ones(),
            _ => 0,
        });
        addresses.push((
            entry.interface_name.clone(),
            ip,
            u8::try_from(prefix).unwrap_or(0),
        ));
    }
    for interface in &mut found {
        let own = addresses.iter().filter(|(name, _, _)| *name == interface.name);
        interface.addresses = own.map(|(_, ip, prefix)| (*ip, *prefix)).collect();
    }
    Ok(found)
}

/// Sockets on one interface, opened before they are needed: a frame goes out with one system call.
#[derive(Debug)]
pub struct Link {
    interface: Interface,
    out: OwnedFd,
    arp: OwnedFd,
}

impl Link {
    /// Opens them.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_RAW; the operating system's.
    pub fn open(interface: Interface) -> io::Result<Link> {
        // A socket without a protocol receives nothing; one of a protocol keeps it when it is bound to an interface.
        let socket = |protocol: Option<Protocol>| -> io::Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, protocol)?;
            bind(socket.as_raw_fd(), &interface.link)?;
            Ok(socket)
        };
        Ok(Link {
            out: socket(None)?,
            arp: socket(Some(rustix::net::eth::ARP))?,
            interface,
        })
    }

    /// Which interface.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Takes over what is known of the same interface now.
    pub fn update(&mut self, interface: Interface) {
        self.interface = interface;
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// `NetworkDown` while the interface is down; the operating system's.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.out, frame, SendFlags::empty())?;
        Ok(())
    }

    /// The next ARP message that came in; `None` when none waits.
    pub fn receive_arp(&self) -> Option<Arp> {
        let mut buffer = [0; 128];
        loop {
            let (count, _) = rustix::net::recv(&self.arp, &mut buffer[..], RecvFlags::empty()).ok()?;
            let arp = buffer.get(..count).and_then(Arp::parse);
            // Its own come back to it.
            if let Some(arp) = arp.filter(|arp| arp.sender_mac != self.interface.mac) {
                return Some(arp);
            }
        }
    }

    /// Readable when an ARP message waits.
    pub fn arp(&self) -> BorrowedFd<'_> {
        self.arp.as_fd()
    }
}
