//! The cache, as visitors meet it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use common::*;
use pontoon_edge::Tuning;
use pontoon_fleet::{CacheRules, Compress, FleetView, Purge, UnixMillis};

fn keeping(net: &Net) -> FleetView {
    let mut view = net.view(1);
    view.answers.cache = Some(CacheRules {
        memory: 4 * 1024 * 1024,
        ..CacheRules::default()
    });
    view
}

/// An application that counts, and answers `fields` for each path, with the number of the request as its body.
fn counting(net: &Net, asked: &Arc<AtomicUsize>) -> App {
    let asked = Arc::clone(asked);
    App::start(net.app(1), move |client, head, _| {
        let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
        let target = head.split(' ').nth(1).unwrap().to_owned();
        let body = format!("{number}{}", "x".repeat(2_000));
        let length = format!("Content-Length: {}\r\n", body.len());
        let max_age = "Cache-Control: max-age=600\r\n";
        let fields = match target.split('?').next().unwrap() {
            "/cookie" => format!("{max_age}Set-Cookie: a=b\r\n"),
            "/private" => "Cache-Control: private, max-age=600\r\n".to_owned(),
            "/no-store" => "Cache-Control: max-age=600, no-store\r\n".to_owned(),
            "/star" => format!("{max_age}Vary: *\r\n"),
            "/vary" => format!("{max_age}Vary: Accept-Language\r\n"),
            "/unsaid" => String::new(),
            "/old" => format!("{max_age}Age: 600\r\n"),
            "/tag" => format!("{max_age}ETag: \"t\"\r\nContent-Type: text/html\r\n"),
            "/cut" => {
                client.send(format!(
                    "HTTP/1.1 200 OK\r\n{max_age}Content-Length: 99999\r\n\r\n{body}"
                ));
                return false;
            }
            "/close" => {
                client.send(format!("HTTP/1.1 200 OK\r\n{max_age}\r\n{body}"));
                return false;
            }
            "/chunks" => {
                client.send(format!(
                    "HTTP/1.1 200 OK\r\n{max_age}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                    body.len()
                ));
                return true;
            }
            _ => max_age.to_owned(),
        };
        let body = if head.starts_with("HEAD") {
            ""
        } else {
            body.as_str()
        };
        client.send(format!("HTTP/1.1 200 OK\r\n{fields}{length}\r\n{body}"));
        true
    })
}

fn ask(edge: &Edge, target: &str, fields: &str) -> Answer {
    let mut client = edge.client();
    client.send(format!(
        "GET {target} HTTP/1.1\r\nHost: t\r\n{fields}Connection: close\r\n\r\n"
    ));
    client.answer()
}

/// How many requests came from the cache, or were neither.
fn counted(edge: &Edge, event: &str) -> u64 {
    edge.counted(&format!("pontoon_edge_cache_total{{event=\"{event}\""))
}

/// Whether a second request is answered with what the first one got.
fn is_kept(edge: &Edge, target: &str, fields: &str) -> bool {
    let first = ask(edge, target, fields).text();
    ask(edge, target, fields).text() == first
}

#[test]
fn what_may_be_kept_is_and_nothing_else() {
    let net = Net::new();
    let asked = Arc::default();
    let _app = counting(&net, &asked);
    let edge = Edge::start(keeping(&net));
    for target in ["/plain", "/chunks", "/vary", "/tag"] {
        assert!(is_kept(&edge, target, ""), "{target}");
    }
    for target in [
        "/cookie",
        "/private",
        "/no-store",
        "/star",
        "/unsaid",
        "/old",
        "/close",
        "/a/..%2fb",
        "/a//b",
    ] {
        assert!(!is_kept(&edge, target, ""), "{target}");
    }
    for fields in [
        "Authorization: Basic eDp5\r\n",
        "Range: bytes=0-1\r\n",
        "Cookie: a=b; wordpress_logged_in_x=1\r\n",
        "X-HTTP-Method-Override: PUT\r\n",
        "Cookie: a=b; pontoon_floor=1\r\n",
        "If-Range: \"t\"\r\n",
        "X-Host: evil\r\n",
        "X-Original-URL: /admin\r\n",
        "Cache-Control: no-store\r\n",
        "Cache-Control: max-age=0\r\n",
        "Pragma: no-cache\r\n",
    ] {
        assert!(!is_kept(&edge, "/plain", fields), "{fields}");
    }
    let hit = ask(&edge, "/plain", "");
    assert!(hit.field("age").is_some() && hit.field("cache-status").unwrap().contains("hit"));
    // Another host, another language: another answer.
    let mut other = edge.client();
    other.send("GET /plain HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n");
    assert_ne!(other.answer().text(), hit.text());
    let german = ask(&edge, "/vary", "Accept-Language: de\r\n").text();
    assert_ne!(german, ask(&edge, "/vary", "").text());
    assert_eq!(german, ask(&edge, "/vary", "Accept-Language: de\r\n").text());
    assert_eq!(
        ask(&edge, "/none", "Cache-Control: only-if-cached\r\n").status,
        504
    );
    assert!(counted(&edge, "hit") > 0 && counted(&edge, "bypass") > 0 && counted(&edge, "kept") > 0);
}

#[test]
fn an_answer_that_is_cut_short_is_not_kept() {
    let net = Net::new();
    let asked: Arc<AtomicUsize> = Arc::default();
    let _app = counting(&net, &asked);
    let edge = Edge::start(keeping(&net));
    for expected in 1..=2 {
        let mut client = edge.client();
        client.send("GET /cut HTTP/1.1\r\nHost: t\r\n\r\n");
        client.rest();
        assert!(asked.load(Ordering::SeqCst) >= expected);
    }
}

#[test]
fn who_has_it_already_gets_304_and_head_no_body() {
    let net = Net::new();
    let asked: Arc<AtomicUsize> = Arc::default();
    let _app = counting(&net, &asked);
    let mut view = keeping(&net);
    view.answers.compress = Some(Compress::default());
    let edge = Edge::start(view);
    let first = ask(&edge, "/tag", "").text();
    let mut client = edge.client();
    client.send("GET /tag HTTP/1.1\r\nHost: t\r\nIf-None-Match: \"o\", W/\"t\"\r\n\r\n");
    let head = client.head().unwrap();
    assert!(
        head.starts_with("HTTP/1.1 304") && head.contains("ETag: \"t\""),
        "{head}"
    );
    client.send("HEAD /tag HTTP/1.1\r\nHost: t\r\n\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 200"));
    // Nothing of a body stands before the next answer; and what is kept goes out compressed to who likes that.
    client.send("GET /tag HTTP/1.1\r\nHost: t\r\nAccept-Encoding: gzip\r\n\r\n");
    let coded = client.answer();
    assert_eq!(coded.field("content-encoding").as_deref(), Some("gzip"));
    client.send("GET /tag HTTP/1.0\r\nHost: t\r\n\r\n");
    assert_eq!(client.answer().text(), first);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn a_purge_and_a_write_forget_what_is_kept() {
    let net = Net::new();
    let asked: Arc<AtomicUsize> = Arc::default();
    let _app = counting(&net, &asked);
    let edge = Edge::start(keeping(&net));
    // It is kept when it has gone out, and so a moment after the visitor has it: whoever comes then waits for that.
    let kept = |target: &str| {
        assert!(is_kept(&edge, target, ""));
        ask(&edge, target, "").text()
    };
    let (page, other) = (kept("/news/1?a"), kept("/other"));
    let mut view = keeping(&net);
    view.servers = net.view(1).servers;
    view.serial = 2;
    view.answers.purges.0.insert(Purge {
        at: UnixMillis(1),
        host: None,
        path: "/news/".to_owned(),
        prefix: true,
    });
    edge.publisher.publish(view).unwrap();
    wait_for("the purge", || ask(&edge, "/news/1?a", "").text() != page);
    wait_for("it to be counted", || counted(&edge, "purged") == 1);
    assert_eq!(ask(&edge, "/other", "").text(), other);
    let mut client = edge.client();
    client.send("POST /other HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n");
    client.answer();
    assert_ne!(ask(&edge, "/other", "").text(), other);
}

#[test]
fn many_who_ask_for_one_thing_ask_once_and_do_not_wait_for_one_that_hangs() {
    let net = Net::new();
    let asked: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&asked);
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let _app = App::start(net.app(1), move |client, head, _| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        // The first one for each path takes its time.
        if number == 0 || head.starts_with("GET /hangs") && number == 1 {
            may_go_on.lock().unwrap().recv().unwrap();
        }
        client.send("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nok");
        true
    });
    let patient = Tuning {
        answer_timeout: 20 * SECOND,
        ..tuning()
    };
    let edge = Edge::start_with(keeping(&net), patient, |_| {});
    let mut clients: Vec<Client> = (0..5).map(|_| edge.client()).collect();
    for client in &mut clients {
        client.send("GET /slow HTTP/1.1\r\nHost: t\r\n\r\n");
    }
    wait_for("four to wait", || counted(&edge, "collapsed") == 4);
    go_on.send(()).unwrap();
    assert!(clients.iter_mut().all(|client| client.answer().text() == "ok"));
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    let mut clients = [edge.client(), edge.client()];
    clients[0].send("GET /hangs HTTP/1.1\r\nHost: t\r\n\r\n");
    wait_for("the first to be asked for", || asked.load(Ordering::SeqCst) == 2);
    clients[1].send("GET /hangs HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(clients[1].answer().text(), "ok", "who waits goes on alone");
    go_on.send(()).unwrap();
    assert_eq!(clients[0].answer().text(), "ok");
}

/// What a visitor says of the host, in whichever way, is not what another visitor gets.
#[test]
fn nobody_writes_the_page_of_another() {
    let net = Net::new();
    let _app = App::start(net.app(1), |client, head, _| {
        let told = ["host", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-for"];
        let told = told.map(|name| field(head, name).unwrap_or_default()).join(" ");
        let length = told.len();
        client.send(format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: {length}\r\n\r\n{told}"
        ));
        true
    });
    let edge = Edge::start(keeping(&net));
    let poison = [
        "GET /p HTTP/1.1\r\nHost: t\r\nX-Forwarded-Host: evil\r\nConnection: close\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: t\r\nX-Forwarded-Host: t\r\nX-Forwarded-Host: evil\r\nConnection: close\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: t\r\nForwarded: host=evil;proto=https\r\nConnection: close\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: t\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n",
        "GET http://evil/p HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: t:81\r\nConnection: close\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: t\r\nHost: evil\r\nConnection: close\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: t\r\nX-Forwarded-Host : evil\r\nConnection: close\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: t\r\nx_forwarded_host: evil\r\nConnection: close\r\n\r\n",
    ];
    for request in poison {
        let mut client = edge.client();
        client.send(request);
        client.rest();
    }
    let page = ask(&edge, "/p", "").text();
    assert!(page.starts_with("t t http 127.0.0.1"), "{page}");
}

/// Requests that two programs could divide in two ways neither fill the cache nor are answered from it wrongly.
#[test]
fn what_follows_a_hit_is_a_request_of_its_own() {
    let net = Net::new();
    let asked: Arc<AtomicUsize> = Arc::default();
    let app = counting(&net, &asked);
    let edge = Edge::start(keeping(&net));
    let first = ask(&edge, "/plain", "").text();
    // Three at once, the second with a body that looks like a request: it is content, for the application.
    let inner = "GET /evil HTTP/1.1\r\nHost: t\r\n\r\n";
    let mut client = edge.client();
    client.send(format!(
        "GET /plain HTTP/1.1\r\nHost: t\r\n\r\nGET /plain HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{inner}GET /plain \
         HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n",
        inner.len()
    ));
    assert_eq!(client.answer().text(), first);
    assert_ne!(
        client.answer().text(),
        first,
        "one with a body is none that the cache answers"
    );
    assert_eq!(client.answer().text(), first);
    assert_eq!(client.rest(), b"", "and that is all");
    for both in [
        "GET /plain HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /plain HTTP/1.1\r\nHost: t\r\nContent-Length: 0, 5\r\n\r\n",
        "GET /plain HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "GET /plain\tHTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /plain HTTP/1.1\r\nHost: t\r\n Range: bytes=0-1\r\n\r\n",
    ] {
        let mut client = edge.client();
        client.send(both);
        let answer = client.answer();
        assert!(answer.status >= 400 && answer.field("age").is_none(), "{both}");
    }
    assert_eq!(ask(&edge, "/plain", "").text(), first);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    drop(app);
}

/// An answer that was asked for before a purge, and came after it, may be older than what made the operator say it.
#[test]
fn an_answer_that_a_purge_overtakes_is_not_kept() {
    let net = Net::new();
    let asked: Arc<AtomicUsize> = Arc::default();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let count = Arc::clone(&asked);
    let _app = App::start(net.app(1), move |client, head, _| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        if head.starts_with("GET /slow") && number == 1 {
            may_go_on.lock().unwrap().recv().unwrap();
        }
        client.send(format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: 1\r\n\r\n{number}"
        ));
        true
    });
    let patient = Tuning {
        answer_timeout: 20 * SECOND,
        ..tuning()
    };
    let edge = Edge::start_with(keeping(&net), patient, |_| {});
    assert!(is_kept(&edge, "/other", ""));
    let mut client = edge.client();
    client.send("GET /slow HTTP/1.1\r\nHost: t\r\n\r\n");
    wait_for("it to be asked for", || asked.load(Ordering::SeqCst) == 2);
    let mut view = keeping(&net);
    view.servers = net.view(1).servers;
    view.serial = 2;
    view.answers.purges.0.insert(Purge::everything(UnixMillis(1)));
    edge.publisher.publish(view).unwrap();
    wait_for("the purge", || counted(&edge, "purged") == 1);
    go_on.send(()).unwrap();
    assert_eq!(client.answer().text(), "1");
    assert_eq!(
        ask(&edge, "/slow", "").text(),
        "2",
        "the one from before the purge was not kept"
    );
    assert_eq!(ask(&edge, "/slow", "").text(), "2");
}

/// What is refused empties nothing; what may have happened does, before whoever wrote hears of it.
#[test]
fn a_write_forgets_what_is_kept_unless_it_is_refused() {
    let net = Net::new();
    let asked: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&asked);
    let _app = App::start(net.app(1), move |client, head, _| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let status = match head {
            refused if refused.starts_with("DELETE") => "405 No",
            failed if failed.starts_with("PUT") => "500 No",
            _ => "200 OK",
        };
        client.send(format!(
            "HTTP/1.1 {status}\r\nCache-Control: max-age=600\r\nContent-Length: 1\r\n\r\n{number}"
        ));
        true
    });
    let edge = Edge::start(keeping(&net));
    let write = |method: &str| {
        let mut client = edge.client();
        client.send(format!(
            "{method} /a HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"
        ));
        client.answer().status
    };
    assert_eq!(ask(&edge, "/a", "").text(), "0");
    assert_eq!(write("DELETE"), 405);
    assert_eq!(ask(&edge, "/a", "").text(), "0");
    assert_eq!(write("PUT"), 500);
    assert_eq!(ask(&edge, "/a", "").text(), "3");
    assert_eq!(write("PATCH"), 200);
    assert_eq!(ask(&edge, "/a", "").text(), "5");
}

/// An application whose first answer for each path is fresh for a second, and that says later what `then` says.
fn growing_old(net: &Net, then: impl Fn(&mut Client) -> bool + Send + Sync + 'static) -> App {
    let seen = Mutex::new(std::collections::BTreeSet::new());
    App::start(net.app(1), move |client, head, _| {
        let target = head.split(' ').nth(1).unwrap().to_owned();
        let control = match target.as_str() {
            "/asked" => "stale-while-revalidate=600",
            "/error" | "/login" => "stale-if-error=600",
            _ => "must-revalidate, stale-if-error=600",
        };
        if !seen.lock().unwrap().insert(target) {
            return then(client);
        }
        client.send(format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=1, {control}\r\nContent-Length: 3\r\n\r\nold"
        ));
        true
    })
}

#[test]
fn what_is_over_is_shown_while_a_new_one_is_asked_for() {
    let net = Net::new();
    let _app = growing_old(&net, |client| {
        client.send("HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: 3\r\n\r\nnew");
        true
    });
    let edge = Edge::start(keeping(&net));
    assert_eq!(ask(&edge, "/asked", "").text(), "old");
    // Nobody waits for the new one: the first who comes too late gets the old one, and is told.
    wait_for("a new one", || {
        let answer = ask(&edge, "/asked", "");
        assert_eq!(answer.status, 200);
        answer.text() == "new"
    });
    assert_eq!(
        (counted(&edge, "stale") > 0, counted(&edge, "refresh")),
        (true, 1)
    );
}

#[test]
fn what_is_over_is_shown_in_place_of_an_error() {
    for error in [
        Some("HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno"),
        Some("HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"),
        Some("no HTTP\r\n\r\n"),
        None,
    ] {
        let net = Net::new();
        let _app = growing_old(&net, move |client| {
            client.send(error.unwrap_or_default());
            error.is_some_and(|error| error.starts_with("HTTP/1.1 5"))
        });
        let edge = Edge::start(keeping(&net));
        for target in ["/error", "/login", "/strict"] {
            assert_eq!(ask(&edge, target, "").text(), "old");
        }
        wait_for("it to be over", || {
            let answer = ask(&edge, "/error", "");
            assert_eq!((answer.status, answer.text().as_str()), (200, "old"));
            answer.field("cache-status").unwrap().contains("stale-if-error")
        });
        // Those who may not see it, and those who asked for what must not be shown, get the error.
        wait_for("the strict one to be over", || {
            ask(&edge, "/strict", "").status >= 500
        });
        for fields in ["Authorization: Basic eDp5\r\n", "Cookie: pontoon_floor=1\r\n"] {
            assert!(ask(&edge, "/login", fields).status >= 500, "{fields}");
        }
        assert!(counted(&edge, "stale") > 0);
    }
}

/// With nobody left to ask, what is over is shown at once: nobody waits for a server to come back.
#[test]
fn what_is_over_is_shown_when_no_server_is_left() {
    let net = Net::new();
    let mut app = growing_old(&net, |_| false);
    let tuning = Tuning {
        hold: 60 * SECOND,
        ..tuning()
    };
    let edge = Edge::start_with(keeping(&net), tuning, |_| {});
    assert_eq!(ask(&edge, "/error", "").text(), "old");
    app.stop();
    edge.wait_health("a", false);
    wait_for("it to be over", || {
        let answer = ask(&edge, "/error", "");
        assert_eq!(answer.text(), "old");
        answer.field("cache-status").unwrap().contains("stale-if-error")
    });
}
