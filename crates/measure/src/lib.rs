//! How much a server bears: an open-loop load over HTTP, and the search for the limit with it.
//!
//! **In:** a [`Target`], an objective, a rate or the wish to find one. **Out:** a [`Report`] with a verdict, percentiles that
//! count from when each request was due, and a limit with its interval; or a refusal before the first request.
//! [`ratebox`] serves like a server whose limit is known, and [`selftest`] holds the search against it.
//!
//! **Must never:** send anything to another host than the one that was named (redirections are not followed), repeat a
//! request that may have been carried out, or hide that the generator itself was too slow.

pub mod compare;
mod engine;
mod html;
mod http1;
mod http2;
mod pace;
mod plot;
pub mod ratebox;
mod report;
mod run;
pub mod selftest;
mod target;

pub use html::page;
pub use report::{Percentiles, Recovery, Report, Second, Totals};
pub use run::{Plan, Progress, Wanted, run};
pub use target::{Place, Target};
