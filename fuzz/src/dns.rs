//! Targets over `crates/zone`, and over the part of `crates/dns` that reads and makes messages.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use pontoon_zone::{
    Asker, CookieSecret, Name, Settings, Snapshot, Transport, Verdict, answer, load, truncated,
};

use crate::chosen;

mod message;
pub mod signed;
pub mod transfer;
pub mod tsig;
pub mod update;

/// A zone that has something of everything, under names so short that any bytes hit them.
const ZONE: &str = "$TTL 300\n@ SOA a b 1 2 3 4 5\n@ NS n\nn A 192.0.2.1\na A 192.0.2.2\na A 192.0.2.3\nb CNAME a\n\
    c CNAME c\n*.d TXT x\ne.f A 192.0.2.4\ng DNAME d\nh NS n.h\nn.h A 192.0.2.5\ni MX 1 a\nj DNAME jjjjjjjjjjjjjjjjjjjjjjj\n";

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    let apex: Name = "z".parse().expect("a name");
    let zone = load(&apex, "fuzz", ZONE.as_bytes(), &mut |_| Err(String::new())).expect("a zone");
    Snapshot::new(&[zone])
});

/// Any packet: a response that is one and fits, or nothing.
pub fn packet(data: &[u8]) {
    let Some(([how, turn], packet)) = chosen::<2>(data) else {
        return;
    };
    let transport = if how & 1 == 0 {
        Transport::Udp
    } else {
        Transport::Tcp
    };
    let asker = Asker {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        transport,
        now: 7,
        turn: u32::from(turn),
        may_sign: true,
    };
    let settings = Settings {
        nsid: vec![b'n'; usize::from(how >> 1)],
        cookies: (how & 2 != 0).then_some(CookieSecret([7; 16])),
    };
    let mut out = Vec::new();
    let outcome = answer(&SNAPSHOT, &settings, &asker, packet, &mut out);
    assert_eq!(out.is_empty(), outcome.verdict == Verdict::Silence);
    if out.is_empty() {
        return;
    }
    assert!(packet[2] & 0x80 == 0, "a response was answered");
    assert!(out[2] & 0x80 != 0 && out[3] & 0x80 == 0, "QR and never RA");
    assert_eq!(out[..2], packet[..2]);
    assert!(transport == Transport::Tcp || out.len() <= 1232);
    truncated(&mut out);
    assert!(out.len() <= packet.len());
}

/// Any text as a zone: refused or answered from.
pub fn zone(data: &[u8]) {
    let apex: Name = "z".parse().expect("a name");
    let head = b"$TTL 5\n@ SOA a b 1 2 3 4 5\n@ NS n\n";
    let text = if data.first() == Some(&0) {
        data.to_vec()
    } else {
        [head, data].concat()
    };
    let Ok(zone) = load(&apex, "fuzz", &text, &mut |path| Ok(path.as_bytes().to_vec())) else {
        return;
    };
    assert!(zone.serial().is_some());
    let snapshot = Snapshot::new(std::slice::from_ref(&zone));
    let asker = Asker {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        transport: Transport::Tcp,
        now: 7,
        turn: 1,
        may_sign: true,
    };
    let mut out = Vec::new();
    for (owner, sets) in zone.sets() {
        for qtype in sets.keys().copied().chain([1, 255]) {
            let mut query = b"\0\0\0\0\0\x01\0\0\0\0\0\0".to_vec();
            query.extend_from_slice(owner.wire());
            query.extend_from_slice(&[(qtype >> 8) as u8, qtype as u8, 0, 1]);
            let outcome = answer(&snapshot, &Settings::default(), &asker, &query, &mut out);
            assert!(matches!(outcome.code, 0 | 3 | 6), "{owner} {qtype}: {outcome:?}");
        }
    }
}
