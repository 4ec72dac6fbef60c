use super::*;

#[test]
fn a_head_is_found_and_cut() {
    let bytes = b"GET / HTTP/1.1\r\nHost:  a \r\nX:\r\nY: \t \r\n\r\nrest";
    let extent = Scanner::default()
        .scan(bytes, &HeadLimits::default())
        .unwrap()
        .unwrap();
    assert_eq!(
        extent,
        Extent {
            start: 0,
            end: bytes.len() - 4
        }
    );
    let (line, fields) = Fields::parse(&bytes[..extent.end]).unwrap();
    assert_eq!(line, b"GET / HTTP/1.1");
    let cut: Vec<_> = fields.iter().map(|(_, name, value)| (name, value)).collect();
    assert_eq!(cut, [(&b"Host"[..], &b"a"[..]), (b"X", b""), (b"Y", b"")]);
}

#[test]
fn a_usual_head_is_cut_in_one_go_and_an_odd_one_is_not() {
    let limits = HeadLimits {
        first_line: 20,
        head: 60,
        fields: 2,
    };
    let end = |text: &str| cut(text.as_bytes(), &limits).map(|cut| cut.end());
    let usual = "GET / HTTP/1.1\r\nHost: a\r\nX:y \r\n\r\n";
    assert_eq!(end(usual), Some(usual.len()));
    assert_eq!(end(&format!("{usual}GET")), Some(usual.len()));
    for length in 0..usual.len() {
        assert_eq!(end(&usual[..length]), None, "not complete");
    }
    for odd in [
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /ssssss HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nA: a\r\nB: b\r\nC: c\r\n\r\n",
        "GET / HTTP/1.1\r\nA: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: \0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "\u{16}\u{3}\r\n\r\n",
    ] {
        assert_eq!(end(odd), None, "{odd:?}");
    }
}

#[test]
fn names_that_matter_are_known_in_any_case() {
    assert_eq!(known(b"HOST"), Known::Host);
    assert_eq!(known(b"transfer-Encoding"), Known::TransferEncoding);
    assert_eq!(known(b"X-Forwarded-Prefix"), Known::Forwarded);
    assert_eq!(known(b"X_Forwarded_For"), Known::Confusing);
    assert_eq!(known(b"x-forwarded_for"), Known::Forwarded);
    assert_eq!(known(b"Content_Length"), Known::Confusing);
    assert_eq!(known(b"Proxy"), Known::Confusing);
    assert_eq!(known(b"my_field"), Known::Other);
    assert_eq!(known(b"Cookie"), Known::Cookie);
    assert_eq!(known(b"pontoon_floor"), Known::Confusing);
}
