//! What a process says about itself.
//!
//! **In:** tracing calls, numbers, [`EventKind`](pontoon_fleet::EventKind)s. **Out:** log lines on stderr ([`init`]),
//! the OpenMetrics text of [`metrics`], [`digests`] of statements, and the timeline of [`events`] in a file, in memory and live.
//!
//! **Must never:** stop or slow the process that it reports on: a full disk, a closed stderr and a slow reader lose
//! lines, not service.

pub mod digests;
pub mod events;
mod log;
pub mod metrics;

pub use log::{InitError, LogFormat, init};
