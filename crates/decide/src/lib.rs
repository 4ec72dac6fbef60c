//! Decisions, as pure functions and state machines.
//!
//! **In:** configurations, observations, the present moment. **Out:** the [`FleetView`](pontoon_fleet::FleetView)
//! that tiers obey ([`view`]), the [`Plan`](plan::Plan) of what a new configuration would change on which server
//! ([`plan`]), whether a thing that is checked again and again counts as healthy ([`health`]), which addresses visitors are sent to ([`addresses`]), how all servers
//! take up a new configuration or none ([`change`]), who may be primary when servers die ([`failover`]), and who holds
//! their public addresses ([`address`]).
//!
//! **Must never:** do I/O, read a clock, start a thread or draw a random number. What is needed is an argument; so
//! every decision can be simulated, and a failing case replayed from its seed.

pub mod address;
pub mod addresses;
pub mod cache;
pub mod change;
pub mod facts;
pub mod failover;
pub mod health;
pub mod plan;
pub mod routing;
pub mod view;

pub use change::digest;
pub use facts::{DatabaseFacts, ListenerFact, RunBy, ServerFacts, Tools};
pub use plan::{Plan, plan};
pub use view::{Observed, ViewInputs, compose};
