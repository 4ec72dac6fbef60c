//! A client's session: from an accepted client to routed, pooled statements.

mod route;
mod state;
