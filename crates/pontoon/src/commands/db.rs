//! `pontoon db`: who leads the databases, and an operator's word on it.

use std::time::Duration;

use clap::{Args, Subcommand};
use pontoon_agent::api::{
    CheckRequest, DbOrder, DbStatus, Health, RejoinRequest, ReseedRequest, UnstickRequest,
};
use pontoon_fleet::{Code, Refusal, ServerName};

use super::backup::{self, Backup, Backups, Restore};
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
    /// Compare the rows of replicas with the primary's while the application writes; exits with 1 when they differ
    Check(Check),
    /// Show what stops a replica; where it is a row that differs, get it going and put its rows right
    Unstick(Unstick),
    /// Give a server that cannot follow any more a new copy of the primary's database; its old data directory is renamed
    Reseed(Reseed),
    /// Try again to let a server follow the primary with what it has, and say what was found
    Rejoin(Rejoin),
    /// Promote, start and kill no database by itself, until `resume`: for maintenance
    Pause(Word),
    /// Go on after `pause`
    Resume(Word),
    /// Wait until the database of this machine may start (its systemd unit asks)
    #[command(hide = true)]
    PreStart,
    /// Copy the database to the object store now
    Backup(Backup),
    /// Show the copies in the object store, and to which moments each leads
    Backups(Backups),
    /// Make a data directory from a copy and the archive, as the database was at a moment
    Restore(Restore),
}

impl Db {
    /// Whether the answer is for machines.
    pub fn wants_json(&self) -> bool {
        match self {
            Db::Status(args) => args.json,
            Db::Switchover(args) => args.json,
            Db::Failover(args) => args.json,
            Db::Check(args) => args.json,
            Db::Unstick(args) => args.json,
            Db::Reseed(args) => args.json,
            Db::Rejoin(args) => args.json,
            Db::Pause(args) | Db::Resume(args) => args.json,
            Db::PreStart => false,
            Db::Backup(args) => args.json,
            Db::Backups(args) => args.json,
            Db::Restore(args) => args.json,
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

/// `pontoon db check`
#[derive(Debug, Args)]
pub struct Check {
    /// The replica; by default all of them
    #[arg(value_name = "SERVER")]
    pub server: Option<ServerName>,
    /// Only this table; may be given more than once
    #[arg(long = "table", value_name = "SCHEMA.TABLE", value_parser = table)]
    pub tables: Vec<String>,
    /// Wait for a replica that is further behind than this
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = span)]
    pub max_lag: Duration,
    /// How long one statement may read: rows are compared in chunks that take about this long
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = span)]
    pub chunk_time: Duration,
    /// How many rows of each table are shown
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(0..=200))]
    pub rows: u16,
    /// Print the progress as JSON lines
    #[arg(long)]
    pub json: bool,
}

/// `pontoon db unstick`
#[derive(Debug, Args)]
pub struct Unstick {
    /// The replica
    #[arg(value_name = "SERVER")]
    pub server: ServerName,
    /// Leave the transaction out that it stopped at, whatever it did: the last resort before a new copy
    #[arg(long)]
    pub accept_drift: bool,
    /// Do it without asking
    #[arg(long)]
    pub yes: bool,
    /// Print the progress as JSON lines
    #[arg(long)]
    pub json: bool,
}

/// `pontoon db reseed`
#[derive(Debug, Args)]
pub struct Reseed {
    /// The server that gets a new copy
    #[arg(value_name = "SERVER")]
    pub server: ServerName,
    /// Copy as a dump (mariadb-dump, mysqldump) rather than as files: slower, and possible where files are not
    #[arg(long)]
    pub logical: bool,
    /// Do it without asking
    #[arg(long)]
    pub yes: bool,
    /// Print the progress as JSON lines
    #[arg(long)]
    pub json: bool,
}

/// `pontoon db rejoin`
#[derive(Debug, Args)]
pub struct Rejoin {
    /// The server that is to follow again
    #[arg(value_name = "SERVER")]
    pub server: ServerName,
    /// Print the progress as JSON lines
    #[arg(long)]
    pub json: bool,
}

fn table(text: &str) -> Result<String, String> {
    match text.split_once('.') {
        Some((schema, table)) if !schema.is_empty() && !table.is_empty() => Ok(text.to_owned()),
        _ => Err("a table is named as SCHEMA.TABLE".to_owned()),
    }
}

/// A minute is longer than any answer may take.
fn span(text: &str) -> Result<Duration, String> {
    let span = pontoon_fleet::units::parse_duration(text)?;
    match (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&span) {
        true => Ok(span),
        false => Err("between 1ms and 60s".to_owned()),
    }
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
        Db::Check(args) => return check(context, args).await,
        Db::Unstick(args) => return unstick(context, args).await,
        Db::Reseed(args) => return reseed(context, args).await,
        Db::Rejoin(args) => {
            let again = line("rejoin", Some(&args.server));
            let request = RejoinRequest { server: args.server };
            return change::follow(context, "/v1/db/rejoin", &request, args.json, &again).await;
        }
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
        Db::Backup(args) => return backup::backup(context, args).await,
        Db::Backups(args) => return backup::backups(context, &args).await,
        Db::Restore(args) => return backup::restore(context, args).await,
        Db::Pause(args) => (DbOrder::Pause, args.json, line("pause", None)),
        Db::Resume(args) => (DbOrder::Resume, args.json, line("resume", None)),
        Db::PreStart => {
            pontoon_helper::may_start(&context.paths).await?;
            return Ok(0);
        }
    };
    change::follow(context, "/v1/db", &order, json, &again).await
}

async fn check(context: &Context, args: Check) -> anyhow::Result<u8> {
    let request = CheckRequest {
        server: args.server,
        tables: args.tables,
        max_lag: args.max_lag,
        chunk_time: args.chunk_time,
        rows: args.rows.into(),
    };
    let stopped = "\n  The comparison has ended. Nothing was changed.\n";
    change::watch(context, "/v1/db/check", &request, args.json, stopped).await
}

/// Shows first; does it after a yes.
async fn unstick(context: &Context, args: Unstick) -> anyhow::Result<u8> {
    let drift = if args.accept_drift { " --accept-drift" } else { "" };
    let again = format!("{}{drift} --yes", line("unstick", Some(&args.server)));
    let request = |yes| UnstickRequest {
        server: args.server.clone(),
        yes,
        accept_drift: args.accept_drift,
    };
    after_a_yes(context, "/v1/db/unstick", request, (args.yes, args.json), &again).await
}

/// The same.
async fn reseed(context: &Context, args: Reseed) -> anyhow::Result<u8> {
    let request = |yes| ReseedRequest {
        server: args.server.clone(),
        yes,
        logical: args.logical,
    };
    let options = request(true).options();
    let again = format!("{}{options} --yes", line("reseed", Some(&args.server)));
    after_a_yes(context, "/v1/db/reseed", request, (args.yes, args.json), &again).await
}

/// Asks the agent without a yes, which only shows; then the operator; then the agent with it.
async fn after_a_yes<R: serde::Serialize>(
    context: &Context,
    path: &str,
    request: impl Fn(bool) -> R,
    (yes, json): (bool, bool),
    again: &str,
) -> anyhow::Result<u8> {
    let error = match change::follow(context, path, &request(yes), json, again).await {
        Err(error) if !yes => error,
        other => return other,
    };
    let is_question = error
        .downcast_ref::<Refusal>()
        .filter(|refusal| refusal.code == Code::P007);
    let Some(question) = is_question.filter(|_| context.screen.can_ask()) else {
        return Err(error);
    };
    context.screen.refusal(question);
    if !context.screen.ask("Do it?") {
        context.screen.remark("  Nothing was changed.\n");
        return Ok(1);
    }
    change::follow(context, path, &request(true), json, again).await
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
