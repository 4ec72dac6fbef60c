//! Signatures (DNSSEC: RFC 4034, 4035), by ECDSA on P-256 with SHA-256 (algorithm 13, RFC 6605) and one key for zone and
//! keys alike.
//!
//! A signature is a pure function of the key, what is signed, and the time slot of its name: nonces follow from key and
//! message (RFC 6979). So all servers that have the key answer the same, and none has to tell another what it signed.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use p256::ecdsa::signature::hazmat::PrehashSigner as _;
use p256::ecdsa::{Signature, SigningKey};
use sha2::{Digest as _, Sha256};

use crate::name::{self, Name};
use crate::rr::{self, IN, rtype};
use crate::snapshot;

/// ECDSA on P-256 with SHA-256 (RFC 6605).
const ALGORITHM: u8 = 13;

/// SHA-256 (RFC 4509).
const DIGEST: u8 = 2;

/// A key of the zone that a parent may point to (RFC 4034 section 2.1.1), for DNSSEC (section 2.1.2).
const KEY_HEAD: [u8; 4] = [1, 1, 3, ALGORITHM];

/// Signatures begin this much before they are made, in seconds: clocks of others may be slow.
const EARLY: u64 = 86_400;

/// Signatures are made anew when a quarter of their lifetime is over: what is answered is good for three quarters at
/// least.
const RENEWALS: u64 = 4;

const HOUR: u64 = 3600;

/// Remembered signatures that were made for a single answer.
const PLACES: usize = 1 << 13;

type Hash = [u8; 32];
type Raw = [u8; 64];
type Place = Mutex<Option<(Hash, Raw)>>;

/// What makes signatures: the fleet's key, and for how long they are good.
pub struct Signer {
    key: SigningKey,
    dnskey: Box<[u8]>,
    tag: u16,
    lifetime_seconds: u64,
    /// Those that were made for an answer lately, so that names that are asked for often cost one signature: each at the
    /// place that its hash says, where it stays until another comes.
    lately: Box<[Place]>,
}

/// Nothing of the key.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("tag", &self.tag).finish()
    }
}

/// The signatures of one snapshot, kept so that the next makes only those that are new.
#[derive(Default)]
pub struct Signatures {
    made: HashMap<Hash, Raw>,
    before: HashMap<Hash, Raw>,
    until: Option<u64>,
    new: usize,
}

impl Signatures {
    /// When the first of them ends, in seconds of Unix time; `None` when nothing is signed.
    pub fn until(&self) -> Option<u64> {
        self.until
    }

    /// How many had to be made for the last snapshot.
    pub fn new_ones(&self) -> usize {
        self.new
    }

    /// Begins another snapshot.
    pub(crate) fn turn(&mut self) {
        self.before = std::mem::take(&mut self.made);
        (self.until, self.new) = (None, 0);
    }
}

/// Records that are signed together.
#[derive(Clone, Copy)]
pub(crate) struct Records<'a, D> {
    pub(crate) apex: &'a [u8],
    pub(crate) owner: &'a [u8],
    pub(crate) rtype: u16,
    pub(crate) ttl: u32,
    pub(crate) data: &'a [D],
}

impl Signer {
    /// With the key that follows from `seed`. A signature is good for `lifetime_seconds` from the beginning of its slot.
    pub fn new(seed: &[u8; 32], lifetime_seconds: u64) -> Signer {
        let mut number = 0u8;
        loop {
            // One of 2^32 hashes is no key of this curve.
            let hash = Sha256::new()
                .chain_update(b"pontoon dnssec")
                .chain_update([number])
                .chain_update(seed);
            if let Ok(key) = SigningKey::from_slice(&hash.finalize()) {
                return Signer::with_key(key, lifetime_seconds);
            }
            number = number.wrapping_add(1);
        }
    }

    fn with_key(key: SigningKey, lifetime_seconds: u64) -> Signer {
        let point = key.verifying_key().to_sec1_point(false);
        // Uncompressed: 4, then both coordinates (RFC 6605 section 4 wants those).
        let public = point.as_bytes().get(1..).unwrap_or_default();
        let dnskey: Box<[u8]> = [&KEY_HEAD, public].concat().into();
        Signer {
            tag: tag(&dnskey),
            key,
            dnskey,
            lifetime_seconds: lifetime_seconds.max(RENEWALS * HOUR),
            lately: (0..PLACES).map(|_| Mutex::new(None)).collect(),
        }
    }

    /// The number by which signatures name the key (RFC 4034 appendix B).
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// The data of the DNSKEY record.
    pub fn dnskey(&self) -> &[u8] {
        &self.dnskey
    }

    /// The data of the DS record that the parent of `apex` is to have (RFC 4034 section 5.1).
    pub fn ds(&self, apex: &Name) -> Vec<u8> {
        let digest = Sha256::new().chain_update(apex.wire()).chain_update(&self.dnskey);
        let mut data = self.tag.to_be_bytes().to_vec();
        data.extend_from_slice(&[ALGORITHM, DIGEST]);
        data.extend_from_slice(&digest.finalize());
        data
    }

    /// The DS record's data as registrars want it typed.
    pub fn ds_text(&self, apex: &Name) -> String {
        let digest: String = self
            .ds(apex)
            .iter()
            .skip(4)
            .map(|byte| format!("{byte:02X}"))
            .collect();
        format!("{} {ALGORITHM} {DIGEST} {digest}", self.tag)
    }

    /// When signatures at `owner` begin and end, in seconds of Unix time. Names have their slots at different hours, so
    /// that not all signatures are made anew at once.
    fn span(&self, owner: &[u8], now: u64) -> (u64, u64) {
        let slot = (self.lifetime_seconds / RENEWALS / HOUR).max(1) * HOUR;
        let shift = snapshot::number(owner) % (slot / HOUR) * HOUR;
        let begin = now.saturating_sub(shift) / slot * slot + shift;
        // Before the very first slot of a name nothing is signed anew: no clock is that wrong.
        (begin.saturating_sub(EARLY), begin + self.lifetime_seconds)
    }

    /// The data of the RRSIG record (RFC 4034 section 3.1), its signature from `known` or made.
    pub(crate) fn sign<D: AsRef<[u8]>>(
        &self,
        records: &Records<'_, D>,
        now: u64,
        signatures: &mut Signatures,
    ) -> Box<[u8]> {
        let (mut data, until) = self.head(records, now);
        let hash = hash(&data, records);
        let known = signatures
            .made
            .get(&hash)
            .or_else(|| signatures.before.get(&hash));
        let raw = match known {
            Some(raw) => *raw,
            None => {
                signatures.new += 1;
                self.raw(&hash)
            }
        };
        signatures.made.insert(hash, raw);
        signatures.until = Some(signatures.until.map_or(until, |before| before.min(until)));
        data.extend_from_slice(&raw);
        data.into()
    }

    /// As [`Signer::sign`], for one answer. `None` when it would have to be made and that is not allowed; the second value
    /// says that it was made.
    pub(crate) fn sign_now<D: AsRef<[u8]>>(
        &self,
        records: &Records<'_, D>,
        now: u64,
        allowed: bool,
    ) -> Option<(Vec<u8>, bool)> {
        let (mut data, _) = self.head(records, now);
        let hash = hash(&data, records);
        let place = usize::from(u16::from_be_bytes([hash[0], hash[1]])) % PLACES;
        let place = self.lately.get(place)?;
        let known = *place.lock().unwrap_or_else(PoisonError::into_inner);
        let raw = match known {
            Some((remembered, raw)) if remembered == hash => (raw, false),
            _ if !allowed => return None,
            _ => {
                let raw = self.raw(&hash);
                *place.lock().unwrap_or_else(PoisonError::into_inner) = Some((hash, raw));
                (raw, true)
            }
        };
        data.extend_from_slice(&raw.0);
        Some((data, raw.1))
    }

    /// The record's data but for the signature, and when it ends.
    fn head<D>(&self, records: &Records<'_, D>, now: u64) -> (Vec<u8>, u64) {
        let (begin, end) = self.span(records.owner, now);
        let mut data = Vec::with_capacity(18 + records.apex.len() + 64);
        data.extend_from_slice(&records.rtype.to_be_bytes());
        data.extend_from_slice(&[ALGORITHM, labels(records.owner)]);
        data.extend_from_slice(&records.ttl.to_be_bytes());
        // Times wrap around (RFC 4034 section 3.1.5).
        data.extend_from_slice(&(end as u32).to_be_bytes());
        data.extend_from_slice(&(begin as u32).to_be_bytes());
        data.extend_from_slice(&self.tag.to_be_bytes());
        data.extend_from_slice(records.apex);
        (data, end)
    }

    fn raw(&self, hash: &Hash) -> Raw {
        let made: Result<Signature, _> = self.key.sign_prehash(hash);
        // It fails for hashes that are too short only.
        made.map_or([0; 64], |signature| signature.to_bytes().into())
    }
}

/// Labels of a name, without the root's and a leading `*` (RFC 4034 section 3.1.3).
fn labels(owner: &[u8]) -> u8 {
    let all = std::iter::successors(name::parent(owner), |rest| name::parent(rest)).count();
    (all - usize::from(all > 0 && owner.starts_with(b"\x01*"))) as u8
}

fn tag(dnskey: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for (at, byte) in dnskey.iter().enumerate() {
        sum += if at % 2 == 0 {
            u32::from(*byte) << 8
        } else {
            u32::from(*byte)
        };
    }
    (sum + (sum >> 16)) as u16
}

/// What is signed (RFC 4034 section 3.1.8.1): the head, then the records in canonical form and order (section 6).
fn hash<D: AsRef<[u8]>>(head: &[u8], records: &Records<'_, D>) -> Hash {
    let mut all: Vec<Vec<u8>> = records
        .data
        .iter()
        .map(|data| canonical(records.rtype, data.as_ref()))
        .collect();
    all.sort_unstable();
    all.dedup();
    let mut hash = Sha256::new().chain_update(head);
    for data in all {
        hash.update(records.owner);
        hash.update(records.rtype.to_be_bytes());
        hash.update(IN.to_be_bytes());
        hash.update(records.ttl.to_be_bytes());
        hash.update((data.len() as u16).to_be_bytes());
        hash.update(data);
    }
    hash.finalize().into()
}

/// Names in the data in lower case, for the types that RFC 4034 section 6.2 and RFC 6840 section 5.1 list.
fn canonical(rtype: u16, data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    let (mut at, names) = match rtype {
        rtype::NAPTR => (behind_texts(&data, 4, 3), 1),
        _ => match rr::names_in(rtype) {
            Some(places) => places,
            None => match rtype {
                rtype::DNAME | 3 | 4 | 7 | 8 | 9 => (0, 1),
                rtype::MINFO | rtype::RP => (0, 2),
                rtype::AFSDB | rtype::RT | rtype::KX => (2, 1),
                rtype::PX => (2, 2),
                rtype::SRV => (6, 1),
                _ => return data,
            },
        },
    };
    for _ in 0..names {
        let length = data.get(at..).and_then(name::length).unwrap_or(0);
        if let Some(name) = data.get_mut(at..at + length) {
            name.make_ascii_lowercase();
        }
        at += length;
    }
    data
}

fn behind_texts(data: &[u8], mut at: usize, texts: usize) -> usize {
    for _ in 0..texts {
        at += 1 + data.get(at).map_or(0, |length| usize::from(*length));
    }
    at
}

#[cfg(test)]
#[path = "dnssec_tests.rs"]
mod tests;
