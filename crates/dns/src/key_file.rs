//! Reads the keys that messages are signed with from their file.

use std::path::Path;

use pontoon_rt::files;

use crate::tsig::{Keys, parse};

impl Keys {
    /// Reads a file as `tsig-keygen` (BIND) and `keymgr` (Knot) print it: `key "name" { algorithm hmac-sha256; secret
    /// "…"; };`, as often as wanted, with `#` and `//` comments.
    ///
    /// # Errors
    /// What is wrong with it, for people; never the secret.
    pub fn load(path: &Path) -> Result<Keys, String> {
        let at = |why: String| format!("{}: {why}", path.display());
        let bytes = files::read_limited(path, MAX_FILE)
            .map_err(|error| error.to_string())?
            .ok_or_else(|| at("there is no such file".to_owned()))?;
        let text = String::from_utf8(bytes).map_err(|_| at("it is not text".to_owned()))?;
        parse(&text).map_err(at)
    }
}

const MAX_FILE: u64 = 64 * 1024;
