//! Compresses answers on their way to visitors, where the configuration wants it (`edge.compress`).
//!
//! Only what may be changed is: RFC 9110 section 7.7 (`no-transform`), 8.4 (codings), 8.8.3 (a strong ETag is for one
//! representation, so the compressed one gets a weak one), 12.5.3 (`Accept-Encoding`) and 12.5.5 (`Vary`).

mod encoder;
mod negotiate;

use pontoon_fleet::{Coding, Compress};

use std::cell::Cell;
use std::rc::Rc;

pub use encoder::{Encoder, Seat};
pub use negotiate::accepted;

use crate::http1::body::Length;
use crate::http1::response::{Ending, Parsed};

/// Answers with these statuses are pages; parts (206), and what other statuses mean, are left alone.
const PAGES: [u16; 3] = [200, 403, 404];

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing.
    AsIs,
    /// It depends on what the visitor accepts, and this one gets it as it is.
    Plain,
    /// It is compressed.
    Coded(Coding),
}

/// What a visitor is offered.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'o> {
    /// What is compressed.
    pub rules: &'o Compress,
    /// How; `None`: the visitor takes none of the codings.
    pub coding: Option<Coding>,
    /// How many bodies this thread compresses at the moment.
    pub taken: &'o Rc<Cell<usize>>,
}

impl Offer<'_> {
    /// What becomes of `answer`, and by what it is compressed.
    pub fn take(&self, answer: &Parsed<'_>, is_head: bool) -> (Plan, Option<Encoder>) {
        let plan = plan(self.rules, answer, is_head, self.coding);
        let Plan::Coded(coding) = plan else {
            return (plan, None);
        };
        // Without a seat, or memory, it goes as it is.
        match Seat::take(self.taken).map(|seat| Encoder::new(coding, seat)) {
            Some(Ok(encoder)) => (plan, Some(encoder)),
            Some(Err(_)) | None => (Plan::Plain, None),
        }
    }
}

/// What becomes of `answer`, by `rules`, for a visitor who accepts `wish`.
fn plan(rules: &Compress, answer: &Parsed<'_>, is_head: bool, wish: Option<Coding>) -> Plan {
    let response = &answer.response;
    let has_body = match response.ending {
        Ending::Announced(Length::None) => is_head,
        Ending::Announced(Length::Known(length)) => length >= rules.min_bytes,
        Ending::Announced(Length::Chunked) | Ending::Close => true,
    };
    if !PAGES.contains(&response.status) || !has_body {
        return Plan::AsIs;
    }
    let mut takes = false;
    for (_, name, value) in answer.fields() {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        let fixed = is("content-encoding")
            || is("content-range")
            // Of the very bytes.
            || is("content-md5")
            || is("digest")
            || is("content-digest")
            || is("repr-digest")
            || (is("cache-control") && has_token(value, b"no-transform"));
        if fixed {
            return Plan::AsIs;
        }
        takes |= is("content-type") && rules.takes(value);
    }
    match (takes, wish) {
        (false, _) => Plan::AsIs,
        (true, Some(coding)) if !is_head => Plan::Coded(coding),
        (true, _) => Plan::Plain,
    }
}

/// Makes the head that stands at the end of `out`, from `at` on, say what becomes of the body.
pub fn rewrite(out: &mut Vec<u8>, at: usize, plan: Plan) {
    if plan == Plan::AsIs || at > out.len() {
        return;
    }
    let head = out.split_off(at);
    let mut varies = false;
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        if line == b"\r\n" {
            break;
        }
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], line[colon + 1..].trim_ascii()),
            None => (&line[..0], line),
        };
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        if is("vary") {
            varies |= has_token(value, b"accept-encoding") || has_token(value, b"*");
        }
        if plan != Plan::Plain {
            if is("content-length") || is("accept-ranges") {
                continue;
            }
            if is("etag") && value.starts_with(b"\"") {
                out.extend_from_slice(b"ETag: W/");
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
                continue;
            }
        }
        out.extend_from_slice(line);
    }
    if let Plan::Coded(coding) = plan {
        out.extend_from_slice(b"Content-Encoding: ");
        out.extend_from_slice(coding.as_str().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !varies {
        out.extend_from_slice(b"Vary: Accept-Encoding\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a list has this member, in any case; what follows a `=` or `;` does not count.
fn has_token(list: &[u8], wanted: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|member| {
        let end = member.iter().position(|byte| matches!(byte, b';' | b'='));
        member[..end.unwrap_or(member.len())]
            .trim_ascii()
            .eq_ignore_ascii_case(wanted)
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
