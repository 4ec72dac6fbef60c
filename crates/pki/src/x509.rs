//! Reading PEM and X.509. Everything here takes bytes from strangers and never panics.

use std::net::IpAddr;
use std::time::Duration;

use pontoon_fleet::{ServerName, UnixMillis};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::error::PkiError;
use crate::text::{Pin, encode, sha256};

/// Larger than any certificate or request of a fleet.
const MAX_PEM_BYTES: usize = 16 << 10;

/// id-ecPublicKey and the curve P-256 (RFC 5480 sections 2.1.1 and 2.1.1.1).
const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";

/// Behind a server's name in its certificate. A name alone will not do: "10" is a good name for a server and no DNS
/// name to a TLS library. `internal` is nobody's on the Internet (ICANN, 2024-07-29).
const SUFFIX: &str = ".pontoon.internal";

/// A server's name as its certificate has it.
pub(crate) fn dns_name(name: &ServerName) -> String {
    format!("{name}{SUFFIX}")
}

/// What is read from a certificate.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFacts {
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub not_before: UnixMillis,
    pub not_after: UnixMillis,
    pub spki: Vec<u8>,
    pub is_ca: bool,
}

/// The first certificate of a PEM text.
pub(crate) fn certificate_from_pem(pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    check_size(pem, "the certificate")?;
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| PkiError::Pem {
        what: "the certificate",
        why: error.to_string(),
    })
}

/// A PKCS#8 private key from a PEM text.
pub(crate) fn key_from_pem(pem: &str) -> Result<PrivateKeyDer<'static>, PkiError> {
    check_size(pem, "the private key")?;
    PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
        .map(PrivateKeyDer::Pkcs8)
        .map_err(|error| PkiError::Pem {
            what: "the private key",
            why: error.to_string(),
        })
}

/// A certificate as PEM.
pub(crate) fn certificate_to_pem(certificate: &CertificateDer<'_>) -> String {
    pem("CERTIFICATE", certificate)
}

/// DER as PEM under a label such as `PUBLIC KEY` (RFC 7468).
pub fn pem(label: &str, der: &[u8]) -> String {
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in base64(der).as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

/// Reads a certificate without trusting it.
pub(crate) fn facts(certificate: &CertificateDer<'_>) -> Result<CertificateFacts, PkiError> {
    let bad = |why: &str| PkiError::Certificate(why.to_owned());
    let (rest, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| PkiError::Certificate(error.to_string()))?;
    if !rest.is_empty() {
        return Err(bad("bytes follow its end"));
    }
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    let alternative = parsed
        .subject_alternative_name()
        .map_err(|error| PkiError::Certificate(error.to_string()))?;
    for name in alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names)
    {
        match name {
            GeneralName::DNSName(name) => names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                addresses.push(address(bytes).ok_or_else(|| bad("an odd address"))?)
            }
            _ => return Err(bad("a name that is neither DNS nor an address")),
        }
    }
    let validity = parsed.validity();
    Ok(CertificateFacts {
        names,
        addresses,
        not_before: unix(validity.not_before.timestamp()),
        not_after: unix(validity.not_after.timestamp()),
        spki: parsed.public_key().raw.to_vec(),
        is_ca: parsed.is_ca(),
    })
}

impl CertificateFacts {
    /// The one server that the certificate names.
    pub(crate) fn server_name(&self) -> Result<ServerName, PkiError> {
        match self.names.as_slice() {
            [name] => match name.strip_suffix(SUFFIX).map(str::parse) {
                Some(Ok(name)) => Ok(name),
                Some(Err(error)) => Err(PkiError::Certificate(format!("its name {name:?}: {error}"))),
                None => Err(PkiError::Certificate(format!(
                    "its name {name:?} is not one of a server"
                ))),
            },
            names => Err(PkiError::Certificate(format!(
                "it has {} DNS names instead of one",
                names.len()
            ))),
        }
    }

    pub(crate) fn pin(&self) -> Pin {
        Pin::of_spki(&self.spki)
    }

    pub(crate) fn lifetime(&self) -> Duration {
        self.not_after.since(self.not_before)
    }
}

/// The checked parts of a certificate request: its DER, and its public key's SubjectPublicKeyInfo.
pub(crate) fn request_from_pem(
    pem: &str,
) -> Result<(CertificateSigningRequestDer<'static>, Vec<u8>), PkiError> {
    check_size(pem, "the certificate request")?;
    let der =
        CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|error| PkiError::Pem {
            what: "the certificate request",
            why: error.to_string(),
        })?;
    let (rest, parsed) =
        X509CertificationRequest::from_der(&der).map_err(|error| PkiError::Request(error.to_string()))?;
    if !rest.is_empty() {
        return Err(PkiError::Request("bytes follow its end".to_owned()));
    }
    let spki = &parsed.certification_request_info.subject_pki;
    if !is_p256(spki) {
        return Err(PkiError::Request(
            "its key is not an ECDSA key on P-256".to_owned(),
        ));
    }
    let spki = spki.raw.to_vec();
    Ok((der, spki))
}

/// Which key a request is for: SHA-256 of its SubjectPublicKeyInfo, as text. By it a join token is bound to the joiner.
///
/// # Errors
/// When `csr_pem` is not a request for a P-256 key.
pub fn csr_fingerprint(csr_pem: &str) -> Result<String, PkiError> {
    let (_, spki) = request_from_pem(csr_pem)?;
    Ok(encode(&sha256(&spki)))
}

/// A moment as the certificate library takes it, whole seconds.
pub(crate) fn date(moment: UnixMillis) -> Result<OffsetDateTime, PkiError> {
    i64::try_from(moment.0 / 1000)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(|| PkiError::Certificate(format!("{} ms is not a date", moment.0)))
}

/// The curve and the length are checked in the key itself: a signature algorithm of the same name exists for others.
fn is_p256(spki: &SubjectPublicKeyInfo<'_>) -> bool {
    let curve = spki
        .algorithm
        .parameters
        .as_ref()
        .and_then(|any| any.as_oid().ok());
    spki.algorithm.algorithm.to_id_string() == EC_PUBLIC_KEY
        && curve.is_some_and(|oid| oid.to_id_string() == P256)
        && spki.subject_public_key.data.len() == 65
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn unix(seconds: i64) -> UnixMillis {
    UnixMillis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

fn check_size(pem: &str, what: &'static str) -> Result<(), PkiError> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(PkiError::Pem {
            what,
            why: format!("it is over {MAX_PEM_BYTES} bytes"),
        });
    }
    Ok(())
}

/// RFC 4648 section 4, which PEM is made of.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let value = at(0) << 16 | at(1) << 8 | at(2);
        for position in 0..4 {
            if position <= group.len() {
                text.push(char::from(LETTERS[(value >> (18 - 6 * position)) as usize & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}
