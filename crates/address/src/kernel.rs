//! What is done with addresses: in the kernel, on the local network, at the gateway.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use pontoon_sys::frame::{Arp, BROADCAST, Mac, echo_request, neighbour_advertisement};
use pontoon_sys::netlink::{Lifetime, Netlink, Present, Route};
use pontoon_sys::{Echoes, Interface, Link, interfaces};

/// The lease that the kernel is told, in whole seconds; it takes up to 0.3 s longer (`Timing::lease`).
const LEASE_SECONDS: u32 = 1;

/// Between two looks at interfaces and routes.
const LOOK: Duration = Duration::from_secs(1);

/// Sockets on the kernel and the networks, opened before they are needed.
#[derive(Debug)]
pub(crate) struct Kernel {
    netlink: Netlink,
    echoes: Echoes,
    links: BTreeMap<u32, Link>,
    looked: Option<Instant>,
    /// As the operating system had them before Pontoon: with their network, not as a host's only.
    found: BTreeMap<IpAddr, Present>,
    routes: BTreeMap<u32, Vec<Route>>,
    /// What was told on the command line of the fleet.
    interface: Option<String>,
    wanted_gateway: Option<Ipv4Addr>,
    gateway: Option<At>,
    /// Of this process's echoes.
    id: u16,
    /// Neighbours that are asked whether they know where an address is, and their hardware addresses.
    watched: BTreeMap<Ipv4Addr, Option<Mac>>,
}

/// The gateway as it is known.
#[derive(Clone, Copy, Debug)]
struct At {
    ip: Ipv4Addr,
    interface: u32,
    mac: Option<Mac>,
    /// When it was asked, by the driver's clock.
    asked: Option<Duration>,
}

/// What the gateway did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// It answered a question that was sent then.
    Answered(Duration),
    /// It returned what was sent then from this address.
    Returned(Ipv4Addr, Duration),
    /// A watched neighbour (the first) returned what was sent then from this address (the second).
    Neighbour(Ipv4Addr, Ipv4Addr, Duration),
}

impl Kernel {
    /// # Errors
    /// `PermissionDenied` without CAP_NET_RAW; the operating system's.
    pub(crate) fn open(id: u16) -> io::Result<Kernel> {
        Ok(Kernel {
            netlink: Netlink::open()?,
            echoes: Echoes::open()?,
            links: BTreeMap::new(),
            looked: None,
            found: BTreeMap::new(),
            routes: BTreeMap::new(),
            interface: None,
            wanted_gateway: None,
            gateway: None,
            id,
            watched: BTreeMap::new(),
        })
    }

    pub(crate) fn follow(&mut self, interface: Option<String>, gateway: Option<Ipv4Addr>) {
        self.interface = interface;
        self.wanted_gateway = gateway;
        self.looked = None;
    }

    /// Looks at interfaces, routes and the gateway again when it is time.
    pub(crate) fn look(&mut self) -> io::Result<()> {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        let now = interfaces()?;
        self.links.retain(|index, link| {
            let same = |new: &Interface| new.index == *index && new.mac == link.interface().mac;
            now.iter().any(same)
        });
        for interface in now {
            let index = interface.index;
            match self.links.get_mut(&index) {
                Some(link) => link.update(interface),
                None => {
                    self.links.insert(index, Link::open(interface)?);
                }
            }
        }
        let told = self.wanted_gateway;
        let found = self.netlink.gateways()?;
        let by_default = found.iter().find_map(|gateway| match gateway.ip {
            IpAddr::V4(ip) if self.links.contains_key(&gateway.interface) => Some((ip, gateway.interface)),
            _ => None,
        });
        let gateway = match told {
            Some(ip) => self.place(IpAddr::V4(ip)).map(|interface| (ip, interface)),
            None => by_default,
        };
        let same = |at: &At| Some((at.ip, at.interface)) == gateway;
        // With the link its route is gone; it is asked all the same.
        if let Some((ip, interface)) = gateway.filter(|_| !self.gateway.as_ref().is_some_and(same)) {
            self.gateway = Some(At {
                ip,
                interface,
                mac: None,
                asked: None,
            });
        }
        Ok(())
    }

    pub(crate) fn gateway(&self) -> Option<Ipv4Addr> {
        self.gateway.map(|gateway| gateway.ip)
    }

    /// Which of `addresses` this machine has; those that have no end are remembered as they are.
    pub(crate) fn present(&mut self, addresses: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
        let all = self.netlink.addresses()?;
        let here: Vec<Present> = all
            .into_iter()
            .filter(|present| addresses.contains(&present.ip))
            .collect();
        for present in &here {
            self.found.insert(present.ip, *present);
            if let Ok(routes) = self.netlink.routes_by_gateway(present.interface)
                && !routes.is_empty()
            {
                self.routes.insert(present.interface, routes);
            }
        }
        Ok(here.iter().map(|present| present.ip).collect())
    }

    /// Adds the addresses, or gives them another lease; for good with `forever`.
    pub(crate) fn lease(&mut self, addresses: &[IpAddr], forever: bool) -> io::Result<()> {
        let lifetime = if forever {
            Lifetime::Forever
        } else {
            Lifetime::Seconds(LEASE_SECONDS)
        };
        for ip in addresses {
            let (interface, prefix) = self.seat(*ip)?;
            self.netlink.add(interface, *ip, prefix, lifetime)?;
        }
        Ok(())
    }

    /// Puts back what the kernel forgot together with the addresses.
    pub(crate) fn restore_routes(&mut self, addresses: &[IpAddr]) {
        let seats: Vec<u32> = addresses
            .iter()
            .filter_map(|ip| self.found.get(ip))
            .map(|at| at.interface)
            .collect();
        for route in seats.iter().filter_map(|index| self.routes.get(index)).flatten() {
            if let Err(error) = self.netlink.restore(route) {
                tracing::warn!(%error, "a route was not put back");
            }
        }
    }

    /// Removes the addresses; every one is tried.
    pub(crate) fn remove(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        let mut result = Ok(());
        for ip in addresses {
            let removed = self
                .seat(*ip)
                .and_then(|(interface, prefix)| self.netlink.remove(interface, *ip, prefix));
            result = result.and(removed);
        }
        result
    }

    /// Says where the addresses are, in every way that some neighbour believes.
    pub(crate) fn announce(&self, addresses: &[IpAddr], neighbours: &[IpAddr]) {
        for ip in addresses {
            let Some(link) = self.place(*ip).and_then(|index| self.links.get(&index)) else {
                continue;
            };
            let mac = link.interface().mac;
            let IpAddr::V4(ip) = *ip else {
                if let IpAddr::V6(ip) = *ip {
                    send(link, &neighbour_advertisement(mac, ip));
                }
                continue;
            };
            send(link, &Arp::announcement(mac, ip).frame(BROADCAST));
            send(link, &Arp::announcement_reply(mac, ip).frame(BROADCAST));
            if let Some(gateway) = self.gateway.filter(|at| at.interface == link.interface().index) {
                send(
                    link,
                    &Arp::question(mac, ip, gateway.ip).frame(gateway.mac.unwrap_or(BROADCAST)),
                );
            }
            for neighbour in neighbours {
                if let IpAddr::V4(neighbour) = neighbour
                    && link.interface().reaches(IpAddr::V4(*neighbour))
                {
                    send(link, &Arp::question(mac, ip, *neighbour).frame(BROADCAST));
                }
            }
        }
    }

    /// Asks the gateway where it is, from an address that does not move.
    pub(crate) fn ask_gateway(&mut self, now: Duration, moving: &[IpAddr]) {
        let Some(gateway) = &mut self.gateway else { return };
        let Some(link) = self.links.get(&gateway.interface) else {
            return;
        };
        gateway.asked = Some(now);
        ask_where(link, gateway.ip, moving);
    }

    /// Asks the gateway to return something to `from`: it comes back here only if the gateway thinks that it is here.
    pub(crate) fn ask_return(&mut self, now: Duration, from: Ipv4Addr, moving: &[IpAddr]) {
        let Some(gateway) = self.gateway else { return };
        let (Some(mac), Some(link)) = (gateway.mac, self.links.get(&gateway.interface)) else {
            return self.ask_gateway(now, moving);
        };
        self.ask_echo(link, mac, now, from, gateway.ip);
    }

    fn ask_echo(&self, link: &Link, mac: Mac, now: Duration, from: Ipv4Addr, to: Ipv4Addr) {
        let sent = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).to_be_bytes();
        let own = link.interface().mac;
        send(link, &echo_request(own, mac, from, to, self.id, &sent));
    }

    /// Which of these addresses are on the same network as `address`.
    pub(crate) fn beside(&self, address: Ipv4Addr, others: &[IpAddr]) -> Vec<Ipv4Addr> {
        let link = self
            .place(IpAddr::V4(address))
            .and_then(|index| self.links.get(&index));
        let near = others.iter().filter_map(|other| match other {
            IpAddr::V4(v4) if link?.interface().reaches(*other) => Some(*v4),
            _ => None,
        });
        near.collect()
    }

    /// Asks a neighbour to return something to `from`, as [`Kernel::ask_return`] asks the gateway; first for its hardware
    /// address, in a way that tells it nothing.
    pub(crate) fn ask_neighbour(&mut self, now: Duration, from: Ipv4Addr, to: Ipv4Addr, moving: &[IpAddr]) {
        let known = *self.watched.entry(to).or_insert(None);
        let Some(link) = self
            .place(IpAddr::V4(from))
            .and_then(|index| self.links.get(&index))
        else {
            return;
        };
        match known {
            Some(mac) => self.ask_echo(link, mac, now, from, to),
            None => ask_where(link, to, moving),
        }
    }

    /// Nobody is asked any more but the gateway.
    pub(crate) fn forget_neighbours(&mut self) {
        self.watched.clear();
    }

    /// What the gateway said meanwhile.
    pub(crate) fn words(&mut self) -> Vec<Word> {
        let mut words = Vec::new();
        for (index, link) in &self.links {
            let mut gateway = self
                .gateway
                .as_mut()
                .filter(|gateway| gateway.interface == *index);
            if gateway.is_none() && self.watched.is_empty() {
                continue;
            }
            while let Some(arp) = link.receive_arp() {
                if let Some(known) = self.watched.get_mut(&arp.sender) {
                    *known = Some(arp.sender_mac);
                }
                if let Some(gateway) = gateway.as_mut().filter(|gateway| gateway.ip == arp.sender) {
                    gateway.mac = Some(arp.sender_mac);
                    if let Some(asked) = gateway.asked.filter(|_| arp.reply) {
                        words.push(Word::Answered(asked));
                    }
                }
            }
        }
        while let Some(echo) = self.echoes.receive(self.id) {
            let sent = <[u8; 8]>::try_from(echo.payload.as_slice()).map(u64::from_be_bytes);
            let Ok(sent) = sent.map(Duration::from_nanos) else {
                continue;
            };
            if Some(echo.from) == self.gateway() {
                words.push(Word::Returned(echo.to, sent));
            }
            if self.watched.contains_key(&echo.from) {
                words.push(Word::Neighbour(echo.from, echo.to, sent));
            }
        }
        words
    }

    /// Whether this machine has the address of a link that is up.
    fn seat(&self, ip: IpAddr) -> io::Result<(u32, u8)> {
        if let Some(found) = self.found.get(&ip)
            && self.links.contains_key(&found.interface)
        {
            return Ok((found.interface, found.prefix));
        }
        let interface = self.place(ip).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("no network interface is in the network of {ip}: set ip.interface"),
            )
        })?;
        Ok((interface, if ip.is_ipv4() { 32 } else { 128 }))
    }

    /// The interface for an address: as told, the one in whose network it is, the one of the default route.
    fn place(&self, ip: IpAddr) -> Option<u32> {
        let named = |name: &str| self.links.iter().find(|(_, link)| link.interface().name == name);
        if let Some(name) = &self.interface {
            return named(name).map(|(index, _)| *index);
        }
        if let Some(found) = self
            .found
            .get(&ip)
            .filter(|found| self.links.contains_key(&found.interface))
        {
            return Some(found.interface);
        }
        let near = self.links.iter().find(|(_, link)| link.interface().reaches(ip));
        near.map(|(index, _)| *index)
            .or(self.gateway.map(|at| at.interface))
    }
}

/// Asks for the hardware address of `ip`, from an address that does not move. Without one it is a probe (RFC 5227), from
/// which nobody learns.
fn ask_where(link: &Link, ip: Ipv4Addr, moving: &[IpAddr]) {
    let own = link.interface().addresses.iter().find_map(|(ip, _)| match ip {
        IpAddr::V4(v4) if !moving.contains(ip) => Some(*v4),
        _ => None,
    });
    let sender = own.unwrap_or(Ipv4Addr::UNSPECIFIED);
    send(
        link,
        &Arp::question(link.interface().mac, sender, ip).frame(BROADCAST),
    );
}

fn send(link: &Link, frame: &[u8]) {
    // A link that is down takes nothing; what follows from that is found out by asking the gateway.
    if let Err(error) = link.send(frame) {
        tracing::debug!(%error, interface = link.interface().name, "a frame was not sent");
    }
}
