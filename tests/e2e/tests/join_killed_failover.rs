//! With failover on, and under writes, a third server joins, and whoever works on that is killed at a random moment. The
//! same command again ends as a join that was not killed: three servers that hold the same, nothing lost, nothing
//! half-done.

use std::cell::RefCell;
use std::time::Duration;

use pontoon_e2e::fleet::{
    Engine, Fleet, Following, attempt, dice, end_program, expect, in_sync, long, one_line, rounds_asked, run,
    start_agent, tell, words,
};
use pontoon_e2e::under_load::{Writers, fill, nothing_lost};
use pontoon_testkit::database::databases;
use pontoon_testkit::{DatabaseOptions, LabError, Server, StoreKind, in_lab, wait_until};

/// Writes in a second.
const RATE: u32 = 40;

/// Moments at which a join is killed.
const POINTS: usize = 20;

/// Such a moment is before the join has ended by itself.
const LONGEST_MS: usize = 6_000;

/// How long what was begun may take to be over.
const LIMIT: Duration = Duration::from_secs(120);

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    /// The joiner's agent.
    Joiner,
    /// Its helper too.
    JoinerAndHelper,
    /// The joiner's database.
    Database,
    /// The agent of the server that admits it.
    Host,
    /// The helper there, from which a copy comes.
    Source,
}

const VICTIMS: [Victim; 5] = [
    Victim::Joiner,
    Victim::JoinerAndHelper,
    Victim::Database,
    Victim::Host,
    Victim::Source,
];

#[test]
fn mariadb_joins_with_failover_are_killed_at_random() -> Result<(), LabError> {
    played(
        "mariadb_joins_with_failover_are_killed_at_random",
        Engine::Mariadb,
    )
}

#[test]
fn mysql_joins_with_failover_are_killed_at_random() -> Result<(), LabError> {
    played("mysql_joins_with_failover_are_killed_at_random", Engine::Mysql)
}

fn played(name: &str, engine: Engine) -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: joins with failover on are killed in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(name, Duration::from_secs(3_600), async |lab| {
        let mut fleet = Fleet::with(lab, engine, DatabaseOptions::default()).await?;
        StoreKind::Etcd.available()?;
        fill(&fleet.a, 20).await?;
        fleet.found().await?;
        fleet.join().await?;
        let store = fleet.share_lease(StoreKind::Etcd).await?;
        in_sync(&[&fleet.a, &fleet.b]).await?;
        let third = fleet.lab.add_server("c", engine.binds()?).await?;
        store.hand_keys_to(&third)?;
        fleet.prepare(&third).await?;
        fleet.more.push(third);
        let outcome = rounds(&fleet).await;
        fleet.explain(outcome).await
    })
}

async fn rounds(fleet: &Fleet) -> Result<(), LabError> {
    let points = rounds_asked().unwrap_or(POINTS);
    let mut dice = dice();
    let writers = Writers::start(&fleet.a, RATE).await?;
    for round in 0..points {
        let victim = VICTIMS[dice.below(VICTIMS.len())];
        let after = Duration::from_millis(dice.below(LONGEST_MS) as u64);
        let name = format!("{round}: a join, {victim:?} after {} ms", after.as_millis());
        killed(fleet, victim, after, &name)
            .await
            .map_err(|error| LabError::App(format!("{name}: {error}")))?;
    }
    nothing_lost(fleet, writers, points).await
}

async fn killed(fleet: &Fleet, victim: Victim, after: Duration, name: &str) -> Result<(), LabError> {
    let (a, c) = (&fleet.a, fleet.named("c")?);
    let token = fleet.token().await?;
    let join = fleet.join_of(c, &token);
    let command = Following::start(c, &words(&join))?;
    tokio::time::sleep(after).await;
    match victim {
        Victim::Joiner => drop(end_program(c, "agent").await?),
        Victim::JoinerAndHelper => {
            end_program(c, "agent").await?;
            end_program(c, "helper").await?;
        }
        Victim::Database => databases(c).iter().try_for_each(|id| id.kill_9())?,
        Victim::Host => drop(end_program(a, "agent").await?),
        Victim::Source => drop(end_program(a, "helper").await?),
    }
    let (status, said) = command.end().await?;
    let last = said.last().map(ToString::to_string).unwrap_or_default();
    // Service managers start again what died; here an operator does. On the joiner the command itself does.
    start_agent(a).await?;
    let refused = RefCell::new(String::new());
    let repeated = wait_until("the same command to end well", LIMIT, async || {
        let (status, out, err) = attempt(c, &words(&join)).await.ok()?;
        refused.replace(format!("exit {status}: {out}{err}"));
        (status == 0).then_some(())
    })
    .await;
    if let Err(error) = repeated {
        let log = c
            .sh("tail -n 40 /var/lib/mysql.pontoon.log")
            .await
            .unwrap_or_default();
        return Err(LabError::App(format!("{error}: {}\n{log}", refused.borrow())));
    }
    let now = in_sync(&[a, &fleet.b, c]).await?;
    expect(now.states.contains_key("c"), || format!("{now:?}"))?;
    nothing_is_left(c).await?;
    // The report that the primary's agent has of it may be older than that.
    let checked = wait_until("the comparison", LIMIT, async || {
        let (status, out, err) = attempt(a, &["db", "check", "c"]).await.ok()?;
        refused.replace(format!("exit {status}: {out}{err}"));
        (status == 0).then_some(err)
    })
    .await;
    let checked = checked.map_err(|error| LabError::App(format!("{error}: {}", refused.borrow())))?;
    tell(&format!(
        "{name}: exit {status}: {last}; then {}",
        one_line(&checked)
    ));

    run(c, &["leave", "--yes"]).await?;
    in_sync(&[a, &fleet.b]).await?;
    c.sh("rm -rf /var/lib/mysql.pontoon-aside-* /var/lib/pontoon/*.left-*")
        .await
        .map(drop)
}

/// Once a join is over nothing tells of it but the old data directories.
async fn nothing_is_left(server: &Server) -> Result<(), LabError> {
    let left = "ls -d /var/lib/mysql.pontoon-incoming* /var/lib/pontoon/join.json 2>/dev/null || :";
    let last = RefCell::new(String::new());
    let gone = wait_until("what was half-done to be gone", LIMIT, async || {
        last.replace(server.sh(left).await.ok()?);
        last.borrow().trim().is_empty().then_some(())
    })
    .await;
    gone.map_err(|error| LabError::App(format!("{error}: {}", one_line(&last.borrow()))))
}
