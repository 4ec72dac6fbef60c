//! Each case is one that some pair of programs has read differently. None of them is passed on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::body::Length;
use super::head::{HeadLimits, Scanner};
use super::reject::Reject;
use super::request::{Request, Sender, read};

fn visitor() -> Sender {
    let peer = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
    Sender::Visitor {
        secure: false,
        peer,
        local: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 80),
    }
}

fn pass(input: &[u8], sender: &Sender) -> Result<(Request, String), Reject> {
    let extent = Scanner::default()
        .scan(input, &HeadLimits::default())?
        .expect("a complete head");
    let mut out = Vec::new();
    let request = read(&input[extent.start..extent.end], sender, &mut out)?;
    Ok((request, String::from_utf8_lossy(&out).into_owned()))
}

fn refused(input: &str) -> Reject {
    match pass(input.as_bytes(), &visitor()) {
        Err(reject) => reject,
        Ok((_, head)) => panic!("{input:?} was passed on as {head:?}"),
    }
}

fn with(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn passed(fields: &str) -> (Request, String) {
    pass(with(fields).as_bytes(), &visitor()).unwrap()
}

#[test]
fn cl_te_both_lengths() {
    assert_eq!(
        refused(&with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")),
        Reject::LengthAndChunked
    );
    assert_eq!(
        refused(&with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n")),
        Reject::LengthAndChunked
    );
    assert_eq!(
        refused(&with("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n")),
        Reject::LengthAndChunked
    );
}

#[test]
fn cl_cl_two_lengths() {
    assert_eq!(
        refused(&with("Content-Length: 5\r\nContent-Length: 6\r\n")),
        Reject::DuplicateLength
    );
    assert_eq!(
        refused(&with("Content-Length: 5\r\ncontent-length: 5\r\n")),
        Reject::DuplicateLength
    );
    assert_eq!(refused(&with("Content-Length: 5, 5\r\n")), Reject::BadLength);
}

#[test]
fn cl_that_is_not_a_plain_number() {
    for value in [
        "+5",
        "-5",
        "0x5",
        "5a",
        "5 5",
        "",
        "5.0",
        "1e1",
        "99999999999999999999",
        "5;",
        "\u{0665}",
    ] {
        assert_eq!(
            refused(&with(&format!("Content-Length: {value}\r\n"))),
            Reject::BadLength,
            "{value:?}"
        );
    }
}

#[test]
fn te_te_disguised_transfer_encodings() {
    for value in [
        "xchunked",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "gzip, chunked",
        "chunked, identity",
        "identity",
        "chunked;q=1",
        "\"chunked\"",
        "chunk ed",
        "",
        "x, chunked",
    ] {
        let why = refused(&with(&format!("Transfer-Encoding: {value}\r\n")));
        assert_eq!(why, Reject::BadTransferEncoding, "{value:?}");
    }
    let twice = with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n");
    assert_eq!(refused(&twice), Reject::DuplicateTransferEncoding);
    let twice = with("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n");
    assert_eq!(refused(&twice), Reject::DuplicateTransferEncoding);
    assert_eq!(
        refused(&with("Transfer-Encoding: \u{b}chunked\r\n")),
        Reject::BadFieldValue
    );
    assert_eq!(
        refused(&with("Transfer-Encoding : chunked\r\n")),
        Reject::SpaceBeforeColon
    );
    assert_eq!(
        refused(&with("Transfer-Encoding\t: chunked\r\n")),
        Reject::SpaceBeforeColon
    );
    assert_eq!(
        refused(&with("X: y\r\n Transfer-Encoding: chunked\r\n")),
        Reject::ObsFold
    );
    assert_eq!(
        refused(&with("Transfer-Encoding:\r\n chunked\r\n")),
        Reject::ObsFold
    );
    assert_eq!(
        passed("Transfer-Encoding: \t CHUNKED \t\r\n").0.length,
        Length::Chunked
    );
}

#[test]
fn te_in_http_1_0() {
    let why = refused("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(why, Reject::TransferEncodingInOldVersion);
}

#[test]
fn line_ends_other_than_cr_lf() {
    assert_eq!(refused("GET / HTTP/1.1\nHost: a\n\n"), Reject::BareLf);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"), Reject::BareLf);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\n\n"), Reject::BareLf);
    assert_eq!(
        refused("GET / HTTP/1.1\r\nHost: a\r\nX: y\rZ: w\r\n\r\n"),
        Reject::BareCr
    );
    assert_eq!(refused("GET / HTTP/1.1\rHost: a\r\n\r\n"), Reject::BareCr);
    assert_eq!(refused("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"), Reject::BadVersion);
    assert_eq!(
        refused("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\r\n\r\n"),
        Reject::BareCr
    );
    assert_eq!(
        refused("GET / HTTP/1.1\r\nHost: a\r\nX\r: y\r\n\r\n"),
        Reject::BareCr
    );
}

#[test]
fn characters_that_do_not_belong() {
    assert_eq!(refused(&with("X: a\0b\r\n")), Reject::BadFieldValue);
    assert_eq!(refused(&with("X\0: a\r\n")), Reject::BadFieldName);
    assert_eq!(refused(&with("X: a\u{7f}b\r\n")), Reject::BadFieldValue);
    assert_eq!(refused(&with("X(y): a\r\n")), Reject::BadFieldName);
    assert_eq!(refused(&with("X y: a\r\n")), Reject::BadFieldName);
    assert_eq!(refused(&with(": a\r\n")), Reject::BadFieldName);
    assert_eq!(refused(&with("no colon\r\n")), Reject::BadFieldName);
    assert_eq!(refused(&with("nocolon\r\n")), Reject::BadFieldName);
    assert_eq!(refused(&with("H\u{f6}st: a\r\n")), Reject::BadFieldName);
    assert!(
        passed("X: gr\u{fc}n\r\n").1.contains("X: gr\u{fc}n\r\n"),
        "obs-text is passed on as it is"
    );
}

#[test]
fn request_lines() {
    for (line, why) in [
        ("GET  / HTTP/1.1", Reject::BadRequestLine),
        ("GET /  HTTP/1.1", Reject::BadRequestLine),
        ("GET / HTTP/1.1 ", Reject::BadRequestLine),
        ("GET /", Reject::BadRequestLine),
        ("GET\t/ HTTP/1.1", Reject::BadRequestLine),
        ("GET / x HTTP/1.1", Reject::BadRequestLine),
        ("GET / http/1.1", Reject::BadRequestLine),
        ("GET / HTTP/1.2", Reject::BadVersion),
        ("GET / HTTP/01.1", Reject::BadVersion),
        ("GET / HTTP/1.1x", Reject::BadVersion),
        ("PRI * HTTP/2.0", Reject::BadVersion),
        ("G(T / HTTP/1.1", Reject::BadMethod),
        ("GET a HTTP/1.1", Reject::BadTarget),
        ("GET * HTTP/1.1", Reject::BadTarget),
        ("GET /#x HTTP/1.1", Reject::BadTarget),
        ("GET /\u{e9} HTTP/1.1", Reject::BadTarget),
        ("GET /\0 HTTP/1.1", Reject::BadTarget),
        ("GET ftp://a/ HTTP/1.1", Reject::BadTarget),
        ("GET http://u@a/ HTTP/1.1", Reject::BadTarget),
        ("CONNECT a:443 HTTP/1.1", Reject::ConnectRefused),
        ("TRACE / HTTP/1.1", Reject::TraceRefused),
    ] {
        assert_eq!(refused(&format!("{line}\r\nHost: a\r\n\r\n")), why, "{line:?}");
    }
}

#[test]
fn empty_lines_before_a_request() {
    assert!(pass(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", &visitor()).is_ok());
    assert_eq!(
        refused("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        Reject::BadRequestLine
    );
    assert_eq!(refused("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Reject::BareLf);
    assert_eq!(
        refused(" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        Reject::BadRequestLine
    );
}

#[test]
fn one_host_and_no_other() {
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), Reject::MissingHost);
    assert_eq!(
        refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        Reject::DuplicateHost
    );
    assert_eq!(
        refused("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n"),
        Reject::DuplicateHost
    );
    for host in ["", "a b", "a/b", "u@a", "a:b", "a\\b"] {
        assert_eq!(
            refused(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")),
            Reject::BadHost,
            "{host:?}"
        );
    }
    assert_eq!(
        refused("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n"),
        Reject::HostMismatch
    );
    assert_eq!(refused("GET http://a/ HTTP/1.1\r\n\r\n"), Reject::MissingHost);
    let (_, head) = pass(b"GET HTTP://A/x?y HTTP/1.1\r\nHost: a\r\n\r\n", &visitor()).unwrap();
    assert!(head.starts_with("GET /x?y HTTP/1.1\r\nHost: a\r\n"), "{head}");
    let (_, head) = pass(b"GET http://a?y HTTP/1.1\r\nHost: a\r\n\r\n", &visitor()).unwrap();
    assert!(head.starts_with("GET /?y HTTP/1.1\r\n"), "{head}");
    let (_, head) = pass(b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", &visitor()).unwrap();
    assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"), "{head}");
    let (_, head) = pass(b"GET / HTTP/1.0\r\n\r\n", &visitor()).unwrap();
    assert!(head.contains("\r\nHost: 198.51.100.1:80\r\n"), "{head}");
}

#[test]
fn sizes() {
    let many = "X: y\r\n".repeat(super::head::MAX_FIELDS);
    assert_eq!(refused(&with(&many)), Reject::TooManyFields);
    assert_eq!(
        refused(&with(&format!("X: {}\r\n", "y".repeat(40_000)))),
        Reject::HeadTooLarge
    );
    assert_eq!(
        refused(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(9_000))),
        Reject::TargetTooLong
    );
    assert_eq!(refused(&"G".repeat(9_000)), Reject::TargetTooLong);
    for (reject, status) in [
        (Reject::HeadTooLarge, 431),
        (Reject::TargetTooLong, 414),
        (Reject::BareLf, 400),
    ] {
        assert_eq!(reject.status(), status);
    }
}

#[test]
fn what_a_visitor_says_about_itself_is_replaced() {
    let (_, head) = passed(
        "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Real-IP: 1\r\n\
         Forwarded: for=1\r\nX_Forwarded_For: 1\r\nX-Forwarded_For: 1\r\nX-Forwarded-Port: 1\r\nProxy: http://evil\r\n\
         Content_Length: 7\r\nPontoon-Relay: not-sent\r\nConnection: X-Forwarded-For, Cookie, X-Mine\r\nCookie: a\r\nX-Mine: 1\r\n",
    );
    assert_eq!(
        head,
        "POST / HTTP/1.1\r\nHost: a\r\nCookie: a\r\nX-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: http\r\n\
         X-Forwarded-Host: a\r\n\r\n"
    );
}

#[test]
fn what_an_edge_says_about_a_visitor_is_kept() {
    let input = with("X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\n");
    let (_, head) = pass(input.as_bytes(), &Sender::Edge).unwrap();
    assert_eq!(head, input);
}

#[test]
fn hop_by_hop_fields_end_here() {
    let (request, head) = passed(
        "Connection: close, X-One\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip\r\nX-One: 1\r\nUpgrade: x\r\nX-Two: 2\r\n",
    );
    assert!(!request.keep_alive);
    assert!(
        head.starts_with("POST / HTTP/1.1\r\nHost: a\r\nX-Two: 2\r\nX-Forwarded-For"),
        "{head}"
    );
    assert_eq!(refused(&with("Connection: close x\r\n")), Reject::BadConnection);
    let (_, head) = passed("TE: trailers, gzip\r\n");
    assert!(head.contains("Connection: TE\r\nTE: trailers\r\n"), "{head}");
}

#[test]
fn upgrades() {
    let get = |fields: &str| {
        let input = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        pass(input.as_bytes(), &visitor()).unwrap()
    };
    let (request, head) =
        get("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n");
    assert!(
        request.upgrade && head.contains("Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        "{head}"
    );
    for fields in [
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, H2C\r\n",
        "Connection: Upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n",
    ] {
        let (request, head) = get(fields);
        assert!(!request.upgrade && !head.contains("Upgrade"), "{head}");
    }
}

#[test]
fn expectations() {
    let (request, head) = passed("Expect: 100-Continue\r\nContent-Length: 5\r\n");
    assert!(request.expects_continue && head.contains("\r\nExpect: 100-continue\r\n"));
    let (request, head) = passed("Expect: 100-continue\r\n");
    assert!(
        !request.expects_continue && !head.contains("Expect"),
        "there is no body to wait for"
    );
    assert_eq!(refused(&with("Expect: 200-ok\r\n")), Reject::BadExpect);
}

#[test]
fn versions_and_keep_alive() {
    let kept = |line: &str, fields: &str| {
        pass(
            format!("GET / {line}\r\nHost: a\r\n{fields}\r\n").as_bytes(),
            &visitor(),
        )
        .unwrap()
        .0
        .keep_alive
    };
    assert!(kept("HTTP/1.1", ""));
    assert!(!kept("HTTP/1.1", "Connection: Close\r\n"));
    assert!(!kept("HTTP/1.0", ""));
    assert!(kept("HTTP/1.0", "Connection: Keep-Alive\r\n"));
    assert!(!kept("HTTP/1.0", "Connection: keep-alive, close\r\n"));
}
