//! Which application server gets a request.
//!
//! **In:** how each server stands (in service, unhealthy, left out, draining), its weight, how much is under way on it and
//! how long it takes to answer, and which were already tried for this request. **Out:** one of them, or that the request
//! has to wait, or none. [`balancer`] is the file that decides.
//!
//! **Must never:** do I/O, read a clock or a random number, or know what a connection is. The same arguments
//! give the same answer, so that every choice can be replayed.

pub mod balancer;
pub mod latency;
pub mod outliers;
mod round_robin;
mod standing;
pub mod weights;

pub use balancer::{Asked, Balancer, Rules, Server, Verdict};
pub use latency::Latency;
pub use standing::{Choice, Standing, Tried};
