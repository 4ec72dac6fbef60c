//! What happens when applications and clients fail. See FAILURES.md.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::*;
use pontoon_edge::Tuning;

/// Two applications, the checks too rare to interfere.
fn two(
    first: impl Fn(&mut Client, &str, &[u8]) -> bool + Send + Sync + 'static,
    second: impl Fn(&mut Client, &str, &[u8]) -> bool + Send + Sync + 'static,
) -> (Edge, App, App) {
    let net = Net::new();
    let apps = (App::start(net.app(1), first), App::start(net.app(2), second));
    let mut view = net.view(2);
    view.app.as_mut().unwrap().health.interval = Duration::from_secs(60);
    (Edge::start(view), apps.0, apps.1)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn a_kept_connection_that_closes_as_it_is_used_costs_a_get_nothing() {
    // Every connection serves one request, and closes when the second has arrived.
    let net = Net::new();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let _app = App::by_connection(net.app(1), move |client| {
        if client.request().is_none() {
            return;
        }
        count.fetch_add(1, Ordering::Relaxed);
        reply(client, "x");
        client.request();
    });
    let edge = Edge::start(net.view(1));
    let mut client = edge.client();
    for _ in 0..20 {
        client.send(GET);
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 20);
}

#[test]
fn a_408_on_an_idle_connection_is_nobodys_answer() {
    // What a server says that has lost its patience with an idle connection, come in the moment it is used again.
    let net = Net::new();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let _app = App::by_connection(net.app(1), move |client| {
        if client.request().is_none() {
            return;
        }
        count.fetch_add(1, Ordering::Relaxed);
        reply(client, "x");
        if client.request().is_some() {
            client.send("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let edge = Edge::start(net.view(1));
    let mut client = edge.client();
    for _ in 0..5 {
        client.send(GET);
        assert_eq!(client.answer().text(), "x");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 5);
}

#[test]
fn a_408_on_a_new_connection_is_passed_on() {
    let (edge, _app) = one(|client, _, _| {
        client.send("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        false
    });
    assert_eq!(edge.get("/").status, 408);
}

#[test]
fn a_kept_connection_that_was_closed_while_idle_is_not_used() {
    let (edge, _app) = one(|client, _, _| {
        reply(client, "x");
        false
    });
    let mut client = edge.client();
    for _ in 0..10 {
        client.send(GET);
        assert_eq!(client.answer().status, 200);
        pause(5);
    }
    assert_eq!(edge.report().map_or(0, |report| report.failed_total), 0);
}

#[test]
fn bytes_that_nobody_asked_for_poison_no_later_answer() {
    let (edge, _app) = one(|client, _, _| {
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
        pause(20);
        let _ = client
            .stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        true
    });
    let mut client = edge.client();
    for _ in 0..5 {
        client.send(GET);
        assert_eq!(client.answer().text(), "x");
        pause(60);
    }
}

#[test]
fn bytes_behind_an_answer_poison_no_later_answer() {
    let (edge, _app) = one(|client, _, _| {
        client.send(
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        );
        true
    });
    let mut client = edge.client();
    for _ in 0..5 {
        client.send(GET);
        assert_eq!(client.answer().text(), "x");
    }
}

#[test]
fn a_post_never_goes_on_a_kept_connection() {
    let (edge, app) = one(|client, _, _| reply(client, "x"));
    let mut client = edge.client();
    for _ in 0..3 {
        client.send(GET);
        client.answer();
        client.send(POST);
        assert_eq!(client.answer().status, 200);
    }
    assert!(
        app.used_connections.load(Ordering::Relaxed) >= 4,
        "one for the GETs, one for each POST"
    );
}

#[test]
fn a_refused_connection_sends_any_method_elsewhere() {
    let net = Net::new();
    // Nothing listens on server a.
    let other = App::start(net.app(2), |client, _, body| {
        reply(client, std::str::from_utf8(body).unwrap())
    });
    let mut view = net.view(2);
    view.app.as_mut().unwrap().health.interval = Duration::from_secs(60);
    let edge = Edge::start(view);
    for _ in 0..10 {
        let mut client = edge.client();
        client.send(POST);
        assert_eq!(client.answer().text(), "hi");
    }
    assert_eq!(other.count(), 10);
    edge.wait_health("a", false);
}

#[test]
fn a_refused_connection_sends_even_a_large_body_elsewhere() {
    let net = Net::new();
    let _other = App::start(net.app(2), |client, _, body| {
        reply(client, &body.len().to_string())
    });
    let mut view = net.view(2);
    view.app.as_mut().unwrap().health.interval = Duration::from_secs(60);
    let edge = Edge::start(view);
    for _ in 0..4 {
        let mut client = edge.client();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 500000\r\n\r\n");
        client.send(vec![b'x'; 500_000]);
        assert_eq!(client.answer().text(), "500000");
    }
}

#[test]
fn a_connection_closed_before_an_answer_sends_a_get_elsewhere() {
    let (edge, broken, good) = two(|_, _, _| false, |client, _, _| reply(client, "good"));
    for _ in 0..10 {
        assert_eq!(edge.get("/").text(), "good");
    }
    // Which thread takes which connection is the kernel's choice: each thread has turns of its own.
    assert!((4..=6).contains(&broken.count()), "{}", broken.count());
    assert_eq!(good.count(), 10);
}

#[test]
fn a_post_is_never_sent_again_after_it_was_sent() {
    let (edge, broken, good) = two(|_, _, _| false, |client, _, _| reply(client, "good"));
    let mut statuses = Vec::new();
    for _ in 0..10 {
        let mut client = edge.client();
        client.send(POST);
        statuses.push(client.answer().status);
    }
    assert_eq!(
        statuses.iter().filter(|status| **status == 502).count(),
        5,
        "{statuses:?}"
    );
    assert_eq!((broken.count(), good.count()), (5, 5));
}

/// By the default rule a server that fails at once must not look like the fastest of all.
#[test]
fn a_server_that_closes_without_an_answer_is_asked_less_and_less() {
    let net = Net::new();
    let broken = App::start(net.app(1), |_, _, _| false);
    let good = App::start(net.app(2), |client, _, _| reply(client, "good"));
    let mut view = net.view(2);
    let app = view.app.as_mut().unwrap();
    app.health.interval = Duration::from_secs(60);
    app.balance = pontoon_fleet::BalanceRule::Ewma;
    let edge = Edge::start(view);
    for _ in 0..50 {
        assert_eq!(edge.get("/").text(), "good");
    }
    assert!(broken.count() <= 5, "{}", broken.count());
    assert_eq!(good.count(), 50);
}

#[test]
fn nothing_is_sent_again_once_part_of_an_answer_came() {
    let (edge, broken, good) = two(
        |client, _, _| {
            client.send("HTTP/1.1 200 OK\r\nContent-Le");
            false
        },
        |client, _, _| reply(client, "good"),
    );
    let statuses: Vec<u16> = (0..4).map(|_| edge.get("/").status).collect();
    assert_eq!(
        statuses.iter().filter(|status| **status == 502).count(),
        2,
        "{statuses:?}"
    );
    assert_eq!((broken.count(), good.count()), (2, 2));
}

#[test]
fn an_answer_that_is_cut_short_looks_cut_short() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nxyz\r\n",
    ] {
        let (edge, app) = one(move |client, _, _| {
            // What is malformed comes after the beginning went on to the client.
            let (good, bad) = answer.split_at(answer.find("xyz").unwrap_or(answer.len()));
            client.send(good);
            pause(100);
            client.send(bad);
            false
        });
        let mut client = edge.client();
        client.send(GET);
        assert!(client.try_answer().is_none(), "{answer:?}");
        assert_eq!(app.count(), 1, "it is not asked for again");
    }
}

#[test]
fn an_answer_that_is_not_http_is_a_502() {
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    ] {
        let (edge, _app) = one(move |client, _, _| {
            client.send(answer);
            pause(200);
            false
        });
        let answered = edge.get("/");
        assert_eq!(answered.status, 502, "{answer:?}");
    }
}

#[test]
fn a_silent_application_is_a_504() {
    let (edge, _app) = one(|_, _, _| {
        pause(6_000);
        false
    });
    // Closing without an answer, as it does in the end, would be a 502.
    assert_eq!(edge.get("/").status, 504);
}

#[test]
fn a_slow_application_is_waited_for() {
    let (edge, _app) = one(|client, _, _| {
        pause(2_000);
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
        pause(1_500);
        client.send("o");
        pause(1_500);
        client.send("k");
        true
    });
    assert_eq!(edge.get("/").text(), "ok");
}

#[test]
fn a_frozen_application_loses_its_gets_to_another() {
    let net = Net::new();
    // Accepts, and says nothing ever: what SIGSTOP looks like from outside.
    let frozen = Arc::new(AtomicBool::new(false));
    let is_frozen = Arc::clone(&frozen);
    let _first = App::by_connection(net.app(1), move |client| {
        while client.request().is_some() {
            if is_frozen.load(Ordering::Relaxed) {
                pause(8_000);
                return;
            }
            reply(client, "first");
        }
    });
    let _second = App::start(net.app(2), |client, _, _| reply(client, "second"));
    let mut view = net.view(2);
    view.app.as_mut().unwrap().health.path = Some("/health".to_owned());
    let mut patient = tuning();
    patient.answer_timeout = Duration::from_secs(30);
    let edge = Edge::start_with(view, patient, |_| {});
    edge.wait_health("a", true);
    edge.wait_health("b", true);
    frozen.store(true, Ordering::Relaxed);
    for _ in 0..4 {
        assert_eq!(edge.get("/").text(), "second");
    }
    edge.wait_health("a", false);
}

#[test]
fn a_frozen_application_is_waited_for_when_its_gets_may_not_be_repeated() {
    let net = Net::new();
    let frozen = Arc::new(AtomicBool::new(false));
    let is_frozen = Arc::clone(&frozen);
    let _first = App::by_connection(net.app(1), move |client| {
        while client.request().is_some() {
            if is_frozen.load(Ordering::Relaxed) {
                pause(3_000);
            }
            reply(client, "ok");
        }
    });
    let _second = App::start(net.app(2), |client, _, _| reply(client, "ok"));
    let mut view = net.view(2);
    let app = view.app.as_mut().unwrap();
    app.health.path = Some("/health".to_owned());
    app.retries.max = 0;
    let mut patient = tuning();
    patient.answer_timeout = Duration::from_secs(30);
    let edge = Edge::start_with(view, patient, |_| {});
    edge.wait_health("a", true);
    edge.wait_health("b", true);
    frozen.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(edge.get("/").text(), "ok"));
        }
    });
}

#[test]
fn requests_are_held_while_the_only_application_restarts() {
    let net = Net::new();
    let mut first = App::start(net.app(1), |client, _, _| {
        reply(client, "before");
        false
    });
    let edge = Edge::start(net.view(1));
    assert_eq!(edge.get("/").text(), "before");
    first.stop();
    let app = net.app(1);
    let restart = std::thread::spawn(move || {
        pause(700);
        App::start(app, |client, _, body| {
            reply(client, &format!("after{}", body.len()))
        })
    });
    std::thread::scope(|scope| {
        for n in 0..8 {
            let edge = &edge;
            scope.spawn(move || {
                let mut client = edge.client();
                client.send(if n % 2 == 0 { GET } else { POST });
                assert_eq!(
                    client.answer().text(),
                    if n % 2 == 0 { "after0" } else { "after2" }
                );
            });
        }
    });
    drop(restart.join().unwrap());
}

#[test]
fn without_any_application_it_is_a_503_that_says_when_to_come_back() {
    let net = Net::new();
    let edge = Edge::start(net.view(1));
    let begun = Instant::now();
    let answer = edge.get("/");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.field("retry-after").as_deref(), Some("1"));
    assert!(
        (SECOND..4 * SECOND).contains(&begun.elapsed()),
        "held, but not for ever"
    );
    let mut view = net.view(1);
    view.app = None;
    edge.publisher.publish(view).unwrap();
    wait_for("the view to come", || {
        let begun = Instant::now();
        edge.get("/").status == 503 && begun.elapsed() < SECOND / 2
    });
}

#[test]
fn a_failed_check_takes_a_server_out_and_good_ones_bring_it_back() {
    let net = Net::new();
    let well = Arc::new(AtomicBool::new(true));
    let is_well = Arc::clone(&well);
    let health = move |client: &mut Client, head: &str, _: &[u8]| {
        let status = if is_well.load(Ordering::Relaxed) || !head.contains("/health") {
            "200 OK"
        } else {
            "500 No"
        };
        client.send(format!("HTTP/1.1 {status}\r\nContent-Length: 1\r\n\r\na"));
        true
    };
    let _first = App::start(net.app(1), health);
    let _second = App::start(net.app(2), |client, _, _| reply(client, "b"));
    let mut view = net.view(2);
    view.app.as_mut().unwrap().health.path = Some("/health".to_owned());
    let edge = Edge::start(view);
    edge.wait_health("a", true);
    let seen: Vec<String> = (0..8).map(|_| edge.get("/").text()).collect();
    assert!(
        ["a", "b"]
            .iter()
            .all(|name| seen.iter().filter(|text| text == name).count() >= 3),
        "{seen:?}"
    );
    well.store(false, Ordering::Relaxed);
    edge.wait_health("a", false);
    assert!((0..4).all(|_| edge.get("/").text() == "b"));
    well.store(true, Ordering::Relaxed);
    edge.wait_health("a", true);
    assert!((0..4).any(|_| edge.get("/").text() == "a"));
}

#[test]
fn when_every_check_fails_requests_are_tried_all_the_same() {
    let net = Net::new();
    let _app = App::start(net.app(1), |client, head, _| {
        let status = if head.contains("/health") {
            "500 No"
        } else {
            "200 OK"
        };
        client.send(format!("HTTP/1.1 {status}\r\nContent-Length: 1\r\n\r\na"));
        true
    });
    let mut view = net.view(1);
    view.app.as_mut().unwrap().health.path = Some("/health".to_owned());
    let edge = Edge::start(view);
    edge.wait_health("a", false);
    assert_eq!(edge.get("/").status, 200);
}

#[test]
fn an_answer_that_comes_before_the_body_is_passed_on_at_once() {
    let net = Net::new();
    let _app = App::by_connection(net.app(1), |client| {
        if client.head().is_some() {
            client.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
            client.end_sending();
            client.rest();
        }
    });
    let edge = Edge::start(net.view(1));
    let mut client = edge.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000000\r\n\r\n");
    client.send(vec![b'x'; 300_000]);
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
    assert_eq!(answer.field("connection").as_deref(), Some("close"));
}

#[test]
fn an_application_that_closes_while_the_body_comes_is_a_502_and_no_hang() {
    let net = Net::new();
    let _app = App::by_connection(net.app(1), |client| {
        client.head();
    });
    let edge = Edge::start(net.view(1));
    let mut client = edge.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n");
    let _ = client.stream.write_all(&[b'x'; 50_000]);
    assert_eq!(client.answer().status, 502);
}

#[test]
fn a_client_that_sends_its_head_too_slowly_is_told_so() {
    let (edge, _app) = one(|client, _, _| reply(client, ""));
    let mut slow = edge.client();
    slow.send("GET / HTTP/1.1\r\n");
    let begun = Instant::now();
    for _ in 0..20 {
        if slow.stream.write_all(b"X: y\r\n").is_err() || begun.elapsed() > SECOND {
            break;
        }
        pause(100);
    }
    assert_eq!(slow.answer().status, 408);
    let mut silent = edge.client();
    assert!(silent.rest().is_empty(), "who says nothing hears nothing");
}

#[test]
fn a_client_that_stops_in_its_body_is_told_so() {
    let (edge, app) = one(|client, _, _| reply(client, ""));
    let mut client = edge.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!(client.answer().status, 408);
    let mut client = edge.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\nabc");
    assert_eq!(client.answer().status, 408);
    assert_eq!(app.count(), 0);
}

#[test]
fn a_client_that_reads_nothing_is_given_up() {
    let (edge, _app) = one(|client, _, _| {
        let _ = client
            .stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        let _ = client.stream.write_all(&vec![b'x'; 100_000_000]);
        false
    });
    let mut client = edge.client();
    client.send(GET);
    wait_for("the request to begin", || {
        edge.report().is_some_and(|report| report.in_flight == 1)
    });
    wait_for("the edge to give up", || {
        edge.report().is_some_and(|report| report.in_flight == 0)
    });
    assert!(client.rest().len() < 100_000_000);
}

#[test]
fn a_client_that_is_reset_frees_its_application() {
    let (tell, told) = channel();
    let net = Net::new();
    let _app = App::by_connection(net.app(1), move |client| {
        if client.request().is_some() {
            let _ = tell.send(client.rest().len());
        }
    });
    let edge = Edge::start(net.view(1));
    let mut client = edge.client();
    client.send(GET);
    wait_for("the request to begin", || {
        edge.report().is_some_and(|report| report.in_flight == 1)
    });
    socket2::SockRef::from(&client.stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    assert_eq!(told.recv_timeout(2 * SECOND), Ok(0));
}

#[test]
fn a_client_that_has_said_all_still_gets_its_answer() {
    let (edge, _app) = one(|client, _, _| {
        pause(100);
        reply(client, "late")
    });
    let mut client = edge.client();
    client.send(GET);
    client.end_sending();
    assert_eq!(client.answer().text(), "late");
}

#[test]
fn no_more_connections_than_allowed_are_open() {
    let net = Net::new();
    let _app = App::start(net.app(1), |client, _, _| reply(client, "x"));
    let edge = Edge::start_with(
        net.view(1),
        Tuning {
            max_connections: 16,
            ..tuning()
        },
        |_| {},
    );
    let mut silent: Vec<Client> = (0..40).map(|_| edge.client()).collect();
    // Those who say nothing make room when their time is over.
    let mut client = edge.client();
    client.send(GET);
    assert_eq!(client.answer().text(), "x");
    assert!(silent.iter_mut().take(10).all(|silent| silent.rest().is_empty()));
}

#[test]
fn a_server_that_cannot_be_reached_at_all_costs_the_time_of_a_connection_and_no_more() {
    let net = Net::new();
    let _good = App::start(net.app(1), |client, _, _| reply(client, "good"));
    let mut view = net.view(2);
    // A listener whose queue is full takes no connection and refuses none.
    let address = net.app(2);
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&address.into()).unwrap();
    full.listen(0).unwrap();
    let _fill: Vec<_> = (0..4)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    view.app.as_mut().unwrap().health.interval = Duration::from_secs(60);
    let quick = Tuning {
        connect_timeout: Duration::from_millis(300),
        ..tuning()
    };
    let edge = Edge::start_with(view, quick, |_| {});
    for _ in 0..6 {
        let mut client = edge.client();
        client.send(POST);
        assert_eq!(client.answer().text(), "good");
    }
}
