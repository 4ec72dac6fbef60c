//! The primary's database dies, its server freezes or is lost, cables are pulled, the lease store falls silent: under
//! writes that are counted. Another takes over when it may, nobody does when it may not, and nothing acknowledged is lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pontoon_e2e::fleet::{
    Engine, Fleet, Standing, ask, attempt, expect, in_sync, logs, long, run, standing, start_agent, tell,
};
use pontoon_e2e::under_load::{Histories, Writers, compare, fill};
use pontoon_testkit::database::databases;
use pontoon_testkit::{DatabaseOptions, LabError, LabStore, Server, StoreKind, in_lab, wait_until};

/// Writes a second through each server.
const RATE: u32 = 25;

/// How long another server may take to take over, or a server to do what it does by itself.
const LIMIT: Duration = Duration::from_secs(60);

/// The leases of the tests run out after so long ([`LabStore::table`]).
const TTL: Duration = Duration::from_secs(6);

/// What happens to the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// `kill -9` of the primary's database.
    DatabaseKilled,
    /// The primary's database stands still, and its agent lives.
    DatabaseFrozen,
    /// The replica's database stands still, and its agent lives.
    ReplicaFrozen,
    /// Every process of the primary's server stands still, and goes on when another leads.
    ServerFrozen,
    /// The primary's server loses its power, and has it again when another leads.
    ServerLost,
    /// The primary's server hears nobody: neither the other server nor the store.
    PrimaryCutOff,
    /// The replica's server hears nobody.
    ReplicaCutOff,
    /// The servers do not hear each other; both hear the store.
    Divided,
    /// The store answers nobody for longer than a lease holds.
    StoreSilent,
    /// The store answers nobody, and then the servers lose each other.
    StoreSilentAndDivided,
}

impl Fault {
    /// Those that need no patience: continuous integration plays them.
    const SHORT: [Fault; 2] = [Fault::DatabaseKilled, Fault::DatabaseKilled];

    const ALL: [Fault; 10] = [
        Fault::DatabaseKilled,
        Fault::DatabaseFrozen,
        Fault::ReplicaFrozen,
        Fault::ServerFrozen,
        Fault::PrimaryCutOff,
        Fault::ReplicaCutOff,
        Fault::Divided,
        Fault::StoreSilent,
        Fault::StoreSilentAndDivided,
        // The writers of that server end with it.
        Fault::ServerLost,
    ];
}

impl Fault {
    /// Whether it is the primary's server, or what runs on it, that it comes to.
    fn hits_the_primary(self) -> bool {
        use Fault::{DatabaseFrozen, DatabaseKilled, PrimaryCutOff, ServerFrozen, ServerLost};
        matches!(
            self,
            DatabaseKilled | DatabaseFrozen | ServerFrozen | ServerLost | PrimaryCutOff
        )
    }
}

/// For each fault the longest time of a round in which no write was acknowledged.
fn table(pauses: BTreeMap<String, Vec<Duration>>) -> String {
    let mut lines = vec![format!(
        "{:<24}{:>8}{:>10}{:>10}{:>10}",
        "no write for", "rounds", "median", "p99", "at most"
    )];
    for (fault, mut all) in pauses {
        all.sort();
        let at = |share: usize| all[(all.len() * share / 100).min(all.len() - 1)].as_secs_f64();
        lines.push(format!(
            "{fault:<24}{:>8}{:>8.2} s{:>8.2} s{:>8.2} s",
            all.len(),
            at(50),
            at(99),
            at(100)
        ));
    }
    lines.join("\n")
}

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
            if outcome.is_err() {
                for server in [&fleet.a, &fleet.b] {
                    tell(&attempt(server, &["db", "status"]).await?.1);
                    tell(&attempt(server, &["events"]).await?.1);
                    tell(&logs(server, 80));
                }
            }
            outcome?;
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
        async |lab| played(Fleet::new(lab).await?, store(), faults()).await,
    )
}

/// In the long form only: MySQL takes its time to start.
#[test]
fn mysql_fleets_that_get_failover_lose_primaries_and_no_writes() -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: MySQL loses its primaries in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(
        "mysql_fleets_that_get_failover_lose_primaries_and_no_writes",
        limit(),
        async |lab| {
            let fleet = Fleet::with(lab, Engine::Mysql, DatabaseOptions::default()).await?;
            played(fleet, store(), faults()).await
        },
    )
}

/// How long all of it may take.
fn limit() -> Duration {
    let rounds = u64::try_from(faults().len()).unwrap_or(u64::MAX);
    Duration::from_secs(if long() { 600 + 90 * rounds } else { 280 })
}

/// Which faults, in which order: `PONTOON_FAULTS=Divided,ServerFrozen`, and `PONTOON_ROUNDS` times all of them.
fn faults() -> Vec<Fault> {
    let named = std::env::var("PONTOON_FAULTS").unwrap_or_default();
    let wanted: Vec<Fault> = Fault::ALL
        .into_iter()
        .filter(|fault| named.split(',').any(|name| name == format!("{fault:?}")))
        .collect();
    let rounds = std::env::var("PONTOON_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok());
    match (wanted.is_empty(), long()) {
        (false, _) => wanted.repeat(rounds.unwrap_or(1)),
        (true, true) => Fault::ALL.repeat(rounds.unwrap_or(1)),
        (true, false) => Fault::SHORT.to_vec(),
    }
}

/// etcd, and with `PONTOON_STORE=s3` moto. Not by itself: now and then moto lets two writers win, and `apply` refuses it.
fn store() -> StoreKind {
    match std::env::var("PONTOON_STORE").as_deref() {
        Ok("s3") => StoreKind::S3,
        _ => StoreKind::Etcd,
    }
}

/// A fleet of two that runs for a while already gets failover under writes, and then the faults come.
async fn played(mut fleet: Fleet, store: StoreKind, faults: Vec<Fault>) -> Result<(), LabError> {
    store.available()?;
    fill(&fleet.a, 1).await?;
    fleet.found().await?;
    fleet.join().await?;
    let through_a = Writers::start_as(0, &fleet.a, RATE).await?;
    let through_b = Writers::start_as(1, &fleet.b, RATE).await?;
    let store = fleet.share_lease(store).await?;
    let histories = Histories::start(&[&fleet.a, &fleet.b], 3).await?;
    let outcome = rounds(&fleet, &store, &faults, &through_a, &through_b).await;
    if outcome.is_err() {
        for server in [&fleet.a, &fleet.b] {
            tell(&attempt(server, &["db", "status"]).await?.1);
            tell(&attempt(server, &["events"]).await?.1);
            tell(&logs(server, 80));
        }
    }
    outcome?;
    let ledger = through_a.stop().await.and(through_b.stop().await);
    // Nobody writes any more: the replica has everything, or it is missing.
    let now = in_sync(&[&fleet.a, &fleet.b]).await?;
    let (primary, replica) = both(&fleet, &now)?;
    let (transactions, anomalies) = histories.verdict(primary).await?;
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

async fn rounds(
    fleet: &Fleet,
    store: &LabStore,
    faults: &[Fault],
    through_a: &Writers,
    through_b: &Writers,
) -> Result<(), LabError> {
    let mut pauses: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    let written = async || through_a.acknowledged() + through_b.acknowledged();
    let servers = [&fleet.a, &fleet.b];
    in_sync(&servers).await?;
    for (number, fault) in faults.iter().enumerate() {
        let before = in_sync(&servers).await?;
        let (primary, replica) = both(fleet, &before)?;
        let _ = (through_a.span(), through_b.span());
        let begun = Instant::now();
        let changes = one(fleet, store, *fault, primary, replica, &before).await?;
        let after = in_sync(&servers).await?;
        expect((after.leader != before.leader) == changes, || {
            format!("{fault:?}: {before:?}, then {after:?}")
        })?;
        let count = written().await;
        wait_until("writes after the fault", LIMIT, async || {
            (written().await > count).then_some(())
        })
        .await?;
        // Through the server that was not hit: the other's application stood still, too.
        let spared = match fault.hits_the_primary() {
            true => replica,
            false => primary,
        };
        let span = match spared.name() {
            "a" => through_a.span(),
            _ => through_b.span(),
        };
        let gap = span.longest_gap();
        tell(&format!(
            "round {number}: {fault:?}, epoch {} to {}, no write for {:.2} s, in sync again after {:.1} s",
            before.epoch,
            after.epoch,
            gap.as_secs_f64(),
            begun.elapsed().as_secs_f64()
        ));
        pauses.entry(format!("{fault:?}")).or_default().push(gap);
    }
    tell(&table(pauses));
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

/// Plays one fault and ends it; says whether another server leads after it.
async fn one(
    fleet: &Fleet,
    store: &LabStore,
    fault: Fault,
    primary: &Server,
    replica: &Server,
    before: &Standing,
) -> Result<bool, LabError> {
    match fault {
        Fault::DatabaseKilled => {
            databases(primary).iter().try_for_each(|id| id.kill_9())?;
            taken_over(replica, before).await?;
        }
        Fault::DatabaseFrozen => {
            databases(primary).iter().try_for_each(|id| id.freeze(true))?;
            // It is killed, so nobody needs to wake it.
            taken_over(replica, before).await?;
        }
        Fault::ReplicaFrozen => {
            databases(replica).iter().try_for_each(|id| id.freeze(true))?;
            alone(primary).await?;
            nobody_takes_over(replica).await?;
            databases(replica).iter().try_for_each(|id| id.freeze(false))?;
            return Ok(false);
        }
        Fault::ServerFrozen => {
            primary.freeze().await?;
            taken_over(replica, before).await?;
            primary.thaw()?;
        }
        Fault::ServerLost => {
            primary.power_off().await?;
            taken_over(replica, before).await?;
            primary.power_on().await?;
            store.hand_keys_to(primary)?;
            start_agent(primary).await?;
        }
        Fault::PrimaryCutOff => {
            primary.link_down().await?;
            taken_over(replica, before).await?;
            primary.link_up().await?;
        }
        Fault::ReplicaCutOff => {
            replica.link_down().await?;
            alone(primary).await?;
            nobody_takes_over(replica).await?;
            replica.link_up().await?;
            return Ok(false);
        }
        Fault::Divided => {
            fleet.lab.isolate(&fleet.a, &fleet.b).await?;
            alone(primary).await?;
            nobody_takes_over(replica).await?;
            fleet.lab.rejoin(&fleet.a, &fleet.b).await?;
            return Ok(false);
        }
        Fault::StoreSilent => {
            store.server().link_down().await?;
            nobody_takes_over(replica).await?;
            let now = standing(primary).await?;
            expect(now.in_sync == before.in_sync, || {
                format!("in sync no more: {now:?}")
            })?;
            store.server().link_up().await?;
            return Ok(false);
        }
        Fault::StoreSilentAndDivided => {
            store.server().link_down().await?;
            fleet.lab.isolate(&fleet.a, &fleet.b).await?;
            nobody_takes_over(replica).await?;
            // The primary may not go on without its replica on its own word.
            let now = standing(primary).await?;
            expect(now.in_sync == before.in_sync, || {
                format!("in sync no more: {now:?}")
            })?;
            fleet.lab.rejoin(&fleet.a, &fleet.b).await?;
            store.server().link_up().await?;
            return Ok(false);
        }
    }
    Ok(true)
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

/// Waits until the primary goes on without its replica.
async fn alone(primary: &Server) -> Result<(), LabError> {
    wait_until("a primary that goes on alone", LIMIT, async || {
        let now = standing(primary).await.ok()?;
        let state = now.states.get(primary.name())?;
        (state == "leader-alone" && now.in_sync.is_empty()).then_some(())
    })
    .await
}

/// For longer than a lease holds, the replica stays one.
async fn nobody_takes_over(replica: &Server) -> Result<(), LabError> {
    tokio::time::sleep(TTL + TTL / 2).await;
    let now = standing(replica).await?;
    expect(now.leader != replica.name(), || format!("taken over: {now:?}"))
}
