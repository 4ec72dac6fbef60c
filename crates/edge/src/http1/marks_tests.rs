use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::http1::request::{self, Request, Sender};

const ID: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;

/// The request that is passed on of one with these fields, sent by 198.51.100.7.
fn read(marks: &Marks<'_>, fields: &str) -> (Request, String) {
    let peer: IpAddr = "198.51.100.7".parse().unwrap();
    let sender = Sender::Visitor {
        peer,
        local: SocketAddr::new(peer, 80),
        secure: false,
    };
    let text = format!("GET / HTTP/1.1\r\nHost: site.test\r\n{fields}\r\n");
    let mut out = Vec::new();
    let request = request::read_marked(text.as_bytes(), &sender, marks, &mut out).unwrap();
    (request, String::from_utf8(out).unwrap())
}

/// 198.51.100.0/24 and 2001:db8::/32 are trusted.
fn is_trusted(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..3] == [198, 51, 100],
        IpAddr::V6(address) => address.segments()[..2] == [0x2001, 0xdb8],
    }
}

/// The value of the field `name`, which is there at most once.
fn value<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut found = head.lines().filter_map(|line| {
        let (field, value) = line.split_once(": ")?;
        field.eq_ignore_ascii_case(name).then_some(value)
    });
    let first = found.next();
    assert_eq!(found.next(), None, "{name} stands twice: {head}");
    first
}

#[test]
fn who_is_not_trusted_says_nothing_about_itself() {
    let said = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Request-Id: mine\r\n";
    let marks = Marks {
        request_id: Some(ID),
        ..Marks::default()
    };
    let (request, head) = read(&marks, said);
    assert_eq!(request.peer, Some("198.51.100.7".parse().unwrap()));
    assert!(!request.secure);
    assert_eq!(value(&head, "x-forwarded-for"), Some("198.51.100.7"));
    assert_eq!(value(&head, "x-forwarded-proto"), Some("http"));
    assert_eq!(
        value(&head, "x-request-id"),
        Some("0123456789abcdef0123456789abcdef")
    );
    assert_eq!(request.id(head.as_bytes()), b"0123456789abcdef0123456789abcdef");
    // Nothing is wanted: what an application may know by that name goes by.
    let (request, head) = read(&Marks::default(), said);
    assert_eq!(value(&head, "x-request-id"), Some("mine"));
    assert_eq!(request.ids, None);
}

#[test]
fn a_trusted_proxy_says_who_the_visitor_is() {
    let marks = Marks {
        trusted: Some(&is_trusted),
        request_id: Some(ID),
        trace: None,
    };
    for (said, visitor, way) in [
        ("203.0.113.9", "203.0.113.9", "203.0.113.9, 198.51.100.7"),
        // What it was told by a stranger is no evidence.
        (
            "192.0.2.1, 203.0.113.9",
            "203.0.113.9",
            "203.0.113.9, 198.51.100.7",
        ),
        (
            "192.0.2.1, 203.0.113.9, 198.51.100.8",
            "203.0.113.9",
            "203.0.113.9, 198.51.100.8, 198.51.100.7",
        ),
        (
            "203.0.113.9:1234, [2001:db8::1]",
            "203.0.113.9",
            "203.0.113.9:1234, [2001:db8::1], 198.51.100.7",
        ),
        ("192.0.2.1, unknown", "198.51.100.7", "198.51.100.7"),
        ("", "198.51.100.7", "198.51.100.7"),
    ] {
        let (request, head) = read(&marks, &format!("X-Forwarded-For: {said}\r\n"));
        assert_eq!(request.peer, Some(visitor.parse().unwrap()), "{said}");
        assert_eq!(value(&head, "x-forwarded-for"), Some(way), "{said}");
        assert_eq!(visitor_of(way.as_bytes()), Some(visitor.parse().unwrap()));
    }
    let said = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\
                X-Forwarded-Host: www.site.test\r\nForwarded: for=1\r\nX-Request-Id: a-1/b\r\n";
    let (request, head) = read(&marks, said);
    assert!(request.secure);
    assert_eq!(value(&head, "x-forwarded-for"), Some("203.0.113.9, 198.51.100.7"));
    assert_eq!(value(&head, "x-forwarded-proto"), Some("https"));
    assert_eq!(value(&head, "x-forwarded-host"), Some("www.site.test"));
    assert_eq!(value(&head, "forwarded"), None);
    assert_eq!(value(&head, "x-request-id"), Some("a-1/b"));
}

#[test]
fn an_id_that_could_break_something_is_not_taken() {
    let marks = Marks {
        trusted: Some(&is_trusted),
        request_id: Some(ID),
        trace: None,
    };
    let long = "x".repeat(MAX_ID + 1);
    for id in ["", "a b", "a\"b", "a\\", "\u{e4}", &long] {
        let (_, head) = read(&marks, &format!("X-Request-Id: {id}\r\n"));
        assert_eq!(
            value(&head, "x-request-id"),
            Some("0123456789abcdef0123456789abcdef")
        );
    }
    let (_, head) = read(&marks, "X-Request-Id: a\r\nX-Request-Id: b\r\n");
    assert_eq!(
        value(&head, "x-request-id"),
        Some("0123456789abcdef0123456789abcdef")
    );
}

#[test]
fn a_trace_goes_on_or_begins() {
    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const BEGUN: &str = "00-0123456789abcdef0123456789abcdef-0000000000000007-01";
    let marks = Marks {
        trace: Some((ID, 7)),
        ..Marks::default()
    };
    let (request, head) = read(
        &marks,
        &format!("traceparent: {GIVEN}\r\nTracestate: a=1\r\ntracestate: b=2\r\n"),
    );
    assert_eq!(value(&head, "traceparent"), Some(GIVEN));
    assert!(head.contains("tracestate: a=1\r\ntracestate: b=2\r\n"));
    assert_eq!(
        request.trace_id(head.as_bytes()),
        b"4bf92f3577b34da6a3ce929d0e0e4736"
    );
    let later = format!("cc{}-what-else", &GIVEN[2..]);
    let (_, head) = read(&marks, &format!("Traceparent: {later}\r\n"));
    assert_eq!(value(&head, "traceparent"), Some(later.as_str()));
    for wrong in [
        "".to_owned(),
        GIVEN[..54].to_owned(),
        GIVEN.to_uppercase(),
        format!("{GIVEN}-1"),
        format!("ff{}", &GIVEN[2..]),
        format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
        format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", "0".repeat(16)),
        GIVEN.replace('-', "_"),
        format!("{GIVEN}\r\ntraceparent: {GIVEN}"),
    ] {
        let (request, head) = read(&marks, &format!("traceparent: {wrong}\r\ntracestate: a=1\r\n"));
        assert_eq!(value(&head, "traceparent"), Some(BEGUN), "{wrong}");
        assert_eq!(
            value(&head, "tracestate"),
            None,
            "it belongs to the trace that was refused"
        );
        assert_eq!(
            request.trace_id(head.as_bytes()),
            b"0123456789abcdef0123456789abcdef"
        );
    }
    let (request, head) = read(&Marks::default(), &format!("traceparent: {GIVEN}\r\n"));
    assert_eq!((value(&head, "traceparent"), request.ids), (Some(GIVEN), None));
}
