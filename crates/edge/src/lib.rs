//! edge
pub mod http1;
