//! Answers every datagram with what it was sent and a name: a visitor sees which server an address is at.
//!
//! `answerer NAME PORT`

use std::net::{Ipv6Addr, UdpSocket};

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let wrong = || std::io::Error::other("answerer NAME PORT");
    let name = args.next().ok_or_else(wrong)?;
    let port = args
        .next()
        .and_then(|port| port.parse::<u16>().ok())
        .ok_or_else(wrong)?;
    // Takes IPv4 too, and the addresses that come later.
    let socket =
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port)))?;
    let mut buffer = [0; 256];
    loop {
        let Ok((count, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let said = buffer.get(..count).unwrap_or(&[]);
        let _ = socket.send_to(&[said, b" ", name.as_bytes()].concat(), from);
    }
}
