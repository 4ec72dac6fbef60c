//! Addresses for a name server elsewhere, and what it answers.

use std::net::IpAddr;

use pontoon_zone::{Name, rtype};

use super::message::{Record, sections, word};
use super::tsig::{KEYS, NOW};
use crate::chosen;
use crate::tsig::Signer;
use crate::update_message::{Set, addresses, query, updates};

/// The first byte chooses: the rest is the answer of a name server, or makes sets that it is told.
pub fn messages(data: &[u8]) {
    let Some(([how], rest)) = chosen::<1>(data) else {
        return;
    };
    match how & 1 {
        0 => answer(rest, [rtype::A, rtype::AAAA][usize::from(how >> 7)]),
        _ => update(rest, u32::from(how) << 8),
    }
}

/// Any answer: addresses that are in it, or none.
fn answer(message: &[u8], rtype: u16) {
    let Some(found) = addresses(message, rtype) else {
        return;
    };
    assert!(found.len() <= usize::from(word(message, 6).unwrap_or(0)));
    let Some([answers, ..]) = sections(message) else {
        return;
    };
    if answers.iter().all(|record| record.rtype == rtype) {
        let there = answers.iter().map(|record| (record.data.clone(), record.ttl));
        let found = found.into_iter().map(|(address, ttl)| (bytes(address), ttl));
        assert!(found.eq(there));
    }
}

/// Any sets: each is told once and whole, and nothing else is.
fn update(data: &[u8], ttl: u32) {
    let zone: Name = "z".parse().expect("a name");
    let mut places = Vec::new();
    for (number, &[length, count]) in data.as_chunks::<2>().0.iter().take(24).enumerate() {
        let Some(name) = name(number as u8, length) else {
            return;
        };
        let v4 = length & 0x80 == 0;
        let rtype = if v4 { rtype::A } else { rtype::AAAA };
        let address = |n: u8| match v4 {
            true => IpAddr::from([192, 0, 2, n]),
            false => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)]),
        };
        // Mostly few, so that there are many executions.
        let count = if count < 240 { count & 7 } else { count };
        places.push(((name, rtype), (0..count).map(address).collect::<Vec<_>>()));
    }
    let sets: Vec<Set<'_>> = places
        .iter()
        .map(|(place, addresses)| (place, addresses))
        .collect();
    let mut told = Vec::new();
    for mut message in updates(&zone, ttl, &sets) {
        let [required, records, more] = sections(&message).expect("a whole message");
        assert!(required.is_empty() && more.is_empty() && !records.is_empty());
        assert_eq!(
            (message[2], &message[12..19]),
            (5 << 3, &b"\x01z\0\0\x06\0\x01"[..])
        );
        // Whole sets: what a name had goes first.
        assert!(records.first().is_some_and(|first| first.class == 255));
        told.extend(records);
        sign(&mut message);
    }
    let wanted = sets.iter().flat_map(|((name, rtype), addresses)| {
        let record = |class: u16, ttl: u32, data: Vec<u8>| Record {
            owner: name.wire().to_vec(),
            rtype: *rtype,
            class,
            ttl,
            data,
        };
        let gone = record(255, 0, Vec::new());
        let come = addresses
            .iter()
            .map(move |address| record(1, ttl, bytes(*address)));
        std::iter::once(gone).chain(come)
    });
    assert!(wanted.eq(told));
    for ((name, rtype), _) in &sets {
        let mut question = query(name, *rtype);
        assert!(sections(&question).is_some());
        sign(&mut question);
    }
}

/// It goes over TCP, and its signature is good.
fn sign(message: &mut Vec<u8>) {
    let plain = message.clone();
    Signer::new(KEYS.first().expect("a key")).sign(message, NOW);
    assert!(message.len() <= usize::from(u16::MAX), "{}", message.len());
    assert_eq!(KEYS.open(message, NOW).expect("signed just now").message, plain);
}

/// A name of its own, of some length.
fn name(number: u8, length: u8) -> Option<Name> {
    let label = [&[number][..], &vec![b'x'; usize::from(length & 0x1F)]].concat();
    let mut name = "z".parse::<Name>().ok()?;
    for _ in 0..=(length >> 5) & 3 {
        name = name.child(&label)?;
    }
    Some(name)
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
