//! What is wrong with the name servers and with the addresses that they publish. Pure.

use std::collections::BTreeSet;

use pontoon_fleet::{AddressState, DnsReport, Role, ServerState, Tier, TierDetail};

use crate::api::{Health, Problem};
use crate::status::StatusInputs;

/// Adds what is wrong.
pub(crate) fn name_servers(inputs: &StatusInputs<'_>, problems: &mut Vec<Problem>) {
    let Some(dns) = &inputs.view.dns else { return };
    let mut add = |what: String, done: &str, next: String| {
        problems.push(Problem {
            health: Health::Degraded,
            what,
            done: Some(done.to_owned()),
            next: vec![next],
        });
    };
    let (mut digests, mut keys) = (BTreeSet::new(), BTreeSet::new());
    for server in inputs.view.with_role(Role::Dns) {
        if server.state == ServerState::Unreachable {
            continue;
        }
        let name = &server.name;
        let Some(report) = report(inputs, name) else {
            let done = format!("the agent on {name} starts it again by itself");
            add(
                format!("the name server on {name} does not report"),
                &done,
                "pontoon events".to_owned(),
            );
            continue;
        };
        if let Some(reason) = &report.refused {
            let done = match report.serial {
                Some(serial) => format!("it answers as before, serial {serial}"),
                None => format!("it answers nothing for {}", dns.zone),
            };
            add(
                format!("the name server on {name} refuses the zone: {reason}"),
                &done,
                format!("correct the file on {name}: it is read again by itself"),
            );
        }
        for address in &report.not_listening {
            add(
                format!("the name server on {name} cannot listen: {address}"),
                "it tries again every second",
                "ss -lnup".to_owned(),
            );
        }
        if let Some(reason) = &report.transfer_trouble {
            add(
                format!("no other name server can fetch the zone from {name}: {reason}"),
                "everything else is answered",
                format!("correct the file on {name}: it is read again by itself"),
            );
        }
        for address in &report.not_told {
            add(
                format!("{name} could not tell another name server that the zone has changed: {address}"),
                "the next change is told again; it asks by itself when the refresh time of the SOA is over",
                format!("does it take NOTIFY from {name}, signed with the first key of the file?"),
            );
        }
        if let Some(reason) = &report.signing_trouble {
            let (done, next) = match report.signed {
                Some(_) => (
                    "it signs with the key that it has in memory",
                    "look at the file on that server",
                ),
                None => (
                    "it answers without signatures",
                    "it comes with a heartbeat of a server that steers the fleet: is one reachable?",
                ),
            };
            add(
                format!("the name server on {name} has no key to sign the zone with: {reason}"),
                done,
                next.to_owned(),
            );
        }
        keys.extend(report.signed.map(|signed| signed.key_tag));
        digests.extend(report.file_digest.clone());
    }
    if digests.len() > 1 {
        add(
            format!("the zone file of {} differs from server to server", dns.zone),
            "each answers from its own",
            "copy the same file to every server with the role dns".to_owned(),
        );
    }
    if keys.len() > 1 {
        let tags: Vec<String> = keys.iter().map(u16::to_string).collect();
        add(
            format!("the zone is signed with different keys: {}", tags.join(", ")),
            "the key that was made first goes to every server by itself",
            "pontoon dns ds".to_owned(),
        );
    }
    for heard in inputs.reports.values() {
        for told in &heard.report.elsewhere {
            if let Some(reason) = &told.trouble {
                let who = &heard.report.server;
                add(
                    format!("{who} could not give the addresses to {}: {reason}", told.to),
                    "it tries again, once a minute at least",
                    format!("the log of the agent on {who} has every attempt"),
                );
            }
        }
    }
    for view in &inputs.view.addresses {
        if view.state == AddressState::Down {
            add(
                format!("{} is out of DNS: {}", view.address, view.reason),
                "it comes back by itself",
                format!("pontoon dns explain {}", dns.names.first().unwrap_or(&dns.zone)),
            );
        }
    }
}

fn report<'a>(inputs: &StatusInputs<'a>, server: &pontoon_fleet::ServerName) -> Option<&'a DnsReport> {
    let heard = inputs.reports.get(server)?;
    match &heard.report.tier(Tier::Dns)?.detail {
        TierDetail::Dns(report) => Some(report),
        _ => None,
    }
}
