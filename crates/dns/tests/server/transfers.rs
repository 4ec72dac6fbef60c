//! Real name servers fetch the zone and follow it: NSD, Knot, BIND and PowerDNS, signed with a key; and who has no key gets nothing.

use std::path::Path;
use std::process::Command;

use super::others::{Other, find, modules, spawn};
use super::*;

const KEY: &str =
    "key \"xfr\" { algorithm hmac-sha256; secret \"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"; };\n";
const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
/// Knot, which signs what it has fetched.
const SIGNS: &str = "Knot-that-signs";
/// 2026, in milliseconds: the opinion on an address changed then.
const CHANGED: u64 = 1_780_000_000_000;

/// Starts a secondary at `port` that fetches the zone from `primary`.
fn start(name: &str, program: &Path, folder: &Path, port: u16, primary: u16) -> Other {
    let at = folder.display();
    let (text, args): (String, &[&str]) = match name {
        "NSD" => (
            format!(
                "server:\n  ip-address: 127.0.0.1@{port}\n  username: \"\"\n  zonesdir: \"{at}\"\n  database: \"\"\n  \
                 pidfile: \"{at}/pid\"\n  xfrdfile: \"{at}/xfrd\"\n  xfrdir: \"{at}\"\n  zonelistfile: \"{at}/list\"\n  \
                 server-count: 1\nremote-control:\n  control-enable: no\nkey:\n  name: xfr\n  algorithm: hmac-sha256\n  \
                 secret: \"{SECRET}\"\nzone:\n  name: example.com\n  zonefile: {at}/zone\n  allow-notify: 127.0.0.1 xfr\n  \
                 request-xfr: 127.0.0.1@{primary} xfr\n"
            ),
            &["-d", "-c", "conf"],
        ),
        "Knot" | SIGNS => (
            format!(
                "server:\n  rundir: {at}\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  \
                 background-workers: 1\ndatabase:\n  storage: {at}\nlog:\n  - target: stderr\n    any: info\nkey:\n  \
                 - id: xfr\n    algorithm: hmac-sha256\n    secret: {SECRET}\nremote:\n  - id: ours\n    \
                 address: 127.0.0.1@{primary}\n    key: xfr\nacl:\n  - id: heard\n    key: xfr\n    action: notify\n\
                 zone:\n  - domain: example.com\n    storage: {at}\n    master: ours\n    acl: heard\n    \
                 dnssec-signing: {}\n",
                if name == SIGNS { "on" } else { "off" }
            ),
            &["-c", "conf"],
        ),
        "PowerDNS" => {
            // Its key and its zone are in a database, which is made by a tool of its own.
            let modules = modules().map_or_else(String::new, |at| format!("module-dir={}\n", at.display()));
            fs::write(
                folder.join("pdns.conf"),
                format!(
                    "launch=lmdb\nlmdb-filename={at}/zones.lmdb\nlmdb-shards=1\nlocal-address=127.0.0.1\nlocal-port={port}\n\
                     secondary=yes\nxfr-cycle-interval=1\nsocket-dir={at}\nsetuid=\nsetgid=\nreceiver-threads=1\n\
                     cache-ttl=0\nquery-cache-ttl=0\nnegquery-cache-ttl=0\nzone-cache-refresh-interval=0\nguardian=no\n\
                     daemon=no\nallow-notify-from=127.0.0.0/8\nconsistent-backends=no\n{modules}"
                ),
            )
            .unwrap();
            let primary = format!("127.0.0.1:{primary}");
            for command in [
                &["import-tsig-key", "xfr", "hmac-sha256", SECRET][..],
                &["create-secondary-zone", "example.com", &primary],
                &["activate-tsig-key", "example.com", "xfr", "secondary"],
            ] {
                let done = Command::new(find("pdnsutil").unwrap())
                    .arg(format!("--config-dir={at}"))
                    .args(command)
                    .output()
                    .unwrap();
                assert!(done.status.success(), "{command:?}: {done:?}");
            }
            let config = format!("--config-dir={at}");
            return spawn(program, folder, &[&config]);
        }
        _ => (
            format!(
                "{KEY}options {{ directory \"{at}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; \
                 pid-file \"{at}/pid\"; session-keyfile \"{at}/session\"; recursion no; dnssec-validation no; \
                 managed-keys-directory \"{at}\"; }};\ncontrols {{ }};\nserver 127.0.0.1 {{ keys {{ xfr; }}; }};\n\
                 zone example.com {{ type secondary; file \"{at}/zone\"; masterfile-format text; \
                 primaries {{ 127.0.0.1 port {primary} key xfr; }}; allow-notify {{ key xfr; }}; }};\n"
            ),
            &["-g", "-c", "conf"],
        ),
    };
    let conf = folder.join("conf");
    fs::write(&conf, text).unwrap();
    let conf = conf.to_str().unwrap();
    let args: Vec<&str> = args
        .iter()
        .map(|arg| if *arg == "conf" { conf } else { arg })
        .collect();
    spawn(program, folder, &args)
}

/// The last bytes of the addresses of www.example.com at a name server on that port.
fn addresses_at(port: u16) -> Option<Vec<u8>> {
    let query = query("www.example.com");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket.send(&query).ok()?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).ok()?;
    let answers = usize::from(u16::from_be_bytes([buffer[6], buffer[7]]));
    let records = buffer.get(query.len()..length)?.chunks_exact(16).take(answers);
    let mut lasts: Vec<u8> = records.map(|record| record[15]).collect();
    lasts.sort_unstable();
    (buffer[3] & 15 == 0 && answers > 0).then_some(lasts)
}

#[test]
fn nsd_knot_bind_and_powerdns_fetch_the_zone_and_follow_the_health_of_addresses() {
    let server = Server::start(HEAD);
    let key = server.dir.path().join("transfer.key");
    fs::write(&key, KEY).unwrap();
    let mut found = Vec::new();
    for (name, program) in [
        ("NSD", "nsd"),
        ("Knot", "knotd"),
        (SIGNS, "knotd"),
        ("BIND", "named"),
        ("PowerDNS", "pdns_server"),
    ] {
        match find(program) {
            Some(program) => found.push((name, program, free_port())),
            None => println!("SKIPPED: {name} as a secondary: {program} is not there (script/get-dns)"),
        }
    }
    let to: Vec<String> = found
        .iter()
        .map(|(_, _, port)| format!("127.0.0.1:{port}"))
        .collect();
    let transfer = json!({"key_file": key, "to": to, "from": ["127.0.0.1"]});
    server.publish_with(&["192.0.2.1", "192.0.2.2"], CHANGED, Some(&transfer));
    let mut secondaries = Vec::new();
    for (name, program, port) in found {
        let folder = server.dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        let process = start(name, &program, &folder, port, server.port);
        secondaries.push((name, port, folder, process));
    }
    let states: [&[&str]; 3] = [
        &["192.0.2.1", "192.0.2.2"],
        &["192.0.2.2"],
        &["192.0.2.2", "192.0.2.9"],
    ];
    for (number, up) in states.into_iter().enumerate() {
        server.publish_with(up, CHANGED + 1_000 * number as u64, Some(&transfer));
        let wanted: Vec<u8> = up
            .iter()
            .map(|ip| ip.rsplit('.').next().unwrap().parse().unwrap())
            .collect();
        for (name, port, folder, _) in &secondaries {
            let end = Instant::now() + Duration::from_secs(60);
            while addresses_at(*port).as_ref() != Some(&wanted) {
                let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
                assert!(
                    Instant::now() < end,
                    "{name} has {:?} and not {wanted:?}:\n{}",
                    addresses_at(*port),
                    log()
                );
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    let knot = secondaries.iter().find(|(name, ..)| *name == "Knot");
    if let Some((_, _, folder, _)) = knot {
        let log = fs::read_to_string(folder.join("log")).unwrap();
        assert!(
            log.contains("IXFR, incoming"),
            "it asked for the changes only:\n{log}"
        );
    }
    let signs = secondaries
        .iter()
        .find(|(name, ..)| *name == SIGNS)
        .zip(find("dig"));
    if let Some(((_, port, ..), dig)) = signs {
        let port = port.to_string();
        let words = [
            "@127.0.0.1",
            "-p",
            &port,
            "www.example.com",
            "+dnssec",
            "+time=20",
        ];
        let output = Command::new(dig).args(words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("RRSIG\tA 13 3"), "{text}");
    }
    let mut answer = String::new();
    let door = Paths::under(server.dir.path()).run_dir.join("dns.sock");
    let mut socket = std::os::unix::net::UnixStream::connect(door).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    socket.read_to_string(&mut answer).unwrap();
    let counted = |kind: &str| {
        let line = answer
            .lines()
            .find(|line| line.starts_with("pontoon_dns_transfers_total") && line.contains(kind));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
    };
    if !secondaries.is_empty() {
        assert!(
            counted("\"whole\"") > Some(0) && counted("\"changes\"") > Some(0),
            "{answer}"
        );
    }
}

#[test]
fn who_has_no_key_or_is_not_named_gets_no_zone_and_a_wrong_file_is_told() {
    let server = Server::start(HEAD);
    let key = server.dir.path().join("transfer.key");
    let transfer =
        json!({"key_file": key, "to": [format!("127.0.0.1:{}", server.port)], "from": ["127.0.0.1"]});
    server.publish_with(&["192.0.2.1"], CHANGED, Some(&transfer));
    server.until("the missing file is told", |server| {
        server
            .report()
            .transfer_trouble
            .is_some_and(|why| why.contains("no such file"))
    });
    fs::write(&key, "key xfr { algorithm hmac-md5; secret \"x\"; };").unwrap();
    server.until("the wrong file is told", |server| {
        server
            .report()
            .transfer_trouble
            .is_some_and(|why| why.contains("hmac-md5"))
    });
    fs::write(&key, KEY).unwrap();
    server.until("the file is good", |server| {
        server.report().transfer_trouble.is_none()
    });
    let Some(dig) = find("dig") else {
        println!("SKIPPED: zone transfers to dig: it is not there (script/get-dns)");
        return;
    };
    let ask = |from: &str, zone: &str, how: &str, key: Option<&str>| {
        let mut command = Command::new(&dig);
        command.args([
            "-b",
            from,
            "-p",
            &server.port.to_string(),
            "@127.0.0.1",
            zone,
            how,
        ]);
        command.args(["+noall", "+answer", "+comments", "+time=20"]);
        if let Some(key) = key {
            command.args(["-y", key]);
        }
        let output = command.output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let good = format!("hmac-sha256:xfr:{SECRET}");
    let whole = ask("127.0.0.1", "example.com", "AXFR", Some(&good));
    assert!(
        whole.matches("SOA").count() == 2 && whole.contains("192.0.2.1") && !whole.contains("signature"),
        "{whole}"
    );
    let wrong = "hmac-sha256:xfr:d3JvbmdzZWNyZXR3cm9uZ3NlY3JldHdyb25nISE=";
    let other = format!("hmac-sha256:other:{SECRET}");
    for (from, zone, how, key, why) in [
        ("127.0.0.1", "example.com", "AXFR", None, "Transfer failed"),
        ("127.0.0.1", "example.com", "IXFR=1", None, "Transfer failed"),
        (
            "127.0.0.1",
            "example.com",
            "AXFR",
            Some(wrong),
            "tsig indicates error",
        ),
        (
            "127.0.0.1",
            "example.com",
            "AXFR",
            Some(&other),
            "tsig indicates error",
        ),
        ("127.0.0.2", "example.com", "AXFR", Some(&good), "Transfer failed"),
        ("127.0.0.1", "example.org", "AXFR", Some(&good), "Transfer failed"),
    ] {
        let said = ask(from, zone, how, key);
        assert!(
            !said.contains("SOA") && !said.contains("192.0.2.1") && said.contains(why),
            "{from} {zone} {how} {key:?}: {said}"
        );
    }
    // It takes no NOTIFY, being nobody's secondary.
    server.until("who cannot be told is told of", |server| {
        server
            .report()
            .not_told
            .iter()
            .any(|text| text.contains("NOTIMP"))
    });
}
