//! Addresses and default routes of this machine, by rtnetlink(7), on a socket that is opened once.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

/// How long the kernel keeps an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Whole seconds from now; the kernel takes up to 0.3 s longer.
    Seconds(u32),
    /// Until somebody removes it.
    Forever,
}

/// An address that an interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// The address.
    pub ip: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// The interface.
    pub interface: u32,
    /// Whether it has no end.
    pub forever: bool,
}

/// A default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Where it leads.
    pub ip: IpAddr,
    /// The interface.
    pub interface: u32,
}

/// A route as the kernel told it, to be told to the kernel again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route(Vec<u8>);

/// The socket.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open() -> io::Result<Netlink> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let patience = TimeVal::new(PATIENCE.as_secs() as _, 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Gives `interface` the address, or the address it has another lifetime. IPv6 addresses get no duplicate address
    /// detection, which would take a second and fail while their last holder is there.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_ADMIN; the kernel's.
    pub fn add(&mut self, interface: u32, ip: IpAddr, prefix: u8, lifetime: Lifetime) -> io::Result<()> {
        let mut body = address_head(ip, prefix, interface);
        address_attributes(&mut body, ip);
        let valid = match lifetime {
            Lifetime::Seconds(seconds) => seconds,
            Lifetime::Forever => FOREVER,
        };
        // An IPv6 address that visitors dial must not become what this server dials out with (RFC 6724 rule 3).
        let preferred = match ip {
            IpAddr::V6(_) if lifetime != Lifetime::Forever => 0,
            _ => valid,
        };
        let mut lifetimes = Vec::with_capacity(16);
        for word in [preferred, valid, 0, 0] {
            lifetimes.extend_from_slice(&word.to_ne_bytes());
        }
        attribute(&mut body, IFA_CACHEINFO, &lifetimes);
        if ip.is_ipv6() {
            attribute(&mut body, IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
        }
        self.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body)
    }

    /// Takes the address away; that it is not there is no error.
    ///
    /// # Errors
    /// As [`Netlink::add`].
    pub fn remove(&mut self, interface: u32, ip: IpAddr, prefix: u8) -> io::Result<()> {
        let mut body = address_head(ip, prefix, interface);
        address_attributes(&mut body, ip);
        match self.request(RTM_DELADDR, 0, &body) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EADDRNOTAVAIL) => Ok(()),
            other => other,
        }
    }

    /// Every address of every interface.
    ///
    /// # Errors
    /// The kernel's.
    pub fn addresses(&mut self) -> io::Result<Vec<Present>> {
        let mut found = Vec::new();
        self.dump(RTM_GETADDR, &[0; 8], |body| found.extend(read_address(body)))?;
        Ok(found)
    }

    /// The default routes of the main table.
    ///
    /// # Errors
    /// The kernel's.
    pub fn gateways(&mut self) -> io::Result<Vec<Gateway>> {
        let mut found = Vec::new();
        self.dump(RTM_GETROUTE, &[0; 12], |body| found.extend(read_gateway(body)))?;
        Ok(found)
    }

    /// The routes of the main table that lead over `interface` to a gateway: what the kernel forgets with the interface's
    /// last address of a network.
    ///
    /// # Errors
    /// The kernel's.
    pub fn routes_by_gateway(&mut self, interface: u32) -> io::Result<Vec<Route>> {
        let mut found = Vec::new();
        self.dump(RTM_GETROUTE, &[0; 12], |body| {
            let over = route_attribute(body, RTA_OIF)
                .and_then(|value| Some(u32::from_ne_bytes(value.try_into().ok()?)));
            let main = body.get(4) == Some(&RT_TABLE_MAIN) && body.get(7) == Some(&RTN_UNICAST);
            if main && over == Some(interface) && route_attribute(body, RTA_GATEWAY).is_some() {
                found.push(Route(body.to_vec()));
            }
        })?;
        Ok(found)
    }

    /// Puts a route back; that it is there is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub fn restore(&mut self, route: &Route) -> io::Result<()> {
        match self.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &route.0) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Sends a request and waits for the kernel's word on it.
    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let sequence = self.send(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body)?;
        let mut done = None;
        while done.is_none() {
            self.receive(sequence, |kind, body| {
                if kind == NLMSG_ERROR {
                    done = Some(errno(body));
                }
            })?;
        }
        done.unwrap_or(Ok(()))
    }

    fn dump(&mut self, kind: u16, body: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let sequence = self.send(kind, NLM_F_REQUEST | NLM_F_DUMP, body)?;
        let mut done = None;
        while done.is_none() {
            self.receive(sequence, |kind, body| match kind {
                NLMSG_DONE => done = Some(Ok(())),
                NLMSG_ERROR => done = Some(errno(body)),
                _ => each(body),
            })?;
        }
        done.unwrap_or(Ok(()))
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEAD + body.len()).unwrap_or(0);
        let mut message = Vec::with_capacity(HEAD + body.len());
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(self.sequence)
    }

    /// One datagram of the kernel's answer to `sequence`.
    fn receive(&mut self, sequence: u32, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let count = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..count).unwrap_or(&[]);
        while let Some((kind, number, body, after)) = message(rest) {
            if number == sequence {
                each(kind, body);
            }
            rest = after;
        }
        Ok(())
    }
}

/// Type, sequence number and body of the first message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let length = usize::try_from(word(0)?).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEAD..length)?;
    Some((kind, word(8)?, body, bytes.get(padded(length)..).unwrap_or(&[])))
}

fn errno(body: &[u8]) -> io::Result<()> {
    let code = body
        .get(..4)
        .and_then(|code| Some(i32::from_ne_bytes(code.try_into().ok()?)));
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn address_head(ip: IpAddr, prefix: u8, interface: u32) -> Vec<u8> {
    let mut body = vec![family(ip), prefix, 0, 0];
    body.extend_from_slice(&interface.to_ne_bytes());
    body
}

fn address_attributes(body: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            attribute(body, IFA_LOCAL, &ip.octets());
            attribute(body, IFA_ADDRESS, &ip.octets());
        }
        IpAddr::V6(ip) => attribute(body, IFA_ADDRESS, &ip.octets()),
    }
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(4);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(padded(body.len()), 0);
}

fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(padded(length)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

fn read_address(body: &[u8]) -> Option<Present> {
    let (family, prefix) = (*body.first()?, *body.get(1)?);
    let interface = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let all: Vec<_> = attributes(body.get(8..)?).collect();
    let find = |wanted: u16| {
        all.iter()
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| *value)
    };
    // On a point-to-point link the address is the peer's.
    let ip = read_ip(family, find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?)?;
    let valid =
        find(IFA_CACHEINFO).and_then(|info| Some(u32::from_ne_bytes(info.get(4..8)?.try_into().ok()?)));
    Some(Present {
        ip,
        prefix,
        interface,
        forever: valid.is_none_or(|valid| valid == FOREVER),
    })
}

fn read_gateway(body: &[u8]) -> Option<Gateway> {
    let default =
        body.get(1) == Some(&0) && body.get(4) == Some(&RT_TABLE_MAIN) && body.get(7) == Some(&RTN_UNICAST);
    let interface = u32::from_ne_bytes(route_attribute(body, RTA_OIF)?.try_into().ok()?);
    let ip = read_ip(*body.first()?, route_attribute(body, RTA_GATEWAY)?)?;
    default.then_some(Gateway { ip, interface })
}

fn route_attribute(body: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(body.get(12..)?)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

fn read_ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn padded(length: usize) -> usize {
    (length + 3) & !3
}

/// The kernel answers at once; what does not come is lost.
const PATIENCE: Duration = Duration::from_secs(1);

const HEAD: usize = 16;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_DUMP: u16 = 0x300;
const NLA_TYPE_MASK: u16 = 0x3fff;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const FOREVER: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_loopback_for_ever() {
        let mut netlink = Netlink::open().unwrap();
        let found = netlink.addresses().unwrap();
        let loopback = found
            .iter()
            .find(|present| present.ip == IpAddr::from([127, 0, 0, 1]));
        assert!(
            loopback.is_some_and(|present| present.forever && present.prefix == 8),
            "{found:?}"
        );
        netlink.gateways().unwrap();
    }

    #[test]
    fn what_the_kernel_never_says_is_not_read_beyond_its_end() {
        for bytes in [&[][..], &[1, 0, 0, 0], &[255; 16], &[20, 0, 0, 0, 2, 0]] {
            assert!(message(bytes).is_none());
            assert!(read_address(bytes).is_none());
            assert!(read_gateway(bytes).is_none());
        }
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0, "shorter than its own head");
        assert_eq!(attributes(&[200, 0, 1, 0, 7]).count(), 0, "longer than all");
    }
}
