//! `durability = "one-copy"` with failover: a primary that is cut off goes on acknowledging until its lease ends, and what it
//! acknowledged meanwhile is lost when another takes over. So much, and not more than is said; and never do two servers
//! acknowledge.

use std::time::{Duration, Instant};

use pontoon_e2e::fleet::{
    Engine, Fleet, Standing, ask, attempt, expect, in_sync, long, refused, run, standing, tell,
};
use pontoon_e2e::under_load::{Writers, fill};
use pontoon_testkit::{DatabaseOptions, LabError, Server, StoreKind, in_lab, wait_until};
use serde_json::Value;

/// Writes a second through each server.
const RATE: u32 = 25;

/// How long another server may take to take over, or a server to do what it does by itself.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn mariadb_loses_no_more_than_it_says() -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: a bounded loss is in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(
        "mariadb_loses_no_more_than_it_says",
        Duration::from_secs(600),
        async |lab| played(Fleet::new(lab).await?).await,
    )
}

#[test]
fn mysql_loses_no_more_than_it_says() -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: a bounded loss is in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(
        "mysql_loses_no_more_than_it_says",
        Duration::from_secs(600),
        async |lab| played(Fleet::with(lab, Engine::Mysql, DatabaseOptions::default()).await?).await,
    )
}

#[test]
fn an_operator_who_promotes_a_replica_names_the_loss() -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: a promotion with a loss is in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(
        "an_operator_who_promotes_a_replica_names_the_loss",
        Duration::from_secs(600),
        async |lab| promoted(Fleet::new(lab).await?).await,
    )
}

#[test]
fn an_operator_who_promotes_a_mysql_replica_names_the_loss() -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: a promotion with a loss is in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(
        "an_operator_who_promotes_a_mysql_replica_names_the_loss",
        Duration::from_secs(600),
        async |lab| promoted(Fleet::with(lab, Engine::Mysql, DatabaseOptions::default()).await?).await,
    )
}

async fn promoted(mut fleet: Fleet) -> Result<(), LabError> {
    StoreKind::Etcd.available()?;
    fill(&fleet.a, 1).await?;
    fleet.found().await?;
    fleet.join().await?;
    let outcome = by_an_operator(&mut fleet).await;
    fleet.explain(outcome).await
}

async fn played(mut fleet: Fleet) -> Result<(), LabError> {
    StoreKind::Etcd.available()?;
    fill(&fleet.a, 1).await?;
    fleet.found().await?;
    fleet.join().await?;
    // First with two copies: an operator changes his mind on a running fleet.
    let _store = fleet.share_lease(StoreKind::Etcd).await?;
    in_sync(&[&fleet.a, &fleet.b]).await?;
    fleet
        .set_db("durability = \"one-copy\"\nmax_lag = \"3s\"")
        .await?;
    let outcome = cut_off(&fleet).await;
    fleet.explain(outcome).await
}

async fn cut_off(fleet: &Fleet) -> Result<(), LabError> {
    let (primary, replica) = (&fleet.a, &fleet.b);
    let before = followed(primary).await?;
    expect(before.leader == "a" && before.in_sync.is_empty(), || {
        format!("{before:?}")
    })?;
    let writers = Writers::start_as(0, primary, RATE).await?;
    more(&writers, "writes at the primary").await?;
    let alone = Instant::now();
    primary.link_down().await?;
    // Nobody else has these.
    more(&writers, "writes at a primary that hears nobody").await?;
    wait_until("a new primary", LIMIT, async || {
        let now = standing(replica).await.ok()?;
        let open = now.states.get("b")?.starts_with("leader-");
        (now.epoch > before.epoch && now.leader == "b" && open).then_some(())
    })
    .await?;
    let alone = alone.elapsed();
    // From here on the old primary's proxy sends nothing to it.
    let count = writers.acknowledged();
    let others = Writers::start_as(1, replica, RATE).await?;
    more(&others, "writes at the new primary").await?;
    expect(writers.acknowledged() == count, || {
        format!(
            "two servers acknowledge: {count}, then {}",
            writers.acknowledged()
        )
    })?;
    let status: Value = serde_json::from_str(&run(replica, &["db", "status", "--json"]).await?)
        .map_err(|error| LabError::App(error.to_string()))?;
    let window = status["loss"]["window_ms"].as_u64();
    tell(&format!(
        "cut off for {} ms; may be lost: {}",
        alone.as_millis(),
        status["loss"]
    ));
    let shown = run(replica, &["db", "status"]).await?;
    expect(window.is_some() && shown.contains("may lack"), || {
        format!("nothing is said of a loss: {shown}")
    })?;

    lost_and_said(fleet, writers, others, window).await
}

/// An operator promotes a replica that is not in sync, and must say that he knows what that means.
async fn by_an_operator(fleet: &mut Fleet) -> Result<(), LabError> {
    let _store = fleet.share_lease(StoreKind::Etcd).await?;
    let before = in_sync(&[&fleet.a, &fleet.b]).await?;
    let (primary, replica) = (&fleet.a, &fleet.b);
    let writers = Writers::start_as(0, primary, RATE).await?;
    more(&writers, "writes at the primary").await?;
    replica.link_down().await?;
    wait_until("a primary that goes on alone", LIMIT, async || {
        let now = standing(primary).await.ok()?;
        now.in_sync.is_empty().then_some(())
    })
    .await?;
    // Nobody else has these.
    more(&writers, "writes at a primary without a replica").await?;
    primary.link_down().await?;
    replica.link_up().await?;
    // It was told of renewals that came after the last word of the primary's database.
    let said = wait_until("the replica to know what it does not know", LIMIT, async || {
        refused(replica, &["db", "failover", "b"], "F002", 3).await.ok()
    })
    .await?;
    let all = u64::MAX.to_string();
    expect(said.contains("is not known") && said.contains(&all), || {
        said.clone()
    })?;
    refused(
        replica,
        &["db", "failover", "b", "--accept-loss", "100000"],
        "F002",
        3,
    )
    .await?;
    let said = run(replica, &["db", "failover", "b", "--accept-loss", &all]).await?;
    tell(&said);
    let now = standing(replica).await?;
    expect(now.leader == "b" && now.epoch > before.epoch, || {
        format!("{now:?}")
    })?;
    let others = Writers::start_as(1, replica, RATE).await?;
    more(&others, "writes at the new primary").await?;
    let status: Value = serde_json::from_str(&run(replica, &["db", "status", "--json"]).await?)
        .map_err(|error| LabError::App(error.to_string()))?;
    let window = status["loss"]["window_ms"].as_u64();
    let shown = run(replica, &["db", "status"]).await?;
    expect(shown.contains("may lack"), || {
        format!("nothing is said of a loss: {shown}")
    })?;
    lost_and_said(fleet, writers, others, window).await
}

async fn more(writers: &Writers, what: &str) -> Result<(), LabError> {
    let count = writers.acknowledged();
    wait_until(what, LIMIT, async || {
        (writers.acknowledged() > count + 40).then_some(())
    })
    .await
}

/// The old primary comes back: what it has alone is counted and kept, and no less than what was lost.
async fn lost_and_said(
    fleet: &Fleet,
    writers: Writers,
    others: Writers,
    window: Option<u64>,
) -> Result<(), LabError> {
    let (primary, replica) = (&fleet.a, &fleet.b);
    primary.link_up().await?;
    // What it has that nobody else does is counted.
    let counted = wait_until("what is missing to be counted", LIMIT, async || {
        let (_, out, _) = attempt(replica, &["events", "--json", "-n", "300"]).await.ok()?;
        out.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|event| event["event"] == "transactions_only_here")
            .find_map(|event| event["transactions"].as_u64())
    })
    .await?;
    let ledger = writers.stop().await;
    others.stop().await;
    let there: std::collections::BTreeSet<String> =
        ask(replica, "SELECT CONCAT(writer, '-', number) FROM shop.receipts")
            .await?
            .into_iter()
            .collect();
    let lost = ledger
        .acknowledged
        .iter()
        .filter(|(writer, number)| !there.contains(&format!("{writer}-{number}")))
        .count();
    tell(&format!(
        "{} acknowledged by the old primary, {lost} of them lost; said: {counted} transactions, {window:?} ms",
        ledger.acknowledged.len()
    ));
    expect(lost > 0, || "nothing was lost: nothing was tried".to_owned())?;
    expect(u64::try_from(lost).is_ok_and(|lost| lost <= counted), || {
        format!("{lost} are lost, and {counted} are said")
    })?;
    // It has what its primary lacks: nothing is thrown away without a word.
    wait_until("it asks for a copy", LIMIT, async || {
        let (_, out, _) = attempt(replica, &["events", "-n", "100"]).await.ok()?;
        out.contains("must be copied anew").then_some(())
    })
    .await
}

/// Waits until the primary is open and its replica follows.
async fn followed(server: &Server) -> Result<Standing, LabError> {
    wait_until("a replica that follows", LIMIT, async || {
        let now = standing(server).await.ok()?;
        let leads = now.states.get(&now.leader)? == "leader-alone";
        let mut others = now.states.iter().filter(|(name, _)| **name != now.leader);
        (leads && others.all(|(_, state)| state == "follow")).then_some(now)
    })
    .await
}
