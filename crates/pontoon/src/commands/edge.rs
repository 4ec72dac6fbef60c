//! `pontoon edge`: the load balancer itself, the question what it would do, maintenance, and its upgrade.

use std::fmt::Write as _;
use std::time::Duration;

use pontoon_agent::api::{MaintenanceRequest, PurgeRequest};
use pontoon_edge::{EdgeState, Explanation, Question, ServerState, Stands};
use pontoon_fleet::units::format_duration;
use pontoon_fleet::{MaintenanceMark, Purge, Refusal};

use super::{Context, process};
use crate::args::{Edge, EdgeCommand, EdgeExplain, EdgePurge, EdgeUpgrade, MaintenanceCommand};
use crate::client::{ask_tier, upgrade_tier};
use crate::output::paint::harmless;

/// Runs the edge, or answers a question.
pub fn edge(context: &Context, mut args: Edge) -> anyhow::Result<u8> {
    match args.command.take() {
        None => process::edge(context, args),
        Some(EdgeCommand::Explain(args)) => super::block_on(explain(context, args)),
        Some(EdgeCommand::Maintenance(command)) => super::block_on(maintenance(context, command)),
        Some(EdgeCommand::Purge(args)) => super::block_on(purge(context, args)),
        Some(EdgeCommand::Upgrade(args)) => super::block_on(upgrade(context, &args)),
    }
}

async fn explain(context: &Context, args: EdgeExplain) -> anyhow::Result<u8> {
    let question = Question {
        secure: args.url.secure,
        host: args.url.host,
        target: args.url.target,
        client: args.client,
        fields: args.field,
        cookies: args.cookie,
    };
    let explanation = Explanation::of(state(context, &question).await?, &question);
    match args.json {
        true => context.screen.json(&explanation)?,
        false => context.screen.answer(&text(&explanation))?,
    }
    Ok(0)
}

async fn maintenance(context: &Context, command: MaintenanceCommand) -> anyhow::Result<u8> {
    let (request, json) = match command {
        MaintenanceCommand::On(args) => {
            let millis = args
                .span
                .map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
            let request = MaintenanceRequest {
                on: true,
                for_ms: millis,
                except: args.except,
            };
            (request, args.json)
        }
        MaintenanceCommand::Off(args) => (MaintenanceRequest::default(), args.json),
    };
    let mark: MaintenanceMark = context.client.post("/v1/maintenance", &request).await?;
    if json {
        context.screen.json(&mark)?;
        return Ok(0);
    }
    let end = request
        .for_ms
        .map(|millis| format_duration(Duration::from_millis(millis)));
    context.screen.answer(&match (request.on, end) {
        (true, Some(end)) => {
            format!("Visitors get the maintenance page, for {end} or until «pontoon edge maintenance off».\n")
        }
        (true, None) => {
            "Visitors get the maintenance page, until «pontoon edge maintenance off».\n".to_owned()
        }
        (false, _) => "Visitors are served.\n".to_owned(),
    })?;
    Ok(0)
}

async fn purge(context: &Context, args: EdgePurge) -> anyhow::Result<u8> {
    let is_prefix = args.prefix.is_some();
    let Some(address) = args.prefix.or(args.address) else {
        return Ok(2); // the command line does not allow it
    };
    let request = PurgeRequest {
        host: address.host,
        path: address.path,
        prefix: is_prefix,
    };
    let purge: Purge = context.client.post("/v1/purge", &request).await?;
    match args.json {
        true => context.screen.json(&purge)?,
        false => context.screen.answer(&format!(
            "Every edge forgets {}{}{}, those that are away when they are back.\n",
            harmless(purge.host.as_deref().unwrap_or_default()),
            harmless(&purge.path),
            if purge.prefix {
                " and all that begins so"
            } else {
                ""
            },
        ))?,
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
async fn state(context: &Context, question: &Question) -> Result<EdgeState, Refusal> {
    ask_tier(&context.paths, "edge", "the edge", &question.path()).await
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
