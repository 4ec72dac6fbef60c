//! Has everybody who answers for the zone have a proof before an authority looks (DNS-01): it asks whichever it finds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pontoon_acme::{Failure, FailureKind};
use pontoon_config::{Config, Dns};
use pontoon_decide::view::Observed;
use pontoon_dns::lookup;
use pontoon_fleet::{DnsReport, Proofs, Role, ServerName, Tier, TierDetail};

use crate::core::Agent;
use crate::elsewhere;
use crate::heartbeat::SILENCE;
use crate::publish;

/// They are waited for so long, those outside of the fleet among them.
const PATIENCE: Duration = Duration::from_secs(60);

/// One outside of the fleet that cannot be asked so often does not count: it may only take the zone for others.
const UNANSWERED: u32 = 3;

const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Waits until all of them have it.
///
/// # Errors
/// Who does not, and why as far as that is known. Then the authority is not asked to look: each look that fails counts.
pub(super) async fn answer(agent: &Agent, name: &str, text: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    let mut silent = BTreeMap::new();
    loop {
        let active = agent.active();
        let dns = active
            .as_ref()
            .and_then(|active| Some((&active.config, active.config.dns.as_ref()?)));
        let Some((config, dns)) = dns else {
            return Err(unproved(name, &["there is no [dns] any more".to_owned()]));
        };
        let mut missing = missing(config, dns, &publish::observed(agent), text);
        // Nobody fetches it before it is there.
        if missing.is_empty() {
            missing = not_fetched(dns, name, text, &mut silent).await;
        }
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(unproved(name, &missing));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn unproved(name: &str, missing: &[String]) -> Failure {
    let place = Proofs::place(name);
    Failure {
        kind: FailureKind::Unproved,
        what: format!(
            "{place} has not the TXT record that the authority would look for: {}",
            missing.join("; ")
        ),
        retry_after: None,
    }
}

/// Who of the fleet, and of those whom it tells, does not have the proof. A server that is not heard of does not answer
/// authorities either.
fn missing(config: &Config, dns: &Dns, reports: &BTreeMap<ServerName, Observed>, text: &str) -> Vec<String> {
    let heard = |name: &ServerName| reports.get(name).filter(|seen| seen.age < SILENCE);
    let mut missing = Vec::new();
    let mut answering = 0;
    for server in config.with_role(Role::Dns) {
        let Some(seen) = heard(&server.name) else {
            continue;
        };
        answering += 1;
        let report = match seen.report.tier(Tier::Dns).map(|tier| &tier.detail) {
            Some(TierDetail::Dns(report)) => Some(report),
            _ => None,
        };
        if !report.is_some_and(|report| report.proofs.contains(text)) {
            missing.push(format!(
                "the name server on {} does not have it{}",
                server.name,
                why(report)
            ));
        }
    }
    let told = reports.values().filter(|seen| seen.age < SILENCE);
    let told: Vec<_> = told.flat_map(|seen| &seen.report.elsewhere).collect();
    let update = dns
        .update
        .as_ref()
        .map(|update| elsewhere::name_server(update.server));
    let ways = update
        .into_iter()
        .chain(dns.hook.as_ref().map(elsewhere::program));
    for way in ways {
        answering += 1;
        let reports = || told.iter().filter(|report| report.to == way);
        if !reports().any(|report| report.proofs.contains(text)) {
            let trouble = reports().find_map(|report| report.trouble.as_deref());
            let why = trouble.map_or_else(String::new, |trouble| format!(" ({trouble})"));
            missing.push(format!("{way} was not given it{why}"));
        }
    }
    if answering == 0 {
        missing.push("no server with the role dns is heard of".to_owned());
    }
    missing
}

fn why(report: Option<&DnsReport>) -> String {
    match report {
        None => " (it does not report)".to_owned(),
        Some(report) => match &report.refused {
            Some(reason) => format!(" (it refuses the zone: {reason})"),
            None if report.serial.is_none() => " (it has no zone)".to_owned(),
            None => String::new(),
        },
    }
}

/// Which of the name servers that fetch the zone answer without it.
async fn not_fetched(
    dns: &Dns,
    name: &str,
    text: &str,
    silent: &mut BTreeMap<SocketAddr, u32>,
) -> Vec<String> {
    let mut missing = Vec::new();
    let Ok(place) = Proofs::place(name).parse() else {
        return missing;
    };
    for server in dns.transfer.iter().flat_map(|transfer| &transfer.to) {
        let tries = silent.entry(*server).or_default();
        if *tries >= UNANSWERED {
            continue;
        }
        match lookup::has_text(*server, &place, text).await {
            Ok(true) => {}
            Ok(false) => {
                *tries = 0;
                missing.push(format!("the name server {server} has not fetched it"));
            }
            Err(reason) => {
                *tries += 1;
                missing.push(format!("the name server {server} cannot be asked ({reason})"));
            }
        }
    }
    missing
}

#[cfg(test)]
mod tests {

    use pontoon_fleet::{ElsewhereReport, ServerReport, TierReport};

    use super::*;
    use crate::testing;

    const FLEET: &str = r#"
version = 1
[fleet]
name = "notes"
[[server]]
name = "a"
private = "198.51.100.11"
[[server]]
name = "b"
private = "198.51.100.12"
[[server]]
name = "c"
private = "198.51.100.13"
roles = ["dns"]
[dns]
zone = "example.com"
[edge.tls.acme]
names = ["*.example.com"]
challenge = "dns-01"
[app]
upstream = "127.0.0.1:8080"
"#;

    fn tier(detail: serde_json::Value) -> TierReport {
        let mut report = serde_json::json!({
            "queries_total": 0, "limited_total": 0, "serial": 1, "file_digest": null, "refused": null, "not_listening": [],
        });
        for (key, value) in detail.as_object().unwrap() {
            report[key] = value.clone();
        }
        TierReport {
            pid: 1,
            view_serial: 1,
            detail: TierDetail::Dns(serde_json::from_value(report).unwrap()),
        }
    }

    fn heard(
        report: &ServerReport,
        name: &str,
        tiers: Vec<TierReport>,
        age: Duration,
    ) -> (ServerName, Observed) {
        let mut report = report.clone();
        report.server = name.parse().unwrap();
        report.tiers = tiers;
        (report.server.clone(), Observed { report, age })
    }

    #[tokio::test]
    async fn everybody_who_answers_for_the_zone_must_have_it() {
        let fixture = testing::founder_of(FLEET).await;
        let active = fixture.agent.active().unwrap();
        let own = fixture.agent.report().unwrap();
        let now = Duration::ZERO;
        let says = |config: &Config, reports: &[(ServerName, Observed)]| {
            let reports = reports.iter().cloned().collect();
            missing(config, config.dns.as_ref().unwrap(), &reports, "proof")
        };
        let config = &active.config;
        assert_eq!(says(config, &[]), ["no server with the role dns is heard of"]);
        let good = || tier(serde_json::json!({ "proofs": ["another", "proof"] }));
        let a = heard(&own, "a", vec![good()], now);
        let b = |tiers| heard(&own, "b", tiers, now);
        // c is not heard of: nobody waits for it.
        assert_eq!(says(config, &[a.clone(), b(vec![good()])]), [""; 0]);
        for (tiers, why) in [
            (vec![], " (it does not report)"),
            (vec![tier(serde_json::json!({ "proofs": ["another"] }))], ""),
            (
                vec![tier(serde_json::json!({ "serial": null }))],
                " (it has no zone)",
            ),
            (
                vec![tier(serde_json::json!({ "refused": "zone:6: A: 192.0.2.256" }))],
                " (it refuses the zone: zone:6: A: 192.0.2.256)",
            ),
        ] {
            let said = format!("the name server on b does not have it{why}");
            assert_eq!(says(config, &[a.clone(), b(tiers)]), [said]);
        }
        let late = heard(&own, "c", vec![], SILENCE);
        assert_eq!(says(config, &[a.clone(), b(vec![good()]), late]), [""; 0]);
        // One elsewhere that is told.
        let update = "[dns.update]\nserver = \"192.0.2.53\"\nkey_file = \"/key\"\n";
        let config = Config::parse(&FLEET.replace("[edge", &format!("{update}[edge"))).unwrap();
        let mut told = a.clone();
        let both = |told: &(ServerName, Observed)| says(&config, &[told.clone(), b(vec![good()])]);
        assert_eq!(both(&told), ["the name server 192.0.2.53:53 was not given it"]);
        let mut report = ElsewhereReport {
            to: "the name server 192.0.2.53:53".to_owned(),
            trouble: Some("it says REFUSED".to_owned()),
            proofs: ["another".to_owned()].into(),
        };
        told.1.report.elsewhere = vec![report.clone()];
        assert_eq!(
            both(&told),
            ["the name server 192.0.2.53:53 was not given it (it says REFUSED)"]
        );
        report.proofs.insert("proof".to_owned());
        told.1.report.elsewhere = vec![report];
        assert_eq!(both(&told), [""; 0]);
        let failure = unproved("*.example.com", &["one".to_owned(), "two".to_owned()]);
        assert_eq!(failure.kind, FailureKind::Unproved);
        assert!(
            failure.what.starts_with("_acme-challenge.example.com has not "),
            "{failure}"
        );
        assert!(failure.what.ends_with(": one; two"), "{failure}");
    }
}
