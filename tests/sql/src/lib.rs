//! The differential harness: nobody can tell the SQL proxy from the database behind it.
//!
//! **In:** scripts (`scripts/*.script`: cases of statements and protocol commands on one or several connections), a road
//! straight to a database and a road through a proxy. **Out:** a transcript for each road, with everything that a
//! client can see (columns with their metadata, rows, OK and EOF fields, errors, numbers of packets), and where
//! the two differ.
//!
//! **Must never:** use the proxy's own understanding of a session to judge it. The client here is its own: only the
//! framing and the packets' fields come from `mysql-wire`. It must never hide a difference either: what is masked (ids,
//! values that a script marks as facts of a server) is masked by the script's own words.

pub mod auth;
pub mod client;
pub mod compare;
pub mod play;
pub mod render;
pub mod script;
pub mod servers;
pub mod text;
pub mod value;
