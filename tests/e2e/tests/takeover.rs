//! Takeovers, fault after fault, with fleets of two, three and five, and keepalived beside them: for how long a visitor
//! who asks a thousand times a second got no answer, and for how long two kernels had one address.
//!
//! CI plays one round of what `addresses.rs` does not; `script/takeover` plays many and prints the table of
//! `docs/addresses.md`.

#![allow(clippy::unwrap_used, clippy::panic)] // a panic is the report

use std::path::PathBuf;
use std::time::Duration;

use pontoon_e2e::addresses::{Fleet, Shape, Watch};
use pontoon_e2e::fleet::{long, rounds_asked, tell};
use pontoon_e2e::keepalived::Vrrp;
use pontoon_testkit::{LabError, Spawn, in_lab};
use rustix::process::Signal;

/// `Timing::longest_overlap`, and what a busy machine adds.
const LONGEST_DOUBLE: Duration = Duration::from_millis(4_000);

/// A round that takes longer shows what the servers said.
const ODD: Duration = Duration::from_secs(1);

const SHAPE: Shape = Shape {
    servers: 2,
    fast: false,
    home_after: Duration::from_secs(1),
    edges: true,
    judged: true,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    MachineDies,
    Killed,
    Stopped,
    EdgeWedged,
    LinkDown,
    Partition,
    OneWay,
    /// The machine dies while every server is short of processor time.
    Starved,
}

const ALL: [Fault; 8] = [
    Fault::MachineDies,
    Fault::Killed,
    Fault::Stopped,
    Fault::EdgeWedged,
    Fault::LinkDown,
    Fault::Partition,
    Fault::OneWay,
    Fault::Starved,
];

/// What the rounds of one kind came to.
#[derive(Default)]
struct Series {
    gaps: Vec<Duration>,
    doubles: Vec<Duration>,
}

impl Series {
    fn tell(&mut self, what: &str) {
        self.gaps.sort_unstable();
        self.doubles.sort_unstable();
        let (Some(worst), Some(double)) = (self.gaps.last(), self.doubles.last()) else {
            return;
        };
        let median = self.gaps[self.gaps.len() / 2];
        tell(&format!(
            "| {what} | {} | {} ms | {} ms | {} ms |",
            self.gaps.len(),
            median.as_millis(),
            worst.as_millis(),
            double.as_millis()
        ));
    }
}

fn limit() -> Duration {
    Duration::from_secs(if long() { 7_200 } else { 240 })
}

fn rounds() -> usize {
    rounds_asked().unwrap_or(1)
}

async fn play(fleet: &mut Fleet, watch: &Watch, fault: Fault) -> Result<(), LabError> {
    match fault {
        Fault::MachineDies => {
            fleet.power_off(0).await?;
            watch.until_answered_by_another_than("a").await?;
        }
        Fault::Killed => {
            fleet.process(0)?.kill_9()?;
            watch.until_answered_by_another_than("a").await?;
        }
        Fault::Stopped => {
            fleet.process(0)?.signal(Signal::STOP)?;
            watch.until_answered_by_another_than("a").await?;
        }
        Fault::EdgeWedged => {
            fleet.edge(0)?.signal(Signal::STOP)?;
            watch.until_answered_by_another_than("a").await?;
        }
        Fault::LinkDown => {
            fleet.server(0).link_down().await?;
            watch.until_answered_by_another_than("a").await?;
        }
        Fault::Partition => {
            fleet.lab.isolate(fleet.server(0), fleet.server(1)).await?;
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        Fault::OneWay => {
            for to in 1..fleet.len() {
                let (from, to) = (fleet.server(0), fleet.server(to));
                fleet.lab.lose_one_way(from, to, true).await?;
            }
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        Fault::Starved => {
            for at in 0..fleet.len() {
                let burn = "for one in 1 2 3 4; do timeout 8 sh -c 'while :; do :; done' & done; wait";
                let burn = Spawn::new("sh", "burn").args(["-c", burn]);
                fleet.server(at).spawn(burn).await?;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            watch.until_answered_by("a").await?;
            fleet.power_off(0).await?;
            watch.until_answered_by_another_than("a").await?;
        }
    }
    Ok(())
}

async fn mend(fleet: &mut Fleet, fault: Fault) -> Result<(), LabError> {
    match fault {
        Fault::MachineDies | Fault::Starved => fleet.power_on(0).await,
        Fault::Killed => fleet.start_process(0).await,
        Fault::Stopped => Ok(fleet.process(0)?.signal(Signal::CONT)?),
        Fault::EdgeWedged => Ok(fleet.edge(0)?.signal(Signal::CONT)?),
        Fault::LinkDown => fleet.server(0).link_up().await,
        Fault::Partition => fleet.lab.rejoin(fleet.server(0), fleet.server(1)).await,
        Fault::OneWay => {
            for to in 1..fleet.len() {
                let (from, to) = (fleet.server(0), fleet.server(to));
                fleet.lab.lose_one_way(from, to, false).await?;
            }
            Ok(())
        }
    }
}

async fn play_all(mut fleet: Fleet, name: &str, faults: &[Fault]) -> Result<(), LabError> {
    let watch = fleet.watch(fleet.server(0).public().into())?;
    watch.until_answered_by("a").await?;
    let (mut home, mut worst) = (Series::default(), Duration::ZERO);
    for fault in faults {
        let mut series = Series::default();
        for _ in 0..rounds() {
            watch.mark();
            play(&mut fleet, &watch, *fault).await?;
            let gap = watch.longest_gap();
            if gap > ODD {
                tell(&format!("{name}, {fault:?}: nobody answered for {gap:?}"));
                fleet.show_logs();
            }
            series.gaps.push(gap);
            // The first round of each shows who had it; the others are in the figures.
            if series.gaps.len() == 1 && long() {
                tell(&format!("{name}, {fault:?}, who had it: {}", watch.who_held()));
            }
            mend(&mut fleet, *fault).await?;
            watch.mark();
            for at in 0..fleet.len() {
                fleet.until_held(at, at).await?;
            }
            watch.until_answered_by("a").await?;
            home.gaps.push(watch.longest_gap());
            let double = watch.take_longest_double();
            worst = worst.max(double);
            series.doubles.push(double);
        }
        home.doubles.extend(&series.doubles);
        series.tell(&format!("{name}, {fault:?}"));
    }
    home.tell(&format!("{name}, home again after each"));
    assert!(
        worst <= LONGEST_DOUBLE,
        "{name}: two kernels had the address for {worst:?}"
    );
    Ok(())
}

#[test]
fn an_edge_that_hangs_and_a_loss_one_way_are_survived_by_three() -> Result<(), LabError> {
    in_lab(
        "an_edge_that_hangs_and_a_loss_one_way_are_survived_by_three",
        limit(),
        |lab| async move {
            let fleet = Fleet::new(lab, Shape { servers: 3, ..SHAPE }).await?;
            play_all(fleet, "3 servers", &[Fault::EdgeWedged, Fault::OneWay]).await
        },
    )
}

fn play_long(test: &'static str, shape: Shape) -> Result<(), LabError> {
    if !long() {
        tell("SKIPPED: rounds of takeovers (script/takeover plays them)");
        return Ok(());
    }
    in_lab(test, limit(), move |lab| async move {
        let fleet = Fleet::new(lab, shape).await?;
        let speed = if shape.fast { ", fast" } else { "" };
        play_all(fleet, &format!("{} servers{speed}", shape.servers), &ALL).await
    })
}

#[test]
fn rounds_with_two() -> Result<(), LabError> {
    play_long("rounds_with_two", SHAPE)
}

#[test]
fn rounds_with_three() -> Result<(), LabError> {
    play_long("rounds_with_three", Shape { servers: 3, ..SHAPE })
}

#[test]
fn rounds_with_five() -> Result<(), LabError> {
    play_long("rounds_with_five", Shape { servers: 5, ..SHAPE })
}

#[test]
fn rounds_with_three_fast() -> Result<(), LabError> {
    let fast = Shape {
        servers: 3,
        fast: true,
        ..SHAPE
    };
    play_long("rounds_with_three_fast", fast)
}

/// Debian's keepalived on two servers, VRRPv3 by unicast, with a router that believes announcements, which it needs.
#[test]
fn rounds_with_keepalived() -> Result<(), LabError> {
    let unpacked = std::env::var_os("PONTOON_KEEPALIVED").map(PathBuf::from);
    let Some(unpacked) = unpacked.filter(|_| long()) else {
        tell("SKIPPED: keepalived beside (script/takeover plays it)");
        return Ok(());
    };
    in_lab("rounds_with_keepalived", limit(), |lab| async move {
        let mut vrrp = Vrrp::new(lab, unpacked).await?;
        for interval in ["1", "0.1", "0.05"] {
            for fault in [Fault::MachineDies, Fault::Killed, Fault::Stopped] {
                let mut series = Series::default();
                for _ in 0..rounds() {
                    vrrp.start(interval).await?;
                    let watch = vrrp.watch()?;
                    watch.until_answered_by("a").await?;
                    watch.mark();
                    watch.take_longest_double();
                    match fault {
                        Fault::MachineDies => {
                            vrrp.power_off(0).await?;
                            watch.until_answered_by("b").await?;
                        }
                        _ => {
                            vrrp.end(0, fault == Fault::Killed)?;
                            // Nobody lets go: it is watched for this long, and would last.
                            tokio::time::sleep(Duration::from_secs(10)).await;
                        }
                    }
                    series.gaps.push(watch.longest_gap());
                    series.doubles.push(watch.take_longest_double());
                    if series.gaps.len() == 1 {
                        let held = watch.who_held();
                        tell(&format!(
                            "keepalived, advert_int {interval}, {fault:?}, who had it: {held}"
                        ));
                    }
                    drop(watch);
                    vrrp.reset().await?;
                }
                series.tell(&format!("keepalived, advert_int {interval}, {fault:?}"));
            }
        }
        Ok(())
    })
}
