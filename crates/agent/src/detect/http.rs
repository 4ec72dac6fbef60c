//! Which listeners speak HTTP, and which path tells that the application works. One short GET each, to this
//! machine only.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::header::{CONNECTION, HOST, SERVER, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use pontoon_rt::http;
use tokio::net::TcpStream;

use super::listeners::Listener;

/// What answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The `Server` header.
    pub server: Option<String>,
}

/// Listeners that may be the application, the likeliest first. Programs that are known to speak something else are
/// never asked: a GET would count as an attack in their logs, and MySQL blocks hosts for it (`max_connect_errors`).
pub fn candidates(listeners: &[Listener], besides: &[u16]) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for listener in listeners {
        let port = listener.address.port();
        let speaks_other = listener
            .program
            .as_deref()
            .is_some_and(|program| NOT_HTTP.iter().any(|n| program.starts_with(n)));
        if !speaks_other
            && !NOT_HTTP_PORTS.contains(&port)
            && !besides.contains(&port)
            && !found.contains(&listener.local())
        {
            found.push(listener.local());
        }
    }
    let rank = |port: u16| {
        LIKELY_PORTS
            .iter()
            .position(|likely| *likely == port)
            .unwrap_or(LIKELY_PORTS.len())
    };
    found.sort_by_key(|address| (rank(address.port()), !address.ip().is_loopback(), *address));
    found.truncate(MOST_CANDIDATES);
    found
}

/// Those of `candidates` that speak HTTP, in their order.
pub async fn answering(candidates: &[SocketAddr], host: &str) -> Vec<SocketAddr> {
    // All at once: one that accepts and says nothing must not hold up the others.
    let answers = futures::future::join_all(candidates.iter().map(|address| get(*address, host, "/"))).await;
    candidates
        .iter()
        .zip(answers)
        .filter(|(_, answer)| answer.is_some())
        .map(|(address, _)| *address)
        .collect()
}

/// `/up` or `/healthz` when the application has it, otherwise `/`; `None` when none answers well.
pub async fn find_health_path(address: SocketAddr, host: &str) -> Option<&'static str> {
    // An application that answers 200 to everything has no health page, whatever it says about /up.
    let answers_anything = ok(address, host, "/pontoon-asks-for-a-page-that-is-not-there").await;
    if !answers_anything {
        for path in ["/up", "/healthz"] {
            if ok(address, host, path).await {
                return Some(path);
            }
        }
    }
    let front = get(address, host, "/").await?;
    (200..400).contains(&front.status).then_some("/")
}

/// One GET; `None` when what listens does not speak HTTP or is too slow.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> Option<Answer> {
    let exchange = async {
        let io = TcpStream::connect(address).await.ok()?;
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header(HOST, host)
            .header(USER_AGENT, "pontoon-init")
            .header(CONNECTION, "close")
            .body(http::empty())
            .ok()?;
        let answer = http::request(io, request).await.ok()?;
        let server = answer
            .headers()
            .get(SERVER)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        Some(Answer {
            status: answer.status().as_u16(),
            server,
        })
    };
    tokio::time::timeout(PATIENCE, exchange).await.ok().flatten()
}

async fn ok(address: SocketAddr, host: &str, path: &str) -> bool {
    get(address, host, path)
        .await
        .is_some_and(|answer| answer.status == StatusCode::OK.as_u16())
}

const LIKELY_PORTS: [u16; 12] = [
    8080, 8000, 3000, 9000, 5000, 8081, 8008, 8888, 4000, 9292, 1337, 8090,
];
/// Of the visitors, of the shell, of mail, of names, of databases and caches.
const NOT_HTTP_PORTS: [u16; 24] = [
    80, 443, 21, 22, 25, 53, 110, 111, 143, 465, 587, 853, 993, 995, 3306, 3307, 33060, 5432, 6379, 11211,
    27017, 4369, 5672, 25672,
];
const NOT_HTTP: [&str; 26] = [
    "mysqld",
    "mariadbd",
    "postgres",
    "redis",
    "valkey",
    "memcached",
    "mongod",
    "sshd",
    "systemd",
    "master",
    "exim",
    "dovecot",
    "named",
    "unbound",
    "dnsmasq",
    "rpcbind",
    "chronyd",
    "ntpd",
    "cupsd",
    "php-fpm",
    "pontoon",
    "vsftpd",
    "proftpd",
    "rsyslogd",
    "epmd",
    "containerd",
];
const MOST_CANDIDATES: usize = 12;
const PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn application(answers: &'static [(&'static str, u16)]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut io, _)) = listener.accept().await {
                let mut buffer = vec![0; 2000];
                let count = io.read(&mut buffer).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                let path = text.split(' ').nth(1).unwrap_or("");
                let status = answers
                    .iter()
                    .find(|(p, _)| *p == path || *p == "*")
                    .map_or(404, |(_, status)| *status);
                let _ = io
                    .write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes())
                    .await;
            }
        });
        address
    }

    #[tokio::test]
    async fn the_health_path_is_the_one_that_means_something() {
        for (answers, path) in [
            (&[("/up", 200), ("/", 200)][..], Some("/up")),
            (&[("/healthz", 200), ("/", 200)], Some("/healthz")),
            (&[("/", 301)], Some("/")),
            (&[("*", 200)], Some("/")),
            (&[("*", 503)], None),
            (&[("/up", 302), ("/", 200)], Some("/")),
        ] {
            let address = application(answers).await;
            assert_eq!(find_health_path(address, "localhost").await, path, "{answers:?}");
        }
    }

    #[tokio::test]
    async fn what_does_not_speak_http_is_not_the_application() {
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = other.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut io, _)) = other.accept().await {
                let _ = io.write_all(b"220 mail.example.com ESMTP\r\n").await;
            }
        });
        let real = application(&[("/", 500)]).await;
        let list = [address, mute.local_addr().unwrap(), real];
        assert_eq!(answering(&list, "localhost").await, [real]);
        drop(mute);
        assert_eq!(answering(&list[..2], "localhost").await, []);
    }

    #[test]
    fn databases_and_mail_are_never_asked() {
        let on = |address: &str, program: Option<&str>| Listener {
            address: address.parse().unwrap(),
            program: program.map(str::to_owned),
            pid: None,
        };
        let listeners = [
            on("0.0.0.0:80", Some("nginx")),
            on("127.0.0.1:3310", Some("mariadbd")),
            on("127.0.0.1:3306", None),
            on("127.0.0.1:9999", Some("node")),
            on("[::]:3000", Some("node")),
            on("127.0.0.1:8080", Some("java")),
            on("127.0.0.1:7400", Some("pontoon")),
        ];
        let found: Vec<String> = candidates(&listeners, &[])
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, ["127.0.0.1:8080", "127.0.0.1:3000", "127.0.0.1:9999"]);
    }
}
