//! What can be wrong with keys and certificates.

use pontoon_fleet::{Code, Refusal};
use pontoon_rt::files::FileError;

/// Why a key, a certificate or a request was not accepted or not made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the identity could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that should be there is not.
    #[error("{0} is missing")]
    Missing(String),
    /// Text that should be PEM and is not, or is cut off.
    #[error("{what} is not readable PEM: {why}")]
    Pem {
        /// What it should have been.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate that cannot be used.
    #[error("the certificate is not usable: {0}")]
    Certificate(String),
    /// A certificate request that is refused.
    #[error("the certificate request is refused: {0}")]
    Request(String),
    /// Key and certificate, or certificate and authority, are not of one another.
    #[error("{0}")]
    Mismatch(String),
    /// The crypto library could not do it.
    #[error("cryptography failed: {0}")]
    Crypto(String),
    /// A TLS configuration that rustls refuses.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl From<rcgen::Error> for PkiError {
    fn from(error: rcgen::Error) -> PkiError {
        PkiError::Crypto(error.to_string())
    }
}

impl From<aws_lc_rs::error::Unspecified> for PkiError {
    fn from(_: aws_lc_rs::error::Unspecified) -> PkiError {
        PkiError::Crypto("the random number generator does not work".to_owned())
    }
}

impl From<PkiError> for Refusal {
    fn from(error: PkiError) -> Refusal {
        match error {
            PkiError::File(error) => error.into(),
            PkiError::Missing(path) => Refusal::new(Code::J007, "this machine has no identity of a fleet")
                .because(format!("{path} is missing"))
                .next("found a fleet on this machine", "pontoon init")
                .next("join a fleet", "pontoon join ADDRESS TOKEN"),
            PkiError::Request(why) => {
                Refusal::new(Code::N005, "the certificate request was refused").because(why)
            }
            other => Refusal::new(Code::J009, "the certificate is not usable").because(other.to_string()),
        }
    }
}
