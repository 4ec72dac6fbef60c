//! What dies and what visitors notice: agents, tiers, the database; and a server that is drained.

use std::time::{Duration, Instant};

use pontoon_e2e::fleet::{
    Fleet, ask, attempt, event_kinds, expect, identical, kill_agent, logs, long, programs, refused, run,
    start_agent, start_application, status, tell, wait_until_healthy,
};
use pontoon_testkit::{LabError, Load, LoadReport, Server, in_lab, wait_until};

/// Requests per second of the visitors: enough to notice, little enough for a machine with two cores.
const RATE: f64 = 40.0;

#[test]
fn traffic_outlives_every_agent_and_agents_adopt_the_tiers() -> Result<(), LabError> {
    let limit = Duration::from_secs(if long() { 300 } else { 180 });
    in_lab(
        "traffic_outlives_every_agent_and_agents_adopt_the_tiers",
        limit,
        |lab| async move {
            let fleet = two_servers(lab).await?;
            let (a, b) = (&fleet.a, &fleet.b);
            let load = fleet.visitors(&[a, b], RATE, "every agent is killed")?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let before = tiers(a).into_iter().chain(tiers(b)).collect::<Vec<_>>();
            kill_agent(a).await?;
            kill_agent(b).await?;
            // The acceptance says 60 s: PONTOON_LONG=1.
            tokio::time::sleep(Duration::from_secs(if long() { 60 } else { 12 })).await;
            expect(
                programs(a, "agent").is_empty() && programs(b, "agent").is_empty(),
                || "an agent is back".to_owned(),
            )?;
            refused(a, &["status"], "N001", 4).await?;

            load.phase("the agents come back");
            start_agent(a).await?;
            start_agent(b).await?;
            wait_until_healthy(a, 2).await?;
            let after = tiers(a).into_iter().chain(tiers(b)).collect::<Vec<_>>();
            expect(before == after && before.len() == 4, || {
                format!("tiers were not adopted: {before:?}, {after:?}")
            })?;
            for server in [a, b] {
                let kinds = event_kinds(server).await?;
                expect(kinds.iter().any(|kind| kind == "tier_adopted"), || {
                    format!("no word of it: {kinds:?}")
                })?;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            nobody_noticed(&load.stop().await?)?;
            identical(a, b).await
        },
    )
}

#[test]
fn tiers_and_databases_that_die_are_started_again() -> Result<(), LabError> {
    in_lab(
        "tiers_and_databases_that_die_are_started_again",
        Duration::from_secs(200),
        |lab| async move {
            let fleet = two_servers(lab).await?;
            let (a, b) = (&fleet.a, &fleet.b);
            let load = fleet.visitors(&[a], RATE, "steady")?;
            tokio::time::sleep(Duration::from_secs(1)).await;

            for (server, tier) in [(a, "sql"), (b, "sql"), (b, "edge"), (a, "edge")] {
                load.phase(&format!("{tier} on {} dies", server.name()));
                // Requests of the phase before are answered by then, also on a machine that is busy.
                tokio::time::sleep(Duration::from_secs(1)).await;
                let killed = fleet.process(server, tier)?;
                killed.kill_9()?;
                wait_until(
                    &format!("{tier} on {} again", server.name()),
                    Duration::from_secs(15),
                    async || fleet.process(server, tier).ok().filter(|now| *now != killed),
                )
                .await?;
                wait_until_healthy(a, 2).await?;
                let kinds = event_kinds(server).await?;
                expect(kinds.iter().any(|kind| kind == "tier_died"), || {
                    format!("no word of {tier}: {kinds:?}")
                })?;
            }
            // The one that took over dies while the one before it may still finish what it began.
            load.phase("an upgraded edge dies");
            run(b, &["edge", "upgrade"]).await?;
            let upgraded = fleet.process(b, "edge")?;
            upgraded.kill_9()?;
            wait_until("an edge on b again", Duration::from_secs(60), async || {
                fleet.process(b, "edge").ok().filter(|now| *now != upgraded)
            })
            .await?;
            wait_until_healthy(a, 2).await?;
            load.phase("steady again");
            tokio::time::sleep(Duration::from_secs(1)).await;
            let seen = load.summary();
            let failed = |name: &str| {
                seen.iter()
                    .filter(|phase| phase.name == name)
                    .map(|phase| phase.failed)
                    .sum::<u64>()
            };
            // What is in flight on a process that is killed breaks with it, and it listens nowhere until it is back: half a
            // second here, more on a machine that is busy. Before and after, nothing fails.
            let most_in_flight = RATE as u64 * 3;
            for (name, most) in [
                ("steady", 0),
                ("steady again", 0),
                ("edge on b dies", 3),
                ("sql on a dies", most_in_flight),
                ("sql on b dies", most_in_flight),
                ("edge on a dies", most_in_flight),
            ] {
                expect(failed(name) <= most, || {
                    format!("{name}: {} failed: {seen:?}", failed(name))
                })?;
            }

            load.phase("the primary's database dies");
            load.between_writes(Duration::from_secs(60)).await?;
            kill_database(a).await?;
            wait_until_healthy(a, 2).await?;
            let kinds = event_kinds(a).await?;
            expect(kinds.iter().any(|kind| kind == "database_restarted"), || {
                format!("no word of it: {kinds:?}")
            })?;
            load.phase("the replica's database dies");
            tokio::time::sleep(Duration::from_secs(1)).await;
            kill_database(b).await?;
            wait_until_healthy(a, 2).await?;
            load.phase("steady at last");
            tokio::time::sleep(Duration::from_secs(1)).await;

            // One that an operator stopped in good order stays stopped, and the status says so.
            b.exec(
                "mariadb-admin",
                &["--socket=/run/mysqld/mysqld-server.sock", "shutdown"],
            )
            .await?;
            tokio::time::sleep(Duration::from_secs(5)).await;
            expect(database(b).is_err(), || {
                "an operator's stop was undone".to_owned()
            })?;
            let (code, out, _) = attempt(a, &["status", "--check"]).await?;
            expect(code == 11 && out.contains("database on b"), || {
                format!("exit {code}: {out}")
            })?;
            run(b, &["apply", "--yes"]).await?;
            wait_until_healthy(a, 2).await?;

            let report = load.stop().await?;
            let failed = |name: &str| {
                report
                    .phases
                    .iter()
                    .filter(|phase| phase.name == name)
                    .map(|phase| phase.failed)
                    .sum::<u64>()
            };
            expect(failed("the primary's database dies") <= 10, || {
                format!("{:?}", report.phases)
            })?;
            for name in ["the replica's database dies", "steady at last"] {
                expect(failed(name) == 0, || format!("{name}: {:?}", report.phases))?;
            }
            identical(a, b).await
        },
    )
}

#[test]
fn a_drained_server_gets_no_request_and_nobody_notices() -> Result<(), LabError> {
    in_lab(
        "a_drained_server_gets_no_request_and_nobody_notices",
        Duration::from_secs(150),
        |lab| async move {
            let fleet = two_servers(lab).await?;
            let (a, b) = (&fleet.a, &fleet.b);
            let load = fleet.visitors(&[a, b], RATE, "both")?;
            tokio::time::sleep(Duration::from_secs(2)).await;
            refused(a, &["drain", "nobody"], "F004", 2).await?;
            for (subject, other, asked) in [("b", a, a), ("a", b, a)] {
                load.phase(&format!("{subject} is drained"));
                let begun = Instant::now();
                run(asked, &["drain", subject]).await?;
                tell(&format!("{subject} is drained after {:.1?}", begun.elapsed()));
                // Its application answers nothing any more: who is sent there waits.
                let drained = if subject == "a" { a } else { b };
                signal(drained, "notes-app", "-STOP").await?;
                load.phase(&format!("{subject} answers nothing"));
                tokio::time::sleep(Duration::from_secs(3)).await;
                let waits = load.summary().last().map_or(f64::MAX, |phase| phase.longest_ms);
                expect(waits < 1_500.0, || {
                    format!("a request went to {subject} after it was drained: {waits} ms")
                })?;
                // Asked of either server, the last one stays.
                refused(asked, &["drain", other.name()], "F003", 3).await?;
                refused(other, &["drain", other.name()], "F003", 3).await?;
                let (code, out, _) = attempt(b, &["status", "--check"]).await?;
                expect(code == 11 && out.contains("is drained"), || {
                    format!("exit {code}: {out}")
                })?;
                signal(drained, "notes-app", "-CONT").await?;
                wait_until_app(a, subject).await?;
                load.phase(&format!("{subject} comes back"));
                run(other, &["undrain", subject]).await?;
                wait_until_healthy(a, 2).await?;
                wait_until_healthy(b, 2).await?;
            }
            deploy(&fleet, &load).await?;
            upgrade(&fleet, &load).await?;
            nobody_noticed(&load.stop().await?)
        },
    )
}

/// A new version of the application on one server after the other. The short form has one.
async fn deploy(fleet: &Fleet, load: &Load) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    refused(a, &["app", "drain", "nobody"], "F004", 2).await?;
    let servers = if long() { vec![b, a] } else { vec![b] };
    for server in servers {
        load.phase(&format!("{} gets a new version", server.name()));
        run(a, &["app", "drain", server.name()]).await?;
        signal(server, "notes-app", "-KILL").await?;
        let told = run(server, &["edge", "explain", "http://notes.example.com/"]).await?;
        let other = if server.name() == "a" { "b" } else { "a" };
        expect(
            told.contains(&format!("it goes to {other}")) && told.contains("drained"),
            || told,
        )?;
        // Its edge goes on: what comes there is answered by the other application, and its address stays published.
        let view = std::fs::read_to_string(a.path("/var/lib/pontoon/view.json")?)
            .map_err(LabError::io("read the view"))?;
        let view: serde_json::Value = serde_json::from_str(&view)
            .map_err(|error| LabError::App(format!("the view is not JSON: {error}")))?;
        let rows = view["addresses"].as_array().cloned().unwrap_or_default();
        expect(
            !rows.is_empty() && rows.iter().all(|row| row["state"] == "up"),
            || format!("an address is not up: {rows:?}"),
        )?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        start_application(&fleet.app, server).await?;
        wait_until_app(a, server.name()).await?;
        run(b, &["app", "undrain", server.name()]).await?;
        wait_until_healthy(a, 2).await?;
    }
    Ok(())
}

/// The installed version takes over from the edge that runs, and the agent follows.
async fn upgrade(fleet: &Fleet, load: &Load) -> Result<(), LabError> {
    for server in [&fleet.a, &fleet.b] {
        load.phase(&format!("the edge on {} is upgraded", server.name()));
        let before = fleet.process(server, "edge")?;
        let died = died(server).await?;
        let done = run(server, &["edge", "upgrade", "--json"]).await?;
        let done: serde_json::Value =
            serde_json::from_str(&done).map_err(|error| LabError::App(format!("{error}: {done}")))?;
        expect(done["from"] != done["to"], || format!("{done}"))?;
        let after = fleet.process(server, "edge")?;
        expect(after != before, || format!("{before:?} serves on"))?;
        wait_until(
            &format!("the agent of {} to hear of it", server.name()),
            Duration::from_secs(60),
            async || {
                let kinds = event_kinds(server).await.ok()?;
                kinds.iter().any(|kind| kind == "tier_replaced").then_some(())
            },
        )
        .await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        wait_until_healthy(server, 2).await?;
        expect(self::died(server).await? == died, || {
            "the agent took the handover for a death".to_owned()
        })?;
        expect(fleet.process(server, "edge")? == after, || {
            "another one was started".to_owned()
        })?;
    }
    Ok(())
}

/// How many tiers have died on `server`.
async fn died(server: &Server) -> Result<usize, LabError> {
    let kinds = event_kinds(server).await?;
    Ok(kinds.iter().filter(|kind| *kind == "tier_died").count())
}

async fn two_servers(lab: pontoon_testkit::Lab) -> Result<Fleet, LabError> {
    let fleet = Fleet::new(lab).await?;
    fleet.found().await?;
    fleet.join().await?;
    wait_until_healthy(&fleet.a, 2).await?;
    Ok(fleet)
}

fn tiers(server: &Server) -> Vec<pontoon_testkit::ProcessId> {
    let mut found = programs(server, "edge");
    found.extend(programs(server, "sql"));
    found
}

fn nobody_noticed(report: &LoadReport) -> Result<(), LabError> {
    for phase in &report.phases {
        tell(&format!(
            "{}: {} sent, {} failed, longest wait {} ms",
            phase.name, phase.sent, phase.failed, phase.longest_ms
        ));
    }
    expect(report.failed() == 0, || {
        format!("visitors noticed: {:?}", report.phases)
    })
}

/// Kills the database of `server` and waits until there is another that answers.
async fn kill_database(server: &Server) -> Result<(), LabError> {
    let killed = database(server)?;
    killed.kill_9()?;
    wait_until("a database again", Duration::from_secs(30), async || {
        database(server).ok().filter(|now| *now != killed)?;
        ask(server, "SELECT 'up'").await.ok()
    })
    .await
    .map(drop)
    .map_err(|error| LabError::App(format!("{error}\n{}", logs(server, 15))))
}

/// The process of the database.
fn database(server: &Server) -> Result<pontoon_testkit::ProcessId, LabError> {
    let is_database = |id: &pontoon_testkit::ProcessId| {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", id.pid)).unwrap_or_default();
        name.trim() == "mariadbd" && id.alive()
    };
    let found = server.processes().into_iter().find(is_database);
    found.ok_or_else(|| LabError::App(format!("no database runs on {}", server.name())))
}

/// Signals the program of that name on `server`.
async fn signal(server: &Server, program: &str, signal: &str) -> Result<(), LabError> {
    server
        .sh(&format!("kill {signal} $(pgrep -x {program})"))
        .await
        .map(drop)
}

/// Waits until the edges call the application on `subject` healthy again.
async fn wait_until_app(server: &Server, subject: &str) -> Result<(), LabError> {
    wait_until(
        &format!("the application on {subject}"),
        Duration::from_secs(20),
        async || {
            let status = status(server).await.ok()?;
            let rows = status["servers"].as_array()?.clone();
            let row = rows.into_iter().find(|row| row["name"] == subject)?;
            (row["app_healthy"] == true).then_some(())
        },
    )
    .await
}
