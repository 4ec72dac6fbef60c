//! A visitor's connection as bytes: plain, or over TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

/// The name that the proxies' certificate is for.
pub const NAME: &str = "www.example.org";

/// How visitors speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// HTTP/1.1.
    Plain,
    /// HTTP/1.1 over TLS 1.3.
    Tls,
    /// HTTP/2 over TLS 1.3.
    Http2,
}

impl Over {
    /// What a client needs for TLS. Every connection has a whole handshake; certificates are taken as they are, because
    /// the load has to cost less than what it measures.
    ///
    /// # Errors
    /// When the provider of ciphers refuses.
    pub fn config(self) -> io::Result<Option<Arc<ClientConfig>>> {
        if self == Over::Plain {
            return Ok(None);
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        let protocol: &[u8] = if self == Over::Http2 { b"h2" } else { b"http/1.1" };
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Some(Arc::new(config)))
    }
}

/// A connection that does not wait.
pub struct Wire {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Wire {
    /// Connects to `to`. `closes`: the connection is for one request, and leaves no port behind.
    ///
    /// # Errors
    /// When it is refused.
    pub fn open(to: SocketAddr, config: Option<&Arc<ClientConfig>>, closes: bool) -> io::Result<Wire> {
        let tcp = TcpStream::connect(to)?;
        tcp.set_nonblocking(true)?;
        tcp.set_nodelay(true)?;
        if closes {
            // The ports would run out: nobody is to wait two minutes for a stray packet on loopback.
            set_socket_linger(&tcp, Some(Duration::ZERO))?;
        }
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let session = config.map(|config| ClientConnection::new(Arc::clone(config), name));
        let tls = session.transpose().map_err(io::Error::other)?.map(Box::new);
        Ok(Wire { tcp, tls })
    }

    /// Whether reading once may leave something that no event will tell of.
    pub fn reads_ahead(&self) -> bool {
        self.tls.is_some()
    }

    /// Sends all of `bytes`: with TLS as soon as the handshake allows, else at once.
    ///
    /// # Errors
    /// When they do not go at once: requests are small.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return match self.tcp.write(bytes)? {
                count if count == bytes.len() => Ok(()),
                _ => Err(io::ErrorKind::WriteZero.into()),
            };
        };
        tls.writer().write_all(bytes)?;
        flush(tls, &mut self.tcp)
    }

    /// Reads what is there; 0 at the end.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when nothing is there now.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.tcp.read(bytes);
        };
        loop {
            match tls.reader().read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            if tls.read_tls(&mut self.tcp)? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(io::Error::other)?;
            flush(tls, &mut self.tcp)?;
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

fn flush(tls: &mut ClientConnection, tcp: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(tcp)?;
    }
    Ok(())
}

/// Takes every certificate.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
