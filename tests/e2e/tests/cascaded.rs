//! A replica that follows through another: nobody waits for it, its source may be lost, promoted and handed over from, and
//! nothing acknowledged is lost. In the end all three hold the same.

use std::time::Duration;

use pontoon_e2e::fleet::{
    Engine, Fleet, attempt, expect, long, members_in_sync, refused, replica_source, run, standing, tell,
};
use pontoon_e2e::under_load::{Ledger, Writers, compare, fill};
use pontoon_testkit::database::databases;
use pontoon_testkit::{DatabaseOptions, LabError, StoreKind, in_lab, wait_until};

/// Writes a second through each server.
const RATE: u32 = 20;

/// How long a server may take to do what it does by itself.
const LIMIT: Duration = Duration::from_secs(60);

const SOURCE: &str = "source = \"b\"";

#[test]
fn a_replica_of_a_mariadb_replica_follows_whoever_is_left() -> Result<(), LabError> {
    in_lab(
        "a_replica_of_a_mariadb_replica_follows_whoever_is_left",
        Duration::from_secs(400),
        async |lab| played(Fleet::new(lab).await?).await,
    )
}

/// In the long form only: MySQL takes its time to start.
#[test]
fn a_replica_of_a_mysql_replica_follows_whoever_is_left() -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: a replica of a replica with MySQL is in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(
        "a_replica_of_a_mysql_replica_follows_whoever_is_left",
        Duration::from_secs(600),
        async |lab| played(Fleet::with(lab, Engine::Mysql, DatabaseOptions::default()).await?).await,
    )
}

async fn played(mut fleet: Fleet) -> Result<(), LabError> {
    StoreKind::Etcd.available()?;
    fill(&fleet.a, 1).await?;
    fleet.found().await?;
    fleet.join().await?;
    fleet.join_another("c").await?;
    let _store = fleet.share_lease(StoreKind::Etcd).await?;
    let outcome = cascaded(&fleet).await;
    fleet.explain(outcome).await
}

async fn cascaded(fleet: &Fleet) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    let servers = fleet.servers();
    members_in_sync(&servers, 1).await?;
    // Also when it is in sync just now: the other one takes its place first.
    fleet.set_server("c", SOURCE, true).await?;
    follows(fleet, "b").await?;
    said(fleet, "c: follows through b").await?;
    let mut writers = Vec::new();
    for (group, server) in (0..).zip(&servers) {
        writers.push(Writers::start_as(group, server, RATE).await?);
    }
    some_writes(&writers.iter().collect::<Vec<_>>()).await?;
    refused(a, &["db", "switchover", "c"], "L010", 3).await?;

    b.freeze().await?;
    follows(fleet, "a").await?;
    // What goes through the frozen one waits.
    some_writes(&[&writers[0], &writers[2]]).await?;
    b.thaw()?;
    follows(fleet, "b").await?;
    let before = members_in_sync(&servers, 1).await?;
    expect(before.leader == "a" && before.in_sync == ["b"], || {
        format!("{before:?}")
    })?;

    // The source is promoted.
    databases(a).iter().try_for_each(|id| id.kill_9())?;
    wait_until("another primary", LIMIT, async || {
        let now = standing(b).await.ok()?;
        (now.leader == "b" && now.epoch > before.epoch).then_some(())
    })
    .await?;
    follows(fleet, "b").await?;
    said(fleet, "c: follows the primary itself").await?;
    members_in_sync(&servers, 1).await?;
    some_writes(&writers.iter().collect::<Vec<_>>()).await?;

    // And hands over again.
    let last = match long() {
        true => {
            wait_until("a switchover", LIMIT, async || {
                run(a, &["db", "switchover", "a"]).await.ok()
            })
            .await?;
            said(fleet, "c: follows through b").await?;
            follows(fleet, "b").await?;
            some_writes(&writers.iter().collect::<Vec<_>>()).await?;
            "a"
        }
        false => "b",
    };
    let mut ledger = Ledger::default();
    for writer in writers {
        ledger = ledger.and(writer.stop().await);
    }
    let now = members_in_sync(&servers, 1).await?;
    expect(now.leader == last, || format!("{now:?}"))?;
    let primary = fleet.named(last)?;
    for replica in servers.iter().filter(|server| server.name() != last) {
        let comparison = compare(primary, replica, fleet.engine, &ledger).await?;
        expect(comparison.holds() && comparison.acknowledged > 0, || {
            format!("lost or different on {}: {comparison:?}", replica.name())
        })?;
    }
    tell(&format!(
        "{} writes acknowledged, all of them on every server; failed: {:?}",
        ledger.acknowledged.len(),
        ledger.failures
    ));
    Ok(())
}

/// Waits until the third server's database receives from that one.
async fn follows(fleet: &Fleet, name: &str) -> Result<(), LabError> {
    let (third, address) = (fleet.named("c")?, fleet.named(name)?.private().to_string());
    wait_until(&format!("c follows {name}"), LIMIT, async || {
        let from = replica_source(third, fleet.engine).await.ok()?;
        (from.as_ref() == Some(&address)).then_some(())
    })
    .await
}

/// Waits until `pontoon db status` says that.
async fn said(fleet: &Fleet, line: &str) -> Result<(), LabError> {
    wait_until(line, LIMIT, async || {
        let (_, out, _) = attempt(fleet.named("c").ok()?, &["db", "status"]).await.ok()?;
        out.contains(line).then_some(())
    })
    .await
}

/// Waits for writes of each of these.
async fn some_writes(writers: &[&Writers]) -> Result<(), LabError> {
    let counts: Vec<usize> = writers.iter().map(|writer| writer.acknowledged()).collect();
    wait_until("more writes", LIMIT, async || {
        let more = writers
            .iter()
            .zip(&counts)
            .all(|(now, then)| now.acknowledged() > then + 5);
        more.then_some(())
    })
    .await
}
