//! Answers of a signed zone: every set of records that the zone speaks for comes with a signature, which is good.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use pontoon_zone::{
    Asker, Name, Settings, Signatures, Signer, Snapshot, Transport, Verdict, Zone, answer, load, rtype,
};

use super::message::{Record, sections};
use crate::chosen;

const NOW: u32 = 1_800_000_000;

/// Something of everything, under names so short that any bytes hit them.
const ZONE: &str = "$TTL 300\n@ SOA a b 1 2 3 4 5\n@ NS n\n@ TXT x\nn A 192.0.2.1\na A 192.0.2.2\na A 192.0.2.3\na MX 1 b\n\
    b CNAME a\nc CNAME c\n*.d TXT x\n*.d.d CNAME b\ne.f A 192.0.2.4\ng DNAME d\nh NS n.h\nn.h A 192.0.2.5\ni MX 1 a\n\
    j DNAME jjjjjjjjjjjjjjjjjjjjjjj\nk NS n\nk DS 1 13 2 aabb\n*.l A 192.0.2.6\n";

static SIGNER: LazyLock<Arc<Signer>> = LazyLock::new(|| Arc::new(Signer::new(&[7; 32], 14 * 86_400)));

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    let apex: Name = "z".parse().expect("a name");
    let zone = load(&apex, "fuzz", ZONE.as_bytes(), &mut |_| Err(String::new())).expect("a zone");
    signed(&zone)
});

fn signed(zone: &Zone) -> Snapshot {
    let zones = std::slice::from_ref(zone);
    Snapshot::signed(zones, &SIGNER, &mut Signatures::default(), u64::from(NOW))
}

fn asker(how: u8, turn: u8) -> Asker {
    Asker {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        transport: match how & 1 {
            0 => Transport::Udp,
            _ => Transport::Tcp,
        },
        now: NOW,
        turn: u32::from(turn),
        may_sign: how & 2 == 0,
    }
}

/// The first bytes choose who asks and for which type; the rest is the packet, or the name in a good one.
pub fn packet(data: &[u8]) {
    let Some(([how, turn, high, low], rest)) = chosen::<4>(data) else {
        return;
    };
    let asker = asker(how, turn);
    if how & 4 == 0 {
        let mut out = Vec::new();
        let outcome = answer(&SNAPSHOT, &Settings::default(), &asker, rest, &mut out);
        assert_eq!(out.is_empty(), outcome.verdict == Verdict::Silence);
        assert!(out.is_empty() || sections(&out).is_some(), "{out:?}");
        assert!(asker.transport == Transport::Tcp || out.len() <= 1232);
        return;
    }
    let Some(name) = name(rest) else { return };
    let qtype = u16::from_be_bytes([high, low]);
    asked(&SNAPSHOT, &name, qtype, &asker, true);
}

/// Any text as a zone that is signed: each of its names, and one beside it, with its types and another one.
pub fn zone(data: &[u8]) {
    let apex: Name = "z".parse().expect("a name");
    let text = [b"$TTL 5\n@ SOA a b 1 2 3 4 5\n@ NS n\n", data].concat();
    let Ok(zone) = load(&apex, "fuzz", &text, &mut |_| Err(String::new())) else {
        return;
    };
    let snapshot = signed(&zone);
    for (owner, sets) in zone.sets().take(8) {
        let beside = owner.child(b"\xff");
        for name in [Some(owner), beside.as_ref()].into_iter().flatten() {
            for qtype in sets.keys().copied().chain([1, rtype::ANY, 47]) {
                asked(&snapshot, name, qtype, &asker(1, 0), false);
            }
        }
    }
}

/// A name in the zone `z`, of labels that are as long as they say.
fn name(data: &[u8]) -> Option<Name> {
    let (mut wire, mut rest) = (Vec::new(), data);
    while let Some((length, left)) = rest.split_first() {
        let length = usize::from(length & 63).min(left.len());
        if length == 0 {
            break;
        }
        wire.push(length as u8);
        wire.extend_from_slice(&left[..length]);
        rest = &left[length..];
    }
    wire.extend_from_slice(b"\x01z\0");
    Name::from_wire(&wire)
}

/// Asks as a validator does.
fn asked(snapshot: &Snapshot, name: &Name, qtype: u16, asker: &Asker, verifies: bool) {
    let mut query = b"\0\x07\0\0\0\x01\0\0\0\0\0\x01".to_vec();
    query.extend_from_slice(name.wire());
    query.extend_from_slice(&qtype.to_be_bytes());
    query.extend_from_slice(&[0, 1, 0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
    let (mut out, mut again) = (Vec::new(), Vec::new());
    let outcome = answer(snapshot, &Settings::default(), asker, &query, &mut out);
    assert!(out.len() >= 12, "{name} {qtype}");
    assert!(asker.transport == Transport::Tcp || out.len() <= 1232);
    let [answers, authorities, more] = sections(&out).expect("a whole message");
    assert!(
        more.iter()
            .any(|record| record.rtype == 41 && record.ttl & 0x8000 != 0),
        "DO is told"
    );
    if outcome.truncated {
        return;
    }
    // Whoever may not have signatures made gets the same from what was made; two can lie at one place.
    let may_not = Asker {
        may_sign: false,
        ..*asker
    };
    let second = answer(snapshot, &Settings::default(), &may_not, &query, &mut again);
    assert!(second.truncated || again == out, "{name} {qtype}");
    let speaks = matches!(
        outcome.verdict,
        Verdict::Answer | Verdict::NoData | Verdict::NoName
    );
    assert!(
        !speaks || !answers.is_empty() || !authorities.is_empty(),
        "nothing is never said without a proof"
    );
    // Who asks for signatures gets one of them, by itself.
    if qtype != rtype::RRSIG {
        check(&answers, name, verifies);
    }
    if speaks {
        check(&authorities, name, verifies);
    }
}

/// Every set has a signature that covers it.
fn check(section: &[Record], asked: &Name, verifies: bool) {
    for record in section {
        if record.rtype == rtype::RRSIG {
            let covered = record
                .data
                .first_chunk::<2>()
                .map(|bytes| u16::from_be_bytes(*bytes));
            let is_there = |other: &Record| other.owner == record.owner && Some(other.rtype) == covered;
            assert!(section.iter().any(is_there), "{asked}: a signature of nothing");
            continue;
        }
        // An alias that follows from a DNAME has none (RFC 6672 section 5.3.1): the DNAME's proves it.
        let follows = |other: &Record| {
            other.rtype == rtype::DNAME
                && record.owner.len() > other.owner.len()
                && record.owner.ends_with(&other.owner)
        };
        if record.rtype == rtype::CNAME && section.iter().any(follows) {
            continue;
        }
        // Nor have the name servers of another zone (RFC 4035 section 2.2), which an alias may lead to.
        if record.rtype == rtype::NS && record.owner != b"\x01z\0" {
            continue;
        }
        let covers = |other: &&Record| {
            other.rtype == rtype::RRSIG
                && other.owner == record.owner
                && other.data.starts_with(&record.rtype.to_be_bytes())
        };
        let signature = section.iter().find(covers);
        let signature =
            signature.unwrap_or_else(|| panic!("{asked}: no signature of {record:?} in {section:?}"));
        if verifies {
            verify(signature, record, section);
        }
    }
}

/// As RFC 4035 section 5.3 says, with another implementation of the curve.
fn verify(signature: &Record, record: &Record, section: &[Record]) {
    let owner_of_signer = signature.data.len() - 64;
    let (head, raw) = signature.data.split_at(owner_of_signer);
    assert!(
        head.ends_with(b"\x01z\0") && head.len() == 21,
        "signed by the zone"
    );
    let mut starts = Vec::new();
    let mut at = 0;
    while record.owner[at] != 0 {
        starts.push(at);
        at += 1 + usize::from(record.owner[at]);
    }
    // A wildcard has stood for the name where there are fewer labels.
    let labels = usize::from(head[3]);
    let below = starts.len() - usize::from(record.owner.starts_with(b"\x01*"));
    assert!(labels <= below, "{labels} {:?}", record.owner);
    let owner = match starts.len() > labels {
        true => {
            let rest = starts.len() - labels;
            let closest = starts.get(rest).copied().unwrap_or(at);
            [b"\x01*", &record.owner[closest..]].concat()
        }
        false => record.owner.clone(),
    };
    let mut data: Vec<&[u8]> = section
        .iter()
        .filter(|other| other.owner == record.owner && other.rtype == record.rtype)
        .map(|other| &other.data[..])
        .collect();
    data.sort_unstable();
    let mut message = head.to_vec();
    for data in data {
        message.extend_from_slice(&owner);
        message.extend_from_slice(&record.rtype.to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        message.extend_from_slice(&head[4..8]);
        message.extend_from_slice(&(data.len() as u16).to_be_bytes());
        message.extend_from_slice(data);
    }
    let key = [&[4], &SIGNER.dnskey()[4..]].concat();
    let good = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(&message, raw);
    assert!(good.is_ok(), "{record:?}");
}
