//! With failover on, whoever works on a new copy or on a switchover is killed at random moments, under writes. Each time the
//! fleet comes back to two copies by itself, nothing that was acknowledged is lost, and nothing half-done is left over.

use std::time::Duration;

use pontoon_e2e::fleet::{
    Engine, Fleet, Following, dice, end_program, in_sync, long, one_line, rounds_asked, start_agent, tell,
};
use pontoon_e2e::under_load::{Writers, fill, nothing_lost};
use pontoon_testkit::database::databases;
use pontoon_testkit::{DatabaseOptions, LabError, Server, StoreKind, in_lab};

/// Writes in a second.
const RATE: u32 = 40;

/// Moments at which each of the two is killed.
const POINTS: usize = 20;

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    /// The agent of the server that gets the copy, or takes over.
    Agent,
    /// Its helper too.
    AgentAndHelper,
    /// Its database.
    Database,
    /// The primary's agent.
    PrimaryAgent,
    /// The primary's helper, from which a copy comes.
    PrimaryHelper,
}

const VICTIMS: [Victim; 5] = [
    Victim::Agent,
    Victim::AgentAndHelper,
    Victim::Database,
    Victim::PrimaryAgent,
    Victim::PrimaryHelper,
];

#[test]
fn mariadb_copies_and_switchovers_are_killed_at_random() -> Result<(), LabError> {
    played(
        "mariadb_copies_and_switchovers_are_killed_at_random",
        Engine::Mariadb,
    )
}

#[test]
fn mysql_copies_and_switchovers_are_killed_at_random() -> Result<(), LabError> {
    played("mysql_copies_and_switchovers_are_killed_at_random", Engine::Mysql)
}

fn played(name: &str, engine: Engine) -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: copies and switchovers are killed in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(name, Duration::from_secs(3_600), async |lab| {
        let mut fleet = match engine {
            Engine::Mariadb => Fleet::new(lab).await?,
            Engine::Mysql => Fleet::with(lab, Engine::Mysql, DatabaseOptions::default()).await?,
        };
        StoreKind::Etcd.available()?;
        fill(&fleet.a, 20).await?;
        fleet.found().await?;
        fleet.join().await?;
        let _store = fleet.share_lease(StoreKind::Etcd).await?;
        in_sync(&[&fleet.a, &fleet.b]).await?;
        let outcome = rounds(&fleet).await;
        fleet.explain(outcome).await
    })
}

async fn rounds(fleet: &Fleet) -> Result<(), LabError> {
    let points = rounds_asked().unwrap_or(POINTS);
    let mut dice = dice();
    let writers = Writers::start(&fleet.a, RATE).await?;
    for round in 0..points * 2 {
        let copies = round % 2 == 0;
        let victim = VICTIMS[dice.below(VICTIMS.len())];
        let as_dump = copies && dice.below(2) == 0;
        let within = match (copies, as_dump) {
            (true, true) => 8_000,
            (true, false) => 2_500,
            (false, _) => 800,
        };
        let after = Duration::from_millis(dice.below(within) as u64);
        let what = match (copies, as_dump) {
            (true, true) => "a dump",
            (true, false) => "a copy",
            (false, _) => "a switchover",
        };
        let name = format!("{round}: {what}, {victim:?} after {} ms", after.as_millis());
        killed(fleet, (copies, as_dump), victim, after, &name)
            .await
            .map_err(|error| LabError::App(format!("{name}: {error}")))?;
    }
    nothing_lost(fleet, writers, points * 2).await
}

async fn killed(
    fleet: &Fleet,
    (copies, as_dump): (bool, bool),
    victim: Victim,
    after: Duration,
    name: &str,
) -> Result<(), LabError> {
    let before = in_sync(&[&fleet.a, &fleet.b]).await?;
    let (primary, replica) = both(fleet, &before.leader)?;
    let command = match copies {
        true if as_dump => {
            Following::start(primary, &["db", "reseed", replica.name(), "--logical", "--yes"])?
        }
        true => Following::start(primary, &["db", "reseed", replica.name(), "--yes"])?,
        false => Following::start(primary, &["db", "switchover", replica.name()])?,
    };
    tokio::time::sleep(after).await;
    match victim {
        Victim::Agent => drop(end_program(replica, "agent").await?),
        Victim::AgentAndHelper => {
            end_program(replica, "agent").await?;
            end_program(replica, "helper").await?;
        }
        Victim::Database => databases(replica).iter().try_for_each(|id| id.kill_9())?,
        Victim::PrimaryAgent => drop(end_program(primary, "agent").await?),
        Victim::PrimaryHelper => drop(end_program(primary, "helper").await?),
    }
    // Service managers start again what died; here an operator does.
    for server in [primary, replica] {
        start_agent(server).await?;
    }
    let (status, said) = command.end().await?;
    let last = said.last().map(ToString::to_string).unwrap_or_default();
    let after = in_sync(&[&fleet.a, &fleet.b]).await?;
    tell(&format!(
        "{name}: exit {status}, epoch {} to {}: {last}",
        before.epoch, after.epoch
    ));
    nothing_is_left(replica).await
}

/// Once an order is carried out, and the command was not even heard, nothing tells of it but the old data directories.
async fn nothing_is_left(server: &Server) -> Result<(), LabError> {
    let left = "ls -d /var/lib/mysql.pontoon-incoming* /var/lib/pontoon/copy-ordered /var/lib/pontoon/copy-as-dump 2>/dev/null || :";
    let mut last = String::new();
    for _ in 0..120 {
        last = server.sh(left).await?;
        if last.trim().is_empty() {
            server.sh("rm -rf /var/lib/mysql.pontoon-aside-*").await?;
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err(LabError::App(format!("left over: {}", one_line(&last))))
}

/// The primary and the other one.
fn both<'a>(fleet: &'a Fleet, leader: &str) -> Result<(&'a Server, &'a Server), LabError> {
    let replica = if leader == "a" { &fleet.b } else { &fleet.a };
    Ok((fleet.named(leader)?, replica))
}
