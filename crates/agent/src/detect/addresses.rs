//! This machine's addresses, and which of them are for the fleet and which for visitors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The interface; empty when it cannot be told.
    pub interface: String,
}

/// What `init` proposes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// For the fleet.
    pub private: Option<IpAddr>,
    /// For visitors.
    pub public: Vec<IpAddr>,
}

/// Every address that others can reach, loopback and link-local left out.
pub fn look(root: &Path) -> Vec<Address> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let routes = parse_routes(&read("proc/net/route"));
    let mut found: Vec<Address> = parse_fib_trie(&read("proc/net/fib_trie"))
        .into_iter()
        .map(|ip| Address {
            ip: IpAddr::V4(ip),
            interface: interface_of(ip, &routes),
        })
        .collect();
    found.extend(read("proc/net/if_inet6").lines().filter_map(parse_inet6));
    found
}

/// Private networks are for the fleet, others for visitors. A machine with one kind only uses it for both.
pub fn choose(found: &[Address]) -> Choice {
    let usable = || found.iter().filter(|address| !is_virtual(&address.interface));
    let private = usable().find(|address| is_private(address.ip) && address.ip.is_ipv4());
    let private = private.or_else(|| usable().find(|address| is_private(address.ip)));
    let mut public: Vec<IpAddr> = usable()
        .map(|address| address.ip)
        .filter(|ip| !is_private(*ip))
        .collect();
    public.sort_by_key(IpAddr::is_ipv6);
    let private = private
        .map(|address| address.ip)
        .or_else(|| public.first().copied());
    if public.is_empty() {
        // Behind a translation of addresses (most clouds): visitors arrive at the private one.
        public.extend(private);
    }
    Choice { private, public }
}

/// Addresses that are not routed in the internet: RFC 1918, RFC 6598 (100.64.0.0/10), RFC 4193 (fc00::/7).
pub fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// Bridges and pairs of container runtimes and hypervisors: no other machine is behind them.
fn is_virtual(interface: &str) -> bool {
    [
        "docker", "br-", "veth", "virbr", "lxc", "lxd", "cni", "flannel", "cali", "podman", "vmnet", "dummy",
    ]
    .iter()
    .any(|prefix| interface.starts_with(prefix))
}

/// Local addresses are the `/32 host LOCAL` leaves of the kernel's routing tree.
fn parse_fib_trie(text: &str) -> Vec<Ipv4Addr> {
    let mut found: Vec<Ipv4Addr> = Vec::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in text.lines().map(str::trim) {
        if let Some(leaf) = line.strip_prefix("|-- ") {
            last = leaf.trim().parse().ok();
        } else if line == "/32 host LOCAL"
            && let Some(ip) = last
            && !ip.is_loopback()
            && !ip.is_link_local()
            && !found.contains(&ip)
        {
            // The tree is printed once for each table: an address stands in it twice.
            found.push(ip);
        }
    }
    found
}

struct Route {
    interface: String,
    network: u32,
    mask: u32,
}

/// `/proc/net/route`: destination and mask as hexadecimal words in the machine's own byte order.
fn parse_routes(text: &str) -> Vec<Route> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let interface = fields.next()?.to_owned();
            let network = u32::from_str_radix(fields.next()?, 16).ok()?;
            let mask = u32::from_str_radix(fields.nth(5)?, 16).ok()?;
            Some(Route {
                interface,
                network,
                mask,
            })
        })
        .collect()
}

fn interface_of(ip: Ipv4Addr, routes: &[Route]) -> String {
    let word = u32::from_ne_bytes(ip.octets());
    routes
        .iter()
        .filter(|route| word & route.mask == route.network)
        .max_by_key(|route| route.mask.count_ones())
        .map(|route| route.interface.clone())
        .unwrap_or_default()
}

/// A line of `/proc/net/if_inet6`: address, index, prefix length, scope, flags, interface; hexadecimal.
fn parse_inet6(line: &str) -> Option<Address> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [ip, _, _, scope, flags, interface] = fields.as_slice() else {
        return None;
    };
    let ip = Ipv6Addr::from(u128::from_str_radix(ip, 16).ok()?);
    let flags = u8::from_str_radix(flags, 16).ok()?;
    // Temporary, duplicate, deprecated or tentative (linux/if_addr.h): not for others to rely on.
    let lasting = flags & (0x01 | 0x08 | 0x20 | 0x40) == 0;
    (*scope == "00" && lasting && !ip.is_loopback()).then(|| Address {
        ip: IpAddr::V6(ip),
        interface: (*interface).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ip: &str, interface: &str) -> Address {
        Address {
            ip: ip.parse().unwrap(),
            interface: interface.to_owned(),
        }
    }

    #[test]
    fn the_private_network_is_for_the_fleet_and_container_bridges_are_for_nobody() {
        let choice = choose(&[
            address("172.17.0.1", "docker0"),
            address("198.51.100.7", "eth0"),
            address("2001:db8::7", "eth0"),
            address("10.0.0.1", "eth1"),
        ]);
        assert_eq!(choice.private, Some("10.0.0.1".parse().unwrap()));
        assert_eq!(
            choice.public,
            [
                "198.51.100.7".parse::<IpAddr>().unwrap(),
                "2001:db8::7".parse().unwrap()
            ]
        );
    }

    #[test]
    fn a_machine_with_one_address_uses_it_for_both() {
        for ip in ["198.51.100.7", "10.0.0.1", "fd00::1"] {
            let choice = choose(&[address(ip, "eth0")]);
            assert_eq!(
                (choice.private, choice.public),
                (Some(ip.parse().unwrap()), vec![ip.parse().unwrap()])
            );
        }
        assert_eq!(
            choose(&[]),
            Choice {
                private: None,
                public: vec![]
            }
        );
        assert_eq!(choose(&[address("172.17.0.1", "docker0")]).private, None);
    }

    #[test]
    fn the_kernels_tables_are_read() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.1\n        /32 host LOCAL\n     |-- 10.0.0.0\n        /24 link UNICAST\n     \
                    |-- 127.0.0.1\n        /32 host LOCAL\nLocal:\n     |-- 10.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(parse_fib_trie(trie), ["10.0.0.1".parse::<Ipv4Addr>().unwrap()]);
        let network = |text: &str| {
            format!(
                "{:08X}",
                u32::from_ne_bytes(text.parse::<Ipv4Addr>().unwrap().octets())
            )
        };
        let table = format!(
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
             eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\neth1\t{}\t00000000\t0001\t0\t0\t0\t{}\nbroken\n",
            network("10.0.0.0"),
            network("255.255.255.0")
        );
        let routes = parse_routes(&table);
        assert_eq!(interface_of("10.0.0.1".parse().unwrap(), &routes), "eth1");
        assert_eq!(interface_of("10.0.1.1".parse().unwrap(), &routes), "eth0");
        let line = "20010db8000000000000000000000001 02 40 00 80     eth0";
        assert_eq!(parse_inet6(line), Some(address("2001:db8::1", "eth0")));
        for skipped in [
            "fe800000000000000000000000000001 02 40 20 80 eth0",
            "20010db8000000000000000000000001 02 40 00 01 eth0",
            "00000000000000000000000000000001 01 80 10 80 lo",
            "zz",
        ] {
            assert_eq!(parse_inet6(skipped), None);
        }
    }

    #[test]
    fn this_machine_has_no_loopback_among_its_addresses() {
        assert!(
            look(Path::new("/"))
                .iter()
                .all(|address| !address.ip.is_loopback())
        );
    }
}
