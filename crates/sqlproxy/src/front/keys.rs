//! What the proxy proves itself with to clients: a certificate that it signs itself, as the databases do, and an RSA
//! key for passwords. Both live as long as the process.

use std::io;
use std::sync::Arc;

use ::aws_lc_rs::digest::{self, Context};
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
    /// SHA256 of the certificate.
    fingerprint: [u8; 32],
    /// For passwords over plain TCP.
    pub rsa: OwnKey,
}

impl Keys {
    /// New ones. Without a certificate, which cannot happen while there is memory, clients get no TLS.
    pub fn generate() -> Keys {
        let (tls, fingerprint) = match server_config() {
            Ok((config, fingerprint)) => (Some(Arc::new(config)), fingerprint),
            Err(error) => {
                tracing::error!(%error, "no certificate: clients get no TLS");
                (None, [0; 32])
            }
        };
        Keys {
            tls,
            fingerprint,
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

    /// What shows a MariaDB client of 11.4 or later, in the text of the OK packet, that the certificate is of somebody
    /// who knows what is stored of its password (MariaDB: "Zero-configuration TLS"): it trusts no other that signs
    /// itself.
    pub fn vouch(&self, stored: &[u8], challenge: &[u8]) -> Vec<u8> {
        const SHA256: u8 = 1;
        let mut context = Context::new(&digest::SHA256);
        for part in [stored, challenge, &self.fingerprint] {
            context.update(part);
        }
        let mut text = vec![SHA256];
        for byte in context.finish().as_ref() {
            text.extend_from_slice(format!("{byte:02X}").as_bytes());
        }
        text
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

fn server_config() -> Result<(ServerConfig, [u8; 32]), Box<dyn std::error::Error + Send + Sync>> {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["pontoon-sql".to_owned()])?;
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, cert.der()).as_ref());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((config, fingerprint))
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
