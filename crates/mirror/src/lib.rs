//! What becomes of a file that several servers have.
//!
//! **In:** what was found on this server's disk, what other servers offer, the time. **Out:** which [`Version`] counts, whether
//! it must be fetched, whether what it replaces is kept as a conflict, whether deletions are believed.
//!
//! **Must never:** let a version win that the one in place has seen; forget a loser; take an empty folder for the wish to
//! delete everything; touch a file, a clock or a socket.
//!
//! The rules, each of which the simulation (`simulation/`) takes out in turn and must miss:
//! - Every change of a path gets a version: a hybrid logical clock and the server's name ([`clock`]). The later one wins.
//! - A version says what it has seen of each server. What wins without having seen what it replaces was made beside it: the
//!   loser is kept as a conflict. What has seen it replaces it, and the old one goes to the trash.
//! - A server originates a deletion only of what it had in place itself, so one that joins originates none, and only while
//!   the folder is the one that it knows.
//! - A change is as new as the moment in which it was seen, not as the time that stands on the file: an old file that is
//!   restored wins over what it replaces.
//! - What is found before the first look around is over counts as old as the file says, not as new as the server is.
//! - Many deletions in a short time are held until somebody confirms them ([`brake`]). A file whose content is at another
//!   place is moved, not deleted, and counts for nothing.
//! - A tombstone is forgotten when it is old and everybody has heard of it.

pub mod brake;
pub mod clock;
pub mod digest;
pub mod media;
pub mod names;
pub mod record;

#[cfg(test)]
mod record_tests;
#[cfg(test)]
mod simulation;

pub use brake::Brake;
pub use clock::{Clock, Stamp, Version};
pub use digest::Digest;
pub use record::{Content, Entry, Look, Observed, Offered, Record, Wanted, What};
