//! Mutual TLS between the proxies of a fleet, once this server has an identity.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pontoon_fleet::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::{PkiError, SharedIdentity, tls};

/// Why there is no connection to another proxy, or from one.
#[derive(Debug, thiserror::Error)]
pub enum FleetTlsError {
    /// This server has no certificate yet.
    #[error("this server has no identity in the fleet yet")]
    NoIdentity,
    /// Another authority, an expired certificate, another server than the one called, or no TLS at all.
    #[error("the other server did not prove that it is of this fleet: {0}")]
    Handshake(#[from] tls::TlsError),
    /// A client that showed no certificate.
    #[error("the other server showed no certificate")]
    Nameless,
}

/// The two configurations, made as soon as the identity directory has something.
#[derive(Debug)]
pub struct FleetTls {
    identity_dir: PathBuf,
    configs: OnceLock<Configs>,
}

#[derive(Debug)]
struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl FleetTls {
    /// For the identity in `identity_dir`, which need not be there yet.
    pub fn new(identity_dir: PathBuf) -> FleetTls {
        FleetTls {
            identity_dir,
            configs: OnceLock::new(),
        }
    }

    /// Reads the identity unless that has succeeded before; says whether there is one. Renewed certificates are
    /// picked up by the configurations themselves.
    pub fn load(&self) -> bool {
        if self.configs.get().is_some() {
            return true;
        }
        match self.read() {
            Ok(configs) => self.configs.set(configs).is_ok(),
            Err(error) => {
                tracing::debug!(%error, "no identity yet");
                false
            }
        }
    }

    fn read(&self) -> Result<Configs, PkiError> {
        let identity = SharedIdentity::load(&self.identity_dir)?;
        Ok(Configs {
            client: tls::client_config(&identity)?,
            server: tls::server_config(&identity)?,
        })
    }

    /// Connects to the proxy of `server` over `tcp`: ends well with that server only.
    ///
    /// # Errors
    /// [`FleetTlsError`].
    pub async fn connect(
        &self,
        server: &ServerName,
        tcp: TcpStream,
        limit: Duration,
    ) -> Result<TlsStream<TcpStream>, FleetTlsError> {
        let configs = self.configs.get().ok_or(FleetTlsError::NoIdentity)?;
        let stream = tls::connect(&configs.client, server, tcp, limit).await?;
        Ok(TlsStream::from(stream))
    }

    /// Accepts another proxy; says who it is.
    ///
    /// # Errors
    /// [`FleetTlsError`].
    pub async fn accept(
        &self,
        tcp: TcpStream,
        limit: Duration,
    ) -> Result<(TlsStream<TcpStream>, ServerName), FleetTlsError> {
        let configs = self.configs.get().ok_or(FleetTlsError::NoIdentity)?;
        let (stream, name) = tls::accept(&configs.server, tcp, limit).await?;
        let name = name.ok_or(FleetTlsError::Nameless)?;
        Ok((TlsStream::from(stream), name))
    }
}
