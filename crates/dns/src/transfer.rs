//! The zone for other name servers: whole (AXFR, RFC 5936) or what changed since a version (IXFR, RFC 1995).

use std::collections::VecDeque;
use std::sync::Arc;

use pontoon_zone::{Name, Zone, rtype};

/// The zone that is served and what changed lately. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    current: Option<Arc<Zone>>,
    /// Oldest first; the last one leads to the present version.
    steps: VecDeque<Arc<Step>>,
}

/// From one version of the zone to the next.
#[derive(Debug)]
struct Step {
    /// The serial before it.
    from: u32,
    /// The SOA record before and what is gone; then the SOA record after and what has come (RFC 1995 section 4).
    records: Vec<Record>,
}

impl History {
    /// Another version is served from now on. One with a serial that is not newer (RFC 1982) makes the older ones
    /// worthless: nobody could be led from them to it.
    pub(crate) fn push(&mut self, zone: Arc<Zone>) {
        let step = self.current.as_ref().and_then(|old| step(old, &zone));
        match step {
            Some(step) => self.steps.push_back(Arc::new(step)),
            None => self.steps.clear(),
        }
        let mut kept: usize = self.steps.iter().map(|step| step.records.len()).sum();
        while self.steps.len() > REMEMBERED || kept > REMEMBERED_RECORDS {
            kept -= self.steps.pop_front().map_or(kept, |step| step.records.len());
        }
        self.current = Some(zone);
    }

    /// Nothing is served any more.
    pub(crate) fn clear(&mut self) {
        *self = History::default();
    }

    /// The zone that is served.
    pub(crate) fn current(&self) -> Option<&Arc<Zone>> {
        self.current.as_ref()
    }

    /// What leads from the version with this serial to the present one.
    fn since(&self, serial: u32) -> Option<impl Iterator<Item = &Arc<Step>>> {
        let first = self.steps.iter().position(|step| step.from == serial)?;
        Some(self.steps.iter().skip(first))
    }
}

/// Whether a serial is newer than another (RFC 1982).
fn is_newer(new: u32, old: u32) -> bool {
    (new.wrapping_sub(old) as i32) > 0
}

fn step(old: &Zone, new: &Zone) -> Option<Step> {
    let (from, to) = (old.serial()?, new.serial()?);
    if old.apex() != new.apex() || !is_newer(to, from) {
        return None;
    }
    let mut records = vec![soa(old)?];
    records.extend(only_in(old, new));
    records.push(soa(new)?);
    records.extend(only_in(new, old));
    Some(Step { from, records })
}

/// The records of one version that another does not have, but for the SOA.
fn only_in(one: &Zone, other: &Zone) -> impl Iterator<Item = Record> {
    records(one).filter(|record| {
        other
            .get(&record.owner, record.rtype)
            .is_none_or(|set| set.ttl != record.ttl || !set.data.contains(&record.data))
    })
}

/// A record as it travels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    owner: Name,
    rtype: u16,
    ttl: u32,
    data: Box<[u8]>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything.
    All,
    /// What changed since this serial.
    Since(u32),
    /// What changed, over UDP: only the present version is told, and the asker comes over TCP (RFC 1995 section 2).
    Version,
}

impl Wanted {
    /// What a query wants, and of which zone; `None` when it asks for something else. `tcp`: how it came.
    pub(crate) fn of(query: &[u8], tcp: bool) -> Option<(Name, Wanted)> {
        let word = |at: usize| Some(u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]));
        // A question; no answer; a query's opcode.
        if word(4)? != 1 || word(6)? != 0 || query.get(2)? & 0xF8 != 0 {
            return None;
        }
        let end = crate::tsig::name_end(query, 12)?;
        let name = Name::from_wire(&query.get(12..end)?.to_ascii_lowercase())?;
        if word(end + 2)? != CLASS_IN {
            return None;
        }
        let wanted = match (word(end)?, tcp) {
            (rtype::AXFR, true) => Wanted::All,
            (rtype::IXFR, true) => Wanted::Since(serial_of_authority(query, end + 4)?),
            (rtype::IXFR, false) => Wanted::Version,
            _ => return None,
        };
        Some((name, wanted))
    }
}

/// What is sent, for the counters: the whole zone, changes, or only the SOA record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Whole,
    Changes,
    Serial,
}

impl Sent {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Sent::Whole => "whole",
            Sent::Changes => "changes",
            Sent::Serial => "serial",
        }
    }
}

/// The messages that answer `query`, each without a signature and with room for `overhead` more bytes. `None` when nothing is
/// served, or a record is too large for any message.
pub(crate) fn messages(
    history: &History,
    query: &[u8],
    wanted: Wanted,
    overhead: usize,
) -> Option<(Sent, Vec<Vec<u8>>)> {
    let zone = history.current()?;
    let soa = soa(zone)?;
    let mut records = Vec::new();
    let sent = match (wanted, zone.serial()) {
        (Wanted::Version, _) => Sent::Serial,
        // Who has this version, or a newer one from another of the zone's name servers, is only told which it is.
        (Wanted::Since(theirs), Some(ours)) if !is_newer(ours, theirs) => Sent::Serial,
        (Wanted::Since(serial), _) => match history.since(serial) {
            Some(steps) => {
                records.push(soa.clone());
                records.extend(steps.flat_map(|step| step.records.iter().cloned()));
                Sent::Changes
            }
            None => Sent::Whole,
        },
        (Wanted::All, _) => Sent::Whole,
    };
    if sent == Sent::Whole {
        records.push(soa.clone());
        records.extend(self::records(zone));
    }
    records.push(soa);
    let messages = pack(query, &records, overhead);
    let fit = |message: &Vec<u8>| message.len() + overhead <= usize::from(u16::MAX);
    messages.iter().all(fit).then_some((sent, messages))
}

fn soa(zone: &Zone) -> Option<Record> {
    let set = zone.get(zone.apex(), rtype::SOA)?;
    Some(Record {
        owner: zone.apex().clone(),
        rtype: rtype::SOA,
        ttl: set.ttl,
        data: set.data.first()?.clone(),
    })
}

/// All but the SOA record.
fn records(zone: &Zone) -> impl Iterator<Item = Record> {
    zone.sets().flat_map(|(owner, sets)| {
        sets.iter()
            .filter(|(rtype, _)| **rtype != rtype::SOA)
            .flat_map(move |(rtype, set)| {
                set.data.iter().map(move |data| Record {
                    owner: owner.clone(),
                    rtype: *rtype,
                    ttl: set.ttl,
                    data: data.clone(),
                })
            })
    })
}

fn pack(query: &[u8], records: &[Record], overhead: usize) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut left = records;
    while !left.is_empty() {
        let mut message = head(query);
        let mut count = 0u16;
        while let Some((record, rest)) = left.split_first() {
            let size = record.owner.wire().len() + 10 + record.data.len();
            if count > 0 && message.len() + size + overhead > LONGEST {
                break;
            }
            message.extend_from_slice(record.owner.wire());
            message.extend_from_slice(&record.rtype.to_be_bytes());
            message.extend_from_slice(&CLASS_IN.to_be_bytes());
            message.extend_from_slice(&record.ttl.to_be_bytes());
            let length = u16::try_from(record.data.len()).unwrap_or(u16::MAX);
            message.extend_from_slice(&length.to_be_bytes());
            message.extend_from_slice(&record.data);
            count += 1;
            left = rest;
        }
        message[6..8].copy_from_slice(&count.to_be_bytes());
        messages.push(message);
    }
    messages
}

/// The header's four counts; `None` when there is no whole header.
pub(crate) fn counts(message: &[u8]) -> Option<[u16; 4]> {
    let (_, counts) = message.first_chunk::<12>()?.split_first_chunk::<4>()?;
    let (counts, _) = counts.as_chunks::<2>();
    Some([0, 1, 2, 3].map(|at| counts.get(at).map_or(0, |bytes| u16::from_be_bytes(*bytes))))
}

/// Header and question of an answer; the header alone where there is not just one whole question.
pub(crate) fn head(query: &[u8]) -> Vec<u8> {
    let asks_one = counts(query).is_some_and(|[questions, ..]| questions == 1);
    let end = crate::tsig::name_end(query, 12).filter(|_| asks_one);
    let question = end.and_then(|end| query.get(12..end + 4));
    let mut message = query.get(..12.min(query.len())).unwrap_or_default().to_vec();
    message.resize(12, 0);
    // A response, authoritative; nothing in any section but the question yet.
    message[2] = 0x84;
    message[3] = 0;
    message[4..12].fill(0);
    if let Some(question) = question {
        message[5] = 1;
        message.extend_from_slice(question);
    }
    message
}

/// The serial of the SOA record in the section for authorities, where a request for changes has it (RFC 1995 section 3).
fn serial_of_authority(query: &[u8], at: usize) -> Option<u32> {
    let word = |at: usize| Some(u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]));
    if word(8)? != 1 {
        return None;
    }
    let end = crate::tsig::name_end(query, at)?;
    if word(end)? != rtype::SOA {
        return None;
    }
    let data = end + 10;
    let after = data + usize::from(word(end + 8)?);
    let names = crate::tsig::name_end(query, crate::tsig::name_end(query, data)?)?;
    let numbers: &[u8; 20] = query.get(names..after)?.try_into().ok()?;
    Some(u32::from_be_bytes([
        numbers[0], numbers[1], numbers[2], numbers[3],
    ]))
}

/// The only class here.
pub(crate) const CLASS_IN: u16 = 1;
/// Bytes of a message, unless one record alone has more.
const LONGEST: usize = 16 * 1024;
/// Versions that are remembered, and records of all of them. Who has an older one gets the whole zone.
const REMEMBERED: usize = 100;
const REMEMBERED_RECORDS: usize = 50_000;

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
