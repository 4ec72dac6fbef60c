//! From [`Zone`]s to a [`Snapshot`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::denial;
use crate::dnssec::{Records, Signatures, Signer};
use crate::name::Name;
use crate::rr::{IN, rtype};
use crate::snapshot::{Apex, Glue, Names, Node, Set, Signature, Snapshot};
use crate::turns;
use crate::writer::{QUESTION, Writer};
use crate::zone::{Rrset, Zone};

pub(crate) fn compile(zones: &[Zone]) -> Snapshot {
    let zones: BTreeMap<&Name, &Zone> = zones.iter().map(|zone| (zone.apex(), zone)).collect();
    let mut snapshot = Snapshot::default();
    for zone in zones.values() {
        let Some(apex) = apex(zone) else { continue };
        let index = snapshot.zones.len();
        snapshot.zones.push(apex);
        let mut present: BTreeSet<Name> = BTreeSet::new();
        for (owner, sets) in zone.sets() {
            let cut = zone.cut_above(owner);
            let child = |name: &Name| name != zone.apex() && zones.contains_key(name);
            if let Some(name) = owned_by_child(owner, zone, &child) {
                if name == *owner && cut.as_ref() == Some(owner) {
                    let node = node(zone, index, owner, sets, true);
                    snapshot.delegations.insert(owner.wire().into(), node);
                }
                add_empty(&mut present, zone, &name);
                continue;
            }
            // What is below a cut is another zone's, and only glue here.
            if let Some(cut) = &cut
                && cut != owner
            {
                add_empty(&mut present, zone, cut);
                continue;
            }
            let node = node(zone, index, owner, sets, cut.is_some());
            snapshot.nodes.insert(owner.wire().into(), node);
            add_empty(&mut present, zone, owner);
        }
        for name in present {
            snapshot.nodes.entry(name.wire().into()).or_insert_with(|| Node {
                zone: index,
                ..Node::default()
            });
        }
    }
    snapshot
}

fn apex(zone: &Zone) -> Option<Apex> {
    let set = zone.get(zone.apex(), rtype::SOA)?;
    let soa = set.data.first()?.clone();
    let minimum = soa.last_chunk::<4>().map(|last| u32::from_be_bytes(*last))?;
    Some(Apex {
        name: zone.apex().wire().into(),
        negative_ttl: set.ttl.min(minimum),
        soa,
        signature: None,
    })
}

/// The apex, at or above `owner` and below this zone's own, of another zone that is served too.
fn owned_by_child(owner: &Name, zone: &Zone, child: &dyn Fn(&Name) -> bool) -> Option<Name> {
    let mut name = owner.clone();
    while &name != zone.apex() {
        if child(&name) {
            return Some(name);
        }
        name = name.parent()?;
    }
    None
}

/// The names between `owner` and the apex exist, though nothing is at them (RFC 4592 section 2.2.2).
fn add_empty(present: &mut BTreeSet<Name>, zone: &Zone, owner: &Name) {
    let mut name = owner.clone();
    while &name != zone.apex() {
        let Some(parent) = name.parent() else { return };
        if !present.insert(parent.clone()) {
            return;
        }
        name = parent;
    }
}

fn node(zone: &Zone, index: usize, owner: &Name, sets: &BTreeMap<u16, Rrset>, cut: bool) -> Node {
    let sets = sets
        .iter()
        .map(|(rtype, set)| {
            let plain = |data: Vec<Box<[u8]>>| Set {
                rtype: *rtype,
                ttl: set.ttl,
                ready: ready(owner.wire(), *rtype, set.ttl, &data),
                data: data.into(),
                signature: None,
                round: None,
            };
            let weights = zone.weights(owner, *rtype);
            let round = weights
                .filter(|weights| weights.len() == set.data.len())
                .and_then(turns::round);
            let some = |at: Vec<usize>| {
                at.into_iter()
                    .filter_map(|at| set.data.get(at).cloned())
                    .collect()
            };
            Set {
                round: round.map(|round| round.into_iter().map(|at| plain(some(at))).collect()),
                ..plain(set.data.clone())
            }
        })
        .collect();
    let glue = match cut {
        true => glue(zone, owner),
        false => Box::default(),
    };
    Node {
        zone: index,
        cut,
        sets,
        glue,
        nsec: None,
    }
}

/// How long others may remember the key, in seconds.
const KEY_TTL: u32 = 3600;

/// As [`compile`], with the key at each apex, and everything signed that is the zone's own.
pub(crate) fn signed(
    zones: &[Zone],
    signer: &Arc<Signer>,
    signatures: &mut Signatures,
    now: u64,
) -> Snapshot {
    let zones: Vec<Zone> = zones.iter().map(|zone| with_key(zone, signer)).collect();
    let mut snapshot = compile(&zones);
    signatures.turn();
    let mut sign = |apex: &[u8], owner: &[u8], set: &Set| {
        let records = Records {
            apex,
            owner,
            rtype: set.rtype,
            ttl: set.ttl,
            data: &set.data,
        };
        let data = signer.sign(&records, now, signatures);
        let ready = ready(owner, rtype::RRSIG, set.ttl, std::slice::from_ref(&data));
        Box::new(Signature { data, ready })
    };
    let mut sign_all = |nodes: &mut Names<Node>, zones: &[Apex]| {
        for (owner, node) in nodes {
            let Some(apex) = zones.get(node.zone) else {
                continue;
            };
            // At a cut all but this is the other zone's (RFC 4035 section 2.2).
            let cut = node.cut;
            for set in node.sets.iter_mut().filter(|set| !cut || set.rtype == rtype::DS) {
                set.signature = Some(sign(&apex.name, owner, set));
                // Answers of a round with the same records have the same signature, which is made once.
                for one in set.round.iter_mut().flatten() {
                    one.signature = Some(sign(&apex.name, owner, one));
                }
            }
            let types = node.sets.iter().map(|set| set.rtype);
            let own = types.filter(|rtype| !cut || [rtype::NS, rtype::DS].contains(rtype));
            let data: Box<[u8]> = denial::nsec(&apex.name, owner, own).into();
            let data: Box<[Box<[u8]>]> = Box::new([data]);
            let mut nsec = Set {
                rtype: rtype::NSEC,
                ttl: apex.negative_ttl,
                ready: ready(owner, rtype::NSEC, apex.negative_ttl, &data[..]),
                data,
                signature: None,
                round: None,
            };
            nsec.signature = Some(sign(&apex.name, owner, &nsec));
            node.nsec = Some(Box::new(nsec));
        }
    };
    sign_all(&mut snapshot.nodes, &snapshot.zones);
    sign_all(&mut snapshot.delegations, &snapshot.zones);
    for apex in &mut snapshot.zones {
        let soa = snapshot
            .nodes
            .get(&apex.name)
            .and_then(|node| node.set(rtype::SOA));
        apex.signature = soa.and_then(|soa| Some(soa.signature.as_ref()?.data.clone()));
    }
    snapshot.signer = Some(Arc::clone(signer));
    snapshot
}

/// The zone with its key, and what says to the parent's robots that it may point to it (RFC 7344). Keys of another signer
/// that are in the file stay: so a zone moves here without a time in which it is not signed.
fn with_key(zone: &Zone, signer: &Signer) -> Zone {
    let mut zone = zone.clone();
    let apex = zone.apex().clone();
    zone.add(apex.clone(), rtype::DNSKEY, KEY_TTL, signer.dnskey().into());
    if zone.get(&apex, rtype::CDS).is_none() && zone.get(&apex, rtype::CDNSKEY).is_none() {
        zone.add(apex.clone(), rtype::CDS, KEY_TTL, signer.ds(&apex).into());
        zone.add(apex, rtype::CDNSKEY, KEY_TTL, signer.dnskey().into());
    }
    zone
}

/// The records as they follow a question for their own name.
pub(crate) fn ready(owner: &[u8], rtype: u16, ttl: u32, data: &[Box<[u8]>]) -> Box<[u8]> {
    let mut out = vec![0; QUESTION];
    out.extend_from_slice(owner);
    out.extend_from_slice(&rtype.to_be_bytes());
    out.extend_from_slice(&IN.to_be_bytes());
    let begin = out.len();
    let mut writer = Writer::new(&mut out);
    for data in data {
        writer.record(owner, rtype, ttl, data);
    }
    out.get(begin..).unwrap_or_default().into()
}

/// Addresses of the name servers at a cut, as far as they are in this zone's file. Without those below the cut nobody
/// could go there (RFC 9471).
fn glue(zone: &Zone, cut: &Name) -> Box<[Glue]> {
    let servers = zone
        .get(cut, rtype::NS)
        .map(|set| &set.data[..])
        .unwrap_or_default();
    let mut glue = Vec::new();
    for server in servers.iter().filter_map(|data| Name::from_wire(data)) {
        for rtype in [rtype::A, rtype::AAAA] {
            let Some(set) = zone.get(&server, rtype) else {
                continue;
            };
            glue.extend(set.data.iter().map(|data| Glue {
                owner: server.wire().into(),
                rtype,
                ttl: set.ttl,
                data: data.clone(),
            }));
        }
    }
    glue.into()
}
