//! What passes through, and how it arrives.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use common::*;
use pontoon_fleet::FleetView;

#[test]
fn connections_are_kept_on_both_sides() {
    let (edge, app) = one(|client, _, _| reply(client, "hello"));
    let mut client = edge.client();
    for _ in 0..10 {
        client.send("GET /x HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(client.answer().text(), "hello");
    }
    assert_eq!(app.used_connections.load(Ordering::Relaxed), 1);
    assert_eq!(app.count(), 10);
}

#[test]
fn the_application_learns_who_the_visitor_is() {
    let (edge, app) = one(|client, _, _| reply(client, ""));
    let mut client = edge.client();
    client.send("GET /a?b HTTP/1.1\r\nhost: example.org:81\r\nX-Forwarded-For: 1.2.3.4\r\nX-Mine: 1\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    assert_eq!(
        app.requests.lock().unwrap()[0],
        "GET /a?b HTTP/1.1\r\nHost: example.org:81\r\nX-Mine: 1\r\nX-Forwarded-For: 127.0.0.1\r\n\
         X-Forwarded-Proto: http\r\nX-Forwarded-Host: example.org:81\r\n\r\n"
    );
}

#[test]
fn answers_pass_through_unchanged() {
    let (edge, _app) = one(|client, _, _| {
        client.send("HTTP/1.1 404 Nope nope\r\nServer: x\r\nset-cookie: a\r\nSet-Cookie: b\r\nContent-Length: 1\r\n\r\n!");
        true
    });
    let mut client = edge.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let answer = client.answer();
    assert_eq!(
        answer.head,
        "HTTP/1.1 404 Nope nope\r\nServer: x\r\nset-cookie: a\r\nSet-Cookie: b\r\nContent-Length: 1\r\n\r\n"
    );
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (edge, _app) = one(|client, head, _| {
        let path = head.split(' ').nth(1).unwrap();
        if path == "/0" {
            pause(100);
        }
        reply(client, path)
    });
    let mut client = edge.client();
    let requests: String = (0..20)
        .map(|n| format!("GET /{n} HTTP/1.1\r\nHost: test\r\n\r\n"))
        .collect();
    client.send(requests);
    for n in 0..20 {
        assert_eq!(client.answer().text(), format!("/{n}"));
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_is_the_same_head() {
    let (edge, _app) = one(|client, _, body| reply(client, std::str::from_utf8(body).unwrap()));
    let mut client = edge.client();
    for byte in
        b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: test\r\n\r\n"
    {
        client.send([*byte]);
        pause(1);
    }
    assert_eq!(client.answer().text(), "abc");
    assert_eq!(client.answer().text(), "");
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

#[test]
fn large_bodies_with_a_length_pass_both_ways() {
    let (edge, _app) = one(|client, _, body| {
        client.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        client.send(body);
        true
    });
    for length in [1, 16 * 1024, 16 * 1024 + 1, 65_536, 5_000_000] {
        let body = noise(length);
        let mut client = edge.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"
        ));
        client.send(&body);
        assert!(client.answer().body == body, "{length} bytes");
    }
}

#[test]
fn large_chunked_bodies_pass_both_ways_with_trailers() {
    let (edge, _app) = one(|client, head, body| {
        assert!(field(head, "transfer-encoding").is_some());
        client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
        for chunk in body.chunks(70_001) {
            client.send(format!("{:x};ext=1\r\n", chunk.len()));
            client.send(chunk);
            client.send("\r\n");
        }
        client.send("0\r\nX-Sum: 7\r\n\r\n");
        true
    });
    let body = noise(3_000_000);
    let mut client = edge.client();
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in body.chunks(99_991) {
            client.send(format!("{:X}\r\n", chunk.len()));
            client.send(chunk);
            client.send("\r\n");
        }
        client.send("0\r\n\r\n");
        let head = client.head().unwrap();
        assert_eq!(field(&head, "transfer-encoding").as_deref(), Some("chunked"));
        let (content, trailers) = client.chunks().unwrap();
        assert!(content == body);
        assert_eq!(trailers, "X-Sum: 7\r\n");
    }
}

#[test]
fn answers_without_a_body_have_none() {
    let (edge, _app) = one(|client, head, _| {
        if head.starts_with("HEAD") {
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        } else if head.contains("/204") {
            client.send("HTTP/1.1 204 No Content\r\n\r\n");
        } else {
            client.send("HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: \"x\"\r\n\r\n");
        }
        true
    });
    let mut client = edge.client();
    client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n");
    let head = client.head().unwrap();
    assert_eq!(field(&head, "content-length").as_deref(), Some("1000"));
    client.send("GET /204 HTTP/1.1\r\nHost: test\r\n\r\nGET /304 HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.answer().status, 204);
    assert_eq!(client.answer().status, 304);
    client.send("GET /204 HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.answer().status, 204, "the connection is still in step");
}

#[test]
fn interim_answers_are_passed_on_to_those_who_know_them() {
    let (edge, _app) = one(|client, _, _| {
        client.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n");
        pause(50);
        reply(client, "done")
    });
    let mut client = edge.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(
        client.head().unwrap(),
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    );
    assert_eq!(client.head().unwrap(), "HTTP/1.1 102 Processing\r\n\r\n");
    assert_eq!(client.answer().text(), "done");
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().text(), "done");
}

#[test]
fn a_client_that_waits_for_100_gets_it_from_the_application() {
    let net = Net::new();
    let _app = App::by_connection(net.app(1), |client| {
        while let Some(head) = client.head() {
            assert_eq!(field(&head, "expect").as_deref(), Some("100-continue"));
            client.send("HTTP/1.1 100 Continue\r\n\r\n");
            let body = client.exactly(5);
            reply(client, std::str::from_utf8(&body).unwrap());
        }
    });
    let edge = Edge::start(net.view(1));
    let mut client = edge.client();
    for _ in 0..2 {
        client.send("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(client.head().unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hello");
        assert_eq!(client.answer().text(), "hello");
    }
}

#[test]
fn a_final_answer_instead_of_100_ends_the_connection() {
    let net = Net::new();
    let _app = App::by_connection(net.app(1), |client| {
        if client.head().is_some() {
            client.send("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
            client.rest();
        }
    });
    let edge = Edge::start(net.view(1));
    let mut client = edge.client();
    client.send("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.status, 413);
    assert_eq!(answer.field("connection").as_deref(), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn a_client_of_http_1_0_gets_no_chunks() {
    let (edge, _app) = one(|client, _, _| {
        client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        pause(20);
        client.send("2;x\r\nde\r\n0\r\nX: y\r\n\r\n");
        true
    });
    let mut client = edge.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let answer = client.answer();
    assert_eq!(
        (answer.text().as_str(), answer.field("transfer-encoding")),
        ("abcde", None)
    );
    assert_eq!(answer.field("connection").as_deref(), Some("close"));
}

#[test]
fn a_client_of_http_1_0_may_ask_to_keep_its_connection() {
    let (edge, _app) = one(|client, _, _| reply(client, "x"));
    let mut client = edge.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(client.answer().field("connection").as_deref(), Some("keep-alive"));
    }
}

#[test]
fn what_ends_with_a_close_is_put_in_chunks() {
    let (edge, _app) = one(|client, _, _| {
        client.send("HTTP/1.1 200 OK\r\n\r\nabc");
        pause(30);
        client.send("def");
        false
    });
    let mut client = edge.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.field("transfer-encoding").as_deref(), Some("chunked"));
        assert_eq!(answer.text(), "abcdef");
    }
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().text(), "abcdef");
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    let net = Net::new();
    let over_ipv4 = (net.app(1), net.view(1));
    for (app, view) in [Some(over_ipv4), over_ipv6()].into_iter().flatten() {
        talk_upgraded(app, view);
    }
}

fn talk_upgraded(app: SocketAddr, view: FleetView) {
    let _app = App::by_connection(app, |client| {
        let Some(head) = client.head() else { return };
        assert_eq!(field(&head, "upgrade").as_deref(), Some("websocket"));
        assert_eq!(field(&head, "connection").as_deref(), Some("Upgrade"));
        client.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst",
        );
        loop {
            let frame = client.exactly(4);
            if frame == b"quit" {
                return;
            }
            client.send(frame);
        }
    });
    let edge = Edge::start(view);
    let mut client = edge.client();
    client.send("GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n0000");
    let head = client.head().unwrap();
    assert!(
        head.starts_with("HTTP/1.1 101 ") && field(&head, "upgrade").as_deref() == Some("websocket"),
        "{head}"
    );
    assert_eq!(client.exactly(9), b"first0000");
    for n in 0..100 {
        let frame = format!("{n:04}");
        client.send(&frame);
        assert_eq!(client.exactly(4), frame.as_bytes());
    }
    client.send("quit");
    assert!(client.rest().is_empty());
}

#[test]
fn a_request_that_can_be_read_two_ways_never_reaches_an_application() {
    let (edge, app) = one(|client, _, _| reply(client, ""));
    for (request, status) in [
        (
            "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked, x\r\n\r\n",
            501,
        ),
        (
            "GET / HTTP/1.1\r\nHost: t\r\nX: a\nContent-Length: 5\r\n\r\n",
            400,
        ),
        ("GET / HTTP/1.1\r\nHost : t\r\n\r\n", 400),
        ("CONNECT t:443 HTTP/1.1\r\nHost: t:443\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: t\r\n\r\n", 405),
        ("GET / HTTP/2.0\r\nHost: t\r\n\r\n", 505),
        ("\u{16}\u{3}\u{1}", 400),
    ] {
        let mut client = edge.client();
        client.send(request);
        let answer = client.answer();
        assert_eq!(answer.status, status, "{request:?}");
        assert_eq!(answer.field("connection").as_deref(), Some("close"));
        assert!(client.is_closed());
    }
    let mut client = edge.client();
    client.send("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\r\n\r\n");
    assert_eq!(client.answer().status, 400);
    assert_eq!(app.count(), 0);
}

#[test]
fn heads_that_are_too_large_are_told_so() {
    let (edge, _app) = one(|client, _, _| reply(client, ""));
    for (request, status) in [
        (
            format!("GET /{} HTTP/1.1\r\nHost: t\r\n\r\n", "x".repeat(9_000)),
            414,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: t\r\nX: {}\r\n\r\n", "x".repeat(40_000)),
            431,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: t\r\n{}\r\n", "X: y\r\n".repeat(200)),
            431,
        ),
    ] {
        let mut client = edge.client();
        let _ = client.stream.write_all(request.as_bytes());
        assert_eq!(client.answer().status, status);
    }
}

#[test]
fn requests_of_many_clients_at_once_each_get_their_own_answer() {
    let (edge, _app) = one(|client, head, body| {
        let path = head.split(' ').nth(1).unwrap();
        reply(client, &format!("{path}:{}", body.len()))
    });
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (edge, failures) = (&edge, &failures);
            scope.spawn(move || {
                let mut client = edge.client();
                for n in 0..50 {
                    let length = (n * 37) % 3_000;
                    client.send(format!(
                        "POST /{thread}-{n} HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n"
                    ));
                    client.send(vec![b'x'; length]);
                    let text = client.answer().text();
                    if text != format!("/{thread}-{n}:{length}") {
                        failures.lock().unwrap().push(text);
                    }
                }
            });
        }
    });
    assert!(failures.lock().unwrap().is_empty(), "{failures:?}");
}
