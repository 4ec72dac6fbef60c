//! Compression, as visitors meet it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use common::tls::*;
use common::*;
use pontoon_fleet::Compress;

/// Lines that compress well and are no two the same.
fn page() -> String {
    (0..20_000).map(|line| format!("<p>line {line}</p>\n")).collect()
}

fn compressing(net: &Net) -> pontoon_fleet::FleetView {
    let mut view = net.view(1);
    view.answers.compress = Some(Compress::default());
    view
}

fn decoded(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    match coding {
        "zstd" => return zstd::stream::decode_all(bytes).unwrap(),
        "br" => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut content),
        _ => flate2::read::GzDecoder::new(bytes).read_to_end(&mut content),
    }
    .unwrap();
    content
}

#[test]
fn a_page_comes_compressed_as_the_visitor_likes_it() {
    let net = Net::new();
    let _app = App::start(net.app(1), |client, head, _| {
        let page = page();
        let length = format!("Content-Length: {}\r\n", page.len());
        let target = head.split(' ').nth(1).unwrap();
        match target {
            "/length" => client.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nETag: \"x\"\r\n{length}\r\n{page}"
            )),
            "/chunks" => {
                client
                    .send("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n");
                for piece in page.as_bytes().chunks(7_001) {
                    client.send(format!("{:x};ext=1\r\n", piece.len()));
                    client.send(piece);
                    client.send("\r\n");
                }
                client.send("0\r\nX-Trailer: 1\r\n\r\n");
            }
            "/close" => {
                client.send(format!(
                    "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n{page}"
                ));
                return false;
            }
            _ => client.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n{length}\r\n{page}"
            )),
        }
        true
    });
    let edge = Edge::start(compressing(&net));
    let mut client = edge.client();
    for coding in ["zstd", "br", "gzip"] {
        for target in ["/length", "/chunks", "/close"] {
            client.send(format!(
                "GET {target} HTTP/1.1\r\nHost: t\r\nAccept-Encoding: {coding}\r\n\r\n"
            ));
            let answer = client.answer();
            assert_eq!(
                answer.field("content-encoding").as_deref(),
                Some(coding),
                "{target}"
            );
            assert_eq!(answer.field("vary").as_deref(), Some("Accept-Encoding"));
            assert_eq!(answer.field("content-length"), None);
            assert!(answer.body.len() * 3 < page().len(), "{}", answer.body.len());
            assert!(
                decoded(coding, &answer.body) == page().as_bytes(),
                "{coding} {target}"
            );
            if target == "/length" {
                assert_eq!(answer.field("etag").as_deref(), Some("W/\"x\""));
            }
        }
    }
    // As it is, and said so where it could have been otherwise.
    client.send("GET /length HTTP/1.1\r\nHost: t\r\nAccept-Encoding: gzip;q=0\r\n\r\n");
    let plain = client.answer();
    assert_eq!(
        (plain.text(), plain.field("etag").as_deref()),
        (page(), Some("\"x\""))
    );
    assert_eq!(plain.field("vary").as_deref(), Some("Accept-Encoding"));
    client.send("GET /picture HTTP/1.1\r\nHost: t\r\nAccept-Encoding: gzip\r\n\r\n");
    let picture = client.answer();
    assert_eq!((picture.text(), picture.field("vary")), (page(), None));
    let mut old = edge.client();
    old.send("GET /length HTTP/1.0\r\nHost: t\r\nAccept-Encoding: gzip\r\n\r\n");
    assert_eq!(old.answer().text(), page(), "HTTP/1.0 has no chunks");
}

#[test]
fn it_is_switched_on_under_a_connection_that_stays() {
    let net = Net::new();
    let _app = App::start(net.app(1), |client, _, _| {
        let page = page();
        client.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/css\r\nContent-Length: {}\r\n\r\n{page}",
            page.len()
        ));
        true
    });
    let edge = Edge::start(net.view(1));
    let mut client = edge.client();
    let coding = |client: &mut Client| {
        client.send("GET / HTTP/1.1\r\nHost: t\r\nAccept-Encoding: gzip\r\n\r\n");
        client.answer().field("content-encoding")
    };
    assert_eq!(coding(&mut client), None);
    let mut view = compressing(&net);
    view.servers = net.view(1).servers;
    view.serial = 2;
    edge.publisher.publish(view).unwrap();
    let begun = std::time::Instant::now();
    while coding(&mut client).is_none() {
        assert!(begun.elapsed() < 8 * SECOND);
        pause(10);
    }
}

#[test]
fn events_are_not_held_back() {
    let net = Net::new();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let _app = App::start(net.app(1), move |client, _, _| {
        client
            .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..3 {
            client.send("9\r\ndata: 1\n\n\r\n");
            // The next one comes when this one was seen.
            may_go_on.lock().unwrap().recv().unwrap();
        }
        client.send("0\r\n\r\n");
        true
    });
    let edge = Edge::start(compressing(&net));
    let mut client = edge.client();
    client.send("GET / HTTP/1.1\r\nHost: t\r\nAccept-Encoding: gzip\r\n\r\n");
    assert!(client.head().unwrap().contains("Content-Encoding: gzip"));
    let mut decoder = flate2::write::GzDecoder::new(Vec::new());
    for seen in 1..=3 {
        while decoder.get_ref().len() < 9 * seen {
            let line = client.line().unwrap();
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
            decoder.write_all(&client.exactly(size)).unwrap();
            decoder.flush().unwrap();
            client.exactly(2);
        }
        go_on.send(()).unwrap();
    }
    assert!(client.chunks().is_some(), "an end");
}

#[test]
fn an_answer_that_is_cut_short_has_no_end() {
    let net = Net::new();
    let _app = App::start(net.app(1), |client, _, _| {
        client.send("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 999999\r\n\r\n");
        client.send(page());
        false
    });
    let edge = Edge::start(compressing(&net));
    let mut client = edge.client();
    client.send("GET / HTTP/1.1\r\nHost: t\r\nAccept-Encoding: br\r\n\r\n");
    assert!(client.head().unwrap().contains("Content-Encoding: br"));
    assert!(client.chunks().is_none());
}

#[test]
fn a_visitor_that_reads_nothing_holds_the_application_back() {
    let net = Net::new();
    let sent: Arc<AtomicUsize> = Arc::default();
    let counted = Arc::clone(&sent);
    let _app = App::by_connection(net.app(1), move |client| {
        let Some(_) = client.request() else { return };
        client.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n");
        // What does not compress, up to a bound that no buffers on the way hold.
        let mut state = 1_u64;
        for _ in 0..4_000 {
            let block: Vec<u8> = (0..16 * 1024)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            if client.stream.write_all(&block).is_err() {
                return;
            }
            counted.fetch_add(block.len(), Ordering::Relaxed);
        }
    });
    let edge = Edge::start(compressing(&net));
    let mut client = edge.client();
    client.send("GET / HTTP/1.1\r\nHost: t\r\nAccept-Encoding: zstd\r\n\r\n");
    assert!(client.head().unwrap().contains("Content-Encoding: zstd"));
    // It is given up after `write_timeout`, with most of the answer still unread.
    wait_for("the end", || {
        let samples = edge.counted("pontoon_edge_aborted_answers_total");
        samples > 0
    });
    assert!(sent.load(Ordering::Relaxed) < 40_000_000, "{sent:?}");
}

#[test]
fn curl_reads_every_coding_over_both_versions() {
    let (net, certificates) = (Net::new(), Certificates::new());
    let _app = App::start(net.app(1), |client, _, _| {
        let page = page();
        client.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{page}",
            page.len()
        ));
        true
    });
    let files = certificates.issue("site", &["site.test"], 90);
    let (view, at) = with_https(compressing(&net), &[&files]);
    let edge = Edge::start(view);
    wait_for("HTTPS", || TcpStream::connect(at).is_ok());
    let url = format!("https://site.test:{}/", at.port());
    let resolve = format!("site.test:{}:127.0.0.1", at.port());
    let ca = certificates.path("site.ca");
    for version in ["--http1.1", "--http2"] {
        for coding in ["gzip", "br", "zstd"] {
            let accepts = format!("Accept-Encoding: {coding}");
            let usual = [
                "-sS",
                "--max-time",
                "30",
                "--compressed",
                "--cacert",
                ca.to_str().unwrap(),
            ];
            let own = [
                version,
                "--resolve",
                &resolve,
                "-H",
                &accepts,
                "-D",
                "/dev/stderr",
                &url,
            ];
            let arguments: Vec<&str> = usual.into_iter().chain(own).collect();
            let Some(said) = run("curl", &arguments, b"") else {
                return;
            };
            let head = String::from_utf8_lossy(&said.stderr).to_lowercase();
            if head.contains("unrecognized") || head.contains("unsupported") {
                println!("SKIPPED {version} {coding}: this curl does not know it");
                continue;
            }
            assert!(
                head.contains(&format!("content-encoding: {coding}")),
                "{version}: {head}"
            );
            assert!(
                said.stdout == page().as_bytes(),
                "{version} {coding}: {} bytes",
                said.stdout.len()
            );
        }
    }
    assert!(edge.counted("pontoon_edge_compressed_bytes_total") > 0);
}
