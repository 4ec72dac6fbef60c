//! Which server gets a request when servers are not equal, visitors are not strangers, and there is not room for all.
//! See FAILURES.md.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::*;
use pontoon_fleet::{
    BalanceRule, Dispatch, FleetView, HashKey, OutlierRules, PathRule, Prefer, QueueRules, ServerState,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// A view of `count` servers with these rules, and an application on each that says its number.
fn fleet(count: u8, dispatch: Dispatch) -> (FleetView, Vec<App>, Net) {
    let net = Net::new();
    let apps = (1..=count)
        .map(|n| App::start(net.app(n), move |client, _, _| reply(client, &n.to_string())))
        .collect();
    let mut view = net.view(count);
    view.app.as_mut().unwrap().dispatch = dispatch;
    (view, apps, net)
}

/// How many of `requests` each application answers.
fn shares(edge: &Edge, requests: usize) -> [usize; 3] {
    let mut shares = [0; 3];
    for _ in 0..requests {
        let answer = edge.get("/");
        assert_eq!(answer.status, 200, "{}", answer.text());
        shares[answer.text().parse::<usize>().unwrap() - 1] += 1;
    }
    shares
}

#[test]
fn a_server_with_three_times_the_weight_gets_three_times_as_many() {
    for rule in [BalanceRule::RoundRobin, BalanceRule::LeastConnections] {
        let (mut view, _apps, _) = fleet(2, Dispatch::default());
        view.app.as_mut().unwrap().balance = rule;
        view.servers[0].weight = 3;
        let edge = Edge::start(view);
        let [first, second, _] = shares(&edge, 400);
        assert!(
            (240..360).contains(&first),
            "{}: {first} and {second}",
            rule.as_str()
        );
    }
}

#[test]
fn a_server_that_comes_back_gets_its_share_bit_by_bit() {
    let (mut view, mut apps, net) = fleet(
        2,
        Dispatch {
            // So slow that nothing of it is seen here.
            slow_start: Duration::from_secs(3600),
            ..Dispatch::default()
        },
    );
    view.app.as_mut().unwrap().health.path = Some("/".to_owned());
    let edge = Edge::start(view);
    let [first, _, _] = shares(&edge, 100);
    assert!(
        (40..=60).contains(&first),
        "{first}: at the beginning all are alike"
    );
    apps[1].stop();
    edge.wait_health("b", false);
    let _again = App::start(net.app(2), |client, _, _| reply(client, "2"));
    edge.wait_health("b", true);
    let [_, second, _] = shares(&edge, 220);
    assert!((5..50).contains(&second), "{second} of 220, a tenth of a share");
}

#[test]
fn a_visitor_stays_with_its_server_until_that_is_taken_out() {
    let (mut view, _apps, _) = fleet(
        3,
        Dispatch {
            sticky: Some("where".to_owned()),
            ..Dispatch::default()
        },
    );
    let edge = Edge::start(view.clone());
    let ask = |cookie: Option<&str>| {
        let cookie = cookie.map_or(String::new(), |cookie| format!("Cookie: a=b; {cookie}\r\n"));
        let mut client = edge.client();
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{cookie}\r\n"
        ));
        let answer = client.answer();
        let given = answer.field("set-cookie");
        (answer.text(), given)
    };
    let (server, given) = ask(None);
    let given = given.unwrap();
    assert!(given.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{given}");
    let cookie = given.split(';').next().unwrap();
    for _ in 0..20 {
        assert_eq!(ask(Some(cookie)), (server.clone(), None));
    }
    // What nobody wrote is nothing.
    let strange = (0..20).map(|_| ask(Some("where=0123456789abcdef")));
    assert!(strange.into_iter().all(|(_, given)| given.is_some()));
    let place = server.parse::<usize>().unwrap() - 1;
    view.servers[place].state = ServerState::Draining;
    view.serial += 1;
    edge.publisher.publish(view).unwrap();
    wait_for("another server", || ask(Some(cookie)).0 != server);
    let (other, given) = ask(Some(cookie));
    let given = given.unwrap();
    let cookie = given.split(';').next().unwrap();
    for _ in 0..20 {
        assert_eq!(ask(Some(cookie)), (other.clone(), None));
    }
}

#[test]
fn equal_requests_go_to_one_server() {
    let (mut view, _apps, _) = fleet(
        3,
        Dispatch {
            key: HashKey::Target,
            ..Dispatch::default()
        },
    );
    view.app.as_mut().unwrap().balance = BalanceRule::Hash;
    let edge = Edge::start(view);
    let of = |path: usize| edge.get(&format!("/{path}")).text();
    let servers: Vec<String> = (0..30).map(of).collect();
    assert!((1..=3).all(|n| servers.contains(&n.to_string())), "{servers:?}");
    assert_eq!(servers, (0..30).map(of).collect::<Vec<_>>());
}

#[test]
fn a_server_whose_answers_are_bad_is_left_out_though_its_checks_are_good() {
    let net = Net::new();
    let bad = Arc::new(AtomicBool::new(true));
    let is_bad = Arc::clone(&bad);
    let _good = App::start(net.app(1), |client, _, _| reply(client, "1"));
    let _bad = App::start(net.app(2), move |client, head, _| {
        if is_bad.load(Ordering::Relaxed) && !head.contains("pontoon-health") {
            client.send("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
            return true;
        }
        reply(client, "2")
    });
    let mut view = net.view(2);
    let app = view.app.as_mut().unwrap();
    app.health.path = Some("/".to_owned());
    app.dispatch.outliers = Some(OutlierRules {
        // Longer than reports are apart, each time.
        eject: Duration::from_secs(2),
        max_eject: Duration::from_secs(2),
        ..OutlierRules::default()
    });
    let edge = Edge::start(view);
    let mut errors = 0;
    wait_for("the bad server to be left out", || {
        edge.report().is_some_and(|report| {
            let second = report.upstreams.get(1).filter(|second| !second.healthy);
            let reason = second.and_then(|second| second.reason.clone());
            reason.is_some_and(|reason| reason.contains("left out"))
        }) || {
            (0..20).for_each(|_| drop(edge.get("/")));
            false
        }
    });
    // It comes back by itself; that it is bad is found out again with five answers, not with half of all.
    for _ in 0..400 {
        errors += usize::from(edge.get("/").status == 500);
    }
    assert!(errors <= 100, "{errors} of 400");
    bad.store(false, Ordering::Relaxed);
    wait_for("the good server to be used again", || edge.get("/").text() == "2");
}

#[test]
fn the_last_server_is_never_left_out() {
    let net = Net::new();
    let _bad = App::start(net.app(1), |client, _, _| {
        client.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nmine");
        true
    });
    let mut view = net.view(1);
    view.app.as_mut().unwrap().dispatch.outliers = Some(OutlierRules::default());
    let edge = Edge::start(view);
    assert!((0..30).all(|_| edge.get("/").text() == "mine"));
}

/// An application that serves one request at a time for `millis` each, and the most it ever had at the same time.
fn one_at_a_time(net: &Net, n: u8, millis: u64) -> (App, Arc<AtomicUsize>) {
    let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let app = App::start(net.app(n), move |client, _, _| {
        let here = now.fetch_add(1, Ordering::SeqCst) + 1;
        seen.fetch_max(here, Ordering::SeqCst);
        pause(millis);
        now.fetch_sub(1, Ordering::SeqCst);
        reply(client, "done")
    });
    (app, most)
}

fn room_for_one(queue: QueueRules) -> Dispatch {
    Dispatch {
        max_in_flight: Some(1),
        queue,
        answer_timeout: Some(Duration::from_secs(60)),
        ..Dispatch::default()
    }
}

#[test]
fn the_own_server_goes_first_and_the_zones_next() {
    for (prefer, order) in [(Prefer::Local, ["1", "3", "2"]), (Prefer::Zone, ["13", "3", "2"])] {
        let dispatch = Dispatch {
            prefer,
            ..Dispatch::default()
        };
        let (mut view, _apps, _) = fleet(3, dispatch);
        for (server, zone) in view.servers.iter_mut().zip(["north", "south", "north"]) {
            server.zone = Some(zone.to_owned());
        }
        let edge = Edge::start(view.clone());
        for server in ["a", "b", "c"] {
            edge.wait_health(server, true);
        }
        for (who, taken_out) in order.into_iter().zip([0, 2, 1]) {
            wait_for(who, || {
                let answered: Vec<String> = (0..12).map(|_| edge.get("/").text()).collect();
                answered.iter().all(|one| who.contains(one.as_str()))
            });
            view.servers[taken_out].state = ServerState::Draining;
            view.serial += 1;
            edge.publisher.publish(view.clone()).unwrap();
        }
    }
}

#[test]
fn what_the_own_server_has_no_room_for_goes_to_others() {
    let net = Net::new();
    let (came, comes) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = std::sync::Mutex::new(may_go_on);
    let _own = App::start(net.app(1), move |client, _, _| {
        came.send(()).unwrap();
        may_go_on.lock().unwrap().recv().unwrap();
        reply(client, "own")
    });
    let _other = App::start(net.app(2), |client, _, _| reply(client, "other"));
    let mut view = net.view(2);
    view.app.as_mut().unwrap().dispatch = Dispatch {
        prefer: Prefer::Local,
        max_in_flight: Some(1),
        ..Dispatch::default()
    };
    let edge = Edge::start(view);
    edge.wait_health("b", true);
    let mut first = edge.client();
    first.send(GET);
    comes.recv_timeout(8 * SECOND).unwrap();
    assert_eq!(edge.get("/").text(), "other");
    go_on.send(()).unwrap();
    assert_eq!(first.answer().text(), "own");
}

#[test]
fn requests_wait_while_every_server_has_as_many_as_it_may() {
    let net = Net::new();
    let ((_first, one), (_second, other)) = (one_at_a_time(&net, 1, 20), one_at_a_time(&net, 2, 20));
    let mut view = net.view(2);
    let queue = QueueRules {
        size: 100,
        wait: Duration::from_secs(60),
    };
    view.app.as_mut().unwrap().dispatch = room_for_one(queue);
    let edge = Edge::start(view);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut client = edge.client();
                for _ in 0..4 {
                    client.send(GET);
                    assert_eq!(client.answer().status, 200);
                }
            });
        }
    });
    let most = [one, other].map(|most| most.load(Ordering::SeqCst));
    assert_eq!(most, [1, 1]);
}

#[test]
fn who_cannot_wait_or_has_waited_too_long_is_told_when_to_come_back() {
    let net = Net::new();
    let (_app, _) = one_at_a_time(&net, 1, 3000);
    let mut view = net.view(1);
    let queue = QueueRules {
        size: 1,
        wait: Duration::from_millis(500),
    };
    view.app.as_mut().unwrap().dispatch = room_for_one(queue);
    let edge = Edge::start(view);
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..3 {
        let mut client = edge.client();
        client.send(GET);
        clients.push(client);
        pause(100);
    }
    for (client, reason) in [
        (2, "too many requests wait for a server"),
        (1, "no server had room in time"),
    ] {
        let answer = clients[client].answer();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.field("retry-after").as_deref(), Some("1"));
        assert!(answer.text().contains(reason), "{}", answer.text());
        assert_eq!(edge.rejected(reason), 1);
    }
    assert_eq!(clients[0].answer().status, 200);
    // Its connection goes on.
    clients[1].send(GET);
    assert_eq!(clients[1].answer().status, 200);
}

#[test]
fn a_request_that_waits_goes_to_a_server_that_comes_back() {
    let net = Net::new();
    let (_app, _) = one_at_a_time(&net, 1, 4000);
    let mut view = net.view(2);
    let queue = QueueRules {
        size: 10,
        wait: Duration::from_secs(60),
    };
    view.app.as_mut().unwrap().dispatch = room_for_one(queue);
    let edge = Edge::start(view);
    edge.wait_health("b", false);
    let mut slow = edge.client();
    slow.send(GET);
    wait_for("the only server to be full", || {
        edge.report()
            .is_some_and(|report| report.upstreams.first().is_some_and(|first| first.in_flight == 1))
    });
    let mut waits = edge.client();
    waits.send(GET);
    let _second = App::start(net.app(2), |client, _, _| reply(client, "2"));
    assert_eq!(waits.answer().text(), "2");
    assert_eq!(slow.answer().text(), "done");
}

#[test]
fn some_paths_have_other_limits() {
    let net = Net::new();
    let _app = App::start(net.app(1), |client, head, _| {
        if head.contains("/slow") {
            pause(1500);
        }
        reply(client, "done")
    });
    let mut view = net.view(1);
    view.limits.body = Some(10);
    let rule = |path: &str, millis: Option<u64>, body: Option<u64>| PathRule {
        path: path.to_owned(),
        answer_timeout: millis.map(Duration::from_millis),
        body,
    };
    view.app.as_mut().unwrap().dispatch = Dispatch {
        answer_timeout: Some(Duration::from_millis(300)),
        routes: vec![
            rule("/export/", Some(60_000), None),
            rule("/upload/", None, Some(100_000)),
        ],
        ..Dispatch::default()
    };
    let edge = Edge::start(view);
    assert_eq!(edge.get("/slow").status, 504);
    assert_eq!(edge.get("/export/slow").status, 200);
    let post = |path: &str, length: usize| {
        let mut client = edge.client();
        let body = "x".repeat(length);
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        client.answer().status
    };
    assert_eq!(post("/", 10), 200);
    assert_eq!(post("/", 11), 413);
    assert_eq!(post("/upload/x", 50_000), 200);
    assert_eq!(post("/upload/x", 100_001), 413);
}
