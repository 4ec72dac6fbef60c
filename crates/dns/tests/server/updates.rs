//! The addresses are given to real name servers elsewhere: BIND, Knot and PowerDNS.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use pontoon_dns::Keys;
use pontoon_dns::update::{Wanted, push};
use pontoon_fleet::{AddressView, Proofs};
use pontoon_zone::{Name, rtype};

use super::others::{Other, find, modules, spawn};
use super::*;

const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const ZONE: &str = "$TTL 300\n@ SOA ns h 1 7200 900 1209600 60\n@ NS ns\nns A 192.0.2.53\nother A 192.0.2.99\n\
                    www TXT stays\nalias CNAME other\n";

fn key_text(secret: &str) -> String {
    format!("key \"upd\" {{ algorithm hmac-sha256; secret \"{secret}\"; }};\n")
}

/// Starts a primary that takes updates signed with the key.
fn start(name: &str, program: &Path, folder: &Path, port: u16) -> Other {
    let at = folder.display();
    fs::write(folder.join("zone"), ZONE).unwrap();
    let key = key_text(SECRET);
    match name {
        "BIND" => {
            let conf = folder.join("conf");
            fs::write(
                &conf,
                format!(
                    "{key}options {{ directory \"{at}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; \
                     pid-file \"{at}/pid\"; session-keyfile \"{at}/session\"; recursion no; dnssec-validation no; \
                     managed-keys-directory \"{at}\"; }};\ncontrols {{ }};\n\
                     zone example.com {{ type primary; file \"{at}/zone\"; allow-update {{ key upd; }}; }};\n"
                ),
            )
            .unwrap();
            spawn(program, folder, &["-g", "-c", conf.to_str().unwrap()])
        }
        "Knot" => {
            let conf = folder.join("conf");
            fs::write(
                &conf,
                format!(
                    "server:\n  rundir: {at}\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  \
                     background-workers: 1\ndatabase:\n  storage: {at}\nlog:\n  - target: stderr\n    any: info\nkey:\n  \
                     - id: upd\n    algorithm: hmac-sha256\n    secret: {SECRET}\nacl:\n  - id: ours\n    key: upd\n    \
                     action: update\nzone:\n  - domain: example.com\n    storage: {at}\n    file: zone\n    acl: ours\n    \
                     zonefile-sync: -1\n    journal-content: changes\n"
                ),
            )
            .unwrap();
            spawn(program, folder, &["-c", conf.to_str().unwrap()])
        }
        _ => {
            let modules = modules().map_or_else(String::new, |at| format!("module-dir={}\n", at.display()));
            fs::write(
                folder.join("pdns.conf"),
                format!(
                    "launch=lmdb\nlmdb-filename={at}/zones.lmdb\nlmdb-shards=1\nlocal-address=127.0.0.1\nlocal-port={port}\n\
                     primary=yes\nsocket-dir={at}\nsetuid=\nsetgid=\nreceiver-threads=1\ndnsupdate=yes\n\
                     allow-dnsupdate-from=127.0.0.0/8\ncache-ttl=0\nquery-cache-ttl=0\nnegquery-cache-ttl=0\n\
                     zone-cache-refresh-interval=0\nguardian=no\ndaemon=no\nconsistent-backends=no\n{modules}"
                ),
            )
            .unwrap();
            let config = format!("--config-dir={at}");
            let zone = folder.join("zone");
            for command in [
                &["load-zone", "example.com", zone.to_str().unwrap()][..],
                &["import-tsig-key", "upd", "hmac-sha256", SECRET],
                &["set-meta", "example.com", "TSIG-ALLOW-DNSUPDATE", "upd"],
            ] {
                let done = Command::new(find("pdnsutil").unwrap())
                    .arg(&config)
                    .args(command)
                    .output()
                    .unwrap();
                assert!(done.status.success(), "{command:?}: {done:?}");
            }
            spawn(program, folder, &[&config])
        }
    }
}

fn wanted(names: &[&str], addresses: &[(&str, &str)]) -> Wanted {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let addresses: Vec<AddressView> = addresses
        .iter()
        .map(|(address, state)| {
            serde_json::from_value(json!({
                "address": address, "home": "a", "holder": "a", "state": state, "reason": "",
            }))
            .unwrap()
        })
        .collect();
    Wanted::new("example.com", &names, &addresses, (60, 20), &Proofs::default()).unwrap()
}

fn proofs_alone(proofs: &Proofs) -> Wanted {
    Wanted::new("example.com", &[], &[], (60, 20), proofs).unwrap()
}

#[test]
fn what_is_wanted_follows_from_the_addresses() {
    let wanted = wanted(
        &["example.com", "*.example.com"],
        &[("192.0.2.2", "up"), ("192.0.2.1", "up"), ("192.0.2.3", "down")],
    );
    assert_eq!(wanted.sets.len(), 4);
    let expected: BTreeMap<u16, Vec<Box<[u8]>>> = BTreeMap::from([
        (rtype::A, [1, 2].map(|last| Box::from([192, 0, 2, last])).to_vec()),
        (rtype::AAAA, Vec::new()),
    ]);
    for ((name, rtype), set) in &wanted.sets {
        assert_eq!((set.ttl, Some(&set.data)), (20, expected.get(rtype)), "{name}");
    }
}

#[test]
fn bind_knot_and_powerdns_take_the_addresses_and_nothing_else_changes() {
    let dir = tempfile::tempdir().unwrap();
    let load = |secret: &str| {
        let path = dir.path().join("key");
        fs::write(&path, key_text(secret)).unwrap();
        Keys::load(&path).unwrap()
    };
    let (key, wrong) = (load(SECRET), load("d3JvbmdzZWNyZXR3cm9uZ3NlY3JldHdyb25nISE="));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for (name, program) in [("BIND", "named"), ("Knot", "knotd"), ("PowerDNS", "pdns_server")] {
        let Some(program) = find(program) else {
            println!("SKIPPED: updates of {name}: {program} is not there (script/get-dns)");
            continue;
        };
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        let port = free_port();
        let _process = start(name, &program, &folder, port);
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        let give = |keys: &Keys, wanted: &Wanted| runtime.block_on(push(server, keys, wanted));
        let both = ["www.example.com", "*.pool.example.com", "example.com"];
        let up = [("192.0.2.1", "up"), ("192.0.2.2", "up"), ("2001:db8::1", "up")];
        let first = wanted(&both, &up);
        let end = Instant::now() + Duration::from_secs(60);
        let changed = loop {
            match give(&key, &first) {
                Ok(changed) => break changed,
                // It is starting.
                Err(reason) => {
                    let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
                    assert!(Instant::now() < end, "{name}: {reason}\n{}", log());
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        assert_eq!(changed, 6, "{name}: three names with two types each");
        assert_eq!(give(&key, &first), Ok(0), "{name}: it is so already");
        let one_down = [("192.0.2.1", "down"), ("192.0.2.2", "up"), ("2001:db8::1", "up")];
        assert_eq!(
            give(&key, &wanted(&both, &one_down)),
            Ok(6),
            "{name}: the TTLs too"
        );
        let no_v6 = [("192.0.2.1", "up"), ("192.0.2.2", "up")];
        assert_eq!(give(&key, &wanted(&both, &no_v6)), Ok(6), "{name}");
        assert_eq!(give(&key, &wanted(&both, &no_v6)), Ok(0), "{name}");
        // What authorities look for comes, changes and goes.
        let place: Name = "_acme-challenge.www.example.com".parse().unwrap();
        for (texts, changed) in [
            (&["one", "two"][..], 1),
            (&["two"], 1),
            (&["two"], 0),
            (&[], 1),
            (&[], 0),
        ] {
            let texts = texts.iter().map(|text| (*text).to_owned()).collect();
            let proofs = Proofs {
                texts: BTreeMap::from([(place.to_string(), texts)]),
                ..Proofs::default()
            };
            let mut with = wanted(&both, &no_v6);
            with.sets.extend(proofs_alone(&proofs).sets);
            assert_eq!(give(&key, &with), Ok(changed), "{name}: {proofs:?}");
            for text in ["one", "two"] {
                let there = runtime.block_on(pontoon_dns::lookup::has_text(server, &place, text));
                let texts = proofs.texts.values().next().unwrap();
                assert_eq!(there, Ok(texts.contains(text)), "{name}");
            }
        }
        let ask = |owner: &str, kind: &str| {
            let dig = find("dig")?;
            let at = port.to_string();
            let words = ["@127.0.0.1", "-p", &at, owner, kind, "+short", "+time=20"];
            let output = Command::new(dig).args(words).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            Some(lines)
        };
        for (owner, kind, answers) in [
            ("www.example.com", "A", &["192.0.2.1", "192.0.2.2"][..]),
            ("x.pool.example.com", "A", &["192.0.2.1", "192.0.2.2"]),
            ("example.com", "AAAA", &[]),
            ("www.example.com", "TXT", &["\"stays\""]),
            ("other.example.com", "A", &["192.0.2.99"]),
            ("example.com", "NS", &["ns.example.com."]),
        ] {
            if let Some(found) = ask(owner, kind) {
                assert_eq!(found, answers, "{name}: {owner} {kind}");
            }
        }
        let said = give(&wrong, &first).unwrap_err();
        assert!(
            said.contains("secret") || said.contains("NOTAUTH") || said.contains("signed"),
            "{name}: {said}"
        );
        let alias = give(&key, &wanted(&["alias.example.com"], &up)).unwrap_err();
        assert!(
            alias.contains("CNAME") || alias.contains("refuses"),
            "{name}: {alias}"
        );
        let mut foreign = wanted(&["www.example.org"], &up);
        foreign.zone = "example.org".parse::<Name>().unwrap();
        assert!(give(&key, &foreign).is_err(), "{name}");
    }
}

#[test]
fn a_server_that_is_away_silent_or_lies_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    fs::write(&path, key_text(SECRET)).unwrap();
    let keys = Keys::load(&path).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let wanted = wanted(&["www.example.com"], &[("192.0.2.1", "up")]);
    let give = |port: u16| {
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        runtime.block_on(push(server, &keys, &wanted)).unwrap_err()
    };
    let said = give(free_port());
    assert!(said.contains("refused"), "{said}");
    // What a stranger in between could answer: unsigned, another question's, cut short.
    let lies: [fn(Vec<u8>) -> Vec<u8>; 4] = [
        |query| [&query[..2], &[0x84, 0], &query[4..8], &[0; 4], &query[12..33]].concat(),
        |query| [&[query[0] ^ 1], &query[1..2], &[0x84], &query[3..]].concat(),
        |query| query[..7].to_vec(),
        |_| Vec::new(),
    ];
    for lie in lies {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let liar = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).unwrap();
            let answer = lie(query);
            stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        });
        let said = give(port);
        assert!(
            said.contains("signed") || said.contains("another question"),
            "{said}"
        );
        liar.join().unwrap();
    }
    // Who takes the connection and says nothing is not waited for endlessly.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let said = give(silent.local_addr().unwrap().port());
    assert!(said.contains("does not answer"), "{said}");
}
