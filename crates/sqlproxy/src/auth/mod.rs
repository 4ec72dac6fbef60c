//! Who a client is.

pub mod rsa;
mod secret;
pub mod signature;

pub use secret::Secret;
