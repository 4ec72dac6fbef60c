//! `pontoon`: the command line, and the processes of a server wired together.
//!
//! **In:** what was typed ([`args`]), `fleet.toml`, and what the agent of this machine answers ([`client`]).
//! **Out:** text on a screen or JSON lines ([`output`]), and an exit status that scripts can rely on.
//!
//! **Must never:** decide anything about the fleet (the agent does), print outside [`output`], or delete anything of
//! the operator's.

mod args;
mod client;
mod commands;
mod demo;
mod output;
mod start;

use std::process::ExitCode;

use clap::Parser;
use pontoon_fleet::{Code, Refusal};
use pontoon_rt::paths::Paths;

use args::Cli;
use client::Client;
use commands::{Context, config::ConfigRefused};
use output::Screen;

fn main() -> ExitCode {
    // clap prints help and usage errors itself and exits with 0 or 2.
    let cli = Cli::parse();
    let screen = Screen::new(cli.global.color);
    let paths = Paths {
        config: cli.global.config,
        state_dir: cli.global.state_dir,
        run_dir: cli.global.run_dir,
    };
    let context = Context {
        client: Client::new(&paths),
        paths,
        set: cli.global.set,
        screen,
    };
    let json = cli.command.wants_json();
    match commands::run(&context, cli.command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => ExitCode::from(report(screen, json, &error)),
    }
}

/// Shows why a command ended and gives its exit status.
fn report(screen: Screen, json: bool, error: &anyhow::Error) -> u8 {
    if let Some(refused) = error.downcast_ref::<ConfigRefused>() {
        if json {
            // A closed pipe leaves nobody to tell.
            let _ = screen.json(&refused.to_json());
        } else {
            screen.remark(&refused.render(screen.err));
        }
        return refused.exit_status();
    }
    let refusal = match error.downcast_ref::<Refusal>() {
        Some(refusal) => refusal.clone(),
        None => error.chain().fold(
            Refusal::new(Code::N007, "something failed that should not"),
            |refusal, cause| refusal.because(cause.to_string()),
        ),
    };
    if json {
        let _ = screen.json(&serde_json::json!({ "refusal": refusal }));
    } else {
        screen.refusal(&refusal);
    }
    refusal.code.category().exit_status()
}
