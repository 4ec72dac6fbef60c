//! The fleet's certificate authority.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use pontoon_fleet::{FleetName, ServerName, UnixMillis};
use pontoon_rt::files;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;

use crate::error::PkiError;
use crate::identity::{IdentityFiles, read_text};
use crate::text::Pin;
use crate::x509::{self, CertificateFacts};

/// How long a server's certificate is good: 30 days, renewed after 20.
pub const SERVER_LIFETIME: Duration = Duration::from_secs(30 * 86_400);

/// How long the authority's own certificate is good: 10 years.
const CA_LIFETIME: Duration = Duration::from_secs(3_652 * 86_400);

/// Certificates begin this long before they are made: the clocks of two servers need not agree to the second.
const BACKDATED: Duration = Duration::from_secs(3_600);

/// Signs the servers' certificates. Lives on control servers only.
pub struct Authority {
    fleet: FleetName,
    certificate: CertificateDer<'static>,
    facts: CertificateFacts,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Founds a fleet: a new key (ECDSA P-256) and its certificate.
    ///
    /// # Errors
    /// When the crypto library fails, or `now` is not a date.
    pub fn create(fleet: &FleetName, now: UnixMillis) -> Result<Authority, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.not_before = x509::date(backdated(now))?;
        params.not_after = x509::date(now.plus(CA_LIFETIME))?;
        params.serial_number = Some(serial()?);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("pontoon fleet {fleet}"));
        // No authority below this one.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Authority::assemble(fleet.clone(), certificate.der().clone(), key)
    }

    /// Reads the authority of `dir`; `None` where there is none: not a control server.
    ///
    /// # Errors
    /// When files are unreadable, or key and certificate do not belong together.
    pub fn load_optional(dir: &Path) -> Result<Option<Authority>, PkiError> {
        let files = IdentityFiles::in_dir(dir);
        let Some(key_pem) = read_text(&files.ca_key)? else {
            return Ok(None);
        };
        let missing = |path: &Path| PkiError::Missing(path.display().to_string());
        let ca_pem = read_text(&files.ca)?.ok_or_else(|| missing(&files.ca))?;
        let fleet = read_text(&files.fleet)?.ok_or_else(|| missing(&files.fleet))?;
        let fleet = fleet
            .trim()
            .parse()
            .map_err(|error| PkiError::Mismatch(format!("the fleet's name: {error}")))?;
        let key = key_pair(&key_pem)?;
        Authority::assemble(fleet, x509::certificate_from_pem(&ca_pem)?, key).map(Some)
    }

    /// Reads the authority of `dir`.
    ///
    /// # Errors
    /// As [`load_optional`](Authority::load_optional), and when there is none.
    pub fn load(dir: &Path) -> Result<Authority, PkiError> {
        let missing = || PkiError::Missing(IdentityFiles::in_dir(dir).ca_key.display().to_string());
        Authority::load_optional(dir)?.ok_or_else(missing)
    }

    /// Writes the authority into `dir`: `ca-key.pem` for its owner only, `ca.pem`, `fleet`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), PkiError> {
        let files = IdentityFiles::in_dir(dir);
        files::create_dir(dir, 0o700)?;
        files::write_atomic(&files.fleet, format!("{}\n", self.fleet).as_bytes(), 0o644)?;
        files::write_atomic(&files.ca, self.certificate_pem().as_bytes(), 0o644)?;
        // Last: with it there, the directory is an authority.
        files::write_atomic(&files.ca_key, self.key_pem.as_bytes(), 0o600)?;
        Ok(())
    }

    /// The fleet.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// What a join token pins.
    pub fn pin(&self) -> Pin {
        self.facts.pin()
    }

    /// The authority's certificate.
    pub fn certificate_pem(&self) -> String {
        x509::certificate_to_pem(&self.certificate)
    }

    /// When the authority's certificate ends.
    pub fn not_after(&self) -> UnixMillis {
        self.facts.not_after
    }

    /// Signs a certificate for `name` at `private`, for the key in the request and for nothing else in it: whatever
    /// names, purposes or powers it asks for are not read. The request must be signed by its own key (P-256).
    ///
    /// # Errors
    /// [`PkiError::Pem`] and [`PkiError::Request`] for a request that is refused.
    pub fn sign_server(
        &self,
        csr_pem: &str,
        name: &ServerName,
        private: IpAddr,
        now: UnixMillis,
        lifetime: Duration,
    ) -> Result<String, PkiError> {
        let (der, _) = x509::request_from_pem(csr_pem)?;
        // Verifies the signature of the request by its own key: who asks holds the private key.
        let request = CertificateSigningRequestParams::from_der(&der)
            .map_err(|error| PkiError::Request(error.to_string()))?;
        let mut params = server_params(name, private)?;
        params.not_before = x509::date(backdated(now))?;
        params.not_after = x509::date(now.plus(lifetime))?;
        params.serial_number = Some(serial()?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&request.public_key, &self.issuer)?;
        Ok(x509::certificate_to_pem(certificate.der()))
    }

    fn assemble(
        fleet: FleetName,
        certificate: CertificateDer<'static>,
        key: KeyPair,
    ) -> Result<Authority, PkiError> {
        let facts = x509::facts(&certificate)?;
        if facts.spki != key.subject_public_key_info() {
            return Err(PkiError::Mismatch(
                "ca-key.pem is not the key of ca.pem".to_owned(),
            ));
        }
        if !facts.is_ca {
            return Err(PkiError::Certificate(
                "ca.pem is not an authority's certificate".to_owned(),
            ));
        }
        let key_pem = key.serialize_pem();
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Authority {
            fleet,
            certificate,
            facts,
            key_pem,
            issuer,
        })
    }
}

impl fmt::Debug for Authority {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("fleet", &self.fleet)
            .field("pin", &self.pin())
            .finish_non_exhaustive()
    }
}

/// What a certificate or a request of a server says: its name twice, for readers of either place, and its address.
pub(crate) fn server_params(name: &ServerName, private: IpAddr) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name.as_str());
    params.subject_alt_names = vec![
        SanType::DnsName(x509::dns_name(name).try_into()?),
        SanType::IpAddress(private),
    ];
    Ok(params)
}

/// A P-256 key pair from PKCS#8 PEM.
pub(crate) fn key_pair(pem: &str) -> Result<KeyPair, PkiError> {
    let der = x509::key_from_pem(pem)?;
    KeyPair::from_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).map_err(|error| PkiError::Pem {
        what: "the private key",
        why: error.to_string(),
    })
}

fn backdated(now: UnixMillis) -> UnixMillis {
    UnixMillis(
        now.0
            .saturating_sub(u64::try_from(BACKDATED.as_millis()).unwrap_or(0)),
    )
}

/// 127 random bits: positive, and never used twice (RFC 5280 section 4.1.2.2).
fn serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
