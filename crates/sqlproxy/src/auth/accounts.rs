//! What a database says of a user's accounts, and how the user can prove itself by it. Pure.

use aws_lc_rs::digest::{Context, SHA256};
use pontoon_mysql_wire::auth::{native, plugin};
use serde_json::Value;

use crate::target::Transport;

/// One account of a user, as a row of `mysql.user` (MySQL) or `mysql.global_priv` (MariaDB).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// From where: a pattern.
    pub host: Vec<u8>,
    /// How it can prove itself, each way by itself: a plugin, as it is called in the table, and what is stored for it.
    pub ways: Vec<(Vec<u8>, Vec<u8>)>,
    /// It is locked, its password has expired, it needs more than one proof, or what it may do in an hour is counted:
    /// for the database to say.
    pub special: bool,
    /// It demands TLS.
    pub tls: bool,
}

impl Account {
    /// A row of MariaDB's `mysql.global_priv`: host and JSON. `None` for a role.
    ///
    /// What is not understood is an account that only the database can judge.
    pub fn of_mariadb(host: &[u8], json: &[u8]) -> Option<Account> {
        let json: Value = serde_json::from_slice(json).unwrap_or(Value::Null);
        let flag = |name: &str| json.get(name).and_then(Value::as_bool).unwrap_or(false);
        if flag("is_role") {
            return None;
        }
        let text = |value: &Value, name: &str| {
            let text = value.get(name).and_then(Value::as_str).unwrap_or_default();
            text.as_bytes().to_vec()
        };
        let own = (text(&json, "plugin"), text(&json, "authentication_string"));
        // Each entry of `auth_or` is another way in; the empty one stands for the account's own.
        let ways = match json.get("auth_or").and_then(Value::as_array) {
            None => vec![own],
            Some(others) => others
                .iter()
                .map(|other| match other.get("plugin") {
                    None => own.clone(),
                    Some(_) => (text(other, "plugin"), text(other, "authentication_string")),
                })
                .collect(),
        };
        let number = |name: &str| json.get(name).and_then(Value::as_i64);
        // A password that never expires has a lifetime of 0; -1 and none are the server's default, which is never.
        let expires =
            number("password_last_changed") == Some(0) || number("password_lifetime").unwrap_or(-1) > 0;
        // What the proxy asks for itself, and how many connections it makes, is to be no more than the user's own.
        let limited = [
            "max_questions",
            "max_updates",
            "max_connections",
            "max_user_connections",
        ]
        .iter()
        .any(|limit| number(limit).unwrap_or(0) > 0);
        Some(Account {
            host: host.to_vec(),
            ways,
            special: flag("account_locked") || expires || limited || !json.is_object(),
            tls: number("ssl_type").unwrap_or(0) > 0,
        })
    }

    /// Whether a client that the database sees come by `transport` may be meant. It is the database that chooses among
    /// those that are; here it is enough to leave none out.
    pub fn may_be_of(&self, transport: Transport) -> bool {
        if self.host.contains(&b'%') || self.host.contains(&b'_') || self.host.is_empty() {
            return true;
        }
        match transport {
            Transport::Unix => self.host.eq_ignore_ascii_case(b"localhost"),
            // Names resolve to it, unless `skip_name_resolve` is set; masks may cover it.
            Transport::Tcp => {
                self.host.eq_ignore_ascii_case(b"localhost")
                    || self.host.starts_with(b"127.")
                    || self.host.contains(&b'/')
                    || self.host.contains(&b':')
            }
        }
    }
}

/// How a client is to prove itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// By an answer that is right for one of these hashes, or by an empty one where there is an account without a
    /// password.
    Native {
        /// The stored hashes.
        hashes: Vec<[u8; native::LEN]>,
        /// Whether there is an account without a password.
        empty: bool,
    },
    /// By its password, with which the proxy logs in.
    Password,
    /// By what the database itself asks of it.
    Relayed,
}

/// What is known of the user that a client says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// How it is to prove itself.
    pub method: Method,
    /// Whether connections for it need TLS.
    pub tls: bool,
    /// Another one whenever anything of its accounts has changed.
    pub version: [u8; 32],
}

/// Plugins that take a password which the proxy can pass on, as the table calls them.
const BY_PASSWORD: [&[u8]; 4] = [plugin::CACHING_SHA2, plugin::SHA256, b"ed25519", plugin::PARSEC];

impl Known {
    /// Of `user`, whose accounts these are, for a client that comes by `transport`. A user without an account goes the
    /// way of an account of the server's default plugin with a wrong password, so that nobody learns which it is.
    pub fn of(user: &[u8], accounts: &[Account], transport: Transport, default_plugin: &[u8]) -> Known {
        let mut context = Context::new(&SHA256);
        let mut put = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_le_bytes());
            context.update(bytes);
        };
        put(user);
        let mine = accounts
            .iter()
            .filter(|account| account.may_be_of(transport))
            .collect::<Vec<_>>();
        for account in &mine {
            put(&account.host);
            put(&[u8::from(account.special), u8::from(account.tls)]);
            for (plugin, stored) in &account.ways {
                put(plugin);
                put(stored);
            }
        }
        let mut version = [0; 32];
        version.copy_from_slice(context.finish().as_ref());
        let known = |method| Known {
            method,
            tls: mine.iter().any(|account| account.tls),
            version,
        };
        if mine.is_empty() {
            return known(if default_plugin == plugin::CACHING_SHA2 {
                Method::Password
            } else {
                Method::Native {
                    hashes: Vec::new(),
                    empty: false,
                }
            });
        }
        if mine.iter().any(|account| account.special) {
            return known(Method::Relayed);
        }
        let ways = || mine.iter().flat_map(|account| &account.ways);
        let natives = || {
            ways().filter(|(name, _)| {
                // A MariaDB of before 10.4 that was upgraded may have left the name out.
                name.is_empty() || name == plugin::NATIVE
            })
        };
        let hashes = natives()
            .filter_map(|(_, stored)| native::parse_stored(stored))
            .collect::<Vec<_>>();
        let empty = natives().any(|(_, stored)| stored.is_empty());
        if !hashes.is_empty() || empty {
            return known(Method::Native { hashes, empty });
        }
        let by_password = ways().all(|(name, _)| BY_PASSWORD.contains(&name.as_slice()));
        known(if by_password {
            Method::Password
        } else {
            Method::Relayed
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7";

    fn mariadb(json: &str) -> Account {
        Account::of_mariadb(b"localhost", json.as_bytes()).unwrap()
    }

    fn method(accounts: &[Account]) -> Method {
        Known::of(b"u", accounts, Transport::Unix, plugin::NATIVE).method
    }

    #[test]
    fn rows_of_mariadb_are_read() {
        // As 10.11 writes them.
        let usual = format!(
            r#"{{"access":0,"version_id":101119,"plugin":"mysql_native_password","authentication_string":"{HASH}","password_last_changed":1795392000}}"#
        );
        let hashes = vec![native::parse_stored(HASH.as_bytes()).unwrap()];
        let native = Method::Native { hashes, empty: false };
        assert_eq!(method(&[mariadb(&usual)]), native);
        let either = format!(
            r#"{{"plugin":"mysql_native_password","authentication_string":"{HASH}","auth_or":[{{}},{{"plugin":"unix_socket"}}]}}"#
        );
        assert_eq!(mariadb(&either).ways.len(), 2);
        assert_eq!(method(&[mariadb(&either)]), native);
        for (json, wanted) in [
            (
                r#"{"plugin":"ed25519","authentication_string":"x"}"#,
                Method::Password,
            ),
            (r#"{"plugin":"unix_socket"}"#, Method::Relayed),
            // A login that succeeds there is no proof: it may be the socket's.
            (
                r#"{"plugin":"ed25519","authentication_string":"x","auth_or":[{},{"plugin":"unix_socket"}]}"#,
                Method::Relayed,
            ),
            (
                r#"{"plugin":"mysql_native_password","authentication_string":"invalid"}"#,
                Method::Relayed,
            ),
            (r#"{"account_locked":true,"plugin":""}"#, Method::Relayed),
            (
                r#"{"password_last_changed":0,"plugin":"ed25519"}"#,
                Method::Relayed,
            ),
            (r#"{"password_lifetime":9,"plugin":"ed25519"}"#, Method::Relayed),
            ("{", Method::Relayed),
            (
                r#"{"access":1}"#,
                Method::Native {
                    hashes: vec![],
                    empty: true,
                },
            ),
        ] {
            assert_eq!(method(&[mariadb(json)]), wanted, "{json}");
        }
        assert_eq!(
            Account::of_mariadb(b"", br#"{"is_role":true}"#),
            None,
            "nobody logs in as a role"
        );
        assert!(mariadb(r#"{"ssl_type":1}"#).tls && !mariadb(r#"{"ssl_type":0}"#).tls);
    }

    #[test]
    fn accounts_of_elsewhere_do_not_count() {
        let account = |host: &str| Account {
            host: host.as_bytes().to_vec(),
            ways: vec![(b"ed25519".to_vec(), b"x".to_vec())],
            special: false,
            tls: false,
        };
        for (host, unix, tcp) in [
            ("localhost", true, true),
            ("%", true, true),
            ("127.0.0.1", false, true),
            ("127.0.0.0/255.0.0.0", false, true),
            ("::1", false, true),
            ("10.0.0.9", false, false),
            ("10.0.0.%", true, true),
            ("www.example.com", false, false),
        ] {
            assert_eq!(account(host).may_be_of(Transport::Unix), unix, "{host}");
            assert_eq!(account(host).may_be_of(Transport::Tcp), tcp, "{host}");
        }
    }

    #[test]
    fn an_unknown_user_goes_the_way_of_the_default_plugin() {
        let of = |default| Known::of(b"u", &[], Transport::Unix, default).method;
        assert_eq!(of(plugin::CACHING_SHA2), Method::Password);
        assert!(matches!(of(plugin::NATIVE), Method::Native { hashes, empty: false } if hashes.is_empty()));
    }

    #[test]
    fn any_change_of_an_account_is_another_version() {
        let one = |stored: &str| {
            let account = mariadb(&format!(
                r#"{{"plugin":"ed25519","authentication_string":"{stored}"}}"#
            ));
            Known::of(b"u", &[account], Transport::Unix, b"").version
        };
        assert_eq!(one("a"), one("a"));
        assert_ne!(one("a"), one("b"));
        assert_ne!(
            one("a"),
            Known::of(b"u", &[], Transport::Unix, b"").version,
            "dropped"
        );
    }
}
