//! Two servers replicate already, by the recipe that many follow: file and position, and databases left out by filters.
//! Pontoon names the pitfalls, makes no second copy while a filter stands, and then one that needs neither.

use std::time::Duration;

use pontoon_e2e::fleet::{
    Engine, Fleet, ask, attempt, expect, identical, long, refused, start_application, tell,
    wait_until_healthy, words,
};
use pontoon_testkit::database::databases;
use pontoon_testkit::{DatabaseOptions, LabError, Mariadb, in_lab, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

const FILTER: &str = "binlog-ignore-db=test";

#[test]
fn a_replica_by_file_and_position_joins_once_its_filters_are_gone() -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: what was set up by hand is met in the long form only: PONTOON_LONG=1");
        return Ok(());
    }
    in_lab(
        "a_replica_by_file_and_position_joins_once_its_filters_are_gone",
        Duration::from_secs(240),
        async |lab| {
            let options = DatabaseOptions {
                config: ["server-id=1", "log-bin=mysql-bin", "sync_binlog=1", FILTER]
                    .map(str::to_owned)
                    .to_vec(),
                ..DatabaseOptions::default()
            };
            let fleet = Fleet::with(lab, Engine::Mariadb, options).await?;
            played(&fleet).await
        },
    )
}

async fn played(fleet: &Fleet) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    fleet.found().await?;
    let token = fleet.token().await?;
    let join = fleet.join_command(&token);

    // The second server, as the recipe has it.
    let own = DatabaseOptions {
        config: ["server-id=2", "log-bin=mysql-bin", "replicate-ignore-db=test"]
            .map(str::to_owned)
            .to_vec(),
        ..DatabaseOptions::default()
    };
    Mariadb::start(b, &own).await?;
    start_application(&fleet.app, b).await?;
    let said = refused(b, &words(&join), "D015", 3).await?;
    expect(said.contains("replicate-ignore-db = test"), || said.clone())?;
    databases(b).iter().try_for_each(|id| id.kill_9())?;
    wait_until("the end of that database", LIMIT, async || {
        databases(b).is_empty().then_some(())
    })
    .await?;
    let unfiltered = DatabaseOptions {
        config: own.config[..2].to_vec(),
        ..own
    };
    Mariadb::start(b, &unfiltered).await?;
    ask(a, "CREATE USER r@'%' IDENTIFIED BY 'r'").await?;
    ask(a, "GRANT REPLICATION SLAVE ON *.* TO r@'%'").await?;
    let follow = format!(
        "CHANGE MASTER TO MASTER_HOST='{}', MASTER_PORT=3307, MASTER_USER='r', MASTER_PASSWORD='r', \
         MASTER_LOG_FILE='mysql-bin.000001', MASTER_LOG_POS=4, MASTER_USE_GTID=no",
        a.private()
    );
    ask(b, &follow).await?;

    // Now the primary's own filter stands in the way.
    let said = refused(b, &words(&join), "D015", 3).await?;
    expect(
        said.contains("binlog-ignore-db: test") && said.contains("by file and position"),
        || said.clone(),
    )?;
    a.sh("sed -i /binlog-ignore-db/d /etc/mysql/mariadb.conf.d/90-lab.cnf")
        .await?;
    databases(a).iter().try_for_each(|id| id.kill_9())?;
    // Whoever stands behind the database starts it again; until then the command says what is missing.
    wait_until("the second server", LIMIT, async || {
        let (status, _, _) = attempt(b, &words(&join)).await.ok()?;
        (status == 0).then_some(())
    })
    .await?;
    wait_until_healthy(a, 2).await?;
    identical(a, b).await?;
    let kept = b.sh("ls -d /var/lib/mysql.pontoon-aside-*").await?;
    expect(!kept.trim().is_empty(), || "the old data is gone".to_owned())
}
