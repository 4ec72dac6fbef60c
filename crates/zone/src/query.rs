//! Reads a query. Whatever is not one is told apart here, before anybody looks at zones.

use crate::edns::Edns;
use crate::name;
use crate::rr::{rcode, rtype};
use crate::writer::QUESTION;

/// A well-formed query.
pub(crate) struct Query<'a> {
    /// The question as it came: name, type, class. Empty when there is none.
    pub(crate) question: &'a [u8],
    pub(crate) qtype: u16,
    pub(crate) class: u16,
    pub(crate) edns: Option<Edns<'a>>,
    /// Signed by TSIG (RFC 8945).
    pub(crate) signed: bool,
    name: [u8; name::MAX],
    length: usize,
}

impl Query<'_> {
    /// The name asked for, in lower case.
    pub(crate) fn name(&self) -> &[u8] {
        &self.name[..self.length]
    }
}

/// What is no query that can be answered from zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing may be said.
    Silence,
    /// Answered by a header with this code.
    Code(u16),
}

/// Reads a message.
pub(crate) fn parse(packet: &[u8]) -> Result<Query<'_>, Fault> {
    let (header, _) = packet.split_first_chunk::<QUESTION>().ok_or(Fault::Silence)?;
    // A response. To answer it could be the beginning of an endless exchange.
    if header[2] & 0x80 != 0 {
        return Err(Fault::Silence);
    }
    if header[2] & 0x78 != 0 {
        return Err(Fault::Code(rcode::NOTIMP));
    }
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (questions, answers, authorities, additionals) = (count(4), count(6), count(8), count(10));
    let malformed = Fault::Code(rcode::FORMERR);
    if questions > 1 || answers > 0 {
        return Err(malformed);
    }
    let mut query = Query {
        question: &[],
        qtype: 0,
        class: 0,
        edns: None,
        signed: false,
        name: [0; name::MAX],
        length: 0,
    };
    let mut at = QUESTION;
    if questions == 1 {
        at = question(packet, &mut query).ok_or(malformed)?;
    }
    // Only a request for changes since a version says which, in this section (RFC 1995 section 3).
    if authorities > 0 && query.qtype != rtype::IXFR {
        return Err(malformed);
    }
    for _ in 0..authorities {
        (_, at) = record(packet, at).ok_or(malformed)?;
    }
    for left in (0..additionals).rev() {
        let (record, after) = record(packet, at).ok_or(malformed)?;
        at = after;
        match record.rtype {
            rtype::OPT => {
                if query.edns.is_some() || !record.root {
                    return Err(malformed);
                }
                query.edns = Some(Edns::parse(record.class, record.ttl, record.data).ok_or(malformed)?);
            }
            rtype::TSIG if left > 0 => return Err(malformed),
            rtype::TSIG => query.signed = true,
            _ => {}
        }
    }
    if at != packet.len() {
        return Err(malformed);
    }
    // Without a question only a cookie can be asked for (RFC 7873 section 5.4).
    if questions == 0 && query.edns.is_none_or(|edns| edns.cookie.is_none()) {
        return Err(malformed);
    }
    Ok(query)
}

/// Reads the question; gives the place behind it.
fn question<'a>(packet: &'a [u8], query: &mut Query<'a>) -> Option<usize> {
    let mut at = QUESTION;
    loop {
        let label = usize::from(*packet.get(at)?);
        // Compression has nothing to point to in a question; other kinds of labels are history (RFC 6891 section 5).
        if label > 63 {
            return None;
        }
        let end = at + 1 + label;
        if end - QUESTION > name::MAX {
            return None;
        }
        let text = packet.get(at..end)?;
        query
            .name
            .get_mut(at - QUESTION..end - QUESTION)?
            .copy_from_slice(text);
        at = end;
        if label == 0 {
            break;
        }
    }
    query.length = at - QUESTION;
    query.name[..query.length].make_ascii_lowercase();
    let fixed = packet.get(at..at + 4)?;
    query.qtype = u16::from_be_bytes([fixed[0], fixed[1]]);
    query.class = u16::from_be_bytes([fixed[2], fixed[3]]);
    query.question = packet.get(QUESTION..at + 4)?;
    Some(at + 4)
}

struct Record<'a> {
    root: bool,
    rtype: u16,
    class: u16,
    ttl: u32,
    data: &'a [u8],
}

/// Reads the record at `at`; gives the place behind it too.
fn record(packet: &[u8], at: usize) -> Option<(Record<'_>, usize)> {
    let mut end = at;
    loop {
        let label = *packet.get(end)?;
        match label {
            0 => {
                end += 1;
                break;
            }
            1..=63 => end += 1 + usize::from(label),
            0xC0.. => {
                end += 2;
                break;
            }
            _ => return None,
        }
        if end - at > name::MAX {
            return None;
        }
    }
    let fixed = packet.get(end..end + 10)?;
    let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let data = end + 10;
    let after = data + usize::from(word(8));
    Some((
        Record {
            root: packet.get(at) == Some(&0),
            rtype: word(0),
            class: word(2),
            ttl: u32::from(word(4)) << 16 | u32::from(word(6)),
            data: packet.get(data..after)?,
        },
        after,
    ))
}
