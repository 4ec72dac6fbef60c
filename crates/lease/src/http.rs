//! One HTTP request on a connection of its own, over TCP or TLS: what is asked of a store every few seconds.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use pontoon_rt::http::{full, read_body, request};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
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
pub(crate) enum Fault {
    /// Nothing was sent.
    #[error("no connection to {0}: {1}")]
    NotSent(String, String),
    /// It was, perhaps.
    #[error("no answer from {0}: {1}")]
    Lost(String, String),
}

/// Sends requests.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// How long one may take, from connecting to the last byte.
    patience: Duration,
    /// The longest answer that is read, in bytes.
    limit: usize,
    tls: Arc<ClientConfig>,
}

impl Client {
    /// Trusts what the machine trusts; the file in `SSL_CERT_FILE` instead, when that is set.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub(crate) fn new(patience: Duration) -> Result<Client, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(trusted()?)
            .with_no_client_auth();
        Ok(Client {
            patience,
            limit: ANSWER_LIMIT,
            tls: Arc::new(tls),
        })
    }

    /// For answers of up to `limit` bytes.
    pub(crate) fn reading_up_to(mut self, limit: usize) -> Client {
        self.limit = limit;
        self
    }

    /// Sends one request, whose URI is whole, and reads the answer.
    pub(crate) async fn send(&self, ask: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Fault> {
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
                .map_err(|error| chain(&error))?;
            let (head, body) = answer.into_parts();
            let body = read_body(body, self.limit).await.map_err(|error| chain(&error))?;
            Ok(Response::from_parts(head, body.to_vec()))
        };
        tokio::time::timeout_at(deadline, exchange)
            .await
            .map_err(|_| lost(late()))?
            .map_err(lost)
    }

    async fn connect(&self, uri: &Uri) -> Result<Box<dyn Stream>, String> {
        let host = uri.host().ok_or("no host in the URL")?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            other => return Err(format!("{other:?} is neither http nor https")),
        };
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let tcp = TcpStream::connect((bare, port))
            .await
            .map_err(|error| error.to_string())?;
        let _ = tcp.set_nodelay(true);
        if !tls {
            return Ok(Box::new(tcp));
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| error.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
        Ok(Box::new(
            connector
                .connect(name, tcp)
                .await
                .map_err(|error| error.to_string())?,
        ))
    }
}

/// TCP or TLS over it.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

fn trusted() -> Result<RootCertStore, String> {
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
