//! The lab: what the tests and `pontoon demo` stand on.
//!
//! **In:** a Linux machine, as root or as an ordinary user. **Out:** a fleet of "servers" made of namespaces
//! ([`Lab`], [`Server`]) with real databases ([`Mariadb`], [`Mysql`], [`Standalone`]), an application nobody here wrote
//! ([`wordpress`]) and a small one of our own ([`notes`]), visitors that keep a ledger of every acknowledged write
//! ([`Load`]), and faults: kill -9, freeze, power cut, cable out, two servers that do not see each other.
//!
//! **Must never:** touch the machine's own network, files or services; leave anything behind, however it ends; end a
//! process that it did not start; use Pontoon's own code to judge Pontoon (the HTTP client is its own).

pub mod app;
pub mod database;
pub mod datadirs;
mod demo_app;
mod enter;
mod error;
pub mod filter;
pub mod history;
pub mod http;
mod identity;
mod lab;
mod lease_store;
mod ledger;
mod load;
mod mysql;
pub mod notes;
mod phase;
pub mod proc;
mod process;
mod server;
mod testing;
mod wait;
pub mod wordpress;
mod workdir;

pub use app::{Visited, WriteId};
pub use database::{DatabaseOptions, LabDatabase, Mariadb, Standalone};
pub use demo_app::{DemoApp, Uploads};
pub use enter::{EnterOptions, Entered, INSIDE_VARIABLE, Inside, Outside, enter, namespaces_unavailable};
pub use error::{LabError, Skip};
pub use filter::Lost;
pub use identity::{found_fleet, identify};
pub use lab::Lab;
pub use lease_store::{LabStore, StoreKind};
pub use ledger::{Ledger, Reread};
pub use load::{Arrivals, HeldUp, Load, LoadOptions, LoadReport};
pub use mysql::Mysql;
pub use notes::Notes;
pub use phase::{PhaseSummary, Record};
pub use proc::ProcessId;
pub use process::{Process, Spawn};
pub use server::{Bind, Server};
pub use testing::{in_lab, say};
pub use wait::{find_program, free_port, run, wait_until};
pub use wordpress::WordPress;
pub use workdir::{BASE_VARIABLE, base_folder, existing as existing_labs};
