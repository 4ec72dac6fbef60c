//! Who may be primary, carried out on one server: the shell around `pontoon_decide::failover`.
//!
//! **In:** the configuration, the record in the lease store, the own database, what the other database servers say, an
//! operator's word. **Out:** the lease as the view has it, work for the database (`Works`), events, a report for peers.
//!
//! `driver` says which answer is which event and which effect is which request, and is pure. `task` is the loop that does
//! what follows. `remembered` is what must survive the agent; `desk` is where the rest of the agent meets the task;
//! `line` is the way to the other agents; `hold` has the SQL proxies begin nothing new before a hand-over; `setup` reads the configuration; `orders` takes an operator's word to the
//! server that it is for; `stepping` is what a replica does before it leaves; `probe` finds out before anything depends on it whether a store is fit.
//!
//! **Must never:** decide; do anything behind a thing to be remembered before that is on the disk; take a damaged file
//! for a new server's; start a database that the record does not allow to run.

mod deadline;
mod desk;
mod driver;
#[cfg(test)]
mod fleet_tests;
pub(crate) mod hold;
mod line;
mod orders;
pub(crate) mod probe;
mod remembered;
mod run;
mod setup;
mod stepping;
mod task;

pub(crate) use deadline::Deadlines;
pub(crate) use desk::Desk;
pub use desk::{FailoverReport, Told};
pub(crate) use line::{answer, asked, changed, halted, here};
pub(crate) use orders::{order, order_here, reports, words as why_words};
pub(crate) use run::{at_end, at_rest, run, worker};
pub(crate) use setup::{is_shared, takes_part};
pub(crate) use stepping::{step_back, step_out};
