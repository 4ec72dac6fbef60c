//! What proxies before the edge say of a request, as far as they are believed, and what the edge adds to it: who the
//! visitor is, the request's id, the trace that it is part of.

use std::net::IpAddr;
use std::ops::Range;

use super::head::{Fields, Known, write_field};
use super::request::{Request, options};
use super::syntax;

/// What is believed, and what is added. By default nothing of either.
#[derive(Clone, Copy, Default)]
pub struct Marks<'m> {
    /// Whether the word of the proxy at an address counts; `None` where the request comes from nobody whose word does.
    pub trusted: Option<&'m dyn Fn(IpAddr) -> bool>,
    /// What becomes the request's id, unless a trusted proxy gave it one. Random.
    pub request_id: Option<u128>,
    /// What becomes the trace, and the edge's part of it, unless the request is part of one. Random.
    pub trace: Option<(u128, u64)>,
}

/// Places of ids in a head that is passed on; empty for one that is not wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// The request's own.
    pub request: Range<usize>,
    /// That of the trace that it is part of.
    pub trace: Range<usize>,
}

/// Who a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who<'h> {
    /// The visitor, as far as trusted proxies know.
    pub visitor: IpAddr,
    /// Whether it came over HTTPS, to the first of them.
    pub secure: bool,
    /// The host that it asked for, where a proxy asks for another.
    pub host: Option<&'h [u8]>,
    /// What the proxies say of the way before them.
    pub way: Vec<&'h [u8]>,
}

/// The longest id that is taken from a proxy, bytes.
const MAX_ID: usize = 128;
/// Hops that are looked at.
const MAX_WAY: usize = 32;

impl Marks<'_> {
    /// Whether this field is written by the edge itself, if it is written.
    pub(super) fn writes(&self, known: Known) -> bool {
        match known {
            Known::RequestId => self.request_id.is_some(),
            Known::Traceparent | Known::Tracestate => self.trace.is_some(),
            _ => false,
        }
    }

    /// Who the request comes from that `peer` has sent. Without trust nothing is looked at.
    pub(super) fn who<'h>(&self, fields: &Fields<'h>, peer: IpAddr, secure: bool) -> Who<'h> {
        let mut who = Who {
            visitor: peer.to_canonical(),
            secure,
            host: None,
            way: Vec::new(),
        };
        let Some(is_trusted) = self.trusted else {
            return who;
        };
        for (known, name, value) in fields.iter() {
            if known != Known::Forwarded {
                continue;
            }
            if name.eq_ignore_ascii_case(b"x-forwarded-for") {
                who.way.extend(options(value));
            } else if name.eq_ignore_ascii_case(b"x-forwarded-proto") {
                who.secure = value.eq_ignore_ascii_case(b"https");
            } else if name.eq_ignore_ascii_case(b"x-forwarded-host") && syntax::is_host(value) {
                who.host = Some(value);
            }
        }
        // Backwards, from proxy to proxy: what stands before one that is not trusted is its own invention.
        let mut believed = 0;
        for hop in who.way.iter().rev().take(MAX_WAY) {
            let Some(address) = address(hop) else { break };
            who.visitor = address;
            believed += 1;
            if !is_trusted(address) {
                break;
            }
        }
        who.way.drain(..who.way.len() - believed);
        who
    }

    /// Writes the ids that are wanted; gives their places.
    pub(super) fn write_ids(&self, fields: &Fields<'_>, out: &mut Vec<u8>) -> Option<Box<Ids>> {
        if self.request_id.is_none() && self.trace.is_none() {
            return None;
        }
        Some(Box::new(Ids {
            request: self.write_id(fields, out),
            trace: self.write_trace(fields, out),
        }))
    }

    fn write_id(&self, fields: &Fields<'_>, out: &mut Vec<u8>) -> Range<usize> {
        let Some(made) = self.request_id else { return 0..0 };
        let given = only(fields, Known::RequestId).filter(|id| self.trusted.is_some() && is_id(id));
        match given {
            Some(id) => write_field(out, b"X-Request-Id", id),
            None => write_field(out, b"X-Request-Id", format!("{made:032x}").as_bytes()),
        }
    }

    /// Gives the place of the trace's id.
    fn write_trace(&self, fields: &Fields<'_>, out: &mut Vec<u8>) -> Range<usize> {
        let Some((trace, span)) = self.trace else {
            return 0..0;
        };
        let given = only(fields, Known::Traceparent).filter(|value| is_traceparent(value));
        let place = match given {
            Some(value) => {
                let place = write_field(out, b"traceparent", value);
                for (known, _, value) in fields.iter() {
                    if known == Known::Tracestate {
                        write_field(out, b"tracestate", value);
                    }
                }
                place
            }
            // Neither id may be zero (sections 3.2.2.3 and 3.2.2.4). Sampled: who begins traces wants them.
            None => {
                let value = format!("00-{:032x}-{:016x}-01", trace.max(1), span.max(1));
                write_field(out, b"traceparent", value.as_bytes())
            }
        };
        place.start + 3..place.start + 35
    }
}

impl Request {
    /// The request's id, in the `head` that is passed on; empty where none is wanted.
    pub fn id<'h>(&self, head: &'h [u8]) -> &'h [u8] {
        let place = self.ids.as_ref().map(|ids| ids.request.clone());
        place.and_then(|place| head.get(place)).unwrap_or(&[])
    }

    /// The id of the trace that it is part of; empty where none is wanted.
    pub fn trace_id<'h>(&self, head: &'h [u8]) -> &'h [u8] {
        let place = self.ids.as_ref().map(|ids| ids.trace.clone());
        place.and_then(|place| head.get(place)).unwrap_or(&[])
    }
}

/// The visitor at the beginning of a way that an edge has written.
pub fn visitor_of(way: &[u8]) -> Option<IpAddr> {
    options(way).next().and_then(address)
}

/// The value of a field that is there once.
fn only<'h>(fields: &Fields<'h>, wanted: Known) -> Option<&'h [u8]> {
    let mut found = fields.iter().filter(|(known, ..)| *known == wanted);
    match (found.next(), found.next()) {
        (Some((_, _, value)), None) => Some(value),
        _ => None,
    }
}

/// An address, as proxies write it: some add the port, or the brackets of a URL.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?;
    let plain = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = plain
        .unwrap_or(text)
        .parse()
        .or_else(|_| text.parse::<std::net::SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// Visible characters that end no quotes, so that an id can stand anywhere.
fn is_id(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.=+/:@".contains(byte);
    (1..=MAX_ID).contains(&id.len()) && id.iter().all(plain)
}

/// W3C Trace Context section 3.2: `version-trace-parent-flags`, in small letters. Of later versions the beginning is the
/// same (section 4).
fn is_traceparent(value: &[u8]) -> bool {
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let Some((known, rest)) = value.split_at_checked(55) else {
        return false;
    };
    let (version, trace, parent, flags) = (&known[..2], &known[3..35], &known[36..52], &known[53..]);
    let dashes = [known[2], known[35], known[52]] == [b'-'; 3];
    dashes
        && [version, trace, parent, flags].into_iter().all(is_hex)
        && !is_zero(trace)
        && !is_zero(parent)
        && version != b"ff"
        && (rest.is_empty() || (version != b"00" && rest[0] == b'-'))
}

#[cfg(test)]
#[path = "marks_tests.rs"]
mod tests;
