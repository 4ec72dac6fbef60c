//! WordPress in a server of the lab, visited directly: the measure of what the demo may ask of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_testkit::{
    DatabaseOptions, DemoApp, INSIDE_VARIABLE, LabError, Load, LoadOptions, Mariadb, ProcessId, Skip,
    Visited, WordPress, database, in_lab, say,
};

#[test]
fn every_acknowledged_comment_and_post_is_read_back() -> Result<(), LabError> {
    in_lab(
        "every_acknowledged_comment_and_post_is_read_back",
        Duration::from_secs(50),
        |mut lab| async move {
            let number = |name: &str, default: f64| {
                std::env::var(name)
                    .ok()
                    .and_then(|n| n.parse().ok())
                    .unwrap_or(default)
            };
            let (rate, seconds, workers) = (
                number("RATE", 15.0),
                number("SECONDS", 6.0),
                number("WORKERS", 4.0),
            );
            let app = Arc::new(WordPress::new(7, workers as usize));
            app.available()?;
            Mariadb::available()?;
            let a = lab.add_server("a", vec![]).await?;
            let mariadb = Mariadb::start(&a, &DatabaseOptions::default()).await?;
            let listen = SocketAddr::from((a.public(), 8080));
            app.create_database(&mariadb).await?;
            app.prepare(&a).await?;
            app.prepare(&a).await?;
            let process = app.start(&a, listen).await?;
            app.install(listen, &mariadb).await?;

            let options = LoadOptions {
                targets: vec![listen],
                rate,
                ..LoadOptions::default()
            };
            let load = Load::start(app.clone(), options, "direct")?;
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            load.phase("the application dies");
            // What was due before is answered, however slow this machine is at the moment.
            let answered = || load.summary()[0].pending == 0;
            for _ in 0..300 {
                if answered() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert!(answered(), "{:?}", load.summary());
            let cpu = |ids: &[ProcessId]| {
                ids.iter().map(|id| cpu_ms(*id)).sum::<u64>() / load.summary()[0].sent.max(1)
            };
            eprintln!(
                "CPU ms a visit: PHP {}, MariaDB {}",
                cpu(&process.session()),
                cpu(&[mariadb.process()])
            );
            load.between_writes(Duration::from_secs(60)).await?;
            process.kill_9().await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            app.start(&a, listen).await?;
            let report = load.stop().await?;
            eprintln!(
                "{} late {:?}",
                serde_json::to_string_pretty(&report.phases).unwrap(),
                report.latest_send
            );
            report.believable()?;
            assert_eq!(report.phases[0].failed, 0, "{:?}", report.phases[0]);
            assert!(report.phases[0].acknowledged > 0);
            assert!(report.phases[1].failed > 0, "a dead application is noticed");

            let read = report.ledger.compare(&app.read_back(listen).await?);
            assert!(
                read.complete() && read.acknowledged == report.ledger.len(),
                "{read:?}"
            );
            let socket = a.path(database::SOCKET)?;
            assert!(
                report
                    .ledger
                    .compare(&app.read_database(&socket).await?)
                    .complete()
            );
            database::rows::<u8>(
                &mut mariadb.root().await?,
                "DELETE FROM wordpress.wp_comments ORDER BY comment_ID DESC LIMIT 1",
            )
            .await?;
            let read = report.ledger.compare(&app.read_back(listen).await?);
            assert!(
                !read.complete() && read.missing.len() == 1,
                "a lost comment is noticed: {read:?}"
            );
            Ok(())
        },
    )
}

/// User and system time of a process since its start; a tick is 10 ms on every architecture of Debian.
fn cpu_ms(id: ProcessId) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.pid)).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .collect();
    [11, 12]
        .iter()
        .filter_map(|n| fields.get(*n)?.parse::<u64>().ok())
        .sum::<u64>()
        * 10
}

#[test]
fn an_ordinary_user_can_do_the_same() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    if !status.lines().any(|line| line.starts_with("Uid:\t0\t0"))
        || std::env::var_os(INSIDE_VARIABLE).is_some()
    {
        return say(&Skip("this is an ordinary user already".to_owned()));
    }
    let program = std::path::PathBuf::from(format!("/var/tmp/pontoon-ordinary-{}", std::process::id()));
    // By another process: what a child forked meanwhile has open for writing cannot be run.
    let copied = std::process::Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    let mut command = std::process::Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program);
    command.args([
        "every_acknowledged_comment_and_post_is_read_back",
        "--exact",
        "--nocapture",
    ]);
    let status = command
        .env("SECONDS", "3")
        .env("RATE", "8")
        .current_dir("/")
        .status();
    std::fs::remove_file(&program).unwrap();
    assert!(status.unwrap().success());
}
