//! What the proxy proves itself with to clients: a certificate that it signs itself, as the databases do, and an RSA
//! key for passwords. Both live as long as the process.

use std::io;
use std::sync::Arc;

use ::aws_lc_rs::rand;
use pontoon_mysql_wire::auth::CHALLENGE_LEN;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::auth::rsa::OwnKey;
use crate::peer::Peer;

/// The keys of one process.
#[derive(Debug)]
pub struct Keys {
    tls: Option<Arc<ServerConfig>>,
    /// For passwords over plain TCP.
    pub rsa: OwnKey,
}

impl Keys {
    /// New ones. Without a certificate, which cannot happen while there is memory, clients get no TLS.
    pub fn generate() -> Keys {
        let tls = match server_config() {
            Ok(config) => Some(Arc::new(config)),
            Err(error) => {
                tracing::error!(%error, "no certificate: clients get no TLS");
                None
            }
        };
        Keys {
            tls,
            rsa: OwnKey::default(),
        }
    }

    /// Whether clients can have TLS.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The server's side of a TLS handshake.
    ///
    /// # Errors
    /// Why there is no TLS.
    pub async fn accept(&self, peer: Peer) -> io::Result<Peer> {
        let config = self.tls.clone().ok_or(io::ErrorKind::Unsupported)?;
        let stream = TlsAcceptor::from(config).accept(peer).await?;
        Ok(Peer::Within(Box::new(TlsStream::from(stream))))
    }

    /// A new challenge: 20 bytes of which none is NUL or `$`, as the servers make them.
    pub fn challenge(&self) -> Option<[u8; CHALLENGE_LEN]> {
        let mut bytes = [0; CHALLENGE_LEN];
        rand::fill(&mut bytes).ok()?;
        for byte in &mut bytes {
            *byte &= 0x7F;
            if matches!(*byte, 0 | b'$') {
                *byte += 1;
            }
        }
        Some(bytes)
    }
}

fn server_config() -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["pontoon-sql".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_differ_and_can_stand_on_the_wire() {
        let keys = Keys::generate();
        assert!(keys.has_tls());
        let challenges = (0..100).map(|_| keys.challenge().unwrap()).collect::<Vec<_>>();
        for challenge in &challenges {
            assert!(
                challenge
                    .iter()
                    .all(|byte| *byte != 0 && *byte != b'$' && *byte < 0x80)
            );
            assert_eq!(challenges.iter().filter(|other| *other == challenge).count(), 1);
        }
    }
}
