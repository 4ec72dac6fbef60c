//! Mutual TLS between the proxies of a fleet.

pub use pontoon_pki::{FleetTls, FleetTlsError};
