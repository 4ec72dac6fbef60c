//! Clients at the proxy's door: who is let in, who is not, and what they are told. On real databases, and compared
//! with what those say themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

mod support;

use mysql_async::prelude::Queryable;
use support::database::{Database, Engine, Refused, Road, account, visit, visit_as_c};
use support::door::Door;

/// The host that the database sees.
fn host(road: &Road) -> &'static str {
    match road {
        Road::Unix(_) => "localhost",
        Road::Tcp(_) | Road::Tls(_) => "127.0.0.1",
    }
}

/// The way to the database itself that is like this one to the door.
fn directly(database: &Database, road: &Road) -> Road {
    match road {
        Road::Unix(_) => Road::Unix(database.socket()),
        Road::Tcp(_) => Road::Tcp(database.tcp()),
        Road::Tls(_) => Road::Tls(database.tcp()),
    }
}

/// A client of the tests.
#[derive(Clone, Copy, Debug)]
struct Client {
    engine: Engine,
    /// The command-line client; otherwise `mysql_async`, which knows neither TLS nor MariaDB's plugins.
    c: bool,
}

impl Client {
    /// Those that know the plugin and the road.
    fn all(engine: Engine, plugin: &str, road: &Road) -> Vec<Client> {
        let able = !matches!(plugin, "ed25519" | "parsec") && !matches!(road, Road::Tls(_));
        [true, false]
            .into_iter()
            .filter(|c| *c || able)
            .map(|c| Client { engine, c })
            .collect()
    }

    /// `None` where there is no such client.
    async fn visit(
        self,
        user: &str,
        password: &str,
        schema: &str,
        road: &Road,
    ) -> Option<Result<String, Refused>> {
        match self.c {
            true => visit_as_c(self.engine, user, password, schema, road).await,
            false => Some(visit(user, password, schema, road).await),
        }
    }

    async fn let_in(self, user: &str, password: &str, schema: &str, road: &Road) {
        match self.visit(user, password, schema, road).await {
            None => {}
            Some(Ok(found)) => assert_eq!(found, format!("{user}@{}/{schema}", host(road))),
            Some(Err(refused)) => {
                panic!("{self:?} {user} {password:?} {schema:?} over {road:?}: {refused:?}")
            }
        }
    }

    /// Refused by the door in the words of the database.
    async fn refused(
        self,
        database: &Database,
        user: &str,
        password: &str,
        schema: &str,
        road: &Road,
    ) -> Option<u16> {
        let direct = directly(database, road);
        let (ours, own) = (
            self.visit(user, password, schema, road).await?,
            self.visit(user, password, schema, &direct).await?,
        );
        match (ours, own) {
            (Err(ours), Err(own)) => {
                assert_eq!(ours, own, "{self:?} {user} {password:?} {schema:?} over {road:?}");
                Some(ours.code)
            }
            (ours, own) => {
                panic!("{self:?} {user} {password:?} {schema:?} over {road:?}: {ours:?}, directly {own:?}")
            }
        }
    }
}

async fn everybody(database: &Database, door: &Door) {
    for plugin in &database.plugins {
        let name = account(plugin);
        let (passwordless, demanding) = (format!("{name}_empty"), format!("{name}_tls"));
        for road in door.roads() {
            for client in Client::all(database.engine, plugin, &road) {
                // Twice: the second time MySQL's kind of account goes the fast way.
                for _ in 0..2 {
                    client.let_in(name, "pw", "", &road).await;
                    client.let_in(name, "pw", "app", &road).await;
                }
                if *plugin != "ed25519" {
                    client.let_in(&passwordless, "", "app", &road).await;
                    client.refused(database, &passwordless, "x", "", &road).await;
                }
                for (password, schema) in [
                    ("wrong", ""),
                    ("", ""),
                    ("pw", "nowhere"),
                    ("pw", "secret"),
                    ("wrong", "nowhere"),
                ] {
                    client.refused(database, name, password, schema, &road).await;
                }
                if client.c || database.engine == Engine::Mariadb {
                    for (user, password) in [("nobody", "pw"), ("nobody", ""), ("noone", "pw")] {
                        client.refused(database, user, password, "", &road).await;
                    }
                }
                match road {
                    Road::Tls(_) => client.let_in(&demanding, "pw", "app", &road).await,
                    _ => drop(client.refused(database, &demanding, "pw", "app", &road).await),
                }
            }
        }
    }
}

/// What changes counts for the next login.
async fn changes_count_at_once(database: &Database, door: &Door, plugin: &str, set: impl Fn(&str) -> String) {
    let mut root = database.root().await;
    database.create(&mut root, "changing", plugin, "one", "").await;
    let both = ["localhost", "127.0.0.1"];
    for road in door.roads() {
        for client in Client::all(database.engine, plugin, &road) {
            client.let_in("changing", "one", "app", &road).await;
            root.query_drop(set("two")).await.unwrap();
            client.refused(database, "changing", "one", "", &road).await;
            client.let_in("changing", "two", "app", &road).await;
            client.let_in("changing", "two", "app", &road).await;
            root.query_drop(set("one")).await.unwrap();
            for (change, code) in [("ACCOUNT LOCK", [3118, 4151]), ("ACCOUNT UNLOCK", [0, 0])] {
                for host in both {
                    root.query_drop(format!("ALTER USER changing@'{host}' {change}"))
                        .await
                        .unwrap();
                }
                if code[0] == 0 {
                    client.let_in("changing", "one", "app", &road).await;
                } else if let Some(refused) = client.refused(database, "changing", "one", "", &road).await {
                    // ER_ACCOUNT_HAS_BEEN_LOCKED of MySQL and of MariaDB.
                    assert!(code.contains(&refused), "{refused}");
                }
            }
        }
    }
    for host in both {
        root.query_drop(format!("DROP USER changing@'{host}'"))
            .await
            .unwrap();
    }
    for road in door.roads() {
        let client = Client {
            engine: database.engine,
            c: true,
        };
        client.refused(database, "changing", "one", "", &road).await;
    }
}

#[tokio::test]
async fn mariadbs_users_get_in_as_without_the_proxy() {
    let Some(database) = Database::start(Engine::Mariadb).await else {
        return;
    };
    let door = Door::before(&database).await;
    everybody(&database, &door).await;
    let (bound, ..) = door.seen();
    assert_eq!(bound, 0, "everybody can share connections");
    let plugins = database.plugins.clone();
    for plugin in plugins.into_iter().filter(|plugin| *plugin != "parsec") {
        changes_count_at_once(&database, &door, plugin, |password| {
            format!(
                "ALTER USER changing@localhost IDENTIFIED VIA {plugin} USING PASSWORD('{password}'), \
                 changing@'127.0.0.1' IDENTIFIED VIA {plugin} USING PASSWORD('{password}')"
            )
        })
        .await;
    }
}

#[tokio::test]
async fn mysqls_users_get_in_as_without_the_proxy() {
    let Some(database) = Database::start(Engine::Mysql).await else {
        return;
    };
    let door = Door::before(&database).await;
    everybody(&database, &door).await;
    let (bound, _, fast) = door.seen();
    assert_eq!(bound, 0, "everybody can share connections");
    assert!(fast > 0, "the second login is fast");
    changes_count_at_once(&database, &door, "caching_sha2_password", |password| {
        format!(
            "ALTER USER changing@localhost IDENTIFIED BY '{password}', changing@'127.0.0.1' IDENTIFIED BY '{password}'"
        )
    })
    .await;
}

#[tokio::test]
async fn without_an_account_of_its_own_the_proxy_has_the_database_ask() {
    let Some(database) = Database::start(Engine::Mariadb).await else {
        return;
    };
    let door = Door::with_account(&database, std::path::Path::new("/nonexistent")).await;
    let [unix, tcp, _] = door.roads();
    for road in [unix, tcp] {
        let client = Client {
            engine: Engine::Mariadb,
            c: false,
        };
        client.let_in("native", "pw", "app", &road).await;
        client.let_in("native_empty", "", "", &road).await;
        for (user, password) in [("native", "wrong"), ("native", ""), ("nobody", "pw")] {
            client.refused(&database, user, password, "", &road).await;
        }
    }
    assert_eq!(door.seen(), (4, 0, 0), "each has a connection of its own");
}

#[tokio::test]
async fn nobody_gets_in_as_the_system_user_of_the_proxy() {
    let Some(database) = Database::start(Engine::Mariadb).await else {
        return;
    };
    let me = rustix::process::geteuid();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let of_me = passwd
        .lines()
        .find(|line| line.split(':').nth(2) == Some(&me.as_raw().to_string()));
    let name = of_me.unwrap().split(':').next().unwrap().to_owned();
    let door = Door::before(&database).await;
    let [unix, ..] = door.roads();
    let direct = Road::Unix(database.socket());
    // Before `root` changes: the connection stays.
    let mut root = database.root().await;
    let socket = "unix_socket";
    for (ways, passwords) in [
        (socket.to_owned(), &["", "x", "pw"][..]),
        (
            format!("{socket} OR mysql_native_password USING PASSWORD('pw')"),
            &["", "x"],
        ),
        (format!("{socket} OR ed25519 USING PASSWORD('pw')"), &["", "x"]),
    ] {
        if ways.contains("ed25519") && !database.plugins.contains(&"ed25519") {
            continue;
        }
        let statement = format!("CREATE OR REPLACE USER '{name}'@localhost IDENTIFIED VIA {ways}");
        root.query_drop(statement).await.unwrap();
        assert!(
            visit(&name, "x", "", &direct).await.is_ok(),
            "the system user needs no password"
        );
        for password in passwords {
            let client = Client {
                engine: Engine::Mariadb,
                c: true,
            };
            let refused = client.visit(&name, password, "", &unix).await;
            let code = refused.map(|refused| refused.unwrap_err().code);
            assert!(
                matches!(code, None | Some(1045 | 1698)),
                "{ways} {password:?}: {code:?}"
            );
        }
        if ways.contains("native") {
            assert_eq!(
                visit(&name, "pw", "", &unix).await.unwrap(),
                format!("{name}@localhost/")
            );
        }
    }
}

/// What COM_CHANGE_USER says of a client that has logged in.
#[tokio::test]
async fn a_client_becomes_another_user() {
    let Some(database) = Database::start(Engine::Mariadb).await else {
        return;
    };
    let mut root = database.root().await;
    database
        .create(&mut root, "other", "mysql_native_password", "pw2", "")
        .await;
    let door = Door::before(&database).await;
    let opts = |user: &str, password: &str| {
        mysql_async::OptsBuilder::default()
            .user(Some(user.to_owned()))
            .pass(Some(password.to_owned()))
            .socket(Some(door.socket.to_string_lossy()))
    };
    let mut conn = mysql_async::Conn::new(opts("native", "pw")).await.unwrap();
    let change = |user: &str, password: &str| {
        mysql_async::ChangeUserOpts::default()
            .with_user(Some(user.to_owned()))
            .with_pass(Some(password.to_owned()))
            .with_db_name(Some("app".to_owned()))
    };
    for (user, password) in [("other", "pw2"), ("native", "pw")] {
        conn.change_user(change(user, password)).await.unwrap();
        let found: Option<String> = conn.query_first(support::database::WHO).await.unwrap();
        assert_eq!(found, Some(format!("{user}@localhost/app")));
    }
    let refused = conn.change_user(change("other", "pw")).await.unwrap_err();
    let wanted = "Access denied for user 'other'@'localhost' (using password: YES)";
    assert!(refused.to_string().contains(wanted), "{refused}");
}
