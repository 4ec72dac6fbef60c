//! What the fuzz targets ask of the code that reads what strangers send: it never panics, keeps what it promises about
//! its answers, and reads back what it writes.
//!
//! A target is one function of this crate; the first bytes of its input choose the circumstances (a session's state, a
//! client's capabilities), the rest is what was received.

/// The same properties as the tests of `crates/mysql-wire` ask for.
#[path = "../../crates/mysql-wire/tests/common/mod.rs"]
mod answers;
pub mod dns;
pub mod http;
/// The framing layer alone: the crate around it brings TLS and a runtime, which need not be instrumented.
#[path = "../../crates/edge/src/http1/mod.rs"]
#[allow(dead_code, missing_docs)]
mod http1;
pub mod memcache;
pub mod sql;
/// What the name server says to those who have a key: no part of it listens or reads files.
#[path = "../../crates/dns/src/transfer.rs"]
#[allow(dead_code)]
mod transfer;
#[path = "../../crates/dns/src/tsig.rs"]
#[allow(dead_code, missing_docs)]
mod tsig;
#[path = "../../crates/dns/src/update/message.rs"]
mod update_message;
pub mod wire;

/// Splits off the first `N` bytes, which choose the circumstances.
fn chosen<const N: usize>(data: &[u8]) -> Option<([u8; N], &[u8])> {
    data.split_first_chunk::<N>().map(|(head, rest)| (*head, rest))
}
