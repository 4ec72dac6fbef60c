//! `pontoon status`

use pontoon_agent::api::{Health, Status};
use pontoon_fleet::Refusal;

use super::Context;
use crate::args;
use crate::output::status::{Frame, render};

/// Shows the fleet once, or again and again under `--watch`.
pub async fn status(context: &Context, args: &args::Status) -> anyhow::Result<u8> {
    if args.watch {
        return watch(context, args).await;
    }
    let status: Status = fetch(context).await?;
    if args.json {
        context
            .screen
            .answer(&format!("{}\n", serde_json::to_string(&status)?))?;
    } else {
        context.screen.answer(&render(&status, frame(context, args)))?;
    }
    Ok(if args.check { exit_status(&status) } else { 0 })
}

async fn watch(context: &Context, args: &args::Status) -> anyhow::Result<u8> {
    let screen = context.screen;
    if screen.out_is_terminal && !args.json {
        screen.answer("\x1b[2J")?;
    }
    loop {
        let answer = fetch(context).await;
        match (&answer, args.json) {
            (Ok(status), true) => screen.answer(&format!("{}\n", serde_json::to_string(status)?))?,
            (Err(refusal), true) => screen.json(&serde_json::json!({ "refusal": refusal }))?,
            (answer, false) => {
                let text = match answer {
                    Ok(status) => render(status, frame(context, args)),
                    Err(refusal) => crate::output::refusal::render(refusal, screen.out),
                };
                if screen.out_is_terminal {
                    screen.redraw(&text)?
                } else {
                    screen.answer(&format!("{text}\n"))?
                }
            }
        }
        tokio::time::sleep(args.every).await;
    }
}

async fn fetch(context: &Context) -> Result<Status, Refusal> {
    context.client.get("/v1/status").await
}

fn frame(context: &Context, args: &args::Status) -> Frame {
    let (columns, lines) = context.screen.size();
    Frame {
        paint: context.screen.out,
        columns,
        lines: lines.filter(|_| !args.all && !args.wide),
        wide: args.wide,
    }
}

fn exit_status(status: &Status) -> u8 {
    match status.health {
        Health::Healthy => 0,
        Health::Degraded => 11,
        Health::Down => 12,
    }
}
