//! Where a SQL statement may run.
//!
//! **In:** the bytes of a statement as a client sent them, and a [`Context`]: the server software, how it will read
//! quotes and bytes, and what the session has open. **Out:** a [`Verdict`]: route, reason, kind and the effects on the
//! session; [`assignments`] and [`used_database`] give what a session has to carry to another connection.
//!
//! **Must never:** do I/O, keep state, allocate on the way to a verdict, panic on any bytes, or say
//! [`Route::Replica`] about what is not provably a read without side effects. What is unknown goes to the primary:
//! an unknown function, keyword, byte, comment or mode. A wrong «primary» costs a little time; a wrong «replica»
//! costs an error, a lost lock or a wrong id.
//!
//! What a lexer cannot see is left to the servers: a view, a default or a trigger may call a stored function that
//! writes. Replicas are read-only and the proxy's accounts are unprivileged, so such a statement fails with error 1290
//! or 1792 before it has done anything, and may be sent to the primary then.
//!
//! How the servers read a statement is described in the MySQL 8.4 manual, chapter «Language Structure», sections
//! «String Literals», «Comments», «Function Name Parsing and Resolution» and «Keywords and Reserved Words», and in the
//! MariaDB Knowledge Base, pages «String Literals», «Comment Syntax», «Identifier Names» and «Reserved Words». Where
//! they are silent, both servers were asked: `tests/servers.rs` asks them again.

mod classify;
mod context;
mod digest;
mod effects;
mod kind;
mod lexer;
mod reason;
mod verdict;
mod words;

pub use classify::{
    Assignment, Assignments, Target, Value, assignments, classify, is_system_schema, must_not_be_replayed,
    used_database,
};
pub use context::{Charset, Context, Engine, SqlMode, Version};
pub use digest::digest;
pub use effects::Effects;
pub use kind::Kind;
pub use reason::Reason;
pub use verdict::{Previous, Route, Verdict};
pub use words::{built_in_functions, keywords_before_parentheses};
