//! Rounds of faults on a fleet of two under writes: what happens, how it is played, and what is said of all rounds.

mod fault;
mod play;
mod tally;

pub use fault::Fault;
pub use play::Scene;
pub use tally::{Round, Tally};

use std::os::unix::fs::MetadataExt;

use pontoon_testkit::Server;

/// What tells one copy of a server's database from another: a new copy has new files.
pub fn copy_of(server: &Server) -> Option<u64> {
    let file = server.dir().join("var-lib/mysql/ibdata1");
    std::fs::metadata(file).ok().map(|metadata| metadata.ino())
}
