//! Zones made ready to be asked: immutable, shared by all threads, with the common answers in wire form.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::dnssec::{Signatures, Signer};
use crate::name;
use crate::turns;
use crate::zone::Zone;

/// All zones of a server as they are answered now.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Every name at which something is or below which something is, but for what lies behind a zone cut.
    pub(crate) nodes: Names<Node>,
    /// The parent's side of cuts whose child is among the zones too: DS records are the parent's (RFC 4035 section
    /// 3.1.4.1).
    pub(crate) delegations: Names<Node>,
    pub(crate) zones: Vec<Apex>,
    /// What signs those answers that cannot be signed beforehand; `None` when nothing is signed.
    pub(crate) signer: Option<Arc<Signer>>,
}

/// Of one zone, what negative answers need.
#[derive(Debug)]
pub(crate) struct Apex {
    pub(crate) name: Box<[u8]>,
    /// The SOA record's data.
    pub(crate) soa: Box<[u8]>,
    /// How long a "no" may be remembered: the smaller of the SOA's TTL and its MINIMUM (RFC 2308 section 3).
    pub(crate) negative_ttl: u32,
    /// The data of the RRSIG record of the SOA record.
    pub(crate) signature: Option<Box<[u8]>>,
}

/// A name.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// Index of its zone.
    pub(crate) zone: usize,
    /// Another zone begins here.
    pub(crate) cut: bool,
    pub(crate) sets: Box<[Set]>,
    /// The addresses, within the zone, of the name servers at a cut.
    pub(crate) glue: Box<[Glue]>,
    /// In a signed zone: that there is nothing else.
    pub(crate) nsec: Option<Box<Set>>,
}

/// Records of one type at a name.
#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) rtype: u16,
    pub(crate) ttl: u32,
    pub(crate) data: Box<[Box<[u8]>]>,
    /// The records as they follow the question for this very name.
    pub(crate) ready: Box<[u8]>,
    /// In a signed zone, unless the records are another zone's.
    pub(crate) signature: Option<Box<Signature>>,
    /// Where records have weights: a set for each answer of a round, in their order.
    pub(crate) round: Option<Box<[Set]>>,
}

/// The RRSIG record of a set.
#[derive(Debug)]
pub(crate) struct Signature {
    /// Its data.
    pub(crate) data: Box<[u8]>,
    /// The record as it follows the question for this very name.
    pub(crate) ready: Box<[u8]>,
}

#[derive(Debug)]
pub(crate) struct Glue {
    pub(crate) owner: Box<[u8]>,
    pub(crate) rtype: u16,
    pub(crate) ttl: u32,
    pub(crate) data: Box<[u8]>,
}

impl Set {
    /// What is answered in this turn, and the turn by which its records are rotated.
    pub(crate) fn at(&self, turn: u32) -> (&Set, usize) {
        match &self.round {
            None => (self, turn as usize),
            Some(round) => {
                let mixed = turns::mixed(turn);
                let set = round.get(mixed % round.len().max(1)).unwrap_or(self);
                (set, mixed / round.len().max(1))
            }
        }
    }
}

impl Node {
    pub(crate) fn set(&self, rtype: u16) -> Option<&Set> {
        self.sets.iter().find(|set| set.rtype == rtype)
    }
}

impl Snapshot {
    /// Makes zones ready. Of two with the same name the later counts.
    pub fn new(zones: &[Zone]) -> Snapshot {
        crate::compile::compile(zones)
    }

    /// As [`Snapshot::new`], signed as of `now`, in seconds of Unix time. It is to be made anew once an hour.
    pub fn signed(zones: &[Zone], signer: &Arc<Signer>, signatures: &mut Signatures, now: u64) -> Snapshot {
        crate::compile::signed(zones, signer, signatures, now)
    }

    /// The longest existing name that `wire` is or is below, and its node; `None` outside of all zones.
    pub(crate) fn closest<'a>(&self, wire: &'a [u8]) -> Option<(&'a [u8], &Node)> {
        let mut rest = wire;
        loop {
            if let Some(node) = self.nodes.get(rest) {
                return Some((rest, node));
            }
            rest = name::parent(rest)?;
        }
    }
}

/// Names in lower-case wire form and what is at them.
pub(crate) type Names<T> = HashMap<Box<[u8]>, T, BuildHasherDefault<NameHasher>>;

/// A fast hash for names. It has no secret: the names in the table are the operator's own, and strangers only look
/// up, which can't fill a bucket.
#[derive(Default)]
pub(crate) struct NameHasher(u64);

impl NameHasher {
    fn take(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word ^ 0x2d35_8dcc_aa6c_78a5) * 0x8bb8_4b93_962e_acc9;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.take(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.take(u64::from_le_bytes(word));
        }
    }

    fn write_usize(&mut self, word: usize) {
        self.take(word as u64);
    }
}

/// A number for a name, to notice one that comes again.
pub(crate) fn number(wire: &[u8]) -> u64 {
    let mut hasher = NameHasher::default();
    hasher.write_usize(wire.len());
    hasher.write(wire);
    hasher.finish()
}
