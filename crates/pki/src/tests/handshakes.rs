use std::sync::Arc;

use pontoon_fleet::{Code, Refusal};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;
use crate::tls::{self, TlsError};
use crate::{Pin, x509};

const PATIENCE: Duration = Duration::from_secs(10);

type Served = Result<Option<ServerName>, TlsError>;

/// The server's side of one connection: its verdict, and a byte to the client when it is good.
async fn serve(config: Arc<ServerConfig>, io: tokio::io::DuplexStream) -> Served {
    let (mut stream, name) = tls::accept(&config, io, PATIENCE).await?;
    stream.write_all(b"!").await?;
    stream.shutdown().await?;
    Ok(name)
}

/// Both sides' verdicts. In TLS 1.3 a client learns of the server's refusal only when it reads (RFC 8446 section 4.4.2.4
/// and appendix E.1.2), so it reads a byte.
async fn meet(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: &str,
) -> (Served, Result<(), TlsError>) {
    let (near, far) = duplex(1 << 16);
    let serving = tokio::spawn(serve(server, far));
    let asking = async {
        let mut stream = tls::connect(&client, &name.parse().unwrap(), near, PATIENCE).await?;
        stream.read_exact(&mut [0]).await?;
        Ok(())
    };
    let asked = asking.await;
    (serving.await.unwrap(), asked)
}

async fn join(server: Arc<ServerConfig>, pin: Pin) -> Result<(ServerName, String), TlsError> {
    let (near, far) = duplex(1 << 16);
    tokio::spawn(serve(server, far));
    let (mut stream, name, ca) = tls::connect_pinned(pin, address(), near, PATIENCE).await?;
    stream.read_exact(&mut [0]).await?;
    Ok((name, ca))
}

fn about_certificates(error: TlsError) {
    assert!(error.is_about_certificates(), "{error:?}");
    assert_eq!(Refusal::from(error).code, Code::J009);
}

#[tokio::test]
async fn two_servers_of_a_fleet_know_each_other_by_name() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let (a, b) = (member(&authority, "a"), member(&authority, "b"));
    for config in [tls::server_config(&a.shared), tls::agent_server_config(&a.shared)] {
        let (served, asked) = meet(config.unwrap(), tls::client_config(&b.shared).unwrap(), "a").await;
        asked.unwrap();
        assert_eq!(served.unwrap(), Some(server("b")));
    }
}

#[tokio::test]
async fn every_name_that_a_fleet_accepts_works() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let long = "x".repeat(63);
    for name in ["0", "10", "db-1", "1-2", "x--y", long.as_str()] {
        let it = member(&authority, name);
        let configs = (
            tls::server_config(&it.shared).unwrap(),
            tls::client_config(&it.shared).unwrap(),
        );
        let (served, asked) = meet(configs.0, configs.1, name).await;
        asked.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(served.unwrap(), Some(server(name)));
    }
}

#[tokio::test]
async fn another_server_of_the_fleet_is_not_the_one_that_was_asked_for() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let (a, b) = (member(&authority, "a"), member(&authority, "b"));
    let (_, asked) = meet(
        tls::server_config(&a.shared).unwrap(),
        tls::client_config(&b.shared).unwrap(),
        "c",
    )
    .await;
    about_certificates(asked.unwrap_err());
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_either_side() {
    let authority = Authority::create(&fleet(), days_ago(40)).unwrap();
    let (a, old) = (
        member(&authority, "a"),
        member_at(&authority, "old", days_ago(31)),
    );
    let (_, asked) = meet(
        tls::server_config(&old.shared).unwrap(),
        tls::client_config(&a.shared).unwrap(),
        "old",
    )
    .await;
    about_certificates(asked.unwrap_err());
    for config in [tls::server_config(&a.shared), tls::agent_server_config(&a.shared)] {
        let (served, asked) = meet(config.unwrap(), tls::client_config(&old.shared).unwrap(), "a").await;
        about_certificates(served.unwrap_err());
        about_certificates(asked.unwrap_err());
    }
    assert!(
        join(tls::agent_server_config(&old.shared).unwrap(), authority.pin())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_certificate_from_the_future_is_refused_and_a_clock_that_differs_by_minutes_is_not() {
    let authority = Authority::create(&fleet(), days_ago(1)).unwrap();
    let a = member(&authority, "a");
    let ahead = member_at(&authority, "ahead", now().plus(Duration::from_secs(1_800)));
    let far_ahead = member_at(&authority, "far", now().plus(DAY));
    let server_side = || tls::server_config(&a.shared).unwrap();
    meet(server_side(), tls::client_config(&ahead.shared).unwrap(), "a")
        .await
        .0
        .unwrap();
    let (served, _) = meet(server_side(), tls::client_config(&far_ahead.shared).unwrap(), "a").await;
    about_certificates(served.unwrap_err());
}

#[tokio::test]
async fn a_server_of_another_fleet_with_the_same_names_is_refused_on_either_side() {
    let (ours, theirs) = (
        Authority::create(&fleet(), now()).unwrap(),
        Authority::create(&fleet(), now()).unwrap(),
    );
    let (a, stranger) = (member(&ours, "a"), member(&theirs, "b"));
    let (_, asked) = meet(
        tls::server_config(&stranger.shared).unwrap(),
        tls::client_config(&a.shared).unwrap(),
        "b",
    )
    .await;
    about_certificates(asked.unwrap_err());
    for config in [tls::server_config(&a.shared), tls::agent_server_config(&a.shared)] {
        // The stranger would accept us as `a`: only our side's refusal counts.
        let client = client_trusting(&ours, Some(&stranger.shared));
        let (served, asked) = meet(config.unwrap(), client, "a").await;
        about_certificates(served.unwrap_err());
        about_certificates(asked.unwrap_err());
    }
}

/// A client that trusts `authority` and shows `identity`, or nothing.
fn client_trusting(authority: &Authority, identity: Option<&SharedIdentity>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots(authority));
    Arc::new(match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(identity.clone())),
        None => builder.with_no_client_auth(),
    })
}

fn roots(authority: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots
        .add(x509::certificate_from_pem(&authority.certificate_pem()).unwrap())
        .unwrap();
    roots
}

#[tokio::test]
async fn a_client_without_a_certificate_comes_in_nameless_at_the_agent_and_nowhere_else() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let a = member(&authority, "a");
    let client = client_trusting(&authority, None);
    let (served, asked) = meet(tls::server_config(&a.shared).unwrap(), Arc::clone(&client), "a").await;
    about_certificates(served.unwrap_err());
    about_certificates(asked.unwrap_err());
    let (served, asked) = meet(tls::agent_server_config(&a.shared).unwrap(), client, "a").await;
    asked.unwrap();
    assert_eq!(served.unwrap(), None);
}

#[tokio::test]
async fn a_self_signed_certificate_with_the_right_name_is_refused() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let (a, imposter) = (member(&authority, "a"), self_signed_server("b", None));
    let (_, asked) = meet(imposter, tls::client_config(&a.shared).unwrap(), "b").await;
    about_certificates(asked.unwrap_err());
}

/// A server with a self-signed certificate, and `presented` in its chain behind it.
fn self_signed_server(name: &str, presented: Option<CertificateDer<'static>>) -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let mut chain = vec![leaf.der().clone()];
    chain.extend(presented);
    let key = x509::key_from_pem(&key.serialize_pem()).unwrap();
    let config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key);
    Arc::new(config.unwrap())
}

#[tokio::test]
async fn a_joiner_knows_its_fleet_by_the_pin() {
    let (ours, theirs) = (
        Authority::create(&fleet(), now()).unwrap(),
        Authority::create(&fleet(), now()).unwrap(),
    );
    let a = member(&ours, "a");
    let (name, ca) = join(tls::agent_server_config(&a.shared).unwrap(), ours.pin())
        .await
        .unwrap();
    assert_eq!((name, ca), (server("a"), ours.certificate_pem()));
    let error = join(tls::agent_server_config(&a.shared).unwrap(), theirs.pin())
        .await
        .unwrap_err();
    assert!(error.is_other_fleet(), "{error:?}");
    assert_eq!(Refusal::from(error).code, Code::J003);
}

#[tokio::test]
async fn an_impostor_that_shows_the_fleets_authority_without_being_signed_by_it_is_refused() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let ca = x509::certificate_from_pem(&authority.certificate_pem()).unwrap();
    let error = join(self_signed_server("a", Some(ca)), authority.pin())
        .await
        .unwrap_err();
    about_certificates(error);
    let error = join(self_signed_server("a", None), authority.pin())
        .await
        .unwrap_err();
    assert!(error.is_other_fleet());
}

#[tokio::test]
async fn a_server_that_shows_anothers_certificate_without_its_key_is_refused() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let a = member(&authority, "a");
    // The public parts of `a`, signed with a key of one's own.
    let key = x509::key_from_pem(&KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key).unwrap();
    let certified = rustls::sign::CertifiedKey::new(a.shared.current().chain(), signing);
    let thief = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    let thief = Arc::new(thief);
    about_certificates(join(Arc::clone(&thief), authority.pin()).await.unwrap_err());
    let b = member(&authority, "b");
    let (_, asked) = meet(thief, tls::client_config(&b.shared).unwrap(), "a").await;
    about_certificates(asked.unwrap_err());
}

#[tokio::test]
async fn tls_1_2_is_refused_on_either_side() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let a = member(&authority, "a");
    let old_client = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots(&authority))
        .with_client_cert_resolver(Arc::new(a.shared.clone()));
    let (served, asked) = meet(
        tls::agent_server_config(&a.shared).unwrap(),
        Arc::new(old_client),
        "a",
    )
    .await;
    assert!(served.is_err() && asked.is_err());

    let old_server = || {
        let config = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(a.shared.clone()));
        Arc::new(config)
    };
    let (_, asked) = meet(old_server(), tls::client_config(&a.shared).unwrap(), "a").await;
    assert!(asked.is_err());
    assert!(join(old_server(), authority.pin()).await.is_err());
}

#[tokio::test]
async fn a_peer_that_says_nothing_or_nonsense_is_not_waited_for() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let a = member(&authority, "a");
    let config = tls::agent_server_config(&a.shared).unwrap();
    let (near, far) = duplex(1000);
    let error = tls::accept(&config, far, Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(matches!(error, TlsError::Timeout(_)));
    drop(near);
    let (mut near, far) = duplex(1000);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = tls::accept(&config, far, PATIENCE).await.unwrap_err();
    assert!(!error.is_about_certificates() && !error.is_other_fleet());
    assert_eq!(Refusal::from(error).code, Code::N002);
}

#[tokio::test]
async fn a_renewed_certificate_is_used_by_the_next_handshake() {
    let authority = Authority::create(&fleet(), days_ago(40)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    issue_at(&authority, "b", dir.path(), days_ago(31));
    let shared = SharedIdentity::load(dir.path()).unwrap();
    let (a, config) = (member(&authority, "a"), tls::client_config(&shared).unwrap());
    let serving = tls::server_config(&a.shared).unwrap();
    assert!(
        meet(Arc::clone(&serving), Arc::clone(&config), "a")
            .await
            .0
            .is_err()
    );
    issue_at(&authority, "b", dir.path(), now());
    shared.reload();
    assert_eq!(meet(serving, config, "a").await.0.unwrap(), Some(server("b")));
}
