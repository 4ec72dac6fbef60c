//! The talk with a real authority: Pebble, on loopback. Without it the tests say so and pass.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pontoon_acme::{Account, Authority, Begun, FailureKind, Obtained, Place, Secret, account_key};
use pontoon_fleet::{Challenge, Proofs, UnixMillis};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

/// Ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Pebble {
    dir: tempfile::TempDir,
    port: u16,
    /// Where its name server is told of records.
    told: String,
    /// What challenges are answered with.
    thumbprint: Arc<Mutex<String>>,
    _running: [Running; 2],
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port()
}

fn spawn(program: &str, args: &[&str]) -> Option<Running> {
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
    // No waits of its own; no proof is good twice.
    command
        .env("PEBBLE_VA_NOSLEEP", "1")
        .env("PEBBLE_AUTHZREUSE", "0");
    command.spawn().map(Running).ok()
}

impl Pebble {
    async fn start() -> Option<Pebble> {
        // A port that somebody else took in between: again.
        for _ in 0..5 {
            if let Some(pebble) = Pebble::try_start().await {
                return Some(pebble);
            }
        }
        println!("SKIPPED: Debian's package pebble is not installed, or does not start");
        None
    }

    async fn try_start() -> Option<Pebble> {
        let dir = tempfile::tempdir().unwrap();
        let thumbprint = Arc::new(Mutex::new(String::new()));
        let http = answer_challenges(Arc::clone(&thumbprint));
        let root_key = KeyPair::generate().unwrap();
        let mut root = CertificateParams::new(Vec::new()).unwrap();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("ca.pem", &root.self_signed(&root_key).unwrap().pem());
        let issuer = rcgen::Issuer::new(root, root_key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        write("own.pem", &params.signed_by(&key, &issuer).unwrap().pem());
        write("own.key", &key.serialize_pem());
        let [port, management, dns, told] = [(); 4].map(|()| free_port());
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"), "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": path("own.pem"), "privateKey": path("own.key"), "httpPort": http, "tlsPort": 1,
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
        }});
        write("pebble.json", &config.to_string());
        let (dns, told) = (format!("127.0.0.1:{dns}"), format!("127.0.0.1:{told}"));
        let off = [
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
            "-defaultIPv6",
            "",
        ];
        let names = spawn(
            "pebble-challtestsrv",
            &[&["-dns01", &dns, "-management", &told][..], &off].concat(),
        )?;
        let pebble = spawn("pebble", &["-config", &path("pebble.json"), "-dnsserver", &dns])?;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() && TcpStream::connect(&told).is_ok() {
                return Some(Pebble {
                    dir,
                    port,
                    told,
                    thumbprint,
                    _running: [names, pebble],
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    fn place(&self) -> Place {
        Place {
            directory: format!("https://127.0.0.1:{}/dir", self.port),
            email: Some("admin@example.org".to_owned()),
            ca: Some(self.path("ca.pem")),
            challenge: Challenge::Http01,
        }
    }

    /// The name server has this TXT record from now on.
    fn has_text(&self, name: &str, text: &str) {
        let body = serde_json::json!({ "host": format!("{name}."), "value": text }).to_string();
        let mut stream = TcpStream::connect(&self.told).unwrap();
        let head = format!(
            "POST /set-txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn account(&self) -> Account {
        let account = account_key(UnixMillis(1)).unwrap();
        self.thumbprint.lock().unwrap().clone_from(&account.thumbprint);
        account
    }
}

/// Every edge of a fleet in one: answers any token with the thumbprint. Gives its port.
fn answer_challenges(thumbprint: Arc<Mutex<String>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            let mut rest = String::new();
            while stream.read_line(&mut rest).unwrap_or(0) > 2 {
                rest.clear();
            }
            let path = line.split(' ').nth(1).unwrap_or_default();
            let token = path.rsplit('/').next().unwrap_or_default();
            let body = format!("{token}.{}", thumbprint.lock().unwrap());
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.get_mut().write_all(format!("{head}{body}").as_bytes());
        }
    });
    port
}

fn is_for(obtained: &Obtained, name: &str, dir: &std::path::Path) {
    let file = dir.join("served.pem");
    std::fs::write(&file, format!("{}{}", obtained.chain, obtained.key.pem())).unwrap();
    let loaded = pontoon_certs::load(&pontoon_fleet::CertificateFiles {
        certificate: file.clone(),
        key: file,
        ocsp: None,
    });
    let loaded = loaded.unwrap();
    assert_eq!(loaded.names, [name]);
    assert_eq!(loaded.not_after, obtained.not_after);
    assert!(obtained.issuer.contains("Pebble"), "{}", obtained.issuer);
}

#[tokio::test]
async fn an_order_becomes_a_certificate_whoever_goes_on_with_it() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let (place, account) = (pebble.place(), pebble.account());
    let first = Authority::open(&place, &account).await.unwrap();
    let begun = first.begin("www.notes.example").await.unwrap();
    // Another server, with the same account.
    let second = Authority::open(&place, &account).await.unwrap();
    assert!(second.goes_on(&begun).await);
    let obtained = second.finish("www.notes.example", &begun).await.unwrap();
    is_for(&obtained, "www.notes.example", pebble.dir.path());
    // The one that began it comes back: the same certificate.
    assert!(first.goes_on(&begun).await);
    assert_eq!(first.finish("www.notes.example", &begun).await.unwrap(), obtained);
    let other = first.begin("www.notes.example").await.unwrap();
    assert_ne!(
        first.finish("www.notes.example", &other).await.unwrap().chain,
        obtained.chain
    );
}

#[tokio::test]
async fn a_name_that_is_not_answered_for_is_refused_in_the_authoritys_words() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let (place, account) = (pebble.place(), pebble.account());
    let authority = Authority::open(&place, &account).await.unwrap();
    // Somebody else answers there.
    "else".clone_into(&mut pebble.thumbprint.lock().unwrap());
    let begun = authority.begin("www.notes.example").await.unwrap();
    let failure = authority.finish("www.notes.example", &begun).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(failure.what.contains("unauthorized"), "{failure}");
    assert!(!authority.goes_on(&begun).await, "it is over");
    let failure = authority.begin("*.notes.example").await;
    let wildcard = authority
        .finish("*.notes.example", &failure.unwrap())
        .await
        .unwrap_err();
    assert!(wildcard.what.contains("http-01"), "{wildcard}");
    let failure = authority.begin("not a name").await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
    for order in ["https://127.0.0.1:1/order", "nonsense", ""] {
        let begun = Begun {
            directory: place.directory.clone(),
            order: order.to_owned(),
            key: Secret::of_der(b"no key"),
        };
        assert!(
            authority.finish("www.notes.example", &begun).await.is_err(),
            "{order}"
        );
    }
    let elsewhere = Begun {
        directory: "https://ca.example/dir".to_owned(),
        ..begun
    };
    assert!(!authority.goes_on(&elsewhere).await);
}

#[tokio::test]
async fn a_record_proves_a_name_and_its_wildcard() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let (place, account) = (pebble.place(), pebble.account());
    let over_http = Authority::open(&place, &account).await.unwrap();
    let in_the_dns = Place {
        challenge: Challenge::Dns01,
        ..place
    };
    let authority = Authority::open(&in_the_dns, &account).await.unwrap();
    let mut before = None;
    for name in ["*.notes.example", "notes.example"] {
        let begun = authority.begin(name).await.unwrap();
        let text = authority.proof(name, &begun).await.unwrap();
        assert_eq!(over_http.proof(name, &begun).await, Ok(None));
        assert_eq!(
            authority.proof(name, &begun).await.unwrap(),
            text,
            "the same again"
        );
        assert_ne!(text, before, "another for another order");
        pebble.has_text(&Proofs::place(name), text.as_deref().unwrap());
        let obtained = authority.finish(name, &begun).await.unwrap();
        is_for(&obtained, name, pebble.dir.path());
        assert_eq!(authority.proof(name, &begun).await, Ok(None), "it is proved");
        before = text;
    }
    // Another text is there, or none.
    pebble.has_text(&Proofs::place("third.example"), "another");
    for name in ["third.example", "other.example"] {
        let begun = authority.begin(name).await.unwrap();
        let failure = authority.finish(name, &begun).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Refused);
        assert!(failure.what.contains("unauthorized"), "{failure}");
    }
}

#[tokio::test]
async fn an_authority_that_is_none_or_wants_nothing_of_us() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let (place, account) = (pebble.place(), pebble.account());
    let why = async |change: &dyn Fn(&mut Place), account: &Account| {
        let mut place = place.clone();
        change(&mut place);
        Authority::open(&place, account)
            .await
            .err()
            .expect("it is refused")
    };
    let failure = why(&|place| place.directory += "/nothing", &account).await;
    assert!(failure.what.contains("answers 404"), "{failure}");
    assert_eq!(failure.kind, FailureKind::Unreachable);
    let failure = why(&|place| place.ca = None, &account).await;
    assert!(
        failure
            .what
            .contains("not signed by one of the authorities that this machine trusts"),
        "{failure}"
    );
    std::fs::write(pebble.path("empty.pem"), "").unwrap();
    for file in ["missing.pem", "empty.pem", "own.key"] {
        let failure = why(&|place| place.ca = Some(pebble.path(file)), &account).await;
        assert!(failure.what.contains(file), "{failure}");
    }
    let failure = why(
        &|place| place.email = Some("a..b@example.org".to_owned()),
        &account,
    )
    .await;
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(
        failure
            .what
            .starts_with("it does not take the address a..b@example.org: "),
        "{failure}"
    );
    let closed = free_port();
    let failure = why(
        &|place| place.directory = format!("https://127.0.0.1:{closed}/dir"),
        &account,
    )
    .await;
    assert_eq!(failure.kind, FailureKind::Unreachable);
    assert!(failure.what.contains("no connection to"), "{failure}");
    // An account whose key is not here, or another's.
    let mut keyless = account.clone();
    keyless.key = None;
    assert!(
        why(&|_| {}, &keyless)
            .await
            .what
            .contains("not on this server yet")
    );
    let mut mixed = account.clone();
    mixed.thumbprint = "another".to_owned();
    assert!(why(&|_| {}, &mixed).await.what.contains("do not belong together"));
    mixed.key = Some(Secret::of_der(b"no key"));
    why(&|_| {}, &mixed).await;
}

#[tokio::test]
async fn a_server_that_speaks_something_else_is_no_directory() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let account = pebble.account();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream
                .unwrap()
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
        }
    });
    let place = Place {
        directory: format!("https://127.0.0.1:{port}/dir"),
        ..pebble.place()
    };
    let failure = Authority::open(&place, &account)
        .await
        .err()
        .expect("it is refused");
    assert_eq!(failure.kind, FailureKind::Unreachable, "{failure}");
    // Pebble's own, and not its directory.
    let place = Place {
        directory: format!("https://127.0.0.1:{}/nonce-plz", pebble.port),
        ..pebble.place()
    };
    let failure = Authority::open(&place, &account)
        .await
        .err()
        .expect("it is refused");
    assert!(
        failure.what.contains("is not the directory of an ACME authority"),
        "{failure}"
    );
}
