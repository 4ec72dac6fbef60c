//! Over TLS, HTTP/1.1 and HTTP/2, against a server of the libraries' own.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_capacity::Verdict;
use pontoon_measure::{Place, Plan, Report, Target, Wanted, run};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A server that says 200 to everything, and its certificate as a file. It ends with the runtime.
async fn server(folder: &tempfile::TempDir) -> (SocketAddr, std::path::PathBuf) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, own.cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("localhost", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::task::spawn_local(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((_, mut answer))) = connection.accept().await {
                        let mut body = answer.send_response(http::Response::new(()), false).unwrap();
                        body.send_data(bytes::Bytes::from(vec![b'x'; 1_000]), true)
                            .unwrap();
                    }
                    return;
                }
                let mut bytes = [0; 4096];
                while stream.read(&mut bytes).await.is_ok_and(|length| length > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, file)
}

fn measure(http2: bool, trusted: bool) -> Result<Report, pontoon_fleet::Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let folder = tempfile::tempdir().unwrap();
        let (address, ca) = server(&folder).await;
        let other = folder.path().join("other.pem");
        let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&other, stranger.cert.pem()).unwrap();
        let place = Place::parse(&format!("https://localhost:{}/", address.port())).unwrap();
        let ca = if trusted { ca } else { other };
        let mut target = Target::find(place, Vec::new(), http2, Some(&ca)).await?;
        // "localhost" may be two addresses, and the server listens on one of them.
        target.address = address;
        let plan = Plan {
            target,
            objective: "p99<9s,errors<1%".parse().unwrap(),
            wanted: Wanted::Rate {
                rate: 100.0,
                time: Duration::from_secs(2),
            },
            patience: Duration::from_secs(20),
            seed: 1,
        };
        run(&plan, &mut |_| {}).await
    })
}

#[test]
fn http_1_and_2_are_measured_over_tls() {
    for (http2, protocol) in [(false, "http/1.1"), (true, "h2")] {
        let report = measure(http2, true).unwrap();
        assert_eq!(report.protocol, protocol);
        // Or invalid, where a busy machine made the generator late.
        assert_ne!(report.verdict, Verdict::Threshold, "{:?}", report.reasons);
        assert_eq!(
            report.totals.answered, report.totals.sent,
            "{:?}",
            report.totals.failed
        );
        assert!(report.totals.sent > 120, "{}", report.totals.sent);
    }
}

#[test]
fn a_certificate_of_a_stranger_is_not_believed() {
    for http2 in [false, true] {
        let refused = measure(http2, false).unwrap_err();
        assert_eq!(refused.code, pontoon_fleet::Code::M003);
        assert!(refused.evidence[0].contains("certificate"), "{refused:?}");
    }
}
