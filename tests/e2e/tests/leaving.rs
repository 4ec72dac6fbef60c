//! Leaving: the database goes back to where it was, nothing of the user's is deleted, and everything can begin again.

use std::time::Duration;

use pontoon_e2e::fleet::{
    Fleet, Following, ask, attempt, end_program, expect, identical, in_sync, one_line, refused, run,
    start_agent, tell, wait_until_healthy,
};
use pontoon_e2e::under_load::{Writers, fill};
use pontoon_testkit::{LabError, Server, StoreKind, in_lab, wait_until};

#[test]
fn servers_leave_and_begin_again() -> Result<(), LabError> {
    in_lab(
        "servers_leave_and_begin_again",
        Duration::from_secs(240),
        |lab| async move {
            let fleet = Fleet::new(lab).await?;
            fleet.found().await?;
            fleet.join().await?;
            wait_until_healthy(&fleet.a, 2).await?;
            let (a, b) = (&fleet.a, &fleet.b);

            // What others stand on does not go.
            refused(a, &["leave", "--yes"], "J008", 3).await?;
            refused(a, &["leave"], "P007", 2).await?;
            identical(a, b).await?;
            expect(place(b).await?.contains("3307"), || "b has not moved".to_owned())?;
            let load = fleet.visitors(&[a], 30.0, "b leaves")?;

            // Killed in the middle of it, at several steps, and repeated.
            for step in [
                "waiting for the requests",
                "telling the other",
                "stopping edge",
                "moving the database back",
            ] {
                let mut leave = Following::start(b, &["leave", "--yes"])?;
                expect(leave.until(step).await?, || {
                    format!("leave never said {step:?}: {:?}", leave.said)
                })?;
                end_program(b, "agent").await?;
                end_program(b, "helper").await?;
                leave.end().await?;
                start_helpers(b).await?;
                let (status, out, err) = attempt(b, &["leave", "--yes"]).await?;
                expect(status == 0, || {
                    format!("leave killed at {step:?} and repeated: exit {status} {out}{err}")
                })?;
                is_standalone(&fleet, b).await?;
                wait_until_healthy(a, 1).await?;
                fleet.join_with(&fleet.token().await?).await?;
                wait_until_healthy(a, 2).await?;
                identical(a, b).await?;
            }
            run(b, &["leave", "--yes"]).await?;
            is_standalone(&fleet, b).await?;
            wait_until_healthy(a, 1).await?;
            refused(b, &["leave", "--yes"], "J007", 2).await?;
            let report = load.stop().await?;
            expect(report.failed() == 0, || {
                format!("visitors noticed: {:?}", report.phases)
            })?;
            expect(
                ask(a, "SELECT user FROM mysql.user WHERE user LIKE 'pontoon\\_r%'")
                    .await?
                    .is_empty(),
                || "the account of b stays on a".to_owned(),
            )?;

            // A join that is given up is forgotten by the fleet.
            let token = fleet.token().await?;
            let mut join = Following::start(b, &pontoon_e2e::fleet::words(&fleet.join_command(&token)))?;
            join.until("certificate issued").await?;
            end_program(b, "agent").await?;
            join.end().await?;
            start_helpers(b).await?;
            run(b, &["leave", "--yes"]).await?;
            let joiners =
                std::fs::read_to_string(a.path("/var/lib/pontoon/joiners.json")?).unwrap_or_default();
            expect(!joiners.contains("\"b\""), || {
                format!("still waited for: {joiners}")
            })?;
            is_standalone(&fleet, b).await?;

            // The last one, with everything back; then the same machine begins again.
            let notes = ask(a, "SELECT CAST(COUNT(*) AS CHAR) FROM notes.notes").await?;
            run(a, &["leave", "--yes"]).await?;
            is_standalone(&fleet, a).await?;
            expect(
                notes == ask(a, "SELECT CAST(COUNT(*) AS CHAR) FROM notes.notes").await?,
                || "notes are lost".to_owned(),
            )?;
            let kept = a.sh("ls -d /var/lib/pontoon/identity.left-* /etc/mysql/*/*pontoon*left* /etc/mysql/*/*pontoon* || :").await?;
            expect(kept.contains("identity.left-"), || {
                format!("the identity was not kept: {}", one_line(&kept))
            })?;
            fleet.found().await?;
            wait_until_healthy(a, 1).await?;
            fleet.join_with(&fleet.token().await?).await?;
            wait_until_healthy(a, 2).await?;
            identical(a, b).await
        },
    )
}

/// The replica and the primary of a fleet with failover, one right after the other: the last one's commits wait for nobody.
#[test]
fn both_leave_a_fleet_with_failover() -> Result<(), LabError> {
    in_lab(
        "both_leave_a_fleet_with_failover",
        Duration::from_secs(240),
        |lab| async move {
            let mut fleet = Fleet::new(lab).await?;
            StoreKind::Etcd.available()?;
            fill(&fleet.a, 1).await?;
            fleet.found().await?;
            fleet.join().await?;
            let _store = fleet.share_lease(StoreKind::Etcd).await?;
            let (a, b) = (&fleet.a, &fleet.b);
            in_sync(&[a, b]).await?;
            // Who is in sync leaves, and commits do not wait for it: they are asked not to before its database stops.
            let writers = Writers::start(a, 50).await?;
            let before = writers.acknowledged();
            wait_until("writes", Duration::from_secs(60), async || {
                (writers.acknowledged() > before + 50).then_some(())
            })
            .await?;
            writers.span();
            run(b, &["leave", "--yes"]).await?;
            let left = writers.acknowledged();
            wait_until("writes after it", Duration::from_secs(60), async || {
                (writers.acknowledged() > left + 50).then_some(())
            })
            .await?;
            let span = writers.span();
            let ledger = writers.stop().await;
            tell(&format!(
                "the only replica in sync left: nothing was acknowledged for {} ms at the longest, {} failed",
                span.longest_gap().as_millis(),
                ledger.failures.values().sum::<u32>()
            ));
            expect(ledger.failures.is_empty(), || format!("{:?}", ledger.failures))?;
            let notices = attempt(a, &["events"]).await?.1;
            expect(span.longest_gap() < Duration::from_secs(20), || notices)?;
            run(a, &["leave", "--yes"]).await?;
            is_standalone(&fleet, b).await?;
            is_standalone(&fleet, a).await
        },
    )
}

/// The database is on its old port and socket, takes writes, follows nobody, and nothing of Pontoon's listens.
async fn is_standalone(fleet: &Fleet, server: &Server) -> Result<(), LabError> {
    let found = place(server).await?;
    expect(found == "3306 /run/mysqld/mysqld.sock writable", || {
        format!("{} is at {found}", server.name())
    })?;
    let following = ask(
        server,
        "SELECT 'follows' FROM information_schema.processlist WHERE command LIKE 'Slave%'",
    )
    .await?;
    expect(following.is_empty(), || {
        format!("{} still follows", server.name())
    })?;
    ask(server, "CREATE TABLE notes.of_its_own (id INT)").await?;
    ask(server, "DROP TABLE notes.of_its_own").await?;
    let accounts = ask(server, "SELECT user FROM mysql.user WHERE user LIKE 'pontoon%'").await?;
    expect(accounts.is_empty(), || {
        format!("{} keeps {accounts:?}", server.name())
    })?;
    let listening = server
        .sh("ss -Hltn 'sport = :80 or sport = :7401 or sport = :7402 or sport = :3307'")
        .await?;
    expect(listening.trim().is_empty(), || {
        format!("on {}: {listening}", server.name())
    })?;
    let left = server
        .sh("ls /etc/mysql/mariadb.conf.d | grep -i pontoon | grep -v aside || :")
        .await?;
    expect(left.trim().is_empty(), || {
        format!("settings on {}: {left}", server.name())
    })?;
    let _ = fleet;
    Ok(())
}

async fn place(server: &Server) -> Result<String, LabError> {
    Ok(ask(
        server,
        "SELECT CONCAT(@@port, ' ', @@socket, ' ', IF(@@read_only, 'read-only', 'writable'))",
    )
    .await?
    .join(""))
}

/// What was killed runs again, whether or not this machine still has a configuration to apply.
async fn start_helpers(server: &Server) -> Result<(), LabError> {
    // `join` starts both before it looks at anything; with garbage for a token it would not.
    start_agent(server).await
}
