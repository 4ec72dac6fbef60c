//! The fleet's authoritative name server.
//!
//! **In:** queries over UDP and TCP, the fleet view, a zone file. **Out:** answers (made by `pontoon_zone`), a report a
//! second to the agent. What the zone holds follows from file and view alone ([`content`]), so every server of the
//! fleet answers the same.
//!
//! Blocking threads for UDP, one a core and listening address, each with a socket of its own (`SO_REUSEPORT`) and whole
//! batches of datagrams in one system call; tasks for TCP; one control thread that follows the view, watches the file
//! and swaps the snapshot that all of them answer from. `FAILURES.md` names what can go wrong.
//!
//! **Must never:** recurse; answer from a half-made zone; stop serving a good zone because a bad one came; decide which
//! addresses are well: that stands in the view.

pub mod content;
mod control;
mod file;
mod key_file;
mod notify;
mod shared;
mod signing;
mod tcp;
mod transfer;
mod tsig;
mod udp;
pub mod update;

pub use control::{DnsError, DnsOptions, run, run_until};
pub use signing::{BadKey, ZoneKey};
pub use tsig::Keys;
