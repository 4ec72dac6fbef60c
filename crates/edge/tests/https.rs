//! HTTPS as real clients see it: curl, openssl and Python.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::tls::*;
use common::*;
use pontoon_fleet::{CertificateFiles, CertificateReport, FleetView, TlsVersion};
use pontoon_rt::paths::Paths;

/// An edge with HTTPS in front of an application that answers with what it was told of the visitor.
struct Site {
    edge: Edge,
    view: FleetView,
    at: SocketAddr,
    certificates: Certificates,
    _app: App,
}

fn site() -> Site {
    let (net, certificates) = (Net::new(), Certificates::new());
    let app = App::start(net.app(1), |client, head, body| {
        if head.contains("/own-hsts") {
            client
                .send("HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\nContent-Length: 0\r\n\r\n");
            return true;
        }
        let of = |name| field(head, name).unwrap_or_default();
        let told = format!(
            "{} {} {}",
            of("x-forwarded-proto"),
            of("x-forwarded-host"),
            body.len()
        );
        reply(client, &told)
    });
    let files = certificates.issue("site", &["site.test", "*.site.test"], 90);
    let (view, at) = with_https(net.view(1), &[&files]);
    let edge = Edge::start(view.clone());
    wait_for("HTTPS", || TcpStream::connect(at).is_ok());
    Site {
        edge,
        view,
        at,
        certificates,
        _app: app,
    }
}

impl Site {
    fn curl(&self, host: &str, ca: &str, path: &str, options: &[&str]) -> Option<Output> {
        let ca = self.certificates.path(ca);
        let resolve = format!("{host}:{}:127.0.0.1", self.at.port());
        let url = format!("https://{host}:{}{path}", self.at.port());
        run(
            "curl",
            &[
                &[
                    "-sS",
                    "--max-time",
                    "20",
                    "--resolve",
                    &resolve,
                    "--cacert",
                    ca.to_str().unwrap(),
                ],
                options,
                &[&url],
            ]
            .concat(),
            b"",
        )
    }

    fn report(&self) -> Vec<CertificateReport> {
        self.edge
            .report()
            .map_or_else(Vec::new, |report| report.certificates)
    }
}

#[test]
fn curl_is_served_and_the_application_hears_that_it_was_https() {
    let site = site();
    let Some(answer) = site.curl("site.test", "site.ca", "/", &["-i"]) else {
        return;
    };
    let text = out(&answer);
    assert!(
        text.to_lowercase()
            .contains("\r\nstrict-transport-security: max-age=86400\r\n"),
        "{text}"
    );
    let told = format!("https site.test:{} 0", site.at.port());
    assert!(text.ends_with(&told), "{text}");
    for version in [
        ["--tlsv1.2", "--tls-max", "1.2"],
        ["--tlsv1.3", "--tls-max", "1.3"],
    ] {
        let text = out(&site.curl("www.site.test", "site.ca", "/", &version).unwrap());
        assert!(text.starts_with("https www.site.test"), "{version:?}: {text}");
    }
    // With the lowest security level OpenSSL speaks TLS 1.1 too, and is not answered.
    let old = [
        "--tlsv1.1",
        "--tls-max",
        "1.1",
        "--ciphers",
        "DEFAULT:@SECLEVEL=0",
    ];
    assert!(
        !site
            .curl("site.test", "site.ca", "/", &old)
            .unwrap()
            .status
            .success()
    );
    let own = out(&site.curl("site.test", "site.ca", "/own-hsts", &["-i"]).unwrap());
    assert!(own.contains("max-age=1\r\n") && !own.contains("86400"), "{own}");
    let large = site.certificates.path("large");
    std::fs::write(&large, vec![b'x'; 3_000_000]).unwrap();
    let upload = format!("@{}", large.display());
    let text = out(&site
        .curl("site.test", "site.ca", "/", &["--data-binary", &upload])
        .unwrap());
    assert!(text.ends_with(" 3000000"), "{text}");
}

#[test]
fn only_tls_13_where_that_is_the_oldest() {
    let mut site = site();
    site.view.https.as_mut().unwrap().min_version = TlsVersion::V1_3;
    site.edge.publisher.publish(site.view.clone()).unwrap();
    let old = ["--tls-max", "1.2"];
    wait_for("TLS 1.2 to be refused", || {
        let answer = site.curl("site.test", "site.ca", "/", &old);
        answer.is_none_or(|answer| !answer.status.success())
    });
    if let Some(answer) = site.curl("site.test", "site.ca", "/", &[]) {
        assert!(answer.status.success(), "{}", out(&answer));
    }
}

#[test]
fn each_name_has_its_certificate() {
    let mut site = site();
    let shop = site.certificates.issue("shop", &["shop.test"], 90);
    site.view.https.as_mut().unwrap().certificates.push(shop);
    site.edge.publisher.publish(site.view.clone()).unwrap();
    wait_for("two certificates", || site.report().len() == 2);
    let Some(answer) = site.curl("shop.test", "shop.ca", "/", &[]) else {
        return;
    };
    assert!(answer.status.success(), "{}", out(&answer));
    assert!(
        site.curl("site.test", "site.ca", "/", &[])
            .unwrap()
            .status
            .success()
    );
    // Nobody vouches for a name that is in none of them.
    assert!(
        !site
            .curl("other.test", "shop.ca", "/", &[])
            .unwrap()
            .status
            .success()
    );
}

#[test]
fn plain_http_is_sent_to_https() {
    let site = site();
    let mut client = site.edge.client();
    client.send("GET /a?b=c HTTP/1.1\r\nHost: site.test:80\r\n\r\n");
    let answer = client.answer();
    let wanted = format!("https://site.test:{}/a?b=c", site.at.port());
    assert_eq!(
        (answer.status, answer.field("location")),
        (301, Some(wanted.clone()))
    );
    assert_eq!(
        answer.field("strict-transport-security"),
        None,
        "RFC 6797 section 7.2"
    );
    assert!(client.is_closed());
    let mut client = site.edge.client();
    client.send("POST /a?b=c HTTP/1.1\r\nHost: site.test\r\nContent-Length: 3\r\n\r\nabc");
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("location")), (308, Some(wanted)));
    let mut view = site.view.clone();
    view.https.as_mut().unwrap().redirect = false;
    site.edge.publisher.publish(view).unwrap();
    wait_for("plain HTTP to be served", || site.edge.get("/").status == 200);
    assert_eq!(site.edge.get("/").text(), "http test 0");
}

#[test]
fn an_authority_is_answered_over_http_and_https_and_everything_else_goes_its_way() {
    let site = site();
    let at = "/.well-known/acme-challenge/";
    let told = site.edge.get(&format!("{at}aZ_9-"));
    assert_eq!((told.status, told.text()), (200, "aZ_9-.thumb".into()));
    assert_eq!(
        told.field("location"),
        None,
        "not redirected: it has no other way to ask"
    );
    let ask = |method: &str, path: &str, more: &str| {
        let mut client = site.edge.client();
        client.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: site.test\r\n{more}\r\n"
        ));
        client
    };
    let url = format!("http://{}{at}tok", site.edge.address);
    if let Some(head) = run("curl", &["-sSI", "--max-time", "20", &url], b"") {
        let text = out(&head).to_lowercase();
        assert!(
            text.starts_with("http/1.1 200 ") && text.contains("content-length: 9\r\n"),
            "{text}"
        );
    }
    assert_eq!(
        ask("POST", &format!("{at}tok"), "Content-Length: 0\r\n")
            .answer()
            .status,
        308
    );
    for path in ["a/b", "a?b", "%0d%0aX:y", ""] {
        let answer = ask("GET", &format!("{at}{path}"), "").answer();
        assert_eq!(
            answer.status, 301,
            "{path}: what is no token is the application's"
        );
    }
    if let Some(answer) = site.curl("site.test", "site.ca", &format!("{at}tok"), &[]) {
        assert_eq!(out(&answer), "tok.thumb");
    }
    // Without an account there is nothing to say.
    let mut view = site.view.clone();
    let https = view.https.as_mut().unwrap();
    (https.acme_thumbprint, https.redirect) = (None, false);
    site.edge.publisher.publish(view).unwrap();
    wait_for("no account", || {
        site.edge.get(&format!("{at}tok")).text() != "tok.thumb"
    });
}

#[test]
fn a_certificate_is_renewed_under_a_connection_that_goes_on() {
    let site = site();
    // Asks each time that a line comes in, on one connection.
    const PYTHON: &str = "import http.client, ssl, sys\n\
        tls = ssl.create_default_context(cafile=sys.argv[2])\n\
        tls.check_hostname = False\n\
        connection = http.client.HTTPSConnection('127.0.0.1', int(sys.argv[1]), context=tls, timeout=20)\n\
        for line in sys.stdin:\n\
        \x20   connection.request('GET', '/')\n\
        \x20   answer = connection.getresponse()\n\
        \x20   print(answer.status, answer.read().decode(), connection.sock.getsockname()[1], flush=True)\n";
    let ca = site.certificates.path("before.ca");
    std::fs::copy(site.certificates.path("site.ca"), &ca).unwrap();
    let python = Command::new("python3")
        .args(["-c", PYTHON, &site.at.port().to_string()])
        .arg(&ca)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut python) = python else {
        println!("SKIPPED: python3 is not installed");
        return;
    };
    let mut asks = python.stdin.take().unwrap();
    let mut answers = BufReader::new(python.stdout.take().unwrap());
    let mut ask = || {
        asks.write_all(b"\n").unwrap();
        asks.flush().unwrap();
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        line
    };
    let first = ask();
    assert!(first.starts_with("200 https"), "{first}");
    let end = |site: &Site| site.report().first().and_then(|one| one.not_after);
    wait_for("a report", || end(&site).is_some());
    let before = end(&site);

    // A key without its certificate, then rubbish, then one that has ended: each is refused, and the old one serves.
    let good = std::fs::read(site.certificates.path("site.key")).unwrap();
    let other = rcgen::KeyPair::generate().unwrap();
    std::fs::write(site.certificates.path("site.key"), other.serialize_pem()).unwrap();
    let refused = |word: &str| {
        wait_for(word, || {
            let report = site.report();
            report
                .iter()
                .any(|one| one.refused.as_ref().is_some_and(|why| why.contains(word)))
        });
        assert_eq!(end(&site), before, "the old one serves on");
    };
    refused("site.key: it is not the key of");
    std::fs::write(site.certificates.path("site.key"), "rubbish").unwrap();
    refused("site.key: there is no private key");
    let curl = || site.curl("site.test", "before.ca", "/", &[]);
    assert!(curl().is_none_or(|answer| answer.status.success()));
    std::fs::write(site.certificates.path("site.key"), good).unwrap();
    wait_for("the old pair to be whole", || {
        site.report().iter().all(|one| one.refused.is_none())
    });
    site.certificates.issue("site", &["site.test"], -1);
    refused("site.pem has ended");

    // A good one is taken up, and who is connected does not notice.
    site.certificates.issue("site", &["site.test"], 30);
    wait_for("the new certificate", || end(&site) != before);
    if let Some(answer) = site.curl("site.test", "site.ca", "/", &[]) {
        assert!(answer.status.success(), "{}", out(&answer));
        assert!(
            !curl().unwrap().status.success(),
            "new connections get the new one"
        );
    }
    assert_eq!(ask(), first, "the same connection");
    drop(asks);
    python.wait().unwrap();
}

#[test]
fn nothing_listens_while_there_is_no_certificate() {
    let (net, certificates) = (Net::new(), Certificates::new());
    let _app = App::start(net.app(1), |client, _, _| reply(client, "here"));
    let (view, at) = with_https(net.view(1), &[&certificates.files("site")]);
    let edge = Edge::start(view);
    let said = || edge.report().map_or_else(Vec::new, |report| report.not_listening);
    wait_for("the reason", || {
        said().iter().any(|line| line.contains("site.pem is not there"))
    });
    assert!(TcpStream::connect(at).is_err());
    assert_eq!(
        edge.get("/").text(),
        "here",
        "nobody is sent to where nobody listens"
    );
    certificates.issue("site", &["site.test"], 9);
    wait_for("HTTPS", || TcpStream::connect(at).is_ok());
    wait_for("no complaints", || {
        said().iter().all(|line| !line.contains(".pem"))
    });
}

#[test]
fn a_session_of_one_edge_goes_on_at_another() {
    let keys = format!(
        "{} {}\n",
        pontoon_rt::clock::Clock::unix(&pontoon_rt::clock::SystemClock).0,
        "5a".repeat(32)
    );
    let certificates = Certificates::new();
    let files = certificates.issue("site", &["site.test"], 9);
    let net = Net::new();
    let _app = App::start(net.app(1), |client, _, _| reply(client, "here"));
    let edges: Vec<(Edge, SocketAddr)> = [Some(&keys), Some(&keys), None]
        .into_iter()
        .map(|keys| {
            let mut view = net.view(1);
            view.servers[0].edge_listen = vec![SocketAddr::from(([127, 0, 0, 1], free_port()))];
            let (view, at) = with_https(view, &[&files]);
            let edge = Edge::start_with(view, tuning(), |root: &Path| {
                if let Some(keys) = keys {
                    std::fs::write(Paths::under(root).ticket_keys_file(), keys).unwrap();
                }
            });
            wait_for("HTTPS", || TcpStream::connect(at).is_ok());
            (edge, at)
        })
        .collect();
    let session = certificates.path("session");
    let connect = |at: SocketAddr, version: &str, file: [&str; 2]| {
        let at = at.to_string();
        let get = b"GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n";
        let arguments = [
            "s_client",
            "-connect",
            &at,
            "-servername",
            "site.test",
            "-ign_eof",
            version,
        ];
        run("openssl", &[&arguments[..], &file[..]].concat(), get).map(|answer| out(&answer))
    };
    let file = session.to_str().unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let Some(first) = connect(edges[0].1, version, ["-sess_out", file]) else {
            return;
        };
        assert!(first.contains("New, TLS") && first.contains("here"), "{first}");
        let second = connect(edges[1].1, version, ["-sess_in", file]).unwrap();
        assert!(
            second.contains("Reused, TLS") && second.contains("here"),
            "{version}: {second}"
        );
        let third = connect(edges[2].1, version, ["-sess_in", file]).unwrap();
        assert!(
            third.contains("New, TLS") && third.contains("here"),
            "{version}: {third}"
        );
    }
}

#[test]
fn what_an_ocsp_responder_said_goes_out() {
    let site = site();
    // One authority with one certificate, and its word on it.
    let script = "set -e; cd \"$1\"
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out root.pem -subj /CN=root -days 9
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ocsp.key -out ocsp.csr -subj /CN=ocsp.test
        printf 'subjectAltName=DNS:ocsp.test' > ext
        openssl x509 -req -in ocsp.csr -CA root.pem -CAkey ca.key -set_serial 7 -days 9 -extfile ext -out ocsp.pem
        printf 'V\\t491231235959Z\\t\\t07\\tunknown\\t/CN=ocsp.test\\n' > index
        openssl ocsp -issuer root.pem -cert ocsp.pem -reqout request
        openssl ocsp -index index -CA root.pem -rsigner root.pem -rkey ca.key -reqin request -respout ocsp.der -ndays 5";
    let directory = site.certificates.0.path().to_str().unwrap();
    if run("openssl", &["version"], b"").is_none() {
        return;
    }
    let made = run("sh", &["-c", script, "sh", directory], b"").unwrap();
    assert!(made.status.success(), "{}", out(&made));
    let mut view = site.view.clone();
    let files = CertificateFiles {
        ocsp: Some(site.certificates.path("ocsp.der")),
        ..site.certificates.files("ocsp")
    };
    view.https.as_mut().unwrap().certificates.push(files);
    site.edge.publisher.publish(view).unwrap();
    wait_for("two certificates", || site.report().len() == 2);
    let at = site.at.to_string();
    let ask = |name| {
        run(
            "openssl",
            &["s_client", "-connect", &at, "-servername", name, "-status"],
            b"",
        )
    };
    let text = out(&ask("ocsp.test").unwrap());
    assert!(
        text.contains("OCSP Response Status: successful") && text.contains("Cert Status: good"),
        "{text}"
    );
    let text = out(&ask("site.test").unwrap());
    assert!(text.contains("OCSP response: no response sent"), "{text}");
}

#[test]
fn handshakes_that_go_nowhere_end() {
    let site = site();
    // Nothing, and half a hello: closed when the time of a head is over.
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut client = Client::to(site.at);
        client.send(begun);
        assert!(client.rest().is_empty());
    }
    // Neither TLS nor HTTP.
    let mut client = Client::to(site.at);
    client.send(b"\x80\x2e\x01\x00\x02");
    assert!(client.rest().is_empty());
    // HTTP is told what it did wrong.
    let mut client = Client::to(site.at);
    client.send("GET / HTTP/1.1\r\nHost: site.test\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("plain HTTP on the port of HTTPS"));
    // A hello without end is cut off.
    let mut stream = TcpStream::connect(site.at).unwrap();
    let _ = stream.write_all(b"\x16\x03\x01\x40\x00\x01\x00\xff\xff\x03\x03");
    let _ = stream.write_all(&vec![7; 256 * 1024]);
    let mut rest = Vec::new();
    stream.set_read_timeout(Some(8 * SECOND)).unwrap();
    let ended = stream.read_to_end(&mut rest);
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    // Nobody may ask for a new handshake within a connection (RFC 5746; TLS 1.3 has none).
    let at = site.at.to_string();
    let arguments = ["s_client", "-connect", &at, "-tls1_2"];
    if let Some(answer) = run("openssl", &arguments, b"R\n") {
        let text = out(&answer);
        let after = text.split_once("RENEGOTIATING").map(|(_, after)| after);
        assert!(
            after.is_some_and(|after| !after.contains("verify return")),
            "{text}"
        );
    }
    if let Some(answer) = site.curl("site.test", "site.ca", "/", &[]) {
        assert!(answer.status.success(), "others are served meanwhile");
    }
}
