//! Takes a server's application out of service for maintenance, and puts it back. A mark, not a configuration: it
//! travels with the heartbeats and needs nobody's agreement.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_fleet::{
    Code, DrainBook, DrainMark, EventKind, Refusal, Role, ServerName, ServerState, Tier, TierDetail,
    TierReport, UnixMillis, UpstreamReport,
};

use crate::api::DrainRequest;
use crate::core::Agent;
use crate::reporter::Reporter;
use crate::{dial, observe, publish};

/// For how long a server whose edge does not say what it goes by is waited for: until it would be shown as unreachable, which
/// is also what reports may lag behind, two of them and two heartbeats.
const SETTLE: Duration = Duration::from_millis(3_000);

/// Between two looks. In two of them nothing must be under way: a thread of an edge may just have chosen by the view before.
const LOOK: Duration = Duration::from_millis(200);

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

/// Waits until every edge has said that it goes by the mark and has no request on `subject`; gives how many were left in the
/// end. An edge that says nothing is waited for no longer than reports may take.
async fn wait_until_idle(agent: &Agent, subject: &ServerName, patience: Duration) -> u64 {
    let started = Instant::now();
    let mut idle_before = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let left = in_flight(agent, subject);
        let all_know = edges_know(agent, subject) || started.elapsed() > SETTLE;
        let idle = all_know && left == 0;
        if (idle && idle_before) || started.elapsed() > patience {
            return left;
        }
        idle_before = idle;
    }
}

/// Whether the edge of every server works on a view in which the present mark, and no earlier one, takes `subject` out. What
/// is not known is not so: an edge may serve while its agent is dead (P5).
fn edges_know(agent: &Agent, subject: &ServerName) -> bool {
    let (Some(membership), Some(active)) = (agent.membership(), agent.active()) else {
        return false;
    };
    let known = agent.known();
    let Some(mark) = known.drains.drained_at(subject) else {
        return false;
    };
    active.config.servers.iter().all(|server| {
        let report = match server.name == membership.me {
            true => known.tiers.get(&Tier::Edge).map(|(report, _)| report),
            false => known
                .peers
                .get(&server.name)
                .filter(|heard| !heard.silent)
                .and_then(|heard| heard.report.tier(Tier::Edge)),
        };
        !active.config.runs_edge(server) || report.is_some_and(|report| goes_by(report, subject, mark))
    })
}

fn goes_by(report: &TierReport, subject: &ServerName, mark: UnixMillis) -> bool {
    upstream(report, subject).is_some_and(|upstream| upstream.drained_at == Some(mark))
}

fn upstream<'a>(report: &'a TierReport, subject: &ServerName) -> Option<&'a UpstreamReport> {
    match &report.detail {
        TierDetail::Edge(edge) => edge.upstreams.iter().find(|upstream| &upstream.server == subject),
        _ => None,
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
        .filter_map(|report| upstream(report, subject))
        .map(|upstream| upstream.in_flight)
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use pontoon_fleet::EdgeReport;

    use super::*;
    use crate::authorise::Peer;
    use crate::heartbeat;
    use crate::testing::{self, Fixture};

    fn b() -> ServerName {
        "b".parse().unwrap()
    }

    /// An edge that goes by that mark.
    fn edge(drained_at: Option<UnixMillis>, in_flight: u64) -> TierReport {
        let upstream = UpstreamReport {
            server: b(),
            healthy: true,
            reason: None,
            in_flight,
            drained_at,
        };
        TierReport {
            pid: 1,
            view_serial: 1,
            detail: TierDetail::Edge(EdgeReport {
                upstreams: vec![upstream],
                ..EdgeReport::default()
            }),
        }
    }

    fn mine(fixture: &Fixture, report: TierReport) {
        observe::heard_from_tier(&fixture.agent, report);
    }

    fn theirs(fixture: &Fixture, report: TierReport) {
        let mut said = heartbeat::own(&fixture.agent, &Peer::Stranger).unwrap();
        said.report.server = b();
        said.report.tiers = vec![report];
        let peer = fixture.agent.peer(Some(b()));
        heartbeat::hear(&fixture.agent, &peer, said, None).unwrap();
    }

    #[tokio::test]
    async fn an_edge_that_did_not_say_that_it_goes_by_this_mark_is_not_believed_to() {
        let fixture = testing::founder_of(&testing::two_servers("")).await;
        let agent = &fixture.agent;
        let knows = || edges_know(agent, &b());
        set_mark(agent, &b(), true, false).unwrap();
        let first = agent.known().drains.drained_at(&b());
        assert!(!knows(), "nobody said anything");
        mine(&fixture, edge(first, 0));
        assert!(!knows(), "one of two");
        theirs(&fixture, edge(None, 0));
        assert!(!knows(), "the view before the mark");
        theirs(&fixture, edge(first, 3));
        assert!(knows());
        assert_eq!(in_flight(agent, &b()), 3);

        // In and out again: what was said of the mark before counts for nothing.
        set_mark(agent, &b(), false, false).unwrap();
        assert!(!knows());
        set_mark(agent, &b(), true, false).unwrap();
        let second = agent.known().drains.drained_at(&b());
        assert!(second > first && !knows());
        mine(&fixture, edge(second, 0));
        theirs(&fixture, edge(first, 0));
        assert!(!knows());
        theirs(&fixture, edge(second, 0));
        assert!(knows());
        agent.known().peers.get_mut(&b()).unwrap().silent = true;
        assert!(
            !knows(),
            "its edge may serve by an old view while its agent is dead"
        );
    }

    #[tokio::test]
    async fn who_says_nothing_is_waited_for_so_long_and_no_longer() {
        let fixture = testing::founder_of(&testing::two_servers("")).await;
        let agent = &fixture.agent;
        set_mark(agent, &b(), true, false).unwrap();
        let mark = agent.known().drains.drained_at(&b());
        mine(&fixture, edge(mark, 0));
        theirs(&fixture, edge(mark, 0));
        assert_eq!(wait_until_idle(agent, &b(), SETTLE * 4).await, 0);
        theirs(&fixture, edge(mark, 2));
        assert_eq!(wait_until_idle(agent, &b(), Duration::ZERO).await, 2);
    }
}
