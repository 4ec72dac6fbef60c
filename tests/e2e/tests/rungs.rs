//! From nothing to one server to two, under traffic, and back: the main job, with real programs.

use std::time::Duration;

use pontoon_e2e::fleet::{Fleet, attempt, run};
use pontoon_testkit::{LabError, in_lab};

#[test]
fn one_server_becomes_two_under_traffic() -> Result<(), LabError> {
    in_lab(
        "one_server_becomes_two_under_traffic",
        Duration::from_secs(180),
        |lab| async move {
            let fleet = Fleet::new(lab).await?;
            fleet.found().await?;
            let load = fleet.visitors(&[&fleet.a], 30.0, "one server")?;
            tokio::time::sleep(Duration::from_secs(3)).await;
            load.phase("join");
            fleet.join().await?;
            eprintln!("{}", run(&fleet.a, &["status"]).await?);
            let report = load.stop().await?;
            eprintln!("{}", serde_json::to_string_pretty(&report.phases).unwrap());
            assert_eq!(report.failed(), 0);

            let both = fleet.visitors(&[&fleet.a, &fleet.b], 30.0, "two servers")?;
            tokio::time::sleep(Duration::from_secs(3)).await;
            let report = both.stop().await?;
            assert_eq!(report.failed(), 0, "{:?}", report.phases);
            let (code, out, err) = attempt(&fleet.a, &["status", "--check"]).await?;
            assert_eq!(code, 0, "{out}{err}");
            Ok(())
        },
    )
}
