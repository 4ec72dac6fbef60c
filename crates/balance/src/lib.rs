//! Which application server gets a request.
//!
//! **In:** how each server stands (in service, unhealthy, draining) and which were already tried for this
//! request. **Out:** one of them, or none. [`round_robin`] is the rule in use and the file that decides.
//!
//! **Must never:** do I/O, read a clock or a random number, or know what a connection is. The same arguments
//! give the same answer, so that every choice can be replayed.

pub mod round_robin;

pub use round_robin::{Choice, RoundRobin, Standing, Tried};
