//! Two servers: `a` holds the primary, `b` reaches it through `a`'s relay. Databases are stand-ins here; `mariadb.rs`
//! does the same with a real one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_fleet::{Epoch, Role};
use pontoon_pki::{IdentityFiles, SharedIdentity, tls};
use pontoon_rt::paths::Paths;
use pontoon_sqlproxy::{Answer, PREFACE_LEN, Preface, Purpose, REPLY_LEN, Reply, Transport};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::two::Two;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};
use tokio::time::{sleep, timeout};

/// A database that also has a Unix socket, on which its greetings carry the thread id 999.
async fn database_with_socket(dir: &std::path::Path) -> (SocketAddr, std::path::PathBuf) {
    let socket = dir.join("database.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&greeting(999)).await.unwrap();
            kept.push(stream);
        }
    });
    (database(echo).await, socket)
}

#[tokio::test]
async fn a_client_of_another_server_reaches_the_primary_by_the_transport_it_came_by() {
    let dir = tempfile::tempdir().unwrap();
    let (tcp, socket) = database_with_socket(dir.path()).await;
    let mut two = Two::start(tcp, |view| view.backend_socket = Some(socket.clone())).await;
    for server in [&two.a, &two.b] {
        assert_ne!(expect_ready(&mut server.dial().await).await.thread_id, 999);
        assert_eq!(expect_ready(&mut server.dial_socket().await).await.thread_id, 999);
    }
    // Large answers and both directions through TLS.
    let mut client = two.b.dial().await;
    expect_ready(&mut client).await;
    let sent: Vec<u8> = (0..8_000_000u32).map(|i| (i % 251) as u8).collect();
    let (mut read, mut write) = client.split();
    let mut heard = vec![0; sent.len()];
    let both = async { tokio::join!(write.write_all(&sent), read.read_exact(&mut heard)) };
    let (written, got) = timeout(SOON, both).await.unwrap();
    written.unwrap();
    got.unwrap();
    assert!(heard == sent);
    // Half-close goes through TLS too.
    client.shutdown().await.unwrap();
    expect_closed(&mut client).await;
    two.b
        .agent
        .report("no clients", |report| report.clients == 0)
        .await;
}

#[tokio::test]
async fn a_relay_that_has_not_heard_of_the_epoch_is_asked_again_until_it_has() {
    let mut two = Two::start(database(echo).await, |view| view.hold = SOON).await;
    // `b` hears first that `a` is primary of epoch 2.
    two.b.publish(|view| view.epoch = 2);
    sleep(Duration::from_millis(200)).await;
    let mut client = two.b.dial().await;
    two.b.agent.report("one held", |report| report.held == 1).await;
    two.a.publish(|view| view.epoch = 2);
    expect_ready(&mut client).await;
    expect_echo(&mut client, b"now").await;
}

#[tokio::test]
async fn a_server_that_was_demoted_closes_what_it_relays_even_when_the_caller_does_not_know() {
    let mut two = Two::start(database(echo).await, |_| ()).await;
    let mut client = two.b.dial().await;
    expect_ready(&mut client).await;
    two.a.publish(|view| (view.primary, view.epoch) = (Some("b"), 2));
    expect_closed(&mut client).await;
    // And takes no more, whatever `b` believes.
    let error = expect_refused(&mut two.b.dial().await).await;
    assert!(error.text().contains("its database is not primary"), "{error}");
}

#[tokio::test]
async fn a_caller_that_left_the_fleet_loses_the_connections_it_has() {
    let mut two = Two::start(database(echo).await, |_| ()).await;
    let mut client = two.b.dial().await;
    expect_ready(&mut client).await;
    expect_echo(&mut client, b"in").await;
    // A view in which `b` has no role that speaks to databases; `a` is still the primary of the same epoch.
    two.a.publish(|view| view.roles = vec![Role::Edge]);
    expect_closed(&mut client).await;
}

#[tokio::test]
async fn a_caller_that_is_behind_keeps_the_connection_when_it_catches_up() {
    let mut two = Two::start(database(echo).await, |_| ()).await;
    two.a.publish(|view| view.epoch = 2);
    sleep(Duration::from_millis(200)).await;
    let mut client = two.b.dial().await;
    expect_ready(&mut client).await;
    two.b.publish(|view| view.epoch = 2);
    sleep(Duration::from_millis(300)).await;
    expect_echo(&mut client, b"kept").await;
}

/// Speaks to `a`'s relay with the identity in `paths`; `None` when it was not let in.
async fn ask(two: &Two, paths: &Paths, preface: [u8; PREFACE_LEN]) -> Option<Reply> {
    let identity = SharedIdentity::load(&paths.identity_dir()).unwrap();
    ask_with(two, &tls::client_config(&identity).unwrap(), preface).await
}

async fn ask_with(two: &Two, config: &Arc<ClientConfig>, preface: [u8; PREFACE_LEN]) -> Option<Reply> {
    let tcp = TcpStream::connect(two.relay()).await.unwrap();
    let mut stream = tls::connect(config, &"a".parse().unwrap(), tcp, SOON)
        .await
        .ok()?;
    stream.write_all(&preface).await.ok()?;
    let mut reply = [0; REPLY_LEN];
    timeout(SOON, stream.read_exact(&mut reply)).await.unwrap().ok()?;
    Some(Reply::parse(reply).unwrap())
}

#[tokio::test]
async fn the_relay_lets_in_only_who_is_of_the_fleet_and_of_the_view() {
    let two = Two::start(database(echo).await, |_| ()).await;
    let preface = |epoch| {
        Preface {
            purpose: Purpose::Primary,
            transport: Transport::Tcp,
            epoch: Epoch(epoch),
        }
        .to_bytes()
    };
    let reply = |answer| {
        Some(Reply {
            answer,
            epoch: Epoch(1),
        })
    };
    assert_eq!(ask(&two, &two.b.paths, preface(1)).await, reply(Answer::Accepted));
    assert_eq!(
        ask(&two, &two.b.paths, preface(2)).await,
        reply(Answer::BehindCaller)
    );
    assert_eq!(
        ask(&two, &two.b.paths, [0; PREFACE_LEN]).await,
        reply(Answer::BadPreface)
    );
    let by_socket = Preface {
        purpose: Purpose::Primary,
        transport: Transport::Unix,
        epoch: Epoch(1),
    }
    .to_bytes();
    assert_eq!(
        ask(&two, &two.b.paths, by_socket).await,
        reply(Answer::DatabaseUnavailable),
        "it has no socket"
    );

    // A server with a certificate of the fleet that left the view.
    let left = tempfile::tempdir().unwrap();
    let left_paths = Paths::under(left.path());
    identify(&two.authority, "gone", "127.0.0.3", &left_paths);
    assert_eq!(
        ask(&two, &left_paths, preface(1)).await,
        reply(Answer::NotAllowed)
    );

    // Another fleet's `b`, which knows where to go: not even a preface is read.
    let foreign = tempfile::tempdir().unwrap();
    let foreign_paths = Paths::under(foreign.path());
    identify(&found_fleet(), "b", "127.0.0.2", &foreign_paths);
    let files = IdentityFiles::in_dir(&foreign_paths.identity_dir());
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(two.authority.certificate_pem().as_bytes()).unwrap())
        .unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(&files.cert).unwrap()],
            PrivateKeyDer::from_pem_file(&files.key).unwrap(),
        )
        .unwrap();
    assert_eq!(ask_with(&two, &Arc::new(config), preface(1)).await, None);

    // Plain text, half a handshake, nothing: closed, and the relay goes on.
    let mut plain = TcpStream::connect(two.relay()).await.unwrap();
    plain.write_all(&preface(1)).await.unwrap();
    expect_closed(&mut plain).await;
    let _mute = TcpStream::connect(two.relay()).await.unwrap();
    expect_ready(&mut two.b.dial().await).await;
}

#[tokio::test]
async fn a_foreign_relay_gets_nothing_and_the_client_is_told() {
    let two = Two::start(database(echo).await, |_| ()).await;
    let Two { a, b, .. } = two;
    drop(a);
    // Somebody else's server stands at `a`'s address and port now.
    let foreign = tempfile::tempdir().unwrap();
    let foreign_paths = Paths::under(foreign.path());
    identify(&found_fleet(), "a", "127.0.0.1", &foreign_paths);
    let agent = Agent::start(&foreign_paths).await;
    let mut view = b.view.clone();
    view.listen.clear();
    agent.publish(&view);
    let relay = b.view.relay_ports[0];
    let _proxy = Proxy::start("a", &foreign_paths, limits());
    pontoon_testkit::wait_until("the foreign relay", SOON, || async {
        TcpStream::connect(("127.0.0.1", relay)).await.ok()
    })
    .await
    .unwrap();
    let error = expect_refused(&mut b.dial().await).await;
    assert!(
        error.text().contains("did not prove that it is of this fleet"),
        "{error}"
    );
}

#[tokio::test]
async fn a_primary_whose_server_is_gone_is_waited_for_and_named() {
    let mut two = Two::start(database(echo).await, |_| ()).await;
    two.b.publish(|view| view.relay_ports[0] = free_port());
    sleep(Duration::from_millis(200)).await;
    let error = expect_refused(&mut two.b.dial().await).await;
    assert!(
        error
            .text()
            .contains("SQL relay of the primary cannot be connected"),
        "{error}"
    );
}
