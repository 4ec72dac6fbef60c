//! The built-in application on two servers with one database each: what is on one is not on the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_testkit::notes::{ServeOptions, serve};
use pontoon_testkit::{
    DatabaseOptions, DemoApp, LabError, Load, LoadOptions, Mariadb, Notes, Visited, database, in_lab,
};

/// Not a test of its own: the application's process, started by the test below inside a server.
#[tokio::test]
async fn application() {
    if let Some(options) = ServeOptions::from_env() {
        let Err(e) = serve(options).await;
        panic!("{e}");
    }
}

#[test]
fn notes_are_kept_and_a_frozen_server_delays_but_fails_nothing() -> Result<(), LabError> {
    let name = "notes_are_kept_and_a_frozen_server_delays_but_fails_nothing";
    in_lab(name, Duration::from_secs(50), |mut lab| async move {
        Mariadb::available()?;
        let args = ["application", "--exact", "--nocapture"]
            .map(str::to_owned)
            .to_vec();
        let app = Arc::new(Notes::new(3, std::env::current_exe().unwrap(), args));
        let mut targets = Vec::new();
        for name in ["a", "b"] {
            let server = lab.add_server(name, vec![]).await?;
            let mariadb = Mariadb::start(&server, &DatabaseOptions::default()).await?;
            app.create_database(&mariadb).await?;
            app.prepare(&server).await?;
            let listen = SocketAddr::from((server.public(), 8080));
            app.start(&server, listen).await?;
            app.install(listen, &mariadb).await?;
            targets.push(listen);
        }
        let (a, b) = (lab.server("a")?, lab.server("b")?);
        let options = LoadOptions {
            targets: vec![targets[0]],
            rate: 60.0,
            ..LoadOptions::default()
        };
        let load = Load::start(app.clone(), options, "steady")?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        load.phase("frozen");
        a.freeze().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(
            load.in_flight().0 + load.in_flight().1 > 20,
            "visitors keep coming while nobody answers"
        );
        a.thaw()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        load.phase("cable out");
        a.link_down().await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        a.link_up().await?;
        let report = load.stop().await?;
        eprintln!("{}", serde_json::to_string_pretty(&report.phases).unwrap());
        report.believable()?;
        assert_eq!(report.failed(), 0, "{:?}", report.phases);
        // Counted from when a visit was due: who came while nobody answered has waited for as long.
        assert!(report.phases[1].longest_ms > 900.0, "{:?}", report.phases);

        for socket in [a.path(database::SOCKET)?, b.path(database::SOCKET)?] {
            let found = report.ledger.compare(&app.read_database(&socket).await?);
            assert_eq!(found.complete(), socket.starts_with(a.path("/")?), "{found:?}");
        }
        assert!(
            report
                .ledger
                .compare(&app.read_back(targets[0]).await?)
                .complete()
        );
        let other = report.ledger.compare(&app.read_back(targets[1]).await?);
        assert_eq!((other.found, other.missing.len()), (0, report.ledger.len()));
        Ok(())
    })
}
