//! With `db.auto_reclone` a replica that has transactions which the primary lacks is copied anew by itself, as an operator
//! would do it with `pontoon db reseed`: what it has alone is written down, its data directory is renamed. At most once in
//! the configured time: what makes it diverge again and again is for somebody to find.

use std::sync::Arc;
use std::time::Duration;

use pontoon_fleet::units::format_duration;
use pontoon_fleet::{EventKind, Refusal, UnixMillis};

use crate::core::Agent;
use crate::{compare, errant, reseed};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// Runs until shutdown.
pub(crate) async fn run(agent: Arc<Agent>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = agent.shutdown.requested() => return,
        }
        if let Err(refusal) = look(&agent).await {
            tracing::info!(%refusal, "the database is not copied anew by itself now");
        }
    }
}

async fn look(agent: &Arc<Agent>) -> Result<(), Refusal> {
    let Some(active) = agent.active() else {
        return Ok(());
    };
    let every = active.config.db.as_ref().and_then(|db| db.auto_reclone);
    let found = agent.known().errant.clone();
    let (Some(every), Some(errant)) = (every, found) else {
        return Ok(());
    };
    let database = compare::database(agent).await?;
    if database.copy_ordered() {
        return Ok(());
    }
    let now = agent.clock.unix();
    if let Some(left) = too_soon(agent.store.reclone()?, now, every) {
        if let Some(known) = agent.known().errant.as_mut() {
            known.left = Some(left);
        }
        return Ok(());
    }
    // A copy is made of a primary that answers, or not begun: this one may be the last.
    errant::history_of(agent, &compare::leader(agent)?).await?;
    // Before it begins: a kill in between must not make it twice.
    agent.store.save_reclone(&now)?;
    reseed::begin(agent, &database, true).await?;
    agent.record(EventKind::DatabaseCopiedAnew {
        transactions: errant.transactions,
    });
    Ok(())
}

/// Why not yet, in words.
fn too_soon(last: Option<UnixMillis>, now: UnixMillis, every: Duration) -> Option<String> {
    let last = last?;
    let ago = Duration::from_secs(now.0.saturating_sub(last.0) / 1000);
    // A clock that went back by more than that says nothing about when it was.
    let ahead = Duration::from_millis(last.0.saturating_sub(now.0)) > every;
    (ago < every && !ahead).then(|| {
        let whole = |span: Duration| match span.as_secs() {
            seconds @ ..60 => Duration::from_secs(seconds),
            seconds => Duration::from_secs(seconds / 60 * 60),
        };
        format!(
            "it was copied anew by itself {} ago, and that is done once in {} (auto_reclone): pontoon db reseed does it now",
            format_duration(whole(ago)),
            format_duration(every)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_in_that_time_and_not_for_ever_when_a_clock_was_wrong() {
        let hour = Duration::from_secs(3600);
        let at = |seconds: u64| UnixMillis(seconds * 1000);
        assert_eq!(too_soon(None, at(10), hour), None);
        let said = too_soon(Some(at(10_000)), at(11_000), hour).unwrap();
        assert!(said.contains("16m ago"), "{said}");
        assert!(too_soon(Some(at(10_000)), at(13_599), hour).is_some());
        assert_eq!(too_soon(Some(at(10_000)), at(13_600), hour), None);
        assert!(too_soon(Some(at(10_000)), at(9_000), hour).is_some());
        assert_eq!(too_soon(Some(at(100_000)), at(9_000), hour), None);
    }
}
