//! A certificate and its key from files, looked at as a handshake would.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pontoon_fleet::{CertificateFiles, Code, Refusal, UnixMillis};
use pontoon_rt::files::{self, FileError};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys};
use x509_parser::extensions::GeneralName;

use crate::ocsp;

/// Larger than any chain.
const MAX_FILE: u64 = 256 << 10;

/// A certificate that can be served.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Chain and key as a handshake takes them.
    pub key: Arc<CertifiedKey>,
    /// The DNS names that it is for, in lower case; `*.` stands for one label.
    pub names: Vec<String>,
    /// Who issued it: the common name, else the organisation.
    pub issuer: String,
    /// When it ends.
    pub not_after: UnixMillis,
}

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is not there.
    #[error("{} is not there", .0.display())]
    Missing(PathBuf),
    /// What is in a file cannot be used.
    #[error("{}: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl From<CertificateError> for Refusal {
    fn from(error: CertificateError) -> Refusal {
        Refusal::new(Code::T001, error.to_string()).next("look at it", "openssl x509 -noout -text -in FILE")
    }
}

/// Reads the files and looks whether they belong together. Whether the certificate is still good today, and whom
/// browsers trust, is for others to say.
///
/// # Errors
/// The file, and what is wrong with it.
pub fn load(files: &CertificateFiles) -> Result<Loaded, CertificateError> {
    let chain_pem = read(&files.certificate)?;
    let wrong_chain = |why: String| content(&files.certificate, why);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong_chain(format!("it is not PEM: {error}")))?;
    let leaf = chain
        .first()
        .ok_or_else(|| wrong_chain("there is no certificate in it".to_owned()))?;
    let (names, issuer, not_after) = facts(leaf).map_err(wrong_chain)?;
    let key_pem = read(&files.key)?;
    let wrong_key = |why: &str| content(&files.key, why.to_owned());
    let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| match error {
        pem::Error::NoItemsFound if contains(&key_pem, b"ENCRYPTED PRIVATE KEY") => {
            wrong_key("the key is encrypted: there is nobody to ask for its password")
        }
        pem::Error::NoItemsFound => wrong_key("there is no private key in it"),
        error => wrong_key(&format!("it is not PEM: {error}")),
    })?;
    let key =
        any_supported_type(&key).map_err(|error| wrong_key(&format!("the key cannot be used: {error}")))?;
    let mut certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(TlsError::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(TlsError::InconsistentKeys(_)) => {
            let certificate = files.certificate.display();
            return Err(wrong_key(&format!(
                "it is not the key of the first certificate in {certificate}"
            )));
        }
        Err(error) => return Err(wrong_chain(error.to_string())),
    }
    if let Some(path) = &files.ocsp {
        let response = read(path)?;
        ocsp::check(&response).map_err(|why| content(path, why.to_owned()))?;
        certified.ocsp = Some(response);
    }
    Ok(Loaded {
        key: Arc::new(certified),
        names,
        issuer,
        not_after,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    files::read_limited(path, MAX_FILE)?.ok_or_else(|| CertificateError::Missing(path.to_owned()))
}

fn content(path: &Path, why: String) -> CertificateError {
    CertificateError::Content {
        path: path.to_owned(),
        why,
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// The names of a certificate, who issued it, and its end. The common name counts for nothing, as in browsers (RFC 9525 section 2).
fn facts(certificate: &CertificateDer<'_>) -> Result<(Vec<String>, String, UnixMillis), String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| format!("the first certificate cannot be read: {error}"))?;
    let alternative = parsed
        .subject_alternative_name()
        .map_err(|error| format!("its names cannot be read: {error}"))?;
    let all = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names);
    let names: Vec<String> = all
        .clone()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    let addresses = all.filter(|name| matches!(name, GeneralName::IPAddress(_)));
    if names.is_empty() && addresses.count() == 0 {
        return Err("it names no host: no browser would take it".to_owned());
    }
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    let issuer = parsed.issuer();
    let who = issuer.iter_common_name().chain(issuer.iter_organization()).next();
    let who = who.and_then(|part| part.as_str().ok()).unwrap_or("unnamed");
    Ok((names, who.to_owned(), UnixMillis(seconds.saturating_mul(1000))))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        files: CertificateFiles,
    }

    fn place(names: &[&str]) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let files = CertificateFiles {
            certificate: dir.path().join("chain.pem"),
            key: dir.path().join("key.pem"),
            ocsp: None,
        };
        let place = Place { dir, files };
        place.issue(names);
        place
    }

    impl Place {
        fn issue(&self, names: &[&str]) {
            let key = KeyPair::generate().unwrap();
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params.not_after = time::OffsetDateTime::from_unix_timestamp(2_000_000_000).unwrap();
            let certificate = params.self_signed(&key).unwrap();
            std::fs::write(&self.files.certificate, certificate.pem()).unwrap();
            std::fs::write(&self.files.key, key.serialize_pem()).unwrap();
        }

        fn why(&self) -> String {
            load(&self.files).unwrap_err().to_string()
        }
    }

    #[test]
    fn a_pair_is_read_with_its_names_and_its_end() {
        let place = place(&["Notes.example.com", "*.example.org"]);
        let loaded = load(&place.files).unwrap();
        assert_eq!(loaded.names, ["notes.example.com", "*.example.org"]);
        assert_eq!(loaded.not_after, UnixMillis(2_000_000_000_000));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_file() {
        let mut place = place(&["a.example"]);
        let good = std::fs::read(&place.files.key).unwrap();
        std::fs::write(&place.files.key, "nothing").unwrap();
        assert!(
            place.why().ends_with("key.pem: there is no private key in it"),
            "{}",
            place.why()
        );
        std::fs::write(
            &place.files.key,
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n",
        )
        .unwrap();
        assert!(place.why().contains("encrypted"), "{}", place.why());
        std::fs::write(&place.files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(place.why().contains("it is not the key of"), "{}", place.why());
        std::fs::remove_file(&place.files.key).unwrap();
        assert!(place.why().ends_with("key.pem is not there"), "{}", place.why());
        std::fs::write(&place.files.key, good).unwrap();
        let response = place.dir.path().join("ocsp.der");
        std::fs::write(&response, [0x30, 3, 0x0a, 1, 6]).unwrap();
        place.files.ocsp = Some(response);
        assert!(place.why().contains("ocsp.der: "), "{}", place.why());
        place.files.ocsp = None;
        std::fs::write(&place.files.certificate, vec![b'x'; 300 << 10]).unwrap();
        assert!(place.why().contains("chain.pem"), "{}", place.why());
        std::fs::write(
            &place.files.certificate,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        assert!(
            place.why().contains("the first certificate cannot be read"),
            "{}",
            place.why()
        );
        place.issue(&[]);
        assert!(place.why().contains("names no host"), "{}", place.why());
    }
}
