//! The data path outlives the control path (P5).

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use pontoon_testkit::{ProcessId, Server, wait_until};

use super::{Phase, Playing};
use crate::demo::stage::Stage;

/// `kill -9` of the agents of both servers at once. Edge and SQL proxy go on; later the agents are started again and
/// take over the tiers that run.
pub struct AgentsDie;

impl Phase for AgentsDie {
    fn name(&self) -> &'static str {
        "agents-die"
    }

    fn title(&self) -> &'static str {
        "both agents die (kill -9)"
    }

    fn play<'a>(&'a self, stage: &'a mut Stage) -> Playing<'a> {
        Box::pin(async move {
            let servers = [stage.a.clone(), stage.b.clone()];
            let tiers = processes(stage, &servers, &["edge", "sql"])?;
            let agents = processes(stage, &servers, &["agent"])?;
            agents.values().try_for_each(|agent| agent.kill_9())?;
            wait_until("the end of the agents", Duration::from_secs(30), || async {
                agents.values().all(|agent| !agent.alive()).then_some(())
            })
            .await?;
            stage.traffic(6).await?;
            if let Some(((server, tier), _)) = tiers.iter().find(|(_, process)| !process.alive()) {
                bail!("{tier} on {server} died with its agent");
            }
            for server in &servers {
                stage.start_agent(server).await?;
            }
            stage.until_healthy().await?;
            if processes(stage, &servers, &["edge", "sql"])? != tiers {
                bail!("the new agents started tiers of their own instead of adopting those that run");
            }
            stage.fact("no agent lived; then new ones adopted the same edge and SQL proxy processes");
            stage.traffic(2).await
        })
    }
}

type Processes = BTreeMap<(String, String), ProcessId>;

fn processes(stage: &Stage, servers: &[Server], names: &[&str]) -> anyhow::Result<Processes> {
    let mut found = Processes::new();
    for server in servers {
        for name in names {
            found.insert(
                (server.name().to_owned(), (*name).to_owned()),
                stage.process(server, name)?,
            );
        }
    }
    Ok(found)
}
