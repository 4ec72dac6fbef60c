//! What happened on every server, in one line of time.

use std::sync::Arc;
use std::time::Duration;

use pontoon_fleet::Event;
use pontoon_rt::http::Call;

use crate::core::Agent;
use crate::dial;
use crate::peer::Events;

/// The latest `count` events of the fleet, oldest first. Servers that do not answer are left out; their events are
/// on their own disks.
pub(crate) async fn of_the_fleet(agent: &Arc<Agent>, count: usize) -> Vec<Event> {
    let mut events = agent.events().tail(count);
    let mut asked = tokio::task::JoinSet::new();
    if let (Some(membership), Some(active)) = (agent.membership(), agent.active()) {
        for server in active
            .config
            .servers
            .iter()
            .filter(|server| server.name != membership.me)
        {
            let (agent, name) = (agent.clone(), server.name.clone());
            asked.spawn(async move {
                let address = dial::address_of(&agent, &name)?;
                let path = format!("/p/v1/events?count={count}");
                let call = Call::get(name.as_str(), &path).timeout(Duration::from_secs(2));
                dial::ask::<(), Events>(&agent, &name, address, &call, None).await
            });
        }
    }
    while let Some(answer) = asked.join_next().await {
        if let Ok(Ok(theirs)) = answer {
            events.extend(theirs.events);
        }
    }
    events.sort_by(|left, right| (left.at, &left.server).cmp(&(right.at, &right.server)));
    events.drain(..events.len().saturating_sub(count));
    events
}
