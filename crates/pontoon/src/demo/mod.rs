//! `pontoon demo`: one server becomes two, under traffic, in a lab of namespaces, and then things die.
//!
//! The program runs itself again in private namespaces (`pontoon_testkit::enter`). The process outside only waits; the
//! one inside builds the lab ([`setting`]), starts visitors, plays the phases ([`phases`]) on the [`stage`] through
//! the same command line as an operator, reads every acknowledged write back ([`reread`]) and reports ([`report`]).
//!
//! **To add a phase**, write a file in `phases/` and name it in `phases/mod.rs`. Nothing else knows the phases.

mod application;
mod evidence;
pub mod phases;
mod play;
pub mod report;
mod reread;
mod setting;
pub mod stage;
mod stay;

use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context as _;
use pontoon_fleet::{Code, Refusal};
use pontoon_rt::shutdown::Shutdown;
use pontoon_testkit::notes::{ServeOptions, serve};
use pontoon_testkit::{EnterOptions, Entered, Inside, LabError, enter};

use crate::args::Demo;
use crate::output::Screen;

/// `pontoon demo`
pub fn demo(screen: Screen, args: &Demo) -> anyhow::Result<u8> {
    // Before anything is made: what is missing is said at once.
    let choice = application::choose(args.app, args.seed)?;
    let options = EnterOptions {
        args: std::env::args_os().skip(1).collect(),
        gateways: if args.stay { stay::GATEWAYS } else { 0 },
        grace: GRACE,
        limit: (!args.stay).then_some(LIMIT),
    };
    match enter(options) {
        Ok(Entered::Outside(outside)) => Ok(exit_status(outside.wait()?)),
        Ok(Entered::Inside(inside)) => run_inside(screen, args, choice, inside),
        Err(LabError::Skip(skip)) => Err(impossible("this machine does not allow what the lab is made of")
            .because(skip.0)
            .next("as root", "sudo pontoon demo")
            .into()),
        Err(error) => Err(error.into()),
    }
}

/// `pontoon demo-app`: the small application, in a server of the lab.
pub fn demo_app() -> anyhow::Result<u8> {
    let Some(options) = ServeOptions::from_env() else {
        return Err(
            impossible("the demo's application is started by `pontoon demo`, and by nobody else").into(),
        );
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let never = runtime
        .context("the asynchronous runtime could not be started")?
        .block_on(serve(options))?;
    match never {}
}

/// Why there is no demo here.
pub fn impossible(what: &str) -> Refusal {
    Refusal::new(Code::N008, what)
}

fn run_inside(
    screen: Screen,
    args: &Demo,
    choice: application::Choice,
    inside: Inside,
) -> anyhow::Result<u8> {
    let shutdown = Shutdown::from_signals_at_a_terminal().context("signals cannot be awaited")?;
    // Two threads: one for what the demo does, one so that a blocked file read does not hold up the clock.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.context("the asynchronous runtime could not be started")?;
    let status = runtime.block_on(play::play(screen, args, choice, inside, shutdown));
    runtime.shutdown_background();
    status
}

/// The verdict is the inner process's; when a signal ended it there was none.
fn exit_status(status: ExitStatus) -> u8 {
    status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1)
}

/// After a Ctrl-C everything dies with its namespaces: what takes longer is the asking.
const GRACE: Duration = Duration::from_secs(5);
/// A demo that hangs ends all the same.
const LIMIT: Duration = Duration::from_secs(900);
