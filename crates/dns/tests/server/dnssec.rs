//! A signed zone, judged by the validators of others: delv (BIND) and unbound-host (libunbound).

use std::cell::Cell;
use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pontoon_dns::ZoneKey;
use pontoon_fleet::UnixMillis;
use pontoon_rt::paths::Paths;
use pontoon_zone::{Signer, rtype};
use serde_json::json;

use super::{HEAD, Server, others, query};

const LIFETIME: u64 = 14 * 86_400;

/// Everything that is answered in a way of its own.
const ZONE: &str = r#"
@ MX 10 Mail.Example.COM.
@ CAA 0 issue "ca.example"
mail A 192.0.2.25
mail AAAA 2001:db8::25
Mixed.Case TXT "Text Stays As It Is"
alias CNAME mail
out CNAME www.example.net.
astray CNAME nothing
*.shop A 192.0.2.80
*.shop MX 5 mail
exact.shop A 192.0.2.81
*.star CNAME mail
deep.empty.name A 192.0.2.20
old DNAME new
x.new A 192.0.2.90
_sip._tcp SRV 1 2 5060 Mail
naptr NAPTR 10 20 "U" "E2U+sip" "!^.*$!sip:a@example.com!" .
unknown TYPE65300 \# 3 010203
secure NS ns.secure
secure DS 12345 13 2 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
ns.secure A 192.0.2.30
plain NS ns.plain
ns.plain A 192.0.2.31
"#;

/// What is asked, and whether there is such a thing.
const QUESTIONS: &[(&str, &str, bool)] = &[
    ("example.com", "SOA", true),
    ("example.com", "NS", true),
    ("example.com", "MX", true),
    ("example.com", "CAA", true),
    ("example.com", "DNSKEY", true),
    ("example.com", "CDS", true),
    ("example.com", "CDNSKEY", true),
    ("example.com", "A", false),
    ("www.example.com", "A", true),
    ("www.example.com", "AAAA", false),
    ("mail.example.com", "AAAA", true),
    ("mail.example.com", "TXT", false),
    ("mixed.case.example.com", "TXT", true),
    ("case.example.com", "TXT", false),
    ("alias.example.com", "A", true),
    ("alias.example.com", "CNAME", true),
    ("alias.example.com", "TXT", false),
    ("astray.example.com", "A", false),
    ("nothing.example.com", "A", false),
    ("a.b.nothing.example.com", "MX", false),
    ("a.shop.example.com", "A", true),
    ("b.c.shop.example.com", "MX", true),
    ("a.shop.example.com", "TXT", false),
    ("exact.shop.example.com", "A", true),
    ("exact.shop.example.com", "MX", false),
    ("any.star.example.com", "A", true),
    ("name.example.com", "A", false),
    ("x.old.example.com", "A", true),
    ("y.old.example.com", "A", false),
    ("old.example.com", "DNAME", true),
    ("_sip._tcp.example.com", "SRV", true),
    ("naptr.example.com", "NAPTR", true),
    ("unknown.example.com", "TYPE65300", true),
    ("secure.example.com", "DS", true),
    ("plain.example.com", "DS", false),
    ("big.example.com", "TXT", true),
];

fn zone() -> String {
    let mut text = format!("{HEAD}{ZONE}");
    for n in 0..30 {
        text.push_str(&format!("big TXT \"{n} {}\"\n", "x".repeat(100)));
    }
    text
}

fn key(seed: u8) -> ZoneKey {
    ZoneKey {
        made: UnixMillis(1),
        seed: [seed; 32],
    }
}

fn ds(seed: u8) -> String {
    Signer::new(&[seed; 32], LIFETIME).ds_text(&"example.com".parse().unwrap())
}

fn signed() -> Server {
    let server = Server::start(&zone());
    publish(&server, &["192.0.2.1", "192.0.2.2"]);
    server
}

fn publish(server: &Server, addresses: &[&str]) {
    server.publish_zone(
        addresses,
        0,
        &json!({ "dnssec": { "lifetime_seconds": LIFETIME } }),
    );
}

fn put_key(server: &Server, seed: u8) {
    let file = Paths::under(server.dir.path()).dnssec_key_file();
    fs::write(file, key(seed).to_text()).unwrap();
    let tag = Signer::new(&[seed; 32], LIFETIME).tag();
    server.until("signed", |server| {
        server.report().signed.is_some_and(|signed| signed.key_tag == tag)
    });
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    format!("{said}{}", String::from_utf8_lossy(&output.stderr))
}

/// One of the two, ready to ask `server`, trusting the key made of `seed`.
trait Validator {
    fn ask(&self, name: &str, qtype: &str) -> String;
    /// Whether an answer says that it is proved, and that there is something.
    fn judge(said: &str) -> Option<bool>;
}

struct Delv(PathBuf, PathBuf, u16);

impl Validator for Delv {
    fn ask(&self, name: &str, qtype: &str) -> String {
        let mut command = Command::new(&self.0);
        command
            .args(["@127.0.0.1", "-p", &self.2.to_string(), "-a"])
            .arg(&self.1);
        run(command.args(["+root=example.com", "-4", name, qtype]))
    }

    fn judge(said: &str) -> Option<bool> {
        let unproved = said.contains("; unsigned") || !said.contains("fully validated");
        // What is not there is a failure to it too, with this reason.
        let none = said.contains("resolution failed: ncache");
        let failed = said.contains("failed") && !none;
        (!unproved && !failed).then_some(!none)
    }
}

struct Unbound(PathBuf, PathBuf);

impl Validator for Unbound {
    fn ask(&self, name: &str, qtype: &str) -> String {
        run(Command::new(&self.0)
            .arg("-C")
            .arg(&self.1)
            .args(["-v", "-t", qtype, name]))
    }

    fn judge(said: &str) -> Option<bool> {
        let secure = said.contains("(secure)") && !said.contains("(insecure)") && !said.contains("BOGUS");
        let none = said.contains(" has no ") || said.contains("not found");
        secure.then_some(!none)
    }
}

fn validators(server: &Server, seed: u8) -> Option<(Delv, Unbound)> {
    let (Some(delv), Some(unbound)) = (others::find("delv"), others::find("unbound-host")) else {
        println!("SKIPPED: validation by delv and unbound: script/get-dns has not been run");
        return None;
    };
    let anchor = server.dir.path().join("anchor");
    let (tag, digest) = (ds(seed), ds(seed));
    let (head, digest) = (
        tag.rsplit_once(' ').unwrap().0,
        digest.rsplit_once(' ').unwrap().1.to_owned(),
    );
    fs::write(
        &anchor,
        format!("trust-anchors {{ example.com. static-ds {head} \"{digest}\"; }};\n"),
    )
    .unwrap();
    let config = server.dir.path().join("unbound.conf");
    let text = format!(
        "server:\n  do-not-query-localhost: no\n  do-ip6: no\n  qname-minimisation: no\n  trust-anchor: \"example.com. DS {}\"\n\
         stub-zone:\n  name: example.com\n  stub-addr: 127.0.0.1@{}\n",
        ds(seed),
        server.port
    );
    fs::write(&config, text).unwrap();
    Some((Delv(delv, anchor, server.port), Unbound(unbound, config)))
}

fn check<V: Validator>(validator: &V, who: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, qtype, wanted) in QUESTIONS {
        let said = validator.ask(name, qtype);
        if V::judge(&said) != Some(*wanted) {
            wrong.push(format!("{who}: {name} {qtype}, {wanted} was wanted:\n{said}"));
        }
    }
    wrong
}

#[test]
fn every_kind_of_answer_is_proved_to_validators_of_others() {
    let server = signed();
    server.until("no key yet", |server| server.report().signing_trouble.is_some());
    assert_eq!(
        server.addresses("www.example.com"),
        Some(vec![1, 2]),
        "it is answered all the same"
    );
    put_key(&server, 7);
    let Some((delv, unbound)) = validators(&server, 7) else {
        return;
    };
    let mut wrong = check(&delv, "delv");
    wrong.extend(check(&unbound, "unbound"));
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        2 * QUESTIONS.len(),
        wrong.join("\n")
    );
    // What follows the health of addresses is signed anew.
    publish(&server, &["192.0.2.3"]);
    server.until("followed", |server| {
        server.addresses("www.example.com") == Some(vec![3])
    });
    assert_eq!(Delv::judge(&delv.ask("www.example.com", "A")), Some(true));
    // The judges do judge: with another key in the parent nothing is proved.
    put_key(&server, 8);
    for (name, qtype) in [("www.example.com", "A"), ("nothing.example.com", "A")] {
        assert_eq!(Delv::judge(&delv.ask(name, qtype)), None);
        assert_eq!(Unbound::judge(&unbound.ask(name, qtype)), None);
    }
    // A key that is gone goes on being used.
    fs::write(Paths::under(server.dir.path()).dnssec_key_file(), "half").unwrap();
    server.until("told", |server| server.report().signing_trouble.is_some());
    let (delv, _) = validators(&server, 8).unwrap();
    assert_eq!(Delv::judge(&delv.ask("mail.example.com", "A")), Some(true));
    // What is served is signed anew though the zone file is wrong by now.
    fs::write(server.file(), format!("{}www CNAME mail\n", zone())).unwrap();
    server.until("refused", |server| server.report().refused.is_some());
    put_key(&server, 9);
    let (delv, _) = validators(&server, 9).unwrap();
    assert_eq!(Delv::judge(&delv.ask("mail.example.com", "A")), Some(true));
}

fn with_dnssec(name: &str, qtype: u16) -> Vec<u8> {
    let mut packet = query(name);
    let end = packet.len();
    packet[end - 4..end - 2].copy_from_slice(&qtype.to_be_bytes());
    packet[11] = 1;
    packet.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
    packet
}

#[test]
fn a_flood_of_names_that_do_not_exist_does_not_starve_the_others() {
    let server = signed();
    put_key(&server, 7);
    let done = Arc::new(AtomicBool::new(false));
    let flood = {
        let (done, port) = (Arc::clone(&done), server.port);
        std::thread::spawn(move || {
            // From many networks, so that no network's share is what ends it.
            let sockets: Vec<UdpSocket> = (0..50)
                .map(|n| UdpSocket::bind(format!("127.0.{n}.1:0")).unwrap())
                .collect();
            for n in 0..2_000_000u32 {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let packet = with_dnssec(&format!("n{n}.example.com"), rtype::A);
                let _ = sockets[n as usize % sockets.len()].send_to(&packet, ("127.0.0.1", port));
                if n % 64 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        })
    };
    let truncated = |response: &[u8]| response[2] & 2 != 0;
    // In time the signatures of a second are spent, and a new name is told to come over TCP.
    let (number, spent) = (Cell::new(0), Cell::new(false));
    server.until("the signatures of a second are spent", |server| {
        let answered = server.ask([127, 0, 0, 1], &with_dnssec("mail.example.com", rtype::A));
        // What stands ready is whole at all times.
        assert!(answered.is_none_or(|response| !truncated(&response) && response[7] == 2));
        number.set(number.get() + 1);
        let name = format!("new{}.example.com", number.get());
        let response = server.ask([127, 0, 0, 1], &with_dnssec(&name, rtype::A));
        spent.set(spent.get() || response.is_some_and(|response| truncated(&response)));
        spent.get()
    });
    server.until("what stands ready is answered in the flood", |server| {
        server
            .ask([127, 0, 0, 1], &with_dnssec("mail.example.com", rtype::A))
            .is_some()
    });
    done.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    server.until("afterwards new names are answered whole", |server| {
        let response = server.ask([127, 0, 0, 1], &with_dnssec("afterwards.example.com", rtype::A));
        response.is_some_and(|response| !truncated(&response))
    });
}
