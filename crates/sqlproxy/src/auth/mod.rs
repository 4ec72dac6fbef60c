//! Who a client is.

pub mod plugin;
pub mod rsa;
pub mod scramble;
mod secret;

pub use secret::Secret;
