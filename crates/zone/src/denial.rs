//! Proofs that there is nothing, made for one name at a time: an NSEC record that covers that name and nothing else (RFC
//! 9824). So nobody can list the zone by its proofs, and no name's proof depends on its neighbours.

use crate::name::{self, MAX};
use crate::rr::rtype;

/// The data of the NSEC record at `owner`, where there are records of `types`.
pub(crate) fn nsec(apex: &[u8], owner: &[u8], types: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut data = next(apex, owner);
    let mut types: Vec<u16> = types.into_iter().chain([rtype::RRSIG, rtype::NSEC]).collect();
    types.sort_unstable();
    types.dedup();
    // RFC 4034 section 4.1.2: windows of 256 types, each a bitmap without the zeros at its end.
    for window in types.chunk_by(|one, other| one >> 8 == other >> 8) {
        let mut bits = [0u8; 32];
        let mut length = 0;
        for rtype in window {
            let at = usize::from(rtype & 0xFF) / 8;
            bits[at] |= 0x80 >> (rtype & 7);
            length = at + 1;
        }
        let number = window.first().map_or(0, |rtype| (rtype >> 8) as u8);
        data.extend_from_slice(&[number, length as u8]);
        data.extend_from_slice(&bits[..length]);
    }
    data
}

/// The proof that `owner` does not exist (RFC 9824 section 3.1).
pub(crate) fn no_name(apex: &[u8], owner: &[u8]) -> Vec<u8> {
    nsec(apex, owner, [rtype::NXNAME])
}

/// The data of another name's NSEC record, with this name's successor: a wildcard's for a name that it stands for.
pub(crate) fn for_name(apex: &[u8], owner: &[u8], data: &[u8]) -> Vec<u8> {
    let bitmap = name::length(data).and_then(|length| data.get(length..));
    let mut data = next(apex, owner);
    data.extend_from_slice(bitmap.unwrap_or_default());
    data
}

/// The name right after `owner` in canonical order (RFC 4034 section 6.1), or one that is as good: nothing is between.
fn next(apex: &[u8], owner: &[u8]) -> Vec<u8> {
    if owner.len() + 2 <= MAX {
        return [b"\x01\0", owner].concat();
    }
    // Too long for a label below: the next name at its side. Labels are compared byte by byte from the front.
    let mut rest = owner;
    while rest.len() > apex.len() {
        let Some(parent) = name::parent(rest) else { break };
        let label = rest.get(1..rest.len() - parent.len()).unwrap_or_default();
        let mut label = label.to_vec();
        while label.pop_if(|last| *last == 0xFF).is_some() {}
        if let Some(last) = label.last_mut() {
            // The letters in upper case are the same as those in lower case, which come later.
            *last = if *last == b'@' { b'[' } else { *last + 1 };
            let mut next = vec![label.len() as u8];
            next.extend_from_slice(&label);
            next.extend_from_slice(parent);
            return next;
        }
        rest = parent;
    }
    // The last name of the zone: the first comes next.
    apex.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(text: &str) -> Vec<u8> {
        text.parse::<crate::Name>().unwrap().wire().to_vec()
    }

    #[test]
    fn a_bitmap_names_the_types() {
        let (apex, owner) = (wire("example.com"), wire("a.example.com"));
        let data = nsec(&apex, &owner, [rtype::A, rtype::MX, rtype::CAA]);
        let mut wanted = wire(r"\000.a.example.com");
        // RFC 4034 section 4.3 has A, MX, RRSIG and NSEC too.
        wanted.extend_from_slice(&[0, 6, 0x40, 1, 0, 0, 0, 3, 1, 1, 0x40]);
        assert_eq!(data, wanted);
        let none = no_name(&apex, &owner);
        assert_eq!(
            &none[none.len() - 19..],
            [0, 17, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80]
        );
        let other = wire("b.example.com");
        assert_eq!(
            for_name(&apex, &other, &data),
            nsec(&apex, &other, [rtype::A, rtype::MX, rtype::CAA])
        );
    }

    #[test]
    fn the_longest_names_have_a_next_one_too() {
        let apex = wire("z");
        let long = |last: u8, label: usize| {
            let mut name = vec![last; label + 1];
            name[0] = label as u8;
            for _ in 0..3 {
                name.extend_from_slice(&[&[61][..], &[60; 61]].concat());
            }
            name.extend_from_slice(b"\x01x\x01z\0");
            name
        };
        for (last, after) in [(b'a', b'b'), (b'@', b'['), (0, 1)] {
            let owner = long(last, 63);
            assert!(owner.len() + 2 > MAX && owner.len() <= MAX, "{}", owner.len());
            let next = next(&apex, &owner);
            assert_eq!((next[63], next.len()), (after, owner.len()));
            assert_eq!(crate::name::length(&next), Some(next.len()));
        }
        // A label that is full of the last byte: its parent's next.
        let owner = long(0xFF, 63);
        assert_eq!(next(&apex, &owner)[..2], [61, 60]);
        let mut owner = vec![63];
        owner.extend_from_slice(&[0xFF; 63]);
        let owner = [&owner[..], &owner, &owner, &[59], &[0xFF; 59], b"\x01z\0"].concat();
        assert_eq!(owner.len(), 255);
        assert_eq!(next(&apex, &owner), apex);
    }
}
