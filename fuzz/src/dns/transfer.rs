//! The zone for other name servers: what they make of the messages is the zone that is served, whichever version they had.

use std::collections::BTreeSet;
use std::sync::Arc;

use pontoon_zone::{Name, Zone, rtype};

use super::message::{Record, sections, word};
use super::tsig::{KEYS, NOW};
use crate::chosen;
use crate::transfer::{History, Wanted, messages};
use crate::tsig::Signer;

const SOA: &[u8] = b"\x01n\x01z\0\x01h\x01z\0\0\0\0\0\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05";
const NAMES: [&str; 8] = ["z", "a.z", "b.z", "*.b.z", "A.c.z", "d.e.f.g.z", "x.z", "y.z"];

/// The first bytes choose versions of a zone and who asks; the rest, when it is not used up, is the question as it comes.
pub fn answers(data: &[u8]) {
    let Some(([how, asked, room, start], mut rest)) = chosen::<4>(data) else {
        return;
    };
    let mut history = History::default();
    let mut serials = Vec::new();
    let mut serial = u32::from(start) << 24;
    for _ in 0..=how & 3 {
        let Some((zone, left)) = version(serial, rest) else {
            break;
        };
        serials.push(serial);
        history.push(Arc::new(zone));
        serial = serial.wrapping_add(1 + (u32::from(left.first().copied().unwrap_or(0)) << 22));
        rest = left;
    }
    let Some(current) = history.current().cloned() else {
        return;
    };
    let overhead = usize::from(room) * 4;
    if how & 4 != 0 {
        let wanted = Wanted::of(rest, how & 8 != 0);
        if let Some((_, wanted)) = wanted
            && let Some((_, messages)) = messages(&history, rest, wanted, overhead)
        {
            for message in messages {
                assert!(message.len() + overhead <= usize::from(u16::MAX));
                assert_eq!((&message[..2], message[2]), (&rest[..2], 0x84));
                assert!(sections(&message).is_some());
            }
        }
        return;
    }
    // One that was never served, or one of those that were.
    let theirs = serials.get(usize::from(asked)).copied().unwrap_or(77);
    let changed = fetch(&history, Some(theirs));
    let whole: BTreeSet<Record> = whole(&fetch(&history, None));
    assert_eq!(whole, records(&current));
    // Without what the version had nothing can be made of the changes: it is made again from its own messages.
    let before = serials.iter().position(|serial| *serial == theirs);
    let before = before.and_then(|number| again(data, number));
    match (&changed[..], before) {
        ([_], _) => {
            assert!(theirs == *serials.last().unwrap_or(&0) || theirs == 77 || is_older(&current, theirs))
        }
        ([_, second, ..], Some(before)) if second.rtype == rtype::SOA => {
            assert_eq!(apply(records(&before), &changed), whole);
        }
        _ => assert_eq!(self::whole(&changed), whole),
    }
}

fn is_older(current: &Zone, theirs: u32) -> bool {
    current
        .serial()
        .is_some_and(|ours| ours.wrapping_sub(theirs) as i32 <= 0)
}

/// The version with this number.
fn again(data: &[u8], number: usize) -> Option<Zone> {
    let ([_, _, _, start], mut rest) = chosen::<4>(data)?;
    let mut serial = u32::from(start) << 24;
    for _ in 0..number {
        let (_, left) = version(serial, rest)?;
        serial = serial.wrapping_add(1 + (u32::from(left.first().copied().unwrap_or(0)) << 22));
        rest = left;
    }
    version(serial, rest).map(|(zone, _)| zone)
}

/// A zone of up to 15 sets of records, three bytes each.
fn version(serial: u32, data: &[u8]) -> Option<(Zone, &[u8])> {
    let (count, mut rest) = data.split_first()?;
    let apex: Name = "z".parse().ok()?;
    let mut zone = Zone::new(apex.clone());
    zone.add(apex, rtype::SOA, 60, SOA.into());
    zone.set_serial(serial);
    for _ in 0..count & 15 {
        let (&[place, number, value], left) = rest.split_first_chunk::<3>()?;
        let owner: Name = NAMES[usize::from(place & 7)].parse().ok()?;
        // A large set now and then, so that there are several messages.
        let many = match number {
            255 => 40,
            _ => u16::from(number & 7),
        };
        for n in 0..many {
            let text = vec![value; usize::from(value)];
            let data = [&n.to_be_bytes()[..], &text].concat();
            let rtype = [rtype::TXT, rtype::A, 999][usize::from(place >> 3) % 3];
            zone.add(owner.clone(), rtype, u32::from(number >> 3), data.into());
        }
        rest = left;
    }
    Some((zone, rest))
}

/// What somebody with the key gets.
fn fetch(history: &History, since: Option<u32>) -> Vec<Record> {
    let mut query = b"\x12\x34\0\0\0\x01\0\0\0\0\0\0\x01z\0\0\xFC\0\x01".to_vec();
    if let Some(serial) = since {
        query[16] = 0xFB;
        query[9] = 1;
        let mut soa = SOA.to_vec();
        soa[10..14].copy_from_slice(&serial.to_be_bytes());
        query.extend_from_slice(b"\x01z\0\0\x06\0\x01\0\0\0\0\0");
        query.push(soa.len() as u8);
        query.extend_from_slice(&soa);
    }
    let key = KEYS.first().expect("a key");
    let mut asked = Signer::new(key);
    asked.sign(&mut query, NOW);
    let opened = KEYS.open(&query, NOW).expect("signed just now");
    let (name, wanted) = Wanted::of(&opened.message, true).expect("a good question");
    assert_eq!(name, "z".parse().expect("a name"));
    let (_, messages) = messages(history, &opened.message, wanted, key.overhead()).expect("a zone");
    let mut signer = opened.signer();
    let mut records = Vec::new();
    for (number, plain) in messages.into_iter().enumerate() {
        let mut message = plain.clone();
        signer.sign(&mut message, NOW);
        assert!(message.len() <= usize::from(u16::MAX) && word(&message, 10) == Some(1));
        if number == 0 {
            assert_eq!(asked.verify(&message, NOW).as_ref(), Ok(&plain));
        }
        let [answers, authorities, more] = sections(&plain).expect("a whole message");
        assert!(!answers.is_empty() && authorities.is_empty() && more.is_empty());
        records.extend(answers);
    }
    // Both ends are the present version (RFC 5936 section 2.2, RFC 1995 section 4).
    assert!(records.first().is_some_and(|first| first.rtype == rtype::SOA));
    assert_eq!(records.first(), records.last());
    records
}

/// The zone of an answer that holds all of it.
fn whole(answer: &[Record]) -> BTreeSet<Record> {
    let set: BTreeSet<Record> = answer.iter().cloned().collect();
    assert_eq!(set.len() + 1, answer.len(), "no record but the SOA comes twice");
    set
}

/// What becomes of a version by changes.
fn apply(mut zone: BTreeSet<Record>, changes: &[Record]) -> BTreeSet<Record> {
    let inner = changes.get(1..changes.len() - 1).unwrap_or_default();
    let mut takes = false;
    for record in inner {
        takes ^= record.rtype == rtype::SOA;
        match takes {
            true => assert!(zone.remove(record), "what goes was there: {record:?}"),
            false => assert!(
                zone.insert(record.clone()),
                "what comes was not there: {record:?}"
            ),
        }
    }
    zone
}

fn records(zone: &Zone) -> BTreeSet<Record> {
    let sets = zone.sets().flat_map(|(owner, sets)| {
        sets.iter().flat_map(move |(rtype, set)| {
            set.data.iter().map(move |data| Record {
                owner: owner.wire().to_vec(),
                rtype: *rtype,
                class: 1,
                ttl: set.ttl,
                data: data.to_vec(),
            })
        })
    });
    sets.collect()
}
