//! Writes records into a message, with name compression (RFC 1035 section 4.1.4).

use crate::name;
use crate::rr::{self, IN};

/// Where the question begins in every message.
pub(crate) const QUESTION: usize = 12;

/// Remembered places of names; those beyond are written and not pointed to.
const PLACES: usize = 32;

/// Pointers have 14 bits.
const REACH: usize = 0x3FFF;

/// Appends to a message whose header and question stand already.
pub(crate) struct Writer<'a> {
    pub(crate) out: &'a mut Vec<u8>,
    places: [u16; PLACES],
    used: usize,
}

impl<'a> Writer<'a> {
    /// `out` has the header and a question that begins with the uncompressed name.
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Writer<'a> {
        let mut writer = Writer {
            out,
            places: [0; PLACES],
            used: 0,
        };
        writer.remember(QUESTION);
        writer
    }

    /// One record; `owner` is in wire form without compression.
    pub(crate) fn record(&mut self, owner: &[u8], rtype: u16, ttl: u32, data: &[u8]) {
        self.name(owner);
        self.out.extend_from_slice(&rtype.to_be_bytes());
        self.out.extend_from_slice(&IN.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        let at = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        match rr::names_in(rtype) {
            None => self.out.extend_from_slice(data),
            Some((before, names)) => self.data_with_names(data, before, names),
        }
        let length = u16::try_from(self.out.len() - at - 2).unwrap_or(u16::MAX);
        if let Some(place) = self.out.get_mut(at..at + 2) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }

    fn data_with_names(&mut self, data: &[u8], before: usize, names: usize) {
        let (head, mut rest) = data.split_at_checked(before).unwrap_or((data, &[]));
        self.out.extend_from_slice(head);
        for _ in 0..names {
            let length = name::length(rest).unwrap_or(0);
            let (name, after) = rest.split_at(length);
            self.name(name);
            rest = after;
        }
        self.out.extend_from_slice(rest);
    }

    /// A name, its end as a pointer where the message has the same already.
    pub(crate) fn name(&mut self, wire: &[u8]) {
        let begin = self.out.len();
        let mut rest = wire;
        while rest.len() > 1 {
            if let Some(place) = self.find(rest) {
                self.out.extend_from_slice(&(0xC000 | place).to_be_bytes());
                self.remember_labels(begin, wire.len() - rest.len());
                return;
            }
            let label = usize::from(rest[0]) + 1;
            let Some((label, after)) = rest.split_at_checked(label) else {
                return;
            };
            self.out.extend_from_slice(label);
            rest = after;
        }
        self.out.push(0);
        self.remember_labels(begin, wire.len().saturating_sub(1));
    }

    /// A remembered place that has exactly this name.
    fn find(&self, wire: &[u8]) -> Option<u16> {
        self.places[..self.used]
            .iter()
            .copied()
            .find(|place| self.is_at(usize::from(*place), wire))
    }

    fn is_at(&self, mut at: usize, mut wire: &[u8]) -> bool {
        loop {
            let Some(&first) = self.out.get(at) else {
                return false;
            };
            if first >= 0xC0 {
                let Some(&second) = self.out.get(at + 1) else {
                    return false;
                };
                // Pointers go backwards only, so this ends.
                at = usize::from(first & 0x3F) << 8 | usize::from(second);
                continue;
            }
            let length = usize::from(first) + 1;
            let (Some(here), Some((label, after))) =
                (self.out.get(at..at + length), wire.split_at_checked(length))
            else {
                return false;
            };
            if !here.eq_ignore_ascii_case(label) {
                return false;
            }
            if first == 0 {
                return true;
            }
            (at, wire) = (at + length, after);
        }
    }

    /// Every label of the uncompressed name at `at` begins a name that can be pointed to.
    fn remember(&mut self, at: usize) {
        let length = self.out.get(at..).and_then(name::length).unwrap_or(0);
        self.remember_labels(at, length.saturating_sub(1));
    }

    fn remember_labels(&mut self, begin: usize, length: usize) {
        let mut at = begin;
        while at < begin + length && at <= REACH && self.used < PLACES {
            self.places[self.used] = at as u16;
            self.used += 1;
            at += usize::from(self.out[at]) + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;
    use crate::rr::rtype;

    #[test]
    fn names_are_compressed_without_regard_to_case() {
        let wire = |text: &str| text.parse::<Name>().unwrap().wire().to_vec();
        let mut out = vec![0; 12];
        out.extend_from_slice(b"\x03WWW\x07Example\x00\x00\x01\x00\x01");
        let mut writer = Writer::new(&mut out);
        writer.record(&wire("www.example"), rtype::CNAME, 5, &wire("a.b.example"));
        writer.record(&wire("a.b.example"), rtype::A, 5, &[192, 0, 2, 1]);
        writer.record(&wire("b.example"), rtype::TXT, 5, b"\x01x");
        let records = &out[29..];
        assert_eq!(
            records,
            [
                &[0xC0, 12, 0, 5, 0, 1, 0, 0, 0, 5, 0, 6, 1, b'a', 1, b'b', 0xC0, 16][..],
                &[0xC0, 41, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 192, 0, 2, 1],
                &[0xC0, 43, 0, 16, 0, 1, 0, 0, 0, 5, 0, 2, 1, b'x'],
            ]
            .concat()
        );
    }
}
