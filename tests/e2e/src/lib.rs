//! The checks of the repository's own structure, as functions that the tests in `tests/` call; and [`fleet`], a fleet on
//! the lab that is driven through the command line.
//!
//! **In:** the dependency graph, source texts and documents. **Out:** a line for each violation, saying where it
//! is and which rule it breaks. **Must never:** be a dependency of anything but tests.
//!
//! They live in a library, so that each check is itself tested with made-up input: a check that never fails
//! proves nothing.

pub mod addresses;
pub mod authority;
pub mod documents;
pub mod fleet;
pub mod keepalived;
pub mod layers;
pub mod rounds;
pub mod source;
pub mod under_load;

use std::path::{Path, PathBuf};

/// The top of the repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}
