//! Which application server gets a request.
//!
//! **In:** how each server stands (in service, unhealthy, draining), how much is under way on it and how long it takes
//! to answer, and which were already tried for this request. **Out:** one of them, or none. [`balancer`] is the file
//! that decides.
//!
//! **Must never:** do I/O, read a clock or a random number, or know what a connection is. The same arguments
//! give the same answer, so that every choice can be replayed.

pub mod balancer;
pub mod latency;
mod round_robin;
mod standing;

pub use balancer::{Balancer, Server};
pub use latency::Latency;
pub use standing::{Choice, Standing, Tried};
