//! Three database servers: a third one joins, the primary is lost, others follow the new one, and nothing acknowledged is
//! lost. After each fault nobody writes any more, and all three hold the same.

use std::time::{Duration, Instant};

use pontoon_e2e::fleet::{
    Engine, Fleet, Standing, expect, long, members_in_sync, refused, rounds_asked, run, standing, tell,
};
use pontoon_e2e::under_load::{Ledger, Writers, compare, fill};
use pontoon_testkit::database::databases;
use pontoon_testkit::{DatabaseOptions, LabError, Server, StoreKind, in_lab, wait_until};

/// Writes a second through each server.
const RATE: u32 = 20;

/// How long another server may take to take over, or a server to do what it does by itself.
const LIMIT: Duration = Duration::from_secs(60);

/// What the fleet promises of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durability {
    /// One replica has it, always the same one.
    TwoCopies,
    /// Any of the two replicas has it.
    Quorum,
}

/// What happens to the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// `kill -9` of the primary's database.
    PrimaryKilled,
    /// `kill -9` of the database of a replica in sync.
    ReplicaKilled,
    /// Every process of the primary's server stands still, and goes on when another leads.
    PrimaryFrozen,
    /// Every process of the server of a replica in sync stands still for a while.
    ReplicaFrozen,
    /// The primary's server hears nobody, until another leads.
    PrimaryCutOff,
    /// The server of a replica in sync hears nobody for a while.
    ReplicaCutOff,
    /// The primary hands over to the server that was named.
    Switchover,
}

impl Fault {
    const SHORT: [Fault; 1] = [Fault::PrimaryKilled];

    const ALL: [Fault; 7] = [
        Fault::PrimaryKilled,
        Fault::ReplicaKilled,
        Fault::PrimaryFrozen,
        Fault::ReplicaFrozen,
        Fault::PrimaryCutOff,
        Fault::ReplicaCutOff,
        Fault::Switchover,
    ];
}

#[test]
fn mariadb_fleets_of_three_lose_primaries_and_no_writes() -> Result<(), LabError> {
    in_lab(
        "mariadb_fleets_of_three_lose_primaries_and_no_writes",
        limit(),
        async |lab| played(Fleet::new(lab).await?, Durability::Quorum).await,
    )
}

#[test]
fn mariadb_fleets_of_three_with_two_copies_lose_no_writes_either() -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: three servers with two copies are in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(
        "mariadb_fleets_of_three_with_two_copies_lose_no_writes_either",
        limit(),
        async |lab| played(Fleet::new(lab).await?, Durability::TwoCopies).await,
    )
}

/// In the long form only: MySQL takes its time to start.
#[test]
fn mysql_fleets_of_three_lose_primaries_and_no_writes() -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: three servers with MySQL are in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(
        "mysql_fleets_of_three_lose_primaries_and_no_writes",
        limit(),
        async |lab| {
            let fleet = Fleet::with(lab, Engine::Mysql, DatabaseOptions::default()).await?;
            played(fleet, Durability::Quorum).await
        },
    )
}

#[test]
fn mysql_fleets_of_three_with_two_copies_lose_no_writes_either() -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: three servers with MySQL are in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(
        "mysql_fleets_of_three_with_two_copies_lose_no_writes_either",
        limit(),
        async |lab| {
            let fleet = Fleet::with(lab, Engine::Mysql, DatabaseOptions::default()).await?;
            played(fleet, Durability::TwoCopies).await
        },
    )
}

/// How long all of it may take.
fn limit() -> Duration {
    let rounds = u64::try_from(faults().len()).unwrap_or(u64::MAX);
    Duration::from_secs(if long() { 600 + 120 * rounds } else { 280 })
}

/// Which faults, in which order: `PONTOON_FAULTS=PrimaryKilled,Switchover`, and `PONTOON_ROUNDS` times all of them.
fn faults() -> Vec<Fault> {
    let named = std::env::var("PONTOON_FAULTS").unwrap_or_default();
    let wanted: Vec<Fault> = Fault::ALL
        .into_iter()
        .filter(|fault| named.split(',').any(|name| name == format!("{fault:?}")))
        .collect();
    let rounds = rounds_asked().unwrap_or(1);
    match (wanted.is_empty(), long()) {
        (false, _) => wanted.repeat(rounds),
        (true, true) => Fault::ALL.repeat(rounds),
        (true, false) => Fault::SHORT.to_vec(),
    }
}

/// A fleet of two gets a third, then failover, and then the faults come.
async fn played(mut fleet: Fleet, durability: Durability) -> Result<(), LabError> {
    StoreKind::Etcd.available()?;
    fill(&fleet.a, 1).await?;
    fleet.found().await?;
    fleet.join().await?;
    fleet.join_another("c").await?;
    let (line, members) = match durability {
        Durability::TwoCopies => ("", 1),
        Durability::Quorum => ("durability = \"quorum\"", 2),
    };
    let _store = fleet.share_lease_with(StoreKind::Etcd, line).await?;
    let outcome = rounds(&fleet, members).await;
    fleet.explain(outcome).await
}

async fn rounds(fleet: &Fleet, members: usize) -> Result<(), LabError> {
    let mut ledger = Ledger::default();
    let mut group = 0;
    let servers = fleet.servers();
    for (number, fault) in faults().into_iter().enumerate() {
        let before = members_in_sync(&servers, members).await?;
        let mut writers = Vec::new();
        for server in &servers {
            writers.push(Writers::start_as(group, server, RATE).await?);
            group += 1;
        }
        // Through every server: each proxy must know who leads.
        let some = async |what: &str| {
            let counts: Vec<usize> = writers.iter().map(Writers::acknowledged).collect();
            let more = || {
                writers
                    .iter()
                    .zip(&counts)
                    .all(|(now, then)| now.acknowledged() > then + 5)
            };
            wait_until(what, LIMIT, async || more().then_some(())).await
        };
        some("writes before the fault").await?;
        let begun = Instant::now();
        let changes = one(fleet, fault, &before).await?;
        let after = members_in_sync(&servers, members).await?;
        expect((after.leader != before.leader) == changes, || {
            format!("{fault:?}: {before:?}, then {after:?}")
        })?;
        some("writes after the fault").await?;
        tell(&format!(
            "round {number}: {fault:?}, {} to {}, epoch {} to {}, all well after {:.1} s",
            before.leader,
            after.leader,
            before.epoch,
            after.epoch,
            begun.elapsed().as_secs_f64()
        ));
        for writer in writers {
            ledger = ledger.and(writer.stop().await);
        }
        // Nobody writes any more: who follows has everything, or it is missing.
        let now = members_in_sync(&servers, members).await?;
        let primary = fleet.named(&now.leader)?;
        for replica in servers.iter().filter(|server| server.name() != now.leader) {
            let comparison = compare(primary, replica, fleet.engine, &ledger).await?;
            expect(comparison.holds() && comparison.acknowledged > 0, || {
                format!("lost or different on {}: {comparison:?}", replica.name())
            })?;
        }
    }
    tell(&format!(
        "{} writes acknowledged, all of them on every server; failed: {:?}",
        ledger.acknowledged.len(),
        ledger.failures
    ));
    let now = members_in_sync(&servers, members).await?;
    refused(&fleet.a, &["db", "switchover", "x"], "F004", 2).await?;
    let count = servers.len();
    expect(now.states.len() == count, || {
        format!("of {count} servers: {now:?}")
    })
}

/// Plays one fault and ends it; says whether another server leads after it.
async fn one(fleet: &Fleet, fault: Fault, before: &Standing) -> Result<bool, LabError> {
    let primary = fleet.named(&before.leader)?;
    let member = fleet.named(&before.in_sync[0])?;
    let third = fleet
        .servers()
        .into_iter()
        .find(|server| ![primary.name(), member.name()].contains(&server.name()))
        .ok_or_else(|| LabError::Unknown("no third server".to_owned()))?;
    match fault {
        Fault::PrimaryKilled => {
            databases(primary).iter().try_for_each(|id| id.kill_9())?;
            taken_over(third, before).await?;
        }
        Fault::PrimaryFrozen => {
            primary.freeze().await?;
            taken_over(third, before).await?;
            primary.thaw()?;
        }
        Fault::PrimaryCutOff => {
            primary.link_down().await?;
            taken_over(third, before).await?;
            primary.link_up().await?;
        }
        Fault::ReplicaKilled => {
            databases(member).iter().try_for_each(|id| id.kill_9())?;
            return Ok(false);
        }
        Fault::ReplicaFrozen => {
            member.freeze().await?;
            without(primary, member).await?;
            member.thaw()?;
            return Ok(false);
        }
        Fault::ReplicaCutOff => {
            member.link_down().await?;
            without(primary, member).await?;
            member.link_up().await?;
            return Ok(false);
        }
        Fault::Switchover => {
            // Not to the one that would be chosen: it is the name that counts.
            let to = third.name();
            wait_until("a switchover", LIMIT, async || {
                run(&fleet.a, &["db", "switchover", to]).await.ok()
            })
            .await?;
            let now = standing(third).await?;
            expect(now.leader == to && now.epoch == before.epoch + 1, || {
                format!("{before:?}, then {now:?}")
            })?;
        }
    }
    Ok(true)
}

/// Waits until another server leads and takes writes, as `server` sees it.
async fn taken_over(server: &Server, before: &Standing) -> Result<(), LabError> {
    wait_until("a new primary", LIMIT, async || {
        let now = standing(server).await.ok()?;
        let open = now.states.get(&now.leader)?.starts_with("leader-");
        (now.epoch > before.epoch && now.leader != before.leader && open).then_some(())
    })
    .await
}

/// Waits until the primary acknowledges without that replica.
async fn without(primary: &Server, member: &Server) -> Result<(), LabError> {
    wait_until("a primary that goes on without a replica", LIMIT, async || {
        let now = standing(primary).await.ok()?;
        (!now.in_sync.iter().any(|name| name == member.name())).then_some(())
    })
    .await
}
