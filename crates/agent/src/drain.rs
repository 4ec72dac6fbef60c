//! Takes a server's application out of service for maintenance, and puts it back. A mark, not a configuration: it
//! travels with the heartbeats and needs nobody's agreement.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_fleet::{
    Code, DrainBook, DrainMark, EventKind, Refusal, Role, ServerName, ServerState, Tier, TierDetail,
    UnixMillis,
};

use crate::api::DrainRequest;
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
    set_mark(agent, &subject, request.drained, request.app_only)?;
    if !request.drained {
        return Ok(format!("{subject} is back in service"));
    }
    wait_for_requests(agent, &subject, reporter).await?;
    Ok(format!(
        "{subject} is drained: no new request goes to its application"
    ))
}

/// Takes this server's application out of service before it leaves, so that nothing is being answered here when the
/// others stop serving its database proxy. Says whether it did: when nobody else serves, there is nothing to win.
pub(crate) async fn before_leaving(
    agent: &Arc<Agent>,
    me: &ServerName,
    reporter: &Reporter,
) -> Result<bool, Refusal> {
    if agent.known().drains.is_drained(me) || somebody_else_serves(agent, me).is_err() {
        return Ok(false);
    }
    set_mark(agent, me, true, false)?;
    wait_for_requests(agent, me, reporter).await?;
    Ok(true)
}

/// Marks `subject` everywhere; nothing when it is marked so already.
pub(crate) fn set_mark(
    agent: &Agent,
    subject: &ServerName,
    drained: bool,
    app_only: bool,
) -> Result<(), Refusal> {
    let before = agent.known().drains.0.get(subject).cloned();
    let stays = |mark: &DrainMark| mark.drained == drained && (!drained || mark.app_only == app_only);
    if before.as_ref().map_or(!drained, stays) {
        return Ok(());
    }
    // Later than the mark that it replaces, also when a server whose clock is ahead made that.
    let after_before = before.map_or(0, |mark| mark.at.0.saturating_add(1));
    let mark = DrainMark {
        at: UnixMillis(agent.clock.unix().0.max(after_before)),
        drained,
        app_only: drained && app_only,
    };
    agent.learn_drains(&DrainBook([(subject.clone(), mark)].into()))?;
    agent.record(EventKind::DrainChanged {
        subject: subject.clone(),
        drained,
    });
    Ok(())
}

async fn wait_for_requests(agent: &Agent, subject: &ServerName, reporter: &Reporter) -> Result<(), Refusal> {
    let active = agent.config()?;
    let text = format!("waiting for the requests on {subject} to finish");
    reporter.step(subject, &text).await;
    let configured = active.config.app.as_ref().map(|app| app.drain);
    let patience = configured.unwrap_or(Duration::from_secs(10)) + SETTLE;
    let left = wait_until_idle(agent, subject, patience).await;
    if left > 0 {
        let text = format!(
            "{left} requests on {subject} did not finish within {} s",
            patience.as_secs()
        );
        reporter.note(text).await;
    }
    Ok(())
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

pub(crate) fn in_flight(agent: &Agent, subject: &ServerName) -> u64 {
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
            _ => None,
        })
        .map(|upstream| upstream.in_flight)
        .fold(0, u64::saturating_add)
}
