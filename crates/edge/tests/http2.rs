//! HTTP/2 from visitors and to applications, gRPC through both.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use common::tls::*;
use common::*;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use pontoon_fleet::{AppProtocol, FleetView};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

/// An edge with HTTPS, and what a client needs to trust it.
struct Site {
    edge: Edge,
    at: SocketAddr,
    certificates: Certificates,
}

fn site(view: FleetView) -> Site {
    let certificates = Certificates::new();
    let files = certificates.issue("site", &["site.test"], 9);
    let (mut view, mut at) = with_https(view, &[&files]);
    // Over IPv6 where plain HTTP is.
    if let Some(plain) = view.servers[0].edge_listen.first() {
        at.set_ip(plain.ip());
    }
    view.https.as_mut().unwrap().listen = [(view.servers[0].name.clone(), vec![at])].into();
    view.https.as_mut().unwrap().redirect = false;
    let edge = Edge::start(view);
    wait_for("HTTPS", || TcpStream::connect(at).is_ok());
    Site {
        edge,
        at,
        certificates,
    }
}

impl Site {
    fn config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.certificates.path("site.ca")).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// A client of the `h2` crate.
    async fn client(&self) -> SendRequest<Bytes> {
        let tcp = tokio::net::TcpStream::connect(self.at).await.unwrap();
        let name = ServerName::try_from("site.test").unwrap();
        let tls = TlsConnector::from(self.config())
            .connect(name, tcp)
            .await
            .unwrap();
        let (client, connection) = h2::client::handshake(tls).await.unwrap();
        tokio::spawn(connection);
        client.ready().await.unwrap()
    }

    /// A connection on which the test writes its own frames.
    fn frames(&self) -> Frames {
        let tcp = TcpStream::connect(self.at).unwrap();
        tcp.set_read_timeout(Some(8 * SECOND)).unwrap();
        let name = ServerName::try_from("site.test").unwrap();
        let tls = ClientConnection::new(self.config(), name).unwrap();
        let mut frames = Frames(StreamOwned::new(tls, tcp));
        frames.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        frames.send(SETTINGS, 0, 0, b"");
        frames
    }

    fn curl(&self, options: &[&str], path: &str) -> Option<String> {
        let ca = self.certificates.path("site.ca");
        let resolve = format!("site.test:{}:127.0.0.1", self.at.port());
        let url = format!("https://site.test:{}{path}", self.at.port());
        let fixed = [
            "-sS",
            "--max-time",
            "20",
            "--resolve",
            &resolve,
            "--cacert",
            ca.to_str().unwrap(),
        ];
        run("curl", &[&fixed[..], options, &[&url]].concat(), b"").map(|answer| out(&answer))
    }
}

/// Frames by hand (RFC 9113 section 4.1).
struct Frames(StreamOwned<ClientConnection, TcpStream>);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `GET https://site.test/`, without Huffman and without the dynamic table (RFC 7541).
const GET: &[u8] = b"\x82\x87\x84\x01\x09site.test";

impl Frames {
    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let _ = self.try_send(kind, flags, stream, payload);
    }

    fn try_send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        let length = (payload.len() as u32).to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame)
    }

    /// The next frame: kind, stream, payload; `None` at the end.
    fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], stream, payload))
    }

    /// How the peer complains: the code of the next GOAWAY or RST_STREAM; `None` when it just ends.
    fn complaint(&mut self) -> Option<(u8, u32)> {
        loop {
            let (kind, _, payload) = self.next()?;
            let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            match kind {
                GOAWAY => return Some((GOAWAY, code(4))),
                RST_STREAM => return Some((RST_STREAM, code(0))),
                _ => {}
            }
        }
    }
}

/// One address below which applications of these tests listen, and a view of it.
fn h2c(net: &Net) -> FleetView {
    let mut view = net.view(1);
    view.app.as_mut().unwrap().protocol = AppProtocol::H2c;
    view
}

async fn whole(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut content = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        content.extend(data);
    }
    (content, body.trailers().await.unwrap())
}

fn ask(path: &str) -> Request<()> {
    Request::get(format!("https://site.test{path}")).body(()).unwrap()
}

#[test]
fn curl_speaks_it_and_the_application_need_not() {
    let net = Net::new();
    let _app = App::start(net.app(1), |client, head, body| {
        if head.starts_with("GET /large") {
            client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let piece = vec![b'x'; 100_000];
            for _ in 0..30 {
                client.send("186a0\r\n");
                client.send(&piece);
                client.send("\r\n");
            }
            client.send("0\r\n\r\n");
            return true;
        }
        if head.starts_with("GET /none") {
            client.send("HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n");
            return true;
        }
        if head.starts_with("HEAD") {
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
            return true;
        }
        let of = |name| field(head, name).unwrap_or_default();
        let line = head.lines().next().unwrap_or_default();
        reply(
            client,
            &format!("{line} {} {} {}", of("host"), of("x-forwarded-proto"), body.len()),
        )
    });
    let site = site(net.view(1));
    let at = format!("site.test:{}", site.at.port());
    let Some(text) = site.curl(&["--http2", "-i"], "/a?b=c") else {
        return;
    };
    assert!(text.starts_with("HTTP/2 200 \r\n"), "{text}");
    assert!(
        text.ends_with(&format!("GET /a?b=c HTTP/1.1 {at} https 0")),
        "{text}"
    );
    let old = site.curl(&["--http1.1", "-i"], "/").unwrap();
    assert!(old.starts_with("HTTP/1.1 200 OK"), "{old}");
    assert!(site.curl(&["-I"], "/").unwrap().contains("content-length: 9"));
    assert!(site.curl(&["-i"], "/none").unwrap().starts_with("HTTP/2 204"));
    assert_eq!(
        site.curl(&["-o", "/dev/null", "-w", "%{size_download}"], "/large")
            .unwrap(),
        "3000000"
    );
    let large = site.certificates.path("large");
    std::fs::write(&large, vec![b'x'; 3_000_000]).unwrap();
    let upload = format!("@{}", large.display());
    let posted = site.curl(&["--data-binary", &upload], "/").unwrap();
    assert!(posted.ends_with(" 3000000"), "{posted}");
    let chunked = ["-H", "Content-Length:", "-T", large.to_str().unwrap()];
    assert!(site.curl(&chunked, "/").unwrap().ends_with(" 3000000"));
}

#[test]
fn what_is_kept_answers_both_versions() {
    let net = Net::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let _app = App::start(net.app(1), move |client, _, _| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let body = format!("{number}{}", "x".repeat(100_000));
        client.send(format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nETag: \"t\"\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        true
    });
    let mut view = net.view(1);
    view.answers.cache = Some(pontoon_fleet::CacheRules::default());
    let site = site(view);
    Runtime::new().unwrap().block_on(async {
        let mut client = site.client().await;
        for expected in 1..=3 {
            let (answer, _) = client.send_request(ask("/page"), true).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers().contains_key("age"), expected > 1);
            let (body, _) = whole(answer.into_body()).await;
            assert_eq!((body.len(), body[0]), (100_001, b'0'));
        }
        // With 304 and HEAD there is no body, and the connection goes on.
        let mut known = ask("/page");
        known
            .headers_mut()
            .insert("if-none-match", "\"t\"".parse().unwrap());
        let (answer, _) = client.send_request(known, true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 304);
        assert!(whole(answer.into_body()).await.0.is_empty());
    });
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn streams_are_served_side_by_side_on_one_connection() {
    let net = Net::new();
    let (waiting, all_wait) = (Arc::new(AtomicUsize::new(0)), 40);
    let counter = Arc::clone(&waiting);
    // Nobody is answered before all have asked.
    let app = App::start(net.app(1), move |client, head, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        wait_for("the others", || counter.load(Ordering::SeqCst) >= all_wait);
        let path = head.split(' ').nth(1).unwrap().to_owned();
        reply(client, &path)
    });
    let site = site(net.view(1));
    Runtime::new().unwrap().block_on(async {
        let client = site.client().await;
        let mut asked = Vec::new();
        for n in 0..all_wait {
            let mut client = client.clone().ready().await.unwrap();
            asked.push(client.send_request(ask(&format!("/{n}")), true).unwrap().0);
        }
        for (n, answer) in asked.into_iter().enumerate() {
            let (body, _) = whole(answer.await.unwrap().into_body()).await;
            assert_eq!(body, format!("/{n}").into_bytes());
        }
    });
    assert_eq!(app.count(), all_wait);
}

#[test]
fn what_a_request_may_not_be_in_one_version_it_may_not_be_in_the_other() {
    let net = Net::new();
    let app = App::start(net.app(1), |client, head, _| {
        reply(client, &field(head, "cookie").unwrap_or_default())
    });
    let site = site(net.view(1));
    Runtime::new().unwrap().block_on(async {
        let client = site.client().await;
        let status = async |request: Request<()>| {
            let mut client = client.clone().ready().await.unwrap();
            let (answer, _) = client.send_request(request, true).unwrap();
            answer.await.map(|answer| answer.status().as_u16())
        };
        let with = |name: &str, value: &str| {
            Request::get("https://site.test/")
                .header(name, value)
                .body(())
                .unwrap()
        };
        assert_eq!(status(with("host", "other.test")).await.unwrap(), 400);
        assert_eq!(status(with("expect", "wonders")).await.unwrap(), 417);
        let trace = Request::builder()
            .method("TRACE")
            .uri("https://site.test/")
            .body(())
            .unwrap();
        assert_eq!(status(trace).await.unwrap(), 405);
        let long = Request::get(format!("https://site.test/{}", "x".repeat(9_000)))
            .body(())
            .unwrap();
        assert_eq!(status(long).await.unwrap(), 414);
        let large = "x".repeat(40_000);
        assert_eq!(status(with("x-large", &large)).await.unwrap(), 431);
        assert_eq!(app.count(), 0, "none of them was passed on");
        // Pieces of a cookie are one field again.
        let mut pieces = with("cookie", "a=1");
        pieces
            .headers_mut()
            .append("cookie", HeaderValue::from_static("b=2"));
        let mut client = client.clone().ready().await.unwrap();
        let (answer, _) = client.send_request(pieces, true).unwrap();
        let (body, _) = whole(answer.await.unwrap().into_body()).await;
        assert_eq!(body, b"a=1; b=2");
    });
}

/// A gRPC server without protocol buffers: what comes in a message goes out in one, the status in a trailer. Pulls the
/// plug of each connection after `per_connection` requests, as graceful servers do (GOAWAY).
fn echo(runtime: &Runtime, at: SocketAddr, per_connection: usize) -> Arc<AtomicUsize> {
    echo_of(runtime, at, per_connection, 100)
}

/// The same, which takes so many streams of a connection at the same time.
fn echo_of(runtime: &Runtime, at: SocketAddr, per_connection: usize, streams: u32) -> Arc<AtomicUsize> {
    let served: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&served);
    let listener = runtime.block_on(tokio::net::TcpListener::bind(at)).unwrap();
    runtime.spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                builder.max_concurrent_streams(streams);
                let Ok(mut connection) = builder.handshake::<_, Bytes>(tcp).await else {
                    return;
                };
                let mut requests = 0;
                while let Some(Ok((request, respond))) = connection.accept().await {
                    requests += 1;
                    count.fetch_add(1, Ordering::SeqCst);
                    if requests == per_connection {
                        connection.graceful_shutdown();
                    }
                    tokio::spawn(answer(request, respond));
                }
            });
        }
    });
    served
}

async fn answer(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let head = Response::builder().header("content-type", "application/grpc");
    let te = request.headers().get("te").cloned();
    if request.uri().path() == "/nothing" {
        let head = head.header("grpc-status", "12").body(()).unwrap();
        respond.send_response(head, true).unwrap();
        return;
    }
    let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        if stream.send_data(data, false).is_err() {
            return;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-te", te.unwrap_or(HeaderValue::from_static("none")));
    let _ = stream.send_trailers(trailers);
}

fn call(path: &str) -> Request<()> {
    Request::post(format!("https://site.test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

#[test]
fn grpc_goes_through_with_its_trailers_and_in_both_directions_at_once() {
    let net = Net::new();
    let over_ipv4 = (net.app(1), net.view(1));
    for (app, view) in [Some(over_ipv4), over_ipv6()].into_iter().flatten() {
        call_grpc(app, view);
    }
}

fn call_grpc(app: SocketAddr, mut view: FleetView) {
    let runtime = Runtime::new().unwrap();
    let _served = echo(&runtime, app, usize::MAX);
    view.app.as_mut().unwrap().protocol = AppProtocol::H2c;
    let site = site(view);
    runtime.block_on(async {
        let mut client = site.client().await;
        let (answer, mut stream) = client.send_request(call("/echo.Echo/Talk"), false).unwrap();
        // The answer's head comes before the request has ended, and each message before the next is sent.
        stream
            .send_data(Bytes::from_static(b"\0\0\0\0\x05hello"), false)
            .unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        let mut body = answer.into_body();
        let first = body.data().await.unwrap().unwrap();
        assert_eq!(&first[..], b"\0\0\0\0\x05hello");
        stream
            .send_data(Bytes::from_static(b"\0\0\0\0\x03bye"), true)
            .unwrap();
        let (rest, trailers) = whole(body).await;
        assert_eq!(rest, b"\0\0\0\0\x03bye");
        let trailers = trailers.unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers["x-te"], "trailers");
        // An answer of trailers only.
        let mut client = client.ready().await.unwrap();
        let (answer, _) = client.send_request(call("/nothing"), true).unwrap();
        assert_eq!(answer.await.unwrap().headers()["grpc-status"], "12");
    });
}

#[test]
fn an_application_that_takes_few_streams_gets_more_connections() {
    let runtime = Runtime::new().unwrap();
    let net = Net::new();
    let served = echo_of(&runtime, net.app(1), usize::MAX, 3);
    let site = site(h2c(&net));
    runtime.block_on(async {
        let client = site.client().await;
        let mut calls = Vec::new();
        for _ in 0..12 {
            let mut client = client.clone().ready().await.unwrap();
            let (answer, mut stream) = client.send_request(call("/echo"), false).unwrap();
            stream.send_data(Bytes::from_static(b"one"), false).unwrap();
            // All of them stay open.
            let mut body = answer.await.unwrap().into_body();
            assert_eq!(&body.data().await.unwrap().unwrap()[..], b"one");
            calls.push((stream, body));
        }
        for (mut stream, body) in calls {
            stream.send_data(Bytes::from_static(b"two"), true).unwrap();
            assert_eq!(whole(body).await.0, b"two");
        }
    });
    assert_eq!(served.load(Ordering::SeqCst), 12);
}

#[test]
fn an_application_that_asks_its_connections_to_end_costs_no_call() {
    let runtime = Runtime::new().unwrap();
    let net = Net::new();
    let served = echo(&runtime, net.app(1), 3);
    let site = site(h2c(&net));
    runtime.block_on(async {
        let client = site.client().await;
        for _ in 0..10 {
            // POSTs, which nothing but the application's own word lets be sent twice.
            let mut asked = Vec::new();
            for _ in 0..8 {
                let mut client = client.clone().ready().await.unwrap();
                let (answer, mut stream) = client.send_request(call("/echo"), false).unwrap();
                stream.send_data(Bytes::from_static(b"once"), true).unwrap();
                asked.push(answer);
            }
            for answer in asked {
                let (body, trailers) = whole(answer.await.unwrap().into_body()).await;
                assert_eq!(
                    (&body[..], &trailers.unwrap()["grpc-status"]),
                    (&b"once"[..], &HeaderValue::from_static("0"))
                );
            }
        }
    });
    assert_eq!(served.load(Ordering::SeqCst), 80, "each was carried out once");
}

#[test]
fn an_h2c_application_is_checked_and_serves_http_1_visitors_too() {
    let runtime = Runtime::new().unwrap();
    let net = Net::new();
    let mut view = h2c(&net);
    view.app.as_mut().unwrap().health.path = Some("/up".to_owned());
    let edge = Edge::start(view);
    edge.wait_health("a", false);
    let _served = echo(&runtime, net.app(1), usize::MAX);
    edge.wait_health("a", true);
    let mut client = edge.client();
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello");
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (200, "hello".to_owned()));
}

async fn cut_off(mut body: RecvStream) -> h2::Error {
    loop {
        match body.data().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error,
            None => panic!("the part passed for the whole"),
        }
    }
}

#[test]
fn an_answer_that_is_cut_short_is_no_whole_answer() {
    let net = Net::new();
    let _app = App::start(net.app(1), |client, _, _| {
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        false
    });
    let site = site(net.view(1));
    Runtime::new().unwrap().block_on(async {
        let mut client = site.client().await;
        let (answer, _) = client.send_request(ask("/"), true).unwrap();
        // The reset may overtake what stands before it.
        let error = match answer.await {
            Ok(answer) => cut_off(answer.into_body()).await,
            Err(error) => error,
        };
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    });
}

#[test]
fn a_visitor_that_gives_up_is_noticed_by_the_application() {
    let net = Net::new();
    let (gone, is_gone) = channel();
    let gone = std::sync::Mutex::new(gone);
    let _app = App::start(net.app(1), move |client, _, _| {
        gone.lock().unwrap().send(client.rest().is_empty()).unwrap();
        false
    });
    let site = site(net.view(1));
    let mut frames = site.frames();
    frames.send(HEADERS, END_STREAM | END_HEADERS, 1, GET);
    pause(300);
    frames.send(RST_STREAM, 0, 1, &8u32.to_be_bytes());
    assert!(is_gone.recv_timeout(8 * SECOND).unwrap());
}

#[test]
fn who_opens_streams_to_give_them_up_is_told_to_calm_down() {
    let net = Net::new();
    let _app = App::start(net.app(1), |client, _, _| {
        pause(200);
        reply(client, "late")
    });
    let site = site(net.view(1));
    // CVE-2023-44487: a request and its reset, again and again.
    let mut frames = site.frames();
    for n in 0..5_000u32 {
        let stream = 2 * n + 1;
        let sent = frames
            .try_send(HEADERS, END_STREAM | END_HEADERS, stream, GET)
            .and_then(|()| frames.try_send(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        if sent.is_err() {
            break;
        }
    }
    let calm = Reason::ENHANCE_YOUR_CALM.into();
    let complaint = frames.complaint();
    // A connection that is closed while we still write may be reset before its last frame is read.
    assert!(
        complaint.is_none() || complaint == Some((GOAWAY, calm)),
        "{complaint:?}"
    );
    assert!(
        frames.next().is_none() || frames.complaint().is_none(),
        "the connection ends"
    );
    assert_eq!(
        site.curl(&["-o", "/dev/null", "-w", "%{http_code}"], "/")
            .unwrap_or("200".to_owned()),
        "200"
    );
}

#[test]
fn a_head_without_end_and_other_floods_end_the_connection() {
    let net = Net::new();
    let app = App::start(net.app(1), |client, _, _| reply(client, "x"));
    let site = site(net.view(1));
    // CONTINUATION frames without end (CVE-2024-24549 and its kin).
    let mut frames = site.frames();
    frames.send(HEADERS, END_STREAM, 1, GET);
    let field = [&b"\x00\x03abc\x7f\x81\x07"[..], &[b'x'; 1024]].concat();
    for _ in 0..10_000 {
        if frames.try_send(CONTINUATION, 0, 1, &field[..1000]).is_err() {
            break;
        }
    }
    assert!(frames.complaint().is_none_or(|(kind, _)| kind == GOAWAY));
    // One that ends, and is too large.
    let mut frames = site.frames();
    frames.send(HEADERS, END_STREAM, 1, GET);
    for _ in 0..200 {
        let _ = frames.try_send(CONTINUATION, 0, 1, &field[..1000]);
    }
    let _ = frames.try_send(CONTINUATION, END_HEADERS, 1, b"");
    assert!(frames.complaint().is_none_or(|(kind, _)| kind == GOAWAY));
    assert_eq!(app.count(), 0);
    assert_eq!(
        site.curl(&["-w", "%{http_code}"], "/")
            .unwrap_or("x200".to_owned()),
        "x200"
    );
}

/// Own cases after RFC 9113, in the manner of h2spec.
#[test]
fn broken_rules_are_answered_as_the_standard_says() {
    let net = Net::new();
    let app = App::start(net.app(1), |client, _, _| reply(client, "x"));
    let site = site(net.view(1));
    let broken = |rule: &str, (kind, flags, stream): (u8, u8, u32), payload: &[u8], code: u32| {
        let mut frames = site.frames();
        frames.send(kind, flags, stream, payload);
        let complaint = frames.complaint();
        // A stream may be closed already; the library calls some wrong sizes a protocol error.
        let also = [Reason::STREAM_CLOSED.into(), Reason::PROTOCOL_ERROR.into()];
        let told = complaint.is_none_or(|(_, said)| said == code || also.contains(&said));
        assert!(told, "{rule}: {complaint:?}");
    };
    let request = (HEADERS, END_STREAM | END_HEADERS, 1);
    let with = |field: &[u8]| [GET, field].concat();
    let (protocol, size) = (Reason::PROTOCOL_ERROR.into(), Reason::FRAME_SIZE_ERROR.into());
    broken(
        "5.1 DATA on an idle stream",
        (DATA, END_STREAM, 1),
        b"x",
        protocol,
    );
    broken(
        "5.1 RST_STREAM on an idle stream",
        (RST_STREAM, 0, 1),
        &[0; 4],
        protocol,
    );
    broken("5.1.1 an even stream", (HEADERS, 5, 2), GET, protocol);
    broken("6.1 DATA on stream 0", (DATA, 0, 0), b"x", protocol);
    broken("6.2 HEADERS on stream 0", (HEADERS, 5, 0), GET, protocol);
    broken("6.5 SETTINGS of 5 bytes", (SETTINGS, 0, 0), &[0; 5], size);
    broken("6.5 SETTINGS on a stream", (SETTINGS, 0, 1), &[], protocol);
    broken(
        "6.5.2 ENABLE_PUSH of 2",
        (SETTINGS, 0, 0),
        &[0, 2, 0, 0, 0, 2],
        protocol,
    );
    broken("6.7 PING of 7 bytes", (PING, 0, 0), &[0; 7], size);
    broken("6.7 PING on a stream", (PING, 0, 1), &[0; 8], protocol);
    broken("6.9 WINDOW_UPDATE of 0", (WINDOW_UPDATE, 0, 0), &[0; 4], protocol);
    broken(
        "6.9 WINDOW_UPDATE of 3 bytes",
        (WINDOW_UPDATE, 0, 0),
        &[0; 3],
        size,
    );
    broken("6.10 CONTINUATION alone", (CONTINUATION, 4, 1), GET, protocol);
    broken("4.2 a frame over the limit", (DATA, 0, 1), &[0; 16_385], size);
    broken(
        "8.2.1 an upper-case name",
        request,
        &with(b"\x00\x03ABC\x01x"),
        protocol,
    );
    let connection = with(b"\x00\x0aconnection\x05close");
    broken("8.2.2 Connection", request, &connection, protocol);
    let chunked = with(b"\x00\x11transfer-encoding\x07chunked");
    broken("8.2.2 Transfer-Encoding", request, &chunked, protocol);
    broken("8.2.2 TE: gzip", request, &with(b"\x00\x02te\x04gzip"), protocol);
    broken(
        "8.3 an unknown pseudo-header",
        request,
        &with(b"\x00\x04:abc\x01x"),
        protocol,
    );
    let late = b"\x82\x87\x00\x01a\x01b\x84\x01\x09site.test";
    broken("8.3 a pseudo-header after a field", request, late, protocol);
    broken("8.3.1 no :path", request, b"\x82\x87\x01\x09site.test", protocol);
    broken("8.3.1 two :method", request, &with(b"\x82"), protocol);
    let length = with(b"\x00\x0econtent-length\x011");
    broken("8.1.1 a length and no body", request, &length, protocol);
    let compression = Reason::COMPRESSION_ERROR.into();
    broken(
        "RFC 7541 2.3.3 no such index",
        request,
        b"\xff\xff\x7f",
        compression,
    );
    assert_eq!(app.count(), 0, "nothing of it was passed on");
    // What is allowed, and looks odd: an unknown frame type, a PING, padding of nothing.
    let mut frames = site.frames();
    frames.send(0xbe, 0xff, 0, b"whatever");
    frames.send(PING, 0, 0, b"12345678");
    frames.send(
        HEADERS,
        END_STREAM | END_HEADERS | 8,
        1,
        &[&[0u8][..], GET].concat(),
    );
    let (mut ponged, mut answered) = (false, false);
    while !(ponged && answered) {
        let (kind, stream, payload) = frames.next().expect("an answer");
        ponged |= kind == PING && payload == b"12345678";
        answered |= kind == DATA && stream == 1 && payload == b"x";
    }
}

#[test]
fn the_end_finishes_streams_and_takes_no_new_ones() {
    let net = Net::new();
    let (begun, has_begun) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let gate = std::sync::Mutex::new((begun, may_go_on));
    let _app = App::start(net.app(1), move |client, _, _| {
        let gate = gate.lock().unwrap();
        gate.0.send(()).unwrap();
        gate.1.recv().unwrap();
        reply(client, "finished")
    });
    let mut site = site(net.view(1));
    let runtime = Runtime::new().unwrap();
    let (answer, client) = runtime.block_on(async {
        let mut client = site.client().await;
        let answer = client.send_request(ask("/"), true).unwrap().0;
        (answer, client)
    });
    has_begun.recv_timeout(8 * SECOND).unwrap();
    site.edge.ask_to_end();
    pause(200);
    go_on.send(()).unwrap();
    runtime.block_on(async {
        let (body, _) = whole(answer.await.unwrap().into_body()).await;
        assert_eq!(body, b"finished");
        assert!(
            tokio::time::timeout(8 * SECOND, async {
                let mut client = client;
                while let Ok(ready) = client.ready().await {
                    client = ready;
                    tokio::time::sleep(SECOND / 20).await;
                }
            })
            .await
            .is_ok()
        );
    });
    site.edge.wait_for_end();
}

/// Both ends of gRPC's own implementation, with an edge between them.
const GRPC: &str = r"
import concurrent.futures, grpc, sys, time
app, edge, ca = sys.argv[1:]
def fail(message, context):
    context.abort(grpc.StatusCode.NOT_FOUND, 'no such thing: \u00fc %')
class Echo(grpc.GenericRpcHandler):
    def service(self, call):
        return {
            '/echo.Echo/Say': grpc.unary_unary_rpc_method_handler(lambda message, context: message),
            '/echo.Echo/Fail': grpc.unary_unary_rpc_method_handler(fail),
            '/echo.Echo/Talk': grpc.stream_stream_rpc_method_handler(lambda messages, context: messages),
        }.get(call.method)
server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((Echo(),))
server.add_insecure_port(app)
server.start()
trusted = grpc.ssl_channel_credentials(open(ca, 'rb').read())
channel = grpc.secure_channel(edge, trusted, [('grpc.ssl_target_name_override', 'site.test')])
say = channel.unary_unary('/echo.Echo/Say')
until = time.time() + 20
while True:
    try:
        assert say(b'first', timeout=20) == b'first'
        break
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.UNAVAILABLE or time.time() > until:
            raise
for length in list(range(50)) + [100_000, 1_000_000]:
    assert say(b'x' * length, timeout=20) == b'x' * length
waiting = [say.future(b'%d' % n, timeout=20) for n in range(100)]
assert [answer.result() for answer in waiting] == [b'%d' % n for n in range(100)]
talk = channel.stream_stream('/echo.Echo/Talk')
messages = [b'1', b'', b'3' * 300_000]
assert list(talk(iter(messages), timeout=20)) == messages
for method, code in [('Fail', grpc.StatusCode.NOT_FOUND), ('None', grpc.StatusCode.UNIMPLEMENTED)]:
    try:
        channel.unary_unary('/echo.Echo/' + method)(b'', timeout=20)
        raise SystemExit(method + ' should fail')
    except grpc.RpcError as error:
        assert error.code() == code, error
        assert method != 'Fail' or error.details() == 'no such thing: \u00fc %', error
print('all is well')
";

#[test]
fn grpc_s_own_client_and_server_talk_through_it() {
    let python = std::env::var("PONTOON_TEST_PYTHON").unwrap_or("python3".to_owned());
    let has = run(&python, &["-c", "import grpc"], b"");
    if has.is_none_or(|has| !has.status.success()) {
        println!("SKIPPED: no grpcio for {python}; PONTOON_TEST_PYTHON names a Python that has it");
        return;
    }
    let net = Net::new();
    let site = site(h2c(&net));
    let (app, at) = (net.app(1).to_string(), site.at.to_string());
    let ca = site.certificates.path("site.ca");
    let said = run(&python, &["-c", GRPC, &app, &at, ca.to_str().unwrap()], b"").unwrap();
    assert!(out(&said).contains("all is well"), "{}", out(&said));
}
