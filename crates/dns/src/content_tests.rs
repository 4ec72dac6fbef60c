use pontoon_fleet::AddressState::{self, Down, Draining, Moving, Standby, Up};
use pontoon_fleet::{Revision, UnixMillis};

use super::*;

/// A view of two servers, whose addresses are in these states.
fn view(states: &[(&str, AddressState)]) -> FleetView {
    let server = |name: &str, n: u8| {
        serde_json::json!({
            "name": name, "private": format!("10.0.0.{n}"), "public": [format!("192.0.2.{n}")],
            "roles": ["edge", "dns"], "zone": null, "standby": false, "state": "up",
            "ports": {"agent": 7400, "edge_relay": 7401, "sql_relay": 7402}, "edge_listen": [],
        })
    };
    let addresses: Vec<_> = states
        .iter()
        .map(|(address, state)| {
            serde_json::json!({
                "address": address, "home": "a", "holder": null, "state": state.as_str(), "reason": "",
            })
        })
        .collect();
    serde_json::from_value(serde_json::json!({
        "fleet": "notes", "revision": 3, "epoch": 1, "serial": 9, "servers": [server("a", 1), server("b", 2)],
        "app": null, "sql": null, "addresses": addresses, "addresses_changed": BEGIN + 5000,
        "dns": {
            "zone": "example.com", "file": null, "names": ["example.com", "*.example.com"], "ttl_seconds": 60,
            "ttl_degraded_seconds": 20, "listen": [],
        },
    }))
    .unwrap()
}

fn made(view: &FleetView, base: Option<&Zone>) -> Result<Zone, String> {
    zone(view, view.dns.as_ref().unwrap(), base)
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[test]
fn without_a_file_there_are_name_servers_and_the_edges() {
    let zone = made(
        &view(&[("192.0.2.1", Up), ("192.0.2.2", Up), ("2001:db8::1", Up)]),
        None,
    )
    .unwrap();
    let apex = name("example.com");
    assert_eq!(zone.get(&apex, rtype::NS).unwrap().data.len(), 2);
    assert_eq!(
        zone.get(&name("ns2.example.com"), rtype::A).unwrap().data,
        [Box::from([192, 0, 2, 2])]
    );
    let set = zone.get(&name("*.example.com"), rtype::A).unwrap();
    assert_eq!((set.ttl, set.data.len()), (60, 2));
    assert_eq!(zone.get(&apex, rtype::AAAA).unwrap().data.len(), 1);
    assert_eq!(zone.serial(), Some(1 + 50 + 3));
}

#[test]
fn what_is_down_is_left_out_and_never_everything() {
    let set = |states: &[(&str, AddressState)]| {
        let zone = made(&view(states), None).unwrap();
        let set = zone.get(&name("example.com"), rtype::A).unwrap();
        let lasts: Vec<u8> = set.data.iter().map(|data| data[3]).collect();
        (set.ttl, lasts)
    };
    assert_eq!(set(&[("192.0.2.1", Up), ("192.0.2.2", Down)]), (20, vec![1]));
    assert_eq!(set(&[("192.0.2.1", Up), ("192.0.2.2", Moving)]), (20, vec![1, 2]));
    assert_eq!(set(&[("192.0.2.1", Up), ("192.0.2.2", Standby)]), (60, vec![1]));
    assert_eq!(set(&[("192.0.2.1", Down), ("192.0.2.2", Down)]), (20, vec![1, 2]));
    assert_eq!(
        set(&[("192.0.2.1", Draining), ("192.0.2.2", Down)]),
        (20, vec![2])
    );
    assert_eq!(
        set(&[("192.0.2.1", Draining), ("192.0.2.2", Standby)]),
        (20, vec![1, 2])
    );
}

#[test]
fn the_files_records_stay_and_its_addresses_of_the_edges_do_not() {
    let load = |text: &str| {
        pontoon_zone::load(&name("example.com"), "test", text.as_bytes(), &mut |_| {
            Err(String::new())
        })
        .unwrap()
    };
    let head = "@ SOA ns h 100 2 3 4 5\n@ NS ns.example.org.\n@ A 198.51.100.1\n@ MX 1 mail\n";
    let view = view(&[("192.0.2.1", Up)]);
    let zone = made(&view, Some(&load(head))).unwrap();
    let apex = name("example.com");
    assert_eq!(
        zone.get(&apex, rtype::A).unwrap().data,
        [Box::from([192, 0, 2, 1])]
    );
    assert!(zone.get(&apex, rtype::MX).is_some());
    assert_eq!(zone.serial(), Some(100 + 50 + 3));
    let error = made(&view, Some(&load(&format!("{head}* CNAME a\n")))).unwrap_err();
    assert!(error.contains("has a CNAME there"), "{error}");
}

#[test]
fn the_serial_grows_with_every_change() {
    let mut view = view(&[("192.0.2.1", Up)]);
    let version = |view: &FleetView| version(view, view.dns.as_ref().unwrap());
    let before = version(&view);
    view.revision = Revision(view.revision.0 + 1);
    let between = version(&view);
    view.addresses_changed = UnixMillis(view.addresses_changed.0 + 100);
    let after = version(&view);
    assert!(before < between && between < after);
    view.dns.as_mut().unwrap().proofs.changed = UnixMillis(BEGIN + 1000);
    assert_eq!(version(&view), after + 1);
}

#[test]
fn proofs_are_in_the_zone_where_it_is_ours() {
    let mut view = view(&[("192.0.2.1", Up)]);
    let head = "$TTL 60\n@ SOA n h 100 1 1 1 1\n@ NS n\nn A 192.0.2.1\n";
    let rest = "_acme-challenge.mine TXT mine\nsub NS n.sub\nn.sub A 192.0.2.7\n_acme-challenge.alias CNAME n\n\
                *.wild A 192.0.2.8\n*.wild MX 1 n\n";
    let file = pontoon_zone::load(
        &name("example.com"),
        "test",
        (head.to_owned() + rest).as_bytes(),
        &mut |_| Err(String::new()),
    )
    .unwrap();
    let quiet = made(&view, Some(&file)).unwrap();
    let proofs = &mut view.dns.as_mut().unwrap().proofs;
    let hosts = [
        "example.com",
        "mine.example.com",
        "x.y.wild.example.com",
        "sub.example.com",
        "alias.example.com",
    ];
    for (number, host) in hosts.iter().chain(&["example.org"]).enumerate() {
        let texts = [format!("proof{number}")].into();
        proofs.texts.insert(Proofs::place(host), texts);
    }
    proofs.texts.insert(
        "_acme-challenge.quiet.wild.example.com".to_owned(),
        BTreeSet::new(),
    );
    let proofs = proofs.clone();
    let zone = made(&view, Some(&file)).unwrap();
    let there = |zone: &Zone| proved(zone, &proofs).into_iter().collect::<Vec<_>>();
    assert_eq!(there(&zone), ["proof0", "proof1", "proof2"]);
    assert_eq!(there(&quiet), [""; 0]);
    let at = |host: &str| {
        zone.get(&name(&format!("_acme-challenge.{host}")), rtype::TXT)
            .cloned()
    };
    assert_eq!(at("example.com").unwrap().ttl, 0);
    assert_eq!(
        at("mine.example.com").unwrap().data,
        [Box::from(*b"\x04mine"), Box::from(*b"\x06proof1")]
    );
    assert_eq!(at("sub.example.com"), None);
    // What a wildcard stands for stays so, though there is something below it now.
    for host in ["y.wild", "x.y.wild", "z.y.wild", "z.x.y.wild", "other.wild"] {
        let snapshot = pontoon_zone::Snapshot::new(std::slice::from_ref(&zone));
        let before = pontoon_zone::Snapshot::new(std::slice::from_ref(&quiet));
        for rtype in [rtype::A, rtype::MX, rtype::AAAA] {
            let name = name(&format!("{host}.example.com"));
            assert_eq!(
                answers(&snapshot, &name, rtype),
                answers(&before, &name, rtype),
                "{name}"
            );
        }
    }
}

/// The code and the number of answers.
fn answers(snapshot: &pontoon_zone::Snapshot, name: &Name, rtype: u16) -> (u8, u8) {
    let mut query = b"\0\x07\0\0\0\x01\0\0\0\0\0\0".to_vec();
    query.extend_from_slice(name.wire());
    query.extend_from_slice(&[0, rtype as u8, 0, 1]);
    let asker = pontoon_zone::Asker {
        address: "192.0.2.9".parse().unwrap(),
        transport: pontoon_zone::Transport::Udp,
        now: 7,
        turn: 0,
        may_sign: false,
    };
    let (settings, mut out) = (pontoon_zone::Settings::default(), Vec::new());
    pontoon_zone::answer(snapshot, &settings, &asker, &query, &mut out);
    (out[3] & 15, out[7])
}

#[test]
fn weights_go_with_the_addresses_and_nobody_is_left_without() {
    let weighed = |states: &[(&str, AddressState, u32)]| {
        let plain: Vec<_> = states
            .iter()
            .map(|(address, state, _)| (*address, *state))
            .collect();
        let mut view = view(&plain);
        for (address, (.., weight)) in view.addresses.iter_mut().zip(states) {
            address.weight = *weight;
        }
        view
    };
    let v4 = |view: &FleetView| published(&view.addresses)[0].1.len();
    // One without weight is answered when no other is up, before those that are down.
    assert_eq!(
        v4(&weighed(&[
            ("192.0.2.1", Up, 2),
            ("192.0.2.2", Up, 1),
            ("192.0.2.3", Up, 0)
        ])),
        2
    );
    let spare = weighed(&[("192.0.2.1", Down, 2), ("192.0.2.2", Up, 0)]);
    assert_eq!(
        published(&spare.addresses)[0].1,
        ["192.0.2.2".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(v4(&weighed(&[("192.0.2.1", Up, 0), ("192.0.2.2", Up, 0)])), 2);
    // Of a round of two answers the lighter one is in one.
    let zone = made(&weighed(&[("192.0.2.1", Up, 2), ("192.0.2.2", Up, 1)]), None).unwrap();
    let snapshot = pontoon_zone::Snapshot::new(&[zone]);
    let mut query = b"\0\x07\0\0\0\x01\0\0\0\0\0\0".to_vec();
    query.extend_from_slice(name("example.com").wire());
    query.extend_from_slice(&[0, 1, 0, 1]);
    let (mut out, mut seen, mut first) = (Vec::new(), [0; 2], [0; 2]);
    for turn in 0..10_000 {
        let asker = pontoon_zone::Asker {
            address: "192.0.2.9".parse().unwrap(),
            transport: pontoon_zone::Transport::Udp,
            now: 7,
            turn,
            may_sign: false,
        };
        pontoon_zone::answer(
            &snapshot,
            &pontoon_zone::Settings::default(),
            &asker,
            &query,
            &mut out,
        );
        let lasts: Vec<usize> = out[query.len()..]
            .chunks(16)
            .map(|record| usize::from(record[15]) - 1)
            .collect();
        lasts.iter().for_each(|last| seen[*last] += 1);
        first[lasts[0]] += 1;
    }
    assert_eq!(seen[0], 10_000);
    assert!((4_800..5_200).contains(&seen[1]), "{seen:?}");
    assert!(
        (2_300..2_700).contains(&first[1]),
        "as the manual says: {first:?}"
    );
}
