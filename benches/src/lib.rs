//! What several measurements share: programs that are started, pinned and looked at, and the words for the machine.

pub mod busy;
pub mod machine;
pub mod program;
