//! The same zones and the same questions to NSD, Knot, BIND, PowerDNS and to us. Where those four agree with each
//! other, we agree with them; where they do not, nobody can say who is right.
//!
//! `PONTOON_LONG=1` asks 200 zones, `PONTOON_SEED=n` others.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "name_servers/client.rs"]
mod client;
#[path = "name_servers/generate.rs"]
mod generate;
#[path = "name_servers/servers.rs"]
mod servers;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use generate::Dice;
use pontoon_zone::{Asker, Settings, Snapshot, Transport, Zone, answer, load};
use servers::Server;

const QUESTIONS: usize = 100;

#[test]
fn we_agree_where_the_others_do() {
    let long = std::env::var_os("PONTOON_LONG").is_some();
    let seed = std::env::var("PONTOON_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let mut dice = Dice(seed.unwrap_or(1));
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..if long { 200 } else { 40 })
        .map(|n| format!("z{n}.test"))
        .collect();
    let (mut zones, mut texts) = (Vec::new(), Vec::new());
    for name in &names {
        let text = generate::zone(&mut dice, name);
        std::fs::write(folder.path().join(format!("{name}.zone")), &text).unwrap();
        zones.push(read(name, &text));
        texts.push(text);
    }
    let servers = match servers::start(folder.path(), &names) {
        Ok(servers) => servers,
        Err(reason) => {
            println!("SKIPPED: comparison with other name servers: {reason}");
            return;
        }
    };
    let snapshot = Snapshot::new(&zones);
    let (mut differences, mut agreed, mut compared) = (Vec::new(), 0, 0);
    let mut kinds = BTreeMap::new();
    for (zone, text) in names.iter().zip(&texts) {
        for number in 0..QUESTIONS {
            let (name, qtype) = generate::question(&mut dice, zone, text);
            let edns = (number % 2 == 0).then_some(1232);
            let query = client::query(number as u16, &name, qtype, edns);
            let theirs: Vec<client::Parts> = servers.iter().map(|server| ask(server, &query)).collect();
            let mut ours = ours(&snapshot, &query);
            for part in ["rcode", "AA", "TC", "answer", "authority", "additional"] {
                let all: Vec<Option<&String>> = theirs.iter().map(|theirs| theirs.get(part)).collect();
                compared += 1;
                if all.iter().any(|one| *one != all[0]) {
                    continue;
                }
                agreed += 1;
                let own = ours.remove(part);
                if let Some(text) = all[0].filter(|_| part == "answer" || part == "rcode") {
                    let kind = if part == "rcode" {
                        text.clone()
                    } else {
                        format!("{} records", text.lines().count())
                    };
                    *kinds.entry(kind).or_insert(0) += 1;
                }
                if own.as_ref() != all[0] {
                    differences.push(format!(
                        "{name} type {qtype}, {part}: theirs {:?}, ours {own:?}",
                        all[0]
                    ));
                }
            }
        }
    }
    println!("{compared} parts of responses compared; in {agreed} the four agreed: {kinds:?}");
    assert!(
        agreed * 10 > compared * 7,
        "the four hardly agree: is the comparison broken?"
    );
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

fn read(name: &str, text: &str) -> Zone {
    let apex = name.parse().unwrap();
    load(&apex, name, text.as_bytes(), &mut |_| Err("none".to_owned()))
        .unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn ask(server: &Server, query: &[u8]) -> client::Parts {
    for _ in 0..20 {
        if let Some(response) = client::try_ask(server.address, query, Duration::from_secs(3)) {
            return client::parts(&response);
        }
    }
    panic!("{} does not answer", server.name);
}

fn ours(snapshot: &Snapshot, query: &[u8]) -> BTreeMap<&'static str, String> {
    let asker = Asker {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        transport: Transport::Udp,
        now: 0,
        turn: 0,
        may_sign: true,
    };
    let mut out = Vec::new();
    answer(snapshot, &Settings::default(), &asker, query, &mut out);
    client::parts(&out)
}
