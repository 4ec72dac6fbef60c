//! What is in the zone: the records of its file, and the names that stand for the edges. A pure function of file and
//! view.

use std::collections::BTreeSet;
use std::net::IpAddr;

use pontoon_fleet::{AddressView, DnsView, FleetView, Proofs, Role};
use pontoon_zone::{Name, Rrset, Zone, rtype};

/// Times of the SOA record of a zone without a file, in seconds: refresh, retry, expire, and how long a "no" may be
/// remembered (RFC 1912 section 2.2, RFC 2308 section 5).
const TIMES: [u32; 4] = [7200, 900, 1_209_600, 60];

/// How long others may remember what hardly changes.
const STEADY_TTL: u32 = 3600;

/// A proof is new each time, and a name and its wildcard, of which the one is ordered after the other, have one place.
const PROOF_TTL: u32 = 0;

/// 2025-01-01, in milliseconds of Unix time: the serial counts from there.
const BEGIN: u64 = 1_735_689_600_000;

/// Makes the zone of a view. `base` is what the zone file says.
///
/// # Errors
/// Why it cannot be: a name that is none, or that the file uses for something else.
pub fn zone(view: &FleetView, dns: &DnsView, base: Option<&Zone>) -> Result<Zone, String> {
    let apex: Name = parse(&dns.zone)?;
    let mut zone = match base {
        Some(base) => base.clone(),
        None => bare(view, &apex)?,
    };
    let ttl = ttl(&view.addresses, (dns.ttl_seconds, dns.ttl_degraded_seconds));
    for text in &dns.names {
        let name = parse(text)?;
        if zone.get(&name, rtype::CNAME).is_some() {
            return Err(format!(
                "{name} stands for the edges, and the zone file has a CNAME there"
            ));
        }
        if let Some(cut) = zone.delegated_at(&name) {
            return Err(format!(
                "{name} stands for the edges, and the zone file delegates {cut}"
            ));
        }
        for (rtype, addresses) in published(&view.addresses) {
            let weight = |address: &IpAddr| {
                let view = view.addresses.iter().find(|view| view.address == *address);
                view.map_or(1, |view| view.weight)
            };
            let weights = addresses.iter().map(weight).collect();
            zone.weigh(name.clone(), rtype, weights);
            let data = addresses.iter().map(|address| bytes(*address)).collect();
            zone.replace(name.clone(), rtype, Rrset { ttl, data });
        }
    }
    for (place, texts) in &dns.proofs.texts {
        prove(&mut zone, &parse(place)?, texts);
    }
    let serial = zone.serial().unwrap_or_default();
    zone.set_serial(serial.wrapping_add(version(view, dns)));
    Ok(zone)
}

/// What the SOA's serial grows by: tenths of a second at which the opinion on an address last changed, seconds at which a
/// proof did, and the revision. Each only grows, so secondaries notice every change (RFC 1982).
pub fn version(view: &FleetView, dns: &DnsView) -> u32 {
    let tenths = view.addresses_changed.0.saturating_sub(BEGIN) / 100;
    let seconds = dns.proofs.changed.0.saturating_sub(BEGIN) / 1000;
    (tenths as u32)
        .wrapping_add(seconds as u32)
        .wrapping_add(view.revision.0 as u32)
}

/// Adds what an authority looks for to what the file has there. Where the file hands the name over to somebody else, by a
/// delegation or an alias, theirs is what the authority sees: the zone stays as it is, and nobody reports the proof.
fn prove(zone: &mut Zone, place: &Name, texts: &BTreeSet<String>) {
    let is_ours = place.is_in(zone.apex())
        && zone.delegated_at(place).is_none()
        && zone.get(place, rtype::CNAME).is_none();
    if !is_ours || texts.is_empty() {
        return;
    }
    if let Some(host) = place.parent() {
        zone.spell_out(&host);
    }
    for text in texts {
        zone.add(place.clone(), rtype::TXT, PROOF_TTL, character_string(text));
    }
}

/// The data of a TXT record (RFC 1035 section 3.3.14). Proofs have 43 characters.
pub fn character_string(text: &str) -> Box<[u8]> {
    let bytes = text.as_bytes().get(..255).unwrap_or(text.as_bytes());
    [&[bytes.len() as u8], bytes].concat().into()
}

/// Which of the proofs wanted are in the zone.
pub fn proved(zone: &Zone, proofs: &Proofs) -> BTreeSet<String> {
    let there = |place: &str, text: &str| {
        let set = zone.get(&place.parse().ok()?, rtype::TXT)?;
        set.data.contains(&character_string(text)).then_some(())
    };
    let wanted = proofs
        .texts
        .iter()
        .flat_map(|(place, texts)| texts.iter().map(move |text| (place, text)));
    wanted
        .filter(|(place, text)| there(place, text).is_some())
        .map(|(_, text)| text.clone())
        .collect()
}

/// The addresses that a name for the edges has now, by type of record. Of each family those that are published; all of
/// them when none is: a visitor who tries an address that is thought dead is no worse off than one who gets none. One
/// without weight only when no other is published.
pub fn published(all: &[AddressView]) -> [(u16, Vec<IpAddr>); 2] {
    [(rtype::A, true), (rtype::AAAA, false)].map(|(rtype, v4)| {
        let family: Vec<&AddressView> = all.iter().filter(|view| view.address.is_ipv4() == v4).collect();
        let pick = |wanted: &dyn Fn(&AddressView) -> bool| -> Vec<IpAddr> {
            let chosen = family.iter().filter(|view| wanted(view));
            chosen.map(|view| view.address).collect()
        };
        let rounds: [&dyn Fn(&AddressView) -> bool; 4] = [
            &|view| view.state.is_published() && view.weight > 0,
            &|view| view.state.is_published(),
            &|view| view.state == pontoon_fleet::AddressState::Down,
            &|_| true,
        ];
        let found = rounds
            .iter()
            .map(|round| pick(round))
            .find(|found| !found.is_empty());
        (rtype, found.unwrap_or_default())
    })
}

/// How long others may remember the addresses, in seconds: the first of `ttls` while all are up, else the second.
pub fn ttl(all: &[AddressView], ttls: (u32, u32)) -> u32 {
    match all.iter().all(is_as_usual) {
        true => ttls.0,
        false => ttls.1,
    }
}

fn is_as_usual(view: &AddressView) -> bool {
    use pontoon_fleet::AddressState::{Standby, Up};
    matches!(view.state, Up | Standby)
}

/// A zone without a file: the name servers and nothing else.
fn bare(view: &FleetView, apex: &Name) -> Result<Zone, String> {
    let mut zone = Zone::new(apex.clone());
    let too_long = || format!("{apex} is too long to have names below it");
    let child = |label: &str| apex.child(label.as_bytes()).ok_or_else(too_long);
    let mut soa = [child("ns1")?.wire(), child("hostmaster")?.wire()].concat();
    soa.extend_from_slice(&1u32.to_be_bytes());
    soa.extend(TIMES.iter().flat_map(|time| time.to_be_bytes()));
    zone.add(apex.clone(), rtype::SOA, STEADY_TTL, soa.into());
    for (number, server) in view.with_role(Role::Dns).enumerate() {
        let name = child(&format!("ns{}", number + 1))?;
        zone.add(apex.clone(), rtype::NS, STEADY_TTL, name.wire().into());
        let own = match server.public.is_empty() {
            true => std::slice::from_ref(&server.private),
            false => &server.public,
        };
        for address in own {
            let rtype = if address.is_ipv4() { rtype::A } else { rtype::AAAA };
            zone.add(name.clone(), rtype, STEADY_TTL, bytes(*address));
        }
    }
    Ok(zone)
}

pub(crate) fn bytes(address: IpAddr) -> Box<[u8]> {
    match address {
        IpAddr::V4(address) => Box::from(address.octets()),
        IpAddr::V6(address) => Box::from(address.octets()),
    }
}

fn parse(text: &str) -> Result<Name, String> {
    text.parse()
        .map_err(|error: pontoon_zone::BadName| error.to_string())
}

#[cfg(test)]
#[path = "content_tests.rs"]
mod tests;
