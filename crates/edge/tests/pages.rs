//! Error pages and maintenance, as visitors meet them.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::process::Command;
use std::time::Duration;

use common::*;
use pontoon_fleet::{Maintenance, UnixMillis};
use pontoon_rt::clock::{Clock, SystemClock};

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn what_the_edge_answers_itself_has_its_page_and_the_applications_errors_are_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (own, class) = (folder.path().join("503.html"), folder.path().join("4xx.json"));
    std::fs::write(&own, "<p>{{status}} {{reason}}, {{request_id}}</p>").unwrap();
    std::fs::write(&class, "{\"status\":{{status}}}").unwrap();
    let net = Net::new();
    let _app = App::start(net.app(1), |client, _, _| {
        client.send("HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nown");
        true
    });
    let mut view = net.view(1);
    view.front.request_id = true;
    view.answers.pages = [("503".to_owned(), own), ("4xx".to_owned(), class)].into();
    let edge = Edge::start(view.clone());
    assert_eq!(
        (edge.get("/").status, edge.get("/").text()),
        (500, "own".to_owned())
    );
    let mut client = edge.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    let refused = client.answer();
    assert_eq!(
        (refused.status, refused.text().as_str()),
        (400, "{\"status\":400}")
    );
    assert_eq!(refused.field("content-type").as_deref(), Some("application/json"));
    // Nobody is left to answer.
    view.serial += 1;
    view.servers[0].roles.remove(&pontoon_fleet::Role::App);
    edge.publisher.publish(view).unwrap();
    let mut client = edge.client();
    let answer = || {
        let answer = edge.get("/");
        (answer.status == 503).then_some(answer)
    };
    wait_for("an edge without applications", || answer().is_some());
    let answer = answer().unwrap();
    let id = answer.field("x-request-id").unwrap();
    assert_eq!(answer.text(), format!("<p>503 Service Unavailable, {id}</p>"));
    assert_eq!(answer.field("retry-after").as_deref(), Some("1"));
    client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n");
    let head = client.head().unwrap();
    assert_eq!(
        field(&head, "content-length"),
        Some(answer.body.len().to_string())
    );
    client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(
        client.head().unwrap().starts_with("HTTP/1.1 503"),
        "no body came between"
    );
}

#[test]
fn a_page_that_is_bad_is_named_and_the_one_before_is_shown_on() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    std::fs::write(&page, "good").unwrap();
    let net = Net::new();
    let mut view = net.view(1);
    view.servers[0].roles.remove(&pontoon_fleet::Role::App);
    view.answers.pages = [("5xx".to_owned(), page.clone())].into();
    let edge = Edge::start(view);
    assert_eq!(edge.get("/").text(), "good");
    std::fs::write(&page, vec![b'x'; 300 * 1024]).unwrap();
    let refused = || edge.report().map(|report| report.pages_refused.join(", "));
    wait_for("the report", || {
        refused().is_some_and(|text| text.contains("more than 256 KiB"))
    });
    assert_eq!(edge.get("/").text(), "good");
    std::fs::write(&page, "better").unwrap();
    wait_for("the mended page", || edge.get("/").text() == "better");
    wait_for("the report", || refused().is_some_and(|text| text.is_empty()));
}

#[test]
fn maintenance_begins_and_ends_under_connections_that_stay() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("work.html");
    std::fs::write(&page, "at work").unwrap();
    let net = Net::new();
    let (came, comes) = channel();
    let (answer, may_answer) = channel::<()>();
    let may_answer = std::sync::Mutex::new(may_answer);
    let _app = App::start(net.app(1), move |client, head, _| {
        if head.starts_with("GET /slow") {
            came.send(()).unwrap();
            may_answer.lock().unwrap().recv().unwrap();
        }
        reply(client, "app")
    });
    let mut view = net.view(1);
    view.answers.pages = [("maintenance".to_owned(), page)].into();
    let edge = Edge::start(view.clone());
    let (mut kept, mut slow) = (edge.client(), edge.client());
    kept.send(GET);
    assert_eq!(kept.answer().text(), "app");
    slow.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
    comes.recv_timeout(8 * SECOND).unwrap();

    let mut change = |maintenance: Option<Maintenance>| {
        view.serial += 1;
        view.answers.maintenance = maintenance;
        edge.publisher.publish(view.clone()).unwrap();
    };
    change(Some(Maintenance {
        until: Some(SystemClock.unix().plus(Duration::from_secs(600))),
        ..Maintenance::default()
    }));
    wait_for("maintenance", || edge.get("/").status == 503);
    kept.send("POST /form HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc");
    let answer_now = kept.answer();
    assert_eq!((answer_now.status, answer_now.text().as_str()), (503, "at work"));
    let again: u64 = answer_now.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=600).contains(&again), "{again}");
    // What was under way is finished.
    answer.send(()).unwrap();
    assert_eq!(slow.answer().text(), "app");
    // The same connection, served again because it is over by the clock, by exception, or by an operator.
    for over in [
        Some(Maintenance {
            until: Some(UnixMillis(1)),
            ..Maintenance::default()
        }),
        Some(Maintenance {
            except: vec!["127.0.0.0/8".parse().unwrap()],
            ..Maintenance::default()
        }),
        None,
    ] {
        change(over);
        wait_for("service", || edge.get("/").text() == "app");
        kept.send(GET);
        assert_eq!(kept.answer().text(), "app");
        change(Some(Maintenance::default()));
        wait_for("maintenance", || edge.get("/").status == 503);
        kept.send(GET);
        assert_eq!(kept.answer().status, 503);
    }
}

#[test]
fn curl_sees_the_maintenance_page() {
    if Command::new("curl").arg("--version").output().is_err() {
        println!("SKIPPED curl_sees_the_maintenance_page: curl is not there");
        return;
    }
    let net = Net::new();
    let mut view = net.view(1);
    view.answers.maintenance = Some(Maintenance::default());
    let edge = Edge::start(view);
    let url = format!("http://{}/", edge.address);
    // A body that the edge does not take in whole, from a client that asks first.
    let large = vec![b'x'; 300 * 1024];
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), large).unwrap();
    let body = format!("@{}", file.path().display());
    for arguments in [
        vec!["-sS", "-i"],
        vec!["-sS", "-I"],
        vec!["-sS", "-i", "--data-binary", &body],
    ] {
        let said = Command::new("curl")
            .args(["--max-time", "30"])
            .args(&arguments)
            .arg(&url)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&said.stdout);
        assert!(
            said.status.success() && text.contains("503 Service Unavailable"),
            "{arguments:?} {said:?}"
        );
        assert!(text.contains("Retry-After: 60\r\n"), "{text}");
    }
}
