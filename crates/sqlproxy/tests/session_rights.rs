//! What a user may do, and whether it may come in, is what the database says at this login; in its own words.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod support;

use support::database::{Engine, Refused, Road, visit};
use support::session::{Through, conn, run, user, value};

/// What the database says, and what the proxy says, to the same client.
async fn same(through: &Through, who: (&str, &str, &str), let_in: bool) {
    let (name, password, schema) = who;
    let said =
        async |road: &Road| -> Result<(), Refused> { visit(name, password, schema, road).await.map(drop) };
    for (direct, road) in through.direct().iter().zip(&through.roads) {
        let (theirs, ours) = (said(direct).await, said(road).await);
        assert_eq!(theirs, ours, "{who:?} over {road:?}");
        assert_eq!(theirs.is_ok(), let_in, "{who:?}: {theirs:?}");
    }
    // With TLS, which the proxy has of its own.
    let (Road::Tcp(direct), Road::Tcp(ours)) = (&through.direct()[0], &through.roads[0]) else {
        panic!("TCP comes first");
    };
    let (theirs, ours) = (said(&Road::Tls(*direct)).await, said(&Road::Tls(*ours)).await);
    assert_eq!(theirs, ours, "{who:?} over TLS");
}

async fn refusals_are_the_databases_own(engine: Engine) {
    let Some(through) = Through::start(engine, &[]).await else {
        return;
    };
    let name = user(engine);
    let mut root = through.database.root().await;
    let plugin = through.database.plugins[0];
    for (account, more) in [
        ("locked", "ACCOUNT LOCK"),
        ("expired", "PASSWORD EXPIRE"),
        ("counted", "WITH MAX_USER_CONNECTIONS 50"),
    ] {
        through
            .database
            .create(&mut root, account, plugin, "pw", more)
            .await;
    }
    // The second time each is known to the proxy.
    for _ in 0..2 {
        same(&through, (name, "pw", "app"), true).await;
        same(&through, (name, "pw", ""), true).await;
        same(&through, ("counted", "pw", "app"), true).await;
        for who in [
            (name, "wrong", "app"),
            (name, "", "app"),
            ("locked", "pw", "app"),
            ("locked", "wrong", "app"),
            ("expired", "pw", "app"),
            (name, "pw", "secret"),
            (name, "pw", "nowhere"),
        ] {
            same(&through, who, false).await;
        }
        // Whom servers do not know they ask by a plugin of their choice, perhaps one that this client has not: `auth`
        // shows the same of those, with other clients.
    }
}

#[tokio::test]
async fn who_may_not_come_in_is_told_so_by_mariadb() {
    refusals_are_the_databases_own(Engine::Mariadb).await;
}

#[tokio::test]
async fn who_may_not_come_in_is_told_so_by_mysql() {
    refusals_are_the_databases_own(Engine::Mysql).await;
}

async fn rights_count_at_the_next_login(engine: Engine) {
    let table = "CREATE TABLE secret.t (a INT)";
    let Some(through) = Through::start(engine, &[table, "INSERT INTO secret.t VALUES (7)"]).await else {
        return;
    };
    let name = user(engine);
    let hosts = ["localhost", "127.0.0.1"].map(|host| format!("'{name}'@'{host}'"));
    let mut root = through.database.root().await;
    let mut tell = async |statement: &str| {
        for host in &hosts {
            run(&mut root, &statement.replace("HIM", host)).await;
        }
    };
    let road = &through.roads[1];
    let look = async || -> Result<String, String> {
        let mut conn = conn(road, name).await;
        let found = mysql_async::prelude::Queryable::query_first(&mut conn, "SELECT a FROM secret.t").await;
        let found: Option<String> = found.map_err(|error| error.to_string())?;
        mysql_async::Conn::disconnect(conn).await.unwrap();
        Ok(found.unwrap())
    };
    for _ in 0..3 {
        assert!(look().await.is_err());
        // A right for everything, which a server looks up when somebody logs in.
        tell("GRANT SELECT ON *.* TO HIM").await;
        assert_eq!(look().await.unwrap(), "7");
        assert_eq!(look().await.unwrap(), "7");
        let mut stays = conn(road, name).await;
        assert_eq!(value(&mut stays, "SELECT a FROM secret.t").await, "7");
        tell("REVOKE SELECT ON *.* FROM HIM").await;
        assert!(look().await.is_err(), "a right that was taken away is gone");
        // For one database.
        tell("REVOKE ALL ON app.* FROM HIM").await;
        let refused = visit(name, "pw", "app", road).await.unwrap_err();
        assert_eq!(refused.code, 1044, "{refused:?}");
        tell("GRANT ALL ON app.* TO HIM").await;
        visit(name, "pw", "app", road).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_user_of_mariadb_may_do_is_decided_at_each_login() {
    rights_count_at_the_next_login(Engine::Mariadb).await;
}

#[tokio::test]
async fn what_a_user_of_mysql_may_do_is_decided_at_each_login() {
    rights_count_at_the_next_login(Engine::Mysql).await;
}
