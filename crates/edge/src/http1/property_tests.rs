//! Whatever arrives, and however it is split: no panic, and the same verdict.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::body::{Body, Length};
use super::head::{self, Extent, HeadLimits, Scanner};
use super::marks::Marks;
use super::reject::Reject;
use super::request::{self, Sender};
use super::response;

const LIMITS: HeadLimits = HeadLimits {
    first_line: 40,
    head: 200,
    fields: 128,
};

fn scan_in_pieces(input: &[u8], cuts: &[usize]) -> Result<Option<Extent>, Reject> {
    let mut scanner = Scanner::default();
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    ends.push(input.len());
    ends.sort_unstable();
    for end in ends {
        if let Some(extent) = scanner.scan(&input[..end], &LIMITS)? {
            return Ok(Some(extent));
        }
    }
    Ok(None)
}

fn body_in_pieces(length: Length, input: &[u8], cuts: &[usize]) -> Result<(usize, bool), Reject> {
    let mut body = Body::from(length);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    ends.push(input.len());
    ends.sort_unstable();
    let mut taken = 0;
    for end in ends {
        taken += body.take(&input[taken..end.max(taken)])?;
    }
    Ok((taken, body.is_finished()))
}

/// Bytes that are often nearly a message.
fn near_miss() -> impl Strategy<Value = Vec<u8>> {
    let words: [&[u8]; 18] = [
        b"GET / HTTP/1.1\r\n",
        b"POST /a HTTP/1.0\r\n",
        b"Host: a\r\n",
        b"\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"\n",
        b"\r",
        b"Connection: close, x\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n",
        b":",
        b" ",
        b"\0",
        b"X: y\r\n",
        b";e=f",
        b"Expect: 100-continue\r\n",
    ];
    let word = prop::sample::select(words.to_vec());
    prop::collection::vec(
        prop_oneof![4 => word.prop_map(<[u8]>::to_vec), 1 => prop::collection::vec(any::<u8>(), 0..4)],
        0..14,
    )
    .prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_bytes_make_it_panic(input in prop_oneof![near_miss(), prop::collection::vec(any::<u8>(), 0..300)]) {
        let mut out = Vec::new();
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let senders = [Sender::Visitor { peer, local: SocketAddr::new(peer, 80), secure: false }, Sender::Edge];
        for head in [&input[..], &[&input[..], b"\r\n\r\n"].concat()] {
            for sender in &senders {
                let _ = request::read(head, sender, &mut out);
            }
            for flag in [true, false] {
                let _ = response::read(head, &response::Asked { head: flag, upgrade: flag });
            }
        }
        let _ = Body::from(Length::Chunked).take(&input);
    }

    #[test]
    fn a_head_split_anywhere_gives_the_same_verdict(input in near_miss(), cuts in prop::collection::vec(any::<usize>(), 0..6)) {
        let whole = Scanner::default().scan(&input, &LIMITS);
        prop_assert_eq!(scan_in_pieces(&input, &cuts), whole);
    }

    /// What is found and cut in one go is what is found and cut step by step.
    #[test]
    fn a_head_that_is_cut_in_one_go_gives_the_same_verdict(
        first in prop::sample::select(vec!["", "GET / HTTP/1.1\r\nHost: a\r\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.0 204 \r\n"]),
        fields in "([a-zA-Z_-]{1,12}: ?[ a-c]{0,4}\r\n){0,3}(\r\n)?",
        rest in near_miss(),
    ) {
        let input = [first.as_bytes(), fields.as_bytes(), &rest].concat();
        let Some(cut) = head::cut(&input, &LIMITS) else { return Ok(()) };
        let end = cut.end();
        prop_assert_eq!(Scanner::default().scan(&input, &LIMITS), Ok(Some(Extent { start: 0, end })));
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let sender = Sender::Visitor { peer, local: SocketAddr::new(peer, 80), secure: false };
        let (mut one, mut other) = (Vec::new(), Vec::new());
        let in_one_go = request::read_marked(cut, &sender, &Marks::default(), &mut one);
        let in_steps = request::read(&input[..end], &sender, &mut other);
        prop_assert_eq!(format!("{in_one_go:?}"), format!("{in_steps:?}"));
        prop_assert_eq!(in_steps.is_err() || one == other, true);
        let asked = response::Asked { head: false, upgrade: false };
        let in_one_go = head::cut(&input, &LIMITS).map(|cut| response::read_head(cut.into(), &asked));
        let in_steps = response::read(&input[..end], &asked);
        let written = |read: Result<response::Parsed<'_>, Reject>| read.map(|parsed| {
            let mut out = Vec::new();
            let to = response::Handover { version: request::Version::Http11, keep_alive: true, chunk: false };
            parsed.write(&to, &mut out);
            (parsed.response, out)
        });
        prop_assert_eq!(in_one_go.map(written), Some(written(in_steps)));
    }

    #[test]
    fn a_body_split_anywhere_ends_at_the_same_place(input in near_miss(), cuts in prop::collection::vec(any::<usize>(), 0..6), counted in 1u64..60) {
        for length in [Length::Chunked, Length::Known(counted)] {
            prop_assert_eq!(body_in_pieces(length, &input, &cuts), body_in_pieces(length, &input, &[]));
        }
    }

    /// What is passed on is read again by the same rules, and means the same.
    #[test]
    fn what_is_passed_on_is_unambiguous(input in near_miss()) {
        let Ok(Some(extent)) = Scanner::default().scan(&input, &LIMITS) else { return Ok(()) };
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let visitor = Sender::Visitor { peer, local: SocketAddr::new(peer, 80), secure: false };
        let mut first = Vec::new();
        let Ok(request) = request::read(&input[extent.start..extent.end], &visitor, &mut first) else { return Ok(()) };
        let extent = Scanner::default().scan(&first, &HeadLimits::default()).unwrap().unwrap();
        prop_assert_eq!(extent, Extent { start: 0, end: first.len() });
        let mut second = Vec::new();
        let again = request::read(&first, &Sender::Edge, &mut second).unwrap();
        prop_assert_eq!(again.length, request.length);
        prop_assert_eq!(second, first);
    }
}
