//! What the four big servers are not asked about: malformed queries, EDNS, cookies, sizes, rotation.

use proptest::prelude::*;

use super::*;
use crate::{Name, load};

const ZONE: &str = "$TTL 300
@ 3600 SOA ns1 hostmaster 7 7200 900 1209600 60
@ NS ns1
@ CAA 0 issue \"ca.example\"
ns1 A 192.0.2.1
www A 192.0.2.10
www A 192.0.2.11
www A 192.0.2.12
alias CNAME www
loop CNAME pool
pool CNAME loop
*.wild TXT wild
deep.empty.name A 192.0.2.20
old DNAME new
sub NS ns.sub
sub NS ns.elsewhere.example.
ns.sub A 192.0.2.30
big TXT \"0123456789012345678901234567890123456789012345678901234567890123456789\"
";

fn snapshot() -> Snapshot {
    let mut text = ZONE.to_owned();
    for n in 0..60 {
        text.push_str(&format!(
            "big TXT \"{n} {}\"\nwide AAAA 2001:db8::{n:x}\n",
            "x".repeat(50)
        ));
    }
    let apex = "example.com".parse().unwrap();
    let zone = load(&apex, "test", text.as_bytes(), &mut |_| Err(String::new())).unwrap();
    Snapshot::new(&[zone])
}

fn settings() -> Settings {
    Settings {
        nsid: b"lb1".to_vec(),
        cookies: Some(CookieSecret([7; 16])),
    }
}

fn asker(turn: u32, transport: Transport) -> Asker {
    Asker {
        address: "198.51.100.9".parse().unwrap(),
        transport,
        now: 1_800_000_000,
        turn,
        may_sign: true,
    }
}

fn ask_as(packet: &[u8], asker: &Asker) -> (Outcome, Vec<u8>) {
    let mut out = vec![1, 2, 3];
    let outcome = answer(&snapshot(), &settings(), asker, packet, &mut out);
    (outcome, out)
}

fn ask(packet: &[u8]) -> (Outcome, Vec<u8>) {
    ask_as(packet, &asker(0, Transport::Udp))
}

fn query(name: &str, qtype: u16) -> Vec<u8> {
    let mut packet = b"\xab\xcd\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    packet.extend_from_slice(name.parse::<Name>().unwrap().wire());
    packet.extend_from_slice(&qtype.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    packet
}

/// The query with an OPT record of that size, version and options.
fn with_edns(mut packet: Vec<u8>, size: u16, version: u8, options: &[u8]) -> Vec<u8> {
    packet[11] += 1;
    packet.extend_from_slice(&[0, 0, 41]);
    packet.extend_from_slice(&size.to_be_bytes());
    packet.extend_from_slice(&[0, version, 0, 0]);
    packet.extend_from_slice(&(options.len() as u16).to_be_bytes());
    packet.extend_from_slice(options);
    packet
}

fn counts(response: &[u8]) -> [u8; 4] {
    [response[5], response[7], response[9], response[11]]
}

#[test]
fn an_answer_echoes_the_question_as_it_was_typed() {
    let mut packet = query("www.example.com", rtype::A);
    packet[13..16].copy_from_slice(b"wWw");
    let (outcome, response) = ask(&packet);
    assert_eq!(outcome.verdict, Verdict::Answer);
    assert_eq!(response[..4], [0xab, 0xcd, 0x85, 0x00], "QR, AA and RD; never RA");
    assert_eq!(&response[12..packet.len()], &packet[12..]);
    assert_eq!(counts(&response), [1, 3, 0, 0]);
}

#[test]
fn responses_and_fragments_are_not_answered() {
    let mut response = query("www.example.com", rtype::A);
    response[2] |= 0x80;
    for packet in [&response[..], &response[..11], b"", b"\0\0\x80"] {
        let (outcome, out) = ask(packet);
        assert_eq!((outcome.verdict, out.len()), (Verdict::Silence, 0));
    }
}

#[test]
fn what_is_no_query_gets_a_bare_header() {
    let good = query("www.example.com", rtype::A);
    let changed = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        packet
    };
    let mut signed = with_edns(good.clone(), 1232, 0, b"");
    signed.extend_from_slice(&signed.clone()[good.len()..]);
    signed[11] = 2;
    let cases = [
        ("opcode", changed(2, 0x28), rcode::NOTIMP),
        ("two questions", changed(5, 2), rcode::FORMERR),
        ("no question", changed(5, 0), rcode::FORMERR),
        ("an answer", changed(7, 1), rcode::FORMERR),
        ("an authority", changed(9, 1), rcode::FORMERR),
        ("an additional that is not there", changed(11, 1), rcode::FORMERR),
        ("a pointer", changed(12, 0xC0), rcode::FORMERR),
        ("a long label", changed(12, 0x40), rcode::FORMERR),
        ("cut off", good[..good.len() - 1].to_vec(), rcode::FORMERR),
        ("more behind", [&good[..], b"x"].concat(), rcode::FORMERR),
        ("two OPT", signed, rcode::FORMERR),
        (
            "a broken option",
            with_edns(good.clone(), 1232, 0, b"\0\x03\0\x05x"),
            rcode::FORMERR,
        ),
        (
            "a short cookie",
            with_edns(good.clone(), 1232, 0, b"\0\x0a\0\x01x"),
            rcode::FORMERR,
        ),
    ];
    for (what, packet, code) in cases {
        let (outcome, response) = ask(&packet);
        assert_eq!(outcome.code, code, "{what}");
        assert_eq!(response.len(), 12, "{what}");
        assert_eq!(response[..2], packet[..2], "{what}");
        assert_eq!(response[2] & 0xF8, 0x80 | packet[2] & 0x78, "{what}");
        assert_eq!(u16::from(response[3]), code, "{what}");
    }
}

#[test]
fn what_is_not_ours_is_refused() {
    let class = |class: u8| {
        let mut packet = query("www.example.com", rtype::TXT);
        *packet.last_mut().unwrap() = class;
        packet
    };
    for (packet, code) in [
        (query("example.org", rtype::A), rcode::REFUSED),
        (query("com", rtype::NS), rcode::REFUSED),
        (class(3), rcode::REFUSED),
        (class(255), rcode::REFUSED),
        (query("example.com", rtype::AXFR), rcode::REFUSED),
        (query("example.com", rtype::IXFR), rcode::REFUSED),
        (query("example.com", 254), rcode::NOTIMP),
        (query("example.com", rtype::OPT), rcode::NOTIMP),
    ] {
        let (outcome, response) = ask(&packet);
        assert_eq!((outcome.code, counts(&response)), (code, [1, 0, 0, 0]));
        assert_eq!(response[2] & 4, 0, "not authoritative");
    }
}

#[test]
fn every_kind_of_answer() {
    for (name, qtype, verdict, sections) in [
        ("example.com", rtype::CAA, Verdict::Answer, [1, 1, 0, 0]),
        ("alias.example.com", rtype::A, Verdict::Answer, [1, 4, 0, 0]),
        ("alias.example.com", rtype::CNAME, Verdict::Answer, [1, 1, 0, 0]),
        ("loop.example.com", rtype::A, Verdict::Answer, [1, 2, 0, 0]),
        ("a.b.wild.example.com", rtype::TXT, Verdict::Answer, [1, 1, 0, 0]),
        ("wild.example.com", rtype::TXT, Verdict::NoData, [1, 0, 1, 0]),
        ("empty.name.example.com", rtype::A, Verdict::NoData, [1, 0, 1, 0]),
        ("www.example.com", rtype::AAAA, Verdict::NoData, [1, 0, 1, 0]),
        ("x.www.example.com", rtype::A, Verdict::NoName, [1, 0, 1, 0]),
        ("a.old.example.com", rtype::A, Verdict::NoName, [1, 2, 1, 0]),
        ("a.sub.example.com", rtype::A, Verdict::Referral, [1, 0, 2, 1]),
        ("sub.example.com", rtype::DS, Verdict::NoData, [1, 0, 1, 0]),
        ("www.example.com", rtype::ANY, Verdict::Answer, [1, 1, 0, 0]),
        (
            "empty.name.example.com",
            rtype::ANY,
            Verdict::NoData,
            [1, 0, 1, 0],
        ),
    ] {
        let (outcome, response) = ask(&query(name, qtype));
        assert_eq!(
            (outcome.verdict, counts(&response)),
            (verdict, sections),
            "{name} {qtype}"
        );
        let referral = verdict == Verdict::Referral;
        assert_eq!(response[2] & 4 == 0, referral, "{name} {qtype}: authoritative");
    }
}

#[test]
fn a_name_too_long_for_its_redirection_is_said_to_be() {
    let long = format!("{}.{}", [&"x".repeat(60)[..]; 3].join("."), "y".repeat(50));
    let zone = format!("@ SOA a b 1 2 3 4 5\n@ NS a\nd DNAME {}\n", "z".repeat(63));
    let apex = "example.com".parse().unwrap();
    let zone = load(&apex, "test", zone.as_bytes(), &mut |_| Err(String::new())).unwrap();
    let mut out = Vec::new();
    let packet = query(&format!("{}.d.example.com", &long[..230]), rtype::A);
    let asker = asker(0, Transport::Udp);
    let outcome = answer(&Snapshot::new(&[zone]), &settings(), &asker, &packet, &mut out);
    assert_eq!((outcome.code, counts(&out)), (rcode::YXDOMAIN, [1, 1, 0, 0]));
}

#[test]
fn what_does_not_fit_is_left_out_whole() {
    let big = query("big.example.com", rtype::TXT);
    let wide = query("wide.example.com", rtype::AAAA);
    for (packet, opt) in [
        (big.clone(), 0),
        (wide.clone(), 0),
        (with_edns(big.clone(), 4096, 0, b""), 11),
        (with_edns(wide, 4096, 0, b""), 11),
    ] {
        let (outcome, response) = ask(&packet);
        assert!(outcome.truncated);
        assert_eq!(response[2] & 2, 2);
        assert_eq!(
            response.len(),
            packet.len(),
            "the question and at most OPT: {opt}"
        );
        let (outcome, response) = ask_as(&packet, &asker(0, Transport::Tcp));
        assert!(!outcome.truncated);
        assert!(response.len() > 1232);
    }
    // A size below 512 means 512 (RFC 6891 section 6.2.3).
    let (outcome, _) = ask(&with_edns(query("www.example.com", rtype::A), 0, 0, b""));
    assert!(!outcome.truncated);
}

#[test]
fn edns_is_answered_in_kind() {
    let packet = with_edns(query("www.example.com", rtype::A), 1232, 0, b"\0\x03\0\0");
    let (_, response) = ask(&packet);
    assert_eq!(counts(&response), [1, 3, 0, 1]);
    assert!(
        response.ends_with(b"\0\0\x29\x04\xd0\0\0\0\0\0\x07\0\x03\0\x03lb1"),
        "{response:?}"
    );
    let (outcome, response) = ask(&with_edns(query("www.example.com", rtype::A), 1232, 1, b""));
    assert_eq!((outcome.code, counts(&response)), (rcode::BADVERS, [1, 0, 0, 1]));
    assert!(response.ends_with(b"\0\0\x29\x04\xd0\x01\0\0\0\0\0"));
}

#[test]
fn a_cookie_shows_whose_address_it_is() {
    let client = *b"client!!";
    let hello = [b"\0\x0a\0\x08", &client[..]].concat();
    let (outcome, response) = ask(&with_edns(query("www.example.com", rtype::A), 1232, 0, &hello));
    assert!(!outcome.known);
    let cookie = &response[response.len() - 24..];
    assert_eq!(cookie[..8], client);
    let again = [b"\0\x0a\0\x18", cookie].concat();
    let packet = with_edns(query("www.example.com", rtype::A), 1232, 0, &again);
    assert!(ask(&packet).0.known);
    let mut other = asker(0, Transport::Udp);
    other.address = "198.51.100.10".parse().unwrap();
    assert!(!ask_as(&packet, &other).0.known, "somebody else's cookie");
    let mut only = with_edns(b"\xab\xcd\0\0\0\0\0\0\0\0\0\0".to_vec(), 1232, 0, &hello);
    let (outcome, response) = ask(&only);
    assert_eq!((outcome.code, counts(&response)), (rcode::NOERROR, [0, 0, 0, 1]));
    only.truncate(12);
    only[11] = 0;
    assert_eq!(ask(&only).0.code, rcode::FORMERR);
}

#[test]
fn addresses_take_turns() {
    for name in ["www.example.com", "alias.example.com"] {
        let mut firsts = Vec::new();
        for turn in 0..6 {
            let (_, response) = ask_as(&query(name, rtype::A), &asker(turn, Transport::Udp));
            firsts.push(response[response.len() - 33]);
        }
        assert_eq!(firsts, [10, 11, 12, 10, 11, 12], "{name}");
    }
}

#[test]
fn a_cut_down_response_says_ask_over_tcp() {
    let packet = with_edns(query("www.example.com", rtype::A), 1232, 0, b"");
    let (_, mut response) = ask(&packet);
    truncated(&mut response);
    assert_eq!(counts(&response), [1, 0, 0, 0]);
    assert_eq!(response[2] & 2, 2);
    assert_eq!(response.len(), packet.len() - 11);
}

#[test]
fn of_a_zone_and_its_child_each_answers_its_own() {
    let read = |apex: &str, text: &str| {
        let apex = apex.parse().unwrap();
        load(&apex, "test", text.as_bytes(), &mut |_| Err(String::new())).unwrap()
    };
    let parent = read(
        "example.com",
        "@ SOA a b 1 2 3 4 5\n@ NS a\nsub NS ns.sub\nsub DS 1 13 2 aabb\nx.sub A 192.0.2.1\nns.sub A 192.0.2.2\n",
    );
    let child = read(
        "sub.example.com",
        "@ SOA a b 1 2 3 4 5\n@ NS ns\nns A 192.0.2.3\n",
    );
    let snapshot = Snapshot::new(&[child, parent]);
    let mut out = Vec::new();
    for (name, qtype, code, last) in [
        ("ns.sub.example.com", rtype::A, rcode::NOERROR, 3),
        ("x.sub.example.com", rtype::A, rcode::NXDOMAIN, 5),
        ("sub.example.com", rtype::DS, rcode::NOERROR, 0xbb),
    ] {
        let asker = asker(0, Transport::Udp);
        let outcome = answer(&snapshot, &settings(), &asker, &query(name, qtype), &mut out);
        assert_eq!((outcome.code, *out.last().unwrap()), (code, last), "{name}");
        assert_eq!(out[2] & 4, 4, "{name}");
    }
}

#[test]
fn a_dname_that_redirects_twice_is_answered_once() {
    let apex = "example.com".parse().unwrap();
    let text = "@ SOA a b 1 2 3 4 5\n@ NS a\na A 192.0.2.7\nc DNAME @\n";
    let zone = load(&apex, "test", text.as_bytes(), &mut |_| Err(String::new())).unwrap();
    let (asker, mut out) = (asker(0, Transport::Udp), Vec::new());
    let asked = query("a.c.c.example.com", rtype::A);
    answer(&Snapshot::new(&[zone]), &settings(), &asker, &asked, &mut out);
    // The DNAME, an alias for each of the two times, and the address.
    assert_eq!(counts(&out), [1, 4, 0, 0]);
}

proptest! {
    /// Any bytes: no panic, a response never answers a response, and it fits.
    #[test]
    fn any_bytes(mut packet in prop::collection::vec(any::<u8>(), 0..80), plain in any::<bool>()) {
        if plain && packet.len() > 12 {
            packet[2..12].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
        let (outcome, out) = ask(&packet);
        prop_assert_eq!(outcome.verdict == Verdict::Silence, out.is_empty());
        prop_assert!(out.len() <= 512);
        if !out.is_empty() {
            prop_assert!(packet[2] & 0x80 == 0 && out[2] & 0x80 != 0 && out[3] & 0x80 == 0);
            prop_assert_eq!(&out[..2], &packet[..2]);
        }
    }
}
