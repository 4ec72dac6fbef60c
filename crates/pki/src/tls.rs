//! Mutual TLS 1.3 between the servers of a fleet.
//!
//! The provider (aws-lc-rs) is passed at every place: no configuration depends on what a process installed as its
//! default. Sessions are not resumed: every connection proves both sides anew, so that an expired certificate ends
//! with its day.
//!
//! A verified peer is *a* server of the fleet. Whether it still belongs to it (it may have left since) and what it may
//! do is for the caller to look up in the configuration, by the name that [`accept`] and [`connect`] return.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_fleet::{Code, Refusal, ServerName, UnixMillis};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, DnsName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::error::PkiError;
use crate::shared::SharedIdentity;
use crate::text::Pin;
use crate::x509;

pub use tokio_rustls::{client, server};

/// A listener for servers of the fleet only: a client without a certificate of the fleet does not get in.
///
/// # Errors
/// When the identity's authority cannot be used.
pub fn server_config(identity: &SharedIdentity) -> Result<Arc<ServerConfig>, PkiError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(fleet_roots(identity)?, provider())
        .build()
        .map_err(verifier_error)?;
    server_config_with(identity, verifier)
}

/// The agent's listener: servers of the fleet prove who they are; a joiner has no certificate yet and comes in without
/// a name, and [`accept`] says `None` for it: allow it to join and nothing else. A certificate that is shown is
/// verified: a wrong one is refused, not treated as none.
///
/// # Errors
/// When the identity's authority cannot be used.
pub fn agent_server_config(identity: &SharedIdentity) -> Result<Arc<ServerConfig>, PkiError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(fleet_roots(identity)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(verifier_error)?;
    server_config_with(identity, verifier)
}

/// A client that proves who it is and accepts servers of the fleet only, by the name that it asks for.
///
/// # Errors
/// When the identity's authority cannot be used.
pub fn client_config(identity: &SharedIdentity) -> Result<Arc<ClientConfig>, PkiError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(fleet_roots(identity)?, provider())
        .build()
        .map_err(verifier_error)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous() // the verifier is the ordinary one, made with an explicit provider
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(identity.clone()));
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A joiner's client: it knows the authority's pin and nothing else, and has nothing to show. The server must present
/// the authority of that pin and a certificate signed by it, in time and for the purpose, under any server's name: the
/// joiner knows the fleet, not yet its servers. Nothing is sent before that is verified.
///
/// # Errors
/// When rustls refuses the configuration.
pub fn pinned_client_config(pin: Pin) -> Result<Arc<ClientConfig>, PkiError> {
    let provider = provider();
    let verifier = PinnedVerifier {
        pin,
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous() // `PinnedVerifier` verifies the whole chain, see there
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The name that a certificate gives its server. Only a certificate that a handshake verified proves it.
///
/// # Errors
/// When the certificate has not exactly one name, or not one that a server can have.
pub fn peer_server_name(certificate: &CertificateDer<'_>) -> Result<ServerName, PkiError> {
    x509::facts(certificate)?.server_name()
}

/// The authority's certificate in a chain that [`pinned_client_config`] accepted, as PEM: what the joiner keeps.
///
/// # Errors
/// When there is none of that pin.
pub fn pinned_ca_pem(chain: &[CertificateDer<'_>], pin: Pin) -> Result<String, PkiError> {
    let ca =
        with_pin(chain, pin).ok_or_else(|| PkiError::Certificate("no authority of that pin".to_owned()))?;
    Ok(x509::certificate_to_pem(ca))
}

/// What a [`ClientConfig`] is told to expect: the server's name in the fleet.
///
/// # Errors
/// None for a name that the fleet accepted; it is for rustls to say.
pub fn expected(name: &ServerName) -> Result<rustls::pki_types::ServerName<'static>, PkiError> {
    DnsName::try_from(x509::dns_name(name))
        .map(rustls::pki_types::ServerName::DnsName)
        .map_err(|error| PkiError::Certificate(format!("{name} cannot be asked for: {error}")))
}

/// Why a TLS connection did not come about.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The peer took too long.
    #[error("no TLS handshake within {0:?}")]
    Timeout(Duration),
    /// The peer hung up, does not speak TLS 1.3, or one side refused the other's certificate.
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[from] io::Error),
    /// The peer's certificate is the fleet's and has no usable name, or none can be asked for.
    #[error(transparent)]
    Name(#[from] PkiError),
}

impl TlsError {
    /// Whether a joiner met a server of another fleet than its token's.
    pub fn is_other_fleet(&self) -> bool {
        matches!(self.rustls(), Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why))))
            if why.is::<OtherFleet>())
    }

    /// Whether the handshake failed over a certificate, this side's or the peer's: then time does not mend it.
    pub fn is_about_certificates(&self) -> bool {
        use rustls::AlertDescription as A;
        match self.rustls() {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => true,
            Some(rustls::Error::AlertReceived(alert)) => matches!(
                alert,
                A::BadCertificate
                    | A::CertificateExpired
                    | A::CertificateRequired
                    | A::CertificateUnknown
                    | A::UnknownCA
                    | A::UnsupportedCertificate
                    | A::AccessDenied
                    // A signature that does not fit (RFC 8446 section 6.2): another authority of the same name.
                    | A::DecryptError
            ),
            _ => false,
        }
    }

    fn rustls(&self) -> Option<&rustls::Error> {
        match self {
            TlsError::Handshake(error) => error.get_ref()?.downcast_ref(),
            _ => None,
        }
    }
}

impl From<TlsError> for Refusal {
    fn from(error: TlsError) -> Refusal {
        if error.is_other_fleet() {
            return Refusal::new(
                Code::J003,
                "the server at that address is not of the token's fleet",
            )
            .because(error.to_string())
            .next("make a token on the fleet that you mean", "pontoon token new");
        }
        if error.is_about_certificates() {
            return Refusal::new(Code::J009, "a certificate was refused").because(error.to_string());
        }
        match error {
            TlsError::Name(error) => error.into(),
            other => Refusal::new(Code::N002, "no secure connection").because(other.to_string()),
        }
    }
}

/// Connects to the server `name`: the handshake ends well only with that server of the fleet.
///
/// # Errors
/// Every [`TlsError`].
pub async fn connect<IO>(
    config: &Arc<ClientConfig>,
    name: &ServerName,
    io: IO,
    timeout: Duration,
) -> Result<client::TlsStream<IO>, TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsConnector::from(Arc::clone(config)).connect(expected(name)?, io);
    Ok(tokio::time::timeout(timeout, handshake)
        .await
        .map_err(|_| TlsError::Timeout(timeout))??)
}

/// Connects with a [`pinned_client_config`] and returns the stream, the server's name and the authority as PEM.
///
/// # Errors
/// Every [`TlsError`]; [`TlsError::is_other_fleet`] tells an impostor or a wrong address from a broken line.
pub async fn connect_pinned<IO>(
    pin: Pin,
    address: IpAddr,
    io: IO,
    timeout: Duration,
) -> Result<(client::TlsStream<IO>, ServerName, String), TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsConnector::from(pinned_client_config(pin)?).connect(address.into(), io);
    let stream = tokio::time::timeout(timeout, handshake)
        .await
        .map_err(|_| TlsError::Timeout(timeout))??;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let leaf = chain
        .first()
        .ok_or_else(|| PkiError::Certificate("the server showed none".to_owned()))?;
    let (name, ca_pem) = (peer_server_name(leaf)?, pinned_ca_pem(chain, pin)?);
    Ok((stream, name, ca_pem))
}

/// Accepts a connection. The name is that of the verified certificate; `None` for a client without one, which only
/// [`agent_server_config`] lets in.
///
/// # Errors
/// Every [`TlsError`].
pub async fn accept<IO>(
    config: &Arc<ServerConfig>,
    io: IO,
    timeout: Duration,
) -> Result<(server::TlsStream<IO>, Option<ServerName>), TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(Arc::clone(config)).accept(io);
    let stream = tokio::time::timeout(timeout, handshake)
        .await
        .map_err(|_| TlsError::Timeout(timeout))??;
    let name = match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
        Some(certificate) => Some(peer_server_name(certificate)?),
        None => None,
    };
    Ok((stream, name))
}

/// The one crypto provider.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Verifies that `ca` signed `certificate`, for a server, at the moment `at`.
pub(crate) fn check_signed_by(
    certificate: &CertificateDer<'_>,
    ca: &CertificateDer<'static>,
    at: UnixMillis,
) -> Result<(), PkiError> {
    let name = expected(&x509::facts(certificate)?.server_name()?)?;
    let at = UnixTime::since_unix_epoch(Duration::from_millis(at.0));
    verifier_of(ca)
        .and_then(|verifier| verifier.verify_server_cert(certificate, &[], &name, &[], at))
        .map(|_| ())
        .map_err(|error| PkiError::Mismatch(format!("the certificate is not of this authority: {error}")))
}

/// Said to a joiner that met another fleet.
#[derive(Debug, thiserror::Error)]
#[error("the server did not show the certificate authority that the token names")]
struct OtherFleet;

/// First the pin, then everything that webpki checks, with the pinned authority as the only root.
#[derive(Debug)]
struct PinnedVerifier {
    pin: Pin,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let other_fleet = || CertificateError::Other(OtherError(Arc::new(OtherFleet)));
        let ca = with_pin(intermediates, self.pin).ok_or_else(other_fleet)?;
        // The joiner has an address from the operator, perhaps a public one or a tunnel's: it asks for the name that
        // the certificate has, whichever it is. The authority's signature is what counts.
        let name = peer_server_name(end_entity)
            .and_then(|name| expected(&name))
            .map_err(|_| CertificateError::BadEncoding)?;
        verifier_of(&ca.clone().into_owned())?.verify_server_cert(
            end_entity,
            intermediates,
            &name,
            ocsp_response,
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn with_pin<'a, 'b>(chain: &'a [CertificateDer<'b>], pin: Pin) -> Option<&'a CertificateDer<'b>> {
    chain
        .iter()
        .find(|certificate| x509::facts(certificate).is_ok_and(|facts| facts.is_ca && facts.pin() == pin))
}

fn verifier_of(ca: &CertificateDer<'static>) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone())?;
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

fn fleet_roots(identity: &SharedIdentity) -> Result<Arc<RootCertStore>, PkiError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.current().ca().clone())?;
    Ok(Arc::new(roots))
}

fn server_config_with(
    identity: &SharedIdentity,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<Arc<ServerConfig>, PkiError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(identity.clone()));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn verifier_error(error: impl std::fmt::Display) -> PkiError {
    PkiError::Certificate(error.to_string())
}
