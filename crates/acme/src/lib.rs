//! Certificates for visitors from an authority that speaks ACME (RFC 8555), for a whole fleet.
//!
//! **In:** the [`Book`] that the fleet's servers share (the account's key, what was issued, orders that were begun, what
//! went wrong), what the configuration asks for, the time. **Out:** which name is due ([`schedule`]), and, from the talk
//! with the authority ([`Authority`]), a certificate with its key or a [`Failure`].
//!
//! Who orders is for the agent to say. Nothing breaks when two servers do: books merge to the same, whatever comes first.
//!
//! **Must never:** show a private key to a server that has no use for it ([`Book::for_edges`]), print or log one; ask the
//! authority more often than [`schedule`] says.

mod authority;
mod book;
mod key;
pub mod schedule;

pub use authority::{Authority, Failure, FailureKind, Obtained, Place};
pub use book::{Account, Attempt, Begun, Book, Entry, Issued, Stamped};
pub use key::{Secret, account_key, certificate_key};
