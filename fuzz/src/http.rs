//! Targets over the framing of HTTP/1.1 (`crates/edge/src/http1`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::chosen;
use crate::http1::body::{Body, Length};
use crate::http1::head::{self, Extent, HeadLimits, Scanner};
use crate::http1::marks::Marks;
use crate::http1::reject::Reject;
use crate::http1::request::{self, Sender, Version};
use crate::http1::response::{self, Asked, Ending, Handover};

/// Small, so that inputs of a fuzzer's length go beyond them.
const LIMITS: HeadLimits = HeadLimits {
    first_line: 64,
    head: 400,
    fields: 128,
};

/// Any bytes from a visitor or another edge: the same verdict however they are split; and what is passed on is read by
/// the same rules as the same request, with no field that only a proxy may say.
pub fn request(data: &[u8]) {
    let Some(([how, cut], input)) = chosen::<2>(data) else {
        return;
    };
    let Ok(Some(extent)) = scan(input, cut) else {
        assert!(head::cut(input, &LIMITS).is_none());
        return;
    };
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let visitor = Sender::Visitor {
        peer,
        local: SocketAddr::new(peer, 80),
        secure: how & 2 != 0,
    };
    let sender = if how & 1 == 0 { visitor } else { Sender::Edge };
    let mut passed = Vec::new();
    let read = request::read(&input[extent.start..extent.end], &sender, &mut passed);
    if let Some(head) = head::cut(input, &LIMITS) {
        let end = head.end();
        assert_eq!(extent, Extent { start: 0, end }, "found in one go");
        let mut other = Vec::new();
        let in_one_go = request::read_marked(head, &sender, &Marks::default(), &mut other);
        assert_eq!(format!("{in_one_go:?}"), format!("{read:?}"));
        assert!(read.is_err() || other == passed);
    }
    let Ok(request) = read else {
        return;
    };
    assert_eq!(request.head_length, passed.len());
    assert_is_one_head(&passed);
    for place in [
        &request.target,
        &request.host,
        &request.user_agent,
        &request.referer,
    ] {
        assert!(passed.get(place.clone()).is_some());
    }
    let mut second = Vec::new();
    let again = request::read(&passed, &Sender::Edge, &mut second).expect("what is passed on is a request");
    assert_eq!(
        lines(&second),
        lines(&passed),
        "the next edge adds nothing and takes nothing away"
    );
    let mut third = Vec::new();
    request::read(&second, &Sender::Edge, &mut third).expect("so is that");
    assert_eq!(third, second, "not even their order changes any more");
    assert_eq!(again.length, request.length);
    assert_eq!(again.upgrade, request.upgrade);
    assert_eq!(again.is_head, request.is_head);
    assert_eq!(again.expects_continue, request.expects_continue);
    assert!(again.floor.is_none(), "the floor stays with the edge");
    assert!(again.version == Version::Http11 && again.keep_alive);
    if how & 1 == 0 {
        let said = passed
            .windows(16)
            .filter(|at| at.eq_ignore_ascii_case(b"x-forwarded-for:"));
        assert!(said.count() >= 1, "the edge says who the visitor is");
    }
}

/// Any bytes from an application: the same verdict however they are split; and what the visitor gets has one end.
pub fn response(data: &[u8]) {
    let Some(([how, cut], input)) = chosen::<2>(data) else {
        return;
    };
    let Ok(Some(extent)) = scan(input, cut) else {
        assert!(head::cut(input, &LIMITS).is_none());
        return;
    };
    let asked = Asked {
        head: how & 1 != 0,
        upgrade: how & 2 != 0,
    };
    let read = response::read(&input[extent.start..extent.end], &asked);
    if let Some(head) = head::cut(input, &LIMITS) {
        let end = head.end();
        assert_eq!(extent, Extent { start: 0, end }, "found in one go");
        let in_one_go = response::read_head(head.into(), &asked).map(|parsed| parsed.response);
        assert_eq!(
            in_one_go,
            read.as_ref()
                .map(|parsed| parsed.response)
                .map_err(|reject| *reject)
        );
    }
    let Ok(parsed) = read else {
        return;
    };
    let ending = parsed.response.ending;
    let chunk = matches!(ending, Ending::Close | Ending::Announced(Length::Chunked));
    let to = Handover {
        version: Version::Http11,
        keep_alive: how & 4 == 0,
        chunk,
    };
    let mut passed = Vec::new();
    parsed.write(&to, &mut passed);
    assert_is_one_head(&passed);
    let again = response::read(&passed, &asked)
        .expect("what is passed on is a response")
        .response;
    assert_eq!(again.status, parsed.response.status);
    assert!(again.relay_word.is_none(), "a relay's word is for the edge alone");
    let expected = if chunk {
        Ending::Announced(Length::Chunked)
    } else {
        ending
    };
    assert_eq!(again.ending, expected);
    if !again.is_interim() && again.status != 101 && again.keep_alive {
        assert!(to.keep_alive);
    }
}

/// Any bytes as a body: it ends at the same place however it is split, and nothing behind its end is touched.
pub fn body(data: &[u8]) {
    let Some(([length, cut], input)) = chosen::<2>(data) else {
        return;
    };
    let length = match length {
        0..128 => Length::Chunked,
        counted => Length::Known(u64::from(counted)),
    };
    let whole = take(length, input, input.len());
    assert_eq!(take(length, input, usize::from(cut)), whole);
    assert_eq!(take(length, input, 1), whole);
    let Ok((taken, true)) = whole else { return };
    assert_eq!(
        take(length, &input[..taken], taken),
        whole,
        "what follows decides nothing"
    );
    // Content and framing, told apart, are the whole.
    let (mut body, mut at) = (Body::from(length), 0);
    while !body.is_finished() {
        let piece = body.next(&input[at..]).expect("the same verdict");
        assert!(piece.length > 0);
        at += piece.length;
    }
    assert_eq!(at, taken);
}

/// How much belongs to the body and whether it has ended; `input` comes in pieces of `size`.
fn take(length: Length, input: &[u8], size: usize) -> Result<(usize, bool), Reject> {
    let mut body = Body::from(length);
    let mut taken = 0;
    for piece in input.chunks(size.max(1)) {
        let count = body.take(piece)?;
        taken += count;
        if count < piece.len() {
            assert!(body.is_finished(), "bytes were left out");
            break;
        }
    }
    Ok((taken, body.is_finished()))
}

/// The verdict on the whole, which is that on its parts.
fn scan(input: &[u8], cut: u8) -> Result<Option<Extent>, Reject> {
    let whole = Scanner::default().scan(input, &LIMITS);
    let mut scanner = Scanner::default();
    let first = input.len().min(usize::from(cut));
    let parts = match scanner.scan(&input[..first], &LIMITS) {
        Ok(None) => scanner.scan(input, &LIMITS),
        ended => ended,
    };
    assert_eq!(parts, whole);
    whole
}

/// One head from the first byte to the last.
fn assert_is_one_head(bytes: &[u8]) {
    let extent = Scanner::default().scan(bytes, &HeadLimits::default());
    let end = bytes.len();
    assert_eq!(
        extent,
        Ok(Some(Extent { start: 0, end })),
        "{}",
        String::from_utf8_lossy(bytes)
    );
}

/// The lines of a head, whatever their order.
fn lines(head: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<_> = head.split(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines
}
