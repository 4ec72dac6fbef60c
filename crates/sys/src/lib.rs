//! The kernel's side of moving addresses, and of files that are written to.
//!
//! **In:** addresses, interfaces, a lifetime. **Out:** addresses that the kernel has and drops by itself when the lifetime
//! ends ([`netlink`]), announcements and questions on the local network ([`Link`], [`frame`]), echoes of a gateway
//! ([`Echoes`]). Whether somebody writes to a file ([`is_written_to`]).
//!
//! **Must never:** decide anything; touch an address or a route that it was not told of; wait for anybody but the kernel.
//!
//! It is the one crate that may contain `unsafe`, where the safe wrappers of system calls do not reach: for leases on files.

mod echo;
pub mod frame;
mod link;
pub mod netlink;
mod writers;

pub use echo::{Echo, Echoes};
pub use link::{Interface, Link, interfaces};
pub use writers::is_written_to;
