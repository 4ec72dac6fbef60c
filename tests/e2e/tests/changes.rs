//! `plan` and `apply`: everywhere or nowhere, what was looked at or nothing, and said before it is done.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pontoon_e2e::fleet::{
    Fleet, Following, ask, attempt, end_program, expect, identical, one_line, pontoon, refused, run,
    snapshot, start_agent, status, tell, wait_until_healthy,
};
use pontoon_testkit::{DemoApp, LabError, Server, in_lab, wait_until};

const FILE: &str = "/etc/pontoon/fleet.toml";

#[test]
fn the_first_apply_is_refused_killed_and_completed() -> Result<(), LabError> {
    in_lab(
        "the_first_apply_is_refused_killed_and_completed",
        Duration::from_secs(150),
        |lab| async move {
            let fleet = Fleet::new(lab).await?;
            let a = &fleet.a;
            refused(a, &["apply", "--yes"], "C009", 2).await?;
            init(&fleet).await?;
            let (code, out, _) = attempt(a, &["plan", "--exit-code"]).await?;
            expect(code == 10 && out.contains("3307"), || {
                format!("exit {code}: {out}")
            })?;
            refused(a, &["apply"], "P007", 2).await?;
            refused(a, &["apply", "../../../etc/passwd"], "P002", 2).await?;
            refused(a, &["apply", "0123456789abcdef"], "P002", 2).await?;

            // A program that is not ours listens where the edge shall.
            let before = snapshot(a).await?;
            let squatter = fleet.app.start(a, SocketAddr::from(([0, 0, 0, 0], 80))).await?;
            let said = refused(a, &["apply", "--yes"], "P006", 3).await?;
            expect(said.contains("notes-app"), || format!("whose port is it? {said}"))?;
            expect(snapshot(a).await? == before, || {
                "a refused apply changed something".to_owned()
            })?;
            squatter.kill_9().await?;

            // Mistakes, with their place; and what this version does not do.
            let good = text(a)?;
            for (mistake, code) in [
                (good.replace("[db]", "[db"), "C001"),
                (good.replace("upstream", "upstraem"), "C004"),
                (good.replace("version = 1", "version = 9"), "C008"),
                (
                    format!("{good}\n[cache]\nmemory = \"64MiB\"\ncopies = 2\n"),
                    "C010",
                ),
            ] {
                write(a, &mistake)?;
                let status = if code == "C010" { 3 } else { 2 };
                let said = refused(a, &["apply", "--yes"], code, status).await?;
                expect(code == "C010" || said.contains("fleet.toml:"), || {
                    format!("no place: {said}")
                })?;
            }
            write(a, &good)?;
            expect(snapshot(a).await? == before, || {
                "a wrong configuration changed something".to_owned()
            })?;

            write(
                a,
                &good.replace("\n[app]", "\n[edge]\nrequest_id = true\n\n[app]"),
            )?;
            // Killed in the middle of the first apply, when the database is on its way: the next start completes it.
            let load = fleet_clients(a)?;
            let mut apply = Following::start(a, &["apply", "--yes"])?;
            expect(apply.until("is active").await?, || format!("{:?}", apply.said))?;
            end_program(a, "agent").await?;
            apply.end().await?;
            let begun = Instant::now();
            start_agent(a).await?;
            wait_until_healthy(a, 1).await?;
            tell(&format!(
                "completed {} ms after the agent's start",
                begun.elapsed().as_millis()
            ));
            let page = format!("http://{}/up", a.public());
            let answer = a.exec("curl", &["-sSi", "--max-time", "20", &page]).await?;
            expect(answer.to_lowercase().contains("\nx-request-id: "), || {
                answer.clone()
            })?;
            let place = ask(a, "SELECT CONCAT(@@port, ' ', @@socket)").await?.join("");
            expect(place.starts_with("3307 "), || {
                format!("the database is at {place}")
            })?;
            run(a, &["plan"]).await?;
            let (code, out, _) = attempt(a, &["plan", "--exit-code"]).await?;
            expect(code == 0, || format!("exit {code}: {out}"))?;
            let gap = load.stop().await?;
            tell(&format!(
                "no login for {gap} ms at worst (agent killed in between)"
            ));

            // And undisturbed: how long the application cannot log in.
            run(a, &["leave", "--yes"]).await?;
            init(&fleet).await?;
            let load = fleet_clients(a)?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            run(a, &["apply", "--yes"]).await?;
            wait_until_healthy(a, 1).await?;
            let gap = load.stop().await?;
            tell(&format!(
                "the database moved aside: no login for {gap} ms at worst"
            ));
            expect(gap < 10_000, || format!("{gap} ms without a database"))
        },
    )
}

#[test]
fn a_change_happens_on_every_server_or_on_none() -> Result<(), LabError> {
    in_lab(
        "a_change_happens_on_every_server_or_on_none",
        Duration::from_secs(200),
        |lab| async move {
            let fleet = Fleet::new(lab).await?;
            fleet.found().await?;
            fleet.join().await?;
            let (a, b) = (&fleet.a, &fleet.b);
            wait_until_healthy(a, 2).await?;

            // The file followed the join on both, since nobody had touched it.
            attempt(a, &["plan"]).await?;
            for server in [a, b] {
                expect(text(server)?.contains("name = \"b\""), || {
                    format!("{}: {}", server.name(), text(server).unwrap_or_default())
                })?;
                let (code, out, err) = attempt(server, &["plan", "--exit-code"]).await?;
                expect(code == 0, || format!("exit {code}: {out}{err}"))?;
            }
            let load = fleet.visitors(&[a, b], 30.0, "changes")?;
            let good = text(a)?;

            // A saved plan is worth nothing once the fleet moved on.
            write(a, &good.replace("[app]\n", "[app]\ndrain = \"7s\"\n"))?;
            let saved = plan_id(a).await?;
            let other = good.replace("[app]\n", "[app]\ndrain = \"8s\"\n");
            write(b, &other)?;
            run(b, &["apply", "--yes"]).await?;
            wait_for_revision(&[a, b], 3).await?;
            refused(a, &["apply", &saved], "P001", 5).await?;
            wait_for_revision(&[a, b], 3).await?;
            write(a, &other)?;

            // A running server that is forgotten in the file is not thrown out.
            let forgotten = without_b(&other);
            write(a, &forgotten)?;
            refused(a, &["apply", "--yes"], "P008", 3).await?;
            write(a, &other)?;

            // One server says no: here, by what listens on it; there, by who it is.
            let before = (active(a)?, active(b)?);
            let squatter = fleet.app.start(b, SocketAddr::from(([0, 0, 0, 0], 8088))).await?;
            write(
                a,
                &format!("{other}\n[edge]\nlisten = [\"0.0.0.0:80\", \"0.0.0.0:8088\"]\n"),
            )?;
            let said = refused(a, &["apply", "--yes"], "P006", 3).await?;
            expect(said.contains("notes-app") && said.contains('b'), || {
                format!("whose port is it? {said}")
            })?;
            squatter.kill_9().await?;
            let moved = other.replace(&b.private().to_string(), "198.51.100.77");
            write(a, &moved)?;
            let (code, out, err) = attempt(a, &["apply", "--yes"]).await?;
            expect(code == 3 || code == 4, || format!("exit {code}: {out}{err}"))?;
            expect((active(a)?, active(b)?) == before, || {
                "a refused change is active somewhere".to_owned()
            })?;

            // A server that does not answer: nothing changes, also when it comes back.
            write(a, &good.replace("[app]\n", "[app]\ndrain = \"9s\"\n"))?;
            b.link_down().await?;
            let begun = Instant::now();
            refused(a, &["apply", "--yes"], "P004", 4).await?;
            expect(begun.elapsed() < Duration::from_secs(30), || {
                format!("{:?} for a refusal", begun.elapsed())
            })?;
            let report = load.stop().await?;
            b.link_up().await?;
            wait_until_healthy(a, 2).await?;
            expect((active(a)?, active(b)?) == before, || {
                "a refused change is active somewhere".to_owned()
            })?;
            // And then it can be made.
            run(a, &["apply", "--yes"]).await?;
            wait_for_revision(&[a, b], 4).await?;
            wait_until_healthy(b, 2).await?;

            // What becomes active while the helper is away is carried out when that is back.
            end_program(b, "helper").await?;
            write(a, &good.replace("[app]\n", "[app]\ndrain = \"10s\"\n"))?;
            refused(a, &["apply", "--yes"], "N003", 1).await?;
            wait_until("b to say what it lacks", Duration::from_secs(60), async || {
                let (_, said, _) = attempt(b, &["status"]).await.ok()?;
                said.contains("b is not as configured").then_some(())
            })
            .await?;
            let helper = format!(
                "setsid {} helper </dev/null >/dev/null 2>&1 &",
                pontoon()?.display()
            );
            b.sh(&helper).await?;
            wait_until_healthy(b, 2).await?;

            // Those of b are cut off with it. Of the others, a write that was on its way to b's application when the cable
            // was pulled cannot be repeated by anybody but its visitor.
            let of_a = report
                .records
                .iter()
                .filter(|record| record.target.ip() == a.public() && record.failure.is_some());
            let of_a: Vec<_> = of_a
                .map(|record| record.failure.clone().unwrap_or_default())
                .collect();
            expect(of_a.len() <= 5, || format!("visitors of a noticed: {of_a:?}"))?;
            identical(a, b).await
        },
    )
}

async fn init(fleet: &Fleet) -> Result<(), LabError> {
    let (private, public) = (fleet.a.private().to_string(), fleet.a.public().to_string());
    let what = [
        "init",
        "--name",
        "a",
        "--fleet",
        "notes",
        "--domain",
        "notes.example.com",
    ];
    let places = [
        "--upstream",
        "127.0.0.1:8080",
        "--private",
        &private,
        "--public",
        &public,
    ];
    run(&fleet.a, &[&what[..], &places[..]].concat()).await.map(drop)
}

/// Logs in again and again as the application does, until it is stopped.
struct Clients {
    stop: tokio::sync::watch::Sender<bool>,
    task: tokio::task::JoinHandle<u128>,
}

fn fleet_clients(server: &Server) -> Result<Clients, LabError> {
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let socket = server.path(pontoon_testkit::database::SOCKET)?;
    let task = tokio::spawn(async move {
        let (mut last, mut worst) = (Instant::now(), 0);
        while !*stopped.borrow_and_update() {
            if pontoon_testkit::database::connect_root(&socket).await.is_ok() {
                worst = worst.max(last.elapsed().as_millis());
                last = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        worst
    });
    Ok(Clients { stop, task })
}

impl Clients {
    /// The longest time in ms without a login.
    async fn stop(self) -> Result<u128, LabError> {
        let _ = self.stop.send(true);
        self.task.await.map_err(|error| LabError::App(error.to_string()))
    }
}

fn text(server: &Server) -> Result<String, LabError> {
    std::fs::read_to_string(server.path(FILE)?).map_err(LabError::io(FILE))
}

fn write(server: &Server, text: &str) -> Result<(), LabError> {
    std::fs::write(server.path(FILE)?, text).map_err(LabError::io(FILE))
}

/// The text without its last `[[server]]`.
fn without_b(text: &str) -> String {
    let begin = text.rfind("[[server]]").unwrap_or(text.len());
    let rest = text.get(begin + 2..).unwrap_or_default();
    let end = rest.find("\n[").map_or(text.len(), |end| begin + 2 + end + 1);
    format!(
        "{}{}",
        text.get(..begin).unwrap_or_default(),
        text.get(end..).unwrap_or_default()
    )
}

/// What is active, as it lies on the disk.
fn active(server: &Server) -> Result<String, LabError> {
    let path = server.path("/var/lib/pontoon/active.json")?;
    std::fs::read_to_string(path).map_err(LabError::io("active.json"))
}

async fn plan_id(server: &Server) -> Result<String, LabError> {
    let out = run(server, &["plan", "--json"]).await?;
    let plan: serde_json::Value =
        serde_json::from_str(&out).map_err(|error| LabError::App(error.to_string()))?;
    let id = plan["plan"]["id"].as_str().map(str::to_owned);
    id.ok_or_else(|| LabError::App(format!("a plan without an id: {}", one_line(&out))))
}

async fn wait_for_revision(servers: &[&Server], revision: u64) -> Result<(), LabError> {
    for server in servers {
        let name = format!("revision {revision} on {}", server.name());
        let there = async || {
            status(server)
                .await
                .ok()
                .filter(|status| status["revision"] == revision)
        };
        wait_until(&name, Duration::from_secs(20), there).await?;
    }
    Ok(())
}
