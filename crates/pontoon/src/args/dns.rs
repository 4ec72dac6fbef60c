//! `pontoon dns`.

use clap::{Args, Subcommand};

use super::Tier;

/// `pontoon dns`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Dns {
    /// What to ask; without it, the name server runs.
    #[command(subcommand)]
    pub command: Option<DnsCommand>,
    /// How it runs.
    #[command(flatten)]
    pub tier: Tier,
    /// Responses of a kind to one network (/24, /56) in a second, over UDP; 0 means no limit
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub responses_per_second: u32,
}

/// A question about DNS.
#[derive(Debug, Subcommand)]
pub enum DnsCommand {
    /// Say what a name of the zone stands for, and why each address is in or out; asks no server
    Explain(DnsExplain),
    /// Print the DS record that the zone's registrar is to have, once the zone is signed; asks no server
    Ds(DnsDs),
}

/// `pontoon dns ds`
#[derive(Debug, Args)]
pub struct DnsDs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `pontoon dns explain`
#[derive(Debug, Args)]
pub struct DnsExplain {
    /// The name, such as www.example.com
    pub name: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
