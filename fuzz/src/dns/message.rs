//! Reads messages, strictly and on its own: what the code under test writes is held against this.

use pontoon_zone::rtype;

/// A record of a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Record {
    /// Names here and in the data are in wire form without compression, in lower case.
    pub(super) owner: Vec<u8>,
    pub(super) rtype: u16,
    pub(super) class: u16,
    pub(super) ttl: u32,
    pub(super) data: Vec<u8>,
}

/// The records of the sections for answers, authorities and additional ones; `None` when the message is not whole or has
/// something behind its end.
pub(super) fn sections(message: &[u8]) -> Option<[Vec<Record>; 3]> {
    let mut at = 12;
    for _ in 0..word(message, 4)? {
        at = name(message, at)?.1 + 4;
    }
    let mut sections = [const { Vec::new() }; 3];
    for (number, section) in sections.iter_mut().enumerate() {
        for _ in 0..word(message, 6 + 2 * number)? {
            let (owner, end) = name(message, at)?;
            let length = usize::from(word(message, end + 8)?);
            section.push(Record {
                owner,
                rtype: word(message, end)?,
                class: word(message, end + 2)?,
                ttl: u32::from(word(message, end + 4)?) << 16 | u32::from(word(message, end + 6)?),
                data: data(message, word(message, end)?, end + 10, length)?,
            });
            at = end + 10 + length;
        }
    }
    (at == message.len()).then_some(sections)
}

pub(super) fn word(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(
        message.get(at..)?.first_chunk::<2>().copied()?,
    ))
}

/// The data of a record. Of these types the names may be compressed (RFC 3597 section 4).
fn data(message: &[u8], rtype: u16, begin: usize, length: usize) -> Option<Vec<u8>> {
    let (before, names) = match rtype {
        rtype::NS | rtype::CNAME | rtype::PTR => (0, 1),
        rtype::SOA => (0, 2),
        rtype::MX => (2, 1),
        _ => (length, 0),
    };
    // An update that takes records away has none.
    let mut at = begin + before.min(length);
    let mut whole = message.get(begin..at)?.to_vec();
    for _ in 0..if length == 0 { 0 } else { names } {
        let (name, end) = name(message, at)?;
        whole.extend_from_slice(&name);
        at = end;
    }
    whole.extend_from_slice(message.get(at..begin + length)?);
    Some(whole)
}

/// The name at `at`, and where it ends.
fn name(message: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let (mut whole, mut end) = (Vec::new(), None);
    // As long as a name may be: pointers could lead in a circle.
    while whole.len() < 255 {
        match *message.get(at)? {
            0 => {
                whole.push(0);
                return Some((whole, end.unwrap_or(at + 1)));
            }
            label @ 1..=63 => {
                let label = message.get(at..=at + usize::from(label))?;
                whole.extend(label.iter().map(u8::to_ascii_lowercase));
                at += label.len();
            }
            0xC0.. => {
                end = end.or(Some(at + 2));
                let to = usize::from(word(message, at)? & 0x3FFF);
                at = (to < at).then_some(to)?;
            }
            _ => return None,
        }
    }
    None
}
