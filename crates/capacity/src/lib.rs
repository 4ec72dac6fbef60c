//! Where a server breaks: the highest rate of requests that keeps an objective, and how sure that is.
//!
//! **In:** an [`Objective`], what came of the rates that were offered, and a seed. **Out:** which rate to offer next
//! ([`search`]), a limit with its interval ([`regression`]), a [`Verdict`]. [`models`] are servers whose limit is known, in
//! virtual time: the search is judged with them.
//!
//! **Must never:** read a clock, send anything, or give a number without its interval (P9).

mod dice;
mod latencies;
pub mod models;
pub mod objective;
pub mod regression;
pub mod search;
mod verdict;

#[cfg(test)]
mod search_tests;

pub use dice::Dice;
pub use latencies::Latencies;
pub use objective::{Objective, Outcome, Term};
pub use regression::Interval;
pub use verdict::{Itself, Verdict};
