//! `pontoon edge`.

use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use pontoon_fleet::IpPrefix;

use super::{Tier, url_path};

/// `pontoon edge`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Edge {
    /// What to ask; without it, the load balancer runs.
    #[command(subcommand)]
    pub command: Option<EdgeCommand>,
    /// What every tier takes.
    #[command(flatten)]
    pub tier: Tier,
    /// How requests are logged
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "off",
        env = "PONTOON_ACCESS_LOG"
    )]
    pub access_log: AccessLog,
    /// Where requests are logged to: edge-access.log in the log folder, or with everything else
    #[arg(
        long,
        value_enum,
        value_name = "WHERE",
        default_value = "stderr",
        env = "PONTOON_ACCESS_LOG_TO"
    )]
    pub access_log_to: AccessLogTo,
}

/// What the running edge is asked.
#[derive(Debug, Subcommand)]
pub enum EdgeCommand {
    /// Say what would happen to a request at this moment, and why; sends none
    Explain(EdgeExplain),
    /// Show visitors of the whole fleet the maintenance page, with 503, or end that
    #[command(subcommand)]
    Maintenance(MaintenanceCommand),
    /// Have every edge of the fleet forget answers that it keeps ([edge.cache])
    Purge(EdgePurge),
    /// Have the installed version of Pontoon take over from the edge that runs; no connection is refused or reset
    Upgrade(EdgeUpgrade),
}

/// `pontoon edge maintenance`
#[derive(Debug, Subcommand)]
pub enum MaintenanceCommand {
    /// Show it, on every edge; requests that are under way are finished
    On(MaintenanceOn),
    /// Serve visitors again
    Off(MaintenanceOff),
}

/// `pontoon edge maintenance on`
#[derive(Debug, Args)]
pub struct MaintenanceOn {
    /// End it by itself after so long, such as 30m; a week at most
    #[arg(long = "for", value_name = "TIME", value_parser = pontoon_fleet::units::parse_duration)]
    pub span: Option<Duration>,
    /// Serve visitors from this network all the same, such as 198.51.100.0/24; may be repeated
    #[arg(long, value_name = "NETWORK")]
    pub except: Vec<IpPrefix>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `pontoon edge maintenance off`
#[derive(Debug, Args)]
pub struct MaintenanceOff {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `pontoon edge purge`
#[derive(Debug, Args)]
pub struct EdgePurge {
    /// A path, of all hosts, or a URL; without a query it means the path with any query
    #[arg(value_name = "PATH-OR-URL", value_parser = kept_address, required_unless_present = "prefix", conflicts_with = "prefix")]
    pub address: Option<KeptAddress>,
    /// Everything that begins with this path or URL; / for everything
    #[arg(long, value_name = "PATH-OR-URL", value_parser = kept_address)]
    pub prefix: Option<KeptAddress>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What edges keep answers by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAddress {
    /// Of this host alone.
    pub host: Option<String>,
    /// Path and query.
    pub path: String,
}

fn kept_address(text: &str) -> Result<KeptAddress, String> {
    if text.starts_with('/') {
        let path = url_path(text)?;
        return Ok(KeptAddress { host: None, path });
    }
    let WebAddress { host, target, .. } = web_address(text)?;
    Ok(KeptAddress {
        host: Some(host),
        path: target,
    })
}

/// `pontoon edge upgrade`
#[derive(Debug, Args)]
pub struct EdgeUpgrade {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `pontoon edge explain`
#[derive(Debug, Args)]
pub struct EdgeExplain {
    /// What a visitor would ask for, as in https://notes.example.com/export/
    #[arg(value_name = "URL", value_parser = web_address)]
    pub url: WebAddress,
    /// Where the visitor would come from
    #[arg(long, value_name = "IP")]
    pub client: Option<IpAddr>,
    /// A cookie that it would have; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = cookie)]
    pub cookie: Vec<(String, String)>,
    /// A header field that it would have; may be repeated
    #[arg(long, value_name = "NAME: VALUE", value_parser = field)]
    pub field: Vec<(String, String)>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A URL, as far as the edge looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebAddress {
    /// Over HTTPS.
    pub secure: bool,
    /// With the port, where one is said.
    pub host: String,
    /// Path and query.
    pub target: String,
}

fn web_address(text: &str) -> Result<WebAddress, String> {
    let (secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err("begins with https:// or http://".to_owned()),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    if host.is_empty() || !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("is no URL: https://HOST/PATH, without blanks".to_owned());
    }
    let target = match &rest[host.len()..] {
        path if path.starts_with('/') => path.to_owned(),
        query => format!("/{query}"),
    };
    Ok(WebAddress {
        secure,
        host: host.to_owned(),
        target,
    })
}

fn cookie(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("is not NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("is not NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// How requests are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLog {
    /// Not at all
    Off,
    /// As Apache and nginx do
    Combined,
    /// A JSON object a line
    Json,
}

/// Where requests are logged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLogTo {
    /// edge-access.log in the log folder
    File,
    /// Standard error
    Stderr,
}
