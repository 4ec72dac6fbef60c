//! How the kernel writes addresses in `/proc/net/tcp` and `/proc/net/tcp6` (proc_pid_net(5)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address and port as they stand there: `0B6433C6:0CEB`. An IPv4 address that is mapped into IPv6 is an IPv4 address.
pub fn parse_end(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    Some(SocketAddr::new(
        parse_ip(ip)?,
        u16::from_str_radix(port, 16).ok()?,
    ))
}

/// Words of four bytes, each in the machine's own byte order.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |index: usize| u32::from_str_radix(hex.get(index * 8..index * 8 + 8)?, 16).ok();
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?.to_ne_bytes()))),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?.to_ne_bytes());
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_no_address() {
        assert_eq!(parse_ip("0100007"), None);
        for bad in [
            "",
            "0100007F",
            "0100007F:",
            "0100007F:XY",
            "XX:1F90",
            "é:1",
            "12345:0CEB",
        ] {
            assert_eq!(parse_end(bad), None, "{bad}");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn both_families_are_read() {
        assert_eq!(parse_end("0100007F:1F90"), Some(([127, 0, 0, 1], 8080).into()));
        let mapped = "0000000000000000FFFF00000100007F:1F90";
        assert_eq!(parse_end(mapped), parse_end("0100007F:1F90"));
        let six = "00000000000000000000000001000000:0050";
        assert_eq!(parse_end(six), Some((Ipv6Addr::LOCALHOST, 80).into()));
    }
}
