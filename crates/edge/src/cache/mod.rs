//! Keeps answers of the application for a while, where the configuration wants it (`edge.cache`): a shared cache, a part
//! of RFC 9111.
//!
//! What is kept is what the application sent, head and body, in its own framing and coding. It goes out through the same
//! exchange as an answer from a server, so compression, HSTS, request ids and HTTP/1.0 are no business of the cache.
//!
//! When in doubt nothing is kept: a miss costs a request, a wrong hit shows somebody another's page.

mod answer;
mod asked;
mod deliver;
mod directives;
mod fill;
mod look;
mod refresh;
mod serve;
mod store;

pub use deliver::instead;
pub use fill::Fill;
pub use look::{CacheState, asking};
pub use refresh::Refreshes;
pub use serve::serve;
pub use store::Cache;

#[cfg(test)]
mod tests;
