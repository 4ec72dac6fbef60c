//! A zone's records.

use std::collections::BTreeMap;

use crate::name::Name;
use crate::rr::rtype;

/// Records of one name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rrset {
    /// How long others may remember them, in seconds.
    pub ttl: u32,
    /// The data of each, in wire form without compression.
    pub data: Vec<Box<[u8]>>,
}

/// The records of one zone. That they make a whole zone ([`load`](crate::load)) is the maker's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    apex: Name,
    sets: BTreeMap<Name, BTreeMap<u16, Rrset>>,
    /// Of the records of a set, how often each is answered beside the others.
    weights: BTreeMap<Name, BTreeMap<u16, Vec<u32>>>,
}

impl Zone {
    /// A zone without records.
    pub fn new(apex: Name) -> Zone {
        Zone {
            apex,
            sets: BTreeMap::new(),
            weights: BTreeMap::new(),
        }
    }

    /// The zone's own name.
    pub fn apex(&self) -> &Name {
        &self.apex
    }

    /// Every name and its sets, in no meaningful order.
    pub fn sets(&self) -> impl Iterator<Item = (&Name, &BTreeMap<u16, Rrset>)> {
        self.sets.iter()
    }

    /// The records of that name and type.
    pub fn get(&self, owner: &Name, rtype: u16) -> Option<&Rrset> {
        self.sets.get(owner)?.get(&rtype)
    }

    /// Whether the name has records.
    pub fn has(&self, owner: &Name) -> bool {
        self.sets.contains_key(owner)
    }

    /// Adds a record. The first record of a set gives its TTL (RFC 2181 section 5.2 wants them equal); a second of
    /// the same data is the same record.
    pub fn add(&mut self, owner: Name, rtype: u16, ttl: u32, data: Box<[u8]>) {
        let set = self
            .sets
            .entry(owner)
            .or_default()
            .entry(rtype)
            .or_insert_with(|| Rrset {
                ttl,
                data: Vec::new(),
            });
        if !set.data.contains(&data) {
            set.data.push(data);
        }
    }

    /// Puts a whole set in the place of what was there; an empty one takes it out.
    pub fn replace(&mut self, owner: Name, rtype: u16, set: Rrset) {
        if !set.data.is_empty() {
            self.sets.entry(owner).or_default().insert(rtype, set);
        } else if let Some(sets) = self.sets.get_mut(&owner) {
            sets.remove(&rtype);
            if sets.is_empty() {
                self.sets.remove(&owner);
            }
        }
    }

    /// Says how often each record of a set is answered, beside the others, in the order of the set. Those with the largest
    /// weight are in every answer, the others in as many as their part of it. More than [`MAX_WEIGHT`](crate::MAX_WEIGHT)
    /// is as much.
    pub fn weigh(&mut self, owner: Name, rtype: u16, weights: Vec<u32>) {
        self.weights.entry(owner).or_default().insert(rtype, weights);
    }

    /// The weights of a set's records, if they have any.
    pub(crate) fn weights(&self, owner: &Name, rtype: u16) -> Option<&[u32]> {
        self.weights.get(owner)?.get(&rtype).map(Vec::as_slice)
    }

    /// The serial of the SOA record.
    pub fn serial(&self) -> Option<u32> {
        let data = self.get(&self.apex, rtype::SOA)?.data.first()?;
        let at = data.len().checked_sub(20)?;
        Some(u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?))
    }

    /// Puts another serial into the SOA record.
    pub fn set_serial(&mut self, serial: u32) {
        let apex = self.apex.clone();
        let set = self
            .sets
            .get_mut(&apex)
            .and_then(|sets| sets.get_mut(&rtype::SOA));
        for data in set.into_iter().flat_map(|set| &mut set.data) {
            if let Some(at) = data.len().checked_sub(20)
                && let Some(place) = data.get_mut(at..at + 4)
            {
                place.copy_from_slice(&serial.to_be_bytes());
            }
        }
    }

    /// Gives a name that only a wildcard stands for, and the names above and below it that are so, what the wildcard has:
    /// a record that is then put below it takes the wildcard's answers from none of them (RFC 4592 section 2.2).
    pub fn spell_out(&mut self, owner: &Name) {
        let mut missing = Vec::new();
        let mut name = owner.clone();
        while !self.sets.keys().any(|known| known.is_in(&name)) {
            let above = name.parent().filter(|above| above.is_in(&self.apex));
            missing.push(name);
            match above {
                Some(above) => name = above,
                None => return,
            }
        }
        let Some(star) = name.child(b"*").filter(|star| self.has(star)) else {
            return;
        };
        for name in missing {
            for place in [name.child(b"*"), Some(name)].into_iter().flatten() {
                if let Some(sets) = self.sets.get(&star).cloned() {
                    self.sets.insert(place.clone(), sets);
                }
                if let Some(weights) = self.weights.get(&star).cloned() {
                    self.weights.insert(place, weights);
                }
            }
        }
    }

    /// Where, at or above `owner` and below the apex, the zone hands over to another (by NS or DNAME records), if it
    /// does.
    pub fn delegated_at(&self, owner: &Name) -> Option<Name> {
        let redirected = std::iter::successors(owner.parent(), Name::parent)
            .take_while(|name| name.is_in(&self.apex))
            .find(|name| self.get(name, rtype::DNAME).is_some());
        self.cut_above(owner).or(redirected)
    }

    /// The place where another zone begins at or above `owner`, below the apex: a name with NS records.
    pub(crate) fn cut_above(&self, owner: &Name) -> Option<Name> {
        let mut found = None;
        let mut name = owner.clone();
        while name != self.apex {
            if self.get(&name, rtype::NS).is_some() {
                found = Some(name.clone());
            }
            name = name.parent()?;
        }
        found
    }
}
