//! Pontoon's own account at the databases, as the agent wrote it down for the tiers.

use std::path::Path;

use pontoon_rt::files;
use serde::Deserialize;

use crate::auth::Secret;

/// More than the file has.
const MAX_FILE: u64 = 16 * 1024;

/// An account of the databases.
#[derive(Clone, Debug)]
pub struct Account {
    /// The user's name.
    pub user: Vec<u8>,
    /// What proves it.
    pub secret: Secret,
}

#[derive(Deserialize)]
struct OnDisk {
    user: String,
    password: String,
}

impl Account {
    /// Reads the account's file. Each time anew: the agent may give the account another password.
    ///
    /// # Errors
    /// Why there is none, without a word of what is in the file.
    pub fn read(path: &Path) -> Result<Account, String> {
        let bytes = files::read_limited(path, MAX_FILE)
            .map_err(|error| error.to_string())?
            .ok_or_else(|| format!("{} is not there yet", path.display()))?;
        let on_disk: OnDisk = serde_json::from_slice(&bytes)
            .map_err(|_| format!("{} is not what the agent writes", path.display()))?;
        Ok(Account {
            user: on_disk.user.into_bytes(),
            secret: Secret::password(on_disk.password.as_bytes()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_read_and_nothing_of_a_broken_one_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("account.json");
        assert!(Account::read(&path).unwrap_err().ends_with("is not there yet"));
        std::fs::write(&path, r#"{"user":"pontoon_sql","password":"geheim"}"#).unwrap();
        let account = Account::read(&path).unwrap();
        assert_eq!(account.user, b"pontoon_sql");
        assert!(!format!("{account:?}").contains("geheim"));
        std::fs::write(&path, r#"{"user":"pontoon_sql","password":"geheim""#).unwrap();
        assert!(!Account::read(&path).unwrap_err().contains("geheim"));
    }
}
