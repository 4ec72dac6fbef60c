use super::*;
use crate::http1::response::{self, Asked};

fn planned(head: &str, is_head: bool, wish: Option<Coding>) -> Plan {
    let asked = Asked {
        head: is_head,
        upgrade: false,
    };
    let answer = response::read(head.as_bytes(), &asked).unwrap();
    plan(&Compress::default(), &answer, is_head, wish)
}

fn with(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n")
}

#[test]
fn what_may_not_or_need_not_be_changed_stays() {
    let gzip = Some(Coding::Gzip);
    let html = "Content-Type: text/html\r\n";
    assert_eq!(planned(&with(html), false, gzip), Plan::Coded(Coding::Gzip));
    assert_eq!(
        planned(&with(&format!("{html}Content-Length: 1024\r\n")), false, gzip),
        Plan::Coded(Coding::Gzip)
    );
    assert_eq!(
        planned(&with(html), false, None),
        Plan::Plain,
        "Vary all the same"
    );
    assert_eq!(
        planned(&with(&format!("{html}Content-Length: 9999\r\n")), true, gzip),
        Plan::Plain,
        "HEAD"
    );
    for left in [
        "Content-Length: 1023\r\n",
        "Content-Length: 0\r\n",
        "Content-Encoding: br\r\n",
        "Content-Encoding: identity\r\n",
        "Content-Range: bytes 0-1/2\r\n",
        "Cache-Control: public, No-Transform\r\n",
        "Content-Digest: sha-256=:x:\r\n",
        "Content-MD5: x\r\n",
    ] {
        assert_eq!(
            planned(&with(&format!("{html}{left}")), false, gzip),
            Plan::AsIs,
            "{left}"
        );
    }
    assert_eq!(
        planned(&with("Content-Type: image/png\r\n"), false, gzip),
        Plan::AsIs
    );
    assert_eq!(planned(&with(""), false, gzip), Plan::AsIs, "of no type");
    for status in ["201 x", "206 x", "304 x", "500 x"] {
        let head = with(html).replace("200 OK", status);
        assert_eq!(planned(&head, false, gzip), Plan::AsIs, "{status}");
    }
}

#[test]
fn the_head_says_what_became_of_the_body() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nETag: \"a:b\"\r\naccept-ranges: bytes\r\nVary: Cookie\r\n\
                Content-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n";
    let of = |head: &str, plan| {
        let mut out = b"HTTP/1.1 103 x\r\n\r\n".to_vec();
        let at = out.len();
        out.extend_from_slice(head.as_bytes());
        rewrite(&mut out, at, plan);
        String::from_utf8(out).unwrap().split_off(at)
    };
    assert_eq!(
        of(head, Plan::Coded(Coding::Br)),
        "HTTP/1.1 200 OK\r\nETag: W/\"a:b\"\r\nVary: Cookie\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\
         Content-Encoding: br\r\nVary: Accept-Encoding\r\n\r\n"
    );
    let plain = of(head, Plan::Plain);
    assert!(
        plain.contains("Content-Length: 5000\r\nETag: \"a:b\"\r\naccept-ranges"),
        "{plain}"
    );
    assert!(plain.ends_with("Vary: Accept-Encoding\r\n\r\n"));
    assert_eq!(of(head, Plan::AsIs), head);
    for known in [
        "Vary: origin, Accept-Encoding\r\n",
        "vary: *\r\n",
        "Vary: accept-encoding\r\n",
    ] {
        let head = head.replace("Vary: Cookie\r\n", known);
        assert!(
            !of(&head, Plan::Plain).contains("Vary: Accept-Encoding\r\n\r\n"),
            "{known}"
        );
    }
    let weak = head.replace("\"a:b\"", "W/\"a\"");
    assert!(of(&weak, Plan::Coded(Coding::Gzip)).contains("ETag: W/\"a\"\r\n"));
}
