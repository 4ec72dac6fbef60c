//! The account by which SQL proxies learn how users prove themselves: it may read the table of accounts, from the
//! server itself, and nothing else.
//!
//! Its password follows from Pontoon's own, which all database servers of a fleet have, and does not tell it. So each
//! of them can make the file for its proxy, and whichever is primary the account, without asking anybody.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use pontoon_fleet::{Engine, Refusal};
use pontoon_rt::files::{self, FileError};
use pontoon_rt::paths::Paths;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::database::Database;

const USER: &str = "pontoon_sql";

/// How long the account may take to log in before it is made anew.
const LOGIN_PATIENCE: Duration = Duration::from_secs(10);

/// The account, as it stands in [`Paths::sql_account_file`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlAccount {
    user: String,
    password: String,
}

impl std::fmt::Debug for SqlAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SqlAccount({}, …)", self.user)
    }
}

impl SqlAccount {
    fn derived_from(database_password: &str) -> SqlAccount {
        let digest = Sha256::digest(format!("pontoon sql account 1\n{database_password}"));
        let digits: String = digest[..24].iter().map(|byte| format!("{byte:02x}")).collect();
        SqlAccount {
            user: USER.to_owned(),
            // What password policies want to see, after 192 bits of what they should.
            password: format!("{digits}-Aa1"),
        }
    }

    /// Writes it where this server's SQL proxy reads it: for the agent and the group of the folder, which is the
    /// tiers', and nobody else.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, paths: &Paths) -> Result<(), FileError> {
        let path = paths.sql_account_file();
        let text = serde_json::to_vec(self).map_err(|error| FileError::new(&path, "write", error.into()))?;
        files::write_atomic(&path, &text, 0o640)
    }

    /// What this server's SQL proxy reads; `None` when it has none that makes sense.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(paths: &Paths) -> Result<Option<SqlAccount>, FileError> {
        let text = files::read_limited(&paths.sql_account_file(), 4096)?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
    }
}

impl Database {
    /// Writes the account's file when it is not there as it should be. Repeatable.
    pub(crate) fn keep_sql_account(&self) -> Result<SqlAccount, Refusal> {
        let account = SqlAccount::derived_from(&self.password);
        if SqlAccount::load(&self.paths)?.as_ref() != Some(&account) {
            account.save(&self.paths)?;
        }
        Ok(account)
    }

    /// Makes the account on the primary when it does not work as it should; else nothing, which is not a transaction
    /// either.
    pub(crate) async fn create_sql_account(&self, account: &SqlAccount) -> Result<(), Refusal> {
        let table = match self.node().engine {
            Engine::Mysql => "mysql.user",
            _ => "mysql.global_priv",
        };
        if self.sql_account_works(account, table).await {
            return Ok(());
        }
        let SqlAccount { user, password } = account;
        self.control
            .run(&[
                format!("CREATE USER IF NOT EXISTS '{user}'@'localhost' IDENTIFIED BY '{password}'"),
                format!("ALTER USER '{user}'@'localhost' IDENTIFIED BY '{password}'"),
                format!("GRANT SELECT ON {table} TO '{user}'@'localhost'"),
            ])
            .await
    }

    async fn sql_account_works(&self, account: &SqlAccount, table: &str) -> bool {
        let options = OptsBuilder::default()
            .socket(Some(self.backend_socket().to_string_lossy()))
            .user(Some(&account.user))
            .pass(Some(&account.password))
            .prefer_socket(false);
        let asks = async {
            let mut conn = Conn::new(options).await?;
            conn.query_drop(format!("SELECT 1 FROM {table} LIMIT 1")).await?;
            conn.disconnect().await
        };
        matches!(tokio::time::timeout(LOGIN_PATIENCE, asks).await, Ok(Ok(())))
    }
}

/// Takes the account away from this server, in a session that does not tell the others.
pub(crate) const DROP: &str = "DROP USER IF EXISTS `pontoon_sql`@`localhost`";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_password_is_the_same_everywhere_and_does_not_tell_pontoons_own() {
        let account = SqlAccount::derived_from("0123456789abcdef");
        assert_eq!(account, SqlAccount::derived_from("0123456789abcdef"));
        assert_ne!(account, SqlAccount::derived_from("0123456789abcdeg"));
        assert!(!account.password.contains("0123456789abcdef") && account.password.len() == 52);
        assert!(!format!("{account:?}").contains(&account.password));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        assert!(account.password.chars().all(plain), "it goes into a statement");
    }

    #[test]
    fn the_file_is_for_the_tiers_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        paths.create_dirs().unwrap();
        assert_eq!(SqlAccount::load(&paths).unwrap(), None);
        let account = SqlAccount::derived_from("x");
        account.save(&paths).unwrap();
        assert_eq!(SqlAccount::load(&paths).unwrap(), Some(account));
        let mode = std::fs::metadata(paths.sql_account_file())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o640);
        std::fs::write(paths.sql_account_file(), "{").unwrap();
        assert_eq!(SqlAccount::load(&paths).unwrap(), None);
    }
}
