//! Peers that are not what they should be: strangers, a server that left, a member that may not steer, and garbage on
//! every door. Each is refused, and visitors notice none of it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pontoon_e2e::fleet::{
    Fleet, event_kinds, expect, identical, one_line, refused, run, start_application, wait_until_healthy,
};
use pontoon_testkit::app::Dice;
use pontoon_testkit::{LabError, Server, in_lab, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// What a peer may ask an agent for, besides `hello`.
const QUESTIONS: [(&str, &str); 9] = [
    ("GET", "config"),
    ("GET", "events?count=5"),
    ("GET", "facts"),
    ("GET", "join/backup"),
    ("POST", "heartbeat"),
    ("POST", "change"),
    ("POST", "renew"),
    ("POST", "join/source"),
    ("POST", "join/finish"),
];

#[test]
fn strangers_leavers_and_garbage_disturb_nothing() -> Result<(), LabError> {
    in_lab(
        "strangers_leavers_and_garbage_disturb_nothing",
        Duration::from_secs(200),
        |lab| async move {
            let mut fleet = Fleet::new(lab).await?;
            let c = fleet.lab.add_server("c", Vec::new()).await?;
            fleet.found().await?;
            fleet.join().await?;
            let (a, b) = (&fleet.a, &fleet.b);
            wait_until_healthy(a, 2).await?;
            let load = fleet.visitors(&[a], 30.0, "strangers")?;

            // Without a certificate: nothing but hello, and that only with a token.
            for (method, path) in QUESTIONS {
                let said = ask_agent(&c, a, method, path, None).await?;
                expect(said.contains("J005"), || format!("a stranger, {path}: {said}"))?;
            }
            let said = ask_agent(&c, a, "POST", "join/hello", None).await?;
            expect(!said.contains("certificate\":") && !said.contains(" 200"), || {
                format!("hello: {said}")
            })?;
            for port in [7401, 7402] {
                let said = relay(&c, a, port, None).await?;
                expect(said.is_empty(), || format!("a stranger on {port}: {said}"))?;
            }

            // A member without the role db: it is served, and it steers nothing.
            load.phase("an application server");
            start_application(&fleet.app, &c).await?;
            let (address, token) = (a.private().to_string(), fleet.token().await?);
            let public = c.public().to_string();
            run(
                &c,
                &[
                    "join", &address, &token, "--name", "c", "--roles", "edge,app", "--public", &public,
                ],
            )
            .await?;
            wait_until_healthy(a, 3).await?;
            let files = Path::new("/var/lib/pontoon/identity");
            expect(!c.path(files.join("ca-key.pem"))?.exists(), || {
                "c holds the authority's key".to_owned()
            })?;
            for path in ["facts", "join/backup"] {
                let said = ask_agent(&c, a, "GET", path, Some(files)).await?;
                expect(said.contains("J005"), || format!("c, {path}: {said}"))?;
            }
            let said = ask_agent(&c, a, "GET", "config", Some(files)).await?;
            expect(said.contains("200"), || format!("c may know: {said}"))?;
            refused(&c, &["token", "new"], "J005", 3).await?;
            let file = std::fs::read_to_string(a.path("/var/lib/pontoon/active.json")?).unwrap_or_default();
            let text = serde_json::from_str::<serde_json::Value>(&file).unwrap_or_default();
            let text = text["text"]
                .as_str()
                .unwrap_or_default()
                .replace("[app]\n", "[app]\ndrain = \"3s\"\n");
            std::fs::write(c.path("/etc/pontoon/fleet.toml")?, text).map_err(LabError::io("fleet.toml"))?;
            refused(&c, &["apply", "--yes"], "J005", 3).await?;
            fleet.wait_until_served(&c).await?;

            // One that left: what it kept opens no door.
            load.phase("c left");
            run(&c, &["leave", "--yes"]).await?;
            wait_until_healthy(a, 2).await?;
            let kept = c.sh("ls -d /var/lib/pontoon/identity.left-*").await?;
            let kept = Path::new(kept.trim());
            for server in [a, b] {
                for (method, path) in QUESTIONS {
                    let said = ask_agent(&c, server, method, path, Some(kept)).await?;
                    expect(said.contains("J005"), || {
                        format!("c after it left, {path}: {said}")
                    })?;
                }
                let page = relay(&c, server, 7401, Some(kept)).await?;
                expect(!page.contains("Notes") && !page.contains(" 200 "), || {
                    format!("the edge relay serves c: {page}")
                })?;
                let greeting = relay(&c, server, 7402, Some(kept)).await?;
                expect(!greeting.to_lowercase().contains("mariadb"), || {
                    format!("the SQL relay serves c: {greeting}")
                })?;
            }
            let kinds = event_kinds(a).await?;
            expect(kinds.iter().any(|kind| kind == "peer_refused"), || {
                format!("no word of it: {kinds:?}")
            })?;

            load.phase("garbage");
            let mut dice = Dice::new(7);
            for server in [a, b] {
                for port in [7400, 7401, 7402] {
                    garbage_on(SocketAddr::from((server.private(), port)), &mut dice).await?;
                }
                for name in ["admin.sock", "view.sock", "helper.sock", "edge.sock", "sql.sock"] {
                    let path = server.path(format!("/run/pontoon/{name}"))?;
                    if path.exists() {
                        garbage_in(&path, &mut dice).await?;
                    }
                }
            }
            wait_until_healthy(a, 2).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let report = load.stop().await?;
            expect(report.failed() == 0, || {
                format!("visitors noticed: {:?}", report.phases)
            })?;
            identical(a, b).await
        },
    )
}

/// Asks the agent of `server` something from `from`, with the identity in this folder or with none; gives status and body.
async fn ask_agent(
    from: &Server,
    server: &Server,
    method: &str,
    path: &str,
    identity: Option<&Path>,
) -> Result<String, LabError> {
    let url = format!("https://{}:7400/p/v1/{path}", server.private());
    let mut args: Vec<String> = [
        "-sk",
        "--tlsv1.3",
        "-m",
        "10",
        "-X",
        method,
        "-w",
        " %{http_code}",
    ]
    .map(str::to_owned)
    .into();
    if method == "POST" {
        args.extend(["-H", "content-type: application/json", "-d", "{}"].map(str::to_owned));
    }
    if let Some(dir) = identity {
        for (option, file) in [("--cert", "cert.pem"), ("--key", "key.pem")] {
            args.extend([option.to_owned(), dir.join(file).display().to_string()]);
        }
    }
    args.push(url);
    let output = from
        .command("curl")?
        .args(&args)
        .output()
        .await
        .map_err(LabError::io("curl"))?;
    Ok(one_line(&String::from_utf8_lossy(&output.stdout)))
}

/// What a relay answers to a request, or to the words of an SQL proxy, inside TLS.
async fn relay(
    from: &Server,
    server: &Server,
    port: u16,
    identity: Option<&Path>,
) -> Result<String, LabError> {
    let say = match port {
        7402 => r"printf 'PnSQ\001\001\000\000\000\000\000\000\000\000\000\001'",
        _ => r"printf 'GET / HTTP/1.1\r\nHost: notes.example.com\r\nConnection: close\r\n\r\n'",
    };
    let shown = identity.map_or_else(String::new, |dir| {
        format!("-cert {0}/cert.pem -key {0}/key.pem", dir.display())
    });
    let script = format!(
        "{{ {say}; sleep 2; }} | timeout 6 openssl s_client -quiet -tls1_3 -connect {}:{port} {shown} 2>/dev/null | tr -d '\\000' || :",
        server.private()
    );
    from.sh(&script).await.map(|said| said.trim().to_owned())
}

/// Things that no peer would say, to a port of the fleet.
async fn garbage_on(address: SocketAddr, dice: &mut Dice) -> Result<(), LabError> {
    let refused = |error: std::io::Error| LabError::App(format!("{address}: {error}"));
    // Some that say nothing stay open beside those that talk.
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(TcpStream::connect(address).await.map_err(refused)?);
    }
    for bytes in nonsense(dice) {
        let mut stream = TcpStream::connect(address).await.map_err(refused)?;
        let _ = stream.write_all(&bytes).await; // it may hang up in the middle
        let _ = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut [0; 512])).await;
    }
    drop(silent);
    Ok(())
}

/// The same into a Unix socket.
async fn garbage_in(path: &Path, dice: &mut Dice) -> Result<(), LabError> {
    for bytes in nonsense(dice) {
        let opened = UnixStream::connect(path).await;
        let mut stream = opened.map_err(|error| LabError::App(format!("{}: {error}", path.display())))?;
        let written = stream.write_all(&bytes);
        let _ = tokio::time::timeout(Duration::from_millis(500), written).await;
        let _ = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut [0; 512])).await;
    }
    // And it still takes connections.
    wait_until("the socket to answer", Duration::from_secs(60), async || {
        UnixStream::connect(path).await.ok()
    })
    .await
    .map(drop)
}

fn nonsense(dice: &mut Dice) -> Vec<Vec<u8>> {
    let random: Vec<u8> = (0..20_000).map(|_| dice.below(256) as u8).collect();
    vec![
        random,
        b"\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"POST /v1/leave HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
        b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{\"plan\"".to_vec(),
        // The beginning of a TLS handshake, and no more.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"{\"verb\":\"stop\",\"patience_ms\":-1}\n".to_vec(),
        b"{\"verb\":\"restore\"}\n{\"tier\":\"edge\",\"pid\":1}\n".to_vec(),
        b"{\"tier\":\"edge\",\"pid\":99999999}\nnot a report\n".to_vec(),
        [&b"{\"verb\":\""[..], &[b'x'; 200_000]].concat(),
        [b'['; 100_000].to_vec(),
    ]
}
