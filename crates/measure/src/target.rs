//! What is measured: one URL, the addresses behind it, and how a connection to it is made.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pontoon_fleet::{Code, Refusal};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Over TLS.
    pub secure: bool,
    /// Its name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl Place {
    /// Takes a URL apart: `http://HOST[:PORT][/PATH][?QUERY]`, or `https`.
    ///
    /// # Errors
    /// A sentence that says what is wrong, and where.
    pub fn parse(text: &str) -> Result<Place, String> {
        if let Some(at) = text.bytes().position(|byte| !byte.is_ascii_graphic()) {
            return Err(format!(
                "has something at byte {at} that is no part of a URL: write it as %20 and the like"
            ));
        }
        let (secure, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some((scheme, _)) => {
                return Err(format!(
                    "begins with {scheme:?}: only http and https can be measured"
                ));
            }
            None => return Err("begins with neither http:// nor https://".to_owned()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(
                "has a name and a password in it: give them with --header 'authorization: …'".to_owned(),
            );
        }
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, rest)) => match address.parse::<IpAddr>() {
                Ok(IpAddr::V6(_)) => (address, rest),
                _ => return Err(format!("has {address:?} in brackets, which is no IPv6 address")),
            },
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => {
                if secure {
                    443
                } else {
                    80
                }
            }
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or(format!("has the port {port:?}"))?,
            None => return Err(format!("has {port:?} after its host")),
        };
        if host.is_empty() {
            return Err("names no host".to_owned());
        }
        Ok(Place {
            secure,
            host: host.to_owned(),
            port,
            path: match path {
                "" => "/".to_owned(),
                path if path.starts_with('?') => format!("/{path}"),
                path => path.to_owned(),
            },
        })
    }

    /// What stands in the Host field.
    pub fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match (self.secure, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// The URL, as it is asked for.
    pub fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }
}

/// Where requests go, and how.
#[derive(Clone)]
pub struct Target {
    /// The URL.
    pub place: Place,
    /// The address that every connection goes to.
    pub address: SocketAddr,
    /// More fields of each request.
    pub fields: Vec<(String, String)>,
    /// Over HTTP/2.
    pub http2: bool,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl std::fmt::Debug for Target {
    /// Without the fields: a password may be among them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({} at {})", self.place.authority(), self.address)
    }
}

/// A connection, over TLS or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl Target {
    /// Finds the address of `place` and gets ready to speak to it. `ca` has the authorities to trust, PEM; by default
    /// those of this machine.
    ///
    /// # Errors
    /// [`Code::M002`] when the name has no address or the authorities cannot be read.
    pub async fn find(
        place: Place,
        fields: Vec<(String, String)>,
        http2: bool,
        ca: Option<&Path>,
    ) -> Result<Target, Refusal> {
        let refuse = |why: String| {
            Refusal::new(Code::M002, format!("{} cannot be measured", place.url())).because(why)
        };
        let tls = match place.secure {
            false => None,
            true => {
                let roots = roots(ca).map_err(refuse)?;
                let name = ServerName::try_from(place.host.clone()).map_err(|_| {
                    refuse(format!(
                        "{:?} is no name that a certificate could have",
                        place.host
                    ))
                })?;
                Some((TlsConnector::from(Arc::new(config(roots, http2))), name))
            }
        };
        let found = tokio::time::timeout(
            PATIENCE,
            tokio::net::lookup_host((place.host.clone(), place.port)),
        )
        .await;
        let found: Vec<SocketAddr> = match found {
            Ok(found) => found
                .map(Iterator::collect)
                .map_err(|error| refuse(format!("{} has no address: {error}", place.host)))?,
            Err(_) => {
                return Err(refuse(format!(
                    "nobody says within {PATIENCE:?} which address {} has",
                    place.host
                )));
            }
        };
        // One address for the whole run: two servers behind one name have two limits.
        let address = found
            .first()
            .copied()
            .ok_or_else(|| refuse(format!("{} has no address", place.host)))?;
        Ok(Target {
            place,
            address,
            fields,
            http2,
            tls,
        })
    }

    /// A new connection.
    ///
    /// # Errors
    /// When it is not made.
    pub(crate) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let Some((connector, name)) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let stream = connector.connect(name.clone(), stream).await?;
        if self.http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("the server does not speak HTTP/2"));
        }
        Ok(Box::new(stream))
    }
}

fn config(roots: RootCertStore, http2: bool) -> ClientConfig {
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![if http2 {
        b"h2".to_vec()
    } else {
        b"http/1.1".to_vec()
    }];
    config
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let Some(file) = ca else {
        return pontoon_lease::http::trusted();
    };
    let broken = |error: &dyn std::fmt::Display| format!("--ca {}: {error}", file.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| broken(&error))? {
        roots
            .add(certificate.map_err(|error| broken(&error))?)
            .map_err(|error| broken(&error))?;
    }
    match roots.is_empty() {
        true => Err(broken(&"there is no certificate in it")),
        false => Ok(roots),
    }
}

/// For a name to be looked up.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_put_together() {
        for (text, host, port, path, url) in [
            (
                "http://example.org",
                "example.org",
                80,
                "/",
                "http://example.org/",
            ),
            (
                "https://example.org?q=1#top",
                "example.org",
                443,
                "/?q=1",
                "https://example.org/?q=1",
            ),
            (
                "http://198.51.100.1:8080/a?b",
                "198.51.100.1",
                8080,
                "/a?b",
                "http://198.51.100.1:8080/a?b",
            ),
            (
                "https://[2001:db8::1]/",
                "2001:db8::1",
                443,
                "/",
                "https://[2001:db8::1]/",
            ),
            (
                "http://[2001:db8::1]:81/",
                "2001:db8::1",
                81,
                "/",
                "http://[2001:db8::1]:81/",
            ),
        ] {
            let place = Place::parse(text).unwrap();
            assert_eq!(
                (place.host.as_str(), place.port, place.path.as_str()),
                (host, port, path),
                "{text}"
            );
            assert_eq!(place.url(), url);
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_the_reason() {
        for (text, word) in [
            ("", "neither"),
            ("example.org", "neither"),
            ("ftp://example.org", "ftp"),
            ("http://", "no host"),
            ("http:///path", "no host"),
            ("http://user:secret@example.org/", "password"),
            ("http://example.org:0/", "port"),
            ("http://example.org:99999/", "port"),
            ("http://example.org:x/", "port"),
            ("http://[example]/", "IPv6"),
            ("http://[::1]x/", "after its host"),
            ("http://example.org/a b", "byte 20"),
            ("http://example.org/\r\nX: y", "byte 19"),
            ("http://exämple.org/", "byte 9"),
        ] {
            let why = Place::parse(text).unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
            assert!(!why.contains("secret"));
        }
    }
}
