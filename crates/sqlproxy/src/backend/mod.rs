//! The database's side: reaching it, and logging in.

mod conversation;
mod dial;
mod login;
mod secure;

pub use conversation::{Conversation, Said};
pub use dial::{AttemptError, Opened, attempt, attempt_as, connect_local};
pub use login::{Backend, Login, LoginError, SESSION_FLAGS, login};
