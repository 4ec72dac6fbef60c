//! The fleet of namespaces: its network, its faults, and that nothing of it stays behind.

// The lint knows test functions, but not the helpers of a test program.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pontoon_testkit::{Bind, LabError, Server, Spawn, in_lab, wait_until};

const LIMIT: Duration = Duration::from_secs(40);

/// Whether anything comes back within `seconds`.
async fn answers(from: &Server, to: &str, seconds: &str) -> bool {
    // A TCP connection to a closed port is refused at once when the network is there; the shell has no other client.
    let probe = format!("exec 3<>/dev/tcp/{to}/7");
    let mut command = from.command("timeout").unwrap();
    let output = command
        .args([seconds, "bash", "-c", &probe])
        .output()
        .await
        .unwrap();
    String::from_utf8_lossy(&output.stderr).contains("refused")
}

/// A first packet that gets lost is sent again after a second, and then after two.
async fn reaches(from: &Server, to: &str) -> bool {
    answers(from, to, "10").await
}

async fn is_cut_off(from: &Server, to: &str) -> bool {
    !answers(from, to, "1").await
}

#[test]
fn servers_are_private_and_see_each_other() -> Result<(), LabError> {
    in_lab(
        "servers_are_private_and_see_each_other",
        LIMIT,
        |mut lab| async move {
            let shared = lab.workdir().join("shared");
            std::fs::create_dir(&shared).unwrap();
            std::fs::write(shared.join("hello"), "from the host").unwrap();
            let bind = |place: &str| Bind {
                host: shared.clone(),
                server: place.into(),
            };
            let a = lab
                .add_server("a", vec![bind("/run/lab/shared"), bind("/var/lib/shared")])
                .await?;
            let b = lab.add_server("b", vec![]).await?;
            assert!(lab.add_server("b", vec![]).await.is_err());
            assert!(lab.add_server("../x", vec![]).await.is_err());

            assert_eq!(
                a.sh("hostname; cat /run/lab/shared/hello /var/lib/shared/hello")
                    .await?,
                "a\nfrom the hostfrom the host"
            );
            a.sh("echo mine >/etc/pontoon/x; echo mine >/var/lib/pontoon/x; echo mine >/run/pontoon/x; test -r /etc/passwd").await?;
            assert!(
                b.sh("cat /etc/pontoon/x || cat /var/lib/pontoon/x || cat /run/pontoon/x")
                    .await
                    .is_err()
            );
            assert_eq!(
                std::fs::read_to_string(a.path("/run/pontoon/x")?).unwrap(),
                "mine\n"
            );
            assert!(
                a.sh("ls /proc | grep -c '^[0-9]'")
                    .await?
                    .trim()
                    .parse::<u32>()
                    .unwrap()
                    < 12
            );

            for address in [
                b.private().to_string(),
                b.public().to_string(),
                b.private6().to_string(),
            ] {
                assert!(reaches(&a, &address).await, "{address}");
            }
            b.link_down().await?;
            assert!(is_cut_off(&a, &b.private().to_string()).await);
            b.link_up().await?;
            assert!(reaches(&a, &b.private().to_string()).await);

            lab.isolate(&a, &b).await?;
            let probe = tokio::net::TcpStream::connect((b.private(), 7))
                .await
                .unwrap_err();
            assert_eq!(
                probe.kind(),
                std::io::ErrorKind::ConnectionRefused,
                "visitors still reach both"
            );
            assert!(is_cut_off(&a, &b.private().to_string()).await);
            lab.rejoin(&a, &b).await?;
            assert!(reaches(&a, &b.private().to_string()).await);
            Ok(())
        },
    )
}

#[test]
fn processes_are_frozen_killed_and_collected() -> Result<(), LabError> {
    in_lab(
        "processes_are_frozen_killed_and_collected",
        LIMIT,
        |mut lab| async move {
            let a = lab.add_server("a", vec![]).await?;
            let b = lab.add_server("b", vec![]).await?;
            let script = "echo $$ >/run/pid; sleep 300 & while :; do date +%s%N >/run/now; sleep 0.02; done";
            let ticker = a.spawn(Spawn::new("sh", "ticker").args(["-c", script])).await?;
            let bystander = b.spawn(Spawn::new("sleep", "sleep").args(["300"])).await?;
            let now = || async {
                a.path("/run/now")
                    .ok()
                    .and_then(|path| std::fs::read_to_string(path).ok())
            };
            wait_until("the ticker", LIMIT, now).await?;
            let inner: i32 = std::fs::read_to_string(a.path("/run/pid")?)
                .unwrap()
                .trim()
                .parse()
                .unwrap();
            assert_eq!(
                a.process(inner),
                Some(ticker.id()),
                "a pid file in the server names the same process"
            );
            assert_ne!(b.process(inner), Some(ticker.id()));

            a.freeze().await?;
            let frozen = now().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(now().await, frozen);
            a.thaw()?;
            wait_until("the ticker to go on", LIMIT, || async {
                (now().await != frozen).then_some(())
            })
            .await?;

            // Its child in the same session dies with it; orphans are collected, so that nobody takes them for alive.
            assert!(ticker.session().len() >= 2);
            a.sh("(sleep 0.1 & echo $! >/run/orphan)").await?;
            ticker.kill_9().await?;
            assert!(ticker.check_alive().is_err());
            let orphans =
                "! kill -0 $(cat /run/orphan) 2>/dev/null && ! grep -h ^State:.Z /proc/[0-9]*/status";
            wait_until("orphans to be collected", LIMIT, || async {
                a.sh(orphans).await.ok()
            })
            .await?;
            assert!(bystander.alive());
            Ok(())
        },
    )
}

#[test]
fn a_power_cut_kills_everything_and_keeps_the_disk() -> Result<(), LabError> {
    in_lab(
        "a_power_cut_kills_everything_and_keeps_the_disk",
        LIMIT,
        |mut lab| async move {
            let a = lab.add_server("a", vec![]).await?;
            let b = lab.add_server("b", vec![]).await?;
            let victim = a.spawn(Spawn::new("sleep", "sleep").args(["300"])).await?;
            a.sh(
                "setsid sleep 300 >/dev/null 2>&1 & echo kept >/var/lib/pontoon/x; echo gone >/run/pontoon/x",
            )
            .await?;
            let all = a.processes();
            assert!(all.len() >= 3, "{all:?}");
            a.power_off().await?;
            assert!(!victim.alive() && all.iter().all(|id| !id.alive()));
            assert!(a.exec("true", &[]).await.is_err() && a.path("/").is_err() && !a.is_on());
            assert!(is_cut_off(&b, &a.private().to_string()).await);

            a.power_on().await?;
            assert_eq!(
                a.sh("cat /var/lib/pontoon/x; test ! -e /run/pontoon/x").await?,
                "kept\n"
            );
            // Its neighbour asks once a second who has that address, since it asked in vain.
            wait_until("a server that was switched on again", LIMIT, async || {
                reaches(&b, &a.private().to_string()).await.then_some(())
            })
            .await?;
            assert!(a.power_on().await.is_err());
            Ok(())
        },
    )
}

#[test]
fn what_a_program_says_when_it_ends_at_once_is_shown() -> Result<(), LabError> {
    in_lab(
        "what_a_program_says_when_it_ends_at_once_is_shown",
        LIMIT,
        |mut lab| async move {
            let a = lab.add_server("a", vec![]).await?;
            let begun = Instant::now();
            let said = match a
                .spawn(Spawn::new("sh", "sh").args(["-c", "echo out of luck; exit 3"]))
                .await
            {
                Ok(process) => {
                    wait_until("its end", LIMIT, || async { (!process.alive()).then_some(()) }).await?;
                    process.check_alive().unwrap_err().to_string()
                }
                Err(e) => e.to_string(),
            };
            assert!(said.contains("out of luck"), "{said}");
            assert!(begun.elapsed() < LIMIT);
            let refused = a.sh("echo why >&2; exit 7").await.unwrap_err().to_string();
            assert!(refused.contains("why") && refused.contains('7'), "{refused}");
            Ok(())
        },
    )
}
