//! TLS to a database, for accounts that demand it (`REQUIRE SSL`).
//!
//! The way to a database is a socket of this server, or goes through mutual TLS between the proxies of the fleet: the
//! far end is known already, and this TLS only satisfies the account. So its certificate, which is usually one that
//! the database signed itself, is not looked at.

use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::peer::Peer;

/// Makes a connection a TLS connection.
///
/// # Errors
/// Why rustls would not.
pub async fn connect(peer: Peer) -> std::io::Result<Peer> {
    let name = ServerName::try_from("database.pontoon.internal").map_err(std::io::Error::other)?;
    let stream = TlsConnector::from(config()?).connect(name, peer).await?;
    Ok(Peer::Within(Box::new(TlsStream::from(stream))))
}

fn config() -> std::io::Result<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Result<Arc<ClientConfig>, rustls::Error>> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let provider = Arc::new(aws_lc_rs::default_provider());
            let verifier = Arc::new(AnyDatabase(Arc::clone(&provider)));
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()?
                .dangerous() // who answers is known before: see the module
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth();
            config.resumption = Resumption::disabled();
            Ok(Arc::new(config))
        })
        .clone()
        .map_err(std::io::Error::other)
}

#[derive(Debug)]
struct AnyDatabase(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyDatabase {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
