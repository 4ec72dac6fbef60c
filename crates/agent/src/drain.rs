//! Takes a server's application out of service for maintenance, and puts it back. A mark, not a configuration: it
//! travels with the heartbeats and needs nobody's agreement.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_fleet::{
    Code, DrainBook, DrainMark, EventKind, Refusal, Role, ServerName, ServerState, Tier, TierDetail,
};

use crate::api::{DrainRequest, Progress};
use crate::core::Agent;
use crate::reporter::Reporter;
use crate::{dial, observe, publish};

/// What the edges' last reports may lag behind: two reports and two heartbeats.
const SETTLE: Duration = Duration::from_millis(3_000);

/// Drains or undrains, and waits until it is so.
pub(crate) async fn drain(
    agent: &Arc<Agent>,
    request: DrainRequest,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let active = agent.config()?;
    let subject = request.server.clone();
    if active.config.server(&subject).is_none() {
        return Err(dial::no_such_server(&subject, &active.config));
    }
    if request.drained {
        somebody_else_serves(agent, &subject)?;
    }
    let mark = DrainMark {
        at: agent.clock.unix(),
        drained: request.drained,
    };
    agent.learn_drains(&DrainBook([(subject.clone(), mark)].into()))?;
    if agent.known().drains.is_drained(&subject) != request.drained {
        return Err(Refusal::new(
            Code::N007,
            format!("{subject} was marked otherwise by a server whose clock is ahead"),
        )
        .next("see the clocks", "timedatectl"));
    }
    agent.record(EventKind::DrainChanged {
        subject: subject.clone(),
        drained: request.drained,
    });
    if !request.drained {
        return Ok(format!("{subject} is back in service"));
    }
    let text = format!("waiting for the requests on {subject} to finish");
    reporter
        .say(Progress::Step {
            server: subject.clone(),
            text,
        })
        .await;
    let patience = active
        .config
        .app
        .as_ref()
        .map_or(Duration::from_secs(10), |app| app.drain)
        + SETTLE;
    let left = wait_until_idle(agent, &subject, patience).await;
    if left > 0 {
        let text = format!(
            "{left} requests on {subject} did not finish within {} s",
            patience.as_secs()
        );
        reporter.note(text).await;
    }
    Ok(format!(
        "{subject} is drained: no new request goes to its application"
    ))
}

/// F003 unless another application server is in service.
fn somebody_else_serves(agent: &Agent, subject: &ServerName) -> Result<(), Refusal> {
    let view =
        publish::view(agent).ok_or_else(|| Refusal::new(Code::J007, "no configuration is active yet"))?;
    let unhealthy: Vec<ServerName> = observe::status(agent)
        .servers
        .into_iter()
        .filter(|server| server.app_healthy == Some(false))
        .map(|server| server.name)
        .collect();
    let others = view
        .with_role(Role::App)
        .filter(|server| {
            &server.name != subject && server.state == ServerState::Up && !unhealthy.contains(&server.name)
        })
        .count();
    if others > 0 || !view.with_role(Role::App).any(|server| &server.name == subject) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::F003,
        format!("{subject} is the last application server in service"),
    )
    .because("no other server has a healthy application that is not drained")
    .next("see who is out", "pontoon status"))
}

/// Waits until no edge has a request on `subject`; gives how many were left in the end.
async fn wait_until_idle(agent: &Agent, subject: &ServerName, patience: Duration) -> u64 {
    let started = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let left = in_flight(agent, subject);
        // Reports that were made before the edges heard of the drain say nothing yet.
        if (left == 0 && started.elapsed() > SETTLE) || started.elapsed() > patience {
            return left;
        }
    }
}

fn in_flight(agent: &Agent, subject: &ServerName) -> u64 {
    let known = agent.known();
    let mine = known.tiers.get(&Tier::Edge).map(|(report, _)| report);
    let theirs = known
        .peers
        .values()
        .filter_map(|heard| heard.report.tier(Tier::Edge));
    mine.into_iter()
        .chain(theirs)
        .filter_map(|report| match &report.detail {
            TierDetail::Edge(edge) => edge.upstreams.iter().find(|upstream| &upstream.server == subject),
            TierDetail::Sql(_) => None,
        })
        .map(|upstream| upstream.in_flight)
        .sum()
}
