//! Two servers replicate already, by the recipe that many follow: file and position, and databases left out by filters.
//! Pontoon names the pitfalls, takes no server in while a filter stands, and then lets the replica that is there go over to
//! GTID, under writes, without a new copy. One that is broken, wrote something of its own or holds other rows is refused.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use pontoon_e2e::fleet::{
    Engine, Fleet, ask, attempt, expect, long, one_line, refused, start_application, tell,
    wait_until_healthy, words,
};
use pontoon_e2e::under_load::{Writers, compare, fill};
use pontoon_testkit::database::{SOCKET, connect_root, databases, mysqld, rows};
use pontoon_testkit::{DatabaseOptions, LabError, Server, in_lab, wait_until};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(60);

const FILTER: &str = "binlog-ignore-db=test";

/// Writes in a second.
const RATE: u32 = 100;

#[test]
fn a_mariadb_replica_by_file_and_position_goes_over_to_gtid() -> Result<(), LabError> {
    in_lab(
        "a_mariadb_replica_by_file_and_position_goes_over_to_gtid",
        Duration::from_secs(240),
        async |lab| played(&with(lab, Engine::Mariadb).await?).await,
    )
}

/// In the long form only: MySQL takes its time to start.
#[test]
fn a_mysql_replica_by_file_and_position_goes_over_to_gtid() -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: MySQL's replica by file and position is in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(
        "a_mysql_replica_by_file_and_position_goes_over_to_gtid",
        Duration::from_secs(400),
        async |lab| played(&with(lab, Engine::Mysql).await?).await,
    )
}

async fn with(lab: pontoon_testkit::Lab, engine: Engine) -> Result<Fleet, LabError> {
    let options = DatabaseOptions {
        config: [
            "server-id=1",
            "log-bin=mysql-bin",
            "sync_binlog=1",
            "bind-address=0.0.0.0",
        ]
        .into_iter()
        .chain(long().then_some(FILTER))
        .map(str::to_owned)
        .collect(),
        ..DatabaseOptions::default()
    };
    Fleet::with(lab, engine, options).await
}

async fn played(fleet: &Fleet) -> Result<(), LabError> {
    let outcome = steps(fleet).await;
    fleet.explain(outcome).await
}

async fn steps(fleet: &Fleet) -> Result<(), LabError> {
    fill(&fleet.a, 1).await?;
    replicates_by_hand(fleet).await?;
    fleet.found().await?;
    let token = fleet.token().await?;
    let join = fleet.join_command(&token);
    if long() {
        with_filters(fleet, &join).await?;
    }
    let writers = Writers::start(&fleet.a, RATE).await?;
    wait_until("some writes", LIMIT, async || {
        (writers.acknowledged() > 20).then_some(())
    })
    .await?;
    with_other_rows(fleet, &join).await?;
    if long() {
        broken(fleet, &join).await?;
    }
    taken_in(fleet, &join, writers).await
}

/// The second server, as the recipe has it: loaded with a dump, then CHANGE MASTER TO … MASTER_LOG_POS.
async fn replicates_by_hand(fleet: &Fleet) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    ask(a, "CREATE USER r@'%' IDENTIFIED BY 'r'").await?;
    ask(a, "GRANT REPLICATION SLAVE ON *.* TO r@'%'").await?;
    start_second(fleet, &[long().then_some("replicate-ignore-db=test")]).await?;
    start_application(&fleet.app, b).await?;
    let tool = |name: &str| match fleet.engine {
        Engine::Mariadb => Ok(PathBuf::from(format!("mariadb{name}"))),
        Engine::Mysql => {
            mysqld().map(|server| server.with_file_name(format!("mysql{}", name.replace('-', ""))))
        }
    };
    let options = match fleet.engine {
        Engine::Mariadb => ["--master-data=1", "--hex-blob"],
        Engine::Mysql => ["--source-data=1", "--set-gtid-purged=OFF"],
    };
    let (from, to) = (a.path(SOCKET)?, b.path(SOCKET)?);
    let dump = Command::new(tool("-dump")?)
        .args([
            "--no-defaults",
            "--single-transaction",
            "--all-databases",
            "--flush-privileges",
            "--user=root",
        ])
        .args(options)
        .arg(format!("--socket={}", from.display()))
        .stderr(Stdio::inherit())
        .output();
    let dump = dump.await.map_err(LabError::io("dump"))?.stdout;
    let file = b.dir().join("dump.sql");
    std::fs::write(&file, &dump).map_err(LabError::io("the dump"))?;
    // Whom it follows stands before the place: naming the server forgets a place.
    let host = a.private();
    let source = match fleet.engine {
        Engine::Mariadb => format!(
            "CHANGE MASTER TO MASTER_HOST='{host}', MASTER_PORT=3306, MASTER_USER='r', MASTER_PASSWORD='r', \
             MASTER_USE_GTID=no"
        ),
        Engine::Mysql => format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{host}', SOURCE_PORT=3306, SOURCE_USER='r', \
             SOURCE_PASSWORD='r', GET_SOURCE_PUBLIC_KEY=1"
        ),
    };
    ask(b, &source).await?;
    let load = Command::new(tool("")?)
        .args(["--no-defaults", "--user=root"])
        .arg(format!("--socket={}", to.display()))
        .stdin(std::fs::File::open(&file).map_err(LabError::io("the dump"))?)
        .output();
    let load = load.await.map_err(LabError::io("load"))?;
    expect(load.status.success(), || {
        String::from_utf8_lossy(&load.stderr).into_owned()
    })?;
    ask(b, start(fleet.engine)).await.map(drop)
}

fn start(engine: Engine) -> &'static str {
    match engine {
        Engine::Mariadb => "START SLAVE",
        Engine::Mysql => "START REPLICA",
    }
}

async fn start_second(fleet: &Fleet, more: &[Option<&str>]) -> Result<(), LabError> {
    let config = ["server-id=2", "log-bin=mysql-bin"]
        .into_iter()
        .chain(more.iter().copied().flatten());
    let options = DatabaseOptions {
        config: config.map(str::to_owned).collect(),
        ..DatabaseOptions::default()
    };
    fleet.engine.start(&fleet.b, &options).await.map(drop)
}

/// No server joins while databases are left out of replication, here or there.
async fn with_filters(fleet: &Fleet, join: &[String]) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    let said = refused(b, &words(join), "D015", 3).await?;
    expect(said.contains("replicate-ignore-db = test"), || said.clone())?;
    ask(b, "SHUTDOWN").await?;
    wait_until("the end of that database", LIMIT, async || {
        databases(b).is_empty().then_some(())
    })
    .await?;
    start_second(fleet, &[]).await?;

    // Now the primary's own filter stands in the way.
    let said = refused(b, &words(join), "D015", 3).await?;
    expect(
        said.contains("binlog-ignore-db: test") && said.contains("by file and position"),
        || said.clone(),
    )?;
    let found = a.sh("grep -rl binlog-ignore-db /etc/mysql").await?;
    for file in found.split_whitespace() {
        let path = a.path(file)?;
        let text = std::fs::read_to_string(&path).map_err(LabError::io("the options"))?;
        std::fs::write(path, text.replace(FILTER, "")).map_err(LabError::io("the options"))?;
    }
    databases(a).iter().try_for_each(|id| id.kill_9())?;
    // Whoever stands behind the database starts it again.
    wait_until("the primary", LIMIT, async || ask(a, "SELECT 1").await.ok())
        .await
        .map(drop)
}

/// A row that was written on the replica by hand is found, and named. It is the same server when it is put right.
async fn with_other_rows(fleet: &Fleet, join: &[String]) -> Result<(), LabError> {
    let b = &fleet.b;
    ask(b, "CREATE TABLE notes.only_here (id INT PRIMARY KEY)").await?;
    let said = refused(b, &words(join), "D016", 3).await?;
    expect(
        said.contains("going over to GTID")
            && said.contains("only_here")
            && said.contains("pontoon join … --copy"),
        || said.clone(),
    )?;
    by_hand(b, "DROP TABLE notes.only_here").await
}

/// One that stopped by an error is not made to go on.
async fn broken(fleet: &Fleet, join: &[String]) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    ask(a, "CREATE TABLE notes.clash (id INT PRIMARY KEY)").await?;
    wait_until("the table on the replica", LIMIT, async || {
        by_hand(b, "INSERT INTO notes.clash VALUES (1)").await.ok()
    })
    .await?;
    ask(a, "INSERT INTO notes.clash VALUES (1)").await?;
    let said = refused(b, &words(join), "D016", 3).await?;
    expect(said.contains("1062"), || said.clone())?;
    by_hand(b, "DELETE FROM notes.clash").await
}

/// On the second server's database, which is at its new place and belongs to no fleet yet; not in its binary log.
async fn by_hand(server: &Server, statement: &str) -> Result<(), LabError> {
    let mut root = connect_root(&server.path("/run/mysqld/mysqld-server.sock")?).await?;
    // Only MySQL knows it: there not even root writes on a replica.
    let _ = rows::<mysql_async::Row>(&mut root, "SET GLOBAL super_read_only = OFF").await;
    for statement in ["SET SESSION sql_log_bin = 0", statement] {
        rows::<mysql_async::Row>(&mut root, statement).await?;
    }
    Ok(())
}

/// The same command again: nothing has failed meanwhile, nothing is copied, both hold the same.
async fn taken_in(fleet: &Fleet, join: &[String], writers: Writers) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    let (status, out, err) = attempt(b, &words(join)).await?;
    expect(status == 0 && err.contains("holds what a holds"), || {
        format!("exit {status}: {out}{err}")
    })?;
    wait_until_healthy(a, 2).await?;
    let ledger = writers.stop().await;
    expect(ledger.failures.is_empty(), || format!("{:?}", ledger.failures))?;
    let comparison = compare(a, b, fleet.engine, &ledger).await?;
    expect(comparison.holds() && comparison.acknowledged > 0, || {
        format!("{comparison:?}")
    })?;
    let aside = b
        .sh("ls -d /var/lib/mysql.pontoon-aside* /var/lib/mysql.pontoon-incoming* 2>/dev/null || :")
        .await?;
    expect(aside.trim().is_empty(), || {
        format!("it was copied: {}", one_line(&aside))
    })?;
    tell(&format!(
        "went over to GTID under {} acknowledged writes, 0 failed",
        comparison.acknowledged
    ));
    Ok(())
}
