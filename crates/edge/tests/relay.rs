//! From edge to edge, to an application that listens on loopback only.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::*;
use pontoon_fleet::{FleetView, Ports, Role, UnixMillis};
use pontoon_pki::{Authority, Identity, SERVER_LIFETIME};
use pontoon_rt::paths::Paths;

fn now() -> UnixMillis {
    UnixMillis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

fn authority() -> Authority {
    Authority::create(&"test".parse().unwrap(), now()).unwrap()
}

fn give_identity(authority: &Authority, name: &str, address: IpAddr, root: &Path) {
    let name = name.parse().unwrap();
    let (key, csr) = Identity::new_key_and_csr(&name, address).unwrap();
    let cert = authority
        .sign_server(&csr, &name, address, now(), SERVER_LIFETIME)
        .unwrap();
    let identity =
        Identity::assemble("test".parse().unwrap(), &key, &cert, &authority.certificate_pem()).unwrap();
    identity.save(&Paths::under(root).identity_dir()).unwrap();
}

/// Server a has an edge only; server b (and c) an application on loopback, reached through its relay.
fn fleet(app_port: u16, listen: SocketAddr, with_c: bool) -> FleetView {
    let mut fleet = view(1, SocketAddr::from(([127, 0, 0, 1], app_port)), listen);
    fleet.servers[0].roles = [Role::Edge].into();
    fleet
        .servers
        .push(server("b", 2, &[Role::App], Ports::from_base(free_port()), None));
    if with_c {
        fleet
            .servers
            .push(server("c", 3, &[Role::App], Ports::from_base(free_port()), None));
    }
    let app = fleet.app.as_mut().unwrap();
    app.health.interval = Duration::from_millis(200);
    fleet
}

fn start(name: &str, last: u8, fleet: &FleetView, authority: &Authority) -> Edge {
    let address = IpAddr::from([127, 0, 0, last]);
    Edge::start_as(name, fleet.clone(), tuning(), |root| {
        give_identity(authority, name, address, root)
    })
}

#[test]
fn an_application_on_loopback_is_reached_through_the_relay_of_its_server() {
    let authority = authority();
    let net = Net::new();
    let app = App::start(net.app(1), |client, head, body| {
        if head.starts_with("POST") {
            client.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ));
            client.send(body);
            return true;
        }
        client.send("HTTP/1.1 200 OK\r\nPontoon-Relay: not-sent\r\nContent-Length: 5\r\n\r\nhello");
        true
    });
    let fleet = fleet(net.port, net.listen, false);
    let relay = start("b", 2, &fleet, &authority);
    let edge = start("a", 1, &fleet, &authority);
    edge.wait_health("b", true);
    let mut client = edge.client();
    for _ in 0..5 {
        client.send("GET /x HTTP/1.1\r\nHost: example.org\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n");
        let answer = client.answer();
        assert_eq!(
            (answer.text().as_str(), answer.field("pontoon-relay")),
            ("hello", None)
        );
    }
    let asked: Vec<String> = app
        .requests
        .lock()
        .unwrap()
        .iter()
        .filter(|head| head.starts_with("GET /x"))
        .cloned()
        .collect();
    assert_eq!(
        asked[0],
        "GET /x HTTP/1.1\r\nHost: example.org\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n\
         X-Forwarded-Host: example.org\r\n\r\n"
    );
    let body = vec![b'z'; 2_000_000];
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    client.send(&body);
    assert!(client.answer().body == body);
    drop(relay);
    edge.wait_health("b", false);
}

#[test]
fn what_an_h2c_application_says_last_comes_through_a_relay_too() {
    let authority = authority();
    let net = Net::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind(net.app(1)))
        .unwrap();
    runtime.spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(tcp).await else {
                    return;
                };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                    stream
                        .send_data(bytes::Bytes::from_static(b"said"), false)
                        .unwrap();
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static("5"));
                    stream.send_trailers(trailers).unwrap();
                }
            });
        }
    });
    let mut fleet = fleet(net.port, net.listen, false);
    fleet.app.as_mut().unwrap().protocol = pontoon_fleet::AppProtocol::H2c;
    let _relay = start("b", 2, &fleet, &authority);
    let edge = start("a", 1, &fleet, &authority);
    edge.wait_health("b", true);
    let mut client = edge.client();
    for _ in 0..3 {
        client.send(
            "POST / HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nConnection: TE\r\nContent-Length: 0\r\n\r\n",
        );
        assert!(client.head().unwrap().starts_with("HTTP/1.1 200"));
        let (content, trailers) = client.chunks().unwrap();
        assert_eq!(
            (&content[..], trailers.as_str()),
            (&b"said"[..], "grpc-status: 5\r\n")
        );
    }
}

#[test]
fn a_relay_whose_application_is_gone_sends_even_a_post_elsewhere() {
    let authority = authority();
    let net = Net::new();
    let fleet = fleet(net.port, net.listen, true);
    // c's application is not on loopback's usual address, so that b's can be away: c's own view says where it is.
    let mut view_of_c = fleet.clone();
    view_of_c.app.as_mut().unwrap().upstream = SocketAddr::from(([127, 0, 0, 3], net.port));
    view_of_c.servers[2].private = IpAddr::from([127, 0, 0, 3]);
    let app = App::start(net.app(3), |client, _, body| {
        reply(client, std::str::from_utf8(body).unwrap())
    });
    let _b = start("b", 2, &fleet, &authority);
    let _c = start("c", 3, &view_of_c, &authority);
    let mut rarely_checked = fleet.clone();
    rarely_checked.app.as_mut().unwrap().health.interval = Duration::from_secs(60);
    let edge = start("a", 1, &rarely_checked, &authority);
    for _ in 0..6 {
        let mut client = edge.client();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(client.answer().text(), "hi");
    }
    assert!(app.count() >= 6);
    edge.wait_health("b", false);
}

#[test]
fn a_request_that_ends_its_application_is_not_sent_again_and_again_through_relays() {
    let authority = authority();
    let net = Net::new();
    // The application of both b and c: a worker that dies of one request, and answers all others.
    let app = App::start(net.app(1), |client, head, _| {
        !head.starts_with("GET /dies") && reply(client, "ok")
    });
    let fleet = fleet(net.port, net.listen, true);
    let _b = start("b", 2, &fleet, &authority);
    let _c = start("c", 3, &fleet, &authority);
    let edge = start("a", 1, &fleet, &authority);
    edge.wait_health("b", true);
    edge.wait_health("c", true);
    assert_eq!(edge.get("/lives").text(), "ok");
    assert_eq!(edge.get("/dies").status, 502);
    let heads = app.requests.lock().unwrap().clone();
    let sent = heads.iter().filter(|head| head.starts_with("GET /dies")).count();
    assert!(
        (2..=4).contains(&sent),
        "once for each of two servers, and once more on a new connection: {sent}"
    );
    let report = edge.report().unwrap();
    assert!(report.upstreams.iter().all(|up| up.healthy), "{report:?}");
}

#[test]
fn a_server_that_left_is_refused_on_the_connections_that_it_has() {
    let authority = authority();
    let net = Net::new();
    let app = App::start(net.app(1), |client, _, _| reply(client, "secret"));
    let fleet = fleet(net.port, net.listen, false);
    let relay = start("b", 2, &fleet, &authority);
    let edge = start("a", 1, &fleet, &authority);
    edge.wait_health("b", true);
    let mut client = edge.client();
    client.send("GET /in HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.answer().text(), "secret");
    let mut without_a = fleet.clone();
    without_a.servers.remove(0);
    without_a.serial += 1;
    relay.publisher.publish(without_a).unwrap();
    pause(300);
    client.send("GET /out HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_ne!(client.answer().status, 200);
    let heads = app.requests.lock().unwrap().clone();
    assert!(heads.iter().all(|head| !head.starts_with("GET /out")));
}

#[test]
fn a_server_without_a_part_in_serving_may_not_use_the_relay() {
    let authority = authority();
    let net = Net::new();
    let _app = App::start(net.app(1), |client, _, _| reply(client, "secret"));
    let fleet = fleet(net.port, net.listen, false);
    let mut view_of_b = fleet.clone();
    view_of_b.servers[0].roles = [Role::Db].into();
    let _relay = start("b", 2, &view_of_b, &authority);
    let edge = start("a", 1, &fleet, &authority);
    assert_ne!(edge.get("/").status, 200);
}

#[test]
fn a_relay_lets_in_only_servers_of_its_fleet() {
    let ours = authority();
    let theirs = authority();
    let net = Net::new();
    let app = App::start(net.app(1), |client, _, _| reply(client, "secret"));
    let fleet = fleet(net.port, net.listen, false);
    let relay = start("b", 2, &fleet, &ours);
    // Plain text, another fleet's certificate, and a certificate of ours whose server is not in the view.
    let mut plain = Client::to(relay.address);
    plain.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(!String::from_utf8_lossy(&plain.rest()).contains("secret"));
    let stranger = start("a", 1, &fleet, &theirs);
    assert_ne!(stranger.get("/").status, 200);
    drop(stranger);
    let mut without_x = fleet.clone();
    without_x.servers[0].name = "x".parse().unwrap();
    let address = IpAddr::from([127, 0, 0, 1]);
    let left = Edge::start_as("x", without_x, tuning(), |root| {
        give_identity(&ours, "x", address, root)
    });
    assert_ne!(left.get("/").status, 200);
    drop(left);
    assert_eq!(
        app.used_connections.load(Ordering::Relaxed),
        app.count(),
        "only checks of the relay's own edge"
    );
    assert!(
        app.requests
            .lock()
            .unwrap()
            .iter()
            .all(|head| !head.contains("X-Forwarded-For"))
    );
    let member = start("a", 1, &fleet, &ours);
    assert_eq!(member.get("/").text(), "secret");
}

#[test]
fn a_relay_without_an_identity_says_so_and_listens_when_it_has_one() {
    let authority = authority();
    let net = Net::new();
    let _app = App::start(net.app(1), |client, _, _| reply(client, "a"));
    let edge = Edge::start(net.view(1));
    wait_for("the report", || {
        edge.report()
            .is_some_and(|report| report.not_listening.iter().any(|line| line.contains("identity")))
    });
    assert_eq!(edge.get("/").text(), "a");
    give_identity(&authority, "a", IpAddr::from([127, 0, 0, 1]), edge.dir.path());
    wait_for("the relay", || {
        edge.report()
            .is_some_and(|report| report.not_listening.is_empty())
    });
}

#[test]
fn a_websocket_passes_through_the_relay() {
    let authority = authority();
    let net = Net::new();
    let _app = App::by_connection(net.app(1), |client| {
        let Some(head) = client.head() else { return };
        if !head.contains("Upgrade: echo") {
            reply(client, "");
            return;
        }
        client.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n");
        for _ in 0..50 {
            let frame = client.exactly(4);
            client.send(frame);
        }
    });
    let fleet = fleet(net.port, net.listen, false);
    let _relay = start("b", 2, &fleet, &authority);
    let edge = start("a", 1, &fleet, &authority);
    let mut client = edge.client();
    client.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 101"));
    for n in 0..50 {
        let frame = format!("{n:04}");
        client.send(&frame);
        assert_eq!(client.exactly(4), frame.as_bytes());
    }
    assert!(client.rest().is_empty());
}

#[test]
fn a_relay_that_ends_loses_no_request() {
    let authority = authority();
    let net = Net::new();
    let _app = App::start(net.app(1), |client, _, _| reply(client, "ok"));
    let fleet = fleet(net.port, net.listen, true);
    let mut b = start("b", 2, &fleet, &authority);
    let _c = start("c", 3, &fleet, &authority);
    let edge = Arc::new(start("a", 1, &fleet, &authority));
    edge.wait_health("b", true);
    edge.wait_health("c", true);
    let asking: Vec<_> = (0..4)
        .map(|thread| {
            let edge = Arc::clone(&edge);
            std::thread::spawn(move || {
                let mut client = edge.client();
                for n in 0..150 {
                    if (n + thread) % 2 == 0 {
                        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
                    } else {
                        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
                    }
                    let answer = client.answer();
                    assert_eq!(answer.text(), "ok", "{}", answer.head);
                    pause(5);
                }
            })
        })
        .collect();
    pause(200);
    b.ask_to_end();
    b.wait_for_end();
    assert!(TcpStream::connect(b.address).is_err());
    for client in asking {
        client.join().unwrap();
    }
}
