//! `pontoon db`: who leads the databases, and an operator's word on it.

use clap::{Args, Subcommand};
use pontoon_agent::api::{DbOrder, DbStatus, Health};
use pontoon_fleet::ServerName;

use super::{Context, change};
use crate::output::db::render;
use crate::output::status::Frame;

/// `pontoon db`
#[derive(Debug, Subcommand)]
pub enum Db {
    /// Show who leads, whether anything is lost if it dies, how each copy stands, and what to do next
    Status(Status),
    /// Hand the primary over to another server, losing nothing
    Switchover(Switchover),
    /// Make a replica the primary although the old one is lost; refuses to lose more than was accepted
    Failover(Failover),
    /// Promote, start and kill no database by itself, until `resume`: for maintenance
    Pause(Word),
    /// Go on after `pause`
    Resume(Word),
    /// Wait until the database of this machine may start (its systemd unit asks)
    #[command(hide = true)]
    PreStart,
}

impl Db {
    /// Whether the answer is for machines.
    pub fn wants_json(&self) -> bool {
        match self {
            Db::Status(args) => args.json,
            Db::Switchover(args) => args.json,
            Db::Failover(args) => args.json,
            Db::Pause(args) | Db::Resume(args) => args.json,
            Db::PreStart => false,
        }
    }
}

/// `pontoon db status`
#[derive(Debug, Args)]
pub struct Status {
    /// Exit with 11 when something is missing, with 12 when no writes are taken
    #[arg(long)]
    pub check: bool,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

/// `pontoon db switchover`
#[derive(Debug, Args)]
pub struct Switchover {
    /// The server that takes over; by default the replica that is in sync
    #[arg(value_name = "SERVER")]
    pub to: Option<ServerName>,
    /// Print the progress as JSON lines
    #[arg(long)]
    pub json: bool,
}

/// `pontoon db failover`
#[derive(Debug, Args)]
pub struct Failover {
    /// The server that becomes the primary; by default the replica that has the most
    #[arg(value_name = "SERVER")]
    pub to: Option<ServerName>,
    /// How many transactions may be lost with it
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub accept_loss: u64,
    /// Print the progress as JSON lines
    #[arg(long)]
    pub json: bool,
}

/// `pontoon db pause` and `pontoon db resume`
#[derive(Debug, Args)]
pub struct Word {
    /// Print the progress as JSON lines
    #[arg(long)]
    pub json: bool,
}

/// Carries it out.
pub async fn db(context: &Context, command: Db) -> anyhow::Result<u8> {
    let (order, json, again) = match command {
        Db::Status(args) => return status(context, &args).await,
        Db::Switchover(args) => {
            let again = line("switchover", args.to.as_ref());
            (DbOrder::Switchover { to: args.to }, args.json, again)
        }
        Db::Failover(args) => {
            let again = format!(
                "{} --accept-loss {}",
                line("failover", args.to.as_ref()),
                args.accept_loss
            );
            let order = DbOrder::Failover {
                to: args.to,
                accept_loss: args.accept_loss,
            };
            (order, args.json, again)
        }
        Db::Pause(args) => (DbOrder::Pause, args.json, line("pause", None)),
        Db::Resume(args) => (DbOrder::Resume, args.json, line("resume", None)),
        Db::PreStart => {
            pontoon_helper::may_start(&context.paths).await?;
            return Ok(0);
        }
    };
    change::follow(context, "/v1/db", &order, json, &again).await
}

fn line(verb: &str, server: Option<&ServerName>) -> String {
    match server {
        Some(server) => format!("pontoon db {verb} {server}"),
        None => format!("pontoon db {verb}"),
    }
}

async fn status(context: &Context, args: &Status) -> anyhow::Result<u8> {
    let status: DbStatus = context.client.get("/v1/db").await?;
    if args.json {
        let text = serde_json::to_string(&status)?;
        context.screen.answer(&format!("{text}\n"))?;
    } else {
        let (columns, lines) = context.screen.size();
        let frame = Frame {
            wide: false,
            paint: context.screen.out,
            columns,
            lines,
        };
        context.screen.answer(&render(&status, frame))?;
    }
    Ok(match status.health {
        Health::Degraded if args.check => 11,
        Health::Down if args.check => 12,
        _ => 0,
    })
}
