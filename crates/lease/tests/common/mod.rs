//! What the tests of this crate share. Each uses a part of it.
#![allow(dead_code, clippy::print_stdout, clippy::unwrap_used, clippy::panic)]

pub mod authority;
pub mod record;
pub mod stores;
