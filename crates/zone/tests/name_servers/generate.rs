//! Zones and questions out of a seed. Names are few and short, so that they meet: a question lies often at, above, below
//! and beside what is there.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

const LABELS: [&str; 6] = ["a", "b", "c", "ns", "www", "_x"];

/// A name in the zone, up to four labels below it.
fn name(dice: &mut Dice, zone: &str, wildcards: bool) -> String {
    let mut labels = Vec::new();
    for _ in 0..dice.below(4) {
        labels.push(dice.of(&LABELS));
    }
    if wildcards && dice.below(5) == 0 {
        labels.insert(0, "*");
    }
    labels.push(zone);
    labels.join(".")
}

/// The text of a zone that every server takes.
pub fn zone(dice: &mut Dice, zone: &str) -> String {
    let mut text = format!(
        "$TTL 300\n@ 3600 SOA ns.{zone}. host.{zone}. 1 7200 900 1209600 {}\n@ NS ns.{zone}.\n@ NS ns.other.test.\nns A 192.0.2.53\n",
        60 + dice.below(7200)
    );
    // What each name is, decided once: an alias has nothing beside it, and nothing is below a DNAME.
    let mut kinds: BTreeMap<String, usize> =
        BTreeMap::from([(zone.to_owned(), 0), (format!("ns.{zone}"), 0)]);
    for _ in 0..8 + dice.below(25) {
        let owner = name(dice, zone, true);
        let wild = owner.starts_with("*.");
        let below = |above: &str| owner.ends_with(&format!(".{above}"));
        if kinds.iter().any(|(above, kind)| *kind == 3 && below(above)) {
            continue;
        }
        let fresh = !kinds.contains_key(&owner);
        let parent_of_some = kinds.keys().any(|other| other.ends_with(&format!(".{owner}")));
        let kind = match dice.below(10) {
            0..6 => 0,
            6 | 7 => 1,
            8 if !wild => 2,
            9 if !wild && !parent_of_some => 3,
            _ => 0,
        };
        let server = format!("ns.{owner}");
        let kind = match kind {
            _ if !fresh => kinds[&owner],
            2 if kinds.get(&server).is_some_and(|kind| *kind != 0) => 0,
            kind => kind,
        };
        if !fresh && kind != 0 {
            continue;
        }
        kinds.insert(owner.clone(), kind);
        let target = match dice.below(4) {
            0 => "www.other.test".to_owned(),
            _ => name(dice, zone, false),
        };
        match kind {
            0 => data(dice, &mut text, &owner, &target),
            1 => writeln!(text, "{owner}. CNAME {target}.").unwrap(),
            2 => {
                writeln!(text, "{owner}. NS {server}.\n{owner}. NS {target}.").unwrap();
                writeln!(text, "{server}. A 192.0.2.{}", dice.below(256)).unwrap();
                kinds.insert(server, 0);
            }
            _ => writeln!(text, "{owner}. DNAME {target}.").unwrap(),
        }
    }
    text
}

fn data(dice: &mut Dice, text: &mut String, owner: &str, target: &str) {
    for _ in 0..1 + dice.below(3) {
        let number = dice.below(256);
        match dice.below(8) {
            0..3 => writeln!(text, "{owner}. A 192.0.2.{number}"),
            3 => writeln!(text, "{owner}. AAAA 2001:db8::{number:x}"),
            4 => writeln!(
                text,
                "{owner}. TXT \"text {number}\" \"{}\"",
                "x".repeat(number % 200)
            ),
            5 => writeln!(text, "{owner}. MX {number} {target}."),
            6 => writeln!(text, "{owner}. SRV 1 {number} 443 {target}."),
            _ => writeln!(text, "{owner}. CAA 0 issue \"ca{number}.example\""),
        }
        .unwrap();
    }
}

/// A question to a zone with that text: name and type.
pub fn question(dice: &mut Dice, zone: &str, text: &str) -> (String, u16) {
    let owners: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once(". "))
        .map(|(owner, _)| owner)
        .filter(|owner| owner.ends_with(zone) && !owner.contains(' '))
        .collect();
    let name = match dice.below(20) {
        0 => "elsewhere.example".to_owned(),
        1 => zone.to_owned(),
        2 => format!("x{}", name(dice, zone, false)),
        3..10 => dice.of(&owners).to_owned(),
        10..13 => format!("{}.{}", dice.of(&LABELS), dice.of(&owners)),
        _ => name(dice, zone, true),
    };
    const TYPES: [u16; 14] = [1, 1, 1, 28, 16, 15, 2, 6, 5, 39, 33, 257, 43, 99];
    (name, TYPES[dice.below(TYPES.len())])
}
