//! What this server's disk says about its membership, for when no agent runs: read and begun by `pontoon init`, `plan`
//! and `apply`.

use pontoon_fleet::{Refusal, ServerName};
use pontoon_rt::paths::Paths;

use crate::store::Store;

/// Whether this server never had an active configuration.
///
/// # Errors
/// N006 when the file is there and cannot be used.
pub fn nothing_applied(paths: &Paths) -> Result<bool, Refusal> {
    Ok(Store::new(paths).active()?.is_none())
}

/// Makes `founder` the server that decides changes of the configuration: the first of a new fleet.
///
/// # Errors
/// N006 when it cannot be written.
pub fn found(paths: &Paths, founder: &ServerName) -> Result<(), Refusal> {
    Store::new(paths).save_keeper(founder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_founder_keeps_the_configuration_and_has_none_yet() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        paths.create_dirs().unwrap();
        let founder: ServerName = "a".parse().unwrap();
        found(&paths, &founder).unwrap();
        assert_eq!(Store::new(&paths).keeper().unwrap(), Some(founder));
        assert!(nothing_applied(&paths).unwrap());
        std::fs::write(paths.state_dir.join("active.json"), "torn").unwrap();
        assert!(nothing_applied(&paths).is_err());
    }
}
