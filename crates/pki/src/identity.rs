//! A server's own key and certificate.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use pontoon_fleet::{FleetName, ServerName, UnixMillis};
use pontoon_rt::files::{self, FileError};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::authority::{key_pair, server_params};
use crate::error::PkiError;
use crate::text::{Pin, encode, sha256};
use crate::tls;
use crate::x509::{self, CertificateFacts};

/// Larger than any file of an identity.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The files of an identity directory. PEM throughout, the keys as PKCS#8: what mysqld and mariadbd read too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The fleet's name.
    pub fleet: PathBuf,
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The authority's key, on control servers only.
    pub ca_key: PathBuf,
    /// This server's certificate.
    pub cert: PathBuf,
    /// This server's key.
    pub key: PathBuf,
    /// A key whose certificate is being asked for or put in place.
    pub next_key: PathBuf,
}

impl IdentityFiles {
    /// The files in `dir`.
    pub fn in_dir(dir: &Path) -> IdentityFiles {
        IdentityFiles {
            fleet: dir.join("fleet"),
            ca: dir.join("ca.pem"),
            ca_key: dir.join("ca-key.pem"),
            cert: dir.join("cert.pem"),
            key: dir.join("key.pem"),
            next_key: dir.join("next-key.pem"),
        }
    }
}

/// A private key that has no certificate yet. Made where it will be used; only its request leaves.
pub struct NewKey {
    pair: KeyPair,
}

impl NewKey {
    /// A new key (ECDSA P-256).
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn generate() -> Result<NewKey, PkiError> {
        Ok(NewKey {
            pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
        })
    }

    /// The key that an interrupted join or renewal left in `dir`, or a new one, written there before this returns: a
    /// repeated join shows the same key, so that its token still works.
    ///
    /// # Errors
    /// When the file cannot be read, used or written.
    pub fn pending(dir: &Path) -> Result<NewKey, PkiError> {
        let path = IdentityFiles::in_dir(dir).next_key;
        if let Some(pem) = read_text(&path)? {
            return Ok(NewKey {
                pair: key_pair(&pem)?,
            });
        }
        let key = NewKey::generate()?;
        files::create_dir(dir, 0o700)?;
        files::write_atomic(&path, key.pair.serialize_pem().as_bytes(), 0o600)?;
        Ok(key)
    }

    /// The certificate request for this key, as PEM.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn csr(&self, name: &ServerName, private: IpAddr) -> Result<String, PkiError> {
        Ok(server_params(name, private)?
            .serialize_request(&self.pair)?
            .pem()?)
    }

    /// As [`csr_fingerprint`](crate::csr_fingerprint) of its request.
    pub fn fingerprint(&self) -> String {
        encode(&sha256(&self.pair.subject_public_key_info()))
    }
}

impl fmt::Debug for NewKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey")
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

/// Who a server is, with the proof. Checked when made: key, certificate and authority belong together.
#[derive(Clone)]
pub struct Identity {
    fleet: FleetName,
    name: ServerName,
    key_pem: String,
    certificate: CertificateDer<'static>,
    facts: CertificateFacts,
    ca: CertificateDer<'static>,
}

impl Identity {
    /// A new key and the request for its certificate.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn new_key_and_csr(name: &ServerName, private: IpAddr) -> Result<(NewKey, String), PkiError> {
        let key = NewKey::generate()?;
        let csr = key.csr(name, private)?;
        Ok((key, csr))
    }

    /// An identity from a key and what the authority answered.
    ///
    /// # Errors
    /// [`PkiError::Mismatch`] when the certificate is not this key's or not this authority's; [`PkiError::Pem`] and
    /// [`PkiError::Certificate`] when one of them cannot be read.
    pub fn assemble(
        fleet: FleetName,
        key: &NewKey,
        certificate_pem: &str,
        ca_pem: &str,
    ) -> Result<Identity, PkiError> {
        Identity::from_parts(
            fleet,
            key.pair.serialize_pem(),
            &key.pair,
            certificate_pem,
            ca_pem,
        )
    }

    /// Reads the identity of `dir`. One whose new key and certificate were being put in place when the power went is
    /// put right.
    ///
    /// # Errors
    /// [`PkiError::Missing`] when there is none; others when it is damaged. An expired one is read: it says so.
    pub fn load(dir: &Path) -> Result<Identity, PkiError> {
        let files = IdentityFiles::in_dir(dir);
        let text =
            |path: &Path| read_text(path)?.ok_or_else(|| PkiError::Missing(path.display().to_string()));
        let fleet = text(&files.fleet)?;
        let fleet: FleetName = fleet
            .trim()
            .parse()
            .map_err(|error| PkiError::Mismatch(format!("the fleet's name: {error}")))?;
        let (certificate_pem, ca_pem) = (text(&files.cert)?, text(&files.ca)?);
        let with_key = |key_pem: String| {
            let pair = key_pair(&key_pem)?;
            Identity::from_parts(fleet.clone(), key_pem, &pair, &certificate_pem, &ca_pem)
        };
        let error = match read_text(&files.key)?.map(with_key) {
            Some(Ok(identity)) => return Ok(identity),
            Some(Err(error)) => error,
            None => PkiError::Missing(files.key.display().to_string()),
        };
        // `save` writes next-key.pem, then cert.pem, then renames the key: between the last two, this is the pair.
        let Some(Ok(identity)) = read_text(&files.next_key)?.map(with_key) else {
            return Err(error);
        };
        if let Err(error) = std::fs::rename(&files.next_key, &files.key) {
            tracing::warn!(%error, "cannot put the new key in its place; it is used where it is");
        }
        Ok(identity)
    }

    /// Writes the identity into `dir`, key first: after a crash at any moment [`load`](Identity::load) finds either
    /// the old identity or this one.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), PkiError> {
        let files = IdentityFiles::in_dir(dir);
        files::create_dir(dir, 0o700)?;
        files::write_atomic(&files.fleet, format!("{}\n", self.fleet).as_bytes(), 0o644)?;
        files::write_atomic(&files.ca, self.ca_pem().as_bytes(), 0o644)?;
        // For the directory's group too: the tiers, where they are another user than the agent.
        files::write_atomic(&files.next_key, self.key_pem.as_bytes(), 0o640)?;
        files::write_atomic(&files.cert, self.certificate_pem().as_bytes(), 0o644)?;
        std::fs::rename(&files.next_key, &files.key)
            .map_err(|error| FileError::new(&files.key, "replace", error))?;
        Ok(())
    }

    /// The fleet.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// The server.
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// The addresses that the certificate is good for.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.facts.addresses
    }

    /// Which fleet.
    pub fn pin(&self) -> Result<Pin, PkiError> {
        Ok(x509::facts(&self.ca)?.pin())
    }

    /// When the certificate ends.
    pub fn not_after(&self) -> UnixMillis {
        self.facts.not_after
    }

    /// Whether it is time for a new certificate: two thirds of its life are over (20 of 30 days).
    pub fn renew_due(&self, now: UnixMillis) -> bool {
        self.facts.not_after.since(now) <= self.facts.lifetime() / 3
    }

    /// Whether the certificate has ended.
    pub fn is_expired(&self, now: UnixMillis) -> bool {
        now >= self.facts.not_after
    }

    /// The server's certificate.
    pub fn certificate_pem(&self) -> String {
        x509::certificate_to_pem(&self.certificate)
    }

    /// The authority's certificate.
    pub fn ca_pem(&self) -> String {
        x509::certificate_to_pem(&self.ca)
    }

    /// The private key, for the files of a database server on this machine. Never send or log it.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    pub(crate) fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        x509::key_from_pem(&self.key_pem)
    }

    /// What is shown to peers. The authority is part of it: a joiner knows its pin and nothing else of the fleet.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone(), self.ca.clone()]
    }

    fn from_parts(
        fleet: FleetName,
        key_pem: String,
        pair: &KeyPair,
        certificate_pem: &str,
        ca_pem: &str,
    ) -> Result<Identity, PkiError> {
        let certificate = x509::certificate_from_pem(certificate_pem)?;
        let ca = x509::certificate_from_pem(ca_pem)?;
        let facts = x509::facts(&certificate)?;
        if facts.spki != pair.subject_public_key_info() {
            return Err(PkiError::Mismatch("the certificate is not this key's".to_owned()));
        }
        let name = facts.server_name()?;
        // Judged in the middle of its life: whether it has expired is another question.
        tls::check_signed_by(&certificate, &ca, facts.not_before.plus(facts.lifetime() / 2))?;
        Ok(Identity {
            fleet,
            name,
            key_pem,
            certificate,
            facts,
            ca,
        })
    }
}

impl fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("fleet", &self.fleet)
            .field("name", &self.name)
            .field("not_after", &self.facts.not_after)
            .finish_non_exhaustive()
    }
}

/// A file of an identity as text; `None` when it is not there.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, PkiError> {
    let Some(bytes) = files::read_limited(path, MAX_FILE_BYTES)? else {
        return Ok(None);
    };
    String::from_utf8(bytes).map(Some).map_err(|_| PkiError::Pem {
        what: "a file of the identity",
        why: format!("{} is not text", path.display()),
    })
}
