//! Somebody writes on a replica by hand. `pontoon db status` says so with the statement, nobody promotes that copy, and
//! `pontoon db reseed` makes a new one: what only the replica had is kept in a file, its old data directory under another
//! name. Killed in the middle, it goes on.

use std::time::Duration;

use pontoon_e2e::fleet::{
    Engine, Fleet, Following, ask, attempt, end_program, expect, in_sync, long, refused, run, standing,
    start_agent, tell, wait_until_healthy, words,
};
use pontoon_e2e::under_load::compare;
use pontoon_testkit::database::databases;
use pontoon_testkit::{DatabaseOptions, LabError, Server, StoreKind, in_lab, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_mariadb_replica_that_was_written_to_is_named_and_copied_anew() -> Result<(), LabError> {
    in_lab(
        "a_mariadb_replica_that_was_written_to_is_named_and_copied_anew",
        Duration::from_secs(600),
        async |lab| played(Fleet::new(lab).await?).await,
    )
}

/// In the long form only: MySQL takes its time to start.
#[test]
fn a_mysql_replica_that_was_written_to_is_named_and_copied_anew() -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: MySQL is copied anew in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(
        "a_mysql_replica_that_was_written_to_is_named_and_copied_anew",
        Duration::from_secs(600),
        async |lab| played(Fleet::with(lab, Engine::Mysql, DatabaseOptions::default()).await?).await,
    )
}

async fn played(mut fleet: Fleet) -> Result<(), LabError> {
    let shared = StoreKind::Etcd.available().is_ok();
    fleet.found().await?;
    joined_as_a_dump(&fleet).await?;
    wait_until_healthy(&fleet.a, 2).await?;
    let outcome = async {
        alone_on_a_replica(&fleet).await?;
        if !shared {
            tell("SKIPPED: a fleet with failover needs etcd");
            return Ok(());
        }
        let _store = fleet.share_lease(StoreKind::Etcd).await?;
        in_sync(&[&fleet.a, &fleet.b]).await?;
        never_promoted(&fleet).await?;
        broken(&fleet).await?;
        by_itself(&fleet).await
    }
    .await;
    fleet.explain(outcome).await
}

/// Where the configuration wants it so, the copy of a joiner is a dump. A table that a dump does not hold at one moment is
/// named first.
async fn joined_as_a_dump(fleet: &Fleet) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    fleet.set_db(AS_A_DUMP).await?;
    fleet.prepare_joiner().await?;
    ask(a, "CREATE TABLE notes.old (id INT PRIMARY KEY) ENGINE=MyISAM").await?;
    let token = fleet.token().await?;
    let join = fleet.join_command(&token);
    let said = refused(b, &words(&join), "D017", 3).await?;
    expect(said.contains("notes.old (MyISAM)"), || said.clone())?;
    ask(a, "ALTER TABLE notes.old ENGINE=InnoDB").await?;
    let (status, out, err) = attempt(b, &words(&join)).await?;
    expect(status == 0 && err.contains("copied as a dump"), || {
        format!("exit {status}: {out}{err}")
    })?;
    fleet.wait_until_served(b).await?;
    same(fleet).await?;
    fleet.unset_db(AS_A_DUMP).await
}

const AS_A_DUMP: &str = "copy = \"logical\"\n";

/// Without failover.
async fn alone_on_a_replica(fleet: &Fleet) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    refused(a, &["db", "reseed", "a", "--yes"], "D014", 3).await?;
    refused(a, &["db", "reseed", "nobody", "--yes"], "F004", 2).await?;
    refused(a, &["db", "rejoin", "a"], "D014", 3).await?;
    refused(a, &["db", "rejoin", "nobody"], "F004", 2).await?;
    // On a machine that is busy it may be behind for a moment.
    wait_until("a replica that is well", LIMIT, async || {
        let (status, _, err) = attempt(a, &["db", "rejoin", "b"]).await.ok()?;
        (status == 0 && err.contains("is well")).then_some(())
    })
    .await?;

    write_by_hand(fleet, b, "written on b").await?;
    // MySQL does not write statements down beside their rows.
    let shown = |text: &'static str| match fleet.engine {
        Engine::Mysql => "writes to notes.by_hand",
        _ => text,
    };
    named(a, shown("written on b")).await?;
    let said = refused(a, &["db", "rejoin", "b"], "D011", 3).await?;
    expect(said.contains("pontoon db reseed b"), || said.clone())?;
    let said = refused(b, &["db", "reseed", "b"], "P007", 2).await?;
    expect(
        said.contains(shown("written on b")) && said.contains("would be renamed and kept"),
        || said.clone(),
    )?;

    let said = reseeded(a).await?;
    expect(said.contains("its old data directory is"), || said.clone())?;
    kept(b, &said, "written on b").await?;
    wait_until_healthy(a, 2).await?;
    same(fleet).await
}

/// With failover: a server that has something alone is not promoted, and the order to copy it survives its agent.
async fn never_promoted(fleet: &Fleet) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    let before = standing(a).await?;
    expect(before.leader == "a", || format!("{before:?}"))?;
    write_by_hand(fleet, b, "written again on b").await?;
    named(a, "notes.by_hand").await?;
    let said = refused(a, &["db", "failover", "b"], "L002", 3).await?;
    expect(said.contains("transactions that the primary lacks"), || {
        said.clone()
    })?;
    wait_until("a primary that goes on alone", LIMIT, async || {
        let now = standing(a).await.ok()?;
        now.in_sync.is_empty().then_some(())
    })
    .await?;
    // The primary dies: the other one stays what it is, and the primary comes back.
    databases(a).iter().try_for_each(|id| id.kill_9())?;
    let said = wait_until("the same primary", LIMIT, async || {
        // Refused for want of the primary until it is back.
        refused(a, &["db", "rejoin", "b"], "D011", 3).await.ok()
    })
    .await?;
    expect(said.contains("pontoon db reseed b"), || said.clone())?;
    let now = standing(a).await?;
    expect(now.leader == "a" && now.epoch == before.epoch, || {
        format!("{before:?}, then {now:?}")
    })?;

    let mut copying = Following::start(a, &["db", "reseed", "b", "--yes"])?;
    expect(copying.until("copying database from a").await?, || {
        format!("{:?}", copying.said)
    })?;
    end_program(b, "agent").await?;
    end_program(b, "helper").await?;
    start_agent(b).await?;
    let (status, said) = copying.end().await?;
    expect(status == 0, || format!("exit {status}: {said:?}"))?;
    in_sync(&[a, b]).await?;
    same(fleet).await
}

/// With `auto_reclone` nobody has to ask; and not again and again.
async fn by_itself(fleet: &Fleet) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    in_sync(&[a, b]).await?;
    fleet.set_db("auto_reclone = \"1h\"").await?;
    in_sync(&[a, b]).await?;
    write_by_hand(fleet, b, "once more on b").await?;
    wait_until("a copy that nobody asked for", LIMIT, async || {
        let (_, out, _) = attempt(b, &["events", "-n", "100"]).await.ok()?;
        out.contains("is copied anew by itself").then_some(())
    })
    .await?;
    wait_until("the new copy", LIMIT, async || {
        let there = "SELECT t FROM notes.by_hand WHERE t = 'once more on b'";
        ask(b, there).await.ok()?.is_empty().then_some(())
    })
    .await?;
    in_sync(&[a, b]).await?;
    same(fleet).await?;
    write_by_hand(fleet, b, "and again on b").await?;
    named(a, "that is done once in 1h").await
}

/// What is left of a data directory does not start any more.
async fn broken(fleet: &Fleet) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    // Before it dies: its agent starts it anew at once.
    b.sh("cd /var/lib/mysql && mv ibdata1 ibdata1.gone && echo nothing > ibdata1")
        .await?;
    databases(b).iter().try_for_each(|id| id.kill_9())?;
    wait_until("the primary goes on alone", LIMIT, async || {
        let now = standing(a).await.ok()?;
        now.in_sync.is_empty().then_some(())
    })
    .await?;
    let (_, _, said) = attempt(a, &["db", "reseed", "b", "--logical"]).await?;
    expect(said.contains("pontoon db reseed b --logical --yes"), || {
        said.clone()
    })?;
    let (status, out, said) = attempt(a, &["db", "reseed", "b", "--logical", "--yes"]).await?;
    expect(status == 0 && said.contains("copied as a dump"), || {
        format!("exit {status}: {out}{said}")
    })?;
    let old = said.split_whitespace().last().unwrap_or_default();
    b.sh(&format!("test -e {old}/ibdata1.gone")).await?;
    in_sync(&[a, b]).await?;
    same(fleet).await
}

async fn reseeded(on: &Server) -> Result<String, LabError> {
    let (status, out, err) = attempt(on, &["db", "reseed", "b", "--yes"]).await?;
    expect(status == 0, || format!("exit {status}: {out}{err}"))?;
    tell(&err);
    Ok(err)
}

/// A row that the primary does not have, written with all the rights that an administrator has.
async fn write_by_hand(fleet: &Fleet, server: &Server, text: &str) -> Result<(), LabError> {
    if fleet.engine == Engine::Mysql {
        ask(server, "SET GLOBAL super_read_only = OFF").await?;
    }
    let columns = "CREATE TABLE IF NOT EXISTS notes.by_hand (id INT PRIMARY KEY AUTO_INCREMENT, t TEXT)";
    ask(&fleet.a, columns).await?;
    wait_until("the table on the replica", LIMIT, async || {
        ask(server, "SELECT COUNT(*) FROM notes.by_hand").await.ok()
    })
    .await?;
    ask(
        server,
        &format!("INSERT INTO notes.by_hand (t) VALUES ('{text}')"),
    )
    .await
    .map(drop)
}

/// Waits until the status says who has what alone, and what helps.
async fn named(server: &Server, text: &str) -> Result<(), LabError> {
    wait_until("the status says it", LIMIT, async || {
        let (_, out, _) = attempt(server, &["db", "status"]).await.ok()?;
        let is = out.contains("b has 1 transaction that a lacks")
            && out.contains(text)
            && out.contains("pontoon db reseed b");
        is.then_some(())
    })
    .await
}

/// The files that the command named hold what only that server had.
async fn kept(server: &Server, said: &str, text: &str) -> Result<(), LabError> {
    let path = said
        .split_whitespace()
        .find(|word| word.ends_with(".sql"))
        .ok_or_else(|| LabError::App(format!("no file is named: {said}")))?;
    let found = server.sh(&format!("grep -c '{text}' {path}")).await?;
    expect(found.trim() != "0", || format!("{path} does not hold {text:?}"))?;
    let aside = server.sh("ls -d /var/lib/mysql.pontoon-aside-*").await?;
    expect(!aside.trim().is_empty(), || "the old data is gone".to_owned())
}

async fn same(fleet: &Fleet) -> Result<(), LabError> {
    wait_until("the replica has it all", LIMIT, async || {
        let found = compare(&fleet.a, &fleet.b, fleet.engine, &Default::default())
            .await
            .ok()?;
        (found.different.is_empty() && found.tables > 0).then_some(())
    })
    .await?;
    run(&fleet.a, &["db", "status"]).await.map(drop)
}
