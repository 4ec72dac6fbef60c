//! From [`Zone`]s to a [`Snapshot`].

use std::collections::{BTreeMap, BTreeSet};

use crate::name::Name;
use crate::rr::{IN, rtype};
use crate::snapshot::{Apex, Glue, Node, Set, Snapshot};
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
        .map(|(rtype, set)| Set {
            rtype: *rtype,
            ttl: set.ttl,
            data: set.data.clone().into(),
            ready: ready(owner, *rtype, set),
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
    }
}

/// The records as they follow a question for their own name.
pub(crate) fn ready(owner: &Name, rtype: u16, set: &Rrset) -> Box<[u8]> {
    let mut out = vec![0; QUESTION];
    out.extend_from_slice(owner.wire());
    out.extend_from_slice(&rtype.to_be_bytes());
    out.extend_from_slice(&IN.to_be_bytes());
    let begin = out.len();
    let mut writer = Writer::new(&mut out);
    for data in &set.data {
        writer.record(owner.wire(), rtype, set.ttl, data);
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
