//! An operator looks whether the replica holds what the primary holds: nothing is reported while visitors write, what was
//! changed behind the primary's back is named; and a replica that such a change stopped is got going and put right.

use std::time::Duration;

use pontoon_e2e::fleet::{
    Fleet, Following, ask, attempt, expect, programs, refused, run, wait_until_healthy,
};
use pontoon_testkit::{LabError, Server, in_lab, wait_until};

#[test]
fn what_a_replica_has_otherwise_is_found_named_and_put_right() -> Result<(), LabError> {
    let name = "what_a_replica_has_otherwise_is_found_named_and_put_right";
    in_lab(name, Duration::from_secs(240), |lab| async move {
        let fleet = Fleet::new(lab).await?;
        let (a, b) = (&fleet.a, &fleet.b);
        refused(a, &["db", "check"], "J007", 2).await?;
        fleet.found().await?;
        refused(a, &["db", "check"], "D009", 1).await?;
        fleet.join().await?;
        wait_until_healthy(a, 2).await?;

        // The same, while visitors write; asked on either server.
        let load = fleet.visitors(&[a, b], 20.0, "compared")?;
        wait_until("something is written", Duration::from_secs(60), async || {
            let count = ask(a, "SELECT COUNT(*) FROM notes.notes").await.ok()?;
            (count.first()?.parse::<u32>().ok()? >= 10).then_some(())
        })
        .await?;
        for server in [a, b] {
            let (status, out, err) = attempt(server, &["db", "check", "--max-lag", "500ms"]).await?;
            expect(status == 0 && err.contains("b holds what a holds"), || {
                format!("exit {status}: {out}{err}")
            })?;
        }
        let report = load.stop().await?;
        expect(report.failed() == 0, || {
            format!("visitors noticed: {:?}", report.phases)
        })?;

        // Somebody writes to the replica.
        behind_its_back(
            b,
            "UPDATE notes.notes SET text = 'not theirs' ORDER BY id LIMIT 1",
        )
        .await?;
        let said = refused(b, &["db", "check", "b", "--table", "notes.notes"], "D012", 1).await?;
        expect(
            said.contains("notes.notes: 1 rows differ on b") && said.contains("≠ \"not theirs\""),
            || said.clone(),
        )?;
        let (status, out, err) = attempt(a, &["db", "check", "--json"]).await?;
        let lines: Vec<serde_json::Value> = out
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let differs = lines.iter().find(|line| line["progress"] == "differs");
        expect(
            status == 1
                && differs
                    .is_some_and(|line| line["what"] == "notes.notes" && line["rows"][0]["kind"] == "rows"),
            || format!("exit {status}: {out}{err}"),
        )?;

        // What cannot be.
        refused(a, &["db", "check", "a"], "F004", 2).await?;
        refused(a, &["db", "check", "nobody"], "F004", 2).await?;
        refused(a, &["db", "check", "--table", "notes.none"], "D008", 1).await?;
        for wrong in [["--table", "notes"], ["--chunk-time", "2h"], ["--max-lag", "0s"]] {
            let (status, out, err) = attempt(a, &["db", "check", wrong[0], wrong[1]]).await?;
            expect(status == 2 && !err.contains("panicked"), || {
                format!("{wrong:?}: exit {status}: {out}{err}")
            })?;
        }
        // A replica that does not follow cannot be compared; one that was stopped by hand is not stuck at a row.
        ask(b, "STOP SLAVE SQL_THREAD").await?;
        // `a` hears of that with the next report.
        wait_until("a check that is refused", Duration::from_secs(60), async || {
            let (status, out, err) = attempt(a, &["db", "check"]).await.ok()?;
            (status == 1 && format!("{out}{err}").contains("D004")).then_some(())
        })
        .await?;
        refused(a, &["db", "unstick", "b", "--yes"], "D013", 3).await?;
        ask(b, "START SLAVE SQL_THREAD").await?;
        wait_until_healthy(a, 2).await?;
        let (status, _, err) = attempt(a, &["db", "unstick", "b"]).await?;
        expect(status == 0 && err.contains("not stuck"), || {
            format!("exit {status}: {err}")
        })?;
        refused(a, &["db", "unstick", "a"], "F004", 2).await?;
        refused(a, &["db", "unstick", "nobody"], "F004", 2).await?;

        // It stops at a row that it does not have; that is shown with its transaction and what to do.
        behind_its_back(b, "DELETE FROM notes.notes ORDER BY id DESC LIMIT 1").await?;
        ask(
            a,
            "UPDATE notes.notes SET text = 'written again' ORDER BY id DESC LIMIT 1",
        )
        .await?;
        wait_until("the stop is noticed", Duration::from_secs(60), async || {
            let (_, out, _) = attempt(a, &["db", "status"]).await.ok()?;
            out.contains("pontoon db unstick b").then_some(())
        })
        .await?;
        let said = refused(b, &["db", "unstick", "b"], "P007", 2).await?;
        expect(
            said.contains("error 1032") && said.contains("written again") && said.contains("notes.notes"),
            || said.clone(),
        )?;
        let (status, out, err) = attempt(a, &["db", "unstick", "b", "--yes"]).await?;
        expect(
            status == 0 && err.contains("holds what a holds in notes.notes"),
            || format!("exit {status}: {out}{err}"),
        )?;
        wait_until_healthy(a, 2).await?;
        // What was planted above is right again too: it was in that table.
        let (status, out, err) = attempt(a, &["db", "check"]).await?;
        expect(status == 0, || format!("exit {status}: {out}{err}"))?;

        // It stops at a statement: only leaving that out gets it on, and that has to be asked for.
        behind_its_back(b, "ALTER TABLE notes.notes ADD COLUMN extra INT").await?;
        ask(a, "ALTER TABLE notes.notes ADD COLUMN extra INT").await?;
        wait_until("the stop is noticed", Duration::from_secs(60), async || {
            let (_, out, _) = attempt(a, &["db", "status"]).await.ok()?;
            out.contains("pontoon db unstick b").then_some(())
        })
        .await?;
        let said = refused(a, &["db", "unstick", "b", "--yes"], "D013", 3).await?;
        expect(said.contains("--accept-drift"), || said.clone())?;
        refused(a, &["db", "unstick", "b", "--accept-drift"], "P007", 2).await?;
        let (status, out, err) = attempt(a, &["db", "unstick", "b", "--accept-drift", "--yes"]).await?;
        expect(status == 0 && err.contains("was left out"), || {
            format!("exit {status}: {out}{err}")
        })?;
        wait_until_healthy(a, 2).await?;
        let (status, _, err) = attempt(a, &["db", "unstick", "b", "--accept-drift"]).await?;
        expect(status == 0 && err.contains("not stuck"), || {
            format!("exit {status}: {err}")
        })?;

        // Ctrl-C ends it: the agent goes on with its work, not with this.
        let mut asked = Following::start(a, &["db", "check", "--chunk-time", "10ms"])?;
        let began = asked.until("progress").await?;
        // It may have come to its end before it heard.
        let status = asked.interrupt(a, "check").await?;
        expect(began && status != 2, || {
            format!("it began: {began}, exit {status}")
        })?;
        expect(programs(a, "agent").len() == 1, || "the agent is gone".to_owned())?;
        run(a, &["status", "--check"]).await.map(drop)
    })
}

/// Changes a replica so that its primary does not know of it.
async fn behind_its_back(server: &Server, statement: &str) -> Result<(), LabError> {
    server
        .sh(&format!(
            "mariadb --no-defaults -u root --socket=/run/mysqld/mysqld-server.sock \
             -e \"SET SESSION sql_log_bin = 0; {statement}\""
        ))
        .await
        .map(drop)
}
