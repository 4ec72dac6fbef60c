//! Shows visitors the maintenance page, and ends that. A mark as [`crate::drain`] makes them: it travels with the
//! heartbeats and is on every server's disk.

use std::time::Duration;

use pontoon_fleet::{Code, EventKind, Maintenance, MaintenanceMark, Refusal, Role, UnixMillis};

use crate::api::MaintenanceRequest;
use crate::core::Agent;

/// The longest maintenance that ends by itself: nobody remembers a longer one.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// Switches it on or off, for the whole fleet.
pub(crate) fn switch(agent: &Agent, request: &MaintenanceRequest) -> Result<MaintenanceMark, Refusal> {
    let active = agent.config()?;
    if request.on && active.config.with_role(Role::Edge).next().is_none() {
        return Err(Refusal::new(Code::N020, "no server of the fleet has an edge")
            .because("the maintenance page is what edges show"));
    }
    let span = request.for_ms.map(Duration::from_millis);
    if let Some(span) = span.filter(|span| span.is_zero() || *span > LONGEST) {
        return Err(Refusal::new(
            Code::N020,
            "maintenance ends by itself within a week, or not by itself",
        )
        .because(format!("it was to last {} s", span.as_secs())));
    }
    let now = agent.clock.unix();
    // Later than the mark that it replaces, also when a server whose clock is ahead made that.
    let at = UnixMillis(now.0.max(agent.known().maintenance.at.0.saturating_add(1)));
    let mark = MaintenanceMark {
        at,
        maintenance: request.on.then(|| Maintenance {
            until: span.map(|span| now.plus(span)),
            except: request.except.clone(),
        }),
    };
    agent.learn_maintenance(&mark)?;
    agent.record(EventKind::MaintenanceChanged { on: request.on });
    Ok(mark)
}
