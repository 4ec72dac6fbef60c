//! `fleet.toml`: from what was typed to what is meant.
//!
//! **In:** the text of a configuration, and [`Overrides`] from flags and the environment. **Out:** a checked
//! [`Config`] with every default filled in and every unit typed, or every mistake found, each a [`ConfigError`]
//! with a stable code and its place; [`render`] draws them. Also the JSON [`schema`], the [`starter`] file that
//! `pontoon init` writes, and [`edit`]s that keep the user's comments.
//!
//! The language is defined once, by the types in `raw.rs`: serde reads with them, schemars prints them, and
//! `shape.rs` walks that schema to find unknown keys and wrong types. `check/` turns what was typed into what
//! is meant. The language is larger than what this version does: [`not_yet`] names the difference.
//!
//! **Must never:** read a file, the environment or a clock; hold a secret; panic on any input.

mod check;
pub mod edit;
mod error;
mod model;
mod not_yet;
mod overrides;
mod print;
mod raw;
mod render;
mod secret;
mod shape;
mod starter;

pub use error::{ConfigError, Origin};
pub use model::{
    Acme, AddressMethod, Addresses, AfterWrite, App, Assets, Backup, Cache, Capacity, ClientCertificate,
    Config, CopyMethod, Credentials, Db, Dns, DnsHook, DnsTransfer, DnsUpdate, Dnssec, Durability, Edge,
    EtcdTls, Failover, Fleet, Hosted, Lease, LeaseStore, Place, Places, Reads, Server, Tls, WhenAlone,
};
pub use not_yet::{NotYet, not_yet};
pub use overrides::{OverrideError, Overrides};
pub use raw::schema;
pub use render::{render, render_all};
pub use starter::{Starter, StarterDb, starter};
