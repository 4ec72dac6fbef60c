//! The main job with MySQL: found, moved aside, joined by CLONE, replicated by GTID, left again.

use std::time::Duration;

use pontoon_e2e::fleet::{Engine, Fleet, attempt, expect, run, status};
use pontoon_e2e::under_load::{compare, database_socket};
use pontoon_testkit::database::{SOCKET, connect_root, rows};
use pontoon_testkit::{DatabaseOptions, LabError, Server, in_lab, wait_until};

#[test]
fn mysql_goes_from_one_server_to_two_and_back() -> Result<(), LabError> {
    let name = "mysql_goes_from_one_server_to_two_and_back";
    in_lab(name, Duration::from_secs(240), |lab| async move {
        let fleet = Fleet::with(lab, Engine::Mysql, DatabaseOptions::default()).await?;
        let (a, b) = (&fleet.a, &fleet.b);

        fleet.found().await?;
        let config = a.sh("cat /etc/pontoon/fleet.toml").await?;
        expect(config.contains("engine = \"mysql\""), || {
            format!("init wrote:\n{config}")
        })?;
        expect(place(a).await? == (3307, false), || {
            "the database did not move aside".to_owned()
        })?;

        let load = fleet.visitors(&[a], 30.0, "one server")?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        load.phase("join");
        fleet.join().await?;
        let report = load.stop().await?;
        expect(report.failed() == 0, || format!("{:?}", report.phases))?;

        // The application on b writes through its own socket, which leads to the database on a.
        let load = fleet.visitors(&[a, b], 30.0, "two servers")?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let report = load.stop().await?;
        expect(report.failed() == 0, || format!("{:?}", report.phases))?;
        expect(place(b).await? == (3307, true), || {
            "the replica takes writes".to_owned()
        })?;
        let found = compare(a, b, Engine::Mysql, &Default::default()).await?;
        expect(found.different.is_empty() && found.tables > 0, || {
            format!("{found:?}")
        })?;
        let tls: Vec<(String, String)> = rows(
            &mut connect_root(&database_socket(b)?).await?,
            "SELECT ssl_allowed, auto_position FROM performance_schema.replication_connection_configuration",
        )
        .await?;
        expect(tls == [("YES".to_owned(), "1".to_owned())], || format!("{tls:?}"))?;

        let (code, out, err) = attempt(a, &["status", "--check"]).await?;
        expect(code == 0, || format!("{out}{err}"))?;
        let shown = run(a, &["status"]).await?;
        eprintln!("{shown}");
        expect(shown.contains("replica") && shown.contains("lag"), || {
            shown.clone()
        })?;
        expect(status(a).await?.to_string().contains("\"mysql\""), || {
            "the status does not say MySQL".to_owned()
        })?;

        run(b, &["leave", "--yes"]).await?;
        wait_until("a fleet of one", Duration::from_secs(20), async || {
            let servers = status(a).await.ok()?["servers"].as_array()?.len();
            (servers == 1).then_some(())
        })
        .await?;
        // Back where the user had it, with what it has copied, on its own.
        let mut root = connect_root(&b.path(SOCKET)?).await?;
        let found: Vec<(u16, bool)> = rows(&mut root, "SELECT @@port, @@read_only").await?;
        expect(found == [(3306, false)], || format!("after leave: {found:?}"))?;
        let notes: Vec<u64> = rows(&mut root, "SELECT COUNT(*) FROM notes.notes").await?;
        expect(notes.first().is_some_and(|count| *count > 0), || {
            format!("notes after leave: {notes:?}")
        })?;
        let ours: Vec<String> = rows(
            &mut root,
            "SELECT user FROM mysql.user WHERE user LIKE 'pontoon%'",
        )
        .await?;
        expect(ours.is_empty(), || format!("accounts that stayed: {ours:?}"))
    })
}

/// Port of the database's own server, and whether it refuses writes.
async fn place(server: &Server) -> Result<(u16, bool), LabError> {
    let mut root = connect_root(&database_socket(server)?).await?;
    let found: Vec<(u16, bool)> = rows(&mut root, "SELECT @@port, @@super_read_only").await?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| LabError::Unknown("no place".to_owned()))
}
