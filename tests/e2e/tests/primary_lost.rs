//! The primary's database dies, its server freezes or is lost, cables are pulled, the lease store falls silent: under
//! writes that are counted. Another takes over when it may, nobody does when it may not, and nothing acknowledged is lost.

use std::time::{Duration, Instant};

use pontoon_e2e::fleet::{
    Engine, Fleet, Standing, ask, expect, in_sync, logs, long, rounds_asked, run, standing, tell,
};
use pontoon_e2e::rounds::{Fault, Round, Scene, Tally, copy_of};
use pontoon_e2e::under_load::{Histories, Writers, compare, fill};
use pontoon_testkit::database::databases;
use pontoon_testkit::{DatabaseOptions, Lab, LabError, LabStore, Server, StoreKind, in_lab, wait_until};

/// Writes a second through each server.
const RATE: u32 = 25;

/// The disk of each server, where disks are filled.
const DISK_MIB: u32 = 1200;

/// How long another server may take to take over, or a server to do what it does by itself.
const LIMIT: Duration = Duration::from_secs(60);

/// One server with a lease in a store; another joins, leaves and joins again.
#[test]
fn servers_join_and_leave_a_fleet_that_has_failover() -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: joining a fleet with failover is in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(
        "servers_join_and_leave_a_fleet_that_has_failover",
        Duration::from_secs(600),
        async |lab| {
            let mut fleet = Fleet::new(lab).await?;
            store().available()?;
            fill(&fleet.a, 1).await?;
            fleet.found().await?;
            let lease = fleet.share_lease(store()).await?;
            let writers = Writers::start(&fleet.a, RATE).await?;
            lease.hand_keys_to(&fleet.b)?;
            let played = async {
                fleet.join().await?;
                in_sync(&[&fleet.a, &fleet.b]).await?;
                run(&fleet.b, &["leave", "--yes"]).await?;
                let token = fleet.token().await?;
                fleet.join_with(&token).await?;
                let before = in_sync(&[&fleet.a, &fleet.b]).await?;
                databases(&fleet.a).iter().try_for_each(|id| id.kill_9())?;
                taken_over(&fleet.b, &before).await?;
                in_sync(&[&fleet.a, &fleet.b]).await
            };
            let outcome = played.await;
            fleet.explain(outcome).await?;
            let ledger = writers.stop().await;
            let comparison = compare(&fleet.b, &fleet.a, fleet.engine, &ledger).await?;
            expect(comparison.holds(), || {
                format!("lost or different: {comparison:?}")
            })
        },
    )
}

#[test]
fn mariadb_fleets_that_get_failover_lose_primaries_and_no_writes() -> Result<(), LabError> {
    let limit = limit();
    in_lab(
        "mariadb_fleets_that_get_failover_lose_primaries_and_no_writes",
        limit,
        async |lab| played(lab, Engine::Mariadb, store(), faults()).await,
    )
}

#[test]
fn mysql_fleets_that_get_failover_lose_primaries_and_no_writes() -> Result<(), LabError> {
    in_lab(
        "mysql_fleets_that_get_failover_lose_primaries_and_no_writes",
        limit(),
        async |lab| played(lab, Engine::Mysql, store(), faults()).await,
    )
}

/// How long all of it may take.
fn limit() -> Duration {
    let rounds = u64::try_from(faults().len()).unwrap_or(u64::MAX);
    Duration::from_secs(if long() { 600 + 90 * rounds } else { 580 })
}

/// Which faults, in which order: `PONTOON_FAULTS=Divided,ServerFrozen`, and `PONTOON_ROUNDS` times all of them.
fn faults() -> Vec<Fault> {
    let wanted = Fault::named(&std::env::var("PONTOON_FAULTS").unwrap_or_default());
    let rounds = rounds_asked().unwrap_or(1);
    let mut faults = match (wanted.is_empty(), long()) {
        (false, _) => wanted.repeat(rounds),
        (true, true) => Fault::ALL.repeat(rounds),
        (true, false) => Fault::SHORT.to_vec(),
    };
    if let Err(skip) = pontoon_testkit::filter::available() {
        let before = faults.len();
        faults.retain(|fault| !Fault::FILTERS.contains(fault));
        if faults.len() < before {
            tell(&format!("SKIPPED: {:?}: {skip}", Fault::FILTERS));
        }
    }
    faults
}

/// etcd, and with `PONTOON_STORE=s3` moto. Not by itself: now and then moto lets two writers win, and `apply` refuses it.
fn store() -> StoreKind {
    match std::env::var("PONTOON_STORE").as_deref() {
        Ok("s3") => StoreKind::S3,
        _ => StoreKind::Etcd,
    }
}

/// A fleet of two that runs for a while already gets failover under writes, and then the faults come.
async fn played(lab: Lab, engine: Engine, store: StoreKind, faults: Vec<Fault>) -> Result<(), LabError> {
    store.available()?;
    let disks = faults.iter().any(|fault| Fault::DISKS.contains(fault));
    let options = DatabaseOptions::default();
    let mut fleet = Fleet::with_disks(lab, engine, options, disks.then_some(DISK_MIB)).await?;
    fill(&fleet.a, 1).await?;
    fleet.found().await?;
    fleet.join().await?;
    let through_a = Writers::start_as(0, &fleet.a, RATE).await?;
    let through_b = Writers::start_as(1, &fleet.b, RATE).await?;
    let store = fleet.share_lease(store).await?;
    let histories = Histories::start(&[&fleet.a, &fleet.b], 3).await?;
    let clients = Clients {
        through_a,
        through_b,
        histories,
    };
    let outcome = rounds(&fleet, &store, &faults, &clients).await;
    fleet.explain(outcome).await?;
    let Clients {
        through_a,
        through_b,
        histories,
    } = clients;
    let ledger = through_a.stop().await.and(through_b.stop().await);
    // Nobody writes any more: the replica has everything, or it is missing.
    let now = in_sync(&[&fleet.a, &fleet.b]).await?;
    let (primary, replica) = both(&fleet, &now)?;
    let (transactions, anomalies) = histories.verdict(primary, Scene::STALE).await?;
    tell(&format!(
        "{transactions} transactions of a history, impossible: {anomalies:?}"
    ));
    expect(transactions > 0 && anomalies.is_empty(), || {
        format!("cannot have happened: {anomalies:?}")
    })?;
    let comparison = compare(primary, replica, fleet.engine, &ledger).await?;
    tell(&format!(
        "{} rounds, {} writes acknowledged, {:?} found; failed: {:?}",
        faults.len(),
        comparison.acknowledged,
        comparison.found,
        ledger.failures
    ));
    expect(comparison.holds() && comparison.acknowledged > 0, || {
        format!("lost or different: {comparison:?}")
    })?;
    // Each epoch stands in the history that both have, with one server's name.
    let epochs = ask(
        primary,
        "SELECT COUNT(*) - COUNT(DISTINCT epoch) FROM pontoon.epochs",
    )
    .await?;
    expect(epochs == ["0"], || {
        format!("epochs were written twice: {epochs:?}")
    })
}

/// The primary and the other one.
fn both<'a>(fleet: &'a Fleet, now: &Standing) -> Result<(&'a Server, &'a Server), LabError> {
    let primary = fleet.named(&now.leader)?;
    let replica = if now.leader == "a" { &fleet.b } else { &fleet.a };
    Ok((primary, replica))
}

/// Who writes, all the time.
struct Clients {
    through_a: Writers,
    through_b: Writers,
    histories: Histories,
}

impl Clients {
    fn written(&self) -> usize {
        self.through_a.acknowledged() + self.through_b.acknowledged()
    }

    /// Nobody writes for a moment: both copies must be equal, and have everything that was acknowledged.
    async fn nothing_is_lost(&self, fleet: &Fleet, now: &Standing) -> Result<(), LabError> {
        self.through_a.hold().await?;
        self.through_b.hold().await?;
        self.histories.hold().await?;
        let (primary, replica) = both(fleet, now)?;
        let ledger = self.through_a.ledger().and(self.through_b.ledger());
        let comparison = compare(primary, replica, fleet.engine, &ledger).await?;
        expect(comparison.holds(), || {
            format!("lost or different: {comparison:?}")
        })?;
        self.through_a.go_on();
        self.through_b.go_on();
        self.histories.go_on();
        Ok(())
    }
}

async fn rounds(
    fleet: &Fleet,
    store: &LabStore,
    faults: &[Fault],
    clients: &Clients,
) -> Result<(), LabError> {
    let mut tally = Tally::default();
    let servers = [&fleet.a, &fleet.b];
    in_sync(&servers).await?;
    for (number, fault) in faults.iter().copied().enumerate() {
        let before = in_sync(&servers).await?;
        let (primary, replica) = both(fleet, &before)?;
        let _ = (clients.through_a.span(), clients.through_b.span());
        let (copies, begun) = (servers.map(copy_of), Instant::now());
        let scene = Scene {
            fleet,
            store,
            primary,
            replica,
            before: &before,
        };
        let played = scene.play(fault).await;
        played.map_err(|error| LabError::App(format!("{fault:?}: {error}")))?;
        let after = in_sync(&servers).await?;
        let changed = after.leader != before.leader;
        expect(
            fault
                .changes_the_primary()
                .is_none_or(|changes| changes == changed),
            || format!("{fault:?}: {before:?}, then {after:?}"),
        )?;
        let count = clients.written();
        wait_until("writes after the fault", LIMIT, async || {
            (clients.written() > count).then_some(())
        })
        .await?;
        // Through the server that was not hit: the other's application stood still, too.
        let spared = match fault.hits_the_primary() {
            true => replica,
            false => primary,
        };
        let span = match spared.name() {
            "a" => clients.through_a.span(),
            _ => clients.through_b.span(),
        };
        let round = Round {
            fault,
            pause: span.longest_gap(),
            whole: begun.elapsed(),
            copied: servers.map(copy_of) != copies,
        };
        clients.nothing_is_lost(fleet, &after).await?;
        tell(&format!(
            "round {number}: {fault:?}, epoch {} to {}, no write for {:.2} s, in sync again after {:.1} s{}",
            before.epoch,
            after.epoch,
            round.pause.as_secs_f64(),
            round.whole.as_secs_f64(),
            if round.copied { ", copied anew" } else { "" },
        ));
        if std::env::var_os("PONTOON_EXPLAIN").is_some() {
            tell(&format!(
                "that began {:.2} s after the fault",
                span.gap().0.as_secs_f64()
            ));
            for server in servers {
                tell(&logs(server, 200));
            }
        }
        tally.count(round);
    }
    tell(&tally.to_string());
    let before = in_sync(&servers).await?;
    // A replica that has much to catch up with is not handed over to: the command says so, and nothing has changed.
    wait_until("a switchover", LIMIT, async || {
        run(&fleet.a, &["db", "switchover"]).await.ok()
    })
    .await?;
    let after = in_sync(&servers).await?;
    expect(
        after.leader != before.leader && after.epoch == before.epoch + 1,
        || format!("a switchover: {before:?}, then {after:?}"),
    )
}

/// Waits until that replica leads and takes writes.
async fn taken_over(replica: &Server, before: &Standing) -> Result<(), LabError> {
    wait_until("a new primary", LIMIT, async || {
        let now = standing(replica).await.ok()?;
        let open = now
            .states
            .get(replica.name())
            .is_some_and(|state| state.starts_with("leader-"));
        (now.epoch > before.epoch && now.leader == replica.name() && open).then_some(())
    })
    .await
}
