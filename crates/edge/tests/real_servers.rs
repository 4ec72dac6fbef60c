//! In front of a real nginx and a real PHP, where there are such.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::net::TcpStream;
use std::process::{Child, Command};

use common::*;

struct Running {
    process: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn nginx(net: &Net) -> Option<Running> {
    let named = std::env::var("PONTOON_TEST_NGINX").unwrap_or_default();
    let places = [named.as_str(), "/usr/sbin/nginx", "/usr/local/sbin/nginx"];
    let Some(program) = places.iter().find(|path| std::path::Path::new(path).is_file()) else {
        println!("SKIPPED: nginx is not installed");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().display();
    std::fs::write(dir.path().join("big"), vec![b'n'; 3_000_000]).unwrap();
    let config = format!(
        "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;\n\
         fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;\n\
         keepalive_requests 7;\n\
         server {{ listen {}; root {root}; location /echo {{ return 200 \"$http_x_forwarded_for $host\"; }}\n\
         location /put {{ dav_methods PUT; client_max_body_size 10m; }} }} }}\n",
        net.app(1)
    );
    std::fs::write(dir.path().join("nginx.conf"), config).unwrap();
    let process = Command::new(program)
        .args(["-e", "stderr", "-c"])
        .arg(dir.path().join("nginx.conf"))
        .spawn()
        .unwrap();
    let nginx = Running { process, _dir: dir };
    wait_for("nginx", || TcpStream::connect(net.app(1)).is_ok());
    Some(nginx)
}

#[test]
fn a_real_nginx_is_served() {
    let net = Net::new();
    let Some(_nginx) = nginx(&net) else { return };
    let edge = Edge::start(net.view(1));
    let mut client = edge.client();
    // nginx closes each connection after its seventh request.
    for _ in 0..50 {
        client.send("GET /echo HTTP/1.1\r\nHost: example.org\r\n\r\n");
        assert_eq!(client.answer().text(), "127.0.0.1 example.org");
    }
    client.send("GET /big HTTP/1.1\r\nHost: example.org\r\n\r\n");
    assert_eq!(client.answer().body.len(), 3_000_000);
    client.send("GET /missing HTTP/1.1\r\nHost: example.org\r\n\r\n");
    assert_eq!(client.answer().status, 404);
}

fn php(net: &Net) -> Option<Running> {
    let program = "/usr/bin/php";
    if !std::path::Path::new(program).is_file() {
        println!("SKIPPED: php is not installed");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "<?php if ($_SERVER['REQUEST_METHOD'] == 'POST') { echo strlen(file_get_contents('php://input')); exit; } \
                  if ($_SERVER['REQUEST_URI'] == '/flush') { for ($i = 0; $i < 5; $i++) { echo str_repeat('p', 10000); flush(); usleep(1000); } exit; } \
                  echo $_SERVER['HTTP_X_FORWARDED_FOR'], ' ', $_SERVER['HTTP_HOST'];";
    std::fs::write(dir.path().join("index.php"), script.replace("\\\n", "")).unwrap();
    let process = Command::new(program)
        .args(["-q", "-S", &net.app(1).to_string(), "index.php"])
        .current_dir(dir.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let php = Running { process, _dir: dir };
    wait_for("php", || TcpStream::connect(net.app(1)).is_ok());
    Some(php)
}

#[test]
fn a_real_php_is_served() {
    let net = Net::new();
    let Some(_php) = php(&net) else { return };
    let edge = Edge::start(net.view(1));
    let mut client = edge.client();
    for _ in 0..20 {
        client.send("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n");
        assert_eq!(client.answer().text(), "127.0.0.1 example.org");
    }
    client.send("GET /flush HTTP/1.1\r\nHost: example.org\r\n\r\n");
    assert_eq!(client.answer().body.len(), 50_000);
    client.send("POST / HTTP/1.1\r\nHost: example.org\r\nContent-Length: 300000\r\n\r\n");
    client.send(vec![b'x'; 300_000]);
    assert_eq!(client.answer().text(), "300000");
    client.send("HEAD / HTTP/1.1\r\nHost: example.org\r\n\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 200"));
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert!(client.answer().text().starts_with("127.0.0.1 "));
}
