//! Has the fleet's edges forget answers that they keep. Told of as [`crate::maintenance`] is.

use std::time::Duration;

use pontoon_fleet::{Code, LONGEST_KEPT, Purge, PurgeBook, Refusal, UnixMillis};

use crate::api::PurgeRequest;
use crate::core::Agent;

/// A purge is told of for longer than anything is kept, however far apart the servers' clocks are.
const TOLD_FOR: Duration = Duration::from_secs(LONGEST_KEPT.as_secs() * 2);

/// What was said before is done with at `now`.
pub(crate) fn earliest(now: UnixMillis) -> UnixMillis {
    UnixMillis(
        now.0
            .saturating_sub(u64::try_from(TOLD_FOR.as_millis()).unwrap_or(u64::MAX)),
    )
}

/// Tells every edge of the fleet.
pub(crate) fn purge(agent: &Agent, request: &PurgeRequest) -> Result<Purge, Refusal> {
    if agent.config()?.config.edge.answers.cache.is_none() {
        return Err(Refusal::new(Code::N022, "the fleet's edges keep no answers")
            .because("the configuration has no [edge.cache]"));
    }
    let length = request.path.len() + request.host.as_ref().map_or(0, String::len);
    if !request.path.starts_with('/') || length > PurgeBook::LONGEST_PATH {
        return Err(Refusal::new(
            Code::N022,
            "a path begins with / and has at most 1024 bytes",
        ));
    }
    let now = agent.clock.unix();
    let purge = Purge {
        // Of its own millisecond, so that the same path can be named again and again.
        at: UnixMillis(now.0.max(agent.known().purges.last().0.saturating_add(1))),
        host: request.host.as_ref().map(|host| host.to_ascii_lowercase()),
        path: request.path.clone(),
        prefix: request.prefix,
    };
    agent.learn_purges(&PurgeBook([purge.clone()].into()))?;
    Ok(purge)
}
