//! `pontoon db switchover` while writers write as fast as they can: no statement fails, no connection is closed, nothing
//! acknowledged is lost. How long a write took at the most is printed, and decides nothing: machines differ.

use std::time::Duration;

use pontoon_e2e::fleet::{Engine, Fleet, attempt, expect, in_sync, long, run, tell, wait_until_healthy};
use pontoon_e2e::under_load::{FlatOut, compare, fill};
use pontoon_testkit::{DatabaseOptions, LabError, StoreKind, in_lab, wait_until};

const FILE: &str = "/etc/pontoon/fleet.toml";

/// Writers at each server.
const WRITERS: u32 = 6;

/// A machine that is busy with other tests may keep the replica from coming near in time: then the command says so.
const ATTEMPTS: u32 = 20;

#[test]
fn mariadb_hands_over_under_full_load_and_no_statement_fails() -> Result<(), LabError> {
    in_lab(
        "mariadb_hands_over_under_full_load_and_no_statement_fails",
        Duration::from_secs(if long() { 1_200 } else { 280 }),
        async |lab| played(Fleet::new(lab).await?).await,
    )
}

/// In the long form only: MySQL takes its time to start.
#[test]
fn mysql_hands_over_under_full_load_and_no_statement_fails() -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: MySQL hands over in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(
        "mysql_hands_over_under_full_load_and_no_statement_fails",
        Duration::from_secs(1_200),
        async |lab| played(Fleet::with(lab, Engine::Mysql, DatabaseOptions::default()).await?).await,
    )
}

async fn played(mut fleet: Fleet) -> Result<(), LabError> {
    StoreKind::Etcd.available()?;
    fill(&fleet.a, 1).await?;
    fleet.found().await?;
    fleet.join().await?;
    let _store = fleet.share_lease(StoreKind::Etcd).await?;
    // Sessions of the proxy's own, which know where transactions end, come with reads that are spread.
    run(&fleet.a, &["plan"]).await?;
    let path = fleet.a.path(FILE)?;
    let text = std::fs::read_to_string(&path).map_err(LabError::io("read fleet.toml"))?;
    let text = text.replacen("[db]", "[db]\nreads = { split = true }", 1);
    std::fs::write(&path, text).map_err(LabError::io("write fleet.toml"))?;
    run(&fleet.a, &["apply", "--yes"]).await?;
    wait_until_healthy(&fleet.a, 2).await?;
    in_sync(&[&fleet.a, &fleet.b]).await?;
    let outcome = switchovers(&fleet, if long() { 20 } else { 2 }).await;
    fleet.explain(outcome).await
}

async fn switchovers(fleet: &Fleet, count: u32) -> Result<(), LabError> {
    let limit = Duration::from_secs(60);
    let started = wait_until("sessions on both servers", limit, async || {
        let through_a = FlatOut::start(&fleet.a, 0, WRITERS).await.ok()?;
        match FlatOut::start(&fleet.b, WRITERS, WRITERS).await {
            Ok(through_b) => Some((through_a, through_b)),
            Err(_) => {
                through_a.stop().await;
                None
            }
        }
    });
    let (through_a, through_b) = started.await?;
    let written = || through_a.acknowledged() + through_b.acknowledged();
    let mut pauses = Vec::new();
    for round in 0..count {
        let before = in_sync(&[&fleet.a, &fleet.b]).await?;
        let _ = (through_a.longest(), through_b.longest());
        hand_over(fleet).await?;
        let failed = || (through_a.failures(), through_b.failures());
        expect(failed().0.is_empty() && failed().1.is_empty(), || {
            format!("failed: {:?}", failed())
        })?;
        let after = in_sync(&[&fleet.a, &fleet.b]).await?;
        expect(
            after.leader != before.leader && after.epoch == before.epoch + 1,
            || format!("{before:?}, then {after:?}"),
        )?;
        let count = written();
        wait_until("writes at the new primary", limit, async || {
            (written() > count + 10).then_some(())
        })
        .await?;
        let pause = through_a.longest().max(through_b.longest());
        tell(&format!(
            "switchover {round}: to {}, the longest write took {} ms",
            after.leader,
            pause.as_millis()
        ));
        pauses.push(pause);
    }
    pauses.sort();
    let ledger = through_a.stop().await.and(through_b.stop().await);
    let now = in_sync(&[&fleet.a, &fleet.b]).await?;
    let primary = fleet.named(&now.leader)?;
    let replica = if now.leader == "a" { &fleet.b } else { &fleet.a };
    let comparison = compare(primary, replica, fleet.engine, &ledger).await?;
    tell(&format!(
        "{count} switchovers, {} writes acknowledged, {:?} found, failed: {:?}; longest write: median {} ms, at most {} ms",
        comparison.acknowledged,
        comparison.found,
        ledger.failures,
        pauses[pauses.len() / 2].as_millis(),
        pauses[pauses.len() - 1].as_millis()
    ));
    expect(ledger.failures.is_empty(), || {
        format!("failed: {:?}", ledger.failures)
    })?;
    expect(comparison.holds() && comparison.acknowledged > 0, || {
        format!("lost or different: {comparison:?}")
    })
}

/// Asks until it is done: a hand-over that is given up has broken nothing.
async fn hand_over(fleet: &Fleet) -> Result<(), LabError> {
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let (status, _, said) = attempt(&fleet.a, &["db", "switchover"]).await?;
        if status == 0 {
            return Ok(());
        }
        tell(&format!("given up: {said}"));
        last = said;
        in_sync(&[&fleet.a, &fleet.b]).await?;
    }
    Err(LabError::App(format!("no switchover: {last}")))
}
