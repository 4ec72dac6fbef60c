//! `pontoon helper`: the small root process beside the agent.
//!
//! **In:** about ten verbs ([`Request`]) over the Unix socket `<run>/helper.sock`, one JSON line each, from root and
//! the pontoon user only; what to work on stands in the root-written node file ([`Node`]). **Out:** one JSON line
//! ([`Reply`] or a refusal); `backup`, `dump`, `restore` and `load` go on with raw [`frame`]s on the same connection.
//!
//! **Must never:** take a path from a caller, delete anything of the user's (settings and data directories are
//! renamed), or decide anything: it does what it is told or says why not.
//!
//! What goes wrong, and the test that shows it: `tests/FAILURES.md`.

mod alone;
mod backup;
mod binlogs;
mod client;
mod cut;
mod dirs;
mod dump;
mod empty;
pub mod find;
mod foreign;
pub mod frame;
mod greeting;
mod hang_up;
mod load;
mod node;
mod prestart;
mod programs;
mod protocol;
mod recovery;
mod restore;
mod server;
mod settings;
#[cfg(test)]
mod testing;
mod unit;
mod walk;

pub use alone::{Alone, AloneAt};
pub use client::{HelperClient, RestoreSession};
pub use cut::Cut;
pub use dirs::{Incoming, IncomingState, aside_of};
pub use node::{DatabaseNode, Node, Run};
pub use prestart::may_start;
pub use programs::Lacks;
pub use protocol::{BackupOptions, BinlogFile, DatabaseState, DumpOptions, Moved, Reply, Request};
pub use server::{HelperOptions, run, serve};
pub use settings::{DatabaseSettings, Setting, TlsFiles};
