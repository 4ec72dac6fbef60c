//! In front of a real nginx, where there is one.
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

struct Nginx {
    process: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn nginx(net: &Net) -> Option<Nginx> {
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
    let nginx = Nginx { process, _dir: dir };
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
