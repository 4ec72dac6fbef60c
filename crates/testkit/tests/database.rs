//! Real databases, in a server of the lab and on loopback.

use std::time::{Duration, Instant};

use pontoon_testkit::{
    DatabaseOptions, LabDatabase, LabError, Mariadb, Mysql, Standalone, database, free_port, in_lab, say,
    wait_until,
};

#[test]
fn mariadb_runs_in_a_server_and_its_data_survives_a_power_cut() -> Result<(), LabError> {
    let name = "mariadb_runs_in_a_server_and_its_data_survives_a_power_cut";
    in_lab(name, Duration::from_secs(50), |mut lab| async move {
        Mariadb::available()?;
        let a = lab.add_server("a", vec![]).await?;
        let options = DatabaseOptions {
            config: vec!["server_id = 7".to_owned()],
            ..DatabaseOptions::default()
        };
        let begun = Instant::now();
        let mariadb = Mariadb::start(&a, &options).await?;
        eprintln!("MariaDB answered after {} ms", begun.elapsed().as_millis());
        mariadb
            .create_database("notes", "notes", "it's secret".replace('\'', "").as_str())
            .await?;
        let mut root = mariadb.root().await?;
        let id: Vec<(u32, String)> = database::rows(&mut root, "SELECT @@server_id, @@datadir").await?;
        assert_eq!(id, [(7, "/var/lib/mysql/".to_owned())]);
        a.exec(
            "mariadb",
            &[
                "-e",
                "CREATE TABLE notes.t (a INT); INSERT INTO notes.t VALUES (42)",
            ],
        )
        .await?;

        a.power_off().await?;
        assert!(!mariadb.process().alive());
        a.power_on().await?;
        let mariadb = Mariadb::start(&a, &options).await?;
        let kept: Vec<u32> = database::rows(&mut mariadb.root().await?, "SELECT a FROM notes.t").await?;
        assert_eq!(kept, [42]);

        // Another server's localhost is another one.
        let b = lab.add_server("b", vec![]).await?;
        assert!(b.exec("mariadb", &["-e", "SELECT 1"]).await.is_err());
        let bad = DatabaseOptions {
            config: vec!["no_such_option = 1".to_owned()],
            ..options
        };
        let said = Mariadb::start(&b, &bad).await.unwrap_err().to_string();
        assert!(
            said.contains("no_such_option") || said.contains("no-such-option"),
            "{said}"
        );
        Ok(())
    })
}

#[test]
fn mysql_runs_in_a_server() -> Result<(), LabError> {
    in_lab(
        "mysql_runs_in_a_server",
        Duration::from_secs(60),
        |mut lab| async move {
            Mysql::available()?;
            let a = lab.add_server("a", vec![]).await?;
            let mysql = Mysql::start(&a, &DatabaseOptions::default()).await?;
            mysql.create_database("notes", "notes", "secret").await?;
            let mut root = mysql.root().await?;
            let found: Vec<(String, String)> =
                database::rows(&mut root, "SELECT @@datadir, @@tmpdir").await?;
            assert_eq!(
                found,
                [("/var/lib/mysql/".to_owned(), "/var/lib/lab-tmp".to_owned())]
            );
            Ok(())
        },
    )
}

#[tokio::test]
async fn standalone_servers_end_with_their_owner() {
    let dir = std::env::temp_dir().join(format!("pontoon-standalone-{}", std::process::id()));
    for engine in ["mariadb", "mysql"] {
        let home = dir.join(engine);
        std::fs::create_dir_all(&home).unwrap();
        let options = DatabaseOptions {
            port: free_port().unwrap(),
            ..DatabaseOptions::default()
        };
        let started = match engine {
            "mariadb" => Standalone::mariadb(&home, &options).await,
            _ => Standalone::mysql(&home, &options).await,
        };
        let database = match started {
            Ok(database) => database,
            Err(LabError::Skip(skip)) => {
                say(&skip);
                continue;
            }
            Err(e) => panic!("{e}"),
        };
        let mut root = database.root().await.unwrap();
        let version: Vec<String> = database::rows(&mut root, "SELECT VERSION()").await.unwrap();
        eprintln!("{engine}: {version:?}");
        let process = database.process().unwrap();
        drop(database);
        wait_until("its end", Duration::from_secs(10), || async {
            (!process.alive()).then_some(())
        })
        .await
        .unwrap();
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
