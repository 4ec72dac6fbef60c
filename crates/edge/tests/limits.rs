//! What visitors are allowed, and what they hear when they want more. See FAILURES.md.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::io::{ErrorKind, Write};
use std::time::Duration;

use common::*;
use pontoon_fleet::{ClientLimits, EdgeLimits};

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// An edge with these limits in front of one application that runs `script`.
fn limited(
    limits: EdgeLimits,
    script: impl Fn(&mut Client, &str, &[u8]) -> bool + Send + Sync + 'static,
) -> (Edge, App) {
    let net = Net::new();
    let app = App::start(net.app(1), script);
    let mut view = net.view(1);
    view.limits = limits;
    (Edge::start(view), app)
}

fn hello(client: &mut Client, _: &str, _: &[u8]) -> bool {
    reply(client, "hello")
}

#[test]
fn heads_are_held_against_the_configured_limits() {
    let limits = EdgeLimits {
        request_line: Some(1024),
        head: Some(2048),
        fields: Some(8),
        ..EdgeLimits::default()
    };
    let (edge, app) = limited(limits, hello);
    let field = |count: usize| "X: y\r\n".repeat(count);
    let ask = |path: usize, fields: String| {
        let mut client = edge.client();
        let path = "x".repeat(path);
        // The answer may come, and the connection end, before all of it is written.
        let _ = client
            .stream
            .write_all(format!("GET /{path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n").as_bytes());
        let status = client.answer().status;
        (status, client.is_closed())
    };
    assert_eq!(ask(900, field(7)), (200, false));
    assert_eq!(ask(1100, field(1)), (414, true));
    assert_eq!(ask(1, field(8)), (431, true));
    assert_eq!(ask(900, format!("X: {}\r\n", "y".repeat(1500))), (431, true));
    assert_eq!(app.count(), 1, "what is refused reaches nobody");
    for (reason, count) in [
        ("request target too long", 1),
        ("too many header fields", 1),
        ("head too large", 1),
        ("body too large", 0),
    ] {
        assert_eq!(edge.rejected(reason), count, "{reason}");
    }
}

#[test]
fn limits_change_under_a_connection_that_stays() {
    let net = Net::new();
    let _app = App::start(net.app(1), hello);
    let mut view = net.view(1);
    let edge = Edge::start(view.clone());
    let long = format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(2000));
    let mut client = edge.client();
    client.send(&long);
    assert_eq!(client.answer().status, 200);
    view.limits.request_line = Some(1024);
    view.serial += 1;
    edge.publisher.publish(view).unwrap();
    wait_for("the new limit", || {
        let mut other = edge.client();
        other.send(&long);
        other.answer().status == 414
    });
    client.send(GET);
    assert_eq!(client.answer().status, 200);
    client.send(&long);
    assert_eq!(client.answer().status, 414);
}

#[test]
fn a_body_that_says_it_is_too_large_is_refused_before_it_is_sent() {
    let limits = EdgeLimits {
        body: Some(1000),
        ..EdgeLimits::default()
    };
    let (edge, app) = limited(limits, hello);
    let post = |more: &str, length: usize| {
        let mut client = edge.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n{more}\r\n"
        ));
        client
    };
    let mut right = post("", 1000);
    right.send("x".repeat(1000));
    assert_eq!(right.answer().status, 200);
    let mut large = post("", 1001);
    assert_eq!(large.answer().status, 413);
    let mut asks = post("Expect: 100-continue\r\n", 1_000_000_000);
    let answer = asks.answer();
    assert_eq!(answer.status, 413, "not told to go on");
    assert_eq!(answer.field("connection").as_deref(), Some("close"));
    assert_eq!(app.count(), 1);
    assert_eq!(edge.rejected("body too large"), 2);
}

#[test]
fn a_body_in_chunks_is_cut_where_it_becomes_too_large() {
    let limits = EdgeLimits {
        body: Some(100_000),
        ..EdgeLimits::default()
    };
    let net = Net::new();
    let (wholes, told) = channel();
    let wholes = std::sync::Mutex::new(wholes);
    let _app = App::by_connection(net.app(1), move |client| {
        let whole = client.request().is_some();
        wholes.lock().unwrap().send(whole).unwrap();
        if whole {
            reply(client, "got it");
        }
    });
    let mut view = net.view(1);
    view.limits = limits;
    // Checks connect as well.
    view.app.as_mut().unwrap().health.interval = Duration::from_secs(60);
    let edge = Edge::start(view);
    assert!(!told.recv().unwrap(), "the first check");
    let head = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    // Ten bytes in each: what frames them is not counted.
    let mut client = edge.client();
    client.send(head);
    client.send("a\r\n0123456789\r\n".repeat(10_000) + "0\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    assert!(told.recv().unwrap());
    let mut client = edge.client();
    client.send(head);
    let more = "a\r\n0123456789\r\n".repeat(10_001);
    let _ = client.stream.write_all(more.as_bytes());
    assert_eq!(client.answer().status, 413);
    assert!(!told.recv().unwrap(), "a part must not pass for the whole");
    assert_eq!(edge.rejected("body too large"), 1);
}

#[test]
fn a_body_that_trickles_is_ended() {
    let limits = EdgeLimits {
        body_rate: Some(100_000),
        ..EdgeLimits::default()
    };
    let (edge, _app) = limited(limits, hello);
    let mut client = edge.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n");
    client
        .stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    // Never a pause as long as `body_timeout`, and no end either.
    wait_for("the edge to lose its patience", || {
        let _ = client.stream.try_clone().unwrap().write_all(b"x");
        match client.stream.peek(&mut [0; 12]) {
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            Ok(_) => true,
        }
    });
    assert_eq!(client.answer().status, 408);
    assert_eq!(edge.rejected("body arrives too slowly"), 1);
}

#[test]
fn a_client_with_too_much_under_way_is_told_when_to_come_back() {
    let client_limits = ClientLimits {
        requests: Some(2),
        ..ClientLimits::default()
    };
    let limits = EdgeLimits {
        client: client_limits,
        ..EdgeLimits::default()
    };
    let (edge, app) = limited(limits, |client, head, _| {
        if head.starts_with("GET /slow") {
            // Until the visitor goes away.
            client.rest();
            return false;
        }
        reply(client, "hello")
    });
    let mut slow: Vec<Client> = Vec::new();
    for count in 1..=2 {
        let mut client = edge.client();
        client.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
        slow.push(client);
        wait_for("a slow request", || app.count() == count);
    }
    let mut client = edge.client();
    client.send(GET);
    let answer = client.answer();
    assert_eq!(answer.status, 429);
    assert_eq!(answer.field("retry-after").as_deref(), Some("1"));
    assert!(edge.rejected("too many requests of the client under way") >= 1);
    // With a body still to come nobody knows where the next request begins.
    let mut post = edge.client();
    post.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
    let answer = post.answer();
    assert_eq!(answer.status, 429);
    assert_eq!(answer.field("connection").as_deref(), Some("close"));
    // On the connection that was denied.
    drop(slow.pop());
    wait_for("a place", || {
        let mut kept = Client::on(client.stream.try_clone().unwrap());
        kept.send(GET);
        kept.answer().status == 200
    });
}

#[test]
fn a_client_that_asks_too_often_is_slowed_down() {
    let client_limits = ClientLimits {
        rate: Some(1),
        burst: 60,
        ..ClientLimits::default()
    };
    let limits = EdgeLimits {
        client: client_limits.clone(),
        ..EdgeLimits::default()
    };
    let (edge, app) = limited(limits.clone(), hello);
    let mut client = edge.client();
    let mut answered = 0;
    let denied = loop {
        client.send(GET);
        let answer = client.answer();
        if answer.status == 429 {
            break answer;
        }
        answered += 1;
    };
    assert!((60..120).contains(&answered), "{answered}");
    assert_eq!(app.count(), answered);
    assert_eq!(denied.field("retry-after").as_deref(), Some("1"));
    assert_eq!(edge.rejected("too many requests of the client a second"), 1);
    // Exempt networks are not counted.
    let exempt = EdgeLimits {
        client: ClientLimits {
            exempt: vec!["127.0.0.0/8".parse().unwrap()],
            rate: Some(1),
            burst: 1,
            ..client_limits
        },
        ..limits
    };
    let (edge, _app) = limited(exempt, hello);
    assert!((0..20).all(|_| edge.get("/").status == 200));
}
