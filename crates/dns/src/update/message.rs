//! The messages of an update (RFC 2136), and the addresses in what is answered.

use std::net::IpAddr;

use pontoon_zone::{Name, rtype};

use crate::transfer::{CLASS_IN, counts};
use crate::tsig::name_end;

/// Asks for the records of a name.
pub(crate) fn query(name: &Name, rtype: u16) -> Vec<u8> {
    let mut query = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0].to_vec();
    query.extend_from_slice(name.wire());
    query.extend_from_slice(&rtype.to_be_bytes());
    query.extend_from_slice(&CLASS_IN.to_be_bytes());
    query
}

/// A name and a type, and the addresses that it shall have.
pub(crate) type Set<'a> = (&'a (Name, u16), &'a Vec<IpAddr>);

/// Puts these sets in the place of what the names have: as many in a message as fit, each whole.
pub(crate) fn updates(zone: &Name, ttl: u32, sets: &[Set<'_>]) -> Vec<Vec<u8>> {
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for set in sets {
        let (records, count) = replacement(set, ttl);
        match messages.last_mut() {
            Some(message) if message.len() + records.len() <= LONGEST => add(message, &records, count),
            _ => {
                let mut message = head(zone);
                add(&mut message, &records, count);
                messages.push(message);
            }
        }
    }
    messages
}

fn head(zone: &Name) -> Vec<u8> {
    let mut message = [0, 0, UPDATE, 0, 0, 1, 0, 0, 0, 0, 0, 0].to_vec();
    message.extend_from_slice(zone.wire());
    message.extend_from_slice(&rtype::SOA.to_be_bytes());
    message.extend_from_slice(&CLASS_IN.to_be_bytes());
    message
}

fn add(message: &mut Vec<u8>, records: &[u8], count: u16) {
    let before = counts(message).map_or(0, |[_, _, updates, _]| updates);
    message[8..10].copy_from_slice(&before.saturating_add(count).to_be_bytes());
    message.extend_from_slice(records);
}

/// The records that make a set what it shall be, and their number.
fn replacement(((name, rtype), addresses): &Set<'_>, ttl: u32) -> (Vec<u8>, u16) {
    let (mut records, mut count) = (Vec::new(), 0u16);
    let mut record = |class: u16, ttl: u32, data: &[u8]| {
        records.extend_from_slice(name.wire());
        records.extend_from_slice(&rtype.to_be_bytes());
        records.extend_from_slice(&class.to_be_bytes());
        records.extend_from_slice(&ttl.to_be_bytes());
        records.extend_from_slice(&(data.len() as u16).to_be_bytes());
        records.extend_from_slice(data);
        count = count.saturating_add(1);
    };
    // All that is there goes first (section 2.5.2), in the same message: nobody sees the name without addresses.
    record(CLASS_ANY, 0, &[]);
    for address in *addresses {
        match address {
            IpAddr::V4(address) => record(CLASS_IN, ttl, &address.octets()),
            IpAddr::V6(address) => record(CLASS_IN, ttl, &address.octets()),
        }
    }
    (records, count)
}

/// The addresses of this type in the answer section, with their TTLs.
pub(crate) fn addresses(message: &[u8], rtype: u16) -> Option<Vec<(IpAddr, u32)>> {
    let word = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let [questions, answers, ..] = counts(message)?;
    let mut at = 12;
    for _ in 0..questions {
        at = name_end(message, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        let end = name_end(message, at)?;
        let data = message.get(end + 10..end + 10 + usize::from(word(end + 8)?))?;
        let ttl = u32::from(word(end + 4)?) << 16 | u32::from(word(end + 6)?);
        if word(end)? == rtype {
            let address = match data.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(data).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(data).ok()?),
            };
            found.push((address, ttl));
        } else {
            // An alias: the addresses that follow are another name's.
            return Some(vec![(IpAddr::from([0, 0, 0, 0]), 0)]);
        }
        at = end + 10 + data.len();
    }
    Some(found)
}

/// Bytes of a message, unless one set alone has more: what TCP carries (RFC 1035 section 4.2.2), less than a signature.
const LONGEST: usize = 60_000;
const UPDATE: u8 = 5 << 3;
const CLASS_ANY: u16 = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_that_do_not_fit_into_one_message_are_told_in_several() {
        let zone: Name = "z".parse().unwrap();
        let addresses: Vec<IpAddr> = (0..100u16)
            .map(|n| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]))
            .collect();
        let places: Vec<(Name, u16)> = (0..20)
            .map(|n| (format!("{n}.{}.z", "x".repeat(60)).parse().unwrap(), rtype::AAAA))
            .collect();
        let sets: Vec<Set<'_>> = places.iter().map(|place| (place, &addresses)).collect();
        let messages = updates(&zone, 60, &sets);
        assert!(messages.len() > 1);
        let mut records = 0;
        for message in &messages {
            assert!(message.len() <= LONGEST, "{}", message.len());
            let [zones, required, updates, more] = counts(message).unwrap();
            assert_eq!((zones, required, updates % 101, more), (1, 0, 0, 0), "whole sets");
            records += updates;
        }
        assert_eq!(records, 20 * 101);
        assert_eq!(updates(&zone, 60, &sets[..2]).len(), 1);
        assert_eq!(updates(&zone, 60, &[]), Vec::<Vec<u8>>::new());
    }
}
