//! What visitors' TLS is made of. The fleet's own authority and its mutual TLS are another thing: `pontoon_pki`.
//!
//! **In:** the files of a certificate and its key, the secrets that the fleet shares. **Out:** a [`Loaded`] certificate
//! that was found to fit its key, or the file and the reason why not; the [`TicketKeys`] with which every edge opens the
//! session tickets of every other, and the [`Tickets`] that does.
//!
//! The agent looks at certificates before it agrees to a configuration, and makes the ticket keys; the edge serves with
//! both.
//!
//! **Must never:** print or log a key; call a certificate good that a handshake would then fail with.

mod files;
mod ocsp;
mod tickets;

pub use files::{CertificateError, Loaded, load};
pub use tickets::{TicketKeys, Tickets};
