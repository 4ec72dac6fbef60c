//! Answers of a gateway to echo requests (RFC 792) that were sent as whole frames.

use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Who answered.
    pub from: Ipv4Addr,
    /// Which address of this machine it answered to.
    pub to: Ipv4Addr,
    /// What the request carried.
    pub payload: Vec<u8>,
}

/// Hears every echo reply that comes to this machine.
#[derive(Debug)]
pub struct Echoes {
    socket: Socket,
}

impl Echoes {
    /// Opens a raw socket.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_RAW.
    pub fn open() -> io::Result<Echoes> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        socket.set_nonblocking(true)?;
        Ok(Echoes { socket })
    }

    /// The next reply with this `id`; `None` when none waits.
    pub fn receive(&self, id: u16) -> Option<Echo> {
        let mut buffer = [0; 256];
        loop {
            let count = (&self.socket).read(&mut buffer).ok()?;
            if let Some(echo) = buffer.get(..count).and_then(|packet| read(packet, id)) {
                return Some(echo);
            }
        }
    }

    /// Readable when something waits.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// An IPv4 packet as a raw socket gives it.
fn read(packet: &[u8], id: u16) -> Option<Echo> {
    let head = usize::from(packet.first()? & 0x0f) * 4;
    let message = packet.get(head..)?;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    if message.first() != Some(&0) || message.get(4..6)? != id.to_be_bytes() {
        return None;
    }
    Some(Echo {
        from: address(12)?,
        to: address(16)?,
        payload: message.get(8..)?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_and_anything_else_is_not() {
        let source = Ipv4Addr::new(198, 51, 100, 7);
        let gateway = Ipv4Addr::new(198, 51, 100, 1);
        let frame = crate::frame::echo_request([2; 6], [4; 6], gateway, source, 77, b"when");
        let mut packet = frame[14..].to_vec();
        assert_eq!(read(&packet, 77), None, "a request");
        packet[20] = 0;
        let echo = Echo {
            from: gateway,
            to: source,
            payload: b"when".to_vec(),
        };
        assert_eq!(read(&packet, 77), Some(echo));
        assert_eq!(read(&packet, 78), None, "somebody else's");
        for cut in 0..28 {
            assert_eq!(read(&packet[..cut], 77), None, "{cut}");
        }
    }
}
