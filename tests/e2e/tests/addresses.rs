//! Public addresses that move, with real kernels and real programs: for how long a visitor who asks a thousand times a
//! second got no answer, and for how long two kernels had one address. The visitor's side is a router that drops what it
//! did not ask for.
//!
//! A round of each in CI; `PONTOON_LONG=1` for 200, `PONTOON_ROUNDS=n` for n.

#![allow(clippy::unwrap_used, clippy::panic)] // a panic is the report

use std::time::Duration;

use pontoon_e2e::addresses::{Fleet, Shape, Watch};
use pontoon_e2e::fleet::{self, attempt, event_kinds, long, rounds_asked, run, tell};
use pontoon_testkit::{Lab, LabError, in_lab, wait_until};
use rustix::process::Signal;

/// Two kernels never have one address for longer: `Timing::longest_overlap`, and what a busy machine adds.
const LONGEST_DOUBLE: Duration = Duration::from_millis(4_000);

const SHAPE: Shape = Shape {
    servers: 2,
    fast: false,
    home_after: Duration::from_secs(1),
    edges: false,
    judged: false,
};

fn limit() -> Duration {
    Duration::from_secs(if long() { 7_200 } else { 240 })
}

fn rounds() -> usize {
    rounds_asked().unwrap_or(if long() { 200 } else { 1 })
}

/// What a series of one fault came to.
fn tell_series(what: &str, mut gaps: Vec<Duration>, watch: &Watch) {
    gaps.sort_unstable();
    let (median, worst) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    let double = watch.longest_double();
    tell(&format!(
        "{what}: nobody answered for {median:?} (median of {}), {worst:?} (worst); two kernels for {double:?} at most",
        gaps.len()
    ));
    assert!(
        double <= LONGEST_DOUBLE,
        "{what}: two kernels had the address for {double:?}"
    );
}

#[test]
fn a_dead_servers_address_answers_at_the_other_and_goes_home() -> Result<(), LabError> {
    in_lab(
        "a_dead_servers_address_answers_at_the_other_and_goes_home",
        limit(),
        |lab| async move {
            let mut fleet = Fleet::new(lab, SHAPE).await?;
            let watch = fleet.watch(fleet.server(0).public().into())?;
            let watch6 = fleet.watch(fleet.server(0).public6().into())?;
            watch.until_answered_by("a").await?;
            watch6.until_answered_by("a").await?;
            let (mut gaps, mut gaps6, mut home) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..rounds() {
                watch.mark();
                watch6.mark();
                fleet.power_off(0).await?;
                watch.until_answered_by("b").await?;
                watch6.until_answered_by("b").await?;
                gaps.push(watch.longest_gap());
                gaps6.push(watch6.longest_gap());
                fleet.power_on(0).await?;
                watch.mark();
                watch.until_answered_by("a").await?;
                watch6.until_answered_by("a").await?;
                home.push(watch.longest_gap());
            }
            tell_series("a server dies", gaps, &watch);
            tell_series("a server dies, IPv6", gaps6, &watch6);
            tell_series("its address goes home", home, &watch);
            Ok(())
        },
    )
}

#[test]
fn a_killed_stopped_or_unplugged_holder_loses_its_address() -> Result<(), LabError> {
    in_lab(
        "a_killed_stopped_or_unplugged_holder_loses_its_address",
        limit(),
        |lab| async move {
            let fast = Shape {
                servers: 3,
                fast: true,
                ..SHAPE
            };
            let mut fleet = Fleet::new(lab, fast).await?;
            let watch = fleet.watch(fleet.server(0).public().into())?;
            watch.until_answered_by("a").await?;
            // What all of this is done with (capabilities(7)): CAP_NET_ADMIN is 12, CAP_NET_RAW is 13.
            let status = std::fs::read_to_string(format!("/proc/{}/status", fleet.process(0)?.pid)).unwrap();
            let effective = status
                .lines()
                .find_map(|line| line.strip_prefix("CapEff:"))
                .map(str::trim);
            assert_eq!(effective, Some("0000000000003000"), "{status}");
            let (mut killed, mut stopped, mut unplugged, mut frozen) = (vec![], vec![], vec![], vec![]);
            for _ in 0..rounds() {
                // Its process alone: the kernel lets go by itself.
                watch.mark();
                fleet.process(0)?.kill_9()?;
                watch.until_answered_by("b").await?;
                fleet.until_held(0, 1).await?;
                killed.push(watch.longest_gap());
                fleet.start_process(0).await?;
                watch.until_answered_by("a").await?;

                watch.mark();
                fleet.process(0)?.signal(Signal::STOP)?;
                watch.until_answered_by("b").await?;
                fleet.until_held(0, 1).await?;
                stopped.push(watch.longest_gap());
                fleet.process(0)?.signal(Signal::CONT)?;
                watch.until_answered_by("a").await?;

                watch.mark();
                fleet.server(0).freeze().await?;
                watch.until_answered_by("b").await?;
                fleet.until_held(0, 1).await?;
                frozen.push(watch.longest_gap());
                fleet.server(0).thaw()?;
                watch.until_answered_by("a").await?;

                watch.mark();
                fleet.server(0).link_down().await?;
                watch.until_answered_by("b").await?;
                fleet.until_held(0, 1).await?;
                unplugged.push(watch.longest_gap());
                fleet.server(0).link_up().await?;
                watch.until_answered_by("a").await?;
            }
            tell_series("SIGKILL", killed, &watch);
            tell_series("SIGSTOP", stopped, &watch);
            tell_series("a frozen server", frozen, &watch);
            tell_series("link down", unplugged, &watch);
            Ok(())
        },
    )
}

#[test]
fn two_that_do_not_see_each_other_never_share_an_address_for_long() -> Result<(), LabError> {
    in_lab(
        "two_that_do_not_see_each_other_never_share_an_address_for_long",
        limit(),
        |lab| async move {
            let fleet = Fleet::new(lab, SHAPE).await?;
            let watch = fleet.watch(fleet.server(0).public().into())?;
            watch.until_answered_by("a").await?;
            let mut gaps = Vec::new();
            for _ in 0..rounds().min(20) {
                watch.mark();
                fleet.lab.isolate(fleet.server(0), fleet.server(1)).await?;
                tokio::time::sleep(Duration::from_secs(4)).await;
                fleet.lab.rejoin(fleet.server(0), fleet.server(1)).await?;
                watch.until_answered_by("a").await?;
                fleet.until_held(0, 0).await?;
                fleet.until_held(1, 1).await?;
                gaps.push(watch.longest_gap());
            }
            tell_series("partition between two", gaps, &watch);
            Ok(())
        },
    )
}

#[test]
fn an_edge_that_serves_keeps_its_address_while_its_process_restarts() -> Result<(), LabError> {
    in_lab(
        "an_edge_that_serves_keeps_its_address_while_its_process_restarts",
        limit(),
        |lab| async move {
            let edges = Shape { edges: true, ..SHAPE };
            let mut fleet = Fleet::new(lab, edges).await?;
            let watch = fleet.watch(fleet.server(0).public().into())?;
            watch.until_answered_by("a").await?;
            let b_log = fleet.server(1).log_file("address");
            let log = || std::fs::read_to_string(&b_log).unwrap();
            // On a busy machine a start may come too late; then the address moves, as it should.
            for last in [false, false, false, true] {
                let before = log().matches("home=a").count();
                watch.mark();
                fleet.process(0)?.kill_9()?;
                fleet.start_process(0).await?;
                tokio::time::sleep(Duration::from_secs(3)).await;
                watch.until_answered_by("a").await?;
                fleet.until_held(0, 0).await?;
                if log().matches("home=a").count() == before {
                    break;
                }
                assert!(!last, "b took it each time: {}", log());
            }
            tell_series("a process restarts", vec![watch.longest_gap()], &watch);
            Ok(())
        },
    )
}

#[test]
fn a_rehearsal_says_who_learned_hands_back_and_is_refused_where_it_could_hurt() -> Result<(), LabError> {
    in_lab(
        "a_rehearsal_says_who_learned_hands_back_and_is_refused_where_it_could_hurt",
        Duration::from_secs(240),
        |lab| async move {
            let fleet = Fleet::new(lab, SHAPE).await?;
            let (a, b) = (fleet.server(0), fleet.server(1));
            let watch = fleet.watch(a.public().into())?;
            watch.until_answered_by("a").await?;
            for (server, args, status, code) in [
                (b, ["a", "--hold", "3s"].as_slice(), 2, "P007"),
                (b, &["a", "--hold", "31s", "--yes"], 2, ""),
                (b, &["../a", "--yes"], 2, ""),
                (b, &["x", "--yes"], 3, "A002"),
                (a, &["a", "--yes"], 3, "A002"),
            ] {
                let (found, _, err) = attempt(server, &[&["address", "test"], args].concat()).await?;
                assert!(found == status && err.contains(code), "{args:?}: {found} {err}");
            }
            watch.mark();
            let said = until_rehearsed(b, 0).await?;
            tell(&said);
            watch.until_answered_by("a").await?;
            fleet.until_held(0, 0).await?;
            tell_series("a rehearsal", vec![watch.longest_gap()], &watch);
            let log = std::fs::read_to_string(b.log_file("address")).unwrap();
            assert!(log.contains("a rehearsal; a is well"), "{log}");

            // A router that believes nobody who announces an address.
            let vip = a.public().to_string();
            let mac = a.sh("cat /sys/class/net/eth0/address").await?;
            let neigh = |args: &[&str]| {
                let mut command = std::process::Command::new("ip");
                command.arg("neigh").args(args).args(["dev", "fleet"]);
                assert!(command.status().unwrap().success(), "ip neigh {args:?}");
            };
            neigh(&["replace", &vip, "lladdr", mac.trim(), "nud", "permanent"]);
            let said = until_rehearsed(b, 1).await?;
            assert!(
                said.contains("A003") && said.contains(&Lab::VISITOR.to_string()),
                "{said}"
            );
            tell(&said);
            fleet.until_held(0, 0).await?;
            neigh(&["del", &vip]);

            fleet.process(1)?.kill_9()?;
            let (status, _, err) = attempt(b, &["address", "test", "a", "--yes"]).await?;
            assert!(status == 4 && err.contains("N002"), "{status} {err}");
            Ok(())
        },
    )
}

/// Rehearses on `server` a takeover of a's addresses until it ends with this status; says what was said.
async fn until_rehearsed(server: &pontoon_testkit::Server, wanted: i32) -> Result<String, LabError> {
    let mut said = String::new();
    for _ in 0..20 {
        let (status, out, err) = attempt(server, &["address", "test", "a", "--yes"]).await?;
        said = format!("{status}\n{out}{err}");
        // Its home must have been well for a while first.
        if status == wanted {
            return Ok(said);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err(LabError::App(format!(
        "no rehearsal that ends with {wanted}: {said}"
    )))
}

#[test]
fn an_operator_switches_it_on_a_server_dies_and_the_other_says_so() -> Result<(), LabError> {
    in_lab(
        "an_operator_switches_it_on_a_server_dies_and_the_other_says_so",
        Duration::from_secs(240),
        |lab| async move {
            let fleet = fleet::Fleet::new(lab).await?;
            fleet.found().await?;
            let (a, b) = (&fleet.a, &fleet.b);
            let (code, _, err) = attempt(a, &["address", "status"]).await?;
            assert!(code == 2 && err.contains("A001"), "{code} {err}");
            fleet.join().await?;
            run(a, &["plan"]).await?; // follows the join in the file
            let config = a.path("/etc/pontoon/fleet.toml")?;
            let text = std::fs::read_to_string(&config).unwrap();
            let on = format!("{text}\n[ip]\nmethod = \"arp\"\ngateway = \"{}\"\n", Lab::VISITOR);
            std::fs::write(&config, on).unwrap();
            run(a, &["apply", "--yes"]).await?;
            until_holders(a, &[("a", "a"), ("b", "b")]).await?;
            tell(&run(a, &["address", "status"]).await?);
            let url = format!("http://{}/", b.public());
            b.power_off().await?;
            until_holders(a, &[("a", "a"), ("b", "a")]).await?;
            // The edge of a answers at b's address: it has listened there all the time.
            let answered = wait_until(
                "an answer at the dead server's address",
                Duration::from_secs(60),
                || async {
                    let asked = tokio::process::Command::new("curl")
                        .args(["-s", "-m", "2", "-o", "/dev/null", &url])
                        .status();
                    asked.await.is_ok_and(|status| status.success()).then_some(())
                },
            );
            answered.await?;
            tell(&run(a, &["address", "status"]).await?);
            let kinds = event_kinds(a).await?;
            assert!(kinds.iter().any(|kind| kind == "addresses_taken"), "{kinds:?}");
            Ok(())
        },
    )
}

/// Waits until the fleet says that each home's addresses are held there.
async fn until_holders(server: &pontoon_testkit::Server, wanted: &[(&str, &str)]) -> Result<(), LabError> {
    let waited = wait_until("addresses where they belong", Duration::from_secs(60), || async {
        let (code, out, _) = attempt(server, &["address", "status", "--json"]).await.ok()?;
        let said: serde_json::Value = serde_json::from_str(&out).ok().filter(|_| code == 0)?;
        let homes = said["homes"].as_array()?;
        let here = |(home, holder): &(&str, &str)| {
            homes
                .iter()
                .any(|said| said["home"] == *home && said["holders"] == serde_json::json!([holder]))
        };
        wanted.iter().all(here).then_some(())
    });
    if let Err(error) = waited.await {
        tell(&attempt(server, &["address", "status", "--json"]).await?.1);
        return Err(error);
    }
    Ok(())
}
