//! Logging in to real databases in a client's place, and to some that lie.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

mod support;

use std::time::Duration;

use pontoon_mysql_wire::auth::native;
use pontoon_mysql_wire::{Capabilities, OkPacket, encode_packet};
use pontoon_sqlproxy::auth::Secret;
use pontoon_sqlproxy::backend::{Backend, Login, LoginError, login};
use pontoon_sqlproxy::target::Transport;
use support::database::{Database, Engine, Refused, account};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMIT: Duration = Duration::from_secs(5);

fn as_user<'a>(user: &'a str, secret: &'a Secret) -> Login<'a> {
    Login {
        user: user.as_bytes(),
        secret,
        database: None,
        capabilities: Capabilities::MULTI_STATEMENTS | Capabilities::FOUND_ROWS,
        collation: 45,
        attributes: &[],
        tls: false,
    }
}

/// Asks `SELECT CONCAT(…)` and finds the text in what comes.
async fn ask(backend: &mut Backend, query: &str) -> String {
    let mut bytes = Vec::new();
    encode_packet(&mut bytes, 0, &[b"\x03", query.as_bytes()].concat());
    backend.peer.write_all(&bytes).await.unwrap();
    let mut heard = vec![0; 4096];
    let count = tokio::time::timeout(LIMIT, backend.peer.read(&mut heard))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8_lossy(&heard[..count]).into_owned()
}

async fn every_account_gets_in(database: &Database) {
    for plugin in &database.plugins {
        let name = account(plugin);
        for transport in [Transport::Unix, Transport::Tcp] {
            let right = Secret::password(b"pw");
            let mut secrets = vec![right.clone()];
            if *plugin == "mysql_native_password" {
                secrets.push(Secret::Sha1(native::hash(b"pw")));
            }
            for secret in &secrets {
                let what = format!("{plugin} over {transport:?} with {secret:?}");
                let mut wanted = as_user(name, secret);
                wanted.database = Some(b"app");
                let mut backend = login(database.open(transport).await, &wanted, LIMIT)
                    .await
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(backend.capabilities.has(
                    Capabilities::DEPRECATE_EOF | Capabilities::SESSION_TRACK | Capabilities::FOUND_ROWS
                ));
                OkPacket::parse(&backend.ok, backend.capabilities).unwrap();
                let said = ask(
                    &mut backend,
                    "SELECT CONCAT(CURRENT_USER(), '/', DATABASE(), '/', CONNECTION_ID(), '/')",
                )
                .await;
                let host = if transport == Transport::Unix {
                    "localhost"
                } else {
                    "127.0.0.1"
                };
                let line = format!("{name}@{host}/app/{}/", backend.thread_id);
                assert!(said.contains(&line), "{what}: {said}");
            }
            if *plugin == "ed25519" {
                continue; // MariaDB lets nobody in by it who has no password
            }
            let name = format!("{name}_empty");
            login(
                database.open(transport).await,
                &as_user(&name, &Secret::Empty),
                LIMIT,
            )
            .await
            .unwrap_or_else(|error| panic!("{name} over {transport:?}: {error}"));
        }
    }
}

async fn refusals_are_the_databases_own(database: &Database) {
    for plugin in &database.plugins {
        let name = account(plugin);
        for transport in [Transport::Unix, Transport::Tcp] {
            for (user, password, schema) in [
                (name, "wrong", ""),
                (name, "", ""),
                ("nobody", "pw", ""),
                (name, "pw", "nowhere"),
                (name, "pw", "secret"),
            ] {
                let secret = Secret::password(password.as_bytes());
                let mut wanted = as_user(user, &secret);
                wanted.database = Some(schema.as_bytes()).filter(|schema| !schema.is_empty());
                let ours = match login(database.open(transport).await, &wanted, LIMIT).await {
                    Err(LoginError::Refused(error)) => Refused::from(error),
                    other => panic!("{user} {password} {schema}: {other:?}"),
                };
                if matches!(*plugin, "ed25519" | "parsec") {
                    // The library that says it directly knows neither.
                    assert!(matches!(ours.code, 1044 | 1045 | 1049), "{ours:?}");
                    continue;
                }
                if user == "nobody" {
                    // To those whom they do not know servers name plugins that the library does not know.
                    let host = if transport == Transport::Unix {
                        "localhost"
                    } else {
                        "127.0.0.1"
                    };
                    let text = format!("Access denied for user 'nobody'@'{host}' (using password: YES)");
                    assert_eq!((ours.code, ours.text), (1045, text));
                    continue;
                }
                let direct = database
                    .says(user, password, schema, transport)
                    .await
                    .unwrap_err();
                assert_eq!(ours, direct, "{user} {password} {schema}");
            }
        }
    }
}

async fn an_account_that_demands_tls_gets_in_with_it_only(database: &Database) {
    for plugin in &database.plugins {
        let name = format!("{}_tls", account(plugin));
        let secret = Secret::password(b"pw");
        let mut wanted = as_user(&name, &secret);
        let refused = login(database.open(Transport::Tcp).await, &wanted, LIMIT).await;
        assert!(matches!(refused, Err(LoginError::Refused(error)) if error.code == 1045));
        wanted.tls = true;
        let mut backend = login(database.open(Transport::Tcp).await, &wanted, LIMIT)
            .await
            .unwrap();
        assert!(backend.tls);
        let said = ask(&mut backend, "SHOW SESSION STATUS LIKE 'Ssl_version'").await;
        assert!(said.contains("TLSv1.3"), "{said}");
    }
}

#[tokio::test]
async fn mariadb_lets_every_kind_of_account_in_and_refuses_in_its_own_words() {
    let Some(database) = Database::start(Engine::Mariadb).await else {
        return;
    };
    every_account_gets_in(&database).await;
    refusals_are_the_databases_own(&database).await;
    an_account_that_demands_tls_gets_in_with_it_only(&database).await;
    if database.plugins.contains(&"ed25519") {
        let secret = Secret::Sha1(native::hash(b"pw"));
        let refused = login(
            database.open(Transport::Tcp).await,
            &as_user("edwards", &secret),
            LIMIT,
        )
        .await;
        assert!(matches!(refused, Err(LoginError::Plugin(name)) if name == "client_ed25519"));
    }
}

#[tokio::test]
async fn mysql_lets_every_kind_of_account_in_and_refuses_in_its_own_words() {
    let Some(database) = Database::start(Engine::Mysql).await else {
        return;
    };
    // The server's cache knows nobody yet: the password itself is wanted, over TCP under its RSA key.
    for transport in [Transport::Tcp, Transport::Unix] {
        database.execute(&["FLUSH PRIVILEGES"]).await;
        let secret = Secret::password(b"pw");
        login(database.open(transport).await, &as_user("sha", &secret), LIMIT)
            .await
            .unwrap();
    }
    every_account_gets_in(&database).await;
    refusals_are_the_databases_own(&database).await;
    an_account_that_demands_tls_gets_in_with_it_only(&database).await;
}
