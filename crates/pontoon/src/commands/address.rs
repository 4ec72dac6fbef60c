//! `pontoon address`: the process that holds public addresses, and who holds which.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, Subcommand};
use pontoon_address::rehearsal::{self, RehearsalError};
use pontoon_agent::api::{AskedAddress, ServerStatus, Status};
use pontoon_fleet::{AddressReport, Code, Refusal, RoutingReport, ServerName, ServerState};
use serde::Serialize;

use super::{Context, process};
use crate::args::LogFormat;
use crate::output::addresses;

/// `pontoon address`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Address {
    /// What to ask; without it, the process runs.
    #[command(subcommand)]
    pub command: Option<AddressCommand>,
    /// How it runs.
    #[command(flatten)]
    pub run: Run,
}

/// How the process runs.
#[derive(Debug, Args)]
pub struct Run {
    /// This server's name in the fleet; by default that of its identity
    #[arg(long, value_name = "NAME")]
    pub server: Option<ServerName>,
    /// How log lines look
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "text",
        env = "PONTOON_LOG_FORMAT"
    )]
    pub log_format: LogFormat,
}

/// A question about addresses.
#[derive(Debug, Subcommand)]
pub enum AddressCommand {
    /// Show who holds which public address, and what stands in the way of a takeover
    Status(AddressStatus),
    /// Rehearse a takeover: this server takes another one's addresses for some seconds, and says who learned of it and how
    /// fast. Where a provider moves them: ask it from this server where every address is, and move nothing
    Test(AddressTest),
}

/// `pontoon address test`
#[derive(Debug, Args)]
pub struct AddressTest {
    /// Whose addresses this server takes; it must live. Left out where a provider moves them
    #[arg(value_name = "SERVER")]
    pub home: Option<ServerName>,
    /// For how long, at most 30s
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = hold)]
    pub hold: Duration,
    /// Do it: connections that are open at those addresses end
    #[arg(long)]
    pub yes: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn hold(text: &str) -> Result<Duration, String> {
    let hold = pontoon_fleet::units::parse_duration(text)?;
    match Duration::from_millis(100) <= hold && hold <= rehearsal::LONGEST {
        true => Ok(hold),
        false => Err("between 100ms and 30s".to_owned()),
    }
}

/// `pontoon address status`
#[derive(Debug, Args)]
pub struct AddressStatus {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Address {
    /// Whether the answer is for machines.
    pub fn wants_json(&self) -> bool {
        match &self.command {
            Some(AddressCommand::Status(args)) => args.json,
            Some(AddressCommand::Test(args)) => args.json,
            None => false,
        }
    }
}

/// Runs the process, or answers a question.
pub fn address(context: &Context, args: Address) -> anyhow::Result<u8> {
    match args.command {
        None => process::address(context, &args.run),
        Some(AddressCommand::Status(args)) => super::block_on(status(context, &args)),
        Some(AddressCommand::Test(args)) => super::block_on(test(context, &args)),
    }
}

async fn status(context: &Context, args: &AddressStatus) -> anyhow::Result<u8> {
    let status: Status = context.client.get("/v1/status").await?;
    let standing = Standing::of(&status)?;
    if args.json {
        context.screen.json(&standing)?;
    } else {
        context
            .screen
            .answer(&addresses::render(&standing, context.screen.out))?;
    }
    Ok(0)
}

/// Asks this server's address process, not the agent: addresses move without agents, so their rehearsal does.
async fn test(context: &Context, args: &AddressTest) -> anyhow::Result<u8> {
    let Some(home) = &args.home else {
        return ask_provider(context, args).await;
    };
    if !args.yes {
        let again = format!("pontoon address test {home} --yes");
        return Err(Refusal::new(Code::P007, "a rehearsal moves addresses that visitors use")
            .because(format!(
                "this server would take the addresses of {} for {}; connections that are open there end, new ones are served here",
                home,
                pontoon_fleet::units::format_duration(args.hold)
            ))
            .next("if you want that", &again)
            .into());
    }
    let socket = context.paths.address_socket();
    let outcome = rehearsal::ask(&socket, home, args.hold)
        .await
        .map_err(|error| match error {
            RehearsalError::Refused(why) => {
                Refusal::new(Code::A002, format!("the addresses of {home} stay where they are"))
                    .because(why)
                    .next("see how everything stands", "pontoon address status")
            }
            other => Refusal::new(Code::N002, "the address process of this server does not answer")
                .because(other.to_string())
                .next(
                    "is it running, and do addresses move here?",
                    "pontoon address status",
                ),
        })?;
    if args.json {
        context.screen.json(&outcome)?;
    } else {
        context
            .screen
            .answer(&addresses::rehearsal(&outcome, context.screen.out))?;
    }
    if outcome.is_good() {
        return Ok(0);
    }
    Err(addresses::unlearned(&outcome).into())
}

/// Whether this server could tell the provider, and where every address is in its eyes.
async fn ask_provider(context: &Context, args: &AddressTest) -> anyhow::Result<u8> {
    let asked: Vec<AskedAddress> = context.client.post("/v1/addresses/ask", &()).await?;
    if args.json {
        context.screen.json(&asked)?;
    } else {
        context
            .screen
            .answer(&addresses::asked(&asked, context.screen.out))?;
    }
    match addresses::unanswered(&asked) {
        None => Ok(0),
        Some(refusal) => Err(refusal.into()),
    }
}

/// How the public addresses of a fleet stand.
#[derive(Debug, Serialize)]
pub struct Standing {
    /// Every edge's addresses, in the order of the servers.
    pub homes: Vec<Home>,
    /// What each server's address process says.
    pub servers: Vec<Voice>,
    /// What each server says where a provider moves them.
    pub routing: BTreeMap<ServerName, RoutingReport>,
}

/// The addresses of one server.
#[derive(Debug, Serialize)]
pub struct Home {
    /// Whose.
    pub home: ServerName,
    /// Which.
    pub addresses: Vec<IpAddr>,
    /// Who says of itself that it holds them.
    pub holders: Vec<ServerName>,
    /// How often they were taken.
    pub epoch: u64,
    /// Whether somebody is about to take them or to hand them over.
    pub moving: bool,
}

/// One server's address process.
#[derive(Debug, Serialize)]
pub struct Voice {
    /// Which.
    pub server: ServerName,
    /// Whether its agent answers.
    pub reachable: bool,
    /// What it said; `None` while the process does not run.
    pub report: Option<AddressReport>,
}

impl Standing {
    fn of(status: &Status) -> Result<Standing, Refusal> {
        let report = |server: &ServerStatus| {
            let report = server
                .report
                .as_ref()
                .filter(|_| server.state != ServerState::Unreachable);
            report.and_then(|report| report.addresses()).cloned()
        };
        let servers: Vec<Voice> = status
            .servers
            .iter()
            .map(|server| Voice {
                server: server.name.clone(),
                reachable: server.state != ServerState::Unreachable,
                report: report(server),
            })
            .collect();
        let routing = routing(status);
        if !routing.is_empty() {
            return Ok(Standing {
                homes: routed_homes(status, &routing),
                servers: Vec::new(),
                routing,
            });
        }
        let mut homes: BTreeMap<&ServerName, Home> = BTreeMap::new();
        for (voice, report) in servers
            .iter()
            .filter_map(|voice| Some((voice, voice.report.as_ref()?)))
        {
            for share in &report.shares {
                let home = homes.entry(&share.home).or_insert_with(|| Home {
                    home: share.home.clone(),
                    addresses: share.addresses.clone(),
                    holders: Vec::new(),
                    epoch: 0,
                    moving: false,
                });
                home.epoch = home.epoch.max(share.epoch.0);
                home.moving |= share.moving;
                if share.holder.as_ref() == Some(&voice.server) {
                    home.holders.push(voice.server.clone());
                }
            }
        }
        if homes.is_empty() && servers.iter().all(|voice| voice.report.is_none()) {
            return Err(
                Refusal::new(Code::A001, "public addresses do not move in this fleet")
                    .because("the configuration has no [ip] with a method that moves them, or fewer than two servers")
                    .next("say so in fleet.toml, then", "pontoon apply"),
            );
        }
        let mut homes: Vec<Home> = homes.into_values().collect();
        let place = |home: &Home| status.servers.iter().position(|server| server.name == home.home);
        homes.sort_by_key(place);
        Ok(Standing {
            homes,
            servers,
            routing,
        })
    }
}

/// What the servers that answer say of addresses that a provider moves.
fn routing(status: &Status) -> BTreeMap<ServerName, RoutingReport> {
    let answering = status
        .servers
        .iter()
        .filter(|server| server.state != ServerState::Unreachable);
    let says = |server: &ServerStatus| Some((server.name.clone(), server.report.as_ref()?.routing.clone()?));
    answering.filter_map(says).collect()
}

/// The homes, as who gives the orders sees them.
fn routed_homes(status: &Status, routing: &BTreeMap<ServerName, RoutingReport>) -> Vec<Home> {
    let orders = routing
        .values()
        .filter(|report| report.orders)
        .max_by_key(|report| report.epoch);
    let mut homes: Vec<Home> = Vec::new();
    for routed in orders.into_iter().flat_map(|report| &report.addresses) {
        let at = homes.iter().position(|home| home.home == routed.home);
        let at = at.unwrap_or_else(|| {
            homes.push(Home {
                home: routed.home.clone(),
                addresses: Vec::new(),
                holders: Vec::new(),
                epoch: orders.map_or(0, |report| report.epoch.0),
                moving: false,
            });
            homes.len() - 1
        });
        let Some(home) = homes.get_mut(at) else { continue };
        home.addresses.push(routed.address);
        home.moving |= !routed.there;
        if routed.there && !home.holders.contains(&routed.to) {
            home.holders.push(routed.to.clone());
        }
    }
    homes.sort_by_key(|home| status.servers.iter().position(|server| server.name == home.home));
    homes
}
