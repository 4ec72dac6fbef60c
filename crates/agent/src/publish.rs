//! Composes the fleet view whenever something changed, and publishes it to this server's tiers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pontoon_config::Durability;
use pontoon_decide::failover::{Mode, Record};
use pontoon_decide::view::{Observed, ViewInputs, compose};
use pontoon_fleet::{BootMoment, FleetView, ServerName, TierReport};
use pontoon_rt::clock;
use pontoon_rt::view::ViewPublisher;
use tokio::sync::mpsc;

use crate::acme;
use crate::addresses;
use crate::core::Agent;
use crate::failover::{self, is_shared};
use crate::heartbeat::SILENCE;
use crate::observe;

/// The view is composed this often even when nothing rang: silence is something that happens too.
const AT_LEAST: Duration = Duration::from_millis(500);

/// Runs until shutdown.
pub(crate) async fn run(
    agent: Arc<Agent>,
    publisher: ViewPublisher,
    mut reports: mpsc::Receiver<TierReport>,
) {
    loop {
        if let Some(view) = view(&agent)
            && let Err(error) = publisher.publish(view)
        {
            tracing::error!(%error, "the view was not published; the tiers keep the last one");
        }
        tokio::select! {
            () = agent.changed.notified() => {}
            () = tokio::time::sleep(AT_LEAST) => {}
            Some(report) = reports.recv() => {
                observe::heard_from_tier(&agent, report);
            }
            () = agent.shutdown.requested() => return,
        }
    }
}

/// The view as it is now; `None` while no configuration is active.
pub(crate) fn view(agent: &Agent) -> Option<FleetView> {
    let membership = agent.membership()?;
    let reports = observed(agent);
    let write_until = write_until(agent, &membership.me);
    let lease = agent.known().lease.as_ref().map(|lease| lease.epoch);
    let holding = failover::hold::mark(agent).filter(|(epoch, _)| Some(*epoch) == lease);
    // While this server hands over, the mark says what is held.
    let opening = holding.is_none() && opening(agent);
    let addresses = addresses::decided(agent);
    let issued = acme::issued(agent);
    let cache = agent.cache.list();
    let known = agent.known();
    let active = known.active.as_ref()?;
    active.config.server(&membership.me)?;
    let mut view = compose(&ViewInputs {
        config: &active.config,
        revision: active.committed.revision,
        epoch: known.lease.as_ref().map(|lease| lease.epoch).unwrap_or_default(),
        serial: 0, // the publisher numbers them
        me: &membership.me,
        reports: &reports,
        drains: &known.drains,
        maintenance: known.maintenance.maintenance.as_ref(),
        lease: known.lease.as_ref(),
        unreachable_after: SILENCE,
        addresses: &addresses,
        write_until: write_until.as_ref(),
        opening,
        issued: &issued,
        cache: cache.as_ref(),
        holding: holding.as_ref().map(|(epoch, until)| (*epoch, until)),
    });
    view.answers.purges = known.purges.clone();
    Some(view)
}

/// Whether this server's database does not take writes yet, or not at the moment: if it is the lease's leader, what comes
/// is held, rather than refused by a database that is read-only. Not known without a failover task, as right after the
/// agent's start: then the lease alone says who the primary is. The lease may be known before the task has seen it.
fn opening(agent: &Agent) -> bool {
    agent.failover.posted().is_some_and(|posted| {
        // An operator who paused failover may have opened it.
        let seen = posted.facts.is_some_and(|facts| facts.answers && facts.open);
        !posted.open && !seen
    })
}

/// Until when writes may be sent to the primary: where acknowledged writes are on the primary alone, two of them at a
/// time are kept apart by clocks only (P2).
fn write_until(agent: &Agent, me: &ServerName) -> Option<BootMoment> {
    let active = agent.active()?;
    let posted = agent.failover.posted();
    let limited = |record: &Record| record.policy.mode == Mode::Available;
    let wanted = is_shared(&active.config)
        && active
            .config
            .db
            .as_ref()
            .is_some_and(|db| db.durability == Some(Durability::OneCopy));
    let is = failover::reports(agent)
        .iter()
        .any(|(_, report)| report.record.as_ref().is_some_and(limited));
    if !wanted && !is {
        return None;
    }
    let lease = agent.known().lease.clone();
    let boot = clock::boot_id();
    let leads = lease.as_ref().is_some_and(|lease| lease.leader == *me);
    let mine = posted
        .filter(|_| leads)
        .map(|posted| posted.deadline.unwrap_or_default());
    Some(match mine {
        Some(until) => BootMoment {
            boot: boot.to_owned(),
            ms: u64::try_from(until.as_millis()).unwrap_or(u64::MAX),
        },
        None => agent.deadlines.of(lease.as_ref(), boot),
    })
}

/// The latest report of every server, this one included, with its age.
pub(crate) fn observed(agent: &Agent) -> BTreeMap<ServerName, Observed> {
    let mine = agent.report();
    let known = agent.known();
    let theirs = known.peers.iter().map(|(name, heard)| {
        (
            name.clone(),
            Observed {
                report: heard.report.clone(),
                age: heard.at.elapsed(),
            },
        )
    });
    let mine = mine.map(|report| {
        (
            report.server.clone(),
            Observed {
                report,
                age: Duration::ZERO,
            },
        )
    });
    theirs.chain(mine).collect()
}
