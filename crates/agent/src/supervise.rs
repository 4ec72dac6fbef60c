//! Keeps this server's tiers running, without being their life-line: a tier outlives the agent that started it and is
//! adopted by the next one (P5).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_fleet::{Code, EventKind, Refusal, ServerName, Tier};
use pontoon_rt::process::{self, Running, Spec};

use crate::core::{Agent, Supervision};

/// Every tier there is.
const TIERS: [Tier; 6] = [
    Tier::Edge,
    Tier::Sql,
    Tier::Dns,
    Tier::Memcached,
    Tier::Cache,
    Tier::Address,
];

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// A tier that dies sooner than this after its start is started again more slowly each time.
const SETTLED: Duration = Duration::from_secs(10);

/// The slowest restart.
const SLOWEST: Duration = Duration::from_secs(10);

/// How long a tier may take to finish what it began when it is no longer wanted.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// How long all of them may take together.
const STOP_PATIENCE: Duration = Duration::from_secs(90);

/// One tier's process, and how its starts went.
struct Minded {
    running: Option<Running>,
    started: Instant,
    failures: u32,
    not_before: Instant,
}

/// Runs until shutdown. Leaves the tiers running.
pub(crate) async fn run(agent: Arc<Agent>) {
    let mut minded: BTreeMap<Tier, Minded> = BTreeMap::new();
    loop {
        let wanted = wanted(&agent);
        for tier in TIERS {
            if tier == Tier::Address {
                tell_whether_addresses_stay(&agent, &wanted);
            }
            let result = match &wanted {
                Some((me, tiers)) if tiers.contains(&tier) => {
                    keep_running(&agent, me, tier, &mut minded).await
                }
                _ => keep_stopped(&agent, tier, &mut minded).await,
            };
            if let Err(refusal) = result {
                tracing::error!(%tier, %refusal, "a tier could not be managed");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = agent.shutdown.requested() => return,
        }
    }
}

/// The tiers that the active configuration wants on this server.
fn wanted(agent: &Agent) -> Option<(ServerName, Vec<Tier>)> {
    let me = agent.membership()?.me;
    let active = agent.active()?;
    let server = active.config.server(&me)?;
    let mut tiers = Vec::new();
    if active.config.runs_edge(server) {
        tiers.push(Tier::Edge);
    }
    if active.config.runs_sql(server) {
        tiers.push(Tier::Sql);
    }
    if active.config.runs_dns(server) {
        tiers.push(Tier::Dns);
    }
    if active.config.runs_cache(server) {
        tiers.push(Tier::Cache);
    }
    if active.config.runs_memcached(server) {
        tiers.push(Tier::Memcached);
    }
    // Servers without an edge vote.
    if active.config.takeover().is_some() {
        tiers.push(Tier::Address);
    }
    Some((me, tiers))
}

/// An address process that is ended because addresses move no longer leaves this server its own for good; one that is
/// ended to be started again leaves them as they are.
fn tell_whether_addresses_stay(agent: &Agent, wanted: &Option<(ServerName, Vec<Tier>)>) {
    let file = agent.paths.addresses_stay_file();
    let moves = wanted
        .as_ref()
        .is_some_and(|(_, tiers)| tiers.contains(&Tier::Address));
    let told = match (moves, file.exists()) {
        (true, true) => std::fs::remove_file(&file),
        (false, false) => std::fs::write(&file, ""),
        _ => Ok(()),
    };
    if let Err(error) = told {
        tracing::warn!(%error, "the address process was not told whether addresses stay");
    }
}

async fn keep_running(
    agent: &Agent,
    me: &ServerName,
    tier: Tier,
    minded: &mut BTreeMap<Tier, Minded>,
) -> Result<(), Refusal> {
    if agent.supervision == Supervision::Systemd {
        return systemd(agent, tier, minded).await;
    }
    let now = Instant::now();
    let entry = minded.entry(tier).or_insert(Minded {
        running: None,
        started: now,
        failures: 0,
        not_before: now,
    });
    // A process may have handed over to its successor, and may itself still be there to finish what it began.
    let named = process::named(&agent.paths.pid_file(tier.as_str()))?;
    let before = entry.running.take();
    match (before, named) {
        (Some(before), named) if before.alive() && named.as_ref().is_none_or(|named| *named == before) => {
            entry.running = Some(before);
            return Ok(());
        }
        (before, Some(named)) if named.alive() => {
            let pid = named.pid;
            agent.record(match before {
                Some(before) => EventKind::TierReplaced {
                    tier,
                    from: before.pid,
                    to: pid,
                },
                None => EventKind::TierAdopted { tier, pid },
            });
            entry.started = now;
            entry.running = Some(named);
            return Ok(());
        }
        (Some(before), named) => {
            agent.record(EventKind::TierDied {
                tier,
                pid: named.map_or(before.pid, |named| named.pid),
                reason: "the process ended".to_owned(),
            });
            entry.failures = if entry.started.elapsed() > SETTLED {
                0
            } else {
                entry.failures + 1
            };
            entry.not_before = now + delay(entry.failures);
        }
        (None, _) => {}
    }
    if now < entry.not_before {
        return Ok(());
    }
    let spec = Spec::new(&agent.program)
        .arg("--config")
        .arg(&agent.paths.config)
        .arg("--state-dir")
        .arg(&agent.paths.state_dir)
        .arg("--run-dir")
        .arg(&agent.paths.run_dir)
        .arg(tier.as_str())
        .arg("--server")
        .arg(me.as_str());
    let name = tier.as_str();
    match process::spawn_detached(&spec, &agent.paths.pid_file(name), &agent.paths.log_file(name)) {
        Ok(running) => {
            agent.record(EventKind::TierStarted {
                tier,
                pid: running.pid,
            });
            entry.started = now;
            entry.running = Some(running);
            Ok(())
        }
        Err(error) => {
            entry.failures += 1;
            entry.not_before = now + delay(entry.failures);
            Err(error.into())
        }
    }
}

async fn keep_stopped(agent: &Agent, tier: Tier, minded: &mut BTreeMap<Tier, Minded>) -> Result<(), Refusal> {
    if agent.supervision == Supervision::Systemd {
        if minded.remove(&tier).is_some() {
            return stop_unit(agent, tier).await;
        }
        return Ok(());
    }
    let known = minded.remove(&tier).and_then(|entry| entry.running);
    let running = match process::adopt(&agent.paths.pid_file(tier.as_str()))? {
        Some(running) => Some(running),
        None => known,
    };
    if let Some(running) = running {
        running.terminate(STOP_GRACE).await?;
    }
    Ok(())
}

/// Waits until every tier is gone: for `leave`, when the database moves back to their addresses. [`run`] ends them as
/// soon as none is wanted, and with one signal: a second one would hurry them and break what visitors wait for.
pub(crate) async fn wait_until_stopped(agent: &Agent) -> Result<(), Refusal> {
    let started = Instant::now();
    for tier in TIERS {
        if agent.supervision == Supervision::Systemd {
            stop_unit(agent, tier).await?;
            continue;
        }
        while let Some(running) = process::adopt(&agent.paths.pid_file(tier.as_str()))? {
            if started.elapsed() > STOP_PATIENCE {
                return Err(Refusal::new(Code::N007, format!("the {tier} does not end"))
                    .because(format!("process {}", running.pid))
                    .next("go on with it", "pontoon leave"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// systemd restarts its units by itself: it is looked at now and then whether one that is wanted was ever started.
async fn systemd(agent: &Agent, tier: Tier, minded: &mut BTreeMap<Tier, Minded>) -> Result<(), Refusal> {
    let now = Instant::now();
    if minded.get(&tier).is_some_and(|entry| now < entry.not_before) {
        return Ok(());
    }
    let first = !minded.contains_key(&tier);
    minded.insert(
        tier,
        Minded {
            running: None,
            started: now,
            failures: 0,
            not_before: now + SLOWEST,
        },
    );
    if is_active(tier).await {
        return Ok(());
    }
    agent.helper().tier_unit(tier, true).await?;
    if first {
        agent.record(EventKind::TierStarted { tier, pid: 0 });
    }
    Ok(())
}

/// Needs no rights.
async fn is_active(tier: Tier) -> bool {
    let unit = format!("pontoon-{tier}.service");
    let status = tokio::process::Command::new("systemctl")
        .args(["is-active", "--quiet", &unit])
        .status()
        .await;
    status.is_ok_and(|status| status.success())
}

async fn stop_unit(agent: &Agent, tier: Tier) -> Result<(), Refusal> {
    agent.helper().tier_unit(tier, false).await
}

/// 0, 0.2, 0.4, … up to [`SLOWEST`].
fn delay(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => (Duration::from_millis(100) * 2u32.saturating_pow(n.min(10))).min(SLOWEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_that_keeps_dying_is_started_more_and_more_slowly() {
        let delays: Vec<u64> = (0..12).map(|n| delay(n).as_millis() as u64).collect();
        assert_eq!(&delays[..5], [0, 200, 400, 800, 1600]);
        assert!(delays.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(delays[11], 10_000);
    }
}
