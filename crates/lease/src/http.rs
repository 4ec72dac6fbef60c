//! One HTTP request on a connection of its own, over TCP or TLS: what is asked of a store every few seconds.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use pontoon_config::EtcdTls;
use pontoon_rt::http::{full, read_body, request};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The longest answer that is read.
const ANSWER_LIMIT: usize = 1 << 20;

/// Where Linux distributions keep the certificates that they trust, Debian first.
const TRUSTED: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Nothing was sent.
    #[error("no connection to {0}: {1}")]
    NotSent(String, String),
    /// It was, perhaps.
    #[error("no answer from {0}: {1}")]
    Lost(String, String),
}

/// Sends requests.
#[derive(Clone, Debug)]
pub struct Client {
    /// How long one may take, from connecting to the last byte.
    patience: Duration,
    /// The longest answer that is read, in bytes.
    limit: usize,
    tls: Arc<Tls>,
}

/// What is believed and shown over TLS.
#[derive(Debug)]
struct Tls {
    files: EtcdTls,
    /// The machine's authorities; empty when `files` names others.
    machine: RootCertStore,
    /// As the files were when the client was made; for when they need not be read again.
    first: Arc<ClientConfig>,
}

impl Client {
    /// Trusts what the machine trusts; the file in `SSL_CERT_FILE` instead, when that is set.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub(crate) fn new(patience: Duration) -> Result<Client, String> {
        Client::with_files(patience, EtcdTls::default())
    }

    /// Trusts the authorities in `files`, and shows the certificate there. They are read again for each connection: they
    /// are renewed while the client lives.
    ///
    /// # Errors
    /// When the certificates cannot be read, or do not belong together.
    pub fn with_files(patience: Duration, files: EtcdTls) -> Result<Client, String> {
        let machine = match &files.ca {
            Some(_) => RootCertStore::empty(),
            None => trusted()?,
        };
        let first = tls(&files, &machine)?;
        Ok(Client {
            patience,
            limit: ANSWER_LIMIT,
            tls: Arc::new(Tls {
                files,
                machine,
                first,
            }),
        })
    }

    /// For answers of up to `limit` bytes.
    pub(crate) fn reading_up_to(mut self, limit: usize) -> Client {
        self.limit = limit;
        self
    }

    /// Sends one request, whose URI is whole, and reads the answer.
    ///
    /// # Errors
    /// When there is no answer, and whether anything was sent.
    pub async fn send(&self, ask: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Fault> {
        let place = ask.uri().authority().map(ToString::to_string).unwrap_or_default();
        let deadline = tokio::time::Instant::now() + self.patience;
        let late = || format!("nothing within {:?}", self.patience);
        let not_sent = |why: String| Fault::NotSent(place.clone(), why);
        let lost = |why: String| Fault::Lost(place.clone(), why);
        let uri = ask.uri().clone();
        let connected = tokio::time::timeout_at(deadline, self.connect(&uri)).await;
        let stream = connected.map_err(|_| not_sent(late()))?.map_err(not_sent)?;
        let (mut head, body) = ask.into_parts();
        head.uri = uri
            .path_and_query()
            .map_or_else(|| Ok(Uri::from_static("/")), |path| path.as_str().parse())
            .map_err(|_| not_sent("not a path".to_owned()))?;
        let host = HeaderValue::from_str(&place).map_err(|_| not_sent("not a host".to_owned()))?;
        head.headers.insert(HOST, host);
        let exchange = async {
            let answer = request(stream, Request::from_parts(head, full(body)))
                .await
                .map_err(|error| match turned_away(&error) {
                    // The other side took the request for noise: the handshake had not ended.
                    Some(alert) => not_sent(format!("it does not take our certificate: {alert}")),
                    None => lost(chain(&error)),
                })?;
            let (head, body) = answer.into_parts();
            let body = read_body(body, self.limit)
                .await
                .map_err(|error| lost(chain(&error)))?;
            Ok(Response::from_parts(head, body.to_vec()))
        };
        tokio::time::timeout_at(deadline, exchange)
            .await
            .map_err(|_| lost(late()))?
    }

    async fn connect(&self, uri: &Uri) -> Result<Box<dyn Stream>, String> {
        let host = uri.host().ok_or("no host in the URL")?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            other => return Err(format!("{other:?} is neither http nor https")),
        };
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = TcpStream::connect((bare, port))
            .await
            .map_err(|error| error.to_string())?;
        let _ = tcp.set_nodelay(true);
        if !secure {
            return Ok(Box::new(tcp));
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| error.to_string())?;
        let Tls {
            files,
            machine,
            first,
        } = &*self.tls;
        let config = match *files == EtcdTls::default() {
            true => Arc::clone(first),
            false => tls(files, machine)?,
        };
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await;
        Ok(Box::new(stream.map_err(|error| self.unbelieved(&error))?))
    }

    /// Why there is no TLS, and where to look.
    fn unbelieved(&self, error: &std::io::Error) -> String {
        if let Some(alert) = alert(error) {
            return format!("it does not take our certificate: {alert}");
        }
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match (inner, &self.tls.files.ca) {
            (
                Some(rustls::Error::InvalidCertificate(
                    CertificateError::UnknownIssuer | CertificateError::BadSignature,
                )),
                ca,
            ) => {
                let whom = ca.as_ref().map_or_else(
                    || "the authorities that this machine trusts".to_owned(),
                    |file| format!("the authorities in {}", file.display()),
                );
                format!("{error}: its certificate is not signed by one of {whom}")
            }
            _ => error.to_string(),
        }
    }
}

fn tls(files: &EtcdTls, machine: &RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = machine.clone();
    if let Some(file) = &files.ca {
        let found = certificates(file)?;
        if roots.add_parsable_certificates(found).0 == 0 {
            return Err(format!(
                "{} has no certificate of an authority in it",
                file.display()
            ));
        }
    }
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    Ok(Arc::new(match &files.client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let key = PrivateKeyDer::from_pem_file(&client.key)
                .map_err(|error| format!("{}: {error}", client.key.display()))?;
            builder
                .with_client_auth_cert(certificates(&client.certificate)?, key)
                .map_err(|error| {
                    let (certificate, key) = (client.certificate.display(), client.key.display());
                    format!("{certificate} and {key} cannot be used: {error}")
                })?
        }
    }))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| format!("{}: {error}", file.display()))
        .and_then(|found: Vec<_>| match found.is_empty() {
            true => Err(format!("{} has no certificate in it", file.display())),
            false => Ok(found),
        })
}

/// The alert of a server that refuses our certificate. With TLS 1.3 it comes when the client takes the handshake for
/// done and has sent its request (RFC 8446, section 4.4.2.4), which the server has then not read.
fn turned_away(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        if let Some(found) = inner.downcast_ref().and_then(alert) {
            return Some(found);
        }
        cause = inner.source();
    }
    None
}

fn alert(error: &std::io::Error) -> Option<String> {
    use AlertDescription as A;
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(
            alert @ (A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::CertificateRequired),
        ) => Some(format!("{alert:?}")),
        _ => None,
    }
}

/// TCP or TLS over it.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The authorities that this machine trusts; those in the file that `SSL_CERT_FILE` names instead, when it is set.
///
/// # Errors
/// When that file cannot be read.
pub fn trusted() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let named = std::env::var("SSL_CERT_FILE").ok();
    let files: Vec<&str> = named.as_deref().map_or(TRUSTED.to_vec(), |file| vec![file]);
    for file in files {
        match CertificateDer::pem_file_iter(file) {
            Ok(certificates) => {
                roots.add_parsable_certificates(certificates.filter_map(Result::ok));
                break;
            }
            Err(error) if named.is_some() => return Err(format!("SSL_CERT_FILE={file}: {error}")),
            // A machine without any reaches stores by http only; https then says that the certificate is unknown.
            Err(_) => {}
        }
    }
    Ok(roots)
}

/// An error with what caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
