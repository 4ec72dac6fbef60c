//! Looks again and again whether visitors are served at the public addresses. What follows from a look is decided in
//! `decide::addresses`; here it is fed and its word is passed on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use pontoon_decide::addresses::{Addresses, INTERVAL, Look, unheard};
use pontoon_fleet::{FleetView, ServerName};

use crate::core::Agent;
use crate::heartbeat::SILENCE;
use crate::publish;

/// Runs until shutdown.
pub(crate) async fn run(agent: Arc<Agent>) {
    resume(&agent);
    loop {
        look(&agent);
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = agent.shutdown.requested() => return,
        }
    }
}

/// The addresses as last decided, for a view.
pub(crate) fn decided(agent: &Agent) -> Addresses {
    agent
        .addresses
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// Goes on from what the agent before published: a new agent knows nothing yet, and must not change anything by that.
fn resume(agent: &Agent) {
    let before = std::fs::read(agent.paths.view_file())
        .ok()
        .and_then(|text| serde_json::from_slice::<FleetView>(&text).ok());
    if let Some(view) = before {
        let mut addresses = agent.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        *addresses = Addresses::resume(view.addresses, view.addresses_changed);
    }
}

fn look(agent: &Agent) {
    let (Some(membership), Some(active)) = (agent.membership(), agent.active()) else {
        return;
    };
    let reports = publish::observed(agent);
    let drains = agent.known().drains.clone();
    // What the address tiers say of themselves, as long as they are heard.
    let heard = || {
        reports
            .values()
            .filter(|observed| observed.age <= SILENCE)
            .map(|observed| &observed.report)
    };
    // Where a provider moves them, who gives it the orders knows.
    let ordered = heard()
        .filter_map(|report| report.routing.as_ref().filter(|routing| routing.orders))
        .max_by_key(|routing| routing.epoch);
    let routed = || ordered.into_iter().flat_map(|routing| &routing.addresses);
    let there = routed().filter(|routed| routed.there);
    let taken: BTreeMap<IpAddr, ServerName> = heard()
        .flat_map(|report| report.holds().into_iter().map(|ip| (ip, report.server.clone())))
        .chain(there.map(|routed| (routed.address, routed.to.clone())))
        .collect();
    let on_the_way = routed().filter(|routed| !routed.there && routed.trouble.is_none());
    let moving: BTreeSet<IpAddr> = heard()
        .flat_map(|report| report.moving())
        .chain(on_the_way.map(|routed| routed.address))
        .collect();
    let (changed, since) = {
        let mut addresses = agent.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = addresses.look(&Look {
            config: &active.config,
            me: &membership.me,
            reports: &reports,
            drains: &drains,
            taken: &taken,
            moving: &moving,
            now: agent.clock.now(),
            unix: agent.clock.unix(),
        });
        (changed, addresses.changed())
    };
    {
        let mut known = agent.known();
        known.unheard = unheard(&active.config, &membership.me, &reports);
        known.addresses_changed = since;
    }
    if changed {
        agent.changed.notify_one();
    }
}
