//! `pontoon drain`, `pontoon undrain`, the same for the application alone, and how every long change is followed.

use pontoon_agent::api::DrainRequest;
use serde::Serialize;

use super::Context;
use crate::args::{App, Drain};
use crate::output::progress::Reporter;

/// `pontoon drain SERVER` and `pontoon undrain SERVER`.
pub async fn drain(context: &Context, args: Drain, drained: bool) -> anyhow::Result<u8> {
    take_out(context, args, drained, false).await
}

/// `pontoon app drain SERVER` and `pontoon app undrain SERVER`.
pub async fn app(context: &Context, command: App) -> anyhow::Result<u8> {
    match command {
        App::Drain(args) => take_out(context, args, true, true).await,
        App::Undrain(args) => take_out(context, args, false, true).await,
    }
}

async fn take_out(context: &Context, args: Drain, drained: bool, app_only: bool) -> anyhow::Result<u8> {
    let of = if app_only { "app " } else { "" };
    let word = if drained { "drain" } else { "undrain" };
    let again = format!("pontoon {of}{word} {}", args.server);
    let request = DrainRequest {
        server: args.server,
        drained,
        app_only,
    };
    follow(context, "/v1/drain", &request, args.json, &again).await
}

/// Asks the agent for something long and shows how it goes. Ctrl-C ends the looking, not the doing.
pub async fn follow<I: Serialize>(
    context: &Context,
    path: &str,
    input: &I,
    json: bool,
    again: &str,
) -> anyhow::Result<u8> {
    let goes_on = format!(
        "\n  The agent goes on with it.\n  to look:        pontoon status\n  to follow again: {again}\n"
    );
    watch(context, path, input, json, &goes_on).await
}

/// The same for what says itself what becomes of it when nobody looks any more.
pub async fn watch<I: Serialize>(
    context: &Context,
    path: &str,
    input: &I,
    json: bool,
    interrupted: &str,
) -> anyhow::Result<u8> {
    let mut reporter = Reporter::new(context.screen, json);
    let outcome = tokio::select! {
        outcome = context.client.stream(path, input, |progress| reporter.show(progress)) => Some(outcome),
        _ = tokio::signal::ctrl_c() => None,
    };
    reporter.clear();
    match outcome {
        Some(outcome) => {
            outcome?;
            Ok(0)
        }
        None => {
            context.screen.remark(interrupted);
            Ok(INTERRUPTED)
        }
    }
}

/// What shells report for a command that Ctrl-C ended: 128 + SIGINT.
const INTERRUPTED: u8 = 130;
