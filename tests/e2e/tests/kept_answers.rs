//! What edges keep of the application's answers, and how a whole fleet forgets it.

use std::time::Duration;

use pontoon_e2e::fleet::{Fleet, attempt, expect, kill_agent, refused, run, start_agent, wait_until_healthy};
use pontoon_testkit::{LabError, Server, in_lab, wait_until};
use rustix::process::Signal;

const FILE: &str = "/etc/pontoon/fleet.toml";
/// How long it may take until every edge has heard, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_purge_reaches_every_edge_also_one_whose_agent_was_away() -> Result<(), LabError> {
    in_lab(
        "a_purge_reaches_every_edge_also_one_whose_agent_was_away",
        Duration::from_secs(300),
        |lab| async move {
            let fleet = Fleet::new(lab).await?;
            fleet.found().await?;
            fleet.join().await?;
            let (a, b) = (&fleet.a, &fleet.b);
            wait_until_healthy(a, 2).await?;
            refused(a, &["edge", "purge", "--prefix", "/"], "N022", 2).await?;
            missing_pages_are_named(a, b).await?;
            hangups_end_nothing(&fleet).await?;
            keep_answers(a).await?;
            for edge in [a, b] {
                is_kept(edge).await?;
            }
            let url = format!("http://{}/", a.public());
            let said = run(a, &["edge", "explain", &url]).await?;
            expect(said.contains("is answered with what is kept"), || said.clone())?;
            let said = run(a, &["edge", "explain", &url, "--cookie", "PHPSESSID=1"]).await?;
            expect(said.contains("edge.cache.bypass_cookies"), || said.clone())?;

            // Said on one server, obeyed by both; the other path stays.
            run(b, &["edge", "purge", "/elsewhere"]).await?;
            run(b, &["edge", "purge", "/"]).await?;
            for edge in [a, b] {
                is_forgotten(edge).await?;
                is_kept(edge).await?;
            }

            // An edge whose agent is away hears nothing, and goes on with what it keeps; it forgets when that is back.
            kill_agent(b).await?;
            run(a, &["edge", "purge", "--prefix", "/"]).await?;
            is_forgotten(a).await?;
            expect(is_hit(b).await == Some(true), || {
                "b's edge obeyed what nobody can have told it".to_owned()
            })?;
            start_agent(b).await?;
            is_forgotten(b).await?;

            // Purges that were obeyed are not obeyed again when agents come back.
            for edge in [a, b] {
                is_kept(edge).await?;
                kill_agent(edge).await?;
                start_agent(edge).await?;
            }
            wait_until_healthy(b, 2).await?;
            for edge in [a, b] {
                expect(is_hit(edge).await == Some(true), || {
                    format!("{} forgot without being told", edge.name())
                })?;
            }
            Ok(())
        },
    )
}

/// A page for errors that one of two edges does not have stops the change, whoever has it.
async fn missing_pages_are_named(a: &Server, b: &Server) -> Result<(), LabError> {
    attempt(a, &["plan"]).await?;
    let path = a.path(FILE)?;
    let before = std::fs::read_to_string(&path).map_err(LabError::io("read fleet.toml"))?;
    let with = format!("{before}\n[edge.errors]\n503 = \"/etc/pontoon/sorry.html\"\n");
    let write = |path, text: &str| std::fs::write(path, text).map_err(LabError::io("write a file"));
    write(path.clone(), &with)?;
    write(a.path("/etc/pontoon/sorry.html")?, "sorry")?;
    let said = refused(a, &["apply", "--yes"], "N023", 2).await?;
    expect(
        said.contains("/etc/pontoon/sorry.html") && said.contains('b'),
        || said.clone(),
    )?;
    write(b.path("/etc/pontoon/sorry.html")?, "sorry")?;
    run(a, &["apply", "--yes"]).await?;
    write(path, &before)?;
    run(a, &["apply", "--yes"]).await.map(drop)
}

/// What logrotate and old habits send to daemons.
async fn hangups_end_nothing(fleet: &Fleet) -> Result<(), LabError> {
    let mut heard = Vec::new();
    for name in ["agent", "edge", "sql"] {
        let process = fleet.process(&fleet.b, name)?;
        process.signal(Signal::HUP)?;
        heard.push(process);
    }
    wait_until_healthy(&fleet.a, 2).await?;
    expect(heard.iter().all(|process| process.alive()), || {
        "a process of b ended by SIGHUP".to_owned()
    })
}

/// `[edge.cache]`, applied, for an application that says nothing of caches.
async fn keep_answers(server: &Server) -> Result<(), LabError> {
    attempt(server, &["plan"]).await?;
    let path = server.path(FILE)?;
    let text = std::fs::read_to_string(&path).map_err(LabError::io("read fleet.toml"))?;
    let text = format!("{text}\n[edge.cache]\nunsaid = \"1h\"\n");
    std::fs::write(path, text).map_err(LabError::io("write fleet.toml"))?;
    run(server, &["apply", "--yes"]).await.map(drop)
}

/// Whether the edge answers a visitor from what it keeps; `None` when it does not answer with 200.
async fn is_hit(edge: &Server) -> Option<bool> {
    let page = format!("http://{}/", edge.public());
    let head = edge
        .exec(
            "curl",
            &["-s", "--max-time", "10", "-o", "/dev/null", "-D", "-", &page],
        )
        .await
        .ok()?;
    head.starts_with("HTTP/1.1 200")
        .then(|| head.to_lowercase().contains("cache-status: pontoon; hit"))
}

async fn is_kept(edge: &Server) -> Result<(), LabError> {
    let what = format!("{} to keep its answer", edge.name());
    wait_until(&what, LIMIT, async || is_hit(edge).await.filter(|is_hit| *is_hit)).await?;
    Ok(())
}

/// Each question that finds nothing has the answer kept again: it is asked until one does.
async fn is_forgotten(edge: &Server) -> Result<(), LabError> {
    let what = format!("{} to forget its answer", edge.name());
    wait_until(&what, LIMIT, async || {
        is_hit(edge).await.filter(|is_hit| !*is_hit)
    })
    .await?;
    Ok(())
}
