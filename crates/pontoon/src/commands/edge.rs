//! `pontoon edge`: the load balancer itself, the question what it would do, and its upgrade.

use std::fmt::Write as _;

use pontoon_edge::{EdgeState, Explanation, Question, ServerState, Stands};
use pontoon_fleet::Refusal;

use super::{Context, process};
use crate::args::{Edge, EdgeCommand, EdgeExplain, EdgeUpgrade};
use crate::client::{ask_tier, upgrade_tier};
use crate::output::paint::harmless;

/// Runs the edge, or answers a question.
pub fn edge(context: &Context, mut args: Edge) -> anyhow::Result<u8> {
    match args.command.take() {
        None => process::edge(context, args),
        Some(EdgeCommand::Explain(args)) => super::block_on(explain(context, args)),
        Some(EdgeCommand::Upgrade(args)) => super::block_on(upgrade(context, &args)),
    }
}

async fn explain(context: &Context, args: EdgeExplain) -> anyhow::Result<u8> {
    let question = Question {
        secure: args.url.secure,
        target: args.url.target,
        client: args.client,
        fields: args.field,
        cookies: args.cookie,
    };
    let explanation = Explanation::of(state(context).await?, &question);
    match args.json {
        true => context.screen.json(&explanation)?,
        false => context.screen.answer(&text(&explanation))?,
    }
    Ok(0)
}

async fn upgrade(context: &Context, args: &EdgeUpgrade) -> anyhow::Result<u8> {
    let done = upgrade_tier(&context.paths, "edge", "the edge").await?;
    match args.json {
        true => context.screen.json(&done)?,
        false => context.screen.answer(&format!(
            "The edge (process {}) handed over to process {}; it finishes what it began and ends.\n",
            done.from, done.to
        ))?,
    }
    Ok(0)
}

/// What the edge of this server says of itself.
async fn state(context: &Context) -> Result<EdgeState, Refusal> {
    ask_tier(&context.paths, "edge", "the edge", "/state").await
}

fn text(explanation: &Explanation) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (number, step) in explanation.steps.iter().enumerate() {
        let _ = writeln!(text, "  {}. {}", number + 1, harmless(step));
    }
    if !explanation.state.servers.is_empty() {
        let _ = writeln!(
            text,
            "\n  {:<16} {:<11} {:>6} {:>11} {:>11}  WHY",
            "SERVER", "STANDS", "SHARE", "UNDER WAY", "ANSWERS IN"
        );
    }
    for server in &explanation.state.servers {
        let answers = match server.answers_ms {
            none if none < 0.05 => "-".to_owned(),
            millis => format!("{millis:.1} ms"),
        };
        let _ = writeln!(
            text,
            "  {:<16} {:<11} {:>6.2} {:>11} {answers:>11}  {}",
            server.server.as_str(),
            stands(server),
            server.share,
            server.in_flight,
            harmless(&why(server)),
        );
    }
    text
}

fn stands(server: &ServerState) -> &'static str {
    match server.stands {
        Stands::InService if server.full => "full",
        Stands::InService => "in service",
        Stands::Unhealthy => "out",
        Stands::LeftOut => "left out",
        Stands::Drained => "drained",
    }
}

fn why(server: &ServerState) -> String {
    let way = format!("by {}", server.way);
    let seen = server
        .reason
        .clone()
        .unwrap_or_else(|| "not checked yet".to_owned());
    match server.stands {
        Stands::InService if server.share < server.weight => {
            format!("{way}; {seen}; its share still grows (app.slow_start)")
        }
        Stands::InService | Stands::Unhealthy => format!("{way}; {seen}"),
        Stands::LeftOut => {
            let seconds = server.left_out_ms.div_ceil(1000);
            format!("{way}; its answers were bad: for {seconds} s more (app.outliers)")
        }
        Stands::Drained => format!("{way}; an operator took it out"),
    }
}
