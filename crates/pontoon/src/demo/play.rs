//! The demo from the first server to the report.

use std::sync::Arc;
use std::time::Duration;

use pontoon_rt::shutdown::Shutdown;
use pontoon_testkit::Inside;
use tokio::time::{Instant, interval};

use super::application::Choice;
use super::phases::{self, Phase};
use super::report::{self, Played, Report};
use super::setting::Setting;
use super::stage::{Stage, Visitors};
use super::{evidence, reread, stay};
use crate::args::Demo;
use crate::output::Screen;
use crate::output::demo::{self, Show};

/// Plays everything and gives the exit status: 0 when nothing failed, nothing is lost, and the load is believable.
pub async fn play(
    screen: Screen,
    args: &Demo,
    choice: Choice,
    inside: Inside,
    shutdown: Shutdown,
) -> anyhow::Result<u8> {
    let begun = Instant::now();
    let workdir = inside.workdir().to_owned();
    let phases = phases::all(choice.app.as_ref());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut visitors = Visitors {
        rate: choice.app.rate(cores),
        seed: args.seed,
        pace: if args.short { SHORT } else { 1.0 },
    };
    let title = format!("Pontoon demo: {} on one server, then on two", choice.app.name());
    let titles: Vec<&str> = phases.iter().map(|phase| phase.title()).collect();
    let show = Arc::new(Show::new(screen, &title, &titles));
    for remark in choice.remark.iter().chain(&phases::missing(choice.app.as_ref())) {
        show.remark(remark);
    }

    let drawn = show.clone();
    tokio::spawn(async move {
        let mut tick = interval(TICK);
        loop {
            tick.tick().await;
            drawn.draw();
        }
    });

    let mut played = Vec::new();
    let set = tokio::select! {
        set = Setting::build(inside, choice.app.clone(), &show) => set,
        () = shutdown.requested() => return interrupted(screen, args.json, &show),
    };
    let mut reasons = Vec::new();
    let mut stage = match set {
        Ok(setting) => {
            let page = setting.page;
            visitors.rate = visitors.rate.min(bearable(page, cores));
            let mut stage = Stage::new(setting, visitors, show.clone(), begun);
            stage.fact(format!(
                "a page takes {} ms on this machine: {:.0} requests a second",
                page.as_millis(),
                visitors.rate
            ));
            stage.take_facts();
            let usual = choice.app.rate(cores);
            if visitors.rate < usual {
                stage.caveat(format!(
                    "This machine is slow or busy: {:.1} requests a second instead of {usual:.0}.",
                    visitors.rate
                ));
            }
            Some(stage)
        }
        Err(error) => {
            reasons.push(format!("the servers could not be set up: {error:#}"));
            None
        }
    };
    if let Some(stage) = &mut stage {
        tokio::select! {
            result = play_phases(stage, &phases, &show, &mut played) => reasons.extend(result.err()),
            () = shutdown.requested() => return interrupted(screen, args.json, &show),
        }
    }
    let ending = async {
        let mut load = None;
        let mut places = Vec::new();
        if let Some(stage) = &mut stage {
            show.detail("waiting for the last answers");
            match stage.close_doors().await {
                Ok(report) => load = report,
                Err(error) => reasons.push(format!("the visitors' report is missing: {error:#}")),
            }
            if let Some(load) = &load {
                show.detail("reading every acknowledged write back");
                places = reread::everywhere(stage, &load.ledger).await;
            }
        }
        (load, places)
    };
    let (load, places) = tokio::select! {
        ended = ending => ended,
        () = shutdown.requested() => return interrupted(screen, args.json, &show),
    };
    let names: Vec<&str> = phases.iter().map(|phase| phase.name()).collect();
    // What stopped the demo comes first; that later phases saw nobody follows from it.
    let wanted: &[&str] = if reasons.is_empty() { &names } else { &[] };
    let breaking = phases.iter().filter(|phase| phase.may_fail());
    let breaking: Vec<&str> = breaking.map(|phase| phase.name()).collect();
    reasons.extend(report::judge(load.as_ref(), &places, wanted, &breaking));
    let logs = if reasons.is_empty() {
        None
    } else {
        evidence::keep(&workdir, load.as_ref())
            .inspect_err(|error| reasons.push(format!("the logs could not be kept: {error}")))
            .ok()
    };
    let kinds = load.as_ref().map(|load| load.ledger.kinds()).unwrap_or_default();
    let report = Report {
        report: "demo",
        ok: reasons.is_empty(),
        reasons,
        app: choice.app.name().to_owned(),
        seed: args.seed,
        short: args.short,
        cores,
        rate: visitors.rate,
        seconds: begun.elapsed().as_secs_f64(),
        phases: report::phases(&played, load.as_ref()),
        total: report::total(load.as_ref()),
        acknowledged: kinds
            .into_iter()
            .map(|(kind, count)| (kind.to_owned(), count))
            .collect(),
        reread: places,
        caveats: stage
            .as_ref()
            .map(|stage| stage.caveats().to_vec())
            .unwrap_or_default(),
        logs,
    };
    show.close();
    if args.json {
        screen.json(&report)?;
    } else {
        screen.answer(&demo::report_text(&report, screen.out))?;
    }
    if let (true, Some(stage)) = (args.stay, &stage) {
        stay::stay(screen, stage, choice.login.as_deref(), &shutdown).await?;
    }
    Ok(u8::from(!report.ok))
}

/// Plays one phase after the other; stops at the first that cannot be played, and says which.
async fn play_phases(
    stage: &mut Stage,
    phases: &[Box<dyn Phase>],
    show: &Show,
    played: &mut Vec<Played>,
) -> Result<(), String> {
    for (index, phase) in phases.iter().enumerate() {
        if let Ok(load) = stage.load() {
            load.phase(phase.name());
        }
        show.begin(index);
        let result = watched(stage, phase.as_ref(), show).await;
        played.push((phase.name(), phase.title(), stage.take_facts()));
        show.end(result.is_ok());
        result.map_err(|error| format!("{}: {error:#}", phase.title()))?;
    }
    Ok(())
}

/// Plays a phase while the numbers of its visitors are shown.
async fn watched(stage: &mut Stage, phase: &dyn Phase, show: &Show) -> anyhow::Result<()> {
    let onlooker = stage.onlooker();
    let mut playing = phase.play(stage);
    let mut tick = interval(TICK);
    loop {
        tokio::select! {
            result = &mut playing => {
                show.numbers(onlooker.phase(phase.name()));
                return result;
            }
            _ = tick.tick() => show.numbers(onlooker.phase(phase.name())),
        }
    }
}

fn interrupted(screen: Screen, json: bool, show: &Show) -> anyhow::Result<u8> {
    show.close();
    if json {
        screen.json(&serde_json::json!({ "report": "demo", "ok": false, "reasons": ["interrupted"] }))?;
    } else {
        show.remark("interrupted: everything that was started is gone");
    }
    Ok(INTERRUPTED)
}

/// Requests per second that keep a quarter of the cores busy, when one takes `page`. An application that is asked for
/// more than it can give shows how it drowns, not what the fleet does.
fn bearable(page: Duration, cores: usize) -> f64 {
    (cores as f64 * 0.25 / page.as_secs_f64().max(0.001)).max(SLOWEST)
}

const SLOWEST: f64 = 2.0;
const TICK: Duration = Duration::from_millis(200);
/// What the seconds of traffic are multiplied with in a short demo.
const SHORT: f64 = 0.25;
/// What shells report for a command that Ctrl-C ended: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_machine_gets_fewer_visitors_but_never_none() {
        assert!((bearable(Duration::from_millis(70), 4) - 14.3).abs() < 0.1);
        assert!((bearable(Duration::from_secs(9), 1) - SLOWEST).abs() < f64::EPSILON);
        assert!(bearable(Duration::ZERO, 4).is_finite());
    }
}
