//! Who is who in a fleet.
//!
//! **In:** a fleet's name, a certificate request, a join token, a TLS connection. **Out:** the fleet's certificate
//! [`Authority`], each server's [`Identity`], [`tls`] configurations in which both sides prove their name, and the
//! [`token`]s by which a new server proves that an operator sent it.
//!
//! The rules, each with a test: TLS 1.3 only, one crypto provider (aws-lc-rs) passed explicitly; a private key never
//! leaves the server that made it; the authority decides names, a request's own wishes are not read; a joiner says
//! nothing secret before the other side proved that it is the fleet of the token; a token works once.
//!
//! **Must never:** trust a name before the chain is verified, print or log a key or a secret, or decide what a proven
//! server may do: that is the caller's, by the configuration.

mod authority;
mod error;
mod fleet_tls;
mod identity;
mod shared;
mod text;
pub mod tls;
pub mod token;
mod x509;

pub use authority::{Authority, SERVER_LIFETIME};
pub use error::PkiError;
pub use fleet_tls::{FleetTls, FleetTlsError};
pub use identity::{Identity, IdentityFiles, NewKey};
pub use shared::SharedIdentity;
pub use text::Pin;
pub use token::{Token, TokenBook, TokenError};
pub use x509::{csr_fingerprint, pem};

#[cfg(test)]
mod tests;
