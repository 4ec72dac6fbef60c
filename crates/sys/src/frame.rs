//! Ethernet frames, byte by byte: ARP (RFC 826, RFC 5227), unsolicited neighbour advertisements (RFC 4861 section 4.4)
//! and echo requests (RFC 792).

use std::net::{Ipv4Addr, Ipv6Addr};

/// A hardware address.
pub type Mac = [u8; 6];

/// Everybody.
pub const BROADCAST: Mac = [0xff; 6];

/// An ARP message in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Whether it answers.
    pub reply: bool,
    /// The sender's hardware address.
    pub sender_mac: Mac,
    /// The sender's address; unspecified in a probe (RFC 5227 section 1.1).
    pub sender: Ipv4Addr,
    /// The hardware address asked about, or told of.
    pub target_mac: Mac,
    /// The address asked about.
    pub target: Ipv4Addr,
}

impl Arp {
    /// «`ip` is at `mac`», as a request to everybody: most neighbours learn from it.
    pub fn announcement(mac: Mac, ip: Ipv4Addr) -> Arp {
        Arp {
            reply: false,
            sender_mac: mac,
            sender: ip,
            target_mac: [0; 6],
            target: ip,
        }
    }

    /// The same as a reply. Linux believes one about an entry that was confirmed a moment ago only when the target's
    /// hardware address is the sender's own (`arp_process` in net/ipv4/arp.c).
    pub fn announcement_reply(mac: Mac, ip: Ipv4Addr) -> Arp {
        Arp {
            reply: true,
            target_mac: mac,
            ..Arp::announcement(mac, ip)
        }
    }

    /// «Who has `target`? Tell `sender`». Whoever has it learns where `sender` is, also where announcements that nobody
    /// asked for are dropped.
    pub fn question(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Arp {
        Arp {
            reply: false,
            sender_mac: mac,
            sender,
            target_mac: [0; 6],
            target,
        }
    }

    /// The frame, to `to`.
    pub fn frame(&self, to: Mac) -> Vec<u8> {
        let mut out = Vec::with_capacity(ARP_FRAME);
        out.extend_from_slice(&to);
        out.extend_from_slice(&self.sender_mac);
        out.extend_from_slice(&ETHERTYPE_ARP.to_be_bytes());
        out.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, if self.reply { 2 } else { 1 }]);
        out.extend_from_slice(&self.sender_mac);
        out.extend_from_slice(&self.sender.octets());
        out.extend_from_slice(&self.target_mac);
        out.extend_from_slice(&self.target.octets());
        out
    }

    /// Reads a frame; `None` when it is not ARP of IPv4 over Ethernet.
    pub fn parse(frame: &[u8]) -> Option<Arp> {
        let arp: &[u8; 28] = frame.get(14..ARP_FRAME)?.try_into().ok()?;
        let ethertype = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
        if ethertype != ETHERTYPE_ARP || arp[..7] != [0, 1, 8, 0, 6, 4, 0] || !matches!(arp[7], 1 | 2) {
            return None;
        }
        Some(Arp {
            reply: arp[7] == 2,
            sender_mac: arp[8..14].try_into().ok()?,
            sender: <[u8; 4]>::try_from(&arp[14..18]).ok()?.into(),
            target_mac: arp[18..24].try_into().ok()?,
            target: <[u8; 4]>::try_from(&arp[24..28]).ok()?.into(),
        })
    }
}

/// «`ip` is at `mac`», to all nodes of the link: an unsolicited neighbour advertisement with the Override flag.
pub fn neighbour_advertisement(mac: Mac, ip: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend_from_slice(&ip.octets());
    message.extend_from_slice(&[2, 1]);
    message.extend_from_slice(&mac);
    let length = u16::try_from(message.len()).unwrap_or(0);
    let mut summed = Vec::with_capacity(40 + message.len());
    summed.extend_from_slice(&ip.octets());
    summed.extend_from_slice(&all_nodes.octets());
    summed.extend_from_slice(&u32::from(length).to_be_bytes());
    summed.extend_from_slice(&[0, 0, 0, ICMPV6]);
    summed.extend_from_slice(&message);
    let sum = checksum(&summed);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut out = Vec::with_capacity(86);
    out.extend_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    out.extend_from_slice(&mac);
    out.extend_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
    out.extend_from_slice(&[0x60, 0, 0, 0]);
    out.extend_from_slice(&length.to_be_bytes());
    // A neighbour believes it with a hop limit of 255 only: it did not pass a router.
    out.extend_from_slice(&[ICMPV6, 255]);
    out.extend_from_slice(&ip.octets());
    out.extend_from_slice(&all_nodes.octets());
    out.extend_from_slice(&message);
    out
}

/// An echo request from `source` to `target`, with `payload`, straight to the hardware address `to`: the kernel's
/// neighbour table is not asked, and nobody's learns anything.
pub fn echo_request(
    mac: Mac,
    to: Mac,
    source: Ipv4Addr,
    target: Ipv4Addr,
    id: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0];
    message.extend_from_slice(&id.to_be_bytes());
    message.extend_from_slice(&[0, 0]);
    message.extend_from_slice(payload);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let length = u16::try_from(20 + message.len()).unwrap_or(u16::MAX);
    let mut head = vec![0x45, 0];
    head.extend_from_slice(&length.to_be_bytes());
    head.extend_from_slice(&[0, 0, 0x40, 0, 64, ICMP, 0, 0]);
    head.extend_from_slice(&source.octets());
    head.extend_from_slice(&target.octets());
    let sum = checksum(&head);
    head[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut out = Vec::with_capacity(14 + head.len() + message.len());
    out.extend_from_slice(&to);
    out.extend_from_slice(&mac);
    out.extend_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(&message);
    out
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| u32::from(*byte));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

const ARP_FRAME: usize = 42;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    #[test]
    fn arp_reads_back_and_nothing_else_does() {
        let ip = Ipv4Addr::new(198, 51, 100, 7);
        for arp in [
            Arp::announcement(MAC, ip),
            Arp::announcement_reply(MAC, ip),
            Arp::question(MAC, ip, Ipv4Addr::new(198, 51, 100, 1)),
        ] {
            let frame = arp.frame(BROADCAST);
            assert_eq!(frame.len(), 42);
            assert_eq!(Arp::parse(&frame), Some(arp));
            for cut in 0..frame.len() {
                assert_eq!(Arp::parse(&frame[..cut]), None, "{cut}");
            }
            for at in 12..22 {
                let mut wrong = frame.clone();
                wrong[at] ^= 0x40;
                assert_eq!(Arp::parse(&wrong), None, "{at}");
            }
        }
        let reply = Arp::announcement_reply(MAC, ip).frame(BROADCAST);
        assert_eq!(
            reply[22..28],
            reply[32..38],
            "the target's hardware address is the sender's"
        );
    }

    #[test]
    fn checksums_are_right() {
        // A packet with a right checksum sums up to nothing.
        let frame = echo_request(
            MAC,
            BROADCAST,
            Ipv4Addr::new(198, 51, 100, 7),
            Ipv4Addr::new(198, 51, 100, 1),
            9,
            b"odd",
        );
        assert_eq!(checksum(&frame[14..34]), 0);
        assert_eq!(checksum(&frame[34..]), 0);
        // The example of RFC 1071 section 3.
        assert_eq!(
            !checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
    }

    #[test]
    fn an_advertisement_is_as_the_rfc_has_it() {
        let ip: Ipv6Addr = "2001:db8::6f".parse().unwrap();
        let frame = neighbour_advertisement(MAC, ip);
        assert_eq!(frame.len(), 86);
        assert_eq!(frame[21], 255, "hop limit");
        assert_eq!(frame[54], 136, "type");
        assert_eq!(frame[58], 0x20, "Override, not Solicited, not Router");
        assert_eq!(
            frame[78..],
            [2, 1, 2, 0, 0, 0, 0, 7],
            "the target's hardware address"
        );
        let mut summed = frame[22..54].to_vec();
        summed.extend_from_slice(&[0, 0, 0, 32, 0, 0, 0, 58]);
        summed.extend_from_slice(&frame[54..]);
        assert_eq!(checksum(&summed), 0);
    }
}
