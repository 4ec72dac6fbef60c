//! An operator looks whether the replica holds what the primary holds: nothing is reported while visitors write, what was
//! changed behind the primary's back is named, and nothing is compared that cannot be.

use std::time::Duration;

use pontoon_e2e::fleet::{
    Fleet, Following, ask, attempt, expect, programs, refused, run, wait_until_healthy,
};
use pontoon_testkit::{LabError, in_lab, wait_until};

#[test]
fn what_a_replica_has_otherwise_is_found_and_named() -> Result<(), LabError> {
    let name = "what_a_replica_has_otherwise_is_found_and_named";
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
        b.sh(
            "mariadb --no-defaults -u root --socket=/run/mysqld/mysqld-server.sock -e \"SET SESSION sql_log_bin = 0; \
             UPDATE notes.notes SET text = 'not theirs' ORDER BY id LIMIT 1\"",
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
        ask(b, "STOP SLAVE").await?;
        wait_until("the stop is noticed", Duration::from_secs(60), async || {
            let (_, _, err) = attempt(a, &["db", "check"]).await.ok()?;
            err.contains("[D004]").then_some(())
        })
        .await?;
        ask(b, "START SLAVE").await?;
        wait_until_healthy(a, 2).await?;

        // Ctrl-C ends it: the agent goes on with its work, not with this.
        let asked = Following::start(a, &["db", "check", "--chunk-time", "1ms", "--json"])?;
        asked.interrupt(a, "check").await?;
        expect(programs(a, "agent").len() == 1, || "the agent is gone".to_owned())?;
        run(a, &["status", "--check"]).await.map(drop)
    })
}
