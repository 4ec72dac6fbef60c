//! The PROXY protocol, versions 1 and 2: who a visitor is, in front of what it says, as a proxy that passes connections
//! on tells it. Pure. By «The PROXY protocol», W. Tarreau, versions 1 & 2, 2020/03/05.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use pontoon_fleet::ProxyProtocol as Version;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The proxy speaks for itself, as when it checks whether somebody listens; or does not know.
    Local,
    /// It passes on a connection.
    Proxied {
        /// Who connected to it.
        source: SocketAddr,
        /// Where to.
        destination: SocketAddr,
    },
}

/// A header that is none, or that says what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What version 2 begins with (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, with its end (section 2.1).
const MAX_LINE: usize = 107;
/// The most that may follow the fixed part of version 2: addresses, and room for what proxies add.
const MAX_REST: usize = 2048;
/// The longest header.
pub const MAX: usize = 16 + MAX_REST;

/// Reads a header at the beginning of `bytes`: what it says and how long it is; `None` when more is needed.
///
/// # Errors
/// When `bytes` cannot be the beginning of a header.
pub fn read(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] == SIGNATURE[..known] {
        return read_binary(bytes);
    }
    let known = bytes.len().min(6);
    if bytes[..known] != b"PROXY "[..known] {
        return Err(Malformed);
    }
    let window = &bytes[..bytes.len().min(MAX_LINE)];
    match memchr::memchr(b'\n', window) {
        Some(end) => {
            let line = window[..end].strip_suffix(b"\r").ok_or(Malformed)?;
            Ok(Some((read_line(line)?, end + 1)))
        }
        None if window.len() == MAX_LINE => Err(Malformed),
        None => Ok(None),
    }
}

fn read_line(line: &[u8]) -> Result<Header, Malformed> {
    let line = std::str::from_utf8(line).map_err(|_| Malformed)?;
    let words: Vec<&str> = line.split(' ').collect();
    let (source, destination) = match words[..] {
        // What follows is not to be looked at.
        ["PROXY", "UNKNOWN", ..] => return Ok(Header::Local),
        ["PROXY", family, source, destination, from, to] => {
            let is_v4 = match family {
                "TCP4" => true,
                "TCP6" => false,
                _ => return Err(Malformed),
            };
            let address = |text: &str, port: &str| {
                let address: IpAddr = text.parse().map_err(|_| Malformed)?;
                let plain = port.bytes().all(|byte| byte.is_ascii_digit())
                    && (port.len() == 1 || !port.starts_with('0'));
                let port = port.parse().map_err(|_| Malformed)?;
                match plain && address.is_ipv4() == is_v4 {
                    true => Ok(SocketAddr::new(address, port)),
                    false => Err(Malformed),
                }
            };
            (address(source, from)?, address(destination, to)?)
        }
        _ => return Err(Malformed),
    };
    Ok(Header::Proxied { source, destination })
}

fn read_binary(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let Some(fixed) = bytes.get(..16) else {
        return Ok(None);
    };
    let rest = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if fixed[12] >> 4 != 2 || rest > MAX_REST {
        return Err(Malformed);
    }
    let Some(body) = bytes.get(16..16 + rest) else {
        return Ok(None);
    };
    let header = match (fixed[12] & 0x0f, fixed[13]) {
        (0, _) => Header::Local,
        // TCP over IPv4.
        (1, 0x11) => {
            let (source, after) = take::<4>(body)?;
            let (destination, after) = take::<4>(after)?;
            proxied(
                Ipv4Addr::from(source).into(),
                Ipv4Addr::from(destination).into(),
                after,
            )?
        }
        // TCP over IPv6.
        (1, 0x21) => {
            let (source, after) = take::<16>(body)?;
            let (destination, after) = take::<16>(after)?;
            proxied(
                Ipv6Addr::from(source).into(),
                Ipv6Addr::from(destination).into(),
                after,
            )?
        }
        // Unspecified, or a family that says nothing of use here: the connection's own addresses hold.
        (1, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => Header::Local,
        _ => return Err(Malformed),
    };
    Ok(Some((header, 16 + rest)))
}

fn proxied(source: IpAddr, destination: IpAddr, ports: &[u8]) -> Result<Header, Malformed> {
    let (from, after) = take::<2>(ports)?;
    let (to, _) = take::<2>(after)?;
    Ok(Header::Proxied {
        source: SocketAddr::new(source, u16::from_be_bytes(from)),
        destination: SocketAddr::new(destination, u16::from_be_bytes(to)),
    })
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Malformed> {
    let (first, rest) = bytes.split_first_chunk::<N>().ok_or(Malformed)?;
    Ok((*first, rest))
}

/// Writes a header. Two addresses of different families, as behind `[::]`, are both written as IPv6.
pub fn write(version: Version, header: &Header, out: &mut Vec<u8>) {
    let Header::Proxied { source, destination } = header else {
        match version {
            Version::V1 => out.extend_from_slice(b"PROXY UNKNOWN\r\n"),
            Version::V2 => {
                out.extend_from_slice(&SIGNATURE);
                out.extend_from_slice(&[0x20, 0, 0, 0]);
            }
        }
        return;
    };
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let ports = [source.port(), destination.port()];
    match (version, from, to) {
        (Version::V1, IpAddr::V4(_), IpAddr::V4(_)) => write_line(out, "TCP4", from, to, ports),
        (Version::V1, ..) => write_line(out, "TCP6", wide(from).into(), wide(to).into(), ports),
        (Version::V2, IpAddr::V4(from), IpAddr::V4(to)) => {
            write_binary(out, 0x11, &[from.octets(), to.octets()].concat(), ports);
        }
        (Version::V2, ..) => {
            write_binary(
                out,
                0x21,
                &[wide(from).octets(), wide(to).octets()].concat(),
                ports,
            );
        }
    }
}

fn write_line(out: &mut Vec<u8>, family: &str, from: IpAddr, to: IpAddr, ports: [u16; 2]) {
    let line = format!("PROXY {family} {from} {to} {} {}\r\n", ports[0], ports[1]);
    out.extend_from_slice(line.as_bytes());
}

fn write_binary(out: &mut Vec<u8>, family: u8, addresses: &[u8], ports: [u16; 2]) {
    let length = u16::try_from(addresses.len() + 4).unwrap_or(u16::MAX);
    out.extend_from_slice(&SIGNATURE);
    out.extend_from_slice(&[0x21, family]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(addresses);
    ports
        .iter()
        .for_each(|port| out.extend_from_slice(&port.to_be_bytes()));
}

fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxied(source: &str, destination: &str) -> Header {
        Header::Proxied {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    #[test]
    fn what_is_written_is_read_however_it_is_split() {
        for header in [
            Header::Local,
            proxied("198.51.100.7:40000", "203.0.113.1:443"),
            proxied("[2001:db8::7]:1", "[2001:db8::1]:65535"),
        ] {
            for version in [Version::V1, Version::V2] {
                let mut bytes = Vec::new();
                write(version, &header, &mut bytes);
                let length = bytes.len();
                bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
                assert_eq!(read(&bytes), Ok(Some((header, length))), "{version:?}");
                for end in 0..length {
                    assert_eq!(read(&bytes[..end]), Ok(None), "{version:?} {end}");
                }
            }
        }
        let mut bytes = Vec::new();
        write(
            Version::V1,
            &proxied("[::ffff:198.51.100.7]:1", "[::ffff:203.0.113.1]:2"),
            &mut bytes,
        );
        assert_eq!(bytes, b"PROXY TCP4 198.51.100.7 203.0.113.1 1 2\r\n");
        bytes.clear();
        write(
            Version::V1,
            &proxied("198.51.100.7:1", "[2001:db8::1]:2"),
            &mut bytes,
        );
        assert_eq!(bytes, b"PROXY TCP6 ::ffff:198.51.100.7 2001:db8::1 1 2\r\n");
    }

    #[test]
    fn headers_of_the_specification_are_read() {
        // The longest of version 1 (section 2.1), which says nothing.
        let longest = b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
        assert_eq!(read(longest), Ok(Some((Header::Local, longest.len()))));
        // Version 2 with additions (section 2.2.7), a Unix socket, and datagrams.
        let mut bytes = [&SIGNATURE[..], &[0x21, 0x11, 0, 19]].concat();
        bytes.extend_from_slice(&[198, 51, 100, 7, 203, 0, 113, 1, 0, 9, 0, 80]);
        bytes.extend_from_slice(&[4, 0, 4, 1, 2, 3, 4]);
        let told = proxied("198.51.100.7:9", "203.0.113.1:80");
        assert_eq!(read(&bytes), Ok(Some((told, bytes.len()))));
        for family in [0x00, 0x12, 0x31] {
            let bytes = [&SIGNATURE[..], &[0x21, family, 0, 1, 7]].concat();
            assert_eq!(read(&bytes), Ok(Some((Header::Local, 17))));
        }
    }

    #[test]
    fn what_is_no_header_is_told_at_once() {
        let binary = |rest: &[u8]| [&SIGNATURE[..], rest].concat();
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"\x16\x03\x01".to_vec(),
            b"PROXY\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 203.0.113.1 1 2\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 203.0.113.1 1\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 203.0.113.1 1 2 3\r\n".to_vec(),
            b"PROXY TCP4  198.51.100.7 203.0.113.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(),
            b"PROXY TCP6 198.51.100.7 203.0.113.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 203.0.113.1 65536 2\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 203.0.113.1 +1 2\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 203.0.113.1 01 2\r\n".to_vec(),
            b"PROXY UDP4 198.51.100.7 203.0.113.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 \xff 203.0.113.1 1 2\r\n".to_vec(),
            [&b"PROXY UNKNOWN "[..], &[b'x'; 120]].concat(),
            // Another version, command, family; too long; too short for what it is to hold.
            binary(&[0x11, 0x11, 0, 12]),
            binary(&[0x22, 0x11, 0, 0]),
            binary(&[0x21, 0x99, 0, 0]),
            binary(&[0x21, 0x11, 0xff, 0xff]),
            binary(&[0x21, 0x11, 0, 3, 1, 2, 3]),
            binary(&[0x21, 0x21, 0, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        ] {
            assert_eq!(read(&bytes), Err(Malformed), "{bytes:?}");
        }
    }
}
