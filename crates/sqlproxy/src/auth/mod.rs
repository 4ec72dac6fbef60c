//! Who a client is.
//!
//! The primary decides. `directory` asks it for a user's accounts at each login, over the proxy's own connection
//! (`control`); `accounts` says by which of them how the client can prove itself; `authenticate` has it do so.

pub mod accounts;
mod authenticate;
mod control;
mod directory;
mod known;
pub mod rsa;
mod secret;
pub mod signature;

pub use authenticate::{Authenticated, Doorkeeper, NotAuthenticated, authenticate};
pub use directory::{Dial, Directory};
pub use known::Proven;
pub use secret::Secret;
