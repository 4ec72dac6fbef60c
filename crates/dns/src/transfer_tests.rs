use std::collections::BTreeSet;

use super::*;

fn zone(serial: u32, addresses: &[u8]) -> Arc<Zone> {
    let apex: Name = "z".parse().unwrap();
    let mut text = format!("@ 60 SOA a b {serial} 2 3 4 5\n@ 60 NS n\n*.w 60 TXT \"x\"\n");
    for last in addresses {
        text += &format!("n 60 A 192.0.2.{last}\n");
    }
    let loaded = pontoon_zone::load(&apex, "test", text.as_bytes(), &mut |_| Err(String::new()));
    Arc::new(loaded.unwrap())
}

fn history(zones: &[Arc<Zone>]) -> History {
    let mut history = History::default();
    zones.iter().for_each(|zone| history.push(Arc::clone(zone)));
    history
}

fn query(rtype: u8, since: Option<u32>) -> Vec<u8> {
    let mut query = b"\0\x07\0\0\0\x01\0\0\0\0\0\0\x01Z\0\0".to_vec();
    query.extend_from_slice(&[rtype, 0, 1]);
    if let Some(serial) = since {
        query[9] = 1;
        query.extend_from_slice(b"\xC0\x0C\0\x06\0\x01\0\0\0\0\0\x16\0\0");
        query.extend_from_slice(&serial.to_be_bytes());
        query.extend_from_slice(&[0; 16]);
    }
    query
}

/// The records of all messages.
fn read(messages: &[Vec<u8>]) -> Vec<Record> {
    let mut found = Vec::new();
    for message in messages {
        assert!(message.len() <= LONGEST, "{}", message.len());
        let word = |at: usize| usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
        assert_eq!((word(2), word(4), word(8), word(10)), (0x8400, 1, 0, 0));
        let mut at = 12 + 3 + 4;
        for _ in 0..word(6) {
            let end = crate::tsig::name_end(message, at).unwrap();
            let after = end + 10 + word(end + 8);
            found.push(Record {
                owner: Name::from_wire(&message[at..end]).unwrap(),
                rtype: word(end) as u16,
                ttl: word(end + 6) as u32,
                data: message[end + 10..after].into(),
            });
            at = after;
        }
        assert_eq!(at, message.len());
    }
    found
}

fn ask(history: &History, query: &[u8]) -> Vec<Record> {
    let (name, wanted) = Wanted::of(query, true).unwrap();
    assert_eq!(name, "z".parse().unwrap());
    read(&messages(history, query, wanted, 100).unwrap().1)
}

#[test]
fn the_whole_zone_begins_and_ends_with_its_soa() {
    let many: Vec<u8> = (0..=255).collect();
    let zone = zone(7, &many);
    let all = ask(&history(&[Arc::clone(&zone)]), &query(252, None));
    let soa = soa(&zone).unwrap();
    assert_eq!((all.first(), all.last()), (Some(&soa), Some(&soa)));
    let inner: BTreeSet<_> = all[1..all.len() - 1].iter().cloned().collect();
    assert_eq!(inner, records(&zone).collect());
    assert_eq!(inner.len(), all.len() - 2);
    // More than one message holds.
    let mut large = (*zone).clone();
    for number in 0..2_000u32 {
        let name = format!("n{number}.z").parse().unwrap();
        large.add(name, 16, 60, [&[250][..], &[b'x'; 250]].concat().into());
    }
    let (_, sent) = messages(&history(&[Arc::new(large)]), &query(252, None), Wanted::All, 100).unwrap();
    assert!(sent.len() > 30 && read(&sent).len() == 258 + 2_000 + 2);
}

#[test]
fn the_changes_since_a_version_make_the_present_one_of_it() {
    let versions = [zone(7, &[1, 2]), zone(8, &[2]), zone(11, &[2, 3])];
    let history = history(&versions);
    let is_soa = |record: &&Record| record.rtype == rtype::SOA;
    for (number, old) in versions[..2].iter().enumerate() {
        let told = ask(&history, &query(251, old.serial()));
        let new = soa(&versions[2]).unwrap();
        assert_eq!((told.first(), told.last()), (Some(&new), Some(&new)));
        // Between them, for each step: the SOA before, what is gone, the SOA after, what has come.
        let steps = &told[1..told.len() - 1];
        let soas: Vec<_> = steps.iter().filter(is_soa).cloned().collect();
        let wanted = versions[number..].windows(2).flatten();
        assert_eq!(soas, wanted.map(|zone| soa(zone).unwrap()).collect::<Vec<_>>());
        let mut made: BTreeSet<_> = records(old).collect();
        let mut coming = true;
        for record in steps {
            match (record.rtype == rtype::SOA, coming) {
                (true, _) => coming = !coming,
                (false, true) => assert!(made.insert(record.clone()), "{record:?}"),
                (false, false) => assert!(made.remove(record), "{record:?}"),
            }
        }
        assert_eq!(made, records(&versions[2]).collect());
    }
    for present_or_newer in [11, 12, 1000] {
        let told = ask(&history, &query(251, Some(present_or_newer)));
        assert_eq!(told, [soa(&versions[2]).unwrap()]);
    }
    for unknown in [9, 6] {
        let told = ask(&history, &query(251, Some(unknown)));
        assert_eq!(told, ask(&history, &query(252, None)), "all of it");
    }
}

#[test]
fn another_ttl_is_a_change() {
    let mut other = (*zone(8, &[1])).clone();
    let mut set = other.get(&"n.z".parse().unwrap(), rtype::A).unwrap().clone();
    set.ttl = 20;
    other.replace("n.z".parse().unwrap(), rtype::A, set);
    let told = ask(&history(&[zone(7, &[1]), Arc::new(other)]), &query(251, Some(7)));
    let ttls = told
        .iter()
        .filter(|record| record.rtype == rtype::A)
        .map(|record| record.ttl);
    assert_eq!(ttls.collect::<Vec<_>>(), [60, 20]);
}

#[test]
fn a_serial_that_goes_back_makes_older_versions_worthless() {
    let mut history = history(&[zone(7, &[1]), zone(8, &[2])]);
    history.push(zone(3, &[9]));
    assert_eq!(
        ask(&history, &query(251, Some(2))),
        ask(&history, &query(252, None))
    );
    for serial in 4..200 {
        history.push(zone(serial, &[9]));
    }
    assert_eq!(history.steps.len(), REMEMBERED);
    let many = |last: u8| (0..20_000u32).map(move |number| (number, last));
    for (serial, last) in [(1_000, 1), (1_001, 2), (1_002, 1)] {
        let mut large = (*zone(serial, &[9])).clone();
        for (number, last) in many(last) {
            large.add(
                format!("n{number}.z").parse().unwrap(),
                1,
                60,
                Box::from([192, 0, 2, last]),
            );
        }
        history.push(Arc::new(large));
    }
    assert_eq!(
        history.steps.len(),
        1,
        "two steps have more records than are kept"
    );
    history.clear();
    assert!(messages(&history, &query(252, None), Wanted::All, 100).is_none());
}

#[test]
fn over_udp_the_version_is_told_and_no_zone() {
    let (_, wanted) = Wanted::of(&query(251, Some(1)), false).unwrap();
    assert_eq!(wanted, Wanted::Version);
    assert_eq!(Wanted::of(&query(252, None), false), None);
}

#[test]
fn what_is_no_such_question_is_none() {
    let good = query(251, Some(5));
    assert!(Wanted::of(&good, true).is_some());
    for cut in 0..good.len() {
        assert_eq!(Wanted::of(&good[..cut], true), None, "{cut}");
    }
    for (at, value) in [
        (2, 0x80),
        (2, 0x28),
        (5, 2),
        (7, 1),
        (9, 0),
        (9, 2),
        (18, 3),
        (22, 1),
    ] {
        let mut wrong = good.clone();
        wrong[at] = value;
        assert_eq!(Wanted::of(&wrong, true), None, "{at}");
    }
}
