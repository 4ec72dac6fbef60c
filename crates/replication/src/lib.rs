//! The database tier: an existing MariaDB or MySQL becomes one of two.
//!
//! **In:** what runs on the machine ([`detect`]), the settings that a role needs ([`Wanted`]), a source's
//! [`SourceTicket`] and a stream of its data. **Out:** the database moved aside and back, a copy that follows its
//! source by GTID over TLS, a [`pontoon_fleet::DatabaseReport`] with the lag; the work of a change of the primary, carried
//! out ([`work`]); what a replica holds otherwise than its primary ([`check`]), and a stopped one got going ([`repair`]).
//!
//! The engines differ in words, not in what is done: [`Flavor`] is pure text in and text out, [`Control`] carries it
//! to the server over its Unix socket, [`Database`] is the order of steps.
//!
//! **Must never:** write a row of the user's (but where an operator lets [`repair`] put a replica's right), start a copy or a rename that cannot be repeated after a kill, or wait
//! on a replica while it holds a lock on the source.
//!
//! What goes wrong, and the test that shows it: `tests/FAILURES.md`.

mod adopt;
mod backup;
pub mod check;
mod checksum;
mod clone;
mod control;
mod database;
pub mod detect;
mod dump;
mod flavor;
mod mariadb;
mod method;
mod mysql;
mod recipe;
pub mod repair;
mod reseed;
mod secret;
mod sql_account;
mod version;
pub mod work;

pub use adopt::{AskOrigin, Origin, OriginAsk, adoptable};
pub use backup::OpenBackup;
pub use checksum::{Checksums, Difference, differences};
pub use clone::{CloneProgress, CloneState, CloneStep, Joiner, SourceTicket};
pub use control::{Control, Row, Session};
pub use database::{Database, MovedAside, Place};
pub use detect::{Detected, detect};
pub use flavor::{Account, Flavor, ReplicaStatus, Source, Wanted, flavor_of};
pub use method::{Means, Method, Wish};
pub use recipe::Recipe;
pub use reseed::{Copying, Errant, ErrantTransaction, Exported};
pub use secret::new_server_id;
pub use sql_account::SqlAccount;
pub use version::Version;
