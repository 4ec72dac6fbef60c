//! Connections to databases: few, for many clients.
//!
//! A client and the connections it uses are on one thread. `shelf` holds what nobody of the thread uses, `places`
//! counts what the whole process may have at each server, `connection` is one of them, and `thread` finds one for who
//! needs one: its own, a free one, a new one, somebody's who does not use it, or the next that is given back.

pub mod connection;
mod line;
mod places;
mod shelf;
mod thread;

pub use connection::{Connection, Identity, LastInsertId, Owner};
pub use shelf::{Left, Token};
pub use thread::{Database, Directory, Need, NoConnection, Thread};
