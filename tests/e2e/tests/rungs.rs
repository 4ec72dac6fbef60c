//! From nothing to one server to two, under traffic, and back: the main job, with real programs.

use std::path::PathBuf;
use std::time::Duration;

use pontoon_e2e::fleet::{Fleet, attempt, run, status, tell, wait_until_healthy};
use pontoon_testkit::{LabError, Server, in_lab};

#[test]
fn one_server_becomes_two_under_traffic() -> Result<(), LabError> {
    in_lab(
        "one_server_becomes_two_under_traffic",
        Duration::from_secs(300),
        |lab| async move {
            let fleet = Fleet::new(lab).await?;
            fleet.found().await?;
            let load = fleet.visitors(&[&fleet.a], 30.0, "one server")?;
            tokio::time::sleep(Duration::from_secs(3)).await;
            load.phase("join");
            fleet.join().await?;
            eprintln!("{}", run(&fleet.a, &["status"]).await?);
            let report = load.stop().await?;
            eprintln!("{}", serde_json::to_string_pretty(&report.phases).unwrap());
            assert_eq!(report.failed(), 0);

            let both = fleet.visitors(&[&fleet.a, &fleet.b], 30.0, "two servers")?;
            tokio::time::sleep(Duration::from_secs(3)).await;
            let report = both.stop().await?;
            assert_eq!(report.failed(), 0, "{:?}", report.phases);
            let (code, out, err) = attempt(&fleet.a, &["status", "--check"]).await?;
            assert_eq!(code, 0, "{out}{err}");
            reads_are_spread_under_load(&fleet).await?;
            https_comes_to_both(&fleet).await?;
            other_balancers_can_ask(&fleet).await
        },
    )
}

/// `db.reads.split` as a change while visitors come, who read what others wrote a moment before; and off again.
async fn reads_are_spread_under_load(fleet: &Fleet) -> Result<(), LabError> {
    let a = &fleet.a;
    // Any command follows the join in the file, as long as nobody has touched it.
    run(a, &["plan"]).await?;
    let config = a.path("/etc/pontoon/fleet.toml")?;
    let before = std::fs::read_to_string(&config).map_err(LabError::io("read fleet.toml"))?;
    let split = "[db]\nreads = { split = true, after_write = \"fleet-wide\" }";
    let write = |text: &str| std::fs::write(&config, text).map_err(LabError::io("write fleet.toml"));
    let load = fleet.visitors(&[&fleet.a, &fleet.b], 30.0, "reads to the primary")?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    load.phase("apply and reads to both");
    write(&before.replacen("[db]", split, 1))?;
    run(a, &["apply", "--yes"]).await?;
    let mut replicas = 0;
    for _ in 0..150 {
        replicas = at_replicas(a).await?;
        if replicas > 20 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tell(&run(a, &["status", "--wide"]).await?);
    tell(&run(a, &["sql", "top", "-n", "5"]).await?);
    load.phase("back");
    write(&before)?;
    run(a, &["apply", "--yes"]).await?;
    wait_until_healthy(a, 2).await?;
    let report = load.stop().await?;
    assert_eq!(report.failed(), 0, "{:?}", report.phases);
    assert!(replicas > 20, "{replicas} statements were answered by replicas");
    Ok(())
}

/// `[edge.tls]`: a pair that cannot be served is refused everywhere; a good one serves on both, and goes again.
async fn https_comes_to_both(fleet: &Fleet) -> Result<(), LabError> {
    let a = &fleet.a;
    run(a, &["plan"]).await?;
    let config = a.path("/etc/pontoon/fleet.toml")?;
    let before = std::fs::read_to_string(&config).map_err(LabError::io("read fleet.toml"))?;
    let write = |path: PathBuf, text: &str| std::fs::write(path, text).map_err(LabError::io("write a file"));
    let tls = "[edge.tls]\ncertificates = [{ certificate = \"/etc/pontoon/chain.pem\", key = \"/etc/pontoon/key.pem\" }]\n\n[app]";
    write(config.clone(), &before.replacen("[app]", tls, 1))?;
    let failed = |error: rcgen::Error| LabError::App(error.to_string());
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let pem = rcgen::CertificateParams::new(["notes.example.com".to_owned()])
        .and_then(|params| params.self_signed(&key))
        .map_err(failed)?
        .pem();
    for server in [&fleet.a, &fleet.b] {
        write(server.path("/etc/pontoon/chain.pem")?, &pem)?;
    }
    write(a.path("/etc/pontoon/key.pem")?, &key.serialize_pem())?;
    // b has the certificate and no key: nothing changes anywhere.
    let (code, out, err) = attempt(a, &["apply", "--yes"]).await?;
    assert!(
        code != 0 && err.contains("T001") && err.contains("/etc/pontoon/key.pem"),
        "{out}{err}"
    );
    write(fleet.b.path("/etc/pontoon/key.pem")?, &key.serialize_pem())?;
    run(a, &["apply", "--yes"]).await?;
    for server in [&fleet.a, &fleet.b] {
        let ask = format!(
            "curl -s -m 5 -o /dev/null -w '%{{http_code}} ' --retry 20 --retry-connrefused --retry-delay 1 \
             --cacert /etc/pontoon/chain.pem --connect-to ::{0}: https://notes.example.com/; \
             curl -s -m 5 -o /dev/null -w '%{{redirect_url}}' -H 'Host: notes.example.com' http://{0}/",
            server.public()
        );
        assert_eq!(server.sh(&ask).await?, "200 https://notes.example.com/");
    }
    let mut shown = String::new();
    for _ in 0..100 {
        shown = run(a, &["status", "--wide"]).await?;
        if shown.contains("notes.example.com") && shown.contains("a b") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tell(&shown);
    assert!(shown.contains("/etc/pontoon/chain.pem"), "{shown}");
    write(config, &before)?;
    run(a, &["apply", "--yes"]).await?;
    wait_until_healthy(a, 2).await
}

/// How many statements replicas have answered, by the reports of all SQL proxies.
async fn at_replicas(server: &Server) -> Result<u64, LabError> {
    let status = status(server).await?;
    let servers = status["servers"].as_array().cloned().unwrap_or_default();
    let tiers = servers
        .iter()
        .filter_map(|server| server["report"]["tiers"].as_array())
        .flatten();
    let counts = tiers.filter_map(|tier| tier["detail"]["sql"]["spread"]["replica_total"].as_u64());
    Ok(counts.sum())
}

/// `db.health_port`: the primary and the replica say what they are, and stop saying it when they are not.
async fn other_balancers_can_ask(fleet: &Fleet) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    // Any command follows the join in the file, as long as nobody has touched it.
    run(a, &["plan"]).await?;
    let config = a.path("/etc/pontoon/fleet.toml")?;
    let text = std::fs::read_to_string(&config).map_err(LabError::io("read fleet.toml"))?;
    let text = text.replacen("[db]", "[db]\nhealth_port = 7403", 1);
    std::fs::write(&config, text).map_err(LabError::io("write fleet.toml"))?;
    run(a, &["apply", "--yes"]).await?;
    until_status(a, "/primary", 200).await?;
    until_status(b, "/replica?max_lag=5s", 200).await?;
    assert_eq!(status_of(a, "/replica").await?, 503);
    assert_eq!(status_of(b, "/primary").await?, 503);
    assert_eq!(status_of(b, "/replica?max_lag=soon").await?, 400);
    run(a, &["drain", b.name()]).await?;
    until_status(b, "/replica", 503).await?;
    run(a, &["undrain", b.name()]).await?;
    until_status(b, "/replica", 200).await
}

async fn until_status(server: &Server, path: &str, wanted: u16) -> Result<(), LabError> {
    for _ in 0..100 {
        if status_of(server, path).await? == wanted {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(LabError::App(format!(
        "{path} on {} is not {wanted} within 10 s",
        server.name()
    )))
}

/// 0 when nobody answers.
async fn status_of(server: &Server, path: &str) -> Result<u16, LabError> {
    let url = format!("http://{}:7403{path}", server.private());
    let ask = format!("curl -s -m 2 -o /dev/null -w '%{{http_code}}' '{url}' || :");
    Ok(server.sh(&ask).await?.trim().parse().unwrap_or(0))
}
