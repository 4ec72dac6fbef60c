//! Maintenance: what visitors of a whole fleet get, and for how long.

use std::time::Duration;

use pontoon_e2e::fleet::{
    Fleet, attempt, event_kinds, expect, kill_agent, run, start_agent, wait_until_healthy,
};
use pontoon_testkit::{LabError, Server, in_lab, wait_until};

#[test]
fn maintenance_is_the_whole_fleets_and_outlives_agents_and_edges() -> Result<(), LabError> {
    in_lab(
        "maintenance_is_the_whole_fleets_and_outlives_agents_and_edges",
        Duration::from_secs(300),
        |lab| async move {
            let fleet = Fleet::new(lab).await?;
            fleet.found().await?;
            fleet.join().await?;
            let (a, b) = (&fleet.a, &fleet.b);
            wait_until_healthy(a, 2).await?;
            answers(&[a, b], "200").await?;

            run(b, &["edge", "maintenance", "on", "--for", "1h"]).await?;
            answers(&[a, b], "503").await?;
            let (code, said, _) = attempt(a, &["status", "--check"]).await?;
            expect(
                code == 11 && said.contains("pontoon edge maintenance off"),
                || format!("{code}: {said}"),
            )?;

            for server in [a, b] {
                kill_agent(server).await?;
            }
            answers(&[a, b], "503").await?;
            for server in [a, b] {
                start_agent(server).await?;
            }
            let killed = fleet.process(a, "edge")?;
            killed.kill_9()?;
            wait_until("another edge", Duration::from_secs(60), async || {
                fleet.process(a, "edge").ok().filter(|now| *now != killed)
            })
            .await?;
            answers(&[a, b], "503").await?;

            run(a, &["edge", "maintenance", "off"]).await?;
            answers(&[a, b], "200").await?;
            wait_until_healthy(b, 2).await?;
            let kinds = event_kinds(b).await?;
            expect(kinds.iter().any(|kind| kind == "maintenance_changed"), || {
                format!("no word of it: {kinds:?}")
            })
        },
    )
}

/// Waits until each edge answers a visitor with this status.
async fn answers(servers: &[&Server], status: &str) -> Result<(), LabError> {
    for server in servers {
        let page = format!("http://{}/", server.public());
        let what = format!("{status} from the edge on {}", server.name());
        wait_until(&what, Duration::from_secs(60), async || {
            let asked = [
                "-s",
                "--max-time",
                "10",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                &page,
            ];
            let said = server.exec("curl", &asked).await.ok()?;
            (said.trim() == status).then_some(())
        })
        .await?;
    }
    Ok(())
}
