//! Uploads that the edge hands out itself, and what it leaves to the application.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use common::*;
use pontoon_fleet::{AssetsView, FleetView};

fn with_uploads(mut view: FleetView, root: &Path) -> FleetView {
    view.assets = Some(AssetsView {
        local: root.to_owned(),
        url: "/uploads/".to_owned(),
        serve: true,
        private: vec!["/uploads/private/".to_owned()],
        bucket: "uploads".to_owned(),
        endpoint: None,
        keys: None,
    });
    view
}

fn application(net: &Net) -> App {
    App::start(net.app(1), |client, _, _| {
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\napp");
        true
    })
}

fn ask(edge: &Edge, method: &str, path: &str, fields: &str) -> Answer {
    let mut client = edge.client();
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
    client.answer()
}

#[test]
fn files_are_handed_out_whole_in_parts_and_not_twice() {
    let root = tempfile::tempdir().unwrap();
    let big: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    fs::create_dir_all(root.path().join("2026/11")).unwrap();
    fs::write(root.path().join("2026/11/big é.jpg"), &big).unwrap();
    fs::write(root.path().join("empty.txt"), b"").unwrap();
    fs::write(root.path().join("x.svg"), b"<svg/>").unwrap();
    let net = Net::new();
    let _app = application(&net);
    let edge = Edge::start(with_uploads(net.view(1), root.path()));
    let path = "/uploads/2026/11/big%20%C3%A9.jpg?v=2";
    // What just changed is the application's.
    wait_for("the edge hands it out", || {
        let answer = ask(&edge, "GET", path, "");
        answer.field("etag").is_some()
    });
    let whole = ask(&edge, "GET", path, "");
    assert_eq!((whole.status, whole.body == big), (200, true));
    let field = |answer: &Answer, name: &str| answer.field(name).unwrap_or_default();
    assert_eq!(field(&whole, "content-type"), "image/jpeg");
    assert_eq!(field(&whole, "x-content-type-options"), "nosniff");
    assert_eq!(field(&whole, "accept-ranges"), "bytes");
    let etag = field(&whole, "etag");
    let same = ask(&edge, "GET", path, &format!("If-None-Match: {etag}\r\n"));
    assert_eq!((same.status, same.body.len()), (304, 0));
    let part = ask(&edge, "GET", path, "Range: bytes=300000-300009\r\n");
    assert_eq!((part.status, part.body.as_slice()), (206, &big[300_000..300_010]));
    assert_eq!(field(&part, "content-range"), "bytes 300000-300009/1000000");
    let rest = ask(&edge, "GET", path, "Range: bytes=600000-\r\n");
    assert!(rest.status == 206 && rest.body == big[600_000..]);
    assert_eq!(ask(&edge, "GET", path, "Range: bytes=1000000-\r\n").status, 416);
    let empty = ask(&edge, "GET", "/uploads/empty.txt", "");
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    let svg = ask(&edge, "GET", "/uploads/x.svg", "");
    assert!(field(&svg, "content-security-policy").contains("sandbox"));
    // The connection goes on.
    let mut client = edge.client();
    for _ in 0..3 {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert!(client.answer().body == big);
    }
    client.send(format!("HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    let head = client.head().unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("Content-Length: 1000000"),
        "{head}"
    );
    // Nothing followed it.
    client.send("GET /uploads/empty.txt HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.answer().status, 200);
}

#[test]
fn what_is_not_sure_is_the_applications() {
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let write = |path: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"file").unwrap();
    };
    for path in [
        "seen.jpg",
        "script.php",
        "script.php.jpg",
        "page.html",
        "private/bill.pdf",
        "shop/bill.pdf",
        "shop/.htaccess",
        "shop/deeper/bill.pdf",
        "closed.jpg",
        ".hidden.jpg",
        ".pontoon/trash/a.jpg",
    ] {
        write(path);
    }
    fs::set_permissions(root.path().join("closed.jpg"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(outside.path().join("secret.txt"), b"file").unwrap();
    symlink(outside.path().join("secret.txt"), root.path().join("link.txt")).unwrap();
    symlink(outside.path(), root.path().join("links")).unwrap();
    fs::create_dir(root.path().join("folder.jpg")).unwrap();
    let net = Net::new();
    let _app = application(&net);
    let mut view = with_uploads(net.view(1), root.path());
    let edge = Edge::start(view.clone());
    wait_for("the edge hands one out", || {
        ask(&edge, "GET", "/uploads/seen.jpg", "").text() == "file"
    });
    for path in [
        "/uploads/missing.jpg",
        "/uploads/script.php",
        "/uploads/script.php.jpg",
        "/uploads/page.html",
        "/uploads/private/bill.pdf",
        "/uploads/shop/bill.pdf",
        "/uploads/shop/deeper/bill.pdf",
        "/uploads/closed.jpg",
        "/uploads/.hidden.jpg",
        "/uploads/.pontoon/trash/a.jpg",
        "/uploads/link.txt",
        "/uploads/links/secret.txt",
        "/uploads/folder.jpg",
        "/uploads/%2e%2e/secret.txt",
        "/seen.jpg",
    ] {
        assert_eq!(ask(&edge, "GET", path, "").text(), "app", "{path}");
    }
    let seen = "/uploads/seen.jpg";
    assert_eq!(ask(&edge, "POST", seen, "Content-Length: 0\r\n").text(), "app");
    assert_eq!(
        ask(&edge, "GET", seen, "Authorization: Basic eDp5\r\n").text(),
        "app"
    );
    // What is written to again is the application's for a while, and never the old one.
    fs::write(root.path().join("seen.jpg"), b"newer").unwrap();
    assert_eq!(ask(&edge, "GET", seen, "").text(), "app");
    wait_for("the newer one", || ask(&edge, "GET", seen, "").text() == "newer");
    // Switched off.
    view.serial += 1;
    view.assets.as_mut().unwrap().serve = false;
    edge.publisher.publish(view).unwrap();
    wait_for("the application answers", || {
        ask(&edge, "GET", seen, "").text() == "app"
    });
}
