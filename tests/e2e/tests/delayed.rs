//! A copy that stays behind on purpose: it has what somebody dropped, and counts for nothing else.

use std::time::Duration;

use pontoon_e2e::fleet::{
    Engine, Fleet, ask, attempt, expect, in_sync, long, members_in_sync, refused, replica_delay, run,
    standing, tell, wait_until_healthy,
};
use pontoon_testkit::database::databases;
use pontoon_testkit::{DatabaseOptions, LabError, Server, StoreKind, in_lab, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

const DELAY: &str = "delay = \"1h\"";

#[test]
fn a_delayed_copy_keeps_what_somebody_dropped() -> Result<(), LabError> {
    in_lab(
        "a_delayed_copy_keeps_what_somebody_dropped",
        Duration::from_secs(400),
        async |lab| {
            let fleet = Fleet::new(lab).await?;
            fleet.found().await?;
            fleet.join().await?;
            wait_until_healthy(&fleet.a, 2).await?;
            let outcome = dropped(&fleet).await;
            fleet.explain(outcome).await
        },
    )
}

/// Without failover.
async fn dropped(fleet: &Fleet) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    ask(a, "CREATE TABLE notes.orders (id INT PRIMARY KEY)").await?;
    ask(a, "INSERT INTO notes.orders VALUES (1)").await?;
    has(b, "SELECT COUNT(*) FROM notes.orders", "1").await?;
    let refusal = fleet
        .set_server("a", DELAY, true)
        .await
        .err()
        .map(|error| error.to_string());
    expect(refusal.as_ref().is_some_and(|said| said.contains("L005")), || {
        format!("{refusal:?}")
    })?;
    fleet.set_server("a", DELAY, false).await?;
    fleet.set_server("b", DELAY, true).await?;
    delayed(b, fleet.engine, 3600).await?;

    ask(a, "INSERT INTO notes.orders VALUES (2)").await?;
    ask(a, "DROP TABLE notes.orders").await?;
    // It receives that, and does not do it.
    wait_until_healthy(a, 2).await?;
    let (_, out, _) = attempt(a, &["db", "status"]).await?;
    expect(out.contains("b: delayed by 1h on purpose"), || out.clone())?;
    let rows = ask(b, "SELECT COUNT(*) FROM notes.orders").await?;
    expect(rows == ["1"], || format!("{rows:?}"))?;
    refused(a, &["db", "check", "b"], "D004", 1).await?;

    // Without its delay it catches up.
    fleet.set_server("b", DELAY, false).await?;
    delayed(b, fleet.engine, 0).await?;
    wait_until("the copy catches up", LIMIT, async || {
        ask(b, "SELECT COUNT(*) FROM notes.orders").await.err().map(drop)
    })
    .await?;
    wait_until_healthy(a, 2).await
}

#[test]
fn a_delayed_mariadb_never_leads() -> Result<(), LabError> {
    never("a_delayed_mariadb_never_leads", Engine::Mariadb)
}

#[test]
fn a_delayed_mysql_never_leads() -> Result<(), LabError> {
    never("a_delayed_mysql_never_leads", Engine::Mysql)
}

fn never(name: &str, engine: Engine) -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: a delayed copy beside a failover is in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(name, Duration::from_secs(900), async |lab| {
        let mut fleet = match engine {
            Engine::Mariadb => Fleet::new(lab).await?,
            Engine::Mysql => Fleet::with(lab, Engine::Mysql, DatabaseOptions::default()).await?,
        };
        StoreKind::Etcd.available()?;
        fleet.found().await?;
        fleet.join().await?;
        let _store = fleet.share_lease(StoreKind::Etcd).await?;
        in_sync(&[&fleet.a, &fleet.b]).await?;
        fleet.join_another("c").await?;
        members_in_sync(&fleet.servers(), 1).await?;
        let outcome = beside_a_failover(&fleet).await;
        fleet.explain(outcome).await
    })
}

async fn beside_a_failover(fleet: &Fleet) -> Result<(), LabError> {
    let before = members_in_sync(&fleet.servers(), 1).await?;
    // Also the one that has every acknowledged write may be delayed: another takes its place first.
    let chosen = before.in_sync.first().cloned().unwrap_or_default();
    let copy = fleet.named(&chosen)?;
    fleet.set_server(&chosen, DELAY, true).await?;
    delayed(copy, fleet.engine, 3600).await?;
    let now = members_in_sync(&fleet.servers(), 1).await?;
    expect(!now.in_sync.contains(&chosen), || format!("{now:?}"))?;
    refused(&fleet.a, &["db", "switchover", &chosen], "L005", 3).await?;
    refused(copy, &["db", "failover", &chosen], "L005", 3).await?;

    let primary = fleet.named(&now.leader)?;
    ask(primary, "CREATE TABLE notes.kept (id INT PRIMARY KEY)").await?;
    databases(primary).iter().try_for_each(|id| id.kill_9())?;
    wait_until("another primary, or the same again", LIMIT, async || {
        let after = standing(copy).await.ok()?;
        (after.epoch > now.epoch && after.leader != chosen).then_some(())
    })
    .await?;
    let after = members_in_sync(&fleet.servers(), 1).await?;
    expect(after.leader != chosen && !after.in_sync.contains(&chosen), || {
        format!("{after:?}")
    })?;
    delayed(copy, fleet.engine, 3600).await?;
    expect(ask(copy, "SELECT 1 FROM notes.kept").await.is_err(), || {
        format!("{chosen} has applied what is an hour younger")
    })?;
    // A new copy is delayed too.
    run(&fleet.a, &["db", "reseed", &chosen, "--yes"]).await?;
    delayed(copy, fleet.engine, 3600).await?;
    fleet.set_server(&chosen, DELAY, false).await?;
    delayed(copy, fleet.engine, 0).await?;
    members_in_sync(&fleet.servers(), 1).await?;
    has(copy, "SELECT COUNT(*) FROM notes.kept", "0").await
}

/// Waits until it follows with that delay, in seconds.
async fn delayed(server: &Server, engine: Engine, seconds: u64) -> Result<(), LabError> {
    wait_until("the delay", LIMIT, async || {
        let found = replica_delay(server, engine).await.ok()?;
        (found == Some(seconds)).then_some(())
    })
    .await
}

async fn has(server: &Server, query: &str, answer: &str) -> Result<(), LabError> {
    wait_until(query, LIMIT, async || {
        (ask(server, query).await.ok()? == [answer]).then_some(())
    })
    .await
}
