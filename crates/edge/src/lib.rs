//! The load balancer in front of the application: an HTTP/1.1 forwarder that knows the fleet, with HTTPS and HTTP/2
//! before it.
//!
//! **In:** visitors' connections, the fleet view. **Out:** each request to one application server (chosen by
//! `pontoon_balance::balancer`), its answer back, a report a second to the agent.
//!
//! One thread a core, each with its own listeners (`SO_REUSEPORT`), connections and pools; one control thread that
//! follows the view and checks the servers. The way of a request:
//! `worker` (accept) → `https` (TLS) → `http2` (streams, where it is spoken) → `connection` (head, keep-alive) →
//! [`http1`] (what is it, where does it end) → `forward` (which server, may it be tried again) → `exchange` (one try) →
//! `pipe` (bytes). `FAILURES.md` names what can go wrong and the test of each.
//!
//! **Must never:** pass on a message that two programs could read differently; send a request twice that may have
//! been carried out, unless its method may be repeated; begin an answer again once a byte of it is with the client;
//! ask the agent, or any other server, before it serves (P5); decide which servers exist.

mod access_log;
mod answer;
mod cache;
mod challenge;
mod clients;
mod compress;
mod connection;
mod control;
mod cookie;
mod dial;
mod exchange;
mod explain;
mod floors;
mod forward;
mod front;
mod handover;
mod health;
pub mod http1;
mod http2;
mod https;
mod io;
mod options;
mod own;
mod pages;
mod parking;
mod pipe;
mod proxy_protocol;
mod queue;
mod state;
mod stay;
mod uploads;
mod upstream;
mod worker;

pub use cache::CacheState;
pub use control::{run, run_until};
pub use explain::{Explanation, Question};
pub use options::{AccessLog, AccessLogFormat, AccessLogTo, EdgeError, EdgeOptions, Tuning};
pub use state::{EdgeState, ServerState, Stands};
