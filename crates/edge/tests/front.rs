//! Proxies before the edge, what it tells applications and visitors of a request, and the PROXY protocol both ways.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use common::tls::{Certificates, out, run, with_https};
use common::*;
use pontoon_fleet::{ClientLimits, EdgeFront, FleetView, ProxyProtocol};

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// An edge that believes 127.0.0.0/8, before an application that answers with its request's head.
fn site(change: impl FnOnce(&mut FleetView)) -> (Edge, App) {
    let net = Net::new();
    let app = App::start(net.app(1), |client, head, _| reply(client, head));
    let mut view = net.view(1);
    view.front.trusted = vec!["127.0.0.0/8".parse().unwrap()];
    change(&mut view);
    (Edge::start(view), app)
}

fn ask(client: &mut Client, fields: &str) -> Answer {
    client.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
    client.answer()
}

#[test]
fn the_word_of_a_trusted_proxy_counts_and_nobody_elses() {
    let (edge, _app) = site(|view| {
        view.limits.client = ClientLimits {
            rate: Some(1),
            burst: 1,
            ..ClientLimits::default()
        };
    });
    let mut proxy = edge.client();
    let said = "X-Forwarded-For: 192.0.2.1, 203.0.113.9\r\nX-Forwarded-Proto: https\r\n";
    let head = ask(&mut proxy, said).text();
    assert_eq!(field(&head, "x-forwarded-for").unwrap(), "203.0.113.9, 127.0.0.1");
    assert_eq!(field(&head, "x-forwarded-proto").unwrap(), "https");
    // Limits are the visitor's, not the proxy's.
    let other = ask(&mut proxy, "X-Forwarded-For: 203.0.113.10\r\n");
    assert_eq!(other.status, 200);
    assert_eq!(ask(&mut proxy, said).status, 429);

    let (edge, _app) = site(|view| view.front = EdgeFront::default());
    let head = ask(&mut edge.client(), said).text();
    assert_eq!(field(&head, "x-forwarded-for").unwrap(), "127.0.0.1");
    assert_eq!(field(&head, "x-forwarded-proto").unwrap(), "http");
}

#[test]
fn a_request_has_an_id_and_a_trace_from_the_visitor_to_the_application() {
    let (edge, _app) = site(|view| {
        view.front.request_id = true;
        view.front.traceparent = true;
        view.front.server_timing = true;
    });
    let mut client = edge.client();
    let first = ask(&mut client, "");
    let (id, trace) = (
        field(&first.text(), "x-request-id").unwrap(),
        field(&first.text(), "traceparent").unwrap(),
    );
    assert_eq!((id.len(), trace.len()), (32, 55));
    assert_eq!(first.field("x-request-id").unwrap(), id);
    let timing = first.field("server-timing").unwrap();
    assert!(
        timing.starts_with("edge;dur=") && timing.contains(", app;dur="),
        "{timing}"
    );
    let second = ask(&mut client, "");
    assert_ne!(second.field("x-request-id").unwrap(), id);
    assert_ne!(field(&second.text(), "traceparent").unwrap(), trace);
    let given = format!("X-Request-Id: from-the-cdn\r\ntraceparent: {trace}\r\n");
    let third = ask(&mut client, &given);
    assert_eq!(third.field("x-request-id").unwrap(), "from-the-cdn");
    assert_eq!(field(&third.text(), "x-request-id").unwrap(), "from-the-cdn");
    assert_eq!(field(&third.text(), "traceparent").unwrap(), trace);
}

#[test]
fn the_edges_own_answers_have_the_id_too_and_an_applications_own_stands() {
    let net = Net::new();
    let mut view = net.view(1);
    view.front.request_id = true;
    let mut tuning = tuning();
    tuning.hold = std::time::Duration::from_millis(50);
    let edge = Edge::start_with(view, tuning, |_| {});
    let refused = edge.get("/");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.field("x-request-id").unwrap().len(), 32);
    let _app = App::start(net.app(1), |client, _, _| {
        client.send("HTTP/1.1 200 OK\r\nX-Request-Id: own\r\nContent-Length: 0\r\n\r\n");
        true
    });
    wait_for("the application", || edge.get("/").status == 200);
    let answer = edge.get("/");
    assert_eq!(answer.field("x-request-id").unwrap(), "own");
    assert_eq!(answer.head.to_lowercase().matches("x-request-id").count(), 1);
}

#[test]
fn without_the_features_nothing_is_added() {
    let (edge, _app) = site(|_| {});
    let answer = ask(&mut edge.client(), "");
    for name in ["x-request-id", "traceparent", "server-timing"] {
        assert_eq!((answer.field(name), field(&answer.text(), name)), (None, None));
    }
    assert_eq!(answer.field("x-request-id"), None);
}

#[test]
fn a_proxy_introduces_visitors() {
    let (edge, _app) = site(|view| view.front.proxy_protocol = true);
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\xc6\x33\x64\x01\x01\x02\0\x50";
    let text = b"PROXY TCP4 203.0.113.9 198.51.100.1 258 80\r\n";
    for header in [&binary[..], text] {
        let mut client = edge.client();
        client.send([header, GET.as_bytes()].concat());
        let head = client.answer().text();
        assert_eq!(field(&head, "x-forwarded-for").unwrap(), "203.0.113.9");
        // And again on the same connection.
        client.send(GET);
        assert_eq!(client.answer().status, 200);
        // Byte by byte.
        let mut client = edge.client();
        for byte in header {
            client.send([*byte]);
            pause(1);
        }
        client.send(GET);
        assert_eq!(
            field(&client.answer().text(), "x-forwarded-for").unwrap(),
            "203.0.113.9"
        );
    }
    // The proxy for itself.
    let mut client = edge.client();
    client.send([&b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"[..], GET.as_bytes()].concat());
    assert_eq!(
        field(&client.answer().text(), "x-forwarded-for").unwrap(),
        "127.0.0.1"
    );
    // A stranger behind it has no say of its own.
    let mut client = edge.client();
    client.send(text);
    let head = ask(&mut client, "X-Forwarded-For: 192.0.2.1\r\n").text();
    assert_eq!(field(&head, "x-forwarded-for").unwrap(), "203.0.113.9");
}

#[test]
fn who_does_not_introduce_itself_as_agreed_is_not_served() {
    let (edge, app) = site(|view| view.front.proxy_protocol = true);
    for header in [GET.as_bytes(), b"PROXY TCP4 a b 1 2\r\n", &[0x16, 3, 1]] {
        let mut client = edge.client();
        client.send(header);
        wait_for("the close", || client_is_closed(&client));
    }
    assert_eq!(edge.rejected("malformed PROXY header"), 3);
    // One that says nothing, in part or in whole.
    for header in [&b"PROXY TCP4 "[..], b""] {
        let mut client = edge.client();
        client.send(header);
        wait_for("the close", || client_is_closed(&client));
    }
    wait_for("the count", || {
        edge.rejected("PROXY header did not arrive in time") == 2
    });
    assert_eq!(app.count(), 0);

    // To a visitor who is no trusted proxy a header is no HTTP.
    let (edge, app) = site(|view| {
        view.front.proxy_protocol = true;
        view.front.trusted = vec!["198.51.100.0/24".parse().unwrap()];
    });
    let mut client = edge.client();
    client.send("PROXY TCP4 203.0.113.9 198.51.100.1 258 80\r\n\r\n");
    assert_eq!(client.answer().status, 400);
    assert_eq!(edge.get("/").status, 200);
    assert_eq!(app.count(), 1);
}

/// Whether the other side has closed, without waiting.
fn client_is_closed(client: &Client) -> bool {
    client.stream.set_nonblocking(true).unwrap();
    let closed = match client.stream.peek(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    };
    client.stream.set_nonblocking(false).unwrap();
    closed
}

#[test]
fn an_introduction_comes_before_tls() {
    let (net, certificates) = (Net::new(), Certificates::new());
    let _app = App::start(net.app(1), |client, head, _| reply(client, head));
    let files = certificates.issue("site", &["site.test"], 90);
    let (mut view, at) = with_https(net.view(1), &[&files]);
    view.front.trusted = vec!["127.0.0.0/8".parse().unwrap()];
    view.front.proxy_protocol = true;
    let _edge = Edge::start(view);
    wait_for("HTTPS", || TcpStream::connect(at).is_ok());
    let ca = certificates.path("site.ca");
    let (url, resolve) = (
        format!("https://site.test:{}/", at.port()),
        format!("site.test:{}:127.0.0.1", at.port()),
    );
    for version in ["--http1.1", "--http2"] {
        let options = [
            "-sS",
            "--max-time",
            "20",
            "--haproxy-protocol",
            "--resolve",
            &resolve,
            "--cacert",
            ca.to_str().unwrap(),
            version,
            &url,
        ];
        let Some(answer) = run("curl", &options, b"") else {
            return;
        };
        let text = out(&answer);
        assert!(text.contains("X-Forwarded-Proto: https"), "{version}: {text}");
        assert!(text.contains("X-Forwarded-For: 127.0.0.1"), "{version}: {text}");
    }
}

/// An application that wants to be introduced to its visitors, and answers with how they were.
fn introduced_application(address: SocketAddr) -> (App, Arc<Mutex<Vec<Vec<u8>>>>) {
    let headers: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let seen = Arc::clone(&headers);
    let app = App::by_connection(address, move |client| {
        let first = client.exactly(6);
        let header = if first == b"PROXY " {
            [first, client.line().unwrap().into_bytes()].concat()
        } else {
            let rest = client.exactly(10);
            let length = usize::from(rest[9]);
            [first, rest, client.exactly(length)].concat()
        };
        seen.lock().unwrap().push(header.clone());
        while let Some((head, _)) = client.request() {
            let way = field(&head, "x-forwarded-for").unwrap_or_default();
            reply(client, &way);
        }
    });
    (app, headers)
}

#[test]
fn an_application_is_introduced_to_its_visitors() {
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let net = Net::new();
        let (_app, headers) = introduced_application(net.app(1));
        let mut view = net.view(1);
        view.front.trusted = vec!["127.0.0.0/8".parse().unwrap()];
        let app = view.app.as_mut().unwrap();
        app.dispatch.proxy_protocol = Some(version);
        // Checks introduce themselves, too.
        app.health.path = Some("/up".to_owned());
        let edge = Edge::start(view);
        edge.wait_health("a", true);
        let mut client = edge.client();
        for visitor in ["203.0.113.9", "203.0.113.10"] {
            let answer = ask(&mut client, &format!("X-Forwarded-For: {visitor}\r\n"));
            assert_eq!(answer.text(), format!("{visitor}, 127.0.0.1"));
        }
        let port = net.listen.port();
        let expected = match version {
            ProxyProtocol::V1 => format!("PROXY TCP4 203.0.113.9 127.0.0.1 0 {port}\r\n").into_bytes(),
            ProxyProtocol::V2 => {
                let fixed = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\x7f\0\0\x01\0\0";
                [&fixed[..], &port.to_be_bytes()].concat()
            }
        };
        let headers = headers.lock().unwrap().clone();
        let visitors: Vec<_> = headers
            .iter()
            .filter(|header| header.len() > 16 && **header != b"PROXY UNKNOWN\r\n")
            .collect();
        // A connection for each: it says whose it is.
        assert_eq!(visitors.len(), 2, "{headers:?}");
        assert_eq!(*visitors[0], expected);
        assert!(headers.len() > visitors.len(), "no check: {headers:?}");
    }
}
