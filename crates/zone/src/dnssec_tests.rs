use std::sync::Arc;

use super::*;
use crate::{Asker, Outcome, Rrset, Settings, Snapshot, Transport, Verdict, Zone, answer, load};

const DAY: u64 = 86_400;
const NOW: u64 = 1_800_000_000;
const LIFETIME: u64 = 14 * DAY;

fn zone(extra: &str) -> Zone {
    let text = format!("$TTL 300\n@ SOA ns h 7 7200 900 1209600 60\n@ NS ns\nns A 192.0.2.1\n{extra}");
    let apex = "example.com".parse().unwrap();
    load(&apex, "test", text.as_bytes(), &mut |_| Err(String::new())).unwrap()
}

fn signer() -> Arc<Signer> {
    Arc::new(Signer::new(&[7; 32], LIFETIME))
}

fn ask(
    snapshot: &Snapshot,
    name: &str,
    qtype: u16,
    transport: Transport,
    may_sign: bool,
) -> (Vec<u8>, Outcome) {
    ask_with(0x80, snapshot, name, qtype, transport, may_sign)
}

fn ask_with(
    flags: u8,
    snapshot: &Snapshot,
    name: &str,
    qtype: u16,
    transport: Transport,
    may_sign: bool,
) -> (Vec<u8>, Outcome) {
    let asker = Asker {
        address: "192.0.2.9".parse().unwrap(),
        transport,
        now: NOW as u32,
        turn: 0,
        may_sign,
    };
    let mut packet = b"\0\x07\0\0\0\x01\0\0\0\0\0\x01".to_vec();
    packet.extend_from_slice(name.parse::<Name>().unwrap().wire());
    packet.extend_from_slice(&qtype.to_be_bytes());
    packet.extend_from_slice(&[0, 1, 0, 0, 41, 4, 208, 0, 0, flags, 0, 0, 0]);
    let mut out = Vec::new();
    let outcome = answer(snapshot, &Settings::default(), &asker, &packet, &mut out);
    (out, outcome)
}

#[test]
fn key_and_ds_are_those_of_the_rfc() {
    // RFC 6605 section 6.1.
    let hex = "194e929d0fcebbec42e51ba6b88508b8966d7974f6cf43bfa24d6cdfc12dea64";
    let secret: Vec<u8> = (0..32)
        .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let signer = Signer::with_key(SigningKey::from_slice(&secret).unwrap(), LIFETIME);
    assert_eq!(signer.tag(), 55648);
    assert_eq!(
        signer.ds_text(&"example.net".parse().unwrap()),
        "55648 13 2 B4C8C1FE2E7477127B27115656AD6256F424625BF5C1E2770CE6D6E37DF61D17"
    );
}

#[test]
fn every_server_signs_alike_and_only_what_is_new() {
    let base = zone("www A 192.0.2.2\nmail A 192.0.2.3\n");
    let mut signatures = Signatures::default();
    let first = Snapshot::signed(std::slice::from_ref(&base), &signer(), &mut signatures, NOW);
    let all = signatures.new_ones();
    // SOA, NS, DNSKEY, CDS and CDNSKEY of the zone, three addresses, and a proof for each of four names.
    assert_eq!(all, 12);
    let other = Snapshot::signed(
        std::slice::from_ref(&base),
        &signer(),
        &mut Signatures::default(),
        NOW + 5,
    );
    for qtype in [rtype::A, rtype::MX, rtype::DNSKEY, rtype::SOA, rtype::ANY] {
        for name in ["www.example.com", "example.com", "none.example.com"] {
            let ask = |snapshot| ask(snapshot, name, qtype, Transport::Tcp, true).0;
            assert_eq!(ask(&first), ask(&other), "{name} {qtype}");
        }
    }
    Snapshot::signed(std::slice::from_ref(&base), &signer(), &mut signatures, NOW + 1);
    assert_eq!(signatures.new_ones(), 0);
    let mut changed = base;
    let data = vec![Box::from([192, 0, 2, 77])];
    changed.replace(
        "www.example.com".parse().unwrap(),
        rtype::A,
        Rrset { ttl: 20, data },
    );
    changed.set_serial(8);
    Snapshot::signed(&[changed], &signer(), &mut signatures, NOW + 1);
    assert_eq!(signatures.new_ones(), 2, "the address and the SOA");
}

#[test]
fn signatures_are_renewed_long_before_their_end_and_not_all_at_once() {
    for lifetime in [7 * DAY, LIFETIME, 60 * DAY] {
        let signer = Signer::new(&[7; 32], lifetime);
        let mut begins = std::collections::BTreeSet::new();
        for n in 0..200u64 {
            let owner: Name = format!("n{n}.example.com").parse().unwrap();
            for now in [NOW, NOW + 1, NOW + n * 3601, NOW + 37 * DAY + n] {
                let (begin, end) = signer.span(owner.wire(), now);
                assert!(begin + EARLY <= now, "a clock that is a day slow still takes it");
                assert!(end - now >= lifetime / 4 * 3, "{end} {now}");
                // The same until the hour in which another slot begins.
                assert_eq!(signer.span(owner.wire(), now / HOUR * HOUR), (begin, end));
            }
            begins.insert(signer.span(owner.wire(), NOW).0);
        }
        assert!(begins.len() > 20, "{}", begins.len());
    }
}

#[test]
fn a_signature_that_may_not_be_made_is_asked_for_over_tcp() {
    let snapshot = Snapshot::signed(
        &[zone("*.shop A 192.0.2.2\nwww A 192.0.2.3\n")],
        &signer(),
        &mut Signatures::default(),
        NOW,
    );
    for (name, qtype, verdict) in [
        ("none.example.com", rtype::A, Verdict::NoName),
        ("a.shop.example.com", rtype::A, Verdict::Answer),
        ("a.shop.example.com", rtype::MX, Verdict::Answer),
    ] {
        let (refused, outcome) = ask(&snapshot, name, qtype, Transport::Udp, false);
        assert_eq!(
            (outcome.truncated, outcome.signed, outcome.verdict),
            (true, 0, verdict),
            "{name}"
        );
        assert_eq!((refused[2] & 2, &refused[6..10]), (2, &[0; 4][..]));
        let (_, outcome) = ask(&snapshot, name, qtype, Transport::Udp, true);
        assert_eq!((outcome.truncated, outcome.signed), (false, 1), "{name}");
        let (whole, outcome) = ask(&snapshot, name, qtype, Transport::Udp, false);
        assert_eq!(
            (outcome.truncated, outcome.signed),
            (false, 0),
            "{name}: it is remembered"
        );
        assert!(whole.len() > refused.len());
    }
    // What stands ready costs nothing.
    for (name, qtype) in [
        ("www.example.com", rtype::A),
        ("www.example.com", rtype::MX),
        ("www.example.com", rtype::ANY),
        ("shop.example.com", rtype::A),
        ("example.com", rtype::DNSKEY),
    ] {
        let (_, outcome) = ask(&snapshot, name, qtype, Transport::Udp, false);
        assert_eq!((outcome.truncated, outcome.signed), (false, 0), "{name} {qtype}");
    }
}

#[test]
fn who_knows_compact_proofs_may_be_told_that_there_is_no_name() {
    let base = zone("www A 192.0.2.3\n");
    let signed = Snapshot::signed(
        std::slice::from_ref(&base),
        &signer(),
        &mut Signatures::default(),
        NOW,
    );
    let plain = Snapshot::new(&[base]);
    let flags_of = |answer: &[u8]| answer[answer.len() - 4];
    // RFC 9824 section 5.1: bits of DO and CO in the question, code and bits of the answer.
    for (asked, name, code, answered) in [
        (0x80, "none.example.com", 0, 0x80),
        (0xC0, "none.example.com", 3, 0xC0),
        (0x40, "none.example.com", 3, 0),
        (0, "none.example.com", 3, 0),
        (0xC0, "www.example.com", 0, 0xC0),
    ] {
        let (answer, _) = ask_with(asked, &signed, name, rtype::MX, Transport::Tcp, true);
        assert_eq!(
            (answer[3] & 15, flags_of(&answer)),
            (code, answered),
            "{asked:x} {name}"
        );
        let proof = ask(&signed, name, rtype::MX, Transport::Tcp, true).0;
        if asked == 0xC0 {
            // The same proof as without.
            assert_eq!(answer[4..answer.len() - 4], proof[4..proof.len() - 4]);
        }
        let (answer, _) = ask_with(asked, &plain, "none.example.com", rtype::MX, Transport::Tcp, true);
        assert_eq!(answer[3] & 15, 3, "an unsigned zone says it to everybody");
    }
}

#[test]
fn names_in_the_data_are_signed_in_lower_case() {
    assert_eq!(canonical(rtype::MX, b"\0\x05\x01A\x01B\0"), b"\0\x05\x01a\x01b\0");
    assert_eq!(canonical(rtype::TXT, b"\x01A"), b"\x01A");
    assert_eq!(
        canonical(rtype::SRV, b"\0\x05\0\x05\0P\x01B\0"),
        b"\0\x05\0\x05\0P\x01b\0"
    );
    assert_eq!(
        canonical(rtype::NAPTR, b"\0\x01\0\x02\x01U\x01A\x02XX\x01B\0"),
        b"\0\x01\0\x02\x01U\x01A\x02XX\x01b\0"
    );
    assert_eq!(canonical(rtype::MX, b"\0"), b"\0", "whatever the data is");
    assert_eq!(
        (labels(b"\x01*\x01a\0"), labels(b"\x01b\x01a\0"), labels(b"\0")),
        (1, 2, 0)
    );
}

#[test]
#[ignore = "a figure, by hand: how long a signature takes"]
fn cost_of_a_signature() {
    let signer = signer();
    let begin = std::time::Instant::now();
    for n in 0..2000u32 {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&n.to_be_bytes());
        std::hint::black_box(signer.raw(&hash));
    }
    println!("{:?} each", begin.elapsed() / 2000);
}
