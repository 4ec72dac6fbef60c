//! Makes connections to application servers.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_fleet::ServerName;
use pontoon_pki::{SharedIdentity, tls};
use tokio::net::TcpStream;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::http2::{self, Connections};
use crate::io::Stream;
use crate::upstream::{Upstream, Way};

/// Why a connection was not made.
#[derive(Debug)]
pub struct DialError {
    /// In words.
    pub reason: String,
    /// Whether it speaks against the server, and not against this machine.
    pub is_theirs: bool,
}

/// This server's identity in mutual TLS. Read when it is first needed, because a server that has just joined gets
/// it after its edge was started.
#[derive(Debug)]
pub struct Identity {
    dir: PathBuf,
    configs: Mutex<Option<(Arc<ClientConfig>, Arc<ServerConfig>)>>,
}

impl Identity {
    /// The identity in `dir`.
    pub fn new(dir: PathBuf) -> Identity {
        Identity {
            dir,
            configs: Mutex::new(None),
        }
    }

    /// To connect to other edges, and to be connected to.
    ///
    /// # Errors
    /// Why the identity cannot be used; asked again, it is read again.
    pub fn configs(&self) -> Result<(Arc<ClientConfig>, Arc<ServerConfig>), String> {
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(configs) = &*configs {
            return Ok(configs.clone());
        }
        let load = || {
            let identity = SharedIdentity::load(&self.dir)?;
            Ok::<_, pontoon_pki::PkiError>((tls::client_config(&identity)?, tls::server_config(&identity)?))
        };
        let loaded = load().map_err(|error| format!("no identity: {error}"))?;
        Ok(configs.insert(loaded).clone())
    }
}

/// Connects to `upstream` within `limit`.
///
/// # Errors
/// Why it was not possible. Not a byte of a request was sent.
pub async fn dial(upstream: &Upstream, identity: &Identity, limit: Duration) -> Result<Stream, DialError> {
    match tokio::time::timeout(limit, connect(upstream, identity)).await {
        Ok(result) => result,
        Err(_) => Err(DialError {
            reason: format!("no connection within {limit:?}"),
            is_theirs: true,
        }),
    }
}

/// A stream of a kept connection to an application that speaks HTTP/2, or of a new one; and whether it was kept.
///
/// # Errors
/// As [`dial`].
pub async fn open(
    connections: &Connections,
    address: SocketAddr,
    fresh: bool,
    limit: Duration,
) -> Result<(Stream, bool), DialError> {
    match tokio::time::timeout(limit, connections.open(address, fresh)).await {
        Ok(Ok((stream, kept))) => Ok((Stream::Http2Upstream(Box::new(stream)), kept)),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(DialError {
            reason: format!("no connection within {limit:?}"),
            is_theirs: true,
        }),
    }
}

/// Sends `header`, with which a connection begins, within `limit`.
///
/// # Errors
/// Why it was not possible. Not a byte of a request was sent.
pub async fn introduce(stream: &mut Stream, header: &[u8], limit: Duration) -> Result<(), DialError> {
    let mut at = 0;
    let sending = async {
        while at < header.len() {
            let rest = header.get(at..).unwrap_or(&[]);
            at += std::future::poll_fn(|cx| stream.poll_write(cx, &[io::IoSlice::new(rest)])).await?;
        }
        Ok::<_, io::Error>(())
    };
    match tokio::time::timeout(limit, sending).await {
        Ok(sent) => sent.map_err(|error| failed(&error)),
        Err(_) => Err(failed(&io::ErrorKind::TimedOut.into())),
    }
}

async fn connect(upstream: &Upstream, identity: &Identity) -> Result<Stream, DialError> {
    match upstream.way {
        Way::Direct(address) if upstream.h2c => {
            let stream = http2::connect(address).await.map_err(|error| failed(&error))?;
            Ok(Stream::Http2Upstream(Box::new(stream)))
        }
        Way::Direct(address) => {
            let tcp = TcpStream::connect(address)
                .await
                .map_err(|error| failed(&error))?;
            tcp.set_nodelay(true).map_err(|error| failed(&error))?;
            Ok(Stream::Tcp(tcp))
        }
        Way::Relay(address) => {
            let ours = |reason| DialError {
                reason,
                is_theirs: false,
            };
            let (client, _) = identity.configs().map_err(ours)?;
            let name = expected(&upstream.server).map_err(ours)?;
            let tcp = TcpStream::connect(address)
                .await
                .map_err(|error| failed(&error))?;
            tcp.set_nodelay(true).map_err(|error| failed(&error))?;
            let tls = Box::pin(TlsConnector::from(client).connect(name, tcp)).await;
            let tls = tls.map_err(|error| DialError {
                reason: format!("TLS: {error}"),
                is_theirs: true,
            })?;
            Ok(Stream::Tls(Box::new(TlsStream::Client(tls))))
        }
    }
}

fn expected(server: &ServerName) -> Result<tokio_rustls::rustls::pki_types::ServerName<'static>, String> {
    tls::expected(server).map_err(|error| error.to_string())
}

/// A machine out of files or ports cannot reach anybody: that is no word on any server.
fn failed(error: &io::Error) -> DialError {
    use io::ErrorKind as Kind;
    let is_theirs = matches!(
        error.kind(),
        Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::TimedOut
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::UnexpectedEof
    );
    DialError {
        reason: error.to_string(),
        is_theirs,
    }
}
